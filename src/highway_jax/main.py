"""Trains an experiment from the command line: `python -m highway_jax.main --config=digits`."""

import contextlib
import functools
import logging
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import IO, Any

# XLA:CPU logs an error about features of the processor for every program that it loads from a
# compilation cache, though each runs where it was compiled. The level is read when jax is imported.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from ml_collections import ConfigDict

from highway_jax import command_line
from highway_jax.errors import Lost, UserError, in_one_line
from highway_jax.runtime.output import discard
from highway_jax.runtime.progress import Display, Output
from highway_jax.runtime.signals import Stopped
from highway_jax.storage.summaries import summarize, summarize_search
from highway_jax.sweep import outcomes

TRY_AGAIN = 75
"""Exit status (EX_TEMPFAIL of sysexits.h) if a device or another machine failed."""


def main(argv: list[str]) -> int:
    """Runs one command line, the program's name first; returns the exit status.

    The status is 0 if all trials were trained, 2 for an error that the user must fix, 75 if the
    same command can be repeated, and 128 + N if signal N stopped the run.
    """
    shared = True
    try:
        arguments = command_line.parse(argv)
        if arguments.show:
            command_line.answer(arguments.show)
        elif arguments.topology:
            _compile_only(arguments)
        else:
            _train(arguments)
        status, message = 0, ""
    except UserError as error:
        status, message = 2, in_one_line(error)
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
    multihost = sys.modules.get("highway_jax.runtime.multihost")  # Imported once a run begins.
    if multihost and not shared:
        multihost.leave(status)
    return status


def _train(arguments: command_line.Arguments) -> None:
    # Help and errors in the command line need neither jax nor Orbax, which take a second to import.
    from highway_jax.runs import experiment
    from highway_jax.runtime import multihost

    config = arguments.config
    assert config is not None, "only given together with a question"
    with multihost.watching():
        multihost.start(*arguments.processes)
        workdir = arguments.workdir or Path("runs") / config.name
        display = Display(enabled=config.runtime.progress)
        rows = experiment.run(config, workdir, extend=arguments.extend, display=display)
        if multihost.is_first():
            _show(rows, config, workdir, display)
        _check(rows, workdir)


def _show(rows: list[dict[str, Any]], config: ConfigDict, workdir: Path, display: Display) -> None:
    if config.sweep.trials:
        display.search_table(summarize_search(rows, config))
    else:
        display.table(summarize(rows))
    display.say(f"Records and checkpoints: {workdir}")
    if display.failure:
        summary, results = workdir / "summary.csv", workdir / "results.csv"
        logging.warning("%s; the results are in %s and %s", display.failure, summary, results)


def _check(rows: list[dict[str, Any]], workdir: Path) -> None:
    if rows and all(row["status"] == outcomes.FAILED for row in rows):
        raise UserError(
            f"{workdir / 'results.csv'}: every trial failed, for the reasons above; remove their"
            " rows to train them again"
        )
    if rows and all(row["diverged"] for row in rows):
        logging.warning(
            "every trial diverged: its loss became infinite or NaN, so no accuracy is reported; a"
            " smaller learning rate or clipping of gradients (optimizer.clip_norm) may help"
        )


def _compile_only(arguments: command_line.Arguments) -> None:
    from highway_jax import compile_only  # Loads the analysis of nets.

    assert arguments.config is not None, "only given together with a question"
    output = Output(sys.stdout)
    write = functools.partial(print, file=output, flush=True)
    compile_only.run(arguments.config, arguments.topology, write)
    output.check()


def start(argv: list[str]) -> int:
    """Runs a command line in a process of its own: logging, then `main`, then flushed streams.

    Args:
        argv: The command line, the program's name first.

    Returns:
        The exit status.
    """
    # Forced, since an imported library has configured logging.
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", force=True)
    # Downloads and decoding before a run take long and are logged.
    logging.getLogger("highway_jax").setLevel(logging.INFO)
    # Orbax logs at length the errors that it raises, which are reported here.
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    sys.unraisablehook = _quiet_after_a_save
    # Otherwise logging would report an error of stderr on stderr.
    logging.raiseExceptions = False
    status = main(argv)
    _flush(sys.stdout)
    _flush(sys.stderr)
    return status


def _flush(stream: IO[str] | None) -> None:
    """Flushes a stream, and discards it if that fails."""
    if stream is not None:
        try:
            stream.flush()
        except (OSError, ValueError):
            discard(stream)


def _quiet_after_a_save(unraisable: Any) -> None:
    # The error of a failed save is reported; its later writes find a closed event loop.
    error = unraisable.exc_value
    if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
        sys.__unraisablehook__(unraisable)


if __name__ == "__main__":
    sys.exit(start(sys.argv))
