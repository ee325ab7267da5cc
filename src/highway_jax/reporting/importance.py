"""Which hyperparameters of a search matter: permutation importance of a random forest."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from highway_jax.storage import summaries
from highway_jax.storage.results import Run

Row = dict[str, Any]

MIN_TRIALS = 20
MIN_TRIALS_PER_SETTING = 5
FOLDS = 5


def importance(run: Run, rows: Sequence[Row]) -> Row | None:
    """Returns how much the training loss of a search depends on each setting that it varies.

    A random forest predicts the logarithm of the training loss from the settings. The importance of
    a setting is the loss of R², on trials that the forest was not fitted to, when the values of the
    setting are permuted among them. The training losses are those at the last epoch that nine of
    ten trials reached, since the last loss of a trial that was dropped early is higher anyway.

    Args:
        run: The run.
        rows: Its trials, without those that train a best setting again.

    Returns:
        `epoch`; number of `trials`; `r2` of the prediction; `settings` with the `mean` and `std` of
        their importance over the folds of a cross-validation, the largest first. None if there are
        too few trials, or if the prediction is no better than the mean loss.
    """
    curves = [dict(zip(*run.curve(row["trial"], "train_loss"), strict=True)) for row in rows]
    ends = sorted((max(curve) for curve in curves if curve), reverse=True)
    if not ends:
        return None
    epoch = ends[math.ceil(0.9 * len(ends)) - 1]
    known = [
        (row, math.log10(curve[epoch]))
        for row, curve in zip(rows, curves, strict=True)
        if epoch in curve and 0 < curve[epoch] < math.inf
    ]
    names = summaries.differing([row for row, _ in known])
    if len(known) < max(MIN_TRIALS, MIN_TRIALS_PER_SETTING * len(names)) or not names:
        return None
    inputs = np.stack([_ranks([row.get(name) for row, _ in known]) for name in names], axis=1)
    losses = np.asarray([loss for _, loss in known])
    if np.ptp(losses) == 0:
        return None
    score, drops = _cross_validate(inputs, losses)
    if score <= 0:
        return None
    found = zip(names, drops.mean(axis=0), drops.std(axis=0, ddof=1), strict=True)
    settings = [{"name": name, "mean": float(m), "std": float(s)} for name, m, s in found]
    settings.sort(key=lambda setting: -setting["mean"])
    return {"epoch": epoch, "trials": len(known), "r2": score, "settings": settings}


def _ranks(values: Sequence[Any]) -> np.ndarray:
    """Returns values as numbers whose order is theirs, which is all that trees depend on."""
    known = sorted({v for v in values if isinstance(v, int | float) and math.isfinite(v)})
    others = sorted({repr(v) for v in values} - {repr(v) for v in known})
    order = {repr(v): i for i, v in enumerate(known)} | {
        name: len(known) + i for i, name in enumerate(others)
    }
    return np.asarray([order[repr(value)] for value in values], float)


def _cross_validate(inputs: np.ndarray, losses: np.ndarray) -> tuple[float, np.ndarray]:
    """Returns the mean R² on held-out folds, and importances [folds, settings]."""
    from sklearn.ensemble import RandomForestRegressor
    from sklearn.inspection import permutation_importance
    from sklearn.model_selection import KFold

    scores, drops = [], []
    for fitted, held_out in KFold(FOLDS, shuffle=True, random_state=0).split(inputs):
        forest = RandomForestRegressor(50, min_samples_leaf=2, random_state=0)
        forest.fit(inputs[fitted], losses[fitted])
        scores.append(forest.score(inputs[held_out], losses[held_out]))
        result = permutation_importance(
            forest, inputs[held_out], losses[held_out], n_repeats=5, random_state=0
        )
        drops.append(result["importances_mean"])
    return float(np.mean(scores)), np.stack(drops)
