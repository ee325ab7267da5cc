"""Table 2 (section 3.3.1): Highway A, B and C on CIFAR-10, five seeds each.

    python -m highway_jax.main --config=experiments/table2_fitnets.py:highway_a
    python -m highway_jax.main --config=experiments/table2_fitnets.py:highway_b
    python -m highway_jax.main --config=experiments/table2_fitnets.py:highway_c
    python -m highway_jax.main --config=experiments/table2_fitnets.py:highway_a,fast

Test accuracy in %, best (mean ± standard deviation) of five runs where the paper states it:

    variant      layers    parameters (paper)      paper
    highway_a        11       236,328 (~236K)      89.18
    highway_b        19     2,277,688 (~2.3M)      92.46 (92.28 ± 0.16)
    highway_c        32     1,264,502 (~1.25M)     91.20

Ours (experiments/results/table2): `highway_a` after 10,000 of 200,000 steps, one seed: 62.72;
`highway_a,fast`, 20,000 steps, one seed, 79 minutes on a CPU core: 86.99.

The layers are inferred (see `highway_jax.nn.architectures`). The paper states the same learning
rates and schedule for all of section 3.3; preprocessing, dropout and weight decay are assumed as in
Table 3, and the gate biases follow the guideline of section 2.

Not the paper's experiment: `short` divides the schedule by ten. `fast` trains the same nets for
20,000 steps with the recipe of `highway_jax.config.recipes.INGREDIENTS`, and reads the test split
once, at the end; `fast,choose` sets 5,000 training images aside, on which settings are chosen (see
experiments/ablation.py).
"""

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig

NETS = {"highway_a": (11, 16, -1.0), "highway_b": (19, 32, -2.0), "highway_c": (32, 32, -3.0)}
"""Layers, channels of the first stage, and initial gate bias of each net."""


def get_config(variant: str = "highway_a") -> RunConfig:
    net, options = recipes.choose(variant, tuple(NETS), recipes.CIFAR_OPTIONS)
    config = recipes.cifar("cifar10", options)
    recipes.set_name(config, "table2_fitnets", variant)
    config.model.architecture = net
    config.model.depth, config.model.width, config.model.transform_bias = NETS[net]
    if "fast" in options:
        recipes.change(config, recipes.FAST_OF_NET.get(net, {}))
    return config
