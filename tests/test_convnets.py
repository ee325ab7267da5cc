"""The convolutional nets of Tables 1 to 3, and what only their training uses."""

import dataclasses
import functools
import json
import runpy
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from highway_jax import default_config
from highway_jax.config import config
from highway_jax.config.schema import depth
from highway_jax.config.sections import Data
from highway_jax.data import preprocess
from highway_jax.data.dataset import Dataset, Split
from highway_jax.errors import UserError
from highway_jax.nn import architectures, stacks
from highway_jax.nn.model import build
from highway_jax.nn.stacks import ConvStack
from highway_jax.registry import BLOCKS
from highway_jax.runs import experiment

EXPERIMENTS = Path(__file__).parents[1] / "experiments"
_BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
_multiply_adds = runpy.run_path(str(_BENCHMARKS / "multiply_adds.py"))["of_model"]


def _get_config(name, variant):
    return runpy.run_path(str(EXPERIMENTS / f"{name}.py"))["get_config"](variant)


@pytest.mark.parametrize(
    ("name", "variant", "image_shape", "num_classes", "parameters", "multiply_adds"),
    [
        # Parameters: 39K and 151K (Table 1), ~236K, ~2.3M and ~1.25M (Table 2); Table 3's are
        # those in the authors' logs. Multiplications: about 30M in FitNet 1.
        ("table1_mnist", "width16", (28, 28, 1), 10, 38_986, 8_028_576),
        ("table1_mnist", "width32", (28, 28, 1), 10, 151_690, 31_650_624),
        ("table2_fitnets", "highway_a", (32, 32, 3), 10, 236_328, 31_131_716),
        ("table2_fitnets", "highway_b", (32, 32, 3), 10, 2_277_688, 330_041_028),
        ("table2_fitnets", "highway_c", (32, 32, 3), 10, 1_264_502, 229_484_904),
        ("table3_cifar", "cifar10", (32, 32, 3), 10, 2_256_838, 330_826_728),
        ("table3_cifar", "cifar100", (32, 32, 3), 100, 2_265_928, 330_835_728),
    ],
)
def test_counts_of_the_paper(name, variant, image_shape, num_classes, parameters, multiply_adds):
    settings, short = (_get_config(name, variant + end) for end in ("", ",short"))
    config.validate(settings)
    config.validate(short)
    assert short.model.to_dict() == settings.model.to_dict()
    model = build(settings.model, image_shape, num_classes)
    assert model.num_parameters == parameters
    assert _multiply_adds(model, image_shape) == multiply_adds


DEPTHS = {
    "mnist10": 10,
    "highway_a": 11,
    "highway_b": 19,
    "highway_c": 32,
    "cifar19": 19,
    "deep110": 110,
}


@pytest.mark.parametrize("name", DEPTHS)
def test_layers_are_counted_as_the_tables_do(name):
    assert depth(name, 8) == DEPTHS[name]


def _small(layers, block="highway", **fields):
    net = ConvStack(block, layers, 3, {"activation": "relu"}, **fields)
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 1))
    return net, jax.jit(net.init)(jax.random.key(1), x)["params"], x


@pytest.mark.parametrize("block", BLOCKS.names())
def test_alternating_blocks_are_those_blocks_in_turn(block):
    layers = (architectures.Plain(4), architectures.Blocks(2, (1, 3)))
    net, params, x = _small(layers, block)
    logits, (found,) = jax.jit(functools.partial(net.apply, collect=True))({"params": params}, x)
    apply = {size: jax.jit(BLOCKS[block](4, kernel_size=size).apply) for size in (1, 3)}
    x = BLOCKS["plain"](4, kernel_size=3).apply({"params": params["plain0"]}, x)
    for number, size in enumerate((1, 3, 1, 3)):
        group, place = divmod(number, 2)
        own = params["blocks1"][f"block{place}"]
        own = jax.tree.map(lambda leaf, group=group: leaf[group], own)
        x = apply[size]({"params": own}, x)
        np.testing.assert_allclose(found.y[number], x, rtol=1e-5, atol=1e-6)
    head = params["head"]
    expected = x.reshape(2, -1) @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-5)


def test_forced_gates_reach_the_blocks_they_name():
    layers = (architectures.Plain(4), architectures.Blocks(1), architectures.Blocks(2, (1, 3)))
    net, params, x = _small(layers)
    gates = jnp.array([jnp.nan, 0.0, jnp.nan, 1.0, 0.0])
    _, (first, second) = net.apply({"params": params}, x, gates, True)
    assert first.t.min() < first.t.max()
    np.testing.assert_array_equal(second.y[0], first.y[0])
    np.testing.assert_array_equal(second.t[2], np.ones_like(second.t[2]))
    np.testing.assert_array_equal(second.y[3], second.y[2])


def _model(**changes):
    section = default_config().model
    section.update({"architecture": "highway_a", "depth": 11, "width": 4, **changes})
    return build(section, (8, 8, 1), 3)


