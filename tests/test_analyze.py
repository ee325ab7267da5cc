"""From a saved run to the files and statistics of Figures 2 to 4."""

import json
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from closed_output import run_with_closed_output
from made_up_findings import made_up
from ml_collections import ConfigDict

import highway_jax
from highway_jax import analyze
from highway_jax.analysis import collect, statistics
from highway_jax.config import config as config_lib
from highway_jax.data.digits import load_digits
from highway_jax.errors import UserError
from highway_jax.reporting import figures
from highway_jax.runs.rows import failed_rows
from highway_jax.runtime.output import standard_output
from highway_jax.storage import findings, tables
from highway_jax.sweep import design, planning


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    config = highway_jax.default_config()
    config.name = "inside"
    config.seeds = (3, 4)
    config.data.valid_size = 100
    config.model.depth = 5
    config.model.width = 6
    config.model.transform_bias = -1.5
    config.training.epochs = 2
    config.runtime.progress = False
    config.runtime.tensorboard = False
    config.cases.highway = {}
    config.cases.plain = {"model": {"block": "plain", "depth": 3, "width": 8}}
    path = tmp_path_factory.mktemp("runs") / "inside"
    highway_jax.run(config, path)
    return path


def test_numbers_have_the_known_values():
    numbers = statistics.measure(made_up())
    assert set(numbers) == set(statistics.NUMBERS)
    assert numbers["biases_fell"] == pytest.approx(19 / 20)  # The first layer's stayed.
    assert numbers["bias_depth_correlation"] == pytest.approx(-1)
    # Biases fall with depth, and gates with them.
    layer = np.arange(20)
    expected = np.corrcoef(-2 - layer, 1 / (2 + layer))[0, 1]
    assert numbers["bias_activity_correlation"] == pytest.approx(expected)
    assert numbers["layer_bias_activity_correlation"] == pytest.approx(expected)
    assert numbers["open_for_one"] == pytest.approx(1 / 3)
    assert numbers["open_on_average"] == 0
    assert numbers["sparsity_for_one"] == pytest.approx(2 / 3)
    assert numbers["sparsity_on_average"] == pytest.approx(0)
    assert numbers["change_reach"] == 6
    assert numbers["class_early_share"] == pytest.approx(0.2 / (0.2 + 5 * 0.05))
    assert numbers["idle_share"] == pytest.approx(19 / 20)
    assert numbers["last_needed"] == 1
    assert numbers["worst_cost"] == pytest.approx(0.48)
    assert ("1", statistics.NUMBERS["last_needed"]) in [
        (value, words) for words, value in statistics.describe(numbers)
    ]


def test_findings_are_read_as_they_were_written(tmp_path):
    found = made_up()
    findings.save(found, tmp_path / "findings.npz")
    again = findings.load(tmp_path / "findings.npz")
    for a, b in zip(found, again, strict=True):
        np.testing.assert_array_equal(a, b)
    assert isinstance(again.title, str)
    whole = (tmp_path / "findings.npz").read_bytes()
    middle = len(whole) // 2
    flipped = whole[:middle] + bytes([whole[middle] ^ 1]) + whole[middle + 1 :]
    for content in (whole[:-100], b"", b"no zip", flipped):
        (tmp_path / "findings.npz").write_bytes(content)
        with pytest.raises(UserError, match=r"findings\.npz: cannot be read"):
            findings.load(tmp_path / "findings.npz")


def test_findings_of_a_version_without_some_lesions_are_read(tmp_path):
    arrays = {k: np.asarray(v) for k, v in made_up()._asdict().items()}
    for name in ("opened", "shut_to", "shut_from", "pairs", "num_pair_examples", "num_examples"):
        del arrays[name]
        np.savez(tmp_path / "findings.npz", **arrays)
        found = findings.load(tmp_path / "findings.npz")
        assert statistics.measure(found) == pytest.approx(
            statistics.measure(made_up()), nan_ok=True
        )
    assert found.num_pair_examples == 0
    assert found.pairs.shape == (2, 20, 20)
    assert np.isnan(found.opened).all()
    assert figures.figure4([found]).axes
    del arrays["shut"]
    np.savez(tmp_path / "findings.npz", **arrays)
    with pytest.raises(UserError, match=r"findings\.npz: cannot be read \('shut'\)"):
        findings.load(tmp_path / "findings.npz")


def test_objects_are_not_unpickled(tmp_path):
    values = {k: np.asarray(v) for k, v in made_up()._asdict().items()}
    values["title"] = np.asarray([{"a": 1}], object)
    np.savez(tmp_path / "findings.npz", **values)
    with pytest.raises(UserError, match="cannot be read"):
        findings.load(tmp_path / "findings.npz")


