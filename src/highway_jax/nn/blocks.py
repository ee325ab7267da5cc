"""The paper's layers, one class per equation, fully connected or convolutional.

With H(x) = f(W_H x + b_H), T(x) = sigmoid(W_T x + b_T) and C(x) = sigmoid(W_C x + b_C):

    plain      y = H(x)
    residual   y = x + H(x)
    highway    y = H(x) * T(x) + x * C(x),   C = 1 - T unless `gate="separate"`

W_H, W_T (and W_C) lie side by side in one `kernel`, so that a block is one matrix product; each
part is initialized separately. Their biases are separate parameters: `bias` (b_H),
`transform_bias` (b_T) and `carry_bias` (b_C), which optimizers and analyses find by name.

A new block is a subclass of `Block` with a method `activations`, registered by `register_block`.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple, TypeVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from highway_jax.errors import show
from highway_jax.nn import convolution
from highway_jax.registry import ACTIVATIONS, BLOCKS, INITIALIZERS, Registry

for _name, _function in {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "elu": jax.nn.elu,
    "gelu": jax.nn.gelu,
    "silu": jax.nn.silu,
    "identity": lambda x: x,
}.items():
    ACTIVATIONS.register(_name)(_function)

GATES = ("coupled", "separate")


def choose(field: str, value: Any, allowed: Any) -> Any:
    """Returns `value`, or raises `ValueError` that names the field, the value and what is allowed.

    Example:
        >>> from highway_jax.nn.blocks import choose
        >>> choose("remat", "some", ("none", "full"))
        Traceback (most recent call last):
        ValueError: remat is 'some'; allowed: none, full

    Args:
        field: The name that the caller knows.
        value: What the caller gave.
        allowed: A container of the names allowed.
    """
    if not isinstance(value, str) or value not in allowed:
        raise ValueError(f"{field} is {value!r}; allowed: {', '.join(allowed)}")
    return value


def check_array(x: Any) -> None:
    """Raises `TypeError` unless x is an array."""
    if not isinstance(x, jax.Array | np.ndarray):
        raise TypeError(f"x is {show(x)}; allowed: an array [batch, ...]")


def constant(field: str, value: Any) -> Callable[..., Array]:
    """Returns the initializer of a constant, or raises `ValueError` that names its field."""
    if not isinstance(value, int | float | np.number | np.ndarray | jax.Array):
        raise ValueError(f"{field} is {show(value)}; allowed: a number")
    return nn.initializers.constant(value)


def _entry(registry: Registry, field: str, value: Any) -> Any:
    """Returns the entry of a name; a function stands for itself."""
    if callable(value):
        return value
    if not isinstance(value, str) or value not in registry:
        raise ValueError(f"{field} is {value!r}; allowed: {', '.join(registry)}, or a function")
    return registry[value]


class BlockActivations(NamedTuple):
    """What one block computed for a batch; each of shape [batch, ..., width].

    Attributes:
        x: Its input.
        h: The block state H(x).
        t: The transform gate T(x), the factor of H(x) in y; ones in a block without one. A block
            of `highway_jax.nn.residual` has a gate that is a factor of x alone.
        c: The carry gate C(x), the factor of x in y; zeros in a plain, ones in a residual block.
        y: The block's output.
    """

    x: Float[Array, "batch *space width"]
    h: Float[Array, "batch *space width"]
    t: Float[Array, "batch *space width"]
    c: Float[Array, "batch *space width"]
    y: Float[Array, "batch *space width"]


BlockT = TypeVar("BlockT", bound="Block")


class Block(nn.Module):
    """Shared fields and parameters of the blocks.

    A subclass implements `activations(x, gate)`, mostly with `affine` and `nonlinear`.

    Example:
        >>> import flax.linen as nn
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax.nn.blocks import Block, BlockActivations
        >>> class HalfResidualBlock(Block):
        ...     @nn.compact
        ...     def activations(self, x, gate=None):
        ...         self.check(x)
        ...         (z,) = self.affine(x, bias=0.0)
        ...         h, half = self.nonlinear(z), jnp.full_like(z, 0.5)
        ...         return BlockActivations(x, h, half, half, (h + x) / 2)
        >>> block, x = HalfResidualBlock(4), jnp.ones((2, 4))
        >>> block.apply(block.init(jax.random.key(0), x), x).shape
        (2, 4)

    Attributes:
        width: Units (or channels) of the block; input and output have this many, except that a
            plain block takes any input.
        activation: The f of H: a name in `ACTIVATIONS`, or an elementwise function of arrays.
        kernel_size: 0 for a fully connected block, else the side of the convolution's kernel.
        initializer: A name in `INITIALIZERS`, or a function (key, shape, dtype) -> array; it draws
            the kernels of H, T and C alike.
        padding: "SAME" or "VALID"; only a plain block may change the size of an image.
        dtype: The type of products and of the block's output. Parameters stay float32; biases,
            activations and gates are computed in float32.
        implementation: How convolutions are computed (see `convolution.conv2d`).
        roles: What the parameters are to an optimizer, by name: "weight" (decayed), "bias" or
            "gain". A parameter that is not named has its role by its rank (see `nn.roles`).
        settings: The keys of a config's `model` section that this kind of block uses, beside those
            that all blocks use.
        keeps_width: Whether input and output must have the same shape.
    """

    roles: ClassVar[Mapping[str, str]] = {"kernel": "weight", "bias": "bias"}
    settings: ClassVar[tuple[str, ...]] = ()
    keeps_width: ClassVar[bool] = True

    width: int
    activation: str | Callable[[Array], Array] = "relu"
    kernel_size: int = 0
    initializer: str | Callable[..., Array] = "normalized"
    padding: str = "SAME"
    dtype: Any = jnp.float32
    implementation: str = "auto"

    def __call__(
        self, x: Float[Array, "batch *space inputs"]
    ) -> Float[Array, "batch *space width"]:
        """Returns the block's output y."""
        return self.output(self.activations(x))

    def activations(self, x: Array, gate: Any = None) -> BlockActivations:
        """Returns all that the block computes.

        Args:
            x: Input [batch, ..., width].
            gate: None, or a scalar: NaN leaves the gates unchanged, any other value replaces every
                transform gate of the block. It has no effect in a block without gates.
        """
        raise NotImplementedError(f"{type(self).__name__} does not implement activations")

    @staticmethod
    def output(activations: BlockActivations) -> Array:
        """Returns what the next block takes of what this one computed."""
        return activations.y

    @staticmethod
    def observe(function: Callable[[BlockActivations], Any], activations: BlockActivations) -> Any:
        """Returns a function of what this block computed."""
        return function(activations)

    def check(self, x: Array) -> None:
        """Raises `TypeError` or `ValueError` if the block cannot take this input."""
        check_array(x)
        kind = type(self).__name__
        for field, value, least in (("width", self.width, 1), ("kernel_size", self.kernel_size, 0)):
            if not isinstance(value, int | np.integer) or value < least:
                raise ValueError(
                    f"{field} is {value!r}; allowed: a whole number of at least {least}"
                )
        choose("padding", self.padding, convolution.PADDINGS)
        if self.kernel_size and jnp.ndim(x) != 4:
            raise ValueError(
                f"the input of {kind} has shape {jnp.shape(x)}; allowed with kernel_size"
                f" {self.kernel_size}: [batch, height, width, channels]"
            )
        if jnp.ndim(x) == 0:
            raise ValueError(f"the input of {kind} is a scalar; allowed: [batch, ..., units]")
        if not self.keeps_width:
            return
        if jnp.shape(x)[-1] != self.width:
            raise ValueError(
                f"{kind} keeps its width: input has {jnp.shape(x)[-1]}, width is {self.width}"
            )
        if self.kernel_size > 1 and self.padding != "SAME":
            raise ValueError(
                f"{kind} keeps the size of an image: padding is {self.padding!r}; allowed: SAME"
            )

    def affine(self, x: Array, **biases: float) -> list[Array]:
        """Returns affine functions of x, one for each bias, computed as one product.

        Args:
            x: Input [batch, ..., inputs].
            biases: Names of the functions' biases, and their initial values.

        Returns:
            float32 arrays [batch, ..., width].
        """
        kernel = self.weights(x.shape[-1], len(biases))
        return jnp.split(self.product(x, kernel, self.biases(**biases)), len(biases), axis=-1)

    def biases(self, **initial: float) -> Array:
        """Returns bias vectors side by side, [count * width].

        Args:
            initial: Names of the parameters, and their initial values.
        """
        vectors = [
            self.param(name, constant(name, value), (self.width,), jnp.float32)
            for name, value in initial.items()
        ]
        return jnp.concatenate(vectors)

    def weights(
        self, inputs: int, count: int = 1, name: str = "kernel", scale: float = 1.0
    ) -> Array:
        """Returns a kernel that maps to `count` times the width, each part drawn separately.

        Args:
            inputs: Units (or channels) of what it is multiplied with.
            count: How many parts lie side by side.
            name: Name of the parameter.
            scale: Factor of what the initializer draws.

        Returns:
            [inputs, count * width], after two axes of `kernel_size` in a convolutional block.
        """
        draw = self._initializer()
        window = (self.kernel_size,) * 2 if self.kernel_size else ()
        shape = (*window, inputs, self.width)

        def init(key):
            keys = jax.random.split(key, count)
            parts = [draw(k, shape, jnp.float32) for k in keys]
            whole = jnp.concatenate(parts, axis=-1)
            return whole if scale == 1 else scale * whole

        return self.param(name, init)

    def product(self, x: Array, kernel: Array, bias: Array | None = None) -> Array:
        """Returns the product or the convolution of x and a kernel, plus a bias, in float32.

        Args:
            x: Input [batch, ..., inputs].
            kernel: What `weights` returned.
            bias: float32, as wide as the result; None for zeros.
        """
        # The bias is float32, and so is z: its gradient is a sum over all images and positions.
        # All functions at once: the gradient of the product is then computed where it is needed,
        # in one piece.
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if bias is None:
            bias = jnp.zeros(kernel.shape[-1], jnp.float32)
        if self.kernel_size:
            return convolution.conv2d(
                x, kernel, bias, padding=self.padding, implementation=self.implementation
            )
        return (x @ kernel).astype(jnp.float32) + bias

    def nonlinear(self, z: Array) -> Array:
        """Returns f(z), the block's activation."""
        h = _entry(ACTIVATIONS, "activation", self.activation)(z)
        if jnp.shape(h) != z.shape:
            raise ValueError(
                f"activation maps the shape {z.shape} to {jnp.shape(h)}; allowed: an elementwise"
                " function"
            )
        return h

    def _initializer(self) -> Callable[..., Array]:
        found = _entry(INITIALIZERS, "initializer", self.initializer)
        if callable(self.initializer):
            return found
        # An initializer's scale may depend on the activation, which it knows by name.
        names = (name for name in ACTIVATIONS if self.activation in (name, ACTIVATIONS[name]))
        return found(next(names, "function"))


