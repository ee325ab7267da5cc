"""Data sets of the package: digits, splits, the cache, and missing data."""

import dataclasses
import hashlib
import json
import logging
import shutil
import socket
import subprocess
import sys
import threading
import time
import zipfile

import fake_datasets as fakes
import numpy as np
import pytest

from highway_jax import files
from highway_jax.data import archives, tfds
from highway_jax.data import cache as cache_lib
from highway_jax.data.dataset import Split
from highway_jax.errors import UserError


@pytest.fixture(autouse=True)
def no_one_elses_files(monkeypatch, tmp_path):
    fakes.isolate(monkeypatch, tmp_path)


@pytest.fixture
def mnist(monkeypatch, tmp_path):
    """A small prepared MNIST: its arrays in TFDS's order, and the arguments that load it."""
    fakes.shrink(monkeypatch, "mnist")
    arrays = fakes.make_arrays("mnist")
    fakes.prepare_with_tfds("mnist", arrays, tmp_path / "data")
    places = {"dir": str(tmp_path / "data"), "cache_dir": str(tmp_path / "cache")}
    return fakes.tfds_order(arrays), {"valid_size": 0, "download": False, **places}


def assert_holds(dataset, arrays):
    for split, (images, labels) in arrays.items():
        found = getattr(dataset, split)
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)


def warnings_in(caplog):
    return [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]


def as_rows(*splits):
    """Sorted rows of pixels and label, to compare splits as multisets."""
    rows = [np.c_[s.images.reshape(s.size, -1), s.labels] for s in splits]
    rows = np.concatenate(rows).astype(np.int32)
    return rows[np.lexsort(rows.T)]


# Digits


def test_digits_are_all_of_scikit_learns():
    from sklearn.datasets import load_digits

    digits = fakes.load("digits", valid_size=100)
    assert (digits.train.size, digits.valid.size, digits.test.size) == (1337, 100, 360)
    assert digits.example_shape == (8, 8, 1)
    assert (digits.num_classes, digits.class_names) == (10, tuple("0123456789"))
    assert digits.max_value == digits.train.images.max() == 16
    truth = load_digits()
    expected = Split(truth.images.astype(np.uint8), truth.target)
    np.testing.assert_array_equal(
        as_rows(digits.train, digits.valid, digits.test), as_rows(expected)
    )
    for split in (digits.train, digits.valid, digits.test):
        assert (split.images.dtype, split.labels.dtype) == (np.uint8, np.int32)
        assert split.images.flags.c_contiguous


def test_digits_test_split_is_stratified():
    digits = fakes.load("digits", valid_size=0)
    test = np.bincount(digits.test.labels)
    both = test + np.bincount(digits.train.labels)
    assert test.sum() == 360
    assert np.all(np.abs(test - both * 360 / 1797) < 1)


def test_digits_splits_never_change():
    # Fails where a NumPy draws other numbers, or an edit moves an example: results recorded
    # before would no longer be comparable.
    expected = "b8ce9bbf02166f56732c21a66d9964c02ed3e96e39c6e91872c4ae3491ce7925"
    digits = fakes.load("digits", valid_size=200, split_seed=3)
    assert digits.arrays_fingerprint == expected
    # With the largest value of a pixel, 16.
    assert digits.fingerprint == "236aed5f4ca3405f7fab94fc1616b39ec59d347933a151913980d65a7157045b"


# Splits


def test_validation_comes_out_of_the_training_part_in_order():
    whole = fakes.load("digits", valid_size=0)
    split = fakes.load("digits", valid_size=400, split_seed=1)
    assert whole.valid.images.shape == (0, 8, 8, 1)
    assert whole.valid.labels.shape == (0,)
    np.testing.assert_array_equal(as_rows(split.train, split.valid), as_rows(whole.train))
    np.testing.assert_array_equal(split.test.images, whole.test.images)
    # Each part is a subsequence of the whole: `in` moves the iterator forward.
    for part in (split.train, split.valid):
        remaining = iter(image.tobytes() for image in whole.train.images)
        assert all(image.tobytes() in remaining for image in part.images)


