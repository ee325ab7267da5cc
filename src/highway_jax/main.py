"""The command line: `python -m highway_jax.main --config=experiments/digits.py`."""

import contextlib
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from highway_jax import command_line
from highway_jax.errors import Lost, UserError
from highway_jax.runs import experiment
from highway_jax.runtime import multihost
from highway_jax.runtime.progress import Display
from highway_jax.runtime.signals import Stopped
from highway_jax.storage.summaries import summarize, summarize_search
from highway_jax.sweep import planning

TRY_AGAIN = 75
"""Exit status, as in sysexits.h, where only a device or another machine failed."""


def main(argv: list[str]) -> int:
    """Runs one command line, the program's name first; returns the exit status.

    That is 0 if all is trained, 2 if something must be mended first, 75 if the same command may
    just be given again, and 128 + the signal's number if one stopped it.
    """
    shared = True
    try:
        arguments = command_line.parse(argv)
        if arguments.show:
            command_line.answer(arguments.show)
        else:
            with multihost.watching():
                _train(arguments)
        status, message = 0, ""
    except UserError as error:
        status, message = 2, "error: " + " ".join(str(error).split())
        shared = error.shared
    except Lost as lost:
        status, message, shared = TRY_AGAIN, f"error: {lost}", False
    except Stopped as stopped:
        status, message = 128 + stopped.signal, str(stopped)
    except KeyboardInterrupt:
        status, message, shared = 128 + signal.SIGINT, "stopped", False
    except Exception:
        status, message, shared = 1, traceback.format_exc(), False
    if message:
        with contextlib.suppress(OSError, ValueError):  # The status remains.
            print(message.rstrip(), file=sys.stderr)
    if not shared:
        multihost.leave(status)
    return status


def _train(arguments: command_line.Arguments) -> None:
    config = arguments.config
    multihost.start(*arguments.processes)
    workdir = arguments.workdir or Path("runs") / config.name
    display = Display(enabled=config.runtime.progress)
    rows = experiment.run(config, workdir, extend=arguments.extend, display=display)
    if multihost.is_first():
        if config.sweep.trials:
            display.search_table(summarize_search(rows, config))
        else:
            display.table(summarize(rows))
        display.say(f"Records and checkpoints: {workdir}")
        if display.failure:
            summary, results = workdir / "summary.csv", workdir / "results.csv"
            logging.warning("%s; the results are in %s and %s", display.failure, summary, results)
    if rows and all(row["status"] == planning.FAILED for row in rows):
        raise UserError(
            f"every trial failed, none was trained; the reasons are above. --workdir={workdir}"
            " keeps them: remove their rows from results.csv to try again"
        )
    if rows and all(row["diverged"] for row in rows):
        logging.warning(
            "every trial diverged: its loss stopped being finite, and there is no accuracy to"
            " report; a smaller learning rate or a lower clip_norm may help"
        )


def start(argv: list[str]) -> int:
    """Runs a command line in a process of its own: logging, then `main`, then flushed streams.

    Args:
        argv: The command line, the program's name first.

    Returns:
        The exit status.
    """
    # Forced, as a library we import has set up its own.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", force=True)
    # Ours say what takes long before a run: downloads and decoding.
    logging.getLogger("highway_jax").setLevel(logging.INFO)
    # Orbax logs the errors that it raises, and we tell, in pages.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.unraisablehook = _quiet_after_a_save
    # Otherwise an error of stderr would be reported on stderr.
    logging.raiseExceptions = False
    status = main(argv)
    _flush(sys.stdout)
    _flush(sys.stderr)
    return status


def _flush(stream: IO[str] | None) -> None:
    """Flushes a stream; redirects it if that fails, as Python would exit with status 120."""
    if stream is not None:
        try:
            stream.flush()
        except (OSError, ValueError):
            with contextlib.suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _quiet_after_a_save(unraisable: Any) -> None:
    # When a save fails, its error is told; writes of it that end later find no loop to tell.
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.exit(start(sys.argv))
