"""Earlier names of keys and values, which saved runs, experiment files and flags may use.

A key keeps its section when it is renamed. Names are looked up in settings at the top of a config,
in its cases, in `sweep.grid` and in `sweep.draw` alike.
"""

import re
from collections.abc import Mapping
from typing import Any

KEYS = {
    "data.mirror": "data.random_flip",
    "data.pad": "data.random_crop_padding",
    "optimizer.bias_rate_factor": "optimizer.bias_learning_rate_multiplier",
    "optimizer.last_decay_factor": "optimizer.head_weight_decay_multiplier",
}
"""Keys by their earlier names."""

VALUES = {
    ("data.scaling", "contrast"): "global_contrast_normalization",
    ("model.remat", "products"): "save_dots",
    ("optimizer.schedule", "steps"): "multistep",
}
"""Values by key and earlier name."""

LEAVES = {old.rpartition(".")[2]: new.rpartition(".")[2] for old, new in KEYS.items()}
"""Last parts of keys by their earlier names."""

_OLD_KEYS = {new: old for old, new in KEYS.items()}
_OLD_VALUES = {(key, new): old for (key, old), new in VALUES.items()}
_PATH = re.compile(r"(cases\.[^.]*\.|sweep\.grid\.|sweep\.draw\.)?(.*)", re.DOTALL)


def current_path(path: str) -> str:
    """Returns the dotted path of a setting, such as `cases.NAME.KEY`, with the current key."""
    prefix, key = _split(path)
    return prefix + KEYS.get(key, key)


def current_value(path: str, value: Any) -> Any:
    """Returns the current name of a value, or of each in a tuple of values.

    Args:
        path: Dotted path of the setting, such as `data.scaling` or `sweep.grid.data.scaling`.
        value: Its value; any other than an earlier name is returned as it is.
    """
    if isinstance(value, tuple | list):
        return type(value)(current_value(path, part) for part in value)
    return VALUES.get((_split(path)[1], value), value) if isinstance(value, str) else value


def current_tree(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested settings, in the same order, with current keys and values.

    Args:
        tree: Settings as config.json nests them.
        prefix: Path at which they stand, with a dot at its end.
    """
    result = {}
    for name, value in tree.items():
        path = current_path(f"{prefix}{name}")
        if isinstance(value, Mapping):
            value = current_tree(value, f"{path}.")
        result[path.removeprefix(prefix)] = current_value(path, value)
    return result


def first_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings by dotted key with the names that keys and values had at first."""
    return {
        _OLD_KEYS.get(key, key): _OLD_VALUES.get((key, value), value)
        if isinstance(value, str)
        else value
        for key, value in settings.items()
    }


def _split(path: str) -> tuple[str, str]:
    match = _PATH.fullmatch(path)
    assert match is not None  # Any text matches.
    return match[1] or "", match[2]
