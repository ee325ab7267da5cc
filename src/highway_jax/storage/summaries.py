"""Statistics over trials with equal settings, or over the cells of a search."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from highway_jax.config import config as config_lib
from highway_jax.storage.tables import SUMMARIZED, column, setting_columns

Row = dict[str, Any]


def group(rows: Iterable[Row]) -> list[list[Row]]:
    """Returns groups of rows with equal settings, in the order of first appearance.

    Rows of a group have the same case, epochs trained, and settings in all columns. Every varied
    key has a column.
    """
    rows = list(rows)
    names = ("case", *setting_columns(rows), "epochs")
    return _grouped(rows, lambda row: tuple(row.get(name) for name in names))


def _grouped(rows: Iterable[Row], key: Callable[[Row], tuple]) -> list[list[Row]]:
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(map(repr, key(row))), []).append(row)
    return list(groups.values())


def summarize(rows: Iterable[Row]) -> list[Row]:
    """Returns one row for each group of `group`.

    The best accuracy is the largest, the best training loss the smallest. The standard deviation
    is the sample's (n - 1), NaN for one trial. Diverged trials are counted, not averaged.
    """
    rows = list(rows)
    names = ("case", *setting_columns(rows), "epochs")
    return [
        {name: members[0].get(name) for name in names}
        # A failed trial has no number of parameters.
        | {"num_parameters": max(row.get("num_parameters", 0) for row in members)}
        | statistics(members)
        for members in group(rows)
    ]


def statistics(rows: Sequence[Row]) -> Row:
    """Returns the statistics of summary.csv over trials of one setting."""
    converged = [row for row in rows if not row["diverged"]]
    found: Row = {"trials": len(rows), "diverged": len(rows) - len(converged)}
    for metric in SUMMARIZED:
        # Failed trials, and trials that were not tested, have NaN.
        values = [row[metric] for row in converged if math.isfinite(row.get(metric, math.nan))]
        choose = min if metric == "train_loss" else max
        found[f"{metric}_best"] = choose(values) if values else math.nan
        found[f"{metric}_mean"] = float(np.mean(values)) if values else math.nan
        found[f"{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return found


def best(rows: Iterable[Row]) -> Row:
    """Returns the row with the smallest training loss among those trained for most epochs."""
    return min(rows, key=lambda r: (math.isnan(r["train_loss"]), -r["epochs"], r["train_loss"]))


def summarize_search(rows: Iterable[Row], config: ConfigDict | Mapping[str, Any]) -> list[Row]:
    """Returns one row for each cell of a search, in the order of first appearance.

    A cell is a case at a grid point. The trials that train its best setting again form a separate
    group; if an earlier setting was the best once, the trials of each form one. Each row is that of
    the group's `best` trial, with the group's `statistics`, and with `retrained` for whether the
    group trains a best setting again.

    Args:
        rows: Rows of results.csv.
        config: The run's config, or the content of config.json.
    """
    rows = list(rows)
    cell = ("case", *map(column, config_lib.grid_keys(config)))
    setting = ("case", *setting_columns(rows))

    def key(row: Row) -> tuple:
        names = setting if is_retrained(row, config) else cell
        return tuple(row.get(name) for name in names)

    return [
        best(members) | statistics(members) | {"retrained": is_retrained(members[0], config)}
        for members in _grouped(rows, key)
    ]


def is_retrained(row: Mapping[str, Any], config: ConfigDict | Mapping[str, Any]) -> bool:
    """Returns whether a trial trains the best setting of a search with another seed."""
    return row["case"].endswith("-best") and row["case"] not in config_lib.case_names(config)


def differing(rows: Sequence[Mapping[str, Any]], leave_out: Iterable[str] = ()) -> list[str]:
    """Returns the columns of settings in which rows differ, except some columns."""
    left_out = set(leave_out)
    return [
        name
        for name in setting_columns(rows)
        if name not in left_out and len({repr(row.get(name)) for row in rows}) > 1
    ]


def texts(values: Sequence[Any]) -> list[str]:
    """Formats settings such that different values have different texts."""
    shown: list[str] = []
    for digits in range(4, 18):
        shown = [_text(value, digits) for value in values]
        if len(set(shown)) == len({repr(value) for value in values}):
            break
    return shown


def _text(value: Any, digits: int) -> str:
    if isinstance(value, float):
        return "-" if math.isnan(value) else f"{value:.{digits}g}"
    if value is None:
        return "-"
    return str(value) if value != "" else "''"


def labels(rows: Sequence[Mapping[str, Any]], columns: Iterable[str]) -> list[str]:
    """Returns the values of some columns for each row, such as "depth 10, data.scaling unit"."""
    parts = [
        [f"{name} {text}" for text in texts([row.get(name) for row in rows])] for name in columns
    ]
    return [", ".join(part[i] for part in parts) for i in range(len(rows))]


def settings(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the case and settings of each row in which the rows differ."""
    cases = ["case"] if len({row["case"] for row in rows}) > 1 else []
    return labels(rows, [*cases, *differing(rows)])


def distinct(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns unique names: equal names are followed by the settings in which their rows differ.

    Args:
        names: A name for each row.
        rows: Trials. If rows with equal names have equal settings, the seed is added, and if
            needed the trial and the run.
    """
    found = list(names)
    for name in dict.fromkeys(names):
        members = [i for i, other in enumerate(names) if other == name]
        own = [rows[i] for i in members]
        parts = settings(own)
        for key in ("seed", "trial", "run"):
            if len(set(parts)) < len(parts) and len({row.get(key) for row in own}) > 1:
                parts = [
                    joined(part, f"{key} {row.get(key)}")
                    for part, row in zip(parts, own, strict=True)
                ]
        for i, part in zip(members, parts, strict=True):
            found[i] = joined(name, part)
    return found


def joined(*parts: str) -> str:
    """Joins the parts that are not empty with commas."""
    return ", ".join(filter(None, parts))


def layers(row: Mapping[str, Any]) -> str:
    """Returns the layers of a trial's net; "-" if not known, as of a module of the user's own."""
    return "-" if row.get("architecture") == "custom" else str(row.get("depth", "-"))


def best_mean_std(row: Mapping[str, Any], metric: str, form: Callable[[float], str]) -> str:
    """Returns "best (mean ± std)" of a metric of a summary row; "-" if every trial diverged."""
    best, mean, std = (row[f"{metric}_{statistic}"] for statistic in ("best", "mean", "std"))
    if math.isnan(best):
        return "-"
    return form(best) if math.isnan(std) else f"{form(best)} ({form(mean)} ± {form(std)})"


def percent(row: Mapping[str, Any], metric: str) -> str:
    """Returns "best (mean ± std)" of an accuracy of a summary row, in %."""
    return best_mean_std(row, metric, _in_percent)


def of_best(cell: Mapping[str, Any], metric: str) -> str:
    """Returns an accuracy of the best trial of a search's cell, in %.

    For a best setting that was trained again, the accuracy is that of all its seeds.
    """
    if cell["retrained"]:
        return percent(cell, metric)
    return "-" if math.isnan(cell[metric]) else _in_percent(cell[metric])


def _in_percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f}"
