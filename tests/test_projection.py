import csv
import json
import math

import numpy as np
import pytest
from ml_collections import ConfigDict

from highway_jax import default_config, run
from highway_jax.config.sections import Optimizer
from highway_jax.runtime.signals import Stopped
from highway_jax.sweep import outcomes, planning
from highway_jax.sweep.projection import project
from highway_jax.sweep.trials import Hyperparameters
from highway_jax.training import optimizer
from highway_jax.training.program import Program


def test_a_projection_is_what_it_is_by_hand():
    """The last third of 15 epochs is 11 to 15."""
    sums = np.arange(1.0, 31.0)  # 30 epochs of a constant rate.
    losses = {e: 1 / (2.0 * e) for e in range(1, 16)}
    # 1 / L rises by 2 an epoch: at epoch 30 it is 60.
    assert project(losses, sums, 15) == pytest.approx(1 / 60)
    # One noisy epoch: of ten slopes, six are still 2, and three of five lines meet at 60.
    assert project(losses | {13: 0.5}, sums, 15) == pytest.approx(1 / 60)
    assert project(losses | {15: 0.5}, sums, 15) == pytest.approx(1 / 60)
    # Epochs before the last third are not looked at.
    assert project(losses | {10: 9.0, 1: 9.0}, sums, 15) == pytest.approx(1 / 60)


def test_rates_that_end_project_the_loss_that_is():
    sums = np.minimum(np.arange(1.0, 31.0), 12.0)
    losses = {e: 1 / min(2.0 * e, 24) for e in range(1, 16)}
    assert project(losses, sums, 15) == pytest.approx(1 / 24)
    assert project(dict.fromkeys(range(1, 16), 0.5), np.full(30, 3.0), 15) == pytest.approx(0.5)


def test_a_loss_that_rises_is_projected_to_stay():
    losses = {e: 1.0 * e for e in range(1, 16)}
    assert project(losses, np.arange(1.0, 31.0), 15) == pytest.approx(13.0)


def test_too_few_points_are_not_projected():
    sums = np.arange(1.0, 31.0)
    losses = {e: 1 / (2.0 * e) for e in range(1, 31)}
    assert math.isnan(project(losses, sums, 12))  # 9 to 12 are four.
    assert not math.isnan(project(losses, sums, 13))
    every = {e: loss for e, loss in losses.items() if e % 2}
    assert math.isnan(project(every, sums, 15))
    assert math.isnan(project({}, sums, 15))


def test_losses_of_zero_come_first_and_long_curves_are_thinned():
    sums = np.arange(1.0, 6001.0)
    assert 0 < project(dict.fromkeys(range(1, 31), 0.0), sums, 30) < 1e-30
    losses = {e: 1 / (2.0 * e) for e in range(1, 3001)}
    assert project(losses, sums, 3000) == pytest.approx(1 / 12000)


@pytest.mark.parametrize(
    ("settings", "of_epoch"),
    [
        ({"schedule": "constant"}, lambda e: 0.5 * 7),
        ({"schedule": "exponential"}, lambda e: 0.5 * 7 * 0.8**e),
        (
            {"schedule": "exponential", "decay_every": "step"},
            lambda e: sum(0.5 * 0.8 ** (7 * e + i) for i in range(7)),
        ),
        (
            {"schedule": "multistep", "boundaries": (3, 10)},
            lambda e: sum(0.5 * 0.8 ** ((7 * e + i >= 3) + (7 * e + i >= 10)) for i in range(7)),
        ),
    ],
)
def test_sums_are_of_the_rates_of_the_schedule(settings, of_epoch):
    one = np.ones(2, np.float32)
    numbers = Hyperparameters(
        np.zeros(2, np.uint32), 0.5 * one, 0.9 * one, np.float32([0.8, 1.0]), one, one
    )
    sums = optimizer.summed_rates(Optimizer(**settings), 7, numbers, 4)
    np.testing.assert_allclose(sums[0], np.cumsum([of_epoch(e) for e in range(4)]), rtol=1e-5)
    np.testing.assert_allclose(sums[1], 3.5 * np.arange(1, 5), rtol=1e-6)


