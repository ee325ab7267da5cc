"""The trials of a run that are known from its config.

A run is a set of cells: every case at every grid point of `sweep.grid`. A cell has one trial for
each seed, or for each setting drawn from `sweep.draw`.
"""

import bisect
import itertools
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from highway_jax.config import aliases
from highway_jax.config import config as config_lib
from highway_jax.config.schema import EARLIER_USES, USES, Use
from highway_jax.errors import show
from highway_jax.sweep import draws
from highway_jax.sweep.trials import Trial

FORMAT = 3
"""Format of the trial numbers of new runs.

In format 1, which runs have whose environment.json names no format, every grid point is trained.
The trials of `sweep.retrain_seeds` have the same indices whichever setting of their cell is the
best, and a setting that becomes the best later is not trained again.

Since format 2, grid points that differ only in settings that a case does not use are one
(`schema.USES`), and each setting has its own indices for `sweep.retrain_seeds`.

In format 2, every block but plain and residual ones was taken to use the settings of gates. Since
format 3, blocks declare the settings that they use.
"""


class Numbering(NamedTuple):
    """How the trials of a run are numbered.

    Attributes:
        format: The `FORMAT` of the version that started the run.
        seeds: Number of seeds before each extension of the run. The seeds that an extension adds
            have the next free indices, so the earlier trials keep theirs.
    """

    format: int = FORMAT
    seeds: tuple[int, ...] = ()

    @classmethod
    def read(cls, environment: Mapping[str, Any]) -> "Numbering":
        """Returns the numbering that environment.json holds.

        Raises:
            ValueError: If it is invalid, or a later version of the package wrote it.
        """
        found = environment.get("format", 1)
        if type(found) is not int or not 1 <= found <= FORMAT:
            raise ValueError(f"format is {show(found)}; allowed: 1 to {FORMAT}")
        seeds = environment.get("seeds_before_extensions", [])
        if not isinstance(seeds, list) or not all(type(count) is int for count in seeds):
            raise ValueError(
                f"seeds_before_extensions is {show(seeds)}; allowed: a list of whole numbers"
            )
        return cls(found, tuple(seeds))

    def extended(self, before: int, after: int) -> "Numbering":
        """Returns the numbering once the number of seeds grows from `before` to `after`."""
        seeds = [count for count in self.seeds if count < before]
        return self._replace(seeds=(*seeds, before) if after > before else tuple(seeds))

    def trial_index(self, cell: int, seed: int, num_cells: int, num_seeds: int) -> int:
        """Returns the index of the trial of a seed.

        Args:
            cell: Position of its cell.
            seed: Position of the seed in `config.seeds`.
            num_cells: Number of cells of the run.
            num_seeds: Number of `config.seeds`.
        """
        edges = [0, *(count for count in self.seeds if 0 < count < num_seeds), num_seeds]
        position = bisect.bisect_right(edges, seed) - 1
        first, end = edges[position : position + 2]
        return num_cells * first + cell * (end - first) + seed - first


NEW = Numbering()
"""Numbering of a new run."""


class Cell(NamedTuple):
    """One case at one grid point.

    Attributes:
        case: Name of the case.
        settings: Settings common to its trials, by dotted key.
        trials: Its trials.
        rungs: Epochs after which trials are ranked; the last is the whole training.
        keeps: Number of trials of a round kept at each rung except the last.
        retrained: Indices for trials that train the best setting again: one for each of
            `sweep.retrain_seeds`, and since format 2 one for each of them and of `trials`.
        ask: Number of trials of a round.
    """

    case: str
    settings: dict[str, Any]
    trials: tuple[Trial, ...]
    rungs: tuple[int, ...]
    keeps: tuple[int, ...]
    retrained: range
    ask: int

    def rounds(self) -> Iterator[tuple[Trial, ...]]:
        """Yields the trials that are ranked together."""
        for first in range(0, len(self.trials), self.ask):
            yield self.trials[first : first + self.ask]


