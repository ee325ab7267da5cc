"""Stacks of layers: plain layers that change the width, runs of equal blocks, a softmax layer.

The blocks of a run are one `nn.scan`, so that compiling a net takes the same time at every depth.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.core import FrozenDict
from jaxtyping import Array, Float, PRNGKeyArray

from highway_jax.errors import show
from highway_jax.nn import architectures, pooling
from highway_jax.nn.blocks import BlockActivations, PlainBlock, check_array, choose
from highway_jax.registry import BLOCKS

Params = Any
Gates = Float[Array, "blocks"] | Sequence[float]


def _is_product(primitive: Any, *_: Any, **__: Any) -> bool:
    # `jax.checkpoint_policies.dots_saveable` would compute convolutions again.
    return primitive.name in ("dot_general", "conv_general_dilated")


REMATS = {
    "none": None,
    "save_dots": _is_product,
    "full": jax.checkpoint_policies.nothing_saveable,
}


def scan_blocks(
    block: nn.Module,
    x: Array,
    num_blocks: int,
    gates: Gates | None = None,
    *,
    collect: Callable[[BlockActivations], Any] | bool = False,
    remat: str = "none",
    unroll: int = 1,
) -> tuple[Array, Any]:
    """Applies `num_blocks` copies of `block`, each with its own parameters, in one `nn.scan`.

    Example:
        >>> import flax.linen as nn
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax import HighwayBlock, scan_blocks
        >>> class Net(nn.Module):
        ...     @nn.compact
        ...     def __call__(self, x):
        ...         block = HighwayBlock(8, transform_bias=-5.0, name="blocks")
        ...         x, _ = scan_blocks(block, x, 50)
        ...         return nn.Dense(10)(x)
        >>> net, x = Net(), jnp.ones((2, 8))
        >>> params = net.init(jax.random.key(0), x)
        >>> params["params"]["blocks"]["kernel"].shape  # W_H and W_T of 50 layers
        (50, 8, 16)
        >>> net.apply(params, x).shape
        (2, 10)

    Args:
        block: A block as a submodule of the caller; its parameters gain a leading axis of blocks.
        x: Input [batch, ..., width].
        num_blocks: How many copies; 0 returns x.
        gates: None, or one value per block: NaN leaves its transform gates unchanged, any other
            value replaces them (see `HighwayBlock.activations`). For a `BlockGroup`
            [groups, blocks of a group].
        collect: What to return of each block: False for nothing, True for its activations, or a
            function of them, of which nothing else is then kept.
        remat: What the backward pass computes again rather than keeps: "none", all but the
            matrix products and convolutions ("save_dots"), or "full" blocks.
        unroll: At most how many blocks the body of the compiled loop has. Neither this nor `remat`
            changes the parameter tree.

    Returns:
        The last block's output, and what was collected, as arrays [blocks, ...]: for True
        `BlockActivations` of arrays [blocks, batch, ..., width]; None if nothing was.

    Raises:
        TypeError: If `block` is not a block, or `x` not an array of floats.
        ValueError: If another argument is not allowed, or the block is not a submodule of a module
            that is being initialized or applied.
    """
    _check_scan(block, x, num_blocks, unroll)
    choose("remat", remat, REMATS)
    if not (callable(collect) or isinstance(collect, bool)):
        raise ValueError(f"collect is {show(collect)}; allowed: True, False, or a function")
    if num_blocks == 0:
        return x, None
    if block.is_initializing():
        unroll = 1  # A loop of single blocks compiles fastest, and parameters are drawn only once.
    if gates is not None:
        gates = _as_gates(gates, num_blocks)
    if (dtype := getattr(block, "dtype", None)) is not None:
        x = x.astype(dtype)  # As outputs are; what a loop carries has one type.

    def body(block, x, gate):
        activations = block.activations(x, gate)
        if callable(collect):
            return block.output(activations), block.observe(collect, activations)
        return block.output(activations), (activations if collect else None)

    if remat != "none":
        # A loop keeps forward and backward pass apart; without one, the compiler would merge what
        # both compute. That is welcome for all but "full", which is asked for to save memory.
        in_one = _body_size(num_blocks, unroll) == num_blocks
        prevent_cse = in_one and remat == "full"
        body = nn.remat(body, prevent_cse=prevent_cse, policy=REMATS[remat])
    axis: Any = nn.broadcast if gates is None else 0
    scan: Any = nn.scan(
        body,
        variable_axes={"params": 0, "intermediates": 0},
        split_rngs={"params": True, "dropout": True},
        in_axes=axis,
        length=num_blocks,
        unroll=_body_size(num_blocks, unroll),
    )
    return scan(block, x, gates)


def _check_scan(block: Any, x: Any, num_blocks: int, unroll: int) -> None:
    needed = ("activations", "output", "observe")
    if not isinstance(block, nn.Module) or not all(hasattr(block, name) for name in needed):
        kind = block if isinstance(block, type) else type(block)
        raise TypeError(
            f"block is {'the class' if block is kind else 'of the class'} {kind.__name__};"
            " allowed: an instance of a Block such as HighwayBlock(width)"
        )
    check_array(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise TypeError(f"x is an array of {x.dtype}; allowed: a float type, such as float32")
    for name, value, least in (("num_blocks", num_blocks, 0), ("unroll", unroll, 1)):
        if not isinstance(value, int | np.integer) or value < least:
            raise ValueError(f"{name} is {value!r}; allowed: a whole number of at least {least}")
    if block.scope is None:
        raise ValueError(
            f"block is a {type(block).__name__} outside of a module; allowed: a submodule of the"
            " module that calls scan_blocks, which must be in its init or apply"
        )


def _as_gates(gates: Any, num_blocks: int) -> Array:
    """Returns gates as an array [blocks, ...]."""
    try:
        gates = jnp.asarray(gates, jnp.float32)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"gates is {show(gates)}; allowed: numbers, one for each of {num_blocks} blocks"
        ) from error
    if gates.ndim == 0 or len(gates) != num_blocks:
        raise ValueError(
            f"gates have shape {gates.shape}; allowed: one value for each of {num_blocks} blocks"
        )
    return gates


def _body_size(num_blocks: int, most: int) -> int:
    """Returns how many blocks the body of a loop has.

    It divides `num_blocks` where a divisor is near enough: what is left after the last whole body
    is compiled apart, and its results are copied to those of the loop.
    """
    most = min(num_blocks, most)
    divisor = max(size for size in range(1, most + 1) if num_blocks % size == 0)
    return divisor if 2 * divisor > most else most


class BlockGroup(nn.Module):
    """Blocks that differ in the side of their kernels, one after the other, as one to repeat.

    Attributes:
        block: A name in `BLOCKS`.
        kernel_sizes: The kernel's side of each.
        width: Channels of every block.
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
            gates: None, or one value per block (see `HighwayBlock.activations`).
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


