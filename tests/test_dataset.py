"""Data sets of the user: given arrays, .npz files, registered loaders."""

import json
import re

import jax
import numpy as np
import pytest

import highway_jax
from highway_jax import Dataset, UserError, run
from highway_jax.config import config as config_lib
from highway_jax.data import dataset as dataset_lib
from highway_jax.data import preprocess
from highway_jax.main import main
from highway_jax.registry import DATASETS


def _arrays(shape=(4, 4), dtype=np.uint8, num_train=60, num_test=20, num_classes=3, seed=0):
    """Random examples that contain their class, so that it can be learned."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for part, count in (("train", num_train), ("test", num_test)):
        labels = rng.integers(0, num_classes, count)
        x = rng.integers(0, 100, (count, *shape))
        x.reshape(count, -1)[np.arange(count), labels] = 255
        arrays |= {f"x_{part}": x.astype(dtype), f"y_{part}": labels}
    return arrays


@pytest.fixture
def quick_config(small_config):
    small_config.seeds = (0,)
    small_config.data.valid_size = 10
    small_config.training.batch_size = 10
    return small_config


# Dataset.from_arrays


@pytest.mark.parametrize(
    ("shape", "dtype", "example_shape", "stored"),
    [
        ((4, 5), np.uint8, (4, 5, 1), np.uint8),
        ((4, 5, 3), np.float64, (4, 5, 3), np.float32),
        ((7,), np.float16, (7,), np.float32),
        ((7,), np.uint8, (7,), np.uint8),
    ],
)
def test_arrays_of_each_kind_are_taken(shape, dtype, example_shape, stored):
    arrays = _arrays(shape, dtype)
    dataset = Dataset.from_arrays(**arrays)
    assert dataset.example_shape == example_shape
    assert dataset.train.images.dtype == dataset.test.images.dtype == stored
    np.testing.assert_array_equal(dataset.train.images.reshape(60, *shape), arrays["x_train"])
    np.testing.assert_array_equal(dataset.test.labels, arrays["y_test"])
    assert (dataset.train.size, dataset.valid.size, dataset.test.size) == (60, 0, 20)
    assert dataset.class_names == ("0", "1", "2")


def test_lists_and_device_arrays_are_taken():
    x = jax.numpy.arange(12, dtype=jax.numpy.float32).reshape(6, 2)
    dataset = Dataset.from_arrays(x, [0, 1] * 3, [[0.5, 1.5]], [1], class_names=["a", "b"])
    np.testing.assert_array_equal(dataset.train.images, np.arange(12).reshape(6, 2))
    assert dataset.class_names == ("a", "b")


X, Y = np.zeros((4, 3), np.float32), np.array([0, 1, 0, 1])


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        ({"x_train": X.astype(int)}, TypeError, "x_train is int64; allowed: uint8 or a float type"),
        ({"x_test": X > 0}, TypeError, "x_test is bool; allowed: uint8 or a float type"),
        ({"x_train": X[0]}, ValueError, "x_train has the shape [3]; allowed: [n, features], "),
        ({"x_test": X[:0]}, ValueError, "x_test has the shape [0, 3]; allowed: [n, features], "),
        ({"x_train": [[1.0], [1.0, 2.0]]}, ValueError, "x_train is not an array ("),
        ({"x_train": X + np.nan}, ValueError, "x_train has values that are not finite"),
        ({"x_test": X.astype(np.float64) + 1e300}, ValueError, "x_test has values that are not"),
        ({"x_test": X.astype(np.uint8)}, TypeError, "x_test is uint8; allowed: float32, as x_trai"),
        ({"x_test": X[:, :2]}, ValueError, "x_test has examples of the shape [2]; allowed: [3], "),
        ({"y_train": Y / 2}, TypeError, "y_train is float64; allowed: an integer type"),
        ({"y_train": Y > 0}, TypeError, "y_train is bool; allowed: an integer type"),
        ({"y_test": Y[:3]}, ValueError, "y_test has the shape [3]; allowed: [4], a label for each"),
        ({"y_test": Y[:, None]}, ValueError, "y_test has the shape [4, 1]; allowed: [4]"),
        ({"y_test": -Y}, ValueError, "y_test has labels from -1 to 0; allowed: 0 to 1, the labels"),
        ({"y_test": 2 * Y}, ValueError, "y_test has labels from 0 to 2; allowed: 0 to 1, the lab"),
        (
            {"y_train": Y.astype(np.uint64) * 2**63, "class_names": None},
            ValueError,
            "y_train has labels from 0 to 9223372036854775808; allowed: 0 to 99999, as each class",
        ),
        ({"class_names": "ab"}, TypeError, "class_names is 'ab'; allowed: a sequence of strings"),
        ({"class_names": [0, 1]}, TypeError, "class_names is [0, 1]; allowed: a sequence of str"),
        ({"class_names": ["a", "a"]}, ValueError, "class_names is ['a', 'a']; allowed: different"),
        ({"class_names": 2}, TypeError, "class_names is 2; allowed: a sequence of strings"),
        ({"name": 3}, TypeError, "name is 3; allowed: a string"),
        ({"max_value": 0}, ValueError, "max_value is 0; allowed: an integer from 1 to 255"),
        ({"max_value": "16"}, ValueError, "max_value is '16'; allowed: an integer from 1 to 255"),
        (
            {"x_train": np.full((4, 3), 17, np.uint8), "max_value": 16},
            ValueError,
            "x_train has pixels of up to 17; allowed: up to 16, the max_value",
        ),
    ],
)
def test_what_is_wrong_with_arrays_is_said_in_the_words_of_the_caller(change, kind, words):
    arrays = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "class_names": ("a", "b")}
    with pytest.raises(kind, match=re.escape(words)) as caught:
        Dataset.from_arrays(**(arrays | change))
    assert "\n" not in str(caught.value)


def test_the_type_of_the_examples_is_part_of_the_fingerprint():
    pixels = Dataset.from_arrays(**_arrays())
    assert pixels.fingerprint == Dataset.from_arrays(**_arrays()).fingerprint
    floats = Dataset.from_arrays(**_arrays(dtype=np.float32))
    assert floats.fingerprint != pixels.fingerprint


def test_all_that_training_depends_on_is_part_of_the_fingerprint():
    pixels = {k: v // 16 if v.dtype == np.uint8 else v for k, v in _arrays().items()}
    usual = Dataset.from_arrays(**pixels)
    others = [
        Dataset.from_arrays(**pixels, max_value=16),
        Dataset.from_arrays(**pixels, class_names=tuple("0123")),
        Dataset.from_arrays(**pixels, class_names=tuple("012"), max_value=17),
        Dataset.from_arrays(**pixels, class_names=tuple("021")),
    ]
    assert usual.fingerprint == usual.arrays_fingerprint
    assert len({data.fingerprint for data in (usual, *others)}) == 5
    assert {data.arrays_fingerprint for data in others} == {usual.fingerprint}
    arrays = _arrays(dtype=np.float32)
    floats = [Dataset.from_arrays(**arrays, max_value=value) for value in (16, 255)]
    assert floats[0].fingerprint == floats[1].fingerprint  # Floats are not scaled by it.


def test_a_run_whose_fingerprint_is_of_the_arrays_alone_resumes(quick_config, tmp_path):
    quick_config.training.epochs, quick_config.data.valid_size = 1, 0
    dataset = Dataset.from_arrays(**_arrays(), class_names=("a", "b", "c"))
    rows = run(quick_config, tmp_path, dataset=dataset)
    path = tmp_path / "environment.json"
    text = path.read_text()
    assert text.count(dataset.fingerprint) == 1
    path.write_text(text.replace(dataset.fingerprint, dataset.arrays_fingerprint))
    assert run(quick_config, tmp_path, dataset=dataset) == rows


# Training on arrays


def test_a_run_learns_given_arrays_and_resumes_on_no_others(quick_config, tmp_path):
    quick_config.training.epochs = 15
    dataset = Dataset.from_arrays(**_arrays(), class_names=("a", "b", "c"))
    rows = run(quick_config, tmp_path, dataset=dataset)
    assert rows[0]["test_accuracy"] > 0.8
    assert quick_config.data.name == "digits"  # The caller's config is left alone.
    assert json.loads((tmp_path / "config.json").read_text())["data"]["name"] == "arrays"
    again = Dataset.from_arrays(**_arrays(), class_names=("a", "b", "c"))
    assert run(quick_config, tmp_path, dataset=again) == rows
    others = _arrays()
    others["x_test"][3, 1, 2] += 1
    for other in (
        Dataset.from_arrays(**others, class_names=("a", "b", "c")),
        Dataset.from_arrays(**_arrays(), class_names=("a", "c", "b")),
        Dataset.from_arrays(**_arrays(), class_names=("a", "b", "c", "d")),
    ):
        with pytest.raises(UserError, match="holds a run on other data: arrays had fingerprint"):
            run(quick_config, tmp_path, dataset=other)
    with pytest.raises(UserError, match=r"dataset=\.\.\."):
        run(config_lib.from_json((tmp_path / "config.json").read_text()), tmp_path)


def test_a_data_set_that_does_not_fit_the_call_is_refused(quick_config, tmp_path):
    dataset = Dataset.from_arrays(**_arrays())
    with pytest.raises(TypeError, match=r"dataset is \[1\]; allowed: a highway_jax\.Dataset"):
        run(quick_config, tmp_path, dataset=[1])
    with pytest.raises(ValueError, match="dataset has a validation split of 5 examples"):
        run(quick_config, tmp_path, dataset=dataset.with_validation(5))
    quick_config.sweep.grid.data = {"name": ("digits", "mnist")}
    with pytest.raises(ValueError, match=r"the config varies data\.name"):
        run(quick_config, tmp_path, dataset=dataset)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arrays", "settings", "words"),
    [
        ({"dtype": np.float32}, {"data.scaling": "signed"}, "config.data.scaling is 'signed'"),
        ({"dtype": np.float32}, {"data.scaling": "caffe"}, "config.data.scaling is 'caffe'"),
        (
            {"shape": (9,)},
            {"data.scaling": "global_contrast_normalization"},
            "config.data.scaling is 'global_contrast_normalization'; allowed: another scaling",
        ),
        (
            {"shape": (9,)},
            {"data.random_crop_padding": 1},
            "config.data.random_crop_padding is 1; allowed: 0, as",
        ),
        (
            {"shape": (9,)},
            {"data.random_flip": True},
            "config.data.random_flip is True; allowed: False, as",
        ),
        (
            {"shape": (9,)},
            {"model.architecture": "mnist10", "model.depth": 10},
            "config.model.architecture is 'mnist10'; allowed: 'dense', as",
        ),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(
    arrays, settings, words, quick_config, tmp_path
):
    for key, value in settings.items():
        config_lib.put(quick_config, key, value)
    with pytest.raises(UserError, match=re.escape(words)):
        run(quick_config, tmp_path, dataset=Dataset.from_arrays(**_arrays(**arrays)))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(4, 4, 2), (6,)])
def test_preprocessing_of_floats(shape):
    data = highway_jax.default_config().data
    x = np.random.default_rng(0).normal(3, 2, (50, *shape)).astype(np.float32)
    dataset = Dataset.from_arrays(x, np.zeros(50, int), x[:2], [0, 0])
    held, prepare = preprocess.examples(data, dataset)
    np.testing.assert_array_equal(prepare(held[:50]), x)
    data.subtract_mean = True
    held, prepare = preprocess.examples(data, dataset)
    np.testing.assert_allclose(prepare(held[:50]), x - x.mean(0), atol=1e-5)
    data.zca_epsilon = 1e-4
    held, prepare = preprocess.examples(data, dataset)
    inputs = np.asarray(prepare(held[:50])).reshape(50, -1)
    np.testing.assert_allclose(np.cov(inputs.T, bias=True), np.eye(inputs.shape[1]), atol=2e-3)
    fitted = preprocess.fit_all(data, dataset)
    np.testing.assert_array_equal(fitted.held(x), held[:50])


# A file


def _train_file(tmp_path, path):
    experiment = tmp_path / "experiment.py"
    experiment.write_text(
        "import highway_jax\n"
        "def get_config():\n"
        "    config = highway_jax.default_config()\n"
        "    config.model.depth, config.model.width = 2, 8\n"
        "    config.training.epochs, config.training.batch_size = 1, 10\n"
        "    config.runtime.progress = config.runtime.tensorboard = False\n"
        "    return config\n"
    )
    flags = [f"--config={experiment}", f"--workdir={tmp_path / 'run'}", "--config.data.name=file"]
    return main(["highway-jax", *flags, f"--config.data.file={path}"])


def test_a_file_of_arrays_is_trained_on_and_may_move(tmp_path, capsys):
    np.savez(tmp_path / "mine.npz", **_arrays(), class_names=np.array(["a", "b", "c"]))
    assert _train_file(tmp_path, tmp_path / "mine.npz") == 0
    assert highway_jax.load(tmp_path / "run").class_names == ("a", "b", "c")
    names = {"class_names": np.array(["a", "b", "c"])}
    np.savez_compressed(tmp_path / "moved.npz", **_arrays(), **names)
    assert _train_file(tmp_path, tmp_path / "moved.npz") == 0
    for name in ("mine.npz", "moved.npz"):
        (tmp_path / name).unlink()
    assert highway_jax.load(tmp_path / "run").class_names == ("a", "b", "c")
    np.savez(tmp_path / "mine.npz", **_arrays(seed=1), **names)
    capsys.readouterr()
    assert _train_file(tmp_path, tmp_path / "mine.npz") == 2
    assert "holds a run on other data: file had fingerprint" in capsys.readouterr().err


def test_a_file_may_hold_the_largest_value_of_a_pixel(tmp_path, quick_config):
    pixels = {k: v // 16 if v.dtype == np.uint8 else v for k, v in _arrays().items()}
    np.savez(tmp_path / "mine.npz", **pixels, max_value=16)
    quick_config.data.name, quick_config.data.file = "file", str(tmp_path / "mine.npz")
    assert dataset_lib.load(quick_config.data).max_value == 16
    np.savez(tmp_path / "mine.npz", **pixels, max_value=[16])
    with pytest.raises(UserError, match=r"max_value is \[16\]; allowed: an integer from 1 to 255"):
        dataset_lib.load(quick_config.data)


def test_a_drawn_setting_is_checked_at_the_values_that_are_drawn(quick_config, tmp_path):
    dataset = Dataset.from_arrays(**_arrays(dtype=np.float32))
    quick_config.data.valid_size, quick_config.training.epochs = 0, 1
    quick_config.training.batch_size, quick_config.data.scaling = 100, "signed"
    quick_config.sweep.trials = 2
    quick_config.sweep.draw.training = {"batch_size": ("choice", 10, 20)}
    quick_config.sweep.draw.data = {"scaling": ("choice", "unit", "standardize")}
    rows = run(quick_config, tmp_path / "run", dataset=dataset)
    assert all(row["status"] == "finished" for row in rows)
    quick_config.sweep.draw.training.batch_size = ("choice", 100, 200)
    with pytest.raises(UserError, match=r"training.batch_size is .00; allowed: 1 to 60"):
        run(quick_config, tmp_path / "other", dataset=dataset)


class _Bomb:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def _without(name):
    return {key: value for key, value in _arrays().items() if key != name}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "No such file or directory"),
        (b"", "it is not an .npz file"),
        (b"no archive", "it is not an .npz file"),
        (_without("y_test"), "it lacks y_test; allowed: x_train, y_train, x_test, y_test, and"),
        (_arrays() | {"classnames": np.array("a")}, "it has an array 'classnames'; allowed: x_tr"),
        (_arrays() | {"x_train": np.array([_Bomb()])}, "Object arrays cannot be loaded when"),
        (_arrays() | {"y_train": np.ones(60)}, "y_train is float64; allowed: an integer type"),
        (_arrays() | {"class_names": np.array("abc")}, "class_names is 'abc'; allowed: a sequence"),
    ],
)
def test_what_is_wrong_with_a_file_is_one_line(content, words, tmp_path, capsys):
    path = tmp_path / "mine.npz"
    if isinstance(content, dict):
        np.savez(path, **content)
    elif content is not None:
        path.write_bytes(content)
    assert _train_file(tmp_path, path) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: config.data.file is {str(path)!r}: ")
    assert words in line


def test_no_damage_to_a_file_ends_in_a_traceback(tmp_path):
    path = tmp_path / "mine.npz"
    np.savez_compressed(path, **_arrays())
    whole, rng = path.read_bytes(), np.random.default_rng(0)
    data = highway_jax.default_config().data
    data.update({"name": "file", "file": str(path)})
    fingerprint = dataset_lib.load(data).fingerprint
    refused = 0
    for place in rng.integers(0, len(whole), 200):
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged if place % 2 else whole[:place])
        try:
            assert dataset_lib.load(data).fingerprint == fingerprint
        except UserError:
            refused += 1
    assert refused > 100


@pytest.mark.parametrize(
    ("name", "file", "is_allowed"),
    [("file", "a.npz", True), ("digits", "", True), ("file", "", False), ("digits", "a", False)],
)
def test_a_file_is_named_exactly_where_it_is_read(name, file, is_allowed):
    config = highway_jax.default_config()
    config.data.update({"name": name, "file": file})
    if is_allowed:
        config_lib.validate(config)
    else:
        with pytest.raises(UserError, match=r"config\.data\.file is .*; allowed: the path of an"):
            config_lib.validate(config)


# A registered data set


def test_a_registered_data_set_is_a_value_of_data_name(quick_config, tmp_path, monkeypatch):
    list(DATASETS)  # The built-in entries.
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))

    @highway_jax.register_dataset("mine")
    def load_mine(data):
        return Dataset.from_arrays(**_arrays(), name="mine")

    quick_config.data.name = "mine"
    (row,) = run(quick_config, tmp_path)
    assert row["dataset"] == "mine"
    quick_config.data.name = "other"
    with pytest.raises(UserError, match=r"allowed: .*\bdigits\b.*, mine$"):
        config_lib.validate(quick_config)


def test_a_registered_function_that_returns_no_data_set_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(DATASETS, "_entries", DATASETS._entries | {"nothing": lambda data: None})
    config = highway_jax.default_config()
    config.data.name = "nothing"
    words = "data set 'nothing' is None; allowed: a highway_jax.Dataset"
    with pytest.raises(TypeError, match=re.escape(words)):
        run(config, tmp_path / "run")
