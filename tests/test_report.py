"""Reports of runs that are made up, so that every number in them is known."""

import csv
import gzip
import json

import numpy as np
import pytest
from made_up_findings import made_up

from highway_jax import claims, figures, findings, paper, records, report, report_paper, runs
from highway_jax.errors import UserError

ENVIRONMENT = {
    "num_devices": 2,
    "device_kind": "cpu",
    "processor": "a processor",
    "versions": {"jax": "0.0"},
    "commit": "abc",
}


def _write_run(path, rows, lines, trials=0):
    path.mkdir()
    grid = {"model": {"depth": [10]}} if trials else {}
    config = {"name": path.name, "data": {"name": "mnist"}}
    config |= {"sweep": {"trials": trials, "grid": grid}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT))
    with (path / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, records.RESULTS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    # The last line is torn, as where a run is still writing it.
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (path / "metrics.jsonl").write_text(text + '{"trial": 0, "epo')


def _row(trial, **values):
    row = {"batch": "b", "trial": trial, "dataset": "mnist", "architecture": "dense", "width": 50}
    row |= {"block": "highway", "depth": 10, "rung": 0, "status": "dropped", "num_parameters": 7}
    row |= {"train_seconds": 5.0, "train_loss": 1.0, "epochs": 2, "steps": 20, "seed": 0}
    row |= {"case": "net"} | values
    return row | {"diverged": row["status"] == "diverged"}


@pytest.fixture
def sweep(tmp_path):
    # Twelve trials of two epochs; trial 3 goes on to a third, though it is not the best of all.
    rows = [_row(i, train_loss=(i + 1) / 100) for i in range(12)]
    rows[3] |= {"rung": 1, "status": "finished", "epochs": 3, "train_loss": 0.02}
    rows[11] |= {"status": "diverged", "diverged": True, "train_loss": ""}
    lines = [
        {"trial": i, "epoch": epoch, "train_loss": None if i == 11 else (i + 1) / epoch}
        for i in range(12)
        for epoch in ((1, 2, 3) if i == 3 else (1, 2))
    ]
    _write_run(tmp_path / "sweep", rows, lines, trials=12)
    return runs.read(tmp_path / "sweep")


def test_the_best_trial_is_the_best_of_those_trained_furthest(sweep):
    (cell,) = report_paper.figure1_cells([sweep]).values()
    assert cell.row["trial"] == 3
    np.testing.assert_array_equal(cell.curve.x, [1, 2, 3])
    np.testing.assert_allclose(cell.curve.y, [4, 2, 4 / 3])


def test_the_ten_best_are_compared_at_an_epoch_that_ten_reached(sweep):
    (cell,) = report_paper.figure1_cells([sweep]).values()
    mean, std, epoch = cell.ten_best
    assert epoch == 2
    assert mean == pytest.approx(np.mean(np.arange(1, 11) / 2))
    assert std == pytest.approx(np.std(np.arange(1, 11) / 2, ddof=1))
    (cell,) = report_paper.figure1_cells([sweep._replace(rows=sweep.rows[:9])]).values()
    assert cell.ten_best is None


def test_searches_of_the_same_nets_are_one(sweep, tmp_path):
    rows = [_row(0, train_loss=0.01, status="finished", rung=1, epochs=3)]
    _write_run(tmp_path / "more", rows, [{"trial": 0, "epoch": 3, "train_loss": 0.01}], trials=12)
    (cell,) = report_paper.figure1_cells([sweep, runs.read(tmp_path / "more")]).values()
    assert cell.trials == 13
    np.testing.assert_array_equal(cell.curve, [[3], [0.01]])
    assert cell.ten_best[2] == 2


def test_figure1_is_drawn_with_a_table_of_both(sweep, tmp_path, capsys):
    out = tmp_path / "out"
    assert report.main([f"--workdir={sweep.directory}", f"--out={out}"]) == 0
    text = (out / "report.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    assert "| sweep | net | mnist | 10 | 7 | 12 | 1 | 3 | - | 0.02 |" in text
    assert "| highway 10 | 12 | 2.00e-02 | 3 | 1.05e-05 | 2.8e+00 ± 1.5e+00 | 2 | 3.6e-05 |" in text
    assert (out / "figure1.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (out / "figure1.svg").read_text()


def test_a_table_has_our_rows_as_best_mean_and_deviation(tmp_path):
    net = {"architecture": "mnist10", "width": 32, "status": "finished", "depth": 10}
    accuracies = (0.9950, 0.9953, 0.9956)
    rows = [_row(i, test_accuracy=a, seed=i, **net) for i, a in enumerate(accuracies)]
    rows.append(_row(3, **net | {"status": "diverged"}, test_accuracy=""))
    lines = [
        {"trial": i, "seed": i, "epoch": 1, "step": 600, "train_loss": 1, "test_accuracy": 0.96}
        for i in range(3)
    ]
    _write_run(tmp_path / "conv", rows, lines)
    text = report.report([tmp_path / "conv"], tmp_path / "out")
    ours = "4 seeds, 20 steps, 1 diverged | 10 | 7 | 99.56 (99.53 ± 0.03) |"
    assert f"| **Highway, width 32, ours**: {ours}" in text
    assert "| Highway, width 32 | 10 | 151 K | 99.55 (99.54 ± 0.02) |" in text
    assert "Table 2" not in text
    assert (tmp_path / "out" / "table1-mnist10-32-mnist-conv.svg").exists()
    assert "| conv | 4 | 5 | 2 x cpu (a processor) | 0.0 | abc |" in text


def test_runs_of_one_name_are_told_apart(tmp_path):
    net = {"architecture": "mnist10", "width": 32, "status": "finished", "test_accuracy": 0.99}
    for number in (1, 2):
        _write_run(tmp_path / f"run{number}", [_row(0, **net)], [])
        path = tmp_path / f"run{number}" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "conv"}))
    text = report.report([tmp_path / "run1", tmp_path / "run2"], tmp_path / "out")
    for number in (1, 2):
        assert f"| **Highway, width 32, ours**: 1 seed, 20 steps (run{number}) |" in text
        # What was run, and where the numbers come from.
        assert text.count(f"| conv (run{number}) | ") == 2
    text = report.report([tmp_path / "run1"], tmp_path / "out")
    assert "1 seed, 20 steps |" in text
    assert "conv (run1)" not in text


