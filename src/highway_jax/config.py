"""Every setting of a run: its key, default, type, allowed values and meaning, in one table.

`default_config()` returns them as a locked `ConfigDict`; an experiment file changes what differs;
`validate()` checks the whole of it. Nothing here is derived from something else: overrides on the
command line come after an experiment file, so derived counts are functions of the final config.
"""

import difflib
import json
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from highway_jax.errors import UserError

NUMERIC = {
    "learning_rate": "optimizer.learning_rate",
    "momentum": "optimizer.momentum",
    "decay": "optimizer.decay",
    "weight_decay": "optimizer.weight_decay",
    "transform_bias": "model.transform_bias",
}
"""Hyperparameters that are only numbers: trials that differ in these share one program."""

UNCOMPARED = ("runtime.", "checkpoint.", "data.dir", "data.cache_dir", "data.download")
"""Keys (or their beginnings) that may change between the starts of one run."""


class Key(NamedTuple):
    """One setting.

    Attributes:
        default: Its value unless an experiment or a flag changes it; its type is the key's type.
        check: Whether a value of the right type is allowed.
        allowed: What is allowed, in words.
        doc: What it means, with its unit and, for a number of the paper, where that stands.
    """

    default: Any
    check: Callable[[Any], bool]
    allowed: str
    doc: str


def _whole(default: int, low: int, doc: str) -> Key:
    return Key(default, lambda v: v >= low, f"a whole number of at least {low}", doc)


def _real(default: float, low: float | int, high: float | int, doc: str, *, open_low: bool = False) -> Key:
    words = f"a number {'above' if open_low else 'from'} {low:g}"
    words += f" to {high:g}" if math.isfinite(high) else ""

    def check(value):
        return (
            math.isfinite(value) and value <= high and (value > low if open_low else value >= low)
        )

    return Key(default, check, words, doc)


def _choice(default: str, options: tuple[str, ...], doc: str) -> Key:
    return Key(default, lambda v: v in options, ", ".join(options), doc)


def _text(default: str, doc: str) -> Key:
    return Key(default, lambda v: True, "text", doc)


def _flag(default: bool, doc: str) -> Key:
    return Key(default, lambda v: True, "True or False", doc)


def _wholes(default: tuple[int, ...], allowed: str, check: Callable, doc: str) -> Key:
    def is_whole(value):
        return isinstance(value, int) and not isinstance(value, bool)

    return Key(default, lambda v: all(map(is_whole, v)) and check(v), allowed, doc)


def _are_seeds(values: tuple[int, ...]) -> bool:
    return (
        len(values) > 0
        and len(set(values)) == len(values)
        and all(0 <= seed < 2**32 for seed in values)
    )


_INF = math.inf
_ACTIVATIONS = ("relu", "tanh", "sigmoid", "elu", "gelu", "silu", "identity")
_INITIALIZERS = (
    "normalized",
    "msra",
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
)

