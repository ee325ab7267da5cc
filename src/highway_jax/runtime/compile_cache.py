"""A persistent cache of compiled programs, so that a resumed run does not compile again.

The cache is that of jax, with two additions. Entries hold code for one processor, so each processor
and jaxlib version has its own directory. jax loads a damaged entry and never replaces it, so every
entry has a checksum file, and entries without a valid checksum are removed before use.
"""

import contextlib
import hashlib
import logging
import platform
from collections.abc import Iterator
from pathlib import Path

import jax
import jaxlib.version
from jax.experimental.compilation_cache import compilation_cache

from highway_jax import files
from highway_jax.errors import UserError

_SETTINGS = {
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_compilation_cache_max_size": -1,
    # XLA's additional cache files would have no checksums.
    "jax_persistent_cache_enable_xla_caches": "",
}
_MOST_BYTES = 2**30


class CompileCache:
    """The cache below one directory."""

    def __init__(self, directory: str):
        """Opens the cache.

        Args:
            directory: Contains a directory for each processor and jaxlib version; empty for no
                cache. Its files are executed, so other users must not be able to write them.
        """
        self._path = Path(directory) / _key() if directory else None

    @contextlib.contextmanager
    def used(self) -> Iterator["CompileCache"]:
        """Enables the cache within the block.

        Raises:
            UserError: If the directory cannot be created or read.
        """
        if self._path is None:
            yield self
            return
        try:
            # Without a home directory, ~ is the name of a directory.
            with contextlib.suppress(RuntimeError):
                self._path = self._path.expanduser()
            self._path.mkdir(parents=True, exist_ok=True)
            self._check(self._path)
        except OSError as error:
            raise UserError(
                f"config.runtime.compile_cache is {str(self._path)!r} ({error.strerror}); allowed:"
                " a directory that this user can write, or ''"
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
        """Writes the checksums of new entries; an entry without one is not used again."""
        if self._path is None:
            return
        # An error of the cache must not end the run.
        with contextlib.suppress(OSError):
            for entry in self._path.glob("*-cache"):
                if not _seal_of(entry).exists():
                    files.write_atomically(_seal_of(entry), _sum(entry))

    def _check(self, path: Path) -> None:
        """Removes entries with no valid checksum, and the oldest entries beyond a total size."""
        files.remove_temporaries(path)
        room = _MOST_BYTES
        for entry in sorted(path.glob("*-cache"), key=_age, reverse=True):
            seal = _seal_of(entry)
            # Another run may remove the entry at the same time.
            with contextlib.suppress(FileNotFoundError):
                is_whole = seal.exists() and seal.read_text(errors="replace") == _sum(entry)
                if seal.exists() and not is_whole:
                    logging.warning("%s is damaged; its program is compiled again", entry)
                room -= entry.stat().st_size
                if not is_whole or room < 0:
                    entry.unlink(missing_ok=True)
                    seal.unlink(missing_ok=True)


def _set(settings: dict) -> None:
    for name, value in settings.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()  # Otherwise jax keeps the first directory.


def _age(entry: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return entry.stat().st_mtime
    return 0.0


def _seal_of(entry: Path) -> Path:
    return entry.with_suffix(".sha256")


def _sum(entry: Path) -> str:
    return hashlib.sha256(entry.read_bytes()).hexdigest()


def _key() -> str:
    """Returns the directory name of this processor and jaxlib version."""
    about = [platform.machine(), platform.processor()]
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        about += [line for line in lines if line.startswith(("model name", "flags", "Features"))]
    digest = hashlib.sha256("\n".join(dict.fromkeys(about)).encode()).hexdigest()
    return f"jaxlib-{jaxlib.version.__version__}-{platform.machine()}-{digest[:16]}"
