"""Seeds and epochs that are added to a run (`--extend`)."""

import csv
import json

import jax
import numpy as np
import pytest
from fault_tools import CLOCK, left
from ml_collections import ConfigDict

import highway_jax
from highway_jax import UserError
from highway_jax.data.digits import load_digits
from highway_jax.main import main
from highway_jax.runtime.signals import Stopped
from highway_jax.storage import results
from highway_jax.storage.workdir import Workdir
from highway_jax.sweep import design

_DIGITS = load_digits().test
_TEST = (_DIGITS.images, _DIGITS.labels)

PLACE = ("batch", "trial")
"""Columns that depend on the order in which trials were added."""


@pytest.fixture
def config(small_config):
    small_config.optimizer.decay = 0.9
    small_config.checkpoint.every_seconds = 0.0
    small_config.runtime.max_trials = 2  # As many as in other tests, which share their programs.
    # The last two diverge in their first steps: one may share a batch with "low", one has its own.
    for name, rate, width in (("low", 0.05, 8), ("broken", 1e20, 8), ("alone", 1e20, 5)):
        small_config.cases[name] = ConfigDict(
            {"optimizer": {"learning_rate": rate}, "model": {"width": width}}
        )
    return small_config


def _rows(workdir):
    """Rows of results.csv by case and seed, without what depends on the order of the trials."""
    return {
        (row["case"], row["seed"]): {k: v for k, v in row.items() if k not in (*PLACE, *CLOCK)}
        for row in _table(workdir / "results.csv")
    }


def _table(path):
    return list(csv.DictReader(path.read_text().splitlines()))


def _curves(workdir):
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return {
        (line["case"], line["seed"], line["epoch"]): {
            k: v for k, v in line.items() if k not in PLACE
        }
        for line in lines
    }


def _assert_same(workdir, whole):
    assert _rows(workdir) == _rows(whole)
    assert _curves(workdir) == _curves(whole)
    summaries = [(path / "summary.csv").read_text() for path in (workdir, whole)]
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("cases", "seeds", "most"), [(2, 1, 2), pytest.param(3, 4, 0, marks=pytest.mark.slow)]
)
def test_an_extended_run_has_the_bits_of_one_that_had_all_from_the_start(
    cases, seeds, most, config, tmp_path
):
    for case in list(config.cases)[cases:]:
        del config.cases[case]
    config.seeds = tuple(range(seeds))
    config.runtime.max_trials = most
    config.checkpoint.every_seconds = 60.0
    highway_jax.run(config, tmp_path / "run")
    first = _rows(tmp_path / "run")
    config.seeds = tuple(range(2 * seeds))
    config.training.epochs = 4
    with pytest.raises(UserError, match=r"changed seeds .* extend, which trains what"):
        highway_jax.run(config, tmp_path / "run")
    assert _rows(tmp_path / "run") == first
    rows = highway_jax.run(config, tmp_path / "run", extend=True)
    highway_jax.run(config, tmp_path / "whole")
    _assert_same(tmp_path / "run", tmp_path / "whole")
    # Earlier trials keep their numbers, and the new ones follow.
    assert [(row["trial"], row["case"], row["seed"]) for row in rows] == [
        (start * cases + seeds * i + seed, case, start + seed)
        for start in (0, seeds)
        for i, case in enumerate(config.cases)
        for seed in range(seeds)
    ]
    # The run is now that of the larger config, also for those who only read it.
    assert highway_jax.run(config, tmp_path / "run") == rows
    read = results.read(tmp_path / "run")
    assert {t: (s["case"], s["seed"]) for t, s in read.settings.items()} == {
        row["trial"]: (row["case"], row["seed"]) for row in rows
    }
    config.seeds = tuple(range(3 * seeds))
    highway_jax.run(config, tmp_path / "run", extend=True)
    assert Workdir(tmp_path / "run").numbering().seeds == (seeds, 2 * seeds)


def test_an_interrupted_run_can_be_extended_and_interrupted_again(config, tmp_path, monkeypatch):
    del config.cases["alone"]
    added = []

    def stop_after(number):
        def add(records, lines):
            real(records, lines)
            added.append(lines)
            if len(added) == number:
                raise Stopped(15, "stopped")

        return add

    records = highway_jax.runs.context.Records
    real = records.add_epoch
    for number, epochs, seeds in ((1, 2, (0, 1)), (3, 3, (0, 1, 2))):
        monkeypatch.setattr(records, "add_epoch", stop_after(number))
        config.training.epochs, config.seeds = epochs, seeds
        with pytest.raises(Stopped):
            highway_jax.run(config, tmp_path / "run", extend=True)
    monkeypatch.setattr(records, "add_epoch", real)
    highway_jax.run(config, tmp_path / "run")
    highway_jax.run(config, tmp_path / "whole")
    _assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_run_that_was_killed_while_it_was_extended_is_consistent(config, tmp_path):
    """Killed after environment.json was written and before config.json was."""
    del config.cases["alone"]
    highway_jax.run(config, tmp_path)
    path = tmp_path / "environment.json"
    environment = json.loads(path.read_text())
    path.write_text(json.dumps(environment | {"seeds_before_extensions": [2]}))
    before = left(tmp_path)
    highway_jax.run(config, tmp_path)
    assert left(tmp_path) == before
    assert Workdir(tmp_path).numbering().extended(2, 4).seeds == (2,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"seeds": (1, 0)}, "further seeds after those of the run"),
        ({"seeds": (0,)}, "further seeds after those of the run"),
        ({"training.epochs": 1}, "at least 2 epochs of low"),
        ({"model.depth": 4, "seeds": (0, 1, 2)}, "not of model.depth"),
    ],
)
def test_other_changes_are_refused(change, words, config, tmp_path):
    numbering = _begin(config, tmp_path)
    for key, value in change.items():
        highway_jax.config.config.put(config, key, value)
    with pytest.raises(UserError, match=rf"allowed: with extend, .*{words}"):
        Workdir(tmp_path).check(config, ("data",), extend=True)
    with pytest.raises(UserError, match=r"allowed: the same config, or another workdir$"):
        Workdir(tmp_path).check(config, ("data",))
    assert Workdir(tmp_path).numbering() == numbering


