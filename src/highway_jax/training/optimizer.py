"""Update rules of one trial, and its learning-rate schedule, built inside its program.

Hyperparameters are traced, so that trials which differ in them share one compiled program. Rules
are registered by name in `OPTIMIZERS`; `register_optimizer` adds one:

    @register_optimizer("lion")
    def lion(parts: Parts) -> optax.GradientTransformation:
        moments = optax.scale_by_lion(parts.hyperparameters.beta1, parts.hyperparameters.beta2)
        return optax.chain(moments, *parts.decay, *parts.bias_rate, parts.descend)
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int

from highway_jax.config.sections import Optimizer
from highway_jax.errors import show
from highway_jax.registry import OPTIMIZERS
from highway_jax.sweep.trials import AnyHyperparameters


class Parts(NamedTuple):
    """The parts of an update rule; gradients are clipped before all of them.

    Attributes:
        config: The `optimizer` section.
        hyperparameters: The trial's hyperparameters, traced.
        decay: Transformations that add weight decay to their input; none if no trial of the
            program decays weights.
        bias_rate: Transformations that multiply the updates of biases by
            `bias_learning_rate_multiplier`; none if it is 1.
        descend: Multiplies by minus the learning rate of the step.
    """

    config: Optimizer
    hyperparameters: AnyHyperparameters
    decay: tuple[optax.GradientTransformation, ...]
    bias_rate: tuple[optax.GradientTransformation, ...]
    descend: optax.GradientTransformation


Rule = Callable[[Parts], optax.GradientTransformation | Sequence[optax.GradientTransformation]]
"""From parts to a transformation of gradients to updates, or several to be chained."""


def register_optimizer(name: str) -> Callable[[Rule], Rule]:
    """Returns a decorator that registers an update rule, which `optimizer.name` can then choose.

    The decorated function takes `Parts` and returns an optax transformation of gradients to
    updates, or several to be chained. Its state, a tree of arrays, is saved and restored with the
    parameters.

    Example:
        >>> import optax
        >>> import highway_jax
        >>> @highway_jax.register_optimizer("rms_example")
        ... def rms_example(parts):
        ...     return optax.chain(*parts.decay, optax.scale_by_rms(), parts.descend)
        >>> config = highway_jax.default_config()
        >>> config.optimizer.name = "rms_example"

    Args:
        name: The value of `optimizer.name`.

    Raises:
        ValueError: If the name is not an identifier, or is registered already.
    """
    return OPTIMIZERS.register(name)


@register_optimizer("momentum")
def momentum(parts: Parts) -> Sequence[optax.GradientTransformation]:
    """Momentum SGD as in the authors' frameworks.

    Weight decay is added to the gradient. The learning rate multiplies the gradient before it
    enters the velocity, so that a decay of the rate does not rescale the velocity, and Nesterov's
    form looks ahead along the new velocity:

        g = grad + weight_decay * w                    weights; times a factor in the softmax layer
        g = bias_learning_rate_multiplier * grad       biases
        v = momentum * v + rate * g
        w = w - v                                      classical
        w = w - (rate * g + momentum * v)              Nesterov, as in Caffe
    """
    # Not yet chained: checkpoints hold one state for each transformation.
    return (
        *parts.decay,
        *parts.bias_rate,
        parts.descend,
        optax.trace(decay=parts.hyperparameters.momentum, nesterov=parts.config.nesterov),
    )


@register_optimizer("adam")
def adam(parts: Parts) -> optax.GradientTransformation:
    """Adam (Kingma and Ba 2015), with weight decay in the gradient."""
    return optax.chain(*parts.decay, _adam(parts), *parts.bias_rate, parts.descend)


@register_optimizer("adamw")
def adamw(parts: Parts) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, times the learning rate (Loshchilov and Hutter 2019)."""
    return optax.chain(_adam(parts), *parts.decay, *parts.bias_rate, parts.descend)


