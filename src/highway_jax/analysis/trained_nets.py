"""Looking inside trained highway nets: gates, routing by class, lesions (sections 4.1 and 4.2).

`Nets` runs trained nets over examples and gives host arrays of shape [nets, blocks, ...], all nets
and all lesions in one compiled program: one after the other, but on GPU and TPU some hundred
lesions of a net at once. `statistics.measure` makes single numbers of them.

Blocks count from the first highway layer. The maps of a convolutional block are averaged over
space, and blocks narrower than the widest of the net are filled up with NaN.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import JaxRuntimeError
from jaxtyping import Array, Float, Int

from highway_jax.errors import UserError, brief
from highway_jax.nn import stacks
from highway_jax.nn.blocks import BlockActivations
from highway_jax.training import evaluate, metrics, train, trial_mesh
from highway_jax.training.program import Program


class Gates(NamedTuple):
    """What the gates of a net do over a data set.

    Attributes:
        counts: Examples of each class [classes].
        by_class: Mean transform-gate output over the examples of each class
            [classes, blocks, width]; NaN for a class without examples.
        changes: Mean |y - x| over examples and units, from each block's input to its output
            [blocks].
    """

    counts: Float[np.ndarray, "*nets classes"]
    by_class: Float[np.ndarray, "*nets classes blocks width"]
    changes: Float[np.ndarray, "*nets blocks"]

    @property
    def mean(self) -> Float[np.ndarray, "*nets blocks width"]:
        """Mean transform-gate output over all examples (Figure 2, second column)."""
        weights = self.counts / self.counts.sum(-1, keepdims=True)
        return np.einsum("...c,...clw->...lw", weights, np.nan_to_num(self.by_class)) + np.where(
            np.isnan(self.by_class).all(-3), np.nan, 0
        )

    @property
    def difference(self) -> Float[np.ndarray, "*nets classes blocks width"]:
        """Mean of each class minus the mean over all examples (Figure 3)."""
        return self.by_class - self.mean[..., None, :, :]


class Samples(NamedTuple):
    """What single examples do in a net.

    Attributes:
        index: Their places in the training split [samples].
        label: Their classes [samples].
        prediction: The net's answers [samples].
        gates: Transform-gate outputs [samples, blocks, width].
        outputs: Block outputs [samples, blocks, width].
    """

    index: Int[np.ndarray, "*nets samples"]
    label: Int[np.ndarray, "*nets samples"]
    prediction: Int[np.ndarray, "*nets samples"]
    gates: Float[np.ndarray, "*nets samples blocks width"]
    outputs: Float[np.ndarray, "*nets samples blocks width"]


# Of one block's output, for all lesions that are computed at once: 335 lesions of a net of 50 units
# on 1,000 examples, which fill an accelerator, and take 200 MiB in all.
_BYTES_AT_ONCE = 2**26


class _MemoryEnded(UserError):
    """A device's memory did not hold a part of the work."""


