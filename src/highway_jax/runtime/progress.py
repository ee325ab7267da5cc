"""The terminal output of a run: introduction, progress bar, table of results."""

import contextlib
import itertools
import logging
import math
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import IO, Any, cast

from rich import box
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from highway_jax import files
from highway_jax.errors import UserError
from highway_jax.storage.summaries import differing, layers, of_best, percent, texts

LOG_SECONDS = 10.0
_MOST_ROWS = 40
CLOSED = "standard output is closed"


class Output:
    """A text stream whose methods do not raise: text that cannot be written is dropped.

    Progress bars also write from a background thread, and rich exits the process when a pipe is
    closed. Errors are therefore caught here and not where a display is used.

    Attributes:
        failure: Why writing failed; empty as long as it did not.
    """

    def __init__(self, stream: IO[str] | None):
        self._stream = stream
        self.failure = CLOSED if stream is None else ""

    @property
    def stream(self) -> IO[str]:
        """This object, typed as a stream."""
        return cast(IO[str], self)

    def check(self) -> None:
        """Raises `UserError` if writing failed, unless the reader closed the pipe."""
        if self.failure not in ("", CLOSED):
            raise UserError(f"{self.failure}; allowed: a file that can be written, or a pipe")

    def write(self, text: str) -> int:
        """Writes a text, with `?` for characters that the stream's encoding lacks."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        known = text.encode(encoding, "replace").decode(encoding)
        self._attempt("write", known)
        return len(text)

    def flush(self) -> None:
        """Flushes the stream."""
        self._attempt("flush")

    def _attempt(self, method: str, *arguments: str) -> None:
        if not self.failure:
            try:
                getattr(self._stream, method)(*arguments)
            except Exception as error:  # A stream may be any object with these methods.
                self.failure = f"standard output cannot be written ({files.reason(error)})"
                if isinstance(error, BrokenPipeError | ValueError):
                    self.failure = CLOSED

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Bar:
    """The progress of a run; this one is not displayed."""

    def advance(self, done: float, status: str) -> None:
        """Updates the progress.

        Args:
            done: Work done, in the unit of the total.
            status: The current batch of trials and its losses and accuracies.
        """


class Display:
    """Displays a run on a terminal, or as lines of text where the output is not a terminal.

    An output error does not raise, since training does not depend on the output.
    """

    def __init__(self, *, enabled: bool = True, console: Console | None = None):
        """Creates a display.

        Args:
            enabled: Whether progress is displayed; tables always are.
            console: The output; standard output by default. Its file is wrapped.
        """
        self.console = console or Console(highlight=False, soft_wrap=True)
        self._output = Output(self.console.file if console or sys.stdout else None)
        self.console.file = self._output.stream
        self._enabled = enabled
        self._has_warned = False

    @property
    def failure(self) -> str:
        """Why the output failed; empty if it did not."""
        return self._output.failure

    def say(self, line: str) -> None:
        """Prints a line, above the progress bar if there is one."""
        if self._enabled:
            self.console.print(line, markup=False, soft_wrap=True)
            self.check()

    def check(self) -> None:
        """Warns, once, that progress is no longer displayed."""
        if self.failure and not self._has_warned:
            self._has_warned = True
            logging.warning("%s; training continues without progress", self.failure)

    @contextlib.contextmanager
    def training(self, name: str, total: float, done: float = 0) -> Iterator[Bar]:
        """Displays the progress of a run within the block; complete where the block is left.

        Args:
            name: Name of the run.
            total: Work of the whole run, in any unit.
            done: Work done before.
        """
        if not self._enabled:
            yield Bar()
        elif self.console.is_terminal:
            with _TerminalProgress(self.console) as progress:
                bar = _TerminalBar(self, progress, name, total, done)
                yield bar
                bar.advance(total, "")
        else:
            yield _LogBar(self, name, total)

    def table(self, summary: Sequence[dict[str, Any]]) -> None:
        """Prints results as the paper reports them: best (mean ± standard deviation).

        Args:
            summary: Rows of `summaries.summarize`. Settings in which they differ have columns;
                rows are sorted by mean validation accuracy if there is a validation split.
        """
        summary = _by_validation(summary, "valid_accuracy_mean")
        columns = {
            "Trials": [str(row["trials"]) for row in summary],
            **_accuracies("Validation", [percent(row, "valid_accuracy") for row in summary]),
            "Test accuracy (%)": [percent(row, "test_accuracy") for row in summary],
            "Train loss": [_loss(row["train_loss_mean"]) for row in summary],
        }
        self._print(summary, columns)

    def search_table(self, cells: Sequence[dict[str, Any]]) -> None:
        """Prints the results of a search.

        Args:
            cells: Rows of `summaries.summarize_search`, one for each cell. Settings in which their
                best trials differ have columns; rows are sorted by validation accuracy if there is
                a validation split.
        """
        cells = _by_validation(cells, "valid_accuracy")
        columns = {
            "Trials": [str(cell["trials"]) for cell in cells],
            "Best train loss": [_loss(cell["train_loss"]) for cell in cells],
            "at epoch": [str(cell["epochs"]) for cell in cells],
            **_accuracies("its validation", [of_best(cell, "valid_accuracy") for cell in cells]),
            "its test accuracy (%)": [of_best(cell, "test_accuracy") for cell in cells],
        }
        self._print(cells, columns)

    def _print(self, rows: Sequence[dict[str, Any]], columns: dict[str, list[str]]) -> None:
        """Prints a table of rows in the first form that fits the console, or the narrowest.

        Where settings in which rows differ have no room for columns, they are below each row. Of
        many rows, only the first are printed.
        """
        left_out = len(rows) - _MOST_ROWS
        rows = rows[:_MOST_ROWS]
        columns = {heading: cells[:_MOST_ROWS] for heading, cells in columns.items()}
        cases = [row["case"] for row in rows]
        varied = {key: texts([row[key] for row in rows]) for key in differing(rows, ["depth"])}
        # A case is often named after the block, or another setting, that only it has.
        own = [case.removesuffix("-best") for case in cases]
        varied = {key: values for key, values in varied.items() if values != own}
        varied = dict(zip(_short(varied), varied.values(), strict=True))
        names = [
            row["case"] + (f" ({row['diverged']} diverged)" if row["diverged"] else "")
            for row in rows
        ]
        first = {"Layers": [layers(row) for row in rows]}
        last = columns
        parameters = {"Params": [f"{row['num_parameters']:,}" for row in rows]}
        notes = [
            ", ".join(
                [f"{row['diverged']} diverged"] * bool(row["diverged"])
                + [f"{key} {values[i]}" for key, values in varied.items()]
            )
            for i, row in enumerate(rows)
        ]
        short = ["\n".join(textwrap.wrap(case, 15)) for case in cases]
        width = self.console.width
        for form in (
            (_table(names, first | varied | parameters | last), ()),
            (_table(names, first | varied | last), ()),
            (
                _table([name.replace(" (", "\n(") for name in names], first | varied | last, " ("),
                (),
            ),
            (_table(cases, first | parameters | last), notes),
            (_table(cases, first | last), notes),
            (_table(short, first | parameters | last, " ("), notes),
            (_table(short, first | last, " (", " ± "), notes),
        ):
            options = self.console.options.update(width=1000)
            needed = self.console.measure(form[0], options=options).maximum
            if needed <= width:
                break
        table, below = form
        self.console.width = max(width, needed)
        self.console.print(_with_notes(table, below, self.console) if any(below) else table)
        self.console.width = width
        if left_out > 0:
            self.console.print(f"{left_out:,} more rows are in summary.csv", soft_wrap=True)


def _table(names: list[str], columns: dict[str, list[str]], *breaks: str) -> Table:
    """Returns a table whose headings are wrapped to the width of their columns.

    Args:
        names: The first column.
        columns: The other columns by heading.
        *breaks: Texts within cells that begin a new line.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    table.add_column("Network", no_wrap=True)
    for text in breaks:
        new = f"\n{text.lstrip()}"
        columns = {key: [cell.replace(text, new) for cell in columns[key]] for key in columns}
    for heading, cells in columns.items():
        lines = [line for cell in cells for line in cell.split("\n")]
        widest = max(map(len, [*heading.split(), *lines]))
        wrapped = textwrap.wrap(heading, widest, break_long_words=False)
        table.add_column("\n".join(wrapped), justify="right", no_wrap=True)
    for row in zip(names, *columns.values(), strict=True):
        table.add_row(*map(Text, row))
    return table


