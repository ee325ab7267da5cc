"""The paper's layers, one class per equation, fully connected or convolutional.

With H(x) = f(W_H x + b_H), T(x) = sigmoid(W_T x + b_T) and C(x) = sigmoid(W_C x + b_C):

    plain      y = H(x)
    residual   y = x + H(x)
    highway    y = H(x) * T(x) + x * C(x),   C = 1 - T unless `gate="separate"`

W_H, W_T (and W_C) lie side by side in one `kernel`, so that a block is one matrix product; each
part is initialised on its own. Their biases are separate parameters: `bias` (b_H),
`transform_bias` (b_T) and `carry_bias` (b_C), which optimizers and analyses find by name.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from highway_jax.errors import UserError
from highway_jax.nn import convolution
from highway_jax.registry import ACTIVATIONS, BLOCKS, INITIALIZERS

for _name, _function in {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "identity": lambda x: x,
}.items():
    ACTIVATIONS.register(_name)(_function)


def lookup(table: dict, key: str, name: str):
    """Returns `table[name]`, or raises `UserError` naming `key`, the value and what is allowed."""
    if name not in table:
        raise UserError(f"{key} is {name!r}; allowed: {', '.join(table)}")
    return table[name]


class BlockActivations(NamedTuple):
    """What one block computed for a batch; each of shape [batch, ..., width].

    Attributes:
        x: Its input.
        h: The block state H(x).
        t: The transform gate T(x); ones in a plain or residual block.
        c: The carry gate C(x); zeros in a plain, ones in a residual block.
        y: The block's output.
    """

    x: Float[Array, "batch *space width"]
    h: Float[Array, "batch *space width"]
    t: Float[Array, "batch *space width"]
    c: Float[Array, "batch *space width"]
    y: Float[Array, "batch *space width"]


class _Block(nn.Module):
    """Shared fields and parameters of the blocks.

    Attributes:
        width: Units (or filter maps) of the block; input and output have this many, except that
            a plain block takes any input.
        activation: A name in `ACTIVATIONS`, the f of H.
        kernel_size: 0 for a fully connected block, else the convolution kernel's side.
        initializer: A name in `INITIALIZERS`, for the kernels of H, T and C alike.
        padding: "SAME" or "VALID"; only a plain block may change the size of an image.
        dtype: The type of products and of the block's output. Parameters stay float32; biases,
            activations and gates are computed in float32.
    """

    width: int
    activation: str = "relu"
    kernel_size: int = 0
    initializer: str = "normalized"
    padding: str = "SAME"
    dtype: jnp.dtype = jnp.float32

    def __call__(
        self, x: Float[Array, "batch *space inputs"]
    ) -> Float[Array, "batch *space width"]:
        """Returns the block's output y."""
        return self.output(self.activations(x))

    @staticmethod
    def output(activations: BlockActivations) -> Array:
        """Returns what the next block gets of what this one computed."""
        return activations.y

    @staticmethod
    def observe(function: Callable[[BlockActivations], Any], activations: BlockActivations) -> Any:
        """Returns a function of what this block computed."""
        return function(activations)

    def _affine(self, x: Array, **biases: float) -> list[Array]:
        """Returns the affine maps of x, one for each bias, computed as one product.

        Args:
            x: Input [batch, ..., inputs].
            biases: Names of the maps' biases, and their initial values.
        """
        init_map = lookup(INITIALIZERS, "model.initializer", self.initializer)(self.activation)
        window = (self.kernel_size,) * 2 if self.kernel_size else ()
        shape = (*window, x.shape[-1], self.width)

        def init(key):
            keys = jax.random.split(key, len(biases))
            return jnp.concatenate([init_map(k, shape, jnp.float32) for k in keys], axis=-1)

        kernel = self.param("kernel", init).astype(self.dtype)
        bias = jnp.concatenate(
            [
                self.param(name, nn.initializers.constant(value), (self.width,), jnp.float32)
                for name, value in biases.items()
            ]
        )
        # The bias is float32, and so z: its gradient is a sum over all images and positions. All
        # maps at once: the gradient of the product is then computed where it is needed, in one
        # piece.
        x = x.astype(self.dtype)
        if self.kernel_size:
            z = convolution.conv2d(x, kernel, bias, padding=self.padding)
        else:
            z = (x @ kernel).astype(jnp.float32) + bias
        return jnp.split(z, len(biases), axis=-1)

    def _nonlinear(self, z: Array) -> Array:
        return lookup(ACTIVATIONS, "model.activation", self.activation)(z)


@BLOCKS.register("plain")
class PlainBlock(_Block):
    """The ordinary layer y = H(x) (section 2, equation 1)."""

    @nn.compact
    def activations(self, x: Array, gate: Array | None = None) -> BlockActivations:
        """Returns all that the block computes; `gate` is accepted and has no meaning here."""
        (z,) = self._affine(x, bias=0.0)
        y = self._nonlinear(z).astype(self.dtype)
        return BlockActivations(x, y, jnp.ones_like(y), jnp.zeros_like(y), y)


@BLOCKS.register("residual")
class ResidualBlock(_Block):
    """The ungated skip y = x + H(x) (He et al. 2016 without normalisation; not in the paper)."""

    @nn.compact
    def activations(self, x: Array, gate: Array | None = None) -> BlockActivations:
        """Returns all that the block computes; `gate` is accepted and has no meaning here."""
        (z,) = self._affine(x, bias=0.0)
        h = self._nonlinear(z)
        y = (x.astype(h.dtype) + h).astype(self.dtype)
        return BlockActivations(x, h, jnp.ones_like(h), jnp.ones_like(h), y)


@BLOCKS.register("highway")
class HighwayBlock(_Block):
    """The highway layer y = H(x) * T(x) + x * C(x) (section 2, equations 2 and 3).

    Attributes:
        gate: "coupled" for C = 1 - T, as in all of the paper's experiments, or "separate" for a
            carry gate with weights of its own.
        transform_bias: Initial b_T; negative values start the block close to the identity.
        carry_bias: Initial b_C of a separate carry gate.
    """

    gate: str = "coupled"
    transform_bias: float = -2.0
    carry_bias: float = 1.0

    @nn.compact
    def activations(self, x: Array, gate: Array | None = None) -> BlockActivations:
        """Returns all that the block computes.

        Args:
            x: Input [batch, ..., width].
            gate: None, or a scalar: NaN leaves the gates alone, any other number stands in for
                every transform gate (0 shuts them, so a coupled block copies its input; 1 opens
                them, so that it is a plain block).
        """
        if x.shape[-1] != self.width:
            raise ValueError(
                f"a highway block keeps its width: input has {x.shape[-1]}, width is {self.width}"
            )
        separate = lookup({"coupled": False, "separate": True}, "model.gate", self.gate)
        biases = {"bias": 0.0, "transform_bias": self.transform_bias}
        if separate:
            biases["carry_bias"] = self.carry_bias
        z_h, z_t, *z_c = self._affine(x, **biases)
        h, t = self._nonlinear(z_h), jax.nn.sigmoid(z_t)
        if gate is not None:
            t = jnp.where(jnp.isnan(gate), t, gate.astype(t.dtype))
        c = jax.nn.sigmoid(z_c[0]) if separate else 1 - t
        y = (h * t + x.astype(h.dtype) * c).astype(self.dtype)
        return BlockActivations(x, h, t, c, y)
