"""Compiles the programs of a config for devices that are not here, and trains nothing.

For each batch of trials: the seconds that the compiler takes, the memory that programs need on a
device, the largest batch that fits, the minimum time of a step, and the number of operations that a
device starts for it. No image of MNIST or CIFAR is read: the examples are random.
"""

import dataclasses
import functools
import itertools
import textwrap
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from highway_jax.analysis import trained_nets
from highway_jax.config.sections import Config
from highway_jax.data import archives, preprocess
from highway_jax.data.dataset import Dataset, Split, check_validation
from highway_jax.data.dataset import load as load_data
from highway_jax.errors import UserError, brief
from highway_jax.nn import model as nets
from highway_jax.registry import BLOCKS
from highway_jax.sweep import planning
from highway_jax.sweep.trials import Batch
from highway_jax.training import compiled_text, topologies, train, trial_mesh
from highway_jax.training.parts import Parts
from highway_jax.training.program import FUNCTIONS, RUNNING, SPLITS, Program
from highway_jax.training.topologies import Topology

SECONDS_A_LAUNCH = 3e-6
"""Estimate of the time that a GPU takes from one kernel to the next of a narrow net."""

_MOST_TRIALS = 2**16
_MOST_PAIRS = 100


class Compiled(NamedTuple):
    """The compiler's report on one program.

    Attributes:
        name: One of `FUNCTIONS`, or "lesions".
        seconds: Time that compiling took.
        processor_seconds: Processor time of all its threads, which other load changes less.
        memory: Bytes on each device; None if the compiler reports none, or refused the program.
        operations: Operations of a step (see `compiled_text.Operations`).
        in_loops: How many of them are in loops over layers.
        collectives: Operations that exchange data between devices.
        reason: Why there is no program, or "".
    """

    name: str
    seconds: float
    processor_seconds: float
    memory: compiled_text.Memory | None = None
    operations: int = 0
    in_loops: int = 0
    collectives: int = 0
    reason: str = ""


class Report(NamedTuple):
    """The compiled programs of a batch of trials, none of which has run.

    Attributes:
        batch: The trials.
        topology: The devices.
        dataset: Examples of the right shapes.
        program: Its functions.
        compiled: Its compiled programs.
        work: Operations of the products of a training step of one trial.
    """

    batch: Batch
    topology: Topology
    dataset: Dataset
    program: Program
    compiled: list[Compiled]
    work: int

    @property
    def training(self) -> Compiled:
        """The compiled training program."""
        return next(found for found in self.compiled if found.name == "training")

    @property
    def trials_per_device(self) -> int:
        """Trials of the batch on each device, with others or alone."""
        return self.program.trials.num_slots // len(self.program.trials.mesh.devices)

    @property
    def floor(self) -> float | None:
        """Seconds that a step of a device's trials takes at least, or None if no rate is known."""
        model = self.batch.config.model
        precision = "bfloat16" if model.dtype == "bfloat16" else model.precision
        rate = self.topology.chip.rates.get(precision)
        share = self.trials_per_device / self.program.trials.parts.count
        return None if rate is None else self.work * share / rate


def reports(config: ConfigDict, topology: Topology) -> Iterator[Report]:
    """Compiles the programs of each batch of trials that a new run of a config begins with.

    Args:
        config: A valid config.
        topology: The devices to compile for.

    Raises:
        UserError: If the config asks for more devices, or does not fit its data set.
    """
    wanted = config.runtime.devices
    if wanted > len(topology.devices):
        raise UserError(
            f"config.runtime.devices is {wanted}; allowed: 0 to {len(topology.devices)}, the"
            f" devices of {topology.name}"
        )
    topology = topology._replace(devices=topology.devices[: wanted or None])
    seen = set()
    for batch in planning.plan(config, []):
        # Such batches differ in the values of hyperparameters alone, and have the same program.
        kind = (len(batch.trials), type(batch.hyperparameters()), batch.decays_weights)
        key = (*kind, repr(sorted(batch.static.items())))
        if key not in seen:
            seen.add(key)
            yield report(batch, topology)


