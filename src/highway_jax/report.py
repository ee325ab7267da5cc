"""What runs found, beside what the paper reports.

    python -m highway_jax.report --workdir=runs/sweep --workdir=runs/table1 --out=report

Reads the records of any number of runs, finished or not, and writes `report.md` with the tables
and figures that they have results for. Nothing is trained.
"""

import argparse
import csv
import json
import math
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from highway_jax import figures, paper
from highway_jax.errors import UserError
from highway_jax.files import write_atomically

NUM_BEST = 10


class Run(NamedTuple):
    """The records of one run.

    Attributes:
        directory: Its working directory.
        config: `config.json`.
        environment: `environment.json`.
        rows: Rows of results.csv as text.
        curves: Lines of metrics.jsonl by trial, in the order of epochs.
    """

    directory: Path
    config: dict[str, Any]
    environment: dict[str, Any]
    rows: list[dict[str, str]]
    curves: dict[int, list[dict[str, Any]]]


def read(directory: Path) -> Run:
    """Reads the records of a run; what it is still training has curves and no rows.

    Raises:
        UserError: If there are none, or they cannot be read.
    """
    try:
        config, environment = (
            json.loads((directory / f"{name}.json").read_text("utf-8"))
            for name in ("config", "environment")
        )
        rows, curves = [], {}
        if (directory / "results.csv").exists():
            with (directory / "results.csv").open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
        if (directory / "metrics.jsonl").exists():
            for text in (directory / "metrics.jsonl").read_text("utf-8").splitlines():
                if text.endswith("}"):  # A run that is going on may be in the middle of a line.
                    line = json.loads(text)
                    curves.setdefault(line["trial"], []).append(line)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"--workdir is {str(directory)!r}; allowed: a directory of a run ({error})"
        ) from error
    for lines in curves.values():
        lines.sort(key=lambda line: line["epoch"])
    return Run(directory, config, environment, rows, curves)


# ---- Figure 1


def best_curve(run: Run, rows: list[dict[str, str]]) -> tuple[figures.Curve, dict[str, str]] | None:
    """Returns the curve and the row of the best trial that was trained furthest, if any."""
    ready = [row for row in rows if _number(row, "train_loss") < math.inf]
    if not ready:
        return None
    furthest = max(int(row["rung"]) for row in ready)
    row = min(
        (row for row in ready if int(row["rung"]) == furthest),
        key=lambda row: _number(row, "train_loss"),
    )
    lines = [line for line in run.curves.get(int(row["trial"]), ()) if line["train_loss"]]
    epochs, losses = ([line[key] for line in lines] for key in ("epoch", "train_loss"))
    return figures.Curve(np.asarray(epochs, float), np.asarray(losses, float)), row


def ten_best(run: Run, rows: list[dict[str, str]]) -> tuple[float, float, int] | None:
    """Returns mean, standard deviation and epoch of the ten best trials of a cell.

    They are compared at the last epoch that ten trials were trained to.
    """
    lines = {
        int(row["trial"]): {
            line["epoch"]: line["train_loss"]
            for line in run.curves.get(int(row["trial"]), ())
            if line["train_loss"] is not None
        }
        for row in rows
    }
    last = sorted((max(curve) for curve in lines.values() if curve), reverse=True)
    if len(last) < NUM_BEST:
        return None
    epoch = last[NUM_BEST - 1]
    losses = sorted(curve[epoch] for curve in lines.values() if epoch in curve)[:NUM_BEST]
    return float(np.mean(losses)), float(np.std(losses, ddof=1)), epoch


