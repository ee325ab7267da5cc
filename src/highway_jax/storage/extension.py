"""Which configs may extend a run by seeds and epochs."""

import json
import re
from typing import Any

from ml_collections import ConfigDict

from highway_jax.config import config as config_lib
from highway_jax.sweep import design
from highway_jax.sweep.design import Numbering

# Schedules whose rate at a step does not depend on the number of epochs.
_OPEN_ENDED = ("constant", "exponential", "steps", "multistep")


def refusal(old: dict[str, Any], config: ConfigDict, numbering: Numbering) -> str:
    """Returns why a config cannot extend a run, as the values allowed, or "" if it can."""
    changed = _changed_keys(flatten(old), flatten(json.loads(config_lib.to_json(config))))
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


def _changed_keys(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns the keys in which two flattened configs differ."""
    keys = sorted({*old, *new})
    return [
        k for k in keys if config_lib.changes(*({k: c[k]} if k in c else {} for c in (old, new)))
    ]


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of nested dicts by dotted key."""
    flat = {}
    for key, value in tree.items():
        flat |= (
            flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat
