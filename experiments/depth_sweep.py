"""Figure 1: how plain and highway nets of 10, 20, 50 and 100 layers train (section 3.1).

    python -m highway_jax.main --config=experiments/depth_sweep.py:digits    # minutes on a laptop
    python -m highway_jax.main --config=experiments/depth_sweep.py:mnist     # as the paper
    python -m highway_jax.main --config=experiments/depth_sweep.py:mnist,halving
    python -m highway_jax.main --config=experiments/depth_sweep.py:mnist,halving,plain

The paper: for each depth, 100 settings drawn at random of the learning rate, momentum, decay of
the rate, activation and (highway) gate bias; 50 highway units or 71 plain ones a layer; training
cross-entropy over 400 epochs of the best setting, and the mean of the ten best. Batch size, the
ranges drawn from and the preprocessing are not stated: batches of 100, pixels in [0, 1], all 60,000
training examples and the ranges below are ours.

The ranges are drawn for low losses late. Once every example is right, the loss falls with the sum
of the rates so far: decays from 0.9 to 0.96 an epoch look best after a few epochs and end, at 10
layers, at 1e-4 (both blocks), decays from 0.98 at 3e-5 (highway) and 1.1e-5 (plain).

A part `highway` or `plain` at the end of the variant trains only these nets, so that two machines
can share the work, with rates drawn from where such nets train: deep plain nets need small ones,
and highway nets gain from large ones that few of 40 draws from a wider range hit.

`mnist,halving` draws 40 settings and continues the better 16 after 4 epochs, the better 10 after 15
and the better 3 after 60 to 400. After 15 and 60 the better are those that are projected to end
lower (`highway_jax.sweep.projection`): a rate that falls fast looks best on the way and ends
higher. Three are trained to the end, at 1.6 times the steps of one: projections from epoch 60 are
off by factors of 0.85 to 1.3 for highway nets and 1.7 to 4 for plain ones, and in one search of
eight the three best differ by a tenth.

Earlier searches took the one with the lowest loss after 60 epochs to 400
(`--config.sweep.criterion=train_loss --config.sweep.rung_keeps=16,10,1`), two CPU cores some three
hours; best training losses at 10, 20, 50 and 100 layers, and the paper's
(experiments/results/figure1):

    plain      7.3e-6  4.9e-5   1.3e-3  2.0e-2      paper  6.7e-6   1.35e-5  1.3e-3  3.1e-2
    highway    8.1e-6  1.3e-5   1.7e-5  6.1e-6      paper  1.05e-5  4.3e-5   6.9e-6  6.7e-5
"""

from ml_collections import ConfigDict

from highway_jax.config.config import default_config
from highway_jax.errors import UserError

WIDTHS = {"highway": 50, "plain": 71}
LEARNING_RATES = {"highway": (0.01, 0.3), "plain": (0.001, 0.1)}


def get_config(variant: str = "digits") -> ConfigDict:
    data, *options = variant.split(",")
    if data not in ("digits", "mnist") or not {*options} <= {"halving", *WIDTHS}:
        raise UserError(
            f"the variant is {variant!r}; allowed: digits or mnist, then any of ,halving ,highway"
            " ,plain"
        )
    config = default_config()
    config.name = f"depth_sweep-{variant.replace(',', '-')}"
    blocks = [block for block in WIDTHS if block in options] or list(WIDTHS)
    for block in blocks:
        config.cases[block] = ConfigDict({"model": {"block": block, "width": WIDTHS[block]}})
    lowest, highest = zip(*(LEARNING_RATES[block] for block in blocks), strict=True)
    config.sweep.grid = ConfigDict({"model": {"depth": (10, 20, 50, 100)}})
    config.sweep.draw = ConfigDict(
        {
            "model": {
                "activation": ("choice", "relu", "tanh"),
                "transform_bias": ("integer", -10, -1),
            },
            "optimizer": {
                "learning_rate": ("log_uniform", min(lowest), max(highest)),
                "momentum": ("choice", 0.5, 0.8, 0.9, 0.95),
                "decay": ("uniform", 0.98, 0.995),
            },
        }
    )
    config.optimizer.schedule = "exponential"
    config.optimizer.decay_every = "epoch"
    config.sweep.criterion = "projected_train_loss"
    config.runtime.tensorboard = False
    if data == "digits":
        config.data.name = "digits"
        config.data.valid_size = 137
        config.training.epochs = 100
        config.sweep.trials = 20
        config.sweep.rung_epochs = (10, 30)
        config.sweep.rung_keeps = (8, 4)
        config.sweep.draw.optimizer.decay = ("uniform", 0.95, 1.0)
    else:
        config.data.name = "mnist"
        config.data.valid_size = 0
        config.training.epochs = 400
        config.sweep.trials = 100
    if data == "mnist" and "halving" in options:
        config.sweep.trials = 40
        config.sweep.rung_epochs = (4, 15, 60)
        config.sweep.rung_keeps = (16, 10, 3)
    return config