def _fields(block: str, options: Mapping[str, Any], num_blocks: int = 0) -> dict[str, Any]:
    """Returns those of the options that a kind of block has.

    Args:
        block: A name in `BLOCKS`.
        options: Values by field.
        num_blocks: Blocks of the whole net, for a kind of block that depends on their number.

    Raises:
        ValueError: If there is no such block, or no block has one of the options.
    """
    known = _names_of_fields(BLOCKS[choose("block", block, BLOCKS)])
    every = {name for kind in BLOCKS for name in _names_of_fields(BLOCKS[kind])}
    every -= {"width", "kernel_size", "padding", "num_blocks", "parent", "name"}
    for name in options:
        if name not in every:
            raise ValueError(f"options has {name!r}; allowed: {', '.join(sorted(every))}")
    fields = {name: value for name, value in options.items() if name in known}
    return fields | ({"num_blocks": num_blocks} if num_blocks and "num_blocks" in known else {})


def _names_of_fields(block: Any) -> set[str]:
    return {field.name for field in dataclasses.fields(block)}


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

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax import DenseStack
        >>> options = {"transform_bias": -5.0}
        >>> net = DenseStack("highway", depth=50, width=50, num_classes=10, options=options)
        >>> x = jnp.ones((2, 28, 28, 1))
        >>> logits, _ = net.apply(net.init(jax.random.key(0), x), x)
        >>> logits.shape
        (2, 10)

    Attributes:
        block: A name in `BLOCKS`.
        depth: Hidden layers: one plain layer that changes the width, then depth - 1 blocks.
        width: Units of every hidden layer.
        num_classes: Units of the softmax layer.
        options: Further fields of the block, such as `activation` or `gate`.
        remat: See `scan_blocks`.
        unroll: See `scan_blocks`.
        first_initializer: The initializer of the first layer (see `Block`), or "same".
        last_initializer: That of the softmax layer.
    """

    block: str
    depth: int
    width: int
    num_classes: int
    options: Mapping[str, Any] = FrozenDict()
    remat: str = "none"
    unroll: int = 1
    first_initializer: Any = "same"
    last_initializer: Any = "same"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch *shape"],
        gates: Gates | None = None,
        collect: Callable[[BlockActivations], Any] | bool = False,
    ) -> tuple[Float[Array, "batch classes"], Any]:
        """Computes the logits.

        Args:
            x: Inputs; all axes but the first are flattened.
            gates: None, or one value for each of the depth - 1 blocks (see `scan_blocks`).
            collect: What to return of each block (see `scan_blocks`).

        Returns:
            float32 logits, and what was collected; None if nothing was.

        Raises:
            TypeError: If `x` is not an array of floats.
            ValueError: If `x` has no batch axis, or a field or argument is not allowed.
        """
        check_array(x)
        if jnp.ndim(x) < 2:
            raise ValueError(f"the input has shape {jnp.shape(x)}; allowed: [batch, ...]")
        if not isinstance(self.depth, int | np.integer) or self.depth < 1:
            raise ValueError(f"depth is {self.depth!r}; allowed: a whole number of at least 1")
        first, last = _ends(self.options, self.first_initializer, self.last_initializer)
        x = x.reshape(x.shape[0], -1)
        x = PlainBlock(self.width, **first, name="input")(x)
        fields = _fields(self.block, self.options, self.depth - 1)
        block = BLOCKS[self.block](self.width, **fields, name="blocks")
        settings = {"collect": collect, "remat": self.remat, "unroll": self.unroll}
        x, collected = scan_blocks(block, x, self.depth - 1, gates, **settings)
        logits = PlainBlock(self.num_classes, **last, name="head")(x)
        return logits, collected

    @staticmethod
    def first_layer() -> str:
        """Returns the name of the first layer's parameters."""
        return "input"


