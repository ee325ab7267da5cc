"""Preprocessing: constants that are fitted once on the host, and their use on the device.

The device holds the examples as they are stored, uint8 or float32, and each step converts the batch
that it uses. For uint8 images this takes a quarter of the memory, which matters where every virtual
CPU device holds a copy. Whitening is the exception: the product with a matrix of all pixels by all
pixels is computed once, and the device holds its result.

What the settings of the `data` section mean depends on the examples:

- `scaling` maps uint8 pixels to a range. Float examples are not scaled: `unit` leaves them as they
  are, and `caffe` and `signed` are refused.
- `scaling="global_contrast_normalization"` normalizes every image by itself, uint8 or float. For
  vectors, whose features need not have the same unit, it is refused.
- `scaling="standardize"` scales each feature (each value of an image) to mean 0 and variance 1 over
  the training examples, uint8 or float. A feature that is the same in all of them becomes 0.
- `subtract_mean` and `zca_epsilon` apply to images and vectors alike.
- `random_crop_padding`, `random_flip` and `alternating_flip` move pixels, and are refused for
  vectors.
"""

import functools
import logging
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Integer, PRNGKeyArray, UInt8

from highway_jax.config.sections import Config, Data
from highway_jax.data.dataset import Dataset
from highway_jax.errors import UserError

logger = logging.getLogger(__name__)

AnyArray = Array | np.ndarray
"""An array on a device or on the host."""

_RANGES = {"unit": (0.0, 1.0), "signed": (-1.0, 1.0)}
_CHUNK = 1000


class Preprocessing(NamedTuple):
    """The fitted constants: examples * scale + offset - mean, and optionally whitening.

    Attributes:
        scale: Factor of the stored values: one for all, or one for each feature.
        offset: Added to the scaled values.
        mean: Mean training example, or zero.
        contrast: 0, or the standard deviation to which every image is normalized before the mean
            is subtracted, over all of its pixels and channels; its own mean becomes 0. A constant
            image becomes 0.
        center: None, or the mean that whitening subtracts [pixels].
        whitening: None, or the matrix of the whitening [pixels, pixels].
    """

    scale: np.ndarray | np.float32
    offset: np.float32
    mean: np.ndarray | np.float32
    contrast: float = 0.0
    center: np.ndarray | None = None
    whitening: np.ndarray | None = None

    def __call__(
        self, images: UInt8[AnyArray, "batch *shape"] | Float[AnyArray, "batch *shape"]
    ) -> Float[AnyArray, "batch *shape"]:
        """Returns the float32 inputs of a batch of stored examples, before whitening."""
        x = images.astype(jnp.float32) * self.scale + self.offset
        if self.contrast:
            axes = tuple(range(1, x.ndim))
            x = x - jnp.mean(x, axes, keepdims=True)
            std = jnp.sqrt(jnp.mean(x**2, axes, keepdims=True))
            # A constant image is left with rounding errors, of less than 1e-6.
            x = jnp.where(std > 1e-6, x * (self.contrast / jnp.maximum(std, 1e-6)), 0)
        return x - self.mean if np.ndim(self.mean) else x

    def held(self, images: np.ndarray) -> np.ndarray:
        """Returns what the device holds of raw examples: the examples, or whitened inputs."""
        if self.whitening is None or self.center is None:
            return images
        inputs = np.empty(images.shape, np.float32)
        for first in range(0, len(images), _CHUNK):
            inputs[first : first + _CHUNK] = _prepare(self, images[first : first + _CHUNK])
        _whiten(inputs, self.center, self.whitening)
        return inputs

    @property
    def on_device(self) -> "Preprocessing":
        """What turns a batch of held examples into inputs."""
        return self if self.whitening is None else _UNCHANGED


@functools.partial(jax.jit, static_argnames="contrast")
def _scaled(scale: Any, offset: Any, mean: Any, images: Any, contrast: float) -> AnyArray:
    return Preprocessing(scale, offset, mean, contrast)(images)


def _prepare(fitted: Preprocessing, images: np.ndarray) -> AnyArray:
    """Returns inputs before whitening, by a function that is compiled once for each shape."""
    return _scaled(fitted.scale, fitted.offset, fitted.mean, images, fitted.contrast)


_UNCHANGED = Preprocessing(np.float32(1), np.float32(0), np.float32(0))


