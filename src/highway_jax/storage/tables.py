"""The columns of results.csv and summary.csv, and how these files are read and written.

Tables are read by the names of their columns, so those of older and newer versions can be read.
"""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from highway_jax import files
from highway_jax.config import aliases
from highway_jax.config import config as config_lib
from highway_jax.config.schema import SCHEMA
from highway_jax.errors import show
from highway_jax.sweep import outcomes, planning
from highway_jax.sweep.design import Cell
from highway_jax.sweep.outcomes import SETTINGS, column

SETTING = ("case", *SETTINGS, "epochs", "num_parameters")
MEASURED = (
    "train_loss",
    "train_accuracy",
    "valid_loss",
    "valid_accuracy",
    "test_loss",
    "test_accuracy",
)
RESULTS = (
    "batch",
    "trial",
    *SETTING,
    "seed",
    "rung",
    "status",
    "steps",
    *MEASURED,
    "projected_train_loss",
    "diverged",
    "compile_seconds",
    "train_seconds",
    "steps_per_second",
)
"""Columns of every results.csv, which has one row for each trial.

`epochs` is the number of epochs trained, `status` the state of the trial at its `rung` (see
`highway_jax.sweep.outcomes`), and `projected_train_loss` its projected final loss (see
`highway_jax.sweep.projection`). `train_seconds` is the wall time of the training steps of the
trial's batch, without compilation and evaluation. `steps_per_second` is the number of steps of all
trials of the batch divided by this time.
"""

SUMMARIZED = ("test_accuracy", "train_loss", "valid_accuracy")
SUMMARY = (
    *SETTING,
    "trials",
    "diverged",
    *(f"{metric}_{statistic}" for metric in SUMMARIZED for statistic in ("best", "mean", "std")),
)
"""Columns of every summary.csv: a row for each setting; diverged trials are not averaged."""

_REQUIRED = ("batch", "trial", "case", "rung", "status", "diverged")
_STATUSES = (outcomes.WAITING, outcomes.PROMOTED, *outcomes.SETTLED)
_TYPES: dict[str, type] = {
    **{key: type(entry.default) for key, entry in SCHEMA.items()},
    **{name: type(SCHEMA[key].default) for name, key in SETTINGS.items()},
    **dict.fromkeys(("batch", "case", "status"), str),
    **dict.fromkeys(("trial", "epochs", "num_parameters", "seed", "rung", "steps"), int),
    **dict.fromkeys((*MEASURED, "projected_train_loss"), float),
    **dict.fromkeys(("compile_seconds", "train_seconds", "steps_per_second"), float),
    "diverged": bool,
}
_WORDS = {int: "a whole number", float: "a number", bool: "True or False", tuple: "a list"}


