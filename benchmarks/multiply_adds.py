"""The multiplications of a net's products, counted in its jaxpr."""

from typing import Any

import jax
import jax.numpy as jnp

from highway_jax.training.compiled_text import operations_of_products


def of_model(model: Any, image_shape: tuple[int, ...]) -> int:
    """Returns the multiplications of one example's forward pass in kernels.

    Args:
        model: A `highway_jax.nn.model.Model`.
        image_shape: Shape of one example, without the batch.
    """
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.float32(0))
    example = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    # Each multiplication comes with an addition.
    return operations_of_products(jax.make_jaxpr(model.apply)(params, example)) // 2
