"""Highway and plain nets of 50 layers on the 1,797 digits of scikit-learn, five seeds each.

    python -m highway_jax.main --config=experiments/digits.py

Widths as in section 3.1 of the paper; the other settings are ours. Each net has the best learning
rate of those tried; the plain net does not train with the highway net's.

Result, two CPU cores, about a minute: test accuracy in %, best (mean ± standard deviation).

    highway    98.33 (97.89 ± 0.32)
    plain      92.78 (81.33 ± 16.96)

How many seeds of the plain net train well differs between machines.
"""

from ml_collections import ConfigDict

from highway_jax.config.config import RunConfig, default_config


def get_config() -> RunConfig:
    config = default_config()
    config.name = "digits"
    config.seeds = (0, 1, 2, 3, 4)
    config.data.name = "digits"
    config.data.subtract_mean = True
    config.model.depth = 50
    config.model.transform_bias = -5.0
    config.optimizer.decay = 0.99
    config.training.epochs = 100
    config.cases.highway = ConfigDict(
        {"model": {"block": "highway", "width": 50}, "optimizer": {"learning_rate": 0.1}}
    )
    config.cases.plain = ConfigDict(
        {"model": {"block": "plain", "width": 71}, "optimizer": {"learning_rate": 0.003}}
    )
    return config
