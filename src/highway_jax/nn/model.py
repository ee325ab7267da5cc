"""A net as pure functions, built from the `model` section of a config.

The packages above see a `Model` and never a linen module.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from highway_jax.config.sections import Model as ModelConfig
from highway_jax.errors import UserError
from highway_jax.nn import architectures, custom
from highway_jax.nn.blocks import choose
from highway_jax.nn.pooling import ImageTooSmallError
from highway_jax.nn.roles import roles, roles_of_module
from highway_jax.nn.stacks import ConvStack, DenseStack, Params, set_logit_scale, set_transform_bias
from highway_jax.registry import ARCHITECTURES, BLOCKS

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}

_CONVOLUTIONS_UNROLLED = 16
_PRODUCTS_UNROLLED = 10


class Model(NamedTuple):
    """A net as pure functions.

    Attributes:
        init: (key, transform_bias) -> params; the initial gate bias may be a traced number.
        apply: (params, x, dropout_keys=None, gates=None, dropout_scale=None) -> float32 logits
            [batch, classes]; x is float [batch, ...]; without keys, one for each example, no units
            are dropped; `gates` [blocks] replaces the transform gates of blocks where it is not
            NaN; `dropout_scale` multiplies the rates of dropout.
        activations: (params, x, gates=None, collect=True) -> (logits, a `BlockActivations` of
            arrays [blocks, batch, ...] for each run of equal blocks), or with a function of a
            block's activations as `collect` arrays [blocks, ...] of its results.
        roles: The role of each parameter, "weight", "bias", "gain" or, if it is not trained,
            "constant", as a tree like params.
        num_parameters: Parameters of one net.
        num_blocks: Blocks that `gates` has a value for.
        first_layer: Name of the parameters of the first plain layer.
    """

    init: Callable[[PRNGKeyArray, Float[Array, ""]], Params]
    apply: Callable[..., Array]
    activations: Callable[..., tuple[Array, Any]]
    roles: Params
    num_parameters: int
    num_blocks: int
    first_layer: str = ""


def build(
    config: ModelConfig,
    image_shape: tuple[int, ...],
    num_classes: int,
    platform: str | None = None,
    module: nn.Module | None = None,
) -> Model:
    """Builds the net that the `model` section of a config describes, or that the user gives.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.config.sections import Model
        >>> from highway_jax.nn.model import build
        >>> model = build(Model(depth=50, width=50), (28, 28, 1), 10)
        >>> model.num_parameters
        289660
        >>> params = model.init(jax.random.key(0), -2.0)
        >>> model.apply(params, jnp.ones((2, 28, 28, 1))).shape
        (2, 10)

    Args:
        config: The `model` section.
        image_shape: Shape of one example, without the batch.
        num_classes: Outputs of the softmax layer.
        platform: The platform that programs of the net are compiled for, such as "cpu"; None if
            that is not known. It affects speed and compile time, never the parameters.
        module: A module of the user's own (see `nn.custom`). Of the config only `precision` then
            has an effect.

    Raises:
        UserError: If the images are too small for the net.
        ValueError: If the module cannot be trained.
    """
    if module is not None:
        return _of_module(module, config.precision, image_shape, num_classes)
    net, num_blocks = _net(config, num_classes, platform)
    can_drop = isinstance(net, ConvStack) and config.dropout
    example = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    try:
        shapes = jax.eval_shape(net.init, jax.random.key(0), example)["params"]
    except ImageTooSmallError as error:
        raise UserError(
            f"config.model.architecture is {config.architecture!r}; images of"
            f" {'x'.join(map(str, image_shape))} are too small for it ({error})"
        ) from error

    is_scaled = config.logit_scale != 1
    own_roles = roles(shapes, config.block)
    first = net.first_layer()
    if config.freeze_first:
        own_roles = {**own_roles, first: {**own_roles[first], "kernel": "constant"}}
    if is_scaled:
        own_roles = {**own_roles, "logit_scale": "constant"}

    def init(key, transform_bias):
        params = net.init(key, jnp.zeros(example.shape))["params"]
        params = set_transform_bias(params, transform_bias)
        return set_logit_scale(params, config.logit_scale) if is_scaled else params

    def call(params, *arguments, **options):
        # Every product keeps it, so that its gradients have the same precision.
        with jax.default_matmul_precision(config.precision):
            logits, collected = net.apply({"params": params}, *arguments, **options)
        return logits * params["logit_scale"] if is_scaled else logits, collected

    def apply(params, x, dropout_keys=None, gates=None, dropout_scale=None):
        if dropout_keys is None or not can_drop:
            return call(params, x, gates)[0]
        options = {"dropout_keys": dropout_keys, "dropout_scale": dropout_scale}
        return call(params, x, gates, **options)[0]

    def activations(params, x, gates=None, collect=True):
        logits, runs = call(params, x, gates, collect=collect)
        return logits, runs if isinstance(net, ConvStack) else (runs,)

    return Model(
        init=init,
        apply=apply,
        activations=activations,
        roles=own_roles,
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        num_blocks=num_blocks,
        first_layer=first,
    )


def _of_module(
    module: nn.Module, precision: str, image_shape: tuple[int, ...], num_classes: int
) -> Model:
    """Returns a module of the user's own as a `Model`."""
    init, call, shapes = custom.functions(module, image_shape, num_classes)

    def apply(params, x, dropout_keys=None, gates=None):
        with jax.default_matmul_precision(precision):
            return call(params, x, dropout_keys)

    def activations(params, x, gates=None, collect=True):
        raise ValueError(
            f"model is {type(module).__name__}, whose blocks are not known; allowed: a net that a"
            " config describes"
        )

    return Model(
        init=lambda key, transform_bias: init(key),
        apply=apply,
        activations=activations,
        roles=roles_of_module(shapes),
        num_parameters=sum(leaf.size for leaf in jax.tree.leaves(shapes)),
        num_blocks=0,
    )


