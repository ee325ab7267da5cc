"""Trials are averaged with those of their own setting, whatever key a run varies."""

import csv
import io
import itertools

import numpy as np
import pytest
from ml_collections import ConfigDict
from rich.console import Console

from highway_jax import default_config
from highway_jax.config import config as config_lib
from highway_jax.config.config import CASE_KEYS
from highway_jax.config.schema import SCHEMA
from highway_jax.runs.experiment import run
from highway_jax.runs.rows import failed_rows
from highway_jax.runtime.progress import Display
from highway_jax.storage import records, summaries, tables
from highway_jax.sweep import outcomes, planning


def _two_values(key):
    """Returns two values of a key that its schema allows."""
    entry = SCHEMA[key]
    default = entry.default
    if isinstance(default, bool):
        return False, True
    if isinstance(default, tuple):
        return (5,), (5, 70)
    if isinstance(default, str):
        words = [word for word in entry.allowed.split(", ") if entry.check(word)]
        return (words[0], words[1]) if len(words) > 1 else ("a b", 'a,"b"')
    numbers = [default, *(type(default)(value) for value in (1, 2, 0.25, 10))]
    first, second, *_ = dict.fromkeys(value for value in numbers if entry.check(value))
    return first, second


# With these, a training depends on every setting (see `schema.USES`).
_USING_ALL = {
    "data.valid_size": 100,
    "data.scaling": "global_contrast_normalization",
    "model.architecture": "mnist10",
    "model.gate": "separate",
    "optimizer.weight_decay": 0.001,
    "optimizer.name": "unheard_of",  # Neither momentum nor Adam.
}


def _config(where, key, values):
    """Returns a config that varies a key; it is never validated, as nothing is trained with it."""
    config = default_config()
    config.name = "varied"
    config.seeds = (0, 1, 2)
    one_cycle = ("optimizer.warmup_fraction", "optimizer.final_fraction", "optimizer.decay_shape")
    more = {"optimizer.schedule": "one_cycle"} if key in one_cycle else {}
    if key == "model.residual_scale":
        more = {"model.block": "rezero"}
    for other, value in (_USING_ALL | more).items():
        config_lib.put(config, other, value)
    if where == "cases":
        for name, value in zip(("one", "two"), values, strict=True):
            config.cases[name] = ConfigDict({})
            config_lib.put(config.cases[name], key, value)
    elif where == "grid":
        config_lib.put(config.sweep.grid, key, values)
    else:
        config_lib.put(config.sweep.draw, key, ("choice", *values))
        config.sweep.trials = 12
    return config


def _rows(config, accuracy):
    """Returns rows of all trials as a run writes them, with artificial accuracies."""
    rows = []
    for batch in planning.plan(config, []):
        measured = {"status": outcomes.FINISHED, "num_parameters": 7, "train_loss": 0.5}
        for trial, row in zip(batch.trials, failed_rows(batch), strict=True):
            rows.append(row | measured | {"test_accuracy": accuracy(trial)})
    return sorted(rows, key=lambda row: row["trial"])


def _read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("key", CASE_KEYS)
@pytest.mark.parametrize("where", ["grid", "draw", "cases"])
def test_whatever_varies_has_a_column_and_is_not_averaged(where, key, tmp_path):
    values = _two_values(key)
    config = _config(where, key, values)
    own = {value: (i + 1) / 4 for i, value in enumerate(values)}
    rows = _rows(config, lambda trial: own[trial.settings[key]] + trial.index / 1000)
    record = records.Records(tmp_path, config, writes=False)
    record.write_results(rows)
    again = record.results()
    name = tables.column(key)
    assert [row[name] for row in again] == [row[key] for row in rows]
    summary = summaries.summarize(again)
    assert sorted((row[name] for row in summary), key=values.index) == list(values)
    for row in summary:
        accuracies = [r["test_accuracy"] for r in rows if r[key] == row[name]]
        assert row["trials"] == len(accuracies)
        assert row["test_accuracy_mean"] == pytest.approx(np.mean(accuracies))
        assert row["test_accuracy_std"] == pytest.approx(np.std(accuracies, ddof=1))
    texts = [{row[name] for row in _read(tmp_path / f"{t}.csv")} for t in ("summary", "results")]
    assert len(texts[0]) == 2
    assert texts[0] == texts[1]
    out = io.StringIO()
    Display(console=Console(file=out, width=200)).table(summary)
    heading, _, table = out.getvalue().partition("─")
    lines = [line for line in table.splitlines() if line.strip(" ─")]
    assert len(lines) == 2
    if key != "model.depth":
        assert set(name.rpartition(".")[2].split("_")) <= set(heading.split())
    for line, text in zip(lines, summaries.texts([row[name] for row in summary]), strict=True):
        assert text in line


