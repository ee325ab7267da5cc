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
        by_rank = _by_rank(leaf.ndim - in_run)
        return declared.get(path[-1].key, by_rank) if in_run else by_rank

    return jax.tree_util.tree_map_with_path(role, params)


def roles_of_module(params: Any) -> Any:
    """Returns the role of each parameter of a module of the user's own, as `roles` does.

    A parameter whose name is `bias` or ends in `_bias` is a bias: in a run of blocks it is a
    matrix. All others have their role by their rank.
    """

    def role(path, leaf):
        name = str(getattr(path[-1], "key", ""))
        return "bias" if name == "bias" or name.endswith("_bias") else _by_rank(leaf.ndim)

    return jax.tree_util.tree_map_with_path(role, params)


def _by_rank(rank: int) -> str:
    return "gain" if rank == 0 else "bias" if rank == 1 else "weight"