def test_split_depends_on_the_seed_only_and_grows_by_nesting():
    def valid_rows(size, seed):
        valid = fakes.load("digits", valid_size=size, split_seed=seed).valid
        return {image.tobytes() for image in valid.images}

    assert valid_rows(100, 0) == valid_rows(100, 0)
    assert valid_rows(100, 0) < valid_rows(200, 0)
    # 100 of 1,437 twice: 7 in common expected, more than 30 has no chance.
    assert len(valid_rows(100, 0) & valid_rows(100, 1)) < 30


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("digits", {"valid_size": -1}, "data.valid_size=-1: allowed: 0 to 1436"),
        ("digits", {"valid_size": 1437}, "data.valid_size=1437: allowed: 0 to 1436"),
        ("mnist", {"valid_size": 60_000}, "data.valid_size=60000: allowed: 0 to 59999"),
        ("cifar10", {"valid_size": 50_000}, "data.valid_size=50000: allowed: 0 to 49999"),
        ("digits", {"valid_size": 0, "split_seed": -2}, "data.split_seed=-2: allowed: 0 or more"),
        ("emnist", {"valid_size": 0}, "data.name='emnist': allowed: "),
        ("mnist", {"valid_size": 0, "dir": "gs://b/d"}, "data.dir=gs://b/d: allowed: a loc"),
    ],
)
def test_bad_arguments(name, arguments, message):
    with pytest.raises(UserError) as error:
        fakes.load(name, **arguments)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_largest_validation_leaves_one_training_example():
    digits = fakes.load("digits", valid_size=1436)
    assert (digits.train.size, digits.valid.size) == (1, 1436)


def test_fingerprint_sees_every_change():
    digits = fakes.load("digits", valid_size=10)
    prints = {digits.fingerprint, fakes.load("digits", valid_size=11).fingerprint}
    for split in ("train", "valid", "test"):
        images = getattr(digits, split).images.copy()
        images[-1, -1, -1, -1] ^= 1
        labels = getattr(digits, split).labels.copy()
        labels[-1] ^= 1
        for change in ({"images": images}, {"labels": labels}):
            changed = dataclasses.replace(getattr(digits, split), **change)
            prints.add(dataclasses.replace(digits, **{split: changed}).fingerprint)
    assert len(prints) == 8
    assert digits.fingerprint == fakes.load("digits", valid_size=10).fingerprint


# The cache


def test_second_load_reads_the_cache_only(mnist, monkeypatch, tmp_path, caplog):
    arrays, arguments = mnist
    caplog.set_level(logging.INFO)
    first = fakes.load("mnist", **arguments)
    assert_holds(first, arrays)
    assert (first.max_value, first.num_classes) == (255, 10)
    monkeypatch.setattr(tfds, "read", None)
    assert_holds(fakes.load("mnist", **arguments), arrays)
    shutil.rmtree(tmp_path / "data")
    again = fakes.load("mnist", **arguments)
    assert again.fingerprint == first.fingerprint
    assert not warnings_in(caplog)
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["mnist.npz"]


def test_cache_manifest_says_what_it_holds(mnist, tmp_path):
    arrays, arguments = mnist
    fakes.load("mnist", **arguments)
    with zipfile.ZipFile(tmp_path / "cache/mnist.npz") as file:
        manifest = json.loads(file.read("manifest.json"))
        members = {name: file.read(name) for name in manifest["sha256"]}
    assert set(members) == {f"{s}_{k}.npy" for s in arrays for k in ("images", "labels")}
    for name, content in members.items():
        assert hashlib.sha256(content).hexdigest() == manifest["sha256"][name]
    assert manifest["shapes"] == {"train": [60, 28, 28, 1], "test": [20, 28, 28, 1]}
    assert manifest["source"]["tfds_version"] == "3.0.1"
    np.testing.assert_array_equal(
        np.load(tmp_path / "cache/mnist.npz")["test_labels"], arrays["test"][1]
    )


def flip_a_pixel(path):
    content = bytearray(path.read_bytes())
    content[2000] ^= 4
    path.write_bytes(content)


def truncate(path):
    path.write_bytes(path.read_bytes()[:-200])


def put_garbage(path):
    path.write_bytes(b"\x00garbage\n" * 100)


def empty(path):
    path.write_bytes(b"")


def rewrite_manifest(change):
    def damage(path):
        with zipfile.ZipFile(path) as file:
            members = {name: file.read(name) for name in file.namelist()}
        members["manifest.json"] = change(members["manifest.json"])
        with zipfile.ZipFile(path, "w") as file:
            for name, content in members.items():
                file.writestr(name, content)

    damage.__name__ = change.__name__
    return damage


def garble(manifest):
    return b"{" + manifest


