"""Highway, plain and residual nets of 50 layers side by side, five seeds each.

    python -m highway_jax.main --config=experiments/compare.py
    python -m highway_jax.main --config=experiments/compare.py:mnist

Widths as in section 3.1 of the paper, about 5,000 parameters a layer; the other settings are ours.
Each net has the best learning rate of those tried on validation examples; the residual net has no
normalization and needs a bounded activation.

Result on the digits, two CPU cores: test accuracy in %, best (mean ± standard deviation).

    highway     98.33 (97.89 ± 0.32)
    plain       95.00 (90.39 ± 4.43)
    residual    94.17 (93.39 ± 0.50)

How many seeds of the plain net train well differs between machines: another run of the same net
(digits.py) has 92.78 (81.33 ± 16.96).
"""

from ml_collections import ConfigDict

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig, default_config

WIDTHS = {"highway": 50, "plain": 71, "residual": 71}
LEARNING_RATES = {
    "digits": {"highway": 0.1, "plain": 0.003, "residual": 0.003},
    "mnist": {"highway": 0.08, "plain": 0.002, "residual": 0.003},
}


def get_config(variant: str = "digits") -> RunConfig:
    data, _ = recipes.choose(variant, tuple(LEARNING_RATES))
    config = default_config()
    recipes.set_name(config, "compare", variant)
    config.seeds = (0, 1, 2, 3, 4)
    config.data.name = data
    config.data.valid_size = 10_000 if data == "mnist" else 0
    config.data.subtract_mean = True
    config.model.depth = 50
    config.model.transform_bias = -6.0 if data == "mnist" else -5.0
    config.optimizer.decay = 0.87 if data == "mnist" else 0.99
    config.training.epochs = 20 if data == "mnist" else 100
    for block, width in WIDTHS.items():
        activation = "tanh" if block == "residual" else "relu"
        config.cases[block] = ConfigDict(
            {
                "model": {"block": block, "width": width, "activation": activation},
                "optimizer": {"learning_rate": LEARNING_RATES[data][block]},
            }
        )
    return config
