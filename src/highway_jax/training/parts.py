"""A batch of one trial in equal parts, one for each of the devices that train the trial.

The function of a trial runs on all of its devices alike. It computes the examples of its own part,
and adds up what is a sum over examples: gradients and metrics. All else, such as random draws and
updates, is the same on each of them.
"""

from typing import Any, NamedTuple

import jax

AXIS = "batch"
"""The mesh axis of the devices of one trial."""


class Parts(NamedTuple):
    """How the devices of a trial share its batches.

    With one device, nothing is divided or added, and no mesh axis is needed.

    Attributes:
        count: Devices of a trial, which divides the number of examples that are shared.
    """

    count: int = 1  # pyright: ignore[reportIncompatibleMethodOverride]

    def own(self, tree: Any) -> Any:
        """Returns this device's part of arrays [examples, ...]: [examples / count, ...]."""
        if self.count == 1:
            return tree

        def part(leaf):
            size = len(leaf) // self.count
            return jax.lax.dynamic_slice_in_dim(leaf, jax.lax.axis_index(AXIS) * size, size)

        return jax.tree.map(part, tree)

    def total(self, tree: Any) -> Any:
        """Returns the sums of arrays over the devices, with the same bits on each of them."""
        return tree if self.count == 1 else jax.lax.psum(tree, AXIS)
