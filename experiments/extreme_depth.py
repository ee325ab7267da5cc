"""Highway nets of 10, 200, 500 and 1000 layers on MNIST: beyond the paper's figures.

    python -m highway_jax.main --config=experiments/extreme_depth.py
    python -m highway_jax.main --config=experiments/extreme_depth.py:digits

Section 2 reports pilot experiments in which more than 1000 layers did not stop the optimisation.
One seed; all settings are ours and the same for every depth. On MNIST, 20 epochs, one CPU core for
38 minutes (`experiments/results/extreme_depth`):

    layers           10     200     500    1000
    training loss    0.090  0.116   0.147  0.190
    test accuracy    96.35  96.05   95.49  94.49 %
"""

from ml_collections import ConfigDict

from highway_jax.config.config import default_config
from highway_jax.errors import UserError


def get_config(variant: str = "mnist") -> ConfigDict:
    if variant not in ("mnist", "digits"):
        raise UserError(f"the variant is {variant!r}; allowed: mnist, digits")
    config = default_config()
    config.name = f"extreme_depth-{variant}"
    config.data.name = variant
    config.data.valid_size = 10_000 if variant == "mnist" else 137
    config.model.block = "highway"
    config.model.transform_bias = -7.0
    config.optimizer.learning_rate = 0.01
    config.optimizer.decay = 0.9 if variant == "mnist" else 0.98
    config.training.epochs = 20 if variant == "mnist" else 100
    config.sweep.grid = ConfigDict({"model": {"depth": (10, 200, 500, 1000)}})
    return config