def check(config: Config, dataset: Dataset) -> None:
    """Checks that the settings of a config make sense for the examples of a data set.

    Args:
        config: A config with the sections `data` and `model`.
        dataset: The data set.

    Raises:
        UserError: If a setting does not apply to these examples.
    """
    data, examples = config.data, dataset.train.images
    if examples.dtype != np.uint8 and data.scaling in ("caffe", "signed"):
        raise UserError(
            f"config.data.scaling is {data.scaling!r}; allowed: 'unit', 'standardize'"
            f" or 'global_contrast_normalization', as the examples of {dataset.name} are"
            f" {examples.dtype}, which has no largest value"
        )
    if examples.ndim == 4:
        return
    contrast = "global_contrast_normalization"
    only_images = {
        "data.scaling": (contrast, data.scaling == contrast, "another scaling"),
        "data.random_crop_padding": (data.random_crop_padding, data.random_crop_padding, "0"),
        "data.random_flip": (data.random_flip, data.random_flip, "False"),
        "data.alternating_flip": (data.alternating_flip, data.alternating_flip, "False"),
        "model.architecture": (
            config.model.architecture,
            config.model.architecture not in ("dense", "custom"),
            "'dense'",
        ),
    }
    for key, (value, is_refused, allowed) in only_images.items():
        if is_refused:
            raise UserError(
                f"config.{key} is {value!r}; allowed: {allowed}, as the examples of"
                f" {dataset.name} are vectors, not images"
            )


def fit(config: Data, images: np.ndarray, max_value: int) -> Preprocessing:
    """Fits the constants, but for whitening.

    Args:
        config: The `data` section: scaling, contrast_std, subtract_mean.
        images: Training examples as stored [n, ...].
        max_value: The largest value that a uint8 pixel can have.
    """
    if config.scaling == "standardize":
        mean, std = _moments(images)
        scale = 1 / std
        return Preprocessing(
            scale.astype(np.float32), np.float32(0), (mean * scale).astype(np.float32)
        )
    contrast = config.contrast_std if config.scaling == "global_contrast_normalization" else 0.0
    if images.dtype != np.uint8:
        scale, offset = 1.0, 0.0
    elif config.scaling == "caffe":
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