def register_block(name: str) -> Callable[[type[BlockT]], type[BlockT]]:
    """Returns a decorator that registers a block, so that `model.block` may choose it.

    Example:
        >>> import flax.linen as nn
        >>> import jax.numpy as jnp
        >>> from highway_jax import Block, BlockActivations, register_block
        >>> @register_block("leaky")
        ... class LeakyBlock(Block):
        ...     @nn.compact
        ...     def activations(self, x, gate=None):
        ...         self.check(x)
        ...         (z,) = self.affine(x, bias=0.0)
        ...         h = self.nonlinear(z)
        ...         return BlockActivations(x, h, jnp.ones_like(h), jnp.ones_like(h), h + 0.9 * x)

    Args:
        name: The value of `model.block`, a Python identifier.

    Raises:
        TypeError: If what is decorated is not a subclass of `Block` with its own `activations`.
        ValueError: If the name is not an identifier or is already registered.
    """
    register = BLOCKS.register(name)

    def add(block: type[BlockT]) -> type[BlockT]:
        if not (isinstance(block, type) and issubclass(block, Block)):
            raise TypeError(
                f"block {name!r} is {show(block)}; allowed: a subclass of highway_jax.Block"
            )
        if block.activations is Block.activations:
            raise TypeError(
                f"block {name!r} is {block.__name__}, which has no activations of its own; allowed:"
                " a class that implements activations(x, gate=None)"
            )
        return register(block)

    return add


