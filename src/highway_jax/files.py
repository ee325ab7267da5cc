"""Files that are either whole or not there, and what to say when the disk refuses them."""

import contextlib
import errno
import os
import re
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from highway_jax.errors import UserError, brief

_TEMPORARY = re.compile(r"\..+\.\d+\.tmp")
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Replaces a file by `content` in one step that a crash cannot tear.

    Raises:
        OSError: If it could not be written; the file that was there is untouched.
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
    """Removes what `write_atomically` left in a directory where a process was killed in it."""
    for path in directory.iterdir():
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(directory: Path) -> Iterator[None]:
    """Makes a `UserError` of the system's refusal to read or write within a directory.

    Raises:
        UserError: It names the path, the reason and, where the disk is full, the free space.
    """
    try:
        yield
    except OSError as error:
        path = error.filename or directory
        mend = f"{_space(directory)}; make room" if error.errno in _FULL else "mend it"
        raise UserError(
            f"{path} cannot be written or read ({reason(error)}); {mend} and start again: the run"
            " goes on from its last checkpoint"
        ) from error


def expand(name: str, path: str | Path) -> Path:
    """Returns a path with the home directory in place of `~` or `~user`.

    Raises:
        UserError: If there is no such user; the message begins with `name`.
    """
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
    """Makes the names in a directory durable, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
