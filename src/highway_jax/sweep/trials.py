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

from highway_jax.config import config as config_lib
from highway_jax.config.sections import Config

if TYPE_CHECKING:  # Those who read saved runs need no jax, which this would import.
    from jaxtyping import Array


class Hyperparameters(NamedTuple):
    """The numbers of one trial of momentum SGD; a batch of trials holds arrays [trials] of them.

    Attributes:
        seed: Draws the initial weights and the order of the examples.
        learning_rate: Initial learning rate, without a (1 - momentum) factor.
        momentum: Momentum coefficient.
        decay: Factor of the learning rate at each decay.
        weight_decay: Coefficient of weight decay.
        transform_bias: Initial b_T of highway blocks.
    """

    seed: UInt32[Array, "*trials"]
    learning_rate: Float[Array, "*trials"]
    momentum: Float[Array, "*trials"]
    decay: Float[Array, "*trials"]
    weight_decay: Float[Array, "*trials"]
    transform_bias: Float[Array, "*trials"]


class AdaptiveHyperparameters(NamedTuple):
    """The numbers of one trial of any other update rule than momentum.

    Momentum has none of the last three, so that checkpoints of earlier versions fit.

    Attributes:
        seed: Draws the initial weights and the order of the examples.
        learning_rate: Initial learning rate.
        momentum: Momentum coefficient.
        decay: Factor of the learning rate at each decay.
        weight_decay: Coefficient of weight decay.
        transform_bias: Initial b_T of highway blocks.
        beta1: Decay rate of the first moment estimate.
        beta2: Decay rate of the second moment estimate.
        epsilon: Constant in the denominator of the update.
    """

    seed: UInt32[Array, "*trials"]
    learning_rate: Float[Array, "*trials"]
    momentum: Float[Array, "*trials"]
    decay: Float[Array, "*trials"]
    weight_decay: Float[Array, "*trials"]
    transform_bias: Float[Array, "*trials"]
    beta1: Float[Array, "*trials"]
    beta2: Float[Array, "*trials"]
    epsilon: Float[Array, "*trials"]


AnyHyperparameters = Hyperparameters | AdaptiveHyperparameters


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
        """Its numeric hyperparameters that have columns in every table, by name."""
        names = Hyperparameters._fields[1:]
        return {name: float(self.settings[config_lib.NUMERIC[name]]) for name in names}


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
    def config(self) -> Config:
        """The settings of the first trial; the others' differ in numeric hyperparameters alone."""
        return Config.from_settings(self.trials[0].settings)

    def hyperparameters(self) -> AnyHyperparameters:
        """Returns the trials' numbers as arrays [trials]."""
        is_momentum = self.trials[0].settings["optimizer.name"] == "momentum"
        kind = Hyperparameters if is_momentum else AdaptiveHyperparameters
        arrays: dict[str, Any] = {"seed": np.asarray([t.seed for t in self.trials], np.uint32)}
        for name in kind._fields[1:]:
            values = [float(trial.settings[config_lib.NUMERIC[name]]) for trial in self.trials]
            arrays[name] = np.asarray(values, np.float32)
        return kind(**arrays)

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
