"""Metrics as sums and counts, which are added over batches and divided once."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int


class Sums(NamedTuple):
    """Sums over examples.

    Example:
        >>> import jax.numpy as jnp
        >>> from highway_jax.training import metrics
        >>> logits, labels = jnp.array([[9.0, 0.0], [9.0, 0.0]]), jnp.array([0, 1])
        >>> found = metrics.sums(logits, labels, jnp.array([True, True]))
        >>> float((found + found).accuracy)
        0.5

    Attributes:
        loss: Sum of cross-entropies in nats.
        correct: Number of examples whose largest logit is that of their label.
        count: Number of examples.
    """

    loss: Float[Array, "*trials"]
    correct: Int[Array, "*trials"]
    count: Int[Array, "*trials"]  # pyright: ignore[reportIncompatibleMethodOverride]

    def __add__(self, other: "Sums") -> "Sums":  # pyright: ignore[reportIncompatibleMethodOverride]
        return jax.tree.map(jnp.add, self, other)

    @property
    def mean_loss(self) -> np.ndarray:
        """Mean cross-entropy in nats; NaN without examples."""
        return self._per_example(self.loss)

    @property
    def accuracy(self) -> np.ndarray:
        """Fraction of correct examples, 0 to 1; NaN without examples."""
        return self._per_example(self.correct)

    def _per_example(self, total: Array | np.ndarray) -> np.ndarray:
        count = np.asarray(self.count)
        with np.errstate(invalid="ignore"):
            share = np.asarray(total, np.float64) / np.maximum(count, 1)
        return np.where(count > 0, share, np.nan)


def zeros() -> Sums:
    """Returns the sums over no examples."""
    return Sums(jnp.float32(0), jnp.int32(0), jnp.int32(0))


def cross_entropy(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    smoothing: Float[Array, ""] | None = None,
) -> Float[Array, "batch"]:
    """Returns the softmax cross-entropy of each example in nats.

    Args:
        logits: The net's outputs.
        labels: Classes.
        smoothing: None, or the share of the target distribution that is spread evenly over all
            classes.
    """
    # Labels are one-hot because the gradient of indexing the logits is a scatter: on GPU its order
    # of additions varies between runs, and its deterministic form is slow.
    targets = jax.nn.one_hot(labels, logits.shape[-1], dtype=logits.dtype)
    if smoothing is not None:
        targets = optax.smooth_labels(targets, smoothing)
    return optax.softmax_cross_entropy(logits, targets)


def sums(
    logits: Float[Array, "batch classes"],
    labels: Int[Array, "batch"],
    mask: Bool[Array, "batch"],
) -> Sums:
    """Returns the sums over the examples of a batch where `mask` is true."""
    losses = cross_entropy(logits, labels)
    correct = jnp.argmax(logits, axis=-1) == labels
    return Sums(
        jnp.sum(jnp.where(mask, losses, 0.0)),
        jnp.sum(correct & mask, dtype=jnp.int32),
        jnp.sum(mask, dtype=jnp.int32),
    )
