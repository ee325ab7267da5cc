"""Which nets train at which depth, and with which learning rate and gate bias.

    python -m highway_jax.main --config=experiments/depth_lab.py:digits     # 15 minutes, two cores
    python -m highway_jax.main --config=experiments/depth_lab.py:mnist
    python -m highway_jax.main --config=experiments/depth_lab.py:mnist,highway,rezero
    python -m highway_jax.main --config=experiments/depth_lab.py:biases     # highway nets on MNIST
    python -m highway_jax.report --workdir=WORKDIR

Every kind of block at 10 to 1000 layers, with learning rates (and initial gate biases, in blocks
that have gates) drawn at random. The best setting of each block and depth is trained again from
five seeds. On the digits, the settings are ranked after three epochs, and only the best two of each
block and depth are trained for all 15. On MNIST, they are ranked after one epoch of 20,000 training
images, 200 steps, and the best one is trained for two. An accelerator can train longer:

    --config.data.valid_size=10000 --config.training.epochs=20
    --config.sweep.rung_epochs=1,4 --config.sweep.rung_keeps=5,2

`biases` trains highway nets with every bias of a list, at more depths and two learning rates, for
one such epoch. The report has a table of blocks and depths, a map of the training loss over
learning rate and depth for each block, and over gate bias and depth for those with gates. Runs of
parts, a few blocks or depths, are one map in the report of all of their directories.

    plain            y = H(x), with the paper's "normalized" initialization
    isometric        y = H(x), with orthogonal kernels and tanh (Xiao et al. 2018)
    residual         y = x + H(x)
    prenorm          y = x + f(W LayerNorm(x) + b)
    rezero           y = x + a H(x), a starts at 0 (Bachlechner et al. 2020)
    fixup            y = x + a branch of two layers that starts at 0 (Zhang et al. 2019); it has
                     twice the layers that the table names
    shortcut_gate    y = H(x) + x (1 - T(x)) (He et al. 2016)
    gru              y = x (1 - T(x)) + h(x) T(x), a gated recurrent unit (Parisotto et al. 2020)
    highway          y = x (1 - T(x)) + H(x) T(x), the paper's

The variant trains all of them, or those that it names. Width, batches, momentum and ranges are
ours, and the same for all. Nothing is normalized or clipped, and the learning rate is constant, so
that a map shows what a block can take.
"""

from ml_collections import ConfigDict

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig, default_config

CASES = {
    "plain": {"block": "plain"},
    "isometric": {"block": "plain", "initializer": "delta_orthogonal", "activation": "tanh"},
    "residual": {"block": "residual"},
    "prenorm": {"block": "prenorm"},
    "rezero": {"block": "rezero"},
    "fixup": {"block": "fixup"},
    "shortcut_gate": {"block": "shortcut_gate"},
    "gru": {"block": "gru"},
    "highway": {"block": "highway"},
}

BIASES = (0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0, -8.0, -10.0)
DEPTHS_OF_BIASES = (10, 20, 50, 100, 200, 500, 1000)


def get_config(variant: str = "digits") -> RunConfig:
    name, options = recipes.choose(variant, ("digits", "mnist", "biases"), tuple(CASES))
    config = default_config()
    recipes.set_name(config, "depth_lab", variant)
    config.optimizer.momentum = 0.9
    config.optimizer.schedule = "constant"
    config.runtime.tensorboard = False
    data = "digits" if name == "digits" else "mnist"
    config.data.name = data
    config.data.valid_size = 137 if data == "digits" else 40_000
    config.model.width = 16 if data == "digits" else 50
    config.training.epochs = {"digits": 15, "mnist": 2, "biases": 1}[name]
    for case in CASES:
        if case in (options or (CASES if name != "biases" else ("highway",))):
            config.cases[case] = ConfigDict({"model": CASES[case]})
    if name == "biases":
        config.sweep.grid = ConfigDict(
            {
                "model": {"depth": DEPTHS_OF_BIASES, "transform_bias": BIASES},
                "optimizer": {"learning_rate": (0.03, 0.1)},
            }
        )
        return config
    config.sweep.draw = ConfigDict(
        {
            "model": {"transform_bias": ("integer", -10, 0)},
            "optimizer": {"learning_rate": ("log_uniform", 0.0003, 0.3)},
        }
    )
    depths = (10, 50, 200, 1000) if data == "digits" else (10, 30, 100, 300, 1000)
    config.sweep.grid = ConfigDict({"model": {"depth": depths}})
    config.sweep.criterion = "train_loss"
    config.sweep.trials = 14
    config.sweep.retrain_seeds = (0, 1, 2, 3, 4)
    config.sweep.rung_epochs = (3,) if data == "digits" else (1,)
    config.sweep.rung_keeps = (2,) if data == "digits" else (1,)
    return config
