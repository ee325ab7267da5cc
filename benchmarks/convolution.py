"""Convolutions in compiled loops on CPU: XLA's own gradients, this package's, and PyTorch's.

Times one training step of single layers, of poolings, or of the paper's convolutional nets: the
native gradients outside a loop and in `lax.scan`, the loop-safe ones in `lax.scan`, and on request
PyTorch (eager, channels last). Everything is compiled and run once before the first measurement;
then all are measured in turn, several rounds. Tables give the median of each, and its ratio to the
loop-safe one: the median of the rounds' ratios, which holds where times do not.

    python benchmarks/convolution.py layers nets --cores=1 --torch
    python benchmarks/convolution.py nets --devices=2          # one trial on each core

On a machine that is busy with other things, `--cores=1 --clock=cpu` still tells the truth.
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

MATRIX_SIZE = 2048
RATE = 1e-6  # of the steps: the work matters here, not where it leads

# size, window, padding, inputs, outputs. Highway layers compute H and T as one convolution.
LAYERS = {
    "mnist 5x5 1-16": (28, 5, "VALID", 1, 16),
    "mnist 5x5 1-32": (28, 5, "VALID", 1, 32),
    "mnist 24x24 16-32": (24, 3, "SAME", 16, 32),
    "mnist 24x24 32-64": (24, 3, "SAME", 32, 64),
    "mnist 12x12 16-32": (12, 3, "SAME", 16, 32),
    "mnist 12x12 32-64": (12, 3, "SAME", 32, 64),
    "mnist 6x6 32-64": (6, 3, "SAME", 32, 64),
    "cifar 32x32 3-32": (32, 3, "SAME", 3, 32),
    "cifar 32x32 32-64": (32, 3, "SAME", 32, 64),
    "cifar 16x16 32-80": (16, 3, "SAME", 32, 80),
    "cifar 16x16 80-160": (16, 3, "SAME", 80, 160),
    "cifar 8x8 80-128": (8, 3, "SAME", 80, 128),
    "cifar 8x8 128-256": (8, 3, "SAME", 128, 256),
    "cifar 8x8 1x1 128-100": (8, 1, "SAME", 128, 100),
}
# size, channels, window, stride
POOLINGS = {
    "mnist 24x24x16 3/2": (24, 16, 3, 2),
    "mnist 24x24x32 3/2": (24, 32, 3, 2),
    "mnist 12x12x32 3/2": (12, 32, 3, 2),
    "mnist 6x6x32 2/2": (6, 32, 2, 2),
    "cifar 32x32x32 2/2": (32, 32, 2, 2),
    "cifar 16x16x80 2/2": (16, 80, 2, 2),
}


def mnist_net(width: int) -> list[tuple]:
    """Returns the net of the paper's table 1, without its dropout."""
    stage = [("highway", width)] * 3
    first = [("plain", 5, "VALID", width), *stage[1:]]
    return [*first, ("pool", 3, 2), *stage, ("pool", 3, 2), *stage, ("pool", 2, 2)]


def cifar_net() -> list[tuple]:
    """Returns the 19-layer net of the paper's table 3, without its dropout."""
    net = [("plain", 3, "SAME", 32), *[("highway", 32)] * 4, ("pool", 2, 2)]
    net += [("plain", 3, "SAME", 80), *[("highway", 80)] * 5, ("pool", 2, 2)]
    net += [("plain", 3, "SAME", 128), *[("highway", 128)] * 5]
    return [*net, ("plain", 1, "SAME", 100), ("average",)]


NETS = {
    "mnist width 16": ((28, 28, 1), mnist_net(16)),
    "mnist width 32": ((28, 28, 1), mnist_net(32)),
    "cifar 19 layers": ((32, 32, 3), cifar_net()),
}


