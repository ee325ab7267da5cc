"""Trained nets are loaded without their data set, and have the results of their training."""

import pickle
import re
import shutil
import subprocess
import sys
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

import highway_jax
from highway_jax.analysis import predict
from highway_jax.data.dataset import load as load_data
from highway_jax.registry import DATASETS


def _config():
    config = highway_jax.default_config()
    config.seeds = (3, 4)
    config.data.valid_size = 100
    config.model.depth, config.model.width = 3, 8
    config.training.epochs = 2
    config.runtime.progress = config.runtime.tensorboard = False
    config.cases.highway = {}
    config.cases.plain = {
        "data": {"scaling": "standardize"},
        "model": {"block": "plain"},
        "optimizer": {"weight_decay": 1e-4},
    }
    config.cases.white = ConfigDict(
        {"data": {"scaling": "contrast", "zca_epsilon": 0.1, "subtract_mean": True}}
    )
    return config


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of two highway, two plain and two highway nets on whitened inputs; rows; data."""
    path = tmp_path_factory.mktemp("runs") / "run"
    rows = highway_jax.run(_config(), path)
    return path, rows, load_data(_config().data)


@pytest.fixture
def copy(trained, tmp_path):
    """A copy of the run, which a test may change."""
    return shutil.copytree(trained[0], tmp_path / "copy")


@pytest.fixture
def no_data(monkeypatch):
    """Makes all data sets unavailable."""

    def refuse(data):
        raise highway_jax.UserError("there is no data set")

    monkeypatch.setattr(DATASETS, "_entries", dict.fromkeys(DATASETS, refuse))


def test_nets_give_the_numbers_of_their_training_without_the_data_set(trained, no_data):
    path, rows, dataset = trained
    for row in (rows[i] for i in (1, 2, 5)):  # One of each case.
        net = highway_jax.load(path, row["trial"])
        for split in ("train", "valid", "test"):
            found = net.evaluate(getattr(dataset, split).images, getattr(dataset, split).labels)
            assert found.accuracy == pytest.approx(row[f"{split}_accuracy"], abs=1e-9)
            assert found.loss == pytest.approx(row[f"{split}_loss"], rel=1e-5)


def test_any_number_of_examples_is_computed_by_one_program(trained):
    path, _, dataset = trained
    net = highway_jax.load(path, 0, batch_size=30)
    images = dataset.test.images
    logits = net.apply(images)
    for count in (0, 1, 29, 30, 31, 95):
        np.testing.assert_array_equal(net.apply(images[:count]), logits[:count])
    assert net._logits._cache_size() == 1
    np.testing.assert_array_equal(net.apply(images[:5, :, :, 0]), logits[:5])
    assert net.class_names == tuple("0123456789")
    probabilities = net.predict_proba(images)
    np.testing.assert_allclose(probabilities.sum(1), 1)
    np.testing.assert_array_equal(net.predict(images), probabilities.argmax(1))
    np.testing.assert_allclose(np.log(probabilities), jax.nn.log_softmax(logits), atol=1e-5)


def test_activations_are_those_of_every_block(trained):
    path, _, dataset = trained
    net = highway_jax.load(path, 1, batch_size=8)
    (run,) = net.activations(dataset.test.images[:11])
    assert run.y.shape == (2, 11, 8)
    np.testing.assert_array_equal(run.x[1], run.y[0])
    np.testing.assert_allclose(run.y, run.h * run.t + run.x * run.c, atol=1e-6)
    head = net.params["head"]
    logits = run.y[-1] @ head["kernel"] + head["bias"]
    np.testing.assert_allclose(logits, net.apply(dataset.test.images[:11]), atol=1e-5)


@pytest.mark.slow
def test_a_convolutional_net_is_loaded_too(tmp_path):
    config = _config()
    config.cases = ConfigDict({})
    config.seeds, config.training.epochs = (0,), 1
    config.model.architecture, config.model.depth, config.model.width = "highway_a", 11, 4
    config.data.pad = 1
    (row,) = highway_jax.run(config, tmp_path)
    test = load_data(config.data).test
    net = highway_jax.load(tmp_path)
    assert net.evaluate(test.images, test.labels).loss == pytest.approx(row["test_loss"], rel=1e-4)
    shapes = [run.t.shape for run in net.activations(test.images[:3])]
    assert shapes == [(2, 3, 8, 8, 4), (2, 3, 4, 4, 8), (2, 3, 2, 2, 16)]


@pytest.mark.parametrize("valid_size", [100, 0])
def test_the_best_is_that_of_validation_and_else_of_the_criterion(
    valid_size, trained, copy, monkeypatch
):
    path, rows, _ = trained
    best = max(rows, key=lambda row: row["valid_accuracy"])
    if not valid_size:
        # No other trial than the best by validation has the smallest training loss.
        others = [row for row in rows if row["trial"] != best["trial"]]
        best = others[0] | {"train_loss": 1e-6}
        real = predict.restore.read

        def read(workdir):
            saved = real(workdir)
            changed = [
                (best if row["trial"] == best["trial"] else row) | {"valid_accuracy": np.nan}
                for row in saved.rows
            ]
            return saved._replace(rows=changed)

        monkeypatch.setattr(predict.restore, "read", read)
    net, expected = highway_jax.load(path), highway_jax.load(path, best["trial"])
    assert net.config.to_json() == expected.config.to_json()
    jax.tree.map(np.testing.assert_array_equal, net.params, expected.params)


def test_the_config_of_a_net_trains_it_again(trained, tmp_path):
    path, rows, _ = trained
    # Of the second case, the settings of its own; of the first, a program of other tests.
    own = highway_jax.load(path, 3).config
    assert (own.model.block, own.data.scaling) == ("plain", "standardize")
    assert own.optimizer.weight_decay == 1e-4
    net = highway_jax.load(path, 1)
    (row,) = highway_jax.run(net.config, tmp_path)
    assert row["test_loss"] == rows[1]["test_loss"]
    again = highway_jax.load(tmp_path, 0)
    jax.tree.map(np.testing.assert_array_equal, net.params, again.params)


def test_a_net_is_pickled_without_its_programs(trained):
    path, _, dataset = trained
    net = highway_jax.load(path)
    predicted = net.predict(dataset.test.images)
    again = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(again.predict(dataset.test.images), predicted)


IMAGES = np.zeros((2, 8, 8, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda net: net.predict(IMAGES / 16), "images is float64; allowed: uint8, as in the data"),
        (
            lambda net: net.apply(IMAGES[0]),
            "images has the shape [8, 8, 1]; allowed: [n, 8, 8, 1] or [n, 8, 8]",
        ),
        (lambda net: net.activations(np.uint8(3)), "images has the shape []; allowed: [n, 8, 8, 1"),
        (lambda net: net.predict([[1], [1, 2]]), "images is not an array (setting an array elem"),
        (lambda net: net.evaluate(IMAGES[:, 1:], [0, 1]), "x has the shape [2, 7, 8, 1]; allowed:"),
        (lambda net: net.evaluate(IMAGES, [0]), "y has the shape [1]; allowed: [2], a class for"),
        (lambda net: net.evaluate(IMAGES[:0], np.zeros(0, int)), "y has the shape [0]; allowed: "),
        (lambda net: net.evaluate(IMAGES, [0.0, 1.0]), "y is float64; allowed: an integer type"),
        (lambda net: net.evaluate(IMAGES, [0, 10]), "y has classes from 0 to 10; allowed: 0 to 9"),
    ],
)
def test_what_is_wrong_with_examples_is_said_in_the_words_of_the_caller(call, words, trained):
    with pytest.raises(ValueError, match=re.escape(words)):
        call(highway_jax.load(trained[0], 0))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("nowhere",), "workdir is 'nowhere'; allowed: the directory of a run"),
        (("run", 6), "trial is 6; allowed: 'best' or a finished trial (0, 1, 2, 3, 4, 5)"),
        (("run", "worst"), "trial is 'worst'; allowed: 'best' or a finished trial"),
        (("run", True), "trial is True; allowed: 'best' or a finished trial"),
        (("run", "0"), "trial is '0'; allowed: 'best' or a finished trial"),
        (("run", np.int64(6)), "trial is np.int64(6); allowed: 'best' or a finished trial"),
    ],
)
def test_what_cannot_be_loaded_is_said(arguments, words, trained, monkeypatch):
    monkeypatch.chdir(trained[0].parent)
    with pytest.raises(ValueError, match=re.escape(words)):
        highway_jax.load(*arguments)
    with pytest.raises(ValueError, match="batch_size is 0; allowed: an integer of at least 1"):
        highway_jax.load("run", batch_size=0)


@pytest.mark.parametrize("read", [highway_jax.load, highway_jax.read_run])
def test_a_workdir_that_is_no_path_is_named(read):
    with pytest.raises(TypeError, match="workdir is None; allowed: a path"):
        read(None)


def test_a_trial_may_be_the_number_of_a_table_of_pandas(trained):
    net = highway_jax.load(trained[0], np.int64(1))
    assert net.config.seeds == (4,)


def test_why_a_trial_cannot_be_loaded_is_said(copy):
    text = (copy / "results.csv").read_text()
    first = text.splitlines(keepends=True)[1]
    assert first.count("finished,") == 1
    (copy / "results.csv").write_text(text.replace(first, first.replace("finished,", "failed,")))
    words = "trial is 0, which is failed; allowed: 'best' or a finished trial (1, 2, 3, 4, 5)"
    with pytest.raises(ValueError, match=re.escape(words)):
        highway_jax.load(copy, 0)
    (copy / "results.csv").write_text(text.replace("finished,", "failed,"))
    words = "whose trials are failed; allowed: a run with a trial that is finished"
    with pytest.raises(ValueError, match=re.escape(words)):
        highway_jax.load(copy)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_floats_that_are_not_finite_are_refused_as_in_training(value):
    constants = types.SimpleNamespace(on_device=None)
    shape = types.SimpleNamespace(example_shape=(3,), dtype="float32", constants=constants)
    net = predict.TrainedNet(ConfigDict(), {}, shape)
    with pytest.raises(ValueError, match="images has values that are not finite; allowed: finite"):
        net.predict(np.full((2, 3), value))


# The saved preprocessing


def _files(path):
    return sorted(path.glob("preprocessing-*.npz"))


def test_a_run_without_saved_preprocessing_computes_it_from_the_data_set(
    trained, copy, monkeypatch, no_data
):
    assert len(_files(copy)) == 3  # One for the inputs of each kind.
    for file in _files(copy):
        file.unlink()
    with pytest.raises(highway_jax.UserError, match="there is no data set"):
        highway_jax.load(copy, 4)
    monkeypatch.undo()
    _, rows, dataset = trained
    found = highway_jax.load(copy, 4).evaluate(dataset.test.images, dataset.test.labels)
    assert found.loss == pytest.approx(rows[4]["test_loss"], rel=1e-5)


def test_damaged_preprocessing_is_refused_and_written_again(trained, copy, caplog):
    contents = [file.read_bytes() for file in _files(copy)]
    for file, content in zip(_files(copy), contents, strict=True):
        file.write_bytes(content[:150] + bytes([content[150] ^ 1]) + content[151:])
    with pytest.raises(highway_jax.UserError, match=r"cannot be read .*; restore it, or remove it"):
        highway_jax.load(copy, 0)
    (copy / "results.csv").unlink()
    highway_jax.run(_config(), copy)
    assert caplog.text.count("is damaged") == 3
    assert [len(file.read_bytes()) for file in _files(copy)] == [len(c) for c in contents]
    highway_jax.load(copy, 0)


# Saved results


def test_results_are_read_as_records_without_jax(trained):
    path, rows, _ = trained
    saved = highway_jax.read_run(path)
    assert [row["test_loss"] for row in saved.results] == [row["test_loss"] for row in rows]
    assert [(line["trial"], line["epoch"]) for line in saved.metrics] == [
        (trial, epoch) for trial in range(6) for epoch in (1, 2)
    ]
    assert [row["case"] for row in saved.summary] == ["highway", "plain", "white"]
    assert saved.config["model"]["depth"] == 3
    assert "jax" in saved.environment["versions"]
    code = (
        "import sys, highway_jax\n"
        f"highway_jax.read_run({str(path)!r})\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(loaded & {'jax', 'flax', 'optax', 'orbax', 'sklearn', 'tensorflow_datasets'})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
