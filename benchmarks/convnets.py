"""Convolutional highway nets: training steps a second of this package and of PyTorch, in one run.

Both train the nets of Table 1 (widths 16 and 32) and Highway A on uint8 images, batches of 100,
momentum SGD, without dropout so that their losses can be compared step by step. PyTorch runs
eagerly and compiled, channels last, as one process on all cores and as one on each. Ours are 1, 2
and 4 trials in the compiled epoch, as any experiment is run.

    python benchmarks/convnets.py
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import machine
import numpy as np
import ours

from highway_jax.config.schema import depth
from highway_jax.nn import architectures
from highway_jax.registry import ARCHITECTURES

NUM_EXAMPLES, BATCH_SIZE = 10_000, 100
LEARNING_RATE, MOMENTUM = 1e-3, 0.9
NUM_CHECKED_STEPS, TOLERANCE = 5, 1e-4


class Net(NamedTuple):
    """A net of the paper, and the shape of its images."""

    name: str
    architecture: str
    width: int
    shape: tuple[int, int, int]


NETS = (
    Net("MNIST, width 16", "mnist10", 16, (28, 28, 1)),
    Net("MNIST, width 32", "mnist10", 32, (28, 28, 1)),
    Net("Highway A", "highway_a", 16, (32, 32, 3)),
)


def settings(net: Net) -> dict[str, Any]:
    """Returns the settings of a net, by key of the config."""
    return {
        "model.architecture": net.architecture,
        "model.depth": depth(net.architecture, net.width),
        "model.width": net.width,
        "model.initializer": "msra",
        "model.dropout": False,
        "optimizer.learning_rate": LEARNING_RATE,
        "optimizer.momentum": MOMENTUM,
        "training.batch_size": BATCH_SIZE,
    }


class TorchNet:
    """The same net in PyTorch, channels last, H and T as one convolution.

    Attributes:
        parameters: Leaf tensors, a kernel and a bias for each layer.
    """

    def __init__(self, net: Net, params: Any):
        import torch

        self._torch, self._steps = torch, []
        self.parameters: list[Any] = []
        for number, layer in enumerate(ARCHITECTURES[net.architecture](net.width)):
            name = f"{type(layer).__name__.lower()}{number}"
            match layer:
                case architectures.Plain(_, size, padding):
                    pad = size // 2 if padding == "SAME" else 0
                    self._add("plain", params[name]["kernel"], [params[name]["bias"]], pad)
                case architectures.Blocks(count, (size,)):
                    own = params[name]
                    for i in range(count):
                        biases = [own["bias"][i], own["transform_bias"][i]]
                        self._add("highway", own["kernel"][i], biases, size // 2)
                case architectures.MaxPool() | architectures.GlobalAverage():
                    self._steps.append(("pool", layer))
        self._add("head", params["head"]["kernel"], [params["head"]["bias"]], 0)

    def _add(self, kind: str, kernel: np.ndarray, biases: list[np.ndarray], pad: int) -> None:
        torch = self._torch
        # Kernels of images are height, width, in, out here; PyTorch has out, in, height, width.
        weight = torch.from_numpy(np.array(kernel.transpose(3, 2, 0, 1) if kernel.ndim == 4
                                           else kernel.T))  # fmt: skip
        if kernel.ndim == 4:
            weight = weight.contiguous(memory_format=torch.channels_last)
        bias = torch.from_numpy(np.concatenate(biases))
        self._steps.append((kind, len(self.parameters), pad))
        self.parameters += [weight.requires_grad_(), bias.requires_grad_()]

    def loss(self, x: Any, labels: Any) -> Any:
        """Returns the mean loss of a batch of images, float [batch, channels, height, width]."""
        torch, functional = self._torch, self._torch.nn.functional
        for kind, *rest in self._steps:
            if kind == "pool":
                (layer,) = rest
                if isinstance(layer, architectures.GlobalAverage):
                    x = x.mean((2, 3), keepdim=True)
                else:
                    x = functional.max_pool2d(x, layer.window, layer.stride, ceil_mode=True)
                continue
            index, pad = rest
            weight, bias = self.parameters[index : index + 2]
            if weight.ndim == 2:
                # Our images are flattened with their channels last.
                x = x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x
                z = functional.linear(x, weight, bias)
            else:
                z = functional.conv2d(x, weight, bias, padding=pad)
            if kind == "highway":
                z_h, z_t = z.chunk(2, 1)
                h, t = torch.relu(z_h), torch.sigmoid(z_t)
                x = h * t + x * (1 - t)
            else:
                x = z if kind == "head" else torch.relu(z)
        return functional.cross_entropy(x, labels)


def work_torch(net: Net, params: Any, mode: str) -> tuple[Callable, dict]:
    """Gets a worker ready to train with PyTorch; it measures steps."""
    import torch

    began = time.perf_counter()
    dataset = ours.make_dataset(NUM_EXAMPLES, net.shape)
    images = torch.from_numpy(dataset.train.images)
    labels = torch.from_numpy(dataset.train.labels.astype(np.int64))
    model = TorchNet(net, params)
    loss_of = model.loss if mode == "eager" else torch.compile(model.loss)
    optimizer = torch.optim.SGD(model.parameters, LEARNING_RATE, MOMENTUM, fused=True)

    def step(index: Any) -> Any:
        # Stored with channels last: the permuted view is what PyTorch calls channels_last.
        x = images.index_select(0, index).float().mul_(1 / 255).permute(0, 3, 1, 2)
        optimizer.zero_grad(set_to_none=True)
        loss = loss_of(x, labels[index])
        loss.backward()
        optimizer.step()
        return loss

    checked = [float(step(torch.arange(BATCH_SIZE)).detach()) for _ in range(NUM_CHECKED_STEPS)]
    ready_seconds = time.perf_counter() - began

    def measure(seconds: float) -> tuple[float, float]:
        began, taken = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds or taken == 0:
            step(torch.randint(NUM_EXAMPLES, (BATCH_SIZE,)))
            taken += 1
        return taken, elapsed

    measure(0.5)
    return measure, {"compile_seconds": ready_seconds, "losses": checked}


def compare(net: Net, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Measures all rivals on one net; returns a row for each."""
    dataset = ours.make_dataset(BATCH_SIZE, net.shape)
    params, losses = ours.first_steps(settings(net), dataset, NUM_CHECKED_STEPS)
    counts = [int(count) for count in arguments.trials.split(",")]
    with machine.Rivals() as rivals:
        for count in counts:
            work = {"settings": settings(net), "num_trials": count}
            work |= {"num_examples": NUM_EXAMPLES, "shape": net.shape}
            starts = machine.all_cores("ours", "work", **work)
            facts = rivals.start(f"ours, {count} trial{'s' * (count > 1)}", starts).facts
        for mode in ("eager", "compiled"):
            work = {"module": "convnets", "work": "work_torch", "net": net, "params": params}
            for way, starts in (
                ("1 process", machine.all_cores(mode=mode, **work)),
                ("1 process a core", machine.each_core(mode=mode, **work)),
            ):
                rival = rivals.start(f"PyTorch {mode}, {way}", starts)
                ours.check_first_steps(rival, losses, TOLERANCE)
        rates = rivals.measure(arguments.rounds, arguments.seconds)
    rows = [
        {"net": net.name, "way": way, "rates": [rate.per_second for rate in measured]}
        for way, measured in rates.items()
    ]
    medians = [statistics.median(row["rates"]) for row in rows]
    best, alone = max(medians[len(counts) :]), medians[0]
    flops = 6 * BATCH_SIZE * facts["multiply_adds"]
    return [
        row | {"median": m, "to_torch": m / best, "to_one": m / alone, "flops": m * flops}
        for row, m in zip(rows, medians, strict=True)
    ]


def main() -> None:
    """Compares on every net and prints the table."""
    parser = machine.parser(__doc__, rounds=5, seconds=4.0)
    parser.add_argument("--trials", default="1,2,4", help="of our programs")
    parser.add_argument("--only", default="", help="only nets with this in their name")
    arguments, description = machine.begin(parser)
    print("\n| net | way | trial-steps/s | lowest to highest | to PyTorch's best |"
          " to ours of 1 trial | GFLOP/s |\n| --- | --- |" + " ---: |" * 5, flush=True)  # fmt: skip
    rows = []
    for net in (net for net in NETS if arguments.only in net.name):
        found = compare(net, arguments)
        for row in found:
            print(
                f"| {row['net']} | {row['way']} | {row['median']:.1f} |"
                f" {min(row['rates']):.1f} to {max(row['rates']):.1f} | {row['to_torch']:.2f} |"
                f" {row['to_one']:.2f} | {row['flops'] / 1e9:.0f} |",
                flush=True,
            )
        rows += found
    machine.write_json(arguments.json, {"machine": description, "rows": rows})


if __name__ == "__main__":
    main()
