"""Which nets train: searches over depth and learning rate as tables and maps."""

import json
import math
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from highway_jax.config import config as config_lib
from highway_jax.config.schema import USES
from highway_jax.errors import UserError
from highway_jax.reporting import figures
from highway_jax.reporting.document import Chart, Picture, Section, Table
from highway_jax.storage import summaries
from highway_jax.storage.results import Run
from highway_jax.sweep import outcomes

Row = dict[str, Any]

_PLACES = ("data.dir", "data.cache_dir", "data.download")
"""Keys that may differ between runs that are reported as one."""

GUIDELINE = ((10, -1.0), (20, -2.0), (30, -3.0))
"""Depths and initial gate biases that the paper suggests for convolutional nets."""

COPIED = (-1.0, -3.0)
"""Gate biases that implementations set at every depth."""

_MAPS = (
    "Lowest training loss of the trials of each field, after the last epoch of each. The worse"
    " trials were stopped early, so that a loss is at most what their settings reach. Grey: every"
    " trial diverged; no colour: none was drawn."
)
_LINES = (
    f"Dashed: biases of {COPIED[0]:g} and {COPIED[1]:g}, which implementations commonly use at"
    " every depth. Circles: what the paper suggests for 10, 20 and 30 convolutional layers. Solid:"
    " -log(layers), at which all layers together carry 1 / e of their input at the start."
)


class Map(NamedTuple):
    """The lowest training loss of trials over a setting and depth.

    Attributes:
        title: What was trained.
        x: Edges of the fields along the setting [columns + 1].
        y: Edges along depth [rows + 1].
        depths: Depths [rows].
        loss: [rows, columns]; infinite where every trial diverged, NaN where there is none.
    """

    title: str
    x: Float[np.ndarray, "x_edges"]
    y: Float[np.ndarray, "y_edges"]
    depths: Sequence[int]
    loss: Float[np.ndarray, "rows columns"]


