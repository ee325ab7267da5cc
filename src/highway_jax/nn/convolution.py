"""Two-dimensional convolution whose gradients stay fast inside compiled loops on CPU.

XLA before jaxlib 0.12 rewrites the gradients of a convolution into a form that its CPU kernels
support only outside loops (github.com/jax-ml/jax/issues/12868): inside `lax.scan` or `lax.map` the
weight gradient is tens of times slower. With jaxlib 0.12 it is no longer slow, but the forms below
are still 1.1 to 1.4 times faster. So on CPU the gradients are written here in forms that are fast
inside loops:

- input gradient: a convolution with the kernel flipped in space, its channels swapped;
- weight gradient: matrix products over a few images at a time, small enough for the cache;
- gradient of a bias: a product with ones, beside the former.

On TPU the same forms are used, but of all images at once: the compiler takes minutes and more than
10 GiB for XLA's own gradient of a convolution as large as the first of the MNIST net. On GPU XLA's
own gradients are used. The platform is the one that a program is compiled for
(`jax.lax.platform_dependent`), whatever the default backend of the machine is.

A TPU multiplies bfloat16, and its compiler takes several times as long for a convolution of
float32, which it writes as six such products. Where a program is known to be for TPU
(`implementation="split"`), the six are one convolution of bfloat16 instead: float32 values are sums
of three bfloat16 values, and the pairs of these are further channels, or further images in the
weight gradient, over all of which a convolution sums in float32. The weight gradient of few
channels is one product of patches. The MNIST net then compiles in 0.7 of the time; what a step
takes was not measured.

Images are NHWC, kernels HWIO.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from highway_jax.nn.pooling import ImageTooSmallError

IMPLEMENTATIONS = ("auto", "native", "loop_safe", "split")
PADDINGS = ("SAME", "VALID")

Pairs = tuple[tuple[int, int], ...]

_DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
_SPACE = (1, 2)

# Output positions to take at once. Measured, 600 to 5,000 are alike, and batches of 100 images at
# once take up to twice the time: their patches leave the cache.
_POSITIONS_PER_CHUNK = 2304
# Up to here the weight gradient is faster as a convolution, above as shifted matrix products.
_MAX_CHANNELS_AS_CONVOLUTION = 32

# Up to here the weight gradient of parts is one product with patches of the images.
_FEW_CHANNELS = 4

# How many bfloat16 values a float32 value is the sum of, by the precision of products.
_PARTS = {"float32": 3, "highest": 3, "tensorfloat32": 2, "high": 2}


def conv2d(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kernel_height kernel_width inputs outputs"],
    bias: Float[Array, "outputs"] | None = None,
    *,
    padding: str = "SAME",
    implementation: str = "auto",
) -> Float[Array, "batch new_height new_width outputs"]:
    """Convolves images with a kernel, as convolutional layers do (section 4 of the paper).

        y[n, h, w, o] = bias[o] + sum_{i, j, c} x[n, h + i, w + j, c] * kernel[i, j, c, o]

    where x is first padded with zeros. Sums over images and positions, as the gradients of kernel
    and bias are, are kept in float32 or better.

    Example:
        >>> import jax.numpy as jnp
        >>> from highway_jax.nn.convolution import conv2d
        >>> images, kernel = jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1))
        >>> conv2d(images, kernel)[0, :, :, 0]
        Array([[4., 6., 4.],
               [6., 9., 6.],
               [4., 6., 4.]], dtype=float32)

    Args:
        x: Images.
        kernel: Weights, of the images' dtype.
        bias: One value for each output channel, added in its own dtype; None for none.
        padding: "SAME" (the output has the size of the input) or "VALID" (none).
        implementation: How gradients are computed: "native", by JAX's own rule; "loop_safe", in
            the forms above for CPU; "auto", as the platform needs that is compiled for; "split",
            for TPU, which computes the convolution by parts too (see the module). Only "native" has
            a forward-mode derivative.

    Returns:
        Images of the dtype of x, or of the bias if there is one.

    Raises:
        ValueError: If an argument is not allowed, or the kernel is larger than the padded image.
    """
    _check(x, kernel, padding, implementation)
    pads = _pads(padding, kernel.shape[:2])
    for size, window, pad in zip(x.shape[1:3], kernel.shape[:2], pads, strict=True):
        if size + sum(pad) < window:
            raise ImageTooSmallError(
                f"kernel is {kernel.shape[0]}x{kernel.shape[1]}; allowed with padding {padding}:"
                f" at most {x.shape[1]}x{x.shape[2]}, as images are"
            )
    if implementation == "native":
        return _convolve(x, kernel, bias, pads)
    # Gradients are traced outside of the caller's context, whose precision they need.
    precision = getattr(jax.config, "jax_default_matmul_precision")  # noqa: B009
    return _convolve_own(x, kernel, bias, pads, precision, implementation)


def _check(x: Array, kernel: Array, padding: str, implementation: str) -> None:
    if x.ndim != 4:
        raise ValueError(f"images have shape {x.shape}; allowed: [batch, height, width, channels]")
    if kernel.ndim != 4 or kernel.shape[2] != x.shape[3]:
        raise ValueError(
            f"kernel has shape {kernel.shape}; allowed: [height, width, {x.shape[3]}, outputs] for"
            f" images of {x.shape[3]} channels"
        )
    for name, value, allowed in (
        ("padding", padding, PADDINGS),
        ("implementation", implementation, IMPLEMENTATIONS),
    ):
        if value not in allowed:
            raise ValueError(f"{name} is {value!r}; allowed: {', '.join(allowed)}")


def _pads(padding: str, windows: tuple[int, ...]) -> Pairs:
    if padding == "VALID":
        return ((0, 0),) * len(windows)
    return tuple(((window - 1) // 2, window // 2) for window in windows)


def _sum_dtype(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)


def _convolve(x: Array, kernel: Array, bias: Array | None, pads: Pairs) -> Array:
    y = lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=_DIMENSION_NUMBERS)
    return y if bias is None else y.astype(bias.dtype) + bias


@functools.partial(jax.custom_vjp, nondiff_argnums=(3, 4, 5))
def _convolve_own(
    x: Array, kernel: Array, bias: Array | None, pads: Pairs, precision: Any, implementation: str
) -> Array:
    return _forward(x, kernel, bias, pads, precision, implementation)[0]


def _forward(
    x: Array, kernel: Array, bias: Array | None, pads: Pairs, precision: Any, implementation: str
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    # In no function that has a gradient of its own: rematerialization keeps only the results of
    # convolutions that it sees.
    if implementation == "split":
        return _convolve_parts(x, kernel, bias, pads, precision), (x, kernel, bias)
    return _convolve(x, kernel, bias, pads), (x, kernel, bias)


def _backward(
    pads: Pairs,
    precision: Any,
    implementation: str,
    residuals: tuple[Array, Array, Array | None],
    dy: Array,
) -> tuple[Array, Array, Array | None]:
    def native(residuals, dy):
        with jax.default_matmul_precision(precision):
            return jax.vjp(lambda x, kernel, bias: _convolve(x, kernel, bias, pads), *residuals)[1](
                dy
            )

    def at_once(residuals, dy):
        with jax.default_matmul_precision(precision):
            return _gradients(pads, residuals, dy, in_chunks=False)

    def loop_safe(residuals, dy):
        return _gradients(pads, residuals, dy, in_chunks=True)

    if implementation == "loop_safe":
        return loop_safe(residuals, dy)
    if implementation == "split":
        return _gradients_of_parts(pads, precision, residuals, dy)
    return lax.platform_dependent(residuals, dy, cpu=loop_safe, tpu=at_once, default=native)


_convolve_own.defvjp(_forward, _backward)


def _gradients(
    pads: Pairs, residuals: tuple[Array, Array, Array | None], dy: Array, *, in_chunks: bool
) -> tuple[Array, Array, Array | None]:
    """Returns the gradients of images, kernel and bias in the forms that the module describes."""
    x, kernel, bias = residuals
    dx = _convolve(dy.astype(x.dtype), *_transposed(kernel, pads))
    if in_chunks:
        d_kernel, d_bias = _sums_over_images(x, dy, kernel.shape, pads)
    else:
        padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
        d_kernel = _gradient_as_products(padded, dy.astype(x.dtype), kernel.shape).astype(x.dtype)
        d_bias = dy.sum((0, *_SPACE))
    return dx, d_kernel, None if bias is None else d_bias


def _transposed(kernel: Array, pads: Pairs) -> tuple[Array, None, Pairs]:
    """Returns kernel, bias and pads of the convolution of dy that is the gradient of the images."""
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    inner = tuple(
        (size - 1 - low, size - 1 - high)
        for size, (low, high) in zip(kernel.shape[:2], pads, strict=True)
    )
    return flipped, None, inner


def _convolve_parts(
    x: Array, kernel: Array, bias: Array | None, pads: Pairs, precision: Any
) -> Array:
    """Convolves with the products of float32 values as further channels of bfloat16."""
    x, kernel = _products_of_parts(x, kernel, (3, 2), precision)
    y = lax.conv_general_dilated(
        x,
        kernel,
        (1, 1),
        pads,
        dimension_numbers=_DIMENSION_NUMBERS,
        precision=lax.Precision.DEFAULT,  # One pass, whatever the caller asks for.
        preferred_element_type=_sum_dtype(x.dtype),
    )
    return y if bias is None else y.astype(bias.dtype) + bias


def _gradients_of_parts(
    pads: Pairs, precision: Any, residuals: tuple[Array, Array, Array | None], dy: Array
) -> tuple[Array, Array, Array | None]:
    """Returns the gradients of images, kernel and bias by convolutions of bfloat16."""
    x, kernel, bias = residuals
    dy = dy.astype(x.dtype)
    dx = _convolve_parts(dy, *_transposed(kernel, pads), precision)
    padded = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    # Products of values are further images, over which a weight gradient sums.
    images, gradients = _products_of_parts(padded, dy, (0, 0), precision)
    with jax.default_matmul_precision("default"):
        few = kernel.shape[2] <= _FEW_CHANNELS
        as_sum = _gradient_as_product if few else _gradient_as_convolution
        d_kernel = as_sum(images, gradients)
    d_bias = None if bias is None else dy.sum((0, *_SPACE)).astype(bias.dtype)
    return dx.astype(x.dtype), d_kernel.astype(kernel.dtype), d_bias


def _products_of_parts(
    a: Array, b: Array, axes: tuple[int, int], precision: Any
) -> tuple[Array, Array]:
    """Returns the factors of all products of parts of a and b that float32 can tell from zero.

    Args:
        a: float32, or bfloat16, which is returned as it is.
        b: Of the same type.
        axes: The axis of each along which the factors follow one another.
        precision: Of products, as `jax.default_matmul_precision` takes it.
    """
    parts = _PARTS.get(precision, 1)
    if a.dtype != jnp.float32:
        return a, b
    parts_of_a, parts_of_b = _parts_of(a, parts), _parts_of(b, parts)
    pairs = [(i, j) for i in range(parts) for j in range(parts - i)]
    return (
        jnp.concatenate([parts_of_a[i] for i, _ in pairs], axes[0]),
        jnp.concatenate([parts_of_b[j] for _, j in pairs], axes[1]),
    )


def _parts_of(x: Array, count: int) -> list[Array]:
    """Returns bfloat16 arrays whose sum is x: each rounds what those before it leave."""
    parts = []
    for _ in range(count):
        # XLA may leave out a conversion to bfloat16 and back, but not this.
        rounded = lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)
        parts.append(rounded.astype(jnp.bfloat16))
        x = x - rounded
    return parts


def _sums_over_images(
    x: Array, dy: Array, shape: tuple[int, ...], pads: Pairs
) -> tuple[Array, Array]:
    """Returns the gradients of kernel and bias, a few images at a time.

        d_kernel[i, j, c, o] = sum_{n, h, w} x[n, h + i, w + j, c] * dy[n, h, w, o]
        d_bias[o] = sum_{n, h, w} dy[n, h, w, o]

    In one loop, as XLA would compute all of dy once more for a sum of its own.
    """
    chunk = _chunk_size(len(x), dy.shape[1] * dy.shape[2])

    def part(start, size):
        x_part, dy_part = (lax.dynamic_slice_in_dim(a, start, size) for a in (x, dy))
        d_bias = _sum_rows(dy_part.reshape(-1, dy.shape[-1]))
        x_part, dy_part = jnp.pad(x_part, ((0, 0), *pads, (0, 0))), dy_part.astype(x.dtype)
        # An odd number of images as channels sends some versions of XLA to slow code.
        as_convolution = size % 2 == 0 and shape[2] <= _MAX_CHANNELS_AS_CONVOLUTION
        if as_convolution and shape[:2] != (1, 1):
            return _gradient_as_convolution(x_part, dy_part), d_bias
        return _gradient_as_products(x_part, dy_part, shape), d_bias

    num_chunks, rest = divmod(len(x), chunk)
    parts = lax.map(lambda start: part(start, chunk), chunk * jnp.arange(num_chunks))
    totals = [p.sum(0) for p in parts]
    if rest:
        totals = [t + p for t, p in zip(totals, part(len(x) - rest, rest), strict=True)]
    d_kernel, d_bias = totals
    return d_kernel.astype(x.dtype), d_bias


def _sum_rows(rows: Array) -> Array:
    # A product of matrices, of which one row is needed: XLA sums in small windows, and fuses a
    # product with one vector into a loop of single additions.
    return lax.dot(jnp.ones((8, len(rows)), rows.dtype), rows)[0]


def _chunk_size(num_images: int, positions: int) -> int:
    """Returns how many images to take at a time: an even divisor if there is a good one."""
    limit = max(2, _POSITIONS_PER_CHUNK // positions)
    if num_images <= limit:
        return max(num_images, 1)
    even = range(limit - limit % 2, max(limit // 3, 1), -2)
    return next((size for size in even if num_images % size == 0), even[0])


def _gradient_as_convolution(x: Array, dy: Array) -> Array:
    """Convolves the images (their channels as batch) with dy, summing over images as channels."""
    result = lax.conv_general_dilated(
        x.transpose(3, 1, 2, 0),
        dy.transpose(1, 2, 0, 3),
        (1, 1),
        "VALID",
        dimension_numbers=_DIMENSION_NUMBERS,
        preferred_element_type=_sum_dtype(x.dtype),
    )
    return result.transpose(1, 2, 0, 3)


def _gradient_as_product(x: Array, dy: Array) -> Array:
    """Multiplies the patches of the images that each position of dy saw with dy, at once."""
    height, width = dy.shape[1:3]
    rows, columns = x.shape[1] - height + 1, x.shape[2] - width + 1
    shifts = [x[:, i : i + height, j : j + width] for i in range(rows) for j in range(columns)]
    positions = ((0, 1, 2), (0, 1, 2))
    product = lax.dot_general(
        jnp.concatenate(shifts, -1),
        dy,
        (positions, ((), ())),
        preferred_element_type=_sum_dtype(x.dtype),
    )
    return product.reshape(rows, columns, x.shape[-1], dy.shape[-1])


def _gradient_as_products(x: Array, dy: Array, shape: tuple[int, ...]) -> Array:
    """Multiplies, for each kernel row, the images shifted to all kernel columns with dy."""
    num_rows, num_columns, inputs, outputs = shape
    height, width = dy.shape[1:3]
    # Rows outermost, so that a shift by rows is a slice without gaps.
    x, dy = x.transpose(3, 1, 0, 2), dy.transpose(1, 0, 2, 3).reshape(-1, outputs)
    shifted = jnp.stack([x[..., j : j + width] for j in range(num_columns)])
    shifted = shifted.reshape(num_columns * inputs, x.shape[1], -1)
    products = [
        lax.dot(
            shifted[:, i : i + height].reshape(num_columns * inputs, -1),
            dy,
            preferred_element_type=_sum_dtype(x.dtype),
        )
        for i in range(num_rows)
    ]
    return jnp.stack(products).reshape(shape)
