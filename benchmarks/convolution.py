"""Convolutions in compiled loops on CPU: XLA's own gradients, this package's, and PyTorch's.

Times one training step of single layers, of poolings, or of the paper's convolutional nets: the
native gradients outside a loop and in `lax.scan`, the loop-safe ones in `lax.scan`, and on request
PyTorch (eager, channels last). Everything is compiled and run once before the first measurement;
then all are measured in turn, several rounds; native in `lax.scan`, which may take minutes, in the
first alone. Tables give the median of each in milliseconds a step and, behind it, how many times
the loop-safe one's time that is: the median over the rounds, which holds where the times do not.

    python benchmarks/convolution.py layers pools --cores=1
    python benchmarks/convolution.py nets --cores=1 --torch
    python benchmarks/convolution.py nets --devices=2            # one trial on each of two cores

On a machine that is busy with other things, `--cores=1 --clock=cpu` is steadier.
"""

import argparse
import math
import os
import statistics
import time
from collections.abc import Callable, Iterator

MATRIX_SIZE = 2048
SLOW_STEPS = 2  # of native in scan; XLA unrolls a loop of one
RATE = 1e-6  # of the steps: the work matters here, not where it leads
NATIVE, NATIVE_IN_LOOP, LOOP_SAFE, TORCH = "native", "native in scan", "loop-safe in scan", "torch"

# A net is (kind, numbers...): plain (window, padding, outputs), highway (width; H and T are one
# convolution), pool (window, stride), average, tanh.
Net = list[tuple]
Case = tuple[tuple[int, int, int], Net]

LAYERS: dict[str, Case] = {
    f"{size}x{size} {window}x{window} {inputs}-{outputs}": (
        (size, size, inputs),
        [("plain", window, "VALID" if window == 5 else "SAME", outputs)],
    )
    for size, window, inputs, outputs in (
        (28, 5, 1, 16), (28, 5, 1, 32), (24, 3, 16, 32), (24, 3, 32, 64), (12, 3, 16, 32),
        (12, 3, 32, 64), (6, 3, 16, 32), (6, 3, 32, 64), (32, 3, 3, 32), (32, 3, 32, 64),
        (16, 3, 32, 80), (16, 3, 80, 160), (8, 3, 80, 128), (8, 3, 128, 256), (8, 1, 128, 100),
    )
}  # fmt: skip
POOLS: dict[str, Case] = {
    f"{size}x{size}x{channels} window {window}": (
        (size, size, channels),
        [("tanh",), ("pool", window, 2)],
    )
    for size, channels, window in (
        (24, 16, 3), (24, 32, 3), (12, 32, 3), (6, 32, 2), (32, 32, 2), (16, 80, 2),
    )
}  # fmt: skip


def mnist_net(width: int) -> Net:
    """Returns the net of the paper's table 1, without its dropout and biases."""
    stage = [("highway", width)] * 3
    first = [("plain", 5, "VALID", width), *stage[1:]]
    return [*first, ("pool", 3, 2), *stage, ("pool", 3, 2), *stage, ("pool", 2, 2)]


def cifar_net() -> Net:
    """Returns the 19-layer net of the paper's table 3, without its dropout and biases."""
    net = [("plain", 3, "SAME", 32), *[("highway", 32)] * 4, ("pool", 2, 2)]
    net += [("plain", 3, "SAME", 80), *[("highway", 80)] * 5, ("pool", 2, 2)]
    net += [("plain", 3, "SAME", 128), *[("highway", 128)] * 5]
    return [*net, ("plain", 1, "SAME", 100), ("average",)]


def highway_a() -> Net:
    """Returns Highway A of the paper's table 2, without its dropout and biases."""
    net: Net = []
    for width in (16, 32, 64):
        net += [("plain", 3, "SAME", width), *[("highway", width)] * 2, ("pool", 2, 2)]
    return [*net[:-1], ("pool", 8, 8), ("plain", 1, "SAME", 250)]


NETS: dict[str, Case] = {
    "mnist width 16": ((28, 28, 1), mnist_net(16)),
    "mnist width 32": ((28, 28, 1), mnist_net(32)),
    "cifar highway A": ((32, 32, 3), highway_a()),
    "cifar 19 layers": ((32, 32, 3), cifar_net()),
}
SECTIONS = {"layers": LAYERS, "pools": POOLS, "nets": NETS}


def kernels(name: str) -> Iterator[tuple[tuple[int, ...], int]]:
    """Yields each kernel's shape and how many positions of an image it is applied to."""
    (size, _, channels), net = SECTIONS[_section(name)][name]
    for kind, *numbers in net:
        if kind == "plain":
            window, padding, outputs = numbers
            size -= (window - 1) * (padding == "VALID")
            yield (window, window, channels, outputs), size**2
            channels = outputs
        elif kind == "highway":
            yield (3, 3, channels, 2 * channels), size**2
        elif kind == "pool":
            size = math.ceil((size - numbers[0]) / numbers[1]) + 1
        elif kind == "average":
            size = 1
    if name in NETS:
        yield (size * size * channels, 10), 1


