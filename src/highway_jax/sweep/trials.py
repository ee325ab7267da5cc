"""A trial, and a batch of trials that share one compiled program.

A trial is one training: a seed and one value for each setting. What fixes shapes or the program is
static and shared by a batch; what is only a number is an array with an axis of trials.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt32
from ml_collections import ConfigDict

from highway_jax.config import config as config_lib

if TYPE_CHECKING:  # Those who read saved runs need no jax, which this would import.
    from jaxtyping import Array


class Hyperparameters(NamedTuple):
    """The numbers of one trial; a batch of trials holds arrays [trials] of them.

    Attributes:
        seed: Draws the initial weights and the order of the examples.
        learning_rate: Initial rate, without a (1 - momentum) factor.
        momentum: Of the velocity.
        decay: Factor of the rate at each decay.
        weight_decay: L2 coefficient of kernels.
        transform_bias: Initial b_T of highway blocks.
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
        case: The name of the case it belongs to; ends in "-best" if it trains the best setting of
            a search again.
        settings: Every setting of it, by dotted key.
        seed: Its seed.
    """

    index: int
    case: str
    settings: dict[str, Any]
    seed: int

    @property
    def numbers(self) -> dict[str, float]:
        """Its numeric hyperparameters by name."""
        return {name: float(self.settings[key]) for name, key in config_lib.NUMERIC.items()}


class Batch(NamedTuple):
    """Trials that differ only in numbers, and so share one compiled program.

    Attributes:
        name: Names its files; unique within the run.
        trials: The trials, in the order of their indices.
        rung: 0 for trials that begin; else they go on from the rung before.
        epochs: Trains until this many epochs from each trial's beginning.
        last: Whether this is the trials' last rung, after which the test split is read.
    """

    name: str
    trials: tuple[Trial, ...]
    rung: int
    epochs: int
    last: bool

    @property
    def config(self) -> ConfigDict:
        """What the trials share; its numeric settings are those of the first."""
        return config_lib.unflatten(self.trials[0].settings)

    @property
    def label(self) -> str:
        """A short name of its net for messages; other batches may have the same."""
        model = self.config.model
        size = f"{model.depth}x{model.width}"
        return f"{model.block} {size}{'' if model.architecture == 'dense' else ' convolutional'}"

    def hyperparameters(self) -> Hyperparameters:
        """Returns the trials' numbers as arrays [trials]."""
        numbers = [trial.numbers for trial in self.trials]
        arrays = {k: np.asarray([n[k] for n in numbers], np.float32) for k in numbers[0]}
        return Hyperparameters(np.asarray([t.seed for t in self.trials], np.uint32), **arrays)

    def halves(self) -> list[Batch]:
        """Returns the batch as two of half the trials, or itself if it has only one."""
        middle = (len(self.trials) + 1) // 2
        parts = [part for part in (self.trials[:middle], self.trials[middle:]) if part]
        return [self._replace(name=batch_name(part, self.rung), trials=part) for part in parts]


def batch_name(trials: Iterable[Trial], rung: int) -> str:
    """Returns the name of the batch of these trials at a rung."""
    trials = list(trials)
    first = trials[0].settings
    return (
        f"{trials[0].index:04d}-{trials[-1].index:04d}-{first['data.name']}-{first['model.block']}"
        f"-{first['model.depth']}x{first['model.width']}{f'-rung{rung}' if rung else ''}"
    )


def rung_of(batch_name: str) -> int:
    """Returns the rung that the name of a batch says."""
    match = re.search(r"-rung(\d+)$", batch_name)
    return int(match[1]) if match else 0
