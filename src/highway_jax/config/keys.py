"""One setting: its default, what is allowed, and what it means."""

import dataclasses
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from highway_jax.registry import Registry

LARGEST_COUNT = 10**6
INT32 = 2**31 - 1
UINT32 = 2**32 - 1
# Settings become float32 scalars on the device; these bounds keep them finite there.
LARGEST = 1e30

NAME = "1 to 100 letters, digits and _ . + = -, beginning with a letter, a digit or _"


class Key(NamedTuple):
    """One setting.

    Attributes:
        default: Its value unless an experiment or a flag changes it; its type is the key's type. A
            saved run that does not have the key was trained with this value.
        check: Whether a value of the right type is allowed.
        words: What is allowed, in words, or a function that returns them.
        doc: What it means, with its unit and, for a value of the paper, its section or table.
        registry: Registry whose names are allowed, if there is one.
    """

    default: Any
    check: Callable[[Any], bool]
    words: str | Callable[[], str]
    doc: str
    registry: Registry | None = None

    @property
    def allowed(self) -> str:
        """What is allowed, in words; the names of a registry are looked up here."""
        return self.words if isinstance(self.words, str) else self.words()


def is_name(value: Any) -> bool:
    """Returns whether a value can name a run or a case, and so files."""
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9_][\w.+=-]{0,99}", value, re.A))


def are_seeds(values: tuple[int, ...]) -> bool:
    """Returns whether values are seeds: at least one, all different, each below 2**32."""
    different = len(set(values)) == len(values) > 0
    return different and all(0 <= seed <= UINT32 for seed in values)


def are_rising(values: tuple[int, ...]) -> bool:
    """Returns whether values rise strictly, from 1 or more to at most 2**31 - 1."""
    return all(a < b for a, b in zip((0, *values), (*values, INT32 + 1), strict=True))


def are_falling(values: tuple[int, ...]) -> bool:
    """Returns whether values do not rise, from at most 2**31 - 1 to 1 or more."""
    return all(a >= b >= 1 for a, b in zip((INT32, *values), values, strict=False))


# Each of these returns a dataclass field of one key. They are declared to return Any, as
# `dataclasses.field` is to a type checker: the annotation of the field gives its type.


def file_name(default: str, doc: str) -> Any:
    """Returns the field of a key that names files."""
    return _field(Key(default, is_name, NAME, doc))


def integer(default: int, low: int, doc: str, high: int = LARGEST_COUNT) -> Any:
    """Returns the field of a whole number from `low` to `high`."""
    allowed = f"a whole number from {low} to {high}"
    return _field(Key(default, lambda v: low <= v <= high, allowed, doc))


def real(default: float, low: float, high: float, doc: str, *, open_low: bool = False) -> Any:
    """Returns the field of a number from `low`, or above it if `open_low`, to `high`."""
    allowed = f"a number {'above' if open_low else 'from'} {low:g} to {high:g}"

    def check(value):  # NaN fails every comparison.
        return (low < value if open_low else low <= value) and value <= high

    return _field(Key(default, check, allowed, doc))


def choice(default: str, options: tuple[str, ...], doc: str) -> Any:
    """Returns the field of one of several words."""
    return _field(Key(default, lambda v: v in options, ", ".join(options), doc))


def registered(default: str, registry: Registry, doc: str, *others: str) -> Any:
    """Returns the field of a name in a registry, or of one of `others`.

    The registry is read when a value is checked, so that entries may be registered until then and
    importing a schema does not import what is registered.
    """
    return _field(
        Key(
            default,
            lambda v: v in others or v in registry,
            lambda: ", ".join((*others, *registry.names())),
            doc,
            registry,
        )
    )


def text(default: str, doc: str) -> Any:
    """Returns the field of a text on one line."""
    return _field(Key(default, str.isprintable, "text without control characters", doc))


def flag(default: bool, doc: str) -> Any:
    """Returns the field of True or False."""
    return _field(Key(default, lambda v: True, "True or False", doc))


def integers(
    default: tuple[int, ...], check: Callable[[tuple[int, ...]], bool], allowed: str, doc: str
) -> Any:
    """Returns the field of a tuple of whole numbers that `check` accepts."""

    def check_all(values):
        return all(type(v) is int for v in values) and check(values)

    return _field(Key(default, check_all, allowed, doc))


def _field(key: Key) -> Any:
    return dataclasses.field(default=key.default, metadata={"key": key})
