"""Checkpoints of one batch of trials: Orbax files with checksums; the newest ones are kept.

Orbax does not detect corruption, so a manifest holds the SHA-256 of every file of a step, and the
checksums are compared before the step is restored. The manifest has a checksum of its own. It is
written last and atomically: a step without a manifest is incomplete. Checkpoints contain only data;
none of it is executed.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from highway_jax import files
from highway_jax.errors import UserError, brief, show

_FORMAT = 1
_KEYS = {"format", "step", "files", "extra"}
_MANIFEST = re.compile(r"step_(\d{8,})\.json")
_STEP = re.compile(r"\.?step_(\d{8,})\b.*")
_OVERHEAD_BYTES = 2**17  # Upper bound of the size of Orbax's metadata.
_OTHER_TREE = "structures do not match"  # In Orbax's message.
_FULL = re.compile(r"No space left|Disk quota exceeded|File too large|RESOURCE_EXHAUSTED", re.I)


class _OtherTree(ValueError):
    """The saved arrays are not those of the program that restores them."""


class Checkpoints:
    """The checkpoints in one directory, with a subdirectory for each step."""

    def __init__(self, directory: Path, keep: int = 2):
        """Opens the directory, which may be missing.

        Args:
            directory: Holds `step_00000000/` with Orbax's files and `step_00000000.json` with
                their checksums and the extra data.
            keep: Number of newest checkpoints that are kept.
        """
        self._directory = Path(directory).absolute()
        self._keep = keep

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
        """Saves a step and removes older ones; returns once all files are on disk.

        Later steps are removed too, since they were skipped as damaged.

        Args:
            step: Number of the checkpoint.
            state: Tree of host arrays.
            extra: Small JSON data saved with the state.

        Raises:
            OSError: If saving failed, or the working directory was removed; earlier checkpoints are
                unchanged.
        """
        path = self._path(step)
        manifest = self._manifest(step)
        manifest.unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        for directory in (self._directory.parent, self._directory):
            directory.mkdir(exist_ok=True)
        _check_space(path, state)
        try:
            with _checkpointer() as checkpointer:
                checkpointer.save(path, state)
            sums = {str(f.relative_to(path)): _sha256(f) for f in _all_files(path)}
            content = {"format": _FORMAT, "step": step, "files": sums, "extra": extra}
            text = json.dumps(content | {"sha256": _sum_of(content)})
            files.write_atomically(manifest, text)
            self._mark().touch()
        except Exception as error:
            with contextlib.suppress(OSError):
                self._tidy({s for s in self.steps() if s != step})
            raise _as_os_error(error, path) from error
        earlier = [s for s in self.steps() if s < step]
        self._tidy({step, *earlier[max(0, len(earlier) - self._keep + 1) :]})

    def steps(self) -> list[int]:
        """Returns the complete steps, oldest first."""
        found = (_MANIFEST.fullmatch(p.name) for p in self._directory.glob("step_*.json"))
        return sorted(int(match[1]) for match in found if match)

    def exist(self) -> bool:
        """Returns whether a step was completed, even if none is left."""
        return bool(self.steps()) or self._mark().exists()

    def extras(self) -> list[dict[str, Any]]:
        """Returns the extra data of each step, newest first; {} if its manifest is damaged."""
        return [self._read_manifest(step)[0].get("extra", {}) for step in reversed(self.steps())]

    def restore(
        self, like: Callable[[dict[str, Any]], Any]
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns the newest intact checkpoint as (step, state, extra), or None if none was saved.

        A damaged checkpoint is skipped with a warning that names the file.

        Args:
            like: Maps the extra data of a checkpoint to a tree of host arrays with the saved
                shapes; raises `ValueError` if the extra data are invalid.

        Raises:
            UserError: If there are checkpoints and all are damaged.
        """
        damages, misfits = [], []
        for step in reversed(self.steps()):
            damage = self.damage(step)
            if damage is None:
                extra = self._read_manifest(step)[0]["extra"]
                try:
                    return step, self._read(step, like(extra)), extra
                except (MemoryError, UserError):
                    raise
                except Exception as error:  # Orbax may raise any error for foreign files.
                    damage = (
                        f"{self._path(step).name} cannot be restored ({brief(str(error), 200)})"
                    )
                    if isinstance(error, _OtherTree) or _OTHER_TREE in str(error):
                        misfits.append(damage)
            damages.append(damage)
            logging.warning("checkpoint of step %d skipped: %s", step, damage)
        if misfits:
            raise UserError(
                f"{self._directory}: {misfits[0]}, although its files have their checksums; use the"
                " data, the code and the versions of packages with which the run was started"
            )
        if self.exist():
            damage = damages[0] if damages else "no manifest is left"
            raise UserError(
                f"{self._directory}: every checkpoint is damaged ({damage}); restore a copy of the"
                " directory, or remove it to train from the start"
            )
        return None

    def _read(self, step: int, like: Any) -> Any:
        with _checkpointer() as checkpointer:
            state = jax.tree.map(np.asarray, checkpointer.restore(self._path(step), like))
        # Orbax restores arrays of other shapes without an error.
        for (path, found), wanted in zip(
            jax.tree.leaves_with_path(state), jax.tree.leaves(like), strict=True
        ):
            if (found.shape, found.dtype) != (wanted.shape, wanted.dtype):
                raise _OtherTree(
                    f"{jax.tree_util.keystr(path)} is {found.dtype}{list(found.shape)},"
                    f" not {wanted.dtype}{list(wanted.shape)}"
                )
        return state

    def damage(self, step: int) -> str | None:
        """Returns a description of the damage of a step's files, or None."""
        manifest, damage = self._read_manifest(step)
        path = self._path(step)
        try:
            return damage or _difference(path, manifest["files"])
        except OSError as error:
            return f"{path.name} cannot be read ({error.strerror})"

    def _read_manifest(self, step: int) -> tuple[dict[str, Any], str | None]:
        """Returns a step's manifest and None, or {} and a description of its damage."""
        name = self._manifest(step).name
        try:
            manifest = json.loads(self._manifest(step).read_text(encoding="utf-8"))
            # Early manifests of version 0.1.0 have no checksum.
            expected = manifest.pop("sha256", None)
            is_whole = set(manifest) == _KEYS and expected in (None, _sum_of(manifest))
            dict(manifest["files"]), dict(manifest["extra"])
            format_ = manifest["format"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return {}, f"{name} cannot be read"
        if format_ != _FORMAT:
            return {}, f"{name} has format {show(format_)}, not {_FORMAT}"
        if not is_whole or manifest["step"] != step:
            return {}, f"{name} does not have its checksum"
        return manifest, None

    def tidy(self) -> None:
        """Removes incomplete steps, left by a process that was killed."""
        self._tidy(set(self.steps()[-self._keep :]))

    def _tidy(self, kept: set[int]) -> None:
        """Removes all other steps, and incomplete steps."""
        for path in sorted(self._directory.iterdir(), reverse=True):  # A manifest before its step.
            match = _STEP.fullmatch(path.name)
            is_kept = match and int(match[1]) in kept and path in self._files_of(int(match[1]))
            if not match or is_kept:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _files_of(self, step: int) -> tuple[Path, Path]:
        return self._manifest(step), self._path(step)

    def _mark(self) -> Path:
        # Distinguishes lost manifests from an incomplete first save.
        return self._directory / "saved"

    def _path(self, step: int) -> Path:
        return self._directory / f"step_{step:08d}"

    def _manifest(self, step: int) -> Path:
        return self._directory / f"step_{step:08d}.json"


def _checkpointer() -> ocp.StandardCheckpointer:
    # Only this process saves, so it must not wait for the others.
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=options)


def _difference(path: Path, sums: dict[str, str]) -> str | None:
    """Returns a description of the first file of a step that has changed, or None."""
    present = {str(f.relative_to(path)): f for f in _all_files(path)}
    for name, expected in sums.items():
        if name not in present:
            return f"{path.name}/{name} is missing"
        if _sha256(present[name]) != expected:
            return f"{path.name}/{name} does not have its checksum"
    if strange := sorted(present.keys() - sums.keys()):
        return f"{path.name}/{strange[0]} is not part of it"
    return None


def _check_space(path: Path, state: Any) -> None:
    """Raises the error of a full disk before Orbax does, whose message is very long."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + _OVERHEAD_BYTES
    if shutil.disk_usage(path.parent).free < needed:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def _as_os_error(error: Exception, path: Path) -> Exception:
    """Returns an `OSError` with an errno and a path; Orbax reports a full disk as a ValueError."""
    if isinstance(error, OSError) and error.errno is not None:
        error.filename = error.filename or str(path)
        return error
    text = str(error) or type(error).__name__
    if _FULL.search(text):
        return OSError(errno.ENOSPC, "No space left on device", str(path))
    return OSError(errno.EIO, brief(text, 200), str(path))


def _sum_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _all_files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
