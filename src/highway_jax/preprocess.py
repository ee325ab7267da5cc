"""From stored pixels to a net's input: constants fitted once on the host, the rest on the device.

The data set stays uint8 on the device and each step converts the batch it uses: a quarter of the
memory, which counts when every virtual CPU device holds a copy.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

_RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0)}


class Preprocessing(NamedTuple):
    """x = pixels * scale + offset - mean.

    Attributes:
        scale: Factor of the stored pixels.
        offset: Added to the scaled pixels.
        mean: Mean training image, or zero.
    """

    scale: np.float32
    offset: np.float32
    mean: np.ndarray

    def __call__(self, images: UInt8[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
        """Returns the float32 input for a batch of stored images."""
        x = images.astype(jnp.float32) * self.scale + self.offset
        return x - self.mean if np.ndim(self.mean) else x


def fit(config: Any, images: UInt8[np.ndarray, "n *shape"], max_value: int) -> Preprocessing:
    """Fits the preprocessing of a data set.

    Args:
        config: The `data` section: scaling, subtract_mean.
        images: Training images as stored.
        max_value: The largest value a stored pixel can have.
    """
    if config.scaling == "caffe":
        scale, offset = 1 / (max_value + 1), 0.0
    else:
        low, high = _RANGES[config.scaling]
        scale, offset = (high - low) / max_value, low
    mean = np.float32(0)
    if config.subtract_mean:
        mean = (images.mean(axis=0, dtype=np.float64) * scale + offset).astype(np.float32)
    return Preprocessing(np.float32(scale), np.float32(offset), mean)