def force(t: Array, gate: Any) -> Array:
    """Returns transform gates with forced values where `gate` is neither None nor NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> from highway_jax.nn.blocks import force
        >>> force(jnp.array([0.2, 0.7]), 0.0).tolist()
        [0.0, 0.0]

    Args:
        t: Transform gates.
        gate: None or a scalar (see `Block.activations`).
    """
    if gate is None:
        return t
    gate = jnp.asarray(gate, t.dtype)
    return jnp.where(jnp.isnan(gate), t, gate)


@register_block("plain")
class PlainBlock(Block):
    """The ordinary layer y = H(x) (section 2, equation 1).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax import PlainBlock
        >>> block, x = PlainBlock(8, activation="tanh"), jnp.ones((2, 5))
        >>> block.apply(block.init(jax.random.key(0), x), x).shape
        (2, 8)
    """

    keeps_width: ClassVar[bool] = False

    @nn.compact
    def activations(self, x: Array, gate: Any = None) -> BlockActivations:
        """Returns all that the block computes; it has no gates."""
        self.check(x)
        (z,) = self.affine(x, bias=0.0)
        y = self.nonlinear(z).astype(self.dtype)
        return BlockActivations(x, y, jnp.ones_like(y), jnp.zeros_like(y), y)


@register_block("residual")
class ResidualBlock(Block):
    """The skip connection without gates, y = x + H(x).

    It is the residual block of He et al. (2016) without normalization; not in the paper.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax import ResidualBlock
        >>> block, images = ResidualBlock(3, kernel_size=3), jnp.ones((2, 8, 8, 3))
        >>> block.apply(block.init(jax.random.key(0), images), images).shape
        (2, 8, 8, 3)
    """

    def branch(self, x: Array) -> Array:
        """Returns what the block adds to its input."""
        (z,) = self.affine(x, bias=0.0)
        return self.nonlinear(z)

    @nn.compact
    def activations(self, x: Array, gate: Any = None) -> BlockActivations:
        """Returns all that the block computes, with the branch as h; it has no gates."""
        self.check(x)
        h = self.branch(x)
        one = jnp.ones_like(h)
        return BlockActivations(x, h, one, one, (x.astype(h.dtype) + h).astype(self.dtype))


