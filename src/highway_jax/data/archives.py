"""Descriptions of MNIST and CIFAR (archives, checksums, shapes, counts, names), and their parsers.

The parsers use only NumPy and the standard library. They read no pickles, extract nothing to disk,
and decompress at most as many bytes as the data set is known to have.
"""

import dataclasses
import gzip
import struct
import tarfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Split name, "train" or "test" -> (images uint8 [n, h, w, c], labels int32 [n]).
Arrays = dict[str, tuple[np.ndarray, np.ndarray]]


class BadDataError(ValueError):
    """Data that differ from the description of their source."""


@dataclasses.dataclass(frozen=True)
class Archive:
    """A file to download: its address, its size in bytes, and its SHA-256 in hexadecimal."""

    url: str
    size: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read.

    Attributes:
        tfds_version: The TFDS version that defines the examples and their order.
        image_shape: Height, width, channels.
        class_names: The names of the classes in TFDS, in the order of the labels.
        num_examples: Number of examples by split, "train" and "test".
        archives: MNIST: images and labels of train, then of test. CIFAR: one tar file.
        members: CIFAR: the files in the tar file by split, of equal size. Empty for MNIST.
        label_bytes: CIFAR: bytes before each image, the last of which is the label.
    """

    tfds_version: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    num_examples: dict[str, int]
    archives: tuple[Archive, ...]
    members: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    label_bytes: int = 1


_MNIST_URL = "https://storage.googleapis.com/cvdf-datasets/mnist/"
_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
_CIFAR10_NAMES = "airplane automobile bird cat deer dog frog horse ship truck"
_CIFAR100_NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch
    crab crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo
    keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse
    mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy
    porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper
    snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television
    tiger tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm"""

