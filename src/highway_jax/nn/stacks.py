"""Stacks of layers: plain layers that change the width, runs of equal blocks, a softmax.

The blocks of a run are one `nn.scan`, so that compiling a net takes the same time at every depth.
The rest of the package sees a `Model` of pure functions and never a linen module.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from highway_jax.config.sections import Model as ModelConfig
from highway_jax.errors import UserError
from highway_jax.nn import architectures, convolution
from highway_jax.nn.blocks import BlockActivations, PlainBlock, lookup
from highway_jax.nn.roles import roles
from highway_jax.registry import ARCHITECTURES, BLOCKS

Params = Any


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    # `jax.checkpoint_policies.dots_saveable` would compute convolutions again.
    return primitive.name in ("dot_general", "conv_general_dilated")


REMATS = {
    "none": None,
    "save_dots": _is_product,
    "full": jax.checkpoint_policies.nothing_saveable,
}
# Equal convolutional layers that XLA sees one after the other. A loop copies what the backward pass
# needs into and out of arrays of all layers, some 5 % of a step; on the other hand unrolled layers
# are compiled one by one, a fifth of a second each.
MAX_UNROLLED = 16
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def scan_blocks(
    block: nn.Module,
    x: Array,
    num_blocks: int,
    gates: Float[Array, "blocks"] | None = None,
    *,
    collect: Callable[[BlockActivations], Any] | bool = False,
    remat: str = "none",
    unroll: int = 1,
) -> tuple[Array, Any]:
    """Applies `num_blocks` copies of `block`, each with parameters of its own, in one `nn.scan`.

    Args:
        block: A block as a submodule of the caller; its parameters gain a leading axis of layers.
        x: Input [batch, ..., width].
        num_blocks: How many copies; 0 returns x.
        gates: None, or one number per block: NaN leaves its transform gates alone, any other
            number stands in for them (see `HighwayBlock.activations`).
        collect: What to return of each block: False for nothing, True for its activations, or a
            function of them, of which nothing else is then kept.
        remat: What the backward pass computes again: "none", "save_dots" for all but matrix
            products and convolutions, or "full" blocks.
        unroll: How many blocks the body of the compiled loop has. Neither this nor `remat` changes
            the parameter tree.

    Returns:
        The last block's output, and what was collected, as arrays [blocks, ...]: for True
        `BlockActivations` of arrays [blocks, batch, ..., width]; None if nothing was.
    """
    if num_blocks == 0:
        return x, None

    def body(block, x, gate):
        activations = block.activations(x, gate)
        if callable(collect):
            return block.output(activations), block.observe(collect, activations)
        return block.output(activations), (activations if collect else None)

    if remat != "none":
        body = nn.remat(body, prevent_cse=False, policy=lookup(REMATS, "model.remat", remat))
    scan = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast if gates is None else 0,
        length=num_blocks,
        unroll=unroll,
    )
    return scan(block, x, gates)


class BlockGroup(nn.Module):
    """Blocks that differ in the side of their kernels, one after the other, as one to repeat.

    Attributes:
        block: A name in `BLOCKS`.
        kernel_sizes: The kernel's side of each.
        width: Maps of every block.
        options: Further fields of the blocks.
    """

    block: str
    kernel_sizes: tuple[int, ...]
    width: int
    options: Mapping[str, Any]

    @nn.compact
    def activations(self, x: Array, gates: Array | None = None) -> BlockActivations:
        """Returns what all blocks compute, stacked: arrays [blocks, batch, ..., width].

        Args:
            x: Input [batch, ..., width].
            gates: None, or one number a block (see `HighwayBlock.activations`).
        """
        found = []
        for i, size in enumerate(self.kernel_sizes):
            block = BLOCKS[self.block](
                self.width, kernel_size=size, **self.options, name=f"block{i}"
            )
            found.append(block.activations(x, None if gates is None else gates[i]))
            x = found[-1].y
        return jax.tree.map(lambda *parts: jnp.stack(parts), *found)

    @staticmethod
    def output(activations: BlockActivations) -> Array:
        """Returns what the next group gets: the last block's output."""
        return activations.y[-1]

    @staticmethod
    def observe(function: Callable[[BlockActivations], Any], activations: BlockActivations) -> Any:
        """Returns the function of each block's activations, stacked: arrays [blocks, ...]."""
        return jax.vmap(function)(activations)


