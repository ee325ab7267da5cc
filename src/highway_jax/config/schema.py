"""Every setting of a run in one table: its key, default, type, allowed values and meaning."""

import re
from collections.abc import Callable
from typing import Any, NamedTuple

from highway_jax.nn.architectures import DEPTHS
from highway_jax.registry import DATASETS, Registry


class Key(NamedTuple):
    """One setting.

    Attributes:
        default: Its value unless an experiment or a flag changes it; its type is the key's type.
        check: Whether a value of the right type is allowed.
        allowed: What is allowed, in words.
        doc: What it means, with its unit and, for a number of the paper, where that stands.
    """

    default: Any
    check: Callable[[Any], bool]
    allowed: str
    doc: str


class Rule(NamedTuple):
    """What settings must fulfil together.

    Attributes:
        keys: The settings, the one to blame first.
        check: Whether their values, each allowed by itself, agree.
        allowed: What is allowed at the first key, in words.
    """

    keys: tuple[str, ...]
    check: Callable[..., bool]
    allowed: str


class Use(NamedTuple):
    """Where a setting has an effect.

    Attributes:
        keys: The settings that say so.
        check: Whether it has one, given their values.
        where: The same in words.
    """

    keys: tuple[str, ...]
    check: Callable[..., bool]
    where: str


_MANY = 10**6
_INT32 = 2**31 - 1
_UINT32 = 2**32 - 1
# Settings become float32 numbers on the device: these bounds keep them finite there.
_LARGE = 1e30


def is_name(value: Any) -> bool:
    """Returns whether a value can name a run or a case, and so files."""
    return isinstance(value, str) and bool(re.fullmatch(r"[A-Za-z0-9_][\w.+=-]{0,99}", value, re.A))


NAME = "1 to 100 letters, digits and _ . + = -, beginning with a letter, a digit or _"


def _whole(default: int, low: int, doc: str, high: int = _MANY) -> Key:
    return Key(default, lambda v: low <= v <= high, f"a whole number from {low} to {high}", doc)


def _real(default: float, low: float, high: float, doc: str, *, open_low: bool = False) -> Key:
    words = f"a number {'above' if open_low else 'from'} {low:g} to {high:g}"
    # NaN fails every comparison.
    return Key(default, lambda v: (low < v if open_low else low <= v) and v <= high, words, doc)


def _choice(default: str, options: tuple[str, ...], doc: str) -> Key:
    return Key(default, lambda v: v in options, ", ".join(options), doc)


class _RegisteredKey(Key):
    """A setting whose value is a name of a registry, which is read when it is needed."""

    @property
    def allowed(self) -> str:
        return ", ".join(super().allowed)


def _registered(default: str, registry: Registry, doc: str) -> Key:
    return _RegisteredKey(default, lambda v: v in registry, registry, doc)


def _text(default: str, doc: str) -> Key:
    return Key(default, str.isprintable, "text without control characters", doc)


def _flag(default: bool, doc: str) -> Key:
    return Key(default, lambda v: True, "True or False", doc)


def _wholes(default: tuple[int, ...], check: Callable, allowed: str, doc: str) -> Key:
    def check_all(values):
        return all(type(v) is int for v in values) and check(values)

    return Key(default, check_all, allowed, doc)


def _are_seeds(values: tuple[int, ...]) -> bool:
    different = len(set(values)) == len(values) > 0
    return different and all(0 <= seed <= _UINT32 for seed in values)


def _are_rising(values: tuple[int, ...]) -> bool:
    return all(a < b for a, b in zip((0, *values), (*values, _INT32 + 1), strict=True))


_ACTIVATIONS = ("relu", "tanh", "sigmoid", "elu", "gelu", "silu", "identity")
_INITIALIZERS = (
    "normalized",
    "msra",
    "he_normal",
    "he_uniform",
    "glorot_normal",
    "glorot_uniform",
    "lecun_normal",
)
_END_INITIALIZERS = ("same", *_INITIALIZERS, "unit_normal", "tenth_normal", "twentieth_normal")

