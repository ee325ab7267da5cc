"""Trials, and batches of trials that share one compiled program.

A trial is one training: a seed and one value for each setting. Settings that determine shapes or
the program are static and shared by a batch. Numeric hyperparameters are arrays over the trials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt32
from ml_collections import ConfigDict

from highway_jax.config import config as config_lib

if TYPE_CHECKING:  # Would import jax, which readers of saved runs do not need.
    from jaxtyping import Array


class Hyperparameters(NamedTuple):
    """The numeric hyperparameters of one trial, or arrays [trials] of those of a batch.

    Attributes:
        seed: Seed of the initial weights and of the order of the examples.
        learning_rate: Initial learning rate, without a factor of (1 - momentum).
        momentum: Coefficient of the velocity.
        decay: Factor of the learning rate at each decay.
        weight_decay: L2 coefficient of kernels.
        transform_bias: Initial bias b_T of transform gates.
    """

    seed: UInt32[Array, "*trials"]
    learning_rate: Float[Array, "*trials"]
    momentum: Float[Array, "*trials"]
    decay: Float[Array, "*trials"]
    weight_decay: Float[Array, "*trials"]
    transform_bias: Float[Array, "*trials"]


class Trial(NamedTuple):
    """One training.

    Attributes:
        index: Its number within the run, from 0.
        case: Name of its case; ends in "-best" if it retrains the best setting of a search.
        settings: All settings by dotted key.
        seed: Its seed.
    """

    index: int  # pyright: ignore[reportIncompatibleMethodOverride]
    case: str
    settings: dict[str, Any]
    seed: int

    @property
    def numbers(self) -> dict[str, float]:
        """The numeric hyperparameters by name."""
        return {name: float(self.settings[key]) for name, key in config_lib.NUMERIC.items()}


class Batch(NamedTuple):
    """Trials that differ only in numeric hyperparameters and share one compiled program.

    Attributes:
        name: Name of its checkpoints' directory; unique within the run.
        trials: The trials, sorted by index.
        rung: The rung of the trials; above 0, they resume from the previous rung.
        epochs: Epochs after which training ends, counted from the start of the trials.
        last: Whether this is the last rung, after which the test split is evaluated.
    """

    name: str
    trials: tuple[Trial, ...]
    rung: int
    epochs: int
    last: bool

    @property
    def config(self) -> ConfigDict:
        """The settings that the trials share; numeric ones are those of the first trial."""
        return config_lib.unflatten(self.trials[0].settings)

    @property
    def label(self) -> str:
        """A short name of its net for messages; other batches may have the same."""
        model = self.config.model
        size = f"{model.depth}x{model.width}"
        return f"{model.block} {size}{'' if model.architecture == 'dense' else ' convolutional'}"

    def hyperparameters(self) -> Hyperparameters:
        """Returns the numeric hyperparameters as arrays [trials]."""
        numbers = [trial.numbers for trial in self.trials]
        arrays: dict[str, Any] = {
            k: np.asarray([n[k] for n in numbers], np.float32) for k in numbers[0]
        }
        seeds: Any = np.asarray([trial.seed for trial in self.trials], np.uint32)
        return Hyperparameters(seeds, **arrays)

    def halves(self) -> list[Batch]:
        """Returns two batches of half the trials each, or the batch itself if it has one trial."""
        middle = (len(self.trials) + 1) // 2
        parts = [part for part in (self.trials[:middle], self.trials[middle:]) if part]
        return [self._replace(name=batch_name(part, self.rung), trials=part) for part in parts]


def batch_name(trials: Iterable[Trial], rung: int) -> str:
    """Returns the name of the batch of some trials at a rung."""
    trials = list(trials)
    first = trials[0].settings
    return (
        f"{trials[0].index:04d}-{trials[-1].index:04d}-{first['data.name']}-{first['model.block']}"
        f"-{first['model.depth']}x{first['model.width']}{f'-rung{rung}' if rung else ''}"
    )


def rung_of(batch_name: str) -> int:
    """Returns the rung in the name of a batch."""
    match = re.search(r"-rung(\d+)$", batch_name)
    return int(match[1]) if match else 0
