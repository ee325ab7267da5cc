"""The one writer of what a run measured: curves, results, summary, TensorBoard events.

`metrics.jsonl` and the tables hold nothing that depends on the clock except the columns named
`*_seconds` and `steps_per_second`, so an interrupted run and one left alone can be compared byte
for byte.
"""

import csv
import io
import json
import math
import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from highway_jax import config as config_lib
from highway_jax import files
from highway_jax.errors import UserError
from highway_jax.events import Events

SETTING = (
    "case",
    "dataset",
    "architecture",
    "block",
    "depth",
    "width",
    "activation",
    "initializer",
    "gate",
    "nesterov",
    "schedule",
    "batch_size",
    *config_lib.NUMERIC,
    "epochs",
    "num_parameters",
)
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
"""Columns of results.csv: one row a trial.

`epochs` are those trained; `status` says what became of the trial at its `rung` (see
`highway_jax.trials`), and `projected_train_loss` what it is projected to end with (see
`highway_jax.projection`). `train_seconds` is the wall time that the trial's batch spent in training
steps, compiling and evaluating left out; `steps_per_second` is the steps of all trials of that
batch over this time.
"""

SHOWN = ("activation", "block", "depth", "width", *config_lib.NUMERIC, "seed", "status")
"""Columns of results.csv that TensorBoard shows as a trial's settings."""

_TEXTS = {"batch", "case", "dataset", "block", "activation", "initializer", "gate", "schedule"}
_TEXTS |= {"status", "architecture"}
_WHOLES = {"trial", "seed", "depth", "width", "batch_size", "epochs", "num_parameters", "steps"}
_WHOLES |= {"rung"}

SUMMARY = (
    *SETTING,
    "trials",
    "diverged",
    *(f"{m}_{s}" for m in ("test_accuracy", "train_loss") for s in ("best", "mean", "std")),
)
"""Columns of summary.csv: one row a setting; statistics are over its trials that converged."""


