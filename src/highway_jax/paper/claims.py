"""Claims of the paper about Figures 2 to 4 (sections 4.1 and 4.2), checked on findings.

The paper states them in words. The statistic that measures a claim and the threshold at which it
holds are ours; reports print both beside the claim.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from highway_jax.analysis.statistics import IDLE, measure
from highway_jax.storage.findings import Findings

Nets = Mapping[str, Findings]
"""Findings by data set, `mnist` and `cifar100`."""


class Claim(NamedTuple):
    """One claim of the paper.

    Attributes:
        figure: Number of the figure.
        datasets: Data sets whose nets it is about.
        text: The claim.
        measure: The statistic that measures it, and the threshold at which it holds.
        check: Nets -> (the formatted statistic, whether the claim holds).
    """

    figure: str
    datasets: tuple[str, ...]
    text: str
    measure: str
    check: Callable[[Nets], tuple[str, bool]]


class Verdict(NamedTuple):
    """A claim, our statistic as text, and whether the claim holds."""

    claim: Claim
    number: str
    holds: bool


def verdicts(nets: Nets) -> list[Verdict]:
    """Returns the verdict on each claim whose nets are among `nets`."""
    ready = (claim for claim in CLAIMS if all(name in nets for name in claim.datasets))
    return [Verdict(claim, *claim.check(nets)) for claim in ready]


def _number(
    dataset: str, name: str, form: str, holds: Callable[[float], bool]
) -> Callable[[Nets], tuple[str, bool]]:
    def check(nets):
        value = measure(nets[dataset])[name]
        return form.format(value), bool(holds(value))

    return check


def _more_in_cifar(name: str, form: str, sign: int = 1) -> Callable[[Nets], tuple[str, bool]]:
    def check(nets):
        mnist, cifar = (measure(nets[dataset])[name] for dataset in ("mnist", "cifar100"))
        words = f"{form.format(cifar)} against {form.format(mnist)}"
        return words, bool(sign * (cifar - mnist) > 0)

    return check


def _costs(
    dataset: str, first: int, last: int, form: str, holds: Callable[[np.ndarray], Any], value
) -> Callable[[Nets], tuple[str, bool]]:
    """Returns a check of how much the training error rises when single layers are closed."""

    def check(nets):
        costs = nets[dataset].cost[first - 1 : last]
        return form.format(value(costs)), bool(holds(costs))

    return check


NUM_BLOCKS = 49
"""Highway blocks of the nets that the claims are about: 50 layers, of which the first is plain."""

_BOTH = (("mnist", "MNIST"), ("cifar100", "CIFAR-100"))

CLAIMS: tuple[Claim, ...] = (
    *(
        Claim(
            "2", (dataset,), f"{name}: most transform biases fell further in training",
            "share of biases below their initial value; above a half",
            _number(dataset, "biases_fell", "{:.0%}", lambda v: v > 0.5),
        )
        for dataset, name in _BOTH
    ),
    Claim(
        "2", ("cifar100",), "CIFAR-100: the biases rise with depth, forming a gradient",
        "correlation of bias and depth; above 0.2",
        _number("cifar100", "bias_depth_correlation", "{:.2f}", lambda v: v > 0.2),
    ),
    Claim(
        "2", ("cifar100",), "CIFAR-100: this gradient is inversely correlated with gate activity",
        "correlation of a layer's mean bias and its gates' mean output; below -0.2",
        _number("cifar100", "layer_bias_activity_correlation", "{:.2f}", lambda v: v < -0.2),
    ),
    *(
        Claim(
            "2", (dataset,), f"{name}: for one example, few gates are active",
            "share of gates above 0.5; below a fifth",
            _number(dataset, "open_for_one", "{:.1%}", lambda v: v < 0.2),
        )
        for dataset, name in _BOTH
    ),
    Claim(
        "2", ("mnist", "cifar100"), "the sparsity is more pronounced for CIFAR-100",
        "Treves-Rolls sparsity of a layer's gates for one example; CIFAR-100 against MNIST",
        _more_in_cifar("sparsity_for_one", "{:.2f}"),
    ),
    *(
        Claim(
            "2, 3", (dataset,), f"{name}: different examples use different blocks",
            "sparsity of the mean gates below half of that for one example",
            lambda nets, dataset=dataset: _mean_is_less_sparse(nets[dataset]),
        )
        for dataset, name in _BOTH
    ),
    Claim(
        "2", ("mnist",), "MNIST: most of the change is in about the first 15 layers",
        "layers that make 95 % of the change in block outputs; at most 20",
        _number("mnist", "change_reach", "{}", lambda v: v <= 20),
    ),
    Claim(
        "2", ("cifar100",), "CIFAR-100: most of the change is in about the first 40 layers",
        "layers that make 95 % of the change in block outputs; 30 to 45",
        _number("cifar100", "change_reach", "{}", lambda v: 30 <= v <= 45),
    ),
    Claim(
        "3", ("mnist",), "MNIST: classes differ substantially within the first 15 layers",
        "share of all differences between classes in these; above a half",
        _number("mnist", "class_early_share", "{:.0%}", lambda v: v > 0.5),
    ),
    Claim(
        "3", ("cifar100",), "CIFAR-100: the differences are spread over all layers",
        "share of all differences in the first 15 of 49 layers; below a half",
        _number("cifar100", "class_early_share", "{:.0%}", lambda v: v < 0.5),
    ),
    Claim(
        "4", ("mnist",), "MNIST: the error rises significantly without any one early layer",
        "largest rise of the training error among the first 5 layers; above 5 points",
        _costs("mnist", 1, 5, "{:.1%}", lambda c: c.max() > 0.05, np.max),
    ),
    Claim(
        "4", ("mnist",), "MNIST: layers 15 to 45 have close to no effect",
        f"largest rise of the training error among them; below {IDLE:.0%}",
        _costs("mnist", 15, 45, "{:.2%}", lambda c: c.max() < IDLE, np.max),
    ),
    Claim(
        "4", ("mnist",), "MNIST: about 60 % of the layers do not contribute",
        f"share of layers without which the error rises by less than {IDLE:.0%}; above a half",
        _number("mnist", "idle_share", "{:.0%}", lambda v: v > 0.5),
    ),
    Claim(
        "4", ("cifar100",), "CIFAR-100: removing any of the first 40 layers degrades the net",
        f"share of them without which the error rises by {IDLE:.0%} or more; above 80 %",
        _costs(
            "cifar100", 1, 40, "{:.0%}", lambda c: np.mean(c >= IDLE) > 0.8,
            lambda c: np.mean(c >= IDLE),
        ),
    ),
)  # fmt: skip


def _mean_is_less_sparse(found: Findings) -> tuple[str, bool]:
    numbers = measure(found)
    mean, one = numbers["sparsity_on_average"], numbers["sparsity_for_one"]
    return f"{mean:.2f} against {one:.2f}", mean < one / 2
