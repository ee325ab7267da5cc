"""Which nets train at which depth, and with which learning rate and gate bias.

    python -m highway_jax.main --config=experiments/depth_lab.py:digits     # 15 minutes, two cores
    python -m highway_jax.main --config=experiments/depth_lab.py:mnist
    python -m highway_jax.main --config=experiments/depth_lab.py:mnist,highway,rezero
    python -m highway_jax.report --workdir=WORKDIR

Every kind of block at 10 to 1000 layers, with learning rates (and initial gate biases, in blocks
that have gates) drawn at random. After a rung of few epochs the best settings of each block and
depth continue, and the best one is trained again from five seeds. The report has a table of blocks
and depths, a map of the training loss over learning rate and depth for each block, and over gate
bias and depth for those with gates.

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


def get_config(variant: str = "digits") -> RunConfig:
    data, options = recipes.choose(variant, ("digits", "mnist"), tuple(CASES))
    config = default_config()
    recipes.set_name(config, "depth_lab", variant)
    for name in [name for name in CASES if name in options] or CASES:
        config.cases[name] = ConfigDict({"model": CASES[name]})
    config.sweep.draw = ConfigDict(
        {
            "model": {"transform_bias": ("integer", -10, 0)},
            "optimizer": {"learning_rate": ("log_uniform", 0.0003, 0.3)},
        }
    )
    config.optimizer.momentum = 0.9
    config.optimizer.schedule = "constant"
    config.sweep.criterion = "train_loss"
    config.sweep.retrain_seeds = (0, 1, 2, 3, 4)
    config.runtime.tensorboard = False
    config.data.name = data
    if data == "digits":
        config.data.valid_size = 137
        config.model.width = 16
        config.sweep.grid = ConfigDict({"model": {"depth": (10, 50, 200, 1000)}})
        config.training.epochs = 15
        config.sweep.trials = 14
        config.sweep.rung_epochs = (3,)
        config.sweep.rung_keeps = (2,)
    else:
        config.data.valid_size = 10_000
        config.model.width = 50
        config.sweep.grid = ConfigDict({"model": {"depth": (10, 30, 100, 300, 1000)}})
        config.training.epochs = 20
        config.sweep.trials = 40
        config.sweep.rung_epochs = (1, 4)
        config.sweep.rung_keeps = (10, 3)
    return config
