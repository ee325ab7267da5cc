"""Reads the records of finished and unfinished runs, for analyses and reports."""

import gzip
import json
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from highway_jax.config import config as config_lib
from highway_jax.config.keys import NAME, is_name
from highway_jax.config.schema import SCHEMA
from highway_jax.errors import UserError, show
from highway_jax.storage import findings, tables
from highway_jax.storage.findings import Findings
from highway_jax.sweep import design, planning

Row = dict[str, Any]

_USED = ("data.name", "sweep.trials")
"""Settings of config.json on which reports depend."""


class Run(NamedTuple):
    """The records of one run.

    Attributes:
        name: The name in its config. Runs of the report that share it have their `stem` instead,
            in parentheses after the name if that is the name of a run.
        stem: Prefix of its figures' file names: the name of its directory, followed by a number if
            another run of the report has the same.
        directory: Its working directory.
        config: `config.json`, completed by defaults.
        environment: `environment.json`.
        rows: Parsed rows of results.csv.
        curves: Lines of metrics.jsonl by trial, sorted by epoch.
        settings: Case, seed and settings of each trial by column. Unfinished trials have settings
            only if this version can read the config.
        inside: Findings of `highway_jax.analyze`, by trial.
    """

    name: str
    stem: str
    directory: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    rows: list[Row]
    curves: dict[int, list[Row]]
    settings: dict[int, Row]
    inside: dict[int, Findings]

    def curve(self, trial: int, metric: str, x: str = "epoch") -> tuple[list[int], list[float]]:
        """Returns the epochs, or steps, and values of a metric of a trial where it was measured."""
        lines = [
            line
            for line in self.curves.get(trial, ())
            if None not in (line.get(x), line.get(metric))
        ]
        return [line[x] for line in lines], [line[metric] for line in lines]


def read(directory: Path) -> Run:
    """Reads the records of a run; unfinished trials have curves but no rows.

    `metrics.jsonl` may be compressed as `metrics.jsonl.gz`.

    Raises:
        UserError: If the records are missing or cannot be read.
    """
    directory = Path(directory)
    try:
        text = (directory / "config.json").read_text("utf-8")
        config = _config(dict(json.loads(text)))
        environment = dict(json.loads((directory / "environment.json").read_text("utf-8")))
        _check_environment(environment)
        curves = _curves(directory)
        settings = {
            trial: {"trial": trial, "case": lines[0].get("case", ""), "seed": lines[0].get("seed")}
            for trial, lines in curves.items()
        }
        rows, planned = _rows(directory / "results.csv", text, config, environment)
        settings |= planned | {row["trial"]: row for row in rows}
    except (OSError, EOFError, ValueError, TypeError, RecursionError, zlib.error) as error:
        raise UserError(
            f"workdir is {str(directory)!r}; allowed: a directory of a run ({error})"
        ) from error
    inside = {
        int(match[1]): findings.load(path)
        for path in sorted(directory.glob("analysis/*/findings.npz"))
        if (match := re.fullmatch(r"trial_(\d+)", path.parent.name, re.A))
    }
    stem = directory.absolute().name
    return Run(config["name"], stem, directory, config, environment, rows, curves, settings, inside)


def _config(tree: dict[str, Any]) -> dict[str, Any]:
    """Returns the content of a config.json of any version, completed by defaults."""
    if not is_name(tree.get("name")):
        raise ValueError(f"name in config.json is {show(tree.get('name'))}; allowed: {NAME}")
    tree = config_lib.current(tree)
    for key in _USED:
        section, _, leaf = key.rpartition(".")
        value, entry = tree[section][leaf], SCHEMA[key]
        if type(value) is not type(entry.default):
            raise ValueError(f"{key} in config.json is {show(value)}; allowed: {entry.allowed}")
    for name in ("grid", "draw"):
        _section(tree["sweep"], name)
    for name in _section(tree, "cases"):
        _section(tree["cases"], name)
    return tree


def _section(tree: dict[str, Any], name: str) -> dict[str, Any]:
    value = tree.setdefault(name, {})
    if not isinstance(value, dict):
        raise ValueError(f"{name} in config.json is {show(value)}; allowed: settings by name")
    return value


