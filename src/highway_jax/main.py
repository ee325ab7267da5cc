"""The command line: `python -m highway_jax.main --config=experiments/digits.py`."""

import logging
import sys
from pathlib import Path

from absl import app, flags
from ml_collections import config_flags

from highway_jax import config as config_lib
from highway_jax import experiment
from highway_jax.errors import UserError
from highway_jax.progress import Display
from highway_jax.signals import Stopped

_CONFIG = config_flags.DEFINE_config_file("config", None, "Experiment file, with :variant if any.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; default runs/NAME.")


def _parse(argv: list[str]) -> list[str]:
    # absl and ml_collections answer a bad flag with a traceback or a page of help.
    try:
        rest = flags.FLAGS(argv)
        if len(rest) > 1:
            raise UserError(
                f"{rest[1]!r} is not a flag; allowed: --config, --config.KEY, --workdir"
            )
        if _CONFIG.value is None:
            raise UserError("--config is not given; allowed: an experiment file, such as"
                            " experiments/digits.py")  # fmt: skip
        return rest
    except UserError as error:
        _refuse(str(error))
    except Exception as error:
        _refuse(" ".join(str(error).split()) or type(error).__name__)


def _refuse(message: str) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def _main(_argv: list[str]) -> None:
    logging.getLogger().setLevel(logging.WARNING)
    config = _CONFIG.value
    try:
        config_lib.validate(config)
        workdir = Path(_WORKDIR.value or Path("runs") / config.name)
        display = Display()
        summary = experiment.run(config, workdir, display=display)
        display.table(summary)
        display.say(f"Records and checkpoints: {workdir}")
    except UserError as error:
        _refuse(str(error))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        sys.exit(128 + stopped.signal)


def run() -> None:
    """Runs the command line."""
    app.run(_main, flags_parser=_parse)


if __name__ == "__main__":
    run()
