"""Table 1 (section 3.2): convolutional highway nets of 10 layers on MNIST, five seeds each.

    python -m highway_jax.main --config=experiments/table1_mnist.py:width16
    python -m highway_jax.main --config=experiments/table1_mnist.py:width32
    python -m highway_jax.main --config=experiments/table1_mnist.py:width16,short

Test accuracy in %, best (mean ± standard deviation) of five runs:

    variant          parameters    paper                   ours (experiments/results/table1)
    width16              38,986    99.43 (99.40 ± 0.03)
    width32             151,690    99.55 (99.54 ± 0.02)
    width16,short        38,986                            98.91 (98.74 ± 0.17)

Layers, learning rates, schedule (180,000 steps), dropout and initial weights are from the authors'
file for width 32; the same training is assumed for width 16. `short` divides the schedule by ten
and is not the paper's experiment.
"""

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig

WIDTHS = {"width16": 16, "width32": 32}


def get_config(variant: str = "width16") -> RunConfig:
    width, options = recipes.choose(variant, tuple(WIDTHS), ("short",))
    config = recipes.convolutional(
        rate=0.01, boundaries=(60_000, 120_000), epochs=300, short="short" in options
    )
    recipes.set_name(config, "table1_mnist", variant)
    config.data.name = "mnist"
    config.data.scaling = "caffe"
    config.model.architecture = "mnist10"
    config.model.depth = 10
    config.model.width = WIDTHS[width]
    config.model.last_initializer = "tenth_normal"
    config.model.transform_bias = -1.0
    return config
