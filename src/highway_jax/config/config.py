"""Configs of runs: the defaults of `schema.SCHEMA`, their validation, cases, and JSON.

`default_config()` returns all settings as a locked `ConfigDict`; an experiment file changes some of
them; `validate()` checks all of them. No setting is derived from another: overrides on the command
line come after an experiment file, so derived counts are functions of the final config.
"""

import difflib
import itertools
import json
import logging
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import RequiredValueError

from highway_jax.config import aliases
from highway_jax.config.keys import NAME, is_name
from highway_jax.config.schema import DISTRIBUTIONS, RULES, SCHEMA
from highway_jax.config.sections import Config
from highway_jax.errors import UserError, brief, show

NUMERIC = {
    "learning_rate": "optimizer.learning_rate",
    "momentum": "optimizer.momentum",
    "decay": "optimizer.decay",
    "weight_decay": "optimizer.weight_decay",
    "transform_bias": "model.transform_bias",
    "beta1": "optimizer.beta1",
    "beta2": "optimizer.beta2",
    "epsilon": "optimizer.epsilon",
    "warmup_fraction": "optimizer.warmup_fraction",
    "final_fraction": "optimizer.final_fraction",
    "logit_scale": "model.logit_scale",
    "dropout_scale": "model.dropout_scale",
    "label_smoothing": "training.label_smoothing",
    "weight_average": "training.weight_average",
}
"""Keys of the hyperparameters in which trials of one compiled program may differ, by name."""

OPTIONAL = ("logit_scale", "dropout_scale", "label_smoothing", "weight_average")
"""Those that a program only has where they differ from their defaults.

Trials with the default are compiled apart from the others, and their checkpoints do not depend on
which optional hyperparameters a version of the package has.
"""

UNCOMPARED = (
    *("runtime.", "record.", "checkpoint."),
    *("data.dir", "data.cache_dir", "data.download", "data.file"),
)
"""Keys, or prefixes of keys, that may change between the starts of one run."""

FREE_SECTIONS = ("cases", "sweep.grid", "sweep.draw")
"""Sections of the config that are empty unless an experiment sets keys in them."""

CASE_SECTIONS = ("data", "model", "optimizer", "training", "evaluation")
CASE_KEYS = tuple(key for key in SCHEMA if key.partition(".")[0] in CASE_SECTIONS)
"""Keys in which the cases of a run may differ."""

MAX_TRIALS = 10**6
"""Most trials of a run.

Planning holds all of them in memory, about 3 kB each, and results.csv has a row of about 300 bytes
for each and is rewritten after each batch.
"""

Tree = ConfigDict | Mapping
"""A config, or the content of a config.json."""

_SECTIONS = {key.rpartition(".")[0] for key in SCHEMA} - {""}
_MAX_STEPS = 2**31 - 1


class UnknownKeyError(UserError, AttributeError, KeyError):
    """A key that a config does not have was set or read, as an attribute or as an item."""

    __str__ = Exception.__str__  # That of KeyError puts the message in quotes.


class RunConfig(ConfigDict):
    """A config, or a section of one, whose renamed keys may be set and read by earlier names."""

    def __getattr__(self, attribute: str) -> Any:
        return self[attribute]

    def __setattr__(self, attribute: str, value: Any) -> None:
        try:
            super().__setattr__(attribute, value)
        except AttributeError as error:
            if isinstance(error.args[0], UnknownKeyError):
                raise error.args[0] from None
            raise

    def __getitem__(self, key: str) -> Any:
        key = self._current(key)
        try:
            return super().__getitem__(key)
        except KeyError:
            raise self._unknown(key) from None

    def __setitem__(self, key: str, value: Any) -> None:
        key = self._current(key)
        if self.is_locked and key not in self:
            raise self._unknown(key)
        if type(value) is ConfigDict and key in self and isinstance(self[key], RunConfig):
            value = RunConfig(value)  # Sections keep their type.
        super().__setitem__(key, value)

    def _current(self, key: str) -> str:
        new = aliases.LEAVES.get(key) if isinstance(key, str) else None
        if new is None or new not in self:
            return key
        logging.warning("the config key %s is now %s", key, new)
        return new

    def _unknown(self, key: Any) -> UnknownKeyError:
        # A section does not know where it stands, but no two have the same keys.
        settings = [name for name in self if not isinstance(_value(self, name), ConfigDict)]
        for place in ("", *(f"{section}." for section in _SECTIONS)):
            if settings and all(f"{place}{name}" in SCHEMA for name in settings):
                known = (*SCHEMA, *_SECTIONS, *FREE_SECTIONS)
                return UnknownKeyError(str(unknown_key(f"{place}{key}", known, "config.")))
        return UnknownKeyError(str(unknown_key(str(key), [*map(str, self)], "")))


