"""The paper's figures, drawn from numbers; no file is read and nothing is trained here."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from highway_jax import paper

_DEPTH_COLORS = {10: "#8da0cb", 20: "#66a61e", 50: "#d95f02", 100: "#7b1e57"}
_BLOCK_COLORS = {"plain": "#999999", "highway": "#1b6ca8"}
_BLOCKS = ("plain", "highway")


class Curve(NamedTuple):
    """Numbers over training.

    Attributes:
        x: Epochs or steps [points].
        y: Values [points].
    """

    x: Float[np.ndarray, "points"]
    y: Float[np.ndarray, "points"]


def figure1(
    best: Mapping[tuple[str, int], Curve],
    ten_best: Mapping[tuple[str, int], tuple[float, float]],
) -> Any:
    """Draws Figure 1: how plain and highway nets train, by depth.

    Args:
        best: Training cross-entropy over epochs of the best trial, by block and depth.
        ten_best: Mean and standard deviation of the ten best trials, by block and depth.

    Returns:
        A matplotlib figure; the paper's values are hollow markers of the same colour.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3, sharey=True)
    for axis, block in zip(axes, _BLOCKS, strict=False):
        for depth, color in _DEPTH_COLORS.items():
            if (block, depth) in best:
                axis.plot(*best[block, depth], color=color, label=f"{depth} layers", lw=1.5)
            values = paper.FIGURE1_BEST[block, depth]
            axis.plot(paper.FIGURE1_EPOCHS, values, "o", color=color, mfc="none", ms=5)
        axis.plot([], [], "o", color="0.4", mfc="none", label="paper")
        axis.set(title=f"Best {block} nets", xlabel="Epoch", yscale="log", xlim=(0, 410))
        axis.legend(frameon=False, fontsize="small")
    axes[0].set(ylabel="Training cross-entropy", ylim=(1e-6, 10))
    _bars(axes[2], ten_best)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def _bars(axis: Any, ten_best: Mapping[tuple[str, int], tuple[float, float]]) -> None:
    depths = list(_DEPTH_COLORS)
    for block, shift in zip(_BLOCKS, (-0.2, 0.2), strict=True):
        places = [i + shift for i, depth in enumerate(depths) if (block, depth) in ten_best]
        found = [ten_best[block, depth] for depth in depths if (block, depth) in ten_best]
        means, stds = ([value[i] for value in found] for i in (0, 1))
        axis.bar(places, means, 0.4, color=_BLOCK_COLORS[block], label=block)
        axis.errorbar(places, means, stds, fmt="none", ecolor="black", capsize=3, lw=1)
        theirs = [paper.FIGURE1_TEN_BEST[block, depth][0] for depth in depths]
        axis.plot(
            [i + shift for i in range(len(depths))], theirs, "o", color="black", mfc="white", ms=5
        )
    axis.plot([], [], "o", color="black", mfc="white", label="paper")
    axis.set(title="Mean of the ten best", xlabel="Layers")
    axis.set_xticks(range(len(depths)), [str(depth) for depth in depths])
    axis.legend(frameon=False, fontsize="small")


def test_curves(ours: Mapping[str, Curve], authors: Curve | None, title: str) -> Any:
    """Draws test errors over the steps of training, ours and the authors' own.

    Args:
        ours: Test accuracy from 0 to 1 over steps, by label.
        authors: That of the authors' log, if there is one.
        title: Of the figure.

    Returns:
        A matplotlib figure.
    """
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(6.4, 4), layout="constrained")
    axis = figure.subplots()
    if authors is not None:
        axis.plot(authors.x[1:], 100 * (1 - authors.y[1:]), color="0.6", lw=1, label="authors' log")
    colors = ("#1b6ca8", "#d95f02", "#66a61e", "#7b1e57", "#a6761d")
    for i, (label, curve) in enumerate(ours.items()):
        axis.plot(curve.x, 100 * (1 - curve.y), color=colors[i % len(colors)], lw=1, label=label)
    axis.set(title=title, xlabel="Steps", ylabel="Test error (%)", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_locator(LogLocator(subs=(0.5, 0.7, 2, 3)))
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False, fontsize="small")
    return figure


def save(figure: Any, path: Path) -> None:
    """Writes a figure as PNG and SVG: `path` with either ending."""
    for ending in ("png", "svg"):
        figure.savefig(path.with_suffix(f".{ending}"), dpi=150)
