"""From a config, and what was measured so far, to the batches of trials to train next.

A run is a set of cells: every case at every point of `sweep.grid`. A cell's trials are its seeds,
or settings drawn from `sweep.draw`. Trials may be dropped at rungs (successive halving: Jamieson &
Talwalkar 2016), and the best setting of a cell trained again with other seeds. All of it is a pure
function of the config and the rows of results.csv, so a run goes on from its table alone.

Samplers and pruners of search libraries ask for one trial at a time and judge it alone; here a
rung is one compiled program of many trials that are judged together, and the draws are a line of
numpy each.
"""

import hashlib
import itertools
import json
import math
from collections.abc import Collection, Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ml_collections import ConfigDict

from highway_jax import config as config_lib
from highway_jax.optimizer import Hyperparameters

WAITING, PROMOTED = "waiting", "promoted"
FINISHED, DROPPED, DIVERGED, FAILED = "finished", "dropped", "diverged", "failed"
SETTLED = (FINISHED, DROPPED, DIVERGED, FAILED)
"""What becomes of a trial at a rung: `waiting` for the others, `promoted` to the next, or settled.
"""


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

    @property
    def static(self) -> str:
        """Its other settings, which trials must share to share a program, as text."""
        numeric = set(config_lib.NUMERIC.values())
        static = {key: value for key, value in self.settings.items() if key not in numeric}
        return json.dumps(static, default=list)


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

    def hyperparameters(self) -> Hyperparameters:
        """Returns the trials' numbers as arrays [trials]."""
        numbers = [trial.numbers for trial in self.trials]
        arrays = {k: np.asarray([n[k] for n in numbers], np.float32) for k in numbers[0]}
        return Hyperparameters(np.asarray([t.seed for t in self.trials], np.uint32), **arrays)

    def halves(self) -> list["Batch"]:
        """Returns the batch as two of half the trials, or itself if it has only one."""
        middle = (len(self.trials) + 1) // 2
        parts = [part for part in (self.trials[:middle], self.trials[middle:]) if part]
        return [self._replace(name=_name(part, self.rung), trials=part) for part in parts]


class Cell(NamedTuple):
    """One case at one point of the grid.

    Attributes:
        case: Name of the case.
        settings: Those common to its trials, by dotted key.
        trials: Its trials.
        rungs: Epochs after which trials are judged; the last is the whole training.
        keeps: Trials kept at each rung but the last.
    """

    case: str
    settings: dict[str, Any]
    trials: tuple[Trial, ...]
    rungs: tuple[int, ...]
    keeps: tuple[int, ...]


def cells(config: ConfigDict) -> list[Cell]:
    """Lists the cells of a valid config, with the trials known from the start."""
    sweep, found, index = config.sweep, [], itertools.count()
    axes = config_lib.flatten(sweep.grid)
    for case in list(config.cases) or [config.name]:
        for point in itertools.product(*axes.values()):
            place = dict(zip(axes, point, strict=True))
            common = config_lib.case_settings(config, case) | place
            if sweep.trials:
                label = json.dumps([case, place])
                drawn = [_draw(sweep, label, i) for i in range(sweep.trials)]
            else:
                drawn = [({}, seed) for seed in config.seeds]
            trials = tuple(
                Trial(next(index), case, common | settings, seed) for settings, seed in drawn
            )
            whole = common["training.epochs"]
            epochs = tuple(e for e in sweep.rung_epochs if e < whole)
            keeps = sweep.rung_keeps[: len(epochs)]
            found.append(Cell(case, common, trials, (*epochs, whole), keeps))
    return found


def _draw(sweep: ConfigDict, label: str, index: int) -> tuple[dict[str, Any], int]:
    # A generator for each trial of each cell: more trials or cells leave these draws as they are.
    digest = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big")
    rng = np.random.default_rng([sweep.seed, digest, index])
    settings = {}
    for key, (distribution, *bounds) in config_lib.flatten(sweep.draw).items():
        if distribution == "choice":
            settings[key] = bounds[rng.integers(len(bounds))]
        elif distribution == "integer":
            settings[key] = int(rng.integers(bounds[0], bounds[1], endpoint=True))
        elif distribution == "uniform":
            settings[key] = float(rng.uniform(*bounds))
        else:
            settings[key] = float(np.exp(rng.uniform(*np.log(bounds))))
    return settings, int(rng.integers(2**32))


