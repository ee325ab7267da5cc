"""Ways to MNIST and CIFAR: prepared directories, and downloads from a server on loopback."""

import dataclasses
import json
import logging
import sys
import tarfile
import tracemalloc
import types
from pathlib import Path

import fake_datasets as fakes
import numpy as np
import pytest

from highway_jax.data import archives, tfds, tfrecord
from highway_jax.errors import UserError

ARCHIVE = {"cifar10": "cifar-10-binary.tar.gz", "cifar100": "cifar-100-binary.tar.gz"}
IMAGES, LABELS = "train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"
TEST_BATCH = "cifar-10-batches-bin/test_batch.bin"


@pytest.fixture(autouse=True)
def no_one_elses_files(monkeypatch, tmp_path):
    fakes.isolate(monkeypatch, tmp_path)


@pytest.fixture
def served(monkeypatch, tmp_path):
    """Serves a data set's small archives, changed by `change`; loads it from there."""
    (tmp_path / "www").mkdir()

    def load(name, change=lambda files: None, *, seed=0):
        fakes.shrink(monkeypatch, name)
        files = fakes.archive_files(name, fakes.make_arrays(name, seed))
        change(files)
        for file, content in files.items():
            (tmp_path / "www" / file).write_bytes(content)
        fakes.register(monkeypatch, name, url, files)
        return fakes.load(name, **arguments)

    arguments = {
        "valid_size": 0,
        "dir": str(tmp_path / "data"),
        "cache_dir": str(tmp_path / "cache"),
    }
    with fakes.serve(tmp_path / "www") as (url, requests):
        load.requests, load.url, load.arguments = requests, url, arguments
        yield load


def assert_holds(dataset, arrays):
    for split, (images, labels) in arrays.items():
        found = getattr(dataset, split)
        np.testing.assert_array_equal(found.images, images)
        np.testing.assert_array_equal(found.labels, labels)
        assert (found.images.dtype, found.labels.dtype) == (np.uint8, np.int32)
        assert found.images.flags.c_contiguous


def files_under(path):
    return sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())


@pytest.mark.parametrize("name", fakes.TFDS_NAMES)
def test_sources_agree_with_tfds(name):
    import tensorflow_datasets as tfds

    source, builder = archives.SOURCES[name], tfds.builder_cls(name)
    assert source.tfds_version == str(builder.VERSION)
    ours = {archive.url: (archive.size, archive.sha256) for archive in source.archives}
    assert ours == {url: (int(i.size), i.checksum) for url, i in builder.url_infos.items()}
    features = builder(data_dir="nowhere").info.features
    assert source.image_shape == features["image"].shape
    assert len(set(source.class_names)) == features["label"].num_classes
    assert list(source.class_names) == sorted(source.class_names)
    assert source.num_examples["train"] == {"mnist": 60_000}.get(name, 50_000)
    assert source.num_examples["test"] == 10_000


def test_tfds_that_does_not_import_is_said(monkeypatch, tmp_path):
    # TFDS swallows its own import errors and leaves an empty module behind.
    fakes.shrink(monkeypatch, "mnist")
    fakes.prepare_with_tfds("mnist", fakes.make_arrays("mnist"), tmp_path)
    empty = types.ModuleType("tensorflow_datasets")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", empty)
    with pytest.raises(UserError, match="tensorflow_datasets does not import"):
        fakes.load("mnist", valid_size=0, dir=str(tmp_path))


def test_label_names_known():
    assert archives.SOURCES["cifar10"].class_names[3] == "cat"
    assert archives.SOURCES["cifar100"].class_names[19] == "cattle"


# Prepared by TFDS


@pytest.mark.parametrize("file_format", ["array_record", "tfrecord"])
@pytest.mark.parametrize("name", fakes.TFDS_NAMES)
def test_reads_what_tfds_prepared(name, file_format, monkeypatch, tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO)
    fakes.shrink(monkeypatch, name)
    arrays = fakes.make_arrays(name)
    directory = fakes.prepare_with_tfds(name, arrays, tmp_path)
    if file_format == "tfrecord":
        fakes.convert_to_tfrecord(directory)
    capfd.readouterr()
    caplog.clear()
    dataset = fakes.load(
        name, valid_size=0, dir=str(tmp_path), cache_dir=str(tmp_path), download=False
    )
    assert_holds(dataset, fakes.tfds_order(arrays))
    assert dataset.class_names == archives.SOURCES[name].class_names
    assert capfd.readouterr() == ("", "")
    assert [r.levelname for r in caplog.records] == ["INFO", "INFO"]
    assert f"decoding 80 examples of {name} from {directory}" in caplog.text
    assert logging.getLogger("absl").level != logging.ERROR


