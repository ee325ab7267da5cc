"""What a report says of any run: its results, curves, trials and where they come from."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from highway_jax import figures, records
from highway_jax.document import Chart, Picture, Section, Table
from highway_jax.progress import best_mean_std
from highway_jax.runs import Run


def overview(found: Iterable[Run]) -> Section:
    """Returns what was run: a line for each setting, or for each net of a search."""
    lines = []
    for run in found:
        if run.config["sweep"]["trials"]:
            for row in records.summarize_search(run.rows):
                accuracy = (
                    "-" if _missing(row["test_accuracy"]) else f"{100 * row['test_accuracy']:.2f}"
                )
                lines.append((run, row, accuracy, row["train_loss"]))
        else:
            for row in records.summarize(run.rows):
                accuracy = best_mean_std(row, "test_accuracy", lambda v: f"{100 * v:.2f}")
                lines.append((run, row, accuracy, row["train_loss_mean"]))
    heads = ("run", "net", "data", "layers", "parameters", "trials", "diverged", "epochs",
             "test accuracy (%)", "training loss")  # fmt: skip
    cells = [
        (
            *(run.name, row["case"], row["dataset"], str(row["depth"])),
            *(f"{row['num_parameters']:,}", str(row["trials"]), str(row["diverged"])),
            *(str(row["epochs"]), accuracy, "-" if _missing(loss) else f"{loss:.2g}"),
        )
        for run, row, accuracy, loss in lines
    ]
    if not cells:
        return Section("What was run", ["No batch of trials is finished yet."])
    note = (
        "Accuracies are best (mean ± standard deviation) over the trials of a setting; of a search,"
        " those of the trial with the smallest training loss among those trained furthest."
    )
    return Section("What was run", [Table(heads, cells, (0, 1, 2)), note])


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
    picture = f"depth-{run.directory.name}"
    figures.save(figures.training_by_depth(nets, run.name), out / picture)
    return Section(title, [Picture(picture, "Training cross-entropy by depth")])


def curves(run: Run) -> Section:
    """Returns the chart of a run's curves, for the page."""
    metrics = [
        metric
        for metric in records.MEASURED
        if any(line.get(metric) is not None for lines in run.curves.values() for line in lines)
    ]
    rows = {row["trial"]: row for row in run.rows}
    lines = []
    for trial, points in sorted(run.curves.items()):
        row = rows.get(trial, {})
        net = f"{row['case']} {row['depth']}" if row else str(points[0].get("case", ""))
        values = {m: [_significant(p.get(m)) for p in points] for m in metrics}
        epochs = [point["epoch"] for point in points]
        lines.append({"name": f"{net}, trial {trial}", "net": net, "x": epochs, "y": values})
    if not metrics:
        return Section(f"Curves: {run.name}", [])
    return Section(f"Curves: {run.name}", [Chart("curves", {"metrics": metrics, "lines": lines})])


def _significant(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def trial_table(found: Iterable[Run]) -> Section:
    """Returns the table of all trials, for the page; what is the same for all stands above it."""
    columns = ("run", *(c for c in records.RESULTS if c not in ("batch", "compile_seconds")))
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
    return value


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
             env["versions"]["jax"], env["commit"])
        )  # fmt: skip
    return Section("Where the numbers come from", [Table(heads, cells, (0, 3, 4, 5))])


def _missing(value: float) -> bool:
    return not math.isfinite(value)