def plan(
    config: ConfigDict,
    rows: Iterable[dict[str, Any]],
    begun: Mapping[str, Collection[int]] | None = None,
) -> list[Batch]:
    """Lists the batches that can be trained now, given the rows of results.csv.

    Trials of a cell whose static settings agree share a batch, as do those of cells without
    rungs; a batch has at most `runtime.max_trials` trials. Batches that were begun come first, as
    they were, whatever it would be now.

    Args:
        config: The run's config.
        rows: Rows of results.csv.
        begun: Trials of the batches that have checkpoints, by the batch's name.
    """
    by_trial = {row["trial"]: row for row in rows}
    pending: list[tuple[Trial, int, int, bool]] = []
    known = cells(config)
    for cell in known:
        for rung, epochs in enumerate(cell.rungs):
            last = rung == len(cell.rungs) - 1
            for trial in _entrants(cell, rung, by_trial):
                row = by_trial.get(trial.index)
                if row is None or row["rung"] < rung:
                    pending.append((trial, rung, epochs, last))
    for trial in _retrained(config, known, by_trial):
        if trial.index not in by_trial:
            pending.append((trial, 0, trial.settings["training.epochs"], True))
    groups: dict[tuple, list[Trial]] = {}
    for trial, rung, epochs, last in pending:
        groups.setdefault((rung, epochs, last, trial.static), []).append(trial)
    size = config.runtime.max_trials or sum(map(len, groups.values()))
    return [
        Batch(_name(part, rung), tuple(part), rung, epochs, last)
        for (rung, epochs, last, _), group in groups.items()
        for part in _parts(group, rung, size, begun or {})
    ]


def _parts(
    group: list[Trial], rung: int, size: int, begun: Mapping[str, Collection[int]]
) -> list[list[Trial]]:
    parts, left = [], group
    # Small ones first: a larger one with the same trials is what they are halves of.
    for name, indices in sorted(begun.items(), key=lambda item: len(item[1])):
        part = [trial for trial in left if trial.index in indices]
        if len(part) == len(indices) and _name(part, rung) == name:
            parts.append(part)
            left = [trial for trial in left if trial.index not in indices]
    parts.sort(key=lambda part: part[0].index)
    return parts + [left[i : i + size] for i in range(0, len(left), size)]


def find(config: ConfigDict, rows: Iterable[dict[str, Any]]) -> dict[int, Trial]:
    """Returns all trials known so far by index, given the rows of results.csv."""
    known = cells(config)
    retrained = _retrained(config, known, {row["trial"]: row for row in rows})
    return {t.index: t for t in itertools.chain(*(cell.trials for cell in known), retrained)}


def _entrants(cell: Cell, rung: int, by_trial: dict[int, dict]) -> list[Trial]:
    if rung == 0:
        return list(cell.trials)
    return [
        trial
        for trial in cell.trials
        if (row := by_trial.get(trial.index))
        and (row["rung"] >= rung or (row["rung"] == rung - 1 and row["status"] == PROMOTED))
    ]


def decide(config: ConfigDict, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the rows with every decision made that can be made.

    Once all trials of a cell have reached a rung, the best by `sweep.criterion` are promoted and
    the others dropped. Diverged and failed trials are never promoted.
    """
    by_trial = {row["trial"]: dict(row) for row in rows}
    for cell in cells(config):
        for rung, keep in enumerate(cell.keeps):
            entrants = [by_trial.get(t.index) for t in _entrants(cell, rung, by_trial)]
            if not all(row and row["rung"] >= rung for row in entrants):
                break
            here = [r for r in entrants if r["rung"] == rung and r["status"] == WAITING]
            here.sort(key=lambda row: merit(config.sweep.criterion, row))
            for place, row in enumerate(here):
                row["status"] = PROMOTED if place < keep else DROPPED
    return [by_trial[index] for index in sorted(by_trial)]


def merit(criterion: str, row: dict[str, Any]) -> float:
    """Returns a row's standing by a criterion, smaller is better; infinite where not measured."""
    value = row[criterion]
    if math.isnan(value):
        return math.inf
    return -value if criterion.endswith("accuracy") else value


def _retrained(config: ConfigDict, known: list[Cell], by_trial: dict[int, dict]) -> Iterable[Trial]:
    seeds = config.sweep.retrain_seeds
    first = sum(len(cell.trials) for cell in known)
    for number, cell in enumerate(known):
        cell_rows = [by_trial.get(trial.index) for trial in cell.trials]
        if not seeds or not all(row and row["status"] in SETTLED for row in cell_rows):
            continue
        done = [row for row in cell_rows if row["status"] == FINISHED]
        if done:
            best = min(done, key=lambda row: merit(config.sweep.criterion, row))
            settings = next(t.settings for t in cell.trials if t.index == best["trial"])
            for i, seed in enumerate(seeds):
                yield Trial(first + number * len(seeds) + i, f"{cell.case}-best", settings, seed)


def _name(trials: Iterable[Trial], rung: int) -> str:
    trials = list(trials)
    first = trials[0].settings
    return (
        f"{trials[0].index:04d}-{trials[-1].index:04d}-{first['data.name']}-{first['model.block']}"
        f"-{first['model.depth']}x{first['model.width']}{f'-rung{rung}' if rung else ''}"
    )
