"""Compiled programs on disk, so that a run that goes on need not compile again.

jax's own persistent cache, with what it lacks. Its entries are code for one processor, so each
processor and jaxlib has a directory of its own. It loads what it finds and never replaces what it
cannot load, so every entry has a checksum beside it, and one without is removed before it is used.
"""

import contextlib
import hashlib
import logging
import platform
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib
from jax.experimental.compilation_cache import compilation_cache

from highway_jax import files
from highway_jax.errors import UserError

_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_compilation_cache_max_size": -1,
    # XLA's own files beside jax's would have no checksums.
    "jax_persistent_cache_enable_xla_caches": "",
}
_MOST_BYTES = 2**30


class CompileCache:
    """The cache below one directory."""

    def __init__(self, directory: str):
        """Opens the cache.

        Args:
            directory: Holds a directory for each processor and jaxlib; empty for no cache. What
                lies there is executed: nobody else may write to it.
        """
        self._path = Path(directory) / _key() if directory else None

    @contextlib.contextmanager
    def used(self) -> Iterator["CompileCache"]:
        """Uses the cache for what is compiled within the block.

        Raises:
            UserError: If the directory cannot be made or read.
        """
        if self._path is None:
            yield self
            return
        try:
            # Without a home, ~ stays what it is: the name of a directory.
            with contextlib.suppress(RuntimeError):
                self._path = self._path.expanduser()
            self._path.mkdir(parents=True, exist_ok=True)
            self._check()
        except OSError as error:
            raise UserError(
                f"config.runtime.compile_cache: {self._path} cannot be written"
                f" ({error.strerror}); allowed: a directory that this user may write, or ''"
            ) from error
        settings = _SETTINGS | {"jax_compilation_cache_dir": str(self._path)}
        before = {name: getattr(jax.config, name) for name in settings}
        _set(settings)
        try:
            yield self
        finally:
            _set(before)
            self.seal()

    def seal(self) -> None:
        """Writes the checksums of new entries, without which they are not used again."""
        if self._path is None:
            return
        # A cache that cannot be written costs time, not a run.
        with contextlib.suppress(OSError):
            for entry in self._path.glob("*-cache"):
                if not _seal_of(entry).exists():
                    files.write_atomically(_seal_of(entry), _sum(entry))

    def _check(self) -> None:
        """Removes entries that are damaged or were never sealed, and the oldest beyond a size."""
        files.remove_temporaries(self._path)
        room = _MOST_BYTES
        for entry in sorted(self._path.glob("*-cache"), key=_age, reverse=True):
            seal = _seal_of(entry)
            # Another run that starts now may remove it first.
            with contextlib.suppress(FileNotFoundError):
                is_whole = seal.exists() and seal.read_text(errors="replace") == _sum(entry)
                if seal.exists() and not is_whole:
                    logging.warning("%s is damaged and is compiled again", entry)
                room -= entry.stat().st_size
                if not is_whole or room < 0:
                    entry.unlink(missing_ok=True)
                    seal.unlink(missing_ok=True)


def _set(settings: dict) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # jax keeps the directory that it first used.


def _age(entry: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return entry.stat().st_mtime
    return 0.0


def _seal_of(entry: Path) -> Path:
    return entry.with_suffix(".sha256")


def _sum(entry: Path) -> str:
    return hashlib.sha256(entry.read_bytes()).hexdigest()


def _key() -> str:
    """Returns the name of this processor's and jaxlib's directory."""
    about = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        about += [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    digest = hashlib.sha256("\n".join(dict.fromkeys(about)).encode()).hexdigest()
    return f"jaxlib-{jaxlib.__version__}-{platform.machine()}-{digest[:16]}"
