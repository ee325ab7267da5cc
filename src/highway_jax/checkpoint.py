"""Checkpoints of one batch of trials: Orbax files, a manifest of their sums, the newest few kept.

Orbax restores a flipped bit without a word, so every file's SHA-256 is written beside the step
and compared before the step is used. The manifest is written last and atomically: a step without
one was never finished. Files are data only; nothing in them is executed.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from highway_jax import files
from highway_jax.errors import UserError

_FORMAT = 1


class Checkpoints:
    """The checkpoints in one directory, one subdirectory a step."""

    def __init__(self, directory: Path, keep: int = 2):
        """Opens the directory, which need not exist yet.

        Args:
            directory: Holds `step_00000000/` with Orbax's files and `step_00000000.json` with
                their sums and what else was saved.
            keep: Newest checkpoints kept.
        """
        self._directory = Path(directory).absolute()
        self._keep = keep

    def save(self, step: int, state: Any, extra: dict[str, Any]) -> None:
        """Saves a step and removes the oldest; returns when all of it is on disk.

        Args:
            step: Names the checkpoint.
            state: Tree of host arrays.
            extra: Small JSON data saved with it.

        Raises:
            OSError: If it could not be written; earlier checkpoints are untouched.
        """
        path = self._path(step)
        manifest = self._manifest(step)
        manifest.unlink(missing_ok=True)
        shutil.rmtree(path, ignore_errors=True)
        self._directory.mkdir(parents=True, exist_ok=True)
        with _checkpointer() as checkpointer:
            checkpointer.save(path, state)
        sums = {str(f.relative_to(path)): _sha256(f) for f in _all_files(path)}
        files.write_atomically(
            manifest, json.dumps({"format": _FORMAT, "step": step, "files": sums, "extra": extra})
        )
        for old in self.steps()[: -self._keep]:
            self._manifest(old).unlink(missing_ok=True)
            shutil.rmtree(self._path(old), ignore_errors=True)

    def steps(self) -> list[int]:
        """Returns the finished steps, oldest first."""
        return sorted(
            int(p.stem.removeprefix("step_")) for p in self._directory.glob("step_*.json")
        )

    def restore(
        self, like: Callable[[dict[str, Any]], Any]
    ) -> tuple[int, Any, dict[str, Any]] | None:
        """Returns the newest intact checkpoint as (step, state, extra), or None if none was saved.

        A damaged one is passed over with a warning that names the file.

        Args:
            like: From the extra data saved with a checkpoint to a tree of host arrays of the
                shapes that were saved.

        Raises:
            UserError: If there are checkpoints and every one is damaged.
        """
        damages = []
        for step in reversed(self.steps()):
            damage = self.damage(step)
            if damage is None:
                manifest = json.loads(self._manifest(step).read_text())
                with _checkpointer() as checkpointer:
                    state = checkpointer.restore(self._path(step), like(manifest["extra"]))
                return step, jax.tree.map(np.asarray, state), manifest["extra"]
            damages.append(damage)
            logging.warning("checkpoint of step %d passed over: %s", step, damage)
        if damages:
            raise UserError(
                f"every checkpoint in {self._directory} is damaged ({damages[0]});"
                " restore a copy of the directory, or remove it to train from the start"
            )
        return None

    def damage(self, step: int) -> str | None:
        """Returns what is wrong with the files of a step, or None."""
        try:
            manifest = json.loads(self._manifest(step).read_text())
            sums, format_ = dict(manifest["files"]), manifest["format"]
            dict(manifest["extra"])
        except (OSError, ValueError, KeyError, TypeError):
            return f"{self._manifest(step).name} cannot be read"
        if format_ != _FORMAT:
            return f"{self._manifest(step).name} has format {format_}, not {_FORMAT}"
        path = self._path(step)
        present = {str(f.relative_to(path)): f for f in _all_files(path)}
        for name, expected in sums.items():
            if name not in present:
                return f"{path.name}/{name} is missing"
            if _sha256(present[name]) != expected:
                return f"{path.name}/{name} does not have its checksum"
        return None

    def _path(self, step: int) -> Path:
        return self._directory / f"step_{step:08d}"

    def _manifest(self, step: int) -> Path:
        return self._directory / f"step_{step:08d}.json"


def _checkpointer() -> ocp.StandardCheckpointer:
    # The arrays are on the host of this process, which does not wait for others.
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"process{own}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=options)


def _all_files(path: Path) -> list[Path]:
    return sorted(f for f in path.rglob("*") if f.is_file())


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
