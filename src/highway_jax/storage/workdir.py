"""A run's directory: its lock, its config, where it ran."""

import contextlib
import datetime
import hashlib
import json
import logging
import os
import platform
import socket
import subprocess
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import IO, Any

import filelock
import jax
from ml_collections import ConfigDict

from highway_jax import files
from highway_jax.config import config as config_lib
from highway_jax.errors import UserError, show
from highway_jax.sweep.design import FORMAT

_RECORDS = ("checkpoints", "metrics.jsonl", "results.csv", "summary.csv")
# What an environment may differ in without another bit in the results.
_HARMLESS = ("num_devices ", "num_processes ", "python ", "system ")
_PACKAGES = ("highway-jax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


class Workdir:
    """The directory of one run.

    Holds `config.json`, `environment.json`, `metrics.jsonl`, `results.csv`, `summary.csv`,
    `tensorboard/` and `checkpoints/`.
    """

    def __init__(self, path: str | Path):
        """Names the directory, which need not exist.

        Args:
            path: The directory; `~` is the home directory.

        Raises:
            UserError: If `~user` is no user.
        """
        self.path = files.expand("--workdir", path)
        self._lock: IO[str] | None = None

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory and holds it for this process alone.

        The system drops the lock when the process ends, however it ends.

        Raises:
            UserError: If it cannot be made or written, or another process holds it.
        """
        try:
            str(self.path.absolute()).encode()  # Orbax writes to no other path.
            self.path.mkdir(parents=True, exist_ok=True)
            # Held open for the whole run; closing it drops the lock.
            lock = (self.path / ".lock").open("a+", encoding="utf-8")
        except UnicodeEncodeError as error:
            raise UserError(
                f"--workdir is {str(self.path.absolute())!r}; allowed: a path in UTF-8"
            ) from error
        except OSError as error:
            raise UserError(
                f"--workdir={self.path} cannot be written ({error.strerror});"
                " allowed: a directory that this user may create and write"
            ) from error
        with lock:
            try:
                # `flock` where there is one, as runs of earlier versions use on this file.
                is_ours = filelock.lock_descriptor(lock.fileno(), blocking=False)
            except OSError as error:
                raise UserError(
                    f"--workdir={self.path} cannot be locked ({files.reason(error)}); allowed: a"
                    " directory on a file system with locks"
                ) from error
            if not is_ours:
                raise UserError(
                    f"--workdir={self.path} is in use by {_holder(lock)}; allowed: a directory of"
                    " its own, or wait until that run ends"
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
            UserError: If it was removed, or another one put in its place.
        """
        held = os.fstat(self._lock.fileno())
        try:
            found = (self.path / ".lock").stat()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"--workdir={self.path} is gone; nothing more is written there. Restore it and"
                " start again, or use another --workdir"
            ) from None
        if (found.st_ino, found.st_dev) != (held.st_ino, held.st_dev):
            raise UserError(
                f"--workdir={self.path} was replaced while this run wrote there; nothing more is"
                " written there. Use another --workdir"
            )

    def numbering(self) -> int:
        """Returns how the run here numbers its trials (see `design.FORMAT`).

        Raises:
            UserError: If its environment cannot be read, or a later version wrote it.
        """
        if not (self.path / "config.json").exists():
            return FORMAT
        found = self.environment().get("format", 1)
        if type(found) is not int or not 1 <= found <= FORMAT:
            raise UserError(
                f"{self.path / 'environment.json'} has the format {show(found)}; allowed: 1 to"
                f" {FORMAT}, those that this version reads"
            )
        return found

    def check(self, config: ConfigDict, data_fingerprint: str) -> None:
        """Checks that what is to be run here is what was run here before, if anything was.

        Args:
            config: The run's config.
            data_fingerprint: Tells its data from other data.

        Raises:
            UserError: If the directory holds a run of another config, of other data, or one that
                cannot be told.
        """
        path = self.path / "config.json"
        new = json.loads(config_lib.to_json(config))
        if path.exists():
            try:
                old = config_lib.current(json.loads(path.read_text(encoding="utf-8")))
                changed = config_lib.changes(_flatten(old), _flatten(new))
            except (OSError, ValueError, AttributeError, RecursionError) as error:
                raise UserError(
                    f"{path} cannot be read ({error}); restore it, or use another --workdir"
                ) from error
            if changed:
                raise UserError(
                    f"--workdir={self.path} holds a run with another config: changed"
                    f" {'; '.join(changed)}; allowed: the same config, or another --workdir"
                )
            before = self.environment(must_exist=True)
            known = before.get("data_fingerprint")
            if known != data_fingerprint:
                raise UserError(
                    f"--workdir={self.path} holds a run on other data: {config.data.name} had"
                    f" fingerprint {str(known)[:12]}, now {data_fingerprint[:12]}; allowed: the"
                    " same data, or another --workdir"
                )
        elif found := [name for name in _RECORDS if (self.path / name).exists()]:
            raise UserError(
                f"--workdir={self.path} holds {', '.join(found)} but no config.json that says of"
                " which run; restore it, or use another --workdir"
            )

    def claim(self, config: ConfigDict, data_fingerprint: str, *, trains: bool) -> None:
        """Writes down what is run here, once `check` has passed.

        Args:
            config: The run's config.
            data_fingerprint: Tells its data from other data.
            trains: Whether anything is left to train; if not, `environment.json` keeps saying
                where it was trained.
        """
        if trains:
            self._describe(data_fingerprint)
        files.write_atomically(self.path / "config.json", config_lib.to_json(config))

    def _describe(self, data_fingerprint: str) -> None:
        """Writes `environment.json`; one that is different from before is told and kept."""
        now, numbering = describe_environment(), self.numbering()
        before = self.environment()
        earlier = before.pop("earlier", [])
        before.pop("data_fingerprint", None)
        before.pop("format", None)
        if before and before != now:
            earlier = [*earlier, before] if isinstance(earlier, list) else [before]
            changed = config_lib.changes(_flatten(before), _flatten(now))
            if changed := [phrase for phrase in changed if not phrase.startswith(_HARMLESS)]:
                logging.warning(
                    "the run goes on under other conditions: %s; from here on its numbers may"
                    " differ in the last bits from those of a run left alone",
                    "; ".join(changed),
                )
        now |= {"format": numbering, "data_fingerprint": data_fingerprint}
        if earlier:
            now |= {"earlier": earlier}
        files.write_atomically(self.path / "environment.json", json.dumps(now, indent=2) + "\n")

    def environment(self, *, must_exist: bool = False) -> dict[str, Any]:
        """Returns what `environment.json` says, or nothing if there is none.

        Args:
            must_exist: Whether that is an error.

        Raises:
            UserError: If it cannot be read.
        """
        path = self.path / "environment.json"
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError, RecursionError) as error:
            if isinstance(error, FileNotFoundError) and not must_exist:
                return {}
            raise UserError(
                f"{path} cannot be read ({error}); restore it, or use another --workdir"
            ) from error


def _holder(lock: IO[str]) -> str:
    with contextlib.suppress(OSError):  # Windows does not let others read what is locked.
        lock.seek(0)
        return " ".join(lock.read().split()) or "another process"
    return "another process"


def _flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in tree.items():
        flat |= (
            _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
        )
    return flat


def describe_environment() -> dict[str, Any]:
    """Returns the versions, devices and commit that this process runs with."""
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

    Where git does not track the source, as in an installed package, this is the version and a
    checksum of the source files.
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