class ConvStack(nn.Module):
    """A convolutional net: a sequence of layers, and a softmax layer.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.nn.architectures import Blocks, GlobalAverage, MaxPool, Plain
        >>> from highway_jax.nn.stacks import ConvStack
        >>> layers = (Plain(16), Blocks(3), MaxPool(2, 2), Blocks(3), GlobalAverage())
        >>> net, images = ConvStack("highway", layers, num_classes=10), jnp.ones((2, 8, 8, 3))
        >>> logits, _ = net.apply(net.init(jax.random.key(0), images), images)
        >>> logits.shape
        (2, 10)

    Attributes:
        block: A name in `BLOCKS`.
        layers: What comes before the softmax layer (see `architectures`).
        num_classes: Units of the softmax layer.
        options: Further fields of the blocks.
        remat: See `scan_blocks`.
        unroll: See `scan_blocks`.
        first_initializer: The initializer of the first layer (see `Block`), or "same".
        last_initializer: That of the softmax layer.
    """

    block: str
    layers: tuple[architectures.Layer, ...]
    num_classes: int
    options: Mapping[str, Any] = FrozenDict()
    remat: str = "none"
    unroll: int = 1
    first_initializer: Any = "same"
    last_initializer: Any = "same"

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "batch height width channels"],
        gates: Gates | None = None,
        collect: Callable[[BlockActivations], Any] | bool = False,
        dropout_keys: PRNGKeyArray | None = None,
        dropout_scale: Float[Array, ""] | None = None,
    ) -> tuple[Float[Array, "batch classes"], tuple[Any, ...] | None]:
        """Returns float32 logits, and what is to be collected of each run of blocks.

        Args:
            x: Images.
            gates: None, or a value for each block of the net (see `scan_blocks`).
            collect: What to return of each block (see `scan_blocks`).
            dropout_keys: A key for each image, with which units are dropped; None drops none.
            dropout_scale: None, or a factor of the rates at which they are dropped.
        """
        check_array(x)
        if jnp.ndim(x) != 4:
            raise ValueError(
                f"images have shape {jnp.shape(x)}; allowed: [batch, height, width, channels]"
            )
        if gates is not None:
            gates = _as_gates(gates, architectures.count_blocks(self.layers))
        fields, last = _ends(self.options, self.first_initializer, self.last_initializer)
        plain = _fields("plain", self.options)
        runs, done = [], 0
        for number, layer in enumerate(self.layers):
            name = _name(number, layer)
            match layer:
                case architectures.Dropout(rate):
                    if dropout_keys is not None:
                        own_keys = jax.vmap(jax.random.fold_in, (0, None))(dropout_keys, number)
                        x = _drop(rate, own_keys, x, dropout_scale)
                case architectures.MaxPool(window, stride):
                    x = pooling.max_pool(x, window, stride)
                case architectures.GlobalAverage():
                    x = pooling.global_avg_pool(x)
                case architectures.Plain(width, kernel_size, padding):
                    x = x if kernel_size else x.reshape(len(x), -1)
                    sizes = {"kernel_size": kernel_size, "padding": padding}
                    x = PlainBlock(width, **sizes, **fields, name=name)(x)
                    fields = plain
                case architectures.Blocks():
                    num_blocks = architectures.count_blocks((layer,))
                    own = None if gates is None else gates[done : done + num_blocks]
                    x, collected = self._run(layer, x, own, collect, name)
                    runs.append(collected)
                    done += num_blocks
        logits = PlainBlock(self.num_classes, **last, name="head")(x.reshape(len(x), -1))
        return logits, (tuple(runs) if collect else None)

    def first_layer(self) -> str:
        """Returns the name of the parameters of the first plain layer."""
        layers = enumerate(self.layers)
        plain = (_name(i, layer) for i, layer in layers if isinstance(layer, architectures.Plain))
        return next(plain, "head")

    def _run(
        self,
        layer: architectures.Blocks,
        x: Array,
        gates: Array | None,
        collect: Callable[[BlockActivations], Any] | bool,
        name: str,
    ) -> tuple[Array, Any]:
        """Applies a run of blocks; what is collected is [blocks, ...] with or without groups."""
        sizes, total = layer.kernel_sizes, architectures.count_blocks(self.layers)
        options = _fields(self.block, self.options, total)
        if len(sizes) == 1:
            block = BLOCKS[self.block](x.shape[-1], kernel_size=sizes[0], **options, name=name)
        else:
            block = BlockGroup(self.block, sizes, x.shape[-1], options, name=name)
            gates = gates if gates is None else gates.reshape(layer.count, len(sizes))
        settings = {"collect": collect, "remat": self.remat, "unroll": self.unroll}
        x, found = scan_blocks(block, x, layer.count, gates, **settings)
        if collect and len(sizes) > 1:
            found = jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), found)
        return x, found


