"""All trials of some runs as the JSON data that the page explores: settings, metrics, curves."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from highway_jax.config import config as config_lib
from highway_jax.reporting.importance import importance
from highway_jax.storage import summaries, tables
from highway_jax.storage.results import Run
from highway_jax.sweep import outcomes

Row = dict[str, Any]

MAX_VALUES = 150_000
"""Values of curves that a page holds, about a megabyte. Longer curves are thinned."""

TRAINING = "training"
"""Status of a trial that has a curve and no row in results.csv yet."""

_RECORDS = ("seed", "status", "rung", "epochs", "steps", "diverged", "num_parameters",
            "train_seconds", "steps_per_second")  # fmt: skip


def explore(found: Sequence[Run]) -> Row | None:
    """Returns what the page knows of all trials; None if there are none.

    Returns:
        `columns` and `rows` of the table of trials, `names` of the trials, and `ids`, which a trial
        keeps while others are added; `labels` of settings and `setting`, the position of each
        trial's label; `nets` and `net`, the same for cells; `metrics` that were measured; the
        `curves` of each trial, thinned by `stride`, and the `seconds` of a training step of its
        batch; `searches` with rungs and importances.
    """
    own = dict.fromkeys(key for run in found for key in config_lib.varied_keys(run.config))
    pairs = [(run, _trial(run, trial, own)) for run in found for trial in sorted(_trials(run))]
    if not pairs:
        return None
    rows = [row for _, row in pairs]
    numbers = {id(run): number for number, run in enumerate(found)}
    nets = _nets(found, pairs)
    keys = ["run", "case", *summaries.setting_columns(rows)]
    members: dict[tuple, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(tuple(repr(row.get(key)) for key in keys), []).append(i)
    groups = list(members.values())
    labels = summaries.distinct(
        [nets[group[0]] for group in groups],
        [{k: v for k, v in rows[g[0]].items() if k not in ("seed", "trial")} for g in groups],
    )
    setting, names = [0] * len(rows), [""] * len(rows)
    for number, (group, label) in enumerate(zip(groups, labels, strict=True)):
        key = "seed" if len({rows[i].get("seed") for i in group}) == len(group) else "trial"
        for i in group:
            setting[i] = number
            own = f"{key} {rows[i].get(key)}" if len(group) > 1 else ""
            names[i] = summaries.joined(label, own)
    metrics, curves, stride = _curves(pairs)
    columns = _columns(found, rows)
    kinds = list(dict.fromkeys(nets))
    return {
        "columns": columns,
        "rows": [[_cell(row.get(column["name"])) for column in columns] for row in rows],
        "names": names,
        "ids": [f"{numbers[id(run)]}.{row['trial']}" for run, row in pairs],
        "labels": labels,
        "setting": setting,
        "nets": kinds,
        "net": [kinds.index(net) for net in nets],
        "metrics": metrics,
        "curves": curves,
        "stride": stride,
        "seconds": [_seconds_per_step(run, row) for run, row in pairs],
        "searches": [_search(run, pairs) for run in found if run.config["sweep"]["trials"]],
    }


def _trials(run: Run) -> set[int]:
    return {row["trial"] for row in run.rows} | set(run.curves)


def _trial(run: Run, trial: int, keys: Iterable[str]) -> Row:
    """Returns what is known of a trial, with its values of keys that other runs vary."""
    row = run.settings[trial]
    if unvaried := [key for key in keys if tables.column(key) not in row]:
        common = config_lib.flatten(run.config)
        row = row | {tables.column(key): common.get(key) for key in unvaried}
    last = run.curves.get(trial, [{"epoch": 0}])[-1]
    goes_on = row.get("status") == outcomes.PROMOTED and last["epoch"] > row["epochs"]
    if goes_on or "status" not in row:  # What was measured last in training.
        measured = {name: last[name] for name in tables.MEASURED if last.get(name) is not None}
        measured |= {"epochs": last["epoch"], "steps": last.get("step")}
        row = row | measured | {"status": TRAINING}
    return row | {"run": run.name}


def _nets(found: Sequence[Run], pairs: Sequence[tuple[Run, Row]]) -> list[str]:
    """Returns the name of each trial's cell; with its run, if another run has that name too."""
    nets = [net for run in found for net in cells(run, [r for o, r in pairs if o is run])]
    runs: dict[str, set[str]] = {}
    for (run, _), net in zip(pairs, nets, strict=True):
        runs.setdefault(net, set()).add(run.name)
    return [
        summaries.joined(run.name, net) if len(runs[net]) > 1 else net
        for (run, _), net in zip(pairs, nets, strict=True)
    ]


