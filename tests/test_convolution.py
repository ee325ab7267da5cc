"""Laws of the convolutions and poolings: definitions written as loops, XLA's own gradients."""

import functools
import inspect
import itertools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P
from jaxtyping import TypeCheckError

from highway_jax.nn.convolution import conv2d
from highway_jax.nn.pooling import global_avg_pool, max_pool
from highway_jax.nn.stacks import REMATS


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def test_shapes_are_checked_while_the_tests_run():
    """See `conftest.check_arrays`."""
    with pytest.raises(TypeCheckError, match="parameter 'x'"):
        conv2d(jnp.ones((2, 3)), jnp.ones((3, 3, 1, 1)))


def native_max_pool(x, window, stride):
    """XLA's pooling, with Caffe's partial windows at the end."""
    pads = [(0, 0), *((0, (window - size) % stride) for size in x.shape[1:3]), (0, 0)]
    shape, strides = (1, window, window, 1), (1, stride, stride, 1)
    return lax.reduce_window(x, np.array(-np.inf, x.dtype), lax.max, shape, strides, pads)


def gradients(implementation, x, kernel, dy=None, **options):
    """Returns y, and the gradients of x and kernel; by default dy differs everywhere."""

    @jax.jit
    def compute(x, kernel, dy):
        call = functools.partial(conv2d, implementation=implementation, **options)
        y, pull = jax.vjp(call, x, kernel)
        return y, *pull(dy)

    y = jax.eval_shape(functools.partial(conv2d, implementation="native", **options), x, kernel)
    dy = np.full(y.shape, dy) if dy else np.cos(np.arange(y.size)).reshape(y.shape)
    return compute(x, kernel, jnp.asarray(dy, y.dtype))


def assert_close(actual, expected, tolerance=1e-5):
    """Compares to float32 rounding of sums: relative to the largest element."""
    assert actual.dtype == expected.dtype
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance * np.abs(expected).max())


# ---- convolution


@pytest.mark.parametrize(("padding", "top", "bottom"), [("SAME", 1, 1), ("VALID", 0, 0)])
def test_convolution_and_its_gradients_are_their_definitions(padding, top, bottom):
    x, kernel = np.array(normal(0, 2, 5, 6, 2)), np.array(normal(1, 3, 2, 2, 3))
    left, right = 0, bottom
    padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, columns = padded.shape[1] - 2, padded.shape[2] - 1
    y = np.zeros((2, rows, columns, 3))
    dy = np.cos(np.arange(y.size)).reshape(y.shape)
    dx, dkernel = np.zeros(padded.shape), np.zeros(kernel.shape)
    for h, w, i, j in itertools.product(range(rows), range(columns), range(3), range(2)):
        y[:, h, w] += padded[:, h + i, w + j] @ kernel[i, j]
        dx[:, h + i, w + j] += dy[:, h, w] @ kernel[i, j].T
        dkernel[i, j] += padded[:, h + i, w + j].T @ dy[:, h, w]
    dx = dx[:, top : top + 5, left : left + 6]

    x, kernel = jnp.array(x), jnp.array(kernel)
    for implementation in ("native", "loop_safe", "auto", "split"):
        with jax.default_matmul_precision("float32"):
            actual = gradients(implementation, x, kernel, padding=padding)
        for a, e in zip(actual, (y, dx, dkernel), strict=True):
            assert_close(a, e.astype(np.float32))


@pytest.mark.parametrize(
    ("images", "kernel", "options"),
    [
        # One chunk; several; several and a rest; an odd rest; fewer channels and more than the
        # limit between the two forms of the weight gradient.
        ((10, 28, 28, 1), (5, 5, 1, 16), {"padding": "VALID"}),
        ((8, 24, 24, 16), (3, 3, 16, 32), {}),
        ((9, 24, 24, 32), (3, 3, 32, 64), {}),
        ((7, 6, 6, 32), (3, 3, 32, 64), {}),
        ((11, 16, 16, 80), (3, 3, 80, 160), {}),
        ((41, 8, 8, 40), (3, 3, 40, 64), {}),
        ((38, 8, 8, 128), (1, 1, 128, 100), {}),
        ((4, 9, 8, 4), (2, 2, 4, 5), {}),
        ((2, 6, 5, 4), (1, 2, 4, 5), {"padding": "VALID"}),
    ],
)
def test_gradients_equal_the_native_ones(images, kernel, options):
    x, kernel = normal(0, *images), normal(1, *kernel)
    actual = gradients("loop_safe", x, kernel, **options)
    expected = gradients("native", x, kernel, **options)
    for a, e in zip(actual, expected, strict=True):
        assert_close(a, e)