@pytest.mark.parametrize("where", ["grid", "cases", pytest.param("draw", marks=pytest.mark.slow)])
def test_a_run_has_a_row_of_its_summary_for_each_value(where, small_config, tmp_path):
    """A run that is trained, over a key that has no column in every table."""
    small_config.training.epochs = 1
    values = (0, 1)
    if where == "grid":
        small_config.sweep.grid = ConfigDict({"data": {"split_seed": values}})
    elif where == "draw":
        small_config.sweep.draw = ConfigDict({"data": {"split_seed": ("choice", *values)}})
        small_config.sweep.trials = 6
    else:
        for name, value in zip(("one", "other"), values, strict=True):
            small_config.cases[name] = ConfigDict({"data": {"split_seed": value}})
    run(small_config, tmp_path)
    rows, summary = (_read(tmp_path / f"{name}.csv") for name in ("results", "summary"))
    assert sorted(int(row["data.split_seed"]) for row in summary) == sorted(values)
    for line in summary:
        own = [row for row in rows if row["data.split_seed"] == line["data.split_seed"]]
        assert int(line["trials"]) == len(own)
        for metric in ("test_accuracy", "valid_accuracy"):
            mean = np.mean([float(row[metric]) for row in own])
            assert float(line[f"{metric}_mean"]) == pytest.approx(mean)
    assert sum(int(line["trials"]) for line in summary) == len(rows) > len(summary)


def test_varied_keys_are_those_of_grid_draw_and_cases():
    config = default_config()
    config.cases.a = ConfigDict({"model": {"width": 3}})
    config.cases.b = ConfigDict({})
    config.sweep.grid = ConfigDict({"optimizer": {"nesterov": (True,)}, "data": {"scaling": ()}})
    config.sweep.draw = ConfigDict({"optimizer": {"clip_norm": ("uniform", 0.0, 1.0)}})
    expected = ("data.scaling", "model.width", "optimizer.nesterov", "optimizer.clip_norm")
    assert config_lib.varied_keys(config) == expected
    assert config_lib.grid_keys(config) == ("data.scaling", "optimizer.nesterov")
    # What config.json holds, of a version that had no cases, and of one with a key of its own.
    tree = {"name": "x", "sweep": {"grid": {"model": {"later": [1, 2], "depth": [3, 4]}}}}
    assert config_lib.varied_keys(tree) == ("model.depth", "model.later")
    assert config_lib.varied_keys({"name": "x"}) == ()


def test_seeds_of_a_best_setting_trained_again_are_a_group_of_their_own():
    config = _config("draw", "optimizer.clip_norm", (0.0, 1.0))
    config.sweep.trials = 2
    setting = {"case": "varied", "epochs": 3, "optimizer.clip_norm": 1.0, "diverged": False}
    rows = [
        setting | {"trial": 0, "test_accuracy": 0.9, "train_loss": 0.1},
        setting | {"trial": 1, "test_accuracy": 0.8, "train_loss": 0.2, "optimizer.clip_norm": 0.0},
        setting | {"trial": 2, "test_accuracy": 0.4, "train_loss": 0.3, "case": "varied-best"},
        setting | {"trial": 3, "test_accuracy": 0.6, "train_loss": 0.4, "case": "varied-best"},
    ]
    again = summaries.summarize(rows)[-1]
    assert again["trials"] == 2
    assert again["test_accuracy_mean"] == pytest.approx(0.5)
    drawn, again = summaries.summarize_search(rows, config)
    assert (drawn["trial"], drawn["trials"], drawn["retrained"]) == (0, 2, False)
    assert (again["trials"], again["retrained"]) == (2, True)
    assert again["test_accuracy_mean"] == pytest.approx(0.5)
    # Trials of a setting that was the best before are a group of their own.
    old = rows[2] | {"trial": 4, "optimizer.clip_norm": 0.0, "test_accuracy": 0.1}
    found = summaries.summarize_search([*rows, old], config)
    assert [(row["trials"], row["test_accuracy_best"]) for row in found[1:]] == [(2, 0.6), (1, 0.1)]
    # A case that is so called is none.
    config.cases["varied-best"] = ConfigDict({})
    assert not any(row["retrained"] for row in summaries.summarize_search(rows, config))


