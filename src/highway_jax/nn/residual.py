"""Blocks with a skip connection, fully connected or convolutional; none is from the paper.

With H(x) = f(W x + b) and T(x) = sigmoid(W_T x + b_T):

    rezero          y = x + a * H(x), a starts at 0                 Bachlechner et al. 2020
                    the same, with another initial a (SkipInit)     De and Smith 2020
    prenorm         y = x + f(W LayerNorm(x) + b)                   after Xiong et al. 2020
    fixup           y = x + a * W_2 (f(W (x + b_1) + b_2) + b_3) + b_4    Zhang et al. 2019
    constant        y = (x + H(x)) / 2                              He et al. 2016, section 3.1
    shortcut_gate   y = H(x) + x * (1 - T(x))                       He et al. 2016, section 3.1

He et al. (2016) is "Identity Mappings in Deep Residual Networks", which calls the highway block
"exclusive gating".
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from highway_jax.nn.blocks import Block, BlockActivations, ResidualBlock, constant, force
from highway_jax.registry import BLOCKS


@BLOCKS.register("rezero")
class ReZeroBlock(ResidualBlock):
    """The residual block with a learned factor, y = x + a * H(x).

    With a = 0 at first every block is the identity, so signals and gradients pass any number of
    blocks unchanged (ReZero, Bachlechner et al. 2020). SkipInit (De and Smith 2020) also allows an
    initial a of at most 1 / sqrt(number of blocks).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.nn.residual import ReZeroBlock
        >>> block, x = ReZeroBlock(5), jnp.ones((2, 5))
        >>> bool((block.apply(block.init(jax.random.key(0), x), x) == x).all())
        True

    Attributes:
        residual_scale: Initial value of the parameter `scale` (a), a scalar of each block.
    """

    roles: ClassVar[Mapping[str, str]] = {"kernel": "weight", "bias": "bias", "scale": "gain"}
    settings: ClassVar[tuple[str, ...]] = ("residual_scale",)

    residual_scale: float = 0.0

    def branch(self, x: Array) -> Array:
        """Returns a * H(x)."""
        h = super().branch(x)
        initial = constant("residual_scale", self.residual_scale)
        return self.param("scale", initial, (), jnp.float32) * h


@BLOCKS.register("prenorm")
class PreNormBlock(ResidualBlock):
    """The residual block with normalized input, y = x + f(W LayerNorm(x) + b).

    Layers are normalized over units (or over the channels at each position) inside of the branch,
    as in pre-norm transformers (Xiong et al. 2020), so that the skip connection stays the identity.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.nn.residual import PreNormBlock
        >>> block, x = PreNormBlock(5), jnp.ones((2, 5))
        >>> block.apply(block.init(jax.random.key(0), x), x).shape
        (2, 5)
    """

    # The parameters of the normalization are norm/scale and norm/bias.
    roles: ClassVar[Mapping[str, str]] = {"kernel": "weight", "bias": "bias", "scale": "gain"}

    def branch(self, x: Array) -> Array:
        """Returns f(W LayerNorm(x) + b)."""
        return super().branch(nn.LayerNorm(name="norm")(x.astype(jnp.float32)))


@BLOCKS.register("fixup")
class FixupBlock(ResidualBlock):
    """A residual block of two layers whose initial weights replace normalization.

        y = x + a * W_2 (f(W (x + b_1) + b_2) + b_3) + b_4

    The last layer of a branch starts at zero and the m - 1 others times L^(-1 / (2m - 2)), for L
    blocks of m layers (Zhang et al. 2019): here W times 1 / sqrt(L). Biases are scalars that start
    at 0, and the multiplier a is a scalar that starts at 1. There is no activation after the sum,
    so that the block starts as the identity. A block counts as two layers in their paper.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.nn.residual import FixupBlock
        >>> block, x = FixupBlock(5, num_blocks=100), jnp.ones((2, 5))
        >>> bool((block.apply(block.init(jax.random.key(0), x), x) == x).all())
        True

    Attributes:
        num_blocks: Blocks of the whole net (L); stacks set it.
    """

    roles: ClassVar[Mapping[str, str]] = {
        "kernel": "weight",
        "last_kernel": "weight",
        "input_bias": "bias",
        "hidden_bias": "bias",
        "last_bias": "bias",
        "bias": "bias",
        "scale": "gain",
    }

    num_blocks: int = 1

    def branch(self, x: Array) -> Array:
        """Returns what the block adds to its input."""
        if self.num_blocks < 1:
            raise ValueError(f"num_blocks is {self.num_blocks}; allowed: at least 1")
        kernel = self.weights(self.width, scale=self.num_blocks**-0.5)
        last = self.weights(self.width, name="last_kernel", scale=0.0)
        names = ("input_bias", "hidden_bias", "last_bias", "bias")
        b1, b2, b3, b4 = (self.param(n, nn.initializers.zeros, (), jnp.float32) for n in names)
        scale = self.param("scale", nn.initializers.ones, (), jnp.float32)
        z = self.product(x.astype(jnp.float32) + b1, kernel) + b2
        return scale * self.product(self.nonlinear(z) + b3, last) + b4


@BLOCKS.register("constant")
class ConstantBlock(Block):
    """The residual block with constant factors, y = (x + H(x)) / 2 (He et al. 2016, equation 6).

    The signal of the skip connection halves with each block: nets of many blocks fail to train.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.nn.residual import ConstantBlock
        >>> block, x = ConstantBlock(5), jnp.ones((2, 5))
        >>> block.apply(block.init(jax.random.key(0), x), x).shape
        (2, 5)
    """

    @nn.compact
    def activations(self, x: Array, gate: Any = None) -> BlockActivations:
        """Returns all that the block computes; its gates are constants that cannot be forced."""
        self.check(x)
        (z,) = self.affine(x, bias=0.0)
        h = self.nonlinear(z)
        half = jnp.full_like(h, 0.5)
        y = (h * half + x.astype(h.dtype) * half).astype(self.dtype)
        return BlockActivations(x, h, half, half, y)


@BLOCKS.register("shortcut_gate")
class ShortcutGateBlock(Block):
    """The residual block with a gate on the shortcut alone, y = H(x) + x * (1 - T(x)).

    He et al. (2016) call this shortcut-only gating. With closed gates (T = 0) it is the residual
    block, unlike the highway block, which is then the identity.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.nn.residual import ShortcutGateBlock
        >>> block, x = ShortcutGateBlock(5), jnp.ones((2, 5))
        >>> params = block.init(jax.random.key(0), x)
        >>> closed = block.apply(params, x, gate=0.0, method="activations")
        >>> bool((closed.y == x + closed.h).all())
        True

    Attributes:
        transform_bias: Initial b_T.
    """

    roles: ClassVar[Mapping[str, str]] = {
        "kernel": "weight",
        "bias": "bias",
        "transform_bias": "bias",
    }
    settings: ClassVar[tuple[str, ...]] = ("transform_bias",)

    transform_bias: float = -2.0

    @nn.compact
    def activations(self, x: Array, gate: Any = None) -> BlockActivations:
        """Returns all that the block computes.

        Args:
            x: Input [batch, ..., width].
            gate: None, or a scalar: NaN leaves the gates unchanged, any other value replaces them.
        """
        self.check(x)
        z_h, z_t = self.affine(x, bias=0.0, transform_bias=self.transform_bias)
        h, t = self.nonlinear(z_h), force(jax.nn.sigmoid(z_t), gate)
        y = (h + x.astype(h.dtype) * (1 - t)).astype(self.dtype)
        return BlockActivations(x, h, t, 1 - t, y)