def _check_environment(environment: dict[str, Any]) -> None:
    for name in ("num_devices", "device_kind", "processor", "commit", "versions"):
        if name not in environment:
            raise ValueError(f"environment.json has no {name}; allowed: what a run wrote there")
    versions = environment["versions"]
    if not isinstance(versions, dict) or "jax" not in versions:
        raise ValueError(f"versions in environment.json is {show(versions)}; allowed: with jax")


def _curves(directory: Path) -> dict[int, list[Row]]:
    curves: dict[int, list[Row]] = {}
    for number, text in enumerate(_metrics(directory).splitlines(), 1):
        if not text.endswith("}"):  # A run in progress may be writing the line.
            continue
        try:
            line = dict(json.loads(text))
            values = (line.get(metric) for metric in tables.MEASURED)
            if not (
                all(type(line[name]) is int for name in ("trial", "epoch"))
                and type(line.get("step", 0)) is int
                and all(value is None or isinstance(value, int | float) for value in values)
            ):
                raise ValueError(
                    "allowed: whole trials, epochs and steps; measured numbers or null"
                )
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"line {number} of metrics.jsonl: {error}") from error
        curves.setdefault(line["trial"], []).append(line)
    for lines in curves.values():
        lines.sort(key=lambda line: line["epoch"])
    return curves


def _rows(
    path: Path, text: str, config: dict[str, Any], environment: dict[str, Any]
) -> tuple[list[Row], dict[int, Row]]:
    """Returns the rows of results.csv, if it exists, and the settings of all known trials.

    Args:
        path: The table.
        text: The text of config.json.
        config: Its content, as `_config` returns it.
        environment: The content of environment.json.
    """
    try:
        planned = config_lib.from_json(text)
        cells = design.cells(planned, design.Numbering.read(environment))
    except UserError:  # A config of another version, from which no trials can be planned.
        planned, cells = None, None
    columns, rows = (), []
    if path.exists():
        columns, rows = tables.read(path, None if cells is None else tables.num_trials(cells))
    if planned is None or cells is None:
        return _completed(columns, rows, config), {}
    rows = tables.complete(columns, rows, planned, cells)
    keys = (*tables.SETTINGS.values(), *config_lib.varied_keys(planned))
    shown = {tables.column(key): key for key in keys}
    settings = {
        index: {"case": trial.case, "seed": trial.seed, "trial": index}
        | {name: tables.plain(name, trial.settings[key]) for name, key in shown.items()}
        for index, trial in planning.find(planned, rows, cells).items()
    }
    return rows, settings


def _completed(columns: Sequence[str], rows: list[Row], config: dict[str, Any]) -> list[Row]:
    """Returns rows completed by the common settings for which the table has no columns."""
    varied = {tables.column(key) for key in config_lib.varied_keys(config)}
    if rows and (missing := sorted(varied - set(columns))):
        raise ValueError(
            f"results.csv has no column {missing[0]!r}, which the run varies; allowed: a table of"
            " this version, or a config.json that it can read"
        )
    for name, key in tables.SETTINGS.items():
        section, _, leaf = key.partition(".")
        for row in rows:
            row.setdefault(name, config[section][leaf])
    return rows


def read_all(directories: Iterable[Path | str]) -> list[Run]:
    """Reads several runs and makes their names and stems unique.

    Raises:
        UserError: As `read`.
    """
    found = [read(Path(directory)) for directory in directories]
    named, stems = Counter(run.name for run in found), set()
    for i, run in enumerate(found):
        stem, times = run.stem, 1
        while stem in stems:
            times += 1
            stem = f"{run.stem}-{times}"
        stems.add(stem)
        # The stem alone: after a long name, it is what charts and tables cut off.
        own = f"{run.name} ({stem})" if stem in named else stem
        name = run.name if named[run.name] == 1 else own
        found[i] = run._replace(name=name, stem=stem)
    return found


def _metrics(directory: Path) -> str:
    plain, packed = directory / "metrics.jsonl", directory / "metrics.jsonl.gz"
    if plain.exists():
        return plain.read_text("utf-8")
    return gzip.decompress(packed.read_bytes()).decode() if packed.exists() else ""
