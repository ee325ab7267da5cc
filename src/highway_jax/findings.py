"""What was found inside one net: its arrays, the numbers they come to, and the file they lie in."""

import io
import math
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from highway_jax import files
from highway_jax.analysis import correlation, reach, sparsity
from highway_jax.errors import UserError

IDLE = 0.01
"""A layer is idle if shutting its gates raises the error by less than this (0.01 is 1 %)."""
OPEN = 0.5
"""A gate is open if its output is above this."""


class Findings(NamedTuple):
    """The arrays of Figures 2 to 4 for one net, blocks counted from the first highway layer.

    Errors are shares of examples from 0 to 1, losses cross-entropies in nats.

    Attributes:
        title: What net it is.
        class_names: Names of the classes.
        biases_before: Transform-gate biases before training [blocks, width].
        biases: After training [blocks, width].
        counts: Training examples of each class [classes].
        by_class: Mean gate output of each class [classes, blocks, width].
        mean: Mean gate output over all training examples [blocks, width].
        changes: Mean |y - x| of each block [blocks].
        sample_index: Training examples looked at on their own [samples].
        sample_image: Their stored pixels [samples, height, width, channels].
        sample_label: Their classes [samples].
        sample_prediction: The net's answers [samples].
        sample_gates: Their gate outputs [samples, blocks, width].
        sample_outputs: Their block outputs [samples, blocks, width].
        num_examples: Training examples that lesions were evaluated on.
        intact: Loss and error of the whole net on them [2].
        shut: With each layer's gates shut in turn [2, blocks].
        opened: With each layer's gates forced open in turn [2, blocks].
        shut_to: With all layers up to each shut [2, blocks].
        shut_from: With all layers from each on shut [2, blocks].
        num_pair_examples: Training examples that pairs were evaluated on; 0 if they were not.
        pairs: With both layers of a pair shut [2, blocks, blocks].
    """

    title: str
    class_names: np.ndarray
    biases_before: Float[np.ndarray, "blocks width"]
    biases: Float[np.ndarray, "blocks width"]
    counts: Float[np.ndarray, "classes"]
    by_class: Float[np.ndarray, "classes blocks width"]
    mean: Float[np.ndarray, "blocks width"]
    changes: Float[np.ndarray, "blocks"]
    sample_index: Int[np.ndarray, "samples"]
    sample_image: np.ndarray
    sample_label: Int[np.ndarray, "samples"]
    sample_prediction: Int[np.ndarray, "samples"]
    sample_gates: Float[np.ndarray, "samples blocks width"]
    sample_outputs: Float[np.ndarray, "samples blocks width"]
    num_examples: int
    intact: Float[np.ndarray, "2"]
    shut: Float[np.ndarray, "2 blocks"]
    opened: Float[np.ndarray, "2 blocks"]
    shut_to: Float[np.ndarray, "2 blocks"]
    shut_from: Float[np.ndarray, "2 blocks"]
    num_pair_examples: int
    pairs: Float[np.ndarray, "2 blocks blocks"]

    @property
    def cost(self) -> Float[np.ndarray, "blocks"]:
        """What shutting each layer adds to the training error."""
        return self.shut[1] - self.intact[1]


NUMBERS = {
    "biases_fell": "share of transform biases that fell in training",
    "bias_depth_correlation": "correlation of a bias with its layer's depth",
    "bias_activity_correlation": "correlation of a bias with its gate's mean output",
    "layer_bias_activity_correlation": "the same of a layer's mean bias and mean output",
    "mean_gate": "mean output of all gates over all training examples",
    "open_on_average": f"share of gates whose mean output is above {OPEN}",
    "open_for_one": f"share of gates whose output for one example is above {OPEN}",
    "sparsity_on_average": "Treves-Rolls sparsity of the mean outputs of a layer's gates",
    "sparsity_for_one": "Treves-Rolls sparsity of a layer's gates for one example",
    "change_reach": "layers that make 95 % of the change in block outputs",
    "class_early_share": "share of the differences between classes in the first 15 layers",
    "intact_loss": "training loss of the intact net",
    "intact_error": "training error of the intact net",
    "idle_share": f"share of layers without which the error rises by less than {100 * IDLE:g} %",
    "last_needed": f"last layer without which the error rises by {100 * IDLE:g} % or more",
    "worst_cost": "rise of the training error without the layer that matters most",
}
"""The numbers of `measure`, in words."""


def measure(found: Findings) -> dict[str, float]:
    """Returns the numbers that the arrays come to (see `NUMBERS`)."""
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


def save(found: Findings, path: Path) -> None:
    """Writes the arrays as one `.npz` file, whole or not at all.

    Raises:
        OSError: If it could not be written.
    """
    content = io.BytesIO()
    np.savez_compressed(content, **{k: np.asarray(v) for k, v in found._asdict().items()})
    files.write_atomically(path, content.getvalue())


def _absent(shut: np.ndarray) -> dict[str, Any]:
    """Returns what stands for arrays that no figure of the paper needs, where they are missing."""
    unknown = np.full_like(shut, np.nan)
    return {
        **dict.fromkeys(("opened", "shut_to", "shut_from"), unknown),
        "num_examples": 0,
        "num_pair_examples": 0,
        "pairs": np.repeat(unknown[..., None], shut.shape[-1], axis=-1),
    }


def load(path: Path) -> Findings:
    """Reads what `save` wrote, in this version or another.

    Lesions that the paper does not have are NaN where the file lacks them.

    Raises:
        UserError: If the file is not there or not such a file.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            values = {name: arrays[name] for name in Findings._fields if name in arrays}
        values = _absent(values["shut"]) | values
        return Findings(
            **values
            | {"title": str(values["title"])}
            | {name: int(values[name]) for name in ("num_examples", "num_pair_examples")}
        )
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(
            f"{path} cannot be read ({error}); allowed: a file that highway_jax.analyze wrote"
        ) from error


def describe(numbers: dict[str, float]) -> list[tuple[str, str]]:
    """Returns what each number of `measure` is and its value, for people to read."""

    def text(name, value):
        if math.isnan(value):
            return "-"
        if isinstance(value, int):
            return str(value)
        shares = ("share", "error", "cost", "fell", "open_")
        return f"{100 * value:.1f} %" if any(s in name for s in shares) else f"{value:.3g}"

    return [(NUMBERS[name], text(name, value)) for name, value in numbers.items()]