def _fields(block: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns those of the options that a kind of block has."""
    known = lookup(BLOCKS, "model.block", block).__dataclass_fields__
    return {name: value for name, value in options.items() if name in known}


def _ends(
    options: Mapping[str, Any], first_initializer: str, last_initializer: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns the fields of the first plain layer and of the softmax layer."""
    plain = _fields("plain", options)
    same = options.get("initializer", PlainBlock.initializer)
    first, last = (
        same if name == "same" else name for name in (first_initializer, last_initializer)
    )
    head = {**plain, "activation": "identity", "initializer": last, "dtype": jnp.float32}
    return {**plain, "initializer": first}, head


class DenseStack(nn.Module):
    """A fully connected net of `depth` hidden layers (section 3.1) and a softmax layer.

    Attributes:
        block: A name in `BLOCKS`.
        depth: Hidden layers: one plain layer that changes the width, then depth - 1 blocks.
        width: Units of every hidden layer.
        num_classes: Units of the softmax layer.
        options: Further fields of the block, such as `activation` or `gate`.
        remat: See `scan_blocks`.
        first_initializer: A name in `INITIALIZERS` for the first layer, or "same".
        last_initializer: The softmax layer's.
    """

    block: str
    depth: int
    width: int
    num_classes: int
    options: Mapping[str, Any]
    remat: str = "none"
    first_initializer: str = "same"
    last_initializer: str = "same"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *shape"],
        gates: Array | None = None,
        collect: Callable[[BlockActivations], Any] | bool = False,
    ) -> tuple[Float[Array, "batch classes"], Any]:
        """Returns float32 logits, and what is to be collected of the blocks (see `scan_blocks`)."""
        first, last = _ends(self.options, self.first_initializer, self.last_initializer)
        x = x.reshape(x.shape[0], -1)
        x = PlainBlock(self.width, **first, name="input")(x)
        block_class = lookup(BLOCKS, "model.block", self.block)
        block = block_class(self.width, **_fields(self.block, self.options), name="blocks")
        x, collected = scan_blocks(
            block, x, self.depth - 1, gates, collect=collect, remat=self.remat
        )
        logits = PlainBlock(self.num_classes, **last, name="head")(x)
        return logits, collected


class ConvStack(nn.Module):
    """A convolutional net of layers in a row, and a softmax layer.

    Attributes:
        block: A name in `BLOCKS`.
        layers: What comes before the softmax layer (see `architectures`).
        num_classes: Units of the softmax layer.
        options: Further fields of the blocks.
        remat: See `scan_blocks`.
        first_initializer: A name in `INITIALIZERS` for the first layer, or "same".
        last_initializer: The softmax layer's.
    """

    block: str
    layers: tuple[architectures.Layer, ...]
    num_classes: int
    options: Mapping[str, Any]
    remat: str = "none"
    first_initializer: str = "same"
    last_initializer: str = "same"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        gates: Float[Array, "blocks"] | None = None,
        collect: Callable[[BlockActivations], Any] | bool = False,
        dropout_keys: PRNGKeyArray | None = None,
    ) -> tuple[Float[Array, "batch classes"], tuple[Any, ...] | None]:
        """Returns float32 logits, and what is to be collected of each run of blocks.

        Args:
            x: Images.
            gates: None, or a number for each block of the net (see `scan_blocks`).
            collect: What to return of each block (see `scan_blocks`).
            dropout_keys: A key for each image, with which units are dropped; None drops none.
        """
        fields, last = _ends(self.options, self.first_initializer, self.last_initializer)
        plain = _fields("plain", self.options)
        runs, done = [], 0
        for number, layer in enumerate(self.layers):
            name = f"{type(layer).__name__.lower()}{number}"
            match layer:
                case architectures.Dropout(rate):
                    if dropout_keys is not None:
                        own_keys = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, number)
                        x = _drop(rate, own_keys, x)
                case architectures.Pool():
                    x = _pool(layer, x)
                case architectures.Plain(width, kernel_size, padding):
                    x = x if kernel_size else x.reshape(len(x), -1)
                    sizes = {"kernel_size": kernel_size, "padding": padding}
                    x = PlainBlock(width, **sizes, **fields, name=name)(x)
                    fields = plain
                case architectures.Blocks():
                    num_blocks = layer.count * len(layer.kernel_sizes)
                    own = None if gates is None else gates[done : done + num_blocks]
                    x, collected = self._run(layer, x, own, collect, name)
                    runs.append(collected)
                    done += num_blocks
        logits = PlainBlock(self.num_classes, **last, name="head")(x.reshape(len(x), -1))
        return logits, (tuple(runs) if collect else None)

    def _run(
        self,
        layer: architectures.Blocks,
        x: Array,
        gates: Array | None,
        collect: Callable[[BlockActivations], Any] | bool,
        name: str,
    ) -> tuple[Array, Any]:
        """Applies a run of blocks; what is collected is [blocks, ...] whatever the groups."""
        sizes, options = layer.kernel_sizes, _fields(self.block, self.options)
        if len(sizes) == 1:
            block = BLOCKS[self.block](x.shape[-1], kernel_size=sizes[0], **options, name=name)
        else:
            block = BlockGroup(self.block, sizes, x.shape[-1], options, name=name)
            gates = gates if gates is None else gates.reshape(layer.count, len(sizes))
        # Drawing the parameters is done once: there a loop is only faster to compile.
        unroll = 1 if self.is_initializing() else min(layer.count, MAX_UNROLLED)
        settings = {"remat": self.remat, "unroll": unroll}
        x, found = scan_blocks(block, x, layer.count, gates, collect=collect, **settings)
        if collect and len(sizes) > 1:
            found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
        return x, found


