"""Exceptions for errors that the user can fix, and the wording of their messages."""

import difflib
import importlib.util
from collections.abc import Iterable
from typing import Any


class UserError(Exception):
    """Invalid input or an unusable environment; the message is one line for the user.

    The message names the key or file, the value found, and what is allowed. The command line
    prints it without a traceback and exits with status 2.

    Attributes:
        shared: Whether every process of the run raised it.
    """

    shared = False


class Lost(Exception):
    """A device or another process of the run failed; the same command resumes the run.

    The command line prints the message without a traceback and exits with status 75.
    """


def require(extra: str, purpose: str, *modules: str) -> None:
    """Checks that optional packages are installed, without importing them.

    Args:
        extra: The extra of this package that installs them.
        purpose: What needs them, as the subject of the message.
        *modules: Their modules.

    Raises:
        UserError: If one is missing.
    """
    for module in modules:
        if not _is_installed(module):
            raise UserError(
                f"{purpose} needs {module}, which is not installed; install it with"
                f" pip install 'highway-jax[{extra}]'"
            )


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ValueError:  # It is imported and has no spec.
        return True


def in_one_line(error: UserError) -> str:
    """Returns the line in which a command reports an error."""
    return "error: " + " ".join(str(error).split())


def show(value: Any) -> str:
    """Returns the `repr` of a value on one line of at most 100 characters."""
    try:
        return brief(repr(value))
    except Exception:  # For example an int of more than 4,300 digits, which has no `repr`.
        return f"<{type(value).__name__}>"


def brief(text: str, limit: int = 100) -> str:
    """Returns a text on one line, truncated to `limit` characters."""
    text = " ".join(text.split())
    return text if len(text) <= limit else f"{text[: limit - 3]}..."


def suggestion(word: str, known: Iterable[str], prefix: str = "") -> str:
    """Returns "did you mean PREFIXNAME?" with the closest known name, or "" if none is close."""
    near = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {prefix}{near[0]}?" if near else ""
