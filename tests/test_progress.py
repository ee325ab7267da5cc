"""The terminal output of a run."""

import contextlib
import io
import math
import re

import pytest
from rich.console import Console

from highway_jax.runtime import progress


@pytest.mark.parametrize(
    ("steps_per_second", "shown"),
    [(0.784, "0.78 steps/s"), (5.83, "5.8 steps/s"), (33.4, "33 steps/s"), (3941, "3,941 steps/s")],
)
def test_a_rate_has_two_digits_at_least(steps_per_second, shown):
    assert progress.format_rate(steps_per_second) == shown


def test_a_log_has_a_line_every_few_seconds_and_one_at_the_end(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    out = io.StringIO()
    with progress.Display(console=Console(file=out)).training("net", 40) as bar:
        for step in range(10, 50, 10):
            now[0] += 0.6 * progress.LOG_SECONDS
            bar.advance(step, "epoch 1")
    assert out.getvalue().splitlines() == ["net:  50%  epoch 1", "net: 100%  epoch 1"]


def _summary(case, **values):
    row = {"case": case, "depth": 10, "num_parameters": 7, "trials": 3, "diverged": 0}
    row |= {"model.carry_bias": 1.0, "nesterov": False, "train_loss_mean": 0.5, "epochs": 2}
    for metric in ("test_accuracy", "valid_accuracy"):
        row |= dict.fromkeys((f"{metric}_{s}" for s in ("best", "mean", "std")), math.nan)
    return row | values


def _shown(show, rows):
    """Returns the cells of the table that is shown: headings, then lines."""
    console = Console(file=io.StringIO(), width=160)
    tables = []
    console.print = lambda table, **_: tables.append(table)
    show(progress.Display(console=console), rows)
    (table,) = tables
    headings = [column.header.replace("\n", " ") for column in table.columns]
    lines = zip(*(column.cells for column in table.columns), strict=True)
    return [
        headings,
        *([cell.plain.replace("\N{NO-BREAK SPACE}", " ") for cell in line] for line in lines),
    ]


def _printed(show, rows, width=80):
    out = io.StringIO()
    show(progress.Display(console=Console(file=out, width=width)), rows)
    return out.getvalue()


def test_settings_that_differ_have_columns():
    rows = [_summary("net"), _summary("net", **{"model.carry_bias": -3.0})]
    headings, *lines = _shown(progress.Display.table, rows)
    assert headings[:4] == ["Network", "Layers", "carry bias", "Params"]
    assert [line[2] for line in lines] == ["1", "-3"]
    assert "nesterov" not in headings
    headings, *_ = _shown(progress.Display.table, rows[:1])
    assert "carry bias" not in headings
    assert "Validation accuracy (%)" not in headings


def _accuracy(name, value):
    return {f"{name}_best": value, f"{name}_mean": value}


def test_the_best_on_validation_comes_first():
    rows = [
        _summary("none", **_accuracy("test_accuracy", 0.99)),
        _summary("low", **_accuracy("test_accuracy", 0.9), **_accuracy("valid_accuracy", 0.5)),
        _summary("high", **_accuracy("test_accuracy", 0.8), **_accuracy("valid_accuracy", 0.625)),
    ]
    headings, *lines = _shown(progress.Display.table, rows)
    assert headings[4:6] == ["Validation accuracy (%)", "Test accuracy (%)"]
    assert [[line[0], *line[4:6]] for line in lines] == [
        ["high", "62.50", "80.00"],
        ["low", "50.00", "90.00"],
        ["none", "-", "99.00"],
    ]
    # Without a validation split, the order of the run is kept.
    assert [line[0] for line in _shown(progress.Display.table, rows[:1] * 2)[1:]] == ["none"] * 2


def test_a_search_shows_settings_and_validation_of_its_best():
    cell = {"train_loss": 0.1, "retrained": False, "test_accuracy": math.nan}
    rows = [
        _summary("a", valid_accuracy=0.5, block="plain", **cell),
        _summary("a", valid_accuracy=0.75, block="highway", **cell | {"test_accuracy": 0.7}),
        _summary("a-best", valid_accuracy=0.25, block="highway", **cell | {"retrained": True})
        | {"test_accuracy_best": 0.9, "test_accuracy_mean": 0.8, "test_accuracy_std": 0.1},
    ]
    headings, *lines = _shown(progress.Display.search_table, rows)
    assert headings[2] == "block"
    assert headings[-2:] == ["its validation accuracy (%)", "its test accuracy (%)"]
    assert [[line[0], line[2], *line[-2:]] for line in lines] == [
        ["a", "highway", "75.00", "70.00"],
        ["a", "plain", "50.00", "-"],
        ["a-best", "highway", "-", "90.00 (80.00 ± 10.00)"],
    ]


def _results(case, **values):
    values = {"test_accuracy_best": 0.98, "test_accuracy_mean": 0.97} | values
    return _summary(case, test_accuracy_std=0.01, **values)


def test_the_table_of_the_digits_fits_80_columns():
    rows = [
        _results("highway", block="highway", width=50, learning_rate=0.1, num_parameters=253_660),
        _results("plain", block="plain", width=71, learning_rate=0.003, num_parameters=255_823),
    ]
    text = _printed(progress.Display.table, rows)
    assert max(map(len, text.splitlines())) <= 80
    assert "98.00 (97.00 ± 1.00)" in text
    # The case says which block it is.
    assert "block" not in _shown(progress.Display.table, rows)[0]
    assert "block" in _shown(progress.Display.table, [row | {"case": "net"} for row in rows])[0]


def test_a_wide_table_is_wrapped_and_keeps_its_numbers():
    """With a validation split, more settings, and names of several words."""
    rows = [
        _results(
            f"a-net-of-a-long-name-{i}",
            learning_rate=0.1234 + i,
            momentum=0.1 + i,
            **_accuracy("valid_accuracy", 0.1234),
            valid_accuracy_std=0.01,
            depth=10 + i,
        )
        for i in range(2)
    ]
    text = _printed(progress.Display.table, rows)
    assert max(map(len, text.splitlines())) <= 80
    for number in ("0.1234", "1.123", "12.34", "98.00", "(97.00"):
        assert number in text


def test_a_table_of_two_settings_keeps_their_columns_beside_diverged_trials():
    rows = [
        _results("net", learning_rate=0.1, diverged=1, transform_bias=-i, depth=1000, trials=1)
        | _accuracy("valid_accuracy", 0.9)
        for i in range(2)
    ]
    text = _printed(progress.Display.table, [row | {"test_accuracy_std": math.nan} for row in rows])
    assert max(map(len, text.splitlines())) <= 80
    assert "transform" in text.partition("─")[0]
    assert text.count("(1 diverged)") == 2


def test_settings_without_room_for_columns_are_below_each_row():
    names = ("learning_rate", "momentum", "decay", "weight_decay", "transform_bias")
    rows = [
        _results(f"net{i}", diverged=i, **dict.fromkeys(names, 0.5 + i))
        | _accuracy("valid_accuracy", 0.9 - i / 10)
        for i in range(2)
    ]
    lines = _printed(progress.Display.table, rows).splitlines()
    assert max(map(len, lines)) <= 80
    first, second = (i for i, line in enumerate(lines) if line.startswith("net"))
    below = "learning rate {0}, momentum {0}, decay {0}, weight decay {0}, transform bias {0}"
    assert " ".join(map(str.strip, lines[first + 1 : second])) == below.format(0.5)
    assert " ".join(map(str.strip, lines[second + 1 :])) == f"1 diverged, {below.format(1.5)}"


def test_the_first_of_many_rows_are_shown():
    text = _printed(progress.Display.table, [_summary(f"net{i}") for i in range(1042)])
    assert "net39 " in text
    assert "net40 " not in text
    assert text.endswith("\n1,002 more rows are in summary.csv\n")
    assert "more rows" not in _printed(progress.Display.table, [_summary("net")] * 40)


@pytest.mark.parametrize("length", [5, 20, 60])
def test_no_cell_is_cut(length):
    rows = [
        _results("n" * length, learning_rate=0.1 + i, **_accuracy("valid_accuracy", 0.9876))
        for i in range(2)
    ]
    text = _printed(progress.Display.table, [row | {"valid_accuracy_std": 0.01} for row in rows])
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert text.count("98.76") == 4  # The best and the mean of both.
    assert max(map(len, text.splitlines())) <= 80


def test_headings_are_the_last_parts_of_keys_unless_they_are_equal():
    rows = [_summary("net", **{"data.width": i, "model.width": i, "data.pad": i}) for i in (1, 2)]
    headings = _shown(progress.Display.table, rows)[0]
    assert {"data width", "model width", "pad"} <= set(headings)


def test_a_terminal_shows_one_bar_that_ends_complete_or_where_it_was_stopped():
    for error, shown in ((None, "100%"), (RuntimeError, "25%")):
        out = io.StringIO()
        console = Console(file=out, width=80, force_terminal=True, legacy_windows=False)
        with (
            contextlib.suppress(RuntimeError),
            progress.Display(console=console).training(
                "one run with a name that is too long to be shown", 8, 1
            ) as bar,
        ):
            bar.advance(2, "highway 3x8  epoch 1/4  loss 0.5" + "  and more" * 9)
            if error:
                raise error
        last = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "\n", out.getvalue()).replace("\r", "\n")
        lines = [line for line in last.splitlines() if line.strip()]
        assert max(map(len, lines)) <= 80
        text = "".join(lines)
        positions = [text.rindex(word) for word in ("one run with a name tha…", shown, "loss 0.5")]
        assert positions == sorted(positions)
        assert ("elapsed" in text) == (error is None)
