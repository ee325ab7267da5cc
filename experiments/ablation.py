"""What each ingredient of the fast recipe for CIFAR is worth: Highway A, two seeds a row.

    python -m highway_jax.main --config=experiments/ablation.py
    python -m highway_jax.main --config=experiments/ablation.py:without
    python -m highway_jax.main --config=experiments/ablation.py:added

19,800 steps of 100 images of CIFAR-10, with 5,000 further training images for validation; rows are
compared by valid_accuracy. The ingredients are those of `highway_jax.config.recipes.INGREDIENTS`,
with the learning rate and the dropout of Highway A (`FAST_OF_NET`).

`without` has a row for the whole recipe, one for the recipe without each ingredient, and one for
the paper's recipe with its schedule in 19,800 steps. `added` has a row for the paper's recipe, and
one with each ingredient added to it. At the rate of Highway A in experiments/results, they take
about 31 and 28 core-hours on CPU.
"""

from ml_collections import ConfigDict

from highway_jax.config import config as config_lib
from highway_jax.config import recipes
from highway_jax.config.config import RunConfig

PAPER = {
    "optimizer.schedule": "multistep",
    "optimizer.learning_rate": 0.025,
    "optimizer.boundaries": (9900, 14850, 17325),
}
"""The paper's learning rates, with boundaries at the same fractions of 19,800 steps."""


def get_config(variant: str = "without") -> RunConfig:
    name, _ = recipes.choose(variant, ("without", "added"))
    paper, fast = _highway_a(()), _highway_a(("fast", "choose"))
    recipes.twenty_thousand_steps(paper, choosing=True)
    recipes.change(paper, PAPER)
    keys = [key for settings in recipes.INGREDIENTS.values() for key in settings]
    config, other = (fast, paper) if name == "without" else (paper, fast)
    recipes.set_name(config, "ablation", variant)
    config.seeds = (0, 1)

    def row(keys):
        """Returns the case that has the other recipe's values of some keys."""
        case = ConfigDict()
        for key in keys:
            config_lib.put(case, key, config_lib.section(other, key))
        return case

    config.cases["fast" if name == "without" else "paper"] = ConfigDict()
    if name == "without":
        config.cases["paper"] = row(dict.fromkeys(keys))
    for ingredient, settings in recipes.INGREDIENTS.items():
        sign = "without" if name == "without" else "with"
        config.cases[f"{sign}_{ingredient}"] = row(settings)
    return config


def _highway_a(options: tuple[str, ...]) -> RunConfig:
    config = recipes.cifar("cifar10", options)
    config.model.architecture, config.model.depth, config.model.width = "highway_a", 11, 16
    config.model.transform_bias = -1.0
    if "fast" in options:
        recipes.change(config, recipes.FAST_OF_NET["highway_a"])
    return config
