"""Table 3: the convolutional highway net of 19 layers on CIFAR-10 and CIFAR-100 (section 3.3.2).

    python -m highway_jax.main --config=experiments/table3_cifar.py:cifar10
    python -m highway_jax.main --config=experiments/table3_cifar.py:cifar100
    python -m highway_jax.main --config=experiments/table3_cifar.py:cifar10,short

Test accuracy in %, best (mean ± standard deviation) of five runs:

    variant     parameters    paper
    cifar10      2,256,838    92.40 (92.31 ± 0.12)
    cifar100     2,265,928    67.76 (67.61 ± 0.15)

Layers, rates, schedule (200,000 steps), dropout and initial weights are those of the authors'
files; whitening and the scale of the contrast normalization are inferred (see
`highway_jax.config.recipes`).
`short` is a tenth of the schedule: not the paper's experiment.

Ours, so far: the first 2,000 steps of each, one seed, one CPU core for an hour. Test accuracy at
1,500 and 2,000 steps: `cifar10` 49.68 and 51.57, the authors' log 49.70 and 55.88; `cifar100` 8.83
and 11.24, the authors' log 8.90 and 12.74 (`experiments/results/table3`).
"""

from ml_collections import ConfigDict

from highway_jax.config import recipes


def get_config(variant: str = "cifar10") -> ConfigDict:
    name, short = recipes.choose(variant, ("cifar10", "cifar100"))
    config = recipes.cifar(name, short=short)
    config.name = f"table3_cifar-{variant.replace(',', '-')}"
    config.model.architecture = "cifar19"
    config.model.depth = 19
    config.model.width = 32
    config.model.transform_bias = -2.0
    return config
