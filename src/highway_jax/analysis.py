"""Looking inside trained highway nets: gates, routing by class, lesions (sections 4.1 and 4.2).

`Nets` runs trained nets over examples and gives host arrays of shape [nets, blocks, ...], all nets
and all lesions in one compiled program. `findings.measure` makes single numbers of them.

Blocks count from the first highway layer. The maps of a convolutional block are averaged over
space, and blocks narrower than the widest of the net are filled up with NaN.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from highway_jax import evaluate, metrics, models, parallel, train
from highway_jax.layers import BlockActivations
from highway_jax.program import Program


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


class _Item(NamedTuple):
    """A piece of work: one net over a stretch of examples with some gates forced."""

    net: Int[Array, ""]
    span: Int[Array, "2"]
    gates: Float[Array, "blocks"]


class Nets:
    """Trained highway nets of one shape, and the examples to look at them with.

    Attributes:
        num_nets: How many.
        num_blocks: Highway blocks of each.
        widths: Units or maps of each block [blocks].
    """

    def __init__(self, program: Program, params: Any):
        """Prepares; nothing is compiled.

        Args:
            program: The program that trained them.
            params: Their parameters as a tree of host arrays [nets, ...].
        """
        self._model, self._task = program.model, program.task
        self._convolves = program.convolves
        self._examples, self._spans = program.examples, program.spans
        self._batch_size = program.config.evaluation.batch_size
        self._num_classes = program.num_classes
        self._params = params
        self.num_nets = len(jax.tree.leaves(params)[0])
        runs = jax.eval_shape(lambda: jax.vmap(models.transform_biases)(params))
        self.widths = np.concatenate([np.full(run.shape[1], run.shape[2]) for run in runs])
        self.num_blocks = len(self.widths)
        self._outside = np.arange(self.widths.max()) >= self.widths[:, None]

    def biases(self) -> Float[np.ndarray, "nets blocks width"]:
        """Returns the transform-gate biases b_T."""
        return self._fill(
            jax.vmap(lambda p: models.join_runs(models.transform_biases(p)))(self._params)
        )

    def gates(self, split: str = "train") -> Gates:
        """Returns what the gates do over a split."""
        first, end = self._spans[split]
        # Examples, not nets, are spread over the devices: so one net has all of them too, and
        # has the same sums, to the bit, whatever other nets are looked at.
        edges = np.linspace(first, end, len(parallel.devices()) + 1).astype(np.int32)
        spans = np.stack([edges[:-1], edges[1:]], axis=-1)
        items = self._items(
            np.repeat(np.arange(self.num_nets), len(spans)),
            np.tile(spans, (self.num_nets, 1)),
            np.full((self.num_nets * len(spans), self.num_blocks), np.nan),
        )
        parts = self._run(self._gate_sums, items)
        parts = [part.reshape(self.num_nets, len(spans), *part.shape[1:]) for part in parts]
        counts, gates, changes = (part.astype(np.float64).sum(1) for part in parts)
        with np.errstate(invalid="ignore"):
            by_class = self._fill(gates / counts[..., None, None])
        return Gates(counts, by_class, changes / counts.sum(-1, keepdims=True))

    def samples(self, index: Int[np.ndarray, "samples"]) -> Samples:
        """Returns what single examples of the training split do in each net."""
        images, labels = (a[index] for a in self._examples)

        def look(params, images):
            logits, runs = self._model.activations(params, self._task.preprocess(images))
            gates, outputs = (jnp.moveaxis(models.unit_maps(runs, name), 1, 0) for name in "ty")
            return jnp.argmax(logits, -1), gates, outputs

        looked = jax.jit(jax.vmap(look, (0, None)))(self._params, images)
        prediction, gates, outputs = map(np.asarray, looked)
        index, labels = (np.tile(a, (self.num_nets, 1)) for a in (index, labels))
        return Samples(index, labels, prediction, self._fill(gates), self._fill(outputs))

    def lesion(
        self,
        gates: Float[np.ndarray, "lesions blocks"],
        split: str = "train",
        num_examples: int = 0,
    ) -> metrics.Sums:
        """Evaluates every net with transform gates forced, in one compiled program.

        Args:
            gates: For each lesion a number for each block: 0 shuts its gates, so that it copies
                its input; 1 opens them; NaN leaves them alone.
            split: Which examples.
            num_examples: Only the first so many; 0 for all.

        Returns:
            Sums of arrays [nets, lesions].
        """
        gates = np.asarray(gates, np.float32)
        first, end = self._spans[split]
        span = np.asarray([first, min(end, first + num_examples) if num_examples else end])
        items = self._items(
            np.repeat(np.arange(self.num_nets), len(gates)),
            np.tile(span, (self.num_nets * len(gates), 1)),
            np.tile(gates, (self.num_nets, 1)),
        )
        sums = self._run(self._lesioned, items)
        return jax.tree.map(lambda a: a.reshape(self.num_nets, len(gates)), sums)

    def _items(self, net: np.ndarray, span: np.ndarray, gates: np.ndarray) -> _Item:
        return _Item(net.astype(np.int32), span.astype(np.int32), gates.astype(np.float32))

    def _run(self, function: Any, items: _Item) -> Any:
        """Returns `function(item, params of all nets, data)` of all items, over all devices."""
        over = parallel.Trials(len(items.net), convolves=self._convolves)
        shared = over.share((self._params, self._examples))
        return over.fetch(over.compile(function)(over.place(items), *shared))

    def _lesioned(self, item: _Item, params: Any, data: train.DeviceData) -> metrics.Sums:
        own = jax.tree.map(lambda leaf: leaf[item.net], params)
        task = self._task._replace(apply=lambda p, x: self._model.apply(p, x, gates=item.gates))
        return evaluate.evaluate(task, own, data, item.span, self._batch_size)

    def _gate_sums(self, item: _Item, params: Any, data: train.DeviceData) -> tuple[Array, ...]:
        """Returns counts [classes], gates [classes, blocks, width] and changes [blocks], summed."""
        own = jax.tree.map(lambda leaf: leaf[item.net], params)

        def look(images, labels, counted):
            _, runs = self._model.activations(own, self._task.preprocess(images), item.gates)
            counted = counted.astype(jnp.float32)
            of_class = jax.nn.one_hot(labels, self._num_classes) * counted[:, None]
            gates = models.unit_maps(runs, "t")
            changes = jnp.concatenate([_change(run) for run in runs])
            sums = jnp.einsum("bc,lbw->clw", of_class, gates, precision="highest")
            return of_class.sum(0), sums, (changes * counted).sum(-1)

        return evaluate.add_up(look, data, item.span, self._batch_size)

    def _fill(self, maps: Any) -> np.ndarray:
        """Returns maps [..., blocks, width] with NaN where a block has no such unit."""
        return np.where(self._outside, np.nan, np.asarray(maps))


def _change(run: BlockActivations) -> Float[Array, "blocks batch"]:
    change = run.y.astype(jnp.float32) - run.x.astype(jnp.float32)
    return jnp.abs(change).mean(tuple(range(2, change.ndim)))


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


def sparsity(activity: Float[np.ndarray, "... units"]) -> Float[np.ndarray, "..."]:
    """Returns 1 - mean(a)^2 / mean(a^2) over the last axis, NaN left out.

    0 where all units are equally active, near 1 where few are (Treves & Rolls 1991).
    """
    return 1 - np.nanmean(activity, -1) ** 2 / np.nanmean(activity**2, -1)


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Returns Pearson's correlation where neither is NaN; NaN if one is constant."""
    a, b = np.broadcast_arrays(a, b)
    known = ~(np.isnan(a) | np.isnan(b))
    a, b = a[known] - a[known].mean(), b[known] - b[known].mean()
    scale = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / scale) if scale > 0 else float("nan")


def reach(amounts: Float[np.ndarray, "blocks"], share: float = 0.95) -> int:
    """Returns the number of first blocks that together have at least a share of all."""
    total = np.cumsum(amounts)
    return int(np.searchsorted(total, share * total[-1] * (1 - 1e-9)) + 1)