def test_the_best_highway_net_of_a_run_is_analyzed(workdir, tmp_path, capsys):
    assert analyze.main([f"--workdir={workdir}", f"--out={tmp_path}", "--pair_examples=50"]) == 0
    rows = highway_jax.run(_config(workdir), workdir)
    best = min((row for row in rows if row["block"] == "highway"), key=lambda r: r["train_loss"])
    (directory,) = tmp_path.iterdir()
    assert directory.name == f"trial_{best['trial']:04d}"
    assert "biases that fell" in capsys.readouterr().out
    found = findings.load(directory / "findings.npz")
    # The net is the one that was trained, and has been looked at on the examples it was trained on.
    assert found.intact[0] == pytest.approx(best["train_loss"], rel=1e-5)
    assert 1 - found.intact[1] == pytest.approx(best["train_accuracy"])
    assert found.counts.sum() == found.num_examples
    assert found.num_pair_examples == 50
    assert found.biases.shape == (4, 6)
    np.testing.assert_array_equal(found.biases_before, -1.5)
    numbers = json.loads((directory / "numbers.json").read_text())
    assert numbers == pytest.approx(statistics.measure(found), nan_ok=True)
    for name in ("figure2", "figure3", "figure4", "lesions"):
        for ending in ("png", "svg"):
            assert (directory / f"{name}.{ending}").stat().st_size > 5000


def test_each_cell_of_a_grid_has_its_best_net(tmp_path):
    """Two activations, three seeds each; the best of each by training loss is analyzed."""
    config = highway_jax.default_config()
    config.name = "grid"
    config.seeds = (0, 1, 2)
    config.sweep.grid = ConfigDict({"model": {"first_initializer": ("same", "msra")}})
    losses = (0.3, 0.1, 0.2, 0.9, 0.8, 0.7)
    rows = []
    for batch in planning.plan(config, []):
        for trial, row in zip(batch.trials, failed_rows(batch), strict=True):
            rows.append(row | {"status": "finished", "train_loss": losses[trial.index]})
    chosen = collect._choose(config, rows, (), tmp_path)
    assert [row["trial"] for row in chosen] == [1, 5]


def _config(workdir):
    return highway_jax.config.config.from_json((workdir / "config.json").read_text())


def test_nets_without_blocks_are_left_out(small_config, tmp_path):
    small_config.seeds = (0,)
    small_config.sweep.grid = ConfigDict({"model": {"depth": (1, 2)}})
    highway_jax.run(small_config, tmp_path)
    options = analyze.Options(num_pair_examples=0)
    assert list(analyze.analyze(tmp_path, options=options)) == [1]
    with pytest.raises(UserError, match=r"model.depth is 1; allowed: at least 2"):
        analyze.analyze(tmp_path, (0,), options)


def test_data_other_than_those_of_the_training_are_refused(small_config, tmp_path):
    rng = np.random.default_rng(0)
    arrays = {"x_train": rng.normal(size=(200, 5)), "x_test": rng.normal(size=(20, 5))}
    labels = {"y_train": np.arange(200) % 2, "y_test": np.arange(20) % 2}
    file = tmp_path / "mine.npz"
    np.savez(file, **arrays, **labels)
    small_config.data.name, small_config.data.file = "file", str(file)
    small_config.seeds = (0,)
    highway_jax.run(small_config, tmp_path / "run")
    np.savez(file, **{name: array + 1 for name, array in arrays.items()}, **labels)
    with pytest.raises(UserError, match=r"was trained on other data: file had fingerprint \w+, n"):
        analyze.analyze(tmp_path / "run")
    for saved in (tmp_path / "run").glob("preprocessing-*.npz"):
        saved.unlink()
    with pytest.raises(UserError, match="was trained on other data"):
        highway_jax.load(tmp_path / "run")


