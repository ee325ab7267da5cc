"""The arrays of an analysis of one net, and the file that holds them."""

import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from highway_jax import files
from highway_jax.errors import UserError


class Findings(NamedTuple):
    """The arrays of Figures 2 to 4 for one net, blocks counted from the first highway layer.

    Errors are shares of examples from 0 to 1, losses cross-entropies in nats.

    Attributes:
        title: Description of the net.
        class_names: Names of the classes.
        biases_before: Transform-gate biases before training [blocks, width].
        biases: After training [blocks, width].
        counts: Training examples of each class [classes].
        by_class: Mean gate output of each class [classes, blocks, width].
        mean: Mean gate output over all training examples [blocks, width].
        changes: Mean |y - x| of each block [blocks].
        sample_index: Indices of single training examples [samples].
        sample_image: Their stored pixels [samples, height, width, channels], or features
            [samples, features].
        sample_label: Their classes [samples].
        sample_prediction: Predicted classes [samples].
        sample_gates: Their gate outputs [samples, blocks, width].
        sample_outputs: Their block outputs [samples, blocks, width].
        num_examples: Training examples that lesions were evaluated on.
        intact: Loss and error of the whole net on them [2].
        shut: With the gates of one layer closed [2, blocks].
        opened: With the gates of one layer forced open [2, blocks].
        shut_to: With the gates of all layers up to each closed [2, blocks].
        shut_from: With the gates of all layers from each on closed [2, blocks].
        num_pair_examples: Training examples that pairs were evaluated on; 0 if none were.
        pairs: With the gates of both layers of a pair closed [2, blocks, blocks].
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
        """Increase of the training error when the gates of each layer are closed."""
        return self.shut[1] - self.intact[1]


def save(found: Findings, path: Path) -> None:
    """Writes the arrays as one `.npz` file, atomically.

    Raises:
        OSError: If writing failed.
    """
    content = io.BytesIO()
    arrays: dict[str, Any] = {k: np.asarray(v) for k, v in found._asdict().items()}
    np.savez_compressed(content, **arrays)
    files.write_atomically(path, content.getvalue())


def _absent(shut: np.ndarray) -> dict[str, Any]:
    """Returns values of optional arrays, which no figure of the paper needs: NaN and 0."""
    unknown = np.full_like(shut, np.nan)
    return {
        **dict.fromkeys(("opened", "shut_to", "shut_from"), unknown),
        "num_examples": 0,
        "num_pair_examples": 0,
        "pairs": np.repeat(unknown[..., None], shut.shape[-1], axis=-1),
    }


def load(path: Path) -> Findings:
    """Reads a file that `save` wrote, in this or another version.

    Lesions that are not in the paper are NaN if the file lacks them.

    Raises:
        UserError: If the file is missing or invalid.
    """
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as arrays:
            values: dict[str, Any] = {
                name: arrays[name] for name in Findings._fields if name in arrays
            }
        values = _absent(values["shut"]) | values
        values["title"] = str(values["title"])
        for name in ("num_examples", "num_pair_examples"):
            values[name] = int(values[name])
        return Findings(**values)
    except Exception as error:  # A damaged file can raise errors of any type.
        raise UserError(
            f"{path}: cannot be read ({error}); repeat highway_jax.analyze to write it again"
        ) from error