def test_training_by_depth_is_drawn_of_several_depths(tmp_path):
    rows = [_row(i, depth=depth, status="finished") for i, depth in enumerate((10, 1000))]
    lines = [
        {"trial": i, "epoch": epoch, "train_loss": (i + 1) / epoch}
        for i in (0, 1)
        for epoch in (1, 2)
    ]
    _write_run(tmp_path / "deep", rows, lines)
    _write_run(tmp_path / "alike", rows[:1], lines[:2])
    text = report.report([tmp_path / "deep", tmp_path / "alike"], tmp_path / "out")
    assert "## Training by depth: deep" in text
    assert "## Training by depth: alike" not in text
    drawing = (tmp_path / "out" / "depth-deep.svg").read_text()
    assert "<!-- highway, 10 layers -->" in drawing
    assert "<!-- highway, 1000 layers -->" in drawing
    report.report([tmp_path / "deep", tmp_path / "alike"], tmp_path / "again")
    assert (tmp_path / "again" / "depth-deep.svg").read_text() == drawing


def test_a_curve_that_ends_early_is_drawn_over_logarithmic_steps():
    authors = paper.author_curve("cifar19", 32, "cifar10")
    log = figures.Curve(authors[:, 0], authors[:, 1])
    for steps, scale in ((2_000, "log"), (200_000, "linear")):
        ours = figures.Curve(np.asarray([500.0, steps]), np.asarray([0.3, 0.5]))
        (axis,) = figures.test_curves({"ours": ours}, log, "title").axes
        assert axis.get_xscale() == scale


