"""Table 3 (section 3.3.2): convolutional highway nets of 19 layers on CIFAR, five seeds each.

    python -m highway_jax.main --config=experiments/table3_cifar.py:cifar10
    python -m highway_jax.main --config=experiments/table3_cifar.py:cifar100
    python -m highway_jax.main --config=experiments/table3_cifar.py:cifar10,fast
    python -m highway_jax.main --config=experiments/table3_cifar.py:cifar100,fast

Test accuracy in %, best (mean ± standard deviation) of five runs:

    variant     parameters    paper
    cifar10      2,256,838    92.40 (92.31 ± 0.12)
    cifar100     2,265,928    67.76 (67.61 ± 0.15)

Ours, one seed, one CPU core, an hour each (experiments/results/table3), against the authors' logs:

    variant     step    ours     log
    cifar10     1,500   49.68   49.70
    cifar10     2,000   51.57   55.88
    cifar100    1,500    8.83    8.90
    cifar100    2,000   11.24   12.74

Layers, learning rates, schedule (200,000 steps), dropout and initial weights are from the authors'
files; whitening and the scale of contrast normalization are inferred (see
`highway_jax.config.recipes`).

Not the paper's experiment: `short` divides the schedule by ten. `fast` trains the same net for
20,000 steps with the recipe of `highway_jax.config.recipes.INGREDIENTS`, and reads the test split
once, at the end; `fast,choose` sets 5,000 training images aside, on which settings are chosen.
"""

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig


def get_config(variant: str = "cifar10") -> RunConfig:
    data, options = recipes.choose(variant, ("cifar10", "cifar100"), recipes.CIFAR_OPTIONS)
    config = recipes.cifar(data, options)
    recipes.set_name(config, "table3_cifar", variant)
    config.model.architecture = "cifar19"
    config.model.depth = 19
    config.model.width = 32
    config.model.transform_bias = -2.0
    return config
