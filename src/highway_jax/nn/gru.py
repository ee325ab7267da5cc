"""The gate of gated transformers, a gated recurrent unit across layers instead of time."""

from collections.abc import Mapping
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from highway_jax.nn.blocks import Block, BlockActivations, force
from highway_jax.registry import BLOCKS


@BLOCKS.register("gru")
class GRUBlock(Block):
    """A layer whose output updates its input by a gated recurrent unit (Parisotto et al. 2020).

        u = f(W x + b)
        r = sigmoid(W_r u + U_r x + b_r)
        z = sigmoid(W_z u + U_z x + b_z)
        h = tanh(W_h u + U_h (r * x) + b_h)
        y = (1 - z) * x + z * h

    It is the gate of GTrXL around a plain layer, with the state x and the input u. Their b_g is
    -b_z. The update gate z is the transform gate: closed, the block is the identity.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.nn.gru import GRUBlock
        >>> block, x = GRUBlock(5), jnp.ones((2, 5))
        >>> params = block.init(jax.random.key(0), x)
        >>> closed = block.apply(params, x, gate=0.0, method="activations")
        >>> bool((closed.y == x).all())
        True

    Attributes:
        transform_bias: Initial b_z.
    """

    roles: ClassVar[Mapping[str, str]] = {
        "kernel": "weight",
        "input_kernel": "weight",
        "state_kernel": "weight",
        "candidate_kernel": "weight",
        "bias": "bias",
        "reset_bias": "bias",
        "transform_bias": "bias",
        "candidate_bias": "bias",
    }
    settings: ClassVar[tuple[str, ...]] = ("transform_bias",)

    transform_bias: float = -2.0

    @nn.compact
    def activations(self, x: Array, gate: Any = None) -> BlockActivations:
        """Returns all that the block computes, with the candidate state as h.

        Args:
            x: Input [batch, ..., width].
            gate: None, or a scalar: NaN leaves the gates unchanged, any other value replaces every
                update gate.
        """
        self.check(x)
        (u,) = self.affine(x, bias=0.0)
        of_input = self.weights(self.width, 3, "input_kernel")
        of_state = self.weights(self.width, 2, "state_kernel")
        of_candidate = self.weights(self.width, 1, "candidate_kernel")
        biases = self.biases(reset_bias=0.0, transform_bias=self.transform_bias, candidate_bias=0.0)
        product = self.product(self.nonlinear(u), of_input, biases)
        r_u, z_u, h_u = jnp.split(product, 3, axis=-1)
        r_x, z_x = jnp.split(self.product(x, of_state), 2, axis=-1)
        state = x.astype(jnp.float32)
        r, t = jax.nn.sigmoid(r_u + r_x), force(jax.nn.sigmoid(z_u + z_x), gate)
        h = jnp.tanh(h_u + self.product(r * state, of_candidate))
        y = (h * t + state * (1 - t)).astype(self.dtype)
        return BlockActivations(x, h, t, 1 - t, y)
