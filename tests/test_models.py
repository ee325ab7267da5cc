import functools
import re
import runpy
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from highway_jax import DenseStack, default_config
from highway_jax.nn.architectures import Plain
from highway_jax.nn.model import build
from highway_jax.nn.stacks import (
    REMATS,
    BlockGroup,
    ConvStack,
    _body_size,
    scan_blocks,
    set_transform_bias,
)
from highway_jax.registry import BLOCKS

OPTIONS = {"activation": "tanh"}
_BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
_multiply_adds = runpy.run_path(str(_BENCHMARKS / "multiply_adds.py"))["of_model"]


def _config(**changes):
    config = default_config().model
    config.update(changes)
    return config


@pytest.mark.parametrize(
    ("block", "width", "depth", "parameters"),
    [
        # The nets of section 3.1: 71 plain or 50 highway units, about 5,000 parameters a layer.
        ("plain", 71, 10, 102_463),
        ("plain", 71, 20, 153_583),
        ("plain", 71, 50, 306_943),
        ("plain", 71, 100, 562_543),
        ("highway", 50, 10, 85_660),
        ("highway", 50, 20, 136_660),
        ("highway", 50, 50, 289_660),
        ("highway", 50, 100, 544_660),
        # The fully connected CIFAR-100 net of section 4 has another input and softmax.
        ("residual", 50, 10, 39_250 + 9 * 2_550 + 510),
    ],
)
def test_parameter_counts_of_the_paper(block, width, depth, parameters):
    model = build(_config(block=block, width=width, depth=depth), (28, 28, 1), 10)
    assert model.num_parameters == parameters
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.float32(-1))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    biases = (width * (1 + (depth - 1) * (2 if block == "highway" else 1))) + 10
    assert _multiply_adds(model, (28, 28, 1)) == parameters - biases


def test_cifar100_net_of_section_4():
    assert build(_config(depth=50), (32, 32, 3), 100).num_parameters == 408_650


@pytest.mark.parametrize("block", BLOCKS.names())
def test_scan_is_the_loop(block):
    stack = DenseStack(block, 6, 8, 3, OPTIONS)
    x = jax.random.normal(jax.random.key(0), (4, 5))
    params = jax.jit(stack.init)(jax.random.key(1), x)["params"]
    expected = BLOCKS["plain"](8, **OPTIONS).apply({"params": params["input"]}, x)
    apply = jax.jit(BLOCKS[block](8, **OPTIONS).apply)
    for layer in range(5):
        own = jax.tree.map(lambda leaf, layer=layer: leaf[layer], params["blocks"])
        expected = apply({"params": own}, expected)
    expected = expected @ params["head"]["kernel"] + params["head"]["bias"]
    logits, nothing = jax.jit(stack.apply)({"params": params}, x)
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-6)
    assert nothing is None


def test_unrolling_changes_neither_parameters_nor_gradients():
    class Stack(nn.Module):
        unroll: int

        @nn.compact
        def __call__(self, x):
            return scan_blocks(BLOCKS["highway"](5), x, 6, unroll=self.unroll)[0].sum()

    x = jax.random.normal(jax.random.key(0), (4, 5))
    found = []
    for unroll in (1, 4, 6):
        params = Stack(unroll).init(jax.random.key(1), x)
        gradient = jax.jit(jax.grad(Stack(unroll).apply))
        loops = gradient.lower(params, x).as_text().count("stablehlo.while")
        found.append((params, gradient(params, x), loops))
    for params, gradients, _ in found[1:]:
        jax.tree.map(np.testing.assert_array_equal, params, found[0][0])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), gradients, found[0][1]
        )
    # A loop forward and one back; none where all blocks are in one body.
    assert [loops for *_, loops in found] == [2, 2, 0]
    # Creation compiles a single block, whatever training does.
    assert "unroll=6" in str(jax.make_jaxpr(Stack(6).apply)(params, x))
    assert "unroll=6" not in str(jax.make_jaxpr(Stack(6).init)(jax.random.key(1), x))


