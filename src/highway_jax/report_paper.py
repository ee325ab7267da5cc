"""What a report says beside the paper: Figure 1, Tables 1 to 3, Figures 2 to 4."""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from highway_jax import claims, figures, findings, paper, records
from highway_jax.document import Chart, Picture, Section, Table
from highway_jax.progress import best_mean_std
from highway_jax.runs import Run
from highway_jax.trials import DIVERGED, FINISHED

NUM_BEST = 10
Row = dict[str, Any]


# ---- Figure 1


class Cell(NamedTuple):
    """What a search found for nets of one block and depth, a curve and a bar of Figure 1.

    Attributes:
        trials: Number of trials.
        row: Results of the best of those trained furthest.
        curve: Its training cross-entropy by epoch.
        ten_best: Mean and standard deviation of the ten best, and the epoch where they are
            compared: the last that ten trials were trained to. None without ten.
    """

    trials: int
    row: Row
    curve: figures.Curve
    ten_best: tuple[float, float, int] | None


def figure1_cells(found: Iterable[Run]) -> dict[tuple[str, int], Cell]:
    """Returns what sweeps of dense nets on MNIST found, by block and depth as in Figure 1.

    Several searches of the same nets count as one.
    """
    members: dict[tuple[str, int], list[tuple[Run, Row]]] = {}
    for run in found:
        for row in run.rows:
            known = (row["block"], row["depth"]) in paper.FIGURE1_BEST
            if known and row["dataset"] == "mnist" and "depth" in _swept(run):
                members.setdefault((row["block"], row["depth"]), []).append((run, row))
    cells = {}
    for key, pairs in sorted(members.items()):
        best = records.best([row for _, row in pairs])
        if math.isfinite(best["train_loss"]):
            curves = [run.curve(row["trial"], "train_loss") for run, row in pairs]
            (own,) = (c for c, (_, row) in zip(curves, pairs, strict=True) if row is best)
            curve = figures.Curve(*(np.asarray(values, float) for values in own))
            cells[key] = Cell(len(pairs), best, curve, _ten_best(curves))
    return cells


def _ten_best(curves: list[tuple[list[int], list[float]]]) -> tuple[float, float, int] | None:
    known = [dict(zip(*curve, strict=True)) for curve in curves]
    last = sorted((max(curve) for curve in known if curve), reverse=True)
    if len(last) < NUM_BEST:
        return None
    epoch = last[NUM_BEST - 1]
    losses = sorted(curve[epoch] for curve in known if epoch in curve)[:NUM_BEST]
    return float(np.mean(losses)), float(np.std(losses, ddof=1)), epoch


def draw_figure1(cells: dict[tuple[str, int], Cell]) -> Any:
    """Returns Figure 1 of these cells as a matplotlib figure, with the paper's values marked."""
    bars = {key: cell.ten_best[:2] for key, cell in cells.items() if cell.ten_best}
    return figures.figure1({key: cell.curve for key, cell in cells.items()}, bars)


def figure1(found: Iterable[Run], out: Path) -> Section:
    """Draws Figure 1; its section is empty without a sweep of dense nets on MNIST."""
    cells = figure1_cells(found)
    title = "Figure 1: training of plain and highway nets on MNIST"
    if not cells:
        return Section(title, [])
    figures.save(draw_figure1(cells), out / "figure1")
    heads = ("net", "trials", "best: training loss", "at epoch", "paper's best, 400 epochs",
             "ten best: mean ± std", "at epoch", "paper's ten best")  # fmt: skip
    table, chart = [], []
    for (block, depth), cell in cells.items():
        name, ten, theirs = f"{block} {depth}", cell.ten_best, paper.FIGURE1_BEST[block, depth]
        table.append(
            (
                *(name, str(cell.trials), f"{cell.row['train_loss']:.2e}"),
                *(str(cell.row["epochs"]), f"{theirs[-1]:.2e}"),
                *((f"{ten[0]:.1e} ± {ten[1]:.1e}", str(ten[2])) if ten else ("-", "-")),
                f"{paper.FIGURE1_TEN_BEST[block, depth][0]:.1e}",
            )
        )
        ours = {"x": cell.curve.x.tolist(), "y": cell.curve.y.tolist()}
        marks = {"x": list(paper.FIGURE1_EPOCHS), "y": list(theirs), "marks": True}
        chart.append({"name": name, "group": block} | ours)
        chart.append({"name": f"{name}, paper", "group": block} | marks)
    return Section(
        title,
        [
            Picture("figure1", "Training cross-entropy by depth"),
            "The paper's values are read off its figure, to about 10 %.",
            Table(heads, table),
            Chart("lines", {"x": "Epoch", "y": "Training cross-entropy", "lines": chart}),
        ],
    )


def _swept(run: Run) -> dict[str, Any]:
    """Returns the grid of a search over the model's settings."""
    sweep = run.config["sweep"]
    return sweep["grid"].get("model", {}) if sweep["trials"] else {}


# ---- Tables 1 to 3


