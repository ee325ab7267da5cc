"""The cache of decoded arrays: decoding a prepared data set takes seconds, reading it less.

The cache of a data set is `<data.cache_dir>/<name>.npz`. It holds checksums, which are compared
whenever it is read, and the identity of the prepared data that it was decoded from.
"""

from pathlib import Path

from highway_jax.data import archives, checked_npz, tfds
from highway_jax.data.archives import Arrays, BadDataError

_FORMAT = 1


def read(path: Path, name: str) -> tuple[Arrays, str]:
    """Reads the cache of a data set.

    Args:
        path: The file.
        name: The data set's name.

    Returns:
        The checked arrays, and the identity of the prepared data that they were decoded from.

    Raises:
        FileNotFoundError: If there is no cache.
        BadDataError: If it is damaged or belongs to another data set or format.
        OSError: If it cannot be opened.
    """
    found, manifest = checked_npz.read(path)
    try:
        if (manifest["format"], manifest["name"]) != (_FORMAT, name):
            raise BadDataError(f"it holds {manifest['name']}, format {manifest['format']}")
        arrays = {
            split: (found[f"{split}_images"], found[f"{split}_labels"])
            for split in ("train", "test")
        }
        for split in arrays:
            archives.check(archives.SOURCES[name], split, *arrays[split])
        return arrays, manifest["source"]["identity"]
    except (KeyError, TypeError, AttributeError) as error:
        raise BadDataError(f"{type(error).__name__}: {error}") from error


def write(path: Path, name: str, arrays: Arrays, prepared: tfds.Prepared) -> None:
    """Writes the cache of a data set in one atomic step.

    Args:
        path: The file; its directory is created if it does not exist.
        name: The data set's name.
        arrays: Its arrays by split.
        prepared: The prepared data that they were decoded from.

    Raises:
        OSError: If it cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    members = {
        f"{split}_{kind}": array
        for split, pair in arrays.items()
        for kind, array in zip(("images", "labels"), pair, strict=True)
    }
    manifest = {
        "format": _FORMAT,
        "name": name,
        "source": {
            "directory": str(prepared.directory),
            "identity": prepared.identity,
            "tfds_version": archives.SOURCES[name].tfds_version,
        },
        "shapes": {split: list(pair[0].shape) for split, pair in arrays.items()},
    }
    checked_npz.write(path, members, manifest)
