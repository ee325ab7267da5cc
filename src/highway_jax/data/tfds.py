"""Reads and prepares MNIST and CIFAR through TensorFlow Datasets (TFDS), without TensorFlow.

TFDS reads prepared data without TensorFlow, but its own MNIST and CIFAR builders need TensorFlow to
prepare them. The same arrays in the same order are therefore obtained in two ways:

1. `<root>/<name>/<version>`, prepared by TFDS on any machine, as array_record or tfrecord.
2. `<root>/highway_<name>/<version>`, prepared by a builder of this package from the archives that
   TFDS uses, with TFDS's download manager and checksums. Its examples have the keys that TFDS's own
   builder gives them, so that both are shuffled into the same order.

`tensorflow_datasets` is imported by the functions that need it, not by importing this module.
"""

import contextlib
import dataclasses
import hashlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from highway_jax.data import archives, tfrecord
from highway_jax.data.archives import Arrays, BadDataError
from highway_jax.errors import UserError, require

logger = logging.getLogger(__name__)

# Version of the format that the builders of this package write.
_BUILDER_VERSION = "1.0.0"
# Limit on the wait for the server's first answer. Without network, TFDS retries for minutes.
_CONNECT_SECONDS = 10.0
# HTTP statuses of servers that support GET but not HEAD.
_HEAD_REFUSED = (403, 405, 501)
_METADATA_FILES = ("dataset_info.json", "features.json")
_READ_BATCH = 1000
_PROBE_BYTES = 1 << 16


class UnreachableError(UserError):
    """The network or the server cannot be reached."""


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A prepared directory.

    Attributes:
        directory: The directory.
        identity: A digest of the names, the sizes, and the first and last 64 KiB of its files.
            Reading whole files would make every start slow where the directory is on a network.
    """

    directory: Path
    identity: str


def directories(name: str, root: Path) -> tuple[Path, Path]:
    """Returns where a data set can be prepared: TFDS's directory, and that of this package."""
    version = archives.SOURCES[name].tfds_version
    return root / name / version, root / f"highway_{name}" / _BUILDER_VERSION


def find(name: str, root: Path) -> Prepared | None:
    """Returns the data set prepared under `root`, or None, without decoding anything.

    Raises:
        UserError: If the directory exists and cannot be read.
    """
    for directory in directories(name, root):
        try:
            if all((directory / file).is_file() for file in _METADATA_FILES):
                return Prepared(directory, _identity(directory))
        except OSError as error:
            raise UserError(f"data.name={name}: cannot read {directory}: {error}") from error
    return None


def _identity(directory: Path) -> str:
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.iterdir() if path.is_file()):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            digest.update(file.read(_PROBE_BYTES))
            file.seek(max(0, size - _PROBE_BYTES))
            digest.update(file.read(_PROBE_BYTES))
    return digest.hexdigest()


def read(name: str, directory: Path) -> Arrays:
    """Decodes both splits of a prepared data set.

    Raises:
        UserError: If the directory cannot be read or does not hold this data set.
    """
    _require(name)
    source = archives.SOURCES[name]
    total = sum(source.num_examples.values())
    logger.info("decoding %d examples of %s from %s", total, name, directory)
    try:
        with _quiet_tfds() as tfds:
            builder = tfds.builder_from_directory(directory)
            _check_info(source, builder.info)
            return {split: _read_split(source, builder, split) for split in ("train", "test")}
    except Exception as error:  # TFDS raises many types for a damaged or foreign directory.
        raise UserError(
            f"data.name={name}: cannot read the prepared data in {directory} "
            f"({_one_line(error)}): repair or remove it"
        ) from error


def _check_info(source: archives.Source, info: Any) -> None:
    """Checks the metadata, which gives a clearer message than decoding other data would."""
    found = {split: info.splits[split].num_examples for split in info.splits}
    if any(found.get(split) != count for split, count in source.num_examples.items()):
        raise BadDataError(f"it has the splits {found}, not {source.num_examples}")
    if info.features["image"].shape != source.image_shape:
        raise BadDataError(
            f"its images are {info.features['image'].shape}, not {source.image_shape}"
        )
    if tuple(info.features["label"].names) != source.class_names:
        raise BadDataError("its class names are not those of TFDS")


def _read_split(source: archives.Source, builder: Any, split: str) -> tuple[np.ndarray, np.ndarray]:
    count = source.num_examples[split]
    images = np.empty((count, *source.image_shape), np.uint8)
    labels = np.empty(count, np.int32)
    num_read = 0
    for example in _examples(builder, split):
        if num_read == count:
            raise BadDataError(f"{split} holds more than {count} examples")
        if example["image"].shape != source.image_shape or example["image"].dtype != np.uint8:
            raise BadDataError(f"{split} example {num_read} is not uint8 {source.image_shape}")
        images[num_read], labels[num_read] = example["image"], example["label"]
        num_read += 1
    if num_read != count:
        raise BadDataError(f"{split} holds only {num_read} examples, not {count}")
    archives.check(source, split, images, labels)
    return images, labels


