"""Sections of a report that any run has: its results, settings, and their provenance."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

from highway_jax.config import config as config_lib
from highway_jax.config.schema import USES
from highway_jax.errors import UserError
from highway_jax.reporting import explorer, figures
from highway_jax.reporting.document import Card, Cards, Picture, Section, Table
from highway_jax.runtime.progress import of_best, percent
from highway_jax.storage import summaries, tables
from highway_jax.storage.results import Run

_NOTE = (
    "Accuracies are best (mean ± standard deviation) over the trials of a setting; of a search,"
    " those of the trial with the smallest training loss among those trained for most epochs,"
    " and, where its setting was trained again, those of all these seeds."
)


def overview(found: Sequence[Run]) -> Section:
    """Returns what was run: a line for each setting, or for each cell of a search."""
    lines = [line for run in found for line in _overview_lines(run)]
    if not lines:
        return Section("What was run", [cards(found), "No batch of trials is finished yet."])
    columns = {name: [line[name] for line in lines] for name in lines[0]}
    for name in ("settings", "validation accuracy (%)"):
        if not set(columns[name]) - {"", "-"}:
            del columns[name]
    if len(found) == 1:
        del columns["run"]
    words = [i for i, name in enumerate(columns) if name in ("run", "net", "settings", "data")]
    rows = list(zip(*columns.values(), strict=True))
    return Section("What was run", [cards(found), Table(tuple(columns), rows, words), _NOTE])


def _overview_lines(run: Run) -> list[dict[str, str]]:
    """Returns the cells of a run's lines by heading; its settings are those that differ in them."""
    if run.config["sweep"]["trials"]:
        rows = summaries.summarize_search(run.rows, run.config)
        accuracy, loss = of_best, "train_loss"
    else:
        rows = summaries.summarize(run.rows)
        accuracy, loss = percent, "train_loss_mean"
    names = summaries.differing(rows)
    names += [tables.column(key) for key in config_lib.flatten(run.config["sweep"]["draw"])]
    shown = [name for name in dict.fromkeys(names) if name not in ("depth", "dataset")]
    labels = {name: summaries.labels(rows, [name]) for name in shown}
    settings = [
        summaries.joined(*(labels[name][i] for name in shown if _matters(row, name)))
        for i, row in enumerate(rows)
    ]
    return [
        {
            "run": run.name,
            "net": row["case"],
            "settings": own,
            "data": row["dataset"],
            "layers": summaries.layers(row),
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


def _matters(row: Mapping[str, Any], name: str) -> bool:
    """Returns whether a setting has an effect on a trial, as far as is known."""
    use = USES.get(tables.SETTINGS.get(name, name))
    values = [row.get(tables.column(key)) for key in use.keys] if use else []
    try:
        return use is None or None in values or bool(use.check(*values))
    except UserError:  # A block that is not registered here.
        return True


def cards(found: Sequence[Run]) -> Cards:
    """Returns the best result on each data set, and the numbers of trials and hours."""
    rows = [row for run in found for row in run.rows]
    datasets = dict.fromkeys(row["dataset"] for row in rows)
    shown = [_best_card(found, name, len(datasets) > 1) for name in datasets]
    training = sum(len(set(run.curves) - {row["trial"] for row in run.rows}) for run in found)
    details = [f"{len(found)} runs"] if len(found) > 1 else []
    details += [f"and {training} in training"] if training else []
    ended = Card("Trials", str(len(rows)), ", ".join(details))
    if not rows:
        return Cards((ended,))
    diverged = sum(row["diverged"] for row in rows)
    seconds = sum(map(train_seconds, found))
    devices = dict.fromkeys(_device(run) for run in found)
    return Cards(
        (
            *shown,
            ended,
            Card("Diverged", str(diverged), f"{100 * diverged / len(rows):.0f} % of trials"),
            Card("Time of training", _duration(seconds), ", ".join(devices)),
        )
    )


def _best_card(found: Sequence[Run], dataset: str, several: bool) -> Card:
    """Returns the card of the best setting on a data set.

    It is chosen by validation accuracy, or if there is none, by training loss; never by the test
    accuracy that the card shows.
    """
    lines = [
        line
        for run in found
        for line in summaries.summarize(run.rows)
        if line["dataset"] == dataset
    ]
    most = max(line["epochs"] for line in lines)
    chosen_by, by_loss = "validation accuracy", lambda line: line["train_loss_mean"]
    known = [line for line in lines if not _missing(line["valid_accuracy_mean"])]
    if known:
        line = max(known, key=lambda line: line["valid_accuracy_mean"])
    else:
        known = [line for line in lines if not _missing(by_loss(line))]
        if not known:
            return Card(f"Best result{f', {dataset}' * several}", "-", "every trial diverged")
        # Losses of trials that a search dropped early are not comparable.
        longest = [line for line in known if line["epochs"] == most]
        line, chosen_by = min(longest or known, key=by_loss), "training loss"
    for metric, title in (("test_accuracy", "test"), ("valid_accuracy", "validation")):
        mean, std = line[f"{metric}_mean"], line[f"{metric}_std"]
        if not _missing(mean):
            value = f"{100 * mean:.2f}" + ("" if _missing(std) else f" ± {100 * std:.2f}") + " %"
            # The lowest training loss need not have the best accuracy.
            by_valid = chosen_by == "validation accuracy"
            title = f"Best {title} accuracy" if by_valid else f"{title.title()} accuracy"
            break
    else:
        value, title = f"{line['train_loss_mean']:.2g}", "Best training loss"
    title = summaries.joined(title, dataset if several else "")
    layers = summaries.layers(line)
    net = line["case"] if layers == "-" else f"{line['case']}, {layers} layers"
    return Card(title, value, f"{net}; chosen by {chosen_by}")


FIGURES: list[Callable[[Run], Section]] = []
"""Functions that make a figure of one run, in the order of the report.

Each takes the run and returns the section of the figure, which is empty for a run that the figure
does not apply to.
"""


def figure(make: Callable[[Run], Section]) -> Callable[[Run], Section]:
    """Adds a function to `FIGURES`, as a decorator."""
    FIGURES.append(make)
    return make


@figure
def by_depth(run: Run) -> Section:
    """Shows how nets of several depths train; empty for a search and for runs of one epoch."""
    title = f"Training by depth: {run.name}"
    if run.config["sweep"]["trials"] or len({row["depth"] for row in run.rows}) < 2:
        return Section(title, [])
    nets: dict[tuple[str, int], list[figures.Curve]] = {}
    for row in run.rows:
        curve = figures.Curve.of(run.curve(row["trial"], "train_loss"))
        nets.setdefault((row["block"], row["depth"]), []).append(curve)
    if not any(len(curve[0]) > 1 for curves in nets.values() for curve in curves):
        return Section(title, [])  # One epoch is no curve.
    words = "Training cross-entropy by depth"
    draw = partial(figures.training_by_depth, nets, run.name)
    return Section(title, [Picture(f"depth-{run.stem}", words, draw)])


def differences(found: Sequence[Run]) -> Section:
    """Returns the keys in which the configs of runs differ, with the value in each run."""
    title = "What differs between the runs"
    configs = [
        {k: v if isinstance(v, str) else json.dumps(v) for k, v in flat.items()}
        for flat in (config_lib.flatten(run.config) for run in found)
    ]
    # The first two are whatever a run is called, and keys that do not change its results.
    skipped = ("name", *config_lib.UNCOMPARED)
    keys = [
        key
        for key in dict.fromkeys(key for config in configs for key in config)
        if not key.startswith(skipped) and len({config.get(key, "-") for config in configs}) > 1
    ]
    if not keys:
        return Section(title, [])
    rows = [(key, *(config.get(key, "-") for config in configs)) for key in keys]
    heads = ("setting", *(run.name for run in found))
    return Section(title, [Table(heads, rows, range(len(heads)))])


def provenance(found: Iterable[Run]) -> Section:
    """Returns the section with the devices, versions and commit of each run."""
    heads = ("run", "trials", "seconds of training", "device", "jax", "commit")
    cells = [
        (
            *(run.name, str(len(run.rows)), f"{train_seconds(run):,.0f}", _device(run)),
            str(run.environment["versions"]["jax"]),
            explorer.short_commit(run.environment["commit"]),
        )
        for run in found
    ]
    return Section("Provenance", [Table(heads, cells, (0, 3, 4, 5))])


def train_seconds(run: Run) -> float:
    """Returns the seconds of training of a run's batches, as far as they are recorded."""
    batches = {row["batch"]: row["train_seconds"] for row in run.rows}
    return sum(seconds for seconds in batches.values() if not _missing(seconds))


def _duration(seconds: float) -> str:
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 60 else f"{seconds:.0f} s"


def _device(run: Run) -> str:
    env = run.environment
    return f"{env['num_devices']} x {env['device_kind']} ({env['processor']})"


def _missing(value: float) -> bool:
    return not math.isfinite(value)