def report(batch: Batch, topology: Topology) -> Report:
    """Compiles the programs of one batch (see `reports`)."""
    dataset = _dataset(batch.config)
    preprocess.check(batch.config, dataset)
    batch, dataset = _unwhitened(batch, dataset)
    program = Program(batch, dataset, absent=topology.devices)
    hyperparameters = batch.hyperparameters()
    compiled = [
        compile_lowered(name, program.lower(name, hyperparameters))
        for name in FUNCTIONS
        if name != "gates" or program.model.num_blocks
    ]
    gated = "transform_bias" in BLOCKS[batch.config.model.block].settings
    if program.model.num_blocks and gated:
        compiled.append(compile_lowered("lesions", _lower_lesions(program, hyperparameters)))
    work = compiled_text.operations_of_products(_step(program, hyperparameters, dataset))
    return Report(batch, topology, dataset, program, compiled, work)


def _dataset(config: Config) -> Dataset:
    """Returns examples of a data set's shapes: random ones where the shapes are known.

    Those to be whitened are zeros, since nothing is fitted to them.
    """
    data = config.data
    source = archives.SOURCES.get(data.name)
    if source is None:
        return load_data(data)
    sizes = source.num_examples
    check_validation(data.name, sizes["train"], data.valid_size, data.split_seed)
    random = np.random.default_rng(0)

    def split(size):
        shape = (size, *source.image_shape)
        if data.zca_epsilon:
            images = np.broadcast_to(np.uint8(0), shape)
        else:
            images = random.integers(0, 256, shape, np.uint8)
        return Split(images, np.zeros(size, np.int32))

    training, validation = split(sizes["train"] - data.valid_size), split(data.valid_size)
    return Dataset(data.name, training, validation, split(sizes["test"]), source.class_names)


def _unwhitened(batch: Batch, dataset: Dataset) -> tuple[Batch, Dataset]:
    """Returns a batch whose data section asks only for what the device computes, and its data.

    Whitened inputs are computed once on the host, in a minute; a device uses them as they are, in
    float32. Zeros take their place.
    """
    if not batch.config.data.zca_epsilon:
        return batch, dataset

    def whitened(split: Split) -> Split:
        return Split(np.broadcast_to(np.float32(0), split.images.shape), split.labels)

    splits = {name: whitened(getattr(dataset, name)) for name in SPLITS}
    plain = {"data.zca_epsilon": 0.0, "data.scaling": "unit", "data.subtract_mean": False}
    trials = (trial._replace(settings={**trial.settings, **plain}) for trial in batch.trials)
    return batch._replace(trials=tuple(trials)), dataclasses.replace(dataset, **splits)


def compile_lowered(name: str, lowered: jax.stages.Lowered) -> Compiled:
    """Compiles a program and returns the compiler's report, or its reason to refuse."""
    began, processor_began = time.perf_counter(), time.process_time()

    def seconds():
        return time.perf_counter() - began, time.process_time() - processor_began

    try:
        compiled = lowered.compile()
    except JaxRuntimeError as error:
        return Compiled(name, *seconds(), reason=brief(str(error), 200))
    taken = seconds()
    text = compiled_text.Operations(compiled.as_text() or "")
    return Compiled(
        name,
        *taken,
        compiled_text.memory(compiled),
        text.of_step(),
        text.of_inner_loops(),
        text.collectives(),
    )


def _lower_lesions(program: Program, hyperparameters: Any) -> jax.stages.Lowered:
    """Lowers the lesions of every pair of blocks of one net; of single blocks if it has many."""
    state = program.shapes(hyperparameters, 1)
    nets = trained_nets.Nets(program, state.params)
    pairs = nets.num_blocks <= _MOST_PAIRS
    lesions = trained_nets.pair_lesions if pairs else trained_nets.single_lesions
    return nets.lower_lesion(lesions(nets.num_blocks))