def cells(run: Run, rows: Sequence[Row]) -> list[str]:
    """Returns the name of each trial's cell: case, depth, and what else of the grid differs."""
    grid = [tables.column(key) for key in config_lib.grid_keys(run.config)]
    points = [name for name in summaries.differing(rows, ["depth"]) if name in grid]
    return [
        summaries.joined(f"{row['case']} {summaries.layers(row)}".removesuffix(" -"), point)
        for row, point in zip(rows, summaries.labels(rows, points), strict=True)
    ]


def _columns(found: Iterable[Run], rows: Sequence[Row]) -> list[Row]:
    """Returns the columns of the table: varied settings first, then metrics, then the others."""
    own = dict.fromkeys(name for run in found for name in tables.own_columns(run.config))
    settings = ["run", "case", *tables.SETTINGS, *own]
    roles = (
        *((name, "setting") for name in settings),
        *((name, "metric") for name in (*tables.MEASURED, "projected_train_loss")),
        *((name, "record") for name in _RECORDS),
    )
    columns = [{"name": "trial", "role": "record", "varied": True, "number": True}]
    for name, role in roles:
        cells = [_cell(row.get(name)) for row in rows]
        values = {repr(cell) for cell in cells if cell not in (None, "")}
        if values:
            number = all(cell is None or type(cell) in (int, float) for cell in cells)
            varied = len({repr(cell) for cell in cells}) > 1
            columns.append({"name": name, "role": role, "varied": varied, "number": number})

    def order(column):
        first = column["name"] != "trial"
        return first, not column["varied"], ("setting", "metric", "record").index(column["role"])

    return sorted(columns, key=order)


def _curves(pairs: Sequence[tuple[Run, Row]]) -> tuple[list[str], list[Any], int]:
    """Returns the metrics measured over epochs, a curve for each trial, and how it was thinned.

    A curve is {"epoch": [...], "step": [...], metric: [...]}, or None. One of `stride` points is
    kept, the last of each trial, and those at rungs.
    """
    lines = [run.curves.get(row["trial"], []) for run, row in pairs]
    metrics = [
        metric
        for metric in tables.MEASURED
        if any(point.get(metric) is not None for points in lines for point in points)
    ]
    stride = math.ceil(sum(map(len, lines)) * len(metrics) / MAX_VALUES) or 1
    curves = []
    for (run, _), points in zip(pairs, lines, strict=True):
        rungs = run.config["sweep"]["rung_epochs"]
        kept = [
            point
            for i, point in enumerate(points)
            if i % stride == 0 or i == len(points) - 1 or point["epoch"] in rungs
        ]
        curve = {
            metric: [_round(point.get(metric), 4) for point in kept]
            for metric in metrics
            if any(point.get(metric) is not None for point in kept)
        }
        ends = {name: [point.get(name) for point in kept] for name in ("epoch", "step")}
        curves.append(ends | curve if kept else None)
    return metrics, curves, stride


def _seconds_per_step(run: Run, row: Row) -> float | None:
    """Returns the seconds that a training step of a trial's batch took, None if unknown.

    `train_seconds` are those of the last batch only, which began at the rung before.
    """
    epochs, steps, seconds = (row.get(name) for name in ("epochs", "steps", "train_seconds"))
    if not (epochs and steps and seconds and math.isfinite(seconds)):
        return None
    last = run.curves.get(row["trial"], [{}])[-1]
    # The steps of a row end where its trial diverged, those of its curve do not.
    per_epoch = last["step"] / last["epoch"] if last.get("step") else steps / epochs
    ends = [0, *run.config["sweep"]["rung_epochs"]]
    rung = row.get("rung", 0)
    begun = ends[rung] if rung < len(ends) and ends[rung] < epochs else 0
    return _round(seconds / (per_epoch * (epochs - begun)), 4)


def _search(run: Run, pairs: Sequence[tuple[Run, Row]]) -> Row:
    members = [i for i, (other, _) in enumerate(pairs) if other is run]
    drawn = [i for i in members if not summaries.is_retrained(pairs[i][1], run.config)]
    sweep = run.config["sweep"]
    return {
        "run": run.name,
        "trials": drawn,
        "rungs": list(sweep["rung_epochs"]),
        "keeps": list(sweep["rung_keeps"]),
        "kept": [_kept(pairs[i][1]) for i in drawn],
        "importance": importance(run, [pairs[i][1] for i in drawn]),
    }


def _kept(row: Row) -> int:
    """Returns how many rungs a trial has passed."""
    return row.get("rung", 0) + (row["status"] in (outcomes.PROMOTED, outcomes.FINISHED))


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return _round(value, 5)
    if isinstance(value, (list, tuple)):
        return str(tuple(value))
    return value


def _round(value: float | None, digits: int) -> float | None:
    """Returns a number with some significant digits; None if it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{digits}g}")


def short_commit(commit: Any) -> str:
    """Returns a commit or checksum with the first nine of its digits."""
    return re.sub(r"\b([0-9a-f]{9})[0-9a-f]{7,}\b", r"\1", str(commit))
