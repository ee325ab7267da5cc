"""The outcome of a trial in its row of results.csv: its settings, its state and its score."""

import math
from collections.abc import Mapping
from typing import Any

from highway_jax.config import config as config_lib

WAITING, PROMOTED = "waiting", "promoted"
FINISHED, DROPPED, DIVERGED, FAILED = "finished", "dropped", "diverged", "failed"
SETTLED = (FINISHED, DROPPED, DIVERGED, FAILED)
"""Final states of a trial. Before, a trial is `waiting` for others at a rung, or `promoted`."""

NUMBERS = ("learning_rate", "momentum", "decay", "weight_decay", "transform_bias")
"""Numeric hyperparameters that have a column in every table."""

SETTINGS: dict[str, str] = {
    "dataset": "data.name",
    "architecture": "model.architecture",
    "block": "model.block",
    "depth": "model.depth",
    "width": "model.width",
    "activation": "model.activation",
    "initializer": "model.initializer",
    "gate": "model.gate",
    "nesterov": "optimizer.nesterov",
    "schedule": "optimizer.schedule",
    "batch_size": "training.batch_size",
    **{name: config_lib.NUMERIC[name] for name in NUMBERS},
}
"""Keys that have a column in every table, by column name.

The column of any other varied key has the name of the key.
"""


def column(key: str) -> str:
    """Returns the column name of a key."""
    return next((name for name, fixed in SETTINGS.items() if fixed == key), key)


def merit(criterion: str, row: Mapping[str, Any]) -> float:
    """Returns a row's score by a criterion: smaller is better, infinite if not measured.

    If no loss is projected, at early rungs and at the end of training, the score by
    `projected_train_loss` is the training loss.
    """
    value = row[criterion]
    if math.isnan(value) and criterion == "projected_train_loss":
        value = row["train_loss"]
    if math.isnan(value):
        return math.inf
    return -value if criterion.endswith("accuracy") else value
