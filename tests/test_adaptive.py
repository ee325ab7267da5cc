"""Adaptive search: what is asked of Optuna, what it is told, and how such a run resumes."""

import itertools
import json
import sys

import fault_tools
import numpy as np
import pytest
from ml_collections import ConfigDict

import highway_jax
from highway_jax import default_config
from highway_jax.config import config as config_lib
from highway_jax.errors import UserError
from highway_jax.runs import batch_trainer, context
from highway_jax.storage import results
from highway_jax.sweep import adaptive, design, outcomes, planning

optuna = pytest.importorskip("optuna", "5")

DRAWN = {
    "optimizer.learning_rate": ("log_uniform", 1e-3, 1.0),
    "optimizer.decay": ("uniform", 0.9, 1.0),
    "optimizer.momentum": ("choice", 0.5, 0.9),
    "model.transform_bias": ("integer", -10, -1),
    "model.activation": ("choice", "relu", "tanh"),
}


@pytest.fixture
def search():
    """Two cells of 20 trials in asks of 5, halved after 2 of 8 epochs."""
    config = default_config()
    config.name = "search"
    config.training.epochs = 8
    config.sweep.grid = ConfigDict({"model": {"depth": (10, 20)}})
    for key, distribution in DRAWN.items():
        config_lib.put(config, f"sweep.draw.{key}", distribution)
    config.sweep.trials = 20
    config.sweep.sampler = "tpe"
    config.sweep.ask = 5
    config.sweep.rung_epochs = (2,)
    config.sweep.rung_keeps = (2,)
    return config


def _loss(settings):
    """The loss of made-up trainings: lowest at a rate of 0.1 and a bias of -3."""
    rate, bias = settings["optimizer.learning_rate"], settings["model.transform_bias"]
    return abs(np.log10(rate) + 1) + 0.2 * abs(bias + 3)


def _row(trial, batch, diverges):
    status = outcomes.FINISHED if batch.last else outcomes.WAITING
    return {outcomes.column(key): trial.settings[key] for key in DRAWN} | {
        "trial": trial.index,
        "rung": batch.rung,
        "epochs": batch.epochs,
        "status": outcomes.DIVERGED if diverges(trial.settings) else status,
        "train_loss": _loss(trial.settings),
    }


def _train(config, rows, batch, diverges):
    new = [_row(trial, batch, diverges) for trial in batch.trials]
    changed = {row["trial"] for row in new}
    return planning.decide(config, [row for row in rows if row["trial"] not in changed] + new)


def _play(config, diverges=lambda settings: False):
    """Returns the rows of a search with made-up losses."""
    rows = []
    while batches := planning.plan(config, rows):
        rows = _train(config, rows, batches[0], diverges)
    return rows


def _asks(config, rows):
    """Returns the settings of each ask of each cell."""
    found = planning.find(config, rows)
    return [
        [[found[t.index].settings for t in r] for r in cell.rounds()]
        for cell in design.cells(config)
    ]