def _net(
    config: ModelConfig, num_classes: int, platform: str | None
) -> tuple[DenseStack | ConvStack, int]:
    """Returns the linen module, and how many blocks it has."""
    options = {
        "activation": config.activation,
        "initializer": config.initializer,
        "dtype": DTYPES[choose("dtype", config.dtype, DTYPES)],
        "implementation": "split" if platform == "tpu" else "auto",
    }
    # The initial gate bias is a number of each trial, which `Model.init` takes.
    own = BLOCKS[choose("block", config.block, BLOCKS)].settings
    options |= {
        name: getattr(config, name)
        for name in own
        if hasattr(config, name) and name != "transform_bias"
    }
    is_dense = config.architecture == "dense"
    # Its values come from the training images, which only a program has.
    is_fitted = config.first_initializer == "patch_whitening"
    common = {
        "options": options,
        "remat": config.remat,
        "unroll": _unroll(platform, convolves=not is_dense),
        "first_initializer": "same" if is_fitted else config.first_initializer,
        "last_initializer": config.last_initializer,
    }
    if is_dense:
        net = DenseStack(config.block, config.depth, config.width, num_classes, **common)
        return net, config.depth - 1
    make = ARCHITECTURES[choose("architecture", config.architecture, ARCHITECTURES)]
    layers = make(config.width)
    net = ConvStack(config.block, layers, num_classes, **common)
    return net, architectures.count_blocks(layers)


def _unroll(platform: str | None, *, convolves: bool) -> int:
    """Returns how many blocks a loop's body has at most."""
    if convolves and platform == "cpu":
        # A loop copies what the backward pass needs into and out of arrays of all layers, some 5 %
        # of a step. Unrolled layers are compiled one by one: a fifth of a second each on CPU, but
        # one to three seconds on TPU.
        return _CONVOLUTIONS_UNROLLED
    if not convolves and platform in ("gpu", "cuda", "rocm"):
        # A GPU launches a kernel for every copy into and out of those arrays, which takes as long
        # as the product of a narrow layer. A body of several layers copies for all of them at once.
        return _PRODUCTS_UNROLLED
    return 1
