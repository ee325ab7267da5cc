"""Figures of the paper and of runs, drawn by matplotlib."""

import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from highway_jax.paper import published
from highway_jax.storage.findings import Findings

_DEPTH_COLORS = {10: "#8da0cb", 20: "#66a61e", 50: "#d95f02", 100: "#7b1e57"}
_BLOCK_COLORS = {"plain": "#999999", "highway": "#1b6ca8"}
_BLOCKS = ("plain", "highway")
_BLOCK_STYLES = {"highway": "-", "plain": "--", "residual": ":"}
MAPS = {
    "bias": "cividis",
    "gate": "viridis",
    "output": "bone",
    "difference": "RdBu_r",
    "error": "inferno",
    "loss": "viridis_r",
}
"""Colour map of each quantity. Differences diverge from white at zero; the lightness of the others
changes in one direction only, so that they can be read in grey.
"""

LARGEST_LOSS = 5.0
"""Training losses above have one colour in maps: nets of 100 classes begin at log(100) = 4.6."""


def _subplots(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> Any:
    """Returns a figure of this size in inches, and its axes [rows, columns]."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


class Curve(NamedTuple):
    """A measurement over training.

    Attributes:
        x: Epochs or steps [points].
        y: Values [points].
    """

    x: Float[np.ndarray, "points"]
    y: Float[np.ndarray, "points"]

    @classmethod
    def of(cls, points: tuple[Sequence[float], Sequence[float]]) -> "Curve":
        """Returns the curve of what `storage.results.Run.curve` returns."""
        return cls(*(np.asarray(values, float) for values in points))


def figure1(
    best: Mapping[tuple[str, int], Curve],
    ten_best: Mapping[tuple[str, int], tuple[float, float]],
) -> Any:
    """Draws Figure 1: how plain and highway nets train, by depth.

    Args:
        best: Training cross-entropy over epochs of the best trial, by block and depth.
        ten_best: Mean and standard deviation of the ten best trials, by block and depth.

    Returns:
        A matplotlib figure. Hollow markers of the same colour are the values of the paper.
    """
    figure, (axes,) = _subplots(12, 4, 1, 3, sharey=True)
    for axis, block in zip(axes, _BLOCKS, strict=False):
        for depth, color in _DEPTH_COLORS.items():
            if (block, depth) in best:
                axis.plot(*best[block, depth], color=color, label=f"{depth} layers", lw=1.5)
            values = published.FIGURE1_BEST[block, depth]
            axis.plot(published.FIGURE1_EPOCHS, values, "o", color=color, mfc="none", ms=5)
        axis.plot([], [], "o", color="0.4", mfc="none", label="paper")
        axis.set(title=f"Best {block} nets", xlabel="Epoch", yscale="log", xlim=(0, 410))
        axis.legend(frameon=False, fontsize="small")
    axes[0].set(ylabel="Training cross-entropy", ylim=(1e-6, 10))
    _bars(axes[2], ten_best)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _bars(axis: Any, ten_best: Mapping[tuple[str, int], tuple[float, float]]) -> None:
    from matplotlib.patches import Patch

    depths = list(_DEPTH_COLORS)
    for block, shift in zip(_BLOCKS, (-0.2, 0.2), strict=True):
        positions = [i + shift for i, depth in enumerate(depths) if (block, depth) in ten_best]
        found = [ten_best[block, depth] for depth in depths if (block, depth) in ten_best]
        means, stds = ([value[i] for value in found] for i in (0, 1))
        axis.bar(positions, means, 0.4, color=_BLOCK_COLORS[block])
        axis.errorbar(positions, means, stds, fmt="none", ecolor="black", capsize=3, lw=1)
        theirs = [published.FIGURE1_TEN_BEST[block, depth][0] for depth in depths]
        axis.plot(
            [i + shift for i in range(len(depths))], theirs, "o", color="black", mfc="white", ms=5
        )
    axis.set(title="Mean of the ten best", xlabel="Layers")
    axis.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    keys = [Patch(color=_BLOCK_COLORS[block], label=block) for block in _BLOCKS]
    keys += axis.plot([], [], "o", color="black", mfc="white", label="paper")
    axis.legend(handles=keys, frameon=False, fontsize="small")


def test_curves(ours: Mapping[str, Curve], authors: Curve | None, title: str) -> Any:
    """Draws test errors over the steps of training, ours and those of the authors' log.

    Args:
        ours: Test accuracy from 0 to 1 over steps, by label.
        authors: Test accuracy of the authors' log, if there is one.
        title: Title of the figure.

    Returns:
        A matplotlib figure. Its axis of steps is logarithmic if our training is less than a quarter
        as long as the authors'.
    """
    from matplotlib.ticker import LogLocator

    figure, ((axis,),) = _subplots(6.4, 4)
    if authors is not None:
        axis.plot(authors.x[1:], 100 * (1 - authors.y[1:]), color="0.6", lw=1, label="authors' log")
    colors = ("#1b6ca8", "#d95f02", "#66a61e", "#7b1e57", "#a6761d")
    for i, (label, curve) in enumerate(ours.items()):
        axis.plot(curve.x, 100 * (1 - curve.y), color=colors[i % len(colors)], lw=1, label=label)
    axis.set(title=title, xlabel="Steps", ylabel="Test error (%)", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(LogLocator(subs=(2, 3, 4, 5, 7)))
    axis.yaxis.set_minor_formatter("{x:g}")
    if authors is not None and 4 * max(curve.x[-1] for curve in ours.values()) < authors.x[-1]:
        axis.set(xscale="log")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small")
    return figure


def training_by_depth(nets: Mapping[tuple[str, int], Sequence[Curve]], title: str) -> Any:
    """Draws training losses over epochs, with a colour for each depth and a style for each block.

    Args:
        nets: Training loss over epochs of each trial, by block and depth.
        title: Title of the figure.

    Returns:
        A matplotlib figure.
    """
    import matplotlib as mpl
    from matplotlib.ticker import MaxNLocator

    figure, ((axis,),) = _subplots(6.4, 4)
    depths = sorted({depth for _, depth in nets})
    # The light end of the map is hard to see on white.
    shades = mpl.colormaps["viridis"](np.linspace(0.85, 0, len(depths)))
    colors = dict(zip(depths, shades, strict=True))
    for (block, depth), curves in sorted(nets.items()):
        for i, curve in enumerate(curves):
            label = None if i else f"{block}, {depth} layers"
            axis.plot(
                *curve, _BLOCK_STYLES.get(block, "-."), color=colors[depth], lw=1.5, label=label
            )
    axis.set(title=title, xlabel="Epoch", ylabel="Training cross-entropy", yscale="log")
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small")
    return figure


def figure2(nets: Sequence[Findings]) -> Any:
    """Draws Figure 2: gate biases, mean gates, and the gates and outputs of one example.

    Args:
        nets: Findings, drawn as a row of maps for each net.

    Returns:
        A matplotlib figure. Rows of a map are layers, columns are units (the paper's blocks).
    """
    figure, grid = _subplots(12, 0.7 + 3.1 * len(nets), len(nets), 4)
    for row, found in zip(grid, nets, strict=True):
        gates = {"cmap": MAPS["gate"], "vmin": 0, "vmax": 1}
        # Without percentiles, a few outliers would use up the range of colours.
        low, high = np.nanpercentile(found.biases, (0.5, 99.5))
        biases = {"cmap": MAPS["bias"], "vmin": low, "vmax": high}
        _map(row[0], found.biases, "Transform gate biases", "both", **biases)
        _map(row[1], found.mean, "Mean gate outputs", **gates)
        _map(row[2], found.sample_gates[0], "Gate outputs, one example", **gates)
        _map(row[3], found.sample_outputs[0], "Block outputs, same example", cmap=MAPS["output"])
        row[0].set_ylabel(f"{found.title}\nLayer")
    return figure


def figure3(nets: Sequence[Findings], classes: Sequence[tuple[int, int]] = ()) -> Any:
    """Draws Figure 3: mean gate outputs of two classes, minus those over all examples.

    Args:
        nets: Findings, drawn as two maps for each net.
        classes: Two classes for each net. By default those of the paper: 0 and 7 of ten classes,
            else 0 and 1.

    Returns:
        A matplotlib figure.
    """
    classes = classes or [(0, 7) if len(net.class_names) == 10 else (0, 1) for net in nets]
    figure, (grid,) = _subplots(0.7 + 6.2 * len(nets), 3.6, 1, 2 * len(nets))
    for i, (found, pair) in enumerate(zip(nets, classes, strict=True)):
        shown = [found.by_class[c] - found.mean for c in pair]
        limit = np.nanmax(np.abs(shown))
        for axis, c, values in zip(grid[2 * i : 2 * i + 2], pair, shown, strict=True):
            name = str(found.class_names[c]).replace("$", r"\$")  # It is no formula.
            title = f"Class {c}" if name == str(c) else f"Class {c}: {name}"
            _map(axis, values, title, cmap=MAPS["difference"], vmin=-limit, vmax=limit)
        grid[2 * i].set_ylabel(f"{found.title}\nLayer")
    return figure


def figure4(nets: Sequence[Findings]) -> Any:
    """Draws Figure 4: training error with the transform gates of one layer at a time closed.

    Args:
        nets: Findings, drawn as a panel for each net. The dashed line is the intact net.

    Returns:
        A matplotlib figure.
    """
    figure, (axes,) = _subplots(0.4 + 4.6 * len(nets), 3.4, 1, len(nets))
    for axis, found in zip(axes, nets, strict=True):
        layers = np.arange(1, len(found.biases) + 1)
        axis.plot(layers, 100 * found.shut[1], "o-", color=_BLOCK_COLORS["highway"], ms=3.5, lw=1)
        _intact(axis, found)
        axis.set(title=found.title, xlabel="Layer without its transform gates")
        axis.set(ylabel="Training error (%)", ylim=(0, None))
        axis.legend(frameon=False, fontsize="small")
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def lesions(found: Findings) -> Any:
    """Draws lesions beyond those of the paper: gates forced open, ranges and pairs of layers.

    Returns:
        A matplotlib figure.
    """
    figure, (axes,) = _subplots(12, 3.6, 1, 3)
    layers = np.arange(1, len(found.biases) + 1)
    kinds = (
        (axes[0], found.shut, "this layer closed", _BLOCK_COLORS["highway"], "o-"),
        (axes[0], found.opened, "this layer forced open", "#d95f02", "s-"),
        (axes[1], found.shut_to, "all up to this layer closed", "#66a61e", "o-"),
        (axes[1], found.shut_from, "all from this layer on closed", "#7b1e57", "s-"),
    )
    for axis, values, label, color, style in kinds:
        axis.plot(layers, 100 * values[1], style, color=color, label=label, ms=3.5, lw=1)
    for axis, title in zip(axes, ("One layer", "Ranges of layers"), strict=False):
        _intact(axis, found)
        axis.set(title=title, xlabel="Layer", ylabel="Training error (%)", ylim=(0, None))
        axis.legend(frameon=False, fontsize="small")
        axis.spines[["top", "right"]].set_visible(False)
    if found.num_pair_examples:
        title = f"Two layers closed: error (%), {found.num_pair_examples:,} examples"
        _map(axes[2], 100 * found.pairs[1], title, cmap=MAPS["error"], vmin=0)
        axes[2].set(xlabel="Layer", ylabel="Layer")
    else:
        axes[2].set_axis_off()
    return figure


def trainability(
    maps: Sequence[Any],
    x: str,
    guideline: Sequence[tuple[int, float]] = (),
    copied: Sequence[float] = (),
    rule: Sequence[tuple[float, float]] = (),
) -> Any:
    """Draws maps of training loss over a setting and depth, on one scale of colours.

    Args:
        maps: What was trained, edges and losses, as in `trainability.Map`. Grey fields are those
            of an infinite loss, white ones those of NaN.
        x: The setting; an axis of learning rates is logarithmic.
        guideline: Depths and values of the setting, drawn as a line.
        copied: Values of the setting, drawn as dashed lines.
        rule: Depths and the values -log(depth) of the setting, drawn as a solid line.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.colors import ListedColormap, LogNorm
    from matplotlib.patches import Patch
    from matplotlib.ticker import LogLocator

    columns = min(len(maps), 3)
    rows = -(-len(maps) // columns)
    # The keys below the maps are beside one another where there is room.
    height = 0.7 + 2.7 * rows + (0.75 if columns == 1 and copied else 0)
    figure, grid = _subplots(0.9 + 3.6 * columns, height, rows, columns, sharex=True, sharey=True)
    known = np.concatenate([m.loss[np.isfinite(m.loss) & (m.loss > 0)] for m in maps])
    low, high = (known.min(), min(known.max(), LARGEST_LOSS)) if known.size else (0.1, 1.0)
    scale = {"cmap": MAPS["loss"], "norm": LogNorm(low, high if high > low else 2 * low)}
    image: Any = None
    keys: dict[str, Any] = {"every trial diverged": Patch(color="0.75")}
    common = " and ".join(f"{value:g}" for value in copied)
    for axis, found in zip(grid.flat, maps, strict=False):
        diverged = np.where(np.isposinf(found.loss), 1.0, np.nan)
        axis.pcolormesh(found.x, found.y, diverged, cmap=ListedColormap(["0.75"]))
        shown = np.where(np.isfinite(found.loss), np.maximum(found.loss, low), np.nan)
        image = axis.pcolormesh(found.x, found.y, shown, **scale)
        for value in copied:  # A white edge, since black is invisible on dark fields.
            axis.axvline(value, color="white", lw=2.5)
        for value in copied:
            line = axis.axvline(value, color="black", ls="--", lw=1.2)
            keys[f"{common}: common choices at every depth"] = line
        if guideline:
            depths, values = zip(*guideline, strict=True)
            axis.plot(values, depths, color="white", lw=3.5)
            (line,) = axis.plot(values, depths, "o-", color="black", mfc="white", ms=5, lw=1.5)
            keys["the paper's guideline"] = line
        if rule:
            depths, values = zip(*rule, strict=True)
            limits = axis.axis()
            axis.plot(values, depths, color="white", lw=3)
            (keys["−log(layers)"],) = axis.plot(values, depths, color="black", lw=1.5)
            axis.axis(limits)
        axis.set(title=found.title, yscale="log", xscale="linear" if copied else "log")
        axis.set_yticks(found.depths, [str(depth) for depth in found.depths])
        axis.yaxis.minorticks_off()
    for axis in grid.flat[len(maps) :]:
        axis.set_axis_off()
    for axis in grid[-1]:
        axis.set_xlabel(x)
    for axis in grid[:, 0]:
        axis.set_ylabel("Layers")
    bar = figure.colorbar(image, ax=grid, shrink=0.9, pad=0.02, label="Training loss")
    bar.ax.yaxis.set_major_locator(LogLocator(subs=(1, 3)))
    bar.ax.yaxis.set_major_formatter("{x:g}")
    bar.ax.minorticks_off()
    ncols = {1: 1, 2: 2, 3: 4}[columns]
    place = "outside lower center"
    figure.legend([*keys.values()], [*keys], loc=place, ncols=ncols, frameon=False)
    return figure


def _intact(axis: Any, found: Findings) -> None:
    axis.axhline(100 * found.intact[1], color="black", ls="--", lw=1, label="intact net")


def _map(
    axis: Any, values: np.ndarray, title: str, extend: str = "neither", **options: Any
) -> None:
    """Draws a map of layers (rows) and units (columns), both counted from 1."""
    rows, columns = values.shape
    extent = (0.5, columns + 0.5, rows + 0.5, 0.5)
    image = axis.imshow(values, extent=extent, aspect="auto", interpolation="nearest", **options)
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel("Unit")
    axis.figure.colorbar(image, ax=axis, shrink=0.9, pad=0.02, extend=extend)


def color_scales(steps: int = 16) -> dict[str, list[tuple[float, str]]]:
    """Returns the scales of `MAPS` as (position from 0 to 1, colour), for other plotting tools."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    positions = [i / (steps - 1) for i in range(steps)]
    return {name: [(p, to_hex(colormaps[m](p))) for p in positions] for name, m in MAPS.items()}


def save(figure: Any, path: Path) -> None:
    """Writes a figure as PNG and SVG, to `path` followed by either suffix.

    Equal figures give equal files. The SVG has fixed ids and no date, since both would otherwise
    differ each time.
    """
    from matplotlib import rc_context

    # The name of a directory in it may have a dot.
    figure.savefig(path.with_name(f"{path.name}.png"), dpi=150)
    drawing = io.StringIO()
    with rc_context({"svg.hashsalt": "highway_jax"}):
        figure.savefig(drawing, format="svg", metadata={"Date": None})
    # With a fixed salt, equal images (such as two colour bars) have equal ids, which must be
    # unique. Nothing refers to them.
    numbers = itertools.count()
    text = re.sub(r'\bid="image\w+"', lambda _: f'id="image{next(numbers)}"', drawing.getvalue())
    path.with_name(f"{path.name}.svg").write_text(text, "utf-8")
