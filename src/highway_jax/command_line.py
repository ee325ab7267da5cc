"""Parses the command line of `train`: experiment file, variant, overrides; prints help."""

import contextlib
import inspect
import logging
import re
import runpy
import shutil
import sys
import textwrap
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags
from rich.console import Console

import highway_jax
from highway_jax import bundled, files
from highway_jax.arguments import Parser
from highway_jax.config import aliases
from highway_jax.config import config as config_lib
from highway_jax.config.schema import DISTRIBUTIONS, SCHEMA
from highway_jax.errors import UserError, brief, show, suggestion
from highway_jax.runtime.progress import Output

_BOOLEANS = ("extend", "compile_only", "keys", "help", "version")
_FLAGS = (
    *("config", "workdir", "topology", "coordinator", "num_processes", "process_id"),
    *("coordinator_timeout", *_BOOLEANS),
)
_EXAMPLE = "an experiment file, such as experiments/digits.py"
_OVERRIDE = re.compile(r"--?(?:no)?config\.([^=]*)")

_HELP = """\
usage: highway-jax train --config=FILE[:VARIANT] [--config.KEY=VALUE]...

Trains an experiment. The same command resumes an interrupted run.

  --config=FILE        experiment file, or a name that `highway-jax list` shows
  --config.KEY=VALUE   overrides one setting; --keys lists all settings
  --workdir=DIR        directory of records and checkpoints; default runs/NAME
  --extend             adds seeds or epochs to the run in the workdir
  --compile_only --topology=NAME  compiles for other devices, such as h100, and
                       shows memory and times; --topology=list lists them
  --keys, --help, --version

Several processes as one run (not needed on a TPU pod or under srun):
  --coordinator=HOST:PORT --num_processes=N --process_id=I
  --coordinator_timeout=SECONDS  limit on the wait for the others; default 300

other commands: highway-jax analyze | report | list
example:
  highway-jax train --config=digits --workdir=runs/shallow \\
      --config.model.depth=10 --config.cases.plain.model.width=64
"""


class Arguments(NamedTuple):
    """The parsed command line.

    Attributes:
        show: "help", "keys", "version" or "topologies" if only that is requested, else empty.
        config: The experiment's config with the overrides; valid.
        workdir: The directory given, with the home directory in place of `~`, or None.
        extend: Whether seeds or epochs may be added to the run in the directory.
        processes: Arguments of `multihost.start`.
        topology: The devices to compile for in place of training, or "".
    """

    show: str
    config: ConfigDict | None = None
    workdir: Path | None = None
    extend: bool = False
    processes: tuple[str, int, int, int | None] = ("", 0, -1, None)
    topology: str = ""


def parse(argv: list[str]) -> Arguments:
    """Parses a command line, the program's name first.

    Raises:
        UserError: If a flag, the experiment file or an override is invalid.
    """
    own = flags.FlagValues()
    with _one_line():
        flags.DEFINE_string("config", None, "", flag_values=own)
        flags.DEFINE_string("workdir", None, "", flag_values=own)
        flags.DEFINE_string("topology", None, "", flag_values=own)
        flags.DEFINE_string("coordinator", "", "", flag_values=own)
        flags.DEFINE_integer("num_processes", 0, "", flag_values=own)
        flags.DEFINE_integer("process_id", -1, "", flag_values=own)
        flags.DEFINE_integer("coordinator_timeout", None, "", flag_values=own)
        for name in _BOOLEANS:
            short = "h" if name == "help" else None
            flags.DEFINE_bool(name, False, "", short_name=short, flag_values=own)
        # The remaining words are overrides, which need the config that the file returns.
        words = own(argv, known_only=True)
    for name in ("help", "keys", "version"):
        if own[name].value:
            return Arguments(name)
    if own.topology == "list":
        return Arguments("topologies")
    _check_topology(own)
    if not own.config:
        for word in words[1:]:
            if word.startswith("-") and not _OVERRIDE.match(word):
                raise _unknown_flag(word.lstrip("-").partition("=")[0])
        hint = _config_hint(words[1]) if len(words) > 1 else ""
        raise UserError(f"--config is not given; {hint or f'allowed: {_EXAMPLE}'}")
    if own.workdir == "":
        raise UserError("--workdir is ''; allowed: a directory")
    config = load(own.config)
    with _one_line():
        _override(config, [words[0], *map(_renamed, words[1:])])
    config_lib.rename(config)
    config_lib.validate(config)
    processes = (own.coordinator, own.num_processes, own.process_id, own.coordinator_timeout)
    workdir = None if own.workdir is None else files.expand("--workdir", own.workdir)
    return Arguments("", config, workdir, own.extend, processes, own.topology or "")


