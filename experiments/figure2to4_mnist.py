"""Figures 2 to 4, MNIST: inside a highway net of 50 layers (section 4).

    python -m highway_jax.main --config=experiments/figure2to4_mnist.py --workdir=runs/mnist
    python -m highway_jax.analyze --workdir=runs/mnist
    python -m highway_jax.main --config=experiments/figure2to4_mnist.py:search

The paper takes the best nets of its random search, with gate biases of -2 here, and states nothing
else of their training. These are the settings that `search` found best, trained for longer;
all 9 nets with ReLU in it diverged.
"""

from ml_collections import ConfigDict

from highway_jax import recipes
from highway_jax.errors import UserError


def get_config(variant: str = "train") -> ConfigDict:
    if variant not in ("train", "search"):
        raise UserError(f"the variant is {variant!r}; allowed: train, search")
    config = recipes.inside("mnist", search=variant == "search")
    config.name = f"figure2to4_mnist-{variant}"
    config.model.transform_bias = -2.0
    if variant == "train":
        config.model.activation = "tanh"
        config.optimizer.learning_rate = 0.07
        config.optimizer.momentum = 0.9
        config.optimizer.decay = 0.97
        config.training.epochs = 100
    return config