def test_units_are_dropped_in_training_alone():
    x = jax.random.normal(jax.random.key(0), (4, 8, 8, 1))
    model = _model()
    params, apply = jax.jit(model.init)(jax.random.key(1), jnp.float32(-1)), jax.jit(model.apply)
    calm = apply(params, x)
    np.testing.assert_array_equal(calm, apply(params, x))
    keys = jax.random.split(jax.random.key(2), 8)
    one, two = (apply(params, x, k) for k in (keys[:4], keys[4:]))
    assert np.abs(one - calm).max() > 1e-3
    assert np.abs(one - two).max() > 1e-3
    still = jax.jit(_model(dropout=False).apply)(params, x, keys[:4])
    np.testing.assert_allclose(still, calm, rtol=1e-6)
    # What is dropped of an image does not depend on the others.
    some = apply(params, x.at[0].add(1), keys[:4])
    assert np.abs(some[0] - one[0]).max() > 1e-3
    np.testing.assert_allclose(some[1:], one[1:], rtol=1e-5, atol=1e-6)
    # Equal images with keys of their own lose other units.
    logits = apply(params, jnp.ones_like(x), keys[:4])
    assert len(np.unique(np.round(logits[:, 0], 4))) == 4


def test_first_and_last_kernels_have_initializers_of_their_own():
    model = _model(width=64, first_initializer="unit_normal", last_initializer="tenth_normal")
    params = jax.jit(model.init)(jax.random.key(0), jnp.float32(-1))
    assert np.std(params["plain1"]["kernel"]) == pytest.approx(1.0, rel=0.1)
    assert np.std(params["head"]["kernel"]) == pytest.approx(0.1, rel=0.1)
    # `normalized` for ReLU: the variance of 2 / mean fan.
    assert np.std(params["plain5"]["kernel"]) == pytest.approx(np.sqrt(2 / (96 * 9)), rel=0.05)


def test_images_too_small_are_named():
    section = default_config().model
    section.update({"architecture": "mnist10", "depth": 10})
    with pytest.raises(UserError, match="'mnist10'; images of 4x4x1 are too small"):
        build(section, (4, 4, 1), 10)


def test_depth_and_architecture_agree():
    settings = default_config()
    settings.model.architecture = "cifar19"
    with pytest.raises(UserError, match=r"model\.depth is 10.*19 where model\.architecture"):
        config.validate(settings)


def _images(n=50):
    return np.random.default_rng(0).integers(0, 256, (n, 6, 5, 3), np.uint8)


def test_contrast_normalization_by_hand():
    section = Data(scaling="global_contrast_normalization", contrast_std=0.5, subtract_mean=True)
    images = _images()
    images[3] = 77
    x = images.astype(np.float64) / 255
    x -= x.mean(axis=(1, 2, 3), keepdims=True)
    std = x.std(axis=(1, 2, 3), keepdims=True)
    x = np.where(std > 1e-6, 0.5 * x / np.maximum(std, 1e-6), 0)
    found = preprocess.fit(section, images, 255)(jnp.asarray(images))
    np.testing.assert_allclose(found, x - x.mean(axis=0), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_standardized_features_have_mean_0_and_variance_1(dtype):
    images = _images(2500).astype(dtype)
    images[:, 2, 3, 1] = 7
    if dtype == np.float32:
        images[:, 0] *= 1000
        images[:, 1] += 1e4
    x = np.asarray(preprocess.fit(Data(scaling="standardize"), images, 255)(jnp.asarray(images)))
    assert x.dtype == np.float32
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=5e-5)
    expected = np.ones((6, 5, 3))
    expected[2, 3, 1] = 0
    np.testing.assert_allclose(x.std(axis=0), expected, atol=1e-4)


def test_zca_whitens_by_hand():
    generator = np.random.default_rng(0)
    x = (generator.normal(size=(400, 5)) @ generator.normal(size=(5, 5)) + 3).astype(np.float32)
    mean, matrix = preprocess.zca(x, 0.0)
    white = (x - mean) @ matrix
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(5), atol=1e-3)
    # Of all matrices that whiten, ZCA's is the symmetric one: inputs stay close to the images.
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-5)
    covariance = np.cov(x.T, bias=True)
    matrix = preprocess.zca(x, 0.1)[1].astype(np.float64)
    np.testing.assert_allclose(
        matrix @ matrix @ (covariance + 0.1 * np.eye(5)), np.eye(5), atol=1e-3
    )


def _dataset(valid):
    labels = np.arange(60, dtype=np.int32) % 10
    images = np.random.default_rng(1).integers(0, 256, (60, 4, 4, 3), np.uint8)
    parts = (slice(0, 40 - valid), slice(40 - valid, 40), slice(40, 60))
    splits = [Split(images[part], labels[part]) for part in parts]
    return Dataset("cifar10", *splits, tuple("0123456789")), images


