"""Trials, and batches of trials that share one compiled program.

A trial is one training: a seed and one value for each setting. Settings that determine shapes or
the program are static and shared by a batch. Numeric hyperparameters are arrays over the trials.
"""

from __future__ import annotations

import collections
import functools
import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt32

from highway_jax.config import config as config_lib
from highway_jax.config.schema import SCHEMA
from highway_jax.config.sections import Config

if TYPE_CHECKING:  # Would import jax, which readers of saved runs do not need.
    from jaxtyping import Array


class Hyperparameters(NamedTuple):
    """The hyperparameters that every trial has, or arrays [trials] of those of a batch.

    Attributes:
        seed: Seed of the initial weights and of the order of the examples.
        learning_rate: Initial learning rate, without a factor of (1 - momentum).
        momentum: Momentum coefficient.
        decay: Factor of the learning rate at each decay.
        weight_decay: Coefficient of weight decay.
        transform_bias: Initial bias b_T of transform gates.
    """

    seed: UInt32[Array, "*trials"]
    learning_rate: Float[Array, "*trials"]
    momentum: Float[Array, "*trials"]
    decay: Float[Array, "*trials"]
    weight_decay: Float[Array, "*trials"]
    transform_bias: Float[Array, "*trials"]


AnyHyperparameters = Any
"""`Hyperparameters`, or a named tuple with their fields and further ones (see `further`)."""


def further(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the hyperparameters that a trial has beside those of momentum SGD.

    All trials of a batch have the same. A hyperparameter that is not among them has no part in the
    program.

    Args:
        settings: The trial's settings by dotted key.
    """
    cycle = settings["optimizer.schedule"] == "one_cycle"
    keys = {name: config_lib.NUMERIC[name] for name in config_lib.OPTIONAL}
    return (
        *(() if settings["optimizer.name"] == "momentum" else ("beta1", "beta2", "epsilon")),
        *(("warmup_fraction", "final_fraction") if cycle else ()),
        *(name for name, key in keys.items() if settings[key] != SCHEMA[key].default),
    )


@functools.cache
def _kind(names: tuple[str, ...]) -> Any:
    """Returns the named tuple of a trial's hyperparameters; equal trees have the same type."""
    if not names:
        return Hyperparameters
    return collections.namedtuple("Hyperparameters", (*Hyperparameters._fields, *names))


class Trial(NamedTuple):
    """One net, trained with one seed and one value for each setting.

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
    def hyperparameters(self) -> dict[str, float]:
        """Its numeric hyperparameters that have columns in every table, by name."""
        names = Hyperparameters._fields[1:]
        return {name: float(self.settings[config_lib.NUMERIC[name]]) for name in names}


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
    def config(self) -> Config:
        """The settings of the first trial; the others' differ in numeric hyperparameters alone."""
        return Config.from_settings(self.trials[0].settings)

    @property
    def static(self) -> dict[str, Any]:
        """The settings that all trials share by dotted key: those that determine the program."""
        numeric = set(config_lib.NUMERIC.values())
        return {k: v for k, v in self.trials[0].settings.items() if k not in numeric}

    @property
    def decays_weights(self) -> bool:
        """Whether any trial decays weights; if none does, the program has no weight decay."""
        return _decay_weights(self.trials)

    @property
    def label(self) -> str:
        """A short name of its net for messages; other batches may have the same."""
        model = self.config.model
        if model.module:
            return _class_name(model.module)
        size = f"{model.depth}x{model.width}"
        return f"{model.block} {size}{'' if model.architecture == 'dense' else ' convolutional'}"

    def hyperparameters(self) -> AnyHyperparameters:
        """Returns the trials' hyperparameters as arrays [trials]."""
        settings = self.trials[0].settings
        kind = _kind(further(settings))
        arrays: dict[str, Any] = {"seed": np.asarray([t.seed for t in self.trials], np.uint32)}
        for name in kind._fields[1:]:
            values = [float(trial.settings[config_lib.NUMERIC[name]]) for trial in self.trials]
            arrays[name] = np.asarray(values, np.float32)
        return kind(**arrays)

    def halves(self) -> list[Batch]:
        """Returns two batches of half the trials each, or the batch itself if it has one trial."""
        middle = (len(self.trials) + 1) // 2
        parts = [part for part in (self.trials[:middle], self.trials[middle:]) if part]
        return [self._replace(name=batch_name(part, self.rung), trials=part) for part in parts]


def batch_name(trials: Iterable[Trial], rung: int, *, all_indices: bool = False) -> str:
    """Returns the name of the batch of some trials at a rung.

    Args:
        trials: The trials.
        rung: The rung.
        all_indices: Whether the name differs from that of any other trials, and not only from those
            with another first or last index.
    """
    trials = list(trials)
    first = trials[0].settings
    which = f"{trials[0].index:04d}-{trials[-1].index:04d}"
    if all_indices:
        indices = ",".join(str(trial.index) for trial in trials)
        which += f"-{hashlib.sha256(indices.encode()).hexdigest()[:8]}"
    net = f"{first['model.block']}-{first['model.depth']}x{first['model.width']}"
    if first["model.module"]:
        net = _class_name(first["model.module"])
    return f"{which}-{first['data.name']}-{net}{f'-rung{rung}' if rung else ''}"


def _decay_weights(trials: Iterable[Trial]) -> bool:
    return any(trial.hyperparameters["weight_decay"] for trial in trials)


def saved_with_decay(extra: Mapping[str, Any], known: Mapping[int, Trial]) -> bool:
    """Returns whether the program of the batch that saved a checkpoint had weight decay.

    Args:
        extra: The extra data of the checkpoint. Those of early versions do not say it.
        known: Trials of the run by index.
    """
    members = (known[index] for index in extra["trials"] if index in known)
    return extra.get("decays_weights", _decay_weights(members))


def _class_name(module: str) -> str:
    """Returns the class in the value of `model.module`."""
    return module.rpartition("-")[0]


def rung_of(batch_name: str) -> int:
    """Returns the rung in the name of a batch."""
    match = re.search(r"-rung(\d+)$", batch_name)
    return int(match[1]) if match else 0
