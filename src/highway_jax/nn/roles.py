"""Roles of parameters, by which optimizers group them."""

from typing import Any

import jax

from highway_jax.errors import UserError
from highway_jax.registry import BLOCKS

ROLES = ("weight", "bias", "gain")
"""Roles of trained parameters; `Model.roles` may have "constant" too."""


def roles(params: Any, block: str) -> Any:
    """Returns the role of each parameter, by which optimizers group them.

    Weights are decayed; biases may have a learning rate of their own; gains have neither. A block
    declares roles in `roles`, a mapping from the names of its parameters. Where it does not, a
    scalar is a gain, a vector a bias, and anything larger a weight.

    Args:
        params: Parameters of a net, or their shapes.
        block: Name of its block in `BLOCKS`.

    Returns:
        A tree like `params` of names in `ROLES`.

    Raises:
        UserError: If the block declares another role.
    """
    declared = getattr(BLOCKS[block], "roles", {})
    for name, role in declared.items():
        if role not in ROLES:
            raise UserError(
                f"block {block!r} declares the role {role!r} for its parameter {name!r}; allowed:"
                f" {', '.join(ROLES)}"
            )

    def role(path, leaf):
        # The parameters of a run of blocks have an axis of blocks.
        in_run = path[0].key.startswith("blocks")
        rank = leaf.ndim - in_run
        by_rank = "gain" if rank == 0 else "bias" if rank == 1 else "weight"
        return declared.get(path[-1].key, by_rank) if in_run else by_rank

    return jax.tree_util.tree_map_with_path(role, params)
