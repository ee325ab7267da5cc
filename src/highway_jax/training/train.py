"""Training as pure functions of one trial: its state, one step, several steps.

These functions do not depend on how many trials there are, nor on the devices that they run on,
except that the devices of a trial share its batches (`Task.parts`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Integer, UInt8

from highway_jax.data.preprocess import AnyArray
from highway_jax.nn.stacks import set_logit_scale
from highway_jax.sweep.trials import AnyHyperparameters
from highway_jax.training import metrics, optimizer
from highway_jax.training.parts import Parts


class DeviceData(NamedTuple):
    """The examples of all splits, on the host or the device, training examples first.

    Attributes:
        images: Pixels as stored, or whitened inputs [examples, ...].
        labels: Classes [examples].
    """

    images: UInt8[AnyArray, "examples *shape"] | Float[AnyArray, "examples *shape"]
    labels: Int[AnyArray, "examples"]

    def take(self, index: Integer[Array, "batch"]) -> "DeviceData":
        """Returns the examples at `index`."""
        return jax.tree.map(lambda a: jnp.take(a, index, axis=0, mode="clip"), self)


class Task(NamedTuple):
    """What does not vary between the trials of a program.

    Attributes:
        init: (key, transform_bias) -> params.
        apply: (params, inputs, dropout_keys=None) -> logits; without keys, one for each example,
            as for evaluation. Trials with the hyperparameter `dropout_scale` pass it by keyword.
        preprocess: Stored images -> inputs.
        optimizer: A trial's hyperparameters -> its update rule.
        num_train: Training examples.
        batch_size: Examples of a step.
        micro_batch: How many of them a device computes at once, a divisor of its part of the
            batch; it changes a step by rounding only.
        augment: (key, inputs, index, epoch) -> inputs as training sees them; `index` holds the
            position of each example in the data set.
        parts: How the devices of a trial share its batches; it changes a step by rounding only.
    """

    init: Callable
    apply: Callable
    preprocess: Callable
    optimizer: Callable[[AnyHyperparameters], optax.GradientTransformation]
    num_train: int
    batch_size: int
    micro_batch: int
    augment: Callable = lambda key, inputs, index, epoch: inputs
    parts: Parts = Parts()

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training split."""
        return self.num_train // self.batch_size


class TrialState(NamedTuple):
    """All that is needed to resume a trial.

    Attributes:
        numbers: The trial's hyperparameters, by the name that checkpoints give them.
        params: The net's parameters.
        optimizer_state: The optimizer's state.
        step: Steps taken.
        sums: Training metrics since the epoch began, each batch before its update.
        diverged: Whether a loss was not finite; the trial is frozen from that step on.
    """

    numbers: AnyHyperparameters
    params: Any
    optimizer_state: Any
    step: Int[Array, ""]
    sums: metrics.Sums
    diverged: Bool[Array, ""]


def _keys(hyperparameters: AnyHyperparameters) -> tuple[Array, Array, Array]:
    init_key, data_key, noise_key = jax.random.split(jax.random.key(hyperparameters.seed), 3)
    return init_key, data_key, noise_key


def create(task: Task, hyperparameters: AnyHyperparameters) -> TrialState:
    """Returns the state of a trial before its first step."""
    init_key, _, _ = _keys(hyperparameters)
    params = task.init(init_key, hyperparameters.transform_bias)
    if hasattr(hyperparameters, "logit_scale"):
        params = set_logit_scale(params, hyperparameters.logit_scale)
    return TrialState(
        numbers=hyperparameters,
        params=params,
        optimizer_state=task.optimizer(hyperparameters).init(params),
        step=jnp.int32(0),
        sums=metrics.zeros(),
        diverged=jnp.asarray(False),
    )


def weights(state: TrialState) -> Any:
    """Returns the parameters by which a trial is judged: their average, if it has one."""
    return optimizer.averaged_weights(state.optimizer_state, state.params)


