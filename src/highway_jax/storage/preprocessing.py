"""The preprocessing of a run: the file that lets its nets be used without the data set."""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from highway_jax.config.sections import Data
from highway_jax.data import checked_npz, preprocess
from highway_jax.data.archives import BadDataError
from highway_jax.data.dataset import Dataset
from highway_jax.data.preprocess import Preprocessing
from highway_jax.errors import UserError

_FORMAT = 1
_SETTINGS = (
    "name",
    "file",
    "valid_size",
    "split_seed",
    "scaling",
    "contrast_std",
    "zca_epsilon",
    "subtract_mean",
)
"""Settings of the `data` section that the constants depend on."""


class SavedPreprocessing(NamedTuple):
    """What is needed to feed raw examples to a trained net and to name its answers.

    Attributes:
        constants: The preprocessing.
        example_shape: Shape of one example.
        dtype: Type of the raw examples, uint8 or float32.
        class_names: The names of the classes, in the order of their labels.
    """

    constants: Preprocessing
    example_shape: tuple[int, ...]
    dtype: str
    class_names: tuple[str, ...]


def of(data: Data, dataset: Dataset) -> SavedPreprocessing:
    """Fits the preprocessing that the `data` section of a config describes."""
    return SavedPreprocessing(
        preprocess.fit_all(data, dataset),
        dataset.example_shape,
        str(dataset.train.images.dtype),
        dataset.class_names,
    )


def path(workdir: Path, data: Data) -> Path:
    """Returns the file of a run for a `data` section; cases with other data have other files."""
    settings = json.dumps([getattr(data, name) for name in _SETTINGS])
    return workdir / f"preprocessing-{hashlib.sha256(settings.encode()).hexdigest()[:16]}.npz"


def exists(path: Path) -> bool:
    """Returns whether the file is there and intact."""
    try:
        checked_npz.read(path)
    except FileNotFoundError:
        return False
    except BadDataError as error:
        logging.warning("%s is damaged (%s); it is written again", path, error)
        return False
    return True


def save(saved: SavedPreprocessing, path: Path) -> None:
    """Writes the file in one atomic step.

    Raises:
        OSError: If it cannot be written.
    """
    constants = saved.constants._asdict().items()
    arrays = {name: np.asarray(value) for name, value in constants if value is not None}
    manifest = {
        "format": _FORMAT,
        "example_shape": saved.example_shape,
        "dtype": saved.dtype,
        "class_names": saved.class_names,
    }
    checked_npz.write(path, arrays, manifest)


def load(path: Path) -> SavedPreprocessing | None:
    """Reads the file, or returns None if there is none, as in runs of earlier versions.

    Raises:
        UserError: If it is damaged or cannot be read.
    """
    try:
        arrays, manifest = checked_npz.read(path)
        if manifest["format"] != _FORMAT:
            raise BadDataError(f"it has the format {manifest['format']}, not {_FORMAT}")
        # Arrays without axes become the scalars that they were.
        constants: dict[str, Any] = {name: array[()] for name, array in arrays.items()}
        constants["contrast"] = float(constants["contrast"])
        return SavedPreprocessing(
            Preprocessing(**constants),
            tuple(manifest["example_shape"]),
            manifest["dtype"],
            tuple(manifest["class_names"]),
        )
    except FileNotFoundError:
        return None
    except (BadDataError, OSError, KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); restore it, or remove it, so that it is computed"
            " from the data set again"
        ) from error