def _step(program: Program, hyperparameters: Any, dataset: Dataset) -> Any:
    """Returns the jaxpr of a training step of one trial on one device.

    Its products are those of the net, whose rate depends on the platform. A net that is built for
    TPU would have several products of parts for each.
    """
    net = nets.build(program.config.model, dataset.example_shape, dataset.num_classes)
    task = program.task._replace(parts=Parts(), apply=net.apply)
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((), leaf.dtype), hyperparameters)
    state = jax.eval_shape(functools.partial(train.create, program.task), one)
    batch = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((program.task.batch_size, *leaf.shape[1:]), leaf.dtype),
        program.examples,
    )
    index = jax.ShapeDtypeStruct((program.task.batch_size,), np.int32)
    epoch = jax.ShapeDtypeStruct((), np.int32)
    step = functools.partial(train.train_step, task)
    return jax.make_jaxpr(step)(state, batch, index, epoch)


def most_trials(report: Report) -> int | None:
    """Searches for the most trials of a device whose training and evaluation fit its memory.

    Compiles about ten programs of each.

    Returns:
        A count within 1 % of the most; 0 if one trial does not fit; None if the size of the memory
        is not known.
    """
    if not report.topology.chip.memory:
        return None

    def needed(count):
        # One device takes whole batches, however many share one in the run.
        alone = {"runtime.batch_devices": 0}
        members = [t._replace(settings=t.settings | alone) for t in report.batch.trials]
        trials = itertools.islice(itertools.cycle(members), count)
        batch = report.batch._replace(trials=tuple(trials))
        program = Program(batch, report.dataset, absent=report.topology.devices[:1])
        hyperparameters = batch.hyperparameters()
        return _need(
            compile_lowered(name, program.lower(name, hyperparameters)) for name in RUNNING
        )

    shared = sum(leaf.nbytes for leaf in report.program.examples)
    need = _need(found for found in report.compiled if found.name in RUNNING)
    count = report.trials_per_device
    if report.program.trials.parts.count > 1:  # Of a part of a batch, where one device takes all.
        need = needed(count)
    first = count, need
    return largest(needed, report.topology.chip.memory, first, shared)


def _need(compiled: Iterable[Compiled]) -> int | None:
    """Returns the bytes that a run with these programs needs, or None if it is not known."""
    memory = {found.name: found.memory for found in compiled}
    training, evaluation = (memory[name] for name in RUNNING)
    if training is None or evaluation is None:
        return None
    return compiled_text.needed(training, evaluation)