SCHEMA: dict[str, Key] = {
    "name": Key("run", is_name, NAME, "names the run"),
    "seeds": _wholes(
        (0,),
        _are_seeds,
        f"a tuple of different whole numbers from 0 to {_UINT32}, at least one",
        "one trial each, for every case; the seed draws weights and batches",
    ),
    "data.name": _registered("digits", DATASETS, "the data set"),
    "data.file": _text("", "the .npz file with the arrays of `data.name=file`"),
    "data.valid_size": _whole(0, 0, "training examples set aside for validation"),
    "data.split_seed": _whole(0, 0, "draws which examples these are", _UINT32),
    "data.scaling": _choice(
        "unit",
        ("unit", "caffe", "signed", "contrast"),
        "pixels to [0, 1]; [0, 255/256], as in Caffe; [-1, 1]; or every image to one contrast",
    ),
    "data.contrast_std": _real(
        1.0, 0.0, 1e6, "of an image's numbers with scaling `contrast` (section 3.3)", open_low=True
    ),
    "data.zca_epsilon": _real(
        0.0, 0.0, 1e6, "ZCA whitening, and what it adds to each component's variance; 0: none"
    ),
    "data.subtract_mean": _flag(False, "subtract the training set's mean image"),
    "data.pad": _whole(0, 0, "pixels of border from which training images are cropped", 1000),
    "data.mirror": _flag(False, "mirror half of the training images, drawn at random"),
    "data.dir": _text("", "prepared TFDS datasets; empty: $TFDS_DATA_DIR, ~/tensorflow_datasets"),
    "data.cache_dir": _text("", "decoded arrays; empty: the user's cache directory"),
    "data.download": _flag(True, "whether the network may be used"),
    "model.block": _choice("highway", ("highway", "plain", "residual"), "the equation repeated"),
    "model.architecture": _choice(
        "dense", ("dense", *DEPTHS), "fully connected (section 3.1), or a net of Tables 1 to 3"
    ),
    "model.depth": _whole(
        50, 1, "hidden layers of a dense net: one plain, then depth - 1 blocks (section 3.1)"
    ),
    "model.width": _whole(
        50, 1, "units a layer: 50 highway, 71 plain (section 3.1); or maps of the first stage"
    ),
    "model.activation": _choice("relu", _ACTIVATIONS, "the f of H; relu or tanh (section 3.1)"),
    "model.initializer": _choice("normalized", _INITIALIZERS, "draws the kernels"),
    "model.first_initializer": _choice("same", _END_INITIALIZERS, "draws the first layer's"),
    "model.last_initializer": _choice("same", _END_INITIALIZERS, "draws the softmax layer's"),
    "model.dropout": _flag(True, "the dropout of a convolutional net"),
    "model.gate": _choice("coupled", ("coupled", "separate"), "C = 1 - T, or a gate of its own"),
    "model.transform_bias": _real(-2.0, -1e3, 1e3, "initial b_T; -1 to -10 in section 3.1"),
    "model.carry_bias": _real(1.0, -1e3, 1e3, "initial b_C of a separate carry gate"),
    "model.remat": _choice(
        "products", ("none", "products", "full"), "what the backward pass computes again"
    ),
    "model.dtype": _choice("float32", ("float32", "bfloat16"), "compute type; weights: float32"),
    "model.precision": _choice(
        "float32",
        ("float32", "tensorfloat32", "bfloat16"),
        "of float32 products; the lower are faster on GPU and TPU, and on CPU no other",
    ),
    "optimizer.learning_rate": _real(
        0.05, 1e-12, _LARGE, "initial rate, without a (1 - momentum) factor"
    ),
    "optimizer.momentum": _real(0.9, 0.0, 0.999999, "of the velocity"),
    "optimizer.nesterov": _flag(False, "Nesterov's momentum instead of the classical"),
    "optimizer.schedule": _choice(
        "exponential",
        ("constant", "exponential", "steps"),
        "how the rate falls: by `decay` every epoch or step, or at `boundaries`",
    ),
    "optimizer.decay": _real(1.0, 0.0, 1.0, "factor of the rate at each decay", open_low=True),
    "optimizer.decay_every": _choice("epoch", ("epoch", "step"), "unit of exponential decay"),
    "optimizer.boundaries": _wholes(
        (),
        _are_rising,
        f"a tuple of rising whole numbers from 1 to {_INT32}",
        "steps at which the schedule `steps` multiplies the rate by `decay`",
    ),
    "optimizer.weight_decay": _real(0.0, 0.0, _LARGE, "L2 in the gradient of kernels, not biases"),
    "optimizer.last_decay_factor": _real(
        1.0, 0.0, _LARGE, "times `weight_decay` in the softmax layer; 10 in the authors' files"
    ),
    "optimizer.bias_rate_factor": _real(
        1.0, 0.0, _LARGE, "times the rate for biases; 2 in the authors' files"
    ),
    "optimizer.clip_norm": _real(0.0, 0.0, _LARGE, "largest norm of a gradient; 0: no clipping"),
    "training.epochs": _whole(10, 1, "passes over the training split"),
    "training.batch_size": _whole(100, 1, "examples a step; an epoch drops the remainder"),
    "evaluation.every_epochs": _whole(1, 1, "epochs between points of the curves"),
    "evaluation.batch_size": _whole(1000, 1, "examples evaluated at a time"),
    "evaluation.test_curve": _flag(
        False, "evaluate the test split on the way too, as the authors' logs do; selects nothing"
    ),
    "sweep.trials": _whole(0, 0, "settings drawn for each cell; 0: one trial for each of `seeds`"),
    "sweep.seed": _whole(0, 0, "draws the settings and the seeds of their trials", _UINT32),
    "sweep.criterion": _choice(
        "train_loss",
        ("train_loss", "projected_train_loss", "valid_loss", "valid_accuracy"),
        "what the best trial is best in; the paper's is the training loss (section 3.1); projected:"
        " as it will end",
    ),
    "sweep.rung_epochs": _wholes(
        (),
        _are_rising,
        f"a tuple of rising whole numbers from 1 to {_INT32}",
        "epochs after which the worse trials of a cell are dropped; empty: none are",
    ),
    "sweep.rung_keeps": _wholes(
        (),
        lambda v: all(a >= b >= 1 for a, b in zip((_INT32, *v), v, strict=False)),
        "a tuple of falling whole numbers of at least 1",
        "trials kept at each of `rung_epochs`",
    ),
    "sweep.retrain_seeds": _wholes(
        (),
        lambda v: v == () or _are_seeds(v),
        f"a tuple of different whole numbers from 0 to {_UINT32}",
        "seeds with which the best setting of a cell is trained again",
    ),
    "checkpoint.every_seconds": _real(60.0, 0.0, 1e9, "between checkpoints; 0: every epoch"),
    "checkpoint.keep": _whole(2, 1, "newest checkpoints kept of each batch of trials"),
    "runtime.devices": _whole(0, 0, "devices to use; 0: all, and on CPU one for every core", 65536),
    "runtime.trial_axis": _choice(
        "auto",
        ("auto", "map", "vmap"),
        "trials of a device in turn or at once; auto: at once for dense nets, but not on CPU",
    ),
    "runtime.max_trials": _whole(0, 0, "most trials of one program; 0: what memory holds"),
    "runtime.micro_batch": _whole(
        0,
        0,
        "most examples of a batch computed at once; 0: all, but on CPU 10 for convolutional nets",
    ),
    "runtime.chunk_seconds": _real(
        5.0, 0.0, 1e9, "longest compiled stretch between looks at signals", open_low=True
    ),
    "runtime.compile_cache": _text(
        "", "directory for compiled programs, of this user's alone; empty: compile at each start"
    ),
    "runtime.tensorboard": _flag(True, "write TensorBoard events"),
    "runtime.gate_maps_every": _whole(
        0, 0, "epochs between pictures of the mean gates in TensorBoard (Figure 2); 0: none"
    ),
    "runtime.progress": _flag(True, "show progress"),
}
"""All settings but `cases`, `sweep.grid` and `sweep.draw`, by dotted key."""

