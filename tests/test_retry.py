"""Rows that are removed from results.csv, so that their trials are trained again."""

import csv
import json
import shutil

import pytest
from jax.errors import JaxRuntimeError

from highway_jax import UserError, run
from highway_jax.runtime.signals import Stopped
from highway_jax.training.program import Program

CLOCK = ("compile_seconds", "train_seconds", "steps_per_second")


@pytest.fixture
def search(small_config):
    """Six drawn settings, halved at epochs 1 and 3 of 4, the best trained again."""
    config = small_config
    config.model.depth, config.model.width = 2, 4
    config.training.epochs = 4
    config.checkpoint.every_seconds = 0.0
    config.sweep.trials = 6
    config.sweep.draw.optimizer = {"learning_rate": ("log_uniform", 0.003, 0.3)}
    config.sweep.rung_epochs, config.sweep.rung_keeps = (1, 3), (3, 1)
    config.sweep.retrain_seeds = (7,)
    return config


def _table(workdir):
    with (workdir / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _rows(workdir):
    # A trial trained again alone is in a batch of another name.
    return {
        int(row["trial"]): {k: v for k, v in row.items() if k not in (*CLOCK, "batch")}
        for row in _table(workdir)
    }


def _lines(workdir):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return sorted(json.dumps(line | {"batch": ""}) for line in lines)


def _remove_rows(workdir, chosen):
    path = workdir / "results.csv"
    head, *rows = path.read_text().splitlines(keepends=True)
    kept = [row for row in rows if not chosen(int(row.split(",")[1]))]
    assert len(kept) < len(rows)
    path.write_text("".join([head, *kept]))


def _stop_at(monkeypatch, epoch):
    """Makes a run stop when the first of its trials has trained for some epochs."""
    real = Program.train

    def train(self, state, num_steps):
        if self.trials.fetch(state.step).max() >= epoch * self.steps_per_epoch:
            raise Stopped(15, "stopped")
        return real(self, state, num_steps)

    monkeypatch.setattr(Program, "train", train)


@pytest.mark.parametrize(
    "stopped_at",
    [
        pytest.param(3, marks=pytest.mark.slow),
        *(pytest.param(epoch, marks=pytest.mark.faults) for epoch in (2, None)),
    ],
)
def test_rows_that_are_removed_come_back_as_they_were(search, tmp_path, monkeypatch, stopped_at):
    run(search, tmp_path / "whole")
    rows, lines = _rows(tmp_path / "whole"), _lines(tmp_path / "whole")
    with monkeypatch.context() as patch:
        if stopped_at is not None:
            _stop_at(patch, stopped_at)
            with pytest.raises(Stopped):
                run(search, tmp_path / "base")
        else:
            run(search, tmp_path / "base")
    present = sorted(_rows(tmp_path / "base"))
    assert len(present) == (7 if stopped_at is None else 6)
    # One that is dropped at each rung, the finished one, one trained again, several, all.
    by_end = {(row["rung"], row["status"]): trial for trial, row in rows.items()}
    assert len(by_end) == 4
    for removed in (
        *([index] for index in by_end.values() if index in present),
        [0, 1, 2],
        present,
    ):
        copy = tmp_path / "-".join(map(str, removed))
        shutil.copytree(tmp_path / "base", copy)
        _remove_rows(copy, lambda trial, removed=removed: trial in removed)
        run(search, copy)
        assert _rows(copy) == rows, removed
        assert _lines(copy) == lines, removed
        # What the table names can still be resumed or looked into.
        named = {row["batch"] for row in _table(copy) if row["status"] == "finished"}
        assert named <= {path.name for path in (copy / "checkpoints").iterdir()}


def test_a_trial_whose_checkpoints_are_gone_is_trained_again(search, tmp_path, monkeypatch):
    # All batches are of two trials, which have the bits of other batches of two, and the program
    # of other tests.
    search.model.depth, search.model.width = 3, 8
    search.runtime.max_trials = 2
    search.sweep.trials = 4
    search.sweep.rung_epochs, search.sweep.rung_keeps = (1,), (2,)
    search.sweep.retrain_seeds = (7, 8)
    run(search, tmp_path / "whole")
    with monkeypatch.context() as patch:
        _stop_at(patch, 2)
        with pytest.raises(Stopped):
            run(search, tmp_path / "cut")
    promoted = [t for t, row in _rows(tmp_path / "cut").items() if row["status"] == "promoted"]
    shutil.rmtree(tmp_path / "cut" / "checkpoints")
    named = ", ".join(map(str, promoted))
    with pytest.raises(UserError, match=rf"is gone.* or remove the rows of trials {named} from"):
        run(search, tmp_path / "cut")
    _remove_rows(tmp_path / "cut", lambda trial: trial in promoted)
    run(search, tmp_path / "cut")
    assert _rows(tmp_path / "cut") == _rows(tmp_path / "whole")
    assert _lines(tmp_path / "cut") == _lines(tmp_path / "whole")


@pytest.mark.slow
def test_a_better_setting_found_late_is_trained_again_too(search, tmp_path, monkeypatch, caplog):
    search.sweep.rung_epochs, search.sweep.rung_keeps = (), ()
    search.training.epochs = 2
    whole = run(search, tmp_path / "whole")
    best = min(whole[:6], key=lambda row: row["train_loss"])
    real = Program.compile

    def compile_(self, numbers):
        if best["seed"] in numbers.seed.tolist():
            raise JaxRuntimeError("INTERNAL: no such instruction")
        return real(self, numbers)

    with monkeypatch.context() as patch:
        patch.setattr(Program, "compile", compile_)
        first = run(search, tmp_path / "late")
    second_best = min(
        (row for row in first[:6] if row["status"] == "finished"), key=lambda r: r["train_loss"]
    )
    assert first[6]["learning_rate"] == second_best["learning_rate"]
    _remove_rows(tmp_path / "late", lambda trial: trial == best["trial"])
    caplog.clear()
    rows = run(search, tmp_path / "late")
    assert [row["learning_rate"] for row in rows if row["case"] == "small-best"].count(
        best["learning_rate"]
    ) == 1
    losses = {row["trial"]: row["train_loss"] for row in rows}
    assert {row["trial"]: row["train_loss"] for row in whole}.items() <= losses.items()
    assert len(rows) == 8
    (line,) = [r.getMessage() for r in caplog.records if "no longer the best" in r.getMessage()]
    old = first[6]["trial"]
    assert f"small-best: trial {old} trained a setting that is no longer" in line
    assert line.endswith(f"the best is now that of trial {best['trial']}")
    caplog.clear()
    assert run(search, tmp_path / "late") == rows


def test_a_checkpoint_of_another_setting_is_refused(search, tmp_path, monkeypatch):
    search.sweep.rung_epochs, search.sweep.rung_keeps = (), ()
    search.training.epochs = 1
    run(search, tmp_path)
    (directory,) = (path for path in (tmp_path / "checkpoints").glob("0000-0005-*"))
    manifest = max(directory.glob("step_*.json"))
    content = json.loads(manifest.read_text())
    content.pop("sha256")
    content["extra"]["trials"] = [1, 0, 2, 3, 4, 5]
    manifest.write_text(json.dumps(content))
    (tmp_path / "results.csv").unlink()
    with pytest.raises(UserError, match="holds other settings of trials 0, 1 than"):
        run(search, tmp_path)
