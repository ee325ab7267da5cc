"""MNIST, CIFAR-10 and CIFAR-100 from TensorFlow Datasets (TFDS), without TensorFlow.

A prepared copy is searched for in `data.dir`, else in $TFDS_DATA_DIR, else in
~/tensorflow_datasets: as `<name>/<version>`, prepared by TFDS, and as `highway_<name>/<version>`,
prepared by this package. If there is none, the archives that TFDS uses are downloaded and prepared
there. The decoded arrays are cached (see `cache`). The cache is used if it was decoded from the
prepared copy, or if there is no prepared copy.
"""

import functools
import logging
import os
from pathlib import Path
from typing import Any

from highway_jax import files
from highway_jax.data import archives, cache, tfds
from highway_jax.data.archives import Arrays, BadDataError
from highway_jax.data.dataset import Dataset, Split, check_validation, register_dataset
from highway_jax.errors import UserError

logger = logging.getLogger(__name__)


def _load(name: str, data: Any) -> Dataset:
    """Loads a data set.

    Args:
        name: The data set's name.
        data: The `data` section: `dir`, `cache_dir`, `download`.

    Raises:
        UserError: If the data cannot be obtained, or are not those of the data set.
    """
    source = archives.SOURCES[name]
    # Checked here too, as obtaining the data can take minutes.
    check_validation(name, source.num_examples["train"], data.valid_size, data.split_seed)
    arrays = _obtain_arrays(name, data)
    train, test = Split(*arrays["train"]), Split(*arrays["test"])
    none = Split(train.images[:0], train.labels[:0])
    return Dataset(name, train, none, test, source.class_names)


for _name in archives.SOURCES:
    register_dataset(_name)(functools.partial(_load, _name))


def _obtain_arrays(name: str, data: Any) -> Arrays:
    """Returns the arrays of the cache, or decodes the prepared data and writes the cache."""
    data_root = _data_root(data.dir)
    cache_path = _cache_root(data.cache_dir) / f"{name}.npz"
    prepared = tfds.find(name, data_root)
    damage = ""
    try:
        arrays, identity = cache.read(cache_path, name)
        if prepared is None or prepared.identity == identity:
            logger.info("%s: read from the cache %s", name, cache_path)
            return arrays
        logger.info("%s was decoded from other data than %s", cache_path, prepared.directory)
    except FileNotFoundError:
        pass
    except (BadDataError, OSError) as error:
        damage = f"the cache {cache_path} is damaged ({error})"
        logger.warning("%s: rebuilding it", damage)
    if prepared is None:
        try:
            prepared = _prepare(name, data_root, data.download)
        except UserError as error:
            if damage:
                raise UserError(f"{damage} and cannot be rebuilt: {error}") from error
            raise
    arrays = tfds.read(name, prepared.directory)
    try:
        cache.write(cache_path, name, arrays, prepared)
        logger.info("%s: decoded arrays are cached in %s", name, cache_path)
    except OSError as error:
        logger.warning("cannot write the cache %s; continuing without it: %s", cache_path, error)
    return arrays


def _prepare(name: str, data_root: Path, download: bool) -> tfds.Prepared:
    """Downloads and prepares a data set, or reports how it can be obtained."""
    tried = " or ".join(str(path) for path in tfds.directories(name, data_root))
    reason = "data.download=False forbids downloading it"
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


def _data_root(data_dir: str) -> Path:
    key = "data.dir" if data_dir else "TFDS_DATA_DIR"
    directory = data_dir or os.environ.get("TFDS_DATA_DIR", "") or "~/tensorflow_datasets"
    if "://" in directory:
        raise UserError(f"{key}={directory}: allowed: a local directory")
    return files.expand(key, directory)


def _cache_root(cache_dir: str) -> Path:
    if cache_dir:
        return files.expand("data.cache_dir", cache_dir)
    parent = files.expand("XDG_CACHE_HOME", os.environ.get("XDG_CACHE_HOME") or "~/.cache")
    return parent / "highway_jax"
