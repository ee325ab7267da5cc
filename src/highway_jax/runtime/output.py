"""Standard output and errors of the commands; a reader of the output may leave early, as `head`."""

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import IO

from highway_jax.errors import UserError, in_one_line
from highway_jax.runtime.progress import CLOSED, Output


def print_error(error: UserError) -> None:
    """Prints an error to standard error in one line."""
    print(in_one_line(error), file=sys.stderr)


def discard(stream: IO[str]) -> None:
    """Redirects a stream that cannot be written to a null device.

    Python flushes it again at exit, and would end with status 120.
    """
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextlib.contextmanager
def standard_output() -> Iterator[Output]:
    """Yields standard output as a stream that a closed pipe does not break.

    Another reason why it cannot be written is reported on standard error. The exit status is that
    of the command in both cases, since its files are written.
    """
    stream = Output(sys.stdout)
    try:
        yield stream
    finally:
        stream.flush()
        if stream.failure and sys.stdout is not None:
            if stream.failure != CLOSED:
                print(f"warning: {stream.failure}", file=sys.stderr)
            discard(sys.stdout)