def _with_notes(table: Table, notes: Sequence[str], console: Console) -> Text:
    """Returns a table as text, with a note below each row that is as wide as the console."""
    with console.capture() as captured:
        console.print(table)
    lines = captured.get().splitlines()
    rows = zip(*(map(str, column.cells) for column in table.columns), strict=True)
    heights = [max(cell.count("\n") for cell in row) + 1 for row in rows]
    head = len(lines) - sum(heights)
    parts, lines = lines[:head], iter(lines[head:])
    for height, note in zip(heights, notes, strict=True):
        parts += itertools.islice(lines, height)
        parts += textwrap.wrap(note, console.width - 1, initial_indent="  ", subsequent_indent="  ")
    return Text.from_ansi("\n".join(parts))


def _short(keys: Iterable[str]) -> list[str]:
    """Returns headings of keys: the last part of each, or all of it where that is ambiguous."""
    keys = list(keys)
    last = [key.rpartition(".")[2] for key in keys]
    chosen = [name if last.count(name) == 1 else key for key, name in zip(keys, last, strict=True)]
    return [name.replace(".", " ").replace("_", " ") for name in chosen]


def _by_validation(rows: Sequence[dict[str, Any]], metric: str) -> list[dict[str, Any]]:
    """Returns rows in falling order of a metric; rows without it come last, in their order."""
    return sorted(rows, key=lambda row: -row[metric] if math.isfinite(row[metric]) else math.inf)


