"""Sections of a report that compare runs with the paper: Figures 1 to 4, Tables 1 to 3."""

import base64
from collections.abc import Iterable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from highway_jax.analysis import statistics
from highway_jax.config import config as config_lib
from highway_jax.paper import claims, published
from highway_jax.reporting import figures
from highway_jax.reporting.document import Chart, Picture, Section, Table
from highway_jax.runtime.progress import percent
from highway_jax.storage import summaries
from highway_jax.storage.findings import Findings
from highway_jax.storage.results import Run
from highway_jax.sweep.outcomes import DIVERGED, FAILED, FINISHED

NUM_BEST = 10
Row = dict[str, Any]


# ---- Figure 1

_MOST_VALIDATION = 10_000


class Cell(NamedTuple):
    """Results of a search for nets of one block and depth: a curve and a bar of Figure 1.

    Both are mean training losses over the steps of an epoch, as in metrics.jsonl. The loss in
    results.csv is evaluated only after the last epoch of each trial, so it cannot compare trials
    that were dropped at different epochs.

    Attributes:
        trials: Number of trials.
        row: Results of the best trial: that with the smallest loss at the end of its curve, among
            those whose curves are the longest.
        curve: Its training cross-entropy by epoch.
        ten_best: Mean and standard deviation of the ten best, and the epoch where they are
            compared: the last that ten trials were trained to. None without ten.
    """

    trials: int
    row: Row
    curve: figures.Curve
    ten_best: tuple[float, float, int] | None


def figure1_cells(found: Iterable[Run]) -> dict[tuple[str, int], Cell]:
    """Returns the results of sweeps of dense nets on MNIST by block and depth, as in Figure 1.

    Searches of the same nets are pooled. The trials that train the best setting again are left out,
    since they would count that setting several times.
    """
    members: dict[tuple[str, int], list[tuple[Row, tuple[list[int], list[float]]]]] = {}
    for run in found:
        for row in run.rows if _sweeps_depth(run) else ():
            net = (row["block"], row["depth"])
            is_figure1 = net in published.FIGURE1_BEST and row["architecture"] == "dense"
            drawn = not summaries.is_retrained(row, run.config)
            if is_figure1 and row["dataset"] == "mnist" and drawn:
                curve = run.curve(row["trial"], "train_loss")
                members.setdefault(net, []).append((row, curve))
    cells = {}
    for net, pairs in sorted(members.items()):
        ended = [
            (-epochs[-1], losses[-1], i)
            for i, (row, (epochs, losses)) in enumerate(pairs)
            if epochs and row["status"] not in (DIVERGED, FAILED)
        ]
        if ended:
            row, points = pairs[min(ended)[-1]]
            curve = figures.Curve.of(points)
            cells[net] = Cell(len(pairs), row, curve, _ten_best([c for _, c in pairs]))
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
    """Returns Figure 1 of some cells as a matplotlib figure, with the values of the paper."""
    bars = {key: cell.ten_best[:2] for key, cell in cells.items() if cell.ten_best}
    return figures.figure1({key: cell.curve for key, cell in cells.items()}, bars)


def figure1(found: Iterable[Run]) -> Section:
    """Returns the section of Figure 1, which is empty without a sweep of dense nets on MNIST."""
    cells = figure1_cells(found)
    title = "Figure 1: training of plain and highway nets on MNIST"
    if not cells:
        return Section(title, [])
    heads = ("net", "trials", "best: training loss", "at epoch", "paper's best, 400 epochs",
             "ten best: mean ± std", "at epoch", "paper's ten best")  # fmt: skip
    table, chart = [], []
    for (block, depth), cell in cells.items():
        name, ten, theirs = f"{block} {depth}", cell.ten_best, published.FIGURE1_BEST[block, depth]
        table.append(
            (
                *(name, str(cell.trials), f"{cell.curve.y[-1]:.2e}"),
                *(f"{cell.curve.x[-1]:.0f}", f"{theirs[-1]:.2e}"),
                *((f"{ten[0]:.1e} ± {ten[1]:.1e}", str(ten[2])) if ten else ("-", "-")),
                f"{published.FIGURE1_TEN_BEST[block, depth][0]:.1e}",
            )
        )
        ours = {"x": cell.curve.x.tolist(), "y": cell.curve.y.tolist()}
        marks = {"x": list(published.FIGURE1_EPOCHS), "y": list(theirs), "marks": True}
        chart.append({"name": name, "group": block} | ours)
        chart.append({"name": f"{name}, paper", "group": block} | marks)
    return Section(
        title,
        [
            Picture("figure1", "Training cross-entropy by depth", partial(draw_figure1, cells)),
            "The paper's values are read off its figure, to about 10 %. Ours, of the best and of"
            " the ten best alike, are mean losses over the steps of an epoch: the loss evaluated"
            " after training is known at each trial's last epoch only, and trials are dropped at"
            " several.",
            Table(heads, table),
            Chart("lines", {"x": "Epoch", "y": "Training cross-entropy", "lines": chart}),
        ],
    )


