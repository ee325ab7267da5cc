import csv
import hashlib
import itertools
import json
import math
import time
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict

from highway_jax import default_config
from highway_jax.config import config as config_lib
from highway_jax.sweep import outcomes, planning
from highway_jax.sweep.design import Numbering

RESULTS = Path(__file__).parents[1] / "experiments" / "results"


@pytest.fixture
def search():
    """Two depths of two cases, 12 drawn settings each, halved twice, the best retrained."""
    config = default_config()
    config.name = "search"
    config.training.epochs = 40
    config.cases.highway = ConfigDict({"model": {"block": "highway", "width": 50}})
    config.cases.plain = ConfigDict({"model": {"block": "plain", "width": 71}})
    config.sweep.grid = ConfigDict({"model": {"depth": (10, 20)}})
    config.sweep.draw = ConfigDict(
        {
            "optimizer": {
                "learning_rate": ("log_uniform", 1e-3, 1.0),
                "decay": ("uniform", 0.9, 1.0),
                "momentum": ("choice", 0.5, 0.9),
            },
            "model": {
                "transform_bias": ("integer", -10, -1),
                "activation": ("choice", "relu", "tanh"),
            },
        }
    )
    config.sweep.trials = 12
    config.sweep.rung_epochs = (2, 8)
    config.sweep.rung_keeps = (6, 3)
    config.sweep.retrain_seeds = (100, 101)
    return config


def _row(trial, batch, *, loss, diverged=False):
    status = (
        outcomes.DIVERGED if diverged else outcomes.FINISHED if batch.last else outcomes.WAITING
    )
    return {
        "trial": trial.index,
        "batch": batch.name,
        "case": trial.case,
        "rung": batch.rung,
        "epochs": batch.epochs,
        "status": status,
        "train_loss": math.nan if diverged else loss,
    }


def _loss(trial):
    return (trial.index * 7919) % 101


def _play(config, loss=_loss, diverging=(), known=None):
    """Runs a sweep with given losses, one batch after another; returns batches and rows."""
    done, rows = [], []
    while batches := planning.plan(config, rows, known=known):
        batch = batches[0]
        done.append(batch)
        new = [_row(t, batch, loss=loss(t), diverged=t.index in diverging) for t in batch.trials]
        changed = {row["trial"] for row in new}
        rows = [r for r in rows if r["trial"] not in changed] + new
        rows = planning.decide(config, rows, known=known)
    return done, rows


def test_without_a_sweep_every_case_has_every_seed():
    config = default_config()
    config.seeds = (3, 4)
    config.cases.a = ConfigDict({})
    config.cases.b = ConfigDict({"model": {"transform_bias": -3.0}})
    config.cases.c = ConfigDict({"model": {"depth": 7}})
    first, second = planning.plan(config, [])
    assert [(t.case, t.seed) for t in first.trials] == [("a", 3), ("a", 4), ("b", 3), ("b", 4)]
    assert [(t.case, t.seed) for t in second.trials] == [("c", 3), ("c", 4)]
    assert first.hyperparameters().transform_bias.tolist() == [-2, -2, -3, -3]
    assert first.last
    assert second.epochs == config.training.epochs


def test_batches_share_all_that_is_static(search):
    for batch in planning.plan(search, []):
        keys = ("block", "depth", "width", "activation")
        assert len({tuple(t.settings[f"model.{k}"] for k in keys) for t in batch.trials}) == 1
        assert batch.rung == 0
        assert batch.epochs == 2


def test_draws_follow_their_distributions_and_nothing_else(search):
    search.sweep.trials = 400
    drawn = [t.settings for t in planning.cells(search)[0].trials]
    rates = np.log10([c["optimizer.learning_rate"] for c in drawn])
    assert -3 <= rates.min() < -2.8
    assert -0.2 < rates.max() <= 0
    np.testing.assert_allclose(rates.mean(), -1.5, atol=0.15)
    decays = np.array([c["optimizer.decay"] for c in drawn])
    assert 0.9 <= decays.min() < 0.91 < 0.99 < decays.max() <= 1
    assert {c["model.transform_bias"] for c in drawn} == set(range(-10, 0))
    assert {c["optimizer.momentum"] for c in drawn} == {0.5, 0.9}
    assert {c["model.activation"] for c in drawn} == {"relu", "tanh"}
    assert len({t.seed for t in planning.cells(search)[0].trials}) == 400


