"""Evaluation of a whole split, in which every example counts once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from highway_jax.training import metrics
from highway_jax.training.parts import Parts
from highway_jax.training.train import DeviceData, Task


def evaluate(
    task: Task, params: Any, data: DeviceData, span: Int[Array, "2"], batch_size: int
) -> metrics.Sums:
    """Returns the sums of the metrics over the examples of a split, in one compiled loop.

    The span may be traced, so that one program evaluates every split.

    Args:
        task: What does not vary between trials.
        params: One net's parameters.
        data: The examples of all splits.
        span: Index of the split's first example, and of the one after its last.
        batch_size: Number of examples evaluated at once.
    """

    def look(images, labels, counted):
        return metrics.sums(task.apply(params, task.preprocess(images)), labels, counted)

    return add_up(look, data, span, batch_size, task.parts)


def add_up(
    look: Callable,
    data: DeviceData,
    span: Int[Array, "2"],
    batch_size: int,
    parts: Parts = Parts(),  # noqa: B008
) -> Any:
    """Returns the sum of a function of batches over a span of examples, in one compiled loop.

    Example:
        >>> import jax.numpy as jnp
        >>> from highway_jax.training.evaluate import add_up
        >>> from highway_jax.training.train import DeviceData
        >>> data = DeviceData(jnp.zeros((10, 2)), jnp.arange(10))
        >>> def labels_of(images, labels, counted):
        ...     return jnp.where(counted, labels, 0).sum()
        >>> int(add_up(labels_of, data, jnp.array([2, 9]), batch_size=4))  # 2 + 3 + ... + 8
        35

    Args:
        look: (images, labels, counted [batch]) -> a tree of sums over the examples for which
            `counted` is true.
        data: The examples.
        span: Index of the first example, and of the one after the last.
        batch_size: Number of examples that `look` is given at once, on all devices together.
        parts: How the devices share these examples.
    """
    first, end = span
    own_size = -(-min(batch_size, len(data.labels)) // parts.count)
    batch_size = own_size * parts.count

    def body(i, total):
        index = first + i * batch_size + parts.own(jnp.arange(batch_size))
        # The last batch is filled with copies of the last example, which are not counted.
        images, labels = data.take(jnp.minimum(index, end - 1))
        return jax.tree.map(jnp.add, total, look(images, labels, index < end))

    batch = jax.eval_shape(lambda: data.take(jnp.zeros(own_size, jnp.int32)))
    shapes = jax.eval_shape(look, *batch, jax.ShapeDtypeStruct((own_size,), bool))
    nothing = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    num_batches = (end - first + batch_size - 1) // batch_size
    return parts.total(jax.lax.fori_loop(0, num_batches, body, nothing))