def default_config() -> RunConfig:
    """Returns a config with the defaults of all settings.

    It refuses unknown keys, except in three sections that are empty.

    Example:
        >>> import highway_jax
        >>> config = highway_jax.default_config()
        >>> config.model.depth = 20
        >>> config.sweep.grid.optimizer = {"learning_rate": (0.01, 0.1)}

    `cases` maps a name to the settings in which that case differs; a run trains every case with
    every seed. Without cases there is one, named after the run.

    `sweep.grid` maps settings to tuples of values, such as `{"model": {"depth": (10, 20)}}`: every
    case is trained at every point of the grid. A case at a point is a cell. Of points that differ
    only in settings without an effect on the case (`schema.USES`), one is trained.

    `sweep.draw` maps settings to distributions (`schema.DISTRIBUTIONS`), from which `sweep.trials`
    settings are drawn for every cell.
    """
    config = unflatten({key: entry.default for key, entry in SCHEMA.items()})
    for free in FREE_SECTIONS:
        section(config, free).unlock()
    return config


def put(config: ConfigDict, key: str, value: Any) -> None:
    """Sets a dotted key, and creates the sections that it is in where there are none."""
    *names, leaf = key.split(".")
    target: Any = config
    for name in names:
        if name not in target:
            target[name] = type(target)(sort_keys=False)
        target = target[name]
    target[leaf] = value


def section(config: ConfigDict, key: str) -> Any:
    """Returns the value or section at a dotted key, or None if there is none."""
    found: Any = config
    for part in key.split("."):
        found = _value(found, part) if isinstance(found, ConfigDict) and part in found else None
    return found


def unflatten(values: Mapping[str, Any]) -> RunConfig:
    """Returns the locked config whose settings by dotted key are `values`."""
    config = RunConfig(sort_keys=False)
    for key, value in values.items():
        put(config, key, value)
    for free in FREE_SECTIONS:
        put(config, free, ConfigDict(sort_keys=False))
    config.lock()
    return config


def flatten(config: Tree) -> dict[str, Any]:
    """Returns the settings of a config, or the leaves of nested mappings, by dotted key."""
    return {k: v for k, v in _leaves(config) if not isinstance(v, Tree)}


