"""The use of a trained net: raw examples in, classes, probabilities or activations out."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int
from ml_collections import ConfigDict

from highway_jax import files
from highway_jax.analysis import restore
from highway_jax.config import config as config_lib
from highway_jax.config.schema import SCHEMA
from highway_jax.data.dataset import load as load_data
from highway_jax.errors import show
from highway_jax.nn import custom
from highway_jax.nn import model as nets
from highway_jax.nn.blocks import BlockActivations
from highway_jax.storage import preprocessing
from highway_jax.storage.preprocessing import SavedPreprocessing
from highway_jax.sweep import outcomes
from highway_jax.sweep.trials import Trial
from highway_jax.training import metrics


class Evaluation(NamedTuple):
    """How well a net classifies examples.

    Attributes:
        loss: Mean cross-entropy in nats.
        accuracy: Share of examples that are classified correctly, from 0 to 1.
    """

    loss: float
    accuracy: float


@dataclasses.dataclass(frozen=True, eq=False)
class TrainedNet:
    """A trained net with the preprocessing that it was trained with.

    All methods take raw examples as the data set holds them, any number of them, and compute them
    in batches of `batch_size`. The last batch is padded, so that each method is compiled once.

    Example:
        >>> import highway_jax
        >>> net = highway_jax.load("runs/digits")  # doctest: +SKIP
        >>> net.predict(images)  # class indices [n]  # doctest: +SKIP
        >>> net.predict_proba(images)  # [n, classes]  # doctest: +SKIP
        >>> (blocks,) = net.activations(images)  # blocks.t [blocks, n, width]  # doctest: +SKIP

    Attributes:
        config: The config that trains this net alone.
        params: The net's parameters, a tree of host arrays.
        preprocessing: How raw examples become inputs, their shape and type, and the classes.
        batch_size: Examples computed together.
        module: The linen module that was trained, or None if the config describes the net.
    """

    config: ConfigDict
    params: Any
    preprocessing: SavedPreprocessing
    batch_size: int = 100
    module: Any = None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The names of the classes, in the order of their indices."""
        return self.preprocessing.class_names

    def apply(self, images: Any) -> Float[np.ndarray, "n classes"]:
        """Returns the logits.

        Args:
            images: Raw examples of the type and shape of the data set [n, ...]. Images of one
                channel may lack the channel axis.

        Raises:
            ValueError: If the examples have another type or shape.
        """
        return self._map(self._logits, self._check(images))

    def predict_proba(self, images: Any) -> Float[np.ndarray, "n classes"]:
        """Returns the probabilities of the classes; see `apply` for the examples."""
        logits = self.apply(images).astype(np.float64)
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return exponentials / exponentials.sum(axis=-1, keepdims=True)

    def predict(self, images: Any) -> Int[np.ndarray, "n"]:
        """Returns the index of the most probable class; see `apply` for the examples."""
        return self.apply(images).argmax(axis=-1)

    def evaluate(self, x: Any, y: Any) -> Evaluation:
        """Returns the mean loss and the accuracy.

        Args:
            x: Raw examples [n, ...], at least one (see `apply`).
            y: Their classes, indices from 0 [n].

        Raises:
            ValueError: If the examples or the classes have another type, shape or range.
        """
        images, labels = self._check(x, "x"), np.asarray(y)
        last = len(self.class_names) - 1
        if not np.issubdtype(labels.dtype, np.integer):
            raise ValueError(f"y is {labels.dtype}; allowed: an integer type")
        if labels.shape != (len(images),) or len(images) == 0:
            raise ValueError(
                f"y has the shape {list(labels.shape)}; allowed: [{max(1, len(images))}], a class"
                " for each example of x"
            )
        if labels.min() < 0 or labels.max() > last:
            raise ValueError(
                f"y has classes from {labels.min()} to {labels.max()}; allowed: 0 to {last}"
            )
        scores = self._map(self._scores, images, labels.astype(np.int32))
        return Evaluation(*(float(np.mean(part, dtype=np.float64)) for part in scores))

    def activations(self, images: Any) -> tuple[BlockActivations, ...]:
        """Returns what the blocks compute; see `apply` for the examples.

        Returns:
            For each stack of identical blocks, in the order of the net, a `BlockActivations` of
            arrays [blocks, n, ..., width]. A dense net has one stack.

        Raises:
            ValueError: If the examples have another type or shape, or the net is a module of the
                user's own, whose blocks are not known.
        """
        return self._map(self._activations, self._check(images), axis=1)

    def _check(self, images: Any, name: str = "images") -> np.ndarray:
        try:
            array, wanted = np.asarray(images), self.preprocessing.example_shape
        except ValueError as error:  # Rows of different lengths.
            raise ValueError(f"{name} is not an array ({error})") from error
        is_float = self.preprocessing.dtype != "uint8"
        if not (np.issubdtype(array.dtype, np.floating) if is_float else array.dtype == np.uint8):
            allowed = "a float type" if is_float else "uint8"
            raise ValueError(f"{name} is {array.dtype}; allowed: {allowed}, as in the data set")
        shapes = [wanted, wanted[:-1]] if len(wanted) == 3 and wanted[-1] == 1 else [wanted]
        if array.shape[1:] not in shapes or array.ndim == 0:
            allowed = " or ".join(f"[n, {', '.join(map(str, shape))}]" for shape in shapes)
            raise ValueError(f"{name} has the shape {list(array.shape)}; allowed: {allowed}")
        array = array.reshape(len(array), *wanted)
        if not is_float:
            return array
        with np.errstate(over="ignore"):
            array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite; allowed: finite float32")
        return array

    def _map(self, function: Callable, images: np.ndarray, *others: np.ndarray, axis: int = 0):
        """Returns a function of batches of examples, joined along the axis of the examples."""
        parts, before = [], (slice(None),) * axis
        for first in range(0, max(1, len(images)), self.batch_size):
            rows = slice(first, first + self.batch_size)
            held = self.preprocessing.constants.held(images[rows])
            size = len(held)
            batch = (_pad(array, self.batch_size) for array in (held, *(a[rows] for a in others)))
            found = function(self._device_params, *batch)
            parts.append(jax.tree.map(lambda a, n=size: np.asarray(a)[(*before, slice(n))], found))
        return jax.tree.map(lambda *arrays: np.concatenate(arrays, axis), *parts)

    @functools.cached_property
    def _model(self) -> nets.Model:
        saved = self.preprocessing
        shape, count = saved.example_shape, len(saved.class_names)
        return nets.build(self.config.model, shape, count, module=self.module)

    @functools.cached_property
    def _device_params(self) -> Any:
        return jax.device_put(self.params)

    @functools.cached_property
    def _logits(self) -> Callable:
        prepare = self.preprocessing.constants.on_device
        return jax.jit(lambda params, images: self._model.apply(params, prepare(images)))

    @functools.cached_property
    def _scores(self) -> Callable:
        def scores(params, images, labels):
            logits = self._logits(params, images)
            return metrics.cross_entropy(logits, labels), logits.argmax(-1) == labels

        return jax.jit(scores)

    @functools.cached_property
    def _activations(self) -> Callable:
        prepare = self.preprocessing.constants.on_device
        return jax.jit(lambda params, images: self._model.activations(params, prepare(images))[1])

    def __getstate__(self) -> dict[str, Any]:
        # Compiled functions cannot be pickled.
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields}


