"""Datasets as uint8 arrays: digits, which is always there, and MNIST, CIFAR-10, CIFAR-100.

`load` is the one entry. Digits comes with scikit-learn. The others come from TensorFlow Datasets
(TFDS), without TensorFlow: a prepared copy is searched in `data.dir`, else in $TFDS_DATA_DIR,
else in ~/tensorflow_datasets, as `<name>/<version>` (prepared by TFDS) and as
`highway_<name>/<version>` (prepared by us); where there is none, the archives that TFDS uses are
downloaded and prepared there. Decoding takes seconds, so the decoded arrays are kept in
`<data.cache_dir>/<name>.npz`, checked by sha256 whenever they are read. The cache answers for
the prepared copy it was made from, and stands in for it where there is none any more.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import json
import logging
import os
import uuid
import zipfile
from pathlib import Path

import numpy as np
from jaxtyping import Int32, UInt8

from highway_jax import files
from highway_jax.data import archives, tfds
from highway_jax.data.archives import Arrays, BadDataError
from highway_jax.errors import UserError

logger = logging.getLogger(__name__)

NAMES = ("digits", "mnist", "cifar10", "cifar100")

# Digits has no official split; these two are ours, and must never change.
_DIGITS_TEST_SIZE = 360
_DIGITS_TEST_SEED = 2015
_DIGITS_SIZE = 1797

_CACHE_FORMAT = 1


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Examples of one split.

    Attributes:
        images: uint8, C-contiguous.
        labels: class numbers from 0.
    """

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Three disjoint splits of a dataset.

    Attributes:
        name: one of `NAMES`.
        train: what `valid` left of the training part, in the original order.
        valid: drawn from the training part; may be empty.
        test: the official test part; for digits, ours.
        num_classes: labels are 0 to `num_classes` - 1.
        class_names: in label order.
        max_value: the greatest value a pixel can have: 16 for digits, 255 for the others.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...]
    max_value: int

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width, channels."""
        return self.train.images.shape[1:]

    @functools.cached_property
    def fingerprint(self) -> str:
        """A sha256, in hexadecimal, over the arrays of all splits; computed once."""
        digest = hashlib.sha256()
        for split in (self.train, self.valid, self.test):
            digest.update(f"{split.images.shape}".encode())
            digest.update(split.images)
            digest.update(split.labels.astype("<i4"))
        return digest.hexdigest()


def load(
    name: str,
    *,
    valid_size: int,
    split_seed: int = 0,
    data_dir: str = "",
    cache_dir: str = "",
    download: bool = True,
) -> Dataset:
    """Loads a dataset and splits it.

    Validation is the first `valid_size` training examples of a permutation that sorts 64-bit
    numbers of NumPy's PCG64 stream for `split_seed`, one for each training example. NumPy keeps
    that stream for good, so the split is the same everywhere. Both parts keep the original order.

    Digits are the 1,797 8x8 images with pixels 0 to 16 in scikit-learn. They have no official
    split: test is 360 of them, class-stratified, drawn once and for all by a constant seed.

    Args:
        name: one of `NAMES`.
        valid_size: number of training examples set aside for validation; 0 for none.
        split_seed: draws which ones.
        data_dir: where prepared TFDS datasets lie; empty for $TFDS_DATA_DIR, else
            ~/tensorflow_datasets.
        cache_dir: where decoded arrays are kept; empty for $XDG_CACHE_HOME/highway_jax, else
            ~/.cache/highway_jax.
        download: whether the network may be used.

    Raises:
        UserError: an argument out of range, no way to the data, or data that is not right.
    """
    if name not in NAMES:
        raise UserError(f"data.name={name!r}: allowed: {', '.join(NAMES)}")
    source = None if name == "digits" else archives.SOURCES[name]
    num_train = source.num_examples["train"] if source else _DIGITS_SIZE - _DIGITS_TEST_SIZE
    if not 0 <= valid_size < num_train:
        raise UserError(
            f"data.valid_size={valid_size}: allowed: 0 to {num_train - 1}, as {name} has "
            f"{num_train} training examples"
        )
    if split_seed < 0:
        raise UserError(f"data.split_seed={split_seed}: allowed: 0 or more")
    if source is None:
        arrays, class_names = _load_digits(), tuple("0123456789")
    else:
        arrays = _load_cached(name, _data_root(data_dir), _cache_root(cache_dir), download)
        class_names = source.class_names
    is_valid = np.zeros(num_train, bool)
    is_valid[_permutation(num_train, split_seed)[:valid_size]] = True
    images, labels = arrays["train"]
    return Dataset(
        name=name,
        train=Split(images[~is_valid], labels[~is_valid]),
        valid=Split(images[is_valid], labels[is_valid]),
        test=Split(*arrays["test"]),
        num_classes=len(class_names),
        class_names=class_names,
        max_value=255 if source else 16,
    )


def _permutation(size: int, seed: int) -> np.ndarray:
    # Not Generator.permutation: its stream may change between NumPy versions.
    return np.argsort(np.random.PCG64(seed).random_raw(size), kind="stable")


def _load_digits() -> Arrays:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.ascontiguousarray(digits.images[..., None].astype(np.uint8))
    labels = digits.target.astype(np.int32)
    is_test = _stratified(labels, _DIGITS_TEST_SIZE, _DIGITS_TEST_SEED)
    return {
        "train": (images[~is_test], labels[~is_test]),
        "test": (images[is_test], labels[is_test]),
    }


def _stratified(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Marks `size` examples, of each class its share, rounded by largest remainder."""
    shares = np.bincount(labels) * size / len(labels)
    counts = np.floor(shares).astype(int)
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: size - counts.sum()]] += 1
    order = _permutation(len(labels), seed)
    is_chosen = np.zeros(len(labels), bool)
    for label, count in enumerate(counts):
        is_chosen[order[labels[order] == label][:count]] = True
    return is_chosen