def tiny_loss(implementation, kernel, x):
    y = jnp.tanh(conv2d(x, kernel, implementation=implementation))
    pool = native_max_pool if implementation == "native" else max_pool
    return jnp.mean(pool(y, 3, 2) ** 2)


def train(implementation, kernel, xs):
    """Two steps of gradient descent in a scan."""
    gradient = jax.grad(functools.partial(tiny_loss, implementation))
    return lax.scan(lambda k, x: (k - 0.5 * gradient(k, x), None), kernel, xs)[0]


@pytest.fixture(scope="module")
def trials():
    """Four trials: kernels, and two batches of images for each."""
    return normal(0, 4, 3, 3, 2, 6), normal(1, 4, 2, 10, 20, 20, 2)


@pytest.fixture(scope="module")
def trained_natively(trials):
    step = jax.jit(functools.partial(train, "native"))
    return jnp.stack([step(kernel, xs) for kernel, xs in zip(*trials, strict=True)])


def test_trials_mapped_over_devices_equal_single_native_ones(trials, trained_natively):
    for check_vma in (False, True):
        mapped = jax.shard_map(
            lambda *trial: lax.map(lambda t: train("loop_safe", *t), trial),
            mesh=Mesh(np.array(jax.devices()[:2]), ("trials",)),
            in_specs=P("trials"),
            out_specs=P("trials"),
            check_vma=check_vma,
        )
        assert_close(jax.jit(mapped)(*trials), trained_natively)


def test_vmapped_trials_equal_single_native_ones(trials, trained_natively):
    train_all = jax.jit(jax.vmap(functools.partial(train, "loop_safe")))
    assert_close(train_all(*trials), trained_natively)


def test_rematerialised_and_second_gradients_equal_native_ones(trials):
    kernel, x = trials[0][0], trials[1][0, 0]

    def both(implementation, wrap):
        gradient = jax.grad(wrap(functools.partial(tiny_loss, implementation)))
        second = jax.grad(lambda k: jnp.sum(gradient(k, x) ** 2))
        return jax.jit(lambda k: (gradient(k, x), second(k)))(kernel)

    expected = both("native", lambda loss: loss)
    for a, e in zip(both("loop_safe", jax.checkpoint), expected, strict=True):
        assert_close(a, e, 1e-5)


def test_bfloat16_gradients_are_summed_in_float32():
    for window, inputs in ((1, 2), (3, 2), (3, 40)):
        images = jnp.ones((100, 21 + window, 21 + window, inputs), jnp.bfloat16)
        kernel = jnp.ones((window, window, inputs, 4), jnp.bfloat16)
        y, dx, dkernel = gradients("loop_safe", images, kernel, padding="VALID", dy=1)
        assert y.dtype == dx.dtype == dkernel.dtype == jnp.bfloat16
        # All products are 1. Sums in bfloat16 would stick at 256.
        expected = jnp.full(kernel.shape, 100 * 22 * 22, jnp.bfloat16)
        np.testing.assert_array_equal(dkernel, expected)


def convolutions_in_loop(implementation, inputs, argnums):
    """The dimension labels of each convolution in a compiled scan of gradient steps."""

    def loss(kernel, x):
        return jnp.sum(conv2d(x, kernel, implementation=implementation) ** 2)

    def step(carry, _):
        moved = jax.grad(loss, argnums)(*carry)
        return tuple(a - g for a, g in zip(carry, moved, strict=False)) + carry[len(moved) :], None

    carry = normal(0, 3, 3, inputs, 6), normal(1, 4, 24, 24, inputs)
    program = jax.jit(lambda carry: lax.scan(step, carry, length=2)[0])
    text = program.lower(carry).compile().as_text()
    return re.findall(r" convolution\(.*dim_labels=([^ ,]+)", text)


def test_no_convolution_in_a_loop_is_left_to_naive_code():
    # XLA's CPU kernels know this one layout; other labels mean the naive loop.
    fast = "b01f_01io->b01f"
    assert set(convolutions_in_loop("native", 4, (0, 1))) != {fast}
    assert convolutions_in_loop("loop_safe", 4, (0, 1)) == [fast] * 3
    # With many channels the weight gradient is matrix products.
    assert convolutions_in_loop("loop_safe", 40, (0, 1)) == [fast] * 2
    # The gradient of images that nobody asks for is not computed.
    assert convolutions_in_loop("loop_safe", 40, (0,)) == [fast]


