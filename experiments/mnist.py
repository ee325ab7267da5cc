"""Fully connected nets of any depth on MNIST, five seeds each: highway, plain and residual.

    python -m highway_jax.main --config=experiments/mnist.py            # highway
    python -m highway_jax.main --config=experiments/mnist.py:plain
    python -m highway_jax.main --config=experiments/mnist.py:residual --config.model.depth=100

The widths are those of the paper's section 3.1, which give all layers about 5,000 parameters; the
learning rate, its decay and the gate bias are ours. The same settings serve every variant.
"""

from ml_collections import ConfigDict

from highway_jax.config import default_config
from highway_jax.errors import UserError

WIDTHS = {"highway": 50, "plain": 71, "residual": 71}


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
    config.model.width = WIDTHS[variant]
    config.model.transform_bias = -6.0
    config.optimizer.learning_rate = 0.08
    config.optimizer.momentum = 0.9
    config.optimizer.decay = 0.87
    config.training.epochs = 20
    return config