def _section(name: str) -> str:
    return next(section for section, cases in SECTIONS.items() if name in cases)


def flops(name: str, batch: int) -> float:
    """Returns the operations of one step's products; a net needs no gradient of its images."""
    each = [2.0 * batch * positions * math.prod(shape) for shape, positions in kernels(name)]
    return 3 * sum(each) - (each[0] if name in NETS else 0)


def prepare_jax(name: str, rival: str, options: argparse.Namespace) -> Callable[[], None]:
    """Returns a function that does `options.steps` steps, on each device if there are several."""
    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax import lax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    from highway_jax.nn.convolution import conv2d
    from highway_jax.nn.pooling import global_avg_pool, max_pool

    implementation = "loop_safe" if rival == LOOP_SAFE else "native"
    image, net = SECTIONS[_section(name)][name]

    def native_max_pool(x, window, stride):
        # As Caffe, a partial window at the end counts.
        pads = [(0, 0), *((0, (window - size) % stride) for size in x.shape[1:3]), (0, 0)]
        shape, strides = (1, window, window, 1), (1, stride, stride, 1)
        return lax.reduce_window(x, -np.inf, lax.max, shape, strides, pads)

    def loss(weights, x):
        weights = iter(weights)
        for kind, *numbers in net:
            if kind == "plain":
                x = conv2d(x, next(weights), padding=numbers[1], implementation=implementation)
                x = jax.nn.relu(x)
            elif kind == "highway":
                h, t = jnp.split(conv2d(x, next(weights), implementation=implementation), 2, -1)
                t = jax.nn.sigmoid(t - 1)
                x = jax.nn.relu(h) * t + x * (1 - t)
            elif kind == "pool":
                pool = max_pool if rival == LOOP_SAFE else native_max_pool
                x = pool(x, *numbers)
            else:
                x = jnp.tanh(x) if kind == "tanh" else global_avg_pool(x)
        if name not in NETS:
            return jnp.sum(x**2)
        return -jnp.mean(jax.nn.log_softmax(x.reshape(len(x), -1) @ next(weights))[:, 0])

    def step(weights, x):
        gradients = jax.grad(loss, (0,) if name in NETS else (0, 1))(weights, x)
        moved = jax.tree.map(lambda a, g: a - RATE * g, (weights, x)[: len(gradients)], gradients)
        return moved if len(moved) == 2 else (*moved, x)

    length = {NATIVE: 1, NATIVE_IN_LOOP: SLOW_STEPS, LOOP_SAFE: options.steps}[rival]

    def program(weights, x):
        if length == 1:
            return step(weights, x)
        return lax.scan(lambda carry, _: (step(*carry), None), (weights, x), length=length)[0]

    shapes = [shape for shape, _ in kernels(name)] + [(options.batch, *image)]
    keys = jax.random.split(jax.random.key(0), len(shapes))
    many = (options.devices,) if options.devices > 1 else ()
    values = [
        0.1 * jax.random.normal(key, (*many, *shape))
        for key, shape in zip(keys, shapes, strict=True)
    ]
    arguments = (values[:-1], values[-1])
    function = program
    if many:
        mesh, spec = Mesh(np.array(jax.devices()), ("trials",)), PartitionSpec("trials")
        arguments = jax.device_put(arguments, NamedSharding(mesh, spec))

        def function(weights, x):
            return lax.map(lambda trial: program(*trial), (weights, x))

        function = jax.shard_map(
            function, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False
        )
    compiled = jax.jit(function).lower(*arguments).compile()

    def work() -> None:
        results = arguments
        for _ in range(options.steps if length == 1 else 1):
            results = compiled(*results)
        jax.block_until_ready(results)

    return work