def _adam(parts: Parts) -> optax.GradientTransformation:
    hyperparameters = parts.hyperparameters
    rule = optax.scale_by_adam(
        hyperparameters.beta1, hyperparameters.beta2, hyperparameters.epsilon
    )

    def update(updates, state, params=None):
        # It raises the decay rates, which are float32 arrays here, to an integer power.
        with jax.numpy_dtype_promotion("standard"):
            return rule.update(updates, state, params)

    return optax.GradientTransformation(rule.init, update)


def learning_rate(
    config: Optimizer,
    steps_per_epoch: int,
    hyperparameters: AnyHyperparameters,
    step: Int[Array, ""],
    epochs: int | None = None,
) -> Float[Array, ""]:
    """Returns the learning rate at a step, counted from 0.

    The schedules of optax branch in Python on their hyperparameters, which are traced here.

    Args:
        config: The `optimizer` section: schedule, decay_every, boundaries, decay_shape.
        steps_per_epoch: Steps of an epoch.
        hyperparameters: The trial's hyperparameters.
        step: Number of steps taken before this one.
        epochs: Epochs of the whole training, which the one-cycle schedule depends on.
    """
    if config.schedule == "constant":
        return hyperparameters.learning_rate
    if config.schedule == "one_cycle":
        if epochs is None:
            raise ValueError("epochs is None; allowed: a whole number with the one-cycle schedule")
        steps = steps_per_epoch * epochs
        return hyperparameters.learning_rate * _one_cycle(
            config.decay_shape, steps, hyperparameters, step
        )
    if config.schedule == "exponential":
        decays = step // steps_per_epoch if config.decay_every == "epoch" else step
    else:
        decays = jnp.sum(step >= jnp.asarray(config.boundaries, jnp.int32))
    return hyperparameters.learning_rate * hyperparameters.decay ** decays.astype(jnp.float32)


def _one_cycle(
    shape: str, num_steps: int, hyperparameters: AnyHyperparameters, step: Int[Array, ""]
) -> Float[Array, ""]:
    """Returns the factor of the learning rate at a step of the one-cycle schedule.

    With n steps, of which w = warmup_fraction * n are warm-up, step s has the factor

        min(1, (s + 1) / w) * d(max(0, (s - w) / (n - w)))

    where d falls from 1 at 0 to final_fraction at 1, linearly or as a half cosine. So the first
    step has a rate above 0, and so has the last one, even if final_fraction is 0.
    """
    warmup = hyperparameters.warmup_fraction * num_steps
    done = step.astype(jnp.float32)
    rise = jnp.minimum((done + 1) / jnp.maximum(warmup, 1), 1)
    progress = jnp.maximum(done - warmup, 0) / jnp.maximum(num_steps - warmup, 1)
    left = 1 - progress if shape == "linear" else (1 + jnp.cos(jnp.pi * progress)) / 2
    return rise * (hyperparameters.final_fraction + (1 - hyperparameters.final_fraction) * left)


class WeightAverage(NamedTuple):
    """The state of `average_weights`.

    Attributes:
        count: Steps taken.
        average: The average, a tree like the parameters.
    """

    count: Int[Array, "*trials"]
    average: Any


def average_weights(decay: Float[Array, ""]) -> optax.GradientTransformation:
    """Returns a transformation that averages the weights after each update, and changes none.

    With the weights w_1, ..., w_t after each of t steps, the average is

        sum over i of decay^(t - i) * w_i, divided by the sum over i of decay^(t - i)

    so that the initial weights have no part in it. It must be the last of a chain.
    """

    def init(params):
        return WeightAverage(jnp.int32(0), params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, WeightAverage]:
        count = state.count + 1
        share = (1 - decay) / (1 - decay ** count.astype(jnp.float32))
        moved = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda old, new: old + share * (new - old), state.average, moved)
        return updates, WeightAverage(count, average)

    return optax.GradientTransformation(init, update)


def averaged_weights(optimizer_state: Any, params: Any) -> Any:
    """Returns the average of the weights that an optimizer's state holds, or else the weights."""
    nodes = jax.tree.leaves(optimizer_state, is_leaf=lambda node: isinstance(node, WeightAverage))
    found = [node.average for node in nodes if isinstance(node, WeightAverage)]
    return found[0] if found else params


