"""Five seeds of a 50-layer highway net beside the plain net of the same depth, on 1,797 digits.

    python -m highway_jax.main --config=experiments/digits.py

The widths are the paper's (section 3.1), all else is ours. The learning rate of each net is the
best of those tried; with the highway net's, the plain net does not train at all.
"""

from ml_collections import ConfigDict

from highway_jax.config.config import default_config


def get_config() -> ConfigDict:
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