def _begin(config, workdir):
    """Writes the config and environment of a run that has trained nothing yet."""
    (workdir / "config.json").write_text(highway_jax.config.config.to_json(config))
    (workdir / "environment.json").write_text(
        json.dumps({"format": design.FORMAT, "data_fingerprint": "data"})
    )
    return Workdir(workdir).numbering()


def test_epochs_are_added_where_the_schedule_does_not_depend_on_them(config, tmp_path, monkeypatch):
    _begin(config, tmp_path)
    config.training.epochs = 3
    for schedule in ("exponential", "constant"):
        path = tmp_path / "config.json"
        tree = json.loads(path.read_text())
        tree["optimizer"]["schedule"] = config.optimizer.schedule = schedule
        path.write_text(json.dumps(tree))
        assert Workdir(tmp_path).check(config, ("data",), extend=True) == design.NEW
    monkeypatch.setattr("highway_jax.storage.extension._OPEN_ENDED", ("exponential",))
    with pytest.raises(UserError, match="'constant' of low depends on their number"):
        Workdir(tmp_path).check(config, ("data",), extend=True)


def test_cases_are_extended_only_in_their_order(config, tmp_path):
    del config.cases["alone"]
    numbering = _begin(config, tmp_path)
    low, broken = config.cases.low, config.cases.broken
    del config.cases["low"], config.cases["broken"]
    config.cases.broken, config.cases.low = broken, low
    config.cases.low.training = ConfigDict({"epochs": 5})
    with pytest.raises(UserError, match=r"allowed: with extend, .*not of cases$"):
        Workdir(tmp_path).check(config, ("data",), extend=True)
    assert Workdir(tmp_path).numbering() == numbering


def test_cases_that_are_not_extended_keep_their_weights(small_config, tmp_path):
    small_config.seeds = (0,)
    for name, rate in (("a", 0.05), ("b", 0.06), ("c", 0.07)):
        small_config.cases[name] = ConfigDict(
            {"optimizer": {"learning_rate": rate}, "training": {"epochs": 1}}
        )
    highway_jax.run(small_config, tmp_path / "run")
    kept = highway_jax.load(tmp_path / "run", 1).params
    for name in "ac":
        small_config.cases[name].training.epochs = 3
    rows = highway_jax.run(small_config, tmp_path / "run", extend=True)
    assert [row["epochs"] for row in rows] == [3, 1, 3]
    jax.tree.map(np.testing.assert_array_equal, highway_jax.load(tmp_path / "run", 1).params, kept)
    small_config.cases["b"].training.epochs = 3
    whole = highway_jax.run(small_config, tmp_path / "whole")
    rows = highway_jax.run(small_config, tmp_path / "run", extend=True)
    for index, (row, expected) in enumerate(zip(rows, whole, strict=True)):
        # Programs of one, two and three trials may round differently.
        assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-5)
        loss, _ = highway_jax.load(tmp_path / "run", index).evaluate(*_TEST)
        assert loss == pytest.approx(expected["test_loss"], rel=1e-5)


def test_a_trial_whose_weights_are_gone_is_refused(small_config, tmp_path):
    small_config.seeds = (0, 1, 2)
    small_config.training.epochs = 1
    highway_jax.run(small_config, tmp_path)
    for manifest in (tmp_path / "checkpoints").glob("*/step_*.json"):
        content = json.loads(manifest.read_text())
        content["extra"]["trials"] = [0, 3, 2]  # There is no trial 3.
        del content["sha256"]
        manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"its checkpoints hold trials 0, 3, 2, not trial 1;"):
        highway_jax.load(tmp_path, 1)


def test_a_search_is_not_extended(config, tmp_path):
    config.sweep.draw = ConfigDict({"optimizer": {"momentum": ("uniform", 0.1, 0.9)}})
    config.sweep.trials = 2
    _begin(config, tmp_path)
    config.training.epochs = 3
    with pytest.raises(UserError, match=r"runs without sweep\.trials"):
        Workdir(tmp_path).check(config, ("data",), extend=True)


def test_the_command_line_extends(tmp_path):
    def train(*words):
        # The program of one trial of `small_config`.
        net = ("cases={}", "model.depth=3", "model.width=8")
        data = ("data.subtract_mean=False", "data.valid_size=100")
        quiet = ("runtime.progress=False", "runtime.tensorboard=False")
        flags = [f"--config.{word}" for word in (*net, *data, *quiet)]
        return main(["x", "--config=digits", f"--workdir={tmp_path}/run", *flags, *words])

    assert train("--config.seeds=0", "--config.training.epochs=1") == 0
    more = ["--config.seeds=0,1", "--config.training.epochs=2"]
    assert train(*more) == 2
    assert train(*more, "--extend") == 0
    with (tmp_path / "run" / "results.csv").open() as file:
        found = [(row["seed"], row["epochs"]) for row in csv.DictReader(file)]
    assert found == [("0", "2"), ("1", "2")]