def summed_rates(
    config: Optimizer, steps_per_epoch: int, hyperparameters: AnyHyperparameters, epochs: int
) -> np.ndarray:
    """Returns the sums of the learning rates of all steps until the end of each epoch.

    Args:
        config: The `optimizer` section, as for `learning_rate`.
        steps_per_epoch: Steps of an epoch.
        hyperparameters: Hyperparameters of the trials, arrays [trials].
        epochs: Epochs of the whole training.

    Returns:
        float64 [trials, epochs].
    """
    steps = jnp.arange(steps_per_epoch, dtype=jnp.int32)

    def of_trial(hyperparameters, first):
        rates = jax.vmap(
            lambda step: learning_rate(config, steps_per_epoch, hyperparameters, step, epochs)
        )
        return jnp.sum(rates(first + steps))

    def of_epoch(epoch):
        return jax.vmap(of_trial, (0, None))(hyperparameters, epoch * steps_per_epoch)

    sums = jax.lax.map(of_epoch, jnp.arange(epochs, dtype=jnp.int32))
    return np.cumsum(np.asarray(sums, np.float64), axis=0).T


def build(
    config: Optimizer,
    steps_per_epoch: int,
    hyperparameters: AnyHyperparameters,
    roles: Any,
    *,
    decays_weights: bool,
    epochs: int | None = None,
) -> optax.GradientTransformation:
    """Builds the update rule of one trial.

    Args:
        config: The `optimizer` section.
        steps_per_epoch: Steps of an epoch.
        hyperparameters: The trial's hyperparameters; may be traced.
        roles: "weight", "bias", "gain" or "constant" for each parameter, a tree like the
            parameters'. Constants are never updated.
        decays_weights: Whether any trial of the program decays weights; if none does, the term is
            left out of the program.
        epochs: Epochs of the whole training, which the one-cycle schedule depends on.
    """
    decay, bias_rate = [], []
    if decays_weights:
        weights = jax.tree.map(lambda role: role == "weight", roles)
        decay.append(optax.add_decayed_weights(hyperparameters.weight_decay, mask=weights))
        if config.head_weight_decay_multiplier != 1:
            more = (config.head_weight_decay_multiplier - 1) * hyperparameters.weight_decay
            decay.append(optax.add_decayed_weights(more, mask=_head_only(weights)))
    if config.bias_learning_rate_multiplier != 1:
        biases = jax.tree.map(lambda role: role == "bias", roles)
        scale = optax.scale(config.bias_learning_rate_multiplier)
        bias_rate.append(optax.masked(scale, biases))

    def descent(step):
        return -learning_rate(config, steps_per_epoch, hyperparameters, step, epochs)

    descend = optax.scale_by_schedule(descent)
    parts = Parts(config, hyperparameters, tuple(decay), tuple(bias_rate), descend)
    rule = OPTIMIZERS[config.name](parts)
    if isinstance(rule, optax.GradientTransformation):
        rule = (rule,)
    if not isinstance(rule, Sequence):
        raise TypeError(
            f"update rule {config.name!r} is {show(rule)}; allowed: an"
            " optax.GradientTransformation, which the registered function returns, or several"
        )
    clip = (optax.clip_by_global_norm(config.clip_norm),) if config.clip_norm else ()
    average = (
        (average_weights(hyperparameters.weight_average),)
        if hasattr(hyperparameters, "weight_average")
        else ()
    )
    constants = jax.tree.map(lambda role: role == "constant", roles)
    still = (
        (optax.masked(optax.set_to_zero(), constants),) if any(jax.tree.leaves(constants)) else ()
    )
    # Constants have no part in a gradient's norm, and no rule changes them.
    return optax.chain(*still, *clip, *rule, *still, *average)


def _head_only(mask: Any) -> Any:
    """Returns a mask of parameters with those outside the softmax layer left out."""
    return jax.tree_util.tree_map_with_path(
        lambda path, chosen: chosen and path[0].key == "head", mask
    )
