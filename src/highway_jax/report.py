"""What runs found, beside what the paper reports.

    python -m highway_jax.report --workdir=runs/sweep --workdir=runs/table1 --out=report

Reads the records of any number of runs, finished or not, and writes `report.md` and a page to
explore, `report.html`, with figures as PNG and SVG. Nothing is trained.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from highway_jax import claims, figures, findings, page, paper, records, runs
from highway_jax.document import Chart, Picture, Section, Table, to_markdown
from highway_jax.errors import UserError
from highway_jax.files import write_atomically
from highway_jax.progress import best_mean_std
from highway_jax.runs import Run
from highway_jax.trials import DIVERGED, FINISHED

NUM_BEST = 10
Row = dict[str, Any]


def report(workdirs: Iterable[Path], out: Path) -> str:
    """Writes `report.md`, `report.html` and the figures; returns the Markdown.

    Args:
        workdirs: Directories of runs.
        out: Where to write; made if need be.

    Raises:
        UserError: If a directory holds no run, or the report cannot be written.
    """
    found = [runs.read(Path(workdir)) for workdir in workdirs]
    try:
        out.mkdir(parents=True, exist_ok=True)
        sections = [
            overview(found),
            figure1(found, out),
            *(table(name, found, out) for name in paper.TABLES),
            inside(found, out),
            *(curves(run) for run in found),
            trial_table(found),
            provenance(found),
        ]
        sections = [section for section in sections if section.parts]
        title = "Highway networks beside the paper"
        text = to_markdown(title, sections)
        write_atomically(out / "report.html", page.to_html(title, sections, out))
        write_atomically(out / "report.md", text)
    except OSError as error:
        raise UserError(
            f"--out is {str(out)!r}; allowed: a directory to write ({error})"
        ) from error
    return text


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


# ---- Figure 1


def best_curve(run: Run, rows: list[Row]) -> tuple[figures.Curve, Row] | None:
    """Returns the curve and the row of the best trial that was trained furthest, if any."""
    row = records.best(rows)
    if _missing(row["train_loss"]):
        return None
    epochs, losses = run.curve(row["trial"], "train_loss")
    return figures.Curve(np.asarray(epochs, float), np.asarray(losses, float)), row


def ten_best(run: Run, rows: list[Row]) -> tuple[float, float, int] | None:
    """Returns mean, standard deviation and epoch of the ten best trials of a cell.

    They are compared at the last epoch that ten trials were trained to.
    """
    known = [dict(zip(*run.curve(row["trial"], "train_loss"), strict=True)) for row in rows]
    last = sorted((max(curve) for curve in known if curve), reverse=True)
    if len(last) < NUM_BEST:
        return None
    epoch = last[NUM_BEST - 1]
    losses = sorted(curve[epoch] for curve in known if epoch in curve)[:NUM_BEST]
    return float(np.mean(losses)), float(np.std(losses, ddof=1)), epoch


def figure1(found: Iterable[Run], out: Path) -> Section:
    """Draws Figure 1; its section is empty without a sweep of dense nets on MNIST."""
    best, bars, lines = {}, {}, []
    for run in found:
        cells: dict[tuple[str, int], list[Row]] = {}
        for row in run.rows:
            known = (row["block"], row["depth"]) in paper.FIGURE1_BEST
            if known and row["dataset"] == "mnist" and "depth" in _swept(run):
                cells.setdefault((row["block"], row["depth"]), []).append(row)
        for cell, rows in cells.items():
            curve, ten = best_curve(run, rows), ten_best(run, rows)
            if curve:
                best[cell] = curve[0]
                lines.append((cell, curve[1], ten, len(rows)))
            if ten:
                bars[cell] = ten[:2]
    title = "Figure 1: training of plain and highway nets on MNIST"
    if not best:
        return Section(title, [])
    figures.save(figures.figure1(best, bars), out / "figure1")
    heads = ("net", "trials", "best: training loss", "at epoch", "paper's best, 400 epochs",
             "ten best: mean ± std", "at epoch", "paper's ten best")  # fmt: skip
    table = []
    for cell, row, ten, trials in sorted(lines, key=lambda line: line[0]):
        middle = (f"{ten[0]:.1e} ± {ten[1]:.1e}", str(ten[2])) if ten else ("-", "-")
        table.append(
            (
                *(f"{cell[0]} {cell[1]}", str(trials), f"{row['train_loss']:.2e}"),
                *(str(row["epochs"]), f"{paper.FIGURE1_BEST[cell][-1]:.2e}", *middle),
                f"{paper.FIGURE1_TEN_BEST[cell][0]:.1e}",
            )
        )
    chart = [
        {"name": f"{block} {depth}", "group": block, "x": curve.x.tolist(), "y": curve.y.tolist()}
        for (block, depth), curve in sorted(best.items())
    ] + [
        {
            "name": f"{block} {depth}, paper",
            "group": block,
            "marks": True,
            "x": list(paper.FIGURE1_EPOCHS),
            "y": list(paper.FIGURE1_BEST[block, depth]),
        }
        for block, depth in sorted(best)
    ]
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
    for row, column, run, line in ours:
        accuracies = ["-"] * len(published.columns)
        accuracies[column] = best_mean_std(line, "test_accuracy", lambda v: f"{100 * v:.2f}")
        seeds = f"{line['trials']} seed{'s' * (line['trials'] > 1)}"
        lost = f", {line['diverged']} diverged" if line["diverged"] else ""
        label = f"**{row.network}, ours**: {seeds}, {_steps(run, line):,} steps{lost}"
        cells.append((label, row.layers, f"{line['num_parameters']:,}", *accuracies))
    parts: list[Any] = [
        Table(heads, cells),
        "Rows but ours are as the paper reports them: best (mean ± standard deviation).",
    ]
    for row, column, run, _ in ours:
        net = row.ours[column]
        picture = f"{name}-{'-'.join(map(str, net))}-{run.directory.name}"
        parts += _test_curves(net, run, out / picture)
    return Section(published.title, parts)


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


# ---- every run


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


def main(argv: Sequence[str]) -> int:
    """Runs one command line without the program's name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m highway_jax.report", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--workdir", action="append", required=True, help="of a run; repeatable")
    parser.add_argument("--out", default="report", help="directory to write (default: report)")
    arguments = parser.parse_args(argv)
    out = Path(arguments.out)
    try:
        print(report(map(Path, arguments.workdir), out))
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(f"Open {out / 'report.html'} in a browser.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