def report_figure1(runs: Iterable[Run], out: Path) -> str:
    """Draws Figure 1 and returns its section; empty without a sweep of dense nets on MNIST."""
    best, bars, table = {}, {}, []
    for run in runs:
        cells: dict[tuple[str, int], list[dict[str, str]]] = {}
        for row in run.rows:
            known = (row["block"], int(row["depth"])) in paper.FIGURE1_BEST
            if known and row["dataset"] == "mnist" and run.config["sweep"]["trials"]:
                cells.setdefault((row["block"], int(row["depth"])), []).append(row)
        for cell, rows in cells.items():
            found, ten = best_curve(run, rows), ten_best(run, rows)
            if found:
                best[cell] = found[0]
                table.append((cell, found[1], ten, len(rows)))
            if ten:
                bars[cell] = ten[:2]
    if not best:
        return ""
    figures.save(figures.figure1(best, bars), out / "figure1")
    lines = [
        "## Figure 1: training of plain and highway nets on MNIST\n",
        "![Training cross-entropy by depth](figure1.png)\n",
        "The paper's values are read off its figure, to about 10 %.\n",
        "| net | trials | best: training loss | epochs | paper's best, 400 epochs |"
        " ten best: mean ± std | at epoch | paper's ten best |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for (block, depth), row, ten, trials in sorted(table, key=lambda line: line[0]):
        middle = f"{ten[0]:.1e} ± {ten[1]:.1e} | {ten[2]}" if ten else "- | -"
        lines.append(
            f"| {block} {depth} | {trials} | {float(row['train_loss']):.2e} | {row['epochs']} |"
            f" {paper.FIGURE1_BEST[block, depth][-1]:.2e} | {middle} |"
            f" {paper.FIGURE1_TEN_BEST[block, depth][0]:.1e} |"
        )
    return "\n".join(lines) + "\n"


# ---- Tables 1 to 3


def _accuracies(run: Run, net: tuple[str, int, str]) -> list[float]:
    return [
        float(row["test_accuracy"])
        for row in run.rows
        if (row.get("architecture"), int(row["width"]), row["dataset"]) == net
        and row["block"] == "highway"
        and row["status"] == "finished"
    ]


def _best_mean_std(values: list[float]) -> str:
    best, mean = 100 * max(values), 100 * np.mean(values)
    if len(values) == 1:
        return f"{best:.2f}"
    return f"{best:.2f} ({mean:.2f} ± {100 * np.std(values, ddof=1):.2f})"


def report_table(name: str, runs: list[Run], out: Path) -> str:
    """Returns a table's section with our rows, and draws our test curves; empty without results."""
    table, ours = paper.TABLES[name], []
    for row in table.rows:
        for column, net in enumerate(row.ours):
            for run in runs:
                if values := _accuracies(run, net):
                    cells = ["-"] * len(table.columns)
                    cells[column] = _best_mean_std(values)
                    ours.append((row, net, run, cells, len(values)))
    if not ours:
        return ""
    heads = ["network", "layers", "parameters", *(f"{c} (%)" for c in table.columns)]
    lines = [f"## {table.title}\n", "| " + " | ".join(heads) + " |"]
    lines.append("| --- |" + " ---: |" * (len(heads) - 1))
    for row in table.rows:
        cells = (row.network, row.layers, row.parameters, *row.accuracies)
        lines.append("| " + " | ".join(cells) + " |")
    for row, _, run, cells, seeds in ours:
        first = next(r for r in run.rows if r["status"] == "finished")
        label = f"**{row.network}, ours**: {seeds} seed{'s' * (seeds > 1)}, {first['steps']} steps"
        parameters = f"{int(first['num_parameters']):,}"
        lines.append("| " + " | ".join((label, row.layers, parameters, *cells)) + " |")
    lines.append("\nRows but ours are as the paper reports them: best (mean ± standard deviation).")
    for _, net, run, _, _ in ours:
        picture = f"{name}-{'-'.join(map(str, net))}-{run.directory.name}"
        if _draw_test_curves(net, run, out / picture):
            lines.append(f"\n![Test error]({picture}.png)")
    return "\n".join(lines) + "\n"


def _draw_test_curves(net: tuple[str, int, str], run: Run, path: Path) -> bool:
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
        return False
    authors = paper.author_curve(*net)
    curve = None if authors is None else figures.Curve(authors[:, 0], authors[:, 1])
    title = f"{net[0]}, width {net[1]}, on {net[2]}"
    figures.save(figures.test_curves(ours, curve, title), path)
    return True


# ---- the whole


def provenance(runs: Iterable[Run]) -> str:
    """Returns the section that says where the numbers come from."""
    lines = [
        "## Where the numbers come from\n",
        "| run | trials | seconds of training | device | jax | commit |",
        "| --- | ---: | ---: | --- | --- | --- |",
    ]
    for run in runs:
        env = run.environment
        batches = {row["batch"]: _number(row, "train_seconds") for row in run.rows}
        seconds = sum(s for s in batches.values() if s < math.inf)
        device = f"{env['num_devices']} x {env['device_kind']} ({env['processor']})"
        lines.append(
            f"| {run.config['name']} | {len(run.rows)} | {seconds:,.0f} | {device} |"
            f" {env['versions']['jax']} | {env['commit']} |"
        )
    return "\n".join(lines) + "\n"


def report(workdirs: Iterable[Path], out: Path) -> str:
    """Writes `report.md` and its figures; returns its text.

    Args:
        workdirs: Directories of runs.
        out: Where to write; made if need be.

    Raises:
        UserError: If a directory holds no run, or the runs have no results that the paper has.
    """
    runs = [read(Path(workdir)) for workdir in workdirs]
    try:
        out.mkdir(parents=True, exist_ok=True)
        parts = [report_figure1(runs, out), *(report_table(t, runs, out) for t in paper.TABLES)]
        if not any(parts):
            raise UserError(
                "--workdir: none of these runs has results that the paper has; allowed: runs of"
                " experiments/depth_sweep.py:mnist, table1_mnist.py, table2_fitnets.py or"
                " table3_cifar.py of which at least one batch is done"
            )
        text = "# Beside the paper\n\n" + "\n".join([*filter(None, parts), provenance(runs)])
        write_atomically(out / "report.md", text)
    except OSError as error:
        raise UserError(
            f"--out is {str(out)!r}; allowed: a directory to write ({error})"
        ) from error
    return text


def _number(row: dict[str, str], key: str) -> float:
    return float(row[key]) if row[key] else math.inf


def main(argv: list[str]) -> int:
    """Runs one command line without the program's name; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m highway_jax.report", description=__doc__.partition("\n")[0]
    )
    parser.add_argument("--workdir", action="append", required=True, help="of a run; repeatable")
    parser.add_argument("--out", default="report", help="directory to write (default: report)")
    arguments = parser.parse_args(argv)
    try:
        print(report(map(Path, arguments.workdir), Path(arguments.out)))
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
