"""The command line: `python -m highway_jax.main --config=experiments/digits.py`."""

import logging
import signal
import sys
from pathlib import Path

from highway_jax import command_line, experiment, hosts
from highway_jax.errors import UserError
from highway_jax.progress import Display
from highway_jax.records import summarize, summarize_search
from highway_jax.signals import Stopped


def main(argv: list[str]) -> int:
    """Runs one command line, the program's name first; returns the exit status."""
    try:
        arguments = command_line.parse(argv)
        if arguments.show:
            command_line.answer(arguments.show)
        else:
            _train(arguments)
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return 128 + stopped.signal
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        return 128 + signal.SIGINT
    return 0


def _train(arguments: command_line.Arguments) -> None:
    config = arguments.config
    hosts.start(*arguments.processes)
    workdir = arguments.workdir or Path("runs") / config.name
    display = Display(enabled=config.runtime.progress)
    rows = experiment.run(config, workdir, display=display)
    if hosts.is_first():
        if config.sweep.trials:
            display.search_table(summarize_search(rows))
        else:
            display.table(summarize(rows))
        display.say(f"Records and checkpoints: {workdir}")


def run() -> None:
    """Runs the command line of this process."""
    # Forced, as a library we import has set up its own.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", force=True)
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
