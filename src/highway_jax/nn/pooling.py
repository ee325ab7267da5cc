"""Poolings of images [batch, height, width, channels].

The gradient that JAX gives to a maximum of windows is a scatter: slow on CPU, and of no fixed order
on GPU. So `max_pool` takes columns first, then rows, each a maximum of strided slices, and its
gradient is assembled from slices as well. It is the same on all platforms.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float

_ROWS, _COLUMNS = 1, 2


class ImageTooSmallError(ValueError):
    """An image has fewer rows or columns than a kernel or a window."""


def max_pool(
    x: Float[Array, "batch height width channels"], window: int, stride: int
) -> Float[Array, "batch new_height new_width channels"]:
    """Returns the maxima of square windows, with the sizes and edges of Caffe.

    The output has ceil((size - window) / stride) + 1 rows (columns alike), less the last if it
    would begin behind the image. Windows are clipped to the image.

    The gradient goes to the first of equal maxima, row by row, as in Caffe. A window that holds a
    NaN gives NaN; where its gradient goes is not defined.

    Example:
        >>> import jax.numpy as jnp
        >>> from highway_jax.nn.pooling import max_pool
        >>> max_pool(jnp.arange(25.0).reshape(1, 5, 5, 1), 3, 2)[0, :, :, 0]
        Array([[12., 14.],
               [22., 24.]], dtype=float32)

    Args:
        x: Images.
        window: Side of the windows.
        stride: Step in height and in width.

    Raises:
        ValueError: If an argument is not allowed, or the window is larger than the image.
    """
    if x.ndim != 4:
        raise ValueError(f"images have shape {x.shape}; allowed: [batch, height, width, channels]")
    for name, value in (("window", window), ("stride", stride)):
        if value < 1:
            raise ValueError(f"{name} is {value}; allowed: at least 1")
    if min(x.shape[1:3]) < window:
        raise ImageTooSmallError(
            f"window is {window}; allowed: at most {min(x.shape[1:3])},"
            f" as images are {x.shape[1]}x{x.shape[2]}"
        )
    return _max_pool(x, window, stride)


def global_avg_pool(
    x: Float[Array, "batch height width channels"],
) -> Float[Array, "batch channels"]:
    """Returns the mean of each channel over the whole image, summed in float32 or better.

    Example:
        >>> import jax.numpy as jnp
        >>> from highway_jax.nn.pooling import global_avg_pool
        >>> global_avg_pool(jnp.arange(4.0).reshape(1, 2, 2, 1))
        Array([[1.5]], dtype=float32)

    Args:
        x: Images.
    """
    dtype = x.dtype if x.dtype.itemsize >= 4 else np.dtype(np.float32)
    return jnp.mean(x, axis=(_ROWS, _COLUMNS), dtype=dtype).astype(x.dtype)


def _pooled_size(size: int, window: int, stride: int) -> tuple[int, int]:
    """Returns how many windows there are, and how much padding they need after the image."""
    num_windows = math.ceil((size - window) / stride) + 1
    if (num_windows - 1) * stride >= size:
        num_windows -= 1
    return num_windows, (num_windows - 1) * stride + window - size


def _pad_axis(x: Array, axis: int, start: int, end: int, value: float) -> Array:
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (start, end, 0)
    return lax.pad(x, np.array(value, x.dtype), config)


def _window_slices(x: Array, axis: int, window: int, stride: int) -> list[Array]:
    """Returns for each position in a window the slice of x that holds it, for all windows."""
    num_windows, end = _pooled_size(x.shape[axis], window, stride)
    x = _pad_axis(x, axis, 0, end, -np.inf)
    reach = (num_windows - 1) * stride + 1
    return [lax.slice_in_dim(x, i, i + reach, stride, axis) for i in range(window)]


def _max_axis(x: Array, axis: int, window: int, stride: int) -> Array:
    return functools.reduce(lax.max, _window_slices(x, axis, window, stride))


def _max_axis_gradient(x: Array, y: Array, dy: Array, axis: int, window: int, stride: int) -> Array:
    """Returns the gradient of y = _max_axis(x), given to the first maximum of each window.

    The gradients of one position in all windows lie `stride` apart in x. So x is seen as segments
    of `stride` positions: a position gathers from the window of its own segment and from earlier
    ones that overlap it, and the positions of all segments are interleaved at the end.
    """
    free, parts = None, []
    for values in _window_slices(x, axis, window, stride):
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
    return _pad_axis(dx, axis, 0, x.shape[axis] - shape[axis], 0.0)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _max_pool(x: Array, window: int, stride: int) -> Array:
    return _max_pool_forward(x, window, stride)[0]


def _max_pool_forward(
    x: Array, window: int, stride: int
) -> tuple[Array, tuple[Array, Array, Array]]:
    # Columns before rows: then the first maximum of the rows, and in it the first of the columns,
    # is the window's first row by row.
    columns = _max_axis(x, _COLUMNS, window, stride)
    y = _max_axis(columns, _ROWS, window, stride)
    return y, (x, columns, y)


def _max_pool_backward(
    window: int, stride: int, residuals: tuple[Array, Array, Array], dy: Array
) -> tuple[Array]:
    x, columns, y = residuals
    d_columns = _max_axis_gradient(columns, y, dy, _ROWS, window, stride)
    return (_max_axis_gradient(x, columns, d_columns, _COLUMNS, window, stride),)


_max_pool.defvjp(_max_pool_forward, _max_pool_backward)