def _drop(rate: float, keys: PRNGKeyArray, x: Array) -> Array:
    """Drops units at a rate, those of each example with a key of its own."""
    drop = nn.Dropout(rate, deterministic=False, parent=None)
    # As one axis an example, which XLA:CPU compiles ten times faster (see `initializers._flat`).
    flat = x.reshape(len(x), -1)
    return jax.vmap(lambda x, key: drop.apply({}, x, rng=key))(flat, keys).reshape(x.shape)


def _pool(layer: architectures.Pool, x: Array) -> Array:
    if layer.window == 0:
        reduce = jnp.max if layer.kind == "max" else jnp.mean
        return reduce(x, axis=(1, 2), keepdims=True)
    pool = convolution.max_pool if layer.kind == "max" else convolution.avg_pool
    return pool(x, layer.window, layer.stride)


class Model(NamedTuple):
    """A net as pure functions.

    Attributes:
        init: (key, transform_bias) -> params; the initial gate bias may be a traced number.
        apply: (params, x, dropout_keys=None, gates=None) -> float32 logits [batch, classes]; x is
            float [batch, ...]; without keys, one for each example, no units are dropped; `gates`
            [blocks] forces the transform gates of blocks where it is not NaN.
        activations: (params, x, gates=None, collect=True) -> (logits, a `BlockActivations` of
            arrays [blocks, batch, ...] for each run of equal blocks), or with a function of a
            block's activations as `collect` arrays [blocks, ...] of its results.
        num_parameters: Trainable numbers of one net.
        num_blocks: Blocks that `gates` has a number for.
        roles: "weight", "bias" or "gain" for each parameter, a tree like the parameters' (see
            `highway_jax.nn.roles`).
        multiply_adds: Multiplications of one example's forward pass in kernels.
    """

    init: Callable[[PRNGKeyArray, Float[Array, ""]], Params]
    apply: Callable[..., Array]
    activations: Callable[..., tuple[Array, tuple[Any, ...]]]
    num_parameters: int
    num_blocks: int
    roles: Any
    multiply_adds: int


def set_transform_bias(params: Params, value: Float[Array, ""] | float) -> Params:
    """Returns `params` with every initial transform-gate bias b_T set to `value`."""

    def replace(path, leaf):
        return jnp.full_like(leaf, value) if path[-1].key == "transform_bias" else leaf

    return jax.tree_util.tree_map_with_path(replace, params)


def transform_biases(params: Params) -> tuple[Float[Array, "blocks width"], ...]:
    """Returns the transform-gate biases b_T of each run of blocks, in the order of the net."""

    def number(name):
        return int("".join(filter(str.isdigit, name)) or 0)

    def of_run(tree):
        if "transform_bias" in tree:
            return tree["transform_bias"]
        # A group of blocks that differ: [groups, width] for each of its blocks.
        parts = [tree[name]["transform_bias"] for name in sorted(tree, key=number)]
        return jnp.stack(parts, axis=1).reshape(-1, parts[0].shape[-1])

    runs = (name for name in sorted(params, key=number) if name.startswith("blocks"))
    return tuple(of_run(params[name]) for name in runs)