def train_step(
    task: Task,
    state: TrialState,
    batch: DeviceData,
    index: Integer[Array, "batch"],
    epoch: Int[Array, ""],
) -> TrialState:
    """Takes one training step.

    A loss that is not finite freezes the trial in its state before the step, and marks it as
    diverged.

    Args:
        task: What does not vary between trials.
        state: The trial before the step.
        batch: `batch_size` examples.
        index: Their positions in the data set.
        epoch: The epoch of the step, counted from 0.
    """
    _, _, noise_key = _keys(state.numbers)
    augment_key, dropout_key = jax.random.split(jax.random.fold_in(noise_key, state.step))
    # The whole batch, whose draws do not depend on how the devices of a trial share it.
    inputs = task.augment(augment_key, task.preprocess(batch.images), index, epoch)
    # A key for each example: what is dropped does not depend on the micro-batch it is part of.
    dropout_keys = jax.random.split(dropout_key, task.batch_size)
    grads, sums = _gradients(task, state, (inputs, batch.labels, dropout_keys))
    updates, optimizer_state = task.optimizer(state.numbers).update(
        grads, state.optimizer_state, state.params
    )
    moved = TrialState(
        numbers=state.numbers,
        params=optax.apply_updates(state.params, updates),
        optimizer_state=optimizer_state,
        step=state.step + 1,
        sums=state.sums + sums,
        diverged=state.diverged,
    )
    alive = jnp.isfinite(sums.loss) & ~state.diverged
    state = jax.tree.map(lambda new, old: jnp.where(alive, new, old), moved, state)
    return state._replace(diverged=~alive)


def _gradients(task: Task, state: TrialState, examples: Any) -> tuple[Any, metrics.Sums]:
    """Returns the gradient of the mean loss, and the examples' metrics.

    Args:
        task: What does not vary between trials.
        state: The trial before the step.
        examples: Inputs, labels and dropout keys, each [batch_size, ...].
    """
    params = state.params
    scale = getattr(state.numbers, "dropout_scale", None)
    scaling = {} if scale is None else {"dropout_scale": scale}
    smoothing = getattr(state.numbers, "label_smoothing", None)

    def loss(params, examples):
        inputs, labels, dropout_keys = examples
        logits = task.apply(params, inputs, dropout_keys, **scaling)
        sums = metrics.sums(logits, labels, jnp.ones(len(labels), bool))
        if smoothing is None:
            return sums.loss / task.batch_size, sums
        # The metrics stay those of evaluation.
        smoothed = jnp.sum(metrics.cross_entropy(logits, labels, smoothing))
        return smoothed / task.batch_size, sums

    gradients = jax.grad(loss, has_aux=True)
    own = task.parts.own(examples)
    if task.micro_batch * task.parts.count == task.batch_size:
        return task.parts.total(gradients(params, own))
    micro_batches = jax.tree.map(lambda a: a.reshape(-1, task.micro_batch, *a.shape[1:]), own)

    def add(totals, micro_batch):
        return jax.tree.map(jnp.add, totals, gradients(params, micro_batch)), None

    zeros = jax.tree.map(jnp.zeros_like, params), metrics.zeros()
    return task.parts.total(jax.lax.scan(add, zeros, micro_batches)[0])


def train_steps(
    task: Task, state: TrialState, data: DeviceData, num_steps: Int[Array, ""]
) -> TrialState:
    """Takes steps within one epoch, in one compiled loop of any length.

    The order of the examples depends on the seed and the epoch alone, so that the results do not
    depend on how the steps of an epoch are divided among calls.

    Args:
        task: What does not vary between trials.
        state: The trial; a diverged one is returned unchanged, and takes no step when trials are
            mapped.
        data: The examples, of which the first `num_train` are trained on.
        num_steps: How many steps; at most the rest of the epoch that `state.step` is in.
    """
    _, data_key, _ = _keys(state.numbers)
    epoch, first = jnp.divmod(state.step, task.steps_per_epoch)
    # One sort of random numbers, where `jax.random.permutation` takes several.
    bits = jax.random.bits(jax.random.fold_in(data_key, epoch), (task.num_train,))
    # Positions of 16 bits, where they suffice, since every trial of a device has its own order.
    positions = jnp.arange(task.num_train, dtype=np.min_scalar_type(task.num_train))
    _, order = jax.lax.sort((bits, positions), num_keys=1)
    sums = jax.tree.map(lambda s: jnp.where(first == 0, 0, s), state.sums)

    def continues(carry):
        i, state = carry
        return (i < num_steps) & ~state.diverged

    def body(carry):
        i, state = carry
        start = (first + i) * task.batch_size
        chosen = jax.lax.dynamic_slice(order, (start,), (task.batch_size,))
        return i + 1, train_step(task, state, data.take(chosen), chosen, epoch)

    # Divergence ends the loop instead of choosing a branch of a `cond`: under `vmap` a `cond`
    # becomes a select, for which everything that its branches read, the examples included, is
    # copied for each trial. Of a loop only the carry is selected.
    return jax.lax.while_loop(continues, body, (jnp.int32(0), state._replace(sums=sums)))[1]