def which_train(runs: Iterable[Run]) -> list[Section]:
    """Reports searches over depth and learning rate, and grids of both.

    Runs that differ only in their names, cases and sweeps are reported as one. A search whose best
    settings are not trained again is that of Figure 1, which has a section of its own.

    Args:
        runs: All runs of the report.

    Returns:
        A section for each group of runs.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        sweep, varied = run.config["sweep"], config_lib.varied_keys(run.config)
        is_lab = sweep["retrain_seeds"] or not sweep["trials"]
        if is_lab and run.rows and {"model.depth", "optimizer.learning_rate"} <= set(varied):
            common = {
                key: value
                for key, value in config_lib.flatten(run.config).items()
                if key.startswith(config_lib.CASE_SECTIONS) and key not in _PLACES
            }
            groups.setdefault(json.dumps(common, sort_keys=True), []).append(run)
    return [_section(group) for group in groups.values()]


def _section(runs: list[Run]) -> Section:
    """Returns the section of runs that are reported as one."""
    drawn, again, gated = [], [], []
    for run in runs:
        found = [row for row in run.rows if not summaries.is_retrained(row, run.config)]
        drawn += found
        again += [row for row in run.rows if summaries.is_retrained(row, run.config)]
        if "model.transform_bias" in config_lib.varied_keys(run.config):
            gated += [row for row in found if _has_gates(row)]
    criterion = runs[0].config["sweep"]["criterion"]
    parts: list[Any] = _tables(drawn, _of_best(drawn, again, criterion))
    for name, maps, x in (
        ("rates", by_rate(drawn), "Learning rate"),
        ("biases", by_bias(gated), "Initial gate bias"),
    ):
        if maps:
            words = f"Training loss by {x.lower()} and depth"
            draw = partial(figures.trainability, maps, x, **_lines(name, maps))
            parts.append(Picture(f"{name}-{runs[0].stem}", words, draw))
            parts.append(Chart("maps", _chart(maps, x, name)))
            parts += [_LINES] if name == "biases" else []
    names = ", ".join(run.name for run in runs)
    return Section(f"Which nets train: {names}", [*parts, _MAPS])


def _of_best(drawn: list[Row], again: list[Row], criterion: str) -> list[Row]:
    """Returns the trials that train the best setting of each case and depth again.

    Others train a setting that was the best before, or that of another run which is not as good.
    """
    names = summaries.setting_columns([*drawn, *again])

    def setting(row: Row) -> tuple:
        return tuple(repr(row.get(name)) for name in names)

    best: dict[tuple, tuple] = {}
    ready = [row for row in drawn if row["status"] == outcomes.FINISHED]
    for row in sorted(ready, key=lambda row: outcomes.merit(criterion, row)):
        best.setdefault((row["case"], row["depth"]), setting(row))
    groups: dict[tuple, dict[tuple, list[Row]]] = {}
    for row in again:
        place = row["case"].removesuffix("-best"), row["depth"]
        groups.setdefault(place, {}).setdefault(setting(row), []).append(row)
    kept = []
    for place, found in groups.items():
        # The best setting may not be trained again yet.
        kept += found.get(best.get(place, ()), next(iter(found.values())))
    return kept


def _has_gates(row: Row) -> bool:
    try:
        return USES["model.transform_bias"].check(row["block"], row["depth"])
    except UserError:  # A block that is not registered here.
        return False


def _lines(name: str, maps: Sequence[Map]) -> dict[str, Sequence[Any]]:
    """Returns what is drawn into the maps (see `figures.trainability`)."""
    if name != "biases" or not maps:
        return {"guideline": (), "copied": (), "rule": ()}
    ends = maps[0].y[0], maps[0].y[-1]  # On the logarithmic axis, the rule is a straight line.
    rule = [(float(layers), -math.log(layers)) for layers in ends]
    return {"guideline": GUIDELINE, "copied": COPIED, "rule": rule}


# ---- Tables of cases and depths


def _tables(drawn: list[Row], again: list[Row]) -> list[str | Table]:
    """Returns tables of the results of the best settings, and of the trials that diverged."""
    parts: list[str | Table] = []
    for words, rows, show in (
        ("Test accuracy in % of the best setting, trained again from other seeds:", again, _tested),
        ("Its training loss:", again, _loss),
        ("Its learning rate, and its initial gate bias where it has gates:", again, _setting),
        ("Trials of the search that diverged:", drawn, _diverged),
    ):
        if rows:
            parts += [words, _table(rows, show)]
    return parts


def _table(rows: list[Row], show: Callable[[list[Row]], str]) -> Table:
    """Returns a table of what is shown of the rows of each case (rows) and depth (columns)."""
    depths = sorted({row["depth"] for row in rows})
    cells: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        case = row["case"].removesuffix("-best")
        cells.setdefault(case, {}).setdefault(row["depth"], []).append(row)
    lines = [
        (case, *(show(found[depth]) if depth in found else "-" for depth in depths))
        for case, found in cells.items()
    ]
    return Table(("layers", *map(str, depths)), lines)


def _mean_std(rows: list[Row], metric: str, form: Callable[[float], str]) -> str:
    found = summaries.statistics(rows)
    mean, std, diverged = found[f"{metric}_mean"], found[f"{metric}_std"], found["diverged"]
    text = "-" if math.isnan(mean) else form(mean)
    text += "" if math.isnan(std) else f" ± {form(std)}"
    return f"{text}, {diverged} of {len(rows)} diverged" if diverged else text


def _tested(rows: list[Row]) -> str:
    return _mean_std(rows, "test_accuracy", lambda value: f"{100 * value:.1f}")


def _loss(rows: list[Row]) -> str:
    return _mean_std(rows, "train_loss", lambda x: f"{x:.2g}" if x < 100 else f"{x:,.0f}")


def _setting(rows: list[Row]) -> str:
    row = rows[0]
    bias = f", {row['transform_bias']:g}" if _has_gates(row) else ""
    return f"{row['learning_rate']:.2g}{bias}"


def _diverged(rows: list[Row]) -> str:
    return f"{sum(row['diverged'] for row in rows)} of {len(rows)}"


# ---- Maps over depth


def by_rate(rows: Sequence[Row]) -> list[Map]:
    """Returns a map of learning rate and depth for each case of rows of results.csv."""
    rates = [row["learning_rate"] for row in rows]
    return _maps(rows, "learning_rate", rate_edges(min(rates), max(rates))) if rows else []


def by_bias(rows: Sequence[Row]) -> list[Map]:
    """Returns a map of initial gate bias and depth for each case of rows of results.csv."""
    biases = [row["transform_bias"] for row in rows]
    low, high = math.floor(min(biases, default=0)), math.ceil(max(biases, default=0))
    return _maps(rows, "transform_bias", np.arange(low, high + 2) - 0.5)


def rate_edges(low: float, high: float) -> Float[np.ndarray, "edges"]:
    """Returns edges of the fewest fields of half a decade that hold `low` to `high`."""
    first, last = math.log10(low), math.log10(high)
    count = max(1, math.ceil(2 * (last - first)))
    return 10.0 ** ((first + last) / 2 + np.arange(-count, count + 1, 2) / 4)


def depth_edges(depths: Sequence[int]) -> Float[np.ndarray, "edges"]:
    """Returns edges between depths, halfway on a logarithmic axis."""
    logs = np.log(np.asarray(depths, float))
    if len(logs) == 1:
        return np.exp(logs[0] + np.array([-0.5, 0.5]))
    middle = (logs[1:] + logs[:-1]) / 2
    return np.exp([2 * logs[0] - middle[0], *middle, 2 * logs[-1] - middle[-1]])


def _maps(rows: Sequence[Row], column: str, edges: Float[np.ndarray, "edges"]) -> list[Map]:
    """Returns a map of a setting and depth for each case."""
    depths = sorted({row["depth"] for row in rows})
    maps = []
    for case in dict.fromkeys(row["case"] for row in rows):
        loss = np.full((len(depths), len(edges) - 1), np.nan)
        for row in rows:
            if row["case"] == case:
                i = depths.index(row["depth"])
                # Edges are rounded: the smallest value may lie just outside of them.
                j = np.clip(np.searchsorted(edges, row[column], "right") - 1, 0, loss.shape[1] - 1)
                own = math.inf if row["diverged"] else row["train_loss"]
                loss[i, j] = np.fmin(loss[i, j], own)
        maps.append(Map(case, edges, depth_edges(depths), depths, loss))
    return maps


def _chart(maps: list[Map], x: str, name: str) -> dict[str, Any]:
    """Returns the data of the page's maps."""
    shown = [
        {
            "title": found.title,
            "x": found.x.tolist(),
            "y": found.y.tolist(),
            "depths": list(found.depths),
            "loss": [[v if math.isfinite(v) else None for v in row] for row in found.loss.tolist()],
            "diverged": np.where(np.isposinf(found.loss), 1, 0).tolist(),
        }
        for found in maps
    ]
    return {
        **{"x": x, "log": name == "rates", "maps": shown, "most": figures.LARGEST_LOSS},
        **_lines(name, maps),
    }