def table(name: str, found: list[Run], out: Path) -> Section:
    """Returns a table's section with our rows, and draws our test curves; empty without results."""
    published = paper.TABLES[name]
    ours: list[tuple[paper.Published, int, Run, Row]] = []
    for row in published.rows:
        for column, net in enumerate(row.ours):
            for run in found:
                summary = records.summarize(_rows_of(run, net))
                ours += [(row, column, run, line) for line in summary]
    if not ours:
        return Section(published.title, [])
    heads = ("network", "layers", "parameters", *(f"{c} (%)" for c in published.columns))
    cells = [(row.network, row.layers, row.parameters, *row.accuracies) for row in published.rows]
    labels = [f"**{row.network}, ours**: {_extent(run, line)}" for row, _, run, line in ours]
    for label, (row, column, run, line) in zip(labels, ours, strict=True):
        accuracies = ["-"] * len(published.columns)
        accuracies[column] = best_mean_std(line, "test_accuracy", lambda v: f"{100 * v:.2f}")
        which = f" ({run.directory.name})" if labels.count(label) > 1 else ""
        cells.append((label + which, row.layers, f"{line['num_parameters']:,}", *accuracies))
    parts: list[Any] = [
        Table(heads, cells),
        "Rows but ours are as the paper reports them: best (mean ± standard deviation).",
    ]
    for row, column, run, _ in ours:
        net = row.ours[column]
        picture = f"{name}-{'-'.join(map(str, net))}-{run.directory.name}"
        parts += _test_curves(net, run, out / picture)
    return Section(published.title, parts)


def _extent(run: Run, line: Row) -> str:
    seeds = f"{line['trials']} seed{'s' * (line['trials'] > 1)}"
    lost = f", {line['diverged']} diverged" if line["diverged"] else ""
    return f"{seeds}, {_steps(run, line):,} steps{lost}"


def _rows_of(run: Run, net: tuple[str, int, str]) -> list[Row]:
    return [
        row
        for row in run.rows
        if (row["architecture"], row["width"], row["dataset"]) == net
        and row["block"] == "highway"
        and row["status"] in (FINISHED, DIVERGED)
    ]


def _steps(run: Run, line: Row) -> int:
    return max(row["steps"] for row in run.rows if row["case"] == line["case"])


def _test_curves(net: tuple[str, int, str], run: Run, path: Path) -> list[Any]:
    ours = {}
    for trial, lines in run.curves.items():
        points = [line for line in lines if line.get("test_accuracy") is not None]
        if points:
            steps, values = ([p[key] for p in points] for key in ("step", "test_accuracy"))
            label = f"ours, seed {points[0]['seed']}" if len(run.curves) > 1 else "ours"
            ours[label if label not in ours else f"{label}, trial {trial}"] = figures.Curve(
                np.asarray(steps, float), np.asarray(values, float)
            )
    if not ours:
        return []
    authors = paper.author_curve(*net)
    curve = None if authors is None else figures.Curve(authors[:, 0], authors[:, 1])
    title = f"{net[0]}, width {net[1]}, on {net[2]}"
    figures.save(figures.test_curves(ours, curve, title), path)
    known = (
        ours if curve is None else {"authors' log": figures.Curve(curve.x[1:], curve.y[1:])} | ours
    )
    lines = [
        {"name": label, "x": c.x.tolist(), "y": (100 * (1 - c.y)).round(3).tolist()}
        for label, c in known.items()
    ]
    chart = Chart("lines", {"x": "Step", "y": f"Test error (%), {title}", "lines": lines})
    return [Picture(path.name, f"Test error, {title}"), chart]


# ---- Figures 2 to 4


def inside(found: Iterable[Run], out: Path) -> Section:
    """Draws Figures 2 to 4 of what `highway_jax.analyze` found, with the paper's claims."""
    nets = [(run, trial, net) for run in found for trial, net in run.inside.items()]
    title = "Figures 2 to 4: inside the nets"
    if not nets:
        return Section(title, [])
    parts: list[Any] = []
    shown = [net for _, _, net in nets]
    for name, words, draw in (
        ("figure2", "Biases, mean gates, and one example's gates and outputs", figures.figure2),
        ("figure3", "Mean gates of two classes, minus those of all", figures.figure3),
        ("figure4", "Training error with one layer's gates shut", figures.figure4),
    ):
        figures.save(draw(shown), out / name)
        parts.append(Picture(name, words))
    by_data = {run.config["data"]["name"]: net for run, _, net in reversed(nets)}
    verdicts = claims.verdicts(by_data)
    if verdicts:
        heads = ("figure", "the paper says", "measure, and when it holds", "ours", "holds")
        cells = [
            (
                v.claim.figure,
                v.claim.text,
                v.claim.measure,
                v.number,
                "yes" if v.holds else "**no**",
            )
            for v in verdicts
        ]
        parts.append(Table(heads, cells, (0, 1, 2)))
    numbers = [findings.describe(findings.measure(net)) for net in shown]
    cells = [
        (words, *(column[i][1] for column in numbers)) for i, (words, _) in enumerate(numbers[0])
    ]
    parts.append(Table(("number", *(net.title for net in shown)), cells))
    parts.append(Chart("inside", [_inside_data(net) for net in shown]))
    return Section(title, parts)


def _inside_data(net: findings.Findings) -> dict[str, Any]:
    """Returns what the page needs of a net, rounded to what a screen can show."""

    def plain(values, digits=3):
        return np.where(np.isnan(values), None, np.round(values, digits)).tolist()

    by_class = net.by_class - net.mean
    return {
        "title": net.title,
        "classes": [str(name) for name in net.class_names],
        "before": plain(net.biases_before),
        "after": plain(net.biases),
        "mean": plain(net.mean),
        "difference": plain(by_class),
        "gates": plain(net.sample_gates),
        "outputs": plain(net.sample_outputs),
        "images": net.sample_image.tolist(),
        "labels": net.sample_label.tolist(),
        "predictions": net.sample_prediction.tolist(),
        "indices": net.sample_index.tolist(),
        "intact": 100 * float(net.intact[1]),
        "lesions": {
            "shut": plain(100 * net.shut[1]),
            "forced open": plain(100 * net.opened[1]),
            "all up to it shut": plain(100 * net.shut_to[1]),
            "all from it on shut": plain(100 * net.shut_from[1]),
        },
        "pairs": plain(100 * net.pairs[1]) if net.num_pair_examples else None,
    }