def test_of_two_settings_the_one_that_ends_lower_is_promoted():
    """A learning rate that decays by a fifth per epoch leads at epoch 15 and improves no more."""
    config = default_config()
    config.training.epochs = 100
    config.sweep.trials = 2
    config.sweep.draw.optimizer = {"decay": ("choice", 0.8, 1.0)}
    config.sweep.rung_epochs, config.sweep.rung_keeps = (15,), (1,)
    epochs = np.arange(1, 101)
    sums = {"fast": (1 - 0.8**epochs) / (1 - 0.8), "slow": 0.3 * epochs}
    curves = {name: {e: 1 / (50 * own[e - 1]) for e in range(1, 16)} for name, own in sums.items()}
    rows = [
        {
            "trial": i,
            "rung": 0,
            "status": outcomes.WAITING,
            "train_loss": curves[name][15],
            "projected_train_loss": project(curves[name], sums[name], 15),
        }
        for i, name in enumerate(("fast", "slow"))
    ]
    assert rows[0]["train_loss"] < rows[1]["train_loss"]
    assert rows[0]["projected_train_loss"] == pytest.approx(1 / (50 * 5), rel=1e-6)
    assert rows[1]["projected_train_loss"] == pytest.approx(1 / (50 * 30), rel=1e-6)

    def kept(criterion, rows=rows):
        config.sweep.criterion = criterion
        return [row["status"] for row in planning.decide(config, rows)]

    assert kept("train_loss") == [outcomes.PROMOTED, outcomes.DROPPED]
    assert kept("projected_train_loss") == [outcomes.DROPPED, outcomes.PROMOTED]
    # Where nothing is projected, the loss that was reached ranks.
    nothing = [row | {"projected_train_loss": math.nan} for row in rows]
    assert kept("projected_train_loss", nothing) == [outcomes.PROMOTED, outcomes.DROPPED]


def _read(workdir):
    clock = ("compile_seconds", "train_seconds", "steps_per_second")
    with (workdir / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {row["trial"]: {k: v for k, v in row.items() if k not in clock} for row in rows}


@pytest.mark.slow
def test_a_resumed_run_projects_and_decides_alike(small_config, cache, tmp_path, monkeypatch):
    config = small_config
    config.model.depth, config.model.width = 2, 4
    config.training.epochs = 16
    config.data.valid_size = 0
    config.runtime.compile_cache = str(cache)
    config.checkpoint.every_seconds = 0.0
    config.sweep.criterion = "projected_train_loss"
    config.sweep.trials = 4
    config.sweep.draw = ConfigDict(
        {
            "optimizer": {
                "decay": ("choice", 0.6, 1.0),
                "learning_rate": ("log_uniform", 0.01, 0.3),
            }
        }
    )
    config.sweep.rung_epochs, config.sweep.rung_keeps = (2, 14), (4, 1)
    rows = run(config, tmp_path / "whole")
    curves = {}
    for text in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines():
        line = json.loads(text)
        curves.setdefault(line["trial"], {})[line["epoch"]] = line["train_loss"]
    at_rung = [row for row in rows if row["rung"] == 1]
    assert len(at_rung) == 3
    for row in at_rung:
        decay, epochs = row["decay"], np.arange(1, 17)
        falls = epochs if decay == 1 else (1 - decay**epochs) / (1 - decay)
        sums = row["learning_rate"] * (1437 // 100) * falls
        expected = project(curves[row["trial"]], sums, 14)
        assert row["projected_train_loss"] == pytest.approx(expected, rel=1e-4)
        assert row["status"] == outcomes.DROPPED
    (last,) = (row for row in rows if row["rung"] == 2)
    assert math.isnan(last["projected_train_loss"])

    real = Program.train

    def train(self, state, num_steps):
        if self.trials.fetch(state.step).max() >= 12 * self.steps_per_epoch:
            raise Stopped(15, "stopped")
        return real(self, state, num_steps)

    with monkeypatch.context() as patch:
        patch.setattr(Program, "train", train)
        with pytest.raises(Stopped):
            run(config, tmp_path / "cut")
    early = _read(tmp_path / "cut")
    assert {row["projected_train_loss"] for row in early.values()} == {""}
    run(config, tmp_path / "cut")
    assert _read(tmp_path / "cut") == _read(tmp_path / "whole")
    # A row that is removed is projected again from the lines that are there.
    path = tmp_path / "cut" / "results.csv"
    path.write_text(path.read_text().splitlines(keepends=True)[0])
    run(config, tmp_path / "cut")
    again = _read(tmp_path / "cut")
    for trial, row in _read(tmp_path / "whole").items():
        assert again[trial] | {"batch": ""} == row | {"batch": ""}


def test_tables_that_began_without_projections_are_resumed(small_config, tmp_path):
    small_config.training.epochs = 1
    rows = run(small_config, tmp_path)
    path = tmp_path / "results.csv"
    table = [line.split(",") for line in path.read_text().splitlines()]
    column = table[0].index("projected_train_loss")
    old = [[*cells[:column], *cells[column + 1 :]] for cells in table]
    path.write_text("".join(",".join(cells) + "\n" for cells in old[:2]))
    again = run(small_config, tmp_path)
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in rows]
    assert path.read_text().splitlines()[0] == ",".join(table[0])
