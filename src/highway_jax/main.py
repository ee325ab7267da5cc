"""The command line: `python -m highway_jax.main --config=experiments/digits.py`."""

import logging
import signal
import sys
from pathlib import Path

import highway_jax
from highway_jax import command_line, experiment
from highway_jax.errors import UserError
from highway_jax.progress import Display
from highway_jax.records import summarize
from highway_jax.signals import Stopped

HELP = """\
usage: python -m highway_jax.main --config=FILE[:VARIANT] [--config.KEY=VALUE]... [--workdir=DIR]

Trains every case of an experiment with every seed. The same command goes on where it stopped.

  --config=FILE        experiment file, such as experiments/digits.py; VARIANT is one of its own
  --config.KEY=VALUE   changes one setting; --keys lists them
  --workdir=DIR        where records and checkpoints go; default runs/NAME
  --keys, --help, --version

example:
  python -m highway_jax.main --config=experiments/digits.py --workdir=runs/shallow \\
      --config.model.depth=10 --config.seeds=0,1 --config.cases.plain.model.width=64
"""


def main(argv: list[str]) -> int:
    """Runs one command line, the program's name first; returns the exit status."""
    try:
        arguments = command_line.parse(argv)
        if arguments.show == "help":
            print(HELP, end="")
        elif arguments.show == "keys":
            command_line.print_keys()
        elif arguments.show == "version":
            print(f"highway_jax {highway_jax.__version__}")
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
    workdir = arguments.workdir or Path("runs") / arguments.config.name
    display = Display()
    rows = experiment.run(arguments.config, workdir, display=display)
    display.table(summarize(rows))
    display.say(f"Records and checkpoints: {workdir}")


def run() -> None:
    """Runs the command line of this process."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    sys.exit(main(sys.argv))


if __name__ == "__main__":
    run()
