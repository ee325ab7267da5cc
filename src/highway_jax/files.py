"""Atomic file writes, and messages for the errors of the file system."""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from highway_jax.errors import UserError, brief, show

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces the content of a file atomically: a crash leaves the old or the new content.

    Raises:
        OSError: If writing failed; the earlier file is unchanged.
    """
    # Unique, as threads, or processes of several machines, may write the same file.
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().int}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            error.filename, error.filename2 = str(path), None
        raise
    sync_directory(path.parent)


def remove_temporaries(directory: Path) -> None:
    """Removes temporary files of `write_atomically` in a directory, left by a killed process."""
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Raises a `UserError` for an `OSError` within the block.

    Args:
        directory: The directory that the block reads or writes.

    Raises:
        UserError: It names the path, the reason and, if the disk is full, the free space.
    """
    try:
        yield
    except OSError as error:
        path = error.filename or directory
        fix = f"{_space(directory)}; free space" if error.errno in _FULL else "fix the cause"
        raise UserError(
            f"{path}: cannot be written or read ({reason(error)}); {fix} and repeat the command:"
            " the run resumes from its last checkpoint"
        ) from error


def expand(name: str, path: str | Path) -> Path:
    """Returns a path with the home directory in place of `~` or `~user`.

    Raises:
        UserError: If there is no such user; the message starts with `name`.
        TypeError: If it is not a path.
    """
    if not isinstance(path, str | os.PathLike):
        raise TypeError(f"{name} is {show(path)}; allowed: a path")
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{name} is {str(path)!r}; allowed: a user who exists after ~") from error


def reason(error: Exception) -> str:
    """Returns the message of an error, without the file name of an `OSError`."""
    text = " ".join(str(argument) for argument in error.args)
    return getattr(error, "strerror", None) or brief(text, 200) or type(error).__name__


def _space(directory: Path) -> str:
    try:
        usage = shutil.disk_usage(directory)
    except OSError:
        return "free space unknown"
    return f"{usage.free / 1e6:,.1f} MB of {usage.total / 1e6:,.1f} MB are free in {directory}"


def sync_directory(path: Path) -> None:
    """Flushes the names in a directory to disk, on systems that support it."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