def test_checksum_has_the_published_value():
    # CRC-32C of "123456789" (RFC 3720 and the CRC catalogues).
    assert fakes.crc32c(b"123456789") == 0xE3069283
    for data_ in (b"", b"123456789", bytes(range(256))):
        assert tfrecord.masked_crc32c(data_) == fakes.masked_crc32c(data_)


@pytest.mark.parametrize("place", [3, 9, 20, -2], ids=["length", "its sum", "data", "data's sum"])
def test_flipped_bit_in_a_tfrecord(place, tmp_path):
    content = bytearray(fakes.tfrecord_frame(b"first record") + fakes.tfrecord_frame(b"second"))
    (tmp_path / "good").write_bytes(content)
    assert list(tfrecord.read(tmp_path / "good")) == [b"first record", b"second"]
    content[place] ^= 1
    (tmp_path / "bad").write_bytes(content)
    with pytest.raises(archives.BadDataError, match="bad is damaged"):
        list(tfrecord.read(tmp_path / "bad"))
    for length in (5, 20, len(content) - 1):
        (tmp_path / "cut").write_bytes(content[:length])
        with pytest.raises(archives.BadDataError, match="cut is damaged"):
            list(tfrecord.read(tmp_path / "cut"))


def cut_a_record_file(directory):
    path = directory / "mnist-train.array_record-00000-of-00001"
    path.write_bytes(path.read_bytes()[:-3000])


def lose_a_record_file(directory):
    (directory / "mnist-test.array_record-00000-of-00001").unlink()


def claim_riegeli(directory):
    path = directory / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"fileFormat": "riegeli"}))


def garble_the_metadata(directory):
    (directory / "features.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_a_record_file, None),
        (lose_a_record_file, None),
        (claim_riegeli, r"file format is \['riegeli'\], not array_record or tfrecord"),
        (garble_the_metadata, None),
    ],
)
def test_damaged_prepared_directory(damage, message, monkeypatch, tmp_path):
    fakes.shrink(monkeypatch, "mnist")
    directory = fakes.prepare_with_tfds("mnist", fakes.make_arrays("mnist"), tmp_path / "data")
    damage(directory)
    with pytest.raises(UserError, match=message) as error:
        fakes.load(
            "mnist",
            valid_size=0,
            dir=str(tmp_path / "data"),
            cache_dir=str(tmp_path / "cache"),
            download=False,
        )
    assert f"data.name=mnist: cannot read the prepared data in {directory}" in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("expect", "message"),
    [
        ({"num_examples": {"train": 61, "test": 20}}, "{'train': 60, 'test': 20}, not"),
        ({"num_examples": {"train": 60, "test": 19}}, "{'train': 60, 'test': 20}, not"),
        ({"image_shape": (28, 28, 3)}, "(28, 28, 1), not (28, 28, 3)"),
        ({"class_names": tuple("123456789x")}, "class names"),
    ],
)
def test_prepared_directory_of_something_else(expect, message, monkeypatch, tmp_path):
    source = fakes.shrink(monkeypatch, "mnist")
    fakes.prepare_with_tfds("mnist", fakes.make_arrays("mnist"), tmp_path)
    monkeypatch.setitem(archives.SOURCES, "mnist", dataclasses.replace(source, **expect))
    with pytest.raises(UserError) as error:
        fakes.load("mnist", valid_size=0, dir=str(tmp_path), download=False)
    assert message in str(error.value)


@pytest.mark.parametrize(("num_records", "message"), [(59, "only 59"), (61, "more than 60")])
def test_tfrecord_of_another_length(num_records, message, monkeypatch, tmp_path):
    fakes.shrink(monkeypatch, "mnist")
    directory = fakes.prepare_with_tfds("mnist", fakes.make_arrays("mnist"), tmp_path)
    fakes.convert_to_tfrecord(directory)
    path = directory / "mnist-train.tfrecord-00000-of-00001"
    records = list(tfrecord.read(path))
    records = (records + records)[:num_records]
    path.write_bytes(b"".join(map(fakes.tfrecord_frame, records)))
    with pytest.raises(UserError, match=f"train holds {message} examples"):
        fakes.load("mnist", valid_size=0, dir=str(tmp_path), download=False)


