"""Writes the measurements of a run: curves, results, summary; for TensorBoard and trackers too.

Only the columns `*_seconds` and `steps_per_second` of the tables depend on the clock. All other
bytes of `metrics.jsonl` and the tables are equal in an interrupted and an uninterrupted run.
"""

import json
import math
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from highway_jax import files
from highway_jax.config.schema import SCHEMA
from highway_jax.errors import UserError
from highway_jax.storage import tables
from highway_jax.storage.summaries import summarize
from highway_jax.storage.tables import MEASURED, RESULTS, SUMMARY
from highway_jax.storage.tensorboard import Events
from highway_jax.storage.tracking import Trackers
from highway_jax.sweep import design
from highway_jax.sweep.outcomes import NUMBERS

SHOWN = ("activation", "block", "depth", "width", *NUMBERS, "seed", "status")
"""Columns of results.csv that TensorBoard and trackers show, besides the varied keys."""


class Records:
    """The record files of one working directory."""

    def __init__(
        self,
        directory: Path,
        config: ConfigDict,
        cells: list[design.Cell] | None = None,
        *,
        writes: bool = True,
    ):
        """Initializes the records without reading or writing files.

        Args:
            directory: The working directory.
            config: The config of the run.
            cells: The run's cells; None for those of a new run.
            writes: Whether TensorBoard and trackers get what is recorded, as the config says.

        Raises:
            UserError: If the package of a tracker is not installed.
        """
        self._directory = Path(directory)
        self._config = config
        self._cells = design.cells(config) if cells is None else cells
        self._own_columns = tables.own_columns(config)
        self._metrics = self._directory / "metrics.jsonl"
        self._results = self._directory / "results.csv"
        tensorboard = writes and config.runtime.tensorboard
        self._events = Events(self._directory / "tensorboard") if tensorboard else None
        self._trackers = Trackers(config, self._directory, writes)
        self._unsent: list[tuple[dict[str, Any], dict[str, float]]] = []

    def open(self) -> None:
        """Connects to the trackers; raises `UserError` if one cannot be used."""
        self._trackers.open()

    def add_epoch(self, lines: Iterable[dict[str, Any]]) -> None:
        """Appends a line for each trial to metrics.jsonl; returns once they are on disk."""
        lines = list(lines)
        text = "".join(json.dumps({k: _json(v) for k, v in line.items()}) + "\n" for line in lines)
        with self._metrics.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        for line in lines:
            values = {_tag(key): _json(line.get(key)) for key in ("learning_rate", *MEASURED)}
            known = {tag: value for tag, value in values.items() if value is not None}
            if self._events:
                self._events.add_scalars(line, known)
            self._unsent.append((line, known))

    def send(self) -> None:
        """Sends the epochs added so far to the trackers, once a checkpoint has them.

        Training never resumes from before them, so that no point is sent twice.
        """
        unsent, self._unsent = self._unsent, []
        for line, values in unsent:
            self._trackers.call("add_scalars", line, values)

    def add_gates(self, lines: list[dict[str, Any]], gates: np.ndarray) -> None:
        """Adds images of mean gate outputs to TensorBoard.

        Args:
            lines: One epoch's line of each trial.
            gates: Mean gate outputs [trials, blocks, width].
        """
        for line, own in zip(lines, gates, strict=True):
            if self._events and not line["diverged"]:
                self._events.add_gates(line, own)

    def rewind(self, trials: Collection[int], epoch: int) -> None:
        """Removes the lines of trials after an epoch, and an incomplete last line.

        Args:
            trials: Indices of the trials.
            epoch: The last epoch recorded before the checkpoint from which training resumes; 0 if
                there is none.

        Raises:
            UserError: If a line is damaged, or the lines of that epoch are missing.
        """
        self._unsent.clear()
        kept, last = [], dict.fromkeys(trials, 0)
        for text, line in self._epochs():
            trial, at = line["trial"], line["epoch"]
            if trial not in last or at <= epoch:
                kept.append(text)
            if trial in last and at <= epoch:
                last[trial] = max(last[trial], at)
        for trial, at in last.items():
            if at != epoch:
                raise UserError(
                    f"{self._metrics}: ends at epoch {at} of trial {trial}, but its checkpoint is"
                    f" at epoch {epoch}; restore the file, or use another workdir"
                )
        files.write_atomically(self._metrics, "".join(line + "\n" for line in kept))

    def losses(self, trials: Collection[int]) -> dict[int, dict[int, float]]:
        """Returns the finite training losses of trials by epoch.

        Raises:
            UserError: If a line of metrics.jsonl is damaged.
        """
        found: dict[int, dict[int, float]] = {trial: {} for trial in trials}
        for _, line in self._epochs():
            loss = line.get("train_loss")
            if line["trial"] in found and isinstance(loss, (int, float)):
                found[line["trial"]][line["epoch"]] = loss
        return found

    def _epochs(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the lines of metrics.jsonl as text and as data, except an incomplete last one."""
        texts = []
        if self._metrics.exists():
            texts = self._metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, text in enumerate(texts, 1):
            try:
                line = json.loads(text)
                line |= {"trial": int(line["trial"]), "epoch": int(line["epoch"])}
            except (ValueError, KeyError, TypeError) as error:
                if number == len(texts):
                    break  # Incomplete after a crash; its epoch is trained again.
                raise UserError(
                    f"{self._metrics}: line {number} is damaged; restore the file, or use another"
                    " workdir"
                ) from error
            yield text, line

    def results(self) -> list[dict[str, Any]]:
        """Returns the parsed rows of results.csv; no rows if there is no file.

        Columns are identified by name, so tables of other versions can be read. The values of
        missing columns are taken from the config if it has them, and are NaN or empty otherwise.

        Raises:
            UserError: If the file is not a results table of this run.
        """
        if not self._results.exists():
            return []
        try:
            columns, rows = tables.read(self._results, tables.num_trials(self._cells))
        except (OSError, ValueError) as error:
            raise UserError(
                f"{self._results}: cannot be read ({error}); restore the file, or use another"
                " workdir"
            ) from error
        return tables.complete(columns, rows, self._config, self._cells)

    def write_results(self, rows: list[dict[str, Any]]) -> None:
        """Writes results.csv, and summary.csv from it, each atomically.

        Unknown columns, such as those of a later version, are kept.
        """
        columns = tables.with_own(RESULTS, self._own_columns)
        names = dict.fromkeys(name for row in rows for name in row)
        others = [name for name in names if name not in columns and name not in SCHEMA]
        rows = [
            {name: row[name] for name in columns} | {name: row.get(name, "") for name in others}
            for row in rows
        ]
        tables.write(self._results, (*columns, *others), rows)
        self.write_summary(rows)

    def write_summary(self, rows: list[dict[str, Any]]) -> None:
        """Writes summary.csv from the rows of results.csv, atomically."""
        columns = tables.with_own(SUMMARY, self._own_columns)
        tables.write(self._directory / "summary.csv", columns, summarize(rows))

    def add_settings(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds the hyperparameters and results of settled trials to TensorBoard and trackers."""
        for row in rows:
            values = {key: row[key] for key in (*SHOWN, *self._own_columns)}
            settings = {k: str(v) if isinstance(v, tuple) else v for k, v in values.items()}
            measured = {f"final/{k}": row[k] for k in MEASURED if math.isfinite(row[k])}
            if self._events:
                self._events.add_settings(row, settings, measured)
            self._trackers.call("add_settings", row, settings, measured)

    def close(self) -> None:
        """Closes the event files, and waits until the trackers have everything."""
        if self._events:
            self._events.close()
        self._trackers.call("close")


def _tag(key: str) -> str:
    """Returns the TensorBoard tag of a curve; curves of one kind form a group."""
    group, _, leaf = key.partition("_") if key in MEASURED else ("", "", key)
    return f"{leaf}/{group}" if group else leaf


def _json(value: Any) -> Any:
    """Returns a value, or None for NaN and infinity, which JSON lacks."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