def forget_a_checksum(manifest):
    return manifest.replace(b"test_labels.npy", b"best_labels.npy")


def change_a_checksum(manifest):
    content = json.loads(manifest)
    content["sha256"]["train_labels.npy"] = "0" * 64
    return json.dumps(content).encode()


def come_from_the_future(manifest):
    return json.dumps(json.loads(manifest) | {"format": 999}).encode()


def be_of_another_dataset(manifest):
    return json.dumps(json.loads(manifest) | {"name": "cifar10"}).encode()


DAMAGES = [flip_a_pixel, truncate, put_garbage, empty] + [
    rewrite_manifest(change)
    for change in (
        garble,
        forget_a_checksum,
        change_a_checksum,
        come_from_the_future,
        be_of_another_dataset,
    )
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_damaged_cache_is_said_and_rebuilt_or_refused(mnist, tmp_path, caplog, damage):
    arrays, arguments = mnist
    cache = tmp_path / "cache/mnist.npz"
    fakes.load("mnist", **arguments)
    damage(cache)
    assert_holds(fakes.load("mnist", **arguments), arrays)
    (warning,) = warnings_in(caplog)
    assert f"{cache} is damaged" in warning
    assert "\n" not in warning
    caplog.clear()
    assert_holds(fakes.load("mnist", **arguments), arrays)
    assert not warnings_in(caplog)

    damage(cache)
    shutil.rmtree(tmp_path / "data")
    with pytest.raises(UserError) as error:
        fakes.load("mnist", **arguments)
    assert f"{cache} is damaged" in str(error.value)
    assert "cannot be rebuilt" in str(error.value)
    assert "\n" not in str(error.value)


def test_no_flipped_bit_and_no_cut_gives_other_arrays(mnist, tmp_path):
    arrays, arguments = mnist
    cache = tmp_path / "cache/mnist.npz"
    fakes.load("mnist", **arguments)
    whole = cache.read_bytes()
    rng = np.random.default_rng(0)
    # Everywhere, and again in the last 1,500 bytes, where manifest and directory are.
    places = np.r_[rng.integers(0, len(whole), 150), len(whole) - rng.integers(1, 1500, 150)]
    num_caught = 0
    for place in places:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << rng.integers(8)
        cache.write_bytes(damaged)
        try:
            found, _ = cache_lib.read(cache, "mnist")
        except archives.BadDataError:
            num_caught += 1
            continue
        for split, pair in arrays.items():  # an unused bit of the zip's own headers
            for array, truth in zip(found[split], pair, strict=True):
                np.testing.assert_array_equal(array, truth)
    assert num_caught > 200
    for length in rng.integers(0, len(whole), 30):
        cache.write_bytes(whole[:length])
        with pytest.raises(archives.BadDataError):
            cache_lib.read(cache, "mnist")


def test_cache_with_impossible_labels_is_damaged(mnist, tmp_path):
    (images, labels), test = mnist[0]["train"], mnist[0]["test"]
    arrays = {"train": (images, labels + 10), "test": test}
    path = tmp_path / "cache/mnist.npz"
    cache_lib.write(path, "mnist", arrays, tfds.Prepared(tmp_path, ""))
    with pytest.raises(archives.BadDataError, match="train labels reach from 10"):
        cache_lib.read(path, "mnist")


def test_cache_of_other_data_is_replaced(mnist, tmp_path, caplog):
    _, arguments = mnist
    fakes.load("mnist", **arguments)
    other = fakes.make_arrays("mnist", seed=1)
    shutil.rmtree(tmp_path / "data")
    fakes.prepare_with_tfds("mnist", other, tmp_path / "data")
    assert_holds(fakes.load("mnist", **arguments), fakes.tfds_order(other))
    assert not warnings_in(caplog)


def test_unwritable_cache_is_a_warning(mnist, tmp_path, caplog):
    arrays, arguments = mnist
    (tmp_path / "file").write_text("in the way")
    arguments["cache_dir"] = str(tmp_path / "file/cache")
    assert_holds(fakes.load("mnist", **arguments), arrays)
    assert any("cannot write the cache" in warning for warning in warnings_in(caplog))


def test_full_disk_leaves_no_cache_and_no_rest(mnist, monkeypatch, tmp_path, caplog):
    arrays, arguments = mnist

    def fsync(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", fsync)
    assert_holds(fakes.load("mnist", **arguments), arrays)
    assert "No space left" in warnings_in(caplog)[0]
    assert not list((tmp_path / "cache").iterdir())


def test_two_writers_and_a_reader_at_once(mnist, tmp_path):
    truth, _ = mnist
    path = tmp_path / "cache/mnist.npz"
    versions = {str(seed): fakes.tfds_order(fakes.make_arrays("mnist", seed)) for seed in range(2)}
    stop = threading.Event()

    def write(identity):
        while not stop.is_set():
            prepared = tfds.Prepared(tmp_path, identity)
            cache_lib.write(path, "mnist", versions[identity], prepared)

    writers = [threading.Thread(target=write, args=(identity,)) for identity in versions]
    seen = set()
    try:
        for writer in writers:
            writer.start()
        deadline = time.monotonic() + 10
        while len(seen) < 2 or time.monotonic() < deadline - 9.5:
            assert time.monotonic() < deadline, f"saw only {seen}"
            try:
                arrays, identity = cache_lib.read(path, "mnist")
            except FileNotFoundError:
                continue
            np.testing.assert_array_equal(arrays["train"][0], versions[identity]["train"][0])
            seen.add(identity)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert [file.name for file in path.parent.iterdir()] == ["mnist.npz"]
    np.testing.assert_array_equal(versions["0"]["test"][0], truth["test"][0])


# Directories of data and cache


def test_search_order_of_directories(mnist, monkeypatch, tmp_path):
    arrays, arguments = mnist
    second = fakes.make_arrays("mnist", seed=1)
    third = fakes.make_arrays("mnist", seed=2)
    fakes.prepare_with_tfds("mnist", second, tmp_path / "second")
    fakes.prepare_with_tfds("mnist", third, tmp_path / "home/tensorflow_datasets")
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "second"))
    assert_holds(fakes.load("mnist", **arguments), arrays)
    arguments["dir"] = ""
    assert_holds(fakes.load("mnist", **arguments), fakes.tfds_order(second))
    monkeypatch.delenv("TFDS_DATA_DIR")
    assert_holds(fakes.load("mnist", **arguments), fakes.tfds_order(third))
    arguments["dir"] = "~/../data"
    assert_holds(fakes.load("mnist", **arguments), arrays)