def load(
    workdir: str | Path, trial: int | str = "best", *, batch_size: int = 100, model: Any = None
) -> TrainedNet:
    """Loads a trained net of a run, for use without the data set.

    Args:
        workdir: The run's directory.
        trial: The number of a finished trial, or "best": of the finished trials with the most
            epochs, the one with the highest validation accuracy, or the best by `sweep.criterion`
            if that is a validation metric or the run has no validation split.
        batch_size: Examples that the net computes together.
        model: The linen module that the run trained, if `run` was given one.

    Returns:
        The net, a `TrainedNet`.

    Raises:
        TypeError: If `model` is not a linen module.
        ValueError: If an argument is not allowed, or no trial has finished.
        UserError: If the files of the run cannot be read. A run begun by an earlier version has
            no saved preprocessing: it is computed from the data set, which then must be there.

    Example:
        >>> import highway_jax
        >>> net = highway_jax.load("runs/mnist")  # doctest: +SKIP
        >>> classes = net.predict(images)  # doctest: +SKIP
    """
    path = files.expand("workdir", workdir)
    if not (path / "config.json").is_file():
        raise ValueError(f"workdir is {str(workdir)!r}; allowed: the directory of a run")
    if not _is_integer(batch_size) or batch_size < 1:
        raise ValueError(f"batch_size is {show(batch_size)}; allowed: an integer of at least 1")
    saved = restore.read(path)
    row = _choose(saved, trial)
    chosen = saved.trials[row["trial"]]
    config = _own_config(chosen)
    _check_module(config.model.module, model)
    found = preprocessing.load(preprocessing.path(path, config.data))
    if found is None:
        dataset = load_data(config.data)
        restore.check_data(saved, dataset)
        found = preprocessing.of(config.data, dataset)
    net = nets.build(config.model, found.example_shape, len(found.class_names), module=model)
    params = restore.params(saved, row["batch"], [chosen.index], net)
    params = jax.tree.map(lambda leaf: leaf[0], params)
    return TrainedNet(config, params, found, batch_size, model)