def _check_topology(own: flags.FlagValues) -> None:
    """Checks the flags that compile without training."""
    if own.compile_only and not own.topology:
        raise UserError("--topology is not given; allowed: a name that --topology=list lists")
    if own.topology is not None and not own.compile_only:
        raise UserError(
            f"--topology is {show(own.topology)}; allowed: only with --compile_only, as training"
            " uses the devices of this machine"
        )
    for name in ("workdir", "extend", "coordinator"):
        if own.compile_only and own[name].value:
            raise UserError(
                f"--{name} is {show(own[name].value)}; allowed: not with --compile_only, which"
                " writes nothing and runs in one process"
            )


def load(spec: str) -> ConfigDict:
    """Runs an experiment file and returns its config, which is valid and locked.

    Args:
        spec: Path of the file, or the name of a bundled experiment if no such file exists; a
            ":variant" after it is passed to the file's `get_config`.

    Raises:
        UserError: If there is no such file, or its config is invalid.
    """
    name, *variant = spec.split(":", 1)
    path = Path(name)
    with _blaming(spec, path):
        is_file = path.is_file()
    path = path if is_file else bundled.find(name) or path
    # As Python does for a script: the file may import modules that lie beside it. They come last,
    # so that none of them hides an installed package.
    if is_file and (beside := str(path.resolve().parent)) not in sys.path:
        sys.path.append(beside)
    with _blaming(spec, path), contextlib.ExitStack() as stack:
        # Relative paths on the command line refer to the directory of now, if it still exists.
        with contextlib.suppress(FileNotFoundError):
            stack.enter_context(contextlib.chdir("."))
        if not is_file and path == Path(name):
            hint = suggestion(path.stem, bundled.experiments()) or f"allowed: {_EXAMPLE}"
            raise UserError(f"there is no such file; {hint}")
        get_config = runpy.run_path(str(path)).get("get_config")
        if not callable(get_config):
            raise UserError("the file does not define get_config(); see experiments/digits.py")
        signature = inspect.signature(get_config)
        try:
            signature.bind(*variant)
        except TypeError:
            allowed = "no variant" if variant else "a variant, as in FILE:VARIANT"
            raise UserError(f"the file has get_config{signature}; allowed: {allowed}") from None
        config: Any = get_config(*variant)
        config_lib.rename(config)
        config_lib.validate(config)
        return config.lock()


@contextlib.contextmanager
def _blaming(spec: str, path: Path) -> Iterator[None]:
    """Raises a `UserError` of one line, with the line number, for any error of a file."""
    try:
        yield
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        text = error.msg if isinstance(error, SyntaxError) else str(error)
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
        hint = _config_hint(rest[1]) or _allowed()
        raise UserError(f"{show(rest[1])} is not a flag; {hint}")


def _config_hint(word: str) -> str:
    """Returns a suggestion for an experiment that is given without `--config`, or ""."""
    name = word.partition(":")[0]
    is_config = bundled.find(name) is not None or name.endswith(".py")
    return f"did you mean --config={brief(word)}?" if is_config else ""


def _unknown_flag(name: str) -> UserError:
    return UserError(f"--{name} is not a flag; {suggestion(name, _FLAGS, '--') or _allowed()}")


def _allowed() -> str:
    return f"allowed: --config=FILE, --config.KEY=VALUE, {', '.join(f'--{f}' for f in _FLAGS[1:])}"


