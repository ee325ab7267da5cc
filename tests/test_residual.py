"""Laws of the blocks that are not the paper's."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from highway_jax.config.sections import Model
from highway_jax.nn.model import build
from highway_jax.nn.stacks import DenseStack, scan_blocks, transform_biases
from highway_jax.registry import BLOCKS, INITIALIZERS

WIDTH = 6
OWN = [name for name in BLOCKS if name not in ("plain", "residual", "highway")]
GATED = [name for name in BLOCKS if "transform_bias" in BLOCKS[name].settings]


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (5, WIDTH))


def _params(block, x, seed=1):
    """Parameters of a block, away from the zeros and ones at which some start."""
    params = block.init(jax.random.key(seed), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    moved = [p + 0.1 * jax.random.normal(k, p.shape) for p, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def _apply(name, x, **fields):
    block = BLOCKS[name](WIDTH, **fields)
    params = _params(block, x)
    return params, np.asarray(block.apply({"params": params}, x))


def _relu(z):
    return np.maximum(z, 0)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_rezero_adds_a_multiple_of_the_branch(x):
    p, y = _apply("rezero", x, residual_scale=0.3)
    expected = x + p["scale"] * _relu(x @ p["kernel"] + p["bias"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_prenorm_normalizes_the_input_of_the_branch(x):
    p, y = _apply("prenorm", x, activation="tanh")
    x = np.asarray(x, np.float64)
    normal = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    normal = normal * p["norm"]["scale"] + p["norm"]["bias"]
    expected = x + np.tanh(normal @ np.asarray(p["kernel"]) + p["bias"])
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_fixup_is_a_branch_of_two_layers_with_scalar_biases(x):
    p, y = _apply("fixup", x)
    z = _relu((x + p["input_bias"]) @ p["kernel"] + p["hidden_bias"])
    expected = x + p["scale"] * ((z + p["last_bias"]) @ p["last_kernel"]) + p["bias"]
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_constant_halves_input_and_branch(x):
    p, y = _apply("constant", x)
    expected = (x + _relu(x @ p["kernel"] + p["bias"])) / 2
    np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-6)


def test_a_shortcut_gate_multiplies_the_input_alone(x):
    p, y = _apply("shortcut_gate", x, transform_bias=-1.0)
    w_h, w_t = np.split(np.asarray(p["kernel"]), 2, axis=1)
    t = _sigmoid(x @ w_t + p["transform_bias"])
    np.testing.assert_allclose(y, _relu(x @ w_h + p["bias"]) + x * (1 - t), rtol=1e-5, atol=1e-6)


def test_a_gru_block_is_a_gated_recurrent_unit(x):
    p, y = _apply("gru", x, transform_bias=-1.0)
    u = _relu(x @ p["kernel"] + p["bias"])
    w_r, w_z, w_h = np.split(np.asarray(p["input_kernel"]), 3, axis=1)
    u_r, u_z = np.split(np.asarray(p["state_kernel"]), 2, axis=1)
    r = _sigmoid(u @ w_r + x @ u_r + p["reset_bias"])
    z = _sigmoid(u @ w_z + x @ u_z + p["transform_bias"])
    h = np.tanh(u @ w_h + (r * x) @ p["candidate_kernel"] + p["candidate_bias"])
    np.testing.assert_allclose(y, (1 - z) * x + z * h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["rezero", "fixup"])
@pytest.mark.parametrize("kernel_size", [0, 3])
def test_some_blocks_start_as_the_identity_and_then_learn(name, kernel_size):
    shape = (4, 5, 5, WIDTH) if kernel_size else (4, WIDTH)
    x = jax.random.normal(jax.random.key(0), shape)
    block = BLOCKS[name](WIDTH, kernel_size=kernel_size)
    params = block.init(jax.random.key(1), x)
    np.testing.assert_array_equal(block.apply(params, x), x)
    gradient = jax.grad(lambda params: block.apply(params, x).sum())(params)["params"]
    moving = {"rezero": "scale", "fixup": "last_kernel"}[name]
    assert np.abs(gradient[moving]).max() > 0.1


@pytest.mark.slow
def test_fixup_scales_its_first_kernel_by_the_number_of_blocks():
    stack = DenseStack("fixup", 101, WIDTH, 3)
    params = stack.init(jax.random.key(0), jnp.ones((1, 4)))["params"]["blocks"]
    deviation = np.sqrt(2 / WIDTH) / np.sqrt(100)
    np.testing.assert_allclose(np.std(params["kernel"]), deviation, rtol=0.05)
    assert params["hidden_bias"].shape == (100,)
    assert not np.any(params["last_kernel"])
    config = Model(block="fixup", architecture="cifar19", depth=19, width=4)
    params = build(config, (8, 8, 3), 3).init(jax.random.key(0), jnp.float32(0))
    kernel = params["blocks2"]["kernel"]  # One of three runs, 14 blocks in all.
    deviation = np.sqrt(2 / (9 * 4)) / np.sqrt(14)
    np.testing.assert_allclose(np.std(kernel), deviation, rtol=0.1)


def test_a_shortcut_gate_is_a_residual_block_where_it_is_closed(x):
    block = BLOCKS["shortcut_gate"](WIDTH)
    params = _params(block, x)
    residual = {"kernel": params["kernel"][:, :WIDTH], "bias": params["bias"]}
    expected = BLOCKS["residual"](WIDTH).apply({"params": residual}, x)
    found = block.apply({"params": params}, x, 0.0, method="activations")
    np.testing.assert_allclose(found.y, expected, rtol=1e-6)
    assert not np.any(found.t)


def test_a_gru_block_is_the_identity_where_it_is_closed(x):
    block = BLOCKS["gru"](WIDTH)
    params = _params(block, x)
    found = block.apply({"params": params}, x, 0.0, method="activations")
    np.testing.assert_array_equal(found.y, x)
    params["transform_bias"] = jnp.full(WIDTH, -200.0)
    np.testing.assert_array_equal(block.apply({"params": params}, x), x)


@pytest.mark.parametrize("name", GATED)
def test_gates_are_reported_and_forced_and_have_the_bias_of_the_trial(name):
    model = build(Model(block=name, depth=4, width=WIDTH), (5,), 3)
    x = jax.random.normal(jax.random.key(0), (4, 5))
    init, activations = jax.jit(model.init), jax.jit(model.activations)
    free = jnp.full(3, jnp.nan)
    params = init(jax.random.key(1), jnp.float32(-4))
    np.testing.assert_array_equal(transform_biases(params)[0], np.full((3, WIDTH), -4.0))
    _, (low,) = activations(params, x, free)
    _, (high,) = activations(init(jax.random.key(1), jnp.float32(4)), x, free)
    assert 0 < low.t.mean() < 0.2 < 0.8 < high.t.mean() < 1
    _, (forced,) = activations(params, x, free.at[1:].set([0.25, 1.0]))
    np.testing.assert_array_equal(forced.t[1:], np.broadcast_to([[[0.25]], [[1.0]]], (2, 4, WIDTH)))
    assert not np.allclose(forced.y[1], low.y[1])


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("kernel_size", [0, 3])
def test_what_a_block_reports_is_what_it_computes(name, kernel_size):
    shape = (2, 5, 5, WIDTH) if kernel_size else (5, WIDTH)
    x = jax.random.normal(jax.random.key(0), shape)
    block = BLOCKS[name](WIDTH, kernel_size=kernel_size)
    a = block.apply({"params": _params(block, x)}, x, method="activations")
    factor = 1.0 if name == "shortcut_gate" else a.t
    np.testing.assert_allclose(a.y, a.h * factor + x * a.c, rtol=1e-5, atol=1e-6)
    assert {leaf.shape for leaf in a} == {shape}


@pytest.mark.parametrize("name", OWN)
def test_roles_of_parameters(name):
    model = build(Model(block=name, depth=3, width=WIDTH), (5,), 3)
    for path, role in jax.tree_util.tree_leaves_with_path(model.roles["blocks"]):
        leaf = path[-1].key
        expected = "weight" if "kernel" in leaf else "gain" if leaf == "scale" else "bias"
        assert role == expected, (path, role)


@pytest.mark.parametrize(
    ("initializer", "kernel_size"),
    [("orthogonal", 0), ("delta_orthogonal", 0), ("delta_orthogonal", 3)],
)
def test_an_isometric_net_keeps_the_norm_over_1000_layers(initializer, kernel_size):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            options = {"activation": "identity", "initializer": initializer}
            block = BLOCKS["plain"](WIDTH, kernel_size=kernel_size, **options, name="blocks")
            return scan_blocks(block, x, 1000)[0]

    x = jax.random.normal(jax.random.key(0), (3, 5, 5, WIDTH) if kernel_size else (3, WIDTH))
    y = Net().apply(Net().init(jax.random.key(1), x), x)
    assert not np.allclose(x, y, rtol=0.1)
    np.testing.assert_allclose(np.linalg.norm(y, axis=-1), np.linalg.norm(x, axis=-1), rtol=1e-5)


def test_gains_follow_the_activation():
    for name, gain in (("tanh", 1.0), ("identity", 1.0), ("relu", np.sqrt(2))):
        for initializer in ("orthogonal", "delta_orthogonal"):
            kernel = INITIALIZERS[initializer](name)(jax.random.key(0), (7, 7))
            np.testing.assert_allclose(kernel.T @ kernel, gain**2 * np.eye(7), atol=1e-5)


@pytest.mark.parametrize("name", OWN)
def test_a_deep_net_takes_a_step_that_lowers_its_loss(name):
    model = build(Model(block=name, depth=4, width=WIDTH), (5,), 3)
    x = jax.random.normal(jax.random.key(0), (20, 5))
    params = jax.jit(model.init)(jax.random.key(1), jnp.float32(-2))

    @jax.jit
    @jax.value_and_grad
    def loss(params):
        return -jax.nn.log_softmax(model.apply(params, x))[:, 0].mean()

    before, gradient = loss(params)
    after, _ = loss(jax.tree.map(lambda p, g: p - 0.05 * g, params, gradient))
    assert after < before