def test_draws_do_not_depend_on_what_else_is_drawn(search):
    few = planning.cells(search)
    search.sweep.trials = 20
    search.sweep.grid.model.depth = (20, 10, 50)
    many = {(c.case, c.settings["model.depth"]): c for c in planning.cells(search)}
    for cell in few:
        other = many[cell.case, cell.settings["model.depth"]]
        for a, b in zip(cell.trials, other.trials, strict=False):
            assert (a.hyperparameters, a.seed) == (b.hyperparameters, b.seed)
    settings = [t.hyperparameters["learning_rate"] for c in few for t in c.trials]
    assert len(set(settings)) == len(settings)
    search.sweep.seed = 1
    assert planning.cells(search)[0].trials[0].hyperparameters != few[0].trials[0].hyperparameters


def test_draws_are_those_of_a_numpy_generator_for_each_trial(search):
    """The seeds of all generators are computed at once; each must be that of NumPy."""
    search.sweep.seed = 5
    for cell in planning.cells(search):
        label = json.dumps([cell.case, {"model.depth": cell.settings["model.depth"]}])
        digest = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big")
        for position, trial in enumerate(cell.trials):
            rng = np.random.default_rng([5, digest, position])
            drawn = {}
            for key, (kind, *bounds) in config_lib.flatten(search.sweep.draw).items():
                if kind == "choice":
                    drawn[key] = bounds[rng.integers(len(bounds))]
                elif kind == "integer":
                    drawn[key] = int(rng.integers(*bounds, endpoint=True))
                elif kind == "uniform":
                    drawn[key] = float(rng.uniform(*bounds))
                else:
                    drawn[key] = float(np.exp(rng.uniform(*np.log(bounds))))
            assert trial.settings == cell.settings | drawn
            assert trial.seed == int(rng.integers(2**32))


@pytest.mark.parametrize("name", ["highway", "plain", "plain-larger-rates"])
def test_the_trials_of_saved_results_are_drawn_again(name):
    folder = RESULTS / "figure1" / name
    config = config_lib.from_json((folder / "config.json").read_text())
    known = {t.index: t for cell in planning.cells(config, Numbering(1)) for t in cell.trials}
    with (folder / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) > 100
    for row in rows:
        trial = known[int(row["trial"])]
        assert trial.seed == int(row["seed"])
        assert trial.settings["model.activation"] == row["activation"]
        for name, value in trial.hyperparameters.items():
            assert float(row[name]) == value


def _many_seeds(config):
    config.seeds = tuple(range(100_000))


def _many_draws(config):
    config.sweep.trials = 100_000
    config.sweep.draw.optimizer = {"learning_rate": ("log_uniform", 0.01, 0.3)}
    config.sweep.draw.model = {"activation": ("choice", "relu", "tanh")}
    config.sweep.rung_epochs, config.sweep.rung_keeps = (1, 3), (50_000, 20_000)
    config.sweep.retrain_seeds = (1, 2)
    config.runtime.max_trials = 100


def _many_shapes(config, number=316):
    axis = tuple(range(1, number + 1))
    config.sweep.grid.model = {"depth": axis, "width": axis}


def _many_numbers(config):
    axis = tuple(i / 1e6 for i in range(1, 317))
    config.sweep.grid.optimizer = {"learning_rate": axis, "weight_decay": axis}


def _fewer_shapes(config):
    _many_shapes(config, 158)


@pytest.mark.parametrize(
    ("arrange", "count"),
    [
        (_fewer_shapes, 25_000),
        *(
            pytest.param(f, 100_000, marks=pytest.mark.slow)
            for f in (_many_seeds, _many_draws, _many_shapes, _many_numbers)
        ),
    ],
)
def test_a_hundred_thousand_trials_are_planned_in_seconds(arrange, count):
    config = default_config()
    arrange(config)
    config_lib.validate(config)
    seconds = []

    def timed(function, *arguments):
        began = time.process_time()
        result = function(*arguments)
        seconds.append(time.process_time() - began)
        return result

    known = timed(planning.cells, config)
    batches = timed(planning.plan, config, [], {}, known)
    assert sum(len(batch.trials) for batch in batches) == pytest.approx(count, rel=0.01)
    begun = {batch.name: [t.index for t in batch.trials] for batch in batches}
    rows = [_row(t, batch, loss=_loss(t)) for batch in batches for t in batch.trials]
    rows = timed(planning.decide, config, rows, begun, known)
    timed(planning.plan, config, rows, begun, known)
    again = timed(planning.plan, config, rows[::2], begun, known)
    assert [t.index for batch in again for t in batch.trials]
    timed(planning.outdated, config, rows, known)
    # Each takes about a second for all of them, and half an hour where a pair of trials is looked
    # at.
    assert max(seconds) < 6 * count / 100_000, seconds


