"""Highway nets of 10, 200, 500 and 1000 layers, one seed each.

    python -m highway_jax.main --config=experiments/extreme_depth.py:mnist
    python -m highway_jax.main --config=experiments/extreme_depth.py:mnist,tuned
    python -m highway_jax.main --config=experiments/extreme_depth.py:digits
    python -m highway_jax.main --config=experiments/extreme_depth.py:digits,tuned

Section 2 of the paper mentions pilot experiments with more than 1000 layers and no sign of
optimization difficulty. All settings are ours, and the same for every depth.

Result on MNIST, one CPU core, 38 minutes (experiments/results/extreme_depth):

    layers               10     200     500    1000
    training loss     0.090   0.116   0.147   0.190
    test accuracy, %  96.35   96.05   95.49   94.49

`tuned` trains 1000 layers on MNIST, or 10,000 on the digits, with a gate bias for that depth
(docs/blocks.md), a one-cycle schedule, and two learning rates on MNIST. Test accuracies are 97.63 %
and 93.89 %.
"""

from ml_collections import ConfigDict

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig, default_config


def get_config(variant: str = "mnist") -> RunConfig:
    data, options = recipes.choose(variant, ("mnist", "digits"), ("tuned",))
    config = default_config()
    recipes.set_name(config, "extreme_depth", variant)
    config.data.name = data
    config.data.valid_size = 10_000 if data == "mnist" else 137
    config.model.block = "highway"
    config.model.transform_bias = -7.0
    config.optimizer.learning_rate = 0.01
    config.optimizer.decay = 0.9 if data == "mnist" else 0.98
    config.training.epochs = 20 if data == "mnist" else 100
    config.model.depth = 50  # Replaced by the grid; part of the config of earlier runs.
    config.sweep.grid = ConfigDict({"model": {"depth": (10, 200, 500, 1000)}})
    if "tuned" not in options:
        return config
    config.optimizer.schedule = "one_cycle"
    if data == "mnist":
        config.model.transform_bias = -9.0
        config.sweep.grid = ConfigDict(
            {"model": {"depth": (1000,)}, "optimizer": {"learning_rate": (0.03, 0.1)}}
        )
    else:
        config.model.transform_bias = -11.0
        config.optimizer.learning_rate = 0.05
        config.training.epochs = 15
        config.sweep.grid = ConfigDict({"model": {"depth": (10_000,)}})
    return config
