"""Scalar statistics of the arrays of `storage.findings`, in NumPy."""

import math

import numpy as np
from jaxtyping import Float, Real

from highway_jax.storage.findings import Findings

IDLE = 0.01
"""A layer is idle if closing its gates raises the error by less than this (0.01 is 1 %)."""
OPEN = 0.5
"""A gate is open if its output exceeds this."""

NUMBERS = {
    "biases_fell": "share of transform biases that fell in training",
    "bias_depth_correlation": "correlation of a bias with its layer's depth",
    "bias_activity_correlation": "correlation of a bias with its gate's mean output",
    "layer_bias_activity_correlation": "correlation of a layer's mean bias with its mean output",
    "mean_gate": "mean output of all gates over all training examples",
    "open_on_average": f"share of gates whose mean output is above {OPEN}",
    "open_for_one": f"share of gates whose output for one example is above {OPEN}",
    "sparsity_on_average": "Treves-Rolls sparsity of the mean outputs of a layer's gates",
    "sparsity_for_one": "Treves-Rolls sparsity of a layer's gates for one example",
    "change_reach": "first layers that make 95 % of the change in block outputs",
    "class_early_share": "share of the differences between classes in the first 15 layers",
    "intact_loss": "training loss of the intact net",
    "intact_error": "training error of the intact net",
    "idle_share": f"share of layers without which the error rises by less than {100 * IDLE:g} %",
    "last_needed": f"last layer without which the error rises by {100 * IDLE:g} % or more",
    "worst_cost": "rise of the training error without the layer that matters most",
}
"""What each statistic of `measure` is."""


def measure(found: Findings) -> dict[str, float]:
    """Returns the statistics of `NUMBERS`."""
    layer = np.arange(1, len(found.biases) + 1)
    differences = np.abs(found.by_class - found.mean)
    by_layer = np.nansum(differences, axis=(0, 2))
    gates = found.sample_gates[~np.isnan(found.sample_gates)]
    needed = np.flatnonzero(found.cost >= IDLE)
    fell = (found.biases < found.biases_before)[~np.isnan(found.biases)]
    return {
        "biases_fell": float(fell.mean()),
        "bias_depth_correlation": correlation(found.biases, layer[:, None]),
        "bias_activity_correlation": correlation(found.biases, found.mean),
        "layer_bias_activity_correlation": correlation(
            np.nanmean(found.biases, axis=1), np.nanmean(found.mean, axis=1)
        ),
        "mean_gate": float(np.nanmean(found.mean)),
        "open_on_average": float(np.mean(found.mean[~np.isnan(found.mean)] > OPEN)),
        "open_for_one": float(np.mean(gates > OPEN)),
        "sparsity_on_average": float(np.mean(sparsity(found.mean))),
        "sparsity_for_one": float(np.mean(sparsity(found.sample_gates))),
        "change_reach": reach(found.changes),
        "class_early_share": float(by_layer[:15].sum() / max(by_layer.sum(), 1e-30)),
        "intact_loss": float(found.intact[0]),
        "intact_error": float(found.intact[1]),
        "idle_share": float(np.mean(found.cost < IDLE)),
        "last_needed": int(needed[-1] + 1) if len(needed) else 0,
        "worst_cost": float(found.cost.max()),
    }


def describe(numbers: dict[str, float]) -> list[tuple[str, str]]:
    """Returns (description, formatted value) of each statistic of `measure`."""

    def text(name, value):
        if math.isnan(value):
            return "-"
        if isinstance(value, int):
            return str(value)
        shares = ("share", "error", "cost", "fell", "open_")
        return f"{100 * value:.1f} %" if any(s in name for s in shares) else f"{value:.3g}"

    return [(NUMBERS[name], text(name, value)) for name, value in numbers.items()]


def sparsity(activity: Float[np.ndarray, "... units"]) -> Float[np.ndarray, "..."] | float:
    """Returns 1 - mean(a)^2 / mean(a^2) over the last axis, ignoring NaN.

    It is 0 if all units are equally active, and near 1 if few are active (Treves & Rolls 1991).
    """
    return 1 - np.nanmean(activity, -1) ** 2 / np.nanmean(activity**2, -1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Pearson's correlation of the pairs without NaN; NaN if one array is constant."""
    a, b = np.broadcast_arrays(a, b)
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known] - a[known].mean(), b[known] - b[known].mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def reach(amounts: Real[np.ndarray, "blocks"], share: float = 0.95) -> int:
    """Returns how many first blocks it takes for their sum to reach a share of the total."""
    total = np.cumsum(amounts)
    return int(np.searchsorted(total, share * total[-1] * (1 - 1e-9)) + 1)
