"""Evaluation of a whole split, every example counted once."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from highway_jax import metrics
from highway_jax.train import DeviceData, Task


def evaluate(
    task: Task, params: Any, data: DeviceData, span: Int[Array, "2"], batch_size: int
) -> metrics.Sums:
    """Returns the metrics' sums over the examples of a split, in one compiled loop.

    Which split is a number too: the same program serves them all.

    Args:
        task: What is fixed.
        params: One net's parameters.
        data: The examples of all splits.
        span: First example of the split, and the one after its last.
        batch_size: Examples at a time.
    """
    first, end = span

    def body(i, total):
        index = first + i * batch_size + jnp.arange(batch_size)
        # The last batch is filled up with copies of the last example that do not count.
        images, labels = data.take(jnp.minimum(index, end - 1))
        logits = task.apply(params, task.preprocess(images))
        return total + metrics.sums(logits, labels, index < end)

    num_batches = (end - first + batch_size - 1) // batch_size
    return jax.lax.fori_loop(0, num_batches, body, metrics.zeros())
