import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.nn import initializers

from highway_jax import HighwayBlock, PlainBlock, ResidualBlock
from highway_jax.registry import INITIALIZERS

WIDTH = 6


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (5, WIDTH))


def _init(block, x, seed=1):
    params = block.init(jax.random.key(seed), x)["params"]
    # Biases away from zero, so that forgetting one shows.
    return jax.tree.map(lambda p: p + 0.1 if p.ndim == 1 else p, params)


def _sigmoid(z):
    return 1 / (1 + np.exp(-z))


def test_highway_block_is_the_papers_equation(x):
    block = HighwayBlock(WIDTH, activation="tanh", transform_bias=-1.5)
    params = _init(block, x)
    w_h, w_t = np.split(np.asarray(params["kernel"], np.float64), 2, axis=1)
    h = np.tanh(x @ w_h + params["bias"])
    t = _sigmoid(x @ w_t + params["transform_bias"])
    expected = h * t + x * (1 - t)
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(params["transform_bias"], -1.4, rtol=1e-6)


def test_separate_carry_gate_has_weights_of_its_own(x):
    block = HighwayBlock(WIDTH, activation="relu", gate="separate", carry_bias=0.5)
    params = _init(block, x)
    w_h, w_t, w_c = np.split(np.asarray(params["kernel"], np.float64), 3, axis=1)
    h = np.maximum(x @ w_h + params["bias"], 0)
    t = _sigmoid(x @ w_t + params["transform_bias"])
    c = _sigmoid(x @ w_c + params["carry_bias"])
    np.testing.assert_allclose(
        block.apply({"params": params}, x), h * t + x * c, rtol=1e-5, atol=1e-6
    )


def test_plain_and_residual_equations(x):
    for block, skip in ((PlainBlock(WIDTH), 0.0), (ResidualBlock(WIDTH), 1.0)):
        params = _init(block, x)
        h = np.maximum(x @ params["kernel"] + params["bias"], 0)
        np.testing.assert_allclose(
            block.apply({"params": params}, x), h + skip * x, rtol=1e-5, atol=1e-6
        )


def test_closed_gates_are_the_identity(x):
    block = HighwayBlock(WIDTH)
    params = _init(block, x)
    forced = block.apply({"params": params}, x, jnp.float32(0), method="activations")
    np.testing.assert_array_equal(forced.y, x)
    params["transform_bias"] = jnp.full(WIDTH, -200.0)
    np.testing.assert_array_equal(block.apply({"params": params}, x), x)


def test_open_gates_are_the_plain_net(x):
    block = HighwayBlock(WIDTH)
    params = _init(block, x)
    plain = {"kernel": params["kernel"][:, :WIDTH], "bias": params["bias"]}
    expected = PlainBlock(WIDTH).apply({"params": plain}, x)
    forced = block.apply({"params": params}, x, jnp.float32(1), method="activations")
    np.testing.assert_allclose(forced.y, expected, rtol=1e-6)
    params["transform_bias"] = jnp.full(WIDTH, 200.0)
    np.testing.assert_allclose(block.apply({"params": params}, x), expected, rtol=1e-6)


def test_nan_leaves_gates_alone(x):
    block = HighwayBlock(WIDTH)
    params = _init(block, x)
    left = block.apply({"params": params}, x, jnp.float32(jnp.nan), method="activations")
    np.testing.assert_array_equal(left.y, block.apply({"params": params}, x))


def test_activations_fit_together(x):
    block = HighwayBlock(WIDTH)
    params = _init(block, x)
    a = block.apply({"params": params}, x, method="activations")
    np.testing.assert_allclose(a.c, 1 - a.t, rtol=1e-6)
    np.testing.assert_allclose(a.y, a.h * a.t + x * a.c, rtol=1e-6)


def test_a_highway_block_refuses_to_change_the_width(x):
    with pytest.raises(ValueError, match="keeps its width"):
        HighwayBlock(WIDTH + 1).init(jax.random.key(0), x)


