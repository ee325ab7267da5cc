"""What a person sees of a run: what will be trained, a progress bar, the table at the end."""

import contextlib
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import IO, Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from highway_jax import files
from highway_jax.storage.summaries import differing, texts

LOG_SECONDS = 10.0
CLOSED = "standard output is closed"


class Output:
    """A text stream whose methods do not raise: it drops what cannot be written.

    Progress bars also write from a background thread, and rich exits the process when a pipe is
    closed. Errors are therefore caught here and not where a display is used.

    Attributes:
        failure: Why something could not be written, in words; empty as long as all could.
    """

    def __init__(self, stream: IO[str] | None):
        self._stream = stream
        self.failure = CLOSED if stream is None else ""

    def write(self, text: str) -> int:
        """Writes a text, with `?` for characters that the stream's encoding lacks."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        known = text.encode(encoding, "replace").decode(encoding)
        self._attempt(lambda: self._stream.write(known))
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        self._attempt(lambda: self._stream.flush())

    def _attempt(self, function: Callable[[], Any]) -> None:
        if not self.failure:
            try:
                function()
            except Exception as error:  # A stream may be anything that has these methods.
                self.failure = f"standard output cannot be written ({files.reason(error)})"
                if isinstance(error, BrokenPipeError | ValueError):
                    self.failure = CLOSED

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Display:
    """Shows a run on a terminal, or as plain lines where the output is not one.

    An output that fails does not raise: training does not depend on it.
    """

    def __init__(self, *, enabled: bool = True, console: Console | None = None):
        """Makes a display.

        Args:
            enabled: Whether progress is shown; tables always are.
            console: Where to show it; standard output by default. Its file is wrapped.
        """
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._output = Output(self.console.file if console or sys.stdout else None)
        self.console.file = self._output
        self._enabled = enabled
        self._has_warned = False

    @property
    def failure(self) -> str:
        """Why something could not be shown, in words; empty if all was."""
        return self._output.failure

    def say(self, line: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._enabled:
            self.console.print(line, markup=False)
            self.check()

    def check(self) -> None:
        """Warns, once, that progress is no longer shown."""
        if self.failure and not self._has_warned:
            self._has_warned = True
            logging.warning("%s; training continues without progress", self.failure)

    @contextlib.contextmanager
    def batch(self, name: str, total_steps: int, done_steps: int) -> Iterator["Bar"]:
        """Shows the progress of one batch of trials."""
        if not self._enabled:
            yield Bar()
        elif self.console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=24),
                TextColumn("{task.percentage:>3.0f}%"),
                TextColumn("{task.fields[status]}"),
                TimeRemainingColumn(compact=True),
            )
            with Progress(*columns, console=self.console) as progress:
                yield _TerminalBar(self, progress, name, total_steps, done_steps)
        else:
            yield _LogBar(self, name, total_steps)

    def table(self, summary: Sequence[dict[str, Any]]) -> None:
        """Prints results in the paper's form: best (mean ± standard deviation).

        Args:
            summary: Rows of `summaries.summarize`. Settings in which they differ have columns;
                those with the best mean validation accuracy come first, where there is one.
        """
        summary = _by_validation(summary, "valid_accuracy_mean")
        columns = {
            "Trials": [str(row["trials"]) for row in summary],
            **_accuracies("Validation", [percent(row, "valid_accuracy") for row in summary]),
            "Test accuracy (%)": [percent(row, "test_accuracy") for row in summary],
            "Training loss": [_loss(row["train_loss_mean"]) for row in summary],
        }
        names = [
            row["case"] + (f" ({row['diverged']} diverged)" if row["diverged"] else "")
            for row in summary
        ]
        self._print(names, summary, columns)

    def search_table(self, cells: Sequence[dict[str, Any]]) -> None:
        """Prints what a search found.

        Args:
            cells: Rows of `summaries.summarize_search`, one a cell. Settings in which their best
                trials differ have columns; those with the best validation accuracy come first,
                where there is one.
        """
        cells = _by_validation(cells, "valid_accuracy")
        columns = {
            "Trials": [str(cell["trials"]) for cell in cells],
            "Diverged": [str(cell["diverged"]) for cell in cells],
            "Best training loss": [_loss(cell["train_loss"]) for cell in cells],
            "at epoch": [str(cell["epochs"]) for cell in cells],
            **_accuracies("its validation", [of_best(cell, "valid_accuracy") for cell in cells]),
            "its test accuracy (%)": [of_best(cell, "test_accuracy") for cell in cells],
        }
        self._print([cell["case"] for cell in cells], cells, columns)

    def _print(
        self, names: list[str], rows: Sequence[dict[str, Any]], columns: dict[str, list[str]]
    ) -> None:
        columns = {
            "Layers": [str(row["depth"]) for row in rows],
            **{name: texts([row[name] for row in rows]) for name in differing(rows, ["depth"])},
            "Parameters": [f"{row['num_parameters']:,}" for row in rows],
            **columns,
        }
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("Network", no_wrap=True)
        for heading in columns:
            table.add_column(heading, justify="right", no_wrap=True)
        for cells in zip(names, *columns.values(), strict=True):
            table.add_row(*map(Text, cells))
        self._print_whole(table)

    def _print_whole(self, table: Table) -> None:
        # Whole even where the terminal is narrower, or a log that rich takes to be 80 wide.
        wide = self.console.options.update(width=1000)
        before = self.console.width
        self.console.width = self.console.measure(table, options=wide).maximum
        self.console.print(table)
        self.console.width = before


def _by_validation(rows: Sequence[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Returns rows with the largest value first, those without one last and in their order."""
    return sorted(rows, key=lambda row: -row[metric] if math.isfinite(row[metric]) else math.inf)