class Records:
    """The record files of one working directory."""

    def __init__(self, directory: Path, *, tensorboard: bool = True):
        self._directory = Path(directory)
        self._metrics = self._directory / "metrics.jsonl"
        self._results = self._directory / "results.csv"
        self._events = Events(self._directory / "tensorboard") if tensorboard else None

    def add_epoch(self, lines: Iterable[dict[str, Any]]) -> None:
        """Appends one epoch's line of each trial to metrics.jsonl; on disk when it returns."""
        lines = list(lines)
        text = "".join(json.dumps({k: _json(v) for k, v in line.items()}) + "\n" for line in lines)
        with self._metrics.open("a", encoding="utf-8", newline="") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        for line in lines if self._events else ():
            values = {_tag(key): _json(line.get(key)) for key in ("learning_rate", *MEASURED)}
            known = {tag: value for tag, value in values.items() if value is not None}
            self._events.add_scalars(line, known, line["epoch"])

    def add_gates(self, lines: list[dict[str, Any]], gates: np.ndarray) -> None:
        """Adds pictures of mean gates to TensorBoard.

        Args:
            lines: One epoch's line of each trial.
            gates: Mean gate outputs [trials, blocks, width].
        """
        for line, own in zip(lines, gates, strict=True):
            if self._events and not line["diverged"]:
                self._events.add_gates(line, own, line["epoch"])

    def rewind(self, trials: Collection[int], epoch: int) -> None:
        """Drops the lines of trials after an epoch, and a torn last line, from metrics.jsonl.

        Args:
            trials: Indices of the trials.
            epoch: The last epoch recorded before the checkpoint that training goes on from; 0 if
                there was none.

        Raises:
            UserError: If a line is damaged, or those of that epoch are not there.
        """
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
                    f"{self._metrics} ends at epoch {at} of trial {trial}, its checkpoint at"
                    f" {epoch}; restore the file, or use another --workdir"
                )
        files.write_atomically(self._metrics, "".join(line + "\n" for line in kept))

    def losses(self, trials: Collection[int]) -> dict[int, dict[int, float]]:
        """Returns the training losses of trials by epoch, where they are finite.

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
        """Yields the lines of metrics.jsonl as text and as data, but for a torn last one."""
        texts = []
        if self._metrics.exists():
            texts = self._metrics.read_text(encoding="utf-8", errors="replace").splitlines()
        for number, text in enumerate(texts, 1):
            try:
                line = json.loads(text)
                line |= {"trial": int(line["trial"]), "epoch": int(line["epoch"])}
            except (ValueError, KeyError, TypeError) as error:
                if number == len(texts):
                    break  # Torn by a crash: it belongs to an epoch that is trained again.
                raise UserError(
                    f"line {number} of {self._metrics} is damaged; restore the file, or use"
                    " another --workdir"
                ) from error
            yield text, line

    def results(self) -> list[dict[str, Any]]:
        """Returns the rows of results.csv, numbers as numbers; no rows if there is no file.

        Raises:
            UserError: If the file is not a results table of this version.
        """
        if not self._results.exists():
            return []
        try:
            columns, rows = read_rows(self._results)
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UserError(
                f"{self._results} cannot be read ({error}); restore it, or use another --workdir"
            ) from error
        # Tables of runs that began before losses were projected have no such column.
        if "projected_train_loss" not in columns:
            rows = [row | {"projected_train_loss": math.nan} for row in rows]
            columns = (*columns, "projected_train_loss")
        if sorted(columns) != sorted(RESULTS):
            raise UserError(
                f"{self._results} has other columns than this version writes;"
                " restore it, or use another --workdir"
            )
        return rows

    def write_results(self, rows: list[dict[str, Any]]) -> None:
        """Writes results.csv, and summary.csv from it; each file whole or not at all."""
        _write_csv(self._results, RESULTS, rows)
        self.write_summary(rows)

    def write_summary(self, rows: list[dict[str, Any]]) -> None:
        """Writes summary.csv from the rows of results.csv; whole or not at all."""
        _write_csv(self._directory / "summary.csv", SUMMARY, summarize(rows))

    def add_settings(self, rows: Iterable[dict[str, Any]]) -> None:
        """Adds what became of settled trials to TensorBoard, with their settings."""
        for row in rows if self._events else ():
            settings = {key: row[key] for key in SHOWN}
            measured = {_tag(key): row[key] for key in MEASURED}
            self._events.add_settings(row, settings, measured)

    def close(self) -> None:
        """Closes the event files."""
        if self._events:
            self._events.close()


def _tag(key: str) -> str:
    """Returns the name of a curve in TensorBoard, where those of one kind stand together."""
    group, _, leaf = key.partition("_") if key in MEASURED else ("", "", key)
    return f"{leaf}/{group}" if group else leaf


def read_rows(path: Path) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    """Returns the columns and rows of a results.csv of any version, numbers as numbers.

    Raises:
        OSError: If there is no such file.
        ValueError: If it is not such a table.
    """
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            rows = [{key: _parse(key, text) for key, text in row.items()} for row in reader]
        except (csv.Error, ValueError, TypeError, KeyError) as error:
            raise ValueError(f"line {reader.line_num}: {error}") from error
        return tuple(reader.fieldnames or ()), rows


def best(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the row with the smallest training loss among those trained furthest."""
    return min(rows, key=lambda r: (math.isnan(r["train_loss"]), -r["rung"], r["train_loss"]))


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row a setting, in the order of first appearance.

    The best test accuracy is the largest, the best training loss the smallest. The standard
    deviation is the sample's (n - 1), NaN for one trial. Diverged trials are counted, not
    averaged.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[key] for key in SETTING), []).append(row)
    summary = []
    for setting, group in groups.items():
        converged = [row for row in group if not row["diverged"]]
        line = dict(zip(SETTING, setting, strict=True))
        line |= {"trials": len(group), "diverged": len(group) - len(converged)}
        for metric, best in (("test_accuracy", max), ("train_loss", min)):
            # Failed trials, and those whose test was not read, have none.
            values = [row[metric] for row in converged if math.isfinite(row[metric])]
            line[f"{metric}_best"] = best(values) if values else math.nan
            line[f"{metric}_mean"] = float(np.mean(values)) if values else math.nan
            line[f"{metric}_std"] = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
        summary.append(line)
    return summary


def summarize_search(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns one row for each case and net of a search, in the order of first appearance.

    Each is the row of the trial with the smallest training loss, among those that were trained
    furthest, with the numbers of `trials` and of `diverged` ones.
    """
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        net = (row["case"], row["dataset"], row["architecture"], row["depth"], row["width"])
        groups.setdefault(net, []).append(row)
    return [
        best(group) | {"trials": len(group), "diverged": sum(row["diverged"] for row in group)}
        for group in groups.values()
    ]


def _write_csv(path: Path, columns: tuple[str, ...], rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: _format(row[key]) for key in columns} for row in rows)
    files.write_atomically(path, text.getvalue())


def _format(value: Any) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    return str(value)


def _parse(key: str, text: str) -> Any:
    if key in _TEXTS:
        return text
    if text in ("True", "False"):
        return text == "True"
    if text == "":
        return math.nan
    return int(text) if key in _WHOLES else float(text)


def _json(value: Any) -> Any:
    """JSON has no NaN or infinity: both become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
