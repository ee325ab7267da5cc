"""Named entries that a config chooses by name: blocks, optimizers, data sets and their like.

Each registry names the modules that register its built-in entries. They are imported when the
registry is first asked for an entry or for its names, so that whoever never asks does not load
them.
"""

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any, Generic, TypeVar

from highway_jax.errors import show

T = TypeVar("T")


class Registry(Generic[T]):
    """Entries of one kind by name.

    Attributes:
        key: The config key whose value is one of the names.
        generation: The number of entries registered so far, in all registries.
    """

    generation = 0

    def __init__(self, key: str, *modules: str):
        """Makes a registry without entries.

        Args:
            key: The config key whose value is one of the names, such as "model.block".
            *modules: Modules that register the built-in entries when they are imported; of a
                package, all of its modules.
        """
        self.key = key
        self._modules = modules
        self._entries: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Returns a decorator that registers a class or a function under a name.

        Running a definition again, such as a notebook cell, replaces its entry.

        Raises:
            ValueError: If the name is not an identifier, or, from the decorator, names another
                entry.
        """
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(
                f"{self.key}: {show(name)} is not a name; allowed: a Python identifier"
            )

        def add(entry: T) -> T:
            if not getattr(entry, "__module__", "").startswith("highway_jax."):
                self._load()  # It may not have the name of a built-in entry.
            full_name = _full_name(entry)
            is_again = full_name is not None and full_name == _full_name(self._entries.get(name))
            if name in self._entries and not is_again:
                raise ValueError(f"{self.key}: {name!r} is registered already; choose another name")
            self._entries[name] = entry
            Registry.generation += 1
            return entry

        return add

    def names(self) -> tuple[str, ...]:
        """Returns all names, in the order in which they were registered."""
        return tuple(self)

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(tuple(self._entries))

    def __contains__(self, name: object) -> bool:
        self._load()
        return name in self._entries

    def __getitem__(self, name: str) -> T:
        """Returns the entry of a name.

        Raises:
            ValueError: If there is none.
        """
        self._load()
        if name not in self._entries:
            raise ValueError(f"{self.key} is {name!r}; allowed: {', '.join(self._entries)}")
        return self._entries[name]

    def _load(self) -> None:
        modules, self._modules = self._modules, ()  # While they are imported, they may ask.
        try:
            for name in modules:
                path = getattr(importlib.import_module(name), "__path__", ())
                for module in pkgutil.iter_modules(path, f"{name}."):
                    importlib.import_module(module.name)
        except BaseException:
            self._modules = modules
            raise


def _full_name(entry: Any) -> str | None:
    """Returns the module and qualified name of a class or a function, None of anything else."""
    name = getattr(entry, "__qualname__", None)
    return None if name is None else f"{getattr(entry, '__module__', None)}.{name}"


BLOCKS: Registry = Registry(
    "model.block", "highway_jax.nn.blocks", "highway_jax.nn.residual", "highway_jax.nn.gru"
)
"""Block classes, by the name of their equation."""

ACTIVATIONS: Registry = Registry("model.activation", "highway_jax.nn.blocks")
"""Elementwise functions of arrays."""

INITIALIZERS: Registry = Registry("model.initializer", "highway_jax.nn.initializers")
"""Kernel initializers, as functions of the activation's name."""

ARCHITECTURES: Registry = Registry("model.architecture", "highway_jax.nn.architectures")
"""Convolutional nets, as functions of the channels of their first stage."""

OPTIMIZERS: Registry = Registry("optimizer.name", "highway_jax.training.optimizer")
"""Update rules."""

DATASETS: Registry = Registry("data.name", "highway_jax.data")
"""Functions from the `data` section of a config to a data set."""