def test_what_cannot_be_reported_is_said_in_one_line(tmp_path, capsys):
    _write_run(tmp_path / "torn", [_row(0)], [])
    (tmp_path / "torn" / "results.csv").write_text("trial,depth\n0,much\n")
    _write_run(tmp_path / "whole", [_row(0)], [])
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text("{")
    for workdir, out, words in (
        ("nowhere", "o", "nowhere'; allowed"),
        ("broken", "o", "allowed: a directory of a run"),
        ("torn", "o", "allowed: a directory of a run (line 2"),
        ("whole", "broken/config.json", "config.json'; allowed: a directory to write"),
    ):
        arguments = [f"--workdir={tmp_path / workdir}", f"--out={tmp_path / out}"]
        assert report.main(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


def test_a_run_that_just_began_has_a_report(tmp_path):
    _write_run(tmp_path / "new", [], [])
    text = report.report([tmp_path / "new"], tmp_path / "out")
    assert "No batch of trials is finished yet." in text
    assert "| new | 0 | 0 | 2 x cpu" in text
    assert "<title>" in (tmp_path / "out" / "report.html").read_text()


def test_curves_may_be_compressed(sweep):
    plain = sweep.directory / "metrics.jsonl"
    packed = gzip.compress(plain.read_bytes())
    plain.unlink()
    assert runs.read(sweep.directory).curves == {}
    plain.with_suffix(".jsonl.gz").write_bytes(packed)
    assert runs.read(sweep.directory).curves == sweep.curves


def test_what_was_found_inside_is_held_against_the_paper(tmp_path):
    _write_run(tmp_path / "run", [_row(0, status="finished")], [])
    (tmp_path / "run" / "analysis" / "trial_0000").mkdir(parents=True)
    findings.save(made_up(), tmp_path / "run" / "analysis" / "trial_0000" / "findings.npz")
    text = report.report([tmp_path / "run"], tmp_path / "out")
    assert "MNIST: most transform biases fell further in training | " in text
    assert "| 95% | yes |" in text
    assert "any one early layer |" in text
    assert "| 48.0% | yes |" in text
    # One example has a third of its gates open.
    assert "below a fifth | 33.3% | **no** |" in text
    for figure in ("figure2", "figure3", "figure4"):
        assert (tmp_path / "out" / f"{figure}.png").exists()
        assert f"({figure}.png)" in text


def test_claims_of_both_nets_need_both():
    nets = {"mnist": made_up()}
    alone = claims.verdicts(nets)
    assert {v.claim.datasets for v in alone} == {("mnist",)}
    more = made_up()
    more = more._replace(sample_gates=np.square(more.sample_gates) * (np.arange(3) == 0))
    both = claims.verdicts(nets | {"cifar100": more})
    assert len(both) == len(claims.CLAIMS)
    (sparser,) = [v for v in both if len(v.claim.datasets) == 2]
    assert not sparser.holds  # Of both nets the same one gate of three is open.
    assert sparser.number == "0.67 against 0.67"


def test_the_authors_curves_end_where_their_logs_do():
    for net, points, last in (
        (("mnist10", 32, "mnist"), 301, (180_000, 0.9954)),
        (("cifar19", 32, "cifar10"), 401, (200_000, 0.9214)),
        (("cifar19", 32, "cifar100"), 401, (200_000, 0.6809)),
    ):
        curve = paper.author_curve(*net)
        assert curve.shape == (points, 3)
        np.testing.assert_allclose(curve[-1, :2], last, atol=5e-5)
    assert paper.author_curve("highway_a", 16, "cifar10") is None


def test_a_torn_table_is_refused(tmp_path):
    _write_run(tmp_path / "run", [_row(0)], [])
    (tmp_path / "run" / "metrics.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(UserError, match="allowed: a directory of a run"):
        runs.read(tmp_path / "run")
