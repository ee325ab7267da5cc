"""Stacks of blocks: one plain layer that sets the width, equal blocks to any depth, a softmax.

The equal blocks are one `nn.scan`, so that compiling a net takes the same time at every depth.
The rest of the package sees a `Model` of pure functions and never a linen module.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from highway_jax.layers import BLOCKS, BlockActivations, PlainBlock, lookup

Params = Any

REMATS = {
    "none": None,
    "products": jax.checkpoint_policies.dots_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}
DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def scan_blocks(
    block: nn.Module,
    x: Array,
    num_blocks: int,
    gates: Float[Array, "blocks"] | None = None,
    *,
    collect: bool = False,
    remat: str = "none",
) -> tuple[Array, BlockActivations | None]:
    """Applies `num_blocks` copies of `block`, each with parameters of its own, in one `nn.scan`.

    Args:
        block: A block as a submodule of the caller; its parameters gain a leading axis of layers.
        x: Input [batch, ..., width].
        num_blocks: How many copies; 0 returns x.
        gates: None, or one number per block: NaN leaves its transform gates alone, any other
            number stands in for them (see `HighwayBlock.activations`).
        collect: Whether to return every block's activations.
        remat: What the backward pass computes again rather than keeps: "none", all but the
            matrix "products", or "full" blocks. The parameter tree is the same in each case.

    Returns:
        The last block's output, and `BlockActivations` of arrays [blocks, batch, ..., width], or
        None unless `collect`.
    """
    if num_blocks == 0:
        return x, None

    def body(block, x, gate):
        activations = block.activations(x, gate)
        return activations.y, (activations if collect else None)

    if remat != "none":
        body = nn.remat(body, prevent_cse=False, policy=lookup(REMATS, "model.remat", remat))
    scan = nn.scan(
        body,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast if gates is None else 0,
        length=num_blocks,
    )
    return scan(block, x, gates)


class DenseStack(nn.Module):
    """A fully connected net of `depth` hidden layers (section 3.1) and a softmax layer.

    Attributes:
        block: A name in `BLOCKS`.
        depth: Hidden layers: one plain layer that changes the width, then depth - 1 blocks.
        width: Units of every hidden layer.
        num_classes: Units of the softmax layer.
        options: Further fields of the block, such as `activation` or `gate`.
        remat: See `scan_blocks`.
    """

    block: str
    depth: int
    width: int
    num_classes: int
    options: Mapping[str, Any]
    remat: str = "none"

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *shape"], gates: Array | None = None, collect: bool = False
    ) -> tuple[Float[Array, "batch classes"], BlockActivations | None]:
        """Returns float32 logits, and with `collect` the blocks' activations."""
        plain = {k: v for k, v in self.options.items() if k in PlainBlock.__dataclass_fields__}
        x = x.reshape(x.shape[0], -1)
        x = PlainBlock(self.width, **plain, name="input")(x)
        block_class = lookup(BLOCKS, "model.block", self.block)
        fields = self.options if self.block == "highway" else plain
        block = block_class(self.width, **fields, name="blocks")
        x, activations = scan_blocks(
            block, x, self.depth - 1, gates, collect=collect, remat=self.remat
        )
        head = PlainBlock(self.num_classes, **{**plain, "activation": "identity"}, name="head")
        return head(x).astype(jnp.float32), activations


class Model(NamedTuple):
    """A net as pure functions.

    Attributes:
        init: (key, transform_bias) -> params; the initial gate bias may be a traced number.
        apply: (params, x) -> float32 logits [batch, classes]; x is float [batch, ...].
        activations: (params, x, gates=None) -> (logits, `BlockActivations` stacked over the
            blocks); `gates` [blocks] forces transform gates where it is not NaN.
        num_parameters: Trainable numbers of one net.
        num_blocks: Scanned blocks, the length of the activations' first axis.
        multiply_adds: Multiplications of one example's forward pass in kernels.
    """

    init: Callable[[PRNGKeyArray, Float[Array, ""]], Params]
    apply: Callable[[Params, Array], Array]
    activations: Callable[..., tuple[Array, BlockActivations | None]]
    num_parameters: int
    num_blocks: int
    multiply_adds: int


def set_transform_bias(params: Params, value: Float[Array, ""] | float) -> Params:
    """Returns `params` with every initial transform-gate bias b_T set to `value`."""

    def replace(path, leaf):
        return jnp.full_like(leaf, value) if path[-1].key == "transform_bias" else leaf

    return jax.tree_util.tree_map_with_path(replace, params)


def build(config: Any, image_shape: tuple[int, ...], num_classes: int) -> Model:
    """Builds the net that the `model` section of a config describes.

    Args:
        config: The section: block, depth, width, activation, initializer, gate, carry_bias,
            remat, dtype.
        image_shape: Shape of one example, without the batch.
        num_classes: Outputs of the softmax layer.
    """
    options = {
        "activation": config.activation,
        "initializer": config.initializer,
        "dtype": lookup(DTYPES, "model.dtype", config.dtype),
        "gate": config.gate,
        "carry_bias": config.carry_bias,
    }
    net = DenseStack(config.block, config.depth, config.width, num_classes, options, config.remat)
    example = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    shapes = jax.eval_shape(net.init, jax.random.key(0), example)["params"]
    leaves = jax.tree_util.tree_leaves_with_path(shapes)

    def init(key, transform_bias):
        params = net.init(key, jnp.zeros(example.shape))["params"]
        return set_transform_bias(params, transform_bias)

    return Model(
        init=init,
        apply=lambda params, x: net.apply({"params": params}, x)[0],
        activations=lambda params, x, gates=None: net.apply(
            {"params": params}, x, gates, collect=True
        ),
        num_parameters=sum(leaf.size for _, leaf in leaves),
        num_blocks=config.depth - 1,
        multiply_adds=sum(leaf.size for path, leaf in leaves if path[-1].key == "kernel"),
    )