def test_a_trial_that_failed_is_counted_with_its_setting(small_config, tmp_path):
    rows = _rows(small_config, lambda trial: 0.5)
    (batch,) = planning.plan(small_config, [])
    rows[1] = failed_rows(batch)[1]
    (line,) = summaries.summarize(rows)
    assert (line["trials"], line["num_parameters"], line["test_accuracy_mean"]) == (2, 7, 0.5)


def test_summary_statistics():
    base = dict.fromkeys(tables.SETTING, 1)
    rows = [
        base | {"diverged": d, "test_accuracy": a, "train_loss": t, "valid_accuracy": a / 2}
        for d, a, t in ((False, 0.5, 2.0), (False, 0.9, 1.0), (True, np.nan, np.nan))
    ]
    (line,) = summaries.summarize(rows)
    assert (line["trials"], line["diverged"]) == (3, 1)
    assert (line["test_accuracy_best"], line["train_loss_best"]) == (0.9, 1.0)
    assert line["valid_accuracy_best"] == 0.45
    np.testing.assert_allclose(line["test_accuracy_mean"], 0.7)
    np.testing.assert_allclose(line["test_accuracy_std"], np.sqrt(0.08))


def test_a_search_is_summarized_by_its_best_trial_trained_for_most_epochs():
    config = default_config()
    config.sweep.grid = ConfigDict({"model": {"depth": (3, 4)}})
    net = {"case": "a", "dataset": "d", "architecture": "dense", "depth": 3, "width": 2}
    rows = [
        net | {"rung": 1, "epochs": 2, "train_loss": 0.1, "diverged": False, "trial": 0},
        net | {"rung": 0, "epochs": 8, "train_loss": 0.3, "diverged": False, "trial": 1},
        net | {"rung": 0, "epochs": 8, "train_loss": 0.2, "diverged": False, "trial": 2},
        net | {"rung": 1, "epochs": 9, "train_loss": np.nan, "diverged": True, "trial": 3},
        net | {"depth": 4, "epochs": 2, "train_loss": np.nan, "diverged": True, "trial": 4},
    ]
    found, lost = summaries.summarize_search(rows, config)
    assert (found["trial"], found["trials"], found["diverged"]) == (2, 4, 1)
    assert (lost["depth"], lost["trials"], lost["diverged"]) == (4, 1, 1)


@pytest.mark.parametrize("key", CASE_KEYS)
def test_cells_of_a_search_are_not_merged(key):
    values = _two_values(key)
    config = _config("grid", key, values)
    config.sweep.trials = 4
    drawn = "optimizer.momentum" if key != "optimizer.momentum" else "optimizer.decay"
    config_lib.put(config.sweep.draw, drawn, ("uniform", 0.5, 0.9))
    losses = itertools.cycle((0.4, 0.1, 0.3, 0.2))
    rows = [row | {"train_loss": next(losses)} for row in _rows(config, lambda trial: 0.5)]
    cells = summaries.summarize_search(rows, config)
    assert [(cell[key], cell["trial"], cell["trials"]) for cell in cells] == [
        (values[0], 1, 4),
        (values[1], 5, 4),
    ]


def test_texts_of_different_numbers_differ():
    assert summaries.texts([0.1, 0.25, 12.0]) == ["0.1", "0.25", "12"]
    assert summaries.texts([0.123456, 0.123457]) == ["0.123456", "0.123457"]
    assert summaries.texts(["", "a", (1, 2), np.nan]) == ["''", "a", "(1, 2)", "-"]


def test_equal_names_get_what_differs():
    rows = [
        {"case": "a", "seed": seed, "trial": i, "optimizer.clip_norm": norm}
        for i, (seed, norm) in enumerate(((0, 1.0), (0, 2.0), (1, 2.0), (5, 3.0)))
    ]
    assert summaries.distinct(["net", "net", "net", "other"], rows) == [
        "net, optimizer.clip_norm 1, seed 0",
        "net, optimizer.clip_norm 2, seed 0",
        "net, optimizer.clip_norm 2, seed 1",
        "other",
    ]
