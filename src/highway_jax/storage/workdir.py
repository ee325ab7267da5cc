"""The working directory of a run: lock, config, environment."""

import contextlib
import datetime
import hashlib
import json
import logging
import os
import platform
import socket
import subprocess
from collections.abc import Collection, Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import filelock
import jax
from ml_collections import ConfigDict

from highway_jax import files
from highway_jax.config import config as config_lib
from highway_jax.errors import UserError
from highway_jax.storage import extension
from highway_jax.sweep.design import NEW, Numbering

_RECORDS = ("checkpoints", "metrics.jsonl", "results.csv", "summary.csv")
# Entries of the environment that do not affect the bits of the results.
_HARMLESS = ("num_devices", "num_processes", "python", "system")
_PACKAGES = ("highway-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Workdir:
    """The working directory of one run.

    Holds `config.json`, `environment.json`, `metrics.jsonl`, `results.csv`, `summary.csv`,
    `tensorboard/` and `checkpoints/`.
    """

    def __init__(self, path: str | Path):
        """Initializes the object; the directory may be missing.

        Args:
            path: The directory; `~` is the home directory.

        Raises:
            UserError: If the user of `~user` does not exist.
        """
        self.path = files.expand("workdir", path)
        self._lock: IO[str] | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Creates the directory and locks it for this process within the block.

        The system releases the lock when the process ends, also when it is killed.

        Raises:
            UserError: If the directory cannot be written, or another process has locked it.
        """
        try:
            str(self.path.absolute()).encode()  # Orbax requires UTF-8.
            self.path.mkdir(parents=True, exist_ok=True)
            # Open during the whole run, since closing the file releases the lock.
            lock = (self.path / ".lock").open("a+", encoding="utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"workdir is {str(self.path.absolute())!r}; allowed: a path in UTF-8"
            ) from error
        except OSError as error:
            raise UserError(
                f"workdir is {str(self.path)!r}, which cannot be written ({error.strerror});"
                " allowed: a directory that this user can create and write"
            ) from error
        with lock:
            try:
                # This is `flock` where it exists, which earlier versions use on the file.
                is_ours = filelock.lock_descriptor(lock.fileno(), blocking=False)
            except OSError as error:
                raise UserError(
                    f"workdir is {str(self.path)!r}, which cannot be locked"
                    f" ({files.reason(error)}); allowed: a directory on a file system with locks"
                ) from error
            if not is_ours:
                raise UserError(
                    f"workdir is {str(self.path)!r}, which is in use by {_holder(lock)}; allowed:"
                    " another directory, or the same one once that run has ended"
                )
            lock.truncate(0)
            now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
            with files.explained(self.path):
                lock.write(f"process {os.getpid()} on {socket.gethostname()} since {now}\n")
                lock.flush()
                files.remove_temporaries(self.path)
            self._lock = lock
            try:
                yield
            finally:
                self._lock = None

    def check_held(self) -> None:
        """Checks that the directory is the one that was locked.

        Raises:
            UserError: If it was removed or replaced.
        """
        assert self._lock is not None, "called within `locked`"
        held = os.fstat(self._lock.fileno())
        try:
            found = (self.path / ".lock").stat()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{self.path}: the workdir is gone, nothing more is written; restore it and repeat"
                " the command, or use another workdir"
            ) from None
        if (found.st_ino, found.st_dev) != (held.st_ino, held.st_dev):
            raise UserError(
                f"{self.path}: the workdir was replaced during the run, nothing more is written;"
                " use another workdir"
            )

    def numbering(self) -> Numbering:
        """Returns how the run in the directory numbers its trials.

        Raises:
            UserError: If its environment.json cannot be read, or a later version wrote it.
        """
        if not (self.path / "config.json").exists():
            return NEW
        try:
            return Numbering.read(self.environment())
        except ValueError as error:
            raise UserError(
                f"{self.path / 'environment.json'}: {error}; use the version of highway_jax that"
                " wrote it"
            ) from error

    def check(
        self, config: ConfigDict, data_fingerprints: Collection[str], *, extend: bool = False
    ) -> Numbering:
        """Checks that the run in the directory, if there is one, is the run of a config.

        Args:
            config: The run's config.
            data_fingerprints: Identify its data, in this version and in earlier ones.
            extend: Whether the config may add seeds and epochs to the run.

        Returns:
            How the run numbers its trials.

        Raises:
            UserError: If the directory holds a run of another config or of other data, or if the
                run cannot be identified.
        """
        path = self.path / "config.json"
        numbering = self.numbering()
        if path.exists():
            try:
                old = config_lib.current(json.loads(path.read_text(encoding="utf-8")))
                new = json.loads(config_lib.to_json(config))
                changed = extension.changes(old, new)
            except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
                raise _unreadable(path, error) from error
            if changed:
                refusal = extension.refusal(old, changed, config, numbering)
                if refusal or not extend:
                    advice = "the same config, or another workdir"
                    if not refusal:
                        advice += ", or extend, which trains what the config adds"
                    elif extend:
                        advice = refusal
                    raise UserError(
                        f"workdir={self.path} holds a run with another config: changed"
                        f" {'; '.join(changed.values())}; allowed: {advice}"
                    )
                numbering = numbering.extended(len(old["seeds"]), len(config.seeds))
            self._check_data(config, data_fingerprints)
        elif found := [name for name in _RECORDS if (self.path / name).exists()]:
            raise UserError(
                f"{self.path}: holds {', '.join(found)} but no config.json, which identifies the"
                " run; restore config.json, or use another workdir"
            )
        return numbering

    def _check_data(self, config: ConfigDict, data_fingerprints: Collection[str]) -> None:
        known = self.environment(must_exist=True).get("data_fingerprint")
        if known not in data_fingerprints:
            raise UserError(
                f"workdir={self.path} holds a run on other data: {config.data.name} had"
                f" fingerprint {str(known)[:12]}, now {next(iter(data_fingerprints))[:12]};"
                " allowed: the same data, or another workdir"
            )

    def claim(
        self, config: ConfigDict, data_fingerprint: str, numbering: Numbering, *, trains: bool
    ) -> None:
        """Records the run in the directory, once `check` has passed.

        Args:
            config: The run's config.
            data_fingerprint: Identifies its data.
            numbering: How it numbers its trials.
            trains: Whether anything is left to train; if not, `environment.json` is kept, which
                describes where the run was trained.
        """
        if trains:
            now = describe_environment()
            if config.sweep.sampler != "random":
                now["versions"]["optuna"] = metadata.version("optuna")
            self._describe(now, data_fingerprint, numbering)
        files.write_atomically(self.path / "config.json", config_lib.to_json(config))

    def _describe(self, now: dict[str, Any], data_fingerprint: str, numbering: Numbering) -> None:
        """Writes `environment.json`; keeps an earlier environment that differs, with a warning."""
        before = self.environment()
        earlier = before.pop("earlier", [])
        for name in ("data_fingerprint", "format", "seeds_before_extensions"):
            before.pop(name, None)
        if before and before != now:
            earlier = [*earlier, before] if isinstance(earlier, list) else [before]
            changed = config_lib.changes(config_lib.flatten(before), config_lib.flatten(now))
            if changed := [phrase for key, phrase in changed.items() if key not in _HARMLESS]:
                logging.warning(
                    "the environment changed since the run started: %s; results may differ in the"
                    " last bits from those of an uninterrupted run",
                    "; ".join(changed),
                )
        now |= {"format": numbering.format, "data_fingerprint": data_fingerprint}
        if numbering.seeds:
            now["seeds_before_extensions"] = list(numbering.seeds)
        if earlier:
            now["earlier"] = earlier
        files.write_atomically(self.path / "environment.json", json.dumps(now, indent=2) + "\n")

    def environment(self, *, must_exist: bool = False) -> dict[str, Any]:
        """Returns the content of `environment.json`; {} if the file is missing.

        Args:
            must_exist: Whether a missing file is an error.

        Raises:
            UserError: If the file cannot be read.
        """
        path = self.path / "environment.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            if isinstance(error, FileNotFoundError) and not must_exist:
                return {}
            raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: cannot be read ({error}); restore the file, or use another workdir")


def _holder(lock: IO[str]) -> str:
    with contextlib.suppress(OSError):  # On Windows, a locked file cannot be read.
        lock.seek(0)
        return " ".join(lock.read().split()) or "another process"
    return "another process"


def describe_environment() -> dict[str, Any]:
    """Returns the versions, devices and commit of this process."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[package] = metadata.version(package)
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": versions,
        "platform": devices[0].platform,
        "device_kind": devices[0].device_kind,
        "num_devices": len(devices),
        "num_processes": jax.process_count(),
        "processor": _processor(),
        "system": platform.platform(),
        "commit": _commit(versions.get("highway-jax", "unknown")),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()


def _commit(version: str) -> str:
    """Returns the git commit of the source, with "+changes" if the source differs from it.

    If git does not track the source, as in an installed package, returns the version and a checksum
    of the source files.
    """
    source = Path(__file__).parents[1]

    def git(*arguments):
        command = ["git", "-C", str(source), *arguments]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=10, check=True
        ).stdout

    try:
        git("ls-files", "--error-unmatch", "--", __file__)
        changed = "+changes" if git("status", "--porcelain", "--", ".").strip() else ""
        return git("rev-parse", "HEAD").strip() + changed
    except (OSError, subprocess.SubprocessError):
        digest = hashlib.sha256()
        for path in sorted(source.rglob("*.py")):
            content = path.read_bytes()
            digest.update(f"{path.relative_to(source).as_posix()} {len(content)}\n".encode())
            digest.update(content)
        return f"{version}+sha256:{digest.hexdigest()[:12]}"
