"""From stored pixels to a net's input: constants fitted once on the host, the rest on the device.

The data set stays uint8 on the device and each step converts the batch it uses: a quarter of the
memory, which counts when every virtual CPU device holds a copy. Whitening is the exception: a
product with a matrix of all pixels by all pixels is done once, and the device holds its result.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from highway_jax.config.sections import Data
from highway_jax.data.datasets import Dataset

logger = logging.getLogger(__name__)

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

    def __call__(
        self, images: UInt8[Array, "batch *shape"] | Float[Array, "batch *shape"]
    ) -> Float[Array, "batch *shape"]:
        """Returns the float32 input for a batch of stored images."""
        x = images.astype(jnp.float32) * self.scale + self.offset
        if self.contrast:
            axes = tuple(range(1, x.ndim))
            x = x - jnp.mean(x, axes, keepdims=True)
            std = jnp.sqrt(jnp.mean(x**2, axes, keepdims=True))
            # An image of one colour is left with rounding errors, of less than 1e-6.
            x = jnp.where(std > 1e-6, x * (self.contrast / jnp.maximum(std, 1e-6)), 0)
        return x - self.mean if np.ndim(self.mean) else x


def fit(config: Data, images: UInt8[np.ndarray, "n *shape"], max_value: int) -> Preprocessing:
    """Fits the preprocessing of a data set.

    Args:
        config: The `data` section: scaling, subtract_mean.
        images: Training images as stored.
        max_value: The largest value a stored pixel can have.
    """
    contrast = config.contrast_std if config.scaling == "global_contrast_normalization" else 0.0
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


_UNCHANGED = Preprocessing(np.float32(1), np.float32(0), np.float32(0))


def examples(config: Data, dataset: Dataset) -> tuple[np.ndarray, Preprocessing]:
    """Returns the images that the devices are to hold, and what turns a batch of them into inputs.

    Args:
        config: The `data` section.
        dataset: The data set; all is fitted on its training split.

    Returns:
        Images [examples, ...] of the training, validation and test split, in this order: uint8 as
        stored, or float32 inputs where `zca_epsilon` asks for whitening.
    """
    if config.zca_epsilon:
        return _whitened(dataset, Data(**{name: getattr(config, name) for name in _WHITENING}))
    images = np.concatenate([split.images for split in _splits(dataset)])
    return images, fit(config, dataset.train.images, dataset.max_value)


# Whitened images depend on these settings alone.
_WHITENING = ("scaling", "contrast_std", "zca_epsilon", "subtract_mean")


def _splits(dataset: Dataset) -> tuple[Any, ...]:
    return dataset.train, dataset.valid, dataset.test


@functools.lru_cache(maxsize=1)
def _whitened(dataset: Dataset, config: Data) -> tuple[np.ndarray, Preprocessing]:
    """Whitens all splits; the batches of a run, which share their data, do it once."""
    logger.info("whitening %s: this takes about a minute", dataset.name)
    fitted = fit(config, dataset.train.images, dataset.max_value)
    prepare = jax.jit(lambda images: fitted(images))
    stored = [split.images for split in _splits(dataset)]
    images = np.empty((sum(map(len, stored)), *dataset.image_shape), np.float32)
    filled = 0
    for part in stored:
        for first in range(0, len(part), _CHUNK):
            chunk = part[first : first + _CHUNK]
            images[filled : filled + len(chunk)] = prepare(chunk)
            filled += len(chunk)
    flat = images.reshape(len(images), -1)
    mean, matrix = zca(flat[: dataset.train.size], config.zca_epsilon)
    for first in range(0, len(flat), _CHUNK):
        chunk = flat[first : first + _CHUNK]
        chunk[:] = (chunk - mean) @ matrix
    return images, _UNCHANGED


def zca(
    x: Float[np.ndarray, "n pixels"], epsilon: float
) -> tuple[Float[np.ndarray, "pixels"], Float[np.ndarray, "pixels pixels"]]:
    """Fits ZCA whitening, (x - mean) @ matrix.

    The matrix is (C + epsilon)^(-1/2), with C the covariance of `x`: without epsilon all that is
    left of the images' principal components has variance 1; with it, those of little variance,
    mostly noise, are not amplified as much (Krizhevsky 2009, appendix A; Goodfellow et al. 2013).

    Args:
        x: Float32 training inputs, one a row.
        epsilon: Added to the variance of each principal component.
    """
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for first in range(0, len(x), _CHUNK):
        centred = x[first : first + _CHUNK] - mean
        covariance += centred.T @ centred
    variances, components = np.linalg.eigh(covariance / len(x))
    # Rounding leaves a variance of nothing slightly below zero.
    scales = 1 / np.sqrt(np.maximum(variances, 0) + epsilon)
    return mean, ((components * scales) @ components.T).astype(np.float32)


def augmentation(config: Data) -> Callable[[PRNGKeyArray, Array], Array]:
    """Returns what training does to each batch at random: (key, inputs) -> inputs.

    Every image is cropped, at a place drawn for it, from itself with a border of zeros, and
    mirrored or not (section 3.3; the border of 8 pixels is that of the authors' files).

    Args:
        config: The `data` section: random_crop_padding, random_flip.
    """

    def augment(
        key: PRNGKeyArray, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height width channels"]:
        crop_key, mirror_key = jax.random.split(key)
        if config.random_crop_padding:
            offsets = jax.random.randint(
                crop_key, (len(x), 2), 0, 2 * config.random_crop_padding + 1
            )
            border = [(config.random_crop_padding,) * 2] * 2
            padded = jnp.pad(x, [(0, 0), *border, (0, 0)])
            x = jax.vmap(
                lambda image, at: jax.lax.dynamic_slice(image, (at[0], at[1], 0), x.shape[1:])
            )(padded, offsets)
        if config.random_flip:
            mirrored = jax.random.bernoulli(mirror_key, shape=(len(x), 1, 1, 1))
            x = jnp.where(mirrored, x[:, :, ::-1], x)
        return x

    return augment
