"""An uncompressed .npz file with a manifest that holds a checksum of each array."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from highway_jax import files
from highway_jax.data.archives import BadDataError


def write(path: Path, arrays: Mapping[str, np.ndarray], manifest: Mapping[str, Any]) -> None:
    """Writes arrays and a manifest in one atomic step.

    Args:
        path: The file.
        arrays: Arrays by name.
        manifest: JSON data about them; the checksums are added to it.

    Raises:
        OSError: If the file cannot be written. The file that was there before is untouched.
    """
    stream, checksums = io.BytesIO(), {}
    with zipfile.ZipFile(stream, "w") as archive:
        for name, array in arrays.items():
            content = io.BytesIO()
            np.lib.format.write_array(content, np.asarray(array), allow_pickle=False)
            checksums[f"{name}.npy"] = hashlib.sha256(content.getbuffer()).hexdigest()
            archive.writestr(f"{name}.npy", content.getbuffer())
        text = json.dumps({**manifest, "sha256": checksums}, indent=1)
        archive.writestr("manifest.json", text)
    files.write_atomically(path, stream.getvalue())


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Reads the arrays and the manifest, and compares all checksums.

    Raises:
        FileNotFoundError: If there is no such file.
        OSError: If the file cannot be opened.
        BadDataError: If it is damaged or was not written by `write`.
    """
    stream = path.open("rb")
    try:
        with stream, zipfile.ZipFile(stream) as archive:
            manifest = dict(json.loads(archive.read("manifest.json")))
            arrays = {
                member.removesuffix(".npy"): _read_member(archive, member, checksum)
                for member, checksum in manifest["sha256"].items()
            }
            return arrays, manifest
    except BadDataError:
        raise
    except Exception as error:  # A damaged zip file, manifest or array can raise any type.
        raise BadDataError(f"{type(error).__name__}: {error}") from error


def _read_member(archive: zipfile.ZipFile, member: str, checksum: str) -> np.ndarray:
    content = archive.read(member)
    if hashlib.sha256(content).hexdigest() != checksum:
        raise BadDataError(f"the SHA-256 checksum of {member} does not match")
    return np.lib.format.read_array(io.BytesIO(content), allow_pickle=False)
