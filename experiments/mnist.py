"""Fully connected nets of any depth on MNIST, five seeds each: highway, plain and residual.

    python -m highway_jax.main --config=experiments/mnist.py            # highway
    python -m highway_jax.main --config=experiments/mnist.py:plain
    python -m highway_jax.main --config=experiments/mnist.py:residual --config.model.depth=100

The widths are those of the paper's section 3.1, which give all layers about 5,000 parameters; the
rest is ours. Each variant has the best learning rate of those tried on the validation split. With
the highway net's, the plain net does not train. The residual net has no normalisation, so it needs
an activation that is bounded.
"""

from ml_collections import ConfigDict

from highway_jax.config.config import default_config
from highway_jax.errors import UserError

WIDTHS = {"highway": 50, "plain": 71, "residual": 71}
LEARNING_RATES = {"highway": 0.08, "plain": 0.002, "residual": 0.003}


def get_config(variant: str = "highway") -> ConfigDict:
    if variant not in WIDTHS:
        raise UserError(f"the variant is {variant!r}; allowed: {', '.join(WIDTHS)}")
    config = default_config()
    config.name = f"mnist-{variant}"
    config.seeds = (0, 1, 2, 3, 4)
    config.data.name = "mnist"
    config.data.valid_size = 10_000
    config.data.subtract_mean = True
    config.model.block = variant
    config.model.depth = 50
    config.model.activation = "tanh" if variant == "residual" else "relu"
    config.model.width = WIDTHS[variant]
    config.model.transform_bias = -6.0
    config.optimizer.learning_rate = LEARNING_RATES[variant]
    config.optimizer.momentum = 0.9
    config.optimizer.decay = 0.87
    config.training.epochs = 20
    return config