def _scan(block, x=None, num_blocks=2, **options):
    """Calls scan_blocks in a module, with a block made there."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            own = block() if isinstance(block, functools.partial) else block
            return scan_blocks(own, x, num_blocks, **options)[0]

    return Net().init_with_output(jax.random.key(0), jnp.ones((3, 4)) if x is None else x)[0]


_BLOCK = functools.partial(BLOCKS["highway"], 4)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: _scan(functools.partial(nn.Dense, 4)),
            TypeError,
            "block is of the class Dense; a",
        ),
        (
            lambda: _scan(BLOCKS["highway"]),
            TypeError,
            "block is the class HighwayBlock; allowed: an",
        ),
        (lambda: _scan("highway"), TypeError, "block is of the class str; allowed: an instance"),
        (lambda: _scan(_BLOCK, [[1.0] * 4]), TypeError, r"x is \[\[1\.0, .*; allowed: an array"),
        (
            lambda: _scan(_BLOCK, jnp.ones((3, 4), jnp.int32)),
            TypeError,
            "x is an array of int32; allowed: a float type",
        ),
        (
            lambda: _scan(functools.partial(_BLOCK, transform_bias="low")),
            ValueError,
            "transform_bias is 'low'; allowed: a number",
        ),
        (
            lambda: _scan(_BLOCK, collect="gates"),
            ValueError,
            "collect is 'gates'; allowed: True, False, or a function",
        ),
        (
            lambda: _scan(_BLOCK, num_blocks=-1),
            ValueError,
            "num_blocks is -1; allowed: a whole num",
        ),
        (
            lambda: _scan(_BLOCK, num_blocks=2.0),
            ValueError,
            r"num_blocks is 2\.0; allowed: a whole",
        ),
        (
            lambda: _scan(_BLOCK, unroll=0),
            ValueError,
            "unroll is 0; allowed: a whole number of at l",
        ),
        (
            lambda: _scan(_BLOCK, remat="some"),
            ValueError,
            "remat is 'some'; allowed: none, save_dots, full",
        ),
        (
            lambda: _scan(_BLOCK, gates=[0.0]),
            ValueError,
            r"gates have shape \(1,\); allowed: one .* 2",
        ),
        (
            lambda: _scan(_BLOCK, gates=["open", "closed"]),
            ValueError,
            r"gates is \['open', 'closed'\]; allowed: numbers, one for each of 2 blocks",
        ),
        (
            lambda: _scan(_BLOCK, gates=0.0),
            ValueError,
            r"gates have shape \(\); allowed: one value",
        ),
        (
            lambda: _scan(_BLOCK, jnp.ones((3, 5))),
            ValueError,
            "HighwayBlock keeps its width: input",
        ),
        (
            lambda: scan_blocks(_BLOCK(), jnp.ones((3, 4)), 2),
            ValueError,
            "block is a HighwayBlock outside of a module; allowed: a submodule",
        ),
    ],
)
def test_scan_blocks_names_what_the_caller_did_wrong(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


def test_the_number_of_blocks_may_be_a_numpy_integer():
    np.testing.assert_array_equal(_scan(_BLOCK, num_blocks=np.int64(2)), _scan(_BLOCK))


def test_gates_may_be_a_list():
    x = jax.random.normal(jax.random.key(0), (3, 4))
    np.testing.assert_array_equal(_scan(_BLOCK, x, gates=[0, 0.0]), x)
    nan = float("nan")
    free = _scan(_BLOCK, x, gates=(nan, nan))
    np.testing.assert_allclose(free, _scan(_BLOCK, x), rtol=1e-5, atol=1e-6)
    model = build(_config(depth=3, width=8), (5,), 3)
    params = model.init(jax.random.key(0), jnp.float32(0))
    expected = model.apply(params, jnp.ones((2, 5)), gates=jnp.array([0.0, nan]))
    found = model.apply(params, jnp.ones((2, 5)), gates=[0.0, nan])
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("net", "shape", "message"),
    [
        (
            DenseStack("highway", 3, 4, 2),
            (5,),
            r"input has shape \(5,\); allowed: \[batch, \.\.\.\]",
        ),
        (
            DenseStack("highway", 0, 4, 2),
            (5, 3),
            "depth is 0; allowed: a whole number of at least 1",
        ),
        (
            DenseStack("highway", "3", 4, 2),
            (5, 3),
            "depth is '3'; allowed: a whole number of at least",
        ),
        (
            DenseStack("highwey", 3, 4, 2),
            (5, 3),
            "block is 'highwey'; allowed: plain, residual, hi",
        ),
        (DenseStack("highway", 3, 4, 2, {"gates": 1}), (5, 3), "options has 'gates'; allowed: act"),
        (DenseStack("highway", 3, 4, 2, {"roles": 1}), (5, 3), "options has 'roles'; allowed: act"),
        (
            ConvStack("highway", (Plain(4),), 2),
            (5, 3),
            r"images have shape \(5, 3\); allowed: \[bat",
        ),
    ],
)
def test_stacks_name_what_the_caller_did_wrong(net, shape, message):
    with pytest.raises(ValueError, match=message):
        net.init(jax.random.key(0), jnp.ones(shape))


@functools.cache
def _loops(platform, **changes):
    shape = (28, 28, 1)
    model = build(_config(**changes), shape, 10, platform)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.float32(-1))
    gradient = jax.jit(jax.grad(lambda params, x: model.apply(params, x).sum()))
    traced = gradient.trace(params, jax.ShapeDtypeStruct((2, *shape), jnp.float32))
    text = traced.lower(lowering_platforms=(platform or "cpu",)).as_text()
    return text.count("stablehlo.while"), len(text)


def test_the_size_of_a_loops_body_follows_the_platform_that_is_compiled_for(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    mnist10 = {"architecture": "mnist10", "depth": 10, "width": 4}
    dense = {"depth": 31, "width": 4}
    # Three runs of blocks, a loop forward and one back for each; none where they are unrolled.
    # What is left are the loops of the gradients, a few images at a time.
    assert _loops("tpu", **mnist10)[0] == _loops("cuda", **mnist10)[0] == 6
    assert _loops("cpu", **mnist10)[0] < _loops(None, **mnist10)[0]
    assert _loops("tpu", **dense) == _loops("cpu", **dense)
    for platform in ("cpu", "tpu", "cuda"):
        assert _loops(platform, **dense)[0] == 2
    assert _loops("cuda", **dense)[1] > 2 * _loops("cpu", **dense)[1]


def test_a_loops_body_divides_the_run_where_it_can():
    assert [_body_size(n, 10) for n in (1, 9, 10, 49, 99, 999)] == [1, 9, 10, 7, 9, 9]
    # 19 and 499 are primes.
    assert [_body_size(n, 10) for n in (19, 499)] == [10, 10]
    assert _body_size(5, 1) == 1


@pytest.mark.parametrize("architecture", ["dense", "highway_c"])
def test_a_model_knows_the_roles_of_its_parameters(architecture):
    depth = {"dense": 4, "highway_c": 32}[architecture]
    shape = (32, 32, 3)
    options = {"architecture": architecture, "depth": depth, "width": 4, "gate": "separate"}
    model = build(_config(**options), shape, 10)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.float32(-1))
    expected = jax.tree_util.tree_map_with_path(
        lambda path, _: "weight" if path[-1].key == "kernel" else "bias", params
    )
    assert model.roles == expected


def test_layers_of_a_stack_are_drawn_apart():
    params = build(_config(depth=4), (5,), 3).init(jax.random.key(0), jnp.float32(-2))
    first, second, third = params["blocks"]["kernel"]
    assert not np.allclose(first, second)
    assert not np.allclose(second, third)


def test_remat_changes_neither_parameters_nor_gradients():
    x = jax.random.normal(jax.random.key(0), (4, 5))
    trees, grads, jaxprs = [], [], []
    for remat in REMATS:
        model = build(_config(depth=6, width=8, remat=remat), (5,), 3)
        params = jax.jit(model.init)(jax.random.key(1), jnp.float32(-1))

        def loss(params, apply=model.apply):
            return jnp.sum(jnp.sin(apply(params, x)))

        trees.append(params)
        grads.append(jax.jit(jax.grad(loss))(params))
        jaxprs.append(str(jax.make_jaxpr(jax.grad(loss))(params)))
    for tree, grad in zip(trees[1:], grads[1:], strict=True):
        jax.tree.map(np.testing.assert_array_equal, tree, trees[0])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), grad, grads[0]
        )
    # The three programs do differ: what is kept for the backward pass is another thing.
    assert len(set(jaxprs)) == 3


def test_keeping_products_computes_no_convolution_again():
    images, counts = jnp.zeros((2, 28, 28, 1)), {}
    for remat in REMATS:
        options = {"architecture": "mnist10", "depth": 10, "width": 4, "remat": remat}
        model = build(_config(**options), images.shape[1:], 10)
        params = jax.eval_shape(model.init, jax.random.key(0), jnp.float32(-1))
        gradient = jax.grad(lambda params, apply=model.apply: apply(params, images).sum())
        counts[remat] = str(jax.make_jaxpr(gradient)(params)).count("conv_general_dilated[")
    # Three runs of blocks, each of which is one convolution in one scan.
    assert counts["save_dots"] == counts["none"] == counts["full"] - 3


@pytest.mark.parametrize(("unroll", "barriers"), [(3, True), (1, False)])
def test_full_rematerialization_of_unrolled_blocks_has_barriers(unroll, barriers):
    x = jnp.ones((2, 8))
    for remat in REMATS:
        net = DenseStack("highway", depth=4, width=8, num_classes=3, remat=remat, unroll=unroll)
        params = jax.eval_shape(net.init, jax.random.key(0), x)
        gradient = jax.grad(lambda params, net=net: net.apply(params, x)[0].sum())
        lowered = jax.jit(gradient).lower(params).as_text()
        # Without a loop, nothing else keeps the compiler from merging both passes.
        assert ("optimization_barrier" in lowered) == (barriers and remat == "full")


def test_activations_are_those_of_the_forward_pass():
    model = build(_config(depth=5, width=8), (5,), 3)
    params = model.init(jax.random.key(0), jnp.float32(-1))
    x = jax.random.normal(jax.random.key(1), (4, 5))
    logits, (blocks,) = model.activations(params, x)
    np.testing.assert_allclose(logits, model.apply(params, x), rtol=1e-5, atol=1e-6)
    assert blocks.t.shape == (model.num_blocks, 4, 8) == (4, 4, 8)
    before = blocks.y[:-1]
    np.testing.assert_allclose(
        blocks.y[1:], blocks.h[1:] * blocks.t[1:] + before * (1 - blocks.t[1:]), rtol=1e-5
    )


@pytest.mark.parametrize("kernel_sizes", [(), (3, 1)])
def test_a_function_of_each_block_is_collected_in_place_of_its_activations(kernel_sizes):
    class Stack(nn.Module):
        collect: Any

        @nn.compact
        def __call__(self, x, gates):
            if kernel_sizes:
                block = BlockGroup("highway", kernel_sizes, 3, {}, name="blocks")
            else:
                block = BLOCKS["highway"](3, name="blocks")
            return scan_blocks(block, x, 2, gates, collect=self.collect)

    x = jax.random.normal(jax.random.key(0), (4, 5, 5, 3) if kernel_sizes else (4, 3))
    gates = jnp.full((2, 2) if kernel_sizes else 2, jnp.nan)
    params = Stack(False).init(jax.random.key(1), x, gates)
    y, nothing = Stack(False).apply(params, x, gates)
    assert nothing is None
    _, blocks = Stack(True).apply(params, x, gates)

    def observe(block):
        assert block.y.shape == x.shape
        return {"y": block.y.sum(), "change": block.y[0] - block.x[0]}

    again, found = Stack(observe).apply(params, x, gates)
    np.testing.assert_array_equal(again, y)
    # Groups of two blocks have an axis for each of both.
    blocks = jax.tree.map(lambda leaf: leaf.reshape(-1, *x.shape), blocks)
    found = {name: leaf.reshape(len(blocks.y), -1) for name, leaf in found.items()}
    for i, (before, after) in enumerate(zip(blocks.x, blocks.y, strict=True)):
        np.testing.assert_allclose(found["y"][i], after.sum(), rtol=1e-5)
        np.testing.assert_allclose(found["change"][i], (after - before)[0].ravel(), atol=1e-6)


def test_forced_gates_reach_the_layers_they_name():
    model = build(_config(depth=5, width=8), (5,), 3)
    params = model.init(jax.random.key(0), jnp.float32(0))
    x = jax.random.normal(jax.random.key(1), (4, 5))
    gates = jnp.array([jnp.nan, 0.0, 1.0, jnp.nan])
    _, (free,) = model.activations(params, x)
    _, (forced,) = model.activations(params, x, gates)
    np.testing.assert_allclose(forced.y[0], free.y[0], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(forced.y[1], forced.y[0])
    np.testing.assert_allclose(forced.y[2], forced.h[2], rtol=1e-6)
    assert 0 < forced.t[3].min() < forced.t[3].max() < 1


def test_the_gate_bias_is_a_number_of_the_trial():
    model = build(_config(depth=3, width=8), (5,), 3)
    init = jax.jit(model.init)
    low, high = (init(jax.random.key(0), jnp.float32(b)) for b in (-7, -1))
    np.testing.assert_array_equal(low["blocks"]["transform_bias"], np.full((2, 8), -7.0))
    np.testing.assert_array_equal(high["blocks"]["transform_bias"], np.full((2, 8), -1.0))
    jax.tree.map(np.testing.assert_array_equal, set_transform_bias(low, -1.0), high)
    assert init._cache_size() == 1


def test_depth_one_is_a_plain_layer_and_a_softmax():
    model = build(_config(depth=1, width=8), (5,), 3)
    assert model.num_parameters == 5 * 8 + 8 + 8 * 3 + 3
    params = model.init(jax.random.key(0), jnp.float32(-1))
    assert model.apply(params, jnp.ones((2, 5))).shape == (2, 3)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_weights():
    x = jax.random.normal(jax.random.key(1), (64, 5))
    exact = build(_config(depth=5, width=32), (5,), 3)
    short = build(_config(depth=5, width=32, dtype="bfloat16"), (5,), 3)
    params = short.init(jax.random.key(0), jnp.float32(-1))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype("float32")}
    logits = short.apply(params, x)
    assert logits.dtype == jnp.float32
    error = np.abs(logits - exact.apply(params, x)).max()
    assert 1e-5 < error < 0.1


@pytest.mark.parametrize("block", BLOCKS.names())
def test_bfloat16_sums_the_gradients_of_biases_in_float32(block):
    # 1,000 equal gradients of one; a sum in bfloat16 sticks at 256.
    layer = BLOCKS[block](2, dtype=jnp.bfloat16)
    if block == "rezero":
        layer = layer.clone(residual_scale=1.0)
    x = jnp.ones((1000, 2), jnp.bfloat16)
    params = jax.jit(layer.init)(jax.random.key(0), x)["params"]
    params["kernel"] = jnp.zeros_like(params["kernel"])
    params["bias"] = jnp.ones_like(params["bias"])

    def loss(params, x):
        y = layer.apply({"params": params}, x)
        assert y.dtype == jnp.bfloat16
        return jnp.sum(y.astype(jnp.float32))

    gradient_of = jax.jit(jax.grad(loss))
    gradient, one = gradient_of(params, x)["bias"], gradient_of(params, x[:1])["bias"]
    assert np.all(one != 0)
    # The gradient of this bias passes other products, whose rounding depends on the compiler.
    np.testing.assert_allclose(gradient, 1000 * one, rtol=1e-2 if block == "gru" else 1e-4)


@pytest.mark.parametrize("architecture", ["dense", pytest.param("mnist10", marks=pytest.mark.slow)])
def test_products_and_their_gradients_have_the_precision_asked_for(architecture):
    images, results = jnp.ones((2, 28, 28, 1)), []
    for precision, name in (
        ("float32", "HIGHEST"),
        ("tensorfloat32", "HIGH"),
        ("bfloat16", "DEFAULT"),
    ):
        options = {"architecture": architecture, "depth": 10, "width": 4, "precision": precision}
        model = build(_config(**options), images.shape[1:], 10)
        params = jax.jit(model.init)(jax.random.key(0), jnp.float32(-1))
        gradient = jax.grad(lambda params, apply=model.apply: apply(params, images).sum())
        program = str(jax.make_jaxpr(gradient)(params))
        found = set(re.findall(r"precision=(None|\(.*?\))", program))
        expected = f"(Precision.{name}, Precision.{name})"
        # The gradients of convolutions that are written here are for CPU, which has one precision.
        assert found - {"None"} == {expected}
        assert "None" not in found or architecture == "mnist10"
        results.append(jax.jit(model.apply)(params, images))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_jax_multiplies_small_matrices_right():
    # The canary of github.com/jax-ml/jax/issues/39103: a jitted, vmapped small matrix-vector
    # product followed by a sum was wrong on CPU in jax 0.10.2.
    a = jax.random.normal(jax.random.key(0), (7, 3, 3))
    v = jax.random.normal(jax.random.key(1), (7, 3))

    def total(a, v):
        return jnp.sum(jax.vmap(lambda a, v: a @ v)(a, v))

    expected = np.einsum("bij,bj->", np.asarray(a, np.float64), np.asarray(v, np.float64))
    np.testing.assert_allclose(jax.jit(total)(a, v), expected, rtol=1e-4)
    np.testing.assert_allclose(total(a, v), expected, rtol=1e-4)
