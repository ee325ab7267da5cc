"""`Highway` around modules, and the example that trains such nets."""

import functools
import importlib.util
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from highway_jax import Highway, HighwayBlock, scan_blocks

EXAMPLE = Path(__file__).parents[1] / "examples" / "highway_around_anything.py"


class _Stack(nn.Module):
    make: Any
    num_blocks: int = 3
    options: Any = None

    @nn.compact
    def __call__(self, x, gates=None, collect=False):
        options = {} if self.options is None else self.options()
        layer = Highway(self.make(), **options, name="blocks")
        return scan_blocks(layer, x, self.num_blocks, gates, collect=collect)


def _dense_relu():
    return nn.Sequential([nn.Dense(6), nn.relu])


MAKES = {
    "dense": (_dense_relu, (4, 6)),
    "convolutional": (lambda: nn.Conv(3, (3, 3)), (2, 5, 5, 3)),
    "recurrent": (lambda: nn.RNN(nn.GRUCell(6)), (2, 4, 6)),
    "attention": (lambda: nn.MultiHeadDotProductAttention(num_heads=2), (2, 4, 6)),
}


@pytest.fixture
def x():
    return jax.random.normal(jax.random.key(0), (4, 6))


def test_around_a_dense_layer_it_is_a_highway_block(x):
    layer = Highway(_dense_relu(), transform_bias=-1.5)
    params = layer.init(jax.random.key(1), x)["params"]
    h, t = params["transform"]["layers_0"], params["gate"]
    np.testing.assert_array_equal(t["bias"], np.full(6, -1.5))
    block = {
        "kernel": jnp.concatenate([h["kernel"], t["kernel"]], axis=1),
        "bias": h["bias"],
        "transform_bias": t["bias"],
    }
    expected = HighwayBlock(6).apply({"params": block}, x, method="activations")
    found = layer.apply({"params": params}, x, method="activations")
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    closed = layer.apply({"params": params}, x, 0.0, method="activations")
    np.testing.assert_array_equal(closed.y, x)


@pytest.mark.parametrize("kind", MAKES)
def test_a_stack_is_its_layers_in_turn(kind):
    make, shape = MAKES[kind]
    x = jax.random.normal(jax.random.key(0), shape)
    stack = _Stack(make)
    params = jax.jit(stack.init)(jax.random.key(1), x)["params"]
    assert set(params) == {"blocks"}
    assert set(params["blocks"]) == {"gate", "transform"}
    apply = jax.jit(functools.partial(stack.apply, collect=True))
    y, layers = apply({"params": params}, x, jnp.full(3, jnp.nan))
    transform, expected = jax.jit(make().apply), x
    for number in range(3):
        own = jax.tree.map(lambda leaf, number=number: leaf[number], params["blocks"])
        h = transform({"params": own["transform"]}, expected)
        t = jax.nn.sigmoid(expected @ own["gate"]["kernel"] + own["gate"]["bias"])
        expected = h * t + expected * (1 - t)
        np.testing.assert_allclose(layers.t[number], t, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-4, atol=1e-5)
    copied, _ = apply({"params": params}, x, jnp.zeros(3))
    np.testing.assert_array_equal(copied, x)
    first, second = jax.tree.leaves(params["blocks"]["transform"])[-1][:2]
    assert not np.allclose(first, second)


@pytest.mark.parametrize("kind", MAKES)
def test_a_layer_made_outside_of_the_net_is_the_same(kind):
    make, shape = MAKES[kind]
    made = make()
    x = jax.random.normal(jax.random.key(0), shape)
    inside, outside = (_Stack(m).init(jax.random.key(1), x) for m in (make, lambda: made))
    assert jax.tree.structure(inside) == jax.tree.structure(outside)
    np.testing.assert_array_equal(
        jax.tree.leaves(outside["params"]["blocks"]["gate"])[-1],
        jax.tree.leaves(inside["params"]["blocks"]["gate"])[-1],
    )


