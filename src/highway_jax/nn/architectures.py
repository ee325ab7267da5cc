"""Convolutional nets as lists of layers: those of Tables 1, 2 and 3, and a deeper one.

`model.width` is the number of channels of a net's first stage; those of the others are in
proportion. What the paper does not state, and is inferred, is noted at each net. `depth` is the
number of layers that the paper's tables count; the softmax layer is one of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

from highway_jax.registry import ARCHITECTURES


class Plain(NamedTuple):
    """A plain layer, the only kind that changes the number of channels.

    Attributes:
        width: Its channels.
        kernel_size: Side of its kernel; 0 for a fully connected layer of all its inputs.
        padding: "SAME" or "VALID".
    """

    width: int
    kernel_size: int = 3
    padding: str = "SAME"

    depth = 1


class Blocks(NamedTuple):
    """Blocks of the kind that `model.block` names, as wide as their input.

    Attributes:
        count: How often the group is repeated.
        kernel_sizes: Sides of the kernels of one group of blocks.
    """

    count: int  # pyright: ignore[reportIncompatibleMethodOverride]
    kernel_sizes: tuple[int, ...] = (3,)

    @property
    def depth(self) -> int:
        """Number of blocks."""
        return self.count * len(self.kernel_sizes)


class MaxPool(NamedTuple):
    """Maxima of windows, without padding; partial windows at the end count, as in Caffe.

    Attributes:
        window: Side of the window.
        stride: Between windows.
    """

    window: int = 2
    stride: int = 2

    depth = 0


class GlobalAverage(NamedTuple):
    """The mean of each channel over the whole image."""

    depth = 0


class Dropout(NamedTuple):
    """Sets units to zero at random in training, and scales the others up.

    Attributes:
        rate: The share of units set to zero.
    """

    rate: float

    depth = 0


Layer = Plain | Blocks | MaxPool | GlobalAverage | Dropout


@ARCHITECTURES.register("mnist10")
def mnist10(width: int) -> tuple[Layer, ...]:
    """Table 1: 10 layers, all of one width (section 3.2); the layer list is the authors' file's."""
    return (
        *(Dropout(0.2), Plain(width, 5, "VALID"), Blocks(2), MaxPool(3, 2)),
        *(Dropout(0.3), Blocks(3), MaxPool(3, 2)),
        *(Dropout(0.4), Blocks(3), MaxPool(), Dropout(0.5)),
    )


@ARCHITECTURES.register("highway_a")
def highway_a(width: int) -> tuple[Layer, ...]:
    """Table 2, Highway A: 11 layers after FitNet 1.

    Widths and layers are inferred from the stated 11 layers and about 236K parameters; dropout is
    that of the authors' CIFAR net. So is the global average: FitNets take the maximum, with which
    this net diverges at the rate that the paper states for all of section 3.3.
    """
    return (
        *(Dropout(0.2), Plain(width), Blocks(2), MaxPool(), Dropout(0.2)),
        *(Plain(2 * width), Blocks(2), MaxPool(), Dropout(0.2)),
        *(Plain(4 * width), Blocks(2), GlobalAverage(), Dropout(0.2)),
        Plain(250, 0),
    )


def _stages_of_b(width: int) -> tuple[Layer, ...]:
    return (
        *(Dropout(0.2), Plain(width), Blocks(4), MaxPool(), Dropout(0.2)),
        *(Plain(5 * width // 2), Blocks(5), MaxPool(), Dropout(0.2)),
        *(Plain(4 * width), Blocks(5)),
    )


@ARCHITECTURES.register("highway_b")
def highway_b(width: int) -> tuple[Layer, ...]:
    """Table 2, Highway B: 19 layers after FitNet 4.

    Inferred: the net of Table 3 with the fully connected layer that its convolution of size one
    replaced (section 3.3.2), of the 250 units that fit Highway A, after the global average.
    """
    return (*_stages_of_b(width), GlobalAverage(), Dropout(0.2), Plain(250, 0))


@ARCHITECTURES.register("highway_c")
def highway_c(width: int) -> tuple[Layer, ...]:
    """Table 2, Highway C: 32 layers, kernels of 3x3 and 1x1 in turn, about 1.25M parameters.

    The alternation and both counts are stated; widths, stages and the last layers are inferred.
    """
    layers: list[Layer] = [Dropout(0.2)]
    for stage, pool in enumerate((MaxPool(), MaxPool(), GlobalAverage())):
        layers += [Plain((stage + 1) * width), Blocks(4, (1, 3)), Blocks(1, (1,)), pool]
        layers.append(Dropout(0.2))
    return (*layers, Plain(100, 0))


@ARCHITECTURES.register("cifar19")
def cifar19(width: int) -> tuple[Layer, ...]:
    """Table 3: 19 layers (section 3.3.2); the layer list is the authors' file's."""
    return (*_stages_of_b(width), Plain(100, 1), GlobalAverage(), Dropout(0.2))


@ARCHITECTURES.register("deep110")
def deep110(width: int) -> tuple[Layer, ...]:
    """110 layers in three stages, after the ResNet-110 of He et al. (2016); not from the paper.

    Theirs has 54 blocks of two convolutions with batch normalization, and halves images by strides;
    this has 106 blocks of one layer, and halves images by maxima.
    """
    return (
        *(Plain(width), Blocks(36), MaxPool(), Plain(2 * width), Blocks(35), MaxPool()),
        *(Plain(4 * width), Blocks(35), GlobalAverage()),
    )


def count_blocks(layers: Sequence[Layer]) -> int:
    """Returns how many blocks a net has.

    Example:
        >>> from highway_jax.nn.architectures import Blocks, Plain, count_blocks
        >>> count_blocks((Plain(16), Blocks(4, (1, 3)), Blocks(1)))
        9
    """
    return sum(layer.depth for layer in layers if isinstance(layer, Blocks))