@pytest.mark.parametrize("field", ["activation", "initializer", "gate", "padding"])
@pytest.mark.parametrize("value", ["nonsense", None, 3])
def test_unknown_names_are_refused_in_the_callers_words(x, field, value):
    with pytest.raises(ValueError, match=f"^{field} is {value!r}; allowed: ") as caught:
        HighwayBlock(WIDTH, **{field: value}).init(jax.random.key(0), x)
    assert "model." not in str(caught.value)


@pytest.mark.parametrize(
    ("block", "shape", "message"),
    [
        (
            HighwayBlock(6, kernel_size=3),
            (5, 6),
            r"HighwayBlock has shape \(5, 6\); .*\[batch, hei",
        ),
        (PlainBlock(6, kernel_size=3), (5, 5, 6), r"PlainBlock has shape \(5, 5, 6\); allowed"),
        (PlainBlock(6), (), r"the input of PlainBlock is a scalar; allowed: \[batch"),
        # Without the check, one column would be added to all.
        (ResidualBlock(6), (5, 1), "ResidualBlock keeps its width: input has 1, width is 6"),
        (ResidualBlock(6), (5, 7), "ResidualBlock keeps its width: input has 7, width is 6"),
        (ResidualBlock(6, kernel_size=3, padding="VALID"), (5, 8, 8, 6), "keeps the size of an im"),
        (PlainBlock(0), (5, 6), "width is 0; allowed: a whole number of at least 1"),
        (PlainBlock("6"), (5, 6), "width is '6'; allowed: a whole number of at least 1"),
        (PlainBlock(6.5), (5, 6), "width is 6.5; allowed: a whole number of at least 1"),
        (PlainBlock(6, kernel_size=-1), (5, 6), "kernel_size is -1; allowed: a whole number of at"),
        (
            HighwayBlock(6, activation=jnp.sum),
            (5, 6),
            r"activation maps the shape \(5, 6\) to \(\); allowed: an elementwise function",
        ),
    ],
)
def test_inputs_that_do_not_fit_are_refused(block, shape, message):
    with pytest.raises(ValueError, match=message):
        block.init(jax.random.key(0), jnp.ones(shape))


def test_an_activation_and_an_initializer_may_be_functions(x):
    for name, function in (("tanh", jnp.tanh), ("relu", jax.nn.relu)):
        by_name = HighwayBlock(WIDTH, activation=name)
        by_function = HighwayBlock(WIDTH, activation=function)
        params = by_name.init(jax.random.key(1), x)
        # The scale of the initializer depends on the activation.
        jax.tree.map(np.testing.assert_array_equal, by_function.init(jax.random.key(1), x), params)
        np.testing.assert_array_equal(by_name.apply(params, x), by_function.apply(params, x))
    block = PlainBlock(WIDTH, activation=jnp.sin, initializer=initializers.ones)
    params = block.init(jax.random.key(1), x)
    expected = np.sin(np.tile(np.asarray(x).sum(-1, keepdims=True), WIDTH))
    np.testing.assert_allclose(block.apply(params, x), expected, rtol=1e-4, atol=1e-5)


def test_a_gate_may_be_a_python_number(x):
    block = HighwayBlock(WIDTH)
    params = block.init(jax.random.key(1), x)
    for value in (0, 1.0, float("nan")):
        forced = block.apply(params, x, value, method="activations")
        expected = block.apply(params, x, jnp.float32(value), method="activations")
        np.testing.assert_array_equal(forced.y, expected.y)


