"""A batch of one trial in equal parts, one for each of the devices that train the trial.

The function of a trial runs on all of its devices alike. It computes the examples of its own part,
and adds up what is a sum over examples: gradients and metrics. All else, such as random draws and
updates, is the same on each of them.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from highway_jax.errors import UserError

AXIS = "batch"
"""The mesh axis of the devices of one trial."""

_EXCHANGE = 1.1
"""A step's assumed cost on several devices, relative to its equal part of a step on one: rows are
not lengthened for a gain of less than a tenth."""


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


def arrange(chosen: Sequence[Any], num_trials: int, batch_devices: Sequence[int]) -> np.ndarray:
    """Returns the devices to use as an array [rows, devices of a row].

    The devices of a row train the trials of the row together. A step takes the time of
    ceil(trials / rows) / length, and somewhat more where devices exchange gradients; of the allowed
    lengths, the one with the shortest step is chosen. For example, two rows of four devices train
    five trials in 3/4 of the time of five rows of one device. Rows that lie in one process are
    preferred to others.

    Args:
        chosen: The devices that may be used, those of a process in succession.
        num_trials: At least 1.
        batch_devices: Allowed lengths of a row.

    Raises:
        UserError: If no row has an allowed length.
    """
    groups = _by_process(chosen)
    # Every process must take part in each computation, so none of their rows is left out.
    most = num_trials if len(groups) == 1 else len(chosen)
    grids = [np.array(_rows(chosen, length)[:most]) for length in batch_devices]
    grids = [grid for grid in grids if grid.size]
    if not grids:
        allowed = f"0 to {min(map(len, groups))}, the {chosen[0].platform} devices"
        allowed += " here" if len(groups) == 1 else f" of a process, or a divisor of {len(chosen)}"
        raise UserError(f"config.runtime.batch_devices is {max(batch_devices)}; allowed: {allowed}")

    def cost(grid):
        rows, length = grid.shape
        crosses = any(len(_by_process(row)) > 1 for row in grid)
        step = math.ceil(num_trials / rows) / length
        return crosses, step if length == 1 else _EXCHANGE * step

    return min(grids, key=cost)


def _by_process(chosen: Sequence[Any]) -> list[list[Any]]:
    found: dict[int, list[Any]] = {}
    for device in chosen:
        found.setdefault(device.process_index, []).append(device)
    return list(found.values())


def _rows(chosen: Sequence[Any], length: int) -> list[list[Any]]:
    """Returns rows of devices that each lie in one process, if all processes have as many.

    Otherwise rows cross processes, and none are returned unless they include all devices.
    """
    groups = _by_process(chosen)
    if length > min(map(len, groups)):
        groups = [list(chosen)] if len(chosen) % length == 0 else []
    return [
        group[first : first + length]
        for group in groups
        for first in range(0, len(group) - length + 1, length)
    ]