def test_pairs_and_ranges_agree_with_single_layers(workdir):
    options = analyze.Options(num_examples=60, num_pair_examples=60)
    found = analyze.analyze(workdir, [0, 1], options)
    assert list(found) == [0, 1]
    for one in found.values():
        np.testing.assert_array_equal(np.diagonal(one.pairs, axis1=1, axis2=2), one.shut)
        np.testing.assert_array_equal(one.pairs, np.swapaxes(one.pairs, 1, 2))
        np.testing.assert_array_equal(one.shut_to[:, 0], one.shut[:, 0])
        np.testing.assert_array_equal(one.shut_from[:, -1], one.shut[:, -1])
        np.testing.assert_array_equal(one.shut_to[:, 1], one.pairs[:, 0, 1])
        np.testing.assert_array_equal(one.shut_to[:, -1], one.shut_from[:, 0])
    for trial, one in found.items():
        own = highway_jax.load(workdir, trial=trial).params["blocks"]["transform_bias"]
        np.testing.assert_array_equal(one.biases, own)
    assert (found[0].shut != found[1].shut).any()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--trial=7"], "--trial is 7; allowed: a finished highway net (0, 1)"),
        (["--trial=2"], "--trial is 2; allowed: a finished highway net (0, 1)"),  # A plain net.
        (["--examples=-1"], "--examples is -1; allowed: 0 or more"),
        (["--pair_examples=-2"], "--pair_examples is -2; allowed: 0 or more"),
        (
            ["--out=/dev/null/x", "--pair_examples=0"],
            "--out is '/dev/null/x'; allowed: a directory to write",
        ),
    ],
)
def test_bad_arguments_get_one_line(workdir, arguments, words, capsys):
    assert analyze.main([f"--workdir={workdir}", "--examples=10", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_a_run_that_is_not_there_or_not_whole_gets_one_line(workdir, tmp_path):
    with pytest.raises(UserError, match=r"workdir is '.*nowhere'; allowed: a directory of a run"):
        analyze.analyze(tmp_path / "nowhere")
    copy = tmp_path / "copy"
    shutil.copytree(workdir, copy)
    for manifest in copy.glob("checkpoints/*highway*/*.json"):
        manifest.write_text("{")
    with pytest.raises(UserError, match=r": every checkpoint is damaged"):
        analyze.analyze(copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="does not exist; allowed: a run with its checkpoints"):
        analyze.analyze(copy)
    (copy / "results.csv").unlink()
    with pytest.raises(UserError, match="a run with a highway net that is finished"):
        analyze.analyze(copy)
    (copy / "config.json").write_text('{"name": 3}')
    with pytest.raises(UserError, match=r"config\.name is 3; allowed"):
        analyze.analyze(copy)


def test_the_figures_show_the_arrays():
    found = made_up()
    maps = [axis.images[0].get_array() for axis in figures.figure2([found]).axes if axis.images]
    expected = (found.biases, found.mean, found.sample_gates[0], found.sample_outputs[0])
    for shown, values in zip(maps, expected, strict=True):
        np.testing.assert_allclose(shown, values)
    panels = [axis for axis in figures.figure3([found], [(0, 1)]).axes if axis.images]
    assert [axis.get_title() for axis in panels] == ["Class 0", "Class 1: dog"]
    for axis, values in zip(panels, found.by_class - found.mean, strict=True):
        np.testing.assert_allclose(axis.images[0].get_array(), values)
        low, high = axis.images[0].get_clim()
        assert low == -high  # No difference is the middle of the scale.
    (axis,) = figures.figure4([found]).axes
    curve, dashed = axis.lines
    np.testing.assert_allclose(curve.get_ydata(), 100 * found.shut[1])
    np.testing.assert_array_equal(curve.get_xdata(), np.arange(1, 21))
    np.testing.assert_allclose(dashed.get_ydata(), 2)
    assert len(figures.figure4([found, found]).axes) == 2
    assert jax.tree.leaves(figures.lesions(found).axes)


def test_a_retrained_trial_whose_cell_lacks_a_row_is_refused(tmp_path):
    """In runs of format 1, the index of a retrained trial does not say which setting it has."""
    config = highway_jax.default_config()
    config.name = "search"
    config.sweep.trials = 2
    config.sweep.retrain_seeds = (7,)
    config.sweep.draw = ConfigDict({"optimizer": {"momentum": ("uniform", 0.1, 0.9)}})
    (tmp_path / "config.json").write_text(config_lib.to_json(config))
    environment = {"data_fingerprint": load_digits().fingerprint}
    (tmp_path / "environment.json").write_text(json.dumps(environment))
    (batch,) = planning.plan(config, [], known=planning.cells(config, design.Numbering(1)))
    rows = [row | {"status": "finished", "train_loss": 0.5} for row in failed_rows(batch)]
    rows.append(rows[0] | {"trial": 2, "case": "search-best", "seed": 7})
    tables.write(tmp_path / "results.csv", tables.RESULTS, rows)
    with pytest.raises(UserError, match="does not exist; allowed: a run with its checkpoints"):
        analyze.analyze(tmp_path)
    tables.write(tmp_path / "results.csv", tables.RESULTS, rows[1:])
    with pytest.raises(UserError, match=r"a row for each trial of the cell that trial 2 retrains"):
        analyze.analyze(tmp_path)


def test_a_reader_that_leaves_early_does_not_break_analyze(tmp_path):
    code = (
        "import sys; from made_up_findings import made_up; from highway_jax import analyze;"
        "analyze.analyze = lambda *_: {0: made_up()};"
        "analyze.figures.save = lambda _, path: path.with_suffix('.png').touch();"
        f"sys.exit(analyze.main(['--workdir=.', '--out={tmp_path}']))"
    )
    status, errors = run_with_closed_output([sys.executable, "-c", code], Path(__file__).parent)
    assert (status, errors) == (0, "")
    assert (tmp_path / "trial_0000" / "lesions.png").exists()


def test_an_output_that_is_full_is_reported(tmp_path, monkeypatch, capsys):
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with standard_output() as output:
            print("text", file=output)
        monkeypatch.undo()
    assert "standard output cannot be written" in capsys.readouterr().err
