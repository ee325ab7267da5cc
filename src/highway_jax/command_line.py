"""From the words of a command line to a config: experiment file, variant, overrides; help."""

import contextlib
import inspect
import logging
import os
import re
import runpy
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags
from rich.console import Console
from rich.table import Table

import highway_jax
from highway_jax.config import aliases
from highway_jax.config import config as config_lib
from highway_jax.config.schema import DISTRIBUTIONS, SCHEMA
from highway_jax.errors import UserError, brief, show
from highway_jax.runtime.progress import CLOSED, Output

_ALLOWED = (
    "--config=FILE, --config.KEY=VALUE, --workdir=DIR, --coordinator, --num_processes,"
    " --process_id, --coordinator_timeout, --keys, --help, --version"
)
_EXAMPLE = "an experiment file, such as experiments/digits.py"
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")

_HELP = """\
usage: python -m highway_jax.main --config=FILE[:VARIANT] [--config.KEY=VALUE]... [--workdir=DIR]

Trains every case of an experiment with every seed. The same command goes on where it stopped.

  --config=FILE        experiment file, such as experiments/digits.py; VARIANT is one of its own
  --config.KEY=VALUE   changes one setting; --keys lists them
  --workdir=DIR        where records and checkpoints go; default runs/NAME
  --keys, --help, --version

Several processes as one, each with its own devices (a TPU pod or srun needs none of these):
  --coordinator=HOST:PORT --num_processes=N --process_id=I
  --coordinator_timeout=SECONDS  limit on the wait for the others; default 300

example:
  python -m highway_jax.main --config=experiments/digits.py --workdir=runs/shallow \\
      --config.model.depth=10 --config.seeds=0,1 --config.cases.plain.model.width=64
"""


class Arguments(NamedTuple):
    """What a command line says.

    Attributes:
        show: "help", "keys" or "version" if that is all it asks for, else empty.
        config: The experiment's config with the overrides; valid.
        workdir: The directory given, or None.
        processes: Arguments of `hosts.start`.
    """

    show: str
    config: ConfigDict | None = None
    workdir: Path | None = None
    processes: tuple[str, int, int, int | None] = ("", 0, -1, None)


def parse(argv: list[str]) -> Arguments:
    """Parses a command line, the program's name first.

    Raises:
        UserError: If it is not understood, or the experiment file or an override is not right.
    """
    own = flags.FlagValues()
    with _one_line():
        flags.DEFINE_string("config", None, "", flag_values=own)
        flags.DEFINE_string("workdir", None, "", flag_values=own)
        flags.DEFINE_string("coordinator", "", "", flag_values=own)
        flags.DEFINE_integer("num_processes", 0, "", flag_values=own)
        flags.DEFINE_integer("process_id", -1, "", flag_values=own)
        flags.DEFINE_integer("coordinator_timeout", None, "", flag_values=own)
        for name, short in (("help", "h"), ("keys", None), ("version", None)):
            flags.DEFINE_bool(name, False, "", short_name=short, flag_values=own)
        # What is left are the overrides, which need the config that the file returns.
        words = own(argv, known_only=True)
    for name in ("help", "keys", "version"):
        if own[name].value:
            return Arguments(name)
    if not own.config:
        raise UserError(f"--config is not given; allowed: {_EXAMPLE}")
    if own.workdir == "":
        raise UserError("--workdir is ''; allowed: a directory")
    config = load(own.config)
    with _one_line():
        _override(config, [words[0], *map(_renamed, words[1:])])
    config_lib.rename(config)
    config_lib.validate(config)
    processes = (own.coordinator, own.num_processes, own.process_id, own.coordinator_timeout)
    workdir = None if own.workdir is None else Path(own.workdir)
    return Arguments("", config, workdir, processes)


def load(spec: str) -> ConfigDict:
    """Runs an experiment file and returns its config, which is valid and locked.

    Args:
        spec: Path of the file; with ":variant" after it, the variant is given to its `get_config`.

    Raises:
        UserError: If there is no such file, or it does not give a valid config.
    """
    name, *variant = spec.split(":", 1)
    path = Path(name)
    with _blaming(spec, path), _same_directory():
        if not path.is_file():
            raise UserError(f"there is no such file; allowed: {_EXAMPLE}")
        get_config = runpy.run_path(name).get("get_config")
        if not callable(get_config):
            raise UserError("it does not define get_config(); see experiments/digits.py")
        signature = inspect.signature(get_config)
        try:
            signature.bind(*variant)
        except TypeError:
            allowed = "no variant" if variant else "a variant, as in FILE:VARIANT"
            raise UserError(f"it has get_config{signature}; allowed: {allowed}") from None
        config = get_config(*variant)
        config_lib.rename(config)
        config_lib.validate(config)
        return config.lock()


@contextlib.contextmanager
def _same_directory() -> Iterator[None]:
    """Returns to the working directory, which relative paths on the command line refer to."""
    before = None
    with contextlib.suppress(FileNotFoundError):  # The directory was removed.
        before = Path.cwd()
    try:
        yield
    finally:
        if before is not None:
            os.chdir(before)