# Bounds and standard deviations from the definitions, for fan_in 40 and fan_out 60.
_EXPECTED = {
    ("normalized", "relu"): (np.sqrt(12 / 100) / np.sqrt(3), np.sqrt(12 / 100)),
    ("normalized", "tanh"): (np.sqrt(6 / 100) / np.sqrt(3), np.sqrt(6 / 100)),
    ("msra", "relu"): (np.sqrt(2 / 40), np.inf),
    ("he_normal", "relu"): (np.sqrt(2 / 40), 2.3 * np.sqrt(2 / 40)),
    ("he_uniform", "relu"): (np.sqrt(2 / 40), np.sqrt(6 / 40)),
    ("glorot_normal", "tanh"): (np.sqrt(2 / 100), 2.3 * np.sqrt(2 / 100)),
    ("glorot_uniform", "tanh"): (np.sqrt(2 / 100), np.sqrt(6 / 100)),
    ("lecun_normal", "tanh"): (np.sqrt(1 / 40), 2.3 * np.sqrt(1 / 40)),
}


@pytest.mark.parametrize(("name", "activation"), _EXPECTED)
def test_initialisers_have_their_scale(name, activation):
    std, bound = _EXPECTED[name, activation]
    draw = np.stack(
        [INITIALIZERS[name](activation)(jax.random.key(i), (40, 60)) for i in range(40)]
    )
    assert abs(draw.mean()) < 4 * std / np.sqrt(draw.size)
    np.testing.assert_allclose(draw.std(), std, rtol=0.02)
    assert np.abs(draw).max() <= bound * (1 + 1e-6)
    if name == "msra":  # untruncated: some of 96,000 draws lie beyond three sigma
        assert np.abs(draw).max() > 3 * std


def test_h_and_t_are_initialised_as_separate_maps():
    # Glorot's fan_out is the width, not the 2 * width of the fused kernel.
    block = HighwayBlock(200, initializer="glorot_uniform")
    kernel = block.init(jax.random.key(0), jnp.zeros((1, 200)))["params"]["kernel"]
    assert kernel.shape == (200, 400)
    np.testing.assert_allclose(np.abs(kernel).max(), np.sqrt(6 / 400), rtol=1e-3)
    assert not np.allclose(kernel[:, :200], kernel[:, 200:])


def _delta_orthogonal(key, shape, dtype):
    """jax's, which refuses matrices."""
    images = shape if len(shape) > 2 else (1, 1, *shape)
    if images[-1] < images[-2]:
        return initializers.orthogonal(np.sqrt(2))(key, shape, dtype)
    return initializers.delta_orthogonal(np.sqrt(2))(key, images, dtype).reshape(shape)


@pytest.mark.parametrize("shape", [(3, 3, 4, 6), (7, 5)])
@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("he_normal", initializers.variance_scaling(2.0, "fan_in", "truncated_normal")),
        ("he_uniform", initializers.variance_scaling(2.0, "fan_in", "uniform")),
        ("glorot_normal", initializers.variance_scaling(1.0, "fan_avg", "truncated_normal")),
        ("glorot_uniform", initializers.variance_scaling(1.0, "fan_avg", "uniform")),
        ("lecun_normal", initializers.variance_scaling(1.0, "fan_in", "truncated_normal")),
        ("msra", initializers.variance_scaling(2.0, "fan_in", "normal")),
        ("normalized", initializers.variance_scaling(2.0, "fan_avg", "uniform")),
        ("orthogonal", initializers.orthogonal(np.sqrt(2))),
        ("delta_orthogonal", _delta_orthogonal),
        ("zeros", initializers.zeros),
        ("unit_normal", initializers.normal(1.0)),
        ("tenth_normal", initializers.normal(0.1)),
        ("twentieth_normal", initializers.normal(0.05)),
    ],
)
def test_initializers_draw_what_jax_draws(name, reference, shape):
    key = jax.random.key(3)
    drawn = INITIALIZERS[name]("relu")(key, shape, jnp.float32)
    # The random bits are equal; the inverse error function of a normal draw may be rounded
    # otherwise where the compiler sees other shapes.
    np.testing.assert_allclose(drawn, reference(key, shape, jnp.float32), rtol=1e-6)


def test_every_initializer_is_compared_with_jax():
    (mark,) = (
        m
        for m in test_initializers_draw_what_jax_draws.pytestmark
        if m.args[0] == ("name", "reference")
    )
    assert {name for name, _ in mark.args[1]} == set(INITIALIZERS)
