"""Data sets as host arrays: examples, labels, and the split into training, validation and test.

A data set is one function, registered under its name: it takes the `data` section of a config and
returns a `Dataset`. The validation split is drawn here, in the same way for all of them.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from highway_jax.errors import UserError, show
from highway_jax.registry import DATASETS

_MAX_CLASSES = 100_000


def register_dataset(name: str) -> Callable[[Callable[[Any], "Dataset"]], Callable]:
    """Returns a decorator that registers a data set, which `data.name` can then choose.

    The decorated function takes the `data` section of a config and returns the data set without a
    validation split; the examples of the validation split are drawn from the training split.

    Args:
        name: The value of `data.name`, a Python identifier.

    Raises:
        ValueError: If the name is not an identifier or is already registered.

    Example:
        >>> import numpy as np
        >>> import highway_jax
        >>> @highway_jax.register_dataset("xor")
        ... def load_xor(data):
        ...     x = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.float32)
        ...     y = np.array([0, 1, 1, 0])
        ...     return highway_jax.Dataset.from_arrays(x, y, x, y, name="xor")
        >>> config = highway_jax.default_config()
        >>> config.data.name = "xor"
    """
    return DATASETS.register(name)


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """The examples of one split.

    Attributes:
        images: Examples, C-contiguous: images [n, height, width, channels] or vectors
            [n, features].
        labels: Classes, counted from 0 [n].
    """

    images: UInt8[np.ndarray, "n *shape"] | Float32[np.ndarray, "n *shape"]
    labels: Int32[np.ndarray, " n"]

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """A data set as three disjoint splits.

    Attributes:
        name: Its name in messages.
        train: The training split without the validation examples, in the original order.
        valid: The validation split, drawn from the training examples; it may be empty.
        test: The test split.
        class_names: The names of the classes, in the order of their labels.
        max_value: The largest value that a pixel of uint8 images can have. Float examples are not
            scaled by it.
    """

    name: str
    train: Split
    valid: Split
    test: Split
    class_names: tuple[str, ...]
    max_value: int = 255

    @classmethod
    def from_arrays(
        cls,
        x_train: Any,
        y_train: Any,
        x_test: Any,
        y_test: Any,
        *,
        class_names: Sequence[str] | None = None,
        name: str = "arrays",
        max_value: int = 255,
    ) -> "Dataset":
        """Makes a data set of arrays.

        Args:
            x_train: Training examples: images [n, height, width] or [n, height, width, channels],
                or vectors [n, features]. Either uint8 pixels or finite floats, which are converted
                to float32.
            y_train: Their classes, integers from 0 [n].
            x_test: Test examples of the same type and shape.
            y_test: Their classes.
            class_names: A name for each class; by default "0", "1" and so on, up to the largest
                label.
            name: The data set's name in messages.
            max_value: The largest value that a pixel of uint8 images can have.

        Returns:
            The data set, with an empty validation split.

        Raises:
            TypeError: If an array has a type that is not allowed.
            ValueError: If a shape or a value is not allowed.

        Example:
            >>> import numpy as np
            >>> from highway_jax import Dataset
            >>> x, y = np.zeros((6, 28, 28), np.uint8), np.array([0, 1, 2, 0, 1, 2])
            >>> dataset = Dataset.from_arrays(x, y, x[:3], y[:3], class_names=["a", "b", "c"])
            >>> dataset.example_shape, dataset.num_classes
            ((28, 28, 1), 3)
        """
        if not isinstance(name, str):
            raise TypeError(f"name is {show(name)}; allowed: a string")
        if type(max_value) is not int or not 1 <= max_value <= 255:
            raise ValueError(f"max_value is {show(max_value)}; allowed: an integer from 1 to 255")
        names = None if class_names is None else _check_class_names(class_names)
        train = _make_split("train", x_train, y_train, names, max_value)
        test = _make_split("test", x_test, y_test, names, max_value)
        if train.images.dtype != test.images.dtype:
            raise TypeError(
                f"x_test is {test.images.dtype}; allowed: {train.images.dtype}, as x_train is"
            )
        if train.images.shape[1:] != test.images.shape[1:]:
            raise ValueError(
                f"x_test has examples of the shape {list(test.images.shape[1:])}; allowed:"
                f" {list(train.images.shape[1:])}, as x_train has"
            )
        if names is None:
            num_classes = 1 + max(int(split.labels.max()) for split in (train, test))
            names = tuple(map(str, range(num_classes)))
        none = Split(train.images[:0], train.labels[:0])
        return cls(name, train, none, test, names, max_value)

    @property
    def num_classes(self) -> int:
        """Number of classes; labels are 0 to `num_classes` - 1."""
        return len(self.class_names)

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Shape of one example: (height, width, channels), or (features,)."""
        return self.train.images.shape[1:]

    @functools.cached_property
    def fingerprint(self) -> str:
        """SHA-256 of all that training depends on, in hexadecimal; computed once.

        It is that of the arrays alone if the classes have no names of their own and pixels no
        `max_value` of their own.
        """
        splits = (self.train, self.valid, self.test)
        largest = max(int(split.labels.max()) for split in splits if split.size)
        max_value = self.max_value if self.train.images.dtype == np.uint8 else 255
        if max_value == 255 and self.class_names == tuple(map(str, range(largest + 1))):
            return self.arrays_fingerprint
        content = json.dumps([self.arrays_fingerprint, max_value, self.class_names])
        return hashlib.sha256(content.encode()).hexdigest()

    @functools.cached_property
    def arrays_fingerprint(self) -> str:
        """SHA-256 of the arrays of all splits, in hexadecimal; computed once.

        It was the `fingerprint` in early runs of version 0.1.0.
        """
        digest = hashlib.sha256()
        for split in (self.train, self.valid, self.test):
            if split.images.dtype != np.uint8:
                digest.update(f"{split.images.dtype}".encode())
            digest.update(f"{split.images.shape}".encode())
            digest.update(split.images.data)
            digest.update(split.labels.astype("<i4").data)
        return digest.hexdigest()

    def with_validation(self, size: int, seed: int = 0) -> "Dataset":
        """Returns the data set with a validation split drawn from its training examples.

        The validation split consists of the first `size` training examples in the order of a
        random permutation, which sorts the 64-bit values that NumPy's PCG64 generator draws for
        the examples. NumPy guarantees this generator's stream, so the split is the same on every
        machine. Both parts keep the original order.

        Args:
            size: Number of validation examples; 0 for none.
            seed: Seed of the permutation.

        Raises:
            UserError: If the size or the seed is out of range.
            ValueError: If the data set already has a validation split.
        """
        if self.valid.size:
            raise ValueError(
                f"dataset has a validation split of {self.valid.size} examples; allowed: none, as"
                " config.data.valid_size draws it"
            )
        check_validation(self.name, self.train.size, size, seed)
        is_valid = np.zeros(self.train.size, bool)
        is_valid[permutation(self.train.size, seed)[:size]] = True
        images, labels = self.train.images, self.train.labels
        return dataclasses.replace(
            self,
            train=Split(images[~is_valid], labels[~is_valid]),
            valid=Split(images[is_valid], labels[is_valid]),
        )