def _check_module(trained: str, module: Any) -> None:
    """Checks that a module is the one that a run trained; "" and None if there is none."""
    if module is not None:
        custom.check(module)
    given = "" if module is None else custom.identity(module)
    if given == trained:
        return
    if not trained:
        raise ValueError(f"model is {given}; allowed: none, as the run's config describes its net")
    name = trained.rpartition("-")[0]
    raise ValueError(
        f"model is {given or None}; allowed: the {name} that the run trained, with the same fields"
        f" ({trained})"
    )


def _choose(saved: restore.Saved, trial: int | str) -> dict[str, Any]:
    """Returns the row of results.csv of the trial to load."""
    ready = {
        row["trial"]: row
        for row in saved.rows
        if row["status"] == outcomes.FINISHED and row["trial"] in saved.trials
    }
    if not ready:
        found = ", ".join(sorted({row["status"] for row in saved.rows})) or "not trained"
        raise ValueError(
            f"workdir is {str(saved.workdir)!r}, whose trials are {found}; allowed: a run with a"
            " trial that is finished"
        )
    if trial == "best":
        sweep: Any = saved.config.sweep
        criterion = sweep.criterion
        has_validation = any(row["valid_accuracy"] >= 0 for row in ready.values())
        if has_validation and not criterion.startswith("valid"):
            criterion = "valid_accuracy"
        most = max(row["epochs"] for row in ready.values())
        rows = (row for row in ready.values() if row["epochs"] == most)
        return min(rows, key=lambda row: outcomes.merit(criterion, row))
    if not _is_integer(trial) or trial not in ready:
        others = {row["trial"]: row["status"] for row in saved.rows} if _is_integer(trial) else {}
        status = f", which is {others[trial]}" if trial in others else ""
        numbers = ", ".join(map(str, ready))
        raise ValueError(
            f"trial is {show(trial)}{status}; allowed: 'best' or a finished trial ({numbers})"
        )
    return ready[trial]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _own_config(trial: Trial) -> ConfigDict:
    """Returns the config of a run of this trial alone."""
    one = {key: entry.default for key, entry in SCHEMA.items() if key.startswith("sweep.")}
    return config_lib.unflatten(trial.settings | one | {"seeds": (trial.seed,)})


def _pad(array: np.ndarray, size: int) -> np.ndarray:
    return np.concatenate([array, np.zeros((size - len(array), *array.shape[1:]), array.dtype)])