@contextlib.contextmanager
def _blaming(spec: str, path: Path) -> Iterator[None]:
    """Makes one line, with the place, of whatever goes wrong in an experiment file."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        text = error.msg if isinstance(error, SyntaxError) else str(error)
        # A misspelt key: what ml_collections says after the other keys is what helps.
        text = re.sub(r' Other fields present: ".*?}"(\\n)?', " ", text)
        frames = traceback.extract_tb(error.__traceback__)
        lines = [frame.lineno for frame in frames if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        place = f" (line {line})" if line else ""
        message = f"{kind}{brief(text, 300)}{place}"
        raise UserError(f"--config={brief(spec, 300)}: {message}") from error


def _renamed(word: str) -> str:
    """Returns an override with the current name of its key."""
    match = _OVERRIDE.match(word)
    new = aliases.current_path(match[1]) if match else ""
    if match is None or new == match[1]:
        return word
    logging.warning("--config.%s is now --config.%s", match[1], new)
    return f"{word[: match.start(1)]}{new}{word[match.end(1) :]}"


def _override(config: ConfigDict, words: list[str]) -> None:
    for word in words[1:]:
        if match := _OVERRIDE.match(word):
            _prepare(config, match[1])
    values = flags.FlagValues()
    config_flags.DEFINE_config_dict("config", config, flag_values=values, sys_argv=words)
    rest = values(words)
    if len(rest) > 1:
        raise UserError(f"{show(rest[1])} is not a flag; allowed: {_ALLOWED}")


def _prepare(config: ConfigDict, key: str) -> None:
    """Checks that an override's key exists, and makes room for it where keys are free."""
    places = [*(f"cases.{name}" for name in config.cases), "sweep.grid", "sweep.draw"]
    inside = {f"{place}.{setting}": (place, setting) for place in places for setting in SCHEMA}
    known = [*SCHEMA, *inside, *config_lib.FREE_SECTIONS]
    if key not in known:
        raise config_lib.unknown_key(key, known, "--config.")
    if key in inside:
        place, setting = inside[key]
        # A copy, as cases may share a section; with the key's own type, as a flag keeps to the type
        # that it finds and a case may hold a whole number for a real one.
        copy = ConfigDict(config_lib.section(config, place).to_dict(), sort_keys=False)
        with copy.ignore_type():
            default = SCHEMA[setting].default if place.startswith("cases.") else ()
            config_lib.put(copy, setting, default)
        with config.unlocked():
            config_lib.put(config, place, copy)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Makes a `UserError` of what absl and ml_collections raise for a bad flag."""
    try:
        yield
    except flags.UnrecognizedFlagError as error:
        raise UserError(f"--{error.flagname} is not a flag; allowed: {_ALLOWED}") from error
    except flags.IllegalFlagValueError as error:
        # Its text is "flag --NAME=VALUE: REASON".
        name, _, value = str(error).removesuffix(f": {error.__context__}").partition("=")
        name = name.removeprefix("flag --")
        key = re.sub(r"^config\.(cases\.[^.]*\.)?", "", name)
        if key in SCHEMA:
            allowed = SCHEMA[key].allowed
        elif name.startswith("config."):
            allowed = "a dict" if key in config_lib.FREE_SECTIONS else "a tuple; see --keys"
        else:
            is_bool = name in ("help", "keys", "version")
            allowed = "True or False" if is_bool else "a whole number"
        raise UserError(f"--{name} is {show(value)}; allowed: {allowed}") from error
    except (flags.Error, LookupError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"bad flags: {brief(str(error), 300)}") from error


def answer(question: str) -> None:
    """Prints the help, the version, or every setting with its default and what is allowed.

    Raises:
        UserError: If standard output cannot be written. A closed pipe is no error.
    """
    output = Output(sys.stdout)
    if question == "help":
        print(_HELP, end="", file=output, flush=True)
    elif question == "version":
        print(f"highway_jax {highway_jax.__version__}", file=output, flush=True)
    else:
        Console(file=output, highlight=False, markup=False).print(_keys())
    if output.failure not in ("", CLOSED):
        raise UserError(f"{output.failure}; allowed: a file that can be written, or a pipe")


def _keys() -> Table:
    table = Table("Key", "Default", "Meaning; what is allowed", box=None, pad_edge=False)
    for key, entry in SCHEMA.items():
        table.add_row(key, repr(entry.default), f"{entry.doc}\n{entry.allowed}")
    sections = f"KEY: any of {', '.join(config_lib.CASE_SECTIONS)}"
    points = "a tuple of different values"
    table.add_row("cases.NAME.KEY", "", f"what differs in the case NAME\n{sections}")
    table.add_row("sweep.grid.KEY", "", f"values to train every case with\n{points}; {sections}")
    distributions = "; ".join(DISTRIBUTIONS.values())
    table.add_row("sweep.draw.KEY", "", f"draws sweep.trials values\n{distributions}; {sections}")
    return table