class Nets:
    """Trained highway nets of one shape, and the examples to look at them with.

    Attributes:
        num_nets: How many.
        num_blocks: Highway blocks of each.
        widths: Units or maps of each block [blocks].
    """

    def __init__(self, program: Program, params: Any, batch_size: int = 0):
        """Prepares; nothing is compiled.

        Args:
            program: The program that trained them.
            params: Their parameters as a tree of host arrays [nets, ...].
            batch_size: Examples to look at together; 0 for the program's `evaluation.batch_size`.

        Raises:
            UserError: If the nets have no blocks.
        """
        if program.model.num_blocks == 0:
            raise UserError(
                f"config.model.depth is {program.config.model.depth}; allowed: at least 2, so that"
                " there is a highway block to look at"
            )
        self._model, self._task = program.model, program.task
        self._examples, self._spans = program.examples, program.spans
        self._batch_size = batch_size or program.config.evaluation.batch_size
        self._num_classes = program.num_classes
        self._params = params
        self.num_nets = len(jax.tree.leaves(params)[0])
        runs = jax.eval_shape(lambda: jax.vmap(stacks.transform_biases)(params))
        self.widths = np.concatenate([np.full(run.shape[1], run.shape[2]) for run in runs])
        self.num_blocks = len(self.widths)
        self._outside = np.arange(self.widths.max()) >= self.widths[:, None]

    def biases(self) -> Float[np.ndarray, "nets blocks width"]:
        """Returns the transform-gate biases b_T."""
        return self._fill(
            jax.vmap(lambda p: stacks.join_runs(stacks.transform_biases(p)))(self._params)
        )

    def gates(self, split: str = "train") -> Gates:
        """Returns what the gates do over a split."""
        examples = self._first(split)
        # Examples, not nets, are spread over the devices: so one net has all of them too, and
        # has the same sums, to the bit, whatever other nets are looked at.
        size, parts = len(examples.labels), len(trial_mesh.devices())
        edges = np.linspace(0, size, parts + 1).astype(np.int32)
        spans = np.stack([edges[:-1], edges[1:]], axis=-1)
        net = np.repeat(np.arange(self.num_nets), parts)
        found = self._run(self._gate_sums, examples, net, np.tile(spans, (self.num_nets, 1)))
        found = [sums.reshape(self.num_nets, parts, *sums.shape[1:]) for sums in found]
        counts, gates, changes = (sums.astype(np.float64).sum(1) for sums in found)
        with np.errstate(invalid="ignore"):
            by_class = self._fill(gates / counts[..., None, None])
        return Gates(counts, by_class, changes / counts.sum(-1, keepdims=True))

    def samples(self, index: Int[np.ndarray, "samples"]) -> Samples:
        """Returns what single examples of the training split do in each net."""
        examples = train.DeviceData(*(a[index] for a in self._examples))

        def look(params, examples):
            logits, runs = self._model.activations(
                params,
                self._task.preprocess(examples.images),
                collect=lambda block: (stacks.unit_means(block.t), stacks.unit_means(block.y)),
            )
            gates, outputs = map(stacks.join_runs, zip(*runs, strict=True))
            return jnp.argmax(logits, -1), jnp.moveaxis(gates, 1, 0), jnp.moveaxis(outputs, 1, 0)

        prediction, gates, outputs = self._run(look, examples, np.arange(self.num_nets))
        index, labels = (np.tile(a, (self.num_nets, 1)) for a in (index, examples.labels))
        return Samples(index, labels, prediction, self._fill(gates), self._fill(outputs))

    def lesion(
        self,
        gates: Float[np.ndarray, "lesions blocks"],
        split: str = "train",
        num_examples: int = 0,
        at_once: int = 0,
    ) -> metrics.Sums:
        """Evaluates every net with transform gates forced, in one compiled program.

        Args:
            gates: For each lesion a number for each block: 0 shuts its gates, so that it copies
                its input; 1 opens them; NaN leaves them alone.
            split: Which examples.
            num_examples: Only the first so many; 0 for all.
            at_once: Lesions of a net that a device computes at once, which changes the sums by
                rounding at most; 0 for what memory and speed suggest. Where memory ends, they are
                halved.

        Returns:
            Sums of arrays [nets, lesions].

        Raises:
            UserError: If memory does not hold one net with one lesion.
        """
        examples = self._first(split, num_examples)
        at_once = at_once or self._lesions_at_once(len(gates))
        while True:
            try:
                return self._lesion(np.asarray(gates, np.float32), examples, at_once)
            except _MemoryEnded:
                if at_once == 1:
                    raise
            at_once = math.ceil(at_once / 2)

    def _lesion(self, gates: np.ndarray, examples: train.DeviceData, at_once: int) -> metrics.Sums:
        num_lesions, num_chunks = len(gates), math.ceil(len(gates) / at_once)
        # The last chunk is filled up with copies of the last lesion, which are left out at the end.
        gates = gates[np.minimum(np.arange(num_chunks * at_once), num_lesions - 1)]
        gates = gates.reshape(num_chunks, at_once, self.num_blocks)
        net = np.repeat(np.arange(self.num_nets), num_chunks)
        sums = self._run(self._lesioned, examples, net, np.tile(gates, (self.num_nets, 1, 1)))
        return jax.tree.map(lambda a: a.reshape(self.num_nets, -1)[:, :num_lesions], sums)

    def _lesions_at_once(self, num_lesions: int) -> int:
        devices = trial_mesh.devices()
        # A CPU is as fast with one at a time, which caches hold.
        if devices[0].platform == "cpu":
            return 1

        def look(params, images):
            return self._model.activations(params, self._task.preprocess(images))[1]

        params = jax.tree.map(lambda leaf: leaf[0], self._params)
        runs = jax.eval_shape(look, params, self._examples.images[:1])
        size = max(4 * math.prod(run.y.shape[1:]) for run in runs)
        most = max(1, _BYTES_AT_ONCE // (size * self._batch_size))
        return min(most, math.ceil(self.num_nets * num_lesions / len(devices)))

    def _first(self, split: str, num_examples: int = 0) -> train.DeviceData:
        """Returns the first examples of a split, or all."""
        first, end = self._spans[split]
        end = min(end, first + num_examples) if num_examples else end
        return jax.tree.map(lambda a: a[first:end], self._examples)

    def _run(self, function: Any, examples: train.DeviceData, net: np.ndarray, *items: Any) -> Any:
        """Returns `function(params, examples, *item)` for each item, over all devices.

        Args:
            function: What to compute of one net.
            examples: What the devices need of them.
            net: The net of each item.
            items: Further arrays [items, ...].

        Raises:
            _MemoryEnded: If a device's memory does not hold what one item needs.
        """

        def of_item(item, params, examples):
            own = jax.tree.map(lambda leaf: leaf[item[0]], params)
            return function(own, examples, *item[1:])

        over = trial_mesh.Trials(len(net), mode="map")
        try:
            shared = over.share((self._params, examples))
            return over.fetch(over.compile(of_item)(over.place((net, *items)), *shared))
        except JaxRuntimeError as error:
            if not trial_mesh.is_memory(error):
                raise
            raise _MemoryEnded(
                f"--batch_size is {self._batch_size}; allowed: fewer, as the memory of a device"
                f" does not hold so many examples at a time ({brief(str(error))})"
            ) from error

    def _lesioned(self, params: Any, examples: train.DeviceData, gates: Array) -> metrics.Sums:
        def one(gates):
            task = self._task._replace(apply=lambda p, x: self._model.apply(p, x, gates=gates))
            span = jnp.array([0, len(examples.labels)])
            return evaluate.evaluate(task, params, examples, span, self._batch_size)

        return jax.vmap(one)(gates)

    def _gate_sums(
        self, params: Any, examples: train.DeviceData, span: Int[Array, "2"]
    ) -> tuple[Array, ...]:
        """Returns counts [classes], gates [classes, blocks, width] and changes [blocks], summed."""

        def look(images, labels, counted):
            counted = counted.astype(jnp.float32)
            of_class = jax.nn.one_hot(labels, self._num_classes) * counted[:, None]

            def sums(block):
                gates = stacks.unit_means(block.t)
                by_class = jnp.einsum("bc,bw->cw", of_class, gates, precision="highest")
                return by_class, (_change(block) * counted).sum()

            _, runs = self._model.activations(params, self._task.preprocess(images), collect=sums)
            gates, changes = zip(*runs, strict=True)
            gates = jnp.moveaxis(stacks.join_runs(gates), 1, 0)
            return of_class.sum(0), gates, jnp.concatenate(changes)

        return evaluate.add_up(look, examples, span, self._batch_size)

    def _fill(self, maps: Any) -> np.ndarray:
        """Returns maps [..., blocks, width] with NaN where a block has no such unit."""
        return np.where(self._outside, np.nan, np.asarray(maps))


def _change(block: BlockActivations) -> Float[Array, "batch"]:
    change = block.y.astype(jnp.float32) - block.x.astype(jnp.float32)
    return jnp.abs(change).mean(tuple(range(1, change.ndim)))


def single_lesions(num_blocks: int, gate: float = 0.0) -> Float[np.ndarray, "blocks blocks"]:
    """Returns one lesion a block: its transform gates at `gate`, all others alone (Figure 4)."""
    return np.where(np.eye(num_blocks, dtype=bool), np.float32(gate), np.nan)


def range_lesions(num_blocks: int, *, from_here: bool) -> Float[np.ndarray, "blocks blocks"]:
    """Returns one lesion a block, shutting it and all after it, or it and all before it."""
    block = np.arange(num_blocks)
    shut = block >= block[:, None] if from_here else block <= block[:, None]
    return np.where(shut, np.float32(0), np.nan)


def pair_lesions(num_blocks: int) -> Float[np.ndarray, "pairs blocks"]:
    """Returns one lesion for each pair of blocks i <= j, both shut, in the order of triu."""
    gates = np.full((num_blocks * (num_blocks + 1) // 2, num_blocks), np.nan, np.float32)
    for places in np.triu_indices(num_blocks):
        gates[np.arange(len(gates)), places] = 0
    return gates