def _name(number: int, layer: architectures.Layer) -> str:
    """Returns the name of a layer's parameters, by its position in the net."""
    return f"{type(layer).__name__.lower()}{number}"


def _drop(
    rate: float, keys: PRNGKeyArray, x: Array, scale: Float[Array, ""] | None = None
) -> Array:
    """Drops units at a rate, times a scale if there is one; each example has a key of its own."""
    # As one axis an example, which XLA:CPU compiles ten times faster (see `initializers._flat`).
    flat = x.reshape(len(x), -1)
    if scale is None:
        drop: Any = nn.Dropout(rate, deterministic=False, parent=None)
        return jax.vmap(lambda x, key: drop.apply({}, x, rng=key))(flat, keys).reshape(x.shape)
    # The rate of `nn.Dropout` must not be traced.
    kept = 1 - rate * scale
    masks = jax.vmap(lambda key: jax.random.bernoulli(key, kept, flat.shape[1:]))(keys)
    return jnp.where(masks, flat / kept.astype(x.dtype), 0).reshape(x.shape)


def set_logit_scale(params: Params, value: Float[Array, ""] | float) -> Params:
    """Returns `params` with the constant by which `Model` multiplies logits set to `value`."""
    return {**params, "logit_scale": jnp.asarray(value, jnp.float32)}


def set_kernel(params: Params, layer: str, kernel: Array | np.ndarray) -> Params:
    """Returns `params` with the kernel of a layer replaced."""
    return {**params, layer: {**params[layer], "kernel": jnp.asarray(kernel)}}


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


def unit_means(x: Float[Array, "batch *space width"]) -> Float[Array, "batch width"]:
    """Returns an activation of one block as float32, averaged over an image's positions."""
    return x.astype(jnp.float32).mean(tuple(range(1, x.ndim - 1)))