SCHEMA: dict[str, Key] = {
    "name": Key("run", lambda v: bool(v) and "/" not in v, "text without '/'", "names the run"),
    "seeds": _wholes(
        (0,),
        "a tuple of different whole numbers from 0 to 4294967295, at least one",
        _are_seeds,
        "one trial each, for every case; the seed draws weights and batches",
    ),
    "data.name": _choice("digits", ("digits", "mnist", "cifar10", "cifar100"), "the dataset"),
    "data.valid_size": _whole(0, 0, "training examples set aside for validation"),
    "data.split_seed": _whole(0, 0, "draws which examples these are"),
    "data.scaling": _choice(
        "unit",
        ("unit", "caffe", "signed"),
        "pixels to [0, 1]; to [0, 255/256], as the authors' Caffe files; or to [-1, 1]",
    ),
    "data.subtract_mean": _flag(False, "subtract the training set's mean image"),
    "data.dir": _text("", "prepared TFDS datasets; empty: $TFDS_DATA_DIR, ~/tensorflow_datasets"),
    "data.cache_dir": _text("", "decoded arrays; empty: the user's cache directory"),
    "data.download": _flag(True, "whether the network may be used"),
    "model.block": _choice("highway", ("highway", "plain", "residual"), "the equation repeated"),
    "model.depth": _whole(50, 1, "hidden layers: one plain, then depth - 1 blocks (section 3.1)"),
    "model.width": _whole(50, 1, "units a layer: 50 highway, 71 plain (section 3.1)"),
    "model.activation": _choice("relu", _ACTIVATIONS, "the f of H; relu or tanh (section 3.1)"),
    "model.initializer": _choice("normalized", _INITIALIZERS, "draws all kernels"),
    "model.gate": _choice("coupled", ("coupled", "separate"), "C = 1 - T, or a gate of its own"),
    "model.transform_bias": _real(-2.0, -_INF, _INF, "initial b_T; -1 to -10 in section 3.1"),
    "model.carry_bias": _real(1.0, -_INF, _INF, "initial b_C of a separate carry gate"),
    "model.remat": _choice(
        "products", ("none", "products", "full"), "what the backward pass computes again"
    ),
    "model.dtype": _choice("float32", ("float32", "bfloat16"), "compute type; weights: float32"),
    "optimizer.learning_rate": _real(
        0.05, 0, _INF, "initial rate, without a (1 - momentum) factor", open_low=True
    ),
    "optimizer.momentum": _real(0.9, 0, 0.999999, "of the velocity"),
    "optimizer.nesterov": _flag(False, "Nesterov's momentum instead of the classical"),
    "optimizer.schedule": _choice(
        "exponential",
        ("constant", "exponential", "steps"),
        "how the rate falls: by `decay` every epoch or step, or at `boundaries`",
    ),
    "optimizer.decay": _real(1.0, 0, 1, "factor of the rate at each decay", open_low=True),
    "optimizer.decay_every": _choice("epoch", ("epoch", "step"), "unit of exponential decay"),
    "optimizer.boundaries": _wholes(
        (),
        "a tuple of rising whole numbers of at least 1",
        lambda v: all(a < b for a, b in zip((0, *v), v, strict=False)),
        "steps at which the schedule `steps` multiplies the rate by `decay`",
    ),
    "optimizer.weight_decay": _real(0.0, 0, _INF, "L2 in the gradient of kernels, not of biases"),
    "optimizer.clip_norm": _real(0.0, 0, _INF, "largest norm of a gradient; 0: no clipping"),
    "training.epochs": _whole(10, 1, "passes over the training split"),
    "training.batch_size": _whole(100, 1, "examples a step; an epoch drops the remainder"),
    "evaluation.every_epochs": _whole(1, 1, "epochs between points of the curves"),
    "evaluation.batch_size": _whole(1000, 1, "examples evaluated at a time"),
    "evaluation.test_curve": _flag(
        False, "evaluate the test split on the way too, as the authors' logs do; selects nothing"
    ),
    "checkpoint.every_seconds": _real(60.0, 0, _INF, "between checkpoints; 0: every epoch"),
    "checkpoint.keep": _whole(2, 1, "newest checkpoints kept of each batch of trials"),
    "runtime.devices": _whole(0, 0, "devices to use; 0: all, and on CPU one for every core"),
    "runtime.trial_axis": _choice(
        "auto", ("auto", "map", "vmap"), "trials of a device in turn or at once; auto: map on CPU"
    ),
    "runtime.chunk_seconds": _real(
        5.0, 0, _INF, "longest compiled stretch between looks at signals", open_low=True
    ),
    "runtime.tensorboard": _flag(True, "write TensorBoard events"),
    "runtime.progress": _flag(True, "show progress"),
}
"""All settings but `cases`, by dotted key."""

_CASE_SECTIONS = ("data.", "model.", "optimizer.", "training.", "evaluation.")


