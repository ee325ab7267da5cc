"""The multiplications of a program's products, counted in its jaxpr."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp


def of_model(model: Any, image_shape: tuple[int, ...]) -> int:
    """Returns the multiplications of one example's forward pass in kernels.

    Args:
        model: A `highway_jax.nn.model.Model`.
        image_shape: Shape of one example, without the batch.
    """
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.float32(0))
    return of_function(model.apply, params, jax.ShapeDtypeStruct((1, *image_shape), jnp.float32))


def of_function(function: Callable, *arguments: Any) -> int:
    """Returns the multiplications of all matrix products and convolutions of a function."""
    return _count(jax.make_jaxpr(function)(*arguments))


def _count(jaxpr: Any) -> int:
    total = 0
    for equation in jaxpr.eqns:
        operands = [variable.aval for variable in equation.invars]
        if equation.primitive.name == "dot_general":
            contracted, _ = equation.params["dimension_numbers"][0]
            each = math.prod(operands[0].shape[axis] for axis in contracted)
            total += equation.outvars[0].aval.size * each
        elif equation.primitive.name == "conv_general_dilated":
            outputs = equation.outvars[0].aval
            total += outputs.size // outputs.shape[-1] * operands[1].size
        else:
            repeated = equation.params.get("length", 1)
            inner = (value for value in equation.params.values() if hasattr(value, "eqns"))
            total += repeated * sum(map(_count, inner))
    return total
