"""What a person sees of a run: what will be trained, a progress bar, the table at the end."""

import contextlib
import math
import time
from collections.abc import Iterator
from typing import Any

from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

LOG_SECONDS = 10.0


class Display:
    """Shows a run on a terminal, or as plain lines where the output is not one."""

    def __init__(self, *, enabled: bool = True, console: Console | None = None):
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._enabled = enabled

    def say(self, line: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._enabled:
            self.console.print(line, markup=False)

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
                yield _TerminalBar(progress, name, total_steps, done_steps)
        else:
            yield _LogBar(self, name, total_steps)

    def table(self, summary: list[dict[str, Any]]) -> None:
        """Prints results in the paper's form: best (mean ± standard deviation)."""
        table = _table("Layers", "Parameters", "Trials", "Test accuracy (%)", "Training loss")
        for row in summary:
            table.add_row(
                row["case"] + (f" ({row['diverged']} diverged)" if row["diverged"] else ""),
                str(row["depth"]),
                f"{row['num_parameters']:,}",
                str(row["trials"]),
                best_mean_std(row, "test_accuracy", lambda v: f"{100 * v:.2f}"),
                "-" if math.isnan(row["train_loss_mean"]) else f"{row['train_loss_mean']:.2g}",
            )
        self._print_whole(table)

    def search_table(self, cells: list[dict[str, Any]]) -> None:
        """Prints what a search found, a row for each cell (see `records.summarize_search`)."""
        table = _table(
            *("Layers", "Parameters", "Trials", "Diverged", "Best training loss"),
            *("at epoch", "its test accuracy (%)"),
        )
        for cell in cells:
            test = 100 * cell["test_accuracy"]
            table.add_row(
                cell["case"],
                str(cell["depth"]),
                f"{cell['num_parameters']:,}",
                str(cell["trials"]),
                str(cell["diverged"]),
                "-" if math.isnan(cell["train_loss"]) else f"{cell['train_loss']:.2g}",
                str(cell["epochs"]),
                "-" if math.isnan(test) else f"{test:.2f}",
            )
        self._print_whole(table)

    def _print_whole(self, table: Table) -> None:
        # Whole even where the terminal is narrower, or a log that rich takes to be 80 wide.
        wide = self.console.options.update(width=1000)
        before = self.console.width
        self.console.width = self.console.measure(table, options=wide).maximum
        self.console.print(table)
        self.console.width = before


def _table(*headings: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("Network", no_wrap=True)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    return table


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


class Bar:
    """Progress that is not shown."""

    def advance(self, steps: int, status: str) -> None:
        """Notes that training stands at a number of steps."""


class _TerminalBar(Bar):
    def __init__(self, progress: Progress, name: str, total: int, done: int):
        self._progress = progress
        self._task = progress.add_task(name, total=total, completed=done, status="compiling")

    def advance(self, steps: int, status: str) -> None:
        self._progress.update(self._task, completed=steps, status=status)


class _LogBar(Bar):
    def __init__(self, display: Display, name: str, total: int):
        self._display, self._name, self._total = display, name, total
        self._last = time.monotonic()

    def advance(self, steps: int, status: str) -> None:
        if steps >= self._total or time.monotonic() - self._last >= LOG_SECONDS:
            self._last = time.monotonic()
            self._display.say(f"{self._name}: {100 * steps // self._total:3d}%  {status}")
