"""Reports of artificial runs, of which every value is known."""

import csv
import gzip
import json
import re
import sys
import urllib.parse

import numpy as np
import pytest
from closed_output import run_with_closed_output
from made_up_findings import made_up
from ml_collections import ConfigDict

from highway_jax import report
from highway_jax.config import config as config_lib
from highway_jax.errors import UserError
from highway_jax.paper import claims, published
from highway_jax.reporting import explorer, figures, paper_tables
from highway_jax.storage import findings, results, tables

ENVIRONMENT = {
    "num_devices": 2,
    "device_kind": "cpu",
    "processor": "a processor",
    "versions": {"jax": "0.0"},
    "commit": "abc",
}


def _write_run(path, rows, lines, trials=0, grid=None):
    path.mkdir()
    grid = grid or ({"model": {"depth": [10]}} if trials else {})
    config = {"name": path.name, "data": {"name": "mnist"}}
    config |= {"sweep": {"trials": trials, "grid": grid}}
    (path / "config.json").write_text(json.dumps(config))
    (path / "environment.json").write_text(json.dumps(ENVIRONMENT))
    with (path / "results.csv").open("w", newline="") as file:
        columns = tables.with_own(tables.RESULTS, tables.own_columns(config))
        writer = csv.DictWriter(file, columns, restval="")
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
    # Twelve trials of two epochs; trial 3 continues to a third, though it is not the best of all.
    rows = [_row(i, train_loss=(i + 1) / 100) for i in range(12)]
    rows[3] |= {"rung": 1, "status": "finished", "epochs": 3, "train_loss": 0.02}
    rows[11] |= {"status": "diverged", "diverged": True, "train_loss": ""}
    lines = [
        {"trial": i, "epoch": epoch, "train_loss": None if i == 11 else (i + 1) / epoch}
        for i in range(12)
        for epoch in ((1, 2, 3) if i == 3 else (1, 2))
    ]
    _write_run(tmp_path / "sweep", rows, lines, trials=12)
    return results.read(tmp_path / "sweep")


def test_the_best_trial_is_the_best_of_those_trained_furthest(sweep):
    (cell,) = paper_tables.figure1_cells([sweep]).values()
    assert cell.row["trial"] == 3
    np.testing.assert_array_equal(cell.curve.x, [1, 2, 3])
    np.testing.assert_allclose(cell.curve.y, [4, 2, 4 / 3])


def test_the_ten_best_are_compared_at_an_epoch_that_ten_reached(sweep):
    (cell,) = paper_tables.figure1_cells([sweep]).values()
    mean, std, epoch = cell.ten_best
    assert epoch == 2
    assert mean == pytest.approx(np.mean(np.arange(1, 11) / 2))
    assert std == pytest.approx(np.std(np.arange(1, 11) / 2, ddof=1))
    (cell,) = paper_tables.figure1_cells([sweep._replace(rows=sweep.rows[:9])]).values()
    assert cell.ten_best is None


def test_searches_of_the_same_nets_are_one(sweep, tmp_path):
    rows = [_row(0, train_loss=0.01, status="finished", rung=1, epochs=3)]
    _write_run(tmp_path / "more", rows, [{"trial": 0, "epoch": 3, "train_loss": 0.01}], trials=12)
    (cell,) = paper_tables.figure1_cells([sweep, results.read(tmp_path / "more")]).values()
    assert cell.trials == 13
    np.testing.assert_array_equal(cell.curve, [[3], [0.01]])
    assert cell.ten_best[2] == 2


def test_trained_furthest_is_judged_by_epochs(sweep, tmp_path):
    """A search without rungs, all of whose trials end at epoch 8, beats one that was halved."""
    lines = [{"trial": 0, "epoch": epoch, "train_loss": 9 - epoch} for epoch in range(1, 9)]
    rows = [_row(0, train_loss=7.0, status="finished", rung=0, epochs=8)]
    _write_run(tmp_path / "whole", rows, lines, trials=12)
    (cell,) = paper_tables.figure1_cells([sweep, results.read(tmp_path / "whole")]).values()
    assert (cell.row["epochs"], cell.curve.y[-1]) == (8, 1)


