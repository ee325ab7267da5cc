"""The trials of a run that are known from its config.

A run is a set of cells: every case at every point of `sweep.grid`. A cell's trials are its seeds,
or settings drawn from `sweep.draw`.
"""

import itertools
import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from highway_jax.config import aliases
from highway_jax.config import config as config_lib
from highway_jax.config.schema import USES
from highway_jax.sweep import draws
from highway_jax.sweep.trials import Trial

FORMAT = 2
"""How new runs number their trials.

In format 1, that of runs whose environment.json names none, every point of the grid is trained. The
trials of `sweep.retrain_seeds` have the same indices whichever setting of their cell is the best,
and one that becomes the best later is not trained again.

Since format 2, points of the grid that differ only in settings that a case does not use are one
(`schema.USES`), and each setting has indices of its own for `sweep.retrain_seeds`.
"""


class Cell(NamedTuple):
    """One case at one point of the grid.

    Attributes:
        case: Name of the case.
        settings: Those common to its trials, by dotted key.
        trials: Its trials.
        rungs: Epochs after which trials are judged; the last is the whole training.
        keeps: Trials kept at each rung but the last.
        retrained: Indices for trials that train the best setting again: as many as there are
            `sweep.retrain_seeds`, and since format 2 as many for each of `trials`.
    """

    case: str
    settings: dict[str, Any]
    trials: tuple[Trial, ...]
    rungs: tuple[int, ...]
    keeps: tuple[int, ...]
    retrained: range


def cells(config: ConfigDict, numbering: int = FORMAT) -> list[Cell]:
    """Lists the cells of a valid config, with the trials known from the start.

    Args:
        config: The run's config.
        numbering: The `FORMAT` that the run began with.
    """
    sweep, found, index = config.sweep, [], itertools.count()
    known = list(places(config, numbering))
    own: Iterable = itertools.repeat([({}, seed) for seed in config.seeds])
    if sweep.trials:
        own = draws.draw(sweep, [_label(case, place) for case, place, _ in known])
    end = len(known) * (sweep.trials or len(config.seeds))
    for (case, _, common), drawn in zip(known, own, strict=False):
        trials = tuple(
            [
                Trial(next(index), case, common | settings if settings else common, seed)
                for settings, seed in drawn
            ]
        )
        whole = common["training.epochs"]
        epochs = tuple([e for e in sweep.rung_epochs if e < whole])
        keeps = sweep.rung_keeps[: len(epochs)]
        size = len(sweep.retrain_seeds) * (len(trials) if numbering > 1 else 1)
        retrained, end = range(end, end + size), end + size
        found.append(Cell(case, common, trials, (*epochs, whole), keeps, retrained))
    return found


def _label(case: str, place: dict[str, Any]) -> str:
    """Returns the text that a cell's draws depend on.

    It has the first names of keys and values, so that a cell draws the same after they are renamed.
    """
    return json.dumps([case, aliases.first_names(place)])


def places(
    config: ConfigDict, numbering: int = FORMAT
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Yields each case at each point of the grid: its name, the point, all settings.

    The point and the settings are by dotted key. Of points that differ only in settings that the
    case does not use, the first is taken.
    """
    axes = config_lib.flatten(config.sweep.grid)
    conditional = _conditional(config) if numbering > 1 else []
    for case in list(config.cases) or [config.name]:
        settings = config_lib.case_settings(config, case)
        seen = set()
        for values in itertools.product(*axes.values()):
            place = dict(zip(axes, values, strict=True))
            common = settings | place
            if conditional:
                unused = {key for key in conditional if not _is_used(key, common)}
                used = tuple([None if key in unused else place[key] for key in axes])
                if used in seen:
                    continue
                seen.add(used)
            yield case, place, common


def left_out(config: ConfigDict, numbering: int = FORMAT) -> list[str]:
    """Returns a sentence for each setting of the grid that a case does not use everywhere."""
    axes, lines = config_lib.flatten(config.sweep.grid), []
    for case in list(config.cases) or [config.name]:
        settings = config_lib.case_settings(config, case)
        for key in _conditional(config) if numbering > 1 else ():
            use, (first, *others) = USES[key], axes[key]
            points = itertools.product(*(axes.get(k, (settings[k],)) for k in use.keys))
            if others and not all(itertools.starmap(use.check, points)):
                lines.append(
                    f"{case}: {key} is only used {use.where}; elsewhere, of {len(others) + 1}"
                    f" values the first is trained, {first!r}"
                )
    return lines


def _conditional(config: ConfigDict) -> list[str]:
    """Returns the keys of the grid that some of its points may not use, whatever is drawn."""
    drawn = config_lib.flatten(config.sweep.draw)
    grid = config_lib.flatten(config.sweep.grid)
    return [key for key in grid if key in USES and drawn.keys().isdisjoint(USES[key].keys)]


def _is_used(key: str, settings: dict[str, Any]) -> bool:
    return USES[key].check(*(settings[k] for k in USES[key].keys))
