"""Data sets of the user: an .npz file named by `data.file`, or arrays given to `run`."""

import zipfile
from typing import Any

import numpy as np

from highway_jax import files
from highway_jax.data.dataset import Dataset, register_dataset
from highway_jax.errors import UserError, brief

_REQUIRED = ("x_train", "y_train", "x_test", "y_test")
_OPTIONAL = ("class_names", "max_value")


@register_dataset("file")
def load_file(data: Any) -> Dataset:
    """Loads the arrays of an .npz file, the arguments of `Dataset.from_arrays` by name.

    Pickled objects in the file are refused, as reading them could execute code.

    Args:
        data: The `data` section; `file` is the path.

    Raises:
        UserError: If the file cannot be read, or its arrays are not a data set.
    """
    path = files.expand("config.data.file", data.file)
    try:
        with path.open("rb") as stream:  # NumPy leaves a file open that it cannot read.
            if not zipfile.is_zipfile(stream):
                raise ValueError("it is not an .npz file")
            with np.lib.npyio.NpzFile(stream, allow_pickle=False) as archive:
                arrays = {name: archive[name] for name in archive.files}
        missing = [name for name in _REQUIRED if name not in arrays]
        unknown = sorted(arrays.keys() - {*_REQUIRED, *_OPTIONAL})
        if missing or unknown:
            found = f"it lacks {missing[0]}" if missing else f"it has an array {unknown[0]!r}"
            raise ValueError(
                f"{found}; allowed: {', '.join(_REQUIRED)}, and optionally {', '.join(_OPTIONAL)}"
            )
        names = arrays.get("class_names")
        max_value = arrays.get("max_value", np.asarray(255))
        return Dataset.from_arrays(
            *(arrays[name] for name in _REQUIRED),
            class_names=None if names is None else names.tolist(),
            name="file",
            max_value=max_value.tolist(),
        )
    except Exception as error:  # A damaged file can raise errors of any type.
        raise UserError(
            f"config.data.file is {data.file!r}: {brief(files.reason(error), 300)}"
        ) from error


@register_dataset("arrays")
def load_arrays(data: Any) -> Dataset:
    """Refuses to load arrays that were given to `run`, which are stored nowhere.

    Raises:
        UserError: Always.
    """
    raise UserError(
        "config.data.name is 'arrays', whose arrays are not stored with the run; give them to"
        " highway_jax.run(config, workdir, dataset=...), or use an .npz file with"
        " config.data.name='file'"
    )
