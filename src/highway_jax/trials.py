"""From a config to the list of batches of trials that it asks for."""

import json
from typing import NamedTuple

import numpy as np
from ml_collections import ConfigDict

from highway_jax import config as config_lib
from highway_jax.optimizer import Hyperparameters


class Trial(NamedTuple):
    """One training.

    Attributes:
        index: Its number within the run, from 0.
        case: The name of the case it belongs to.
        config: Every setting of it.
        seed: Its seed.
    """

    index: int
    case: str
    config: ConfigDict
    seed: int

    @property
    def numbers(self) -> dict[str, float]:
        """Its numeric hyperparameters by name."""
        flat = config_lib.flatten(self.config)
        return {name: float(flat[key]) for name, key in config_lib.NUMERIC.items()}


class Batch(NamedTuple):
    """Trials that differ only in numbers, and so share one compiled program.

    Attributes:
        name: Names its files; unique within the run.
        config: What the trials share; its numeric settings are those of the first.
        trials: The trials, in the order of their indices.
    """

    name: str
    config: ConfigDict
    trials: tuple[Trial, ...]

    def hyperparameters(self) -> Hyperparameters:
        """Returns the trials' numbers as arrays [trials]."""
        numbers = [trial.numbers for trial in self.trials]
        arrays = {k: np.asarray([n[k] for n in numbers], np.float32) for k in numbers[0]}
        return Hyperparameters(np.asarray([t.seed for t in self.trials], np.uint32), **arrays)


def plan(config: ConfigDict) -> list[Batch]:
    """Lists the batches that train every case of a valid config with every seed.

    Cases whose static settings agree share a batch.
    """
    names = list(config.cases) or [config.name]
    trials = []
    for name in names:
        resolved = config_lib.resolve_case(config, name)
        for seed in config.seeds:
            trials.append(Trial(len(trials), name, resolved, seed))
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        groups.setdefault(_static(trial.config), []).append(trial)
    return [
        Batch(_name(i, group[0].config), group[0].config, tuple(group))
        for i, group in enumerate(groups.values())
    ]


def _static(config: ConfigDict) -> str:
    flat = config_lib.flatten(config)
    numeric = set(config_lib.NUMERIC.values())
    return json.dumps({k: v for k, v in flat.items() if k not in numeric}, default=list)


def _name(index: int, config: ConfigDict) -> str:
    model = config.model
    return f"{index:03d}-{config.data.name}-{model.block}-{model.depth}x{model.width}"