def kernel_shapes(image: tuple[int, int, int], net: list[tuple]) -> Iterator[tuple[int, ...]]:
    """Yields the shapes of a net's kernels, the last of them that of the softmax layer."""
    size, channels = image[0], image[2]
    for kind, *numbers in net:
        if kind == "plain":
            window, padding, outputs = numbers
            yield (window, window, channels, outputs)
            channels = outputs
            size -= (window - 1) * (padding == "VALID")
        elif kind == "highway":
            yield (3, 3, channels, 2 * channels)
        elif kind == "pool":
            size = -(-(size - numbers[0]) // numbers[1]) + 1
        else:
            size = 1
    yield (size * size * channels, 10)


def jax_rivals(case: str, implementation: str, options: argparse.Namespace) -> tuple:
    """Returns a function of the carry that does one step, and the carry to begin with."""
    import jax
    import jax.numpy as jnp

    from highway_jax.convolution import conv2d, global_avg_pool, max_pool

    keys = iter(jax.random.split(jax.random.key(0), 64))

    def draw(shape):
        shape = (options.devices, *shape) if options.devices > 1 else shape
        return 0.1 * jax.random.normal(next(keys), shape)

    def net_loss(kernels, x):
        kernels = iter(kernels)
        for kind, *numbers in NETS[case][1]:
            if kind == "plain":
                x = conv2d(x, next(kernels), padding=numbers[1], implementation=implementation)
                x = jax.nn.relu(x)
            elif kind == "highway":
                z = conv2d(x, next(kernels), padding="SAME", implementation=implementation)
                h, t = jnp.split(z, 2, axis=-1)
                t = jax.nn.sigmoid(t - 1)
                x = jax.nn.relu(h) * t + x * (1 - t)
            elif kind == "pool":
                x = max_pool(x, *numbers, implementation=implementation)
            else:
                x = global_avg_pool(x)
        return -jnp.mean(jax.nn.log_softmax(x.reshape(len(x), -1) @ next(kernels))[:, 0])

    def layer_loss(kernel, x):
        y = conv2d(x, kernel, padding=LAYERS[case][2], implementation=implementation)
        return jnp.sum(jax.nn.relu(y) ** 2)

    def pooling_loss(scale, x):
        y = max_pool(jnp.tanh(scale * x), *POOLINGS[case][2:], implementation=implementation)
        return jnp.sum(y**2)

    if case in NETS:
        image, net = NETS[case]
        x = draw((options.batch, *image))
        carry, loss = [draw(s) for s in kernel_shapes(image, net)], lambda c, x: net_loss(c, x)
    elif case in LAYERS:
        size, window, _, inputs, outputs = LAYERS[case]
        x = draw((options.batch, size, size, inputs))
        carry = (draw((window, window, inputs, outputs)), x)
        loss = lambda c, _: layer_loss(*c)  # noqa: E731
    else:
        size, channels = POOLINGS[case][:2]
        x = draw((options.batch, size, size, channels))
        carry = (1 + draw((channels,)), x)
        loss = lambda c, _: pooling_loss(*c)  # noqa: E731

    def step(carry, x):
        gradient = jax.grad(loss)(carry, x)
        return jax.tree.map(lambda a, g: a - RATE * g, carry, gradient)

    return step, carry, x


def prepare_jax(case: str, implementation: str, loop: bool, options: argparse.Namespace):
    """Returns a function that does `options.steps` steps, on every device if there are several."""
    import jax
    import numpy as np
    from jax import lax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    step, carry, x = jax_rivals(case, implementation, options)
    length = options.steps if loop else 1

    def run(carry, x):
        return lax.scan(lambda c, _: (step(c, x), None), carry, length=length)[0]

    program = run if loop else step
    if options.devices > 1:
        mesh = Mesh(np.array(jax.devices()), ("trials",))
        spec = PartitionSpec("trials")
        carry, x = jax.device_put((carry, x), NamedSharding(mesh, spec))
        one = program
        program = jax.shard_map(
            lambda c, x: lax.map(lambda trial: one(*trial), (c, x)),
            mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False,
        )  # fmt: skip
    compiled = jax.jit(program).lower(carry, x).compile()

    def work():
        result = carry
        for _ in range(options.steps // length):
            result = compiled(result, x)
        jax.block_until_ready(result)

    return work


def prepare_torch(case: str, options: argparse.Namespace):
    """Returns a function that does `options.steps` steps of PyTorch, on all threads it has."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(options.cores or os.cpu_count())
    torch.manual_seed(0)
    last = {"memory_format": torch.channels_last}
    image, net = NETS.get(case, (None, None))
    if case in LAYERS:
        size, window, padding, inputs, outputs = LAYERS[case]
        image, net = (size, size, inputs), [("plain", window, padding, outputs)]
    size, _, channels = image
    x = torch.randn(options.batch, channels, size, size).to(**last).requires_grad_(case in LAYERS)
    shapes = list(kernel_shapes(image, net))
    kernels = [
        (0.1 * torch.randn(s[3], s[2], s[0], s[1])).to(**last) if len(s) == 4 else torch.randn(*s)
        for s in shapes[: 1 if case in LAYERS else None]
    ]
    kernels = [k.requires_grad_() for k in kernels]

    def loss():
        y, weights = x, iter(kernels)
        for kind, *numbers in net:
            if kind == "plain":
                y = functional.relu(functional.conv2d(y, next(weights), padding=numbers[1].lower()))
            elif kind == "highway":
                h, t = functional.conv2d(y, next(weights), padding="same").chunk(2, dim=1)
                t = torch.sigmoid(t - 1)
                y = functional.relu(h) * t + y * (1 - t)
            elif kind == "pool":
                y = functional.max_pool2d(y, *numbers, ceil_mode=True)
            else:
                y = y.mean((2, 3))
        if case in LAYERS:
            return (y**2).sum()
        return -functional.log_softmax(y.flatten(1) @ next(weights), dim=1)[:, 0].mean()

    def work():
        for _ in range(options.steps):
            moved = [*kernels, x] if x.requires_grad else kernels
            gradients = torch.autograd.grad(loss(), moved)
            with torch.no_grad():
                for value, gradient in zip(moved, gradients, strict=True):
                    value.sub_(gradient, alpha=RATE)

    return work


def flops(case: str, options: argparse.Namespace) -> float:
    """Returns the floating-point operations of one step's convolutions (none for poolings)."""
    if case in LAYERS:
        size, window, padding, inputs, outputs = LAYERS[case]
        size -= (window - 1) * (padding == "VALID")
        return 3 * 2 * options.batch * size**2 * window**2 * inputs * outputs
    if case in POOLINGS:
        return 0.0
    (size, _, channels), net = NETS[case]
    total = 0.0
    for index, layer in enumerate(net):
        *_, shape = (s for s in [*kernel_shapes(NETS[case][0], net[: index + 1])][:-1])
        size = round((list(kernel_shapes(NETS[case][0], net[: index + 1]))[-1][0]) ** 0.5)
        del shape, channels, layer
        channels = 0
    return total


def main():
    pass
