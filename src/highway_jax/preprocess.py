"""From stored pixels to a net's input: constants fitted once on the host, the rest on the device.

The data set stays uint8 on the device and each step converts the batch it uses: a quarter of the
memory, which counts when every virtual CPU device holds a copy.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

_RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0)}
_CHUNK = 1000


class Preprocessing(NamedTuple):
    """x = pixels * scale + offset - mean, or contrast-normalized pixels - mean.

    Attributes:
        scale: Factor of the stored pixels.
        offset: Added to the scaled pixels.
        mean: Mean training image, or zero.
        contrast: 0, or the standard deviation that every image is first brought to, with mean 0,
            over all of its pixels and channels; an image of one colour becomes 0.
    """

    scale: np.float32
    offset: np.float32
    mean: np.ndarray
    contrast: float = 0.0

    def __call__(self, images: UInt8[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
        """Returns the float32 input for a batch of stored images."""
        x = images.astype(jnp.float32) * self.scale + self.offset
        if self.contrast:
            axes = tuple(range(1, x.ndim))
            x = x - jnp.mean(x, axes, keepdims=True)
            std = jnp.sqrt(jnp.mean(x**2, axes, keepdims=True))
            # An image of one colour is left with rounding errors, of less than 1e-6.
            x = jnp.where(std > 1e-6, x * (self.contrast / jnp.maximum(std, 1e-6)), 0)
        return x - self.mean if np.ndim(self.mean) else x


def fit(config: Any, images: UInt8[np.ndarray, "n *shape"], max_value: int) -> Preprocessing:
    """Fits the preprocessing of a data set.

    Args:
        config: The `data` section: scaling, subtract_mean.
        images: Training images as stored.
        max_value: The largest value a stored pixel can have.
    """
    contrast = config.contrast_std if config.scaling == "contrast" else 0.0
    if config.scaling == "caffe":
        scale, offset = 1 / (max_value + 1), 0.0
    else:
        low, high = _RANGES["unit" if contrast else config.scaling]
        scale, offset = (high - low) / max_value, low
    fitted = Preprocessing(np.float32(scale), np.float32(offset), np.float32(0), contrast)
    if not config.subtract_mean:
        return fitted
    if contrast:
        total = np.zeros(images.shape[1:], np.float64)
        for first in range(0, len(images), _CHUNK):
            inputs = fitted(jnp.asarray(images[first : first + _CHUNK]))
            total += np.asarray(inputs).sum(axis=0, dtype=np.float64)
        mean = total / len(images)
    else:
        mean = images.mean(axis=0, dtype=np.float64) * scale + offset
    return fitted._replace(mean=mean.astype(np.float32))


def augmentation(config: Any) -> Callable[[PRNGKeyArray, Array], Array]:
    """Returns what training does to each batch at random: (key, inputs) -> inputs.

    Every image is cropped, at a place drawn for it, from itself with a border of zeros, and
    mirrored or not (section 3.3; the border of 8 pixels is that of the authors' files).

    Args:
        config: The `data` section: pad, mirror.
    """

    def augment(
        key: PRNGKeyArray, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        crop_key, mirror_key = jax.random.split(key)
        if config.pad:
            offsets = jax.random.randint(crop_key, (len(x), 2), 0, 2 * config.pad + 1)
            border = [(config.pad, config.pad)] * 2
            padded = jnp.pad(x, [(0, 0), *border, (0, 0)])
            x = jax.vmap(
                lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), x.shape[1:])
            )(padded, offsets)
        if config.mirror:
            mirrored = jax.random.bernoulli(mirror_key, shape=(len(x), 1, 1, 1))
            x = jnp.where(mirrored, x[:, :, ::-1], x)
        return x

    return augment