def test_seeds_of_a_best_setting_are_not_among_the_settings(sweep):
    """Trained again with twelve seeds, the best one would be all of the ten best."""
    again = [
        _row(i, train_loss=1e-4, status="finished", rung=0, epochs=3, case="net-best")
        for i in range(12, 24)
    ]
    curves = {
        i: [{"trial": i, "epoch": e, "train_loss": 1e-4} for e in (2, 3)] for i in range(12, 24)
    }
    both = sweep._replace(rows=sweep.rows + again, curves=sweep.curves | curves)
    both.config["cases"] = {"net": {}}
    (cell,) = paper_tables.figure1_cells([both]).values()
    (alone,) = paper_tables.figure1_cells([sweep]).values()
    assert (cell.trials, cell.row["trial"], cell.ten_best) == (12, 3, alone.ten_best)


@pytest.fixture
def unsaved(monkeypatch):
    """Draws the figures of reports and does not save them, which takes longer than all else."""
    monkeypatch.setattr(figures, "save", lambda figure, path: None)


@pytest.mark.usefixtures("unsaved")
def test_the_best_and_the_ten_best_are_of_one_measure(tmp_path):
    """Ten trials that end alike: their mean is that of the best, whatever was evaluated after."""
    rows = [_row(i, train_loss=9.0 + i, status="finished", rung=0) for i in range(10)]
    lines = [{"trial": i, "epoch": e, "train_loss": 1 / e} for i in range(10) for e in (1, 2)]
    _write_run(tmp_path / "sweep", rows, lines, trials=12)
    (cell,) = paper_tables.figure1_cells([results.read(tmp_path / "sweep")]).values()
    assert cell.ten_best == (cell.curve.y[-1], 0, cell.curve.x[-1]) == (0.5, 0, 2)
    text = report.report([tmp_path / "sweep"], tmp_path / "out")
    assert "| highway 10 | 10 | 5.00e-01 | 2 | 1.05e-05 | 5.0e-01 ± 0.0e+00 | 2 |" in text
    assert "mean losses over the steps of an epoch" in text


def test_figure1_is_drawn_with_a_table_of_both(sweep, tmp_path, capsys):
    out = tmp_path / "out"
    assert report.main([f"--workdir={sweep.directory}", f"--out={out}"]) == 0
    text = (out / "report.md").read_text()
    assert capsys.readouterr().out == text + "\n"
    assert "| net | mnist | 10 | 7 | 12 | 1 | 3 | - | 0.02 |" in text
    assert "| highway 10 | 12 | 1.33e+00 | 3 | 1.05e-05 | 2.8e+00 ± 1.5e+00 | 2 | 3.6e-05 |" in text
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


def test_a_table_has_a_row_for_each_setting_and_a_picture_for_each_net(tmp_path):
    """Two settings of width 32, one net of width 16, and a plain net, in one run."""
    net = {"architecture": "mnist10", "width": 32, "status": "finished", "depth": 10}
    settings = (0.5, 0.5, 1.0), (0, 1, 0)
    rows = [
        _row(i, test_accuracy=0.99 - i / 100, seed=seed, **net, **{"optimizer.clip_norm": norm})
        for i, (norm, seed) in enumerate(zip(*settings, strict=True))
    ]
    other = {"optimizer.clip_norm": 0.5, "test_accuracy": 0.5}
    rows.append(_row(3, **net | {"width": 16}, **other))
    rows.append(_row(4, **net | {"block": "plain"}, **other))
    lines = [
        {"trial": row["trial"], "seed": row["seed"], "epoch": epoch, "step": 10 * epoch,
         "train_loss": 1, "test_accuracy": row["test_accuracy"]}
        for row in rows
        for epoch in (1, 2)
    ]  # fmt: skip
    grid = {"optimizer": {"clip_norm": [0.5, 1.0]}}
    _write_run(tmp_path / "conv", rows, lines, grid=grid)
    text = report.report([tmp_path / "conv"], tmp_path / "out")
    for words in (
        "| **Highway, width 32, ours**: optimizer.clip_norm 0.5, 2 seeds, 20 steps | 10 | 7 |"
        " 99.00 (98.50 ± 0.71) |",
        "| **Highway, width 32, ours**: optimizer.clip_norm 1, 1 seed, 20 steps | 10 | 7 | 97.00 |",
        "| **Highway, width 16, ours**: 1 seed, 20 steps | 10 | 7 | 50.00 |",
    ):
        assert words in text
    for width, labels in (
        (
            32,
            {
                "authors' log",
                "ours, optimizer.clip_norm 0.5, seed 0",
                "ours, optimizer.clip_norm 0.5, seed 1",
                "ours, optimizer.clip_norm 1, seed 0",
            },
        ),
        (16, {"ours"}),
    ):
        picture = f"table1-mnist10-{width}-mnist-conv"
        assert text.count(f"({picture}.png)") == 1
        drawing = (tmp_path / "out" / f"{picture}.svg").read_text()
        shown = set(re.findall("<!-- (.*?) -->", drawing))
        assert {words for words in shown if "ours" in words or "log" in words} == labels
    page = (tmp_path / "out" / "report.html").read_text()
    assert len(re.findall('data-kind="lines"', page)) == 2