def cells(config: ConfigDict, numbering: Numbering = NEW) -> list[Cell]:
    """Lists the cells of a valid config, with the trials known before training.

    Args:
        config: The run's config.
        numbering: How the run numbers its trials.
    """
    sweep, found = config.sweep, []
    known = list(grid_points(config, numbering.format))
    if sweep.trials:
        numbering = Numbering(numbering.format)  # Only seeds are added by extensions.
        drawn = draws.draw(sweep, [_label(case, place) for case, place, _ in known])
    else:
        drawn = itertools.repeat([({}, seed) for seed in config.seeds])
    size = sweep.trials or len(config.seeds)
    end = len(known) * size
    for cell, ((case, _, common), own) in enumerate(zip(known, drawn, strict=False)):
        trials = tuple(
            [
                Trial(
                    numbering.trial_index(cell, position, len(known), size),
                    case,
                    common | settings if settings else common,
                    seed,
                )
                for position, (settings, seed) in enumerate(own)
            ]
        )
        whole = common["training.epochs"]
        epochs = tuple([e for e in sweep.rung_epochs if e < whole])
        keeps = sweep.rung_keeps[: len(epochs)]
        count = len(sweep.retrain_seeds) * (len(trials) if numbering.format > 1 else 1)
        retrained, end = range(end, end + count), end + count
        ask = sweep.ask or size
        found.append(Cell(case, common, trials, (*epochs, whole), keeps, retrained, ask))
    return found


def _label(case: str, place: dict[str, Any]) -> str:
    """Returns the text that a cell's draws depend on.

    It has the first names of keys and values, so that a cell draws the same after they are renamed.
    """
    return json.dumps([case, aliases.first_names(place)])


def grid_points(
    config: ConfigDict, number_format: int = FORMAT
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yields each case at each grid point: the case's name, the point, all settings.

    The point and the settings are dicts by dotted key. Of grid points that differ only in settings
    that the case does not use, the first is taken.
    """
    axes = config_lib.flatten(config.sweep.grid)
    conditional = _conditional(config) if number_format > 1 else []
    for case in list(config.cases) or [config.name]:
        settings = config_lib.case_settings(config, case)
        seen = set()
        for values in itertools.product(*axes.values()):
            place = dict(zip(axes, values, strict=True))
            common = settings | place
            if conditional:
                unused = {key for key in conditional if not _is_used(key, common, number_format)}
                used = tuple([None if key in unused else place[key] for key in axes])
                if used in seen:
                    continue
                seen.add(used)
            yield case, place, common


def left_out(config: ConfigDict, numbering: Numbering = NEW) -> list[str]:
    """Returns a sentence for each grid setting that a case does not use at every grid point."""
    axes, lines = config_lib.flatten(config.sweep.grid), []
    for case in list(config.cases) or [config.name]:
        settings = config_lib.case_settings(config, case)
        for key in _conditional(config) if numbering.format > 1 else ():
            use, (first, *others) = _use(key, numbering.format), axes[key]
            points = itertools.product(*(axes.get(k, (settings[k],)) for k in use.keys))
            if others and not all(itertools.starmap(use.check, points)):
                lines.append(
                    f"{case}: {key} is only used {use.where}; elsewhere, only the first of its"
                    f" {len(others) + 1} values is trained, {first!r}"
                )
    return lines


def _conditional(config: ConfigDict) -> list[str]:
    """Returns the grid keys that some grid points may not use, whatever is drawn."""
    drawn = config_lib.flatten(config.sweep.draw)
    grid = config_lib.flatten(config.sweep.grid)
    return [key for key in grid if key in USES and drawn.keys().isdisjoint(USES[key].keys)]


def _is_used(key: str, settings: dict[str, Any], number_format: int) -> bool:
    use = _use(key, number_format)
    return use.check(*(settings[k] for k in use.keys))


def _use(key: str, number_format: int) -> Use:
    return EARLIER_USES.get(key, USES[key]) if number_format < 3 else USES[key]