def _accuracies(of: str, values: list[str]) -> dict[str, list[str]]:
    """Returns a column of accuracies, or no column if no row has one."""
    return {f"{of} accuracy (%)": values} if set(values) - {"-"} else {}


def _loss(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2g}"


def format_rate(steps_per_second: float) -> str:
    """Returns a rate with at least two digits: large nets take less than a step a second."""
    digits = 0 if steps_per_second >= 10 else 1 if steps_per_second >= 1 else 2
    return f"{steps_per_second:,.{digits}f} steps/s"


class _TerminalProgress(Progress):
    """A bar with a line of status below it."""

    status = ""

    def __init__(self, console: Console):
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.percentage:>3.0f}%"),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[time]}"),
        )
        super().__init__(*columns, console=console, speed_estimate_period=120)

    def get_renderables(self) -> Iterable[RenderableType]:
        """Yields the bar and the status."""
        yield from super().get_renderables()
        if self.status:
            status = Text(self.status)
            # The terminal echoes ^C at the end of the line, which must not wrap.
            status.truncate(self.console.width - 3, overflow="ellipsis")
            yield status


class _TerminalBar(Bar):
    def __init__(
        self, display: Display, progress: _TerminalProgress, name: str, total: float, done: float
    ):
        self._display, self._progress, self._total = display, progress, total
        name = name if len(name) <= 24 else f"{name[:23]}…"
        self._task = progress.add_task(name, total=total, completed=int(done), time="left")

    def advance(self, done: float, status: str) -> None:
        self._progress.status = status or self._progress.status
        time = "elapsed" if done >= self._total else "left"
        self._progress.update(self._task, completed=done, time=time)
        self._display.check()


class _LogBar(Bar):
    def __init__(self, display: Display, name: str, total: float):
        self._display, self._name, self._total = display, name, total
        self._last = time.monotonic()

    def advance(self, done: float, status: str) -> None:
        if done >= self._total or time.monotonic() - self._last >= LOG_SECONDS:
            self._last = time.monotonic()
            self._display.say(f"{self._name}: {int(100 * done / self._total):3d}%  {status}")