def _sweeps_depth(run: Run) -> bool:
    """Returns whether a run searches over depth as the paper does, for no other nets.

    It trains on nearly all images: the losses of a part cannot be compared with the paper's.
    """
    is_search = run.config["sweep"]["trials"] and "model.depth" in config_lib.grid_keys(run.config)
    blocks = {block for block, _ in published.FIGURE1_BEST}
    varies_more = "model.initializer" in config_lib.varied_keys(run.config)
    is_whole = run.config["data"]["valid_size"] <= _MOST_VALIDATION
    return (
        bool(is_search)
        and is_whole
        and not varies_more
        and {row["block"] for row in run.rows} <= blocks
    )


# ---- Tables 1 to 3


def table(name: str, found: list[Run]) -> Section:
    """Returns the section of a table with test curves; it is empty without results of ours."""
    reference = published.TABLES[name]
    heads = ("network", "layers", "parameters", *(f"{c} (%)" for c in reference.columns))
    cells: list[tuple[str, ...]] = [
        (row.network, row.layers, row.parameters, *row.accuracies) for row in reference.rows
    ]
    ours: list[tuple[str, str, tuple[str, ...]]] = []
    pictures: list[Any] = []
    for row in reference.rows:
        for column, net in enumerate(row.ours):
            for run in found:
                trials = _trials_of(run, net)
                for label, line in _lines(trials):
                    accuracies = ["-"] * len(reference.columns)
                    accuracies[column] = percent(line, "test_accuracy")
                    parts = (row.layers, f"{line['num_parameters']:,}", *accuracies)
                    ours.append((f"**{row.network}, ours**: {label}", run.stem, parts))
                if trials:
                    picture = f"{name}-{'-'.join(map(str, net))}-{run.stem}"
                    pictures += _test_curves(net, run, trials, picture)
    if not ours:
        return Section(reference.title, [])
    labels = [label for label, _, _ in ours]
    for label, stem, parts in ours:
        cells.append((f"{label} ({stem})" if labels.count(label) > 1 else label, *parts))
    note = "Rows but ours are as the paper reports them: best (mean ± standard deviation)."
    return Section(reference.title, [Table(heads, cells), note, *pictures])


def _trials_of(run: Run, net: tuple[str, int, str]) -> list[Row]:
    """Returns the rows of a run's ended trials that are compared with a net of the paper."""
    return [
        row
        for row in run.rows
        if (row["architecture"], row["width"], row["dataset"]) == net
        and row["block"] == "highway"
        and row["status"] in (FINISHED, DIVERGED)
    ]


def _lines(trials: list[Row]) -> list[tuple[str, Row]]:
    """Returns a description and the statistics of each setting."""
    groups = summaries.group(trials)
    settings = summaries.settings([members[0] for members in groups])
    lines = []
    for own, members in zip(settings, groups, strict=True):
        (line,) = summaries.summarize(members)
        seeds = f"{len(members)} seed{'s' * (len(members) > 1)}"
        steps = f"{max(row['steps'] for row in members):,} steps"
        lost = f"{line['diverged']} diverged" if line["diverged"] else ""
        lines.append((summaries.joined(own, seeds, steps, lost), line))
    return lines


def _test_curves(net: tuple[str, int, str], run: Run, trials: list[Row], name: str) -> list[Any]:
    """Returns a picture and a chart of the test curves of a net, and of that of the authors."""
    curves = [run.curve(row["trial"], "test_accuracy", "step") for row in trials]
    drawn = [(row, points) for row, points in zip(trials, curves, strict=True) if points[0]]
    if not drawn:
        return []
    rows = [row for row, _ in drawn]
    names = summaries.distinct(["ours"] * len(rows), rows)
    ours = {name: figures.Curve.of(points) for name, (_, points) in zip(names, drawn, strict=True)}
    authors = published.author_curve(*net)
    curve = None if authors is None else figures.Curve(authors[:, 0], authors[:, 1])
    title = f"{net[0]}, width {net[1]}, on {net[2]}"
    draw = partial(figures.test_curves, ours, curve, title)
    lines = [
        {
            "name": label,
            "color": f"ours {own}",
            "x": c.x.tolist(),
            "y": (100 * (1 - c.y)).round(3).tolist(),
        }
        for own, (label, c) in zip(summaries.settings(rows), ours.items(), strict=True)
    ]
    if curve is not None:
        y = (100 * (1 - curve.y[1:])).round(3).tolist()
        lines.insert(0, {"name": "authors' log", "x": curve.x[1:].tolist(), "y": y})
    chart = Chart("lines", {"x": "Step", "y": f"Test error (%), {title}", "lines": lines})
    return [Picture(name, f"Test error, {title}", draw), chart]


