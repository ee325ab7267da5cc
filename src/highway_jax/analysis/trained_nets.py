"""Gates, routing by class and lesions of trained highway nets (sections 4.1 and 4.2).

`Nets` evaluates trained nets on examples and returns host arrays [nets, blocks, ...]. All nets and
lesions share one compiled program. A CPU evaluates one lesion at a time, a GPU or TPU a few hundred
lesions of a net. `statistics.measure` reduces the arrays to scalars.

Blocks are counted from the first highway layer. Maps of a convolutional block are averaged over
space. Blocks narrower than the widest block of the net are padded with NaN.
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
from highway_jax.runtime import device_errors
from highway_jax.training import evaluate, metrics, train, trial_mesh
from highway_jax.training.parts import Parts
from highway_jax.training.program import Program


class Gates(NamedTuple):
    """Gate statistics of a net over a data set.

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


class Samples(NamedTuple):
    """Activations of a net for single examples.

    Attributes:
        index: Positions of the examples in the training split [samples].
        label: Classes [samples].
        prediction: Predicted classes [samples].
        gates: Transform-gate outputs [samples, blocks, width].
        outputs: Block outputs [samples, blocks, width].
    """

    index: Int[np.ndarray, "*nets samples"]
    label: Int[np.ndarray, "*nets samples"]
    prediction: Int[np.ndarray, "*nets samples"]
    gates: Float[np.ndarray, "*nets samples blocks width"]
    outputs: Float[np.ndarray, "*nets samples blocks width"]


# Limit for the outputs of one block, over all lesions evaluated together. It allows 335 lesions of
# a net of 50 units on 1,000 examples, which keep an accelerator busy and take 200 MiB in total.
_BYTES_AT_ONCE = 2**26


class _MemoryEnded(UserError):
    """The work of one call does not fit the memory of a device."""