def load(data: Any) -> Dataset:
    """Loads the data set that the `data` section of a config describes, and splits it.

    Raises:
        UserError: If a value is out of range, or the data cannot be obtained or are invalid.
        TypeError: If a registered function returns no `Dataset`.
    """
    if data.name not in DATASETS:
        raise UserError(f"data.name={data.name!r}: allowed: {', '.join(DATASETS)}")
    dataset = DATASETS[data.name](data)
    if not isinstance(dataset, Dataset):
        raise TypeError(
            f"data set {data.name!r} is {show(dataset)}; allowed: a highway_jax.Dataset, which the"
            " registered function returns"
        )
    return dataset.with_validation(data.valid_size, data.split_seed)


def check_validation(name: str, num_train: int, size: int, seed: int) -> None:
    """Checks the size and the seed of a validation split.

    Args:
        name: The data set's name.
        num_train: Number of its training examples.
        size: `data.valid_size`.
        seed: `data.split_seed`.

    Raises:
        UserError: If one is out of range.
    """
    if not 0 <= size < num_train:
        raise UserError(
            f"data.valid_size={size}: allowed: 0 to {num_train - 1}, as {name} has {num_train}"
            " training examples"
        )
    if seed < 0:
        raise UserError(f"data.split_seed={seed}: allowed: 0 or more")


def permutation(size: int, seed: int) -> np.ndarray:
    """Returns a random permutation [size] that is the same for every version of NumPy."""
    # The stream of Generator.permutation may change between versions.
    return np.argsort(np.random.PCG64(seed).random_raw(size), kind="stable")


def _make_split(part: str, x: Any, y: Any, names: tuple[str, ...] | None, max_value: int) -> Split:
    examples, labels = _to_array(f"x_{part}", x), _to_array(f"y_{part}", y)
    if examples.dtype != np.uint8 and not np.issubdtype(examples.dtype, np.floating):
        raise TypeError(f"x_{part} is {examples.dtype}; allowed: uint8 or a float type")
    if examples.ndim not in (2, 3, 4) or 0 in examples.shape:
        raise ValueError(
            f"x_{part} has the shape {list(examples.shape)}; allowed: [n, features],"
            " [n, height, width] or [n, height, width, channels], none of them 0"
        )
    if not np.issubdtype(labels.dtype, np.integer):
        raise TypeError(f"y_{part} is {labels.dtype}; allowed: an integer type")
    if labels.shape != (len(examples),):
        raise ValueError(
            f"y_{part} has the shape {list(labels.shape)}; allowed: [{len(examples)}], a label for"
            f" each example of x_{part}"
        )
    if examples.dtype != np.uint8:
        with np.errstate(over="ignore"):
            examples = examples.astype(np.float32)
        if not np.isfinite(examples).all():
            raise ValueError(f"x_{part} has values that are not finite; allowed: finite float32")
    elif (largest := examples.max()) > max_value:
        raise ValueError(
            f"x_{part} has pixels of up to {largest}; allowed: up to {max_value}, the max_value"
        )
    most, why = _MAX_CLASSES, "as each class has an output of its own"
    if names is not None:
        most, why = len(names), "the labels of class_names"
    if labels.min() < 0 or labels.max() >= most:
        raise ValueError(
            f"y_{part} has labels from {labels.min()} to {labels.max()}; allowed: 0 to"
            f" {most - 1}, {why}"
        )
    if examples.ndim == 3:
        examples = examples[..., None]
    return Split(np.ascontiguousarray(examples), labels.astype(np.int32))


def _to_array(name: str, value: Any) -> np.ndarray:
    try:
        return np.asarray(value)
    except ValueError as error:  # Rows of different lengths.
        raise ValueError(f"{name} is not an array ({error})") from error


def _check_class_names(class_names: Any) -> tuple[str, ...]:
    is_sequence = isinstance(class_names, Iterable) and not isinstance(class_names, str)
    names = tuple(class_names) if is_sequence else ()
    if not names or not all(isinstance(name, str) for name in names):
        raise TypeError(f"class_names is {show(class_names)}; allowed: a sequence of strings")
    if len(set(names)) < len(names):
        raise ValueError(f"class_names is {show(class_names)}; allowed: different names")
    return tuple(map(str, names))
