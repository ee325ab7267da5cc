"""Results that the paper reports.

Tables 1 to 3 are quoted as printed. The values of Figure 1 are read off its image, to about 10 % on
its logarithmic axis. `author_curve` returns the test curves of the logs that the authors published.
"""

import csv
from importlib import resources
from typing import NamedTuple

import numpy as np


class Published(NamedTuple):
    """A row of a table.

    Attributes:
        network: Name of the net in the paper.
        layers: Number of layers, if stated.
        parameters: Number of parameters, as printed.
        accuracies: Test accuracy of each column in %, as printed.
        ours: (architecture, width, dataset) of our nets that are compared with it, for each column.
    """

    network: str
    layers: str
    parameters: str
    accuracies: tuple[str, ...]
    ours: tuple[tuple[str, int, str], ...] = ()


class Table(NamedTuple):
    """A table of the paper.

    Attributes:
        title: Heading of its section.
        columns: Headings of the accuracies.
        rows: Rows.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[Published, ...]


TABLES: dict[str, Table] = {
    "table1": Table(
        "Table 1: convolutional nets on MNIST",
        ("MNIST",),
        (
            Published("Maxout", "", "420 K", ("99.55",)),
            Published("DSN", "", "350 K", ("99.61",)),
            Published(
                "Highway, width 16", "10", "39 K", ("99.43 (99.4 ± 0.03)",),
                (("mnist10", 16, "mnist"),),
            ),
            Published(
                "Highway, width 32", "10", "151 K", ("99.55 (99.54 ± 0.02)",),
                (("mnist10", 32, "mnist"),),
            ),
        ),
    ),
    "table2": Table(
        "Table 2: highway nets and FitNets on CIFAR-10",
        ("CIFAR-10",),
        (
            Published("FitNets' teacher", "5", "~9M", ("90.18",)),
            Published("FitNet A", "11", "~250K", ("89.01",)),
            Published("FitNet B", "19", "~2.5M", ("91.61",)),
            Published("Highway A", "11", "~236K", ("89.18",), (("highway_a", 16, "cifar10"),)),
            Published(
                "Highway B", "19", "~2.3M", ("92.46 (92.28 ± 0.16)",),
                (("highway_b", 32, "cifar10"),),
            ),
            Published("Highway C", "32", "~1.25M", ("91.20",), (("highway_c", 32, "cifar10"),)),
        ),
    ),
    "table3": Table(
        "Table 3: CIFAR-10 and CIFAR-100",
        ("CIFAR-10", "CIFAR-100"),
        (
            Published("Maxout", "", "", ("90.62", "61.42")),
            Published("dasNet", "", "", ("90.78", "66.22")),
            Published("NiN", "", "", ("91.19", "64.32")),
            Published("DSN", "", "", ("92.03", "65.43")),
            Published("All-CNN", "", "", ("92.75", "66.29")),
            Published(
                "Highway", "19", "", ("92.40 (92.31 ± 0.12)", "67.76 (67.61 ± 0.15)"),
                (("cifar19", 32, "cifar10"), ("cifar19", 32, "cifar100")),
            ),
        ),
    ),
}  # fmt: skip

FIGURE1_EPOCHS = (50, 75, 100, 150, 200, 300, 400)
"""Epochs at which the curves of Figure 1 were read."""

FIGURE1_BEST: dict[tuple[str, int], tuple[float, ...]] = {
    ("plain", 10): (2.7e-3, 1.6e-4, 2.2e-5, 9.5e-6, 7.8e-6, 6.9e-6, 6.7e-6),
    ("plain", 20): (5.9e-3, 9e-4, 1.4e-4, 3.2e-5, 1.9e-5, 1.4e-5, 1.35e-5),
    ("plain", 50): (1.5e-2, 7.7e-3, 3.5e-3, 2.4e-3, 1.7e-3, 1.5e-3, 1.3e-3),
    ("plain", 100): (7.8e-2, 5.0e-2, 3.8e-2, 3.4e-2, 3.2e-2, 3.2e-2, 3.1e-2),
    ("highway", 10): (1.5e-4, 3.9e-5, 2.3e-5, 1.5e-5, 1.2e-5, 1.1e-5, 1.05e-5),
    ("highway", 20): (1.1e-4, 7.3e-5, 5.8e-5, 5.1e-5, 4.6e-5, 4.4e-5, 4.3e-5),
    ("highway", 50): (8e-5, 1.8e-5, 1.3e-5, 8.7e-6, 7.6e-6, 6.9e-6, 6.9e-6),
    ("highway", 100): (2.2e-3, 4.5e-4, 1.7e-4, 9.6e-5, 7.8e-5, 6.9e-5, 6.7e-5),
}
"""Training cross-entropy of the best run at each of `FIGURE1_EPOCHS`, by block and depth."""

FIGURE1_TEN_BEST: dict[tuple[str, int], tuple[float, float, float]] = {
    ("plain", 10): (2.6e-5, 1.2e-5, 4.0e-5),
    ("plain", 20): (8.2e-5, 4.0e-5, 1.3e-4),
    ("plain", 50): (4.6e-3, 2.7e-3, 6.8e-3),
    ("plain", 100): (1.2e-1, 5.5e-2, 1.9e-1),
    ("highway", 10): (3.6e-5, 1.4e-5, 5.9e-5),
    ("highway", 20): (8.7e-5, 5.9e-5, 1.15e-4),
    ("highway", 50): (7.4e-5, 7e-6, 1.4e-4),
    ("highway", 100): (4.3e-4, 1.0e-4, 7.9e-4),
}
"""Training cross-entropy of the ten best settings: mean, and both ends of its error bar."""

_CURVES = {
    ("mnist10", 32, "mnist"): "mnist10_width32",
    ("cifar19", 32, "cifar10"): "cifar10_19layers",
    ("cifar19", 32, "cifar100"): "cifar100_19layers",
}


def author_curve(architecture: str, width: int, dataset: str) -> np.ndarray | None:
    """Returns the authors' test curve of a net, or None if they published none.

    Returns:
        Rows of (step, test accuracy from 0 to 1, test loss), from the logs in the authors' public
        repository.
    """
    name = _CURVES.get((architecture, width, dataset))
    if name is None:
        return None
    path = resources.files("highway_jax.paper") / "authors" / f"{name}.csv"
    rows = list(csv.reader(path.read_text("utf-8").splitlines()))
    return np.asarray([[float(value) for value in row] for row in rows[1:]])
