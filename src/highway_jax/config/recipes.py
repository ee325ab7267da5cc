"""Variants of experiments, and the configs that several experiments start from."""

from collections.abc import Collection, Mapping, Sequence

from ml_collections import ConfigDict

from highway_jax.config.config import RunConfig, default_config, put
from highway_jax.errors import UserError

SHORT = 10
"""The option `short` divides the length of training, and the schedule with it, by this factor."""

CIFAR_OPTIONS = ("short", "fast", "choose")
"""Options of the experiments on CIFAR: `short`, or `fast`, or `fast` with `choose`."""

INGREDIENTS: dict[str, dict[str, object]] = {
    "one_cycle": {
        "optimizer.schedule": "one_cycle",
        "optimizer.boundaries": (),
        "optimizer.learning_rate": 0.05,
        "optimizer.warmup_fraction": 0.2,
        "optimizer.final_fraction": 0.0,
    },
    "label_smoothing": {"training.label_smoothing": 0.1},
    "logit_scale": {"model.logit_scale": 0.5},
    "weight_average": {"training.weight_average": 0.999},
    "alternating_flip": {"data.alternating_flip": True, "data.random_flip": False},
    "small_crops": {"data.random_crop_padding": 4},
    "less_dropout": {"model.dropout_scale": 0.25},
    "less_decay": {
        "optimizer.weight_decay": 2e-4,
        "optimizer.head_weight_decay_multiplier": 1.0,
    },
    "patch_whitening": {
        "model.first_initializer": "patch_whitening",
        "model.freeze_first": True,
        "data.zca_epsilon": 0.0,
    },
}
"""What the option `fast` changes in the paper's recipe for CIFAR, by name of the ingredient.

Biases keep the paper's learning rate: 8 times that of the kernels, in place of 2, cost Highway A
1.3 points after 2,250 steps (experiments/results/table2).
"""

FAST_OF_NET: dict[str, dict[str, object]] = {
    "highway_a": {"optimizer.learning_rate": 0.1, "model.dropout_scale": 0.0},
}
"""What `fast` changes further for single nets, by the name of the net.

The values were chosen on 5,000 validation images after 2,250 steps (experiments/results/table2).
"""


def choose(
    variant: str, names: Sequence[str], options: Sequence[str] = ()
) -> tuple[str, frozenset[str]]:
    """Splits a variant, the text after the colon of `--config=FILE:VARIANT`, at its commas.

    Args:
        variant: Such as "mnist,short": a name, then any of the options, each once.
        names: Allowed names.
        options: Allowed options.

    Returns:
        The name and the options.

    Raises:
        UserError: If the variant is anything else.
    """
    name, *given = variant.split(",")
    chosen = frozenset(given)
    if name not in names or len(chosen) < len(given) or not chosen <= {*options}:
        allowed = ", ".join(names)
        if options:
            allowed += f"; then any of {' '.join(f',{option}' for option in options)}"
        raise UserError(f"the variant is {variant!r}; allowed: {allowed}")
    return name, chosen


def set_name(config: ConfigDict, experiment: str, variant: str) -> None:
    """Names a run by its experiment and variant."""
    config.name = f"{experiment}-{variant.replace(',', '-')}"


