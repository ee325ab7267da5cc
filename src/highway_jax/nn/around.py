"""A highway layer around any module that keeps the shape of its input."""

import dataclasses
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array

from highway_jax.nn import custom
from highway_jax.nn.blocks import Block, BlockActivations, check_array, constant, force


class Highway(nn.Module):
    """The highway layer y = H(x) * T(x) + x * (1 - T(x)) for any H (section 2, equation 3).

    It is a block: `scan_blocks` repeats it, its gates can be collected and forced. H and T may be
    any modules that are called with x alone, for example convolutions, recurrent layers or
    attention, as long as they have no state beside their parameters.

    Example:
        >>> import flax.linen as nn
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax import Highway, scan_blocks
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         attention = nn.MultiHeadDotProductAttention(num_heads=2)
        ...         layer = Highway(attention, transform_bias=-4.0, name="blocks")
        ...         return scan_blocks(layer, x, 20)[0]
        >>> net, x = Net(), jnp.ones((2, 5, 8))
        >>> params = net.init(jax.random.key(0), x)
        >>> params["params"]["blocks"]["gate"]["kernel"].shape
        (20, 8, 8)
        >>> net.apply(params, x).shape
        (2, 5, 8)

    Attributes:
        transform: H, a module whose output has the shape of its input. The layer uses a copy of
            it with parameters of its own, named "transform".
        gate: A module that maps x to the logits of T, of the shape of x or one that broadcasts to
            it; None for a dense layer over the last axis. A copy of it is used, named "gate".
        transform_bias: Initial b_T of the dense layer. In a stack of n layers it should be at most
            -log(n) - 1/2; the default suits about ten. A `gate` of the caller's has its own.
    """

    transform: nn.Module
    gate: nn.Module | None = None
    transform_bias: float = -2.0

    output = staticmethod(Block.output)
    observe = staticmethod(Block.observe)

    def __call__(self, x: Array) -> Array:
        """Returns the layer's output y, of the shape of x."""
        return self.activations(x).y

    @nn.compact
    def activations(self, x: Array, gate: Any = None) -> BlockActivations:
        """Returns all that the layer computes.

        Args:
            x: Input [batch, ...].
            gate: None, or a scalar: NaN leaves the gates unchanged, any other value replaces every
                transform gate.

        Raises:
            TypeError: If x is not an array, or H or T is not a linen module.
            ValueError: If H changes the shape of x, T does not broadcast to it, or b_T is not a
                number.
        """
        check_array(x)
        custom.check(self.transform, "transform")
        h: Array = _own(self.transform, self, "transform")(x)
        if h.shape != x.shape:
            raise ValueError(
                f"transform maps the shape {x.shape} to {h.shape}; allowed: a module that keeps it"
            )
        if self.gate is None:
            bias = constant("transform_bias", self.transform_bias)
            logits: Any = nn.Dense(x.shape[-1], bias_init=bias, name="gate")
        else:
            custom.check(self.gate, "gate")
            logits = _own(self.gate, self, "gate")
        z: Array = logits(x).astype(jnp.float32)
        if z.ndim > x.ndim or jnp.broadcast_shapes(z.shape, x.shape) != x.shape:
            raise ValueError(
                f"gate maps the shape {x.shape} to {z.shape}; allowed: a shape that broadcasts to"
                " that of x"
            )
        t = jnp.broadcast_to(force(jax.nn.sigmoid(z), gate), x.shape)
        y = (h.astype(t.dtype) * t + x.astype(t.dtype) * (1 - t)).astype(x.dtype)
        return BlockActivations(x, h, t, 1 - t, y)


def _own(module: Any, parent: Any, name: str) -> Any:
    """Returns a module as a submodule of another: itself if it is one, else a copy.

    A module that is made inside of a compact method belongs to the module of that method, which
    is the one that calls `scan_blocks`. Its parameters would not be among the block's.
    """
    # In the body of `scan_blocks`, its parent is not the same object as the module that runs.
    if module.scope is not None and module.scope.path == (*parent.scope.path, name):
        return module
    return _copy(module, parent=parent, name=name)


def _copy(module: Any, **place: Any) -> Any:
    """Returns a copy of a module with copies of those in its fields, which belong to it."""

    def copied(value):
        return _copy(value, parent=None) if isinstance(value, nn.Module) else value

    fields = {
        field.name: jax.tree.map(
            copied,
            getattr(module, field.name),
            is_leaf=lambda value: isinstance(value, nn.Module) or value is None,
        )
        for field in dataclasses.fields(module)
        if field.init and field.name not in ("parent", "name")
    }
    return type(module)(**fields, **place)