def _leaves(config: Tree, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name in config:
        value = _value(config, name)
        # No valid key has more than four parts. The limit ends a config that contains itself.
        if isinstance(value, Tree) and len(value) > 0 and prefix.count(".") < 4:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _settings(config: ConfigDict) -> dict[str, Any]:
    """Returns all leaves except empty sections."""
    leaves = _leaves(config)
    return {k: v for k, v in leaves if k not in _SECTIONS or not isinstance(v, ConfigDict)}


def _value(config: Tree, name: str) -> Any:
    try:
        return config[name]
    except RequiredValueError:  # A placeholder without a value.
        return None


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON, sections nested, keys in the order of `SCHEMA`."""
    return json.dumps(config.to_dict(), indent=2, default=list) + "\n"


def current(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the content of a config.json of any version with current names, and with all keys.

    A key that did not exist when the file was written gets its default, which is how the run was
    trained. Keys that this version does not have are kept.

    Raises:
        ValueError: If a section is not a mapping.
    """
    result = aliases.current_tree(tree)
    for key, entry in SCHEMA.items():
        name, _, leaf = key.rpartition(".")
        section = result.setdefault(name, {}) if name else result
        if not isinstance(section, dict):
            raise ValueError(f"{name} in config.json is {show(section)}; allowed: settings by name")
        section.setdefault(leaf, entry.default)
    return result


def from_json(text: str) -> RunConfig:
    """Returns the valid config of a saved run (see `current`).

    What it names, such as its block, need not be registered in this process.

    Raises:
        UserError: If it is not a valid config.
    """

    def restore(value: Any) -> Any:
        if isinstance(value, dict):
            return RunConfig({k: restore(v) for k, v in value.items()}, sort_keys=False)
        return tuple(map(restore, value)) if isinstance(value, list) else value

    try:
        config = restore(current(dict(json.loads(text))))
    except (ValueError, TypeError, RecursionError) as error:
        raise UserError(f"config.json cannot be read ({error}); allowed: a run's config") from error
    validate(config.lock(), saved=True)
    return config


def rename(config: ConfigDict) -> None:
    """Gives keys and values of a config that have earlier names their current ones.

    Each is reported in the log. A config that is not valid for other reasons stays as it is.
    """
    if not isinstance(config, ConfigDict):
        return
    for path, value in dict(_leaves(config)).items():
        new_path = aliases.current_path(path)
        new_value = aliases.current_value(new_path, value)
        if (new_path, new_value) == (path, value):
            continue
        if new_path != path:
            logging.warning("the config key %s is now %s", path, new_path)
        else:
            logging.warning("config.%s: %s is now %s", path, show(value), show(new_value))
        free = next((free for free in FREE_SECTIONS if path.startswith(f"{free}.")), "")
        with config.unlocked():
            if free:  # Rebuilt, so that its keys keep their order, which numbers trials.
                leaves = dict(_leaves(section(config, free), f"{free}."))
                put(config, free, ConfigDict(sort_keys=False))
                for old, kept in leaves.items():
                    put(
                        config, new_path if old == path else old, new_value if old == path else kept
                    )
            else:
                put(config, new_path, new_value)
                if new_path != path:  # A section that the caller made has the earlier name too.
                    name, _, leaf = path.rpartition(".")
                    del section(config, name)[leaf]


def validate(config: ConfigDict, *, saved: bool = False) -> None:
    """Checks every key of `config` and of its free sections, and the rules between keys.

    Args:
        config: The config.
        saved: Whether it is the config of a saved run, in which the names of blocks and of other
            registered entries are not looked up: they need not be registered in this process.

    Raises:
        UserError: For the first unknown or missing key, wrong type or value that is not allowed.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"config is {show(config)}; allowed: a ml_collections.ConfigDict, such as"
            " default_config() returns"
        )
    free = tuple(f"{section}." for section in FREE_SECTIONS)
    values = {k: v for k, v in _settings(config).items() if not f"{k}.".startswith(free)}
    for key, value in values.items():
        _check(key, value, saved)
    for key, entry in SCHEMA.items():
        if key not in values:
            raise UserError(f"config.{key} is missing; allowed: {entry.allowed}")
    cases, grid, draw = (_free_section(config, key) for key in FREE_SECTIONS)
    settings = {
        f"cases.{name}.": _case_settings(name, _value(cases, name), saved) for name in cases
    }
    of_cases = {key for case in settings.values() for key in case}
    grid, draw = _settings(grid), _settings(draw)
    for key, points in grid.items():
        _check_points(key, points, of_cases, saved)
    for key, drawn in draw.items():
        _check_drawn(key, drawn, of_cases | set(grid), saved)
    if bool(draw) != bool(values["sweep.trials"]):
        raise UserError(
            f"config.sweep.trials is {values['sweep.trials']}; allowed: 0 where config.sweep.draw"
            " is empty, above 0 where it is not"
        )
    for key in draw if values["sweep.sampler"] != "random" else ():
        if key.startswith(("data.", "model.architecture")):
            raise UserError(
                f"config.sweep.draw.{key} is {show(draw[key])}; allowed where sweep.sampler is"
                f" {values['sweep.sampler']!r}: keys of which all values need the same data, which"
                " are loaded before training"
            )
    _check_count(values, list(settings), grid)
    varied = grid | {key: _points(*drawn) for key, drawn in draw.items()}
    for prefix, case in (settings or {"": {}}).items():
        _check_rules(values, case, varied, prefix, saved)


def _free_section(config: ConfigDict, key: str) -> ConfigDict:
    value = section(config, key)
    if not isinstance(value, ConfigDict):
        raise UserError(f"config.{key} is {show(value)}; allowed: a ConfigDict")
    return value


def _case_settings(name: Any, case: Any, saved: bool) -> dict[str, Any]:
    if not is_name(name):
        raise UserError(f"config.cases has the name {show(name)}; allowed: {NAME}")
    if not isinstance(case, ConfigDict):
        raise UserError(f"config.cases.{name} is {show(case)}; allowed: a ConfigDict of settings")
    settings = _settings(case)
    for key, value in settings.items():
        _check_place(key, value, f"cases.{name}.")
        _check(key, value, saved, f"cases.{name}.")
    return settings


def _check_points(key: str, points: Any, taken: Collection[str], saved: bool) -> None:
    _check_place(key, points, "sweep.grid.", taken)
    for value in points if isinstance(points, tuple) else ():
        _check(key, value, saved, "sweep.grid.")
    if not isinstance(points, tuple) or not points or len(set(points)) < len(points):
        raise UserError(
            f"config.sweep.grid.{key} is {show(points)}; allowed: a tuple of different values,"
            " at least one"
        )


def _check_drawn(key: str, drawn: Any, taken: Collection[str], saved: bool) -> None:
    _check_place(key, drawn, "sweep.draw.", taken)
    if key == "training.epochs":
        raise UserError(
            f"config.sweep.draw.{key} is {show(drawn)}; allowed there: other keys, as the trials of"
            " a cell train for the same epochs; sweep.grid may vary them"
        )
    kind, *bounds = drawn if isinstance(drawn, tuple) and drawn else (None,)
    is_right = isinstance(kind, str) and kind in DISTRIBUTIONS
    for value in bounds if is_right else ():
        _check(key, value, saved, "sweep.draw.")
    if is_right and kind == "choice":
        is_right = len(bounds) > 0
    elif is_right:
        types = (int, float) if kind == "integer" else float
        is_right = (
            isinstance(SCHEMA[key].default, types)
            and len(bounds) == 2
            and bounds[0] < bounds[1]
            and (kind != "log_uniform" or bounds[0] > 0)
            and (kind != "integer" or all(type(bound) is int for bound in bounds))
        )
    if not is_right:
        raise UserError(
            f"config.sweep.draw.{key} is {show(drawn)}; allowed:"
            f" {'; '.join(DISTRIBUTIONS.values())}"
        )


def _points(kind: str, *bounds: Any) -> tuple[Any, ...]:
    """Returns values of a distribution such that rules that hold for them hold for all."""
    if kind != "integer":
        return bounds
    low, high = bounds
    return (low, low + 1, high)  # Of two integers in succession, a rule on divisors refuses one.


def _check_count(values: dict[str, Any], cases: list[str], grid: dict[str, Any]) -> None:
    counts = {"cases": len(cases)} if cases else {}
    counts |= {f"sweep.grid.{key}": len(points) for key, points in grid.items()}
    own = "sweep.trials" if values["sweep.trials"] else "seeds"
    counts[own] = values["sweep.trials"] or len(values["seeds"])
    retrained = len(values["sweep.retrain_seeds"])
    total = math.prod(counts.values()) // counts[own] * (counts[own] + retrained)
    if total > MAX_TRIALS:
        factors = [f"{count:,} of config.{key}" for key, count in counts.items() if count > 1]
        if retrained:
            factors[-1] = f"({factors[-1]} + {retrained:,} of config.sweep.retrain_seeds)"
        raise UserError(
            f"{' x '.join(factors)} are {total:,} trials; allowed: at most {MAX_TRIALS:,}, as all"
            " are planned in memory"
        )


def _check_place(key: str, value: Any, prefix: str, taken: Collection[str] = ()) -> None:
    _check_exists(key, value, prefix)
    if key in taken:
        raise UserError(
            f"config.{prefix}{key} is {show(value)}; allowed there: keys that no case"
            " and not both sweep.grid and sweep.draw set"
        )
    if key in SCHEMA and key not in CASE_KEYS:
        raise UserError(
            f"config.{prefix}{key} is {show(value)}; allowed there: keys of"
            f" {', '.join(CASE_SECTIONS)}"
        )


def _check_exists(key: str, value: Any, prefix: str) -> None:
    if key in _SECTIONS:
        raise UserError(f"config.{prefix}{key} is {show(value)}; allowed: a ConfigDict of settings")
    if key not in SCHEMA:
        raise unknown_key(key, CASE_KEYS if prefix else SCHEMA, f"config.{prefix}")


def _check(key: str, value: Any, saved: bool, prefix: str = "") -> None:
    _check_exists(key, value, prefix)
    entry = SCHEMA[key]
    expected = type(entry.default)
    is_bool = isinstance(value, bool)
    same = isinstance(value, expected) and is_bool == (expected is bool)
    if expected is float and isinstance(value, int) and not is_bool:
        same = True
    # The names in a saved run need not be registered in this process.
    skips_names = saved and entry.registry is not None
    if not same or not (str(value).isidentifier() if skips_names else entry.check(value)):
        raise UserError(f"config.{prefix}{key} is {show(value)}; allowed: {entry.allowed}")


def _check_rules(
    values: dict[str, Any], case: dict[str, Any], varied: dict[str, Any], prefix: str, saved: bool
) -> None:
    values = values | case
    for rule in RULES:
        if saved and rule.reads_registry:
            continue
        for point in itertools.product(*(varied.get(k, (values[k],)) for k in rule.keys)):
            if not rule.check(*point):
                first, *others = point
                allowed = rule.allowed if isinstance(rule.allowed, str) else rule.allowed(*others)
                place = "" if case.keys().isdisjoint(rule.keys) else prefix
                raise UserError(
                    f"config.{place}{rule.keys[0]} is {show(first)}; allowed: {allowed}"
                )


def unknown_key(key: str, known: Collection[str], prefix: str) -> UserError:
    """Returns the error for a key that does not exist, which names the nearest one that does."""
    inside = [k for k in known if k.startswith(f"{key}.")]
    near = inside or difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {prefix}{near[0]}?" if near else "--keys lists all of them"
    return UserError(f"{prefix}{brief(key)} is not a key; {hint}")


def case_settings(config: ConfigDict, name: str) -> dict[str, Any]:
    """Returns all settings of the case `name` by dotted key."""
    case = section(config, f"cases.{name}")
    changed = {} if case is None else flatten(case)
    values = flatten(config)
    return {key: changed.get(key, values[key]) for key in SCHEMA}


def case_names(config: Tree) -> tuple[str, ...]:
    """Returns the names of a run's cases; without cases, the run's name.

    Args:
        config: A config, or the content of a config.json.
    """
    return tuple(config.get("cases") or (config["name"],))


def grid_keys(config: Tree) -> tuple[str, ...]:
    """Returns the keys of `sweep.grid`, in the order of `SCHEMA`.

    Args:
        config: A config, or the content of a config.json.
    """
    return _ordered(flatten(config.get("sweep", {}).get("grid", {})))


def varied_keys(config: Tree) -> tuple[str, ...]:
    """Returns the keys in which trials of a run may differ, in the order of `SCHEMA`.

    These are the keys that `sweep.grid`, `sweep.draw` or a case sets.

    Args:
        config: A config, or the content of a config.json. Sections and keys that did not exist
            when it was written may be absent; keys that this version does not have come last.
    """
    sweep, cases = config.get("sweep", {}), config.get("cases", {})
    sections = (sweep.get("grid", {}), sweep.get("draw", {}), *cases.values())
    return _ordered(key for section in sections for key in flatten(section))


def _ordered(keys: Iterable[str]) -> tuple[str, ...]:
    known = dict.fromkeys(keys)
    return (*(key for key in SCHEMA if key in known), *(key for key in known if key not in SCHEMA))


def steps_per_epoch(config: Config, num_train: int) -> int:
    """Returns the number of whole batches in an epoch.

    Raises:
        UserError: If the training split is smaller than a batch, or steps exceed 32 bits.
    """
    training = config.training
    if training.batch_size > num_train:
        raise UserError(
            f"config.training.batch_size is {training.batch_size};"
            f" allowed: 1 to {num_train}, the training examples of {config.data.name}"
        )
    steps = num_train // training.batch_size
    if training.epochs * steps > _MAX_STEPS:
        raise UserError(
            f"config.training.epochs is {training.epochs}; allowed: 1 to {_MAX_STEPS // steps},"
            f" as an epoch has {steps} steps and {_MAX_STEPS} can be counted"
        )
    return steps


def changes(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """Returns the differences between two flattened configs, a phrase by key.

    Keys in `UNCOMPARED` are ignored; tuples and lists compare by content.
    """
    kept = ({k: v for k, v in side.items() if not k.startswith(UNCOMPARED)} for side in (old, new))
    return differences(*kept)


def differences(old: dict[str, Any], new: dict[str, Any]) -> dict[str, str]:
    """Returns the differences between two flat dicts, a phrase by key, as `changes` does."""
    phrases = {}
    for key in sorted({*old, *new}):
        before, after = (_plain(side.get(key, "(unset)")) for side in (old, new))
        if before != after:
            phrases[key] = f"{brief(key)} from {show(before)} to {show(after)}"
    return phrases


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
