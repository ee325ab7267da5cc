"""The compiled functions of one batch of trials, with the examples on their devices."""

import dataclasses
import functools
import pickle
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from highway_jax.config import config as config_lib
from highway_jax.config.sections import Config
from highway_jax.data import patches, preprocess
from highway_jax.data.dataset import Dataset
from highway_jax.errors import UserError
from highway_jax.nn import model as nets
from highway_jax.nn import stacks
from highway_jax.registry import Registry
from highway_jax.sweep.trials import AnyHyperparameters, Batch
from highway_jax.training import (
    compiled_text,
    evaluate,
    metrics,
    optimizer,
    train,
    trial_mesh,
)

# Of 4 to 100 images at once, 4 to 10 were the fastest for each of the paper's nets.
_IMAGES_IN_CACHE = 10

# Fewer images of a batch do not occupy a device.
_FEWEST_IMAGES = 10
_IMAGES_FITTED = 5000  # To which a whitening kernel is fitted.

SPLITS = ("train", "valid", "test")

FUNCTIONS = ("creation", "training", "evaluation", "gates")
"""What is compiled for a batch: its state before the first step, steps, sums over a split, and mean
gates."""

RUNNING = ("training", "evaluation")
"""Those of `FUNCTIONS` that every batch runs, and must have memory for."""

_GATE_EXAMPLES = 1000

_MOST_SHARED = 8
_COMPILED = ("model.", "data.", "optimizer.", "training.", "evaluation.batch_size")
"""Prefixes of the keys on which the functions of a program depend."""


def _convolves(config: Config) -> bool:
    """Returns whether the net is convolutional; of a module of the user's own this is not known."""
    return config.model.architecture not in ("dense", "custom")