def default_config() -> ConfigDict:
    """Returns the defaults of `SCHEMA` as a locked `ConfigDict`, with `cases` empty.

    `cases` maps a name to the settings in which that case differs; a run trains every case with
    every seed. Without cases there is one, named after the run.
    """
    config = ConfigDict(sort_keys=False)
    for key, entry in SCHEMA.items():
        section, _, leaf = key.rpartition(".")
        if section and section not in config:
            config[section] = ConfigDict(sort_keys=False)
        (config[section] if section else config)[leaf] = entry.default
    config.cases = ConfigDict(sort_keys=False)
    config.lock()
    config.cases.unlock()
    return config


def flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a config by dotted key."""
    return dict(_leaves(config, prefix))


def _leaves(config: ConfigDict, prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def to_json(config: ConfigDict) -> str:
    """Returns the config as JSON, sections nested, keys in the order of `SCHEMA`."""
    return json.dumps(config.to_dict(), indent=2, default=list) + "\n"


def validate(config: ConfigDict) -> None:
    """Checks every key of `config` and of its cases.

    Raises:
        UserError: For the first unknown or missing key, wrong type or value that is not allowed.
    """
    if not isinstance(config, ConfigDict):
        raise UserError(
            f"config is a {type(config).__name__}; allowed: a ml_collections.ConfigDict"
        )
    cases = config.get("cases")
    if not isinstance(cases, ConfigDict):
        raise UserError(f"config.cases is {cases!r}; allowed: a ConfigDict of cases by name")
    values = {k: v for k, v in flatten(config).items() if not k.startswith("cases.")}
    for key, value in values.items():
        _check(key, value)
    for key in SCHEMA:
        if key not in values:
            raise UserError(f"config.{key} is missing; allowed: {SCHEMA[key].allowed}")
    for name, case in cases.items():
        if not isinstance(case, ConfigDict) or not name or "/" in name:
            raise UserError(f"config.cases.{name} is {case!r}; allowed: a ConfigDict of settings")
        for key, value in flatten(case).items():
            if key in SCHEMA and not key.startswith(_CASE_SECTIONS):
                raise UserError(
                    f"config.cases.{name}.{key} is {value!r}; allowed in a case:"
                    f" keys of {', '.join(s[:-1] for s in _CASE_SECTIONS)}"
                )
            _check(key, value, f"cases.{name}.")


def _check(key: str, value: Any, prefix: str = "") -> None:
    if key not in SCHEMA:
        near = difflib.get_close_matches(key, SCHEMA, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]}?" if near else "see highway_jax/config.py for the keys"
        raise UserError(f"config.{prefix}{key} is not a key; {hint}")
    entry = SCHEMA[key]
    expected = type(entry.default)
    same = isinstance(value, expected) and (expected is bool or not isinstance(value, bool))
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        same = True
    if not same or not entry.check(value):
        raise UserError(f"config.{prefix}{key} is {value!r}; allowed: {entry.allowed}")


def resolve_case(config: ConfigDict, name: str) -> ConfigDict:
    """Returns an independent copy of `config` with the settings of case `name` put in."""
    resolved = ConfigDict(config.to_dict())
    if name in config.cases:
        for key, value in flatten(config.cases[name]).items():
            section, _, leaf = key.rpartition(".")
            resolved[section][leaf] = value
    resolved.cases = ConfigDict()
    return resolved.lock()


def steps_per_epoch(config: ConfigDict, num_train: int) -> int:
    """Returns how many whole batches an epoch has.

    Raises:
        UserError: If not even one batch fits the training split.
    """
    if config.training.batch_size > num_train:
        raise UserError(
            f"config.training.batch_size is {config.training.batch_size};"
            f" allowed: 1 to {num_train}, the training examples of {config.data.name}"
        )
    return num_train // config.training.batch_size


def changes(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """Returns what differs between two flattened configs, one phrase a key.

    Keys in `UNCOMPARED` are passed over; tuples and lists compare by content.
    """
    phrases = []
    for key in sorted({*old, *new}):
        if key.startswith(UNCOMPARED):
            continue
        before, after = (_plain(side.get(key, "(unset)")) for side in (old, new))
        if before != after:
            phrases.append(f"{key} from {before!r} to {after!r}")
    return phrases


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value