@pytest.mark.parametrize(
    ("split", "change", "message"),
    [
        ("train", lambda i, t: (i.astype(np.int16), t), "train images are int16 [60, 28, 28, 1]"),
        ("train", lambda i, t: (i[:-1], t), "train images are uint8 [59, 28, 28, 1]"),
        ("test", lambda i, t: (i, t.astype(np.int64)), "test labels are int64 [20]"),
        ("test", lambda i, t: (i, t[1:]), "test labels are int32 [19]"),
        ("test", lambda i, t: (i, t - t.min() - 1), "test labels reach from -1 to"),
        ("test", lambda i, t: (i, t - t.max() + 10), "to 10, not 0 to 9"),
    ],
)
def test_check(split, change, message, monkeypatch):
    source = fakes.shrink(monkeypatch, "mnist")
    images, labels = fakes.make_arrays("mnist")[split]
    archives.check(source, split, images, labels)
    with pytest.raises(archives.BadDataError) as error:
        archives.check(source, split, *change(images, labels))
    assert message in str(error.value)


# Downloaded


@pytest.mark.parametrize("name", fakes.TFDS_NAMES)
def test_download_gives_what_tfds_gives(name, served, tmp_path, capfd, caplog):
    caplog.set_level(logging.INFO, "highway_jax")
    dataset = served(name)
    assert_holds(dataset, fakes.tfds_order(fakes.make_arrays(name)))
    assert capfd.readouterr() == ("", "")
    assert "downloading" in caplog.text
    assert "127.0.0.1" in caplog.text
    assert {record.levelname for record in caplog.records} == {"INFO"}
    assert files_under(tmp_path / "data") == [
        f"highway_{name}/1.0.0/{file}"
        for file in (
            "dataset_info.json",
            "features.json",
            f"highway_{name}-test.array_record-00000-of-00001",
            f"highway_{name}-train.array_record-00000-of-00001",
            "label.labels.txt",
        )
    ]
    assert [path.name for path in (tmp_path / "data").iterdir()] == [f"highway_{name}"]
    # Prepared once: without the cache it is read again, not fetched again.
    (tmp_path / "cache" / f"{name}.npz").unlink()
    num_requests = len(served.requests)
    assert served(name).fingerprint == dataset.fingerprint
    assert len(served.requests) == num_requests


def test_tfds_can_read_what_we_prepared(served, tmp_path):
    import tensorflow_datasets as tfds

    served("cifar10")
    builder = tfds.builder_from_directory(tmp_path / "data/highway_cifar10/1.0.0")
    example = builder.as_data_source("test")[7]
    images, labels = fakes.tfds_order(fakes.make_arrays("cifar10"))["test"]
    np.testing.assert_array_equal(example["image"], images[7])
    assert example["label"] == labels[7]
    assert builder.info.features["label"].names[3] == "cat"


def replace(file, make):
    """Makes a change that puts `make(arrays of that data set)` in place of one archive."""

    def change(files):
        name = "mnist" if file in (IMAGES, LABELS) else "cifar10"
        files[file] = make(fakes.make_arrays(name))

    return change