def _prepare(config: ConfigDict, key: str) -> None:
    """Checks that the key of an override exists, and adds it to a section with free keys."""
    sections = [*(f"cases.{name}" for name in config.cases), "sweep.grid", "sweep.draw"]
    inside = {f"{place}.{setting}": (place, setting) for place in sections for setting in SCHEMA}
    known = [*SCHEMA, *inside, *config_lib.FREE_SECTIONS]
    if key not in known:
        raise config_lib.unknown_key(key, known, "--config.")
    if key in inside:
        place, setting = inside[key]
        # Cases may share a section, so it is copied. The default sets the type that the flag
        # parses: a case may hold an int where the setting is a float.
        copy = ConfigDict(config_lib.section(config, place).to_dict(), sort_keys=False)
        with copy.ignore_type():
            default = SCHEMA[setting].default if place.startswith("cases.") else ()
            config_lib.put(copy, setting, default)
        with config.unlocked():
            config_lib.put(config, place, copy)


@contextlib.contextmanager
def _one_line() -> Iterator[None]:
    """Raises a `UserError` for the errors of absl and ml_collections about a bad flag."""
    try:
        yield
    except flags.UnrecognizedFlagError as error:
        raise _unknown_flag(error.flagname) from error
    except flags.IllegalFlagValueError as error:
        # The message is "flag --NAME=VALUE: REASON".
        name, _, value = str(error).removesuffix(f": {error.__context__}").partition("=")
        name = name.removeprefix("flag --")
        key = re.sub(r"^config\.(cases\.[^.]*\.)?", "", name)
        if key in SCHEMA:
            allowed = SCHEMA[key].allowed
        elif name.startswith("config."):
            allowed = "a dict" if key in config_lib.FREE_SECTIONS else "a tuple; see --keys"
        else:
            allowed = "True or False" if name in _BOOLEANS else "a whole number"
        raise UserError(f"--{name} is {show(value)}; allowed: {allowed}") from error
    except (flags.Error, LookupError, AttributeError, TypeError, ValueError) as error:
        raise UserError(f"bad flags: {brief(str(error), 300)}") from error


def answer(question: str) -> None:
    """Prints the help, the version, the topologies, or every setting and what is allowed.

    Raises:
        UserError: If standard output cannot be written. A closed pipe is not an error.
    """
    output = Output(sys.stdout)
    if question == "help":
        print(_HELP, end="", file=output, flush=True)
    elif question == "version":
        print(f"highway_jax {highway_jax.__version__}", file=output, flush=True)
    elif question == "topologies":
        from highway_jax.training import topologies  # Loads jax.

        print("\n".join(topologies.names()), file=output, flush=True)
    else:
        print(_keys(shutil.get_terminal_size().columns), file=output, flush=True)
    output.check()


def list_experiments(argv: list[str]) -> None:
    """Prints a line for each bundled experiment: its name and what it trains.

    Args:
        argv: The command line without the program's name and the command.

    Raises:
        UserError: If there are arguments.
    """
    Parser(prog="highway-jax list", description="Lists the bundled experiments.").parse(argv)
    console = Console(file=Output(sys.stdout).stream, highlight=False, markup=False, emoji=False)
    found = bundled.experiments()
    for name, path in found.items():
        line = f"{name:<{max(map(len, found))}}  {bundled.title(path)}"
        if console.is_terminal:
            console.print(line, no_wrap=True, overflow="ellipsis")
        else:
            console.print(line, soft_wrap=True)


def _keys(width: int) -> str:
    """Returns every key with its default, its meaning and what is allowed, in lines of a width."""
    entries = [
        (f"{key} = {entry.default!r}", entry.doc, entry.allowed) for key, entry in SCHEMA.items()
    ]
    key = f"KEY is a key of {', '.join(config_lib.CASE_SECTIONS)}"
    points = "a tuple of different values"
    drawn = "Distribution of KEY, from which sweep.trials values are drawn"
    entries += [
        ("cases.NAME.KEY", "Value of KEY in the case NAME", key),
        ("sweep.grid.KEY", "Values of KEY, each for every case", f"{points}; {key}"),
        ("sweep.draw.KEY", drawn, f"{'; '.join(DISTRIBUTIONS.values())}; {key}"),
    ]
    wrapper = textwrap.TextWrapper(
        width, initial_indent="    ", subsequent_indent="    ", break_long_words=False
    )
    return "\n".join(
        line
        for head, doc, allowed in entries
        for line in (head, *wrapper.wrap(doc), *wrapper.wrap(f"allowed: {allowed}"))
    )