def lowered(implementation, platform):
    def loss(kernel, x):
        return jnp.sum(conv2d(x, kernel, implementation=implementation) ** 2)

    traced = jax.jit(jax.grad(loss)).trace(normal(0, 3, 3, 40, 6), normal(1, 4, 24, 24, 40))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    return re.sub(r"(@|%)\w+", "", text).count("stablehlo.dot_general"), "while" in text


@pytest.mark.parametrize("platform", ["cpu", "cuda", "tpu"])
def test_gradients_follow_the_platform_that_is_compiled_for(monkeypatch, platform):
    # Not the machine's default platform.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu" if platform == "cpu" else "cpu")
    native, own = lowered("native", platform), lowered("loop_safe", platform)
    assert native != own
    if platform == "tpu":
        # All images at once: a product for each row of the kernel, and no loop.
        assert lowered("auto", platform) == (3, False)
    else:
        assert lowered("auto", platform) == (own if platform == "cpu" else native)


def test_gradients_of_all_images_at_once_equal_the_native_ones(monkeypatch):
    # What is compiled for TPU, computed on CPU.
    monkeypatch.setattr(lax, "platform_dependent", lambda *operands, tpu, **others: tpu(*operands))
    x, kernel, bias = normal(0, 7, 9, 8, 3), normal(1, 3, 3, 3, 4), normal(2, 4)
    for padding in ("SAME", "VALID"):
        found = []
        for implementation in ("auto", "native"):
            call = functools.partial(conv2d, padding=padding, implementation=implementation)
            y, pull = jax.vjp(call, x, kernel, bias)
            found.append(pull(jnp.cos(jnp.arange(y.size)).reshape(y.shape)))
        for a, e in zip(*found, strict=True):
            assert_close(a, e)


@pytest.mark.parametrize(("precision", "error"), [("float32", 3e-6), ("tensorfloat32", 3e-5)])
@pytest.mark.parametrize("channels", [3, 16])
def test_convolutions_of_parts_are_as_exact_as_their_precision(channels, precision, error):
    x, kernel = normal(0, 4, 9, 8, channels), normal(1, 3, 3, channels, 5)
    with jax.enable_x64(True):
        exact = [a.astype(jnp.float64) for a in (x, kernel)]
        exact = [np.asarray(a, np.float32) for a in gradients("native", *exact)]
    with jax.default_matmul_precision(precision):
        found = gradients("split", x, kernel)
    for a, e in zip(found, exact, strict=True):
        assert_close(a, e, error)
        # Two parts are less exact than three.
        assert precision == "float32" or np.abs(a - e).max() > 3e-6 * np.abs(e).max()


def test_convolutions_of_parts_have_no_float32_products():
    def loss(kernel, x):
        with jax.default_matmul_precision("float32"):
            return jnp.sum(conv2d(x, kernel, implementation="split") ** 2)

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(normal(0, 3, 3, 8, 6), normal(1, 2, 8, 8, 8))
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    products = [line for line in text.splitlines() if "stablehlo.convolution" in line]
    operands = [re.search(r": \((.*)\) ->", line)[1] for line in products]
    assert len(operands) == 3
    assert all("bf16" in types and "f32" not in types.replace("bf16", "") for types in operands)
    assert not re.search(r"stablehlo.dot_general|HIGH", text)


@pytest.mark.parametrize("implementation", ["auto", "split"])
def test_rematerialization_keeps_the_results_of_convolutions(implementation):
    def layer(x, kernel):
        return jnp.tanh(conv2d(x, kernel, implementation=implementation)), None

    # As `scan_blocks` does.
    body = jax.checkpoint(layer, policy=REMATS["save_dots"], prevent_cse=False)

    def loss(kernels, x):
        return jnp.sum(jax.lax.scan(body, x, kernels)[0])

    kernels, x = normal(0, 4, 3, 3, 8, 8), normal(1, 2, 8, 8, 8)
    traced = jax.jit(jax.grad(loss, (0, 1))).trace(kernels, x)
    text = traced.lower(lowering_platforms=("tpu",)).as_text()
    # Forward and the gradient of x; that of the kernel is products or a third.
    assert text.count("stablehlo.convolution") == {"auto": 2, "split": 3}[implementation]


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("precision", ["float32", "tensorfloat32", "bfloat16"])
def test_gradients_have_the_precision_of_the_forward_pass(precision, platform):
    def loss(kernel, x):
        with jax.default_matmul_precision(precision):
            return jnp.sum(conv2d(x, kernel))

    traced = jax.jit(jax.grad(loss, (0, 1))).trace(normal(0, 3, 3, 2, 6), normal(1, 2, 8, 8, 2))
    text = traced.lower(lowering_platforms=(platform,)).as_text()
    products = [line for line in text.splitlines() if re.search(r"\.convolution|\.dot_gen", line)]
    assert len(products) >= 2
    name = {"float32": "HIGHEST", "tensorfloat32": "HIGH", "bfloat16": "DEFAULT"}[precision]
    for line in products:
        assert set(re.findall(r"HIGHEST|HIGH|DEFAULT", line)) == {name}


