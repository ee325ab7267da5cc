"""A scikit-learn classifier that trains a dense highway net."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

try:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_is_fitted, validate_data
except ModuleNotFoundError as error:
    raise ImportError(
        "HighwayClassifier needs scikit-learn; install it with pip install 'highway-jax[sklearn]'"
    ) from error

from highway_jax.analysis.predict import TrainedNet
from highway_jax.config import config as config_lib
from highway_jax.config.schema import SCHEMA
from highway_jax.data import preprocess
from highway_jax.data.dataset import Dataset, Split
from highway_jax.errors import UserError, show, suggestion
from highway_jax.storage import preprocessing
from highway_jax.sweep import planning
from highway_jax.training import train
from highway_jax.training.program import Program

_KEYS = {
    "depth": "model.depth",
    "width": "model.width",
    "block": "model.block",
    "activation": "model.activation",
    "transform_bias": "model.transform_bias",
    "learning_rate": "optimizer.learning_rate",
    "momentum": "optimizer.momentum",
    "decay": "optimizer.decay",
    "weight_decay": "optimizer.weight_decay",
    "epochs": "training.epochs",
    "batch_size": "training.batch_size",
}
"""The config keys of the parameters of `HighwayClassifier`."""

_SETTINGS = tuple(
    key
    for key in SCHEMA
    if key.startswith(("model.", "optimizer.", "training.", "runtime."))
    or key in ("data.scaling", "data.subtract_mean", "data.zca_epsilon", "evaluation.batch_size")
)
"""The config keys that have an effect on a classifier of vectors."""


class HighwayClassifier(ClassifierMixin, BaseEstimator):
    """A fully connected highway net as a scikit-learn classifier.

    It is trained by the same compiled program as a run, but writes no files. Features reach the net
    as float32 values and are not scaled: put a `StandardScaler` before it in a pipeline where they
    have different units.

    Args:
        depth: Hidden layers.
        width: Units of each hidden layer.
        block: "highway", "residual", "plain" or another registered block.
        activation: The activation function of H.
        transform_bias: Initial transform-gate bias b_T.
        learning_rate: Initial learning rate.
        momentum: Momentum.
        decay: Factor of the learning rate after each epoch.
        weight_decay: L2 coefficient of the kernels.
        epochs: Passes over the training examples.
        batch_size: Examples of a step, at most as many as there are.
        random_state: Seed of the initial weights and of the order of the examples.
        settings: Further settings by config key, such as {"optimizer.clip_norm": 1.0}.

    Attributes:
        classes_: The class labels.
        net_: The `TrainedNet`.
        n_features_in_: Number of features.

    Example:
        >>> from sklearn.datasets import load_iris
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.preprocessing import StandardScaler
        >>> from highway_jax import HighwayClassifier
        >>> x, y = load_iris(return_X_y=True)
        >>> net = HighwayClassifier(depth=3, width=16, epochs=20, random_state=0)
        >>> bool(make_pipeline(StandardScaler(), net).fit(x, y).score(x, y) > 0.9)
        True
    """

    def __init__(
        self,
        depth: int = 10,
        width: int = 50,
        block: str = "highway",
        activation: str = "relu",
        transform_bias: float = -2.0,
        learning_rate: float = 0.05,
        momentum: float = 0.9,
        decay: float = 1.0,
        weight_decay: float = 0.0,
        epochs: int = 20,
        batch_size: int = 32,
        random_state: Any = None,
        settings: Mapping[str, Any] | None = None,
    ):
        self.depth = depth
        self.width = width
        self.block = block
        self.activation = activation
        self.transform_bias = transform_bias
        self.learning_rate = learning_rate
        self.momentum = momentum
        self.decay = decay
        self.weight_decay = weight_decay
        self.epochs = epochs
        self.batch_size = batch_size
        self.random_state = random_state
        self.settings = settings

    def fit(self, X: Any, y: Any) -> "HighwayClassifier":
        """Trains the net.

        Args:
            X: Features [n, features].
            y: Class labels [n].

        Raises:
            TypeError: If `settings` is not a mapping.
            ValueError: If the features, the labels, a parameter or a setting is not allowed, or the
                training diverges.
        """
        X, y = validate_data(self, X, y, dtype=np.float32, ensure_min_samples=2)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        split = Split(np.ascontiguousarray(X), labels.astype(np.int32))
        none = Split(split.images[:0], split.labels[:0])
        dataset = Dataset("X", split, none, none, tuple(map(str, self.classes_)))
        config = self._config(split.size)
        try:
            preprocess.check(config, dataset)
            (batch,) = planning.plan(config, [])
            program = Program(batch, dataset)
        except UserError as error:
            raise _as_value_error(error) from None
        state = program.create(batch.hyperparameters())
        for _ in range(batch.epochs):
            state = program.train(state, program.steps_per_epoch)
        if program.trials.fetch(state.diverged)[0]:
            raise ValueError(
                f"training diverged with learning_rate={self.learning_rate}: the loss is not"
                " finite; allowed: a smaller one, or features that a StandardScaler scales"
            )
        params = program.trials.fetch(train.weights(state))
        self.net_ = TrainedNet(
            config,
            jax.tree.map(lambda leaf: leaf[0], params),
            preprocessing.of(config.data, dataset),
            batch_size=config.evaluation.batch_size,
        )
        return self

    def predict(self, X: Any) -> np.ndarray:
        """Returns the most probable class label of each row of X [n, features]."""
        X = self._check(X)
        return np.asarray(self.classes_)[self.net_.predict(X)]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Returns the probabilities of `classes_` for each row of X: [n, classes]."""
        X = self._check(X)
        return self.net_.predict_proba(X)

    def _check(self, X: Any) -> np.ndarray:
        check_is_fitted(self)
        checked: Any = validate_data(self, X, dtype=np.float32, reset=False)
        return checked

    def _config(self, num_examples: int) -> Any:
        if not isinstance(self.settings, Mapping | None):
            raise TypeError(
                f"settings is {show(self.settings)}; allowed: None, or a dict of values by config"
                " key, such as {'optimizer.clip_norm': 1.0}"
            )
        own = {key: getattr(self, name) for name, key in _KEYS.items()}
        # A random search draws NumPy numbers.
        own = {k: v.item() if isinstance(v, np.generic) else v for k, v in own.items()}
        if isinstance(own["training.batch_size"], int):
            own["training.batch_size"] = min(own["training.batch_size"], num_examples)
        own |= {
            "evaluation.batch_size": 100,
            "data.name": "arrays",
            "seeds": (int(check_random_state(self.random_state).randint(2**31 - 1)),),
        }
        settings = dict(self.settings or {})
        for key in settings:
            if key not in _SETTINGS:
                near = suggestion(str(key), _SETTINGS)
                raise ValueError(
                    f"settings has the key {show(key)}; allowed: keys of model, optimizer, training"
                    " and runtime, data.scaling, data.subtract_mean, data.zca_epsilon and"
                    f" evaluation.batch_size{f'; {near}' if near else ''}"
                )
        values = config_lib.flatten(config_lib.default_config()) | own | settings
        config = config_lib.unflatten(values)
        try:
            config_lib.validate(config)
        except UserError as error:
            raise _as_value_error(error) from None
        return config


def _as_value_error(error: UserError) -> ValueError:
    """Returns an error of a config in terms of the classifier's parameters."""
    text = str(error)
    for name, key in _KEYS.items():
        text = text.replace(f"config.{key} ", f"{name} ")
    return ValueError(text.replace("config.", ""))
