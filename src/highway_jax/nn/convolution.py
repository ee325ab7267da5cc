"""Two-dimensional convolution and pooling whose gradients stay fast inside compiled loops on CPU.

XLA rewrites the gradients of a convolution into a form its CPU kernels know only outside loops
(github.com/jax-ml/jax/issues/12868). Inside `lax.scan` or `lax.map` the weight gradient is left to
naive code that is tens of times slower. So on CPU the gradients are written here in forms that are
fast as they stand:

- input gradient: a convolution with the kernel flipped in space, its channels swapped;
- weight gradient: matrix products over a few images at a time, small enough for the cache;
- gradient of a bias: a product with ones, beside the former;
- max pooling: columns first, then rows, each a maximum of strided slices, its gradient assembled
  without scattering.

Elsewhere XLA's own convolutions and their own gradients are used. `implementation` says which:

- "native": XLA's operations, differentiated by JAX;
- "loop_safe": the gradients above; reverse mode only, as for every `jax.custom_vjp`;
- "auto": "loop_safe" for max pooling, whose native gradient is a scatter in no fixed order on GPU;
  for convolutions "loop_safe" if traced for CPU, else "native". Traced for CPU means that
  `jax.default_device` is a CPU or, where that is not set, that `jax.default_backend()` is "cpu".
  Code for the CPU of a machine whose default is an accelerator should say "loop_safe" itself.

Images are NHWC, kernels HWIO.
"""

import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

from highway_jax.errors import UserError

IMPLEMENTATIONS = ("auto", "native", "loop_safe")

Pairs = tuple[tuple[int, int], tuple[int, int]]

_DIMENSION_NUMBERS = ("NHWC", "HWIO", "NHWC")
_ROWS, _COLUMNS = 1, 2

# Output positions to take at once. Measured, 600 to 5,000 are alike, and batches of 100 images at
# once take up to twice the time: their patches leave the cache.
_POSITIONS_PER_CHUNK = 2304
# Up to here the weight gradient is faster as a convolution, above as shifted matrix products.
_MAX_CHANNELS_AS_CONVOLUTION = 32


def conv2d(
    x: Float[Array, "batch height width inputs"],
    kernel: Float[Array, "kernel_height kernel_width inputs outputs"],
    bias: Float[Array, "outputs"] | None = None,
    *,
    stride: int = 1,
    padding: str | Sequence[Sequence[int]] = "SAME",
    implementation: str = "auto",
) -> Float[Array, "batch new_height new_width outputs"]:
    """Convolves images with a kernel, as convolutional layers do (section 4 of the paper).

        y[n, h, w, o] = bias[o]
            + sum_{i, j, c} x[n, h * stride + i, w * stride + j, c] * kernel[i, j, c, o]

    where x is first padded with zeros. Sums over images and positions, as the gradients of kernel
    and bias are, are kept in float32 or better. Strides above 1 cost the gradients of "loop_safe"
    as much as stride 1.

    Args:
        x: Images.
        kernel: Weights, of the images' dtype.
        bias: One number a map, added in the bias's dtype; None for none.
        stride: Step in height and in width.
        padding: "SAME" (output size is the input's over the stride, rounded up), "VALID" (none),
            or ((top, bottom), (left, right)), none of them negative.
        implementation: One of `IMPLEMENTATIONS`; see the module.

    Returns:
        The images' maps: of the images' dtype, or the bias's if there is one.

    Raises:
        UserError: If an argument is not allowed, or the kernel is larger than the padded image.
    """
    _check_positive("stride", stride)
    pads = _pads(padding, x.shape[1:3], kernel.shape[:2], stride)
    for size, window, pad in zip(x.shape[1:3], kernel.shape[:2], pads, strict=True):
        if size + sum(pad) < window:
            raise UserError(
                f"kernel: size {kernel.shape[:2]} is not allowed; images of {x.shape[1:3]} "
                f"padded by {pads} are smaller"
            )
    convolve = _convolve_loop_safe if _is_loop_safe(implementation) else _convolve
    return convolve(x, kernel, bias, stride, pads)


def max_pool(
    x: Float[Array, "batch height width channels"],
    window: int,
    stride: int,
    *,
    padding: int = 0,
    implementation: str = "auto",
) -> Float[Array, "batch new_height new_width channels"]:
    """Returns the maxima of square windows, with the sizes and edges of Caffe.

    The output has ceil((size + 2 * padding - window) / stride) + 1 rows (columns alike), less the
    last if it would begin behind the image and its top padding. Windows are clipped to the image.

    The gradient goes to the first of equal maxima, row by row, as in Caffe. A window that holds a
    NaN gives NaN; where its gradient goes is not defined.

    Args:
        x: Images.
        window: Side of the windows.
        stride: Step in height and in width.
        padding: Positions around the image where windows may begin, less than `window`.
        implementation: One of `IMPLEMENTATIONS`; see the module.

    Raises:
        UserError: If an argument is not allowed, or the window is larger than the padded image.
    """
    if implementation == "auto" or _is_loop_safe(implementation):
        return _max_pool_loop_safe(x, window, stride, padding)
    ends = [_pooled_size(size, window, stride, padding)[1] for size in x.shape[1:3]]
    # Positions at the end that no window reaches (a negative padding) need no cropping here.
    pads = [(0, 0), *((padding, max(end, 0)) for end in ends), (0, 0)]
    shape, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, shape, strides, pads)


