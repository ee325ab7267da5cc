"""Lines of metrics.jsonl and rows of results.csv for the trials of one batch."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int

from highway_jax.storage.tables import SETTINGS
from highway_jax.sweep import outcomes
from highway_jax.sweep.trials import Batch, Trial
from highway_jax.training import metrics
from highway_jax.training.program import SPLITS

Row = dict[str, Any]


def epoch_lines(
    batch: Batch,
    epoch: int,
    step: int,
    rates: Float[np.ndarray, "trials"],
    curves: Mapping[str, metrics.Sums],
    diverged: Bool[np.ndarray, "trials"],
) -> list[Row]:
    """Returns the line of metrics.jsonl of each trial after an epoch.

    Args:
        batch: The trials.
        epoch: The epoch, counted from 1.
        step: Steps taken.
        rates: Learning rates of the last step.
        curves: What was measured, by split.
        diverged: Trials whose losses are not reported.
    """
    lines = []
    for i, trial in enumerate(batch.trials):
        line = {
            "batch": batch.name,
            "trial": trial.index,
            "case": trial.case,
            "seed": trial.seed,
            "epoch": epoch,
            "step": step,
            "learning_rate": float(rates[i]),
            "diverged": bool(diverged[i]),
        }
        for split, sums in curves.items():
            line |= _measures(split, None if diverged[i] else sums, i)
        lines.append(line)
    return lines


def result_rows(
    batch: Batch,
    sums: Mapping[str, metrics.Sums],
    steps: Int[np.ndarray, "trials"],
    diverged: Bool[np.ndarray, "trials"],
    projected: list[float],
    seconds: Mapping[str, float],
    steps_before: int,
    common: Row,
) -> list[Row]:
    """Returns the row of results.csv of each trial.

    Args:
        batch: The trials.
        sums: What was measured, by split.
        steps: Steps taken.
        diverged: Trials whose losses are not reported.
        projected: Projected training losses.
        seconds: Wall time of the batch, "compile" and "train", of its rung alone.
        steps_before: Steps of the earlier rungs.
        common: Values of further columns, equal for all trials.
    """
    status = outcomes.FINISHED if batch.last else outcomes.WAITING
    timed_steps = float(np.maximum(steps - steps_before, 0).sum())
    rows = []
    for i, trial in enumerate(batch.trials):
        row = _describe(trial, batch) | common
        row |= {
            "status": outcomes.DIVERGED if diverged[i] else status,
            "steps": int(steps[i]),
            "projected_train_loss": math.nan if diverged[i] else projected[i],
            "diverged": bool(diverged[i]),
            "compile_seconds": round(seconds["compile"], 3),
            "train_seconds": round(seconds["train"], 3),
            "steps_per_second": round(timed_steps / max(seconds["train"], 1e-9), 1),
        }
        for split in SPLITS:
            row |= _measures(split, None if diverged[i] else sums.get(split), i)
        rows.append(row)
    return rows


def failed_rows(batch: Batch) -> list[Row]:
    """Returns the rows of trials for which nothing could be measured."""
    nothing = {"status": outcomes.FAILED, "steps": 0, "num_parameters": 0, "diverged": False}
    nothing |= dict.fromkeys(
        ("projected_train_loss", "compile_seconds", "train_seconds", "steps_per_second"), math.nan
    )
    for split in SPLITS:
        nothing |= _measures(split, None, 0)
    return [_describe(trial, batch) | nothing for trial in batch.trials]


def _describe(trial: Trial, batch: Batch) -> Row:
    """Returns the columns of results.csv that do not depend on measurements."""
    return (
        trial.settings
        | {name: trial.settings[key] for name, key in SETTINGS.items()}
        | trial.hyperparameters
        | {
            "batch": batch.name,
            "trial": trial.index,
            "case": trial.case,
            "seed": trial.seed,
            "rung": batch.rung,
            "epochs": batch.epochs,
        }
    )


def _measures(split: str, sums: metrics.Sums | None, trial: int) -> dict[str, float]:
    if sums is None:
        return {f"{split}_loss": math.nan, f"{split}_accuracy": math.nan}
    return {
        f"{split}_loss": float(sums.mean_loss[trial]),
        f"{split}_accuracy": float(sums.accuracy[trial]),
    }
