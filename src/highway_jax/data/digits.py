"""The digits that scikit-learn carries too: 1,797 images of 8x8 pixels with values from 0 to 16.

They lie beside this module in `digits.npz`; `digits-LICENSE` says where they are from. All of them
are the test set of a data set of UCI. Here the test split consists of 360 of them, stratified by
class and drawn with a constant seed.
"""

from pathlib import Path
from typing import Any

import numpy as np

from highway_jax.data.dataset import Dataset, permutation, register_dataset

# Results are comparable only as long as these two stay as they are.
_TEST_SIZE = 360
_TEST_SEED = 2015


@register_dataset("digits")
def load_digits(data: Any = None) -> Dataset:
    """Loads the digits; no setting of the `data` section matters."""
    with np.load(Path(__file__).with_name("digits.npz")) as file:
        images, labels = file["images"], file["labels"].astype(np.int64)
    is_test = _draw_stratified(labels, _TEST_SIZE, _TEST_SEED)
    return Dataset.from_arrays(
        images[~is_test],
        labels[~is_test],
        images[is_test],
        labels[is_test],
        name="digits",
        max_value=16,
    )


def _draw_stratified(labels: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Returns a mask of `size` examples: of each class its share, by largest remainder."""
    shares = np.bincount(labels) * size / len(labels)
    counts = np.floor(shares).astype(int)
    by_remainder = np.argsort(counts - shares, kind="stable")
    counts[by_remainder[: size - counts.sum()]] += 1
    order = permutation(len(labels), seed)
    is_chosen = np.zeros(len(labels), bool)
    for label, count in enumerate(counts):
        is_chosen[order[labels[order] == label][:count]] = True
    return is_chosen