# URLs, sizes and checksums as in TFDS 4.9.10, `url_checksums/{mnist,cifar10,cifar100}.txt`.
SOURCES: dict[str, Source] = {
    "mnist": Source(
        tfds_version="3.0.1",
        image_shape=(28, 28, 1),
        class_names=tuple("0123456789"),
        num_examples={"train": 60_000, "test": 10_000},
        archives=(
            Archive(
                _MNIST_URL + "train-images-idx3-ubyte.gz",
                9_912_422,
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            ),
            Archive(
                _MNIST_URL + "train-labels-idx1-ubyte.gz",
                28_881,
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            ),
            Archive(
                _MNIST_URL + "t10k-images-idx3-ubyte.gz",
                1_648_877,
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            ),
            Archive(
                _MNIST_URL + "t10k-labels-idx1-ubyte.gz",
                4_542,
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
        ),
    ),
    "cifar10": Source(
        tfds_version="3.0.2",
        image_shape=(32, 32, 3),
        class_names=tuple(_CIFAR10_NAMES.split()),
        num_examples={"train": 50_000, "test": 10_000},
        archives=(
            Archive(
                _CIFAR_URL + "cifar-10-binary.tar.gz",
                170_052_171,
                "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
            ),
        ),
        members={
            "train": tuple(f"cifar-10-batches-bin/data_batch_{i}.bin" for i in range(1, 6)),
            "test": ("cifar-10-batches-bin/test_batch.bin",),
        },
    ),
    "cifar100": Source(
        tfds_version="3.0.2",
        image_shape=(32, 32, 3),
        class_names=tuple(_CIFAR100_NAMES.split()),
        num_examples={"train": 50_000, "test": 10_000},
        archives=(
            Archive(
                _CIFAR_URL + "cifar-100-binary.tar.gz",
                168_513_733,
                "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
            ),
        ),
        members={
            "train": ("cifar-100-binary/train.bin",),
            "test": ("cifar-100-binary/test.bin",),
        },
        label_bytes=2,  # coarse, then fine
    ),
}


def parse(source: Source, paths: Sequence[Path]) -> Arrays:
    """Parses the downloaded archives of a data set.

    Args:
        source: The description of the data set.
        paths: A file for each of `source.archives`, in the same order.

    Returns:
        Checked arrays by split, in the order of the archives.

    Raises:
        BadDataError: If an archive is truncated or damaged, or differs from its description. The
            message names the file and the difference.
    """
    files = [
        (Path(archive.url).name, path)  # TFDS stores the files under other names.
        for archive, path in zip(source.archives, paths, strict=True)
    ]
    arrays = _parse_cifar(source, *files[0]) if source.members else _parse_mnist(source, files)
    for split in arrays:
        check(source, split, *arrays[split])
    return arrays


def check(source: Source, split: str, images: np.ndarray, labels: np.ndarray) -> None:
    """Checks the arrays of one split.

    Raises:
        BadDataError: If they differ from the description of their source.
    """
    num_examples = source.num_examples[split]
    expected = (np.dtype(np.uint8), (num_examples, *source.image_shape))
    if (images.dtype, images.shape) != expected:
        raise BadDataError(
            f"{split} images are {images.dtype} {list(images.shape)}, "
            f"not {expected[0]} {list(expected[1])}"
        )
    if (labels.dtype, labels.shape) != (np.dtype(np.int32), (num_examples,)):
        raise BadDataError(
            f"{split} labels are {labels.dtype} {list(labels.shape)}, not int32 [{num_examples}]"
        )
    last_label = len(source.class_names) - 1
    if labels.min() < 0 or labels.max() > last_label:
        raise BadDataError(
            f"{split} labels reach from {labels.min()} to {labels.max()}, not 0 to {last_label}"
        )


def _parse_mnist(source: Source, files: Sequence[tuple[str, Path]]) -> Arrays:
    height, width, _ = source.image_shape
    arrays = {}
    for i, split in enumerate(("train", "test")):
        count = source.num_examples[split]
        images = _read_idx(*files[2 * i], (count, height, width))
        labels = _read_idx(*files[2 * i + 1], (count,))
        arrays[split] = images.reshape(count, *source.image_shape), labels.astype(np.int32)
    return arrays


def _read_idx(name: str, path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Reads a gzipped IDX file of bytes: 0, 0, 8 (uint8), rank, big-endian lengths, data."""
    expected_header = struct.pack(f">4B{len(shape)}I", 0, 0, 8, len(shape), *shape)
    size = int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            header = file.read(len(expected_header))
            if header != expected_header:
                raise BadDataError(
                    f"{name} starts with the bytes {header.hex()}, not "
                    f"{expected_header.hex()} (IDX of uint8 {list(shape)})"
                )
            data = file.read(size + 1)  # One more byte than allowed, to notice a longer file.
    except (EOFError, OSError, zlib.error) as error:
        raise BadDataError(f"{name} cannot be decompressed: {error}") from error
    if len(data) != size:
        found = "more" if len(data) > size else f"only {len(data)}"
        raise BadDataError(f"{name} holds {found} bytes of data, not {size}")
    return np.frombuffer(data, np.uint8).reshape(shape)


def _parse_cifar(source: Source, name: str, path: Path) -> Arrays:
    height, width, channels = source.image_shape
    row_bytes = source.label_bytes + height * width * channels
    sizes = {
        member: source.num_examples[split] // len(members) * row_bytes
        for split, members in source.members.items()
        for member in members
    }
    contents = _read_tar(name, path, sizes)
    arrays = {}
    for split, members in source.members.items():
        data = b"".join(contents[member] for member in members)
        rows = np.frombuffer(data, np.uint8).reshape(-1, row_bytes)
        planes = rows[:, source.label_bytes :].reshape(-1, channels, height, width)
        arrays[split] = (
            planes.transpose(0, 2, 3, 1),
            rows[:, source.label_bytes - 1].astype(np.int32),
        )
    return arrays


def _read_tar(name: str, path: Path, sizes: dict[str, int]) -> dict[str, bytes]:
    """Reads the members named in `sizes`, which have exactly these sizes, from a gzipped tar file.

    The file is read as a stream into memory. Names of members are compared, never used as paths.
    """
    contents: dict[str, bytes] = {}
    limit = sum(sizes.values()) + _TAR_SLACK
    try:
        with (
            gzip.open(path) as file,
            tarfile.open(fileobj=_capped(file, limit, name), mode="r|") as tar,
        ):
            for member in tar:
                if member.name not in sizes:
                    continue
                if not member.isreg() or member.size != sizes[member.name]:
                    raise BadDataError(
                        f"{name}: {member.name} is not a file of {sizes[member.name]} bytes"
                    )
                if member.name in contents:
                    raise BadDataError(f"{name}: {member.name} occurs twice")
                stream: Any = tar.extractfile(member)  # Not None, as it is a regular file.
                contents[member.name] = stream.read()
    except (EOFError, OSError, tarfile.TarError, zlib.error) as error:
        raise BadDataError(f"{name} cannot be read: {error}") from error
    if missing := sizes.keys() - contents.keys():
        raise BadDataError(f"{name} does not hold {', '.join(sorted(missing))}")
    return contents


# For the rest of a CIFAR tar file: headers, a README, label names (less than 100 kB).
_TAR_SLACK = 1 << 20


def _capped(file: gzip.GzipFile, limit: int, name: str) -> Any:
    return _CappedReader(file, limit, name)  # All that tarfile needs to read a stream.


class _CappedReader:
    """A reader that raises an error after `limit` bytes, so that no archive fills the memory."""

    def __init__(self, file: gzip.GzipFile, limit: int, name: str):
        self._file, self._limit, self._left, self._name = file, limit, limit, name

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left + 1))
        self._left -= len(data)
        if self._left < 0:
            raise BadDataError(f"{self._name} unpacks to more than {self._limit} bytes")
        return data
