"""Which configs may extend a run by seeds and epochs."""

import functools
import json
import re
from collections.abc import Iterable
from typing import Any

from ml_collections import ConfigDict

from highway_jax.config import config as config_lib
from highway_jax.sweep import design
from highway_jax.sweep.design import Numbering

# Schedules whose rate at a step does not depend on the number of epochs.
_OPEN_ENDED = ("constant", "exponential", "multistep")


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """Returns in what two runs differ: a phrase by key, for the contents of their config.json."""
    found = config_lib.changes(*map(config_lib.flatten, (old, new)))
    # The order of cases, and of the keys of the grid and of draws, numbers the trials.
    for name in config_lib.FREE_SECTIONS:
        before, after = (_order(tree, name) for tree in (old, new))
        is_reported = any(key.startswith(f"{name}.") for key in found)
        is_reordered = [k for k in before if k in after] != [k for k in after if k in before]
        if is_reordered or not is_reported:
            found |= config_lib.changes({name: before}, {name: after})
    return found


def _order(tree: dict[str, Any], name: str) -> list[str]:
    section = functools.reduce(lambda found, part: found.get(part, {}), name.split("."), tree)
    return list(section if name == "cases" else config_lib.flatten(section))


def refusal(
    old: dict[str, Any], changed: Iterable[str], config: ConfigDict, numbering: Numbering
) -> str:
    """Returns why a config cannot extend a run, as the values allowed, or "" if it can.

    Args:
        old: The content of the run's config.json.
        changed: The keys in which the config differs.
        config: The config.
        numbering: How the run numbers its trials.
    """
    for key in changed:
        if key != "seeds" and not re.fullmatch(r"(cases\.[^.]+\.)?training\.epochs", key):
            return f"with extend, changes of seeds and training.epochs, not of {key}"
    if config.sweep.trials:
        return "with extend, runs without sweep.trials"
    before = config_lib.from_json(json.dumps(old))
    if config.seeds[: len(before.seeds)] != before.seeds:
        return "with extend, further seeds after those of the run"
    points = (design.grid_points(c, numbering.format) for c in (before, config))
    for (case, _, earlier), (_, _, later) in zip(*points, strict=True):
        schedule = later["optimizer.schedule"]
        if later["training.epochs"] < earlier["training.epochs"]:
            return f"with extend, at least {earlier['training.epochs']} epochs of {case}"
        if later["training.epochs"] != earlier["training.epochs"] and schedule not in _OPEN_ENDED:
            return (
                f"with extend, more epochs where optimizer.schedule is {', '.join(_OPEN_ENDED)};"
                f" {schedule!r} of {case} depends on their number"
            )
    return ""
