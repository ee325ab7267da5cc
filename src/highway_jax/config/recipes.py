"""What experiments share: training of convolutional nets, and the nets of Figures 2 to 4."""

from ml_collections import ConfigDict

from highway_jax.config.config import default_config
from highway_jax.errors import UserError

SHORT = 10
"""A variant `NAME,short` trains for one part in so many, the falls of the rate in proportion."""


def choose(variant: str, names: tuple[str, ...]) -> tuple[str, bool]:
    """Splits a variant into one of `names` and whether `,short` follows.

    Raises:
        UserError: If it is neither.
    """
    name, *options = variant.split(",")
    if name not in names or options not in ([], ["short"]):
        raise UserError(f"the variant is {variant!r}; allowed: {', '.join(names)}, then ,short")
    return name, bool(options)


def convolutional(
    *, rate: float, boundaries: tuple[int, ...], epochs: int, short: bool
) -> ConfigDict:
    """Returns a config with the training that the authors' files of Tables 1 and 3 share.

    Caffe's Nesterov with momentum 0.9; the rate falls to a tenth at each boundary; weight decay
    0.001 of kernels, ten times that in the softmax layer; biases learn at twice the rate; kernels
    from N(0, 2 / fan_in); batches of 100; five seeds.

    Args:
        rate: Initial learning rate.
        boundaries: Steps at which it falls.
        epochs: The whole training.
        short: Whether to train for a tenth of it.
    """
    config = default_config()
    config.seeds = (0, 1, 2, 3, 4)
    config.model.initializer = "msra"
    config.optimizer.learning_rate = rate
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 0.001
    config.optimizer.last_decay_factor = 10.0
    config.optimizer.bias_rate_factor = 2.0
    config.optimizer.schedule = "steps"
    config.optimizer.decay = 0.1
    parts = SHORT if short else 1
    config.optimizer.boundaries = tuple(step // parts for step in boundaries)
    config.training.epochs = epochs // parts
    config.training.batch_size = 100
    config.evaluation.batch_size = 500
    config.evaluation.test_curve = True
    return config


def cifar(name: str, *, short: bool) -> ConfigDict:
    """Returns a config with the training of section 3.3, for `cifar10` or `cifar100`.

    200,000 steps from rate 0.025; global contrast normalization, every image to a norm of 55, and
    ZCA whitening; crops from a border of 8 pixels, and mirroring; the first kernel from N(0, 1).
    The paper states the normalization alone. Its scale and the whitening are inferred: both belong
    to the data of the nets it compares with (Goodfellow et al. 2013), and the losses of freshly
    drawn nets, the first steps, and the size of the authors' archive agree with them.
    """
    config = convolutional(
        rate=0.025, boundaries=(100_000, 150_000, 175_000), epochs=400, short=short
    )
    config.data.name = name
    config.data.scaling = "contrast"
    config.data.contrast_std = 55 / 3072**0.5
    config.data.zca_epsilon = 0.1
    config.data.pad = 8
    config.data.mirror = True
    config.model.first_initializer = "unit_normal"
    config.model.last_initializer = "twentieth_normal" if name == "cifar10" else "same"
    return config


def inside(
    variant: str, name: str, *, transform_bias: float, rate: float, epochs: int
) -> ConfigDict:
    """Returns the config of a net of Figures 2 to 4 (section 4).

    A fully connected highway net of 50 hidden layers of 50 units, 49 of them highway layers; all
    training examples, batches of 100. The variant `train` trains it with five seeds, tanh and
    momentum 0.9. `search` draws 24 settings of the rate, momentum, decay and activation, as the
    paper took its nets from a random search.

    Args:
        variant: `train` or `search`.
        name: `mnist` or `cifar100`.
        transform_bias: Initial b_T; the paper's is -2 for MNIST and -4 for CIFAR-100.
        rate: Learning rate of `train`.
        epochs: Epochs of `train`; a search has 40.

    Raises:
        UserError: If the variant is neither.
    """
    if variant not in ("train", "search"):
        raise UserError(f"the variant is {variant!r}; allowed: train, search")
    config = default_config()
    config.name = f"figure2to4_{name}-{variant}"
    config.data.name = name
    config.data.subtract_mean = True
    config.model.block = "highway"
    config.model.depth = 50
    config.model.width = 50
    config.model.transform_bias = transform_bias
    config.training.batch_size = 100
    if variant == "train":
        config.seeds = (0, 1, 2, 3, 4)
        config.model.activation = "tanh"
        config.optimizer.learning_rate = rate
        config.optimizer.momentum = 0.9
        config.optimizer.decay = 0.97
        config.training.epochs = epochs
        config.runtime.gate_maps_every = 10
        return config
    config.training.epochs = 40
    config.sweep.trials = 24
    config.sweep.rung_epochs = (3, 12)
    config.sweep.rung_keeps = (8, 3)
    config.sweep.draw = ConfigDict(
        {
            "model": {"activation": ("choice", "relu", "tanh")},
            "optimizer": {
                "learning_rate": ("log_uniform", 0.005, 0.3),
                "momentum": ("choice", 0.5, 0.8, 0.9),
                "decay": ("uniform", 0.9, 0.98),
            },
        }
    )
    return config
