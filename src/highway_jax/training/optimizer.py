"""Momentum SGD as one explicit optax chain, built from a trial's numbers inside its program.

The update is that of the authors' frameworks: weight decay is added to the gradient, the rate
multiplies the gradient before it enters the velocity (so that a fall of the rate does not rescale
what the velocity already holds), and Nesterov's form looks ahead along the new velocity:

    g = grad + weight_decay * w            kernels; times a factor in the softmax layer
    g = bias_rate_factor * grad            biases
    v = momentum * v + rate * g
    w = w - v                              classical
    w = w - (rate * g + momentum * v)      Nesterov, as in Caffe
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from highway_jax.sweep.trials import Hyperparameters


def learning_rate(
    config: Any, steps_per_epoch: int, numbers: Hyperparameters, step: Int[Array, ""]
) -> Float[Array, ""]:
    """Returns the rate at a step, counted from 0.

    Written out because optax's own schedules branch in Python on their decay rate, which is a
    traced number here.

    Args:
        config: The `optimizer` section: schedule, decay_every, boundaries.
        steps_per_epoch: Steps of an epoch.
        numbers: The trial's numbers.
        step: Steps taken before this one.
    """
    if config.schedule == "constant":
        return numbers.learning_rate
    if config.schedule == "exponential":
        falls = step // steps_per_epoch if config.decay_every == "epoch" else step
    else:
        falls = jnp.sum(step >= jnp.asarray(config.boundaries, jnp.int32))
    return numbers.learning_rate * numbers.decay ** falls.astype(jnp.float32)


def summed_rates(
    config: Any, steps_per_epoch: int, numbers: Hyperparameters, epochs: int
) -> np.ndarray:
    """Returns the sums of the rates of all steps until the end of each epoch.

    Args:
        config: The `optimizer` section, as for `learning_rate`.
        steps_per_epoch: Steps of an epoch.
        numbers: Those of the trials, arrays [trials].
        epochs: Epochs of the whole training.

    Returns:
        float64 [trials, epochs].
    """
    steps = jnp.arange(steps_per_epoch, dtype=jnp.int32)

    def of_trial(numbers, first):
        rates = jax.vmap(lambda step: learning_rate(config, steps_per_epoch, numbers, step))
        return jnp.sum(rates(first + steps))

    def of_epoch(epoch):
        return jax.vmap(of_trial, (0, None))(numbers, epoch * steps_per_epoch)

    sums = jax.lax.map(of_epoch, jnp.arange(epochs, dtype=jnp.int32))
    return np.cumsum(np.asarray(sums, np.float64), axis=0).T


def _kernels(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == "kernel", params)


def _biases(params: Any) -> Any:
    return jax.tree.map(lambda is_kernel: not is_kernel, _kernels(params))


def _last_kernel(params: Any) -> Any:
    return jax.tree_util.tree_map_with_path(
        lambda path, _: [entry.key for entry in path] == ["head", "kernel"], params
    )


def build(
    config: Any, steps_per_epoch: int, numbers: Hyperparameters, *, decays_weights: bool
) -> optax.GradientTransformation:
    """Builds the update rule of one trial.

    Args:
        config: The `optimizer` section: schedule, nesterov, clip_norm and both factors.
        steps_per_epoch: Steps of an epoch.
        numbers: The trial's numbers; may be traced.
        decays_weights: Whether any trial of the program decays weights; without, the term is
            left out of the program.
    """
    parts = []
    if config.clip_norm:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    if decays_weights:
        parts.append(optax.add_decayed_weights(numbers.weight_decay, mask=_kernels))
        if config.last_decay_factor != 1:
            more = (config.last_decay_factor - 1) * numbers.weight_decay
            parts.append(optax.add_decayed_weights(more, mask=_last_kernel))
    if config.bias_rate_factor != 1:
        parts.append(optax.masked(optax.scale(config.bias_rate_factor), _biases))

    def descent(step):
        return -learning_rate(config, steps_per_epoch, numbers, step)

    return optax.chain(
        *parts,
        optax.scale_by_schedule(descent),
        optax.trace(decay=numbers.momentum, nesterov=config.nesterov),
    )
