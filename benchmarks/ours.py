"""This package as a rival: its programs, what they compute first and how fast they are."""

import resource
import time
from collections.abc import Callable, Mapping
from typing import Any

import machine
import multiply_adds
import numpy as np

from highway_jax.config import config as config_lib
from highway_jax.data.dataset import Dataset, Split
from highway_jax.sweep import planning
from highway_jax.training import trial_mesh
from highway_jax.training.program import Program

MNIST_SHAPE, NUM_CLASSES = (28, 28, 1), 10
Settings = Mapping[str, Any]


def make_dataset(num_examples: int = 60_000, shape: tuple[int, int, int] = MNIST_SHAPE) -> Dataset:
    """Returns random images, the same first ones every time, named as a data set like them."""
    images = np.random.default_rng(0).integers(0, 256, (num_examples, *shape), np.uint8)
    labels = np.random.default_rng(1).integers(0, NUM_CLASSES, num_examples).astype(np.int32)
    train, none = Split(images, labels), Split(images[:0], labels[:0])
    name = "mnist" if shape[-1] == 1 else "cifar10"
    return Dataset(name, train, none, train, tuple("0123456789"))


def make_program(settings: Settings, num_trials: int, dataset: Dataset) -> tuple[Program, Any]:
    """Returns the program of a config with these settings, and its trials' hyperparameters."""
    config = config_lib.default_config()
    config.data.name = dataset.name
    config.seeds = tuple(range(num_trials))
    for key, value in settings.items():
        config_lib.put(config, key, value)
    config_lib.validate(config)
    (batch,) = planning.plan(config, [])
    return Program(batch, dataset), batch.hyperparameters()


def first_steps(
    settings: Settings, dataset: Dataset, num_steps: int
) -> tuple[dict[str, dict[str, np.ndarray]], list[float]]:
    """Returns a trial's initial parameters, and its loss at each of its first steps.

    With a data set of a single batch, the order of the examples does not matter.
    """
    program, numbers = make_program(settings, 1, dataset)
    state = program.create(numbers)
    params = program.trials.fetch(state.params)
    losses = []
    for _ in range(num_steps):
        state = program.train(state, 1)
        losses.append(float(program.trials.fetch(state.sums).mean_loss[0]))
    return {part: {k: v[0] for k, v in leaves.items()} for part, leaves in params.items()}, losses


def check_first_steps(rival: machine.Rival, losses: list[float], tolerance: float) -> None:
    """Raises RuntimeError if a rival's first losses, among its facts, are not these."""
    gap = max(abs(a - b) for a, b in zip(rival.facts["losses"], losses, strict=True))
    if not gap <= tolerance:
        raise RuntimeError(f"{rival.name}: losses differ from ours by {gap:.2g} > {tolerance}")


def work(
    settings: Settings, num_trials: int, num_examples: int, shape: tuple[int, int, int]
) -> tuple[Callable, dict]:
    """Gets a worker ready to train; it measures trial-steps, and tells its start and memory."""
    began = time.perf_counter()
    trial_mesh.use_cores()
    program, numbers = make_program(settings, num_trials, make_dataset(num_examples, shape))
    compile_seconds = program.compile(numbers)
    measured = measure(program, numbers)
    return measured, {
        "compile_seconds": compile_seconds,
        "start_seconds": time.perf_counter() - began,
        # KiB on Linux; after the warm-up, which has trained.
        "memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "multiply_adds": multiply_adds.of_model(program.model, shape),
    }


def measure(program: Program, numbers: Any) -> Callable:
    """Returns `measure(seconds)` of a compiled program, which counts trial-steps; warmed up."""
    num_trials = len(numbers.seed)
    state, step, rate = program.create(numbers), 0, 0.0

    def measure(seconds: float) -> tuple[float, float]:
        nonlocal state, step, rate
        began, taken = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds or taken == 0:
            # Stretches as in a run: to the end of the epoch, or as long as the time allows.
            rest = program.steps_per_epoch - step % program.steps_per_epoch
            num_steps = min(rest, max(8, int(rate * (seconds - elapsed))))
            state = program.train(state, num_steps)
            step, taken = step + num_steps, taken + num_steps
            rate = taken / (time.perf_counter() - began)
        if program.trials.fetch(state.diverged).any():
            raise RuntimeError("a trial diverged, and a frozen trial costs nothing")
        return taken * num_trials, elapsed

    measure(0.5)
    return measure
