"""Checks that this version of jax computes correct results on a device.

Releases of jax have compiled wrong results silently. The programs here have the form and the size
of those known cases, and of what this package trains. Each is compiled as training is, and compared
with NumPy in float64.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from highway_jax.errors import UserError
from highway_jax.nn.convolution import conv2d
from highway_jax.training import trial_mesh

_TOLERANCE = 1e-4
"""Allowed difference, relative to the largest expected value of an array.

Wrong results differ by at least 1e-3 in the cases known.
"""


class Check(NamedTuple):
    """A program and the result that it must have.

    Attributes:
        name: What is computed.
        program: The function that is compiled.
        arguments: Its arguments, NumPy arrays.
        expected: Its result, in float64.
    """

    name: str
    program: Callable[..., Any]
    arguments: tuple[np.ndarray, ...]
    expected: Any


def _matrix_vector() -> Check:
    """Many small matrix-vector products and a sum of each (jax-ml/jax#39103, CPU, 0.10.2)."""
    x = np.zeros((32_769, 3), np.float32)
    x[:, 0] = np.arange(len(x))
    matrix = np.eye(3, dtype=np.float32)

    def program(x, matrix):
        return jax.vmap(lambda row: jnp.sum((matrix @ row) ** 2))(x)

    return Check("sums of matrix-vector products", program, (x, matrix), x.astype(float)[:, 0] ** 2)


def _roll_out() -> Check:
    """A recurrent scan under `vmap` (jax-ml/jax#36958, GPU, before 0.11.1)."""
    generator = np.random.default_rng(0)
    weights = 0.5 * generator.standard_normal((5, 8, 8)).astype(np.float32)
    x = generator.standard_normal((5, 4, 8)).astype(np.float32)

    def program(weights, x):
        def roll(weights, x):
            def step(x, _):
                x = jnp.tanh(x @ weights) + x
                return x, x.sum()

            return lax.scan(step, x, length=20)[1]

        return jax.vmap(roll)(weights, x)

    expected, state = [], x.astype(float)
    for _ in range(20):
        state = np.tanh(state @ weights) + state
        expected.append(state.sum((1, 2)))
    return Check("a scan under vmap", program, (weights, x), np.stack(expected, 1))


def _scaled_affine() -> Check:
    """An affine map times a number, under `vmap` (jax-ml/jax#39336, GPU)."""
    generator = np.random.default_rng(1)
    shapes = ((32, 15), (32,), (100, 15))
    kernel, bias, x = (generator.standard_normal(shape).astype(np.float32) for shape in shapes)
    scale = np.linspace(0.1, 1, 7).astype(np.float32)

    def program(scale, kernel, bias, x):
        return jax.vmap(lambda s: jax.vmap(lambda row: s * (kernel @ row + bias))(x))(scale)

    expected = scale[:, None, None].astype(float) * (x.astype(float) @ kernel.T + bias)
    return Check("scaled affine maps", program, (scale, kernel, bias, x), expected)


def _convolution() -> Check:
    """A convolution of two images and all its gradients, inside a loop."""
    generator = np.random.default_rng(2)
    shapes = ((2, 9, 9, 3), (3, 3, 3, 4), (4,))
    x, kernel, bias = (generator.standard_normal(shape).astype(np.float32) for shape in shapes)

    def program(x, kernel, bias):
        def loss(*arguments):
            return (conv2d(*arguments, padding="SAME") ** 2).sum() / 2

        def step(carry, _):
            return carry, jax.value_and_grad(loss, (0, 1, 2))(x, kernel, bias + carry)

        return lax.scan(step, jnp.float32(0), length=2)[1]

    padded = np.pad(x.astype(float), [(0, 0), (1, 1), (1, 1), (0, 0)])
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (1, 2))
    y = np.einsum("nhwcij,ijco->nhwo", windows, kernel) + bias
    d_kernel = np.einsum("nhwcij,nhwo->ijco", windows, y)
    d_padded = np.zeros_like(padded)
    for i in range(3):
        for j in range(3):
            d_padded[:, i : i + 9, j : j + 9] += y @ kernel[i, j].T.astype(float)
    gradients = (d_padded[:, 1:-1, 1:-1], d_kernel, y.sum((0, 1, 2)))
    once = ((y**2).sum() / 2, gradients)
    return Check(
        "a convolution and its gradients",
        program,
        (x, kernel, bias),
        jax.tree.map(lambda leaf: np.stack([leaf, leaf]), once),
    )


CHECKS = (_matrix_vector, _roll_out, _scaled_affine, _convolution)


def difference(check: Check, device: Any, options: dict[str, Any]) -> float:
    """Returns how far a program's result is from the expected one.

    Args:
        check: The program.
        device: Where it runs.
        options: Compiler options.

    Returns:
        The largest difference in any array, relative to the array's largest expected value;
        infinity if a result is not finite.
    """
    with jax.default_matmul_precision("float32"):
        program = jax.jit(check.program, compiler_options=options)
        found = program(*jax.device_put(check.arguments, device))

    def gap_of(found, expected):
        gap = np.max(np.abs(np.asarray(found, float) - expected)) / np.max(np.abs(expected))
        return gap if np.isfinite(gap) else np.inf

    return max(jax.tree.leaves(jax.tree.map(gap_of, found, check.expected)))


@functools.cache
def run(device: Any) -> None:
    """Runs every check on a device, compiled as training is, and the first by default options too.

    Further calls with the same device return at once.

    Args:
        device: One device of each kind is enough: all run the same code.

    Raises:
        UserError: If a result is wrong.
    """
    ours = trial_mesh.compiler_options(device.platform)
    defaults = [(_matrix_vector, {})] if ours else []
    for make, options in [*defaults, *((make, ours) for make in CHECKS)]:
        check = make()
        if (gap := difference(check, device, options)) > _TOLERANCE:
            raise UserError(
                f"jax {jax.__version__} computes {check.name} incorrectly on {device.device_kind}:"
                f" off by {gap:.1e} of the largest value (allowed: {_TOLERANCE:.0e}); install"
                " another version of jax"
            )