def _batch_devices(config: Config) -> tuple[int, ...]:
    """Returns how many devices may share the batches of a trial: divisors of the batch size.

    By default one device trains a dense net: its products are so small that a step takes about a
    millisecond on a CPU core, or the time of its kernel launches on GPU, which half the examples
    hardly shorten, and the exchange of gradients takes its part of that.
    """
    batch_size, wanted = config.training.batch_size, config.runtime.batch_devices
    if wanted:
        return (wanted,)
    if not _convolves(config):
        return (1,)
    most = max(1, batch_size // _FEWEST_IMAGES)
    return tuple(n for n in range(1, most + 1) if batch_size % n == 0)


def _micro_batch(config: Config, platform: str, count: int) -> int:
    """Returns how many examples a device computes at once: a divisor of its part of a batch.

    On CPU the activations of a whole batch of images leave the cache between one layer and the
    next, and a few images at a time are 1.1 to 1.2 times faster. So that is the default where a
    number near `_IMAGES_IN_CACHE` divides the part.

    Args:
        config: The settings of a trial.
        platform: The platform of the devices.
        count: Devices that share a batch, in equal parts.
    """
    batch_size, most = config.training.batch_size // count, config.runtime.micro_batch
    in_cache = _IMAGES_IN_CACHE if _convolves(config) and platform == "cpu" else batch_size
    largest = max(n for n in range(1, min(most or in_cache, batch_size) + 1) if batch_size % n == 0)
    return largest if most or 2 * largest >= in_cache else batch_size


def _init(model: nets.Model, config: Config, prepare: Any, images: np.ndarray) -> Any:
    """Returns `Model.init`, with the kernel that is fitted to training images if there is one.

    Args:
        model: The net.
        config: The settings of its trials.
        prepare: Examples as the devices hold them -> inputs.
        images: Training examples as the devices hold them.
    """
    if config.model.first_initializer != "patch_whitening":
        return model.init
    shapes = jax.eval_shape(model.init, jax.random.key(0), 0.0)
    shape = shapes[model.first_layer]["kernel"].shape
    if len(shape) != 4:
        raise UserError(
            "config.model.first_initializer is 'patch_whitening'; allowed: other initializers, as"
            f" the first plain layer of {config.model.architecture} is not convolutional"
        )
    kernel = patches.whitening_kernel(np.asarray(prepare(images[:_IMAGES_FITTED])), shape)

    def init(key, transform_bias):
        return stacks.set_kernel(model.init(key, transform_bias), model.first_layer, kernel)

    return init


def _gate_means(
    task: train.Task, model: nets.Model, params: Any, data: train.DeviceData, index: Any
) -> Any:
    """Returns the mean gates of one net over the examples at `index`, [blocks, width]."""
    images = task.preprocess(data.take(index).images)
    # Averaged block by block: the gates of all blocks, examples and trials of a large batch need
    # more memory than a device has.
    _, runs = model.activations(
        params, images, collect=lambda block: stacks.unit_means(block.t).mean(0)
    )
    return stacks.join_runs(runs)


@dataclasses.dataclass
class _Functions:
    """Jitted functions by name, and those of them that are compiled."""

    jitted: dict[str, Any] = dataclasses.field(default_factory=dict)
    compiled: dict[str, Any] = dataclasses.field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.compiled.get(name) or self.jitted[name]


@functools.lru_cache(maxsize=_MOST_SHARED)
def _shared_functions(key: Any) -> _Functions:
    """Returns the functions of the programs with this key, which are empty at first."""
    del key
    return _Functions()


class Program:
    """Creates, trains and evaluates all trials of a batch at once.

    Programs that differ only in the values of hyperparameters and examples share their functions,
    so that a process traces and compiles them once.

    Attributes:
        config: The settings that the trials share.
        model: The net that they train.
        task: What does not vary between them.
        trials: The devices that they run on.
        examples: The examples of all splits, on the host.
        spans: First example of each split that has any, and the one after its last.
        num_classes: Classes of the data set.
        convolves: Whether the net is convolutional, as a module of the user's own may be.
        steps_per_epoch: Steps of an epoch.
    """

    def __init__(
        self, batch: Batch, dataset: Dataset, module: Any = None, absent: Sequence[Any] = ()
    ):
        """Builds the functions; nothing is compiled before `compile`.

        Args:
            batch: The trials.
            dataset: The examples.
            module: The linen module to train instead of the net that the config describes.
            absent: Devices that are not here, for which `lower` compiles (see `Trials`).
        """
        config = batch.config
        self.config = config
        self.convolves = config.model.architecture != "dense"
        runtime = config.runtime
        self.trials = trial_mesh.Trials(
            len(batch.trials),
            runtime.devices,
            runtime.trial_axis,
            convolves=self.convolves,
            batch_devices=_batch_devices(config),
            absent=absent,
        )
        platform = self.trials.platform
        self.model = nets.build(
            config.model, dataset.example_shape, dataset.num_classes, platform, module
        )
        splits = [getattr(dataset, name) for name in SPLITS]
        ends = np.cumsum([0, *(split.size for split in splits)])
        self.spans = {
            name: np.asarray([first, end], np.int32)
            for name, first, end in zip(SPLITS, ends, ends[1:], strict=False)
            if first < end
        }
        self.num_classes = dataset.num_classes
        self.steps_per_epoch = config_lib.steps_per_epoch(config, dataset.train.size)
        self._decays_weights = batch.decays_weights
        # The task must not hold this program, so that its arrays are freed once it is unused.
        images, prepare = preprocess.examples(config.data, dataset)
        self.task = task = train.Task(
            init=_init(self.model, config, prepare, images[: dataset.train.size]),
            apply=self.model.apply,
            preprocess=prepare,
            augment=preprocess.augmentation(config.data),
            optimizer=self._rule(self._decays_weights),
            num_train=dataset.train.size,
            batch_size=config.training.batch_size,
            micro_batch=_micro_batch(config, platform, self.trials.parts.count),
            parts=self.trials.parts,
        )
        labels = np.concatenate([split.labels for split in splits])
        self.examples: Any = train.DeviceData(images, labels)  # pyright: ignore[reportArgumentType]
        key = None if absent else self._key(batch, dataset, module)
        self._functions = _Functions() if key is None else _shared_functions(key)
        if not self._functions.jitted:
            self._functions.jitted |= {
                "creation": self.trials.compile(
                    lambda hyperparameters: train.create(task, hyperparameters)
                ),
                "training": self.trials.compile(
                    lambda state, data, num_steps: train.train_steps(task, state, data, num_steps),
                    donate=True,
                ),
                "evaluation": self.trials.compile(
                    lambda params, data, span: evaluate.evaluate(
                        task, params, data, span, config.evaluation.batch_size
                    )
                ),
                "gates": self.trials.compile(functools.partial(_gate_means, task, self.model)),
            }

    def _rule(self, decays_weights: bool) -> Callable:
        """Returns the function from a trial's hyperparameters to its update rule."""
        section, epochs = self.config.optimizer, self.config.training.epochs
        steps_per_epoch, roles = self.steps_per_epoch, self.model.roles
        return lambda hyperparameters: optimizer.build(
            section,
            steps_per_epoch,
            hyperparameters,
            roles,
            decays_weights=decays_weights,
            epochs=epochs,
        )

    def _key(self, batch: Batch, dataset: Dataset, module: Any) -> Any:
        """Returns all that the functions depend on, or None if it cannot be compared."""
        settings = batch.static
        if settings["model.first_initializer"] == "patch_whitening":
            return None  # The kernel is a constant of the functions.
        if settings["optimizer.schedule"] != "one_cycle":
            del settings["training.epochs"]
        is_x64 = getattr(jax.config, "jax_enable_x64")  # noqa: B009
        key = (
            tuple(sorted(item for item in settings.items() if item[0].startswith(_COMPILED))),
            (pickle.dumps(self.task.preprocess), self.task.micro_batch, self._decays_weights),
            (dataset.num_classes, dataset.train.size),
            jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), self.examples),
            (self.trials.num_slots, self.trials.mesh, self.trials.mode),
            (type(batch.hyperparameters()), module, Registry.generation, is_x64),
        )
        try:
            hash(key)
        except TypeError:  # A module may have fields without a hash.
            return None
        return key

    @functools.cached_property
    def data(self) -> train.DeviceData:
        """The examples on every device."""
        return self.trials.share(self.examples)

    def compile(self, hyperparameters: AnyHyperparameters) -> float:
        """Compiles training and evaluation, and returns how many seconds that took."""
        began = time.perf_counter()
        for name in RUNNING:
            if name not in self._functions.compiled:
                self._functions.compiled[name] = self.lower(name, hyperparameters).compile()
        return time.perf_counter() - began

    def lower(self, name: str, hyperparameters: AnyHyperparameters) -> jax.stages.Lowered:
        """Returns one of `FUNCTIONS` for the shapes of its arguments, before it is compiled.

        Args:
            name: The function.
            hyperparameters: The trials' hyperparameters [trials].
        """
        trials, jitted = self.trials, self._functions.jitted
        hyperparameters = trials.placed_shapes(hyperparameters)
        if name == "creation":
            return jitted[name].lower(hyperparameters)
        state = trials.placed_shapes(jax.eval_shape(jitted["creation"], hyperparameters))
        data = trials.shared_shapes(self.examples)
        if name == "training":
            return jitted[name].lower(state, data, trials.shared_shapes(np.int32(1)))
        index = self.spans["train"] if name == "evaluation" else self._gate_index(_GATE_EXAMPLES)
        return jitted[name].lower(state.params, data, trials.shared_shapes(index))

    def memory(self) -> tuple[int, int] | None:
        """Returns the bytes that a run needs on each device, and those that a device has.

        The need is the compiler's count for the compiled programs, so call `compile` first. Returns
        None where the compiler or the device reports none.
        """
        training, evaluation = (compiled_text.memory(self._functions[name]) for name in RUNNING)
        present = trial_mesh.device_memory(self.trials.mesh.devices.flat[0])
        if training is None or evaluation is None or present is None:
            return None
        return compiled_text.needed(training, evaluation), present

    def create(self, hyperparameters: AnyHyperparameters) -> train.TrialState:
        """Returns the state of all trials before their first step, on the devices."""
        return self._functions["creation"](self.trials.place(hyperparameters))

    def shapes(
        self,
        hyperparameters: AnyHyperparameters,
        num_trials: int,
        *,
        decays_weights: bool | None = None,
    ) -> train.TrialState:
        """Returns a host state of zeros with the shapes and types of `num_trials` trials.

        Args:
            hyperparameters: Hyperparameters of trials of this program, arrays [trials].
            num_trials: Number of trials of the state.
            decays_weights: Whether the state is that of a program with weight decay; None for this
                program. The arrays are the same, but not the structure around them.
        """
        create = self._functions["creation"]
        if decays_weights not in (None, self._decays_weights):
            task = self.task._replace(optimizer=self._rule(decays_weights))
            create = jax.vmap(functools.partial(train.create, task))
        state = jax.eval_shape(create, self.trials.placed_shapes(hyperparameters))
        return jax.tree.map(
            lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), (num_trials, *leaf.shape[1:])),
            state,
        )

    def train(self, state: train.TrialState, num_steps: int) -> train.TrialState:
        """Takes steps within an epoch; the buffers of the state passed in are reused."""
        steps = self._steps(num_steps)
        return jax.block_until_ready(self._functions["training"](state, self.data, steps))

    def evaluate(self, params: Any, split: str) -> metrics.Sums:
        """Returns the sums of all trials over a split, on the host."""
        span = self.trials.share(self.spans[split])
        return self.trials.fetch(self._functions["evaluation"](params, self.data, span))

    def gate_means(self, params: Any, num_examples: int = _GATE_EXAMPLES) -> np.ndarray:
        """Returns the mean transform-gate outputs of all trials over the first training examples.

        Returns:
            [trials, blocks, width], on the host; ones where the blocks have no gates.
        """
        index = self.trials.share(self._gate_index(num_examples))
        return self.trials.fetch(self._functions["gates"](params, self.data, index))

    def _gate_index(self, num_examples: int) -> np.ndarray:
        first, end = self.spans["train"]
        return np.arange(first, min(end, first + num_examples), dtype=np.int32)

    def learning_rates(self, hyperparameters: AnyHyperparameters, step: int) -> np.ndarray:
        """Returns the learning rate of each trial at a step, [trials]."""

        def rate(hyperparameters):
            section, epochs = self.config.optimizer, self.config.training.epochs
            return optimizer.learning_rate(
                section, self.steps_per_epoch, hyperparameters, jnp.int32(step), epochs
            )

        return np.asarray(jax.vmap(rate)(hyperparameters))

    def _steps(self, num_steps: int) -> jax.Array:
        return self.trials.share(np.int32(num_steps))
