"""Small data sets in the real formats: archives as downloaded, directories as TFDS prepares them.

Nothing here uses our parsers; the formats are written from their descriptions.
"""

import contextlib
import dataclasses
import functools
import gzip
import hashlib
import http.server
import io
import json
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np

from highway_jax.config.config import default_config
from highway_jax.data import archives, dataset

SIZES = {"train": 60, "test": 20}
TFDS_NAMES = ("mnist", "cifar10", "cifar100")


def load(name, **settings):
    """Loads a data set with these settings of the `data` section."""
    section = default_config().data
    section.update({"name": name, **settings})
    return dataset.load(section)


def isolate(monkeypatch, tmp_path):
    """Keeps a test from the real home directory and from the environment's."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)


def shrink(monkeypatch, name):
    """Makes the package expect `SIZES` examples."""
    source = dataclasses.replace(archives.SOURCES[name], num_examples=SIZES)
    monkeypatch.setitem(archives.SOURCES, name, source)
    return source


def make_arrays(name, seed=0):
    """Random images and labels, in the order in which archives hold them."""
    source = archives.SOURCES[name]
    rng = np.random.default_rng(seed)
    return {
        split: (
            rng.integers(0, 256, (size, *source.image_shape), dtype=np.uint8),
            rng.integers(0, len(source.class_names), size, dtype=np.int32),
        )
        for split, size in SIZES.items()
    }


def tfds_order(arrays):
    """The arrays in TFDS's order: by the md5 of split name and key, here the example's index."""
    ordered = {}
    for split, (images, labels) in arrays.items():
        order = sorted(
            range(len(labels)), key=lambda i, s=split: hashlib.md5(f"{s}{i}".encode()).digest()
        )
        ordered[split] = images[order], labels[order]
    return ordered


def archive_files(name, arrays):
    """The bytes of each archive, by file name."""
    source = archives.SOURCES[name]
    names = [Path(archive.url).name for archive in source.archives]
    if name == "mnist":
        contents = [
            content
            for images, labels in (arrays["train"], arrays["test"])
            for content in (idx(2051, images[..., 0]), idx(2049, labels.astype(np.uint8)))
        ]
        return dict(zip(names, contents, strict=True))
    return {names[0]: tar(cifar_members(name, arrays))}


def idx(magic, array, shape=None):
    """A gzipped IDX file; `shape` lets the header lie."""
    shape = shape or array.shape
    return gzip.compress(struct.pack(f">{1 + len(shape)}I", magic, *shape) + array.tobytes())


def cifar_members(name, arrays):
    """Name and bytes of each file in a CIFAR archive: label bytes, then red, green, blue planes."""
    members = {"README.html" if name == "cifar10" else "file.txt~": b"not data"}
    for split, (images, labels) in arrays.items():
        rows = [
            (b"\xc8" if name == "cifar100" else b"")  # a coarse label, which nothing reads
            + bytes([label])
            + b"".join(image[:, :, channel].tobytes() for channel in range(3))
            for image, label in zip(images, labels, strict=True)
        ]
        files = archives.SOURCES[name].members[split]
        step = len(rows) // len(files)
        for i, file in enumerate(files):
            members[file] = b"".join(rows[i * step : (i + 1) * step])
    return members


def tar(members, *more):
    """A gzipped tar of these members, then of `more` (TarInfo, stream) pairs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            archive.addfile(*tar_member(name, content))
        for info, content in more:
            archive.addfile(info, content)
    return stream.getvalue()


def tar_member(name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    return info, io.BytesIO(content)


@contextlib.contextmanager
def serve(directory):
    """Serves a directory on loopback; gives the address and the list of requests made.

    The address with "/half" after it gives half of each file and then hangs up.
    """
    requests = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def translate_path(self, path):
            return super().translate_path(path.replace("/half", ""))

        def copyfile(self, source, outputfile):
            content = source.read()
            outputfile.write(content[: len(content) // (2 if "/half" in self.path else 1)])

        def log_request(self, *args):
            requests.append(f"{self.command} {self.path}")

        def log_message(self, *args):
            pass

    handler = functools.partial(Handler, directory=str(directory))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", requests
        finally:
            server.shutdown()
            thread.join()


def register(monkeypatch, name, url, files):
    """Makes the package download `files` from `url`, with their true sizes and checksums."""
    source = dataclasses.replace(
        archives.SOURCES[name],
        archives=tuple(
            archives.Archive(f"{url}/{file}", len(content), hashlib.sha256(content).hexdigest())
            for file, content in files.items()
        ),
    )
    monkeypatch.setitem(archives.SOURCES, name, source)


def prepare_with_tfds(name, arrays, root, class_names=None):
    """Prepares arrays as TFDS's own builder of that name does: PNG in array_record."""
    import tensorflow_datasets as tfds
    from PIL import Image

    builder_name = name

    class Builder(tfds.builder_cls(name), skip_registration=True):
        name = builder_name

        def _split_generators(self, dl_manager):
            self.info.features["label"].names = class_names or archives.SOURCES[name].class_names
            return {split: self._generate_examples(split, *arrays[split]) for split in arrays}

        def _generate_examples(self, split, images, labels):
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                png = io.BytesIO()
                Image.fromarray(image.squeeze()).save(png, "png")
                png.seek(0)
                extra = {"id": f"{split}_{i:05d}"} if builder_name != "mnist" else {}
                extra |= {"coarse_label": 0} if builder_name == "cifar100" else {}
                yield i, {"image": png, "label": int(label), **extra}

        def _log_download_bytes(self):
            pass

        def _log_download_done(self):
            pass

    tfds.disable_progress_bar()
    builder = Builder(data_dir=root)
    builder.download_and_prepare(
        file_format="array_record",
        download_config=tfds.download.DownloadConfig(try_download_gcs=False),
    )
    tfds.enable_progress_bar()
    return Path(builder.data_dir)


def convert_to_tfrecord(directory):
    """Turns a prepared array_record directory into the tfrecord one TFDS writes by default."""
    import tensorflow_datasets as tfds
    from array_record.python import array_record_data_source

    info = tfds.builder_from_directory(directory).info
    for split in SIZES:
        for path in info.splits[split].filepaths:
            with array_record_data_source.ArrayRecordDataSource(str(path)) as source:
                records = [source[i] for i in range(len(source))]
            target = Path(str(path).replace("array_record", "tfrecord"))
            target.write_bytes(b"".join(map(tfrecord_frame, records)))
            Path(path).unlink()
    path = directory / "dataset_info.json"
    metadata = json.loads(path.read_text())
    path.write_text(json.dumps(metadata | {"fileFormat": "tfrecord"}))


def tfrecord_frame(record):
    length = struct.pack("<Q", len(record))
    return length + masked_crc32c(length) + record + masked_crc32c(record)


def masked_crc32c(data):
    """TFRecord's checksum, bit by bit from the polynomial."""
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) % 2**32)


def crc32c(data):
    crc = 2**32 - 1
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 2**32 - 1
