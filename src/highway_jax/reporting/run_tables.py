"""What a report says of any run: its results, curves, trials and where they come from."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from highway_jax.config import config as config_lib
from highway_jax.reporting import figures
from highway_jax.reporting.document import Chart, Picture, Section, Table
from highway_jax.runtime.progress import of_best, percent
from highway_jax.storage import summaries, tables
from highway_jax.storage.results import Run


def overview(found: Iterable[Run]) -> Section:
    """Returns what was run: a line for each setting, or for each cell of a search."""
    lines = [line for run in found for line in _overview_lines(run)]
    if not lines:
        return Section("What was run", ["No batch of trials is finished yet."])
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    for name in ("settings", "validation accuracy (%)"):
        if not set(columns[name]) - {"", "-"}:
            del columns[name]
    words = [i for i, name in enumerate(columns) if name in ("run", "net", "settings", "data")]
    note = (
        "Accuracies are best (mean ± standard deviation) over the trials of a setting; of a search,"
        " those of the trial with the smallest training loss among those trained for most epochs,"
        " and, where its setting was trained again, those of all these seeds."
    )
    rows = list(zip(*columns.values(), strict=True))
    return Section("What was run", [Table(tuple(columns), rows, words), note])


def _overview_lines(run: Run) -> list[dict[str, str]]:
    """Returns the cells of a run's lines by heading; its settings are those that differ in them."""
    if run.config["sweep"]["trials"]:
        rows = summaries.summarize_search(run.rows, run.config)
        accuracy, loss = of_best, "train_loss"
    else:
        rows = summaries.summarize(run.rows)
        accuracy, loss = percent, "train_loss_mean"
    settings = summaries.labels(rows, summaries.differing(rows, ["depth", "dataset"]))
    return [
        {
            "run": run.name,
            "net": row["case"],
            "settings": own,
            "data": row["dataset"],
            "layers": str(row["depth"]),
            "parameters": f"{row['num_parameters']:,}",
            "trials": str(row["trials"]),
            "diverged": str(row["diverged"]),
            "epochs": str(row["epochs"]),
            "validation accuracy (%)": accuracy(row, "valid_accuracy"),
            "test accuracy (%)": accuracy(row, "test_accuracy"),
            "training loss": "-" if _missing(row[loss]) else f"{row[loss]:.2g}",
        }
        for row, own in zip(rows, settings, strict=True)
    ]


def by_depth(run: Run, out: Path) -> Section:
    """Draws how nets of several depths train; empty for a search, which Figure 1 is about."""
    title = f"Training by depth: {run.name}"
    if run.config["sweep"]["trials"] or len({row["depth"] for row in run.rows}) < 2:
        return Section(title, [])
    nets: dict[tuple[str, int], list[figures.Curve]] = {}
    for row in run.rows:
        points = run.curve(row["trial"], "train_loss")
        curve = figures.Curve(*(np.asarray(values, float) for values in points))
        nets.setdefault((row["block"], row["depth"]), []).append(curve)
    picture = f"depth-{run.stem}"
    figures.save(figures.training_by_depth(nets, run.name), out / picture)
    return Section(title, [Picture(picture, "Training cross-entropy by depth")])


def curves(run: Run) -> Section:
    """Returns the chart of a run's curves, for the page."""
    metrics = [
        metric
        for metric in tables.MEASURED
        if any(line.get(metric) is not None for lines in run.curves.values() for line in lines)
    ]
    drawn = [run.settings[trial] for trial in sorted(run.curves)]
    nets = _cells(run, drawn)
    names = summaries.distinct(nets, drawn)
    lines = []
    for row, net, name in zip(drawn, nets, names, strict=True):
        points = run.curves[row["trial"]]
        values = {m: [_significant(p.get(m)) for p in points] for m in metrics}
        epochs = [point["epoch"] for point in points]
        lines.append({"name": name, "net": net, "x": epochs, "y": values})
    if not metrics:
        return Section(f"Curves: {run.name}", [])
    return Section(f"Curves: {run.name}", [Chart("curves", {"metrics": metrics, "lines": lines})])


def _cells(run: Run, rows: list[dict[str, Any]]) -> list[str]:
    """Returns the name of each trial's cell: case, depth and what else of the grid differs."""
    grid = [tables.column(key) for key in config_lib.grid_keys(run.config)]
    points = [name for name in summaries.differing(rows, ["depth"]) if name in grid]
    return [
        summaries.joined(f"{row['case']} {row.get('depth', '')}".strip(), point)
        for row, point in zip(rows, summaries.labels(rows, points), strict=True)
    ]


def _significant(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def trial_table(found: Iterable[Run]) -> Section:
    """Returns the table of all trials, for the page; what is the same for all stands above it."""
    found = list(found)
    own = dict.fromkeys(name for run in found for name in tables.own_columns(run.config))
    columns = tables.with_own(tables.RESULTS, tuple(own))
    columns = ("run", *(c for c in columns if c not in ("batch", "compile_seconds")))
    rows = [
        [run.name, *(_cell(row.get(column)) for column in columns[1:])]
        for run in found
        for row in run.rows
    ]
    if not rows:
        return Section("Every trial", [])
    kinds = [set(values) for values in zip(*rows, strict=True)]
    varied = [i for i, values in enumerate(kinds) if len(values) > 1 or columns[i] == "trial"]
    same = [
        f"{name} {value}"
        for name, (value, *_) in zip(columns, kinds, strict=True)
        if columns.index(name) not in varied and value not in (None, "")
    ]
    chart = {
        "columns": [columns[i] for i in varied],
        "rows": [[row[i] for i in varied] for row in rows],
        "same": f"The same for all: {', '.join(same)}." if same else "",
    }
    return Section("Every trial", [Chart("trials", chart)])


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return None if _missing(value) else float(f"{value:.5g}")
    return str(value) if isinstance(value, tuple) else value


def provenance(found: Iterable[Run]) -> Section:
    """Returns the section that says where the numbers come from."""
    heads = ("run", "trials", "seconds of training", "device", "jax", "commit")
    cells = []
    for run in found:
        env = run.environment
        batches = {row["batch"]: row["train_seconds"] for row in run.rows}
        seconds = sum(s for s in batches.values() if not _missing(s))
        device = f"{env['num_devices']} x {env['device_kind']} ({env['processor']})"
        cells.append(
            (run.name, str(len(run.rows)), f"{seconds:,.0f}", device,
             str(env["versions"]["jax"]), str(env["commit"]))
        )  # fmt: skip
    return Section("Where the numbers come from", [Table(heads, cells, (0, 3, 4, 5))])


def _missing(value: float) -> bool:
    return not math.isfinite(value)