def test_default_cache_directories(mnist, monkeypatch, tmp_path):
    _, arguments = mnist
    arguments["cache_dir"] = ""
    fakes.load("mnist", **arguments)
    assert (tmp_path / "home/.cache/highway_jax/mnist.npz").is_file()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    fakes.load("mnist", **arguments)
    assert (tmp_path / "xdg/highway_jax/mnist.npz").is_file()


def test_start_needs_no_heavy_import():
    code = (
        "import sys, highway_jax.data.dataset, highway_jax.data.mnist_cifar; "
        "assert not {'tensorflow', 'tensorflow_datasets', 'sklearn'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


# No data


@pytest.mark.parametrize("name", fakes.TFDS_NAMES)
def test_without_data_the_ways_out_are_named(name, monkeypatch, tmp_path):
    def no_network(*args, **kwargs):
        raise AssertionError("touched the network")

    monkeypatch.setattr(socket, "socket", no_network)
    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    with pytest.raises(UserError) as error:
        fakes.load(name, valid_size=0, dir=str(tmp_path), download=False)
    message = str(error.value)
    version = archives.SOURCES[name].tfds_version
    assert "\n" not in message
    for part in (
        f"data.name={name}",
        f"{tmp_path}/{name}/{version}",
        f"{tmp_path}/highway_{name}/1.0.0",
        "data.download=False",
        "TFDS_DATA_DIR",
        "--config.data.dir",
        "connect this machine to the network",
        "--config.data.name=digits",
    ):
        assert part in message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("kind", ["refused", "silent"])
def test_unreachable_network_fails_fast(kind, monkeypatch, tmp_path):
    monkeypatch.setattr(tfds, "_CONNECT_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        if kind == "refused":
            server.close()
        fakes.register(monkeypatch, "cifar10", f"http://127.0.0.1:{port}", {"a.tar.gz": b""})
        start = time.monotonic()
        with pytest.raises(UserError) as error:
            fakes.load("cifar10", valid_size=0, dir=str(tmp_path / "data"))
    assert time.monotonic() - start < 5
    assert "cannot reach 127.0.0.1" in str(error.value)
    assert "--config.data.name=digits" in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())