def join_runs(runs: Iterable[Float[Array, "blocks *rest width"]]) -> Array:
    """Joins arrays of the runs of a net along blocks, with zeros where one is narrower."""
    runs = list(runs)
    width = max(run.shape[-1] for run in runs)
    pads = ([(0, 0)] * (run.ndim - 1) + [(0, width - run.shape[-1])] for run in runs)
    return jnp.concatenate([jnp.pad(run, pad) for run, pad in zip(runs, pads, strict=True)])


def unit_maps(x: Float[Array, "batch *space width"]) -> Float[Array, "batch width"]:
    """Returns an activation of one block as float32, averaged over an image's positions."""
    return x.astype(jnp.float32).mean(tuple(range(1, x.ndim - 1)))


def build(config: ModelConfig, image_shape: tuple[int, ...], num_classes: int) -> Model:
    """Builds the net that the `model` section of a config describes.

    Args:
        config: The `model` section.
        image_shape: Shape of one example, without the batch.
        num_classes: Outputs of the softmax layer.

    Raises:
        UserError: If the images are too small for the net.
    """
    options = {
        "activation": config.activation,
        "initializer": config.initializer,
        "dtype": lookup(DTYPES, "model.dtype", config.dtype),
        "gate": config.gate,
        "carry_bias": config.carry_bias,
    }
    ends = {
        "remat": config.remat,
        "first_initializer": config.first_initializer,
        "last_initializer": config.last_initializer,
    }
    if config.architecture == "dense":
        net = DenseStack(config.block, config.depth, config.width, num_classes, options, **ends)
        num_blocks, can_drop = config.depth - 1, False
    else:
        make = lookup(ARCHITECTURES, "model.architecture", config.architecture)
        layers = make(config.width)
        net = ConvStack(config.block, layers, num_classes, options, **ends)
        runs = [layer for layer in layers if isinstance(layer, architectures.Blocks)]
        num_blocks = sum(run.count * len(run.kernel_sizes) for run in runs)
        can_drop = config.dropout
    example = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        shapes = jax.eval_shape(net.init, jax.random.key(0), example)["params"]
    except UserError as error:
        raise UserError(
            f"config.model.architecture is {config.architecture!r}; images of"
            f" {'x'.join(map(str, image_shape))} are too small for it ({error})"
        ) from error

    def init(key, transform_bias):
        params = net.init(key, jnp.zeros(example.shape))["params"]
        return set_transform_bias(params, transform_bias)

    def call(params, *arguments, **options):
        # Every product keeps it, so that its gradients are computed alike.
        with jax.default_matmul_precision(config.precision):
            return net.apply({"params": params}, *arguments, **options)

    def apply(params, x, dropout_keys=None, gates=None):
        if dropout_keys is None or not can_drop:
            return call(params, x, gates)[0]
        return call(params, x, gates, dropout_keys=dropout_keys)[0]

    def activations(params, x, gates=None, collect=True):
        logits, runs = call(params, x, gates, collect=collect)
        return logits, runs if isinstance(net, ConvStack) else (runs,)

    return Model(
        init=init,
        apply=apply,
        activations=activations,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        num_blocks=num_blocks,
        roles=roles(shapes, config.block),
        multiply_adds=_count(jax.make_jaxpr(apply)(shapes, example)),
    )


def _count(jaxpr: Any) -> int:
    """Returns the multiplications of all matrix products and convolutions of a program."""
    total = 0
    for equation in jaxpr.eqns:
        operands = [variable.aval for variable in equation.invars]
        if equation.primitive.name == "dot_general":
            contracted, _ = equation.params["dimension_numbers"][0]
            each = math.prod(operands[0].shape[axis] for axis in contracted)
            total += equation.outvars[0].aval.size * each
        elif equation.primitive.name == "conv_general_dilated":
            outputs = equation.outvars[0].aval
            total += outputs.size // outputs.shape[-1] * operands[1].size
        else:
            repeated = equation.params.get("length", 1)
            inner = (value for value in equation.params.values() if hasattr(value, "eqns"))
            total += repeated * sum(map(_count, inner))
    return total