def largest(
    needed: Callable[[int], int | None],
    present: int,
    first: tuple[int, int | None],
    constant: int = 0,
) -> int:
    """Searches for the largest count whose need is at most what is available.

    The need grows nearly in proportion to the count, so each count that is tried is the one at
    which the line through the last two needs crosses what is available; where it is not between a
    count that fits and one that does not, their middle is tried.

    Example:
        >>> from highway_jax.compile_only import largest
        >>> largest(lambda count: 7 + 3 * count, present=100, first=(1, 10))
        31

    Args:
        needed: The need of a count; None if it is too large to be known.
        present: What is available.
        first: A count and its need.
        constant: An estimate of the need of count 0.

    Returns:
        A count that fits, while one that is 1 % larger, or larger by 1, does not; 0 if 1 does not
        fit; at most 65,536.
    """
    known = {0: constant}
    fits, too_many = 0, _MOST_TRIALS + 1
    count, need = first
    while True:
        if need is not None:
            known[count] = need
        if need is not None and need <= present:
            fits = max(fits, count)
        else:
            too_many = min(too_many, count)
        step = max(1, fits // 100)
        if too_many - fits <= step:
            return fits
        (low, below), (high, above) = sorted(known.items())[-2:] if len(known) > 1 else _LINE
        slope = (above - below) / (high - low)
        crossing = int(low + (present - below) / slope) if slope > 0 else _MOST_TRIALS
        # Beyond what fits by the line, to know that it does not.
        count = fits + step if crossing <= fits else crossing
        if not fits < count < too_many:
            count = (fits + too_many) // 2
        need = needed(count)


_LINE = ((0, 0.0), (1, 1.0))


def run(config: ConfigDict, name: str, write: Callable[[str], Any] = print) -> None:
    """Compiles the programs of a config for a topology, and writes a report of each batch.

    Args:
        config: A valid config.
        name: Name of the topology (see `topologies.find`).
        write: Called with each line, of at most 80 characters.

    Raises:
        UserError: If there is no such topology, its compiler is missing, or the config does not fit
            it or its data set.
    """
    topology = topologies.find(name)
    kind = trial_mesh.describe(topology.devices[0], len(topology.devices))
    memory = _bytes(topology.chip.memory)
    write(f"{config.name} on {name}: {kind}, {memory} each; jax {jax.__version__}")
    for found in reports(config, topology):
        for line in lines(found):
            write(line)
        # Written last, since the search takes longer than all before it.
        fitting = most_trials(found)
        if fitting is not None:
            total = fitting * len(found.topology.devices)
            words = f"{fitting:,} trials per device, {total:,} in all (within 1 %)"
            write(f"largest batch that fits: {words}")


def lines(report: Report) -> Iterator[str]:
    """Yields the lines of a report, of at most 80 characters."""
    batch, trials, chip = report.batch, report.program.trials, report.topology.chip
    way = (
        ""
        if report.trials_per_device == 1
        else ", one after another"
        if trials.mode == "map"
        else ", at once"
    )
    each = f"{report.trials_per_device} per device{way}"
    yield ""
    yield f"{batch.label} on {batch.config.data.name}: trials: {len(batch.trials):,}, {each}"
    yield _ROW.format("program", "compile", "arguments", "temporaries", "peak", "of device")
    for found in report.compiled:
        yield from _lines_of_program(found, chip.memory)
    giga = report.work / 1e9
    yield f"matrix products of a step: {giga:.3g} GFLOP per trial{_floor(report)}"
    if not report.training.reason:
        yield from _lines_of_operations(report, report.training)


_ROW = "  {:<11} {:>9} {:>13} {:>13} {:>13} {:>10}"


def _lines_of_program(found: Compiled, present: int) -> Iterator[str]:
    seconds = f"{found.seconds:.1f} s"
    if found.memory is None:
        yield _ROW.format(found.name, seconds, "-", "-", "-", "-")
        if found.reason:
            yield from textwrap.wrap(
                found.reason, 76, initial_indent="    ", subsequent_indent="    "
            )
        return
    sizes = (found.memory.arguments, found.memory.temporaries, found.memory.peak)
    share = f"{100 * found.memory.peak / present:.1f} %" if present else "-"
    yield _ROW.format(found.name, seconds, *map(_bytes, sizes), share)


def _floor(report: Report) -> str:
    if report.floor is None:
        return ""
    return f"; at least {1e3 * report.floor:.3g} ms per device"


def _lines_of_operations(report: Report, training: Compiled) -> Iterator[str]:
    word, blocks = report.topology.chip.operation, report.program.model.num_blocks
    # Where all layers are the body of one loop, the compiler leaves out the loop.
    layer = f", {training.in_loops / blocks:.1f} per layer" if blocks and training.in_loops else ""
    yield f"{word} per step: {training.operations:,}{layer}"
    if word == "launches":
        milliseconds = 1e3 * training.operations * SECONDS_A_LAUNCH
        yield f"  estimated at 3 µs each: {milliseconds:.3g} ms per step"
    collectives = sum(found.collectives for found in report.compiled)
    yield f"collectives: {collectives or 'none'}"


def _bytes(size: float) -> str:
    """Returns a size such as "15.8 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1024
    return f"{size:,.2f} GiB"
