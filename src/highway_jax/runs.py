"""Runs as they lie on disk, finished or not, for those who only read them."""

import gzip
import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from highway_jax import findings
from highway_jax.errors import UserError
from highway_jax.findings import Findings
from highway_jax.records import read_rows


class Run(NamedTuple):
    """The records of one run.

    Attributes:
        name: The name in its config; with its directory, if another run beside it has that name.
        directory: Its working directory.
        config: `config.json`.
        environment: `environment.json`.
        rows: Rows of results.csv, numbers as numbers.
        curves: Lines of metrics.jsonl by trial, in the order of epochs.
        inside: What `highway_jax.analyze` found, by trial.
    """

    name: str
    directory: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, Any]]
    curves: dict[int, list[dict[str, Any]]]
    inside: dict[int, Findings]

    def curve(self, trial: int, metric: str) -> tuple[list[int], list[float]]:
        """Returns epochs and values of a trial where the metric was measured."""
        lines = [line for line in self.curves.get(trial, ()) if line.get(metric) is not None]
        return [line["epoch"] for line in lines], [line[metric] for line in lines]


def read(directory: Path) -> Run:
    """Reads the records of a run; what it is still training has curves and no rows.

    `metrics.jsonl` may be compressed, as `metrics.jsonl.gz`.

    Raises:
        UserError: If there are none, or they cannot be read.
    """
    directory = Path(directory)
    try:
        config, environment = (
            dict(json.loads((directory / f"{name}.json").read_text("utf-8")))
            for name in ("config", "environment")
        )
        table = directory / "results.csv"
        rows = read_rows(table)[1] if table.exists() else []
        curves: dict[int, list[dict[str, Any]]] = {}
        for text in _metrics(directory).splitlines():
            if text.endswith("}"):  # A run that is going on may be in the middle of a line.
                line = json.loads(text)
                curves.setdefault(line["trial"], []).append(line)
        for lines in curves.values():
            lines.sort(key=lambda line: line["epoch"])
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--workdir is {str(directory)!r}; allowed: a directory of a run ({error})"
        ) from error
    for row in rows:
        row.setdefault("architecture", "dense")  # Before there were others.
    inside = {
        int(path.parent.name.removeprefix("trial_")): findings.load(path)
        for path in sorted(directory.glob("analysis/trial_[0-9]*/findings.npz"))
    }
    return Run(config["name"], directory, config, environment, rows, curves, inside)


def read_all(directories: Iterable[Path | str]) -> list[Run]:
    """Reads several runs, each with a name of its own unless their directories are named alike.

    Raises:
        UserError: As `read`.
    """
    found = [read(Path(directory)) for directory in directories]
    times = Counter(run.name for run in found)
    return [
        run._replace(name=f"{run.name} ({run.directory.name})") if times[run.name] > 1 else run
        for run in found
    ]


def _metrics(directory: Path) -> str:
    plain, packed = directory / "metrics.jsonl", directory / "metrics.jsonl.gz"
    if plain.exists():
        return plain.read_text("utf-8")
    return gzip.decompress(packed.read_bytes()).decode() if packed.exists() else ""