def test_pictures_of_directories_named_alike_are_not_one(tmp_path):
    net = {"architecture": "mnist10", "width": 32, "status": "finished", "test_accuracy": 0.99}
    line = {"trial": 0, "seed": 0, "epoch": 1, "step": 9, "test_accuracy": 0.5, "train_loss": 1}
    for parent in "ab":
        (tmp_path / parent).mkdir()
        _write_run(tmp_path / parent / "run", [_row(0, **net)], [line])
    text = report.report([tmp_path / "a" / "run", tmp_path / "b" / "run"], tmp_path / "out")
    for name in ("run", "run-2"):
        assert text.count(f"(table1-mnist10-32-mnist-{name}.png)") == 1
        assert (tmp_path / "out" / f"table1-mnist10-32-mnist-{name}.svg").exists()


def test_the_overview_and_the_curves_say_what_differs(tmp_path):
    """Two grid points, two seeds each, and validation accuracies."""
    rows = [
        _row(i, status="finished", test_accuracy=0.9 - i / 10, valid_accuracy=i / 10, seed=i % 2,
             **{"data.scaling": ("unit", "signed")[i // 2]})
        for i in range(4)
    ]  # fmt: skip
    lines = [{"trial": i, "epoch": 1, "train_loss": 1} for i in range(4)]
    grid = {"data": {"scaling": ["unit", "signed"]}}
    _write_run(tmp_path / "grid", rows, lines, grid=grid)
    text = report.report([tmp_path / "grid"], tmp_path / "out")
    heads = "| net | settings | data | layers | parameters | trials | diverged | epochs |"
    assert f"\n{heads}" in text  # Of one run; several have a column with their names.
    for words in (
        "| net | data.scaling unit | mnist | 10 | 7 | 2 | 0 | 2 | 10.00 (5.00 ± 7.07) |"
        " 90.00 (85.00 ± 7.07) | 1 |",
        "| net | data.scaling signed | mnist | 10 | 7 | 2 | 0 | 2 | 30.00 (25.00 ± 7.07) |"
        " 70.00 (65.00 ± 7.07) | 1 |",
    ):
        assert words in text
    trials = explorer.explore([results.read(tmp_path / "grid")])
    assert trials["names"] == [
        f"net 10, data.scaling {scaling}, seed {seed}"
        for scaling in ("unit", "signed")
        for seed in (0, 1)
    ]
    assert [trials["nets"][i] for i in trials["net"][1:3]] == [
        "net 10, data.scaling unit",
        "net 10, data.scaling signed",
    ]
    assert trials["labels"] == trials["nets"]
    assert trials["setting"] == [0, 0, 1, 1]
    # What varies comes first: settings, then metrics.
    first = [column["name"] for column in trials["columns"] if column["varied"]]
    assert first == ["trial", "data.scaling", "valid_accuracy", "test_accuracy", "seed"]


def test_cells_of_a_search_have_lines_of_their_own(tmp_path):
    rows = [
        _row(i, train_loss=i + 1, block=("plain", "highway")[i // 2], status="finished",
             learning_rate=(i + 1) / 10, test_accuracy=0.5 + i / 10)
        for i in range(4)
    ]  # fmt: skip
    rows += [
        _row(i, train_loss=1, block="plain", status="finished", learning_rate=0.1, case="net-best",
             test_accuracy=0.25 + i / 8)
        for i in (4, 5)
    ]  # fmt: skip
    lines = [{"trial": i, "epoch": 1, "train_loss": 1} for i in range(6)]
    _write_run(tmp_path / "run", rows, lines, 2, {"model": {"block": ["plain", "highway"]}})
    config = tmp_path / "run" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"cases": {"net": {}}}))
    text = report.report([tmp_path / "run"], tmp_path / "out")
    for words in (
        "| net | block plain, learning_rate 0.1 | mnist | 10 | 7 | 2 | 0 | 2 | 50.00 | 1 |",
        "| net | block highway, learning_rate 0.3 | mnist | 10 | 7 | 2 | 0 | 2 | 70.00 | 3 |",
        "| net-best | block plain, learning_rate 0.1 | mnist | 10 | 7 | 2 | 0 | 2 |"
        " 87.50 (81.25 ± 8.84) | 1 |",
    ):
        assert words in text
    assert explorer.explore([results.read(tmp_path / "run")])["names"][1:5] == [
        "net 10, block plain, learning_rate 0.2",
        "net 10, block highway, learning_rate 0.3",
        "net 10, block highway, learning_rate 0.4",
        "net-best 10, block plain, trial 4",
    ]


def test_trials_still_training_are_named_by_their_settings(small_config, tmp_path):
    """Only the config has their values, no table has."""
    small_config.sweep.grid = ConfigDict({"optimizer": {"clip_norm": (0.0, 1.0)}})
    lines = [
        {"trial": i, "epoch": 1, "case": "small", "seed": i % 2, "train_loss": 1} for i in (1, 2)
    ]
    _write_run(tmp_path / "run", [], lines)
    (tmp_path / "run" / "results.csv").unlink()
    (tmp_path / "run" / "config.json").write_text(config_lib.to_json(small_config))
    trials = explorer.explore([results.read(tmp_path / "run")])
    assert trials["names"] == [
        "small 3, optimizer.clip_norm 0",
        "small 3, optimizer.clip_norm 1",
    ]


def test_runs_of_one_name_are_distinguished(tmp_path):
    net = {"architecture": "mnist10", "width": 32, "status": "finished", "test_accuracy": 0.99}
    for number in (1, 2):
        _write_run(tmp_path / f"run{number}", [_row(0, **net)], [])
        path = tmp_path / f"run{number}" / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"name": "conv"}))
    text = report.report([tmp_path / "run1", tmp_path / "run2"], tmp_path / "out")
    for number in (1, 2):
        assert f"| **Highway, width 32, ours**: 1 seed, 20 steps (run{number}) |" in text
        # What was run, and its provenance.
        assert text.count(f"\n| run{number} | ") == 2
    text = report.report([tmp_path / "run1"], tmp_path / "out")
    assert "1 seed, 20 steps |" in text
    assert text.startswith("# Table 1: convolutional nets on MNIST\n")
    # A directory that has the name of another run.
    for path in (tmp_path / "run1", tmp_path / "run2"):
        path.rename(path.with_name(path.name.replace("run1", "conv")))
    found = results.read_all([tmp_path / "conv", tmp_path / "run2"])
    assert [run.name for run in found] == ["conv (conv)", "run2"]