def _moments(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the mean and the standard deviation of each feature, 1 where it is constant."""
    mean = images.mean(axis=0, dtype=np.float64)
    squares = np.zeros_like(mean)
    for first in range(0, len(images), _CHUNK):
        squares += ((images[first : first + _CHUNK] - mean) ** 2).sum(axis=0)
    std = np.sqrt(squares / len(images))
    # A smaller one is that of the rounding of float32 values.
    return mean, np.where(std > 1e-6 * np.abs(mean), std, 1.0)


def fit_all(config: Data, dataset: Dataset) -> Preprocessing:
    """Fits all constants on the training split of a data set, those of whitening included.

    Args:
        config: The `data` section.
        dataset: The data set.
    """
    if config.zca_epsilon:
        return _whitened(dataset, _settings(config))[1]
    return fit(config, dataset.train.images, dataset.max_value)


def examples(config: Data, dataset: Dataset) -> tuple[np.ndarray, Preprocessing]:
    """Returns the examples that the devices hold, and what turns a batch of them into inputs.

    Args:
        config: The `data` section.
        dataset: The data set; the constants are fitted on its training split.

    Returns:
        Examples [n, ...] of the training, validation and test split, in this order: as stored, or
        float32 inputs if `zca_epsilon` asks for whitening.
    """
    if config.zca_epsilon:
        images, fitted = _whitened(dataset, _settings(config))
        return images, fitted.on_device
    images = np.concatenate([split.images for split in _splits(dataset)])
    return images, fit(config, dataset.train.images, dataset.max_value)


# Whitened images depend on these settings alone.
_WHITENING = ("scaling", "contrast_std", "zca_epsilon", "subtract_mean")


def _settings(config: Data) -> Data:
    return Data(**{name: getattr(config, name) for name in _WHITENING})


def _splits(dataset: Dataset) -> tuple[Any, ...]:
    return dataset.train, dataset.valid, dataset.test


@functools.lru_cache(maxsize=1)
def _whitened(dataset: Dataset, config: Data) -> tuple[np.ndarray, Preprocessing]:
    """Whitens all splits once for all batches of a run that share their data."""
    logger.info("whitening %s: this takes about a minute", dataset.name)
    fitted = fit(config, dataset.train.images, dataset.max_value)
    stored = [split.images for split in _splits(dataset)]
    images = np.empty((sum(map(len, stored)), *dataset.example_shape), np.float32)
    filled = 0
    for part in stored:
        for first in range(0, len(part), _CHUNK):
            chunk = part[first : first + _CHUNK]
            images[filled : filled + len(chunk)] = _prepare(fitted, chunk)
            filled += len(chunk)
    flat = images.reshape(len(images), -1)
    center, whitening = zca(flat[: dataset.train.size], config.zca_epsilon)
    _whiten(images, center, whitening)
    return images, fitted._replace(center=center, whitening=whitening)


def _whiten(inputs: np.ndarray, center: np.ndarray, whitening: np.ndarray) -> None:
    """Whitens inputs [n, ...] in place."""
    flat = inputs.reshape(len(inputs), -1)
    for first in range(0, len(flat), _CHUNK):
        chunk = flat[first : first + _CHUNK]
        chunk[:] = (chunk - center) @ whitening


def zca(
    x: Float[np.ndarray, "n pixels"], epsilon: float
) -> tuple[Float[np.ndarray, "pixels"], Float[np.ndarray, "pixels pixels"]]:
    """Fits ZCA whitening, (x - mean) @ matrix.

    The matrix is (C + epsilon)^(-1/2), where C is the covariance of `x`. With epsilon 0, every
    principal component has variance 1 afterwards. A positive epsilon amplifies components of small
    variance, which are mostly noise, less (Krizhevsky 2009, appendix A; Goodfellow et al. 2013).

    Args:
        x: Float32 training inputs [n, pixels].
        epsilon: Added to the variance of each principal component.
    """
    mean = x.mean(axis=0, dtype=np.float64).astype(np.float32)
    covariance = np.zeros((x.shape[1], x.shape[1]))
    for first in range(0, len(x), _CHUNK):
        centred = x[first : first + _CHUNK] - mean
        covariance += centred.T @ centred
    variances, components = np.linalg.eigh(covariance / len(x))
    # Rounding can make a variance of zero slightly negative.
    scales = 1 / np.sqrt(np.maximum(variances, 0) + epsilon)
    return mean, ((components * scales) @ components.T).astype(np.float32)


def is_flipped(index: Integer[Array, "*batch"], epoch: Int[Array, ""]) -> Bool[Array, "*batch"]:
    """Returns which training images `data.alternating_flip` flips: each in every other epoch.

    A hash of an image's index decides whether it is flipped in even or in odd epochs, so that each
    epoch flips about half of the images (Jordan 2024, "94% on CIFAR-10 in 3.29 seconds").

    Args:
        index: Positions of images in the data set.
        epoch: The epoch, counted from 0.
    """
    # The finalizer of MurmurHash3.
    bits = index.astype(jnp.uint32)
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        bits = (bits ^ (bits >> shift)) * jnp.uint32(factor)
    bits = bits ^ (bits >> 16)
    return (bits + epoch.astype(jnp.uint32)) % 2 == 1


def augmentation(config: Data) -> Callable[..., Array]:
    """Returns the augmentation of training batches: (key, inputs, index, epoch) -> inputs.

    Every image is padded with a border of zeros, cropped to its size at a random position, and
    mirrored: with probability 1/2 (section 3.3; the authors' files have a border of 8 pixels), or
    in every other epoch. Only the latter depends on the index of each image and the epoch.

    Args:
        config: The `data` section: random_crop_padding, random_flip, alternating_flip.
    """
    if not (config.random_crop_padding or config.random_flip or config.alternating_flip):
        return lambda key, inputs, index=None, epoch=None: inputs

    def augment(
        key: PRNGKeyArray,
        x: Float[Array, "batch height width channels"],
        index: Integer[Array, "batch"] | None = None,
        epoch: Int[Array, ""] | None = None,
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
        if config.alternating_flip:
            if index is None or epoch is None:
                raise ValueError("index or epoch is None; allowed: arrays with alternating flips")
            flipped = is_flipped(index, epoch).reshape(-1, 1, 1, 1)
            x = jnp.where(flipped, x[:, :, ::-1], x)
        return x

    return augment