@pytest.mark.parametrize("valid", [0, 8])
def test_whitening_is_fitted_on_the_training_split_and_done_once(valid):
    dataset, images = _dataset(valid)
    section = Data(scaling="global_contrast_normalization", zca_epsilon=0.1)
    found, prepare = preprocess.examples(section, dataset)
    plain = preprocess.fit(section, dataset.train.images, 255)
    x = np.asarray(plain(jnp.asarray(images)), np.float64).reshape(60, -1)
    train = x[: dataset.train.size]
    covariance = np.cov(train.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    whitened = (x - train.mean(0)) @ (vectors / np.sqrt(values + 0.1)) @ vectors.T
    np.testing.assert_allclose(found.reshape(60, -1), whitened, atol=1e-3)
    np.testing.assert_array_equal(prepare(jnp.asarray(found)), found)
    assert preprocess.examples(section, dataset)[0] is found
    section = dataclasses.replace(section, random_flip=True)  # Not of whitening.
    assert preprocess.examples(section, dataset)[0] is found
    section = dataclasses.replace(section, zca_epsilon=0.2)
    assert preprocess.examples(section, dataset)[0] is not found


def test_without_whitening_the_devices_hold_the_stored_pixels():
    dataset, images = _dataset(8)
    found, _ = preprocess.examples(Data(), dataset)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, images)


def test_every_crop_is_a_place_of_the_padded_image_mirrored_or_not():
    section = Data(random_crop_padding=2, random_flip=True)
    images = _images(1)[0].astype(np.float32)
    x = jnp.asarray(np.broadcast_to(images, (2000, 6, 5, 3)))
    padded = np.pad(images, [(2, 2), (2, 2), (0, 0)])
    places = {}
    for row in range(5):
        for column in range(5):
            crop = padded[row : row + 6, column : column + 5]
            places[crop.tobytes()] = places[crop[:, ::-1].tobytes()] = 0
    assert len(places) == 50
    for crop in np.asarray(preprocess.augmentation(section)(jax.random.key(0), x)):
        places[crop.tobytes()] += 1
    # Each of the 50 with probability 1/50: 40 expected, standard deviation 6.3.
    assert min(places.values()) > 10
    assert max(places.values()) < 75


def test_without_augmentation_nothing_changes():
    x = jnp.asarray(_images(), jnp.float32)
    found = preprocess.augmentation(Data())(jax.random.key(0), x)
    np.testing.assert_array_equal(found, x)


def _early_losses(workdir):
    """The training losses of seed 1 over the first six epochs."""
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [line["train_loss"] for line in lines if line["seed"] == 1 and line["epoch"] <= 6]


@pytest.mark.slow
def test_a_convolutional_net_trains_alone_as_in_a_batch(tmp_path):
    settings = _get_config("table2_fitnets", "highway_a,short")
    settings.data.name = "digits"
    settings.data.random_crop_padding = 1
    settings.data.random_flip = False
    settings.model.width = 8
    settings.optimizer.learning_rate = 0.02
    settings.optimizer.boundaries = (1000,)
    settings.training.epochs = 20
    settings.runtime.progress = settings.runtime.tensorboard = False
    settings.seeds = (0, 1)
    rows = experiment.run(settings, tmp_path / "both")
    settings.seeds = (1,)
    experiment.run(settings, tmp_path / "alone")
    both, alone = (_early_losses(tmp_path / name) for name in ("both", "alone"))
    # The programs for one device and for two are rounded differently, and training lets the
    # differences grow, to 9e-5 after six epochs on some processors.
    np.testing.assert_allclose(both[0], alone[0], rtol=1e-7)
    np.testing.assert_allclose(both[:3], alone[:3], rtol=1e-5)
    assert all(row["train_loss"] < 2.1 and not row["diverged"] for row in rows)
    assert rows[0]["architecture"] == "highway_a"


def _seconds_to_compile_initialization(settings, image_shape):
    model = build(settings.model, image_shape, 10)
    draw = jax.jit(lambda key: model.init(key, -1.0))
    lowered = draw.lower(jax.random.key(0))
    began = time.process_time()
    lowered.compile()
    return time.process_time() - began


def test_the_first_weights_of_a_convolutional_net_compile_in_seconds(compiling):
    # With random bits of four axes, this ratio is above 50 with jax 0.12.
    dense = default_config()
    of_dense = _seconds_to_compile_initialization(dense, (28, 28, 1))
    of_mnist10 = _seconds_to_compile_initialization(
        _get_config("table1_mnist", "width16"), (28, 28, 1)
    )
    assert of_mnist10 < 8 * of_dense


def test_dropout_draws_the_same_units_as_flax_does():
    x = jnp.ones((3, 4, 4, 2))
    keys = jax.random.split(jax.random.key(0), 3)
    drop = nn.Dropout(0.5, deterministic=False, parent=None)
    expected = [drop.apply({}, image, rng=key) for image, key in zip(x, keys, strict=True)]
    np.testing.assert_array_equal(stacks._drop(0.5, keys, x), jnp.stack(expected))
