"""Figure 1 (section 3.1): training of plain and highway nets of 10, 20, 50 and 100 layers.

    python -m highway_jax.main --config=experiments/depth_sweep.py:digits    # minutes
    python -m highway_jax.main --config=experiments/depth_sweep.py:mnist     # as the paper
    python -m highway_jax.main --config=experiments/depth_sweep.py:mnist,halving
    python -m highway_jax.main --config=experiments/depth_sweep.py:mnist,halving,plain

The paper: for each depth, 100 random settings of the learning rate, momentum, decay of the learning
rate, activation and (highway) gate bias; 50 highway or 71 plain units a layer; training
cross-entropy over 400 epochs of the best setting, and the mean of the ten best. It does not state
the batch size, the ranges and the preprocessing. Ours: batches of 100, pixels in [0, 1], all 60,000
training examples, and the ranges below.

The ranges favor low losses late in training. Once every example is classified correctly, the loss
falls with the sum of the learning rates so far. With 10 layers, decays of 0.90 to 0.96 an epoch
give the lowest losses after a few epochs and end at 1e-4 (both nets); decays of 0.98 end at 3e-5
(highway) and 1.1e-5 (plain), and one of 0.995 at 8e-7 (plain). With 50 layers, a decay of 0.997
ends at 3.9e-6 (highway).

Options:

    highway, plain    Trains these nets only, with learning rates from a range of their own: deep
                      plain nets need small rates, and highway nets train best with large ones.
    halving           On MNIST, draws 40 settings; 16 continue after 4 epochs, 10 after 15 and 3
                      after 60, to 400 epochs. The 10 and 3 are those with the lowest projected
                      final loss (`highway_jax.sweep.projection`): a learning rate that decays fast
                      gives a low loss early and a higher one at the end. Projections from epoch 60
                      are off by factors of 0.85 to 1.3 for highway nets and 1.7 to 4 for plain
                      ones, so three settings are trained to the end rather than one.

Result of earlier searches, which trained the setting with the lowest loss after 60 epochs to the
end (`--config.sweep.criterion=train_loss --config.sweep.rung_keeps=16,10,1`), and drew decays of at
most 0.995 (experiments/results/figure1): best training loss by number of layers. The searches took
2.2 hours (highway) and 1.6 hours (plain, unfinished at 20 layers), on one CPU core each.

    layers         10        20        50       100
    plain      7.3e-6    1.3e-5    1.3e-3    2.0e-2
      paper    6.7e-6   1.35e-5    1.3e-3    3.1e-2
    highway    8.1e-6    1.3e-5    1.7e-5    6.1e-6
      paper   1.05e-5    4.3e-5    6.9e-6    6.7e-5

The plain net of 20 layers is from a run that trained the ten best settings to the end.
"""

from ml_collections import ConfigDict

from highway_jax.config import recipes
from highway_jax.config.config import RunConfig, default_config

WIDTHS = {"highway": 50, "plain": 71}
LEARNING_RATES = {"highway": (0.01, 0.3), "plain": (0.001, 0.1)}


def get_config(variant: str = "digits") -> RunConfig:
    data, options = recipes.choose(variant, ("digits", "mnist"), ("halving", *WIDTHS))
    config = default_config()
    recipes.set_name(config, "depth_sweep", variant)
    blocks = [block for block in WIDTHS if block in options] or list(WIDTHS)
    for block in blocks:
        config.cases[block] = ConfigDict({"model": {"block": block, "width": WIDTHS[block]}})
    lowest, highest = zip(*(LEARNING_RATES[block] for block in blocks), strict=True)
    config.model.depth = 50  # Replaced by the grid; part of the config of earlier runs.
    config.sweep.grid = ConfigDict({"model": {"depth": (10, 20, 50, 100)}})
    lowest_decay, highest_decay = (0.95, 1.0) if data == "digits" else (0.98, 0.998)
    config.sweep.draw = ConfigDict(
        {
            "model": {
                "activation": ("choice", "relu", "tanh"),
                "transform_bias": ("integer", -10, -1),
            },
            "optimizer": {
                "learning_rate": ("log_uniform", min(lowest), max(highest)),
                "momentum": ("choice", 0.5, 0.8, 0.9, 0.95),
                "decay": ("uniform", lowest_decay, highest_decay),
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
