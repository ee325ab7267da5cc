"""Five seeds of a 50-layer highway net beside the plain net of the same depth, on 1,797 digits."""

from ml_collections import ConfigDict

from highway_jax.config import default_config


def get_config() -> ConfigDict:
    config = default_config()
    config.name = "digits"
    config.seeds = (0, 1, 2, 3, 4)
    config.data.name = "digits"
    config.data.valid_size = 137
    config.model.depth = 50
    config.model.transform_bias = -5.0
    config.optimizer.learning_rate = 0.05
    config.optimizer.decay = 0.98
    config.training.epochs = 100
    config.cases.highway = ConfigDict({"model": {"block": "highway", "width": 50}})
    config.cases.plain = ConfigDict({"model": {"block": "plain", "width": 71}})
    return config