DISTRIBUTIONS = {
    "uniform": "('uniform', low, high)",
    "log_uniform": "('log_uniform', low, high) with low above 0",
    "integer": "('integer', low, high), both ends drawn too",
    "choice": "('choice', value, value, ...)",
}
"""What `sweep.draw` draws from, each with how it is written."""

RULES: tuple[Rule, ...] = (
    *(
        Rule(
            ("model.depth", "model.architecture"),
            lambda depth, net, name=name, layers=layers: net != name or depth == layers,
            f"{layers} where model.architecture is {name!r}",
        )
        for name, layers in DEPTHS.items()
    ),
    Rule(
        ("optimizer.boundaries", "optimizer.schedule"),
        lambda boundaries, schedule: schedule != "steps" or len(boundaries) > 0,
        "at least one step where optimizer.schedule is 'steps'",
    ),
    Rule(
        ("optimizer.boundaries", "optimizer.schedule"),
        lambda boundaries, schedule: schedule == "steps" or len(boundaries) == 0,
        "() unless optimizer.schedule is 'steps'",
    ),
    Rule(
        ("data.file", "data.name"),
        lambda file, name: (name == "file") == bool(file),
        "the path of an .npz file where data.name is 'file', '' elsewhere",
    ),
    Rule(
        ("sweep.rung_keeps", "sweep.rung_epochs"),
        lambda keeps, epochs: len(keeps) == len(epochs),
        "as many numbers as sweep.rung_epochs has",
    ),
    Rule(
        ("sweep.rung_epochs", "sweep.trials"),
        lambda epochs, trials: trials > 0 or len(epochs) == 0,
        "() unless sweep.trials is above 0",
    ),
    Rule(
        ("sweep.retrain_seeds", "sweep.trials"),
        lambda seeds, trials: trials > 0 or len(seeds) == 0,
        "() unless sweep.trials is above 0",
    ),
    Rule(
        ("sweep.criterion", "data.valid_size"),
        lambda criterion, valid_size: valid_size > 0 or not criterion.startswith("valid"),
        "train_loss or projected_train_loss where data.valid_size is 0",
    ),
)
"""What settings must fulfil together, once each is allowed by itself."""

