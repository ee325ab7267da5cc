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

`orthogonal` (Saxe et al. 2014) and `delta_orthogonal` (Xiao et al. 2018) keep the norms of what
they multiply, times the gain of the activation: sqrt(2) for ReLU, of which half of the units pass,
and 1 for all others, with which tanh nets with zero biases are critical.
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


def _gain(activation: str) -> float:
    return math.sqrt(2.0) if activation == "relu" else 1.0


def _orthogonal(activation: str) -> Callable:
    return jax.nn.initializers.orthogonal(_gain(activation))


def _delta_orthogonal(activation: str) -> Callable:
    # `jax.nn.initializers.delta_orthogonal` refuses matrices, and kernels that lead to fewer
    # channels. Softmax layers and the last layers of convolutional nets have such kernels.
    draw = _orthogonal(activation)

    def init(key, shape, dtype=jnp.float32):
        middle = tuple((side - 1) // 2 for side in shape[:-2])
        return jnp.zeros(shape, dtype).at[middle].set(draw(key, shape[-2:], dtype))

    return init


for _name, _initializer in {
    "he_normal": lambda _: _scaling(2.0, "fan_in", "truncated_normal"),
    "he_uniform": lambda _: _scaling(2.0, "fan_in", "uniform"),
    "glorot_normal": lambda _: _scaling(1.0, "fan_avg", "truncated_normal"),
    "glorot_uniform": lambda _: _scaling(1.0, "fan_avg", "uniform"),
    "lecun_normal": lambda _: _scaling(1.0, "fan_in", "truncated_normal"),
    "msra": lambda _: _scaling(2.0, "fan_in", "normal"),
    "normalized": _normalized,
    "orthogonal": _orthogonal,
    "delta_orthogonal": _delta_orthogonal,
    "zeros": lambda _: jax.nn.initializers.zeros,
    "unit_normal": lambda _: _flat(jax.nn.initializers.normal(1.0)),
    "tenth_normal": lambda _: _flat(jax.nn.initializers.normal(0.1)),
    "twentieth_normal": lambda _: _flat(jax.nn.initializers.normal(0.05)),
}.items():
    INITIALIZERS.register(_name)(_initializer)