def _accuracies(of: str, values: list[str]) -> dict[str, list[str]]:
    """Returns a column of accuracies, or none where no row has one."""
    return {f"{of} accuracy (%)": values} if set(values) - {"-"} else {}


def _loss(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def format_rate(steps_per_second: float) -> str:
    """Returns a rate to two digits at least: large nets take less than a step a second."""
    digits = 0 if steps_per_second >= 10 else 1 if steps_per_second >= 1 else 2
    return f"{steps_per_second:,.{digits}f} steps/s"


def best_mean_std(row: dict[str, Any], metric: str, form: Any) -> str:
    """Returns "best (mean ± std)" of a metric of a summary row; "-" if no trial converged."""
    best, mean, std = (row[f"{metric}_{statistic}"] for statistic in ("best", "mean", "std"))
    if math.isnan(best):
        return "-"
    return form(best) if math.isnan(std) else f"{form(best)} ({form(mean)} ± {form(std)})"


def percent(row: dict[str, Any], metric: str) -> str:
    """Returns "best (mean ± std)" of an accuracy of a summary row, in %."""
    return best_mean_std(row, metric, lambda v: f"{100 * v:.2f}")


def of_best(cell: dict[str, Any], metric: str) -> str:
    """Returns an accuracy of the best trial of a search's cell, in %.

    Of a best setting that was trained again, it is that of all its seeds.
    """
    if cell["retrained"]:
        return percent(cell, metric)
    return "-" if math.isnan(cell[metric]) else f"{100 * cell[metric]:.2f}"


class Bar:
    """Progress that is not shown."""

    def advance(self, steps: int, status: str) -> None:
        """Notes that training stands at a number of steps."""


class _TerminalBar(Bar):
    def __init__(self, display: Display, progress: Progress, name: str, total: int, done: int):
        self._display, self._progress = display, progress
        self._task = progress.add_task(name, total=total, completed=done, status="compiling")

    def advance(self, steps: int, status: str) -> None:
        self._progress.update(self._task, completed=steps, status=status)
        self._display.check()


class _LogBar(Bar):
    def __init__(self, display: Display, name: str, total: int):
        self._display, self._name, self._total = display, name, total
        self._last = time.monotonic()

    def advance(self, steps: int, status: str) -> None:
        if steps >= self._total or time.monotonic() - self._last >= LOG_SECONDS:
            self._last = time.monotonic()
            self._display.say(f"{self._name}: {100 * steps // self._total:3d}%  {status}")