def _examples(builder: Any, split: str) -> Iterator[dict[str, Any]]:
    """Yields decoded examples in stored order."""
    formats = {file_format.value for file_format in builder.info.available_file_formats()}
    if "array_record" in formats:
        source = builder.as_data_source(split)
        for start in range(0, len(source), _READ_BATCH):
            yield from source.__getitems__(range(start, min(start + _READ_BATCH, len(source))))
    elif "tfrecord" in formats:  # TFDS's default format, which it reads only with TensorFlow.
        for path in builder.info.splits[split].filepaths:
            for record in tfrecord.read(Path(path)):
                yield builder.info.features.deserialize_example_np(record)
    else:
        raise BadDataError(f"its file format is {sorted(formats)}, not array_record or tfrecord")


def prepare(name: str, root: Path) -> Prepared:
    """Downloads the archives of a data set and prepares it under `root`, completely or not at all.

    Raises:
        UnreachableError: If the network cannot be reached.
        UserError: If a checksum or an archive is wrong, or the directory cannot be written.
            Nothing is left of a failed attempt.
    """
    _require(name)
    source = archives.SOURCES[name]
    directory = directories(name, root)[1]
    if directory.exists():
        if found := find(name, root):  # Another process prepared it first.
            return found
        raise UserError(
            f"data.name={name}: {directory} is not a complete prepared data set: remove it"
        )
    _check_reachable(source.archives[0].url)
    logger.info(
        "downloading %s (%.0f MB) from %s; preparing it in %s",
        name,
        sum(archive.size for archive in source.archives) / 1e6,
        urlsplit(source.archives[0].url).hostname,
        directory,
    )
    try:
        root.mkdir(parents=True, exist_ok=True)
        with (
            _quiet_tfds() as tfds,
            tempfile.TemporaryDirectory(prefix="incomplete.highway_", dir=root) as download_dir,
        ):
            config = tfds.download.DownloadConfig(
                try_download_gcs=False, force_checksums_validation=True
            )
            _builder_class(tfds, name)(data_dir=root).download_and_prepare(
                download_dir=download_dir, download_config=config, file_format="array_record"
            )
    except Exception as error:  # OSError, BadDataError, or an error of requests or TFDS.
        if found := find(name, root):  # Another process prepared it first.
            return found
        with contextlib.suppress(OSError):
            directory.parent.rmdir()
        raise UserError(
            f"data.name={name}: downloading and preparing it in {directory} failed: "
            f"{_one_line(error)}"
        ) from error
    return Prepared(directory, _identity(directory))


def _check_reachable(url: str) -> None:
    """Fails within seconds where TFDS would retry for minutes. Respects proxy settings."""
    import requests

    try:
        response = requests.head(url, timeout=_CONNECT_SECONDS, allow_redirects=True)
    except requests.RequestException as error:
        raise UnreachableError(
            f"cannot reach {urlsplit(url).hostname} ({type(error).__name__})"
        ) from error
    if response.status_code >= 400 and response.status_code not in _HEAD_REFUSED:
        raise UnreachableError(f"{url} answers with HTTP status {response.status_code}")


def _builder_class(tfds: Any, name: str) -> type:
    """Returns a TFDS builder that stores what TFDS stores of a data set, without its ids."""
    source = archives.SOURCES[name]
    builder_name = f"highway_{name}"
    checksums = {
        archive.url: tfds.download.checksums.UrlInfo(
            size=archive.size, checksum=archive.sha256, filename=Path(archive.url).name
        )
        for archive in source.archives
    }

    class Builder(  # pyright: ignore[reportGeneralTypeIssues]
        tfds.core.GeneratorBasedBuilder,
        skip_registration=True,  # pyright: ignore[reportCallIssue]
    ):
        name = builder_name
        VERSION = tfds.core.Version(_BUILDER_VERSION)
        url_infos = checksums

        def _info(self):
            image = tfds.features.Tensor(
                shape=source.image_shape, dtype=np.uint8, encoding=tfds.features.Encoding.ZLIB
            )
            label = tfds.features.ClassLabel(names=source.class_names)
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict({"image": image, "label": label}),
            )

        def _split_generators(self, dl_manager):
            # One after the other, so that a failure leaves no other download running.
            paths = [Path(dl_manager.download(archive.url)) for archive in source.archives]
            arrays = archives.parse(source, paths)
            return {split: self._generate_examples(*arrays[split]) for split in arrays}

        def _generate_examples(self, images, labels):
            for key, (image, label) in enumerate(zip(images, labels, strict=True)):
                yield key, {"image": image, "label": int(label)}

        # TFDS prints what these two log to standard output.
        def _log_download_bytes(self):
            pass

        def _log_download_done(self):
            pass

    return Builder


def _require(name: str) -> None:
    require("data", f"data.name={name}", "tensorflow_datasets", "PIL", "google_crc32c")


@contextlib.contextmanager
def _quiet_tfds() -> Iterator[Any]:
    """Imports TFDS and silences its progress bars and warnings, such as a missing OpenCV."""
    import tensorflow_datasets as tfds

    if not hasattr(tfds, "builder_from_directory"):  # Its import logs an error and returns.
        raise ImportError("tensorflow_datasets does not import; its own message is above")
    absl_logger = logging.getLogger("absl")
    level = absl_logger.level
    absl_logger.setLevel(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        yield tfds
    finally:
        absl_logger.setLevel(level)
        tfds.enable_progress_bar()


def _one_line(error: Exception) -> str:
    kind = "" if isinstance(error, BadDataError) else f"{type(error).__name__}: "
    return kind + " ".join(str(error).split())