@pytest.mark.parametrize("implementation", ["native", "loop_safe"])
@pytest.mark.parametrize("trials", [0, 3])
def test_a_bias_is_added_and_its_gradient_is_a_sum(trials, implementation):
    lead = (trials,) if trials else ()
    x, kernel = normal(0, *lead, 21, 12, 12, 2), normal(1, *lead, 3, 3, 2, 4)
    bias = normal(2, *lead, 4)
    convolve = functools.partial(conv2d, implementation=implementation)
    if trials:
        convolve = jax.vmap(convolve)
    bare, pull_bare = jax.vjp(convolve, x, kernel)
    y, pull = jax.vjp(convolve, x, kernel, bias)
    dy = normal(3, *y.shape)
    dx, dkernel, dbias = pull(dy)
    np.testing.assert_array_equal(y, bare + jnp.expand_dims(bias, (-2, -3, -4)))
    for gradient, alone in zip((dx, dkernel), pull_bare(dy), strict=True):
        assert_close(gradient, alone)
    assert_close(dbias, np.asarray(dy, np.float64).sum((-2, -3, -4)).astype(np.float32))


def test_a_float32_bias_makes_float32_channels_of_bfloat16_images():
    x, kernel = jnp.ones((100, 24, 24, 2), jnp.bfloat16), jnp.ones((1, 1, 2, 4), jnp.bfloat16)
    bias = jnp.full(4, 2**-10, jnp.float32)
    for implementation in ("native", "loop_safe"):
        y, pull = jax.vjp(functools.partial(conv2d, implementation=implementation), x, kernel, bias)
        assert y.dtype == jnp.float32
        np.testing.assert_array_equal(y, jnp.full(y.shape, 2 + 2**-10))
        dx, dkernel, dbias = pull(jnp.ones_like(y))
        assert dx.dtype == dkernel.dtype == jnp.bfloat16
        np.testing.assert_array_equal(dbias, jnp.full(4, 100 * 24 * 24, jnp.float32))


def test_what_the_gradients_of_kernel_and_bias_share_is_computed_once():
    def loss(kernel, bias, x):
        h, t = jnp.split(conv2d(x, kernel, bias, implementation="loop_safe"), 2, axis=-1)
        return jnp.sum(jnp.tanh(h) * t)

    arguments = normal(0, 3, 3, 4, 8), normal(1, 8), normal(2, 20, 24, 24, 4)
    text = jax.jit(jax.grad(loss, (0, 1, 2))).lower(*arguments).compile().as_text()
    joined = [line for line in text.splitlines() if re.search(r" concatenate\(", line)]
    assert (
        len([line for line in joined if "f32[20,24,24,8]" in line or "f32[11520,8]" in line]) == 1
    )


# ---- pooling