def prepare_torch(name: str, options: argparse.Namespace) -> Callable[[], None]:
    """Returns a function that does `options.steps` steps of the same in PyTorch."""
    import torch
    from torch.nn import functional

    torch.set_num_threads(options.cores or os.cpu_count())
    torch.manual_seed(0)
    (height, width, channels), net = SECTIONS[_section(name)][name]
    x = torch.randn(options.batch, channels, height, width)
    weights = []
    for shape, _ in kernels(name):
        weight = 0.1 * torch.randn(shape)
        if len(shape) == 4:
            weight = weight.permute(3, 2, 0, 1).contiguous(memory_format=torch.channels_last)
        weights.append(weight.requires_grad_())
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_(name not in NETS)
    moved = [*weights, x] if x.requires_grad else weights

    def loss():
        y, remaining = x, iter(weights)
        for kind, *numbers in net:
            if kind == "plain":
                padding = numbers[1].lower()
                y = functional.relu(functional.conv2d(y, next(remaining), padding=padding))
            elif kind == "highway":
                h, t = functional.conv2d(y, next(remaining), padding="same").chunk(2, dim=1)
                t = torch.sigmoid(t - 1)
                y = functional.relu(h) * t + y * (1 - t)
            elif kind == "pool":
                y = functional.max_pool2d(y, *numbers, ceil_mode=True)
            else:
                y = torch.tanh(y) if kind == "tanh" else y.mean((2, 3))
        if name not in NETS:
            return (y**2).sum()
        return -functional.log_softmax(y.flatten(1) @ next(remaining), dim=1)[:, 0].mean()

    def work() -> None:
        for _ in range(options.steps):
            gradients = torch.autograd.grad(loss(), moved)
            with torch.no_grad():
                for value, gradient in zip(moved, gradients, strict=True):
                    value.sub_(gradient, alpha=RATE)

    return work


def prepare_matrices(steps: int) -> Callable[[], None]:
    """Returns a function that multiplies square matrices of MATRIX_SIZE, `steps` times."""
    import jax
    import jax.numpy as jnp

    matrix = jnp.ones((MATRIX_SIZE, MATRIX_SIZE))
    multiply = jax.jit(jnp.matmul).lower(matrix, matrix).compile()

    def work() -> None:
        for _ in range(steps):
            jax.block_until_ready(multiply(matrix, matrix))

    return work


def measure(rivals: dict[str, Callable], options: argparse.Namespace) -> dict[str, list[float]]:
    """Returns each rival's seconds a step, once a round; all but the slow one ran once before."""
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {rival: [] for rival in rivals}
    for number in range(options.rounds + 1):
        for rival, work in rivals.items():
            if rival == NATIVE_IN_LOOP and number != 1:
                continue
            start = clock()
            work()
            if number:
                steps = SLOW_STEPS if rival == NATIVE_IN_LOOP else options.steps
                times[rival].append((clock() - start) / steps)
    return times


def compare(name: str, matrices: Callable[[], None], options: argparse.Namespace) -> None:
    """Measures the rivals for one case and prints its line."""
    rivals = [NATIVE, NATIVE_IN_LOOP, LOOP_SAFE]
    prepared = {rival: prepare_jax(name, rival, options) for rival in rivals}
    if options.torch:
        prepared[TORCH] = prepare_torch(name, options)
    times = measure({**prepared, "matrices": matrices}, options)
    line = f"{name:22s}"
    for rival in prepared:
        # The slow one has its first round alone.
        ratios = [a / b for a, b in zip(times[rival], times[LOOP_SAFE], strict=False)]
        milliseconds = 1e3 * statistics.median(times[rival])
        line += f"  {milliseconds:8.2f} {f'({statistics.median(ratios):.2f})':>8s}"
    if work := flops(name, options.batch) * options.devices:
        rate = 1e-9 * work / statistics.median(times[LOOP_SAFE])
        yardstick = 2e-9 * MATRIX_SIZE**3 / statistics.median(times["matrices"])
        line += f"  {rate:6.0f} of {yardstick:4.0f} GFLOP/s"
    print(line, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sections", nargs="+", choices=SECTIONS, help="what to time")
    parser.add_argument("--cores", type=int, help="use only so many cores")
    parser.add_argument(
        "--devices", type=int, default=1, help="virtual CPU devices, a trial on each"
    )
    parser.add_argument("--batch", type=int, default=100, help="images in a step")
    parser.add_argument("--steps", type=int, default=4, help="steps in a loop, more than 1")
    parser.add_argument("--rounds", type=int, default=7, help="measurements of each rival")
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall", help="what to measure")
    parser.add_argument("--torch", action="store_true", help="PyTorch too (one trial, all cores)")
    parser.add_argument("--only", default="", help="only cases with this in their name")
    options = parser.parse_args()
    if options.steps < 2:
        parser.error("--steps: at least 2")
    if options.cores:
        os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: options.cores]))

    import jax

    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", options.devices)
    print(
        f"jax {jax.__version__}, {options.devices} x {jax.devices()[0].device_kind} device, "
        f"{len(os.sched_getaffinity(0))} cores, batch {options.batch}, {options.clock} time"
    )
    rivals = [NATIVE, NATIVE_IN_LOOP, LOOP_SAFE] + [TORCH] * options.torch
    matrices = prepare_matrices(options.steps)
    for section in options.sections:
        print(f"\n{section:22s}" + "".join(f"  {rival:>17s}" for rival in rivals))
        for name in SECTIONS[section]:
            if options.only in name:
                compare(name, matrices, options)


if __name__ == "__main__":
    main()