def test_the_gate_is_the_callers_choice(x):
    constant = nn.initializers.constant(-4.0)
    stack = _Stack(_dense_relu, options=lambda: {"gate": nn.Dense(1, bias_init=constant)})
    params = stack.init(jax.random.key(1), x)
    gate = params["params"]["blocks"]["gate"]
    assert gate["kernel"].shape == (3, 6, 1)
    np.testing.assert_array_equal(gate["bias"], np.full((3, 1), -4.0))
    _, layers = stack.apply(params, x, collect=True)
    assert layers.t.shape == (3, 4, 6)
    np.testing.assert_array_equal(layers.t[..., :1] + 0 * layers.t, layers.t)


def test_shapes_that_do_not_fit_are_refused(x):
    with pytest.raises(ValueError, match=r"transform maps the shape \(4, 6\) to \(4, 5\); allowed"):
        Highway(nn.Dense(5)).init(jax.random.key(0), x)
    gate = nn.Sequential([lambda x: x[:, None], nn.Dense(6)])
    with pytest.raises(TypeError, match=r"transform is the class Dense; allowed: a flax.linen.Mod"):
        Highway(nn.Dense).init(jax.random.key(0), x)
    with pytest.raises(TypeError, match=r"gate is <.*; allowed: a flax.linen.Module"):
        Highway(nn.Dense(6), gate=jnp.tanh).init(jax.random.key(0), x)
    with pytest.raises(ValueError, match="transform_bias is 'low'; allowed: a number"):
        Highway(nn.Dense(6), transform_bias="low").init(jax.random.key(0), x)
    with pytest.raises(TypeError, match=r"x is \[\[1.0\]\]; allowed: an array"):
        Highway(nn.Dense(1)).init(jax.random.key(0), [[1.0]])
    with pytest.raises(ValueError, match=r"gate maps the shape \(4, 6\) to \(4, 1, 6\); allowed"):
        Highway(nn.Dense(6), gate).init(jax.random.key(0), x)


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("highway_around_anything", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    # Adam of optax raises float32 numbers to integer powers.
    with jax.numpy_dtype_promotion("standard"):
        yield module


@pytest.mark.slow
def test_the_example_trains_each_kind_of_layer(example, capsys):
    example.main(["--depths", "2", "--steps", "40", "--rate", "0.01"])
    lines = capsys.readouterr().out.splitlines()[2:]
    assert [line.split()[0] for line in lines] == list(example.TRANSFORMS)
    losses = [float(line.split()[2]) for line in lines]
    assert max(losses) < 2  # It starts at about 2.3, the logarithm of ten classes.


def test_gates_let_deep_stacks_train(example):
    (gated, _), (without, _) = (
        example.train("dense", 30, gated=gated, bias=-2.0, rate=0.01, steps=60)
        for gated in (True, False)
    )
    assert gated < 1 < 2 < without


def test_dropout_in_a_scanned_module_has_a_mask_for_each_block():
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            inner = nn.Sequential([nn.Dense(8), nn.Dropout(0.5, deterministic=False)])
            return scan_blocks(Highway(inner, transform_bias=0.0), x, 3, collect=True)

    x = jnp.ones((2, 8))
    params = Net().init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)
    outputs, blocks = Net().apply(params, x, rngs={"dropout": jax.random.key(2)})
    assert outputs.shape == (2, 8)
    dropped = np.asarray(blocks.h == 0)
    assert 0 < dropped.sum() < dropped.size
    assert (dropped[0] != dropped[1]).any()


@pytest.mark.parametrize(
    ("block", "x", "found"),
    [
        (jnp.float32, jnp.bfloat16, jnp.float32),
        (jnp.bfloat16, jnp.float32, jnp.bfloat16),
        (jnp.float32, jnp.float16, jnp.float32),
    ],
)
def test_a_stack_computes_in_the_type_of_its_blocks(block, x, found):
    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return scan_blocks(HighwayBlock(8, dtype=block), x, 3)[0]

    inputs = jnp.ones((2, 8), x)
    outputs = Net().apply(Net().init(jax.random.key(0), inputs), inputs)
    assert outputs.dtype == found
