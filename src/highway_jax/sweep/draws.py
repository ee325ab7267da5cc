"""Random draws of the settings of a search's trials.

Each trial of each cell has its own generator, `numpy.random.default_rng([seed, cell, trial])`, so
the draws of a trial do not depend on the number of trials or cells. NumPy takes longer to seed a
generator than to draw a setting, so the seeds of all trials are computed together.
"""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any, cast

import numpy as np
from ml_collections import ConfigDict
from numpy.random.bit_generator import ISeedSequence

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
    digests = [hashlib.sha256(label.encode()).digest()[:8] for label in labels]
    cells = np.array([int.from_bytes(digest, "big") for digest in digests], np.uint64)
    size = sweep.trials
    words = _seed_words(
        sweep.seed, np.repeat(cells, size), np.tile(np.arange(size, dtype=np.uint32), len(cells))
    )
    for first in range(0, len(words), size):
        yield [_draw_one(drawn, _Words(own)) for own in words[first : first + size]]


def _draw_one(
    drawn: list[tuple[str, str, Any]], words: ISeedSequence
) -> tuple[dict[str, Any], int]:
    rng = np.random.Generator(np.random.PCG64(cast(Any, words)))
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


class _Words(ISeedSequence):
    """A seed sequence whose words were computed before."""

    def __init__(self, words: np.ndarray):
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        return self._words


def _seed_words(seed: int, cells: np.ndarray, trials: np.ndarray) -> np.ndarray:
    """Returns the words that `np.random.SeedSequence([seed, cell, trial])` passes to PCG64.

    This is NumPy's algorithm, which NumPy guarantees to keep, for arrays.

    Args:
        seed: Below 2**32.
        cells: uint64 [trials].
        trials: uint32 [trials].

    Returns:
        uint64 [trials, 4].
    """
    low, high = cells.astype(np.uint32), (cells >> np.uint64(32)).astype(np.uint32)
    seeds, zero = np.full_like(trials, seed), np.zeros_like(trials)
    # A number is split into as many words as it needs.
    entropy = [seeds, low, np.where(high, high, trials), np.where(high, trials, zero)]
    enter, leave = _Hash(0x43B0D7E5, 0x931E8875), _Hash(0x8B51F9DD, 0x58F38DED)
    pool = [enter(word) for word in entropy]
    for i, j in itertools.permutations(range(4), 2):
        mixed = pool[j] * np.uint32(0xCA01F9DD) - enter(pool[i]) * np.uint32(0x4973F715)
        pool[j] = mixed ^ (mixed >> np.uint32(16))
    state = [leave(pool[i % 4]).astype(np.uint64) for i in range(8)]
    return np.stack([state[i] | state[i + 1] << np.uint64(32) for i in range(0, 8, 2)], axis=1)


class _Hash:
    """A hash of words whose constant changes with each use."""

    def __init__(self, constant: int, factor: int):
        self._constant, self._factor = constant, factor

    def __call__(self, words: np.ndarray) -> np.ndarray:
        words = words ^ np.uint32(self._constant)
        self._constant = self._constant * self._factor % 2**32
        words *= np.uint32(self._constant)
        return words ^ (words >> np.uint32(16))
