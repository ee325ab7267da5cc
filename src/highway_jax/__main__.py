"""The entry point: `highway-jax train|analyze|report|list`, or `python -m highway_jax`.

The module of a command is imported when the command is run: reports need no jax.
"""

import sys
from pathlib import Path
from typing import NoReturn

from highway_jax import bundled
from highway_jax.errors import UserError, in_one_line, show, suggestion

COMMANDS = ("train", "analyze", "report", "list")


def main(argv: list[str]) -> int:
    """Runs one command line, the program's name first; returns the exit status.

    Without a command, the flags are those of `train`.
    """
    has_command = len(argv) > 1 and not argv[1].startswith("-")
    command, rest = (argv[1], argv[2:]) if has_command else ("train", argv[1:])
    if command == "train":
        from highway_jax import main as train

        return train.start([argv[0], *rest])
    if command == "analyze":
        from highway_jax import analyze

        return analyze.main(rest)
    if command == "report":
        from highway_jax import report

        return report.main(rest)
    try:
        if command != "list":
            raise UserError(f"{show(command)} is not a command; {_hint(command)}")
        from highway_jax import command_line

        command_line.list_experiments(rest)
    except UserError as error:
        print(in_one_line(error), file=sys.stderr)
        return 2
    return 0


def _hint(command: str) -> str:
    if command.endswith(".py") or Path(command).is_file() or bundled.find(command):
        return f"did you mean --config={command}?"
    return suggestion(command, COMMANDS) or f"allowed: {', '.join(COMMANDS)}"


def run() -> NoReturn:
    """Runs the command line of this process."""
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