def own_columns(config: ConfigDict | Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the columns of a run's tables that are not in `RESULTS` and `SUMMARY`."""
    return tuple(key for key in config_lib.varied_keys(config) if column(key) == key)


def with_own(columns: Sequence[str], own: Sequence[str]) -> tuple[str, ...]:
    """Returns `RESULTS` or `SUMMARY` with further columns of settings after the others."""
    end = columns.index(SETTING[-1]) + 1
    return (*columns[:end], *own, *columns[end:])


def setting_columns(rows: Iterable[Mapping[str, Any]]) -> tuple[str, ...]:
    """Returns the columns of settings in the rows of a table."""
    names = dict.fromkeys(name for row in rows for name in row)
    own = (n for n in names if "." in n and n.partition(".")[0] in config_lib.CASE_SECTIONS)
    return (*SETTINGS, *own)


def num_trials(cells: Iterable[Cell]) -> int:
    """Returns the largest number of trials of cells, including retrained best settings."""
    return sum(len(cell.trials) + len(cell.retrained) for cell in cells)


def read(path: Path, num_trials: int | None = None) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Returns the columns and the parsed rows of a results.csv of any version.

    Missing columns of measurements are added to the rows as NaN or empty text; for missing columns
    of settings see `complete`. The values of unknown columns are texts.

    Args:
        path: The file.
        num_trials: Number of trials of the run, where it is known.

    Raises:
        OSError: If there is no such file.
        ValueError: If the table is invalid; the message names the line and what is allowed.
    """
    rows, lines = [], []
    with path.open(encoding="utf-8-sig", newline="") as file:  # Spreadsheets write a BOM.
        reader = csv.DictReader(file, strict=True)
        try:
            columns = tuple(map(aliases.current_path, reader.fieldnames or ()))
            for row in reader:
                rows.append(_parse_row(row))
                lines.append(reader.line_num)
        except (csv.Error, ValueError) as error:
            raise ValueError(f"line {reader.line_num} of {path.name}: {error}") from error
    for name in _REQUIRED:
        if name not in columns:
            raise ValueError(f"{path.name} has no column {name!r}; allowed: a table of a run")
    for name in columns:
        if columns.count(name) > 1:
            raise ValueError(f"{path.name} has the column {show(name)} twice; allowed: once")
    seen: dict[int, int] = {}
    for row, line in zip(rows, lines, strict=True):
        try:
            _check_row(row, num_trials)
            if row["trial"] in seen:
                raise ValueError(
                    f"trial is {row['trial']}, as in line {seen[row['trial']]}; allowed: one row"
                    " for each trial"
                )
        except ValueError as error:
            raise ValueError(f"line {line} of {path.name}: {error}") from error
        seen[row["trial"]] = line
        for name in RESULTS:
            if name not in row and name not in SETTINGS:
                row[name] = _blank(name)
    return columns, rows


def _parse_row(row: dict[str | None, Any]) -> dict[str, Any]:
    if None in row or None in row.values():
        raise ValueError(
            "the number of cells differs from that of the first line; allowed: equal numbers"
        )
    parsed = {}
    for old, text in row.items():
        name = aliases.current_path(old or "")
        parsed[name] = aliases.current_value(SETTINGS.get(name, name), _parse(name, text))
    return parsed


def _parse(name: str, text: str) -> Any:
    kind = _TYPES.get(name, str)
    if kind is str:
        return text
    if text == "":
        return math.nan
    try:
        if kind is bool:
            return {"true": True, "false": False}[text.lower()]
        return tuple(json.loads(text)) if kind is tuple else kind(text)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"{name} is {show(text)}; allowed: {_WORDS[kind]}") from error


def _check_row(row: dict[str, Any], num_trials: int | None) -> None:
    for name in _REQUIRED:
        if row[name] == _blank(name) or row[name] is math.nan:
            raise ValueError(f"{name} is empty; allowed: {_WORDS.get(_TYPES[name], 'a text')}")
    if row["trial"] < 0 or (num_trials is not None and row["trial"] >= num_trials):
        allowed = "0 or more" if num_trials is None else f"0 to {num_trials - 1}"
        raise ValueError(f"trial is {row['trial']}; allowed: {allowed}, the trials of the run")
    if row["status"] not in _STATUSES:
        raise ValueError(f"status is {show(row['status'])}; allowed: {', '.join(_STATUSES)}")


def complete(
    columns: Sequence[str], rows: list[dict[str, Any]], config: ConfigDict, cells: list[Cell]
) -> list[dict[str, Any]]:
    """Returns rows completed by the settings that have a column in this version.

    Args:
        columns: Columns of the table that was read.
        rows: Its rows.
        config: The run's config, which has the missing settings.
        cells: The run's cells.
    """
    varied = config_lib.varied_keys(config)
    missing = {column(key): key for key in (*SETTINGS.values(), *varied)}
    missing = {name: key for name, key in missing.items() if name not in columns}
    if not missing:
        return rows
    common = {k: v for k, v in config_lib.flatten(config).items() if k not in varied}
    known = planning.find(config, rows, cells)
    completed = []
    for row in rows:
        # A retrained trial is unknown if a row of its cell is missing.
        found = known[row["trial"]].settings if row["trial"] in known else common
        values = {name: found.get(key, _blank(name)) for name, key in missing.items()}
        completed.append(row | {name: plain(name, value) for name, value in values.items()})
    return completed


def write(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Writes a table atomically."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _format(name, row[name]) for name in columns} for row in rows)
    files.write_atomically(path, text.getvalue())


def _format(name: str, value: Any) -> str:
    value = plain(name, value)
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return json.dumps(value) if isinstance(value, tuple) else str(value)


def plain(name: str, value: Any) -> Any:
    """Returns a value as it is after writing and reading: an int of a float setting is a float."""
    return float(value) if _TYPES.get(name) is float and value is not None else value


def _blank(name: str) -> Any:
    return "" if _TYPES.get(name, str) is str else math.nan