def halve(file):
    def change(files):
        files[file] = files[file][: len(files[file]) // 2]

    return change


def cifar(*more, **members):
    """A CIFAR-10 tar with changed members (None: left out), then `more`."""

    def make(arrays):
        content = fakes.cifar_members("cifar10", arrays)
        content |= {key: value(content[TEST_BATCH]) for key, value in members.items()}
        if "test" in content:
            content[TEST_BATCH] = content.pop("test")
        content = {key: value for key, value in content.items() if value is not None}
        return fakes.tar(content, *more)

    return replace(ARCHIVE["cifar10"], make)


def rename_test_batch(name):
    def make(arrays):
        members = fakes.cifar_members("cifar10", arrays)
        members[name] = members.pop(TEST_BATCH)
        return fakes.tar(members)

    return replace(ARCHIVE["cifar10"], make)


def link(target):
    info = tarfile.TarInfo(TEST_BATCH)
    info.type, info.linkname, info.size = tarfile.SYMTYPE, target, 61460
    return info, None


BAD_ARCHIVES = {
    "mnist cut": ("mnist", halve(IMAGES), f"{IMAGES} cannot be decompressed"),
    "mnist no gzip": (
        "mnist",
        replace(IMAGES, lambda arrays: b"<html>404</html>"),
        f"{IMAGES} cannot be decompressed",
    ),
    "mnist magic": (
        "mnist",
        replace(IMAGES, lambda arrays: fakes.idx(0x0D03, arrays["train"][0][..., 0])),
        "starts with the bytes 00000d03",
    ),
    "mnist shape": (
        "mnist",
        replace(IMAGES, lambda arrays: fakes.idx(2051, arrays["train"][0][:, 1:, :, 0])),
        "(IDX of uint8 [60, 28, 28])",
    ),
    "mnist count": (
        "mnist",
        replace(LABELS, lambda arrays: fakes.idx(2049, arrays["train"][1].astype(np.uint8)[1:])),
        "(IDX of uint8 [60])",
    ),
    "mnist short": (
        "mnist",
        replace(LABELS, lambda arrays: fakes.idx(2049, np.zeros(59, np.uint8), (60,))),
        f"{LABELS} holds only 59 bytes of data, not 60",
    ),
    "mnist long": (
        "mnist",
        replace(LABELS, lambda arrays: fakes.idx(2049, np.zeros(61, np.uint8), (60,))),
        f"{LABELS} holds more bytes of data, not 60",
    ),
    "mnist label": (
        "mnist",
        replace(LABELS, lambda arrays: fakes.idx(2049, np.arange(60, dtype=np.uint8) % 11)),
        "train labels reach from 0 to 10, not 0 to 9",
    ),
    "cifar cut": ("cifar10", halve(ARCHIVE["cifar10"]), "cannot be read"),
    "cifar no tar": (
        "cifar10",
        replace(ARCHIVE["cifar10"], lambda arrays: fakes.idx(2049, np.zeros(9999, np.uint8))),
        "cannot be read",
    ),
    "cifar missing": ("cifar10", rename_test_batch("x.bin"), f"does not hold {TEST_BATCH}"),
    "cifar traversal": (
        "cifar10",
        rename_test_batch("cifar-10-batches-bin/../cifar-10-batches-bin/test_batch.bin"),
        f"does not hold {TEST_BATCH}",
    ),
    "cifar absolute": ("cifar10", rename_test_batch(f"/{TEST_BATCH}"), "does not hold"),
    "cifar short": ("cifar10", cifar(test=lambda b: b[:-1]), "is not a file of 61460 bytes"),
    "cifar long": ("cifar10", cifar(test=lambda b: b + b"\0"), "is not a file of 61460 bytes"),
    "cifar label": (
        "cifar10",
        cifar(test=lambda b: b"\x0a" + b[1:]),
        "to 10, not 0 to 9",
    ),
    "cifar twice": (
        "cifar10",
        cifar(fakes.tar_member(TEST_BATCH, bytes(61460))),
        f"{TEST_BATCH} occurs twice",
    ),
    "cifar link": (
        "cifar10",
        cifar(link("/etc/passwd"), test=lambda b: None),
        "is not a file of 61460 bytes",
    ),
}


@pytest.mark.parametrize(
    ("name", "change", "message"), BAD_ARCHIVES.values(), ids=BAD_ARCHIVES.keys()
)
def test_bad_archive_is_refused_whole(name, change, message, served, tmp_path):
    with pytest.raises(UserError) as error:
        served(name, change)
    assert message in str(error.value)
    assert str(error.value).startswith(f"data.name={name}: ")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").rglob("*"))
    assert not (tmp_path / "cache").exists()
    # The next attempt, with good archives, is not hampered.
    assert_holds(served(name), fakes.tfds_order(fakes.make_arrays(name)))


def test_wrong_checksum(served, monkeypatch, tmp_path):
    # Registered, then changed on the server: a valid archive, yet not the known one.
    register = fakes.register

    def register_other(monkeypatch, name, url, files):
        other = fakes.archive_files(name, fakes.make_arrays(name, seed=1))
        register(monkeypatch, name, url, files | {LABELS: other[LABELS]})

    monkeypatch.setattr(fakes, "register", register_other)
    with pytest.raises(UserError) as error:
        served("mnist")
    assert "wrong checksum" in str(error.value)
    assert LABELS in str(error.value)
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").rglob("*"))


def test_connection_lost_half_way(served, monkeypatch, tmp_path):
    register = fakes.register
    monkeypatch.setattr(
        fakes, "register", lambda m, name, url, files: register(m, name, f"{url}/half", files)
    )
    with pytest.raises(UserError, match="IncompleteRead") as error:
        served("cifar10")
    assert "\n" not in str(error.value)
    assert not list((tmp_path / "data").rglob("*"))


def test_missing_on_the_server(served, monkeypatch, tmp_path):
    fakes.register(monkeypatch, "cifar100", served.url, {"nothing.tar.gz": b""})
    with pytest.raises(UserError, match=r"HTTP status 404.*data\.name=digits"):
        fakes.load("cifar100", **served.arguments)
    assert not (tmp_path / "data").exists()


def test_members_with_other_names_are_never_written(served, tmp_path):
    evil = [
        fakes.tar_member(name, b"evil")
        for name in ("../../evil", f"{tmp_path}/evil", "cifar-10-batches-bin/../../evil")
    ]
    before = files_under(tmp_path)
    dataset = served("cifar10", cifar(*evil))
    assert_holds(dataset, fakes.tfds_order(fakes.make_arrays("cifar10")))
    new = set(files_under(tmp_path)) - set(before)
    assert not [file for file in new if "evil" in file]


@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_decompression_is_capped(name, monkeypatch, tmp_path):
    source = fakes.shrink(monkeypatch, name)
    arrays = fakes.make_arrays(name)
    files = fakes.archive_files(name, arrays)
    bomb_size = 1 << 25
    if name == "mnist":
        files[IMAGES] = fakes.idx(2051, np.zeros(bomb_size, np.uint8), (60, 28, 28))
    else:
        members = fakes.cifar_members(name, arrays)
        files[ARCHIVE[name]] = fakes.tar({"a.bin": bytes(bomb_size)} | members)
    paths = [tmp_path / file for file in files]
    for path, content in zip(paths, files.values(), strict=True):
        path.write_bytes(content)
    tracemalloc.start()
    try:
        with pytest.raises(archives.BadDataError, match="more"):
            archives.parse(source, paths)
        assert tracemalloc.get_traced_memory()[1] < bomb_size / 16
    finally:
        tracemalloc.stop()


def test_incomplete_directory_is_named_not_used(served, tmp_path):
    directory = tmp_path / "data/highway_mnist/1.0.0"
    directory.mkdir(parents=True)
    (directory / "features.json").write_text("{}")
    with pytest.raises(UserError, match=f"{directory} is not a complete prepared data set"):
        served("mnist")


def test_unwritable_data_directory(served, tmp_path):
    (tmp_path / "data").write_text("in the way")
    with pytest.raises(UserError, match=f"preparing it in {tmp_path}/data/highway_mnist"):
        served("mnist")


@pytest.mark.parametrize("moment", ["before", "meanwhile"])
def test_another_process_prepares_first(moment, served, monkeypatch, tmp_path):
    builder_class, find = tfds._builder_class, tfds.find

    class Slow:
        def __init__(self, data_dir):
            self.data_dir = data_dir

        def download_and_prepare(self, **arguments):
            import tensorflow_datasets as tfds

            other = builder_class(tfds, "mnist")(data_dir=self.data_dir)
            other.download_and_prepare(**arguments)
            raise OSError(39, "Directory not empty")

    if moment == "meanwhile":
        monkeypatch.setattr(tfds, "_builder_class", lambda tfds, name: Slow)
    else:
        served("mnist")
        Path(tmp_path / "cache/mnist.npz").unlink()
        too_early = iter([True])
        monkeypatch.setattr(tfds, "find", lambda *a: None if next(too_early, False) else find(*a))
        monkeypatch.setattr(tfds, "_builder_class", None)
    assert_holds(served("mnist"), fakes.tfds_order(fakes.make_arrays("mnist")))