_GATES = Use(
    ("model.block", "model.depth"),
    lambda block, depth: block == "highway" and depth > 1,
    "in highway nets of more than one layer",
)

USES: dict[str, Use] = {
    "data.split_seed": Use(
        ("data.valid_size",), lambda size: size > 0, "where data.valid_size is above 0"
    ),
    "data.contrast_std": Use(
        ("data.scaling",), lambda scaling: scaling == "contrast", "where data.scaling is 'contrast'"
    ),
    "model.dropout": Use(
        ("model.architecture",), lambda net: net != "dense", "in convolutional nets"
    ),
    "model.gate": _GATES,
    "model.transform_bias": _GATES,
    "model.carry_bias": Use(
        (*_GATES.keys, "model.gate"),
        lambda block, depth, gate: _GATES.check(block, depth) and gate == "separate",
        f"{_GATES.where}, where model.gate is 'separate'",
    ),
    "optimizer.decay": Use(
        ("optimizer.schedule",),
        lambda schedule: schedule != "constant",
        "where optimizer.schedule is not 'constant'",
    ),
    "optimizer.decay_every": Use(
        ("optimizer.schedule",),
        lambda schedule: schedule == "exponential",
        "where optimizer.schedule is 'exponential'",
    ),
    "optimizer.last_decay_factor": Use(
        ("optimizer.weight_decay",),
        lambda decay: decay > 0,
        "where optimizer.weight_decay is above 0",
    ),
}
"""Settings that some trainings do not depend on; all others have an effect everywhere.

`optimizer.boundaries` and `data.file` are not among them: `RULES` refuse them where they are not
used.
"""
