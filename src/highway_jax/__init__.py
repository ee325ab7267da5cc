"""Highway networks in JAX: a reproduction of "Training Very Deep Networks" (NIPS 2015).

The public names are imported when they are first used (PEP 562): the blocks load neither Orbax nor
TensorFlow Datasets, and reading saved runs loads no jax.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from highway_jax.analysis.predict import TrainedNet, load
    from highway_jax.config.config import default_config
    from highway_jax.data.dataset import Dataset, register_dataset
    from highway_jax.errors import UserError
    from highway_jax.nn.around import Highway
    from highway_jax.nn.blocks import (
        Block,
        BlockActivations,
        HighwayBlock,
        PlainBlock,
        ResidualBlock,
        register_block,
    )
    from highway_jax.nn.stacks import DenseStack, scan_blocks
    from highway_jax.runs.experiment import run
    from highway_jax.sklearn import HighwayClassifier
    from highway_jax.storage.read_run import read_run
    from highway_jax.training.optimizer import register_optimizer

__all__ = [
    "Block",
    "BlockActivations",
    "Dataset",
    "DenseStack",
    "Highway",
    "HighwayBlock",
    "HighwayClassifier",
    "PlainBlock",
    "ResidualBlock",
    "TrainedNet",
    "UserError",
    "default_config",
    "load",
    "read_run",
    "register_block",
    "register_dataset",
    "register_optimizer",
    "run",
    "scan_blocks",
]
__version__ = "0.1.0"

_HOMES = {
    "Block": "highway_jax.nn.blocks",
    "BlockActivations": "highway_jax.nn.blocks",
    "Dataset": "highway_jax.data.dataset",
    "DenseStack": "highway_jax.nn.stacks",
    "Highway": "highway_jax.nn.around",
    "HighwayBlock": "highway_jax.nn.blocks",
    "HighwayClassifier": "highway_jax.sklearn",
    "PlainBlock": "highway_jax.nn.blocks",
    "ResidualBlock": "highway_jax.nn.blocks",
    "TrainedNet": "highway_jax.analysis.predict",
    "UserError": "highway_jax.errors",
    "default_config": "highway_jax.config.config",
    "register_block": "highway_jax.nn.blocks",
    "register_optimizer": "highway_jax.training.optimizer",
    "load": "highway_jax.analysis.predict",
    "read_run": "highway_jax.storage.read_run",
    "register_dataset": "highway_jax.data.dataset",
    "run": "highway_jax.runs.experiment",
    "scan_blocks": "highway_jax.nn.stacks",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        # With these arguments, Python suggests the nearest name.
        text = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(text, name=name, obj=sys.modules[__name__])
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
