"""Kernel initializers by name, as functions of the activation's name.

    >>> import jax
    >>> from highway_jax.registry import INITIALIZERS
    >>> draw = INITIALIZERS["normalized"]("relu")
    >>> draw(jax.random.key(0), (50, 50)).shape
    (50, 50)

`normalized` is the uniform "normalized initialization" of the authors' fully connected nets,
scaled by activation. `msra` is the untruncated N(0, 2 / fan_in) that their Caffe fork draws where
its files say "xavier". `unit_normal`, `tenth_normal` and `twentieth_normal` are the plain Gaussians
of its input and output layers.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from highway_jax.registry import INITIALIZERS


def _flat(initializer: Callable) -> Callable:
    """Returns an initializer that draws the kernel flat and reshapes it; the values are the same.

    With jax 0.12, XLA:CPU takes three seconds to compile the random bits of an array with four
    axes, and a tenth of a second for those of one axis: it unrolls the inner loops over small axes,
    each with the twenty rounds of the generator.
    """

    def init(key, shape, dtype=jnp.float32):
        return initializer(key, (math.prod(shape),), dtype).reshape(shape)

    return init


def _scaling(scale: float, mode: str, distribution: Any) -> Callable:
    """Returns `jax.nn.initializers.variance_scaling` that draws as `_flat` does."""

    def init(key, shape, dtype=jnp.float32):
        size, inputs, outputs = math.prod(shape), *shape[-2:]
        fan_in, fan_out = size // outputs, size // inputs
        fan = fan_in if mode == "fan_in" else (fan_in + fan_out) / 2
        # With one input, the variance is the scale.
        drawn = jax.nn.initializers.variance_scaling(scale / fan, "fan_in", distribution)
        return drawn(key, (1, size), dtype).reshape(shape)

    return init


def _normalized(activation: str) -> Callable:
    # U(+-s / sqrt(fan_in + fan_out)) with s = sqrt(12) for ReLU (He et al. 2015 when square) and
    # sqrt(6) otherwise (Glorot & Bengio 2010). `variance_scaling` draws U(+-sqrt(3 * scale / n))
    # with n the mean of both fans.
    return _scaling(2.0 if activation == "relu" else 1.0, "fan_avg", "uniform")


for _name, _initializer in {
    "he_normal": lambda _: _scaling(2.0, "fan_in", "truncated_normal"),
    "he_uniform": lambda _: _scaling(2.0, "fan_in", "uniform"),
    "glorot_normal": lambda _: _scaling(1.0, "fan_avg", "truncated_normal"),
    "glorot_uniform": lambda _: _scaling(1.0, "fan_avg", "uniform"),
    "lecun_normal": lambda _: _scaling(1.0, "fan_in", "truncated_normal"),
    "msra": lambda _: _scaling(2.0, "fan_in", "normal"),
    "normalized": _normalized,
    "unit_normal": lambda _: _flat(jax.nn.initializers.normal(1.0)),
    "tenth_normal": lambda _: _flat(jax.nn.initializers.normal(0.1)),
    "twentieth_normal": lambda _: _flat(jax.nn.initializers.normal(0.05)),
}.items():
    INITIALIZERS.register(_name)(_initializer)