def avg_pool(
    x: Float[Array, "batch height width channels"], window: int, stride: int, *, padding: int = 0
) -> Float[Array, "batch new_height new_width channels"]:
    """Returns the means of square windows, with the sizes and edges of Caffe (see `max_pool`).

    Zeros of the padding count as values; what a window lacks behind the padding does not. One
    implementation serves all platforms, and both modes of differentiation.

    Args:
        x: Images.
        window: Side of the windows.
        stride: Step in height and in width.
        padding: Zeros on each side of the image, less than `window`.

    Raises:
        UserError: If an argument is not allowed, or the window is larger than the padded image.
    """
    dtype = x.dtype
    x = x.astype(_sum_dtype(dtype))
    for axis in (_COLUMNS, _ROWS):
        end = x.shape[axis] + 2 * padding
        x = functools.reduce(lax.add, _window_slices(x, axis, window, stride, padding, 0.0))
        starts = stride * np.arange(x.shape[axis])
        counts = (np.minimum(starts + window, end) - starts).astype(x.dtype)
        x = x / np.expand_dims(counts, [other for other in range(4) if other != axis])
    return x.astype(dtype)


def global_avg_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels"]:
    """Returns the mean of each channel over the whole image, summed in float32 or better."""
    return jnp.mean(x, axis=(_ROWS, _COLUMNS), dtype=_sum_dtype(x.dtype)).astype(x.dtype)


def _is_loop_safe(implementation: str) -> bool:
    if implementation not in IMPLEMENTATIONS:
        allowed = ", ".join(IMPLEMENTATIONS)
        raise UserError(f"implementation: {implementation!r} is not allowed; one of {allowed}")
    if implementation == "auto":
        device = jax.config.jax_default_device
        platform = getattr(device, "platform", device) or jax.default_backend()
        return platform == "cpu"
    return implementation == "loop_safe"


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise UserError(f"{name}: {value} is not allowed; at least 1")