# ---- Figures 2 to 4


def inside(found: Iterable[Run]) -> Section:
    """Returns Figures 2 to 4 from findings of `highway_jax.analyze`, and the paper's claims."""
    nets = [(run, trial, net) for run in found for trial, net in run.inside.items()]
    title = "Figures 2 to 4: inside the nets"
    if not nets:
        return Section(title, [])
    parts: list[Any] = []
    trials = [
        {"case": "", "trial": trial} | run.settings.get(trial, {}) | {"run": run.name}
        for run, trial, _ in nets
    ]
    titles = summaries.distinct([net.title for _, _, net in nets], trials)
    shown = [net._replace(title=own) for (_, _, net), own in zip(nets, titles, strict=True)]
    for name, words, draw in (
        (
            "figure2",
            "Biases, mean gates, and the gates and outputs of one example",
            figures.figure2,
        ),
        ("figure3", "Mean gates of two classes, minus those of all", figures.figure3),
        ("figure4", "Training error with the gates of one layer closed", figures.figure4),
    ):
        parts.append(Picture(name, words, partial(draw, shown)))
    by_data = {
        row.get("dataset", run.config["data"]["name"]): net
        for (run, _, net), row in reversed(list(zip(nets, trials, strict=True)))
        if len(net.biases) == claims.NUM_BLOCKS
    }
    verdicts = claims.verdicts(by_data)
    if verdicts:
        heads = ("figure", "the paper says", "measure, and when it holds", "ours", "holds")
        cells = [
            (claim.figure, claim.text, claim.measure, number, "yes" if holds else "**no**")
            for claim, number, holds in verdicts
        ]
        parts.append(Table(heads, cells, (0, 1, 2)))
    numbers = [statistics.describe(statistics.measure(net)) for net in shown]
    cells = [
        (words, *(column[i][1] for column in numbers)) for i, (words, _) in enumerate(numbers[0])
    ]
    parts.append(Table(("statistic", *(net.title for net in shown)), cells))
    parts.append(Chart("inside", [_inside_data(net) for net in shown]))
    return Section(title, parts)


def pack(values: np.ndarray, digits: int = 3, bits: int = 16) -> dict[str, Any]:
    """Returns an array as compact JSON data, which `unpacked` of the page reads.

    Args:
        values: The array; NaN is kept.
        digits: Decimal places that the page rounds to.
        bits: Bits of a value, 8 or 16.
    """
    values = np.asarray(values, float)
    known = values[~np.isnan(values)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 0.0)
    missing = 2**bits - 1
    step = (high - low) / (missing - 1) or 1.0
    steps = np.where(np.isnan(values), missing, np.round((values - low) / step))
    packed = base64.b64encode(steps.astype(f"<u{bits // 8}").tobytes()).decode("ascii")
    scale = {"low": low, "step": step, "digits": digits, "bits": bits}
    return {"packed": packed, "shape": values.shape} | scale


def _inside_data(net: Findings) -> dict[str, Any]:
    """Returns the data of a net's charts, rounded to what a screen can show."""

    def plain(values: np.ndarray, digits: int = 3) -> list:
        rounded = np.round(values, digits).astype(object)
        rounded[np.isnan(values)] = None
        return rounded.tolist()

    image = net.sample_image
    if image.ndim == 2:  # A vector is shown as a row of pixels.
        image = image[:, None, :, None]
    return {
        "title": net.title,
        "classes": [str(name) for name in net.class_names],
        "before": pack(net.biases_before),
        "after": pack(net.biases),
        "mean": pack(net.mean),
        "difference": pack(net.by_class - net.mean),
        "gates": pack(net.sample_gates),
        "outputs": pack(net.sample_outputs, bits=8),
        "images": pack(image, bits=8),
        "labels": net.sample_label.tolist(),
        "predictions": net.sample_prediction.tolist(),
        "indices": np.asarray(net.sample_index).tolist(),
        "intact": 100 * float(net.intact[1]),
        "lesions": {
            "closed": plain(100 * net.shut[1]),
            "forced open": plain(100 * net.opened[1]),
            "all up to it closed": plain(100 * net.shut_to[1]),
            "all from it on closed": plain(100 * net.shut_from[1]),
        },
        "pairs": plain(100 * net.pairs[1]) if net.num_pair_examples else None,
    }
