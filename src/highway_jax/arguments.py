"""Command lines parsed by argparse, with errors of one line."""

import argparse
from collections.abc import Sequence
from typing import NoReturn

from highway_jax.errors import UserError, show, suggestion


class Parser(argparse.ArgumentParser):
    """An argument parser that raises a `UserError`, with the closest flag, instead of exiting."""

    def parse(self, args: Sequence[str]) -> argparse.Namespace:
        """Returns the parsed arguments.

        Raises:
            UserError: If they are invalid.
        """
        known = [flag for flag in self._option_string_actions if flag.startswith("--")]
        for word in args:
            name = word.partition("=")[0]
            if name.startswith("--") and not any(flag.startswith(name) for flag in known):
                hint = suggestion(name, known) or f"allowed: {', '.join(known)}"
                raise UserError(f"{show(name)} is not a flag; {hint}")
        return self.parse_args(args)

    def error(self, message: str) -> NoReturn:
        """Raises a `UserError`."""
        raise UserError(message)