def test_halving_keeps_the_best_of_each_cell(search):
    search.sweep.retrain_seeds = ()
    done, rows = _play(search)
    by_trial = {row["trial"]: row for row in rows}
    for cell in planning.cells(search):
        ranked = sorted(cell.trials, key=lambda t: (t.index * 7919) % 101)
        for place, trial in enumerate(ranked):
            row = by_trial[trial.index]
            assert row["epochs"] == (40 if place < 3 else 8 if place < 6 else 2)
            assert row["status"] == (outcomes.FINISHED if place < 3 else outcomes.DROPPED)
    names = [batch.name for batch in done]
    assert len(set(names)) == len(names)
    assert sorted(
        itertools.chain.from_iterable((t.index for t in b.trials) for b in done if b.rung == 0)
    ) == list(range(48))


def test_diverged_trials_are_never_promoted_and_never_tried_again(search):
    search.sweep.retrain_seeds = ()
    best = sorted(range(12), key=lambda i: (i * 7919) % 101)[:2]
    _, rows = _play(search, diverging=best)
    statuses = [row["status"] for row in rows[:12]]
    assert [statuses[i] for i in best] == [outcomes.DIVERGED] * 2
    assert statuses.count(outcomes.FINISHED) == 3
    assert statuses.count(outcomes.DROPPED) == 7


def test_a_cell_that_diverges_whole_ends(search):
    _, rows = _play(search, diverging=range(12))
    assert [row["status"] for row in rows[:12]] == [outcomes.DIVERGED] * 12
    assert {row["case"] for row in rows[48:]} == {"highway-best", "plain-best"}
    assert len(rows) == 48 + 3 * 2  # three cells have a best setting


@pytest.mark.parametrize("numbering", [1, 2])
def test_the_best_setting_is_trained_again(search, numbering):
    known = planning.cells(search, Numbering(numbering))
    batches, rows = _play(search, known=known)
    retrained = [t for b in batches for t in b.trials if t.case.endswith("-best")]
    assert [t.seed for t in retrained] == [100, 101] * 4
    best = [min(cell.trials, key=lambda t: (t.index * 7919) % 101) for cell in known]
    # Since format 2 each setting has indices of its own for its seeds.
    expected = list(range(48, 56))
    if numbering == 2:
        expected = [48 + 2 * trial.index + i for trial in best for i in range(2)]
    assert [t.index for t in retrained] == expected
    for trial, again in zip(best, retrained[::2], strict=True):
        assert again.settings == trial.settings
    assert all(row["status"] in outcomes.SETTLED for row in rows)
    found = planning.find(search, rows, known)
    assert [found[t.index] for t in retrained] == retrained
    rows = [row | found[row["trial"]].hyperparameters for row in rows]
    assert planning.outdated(search, rows, known) == []
    # A better setting that comes late is trained too, where the one before has its rows.
    last = max(row["trial"] for row in rows)
    second = sorted(range(12), key=lambda i: (i * 7919) % 101)[1]
    rows = [row | ({"train_loss": -1.0} if row["trial"] == second else {}) for row in rows]
    new = [t.index for batch in planning.plan(search, rows, known=known) for t in batch.trials]
    assert new == ([] if numbering == 1 else [48 + 2 * second, 48 + 2 * second + 1])
    (line,) = planning.outdated(search, rows, known)
    assert line.startswith(f"highway-best: trials {expected[0]}, {expected[1]} trained a setting")
    assert line.endswith(f"the best is now that of trial {second}")
    assert last in planning.find(search, rows, known)


def test_a_plan_can_be_taken_up_from_any_table(search):
    # Whatever was finished, what is left is the same: no trial twice, none lost.
    done, rows = _play(search)
    so_far = []
    for batch in done:
        assert planning.plan(search, so_far)[0] == batch
        new = [_row(t, batch, loss=(t.index * 7919) % 101) for t in batch.trials]
        changed = {row["trial"] for row in new}
        so_far = planning.decide(search, [r for r in so_far if r["trial"] not in changed] + new)
    assert so_far == rows