class Nets:
    """Trained highway nets of one shape, and the examples that they are evaluated on.

    Attributes:
        num_nets: Number of nets.
        num_blocks: Number of highway blocks of each net.
        widths: Units or maps of each block [blocks].
    """

    def __init__(self, program: Program, params: Any, batch_size: int = 0):
        """Prepares the evaluation; nothing is compiled yet.

        Args:
            program: The program that trained the nets.
            params: Parameters of the nets as a tree of host arrays [nets, ...].
            batch_size: Examples evaluated together; 0 for the program's `evaluation.batch_size`.

        Raises:
            UserError: If the nets have no blocks.
        """
        config: Any = program.config
        if program.model.num_blocks == 0:
            raise UserError(
                f"config.model.depth is {config.model.depth}; allowed: at least 2, so that there is"
                " a highway block to analyze"
            )
        # Each item of `_run` is computed by one device.
        self._model, self._task = program.model, program.task._replace(parts=Parts())
        self._absent = program.trials.absent
        self._examples, self._span = program.examples, program.spans["train"]
        self._batch_size = batch_size or config.evaluation.batch_size
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

    def gates(self) -> Gates:
        """Returns the gate statistics of each net over the training split."""
        examples = self._first()
        # The devices share the examples and not the nets. A single net then uses all devices, and
        # its sums do not depend on which other nets are analyzed.
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
        """Returns the activations of each net for single examples of the training split."""
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
        num_examples: int = 0,
        at_once: int = 0,
    ) -> metrics.Sums:
        """Evaluates every net with forced transform gates, in one compiled program.

        Args:
            gates: The forced gate output of each block, for each lesion. 0 closes the gates, so
                that the block copies its input; 1 opens them; NaN leaves them as they are.
            num_examples: How many first training examples to use; 0 for all.
            at_once: Lesions of a net that a device evaluates together; 0 for a number that fits
                memory and is fast. It is halved until they fit memory. It affects the sums by
                rounding only.

        Returns:
            Sums as arrays [nets, lesions].

        Raises:
            UserError: If one net with one lesion does not fit memory.
        """
        examples = self._first(num_examples)
        at_once = at_once or self._lesions_at_once(len(gates))
        while True:
            try:
                sums = self._run(self._lesioned, examples, *self._lesion_items(gates, at_once))
                return jax.tree.map(lambda a: a.reshape(self.num_nets, -1)[:, : len(gates)], sums)
            except _MemoryEnded:
                if at_once == 1:
                    raise
            at_once = math.ceil(at_once / 2)

    def lower_lesion(self, gates: Float[np.ndarray, "lesions blocks"]) -> jax.stages.Lowered:
        """Returns the program of `lesion`, lowered for the shapes of its arguments."""
        items = self._lesion_items(gates, self._lesions_at_once(len(gates)))
        over, of_item = self._over(self._lesioned, len(items[0]))
        shared = over.shared_shapes((self._params, self._first()))
        return over.compile(of_item).lower(over.placed_shapes(items), *shared)

    def _lesion_items(self, gates: np.ndarray, at_once: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the net and the lesions of each item [items], [items, at_once, blocks]."""
        num_lesions, num_chunks = len(gates), math.ceil(len(gates) / at_once)
        # Copies of the last lesion pad the last chunk; their sums are cut off below.
        padded = np.minimum(np.arange(num_chunks * at_once), num_lesions - 1)
        gates = np.asarray(gates, np.float32)[padded]
        gates = gates.reshape(num_chunks, at_once, self.num_blocks)
        net = np.repeat(np.arange(self.num_nets), num_chunks)
        return net, np.tile(gates, (self.num_nets, 1, 1))

    def _lesions_at_once(self, num_lesions: int) -> int:
        devices = self._absent or trial_mesh.devices()
        # A CPU is not faster with several lesions, since one of them fits its caches.
        if devices[0].platform == "cpu":
            return 1

        def look(params, images):
            return self._model.activations(params, self._task.preprocess(images))[1]

        params = jax.tree.map(lambda leaf: leaf[0], self._params)
        runs = jax.eval_shape(look, params, self._examples.images[:1])
        size = max(4 * math.prod(run.y.shape[1:]) for run in runs)
        most = max(1, _BYTES_AT_ONCE // (size * self._batch_size))
        return min(most, math.ceil(self.num_nets * num_lesions / len(devices)))

    def _first(self, num_examples: int = 0) -> train.DeviceData:
        """Returns the first training examples; all of them if `num_examples` is 0."""
        first, end = self._span
        end = min(end, first + num_examples) if num_examples else end
        return jax.tree.map(lambda a: a[first:end], self._examples)

    def _run(self, function: Any, examples: train.DeviceData, net: np.ndarray, *items: Any) -> Any:
        """Returns `function(params, examples, *item)` for each item, over all devices.

        Args:
            function: Computes one item.
            examples: Examples that every item uses.
            net: Index of the net of each item [items].
            items: Further arguments of the function, as arrays [items, ...].

        Raises:
            _MemoryEnded: If one item does not fit the memory of a device.
        """
        over, of_item = self._over(function, len(net))
        try:
            shared = over.share((self._params, examples))
            with device_errors.in_one_type():
                return over.fetch(over.compile(of_item)(over.place((net, *items)), *shared))
        except JaxRuntimeError as error:
            if not trial_mesh.is_memory(error):
                raise
            raise _MemoryEnded(
                f"--batch_size is {self._batch_size}; allowed: fewer, since so many examples"
                f" do not fit the memory of a device ({brief(str(error))})"
            ) from error

    def _over(self, function: Any, num_items: int) -> tuple[trial_mesh.Trials, Any]:
        """Returns the devices for some items, and the function of one item and what they share."""

        def of_item(item, params, examples):
            own = jax.tree.map(lambda leaf: leaf[item[0]], params)
            return function(own, examples, *item[1:])

        return trial_mesh.Trials(num_items, mode="map", absent=self._absent), of_item

    def _lesioned(self, params: Any, examples: train.DeviceData, gates: Array) -> metrics.Sums:
        def one(gates):
            task = self._task._replace(apply=lambda p, x: self._model.apply(p, x, gates=gates))
            span = jnp.array([0, len(examples.labels)])
            return evaluate.evaluate(task, params, examples, span, self._batch_size)

        return jax.vmap(one)(gates)

    def _gate_sums(
        self, params: Any, examples: train.DeviceData, span: Int[Array, "2"]
    ) -> tuple[Array, ...]:
        """Returns sums over a span of examples.

        Returns:
            Examples [classes], gate outputs [classes, blocks, width] and |y - x| [blocks].
        """

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
        """Returns maps [..., blocks, width] with NaN for units that a block does not have."""
        return np.where(self._outside, np.nan, np.asarray(maps))


def _change(block: BlockActivations) -> Float[Array, "batch"]:
    change = block.y.astype(jnp.float32) - block.x.astype(jnp.float32)
    return jnp.abs(change).mean(tuple(range(1, change.ndim)))


def single_lesions(num_blocks: int, gate: float = 0.0) -> Float[np.ndarray, "blocks blocks"]:
    """Returns a lesion for each block that forces only its transform gates to `gate` (Figure 4)."""
    return np.where(np.eye(num_blocks, dtype=bool), np.float32(gate), np.nan)


def range_lesions(num_blocks: int, *, from_here: bool) -> Float[np.ndarray, "blocks blocks"]:
    """Returns a lesion for each block that closes it and all blocks after it, or all before it."""
    block = np.arange(num_blocks)
    closed = block >= block[:, None] if from_here else block <= block[:, None]
    return np.where(closed, np.float32(0), np.nan)


def pair_lesions(num_blocks: int) -> Float[np.ndarray, "pairs blocks"]:
    """Returns a lesion for each pair of blocks i <= j that closes both, as `triu_indices`."""
    gates = np.full((num_blocks * (num_blocks + 1) // 2, num_blocks), np.nan, np.float32)
    for blocks in np.triu_indices(num_blocks):
        gates[np.arange(len(gates)), blocks] = 0
    return gates
