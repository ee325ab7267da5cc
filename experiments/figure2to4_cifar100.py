"""Figures 2 to 4, CIFAR-100 (section 4): a highway net of 50 layers to analyze.

    python -m highway_jax.main --config=experiments/figure2to4_cifar100.py
    python -m highway_jax.analyze --workdir=runs/figure2to4_cifar100-train
    python -m highway_jax.main --config=experiments/figure2to4_cifar100.py:search

The paper analyzes the best net of its random search, with gate biases of -4, and states no other
setting. These settings are the best of `search` (training loss 1.43 after 40 epochs), trained for
longer.

Result: experiments/results/figure2to4.
"""

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig


def get_config(variant: str = "train") -> RunConfig:
    return recipes.inside(variant, "cifar100", transform_bias=-4.0, rate=0.2, epochs=150)