@register_block("highway")
class HighwayBlock(Block):
    """The highway layer y = H(x) * T(x) + x * C(x) (section 2, equations 2 and 3).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from highway_jax import HighwayBlock
        >>> block, x = HighwayBlock(5, transform_bias=-2.0), jnp.ones((2, 5))
        >>> params = block.init(jax.random.key(0), x)
        >>> closed = block.apply(params, x, gate=0.0, method="activations")
        >>> bool((closed.y == x).all())  # a block with closed gates copies its input
        True

    Attributes:
        gate: "coupled" for C = 1 - T, as in all of the paper's experiments, or "separate" for a
            carry gate with weights of its own.
        transform_bias: Initial b_T; negative values start the block close to the identity. In a
            stack of n blocks it should be at most -log(n) - 1/2; the default suits about ten.
        carry_bias: Initial b_C of a separate carry gate.
    """

    roles: ClassVar[Mapping[str, str]] = {
        "kernel": "weight",
        "bias": "bias",
        "transform_bias": "bias",
        "carry_bias": "bias",
    }
    settings: ClassVar[tuple[str, ...]] = ("gate", "transform_bias", "carry_bias")

    gate: str = "coupled"
    transform_bias: float = -2.0
    carry_bias: float = 1.0

    @nn.compact
    def activations(self, x: Array, gate: Any = None) -> BlockActivations:
        """Returns all that the block computes.

        Args:
            x: Input [batch, ..., width].
            gate: None, or a scalar: NaN leaves the gates unchanged, any other value replaces every
                transform gate (0 closes them, so that a coupled block copies its input; 1 opens
                them, so that it is a plain block).
        """
        self.check(x)
        separate = choose("gate", self.gate, GATES) == "separate"
        biases = {"bias": 0.0, "transform_bias": self.transform_bias}
        if separate:
            biases["carry_bias"] = self.carry_bias
        z_h, z_t, *z_c = self.affine(x, **biases)
        h, t = self.nonlinear(z_h), force(jax.nn.sigmoid(z_t), gate)
        c = jax.nn.sigmoid(z_c[0]) if separate else 1 - t
        y = (h * t + x.astype(h.dtype) * c).astype(self.dtype)
        return BlockActivations(x, h, t, c, y)