def convolutional(
    *, rate: float, boundaries: tuple[int, ...], epochs: int, short: bool
) -> RunConfig:
    """Returns a config with the training that the authors' files of Tables 1 and 3 share.

    Caffe's Nesterov momentum of 0.9; a learning rate that is divided by ten at each boundary;
    weight decay of 0.001 for kernels, and ten times that in the softmax layer; biases with twice
    the learning rate; kernels from N(0, 2 / fan_in); batches of 100; five seeds.

    Args:
        rate: Initial learning rate.
        boundaries: Steps at which it is divided by ten.
        epochs: Number of epochs.
        short: Whether to divide epochs and boundaries by `SHORT`.
    """
    config = default_config()
    config.seeds = (0, 1, 2, 3, 4)
    config.model.initializer = "msra"
    config.optimizer.learning_rate = rate
    config.optimizer.momentum = 0.9
    config.optimizer.nesterov = True
    config.optimizer.weight_decay = 0.001
    config.optimizer.head_weight_decay_multiplier = 10.0
    config.optimizer.bias_learning_rate_multiplier = 2.0
    config.optimizer.schedule = "multistep"
    config.optimizer.decay = 0.1
    parts = SHORT if short else 1
    config.optimizer.boundaries = tuple(step // parts for step in boundaries)
    config.training.epochs = epochs // parts
    config.training.batch_size = 100
    config.evaluation.batch_size = 500
    config.evaluation.test_curve = True
    return config


def cifar(name: str, options: Collection[str] = ()) -> RunConfig:
    """Returns a config with the training of section 3.3, for `cifar10` or `cifar100`.

    200,000 steps from a learning rate of 0.025; global contrast normalization to a norm of 55 for
    each image, and ZCA whitening; random crops after padding with 8 pixels, and random flips; the
    first kernel from N(0, 1). The paper states the normalization only. Its scale and the whitening
    are inferred: both were used for the nets that the paper compares with (Goodfellow et al. 2013),
    and the initial losses and the size of the authors' archive agree with them.

    The option `fast` is not the paper's recipe: it trains for 20,000 steps with the `INGREDIENTS`,
    and evaluates the test split once. With `choose` too, 5,000 training examples are set aside for
    validation, to choose settings by; the 44 epochs of 450 steps are 19,800 steps.

    Args:
        name: `cifar10` or `cifar100`.
        options: Some of `CIFAR_OPTIONS`.

    Raises:
        UserError: If the options exclude each other.
    """
    if set(options) not in (set(), {"short"}, {"fast"}, {"fast", "choose"}):
        raise UserError(
            f"the options are {', '.join(sorted(options))}; allowed: none, short, fast, or fast"
            " with choose"
        )
    config = convolutional(
        rate=0.025,
        boundaries=(100_000, 150_000, 175_000),
        epochs=400,
        short="short" in options,
    )
    config.data.name = name
    config.data.scaling = "global_contrast_normalization"
    config.data.contrast_std = 55 / 3072**0.5
    config.data.zca_epsilon = 0.1
    config.data.random_crop_padding = 8
    config.data.random_flip = True
    config.model.first_initializer = "unit_normal"
    config.model.last_initializer = "twentieth_normal" if name == "cifar10" else "same"
    if "fast" in options:
        for settings in INGREDIENTS.values():
            change(config, settings)
        twenty_thousand_steps(config, choosing="choose" in options)
    return config


def change(config: ConfigDict, settings: Mapping[str, object]) -> None:
    """Changes settings of a config, given by dotted key."""
    for key, value in settings.items():
        put(config, key, value)


def twenty_thousand_steps(config: ConfigDict, *, choosing: bool) -> None:
    """Sets 20,000 steps of 100 of the 50,000 images of CIFAR, evaluated on the test split once.

    Args:
        config: The config.
        choosing: Whether 5,000 of the images are set aside for validation; an epoch has 450 steps
            then, and 44 epochs are 19,800 steps.
    """
    config.data.valid_size = 5000 if choosing else 0
    config.training.epochs = 44 if choosing else 40
    config.evaluation.test_curve = False


def inside(
    variant: str, name: str, *, transform_bias: float, rate: float, epochs: int
) -> RunConfig:
    """Returns the config of a net of Figures 2 to 4 (section 4).

    A fully connected highway net of 50 hidden layers of 50 units, 49 of them highway layers, on all
    training examples with batches of 100. The variant `train` trains it from five seeds, with tanh
    and momentum 0.9. `search` draws 24 settings of the learning rate, momentum, decay and
    activation, because the paper's nets are from a random search.

    Args:
        variant: `train` or `search`.
        name: `mnist` or `cifar100`.
        transform_bias: Initial b_T; in the paper -2 for MNIST and -4 for CIFAR-100.
        rate: Learning rate of `train`.
        epochs: Epochs of `train`; `search` has 40.

    Raises:
        UserError: If the variant is neither.
    """
    choose(variant, ("train", "search"))
    config = default_config()
    set_name(config, f"figure2to4_{name}", variant)
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