def test_an_ask_is_planned_once_those_before_are_settled(search):
    rows, planned = [], set()
    while batches := planning.plan(search, rows):
        states = {row["trial"]: row["status"] for row in rows}
        for trial in (trial for batch in batches for trial in batch.trials):
            cell, position = divmod(trial.index, 20)
            before = range(20 * cell, 20 * cell + position // 5 * 5)
            assert all(states.get(index) in outcomes.SETTLED for index in before)
            planned.add(trial.index)
        rows = _train(search, rows, batches[0], lambda settings: False)
    assert planned == set(range(40))
    # Each ask is halved by itself.
    for first in range(0, 40, 5):
        own = [row for row in rows if first <= row["trial"] < first + 5]
        kept = sorted(own, key=lambda row: row["train_loss"])[:2]
        for row in own:
            assert row["status"] == (outcomes.FINISHED if row in kept else outcomes.DROPPED)


def test_the_first_ask_is_that_of_random_search_and_all_are_drawn_as_the_config_says(search):
    asks = _asks(search, _play(search))
    cells = design.cells(search)
    for cell, (first, *others) in zip(cells, asks, strict=True):
        assert first == [trial.settings for trial in cell.trials[:5]]
        drawn = [settings for ask in others for settings in ask]
        assert drawn != [trial.settings for trial in cell.trials[5:]]
        for key, (kind, *bounds) in DRAWN.items():
            values = [settings[key] for settings in drawn]
            if kind == "choice":
                assert set(values) <= set(bounds)
            else:
                assert {type(value) for value in values} == {int if kind == "integer" else float}
                assert bounds[0] <= min(values) < max(values) <= bounds[1]
        assert all(settings.keys() == first[0].keys() for settings in drawn)


def test_later_asks_are_better_than_random_ones(search):
    search.sweep.grid = ConfigDict({"model": {"depth": tuple(range(10, 16))}})
    search.sweep.rung_epochs = search.sweep.rung_keeps = ()
    losses = np.array(
        [[[_loss(s) for s in ask] for ask in asks] for asks in _asks(search, _play(search))]
    ).mean(axis=(0, 2))
    assert losses[0] > 1.2
    assert losses[3] < 0.8


@pytest.mark.parametrize("status", [outcomes.DROPPED, outcomes.DIVERGED])
def test_a_trial_that_finished_is_better_than_any_that_did_not(status):
    drawn = (("optimizer.learning_rate", ("log_uniform", 1e-4, 1.0)),)
    finished = [adaptive.Told((rate,), outcomes.FINISHED, 8, 1.0) for rate in (0.2, 0.3, 0.4)]
    others = [adaptive.Told((rate,), status, 2, 0.1) for rate in (1e-3, 2e-3, 3e-3) * 4]
    rates = [
        settings["optimizer.learning_rate"]
        for seed in range(10)
        for settings in adaptive.propose(drawn, (*finished, *others), seed, 2)
    ]
    assert np.median(rates) > 0.1


def test_whatever_is_trained_the_next_ask_is_the_same(search):
    whole = _play(search)
    rows = []
    while batches := planning.plan(search, rows):
        adaptive.propose.cache_clear()
        assert planning.plan(search, rows) == batches
        rows = _train(search, rows, batches[-1], lambda settings: False)
    assert rows == whole
    # Rows that are removed come back as they were.
    for removed in (range(3), range(7, 12), (6, 19), range(40)):
        rows = [row for row in whole if row["trial"] not in removed]
        while batches := planning.plan(search, rows):
            rows = _train(search, rows, batches[0], lambda settings: False)
        assert rows == whole


def test_a_trial_with_a_row_keeps_its_settings_whatever_changes_before(search):
    rows = _play(search)
    asks = _asks(search, rows)
    rows[0]["train_loss"], rows[0]["status"] = 0.0, outcomes.FINISHED
    assert _asks(search, rows) == asks
    assert planning.plan(search, rows) == []
    left = [row for row in rows if row["trial"] != 19]
    (batch,) = planning.plan(search, left)
    assert [trial.index for trial in batch.trials] == [19]
    assert batch.trials[0].settings != asks[0][3][4]


def test_failed_trials_are_not_used(search):
    rows = _play(search)[:5]
    for row in rows[1:]:
        row["status"] = outcomes.FAILED
    first, *_ = design.cells(search)
    values = tuple(first.trials[0].settings[key] for key in DRAWN)
    told = adaptive.Told(values, rows[0]["status"], rows[0]["epochs"], rows[0]["train_loss"])
    (expected, *_) = adaptive.propose(tuple(DRAWN.items()), (told,), first.trials[5].seed, 5)
    assert expected.items() <= planning.find(search, rows)[5].settings.items()


@pytest.mark.parametrize("value", [2.0, "", float("nan")])
def test_a_row_with_settings_that_no_run_draws_is_refused(value, search):
    rows = _play(search)
    rows[7]["learning_rate"] = value
    with pytest.raises(UserError, match=r"learning_rate of trial 7 is .*; allowed: a value of"):
        planning.plan(search, rows)


def test_random_asks_are_ranked_apart_and_planned_at_once(search):
    search.sweep.sampler = "random"
    assert sum(len(batch.trials) for batch in planning.plan(search, [])) == 40
    states = [row["status"] for row in _play(search)]
    assert [states[i : i + 5].count(outcomes.FINISHED) for i in range(0, 40, 5)] == [2] * 8


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A search of seconds and its directory: two asks of two trials, one dropped of each."""
    config = default_config()
    config.name = "small"
    config.data.valid_size = 100
    config.model.depth, config.model.width = 3, 8
    config.training.epochs = 2
    config.sweep.draw.optimizer = ConfigDict({"learning_rate": ("log_uniform", 0.01, 0.3)})
    config.sweep.trials, config.sweep.sampler, config.sweep.ask = 4, "tpe", 2
    config.sweep.rung_epochs, config.sweep.rung_keeps = (1,), (1,)
    config.checkpoint.every_seconds = 0
    config.runtime.progress = config.runtime.tensorboard = False
    workdir = tmp_path_factory.mktemp("alone") / "run"
    highway_jax.run(config, workdir)
    return config, workdir


class Killed(BaseException):
    pass


def test_a_search_killed_between_and_within_rounds_ends_as_an_uninterrupted_one(
    alone, tmp_path, monkeypatch, caplog
):
    config, workdir = alone
    expected = fault_tools.left(workdir)
    rates = [row["learning_rate"] for row in expected["results"]]
    assert rates[:2] == [
        str(t.hyperparameters["learning_rate"]) for t in design.cells(config)[0].trials[:2]
    ]
    assert len(set(rates)) == 4
    for owner, name, calls, rows in (
        (context.RunContext, "plan", 3, 2),  # Both batches of the first ask are recorded.
        (batch_trainer.BatchRun, "_maybe_save", 2, 2),  # The second ask has begun.
        (context.RunContext, "add_results", 1, 2),  # Its first batch is saved, and has no rows.
        (context.RunContext, "plan", 2, 4),  # It is recorded.
    ):
        adaptive.propose.cache_clear()
        monkeypatch.setattr(owner, name, _dying(getattr(owner, name), calls))
        with pytest.raises(Killed):
            highway_jax.run(config, tmp_path)
        monkeypatch.undo()
        assert len((tmp_path / "results.csv").read_text().splitlines()) == 1 + rows
    environment = tmp_path / "environment.json"
    now = f'"optuna": "{optuna.__version__}"'
    assert now in environment.read_text()
    environment.write_text(environment.read_text().replace(now, '"optuna": "4.9"'))
    highway_jax.run(config, tmp_path)
    assert "versions.optuna from '4.9' to" in caplog.text
    assert fault_tools.left(tmp_path) == expected


def test_rows_from_another_process_have_the_values_that_were_drawn():
    """They are received as JSON, which makes lists of tuples."""
    drawn = {"optimizer.boundaries": ("choice", (100,), (200,))}
    column = outcomes.column("optimizer.boundaries")
    row = {"trial": 3, column: json.loads(json.dumps((200,)))}
    assert adaptive._settings(drawn, row) == {"optimizer.boundaries": (200,)}


def _dying(method, calls):
    """Returns a method that dies when it is called for the nth time."""
    count = itertools.count(1)

    def call(self, *arguments):
        if next(count) == calls:
            raise Killed
        return method(self, *arguments)

    return call


def test_without_optuna_a_finished_run_can_be_read_but_none_started(alone, tmp_path, monkeypatch):
    config, workdir = alone
    monkeypatch.setitem(sys.modules, "optuna", None)
    adaptive.propose.cache_clear()
    found = results.read(workdir)
    assert sorted(found.settings) == [row["trial"] for row in found.rows] == list(range(4))
    words = r"sweep\.sampler=tpe needs optuna, .* pip install 'highway-jax\[optuna\]'"
    with pytest.raises(UserError, match=words):
        highway_jax.run(config, tmp_path / "new")
    assert not (tmp_path / "new").exists()