def _data_root(data_dir: str) -> Path:
    key = "data.dir" if data_dir else "TFDS_DATA_DIR"
    directory = data_dir or os.environ.get("TFDS_DATA_DIR", "") or "~/tensorflow_datasets"
    if "://" in directory:
        raise UserError(f"{key}={directory}: allowed: a local directory")
    return files.expand(key, directory)


def _cache_root(cache_dir: str) -> Path:
    if cache_dir:
        return files.expand("data.cache_dir", cache_dir)
    return (
        files.expand("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or "~/.cache")
        / "highway_jax"
    )


def _load_cached(name: str, data_root: Path, cache_root: Path, download: bool) -> Arrays:
    """Reads the cache, or else the source, and then fills the cache."""
    cache_path = cache_root / f"{name}.npz"
    prepared = tfds.find(name, data_root)
    damage = ""
    try:
        arrays, identity = _read_cache(cache_path, name)
        if prepared is None or prepared.identity == identity:
            logger.info("%s: read from the cache %s", name, cache_path)
            return arrays
        logger.info("%s was made from other data than %s", cache_path, prepared.directory)
    except FileNotFoundError:
        pass
    except (BadDataError, OSError) as error:
        damage = f"the cache {cache_path} is damaged ({error})"
        logger.warning("%s: rebuilding it", damage)
    if prepared is None:
        try:
            prepared = _obtain(name, data_root, download)
        except UserError as error:
            if damage:
                raise UserError(f"{damage} and cannot be rebuilt: {error}") from error
            raise
    arrays = tfds.read(name, prepared.directory)
    try:
        _write_cache(cache_path, name, arrays, prepared)
        logger.info("%s: decoded arrays are kept in %s", name, cache_path)
    except OSError as error:
        logger.warning("cannot write the cache %s, so going on without: %s", cache_path, error)
    return arrays


def _obtain(name: str, data_root: Path, download: bool) -> tfds.Prepared:
    """Downloads and prepares what is not there, or says what else could be done."""
    tried = " or ".join(str(path) for path in tfds.directories(name, data_root))
    reason = "data.download=False forbids to download it"
    if download:
        try:
            return tfds.prepare(name, data_root)
        except tfds.UnreachableError as error:
            reason = str(error)
    raise UserError(
        f"data.name={name}: no prepared data in {tried}, and {reason}; either prepare {name} "
        "with TFDS on another machine and set TFDS_DATA_DIR or --config.data.dir to it, or "
        "connect this machine to the network, or use --config.data.name=digits"
    )


def _read_cache(path: Path, name: str) -> tuple[Arrays, str]:
    """Returns the checked arrays and the identity of the source they were decoded from.

    Raises:
        FileNotFoundError: there is no cache.
        BadDataError: it is damaged, or not ours.
        OSError: it cannot be opened.
    """
    stream = path.open("rb")
    try:
        with stream, zipfile.ZipFile(stream) as file:
            manifest = json.loads(file.read("manifest.json"))
            if (manifest["format"], manifest["name"]) != (_CACHE_FORMAT, name):
                raise BadDataError(f"it holds {manifest['name']}, format {manifest['format']}")
            arrays = {
                split: tuple(
                    _read_member(file, f"{split}_{kind}.npy", manifest["sha256"])
                    for kind in ("images", "labels")
                )
                for split in ("train", "test")
            }
            for split in arrays:
                archives.check(archives.SOURCES[name], split, *arrays[split])
            return arrays, manifest["source"]["identity"]
    except BadDataError:
        raise
    except Exception as error:  # whatever a damaged zip, JSON or array makes them raise
        raise BadDataError(f"{type(error).__name__}: {error}") from error


def _read_member(file: zipfile.ZipFile, member: str, checksums: dict[str, str]) -> np.ndarray:
    content = file.read(member)
    if hashlib.sha256(content).hexdigest() != checksums[member]:
        raise BadDataError(f"the sha256 of {member} is wrong")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)


def _write_cache(path: Path, name: str, arrays: Arrays, prepared: tfds.Prepared) -> None:
    """Writes an uncompressed npz with a manifest, in one step that no one sees half done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    checksums = {}
    try:
        with temporary.open("xb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for split, pair in arrays.items():
                    for kind, array in zip(("images", "labels"), pair, strict=True):
                        content = io.BytesIO()
                        np.lib.format.write_array(content, array, allow_pickle=False)
                        member = f"{split}_{kind}.npy"
                        checksums[member] = hashlib.sha256(content.getbuffer()).hexdigest()
                        archive.writestr(member, content.getbuffer())
                manifest = {
                    "format": _CACHE_FORMAT,
                    "name": name,
                    "source": {
                        "directory": str(prepared.directory),
                        "identity": prepared.identity,
                        "tfds_version": archives.SOURCES[name].tfds_version,
                    },
                    "shapes": {split: list(pair[0].shape) for split, pair in arrays.items()},
                    "sha256": checksums,
                }
                archive.writestr("manifest.json", json.dumps(manifest, indent=1))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