def test_training_by_depth_is_drawn_of_several_depths(tmp_path):
    rows = [_row(i, depth=depth, status="finished") for i, depth in enumerate((10, 1000))]
    lines = [
        {"trial": i, "epoch": epoch, "train_loss": (i + 1) / epoch}
        for i in (0, 1)
        for epoch in (1, 2)
    ]
    _write_run(tmp_path / "deep", rows, lines)
    _write_run(tmp_path / "alike", rows[:1], lines[:2])
    _write_run(tmp_path / "short", rows, lines[::2])
    text = report.report([tmp_path / n for n in ("deep", "alike", "short")], tmp_path / "out")
    assert "## Training by depth: deep" in text
    # One depth, and one epoch, which would be an empty figure.
    assert "## Training by depth: alike" not in text
    assert "## Training by depth: short" not in text
    drawing = (tmp_path / "out" / "depth-deep.svg").read_text()
    assert "<!-- highway, 10 layers -->" in drawing
    assert "<!-- highway, 1000 layers -->" in drawing
    report.report([tmp_path / "deep", tmp_path / "alike"], tmp_path / "again")
    assert (tmp_path / "again" / "depth-deep.svg").read_text() == drawing


def test_a_curve_that_ends_early_is_drawn_over_logarithmic_steps():
    authors = published.author_curve("cifar19", 32, "cifar10")
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


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", {}, "(name in config.json is None; allowed: 1 to 100 letters"),
        ("config.json", {"name": "a", "sweep": 3}, "(sweep in config.json is 3; allowed: "),
        (
            "config.json",
            {"name": "a", "cases": {"b": 1}},
            "(b in config.json is 1; allowed: settin",
        ),
        (
            "config.json",
            {"name": "a", "sweep": {"grid": []}},
            "(grid in config.json is []; allowed",
        ),
        (
            "config.json",
            {"name": "a", "data": {"name": 3}},
            "(data.name in config.json is 3; allow",
        ),
        ("environment.json", {}, "(environment.json has no num_devices; allowed: what a run wrote"),
        ("environment.json", ENVIRONMENT | {"versions": {}}, "(versions in environment.json is {}"),
        (
            "metrics.jsonl",
            {"trial": 0, "epoch": 1, "train_loss": "a"},
            "(line 1 of metrics.jsonl: ",
        ),
    ],
)
def test_files_that_no_run_wrote_are_named_in_one_line(name, content, words, tmp_path, capsys):
    _write_run(tmp_path / "run", [_row(0, status="finished")], [])
    (tmp_path / "run" / name).write_text(json.dumps(content) + "\n")
    assert report.main([f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: workdir is '{tmp_path / 'run'}'; allowed: a directory of a")
    assert words in line


@pytest.mark.usefixtures("unsaved")
def test_other_directories_beside_analyses_are_left_alone(tmp_path):
    _write_run(tmp_path / "run", [_row(0, status="finished")], [])
    for name in ("trial_0000", "trial_0000.bak", "trial_x", "trial_0001 (copy)"):
        (tmp_path / "run" / "analysis" / name).mkdir(parents=True)
        findings.save(made_up(), tmp_path / "run" / "analysis" / name / "findings.npz")
    assert list(results.read(tmp_path / "run").inside) == [0]
    assert report.main([f"--workdir={tmp_path / 'run'}", f"--out={tmp_path / 'out'}"]) == 0


@pytest.mark.usefixtures("unsaved")
def test_nets_of_one_title_are_distinguished(tmp_path):
    rows = [
        _row(i, status="finished", **{"data.scaling": s}) for i, s in enumerate(("unit", "caffe"))
    ]
    _write_run(tmp_path / "run", rows, [], grid={"data": {"scaling": ["unit", "caffe"]}})
    for trial in (0, 1):
        directory = tmp_path / "run" / "analysis" / f"trial_{trial:04d}"
        directory.mkdir(parents=True)
        findings.save(made_up(), directory / "findings.npz")
    text = report.report([tmp_path / "run"], tmp_path / "out")
    assert "| statistic | a net, data.scaling unit | a net, data.scaling caffe |" in text


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
    assert results.read(sweep.directory).curves == {}
    plain.with_suffix(".jsonl.gz").write_bytes(packed)
    assert results.read(sweep.directory).curves == sweep.curves


def test_damaged_curves_are_one_line(sweep):
    plain = sweep.directory / "metrics.jsonl"
    packed = bytearray(gzip.compress(plain.read_bytes()))
    plain.unlink()
    for place in range(10, len(packed)):  # After the header, whose date may be any.
        damaged = packed[:place] + bytes([packed[place] ^ 16]) + packed[place + 1 :]
        plain.with_suffix(".jsonl.gz").write_bytes(damaged)
        with pytest.raises(UserError, match="allowed: a directory of a run"):
            results.read(sweep.directory)


def test_every_run_has_a_stem_of_its_own(tmp_path):
    paths = [tmp_path / place / name for place in "abc" for name in ("run", "run-2")]
    for path in paths:
        path.parent.mkdir(exist_ok=True)
        _write_run(path, [], [])
    found = results.read_all([*paths, paths[0]])
    assert len({run.stem for run in found}) == len({run.name for run in found}) == 7


def test_a_net_of_the_users_own_has_no_number_of_layers(tmp_path):
    own = {"architecture": "custom", "block": "custom", "status": "finished"}
    _write_run(tmp_path / "own", [_row(0, test_accuracy=0.5, **own)], [])
    report.report([tmp_path / "own"], tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert "chosen by training loss" in page
    assert "10 layers" not in page
    run = results.read(tmp_path / "own")
    assert explorer.cells(run, run.rows) == ["net"]


def test_a_vector_is_shown_as_a_row_of_pixels():
    vectors = made_up()._replace(sample_image=np.linspace(-1, 2, 20).reshape(4, 5))
    assert paper_tables._inside_data(vectors)["images"]["shape"] == (4, 1, 5, 1)


def test_what_was_found_inside_is_held_against_the_paper(tmp_path):
    _write_run(tmp_path / "run", [_row(0, status="finished")], [])
    (tmp_path / "run" / "analysis" / "trial_0000").mkdir(parents=True)
    file = tmp_path / "run" / "analysis" / "trial_0000" / "findings.npz"
    findings.save(made_up(claims.NUM_BLOCKS), file)
    text = report.report([tmp_path / "run"], tmp_path / "out")
    assert "MNIST: most transform biases fell further in training | " in text
    assert "| 98% | yes |" in text
    assert "any one early layer |" in text
    assert "| 48.0% | yes |" in text
    # One example has a third of its gates open.
    assert "below a fifth | 33.3% | **no** |" in text
    for figure in ("figure2", "figure3", "figure4"):
        assert (tmp_path / "out" / f"{figure}.png").exists()
        assert f"({figure}.png)" in text
    # The claims are about nets of 50 layers.
    findings.save(made_up(9), file)
    text = report.report([tmp_path / "run"], tmp_path / "out")
    assert "MNIST: most" not in text
    assert "(figure4.png)" in text


def test_names_are_no_markup(tmp_path):
    for name in ("lr0.1", "lr0.01", "my run|a"):
        rows = [_row(i, depth=depth, status="finished") for i, depth in enumerate((10, 20))]
        lines = [{"trial": i, "epoch": e, "train_loss": 1 / e} for i in (0, 1) for e in (1, 2)]
        _write_run(tmp_path / "run", rows, lines)
        (tmp_path / "run").rename(tmp_path / name)
    out = tmp_path / "out"
    text = report.report([tmp_path / name for name in ("lr0.1", "lr0.01", "my run|a")], out)
    links = re.findall(r"!\[[^]]*\]\(([^)]*)\)", text)
    assert "depth-my%20run%7Ca.png" in links
    assert len(set(links)) == len(links) > 2
    for link in links:
        assert (out / urllib.parse.unquote(link)).exists()
    tables = [block.splitlines() for block in text.split("\n\n") if block.startswith("| ")]
    assert any("my run\\|a" in line for lines in tables for line in lines)
    for lines in tables:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1
    formula = made_up()._replace(class_names=np.array(["$x_$", "$10-$20"]))
    figures.save(figures.figure3([formula]), out / "figure3")


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
        curve = published.author_curve(*net)
        assert curve.shape == (points, 3)
        np.testing.assert_allclose(curve[-1, :2], last, atol=5e-5)
    assert published.author_curve("highway_a", 16, "cifar10") is None


def test_a_torn_table_is_refused(tmp_path):
    _write_run(tmp_path / "run", [_row(0)], [])
    (tmp_path / "run" / "metrics.jsonl").write_text('{"epoch": 1}\n')
    with pytest.raises(UserError, match="allowed: a directory of a run"):
        results.read(tmp_path / "run")


def test_a_reader_that_leaves_early_does_not_break_report(tmp_path):
    _write_run(tmp_path / "run", [_row(0, status="finished")], [])
    command = [sys.executable, "-m", "highway_jax.report", "--workdir=run", "--out=out"]
    status, errors = run_with_closed_output(command, tmp_path)
    assert (status, errors) == (0, "Open out/report.html in a browser.\n")


def test_a_block_without_a_line_style_is_drawn():
    curve = figures.Curve(np.asarray([1.0, 2.0]), np.asarray([0.3, 0.1]))
    figure = figures.training_by_depth({("dense_skip", 10): [curve]}, "title")
    assert figure.axes[0].lines[0].get_linestyle() == "-."
