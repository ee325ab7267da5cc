"""A linen module of the user's own as the net of a run.

`identity` names the module in the saved config, and `functions` turns it into pure functions.
"""

import functools
import hashlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from highway_jax.errors import show


def check(module: Any, name: str = "model") -> None:
    """Raises `TypeError`, which names the argument, unless `module` is a linen module."""
    if isinstance(module, nn.Module):
        return
    if isinstance(module, type) and issubclass(module, nn.Module):
        found, instance = f"the class {module.__name__}", f"{module.__name__}()"
    else:
        found, instance = show(module), "MyNet()"
    raise TypeError(f"{name} is {found}; allowed: a flax.linen.Module, such as {instance}")


def identity(module: nn.Module) -> str:
    """Returns the name of a module's class and a hash of its fields.

    It is the same in every process. A function counts by its name and by what it closes over, an
    array by its values, and any other value by its `repr`. The code of the class does not count.

    Example:
        >>> import flax.linen as nn
        >>> from highway_jax.nn.custom import identity
        >>> identity(nn.Dense(3)) == identity(nn.Dense(3))
        True
        >>> identity(nn.Dense(3)) == identity(nn.Dense(4))
        False
    """
    digest = hashlib.sha256(_describe(module, ()).encode()).hexdigest()
    return f"{type(module).__name__}-{digest[:12]}"


def _describe(value: Any, outer: tuple[int, ...]) -> str:
    """Returns a text that determines a value; `outer` are the ids of the values around it."""
    if id(value) in outer:
        return "..."
    outer = (*outer, id(value))

    def inner(values: Any) -> str:
        return ", ".join(_describe(part, outer) for part in values)

    if isinstance(value, nn.Module):
        names = sorted(type(value).__dataclass_fields__.keys() - {"parent", "name"})
        fields = (f"{name}={_describe(getattr(value, name), outer)}" for name in names)
        return f"{type(value).__qualname__}({', '.join(fields)})"
    if isinstance(value, Mapping):
        return f"{{{inner(value.items())}}}"
    if isinstance(value, tuple | list):
        return f"({inner(value)})"
    if isinstance(value, functools.partial):
        return f"partial({inner((value.func, value.args, value.keywords))})"
    if hasattr(value, "shape") and hasattr(value, "tobytes"):
        return f"{value.dtype}{value.shape}{hashlib.sha256(value.tobytes()).hexdigest()}"
    if callable(value) and hasattr(value, "__qualname__"):
        wrapped = inspect.unwrap(value)
        cells = getattr(wrapped, "__closure__", None) or ()
        return f"{wrapped.__qualname__}({inner(cell.cell_contents for cell in cells)})"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def functions(
    module: nn.Module, example_shape: tuple[int, ...], num_classes: int
) -> tuple[Callable[..., Any], Callable[..., Any], Any]:
    """Returns a module as pure functions.

    Where the module's `__call__` takes `train`, it is True in training and False elsewhere.
    Training has an rng "dropout".

    Args:
        module: The module: x [batch, ...] -> logits [batch, classes].
        example_shape: Shape of one example, without the batch.
        num_classes: Classes of the data set.

    Returns:
        init: key -> params.
        apply: (params, x, dropout_keys=None) -> float32 logits.
        shapes: The shapes of the parameters.

    Raises:
        ValueError: If the module returns anything but logits, or has variables that are not
            parameters.
    """
    takes_train = "train" in inspect.signature(type(module).__call__).parameters

    def initialize(key, x):
        own, dropout = jax.random.split(key)
        options: Any = {"train": False} if takes_train else {}
        return module.init_with_output({"params": own, "dropout": dropout}, x, **options)

    def apply(params, x, dropout_keys=None):
        options: Any = {"train": dropout_keys is not None} if takes_train else {}
        # One mask for the whole batch, in which each example has numbers of its own.
        rngs = None if dropout_keys is None else {"dropout": dropout_keys[0]}
        logits: Any = module.apply({"params": params}, x, rngs=rngs, **options)
        return logits.astype(jnp.float32)

    example = jax.ShapeDtypeStruct((1, *example_shape), jnp.float32)
    logits, variables = jax.eval_shape(initialize, jax.random.key(0), example)
    shapes = _check(type(module).__name__, logits, dict(variables), num_classes)

    def init(key):
        return initialize(key, jnp.zeros(example.shape))[1]["params"]

    return init, apply, shapes


def _check(name: str, logits: Any, variables: dict[str, Any], num_classes: int) -> Any:
    """Returns the shapes of the parameters, if the module can be trained."""
    is_array = hasattr(logits, "dtype")
    is_float = is_array and jnp.issubdtype(logits.dtype, jnp.floating)
    if not is_float or logits.shape != (1, num_classes):
        kind = f"a {type(logits).__name__}"
        found = f"{logits.dtype}{list(logits.shape)}" if is_array else kind
        raise ValueError(
            f"model {name} returns {found} for one example; allowed: float logits"
            f" [1, {num_classes}], one for each of the {num_classes} classes"
        )
    params = variables.pop("params", {})
    if not jax.tree.leaves(params):
        raise ValueError(f"model {name} has no parameters; allowed: a module with some to train")
    if variables:
        raise ValueError(
            f"model {name} has the variables {', '.join(sorted(variables))}; allowed: parameters"
            " alone, such as those of LayerNorm or GroupNorm instead of BatchNorm"
        )
    for path, leaf in jax.tree.leaves_with_path(params):
        if not jnp.issubdtype(leaf.dtype, jnp.floating):
            place = jax.tree_util.keystr(path, simple=True, separator="/")
            raise ValueError(f"model {name} has {place} of {leaf.dtype}; allowed: a float type")
    return params
