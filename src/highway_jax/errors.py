"""The one exception that means "the person running this can mend it", and words for it."""

from typing import Any


class UserError(Exception):
    """Bad input or a bad environment; its message is one line for the user.

    The message names the key or file, the value found, and what is allowed. The command line
    prints it without a traceback and exits with status 2.

    Attributes:
        shared: Whether every process of the run raised it.
    """

    shared = False


class Lost(Exception):
    """A device or another process of the run failed; the same command goes on.

    The command line prints its message without a traceback and exits with status 75.
    """


def show(value: Any) -> str:
    """Returns a value as Python writes it, on one line of at most 100 characters."""
    try:
        return brief(repr(value))
    except Exception:  # Such as an int of more than 4,300 digits, which Python does not write.
        return f"<{type(value).__name__}>"


def brief(text: str, limit: int = 100) -> str:
    """Returns a text on one line, cut after `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."