def caffe_windows(height, width, window, stride):
    """Caffe's windows (pooling_layer.cpp): output position, and input positions by row."""
    sizes = []
    for size in (height, width):
        pooled = -(-(size - window) // stride) + 1
        sizes.append(pooled - ((pooled - 1) * stride >= size))
    for h, w in np.ndindex(*sizes):
        rows = range(h * stride, min(h * stride + window, height))
        columns = range(w * stride, min(w * stride + window, width))
        yield (h, w), list(itertools.product(rows, columns))


def value_and_pullback(function):
    def compute(x, dy):
        y, pull = jax.vjp(function, x)
        return y, *pull(dy)

    return jax.jit(compute)


POOLINGS = [  # height, width, window, stride
    (12, 12, 3, 2),
    (6, 6, 2, 2),
    (7, 10, 3, 2),
    (8, 5, 2, 1),
    (5, 6, 4, 3),
    (9, 7, 2, 3),
    (7, 9, 5, 1),
    (4, 7, 1, 3),
]


@pytest.mark.parametrize("pooling", POOLINGS)
def test_max_pool_is_caffes_and_gives_ties_to_the_first(pooling):
    *sizes, window, stride = pooling
    shape = (2, *sizes, 3)
    windows = list(caffe_windows(*pooling))
    pooled = (2, *(1 + np.array(windows[-1][0])), 3)
    distinct = np.random.default_rng(0).permutation(np.prod(shape)).reshape(shape)
    dy = 1 + np.arange(np.prod(pooled), dtype=np.float32).reshape(pooled)
    compute = value_and_pullback(functools.partial(max_pool, window=window, stride=stride))
    for x in (distinct.astype(np.float32), (distinct % 3).astype(np.float32)):
        y, dx = np.zeros(pooled, np.float32), np.zeros(shape, np.float32)
        for (h, w), positions in windows:
            for n, c in np.ndindex(2, 3):
                # `max` returns the first of equals.
                i, j = max(positions, key=lambda at, n=n, c=c: x[n, *at, c])
                y[n, h, w, c] = x[n, i, j, c]
                dx[n, i, j, c] += dy[n, h, w, c]
        actual = compute(x, dy)
        np.testing.assert_array_equal(actual[0], y)
        np.testing.assert_array_equal(actual[1], dx)


@pytest.mark.parametrize(("size", "window", "pooled"), [(24, 3, 12), (12, 3, 6), (6, 2, 3)])
def test_pooled_sizes_of_the_papers_mnist_net(size, window, pooled):
    assert max_pool(jnp.zeros((1, size, size, 1)), window, 2).shape == (1, pooled, pooled, 1)


def test_max_pool_passes_nan_on_and_keeps_the_dtype():
    x = jnp.zeros((1, 4, 4, 1), jnp.bfloat16).at[0, 1, 1, 0].set(jnp.nan)
    y = max_pool(x, 2, 2)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(jnp.isnan(y[0, :, :, 0]), [[True, False], [False, False]])


def test_max_pool_scatters_nothing():
    def compiled(pool):
        loss = lambda x: jnp.sum(pool(x, 3, 2) ** 2)  # noqa: E731
        return jax.jit(jax.grad(loss)).lower(jnp.ones((1, 8, 8, 2))).as_text()

    assert "select_and_scatter" in compiled(native_max_pool)
    for slow in ("scatter", "reduce_window"):
        assert slow not in compiled(max_pool)


def test_means_are_summed_in_float32():
    y = global_avg_pool(jnp.ones((1, 40, 40, 1), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    np.testing.assert_array_equal(y, jnp.ones((1, 1), jnp.bfloat16))


def test_global_avg_pool_is_the_mean():
    x = normal(0, 3, 4, 5, 2)
    np.testing.assert_allclose(global_avg_pool(x), np.array(x).mean((1, 2)), rtol=0, atol=1e-6)


# ---- errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, k: conv2d(x, k, padding="same"), "padding is 'same'; allowed: SAME, VALID"),
        (lambda x, k: conv2d(x, k, padding=1), "padding is 1; allowed"),
        (lambda x, k: conv2d(x, k, implementation="fast"), "implementation is 'fast'; allowed"),
        (lambda x, k: conv2d(x[:, :2], k, padding="VALID"), "kernel is 3x3; allowed .* most 2x5"),
        (lambda x, k: max_pool(x, 0, 1), "window is 0; allowed: at least 1"),
        (lambda x, k: max_pool(x, 2, 0), "stride is 0; allowed: at least 1"),
        (lambda x, k: max_pool(x, 6, 2), "window is 6; allowed: at most 5, as images are 5x5"),
        # Shapes are checked first where array annotations are checked at run time.
        (lambda x, k: unchecked(conv2d)(x[0], k), r"images have shape \(5, 5, 2\); allowed: \[ba"),
        (
            lambda x, k: unchecked(conv2d)(x, k[:, :, :1]),
            r"kernel has shape \(3, 3, 1, 1\); allowed",
        ),
        (lambda x, k: unchecked(max_pool)(x[0], 2, 2), r"images have shape \(5, 5, 2\); allowed"),
    ],
)
def test_bad_arguments_are_named_in_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call(jnp.ones((1, 5, 5, 2)), jnp.ones((3, 3, 2, 1)))
    assert "\n" not in str(caught.value)


def unchecked(function):
    return inspect.unwrap(function)