def _pads(
    padding: str | Sequence[Sequence[int]],
    sizes: tuple[int, ...],
    windows: tuple[int, ...],
    stride: int,
) -> Pairs:
    if padding == "VALID":
        return ((0, 0), (0, 0))
    if padding == "SAME":
        totals = (
            max((math.ceil(size / stride) - 1) * stride + window - size, 0)
            for size, window in zip(sizes, windows, strict=True)
        )
        top_bottom, left_right = ((total // 2, total - total // 2) for total in totals)
        return (top_bottom, left_right)
    if not isinstance(padding, str) and len(padding) == 2:
        top_bottom, left_right = map(tuple, padding)
        if len(top_bottom) == len(left_right) == 2 and min(top_bottom + left_right) >= 0:
            return (top_bottom, left_right)
    raise UserError(
        f"padding: {padding!r} is not allowed; 'SAME', 'VALID' or ((top, bottom), (left, right)) "
        "of integers from 0 up"
    )


def _sum_dtype(dtype: np.dtype) -> np.dtype:
    return dtype if dtype.itemsize >= 4 else np.dtype(np.float32)


# ---- convolution


def _convolve(x: Array, kernel: Array, bias: Array | None, stride: int, pads: Pairs) -> Array:
    y = lax.conv_general_dilated(
        x, kernel, (stride, stride), pads, dimension_numbers=_DIMENSION_NUMBERS
    )
    return y if bias is None else y.astype(bias.dtype) + bias


_convolve_loop_safe = jax.custom_vjp(_convolve, nondiff_argnums=(3, 4))


def _convolve_forward(
    x: Array, kernel: Array, bias: Array | None, stride: int, pads: Pairs
) -> tuple[Array, tuple[Array, Array, Array | None]]:
    return _convolve(x, kernel, bias, stride, pads), (x, kernel, bias)


def _convolve_backward(
    stride: int, pads: Pairs, residuals: tuple[Array, Array, Array | None], dy: Array
) -> tuple[Array, Array, Array | None]:
    x, kernel, bias = residuals
    if stride > 1:
        # The gradient of the same convolution with stride 1, whose further outputs went unused.
        full = [x.shape[a] + sum(pads[a - 1]) - kernel.shape[a - 1] + 1 for a in (_ROWS, _COLUMNS)]
        used = [(dy.shape[a] - 1) * stride + 1 for a in (_ROWS, _COLUMNS)]
        rows, columns = ((0, f - u, stride - 1) for f, u in zip(full, used, strict=True))
        dy = lax.pad(dy, np.zeros((), dy.dtype), ((0, 0, 0), rows, columns, (0, 0, 0)))
    flipped = jnp.flip(kernel, (0, 1)).swapaxes(2, 3)
    inner = tuple(
        (size - 1 - low, size - 1 - high)
        for size, (low, high) in zip(kernel.shape[:2], pads, strict=True)
    )
    dx = _convolve(dy.astype(x.dtype), flipped, None, 1, inner)
    d_kernel, d_bias = _sums_over_images(x, dy, kernel.shape, pads)
    return dx, d_kernel, None if bias is None else d_bias


_convolve_loop_safe.defvjp(_convolve_forward, _convolve_backward)


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
        return num_images
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


# ---- pooling


def _pooled_size(size: int, window: int, stride: int, padding: int) -> tuple[int, int]:
    """Returns how many windows there are, and how much padding they need after the image."""
    _check_positive("window", window)
    _check_positive("stride", stride)
    if not 0 <= padding < window:
        raise UserError(f"padding: {padding} is not allowed; from 0 to less than window = {window}")
    if size + 2 * padding < window:
        raise UserError(
            f"window: {window} is not allowed; images of size {size} padded by {padding} are less"
        )
    num_windows = math.ceil((size + 2 * padding - window) / stride) + 1
    if (num_windows - 1) * stride >= size + padding:
        num_windows -= 1
    return num_windows, (num_windows - 1) * stride + window - size - padding


def _pad_axis(x: Array, axis: int, start: int, end: int, value: float) -> Array:
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (start, end, 0)
    return lax.pad(x, np.array(value, x.dtype), config)


def _window_slices(
    x: Array, axis: int, window: int, stride: int, padding: int, value: float
) -> list[Array]:
    """Returns for each position in a window the slice of x that holds it, for all windows."""
    num_windows, end = _pooled_size(x.shape[axis], window, stride, padding)
    x = _pad_axis(x, axis, padding, end, value)
    reach = (num_windows - 1) * stride + 1
    return [lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(window)]


def _max_axis(x: Array, axis: int, window: int, stride: int, padding: int) -> Array:
    return functools.reduce(lax.max, _window_slices(x, axis, window, stride, padding, -np.inf))


def _max_axis_gradient(
    x: Array, y: Array, dy: Array, axis: int, window: int, stride: int, padding: int
) -> Array:
    """Returns the gradient of y = _max_axis(x), given to the first maximum of each window.

    The gradients of all windows at one place in them lie `stride` apart in x. So x is seen as
    blocks of `stride` positions: a position gathers from its own block's window and from earlier
    ones that overlap it, and the positions of all blocks are woven together at the end.
    """
    free, parts = None, []
    for values in _window_slices(x, axis, window, stride, padding, -np.inf):
        hit = values == y
        parts.append(jnp.where(hit if free is None else hit & free, dy, jnp.zeros_like(dy)))
        free = ~hit if free is None else free & ~hit
    overlap = math.ceil(window / stride) - 1
    parts = [
        _pad_axis(part, axis, i // stride, overlap - i // stride, 0.0)
        for i, part in enumerate(parts)
    ]
    parts += [jnp.zeros_like(parts[0])] * (stride - window)
    phases = [functools.reduce(lax.add, parts[phase::stride]) for phase in range(stride)]
    shape = list(phases[0].shape)
    shape[axis] *= stride
    dx = jnp.stack(phases, axis + 1).reshape(shape)
    return _pad_axis(dx, axis, -padding, padding + x.shape[axis] - shape[axis], 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2, 3))
def _max_pool_loop_safe(x: Array, window: int, stride: int, padding: int) -> Array:
    return _max_pool_forward(x, window, stride, padding)[0]


def _max_pool_forward(
    x: Array, window: int, stride: int, padding: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    # Columns before rows: then the first maximum of the rows, and in it the first of the columns,
    # is the window's first row by row.
    columns = _max_axis(x, _COLUMNS, window, stride, padding)
    y = _max_axis(columns, _ROWS, window, stride, padding)
    return y, (x, columns, y)


def _max_pool_backward(
    window: int, stride: int, padding: int, residuals: tuple[Array, Array, Array], dy: Array
) -> tuple[Array]:
    x, columns, y = residuals
    d_columns = _max_axis_gradient(columns, y, dy, _ROWS, window, stride, padding)
    return (_max_axis_gradient(x, columns, d_columns, _COLUMNS, window, stride, padding),)


_max_pool_loop_safe.defvjp(_max_pool_forward, _max_pool_backward)