def test_large_groups_are_cut_and_halves_have_names(search):
    search.runtime.max_trials = 5
    batches = planning.plan(search, [])
    assert max(len(batch.trials) for batch in batches) == 5
    assert len({batch.name for batch in batches}) == len(batches)
    first, second = batches[0].halves()
    assert first.trials + second.trials == batches[0].trials
    assert len({first.name, second.name, batches[0].name}) == 3
    assert len(first._replace(trials=first.trials[:1]).halves()) == 1
    # One half done: what is planned next is the other half, under its own name.
    search.runtime.max_trials = 0
    whole, *_ = planning.plan(search, [])
    first, second = whole.halves()
    rows = [_row(t, first, loss=1.0) for t in first.trials]
    assert second in planning.plan(search, rows)
    assert whole not in planning.plan(search, rows)


def test_accuracy_is_a_criterion_too():
    rows = [{"valid_accuracy": a} for a in (0.5, math.nan, 0.9)]
    ranked = sorted(rows, key=lambda row: outcomes.merit("valid_accuracy", row))
    assert ranked[0]["valid_accuracy"] == 0.9
    assert math.isnan(ranked[2]["valid_accuracy"])


def _remake(config, rows, removed, loss, begun=None):
    """Removes rows and trains their trials again, with the losses given; returns the rows."""
    rows = [row for row in rows if row["trial"] not in removed]
    begun = (begun,) if begun else ()
    while batches := planning.plan(config, rows, *begun):
        batch = batches[0]
        new = [_row(t, batch, loss=loss(t)) for t in batch.trials]
        changed = {row["trial"] for row in new}
        rows = [r for r in rows if r["trial"] not in changed] + new
        rows = planning.decide(config, rows, *begun)
    return rows


def test_a_failed_trial_tried_again_takes_only_a_position_that_is_left(search):
    search.sweep.retrain_seeds = ()
    ranked = sorted(range(12), key=lambda i: (i * 7919) % 101)
    _, rows = _play(search, diverging=ranked[:1])
    # The best of all failed, and is tried again after the others were judged.
    rows = _remake(search, rows, ranked[:1], _loss)
    statuses = {row["trial"]: (row["rung"], row["status"]) for row in rows}
    assert statuses[ranked[0]] == (0, outcomes.DROPPED)
    assert [statuses[i] for i in ranked[1:4]] == [(2, outcomes.FINISHED)] * 3
    assert [statuses[i] for i in ranked[4:7]] == [(1, outcomes.DROPPED)] * 3
    assert sum(rung > 0 for rung, _ in list(statuses.values())[:12]) == 6


def test_failed_trials_tried_again_take_the_positions_that_are_left(search):
    search.sweep.retrain_seeds = ()
    failing = set(range(12)) - {2, 5}
    _, rows = _play(search, diverging=failing)
    rows = _remake(search, rows, failing, _loss)
    by_trial = {row["trial"]: row for row in rows}
    ranked = sorted(failing, key=lambda i: (i * 7919) % 101)
    # Of 6 and 3 positions, trials 2 and 5 hold two each.
    assert [by_trial[i]["status"] for i in (2, 5, ranked[0])] == [outcomes.FINISHED] * 3
    assert sum(by_trial[i]["rung"] > 0 for i in range(12)) == 6
    assert [by_trial[i]["rung"] for i in ranked[:4]] == [2, 1, 1, 1]


def test_a_trial_without_a_row_stands_where_its_checkpoint_is(search):
    search.sweep.retrain_seeds = ()
    ranked = sorted(range(12), key=lambda i: (i * 7919) % 101)
    rows, begun = [], {}
    for batch in _play(search)[0]:
        if batch.rung == 2:
            break
        assert batch in planning.plan(search, rows, begun)
        begun[batch.name] = [t.index for t in batch.trials]
        new = [_row(t, batch, loss=_loss(t)) for t in batch.trials]
        changed = {row["trial"] for row in new}
        rows = [r for r in rows if r["trial"] not in changed] + new
        rows = planning.decide(search, rows, begun)
    promoted = ranked[0]
    left = [row for row in rows if row["trial"] != promoted]
    (batch,) = (b for b in planning.plan(search, left, begun) if promoted in _indices(b))
    assert (batch.rung, _indices(batch)) == (1, [promoted])
    # Whatever rows are removed, the same trials end at the same rungs.
    _, whole = _play(search)
    for removed in ([promoted], ranked[:2], ranked[2:9], range(12), range(48)):
        again = _remake(search, rows, removed, _loss, begun)
        assert [(r["trial"], r["rung"], r["status"]) for r in again] == [
            (r["trial"], r["rung"], r["status"]) for r in whole
        ]


def _indices(batch):
    return [trial.index for trial in batch.trials]
