"""Random draws of the settings of a search's trials.

Each trial of each cell has its own generator, so the draws of a trial do not depend on the number
of trials or cells.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from highway_jax.config import config as config_lib


def draw(sweep: ConfigDict, labels: list[str]) -> Iterator[list[tuple[dict[str, Any], int]]]:
    """Yields the drawn settings by dotted key, and the seed, of each trial of each cell.

    Args:
        sweep: The `sweep` section: trials, seed, draw.
        labels: A unique text for each cell.
    """
    drawn = []
    for key, (kind, *bounds) in config_lib.flatten(sweep.draw).items():
        drawn.append((key, kind, np.log(bounds) if kind == "log_uniform" else bounds))
    seed, size = sweep.seed, sweep.trials
    for label in labels:
        cell = int.from_bytes(hashlib.sha256(label.encode()).digest()[:8], "big")
        yield [_draw_one(drawn, np.random.default_rng([seed, cell, i])) for i in range(size)]


def _draw_one(
    drawn: list[tuple[str, str, Any]], rng: np.random.Generator
) -> tuple[dict[str, Any], int]:
    settings = {}
    for key, kind, bounds in drawn:
        if kind == "choice":
            settings[key] = bounds[rng.integers(len(bounds))]
        elif kind == "integer":
            settings[key] = int(rng.integers(*bounds, endpoint=True))
        elif kind == "uniform":
            settings[key] = float(rng.uniform(*bounds))
        else:
            settings[key] = float(np.exp(rng.uniform(*bounds)))
    return settings, int(rng.integers(2**32))
