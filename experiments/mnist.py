"""Fully connected nets of 50 layers on MNIST: highway, plain and residual, five seeds each.

    python -m highway_jax.main --config=experiments/mnist.py:highway
    python -m highway_jax.main --config=experiments/mnist.py:plain
    python -m highway_jax.main --config=experiments/mnist.py:residual
    python -m highway_jax.main --config=experiments/mnist.py:residual --config.model.depth=100

Widths as in section 3.1 of the paper, about 5,000 parameters a layer; the other settings are ours.
Each net has the best learning rate of those tried on the validation split. The plain net does not
train with the highway net's. The residual net has no normalization and needs a bounded activation.

Result, two CPU cores (experiments/results/mnist): test accuracy in %, best (mean ± standard
deviation) of five seeds.

    highway     97.65 (97.55 ± 0.10)
    plain       95.38 (94.38 ± 0.97)
    residual    95.25 (94.80 ± 0.35)
"""

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig, default_config

WIDTHS = {"highway": 50, "plain": 71, "residual": 71}
LEARNING_RATES = {"highway": 0.08, "plain": 0.002, "residual": 0.003}


def get_config(variant: str = "highway") -> RunConfig:
    block, _ = recipes.choose(variant, tuple(WIDTHS))
    config = default_config()
    recipes.set_name(config, "mnist", variant)
    config.seeds = (0, 1, 2, 3, 4)
    config.data.name = "mnist"
    config.data.valid_size = 10_000
    config.data.subtract_mean = True
    config.model.block = block
    config.model.depth = 50
    config.model.activation = "tanh" if block == "residual" else "relu"
    config.model.width = WIDTHS[block]
    config.model.transform_bias = -6.0
    config.optimizer.learning_rate = LEARNING_RATES[block]
    config.optimizer.momentum = 0.9
    config.optimizer.decay = 0.87
    config.training.epochs = 20
    return config
