"""Every setting, once: frozen dataclasses with a field for each key.

The field of a key carries what is allowed and what the key means; `schema.SCHEMA` is made from
these fields. Experiments and flags edit a `ConfigDict`; `Config.from_settings` is the one place
where settings become these classes, which everything that builds from a config takes.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar

from highway_jax.config.keys import (
    INT32,
    LARGEST,
    UINT32,
    Key,
    are_falling,
    are_rising,
    are_seeds,
    choice,
    file_name,
    flag,
    integer,
    integers,
    real,
    registered,
    text,
)
from highway_jax.registry import (
    ACTIVATIONS,
    ARCHITECTURES,
    BLOCKS,
    DATASETS,
    INITIALIZERS,
    OPTIMIZERS,
)

T = TypeVar("T")

_SEEDS = f"a tuple of different whole numbers from 0 to {UINT32}"
_RISING = f"a tuple of strictly increasing whole numbers from 1 to {INT32}"


@dataclasses.dataclass(frozen=True)
class Data:
    """The data set, its splits, and what is done to its images."""

    name: str = registered("digits", DATASETS, "Data set")
    file: str = text("", "The .npz file with the arrays of the data set `file`")
    valid_size: int = integer(0, 0, "Number of training examples set aside for validation")
    split_seed: int = integer(0, 0, "Seed of the train/validation split", UINT32)
    scaling: str = choice(
        "unit",
        ("unit", "caffe", "signed", "standardize", "global_contrast_normalization"),
        "Scaling. unit, caffe, signed: of pixels to [0, 1], [0, 255/256] or [-1, 1]; standardize:"
        " of each feature to mean 0 and variance 1; global_contrast_normalization: of each image to"
        " mean 0 and standard deviation data.contrast_std (section 3.3)",
    )
    contrast_std: float = real(
        1.0,
        0.0,
        1e6,
        "Target standard deviation of global contrast normalization, over an image's pixels",
        open_low=True,
    )
    zca_epsilon: float = real(
        0.0,
        0.0,
        1e6,
        "Constant added to each component's variance in ZCA whitening; 0: no whitening",
    )
    subtract_mean: bool = flag(False, "Whether to subtract the mean training image")
    random_crop_padding: int = integer(
        0, 0, "Width in pixels of the zero border for random crops of training images", 1000
    )
    random_flip: bool = flag(
        False, "Whether to flip training images horizontally with probability 1/2"
    )
    alternating_flip: bool = flag(
        False,
        "Whether to flip each training image in every other epoch; a hash of its index decides"
        " whether the first epoch is one of them",
    )
    dir: str = text(
        "", "Directory of prepared TFDS data sets; empty: $TFDS_DATA_DIR, ~/tensorflow_datasets"
    )
    cache_dir: str = text("", "Directory of decoded arrays; empty: the user's cache directory")
    download: bool = flag(True, "Whether data sets may be downloaded")


@dataclasses.dataclass(frozen=True)
class Model:
    """The net."""

    block: str = registered("highway", BLOCKS, "Kind of the repeated block")
    architecture: str = registered(
        "dense",
        ARCHITECTURES,
        "Net: fully connected (dense; section 3.1), or a convolutional net of Tables 1 to 3",
        "dense",
    )
    module: str = text(
        "", "Class and hash of the fields of the module given to `run(model=...)`, which sets this"
    )
    depth: int = integer(
        10,
        1,
        "Hidden layers of a dense net: one plain, depth - 1 blocks (section 3.1); all layers of"
        " a convolutional net",
    )
    width: int = integer(
        50,
        1,
        "Units of a hidden layer (section 3.1: 50 highway, 71 plain); channels of a convolutional"
        " net's first stage",
    )
    activation: str = registered("relu", ACTIVATIONS, "Activation f of H (section 3.1: relu, tanh)")
    initializer: str = registered("normalized", INITIALIZERS, "Initializer of the kernels")
    first_initializer: str = registered(
        "same",
        INITIALIZERS,
        "Initializer of the first layer's kernel; same: as the others; patch_whitening: the"
        " principal components of patches of training images, which it whitens",
        "same",
        "patch_whitening",
    )
    last_initializer: str = registered(
        "same",
        INITIALIZERS,
        "Initializer of the softmax layer's kernel; same: as the others",
        "same",
    )
    freeze_first: bool = flag(False, "Whether the first layer's kernel stays as it was initialized")
    dropout: bool = flag(True, "Whether convolutional nets are trained with dropout")
    dropout_scale: float = real(1.0, 0.0, 1.0, "Factor of the net's own dropout rates")
    logit_scale: float = real(
        1.0, 0.0, 1e6, "Constant factor of the logits, in training and evaluation", open_low=True
    )
    gate: str = choice(
        "coupled", ("coupled", "separate"), "Carry gate C: coupled, 1 - T (section 2), or separate"
    )
    transform_bias: float = real(
        -2.0, -1e3, 1e3, "Initial transform-gate bias b_T (section 3.1: -1 to -10)"
    )
    carry_bias: float = real(1.0, -1e3, 1e3, "Initial bias b_C of a separate carry gate")
    residual_scale: float = real(
        0.0, -1e3, 1e3, "Initial factor of H in a rezero block; above 0: SkipInit"
    )
    remat: str = choice(
        "save_dots",
        ("none", "save_dots", "full"),
        "What the backward pass recomputes. none: nothing; save_dots: all but matrix products and"
        " convolutions; full: everything",
    )
    dtype: str = choice(
        "float32", ("float32", "bfloat16"), "Type of activations and products; weights are float32"
    )
    precision: str = choice(
        "float32",
        ("float32", "tensorfloat32", "bfloat16"),
        "Precision of float32 products on GPU and TPU; no effect on CPU",
    )


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """The update rule and its learning-rate schedule."""

    name: str = registered("momentum", OPTIMIZERS, "Update rule")
    learning_rate: float = real(
        0.05, 1e-12, LARGEST, "Initial learning rate; momentum does not scale it by 1 - momentum"
    )
    momentum: float = real(0.9, 0.0, 0.999999, "Momentum coefficient")
    nesterov: bool = flag(False, "Whether momentum is Nesterov's, as in Caffe, or classical")
    beta1: float = real(
        0.9, 0.0, 0.999999, "Decay rate of Adam's first moment estimate (b1 in optax)"
    )
    beta2: float = real(
        0.999, 0.0, 0.999999, "Decay rate of Adam's second moment estimate (b2 in optax)"
    )
    epsilon: float = real(
        1e-8, 0.0, LARGEST, "Constant in the denominator of Adam's update", open_low=True
    )
    schedule: str = choice(
        "exponential",
        ("constant", "exponential", "multistep", "one_cycle"),
        "Learning-rate schedule. exponential: times optimizer.decay after each epoch or step;"
        " multistep: times optimizer.decay at optimizer.boundaries; one_cycle: linear warm-up, then"
        " decay until the last epoch",
    )
    decay: float = real(
        1.0, 0.0, 1.0, "Factor of the learning rate at each decay of the schedule", open_low=True
    )
    decay_every: str = choice(
        "epoch", ("epoch", "step"), "Interval of the exponential schedule's decays"
    )
    boundaries: tuple[int, ...] = integers(
        (), are_rising, _RISING, "Steps at which the multistep schedule decays the learning rate"
    )
    warmup_fraction: float = real(
        0.2, 0.0, 1.0, "Fraction of all steps in which the one-cycle schedule raises the rate"
    )
    final_fraction: float = real(
        0.0,
        0.0,
        1.0,
        "Fraction of the learning rate to which the one-cycle schedule decays it",
    )
    decay_shape: str = choice(
        "linear", ("linear", "cosine"), "Shape of the one-cycle schedule's decay"
    )
    weight_decay: float = real(
        0.0, 0.0, LARGEST, "Weight decay of kernels; in the gradient, but decoupled with adamw"
    )
    head_weight_decay_multiplier: float = real(
        1.0,
        0.0,
        LARGEST,
        "Factor of weight decay in the softmax layer (authors' files of Tables 1 and 3: 10)",
    )
    bias_learning_rate_multiplier: float = real(
        1.0,
        0.0,
        LARGEST,
        "Factor of the learning rate for biases (authors' files of Tables 1 and 3: 2)",
    )
    clip_norm: float = real(0.0, 0.0, LARGEST, "Largest global norm of a gradient; 0: no clipping")


@dataclasses.dataclass(frozen=True)
class Training:
    """Length and loss of training, and the weights that it returns."""

    epochs: int = integer(30, 1, "Number of passes over the training split")
    batch_size: int = integer(
        100, 1, "Examples of a training step; an epoch drops an incomplete last batch"
    )
    label_smoothing: float = real(
        0.0,
        0.0,
        0.999999,
        "Share of the target distribution that is spread evenly over all classes in training;"
        " reported losses are without it",
    )
    weight_average: float = real(
        0.0,
        0.0,
        0.999999,
        "Decay per step of the moving average of the weights that is evaluated, analyzed and"
        " loaded; 0: the weights themselves",
    )


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """When and how the splits are evaluated."""

    every_epochs: int = integer(1, 1, "Epochs between evaluations during training")
    batch_size: int = integer(1000, 1, "Examples evaluated at once")
    test_curve: bool = flag(
        False,
        "Whether the test split is evaluated during training too, as in the authors' logs",
    )


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Random and adaptive search, and successive halving."""

    trials: int = integer(
        0, 0, "Settings drawn for each cell (section 3.1: 100); 0: one trial for each of `seeds`"
    )
    seed: int = integer(0, 0, "Seed of the drawn settings and of their trials", UINT32)
    sampler: str = choice(
        "random",
        ("random", "tpe"),
        "How settings are drawn: all at random, or each round but the first by Optuna's"
        " tree-structured Parzen estimator, given the results of the rounds before",
    )
    ask: int = integer(
        0, 0, "Trials of a cell that are drawn and ranked together, as a round; 0: all of them"
    )
    criterion: str = choice(
        "train_loss",
        ("train_loss", "projected_train_loss", "valid_loss", "valid_accuracy"),
        "Metric by which trials are ranked (section 3.1: train_loss); projected_train_loss: the"
        " training loss projected to the end of training",
    )
    rung_epochs: tuple[int, ...] = integers(
        (),
        are_rising,
        _RISING,
        "Epochs after which the worse trials of a round stop (successive halving); empty: none",
    )
    rung_keeps: tuple[int, ...] = integers(
        (),
        are_falling,
        "a tuple of non-increasing whole numbers, each at least 1",
        "Number of trials of a round that continue after each of sweep.rung_epochs",
    )
    retrain_seeds: tuple[int, ...] = integers(
        (),
        lambda v: v == () or are_seeds(v),
        _SEEDS,
        "Seeds with which the best setting of each cell is trained again",
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """When checkpoints are saved."""

    every_seconds: float = real(
        60.0, 0.0, 1e9, "Seconds between checkpoints; 0: one after every epoch"
    )
    keep: int = integer(2, 1, "Number of newest checkpoints kept of each batch of trials")


@dataclasses.dataclass(frozen=True)
class Runtime:
    """Where and how a run is computed and shown; never what it computes.

    The dropout masks of a module that is given to `run` are an exception: they depend on
    `micro_batch` and `batch_devices`.
    """

    devices: int = integer(0, 0, "Number of devices; 0: all, and on CPU one for every core", 65536)
    batch_devices: int = integer(
        0,
        0,
        "Devices that share each batch of a trial; 0: one for dense nets, else the fastest number",
        65536,
    )
    trial_axis: str = choice(
        "auto",
        ("auto", "map", "vmap"),
        "How a device runs its trials. map: one after another; vmap: all at once; auto: vmap for"
        " dense nets on GPU and TPU, else map",
    )
    max_trials: int = integer(
        0, 0, "Largest number of trials in one program; 0: as many as memory holds"
    )
    micro_batch: int = integer(
        0,
        0,
        "Most examples whose gradient is computed at once; 0: a batch, or 10 for convolutional"
        " nets on CPU",
    )
    chunk_seconds: float = real(
        5.0, 0.0, 1e9, "Longest time in seconds between checks for signals", open_low=True
    )
    compile_cache: str = text("", "Private directory for compiled programs; empty: none are kept")
    tensorboard: bool = flag(True, "Whether TensorBoard events are written")
    gate_maps_every: int = integer(
        0,
        0,
        "Epochs between TensorBoard images of the mean gates (Figure 2), of those that"
        " evaluation.every_epochs includes; 0: no images",
    )
    progress: bool = flag(True, "Whether progress is shown")


@dataclasses.dataclass(frozen=True)
class Record:
    """Services that track the trials of a run besides the files in its directory."""

    wandb: str = text("", "Project of Weights & Biases that tracks the trials; empty: none")
    mlflow: str = text(
        "", "Store of MLflow that tracks the trials: a directory or an address; empty: none"
    )


@dataclasses.dataclass(frozen=True)
class Config:
    """All settings of one trial or run, except cases, `sweep.grid` and `sweep.draw`."""

    name: str = file_name("run", "Name of the run")
    seeds: tuple[int, ...] = integers(
        (0,),
        are_seeds,
        f"{_SEEDS}, at least one",
        "Seeds of the initial weights and of the order of examples; one trial each, for every case",
    )
    data: Data = dataclasses.field(default_factory=Data)
    model: Model = dataclasses.field(default_factory=Model)
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    training: Training = dataclasses.field(default_factory=Training)
    evaluation: Evaluation = dataclasses.field(default_factory=Evaluation)
    sweep: Sweep = dataclasses.field(default_factory=Sweep)
    checkpoint: Checkpoint = dataclasses.field(default_factory=Checkpoint)
    runtime: Runtime = dataclasses.field(default_factory=Runtime)
    record: Record = dataclasses.field(default_factory=Record)

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> "Config":
        """Returns valid settings by dotted key as dataclasses.

        Args:
            settings: A value for every key; further keys are ignored.
        """
        return _build(cls, settings)


def keys() -> dict[str, Key]:
    """Returns every key by its dotted name, in the order of the fields of `Config`."""
    return dict(_keys(Config))


def _keys(section: Any, prefix: str = "") -> Iterator[tuple[str, Key]]:
    for field in dataclasses.fields(section):
        if "key" in field.metadata:
            yield prefix + field.name, field.metadata["key"]
        else:
            yield from _keys(field.default_factory, f"{prefix}{field.name}.")


def _build(section: type[T], settings: Mapping[str, Any], prefix: str = "") -> T:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(section):  # type: ignore[arg-type]
        path = prefix + field.name
        if "key" in field.metadata:
            # A whole number is allowed where a real one is.
            values[field.name] = type(field.default)(settings[path])
        else:
            inner: Any = field.default_factory
            values[field.name] = _build(inner, settings, f"{path}.")
    return section(**values)
