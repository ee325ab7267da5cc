"""Highway networks in JAX: a reproduction of "Training Very Deep Networks" (NIPS 2015)."""

from highway_jax.config import default_config
from highway_jax.errors import UserError
from highway_jax.experiment import run
from highway_jax.layers import BlockActivations, HighwayBlock, PlainBlock, ResidualBlock
from highway_jax.models import DenseStack, scan_blocks

__all__ = [
    "BlockActivations",
    "DenseStack",
    "HighwayBlock",
    "PlainBlock",
    "ResidualBlock",
    "UserError",
    "default_config",
    "run",
    "scan_blocks",
]
__version__ = "0.1.0"
