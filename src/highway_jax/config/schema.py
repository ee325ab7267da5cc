"""All settings by dotted key, the rules between them, and where each has an effect."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from highway_jax.config import sections
from highway_jax.config.keys import Key
from highway_jax.errors import UserError
from highway_jax.registry import ARCHITECTURES, BLOCKS


class Rule(NamedTuple):
    """What settings must fulfil together.

    Attributes:
        keys: The settings; an error names the first.
        check: Whether their values, each allowed by itself, agree.
        allowed: What is allowed at the first key, in words, or a function of the other values.
        reads_registry: Whether it looks up names that must be registered.
    """

    keys: tuple[str, ...]
    check: Callable[..., bool]
    allowed: str | Callable[..., str]
    reads_registry: bool = False


class Use(NamedTuple):
    """Where a setting has an effect.

    Attributes:
        keys: The settings on which this depends.
        check: Whether it has an effect, given their values.
        where: The same in words.
    """

    keys: tuple[str, ...]
    check: Callable[..., bool]
    where: str


SCHEMA: dict[str, Key] = sections.keys()
"""All settings but `cases`, `sweep.grid` and `sweep.draw`, by dotted key."""

DISTRIBUTIONS = {
    "uniform": "('uniform', low, high)",
    "log_uniform": "('log_uniform', low, high) with low above 0",
    "integer": "('integer', low, high), both bounds included",
    "choice": "('choice', value, value, ...)",
}
"""Distributions of `sweep.draw`, each as it is written in a config."""


def depth(net: str, width: int) -> int:
    """Returns the layers of a convolutional net as the paper counts them."""
    layers: Iterable[Any] = ARCHITECTURES[net](width)
    return sum(layer.depth for layer in layers) + 1


RULES: tuple[Rule, ...] = (
    Rule(
        ("model.depth", "model.architecture", "model.width"),
        lambda found, net, width: net == "dense" or found == depth(net, width),
        lambda net, width: f"{depth(net, width)} where model.architecture is {net!r}",
        reads_registry=True,
    ),
    Rule(
        ("model.module", "model.architecture"),
        lambda module, net: (net == "custom") == bool(module),
        "'' unless highway_jax.run is given a model, which then sets it",
    ),
    Rule(
        ("optimizer.boundaries", "optimizer.schedule"),
        lambda boundaries, schedule: schedule != "multistep" or len(boundaries) > 0,
        "at least one step where optimizer.schedule is 'multistep'",
    ),
    Rule(
        ("optimizer.boundaries", "optimizer.schedule"),
        lambda boundaries, schedule: schedule == "multistep" or len(boundaries) == 0,
        "() unless optimizer.schedule is 'multistep'",
    ),
    Rule(
        ("runtime.batch_devices", "training.batch_size"),
        lambda count, batch_size: count == 0 or batch_size % count == 0,
        lambda batch_size: f"0, or a divisor of training.batch_size, {batch_size}",
    ),
    Rule(
        ("model.first_initializer", "model.architecture"),
        lambda initializer, net: net != "dense" or initializer != "patch_whitening",
        "same or a registered initializer where model.architecture is 'dense'",
    ),
    Rule(
        ("data.alternating_flip", "data.random_flip"),
        lambda alternating, random: not (alternating and random),
        "False where data.random_flip is True",
    ),
    Rule(
        ("data.file", "data.name"),
        lambda file, name: (name == "file") == bool(file),
        "the path of an .npz file where data.name is 'file', '' elsewhere",
    ),
    Rule(
        ("sweep.rung_keeps", "sweep.rung_epochs"),
        lambda keeps, epochs: len(keeps) == len(epochs),
        "as many numbers as sweep.rung_epochs has",
    ),
    Rule(
        ("sweep.rung_epochs", "sweep.trials"),
        lambda epochs, trials: trials > 0 or len(epochs) == 0,
        "() unless sweep.trials is above 0",
    ),
    Rule(
        ("sweep.ask", "sweep.trials"),
        lambda ask, trials: ask <= trials,
        lambda trials: f"0 to {trials}, sweep.trials",
    ),
    Rule(
        ("sweep.ask", "sweep.sampler"),
        lambda ask, sampler: sampler == "random" or ask > 0,
        "above 0 where sweep.sampler is 'tpe'",
    ),
    Rule(
        ("sweep.retrain_seeds", "sweep.trials"),
        lambda seeds, trials: trials > 0 or len(seeds) == 0,
        "() unless sweep.trials is above 0",
    ),
    Rule(
        ("sweep.criterion", "data.valid_size"),
        lambda criterion, valid_size: valid_size > 0 or not criterion.startswith("valid"),
        "train_loss or projected_train_loss where data.valid_size is 0",
    ),
)
"""What settings must fulfil together, once each is allowed by itself."""

_BLOCK = ("model.block", "model.depth")


def _of_block(setting: str) -> Use:
    """Returns where a setting of `model` has an effect that only some kinds of blocks use."""

    def check(block: str, depth: int) -> bool:
        if block not in BLOCKS:
            raise UserError(
                f"config.model.block is {block!r}; allowed: {', '.join(BLOCKS)}, or the name of a"
                " block whose module is imported, since the block declares which settings it uses"
            )
        return depth > 1 and setting in getattr(BLOCKS[block], "settings", ())

    return Use(_BLOCK, check, f"in nets of several layers whose blocks declare {setting}")


def _of_separate_gates(use: Use) -> Use:
    return Use(
        (*use.keys, "model.gate"),
        lambda block, depth, gate: use.check(block, depth) and gate == "separate",
        f"{use.where}, where model.gate is 'separate'",
    )


_MOMENTUM = Use(
    ("optimizer.name",),
    lambda name: name not in ("adam", "adamw"),
    "where optimizer.name is not 'adam' or 'adamw'",
)
_ONE_CYCLE = Use(
    ("optimizer.schedule",),
    lambda schedule: schedule == "one_cycle",
    "where optimizer.schedule is 'one_cycle'",
)
_ADAM = Use(
    ("optimizer.name",),
    lambda name: name != "momentum",
    "where optimizer.name is not 'momentum'",
)

USES: dict[str, Use] = {
    "data.split_seed": Use(
        ("data.valid_size",), lambda size: size > 0, "where data.valid_size is above 0"
    ),
    "data.contrast_std": Use(
        ("data.scaling",),
        lambda scaling: scaling == "global_contrast_normalization",
        "where data.scaling is 'global_contrast_normalization'",
    ),
    "model.dropout": Use(
        ("model.architecture",), lambda net: net != "dense", "in convolutional nets"
    ),
    "model.gate": _of_block("gate"),
    "model.transform_bias": _of_block("transform_bias"),
    "model.carry_bias": _of_separate_gates(_of_block("carry_bias")),
    "model.residual_scale": _of_block("residual_scale"),
    "model.dropout_scale": Use(
        ("model.architecture", "model.dropout"),
        lambda net, drops: net != "dense" and drops,
        "in convolutional nets, where model.dropout is True",
    ),
    "optimizer.momentum": _MOMENTUM,
    "optimizer.nesterov": _MOMENTUM,
    "optimizer.beta1": _ADAM,
    "optimizer.beta2": _ADAM,
    "optimizer.epsilon": _ADAM,
    "optimizer.decay": Use(
        ("optimizer.schedule",),
        lambda schedule: schedule not in ("constant", "one_cycle"),
        "where optimizer.schedule is not 'constant' or 'one_cycle'",
    ),
    "optimizer.decay_every": Use(
        ("optimizer.schedule",),
        lambda schedule: schedule == "exponential",
        "where optimizer.schedule is 'exponential'",
    ),
    "optimizer.warmup_fraction": _ONE_CYCLE,
    "optimizer.final_fraction": _ONE_CYCLE,
    "optimizer.decay_shape": _ONE_CYCLE,
    "optimizer.head_weight_decay_multiplier": Use(
        ("optimizer.weight_decay",),
        lambda decay: decay > 0,
        "where optimizer.weight_decay is above 0",
    ),
}
"""Settings without an effect in some trainings; every other key has an effect in all of them.

`optimizer.boundaries` and `data.file` are not listed, because `RULES` refuse them where they have
no effect.
"""

_GATES_BY_NAME = Use(
    _BLOCK,
    lambda block, depth: block not in ("plain", "residual") and depth > 1,
    "in highway nets of more than one layer",
)

EARLIER_USES: dict[str, Use] = {
    "model.gate": _GATES_BY_NAME,
    "model.transform_bias": _GATES_BY_NAME,
    "model.carry_bias": _of_separate_gates(_GATES_BY_NAME),
}
"""Entries of `USES` that had another rule in runs of format 2, whose trials are numbered by it."""
