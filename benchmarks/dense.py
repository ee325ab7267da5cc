"""Dense highway nets: training steps a second of this package and of PyTorch, in one run.

Both train the paper's fully connected net (section 3.1: width 50, batches of 100, momentum 0.9)
on uint8 images of MNIST's shape, drawn and converted step by step from a data set in memory. Every
rival is ready before the first measurement; then all are measured in turn, several rounds.

    python benchmarks/dense.py --depths=10,50,100
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import machine
import numpy as np
import ours

from highway_jax.training import trial_mesh

NUM_EXAMPLES = 60_000
NUM_PIXELS = 28 * 28
BATCH_SIZE, WIDTH = 100, 50
LEARNING_RATE, MOMENTUM, TRANSFORM_BIAS = 0.01, 0.9, -5.0
NUM_CHECKED_STEPS, TOLERANCE = 10, 1e-5


def flops_per_step(multiply_adds: int) -> int:
    """Returns the floating-point operations that the matrix products of one step need.

    Each multiplication of the forward pass comes with an addition, and twice again in the backward
    pass: for the gradient of the weights, and for that of the layer's input, which nobody needs
    in the first layer:

        2 * batch * (3 * multiply_adds - pixels * width)

    Args:
        multiply_adds: Multiplications of one example's forward pass, the kernels' size.
    """
    return 2 * BATCH_SIZE * (3 * multiply_adds - NUM_PIXELS * WIDTH)


def settings(depth: int) -> dict[str, Any]:
    """Returns the settings of the paper's net with so many layers, by key of the config."""
    return {
        "model.depth": depth,
        "model.width": WIDTH,
        "model.transform_bias": TRANSFORM_BIAS,
        "optimizer.learning_rate": LEARNING_RATE,
        "optimizer.momentum": MOMENTUM,
        "training.batch_size": BATCH_SIZE,
    }


def start_ours(
    rivals: machine.Rivals, depth: int, num_trials: int, name: str = ""
) -> machine.Rival:
    """Starts this package as a rival that trains so many trials in one program."""
    work = {"settings": settings(depth), "num_trials": num_trials}
    work |= {"num_examples": NUM_EXAMPLES, "shape": ours.MNIST_SHAPE}
    return rivals.start(name or f"{num_trials} trials", machine.all_cores("ours", "work", **work))


class TorchNet:
    """The same net in PyTorch, as fast as we know how to write it.

    Attributes:
        parameters: Leaf tensors; those of all blocks are stacked in one, which the optimizer and
            autograd handle faster than a hundred small ones.
    """

    def __init__(self, params: Any, num_trials: int, *, fused: bool, lerp: bool):
        """Copies parameters.

        Args:
            params: The package's parameters of one trial, as NumPy arrays.
            num_trials: 0 for one trial without a trial axis; else every tensor has a leading
                axis of trials that all begin with these parameters.
            fused: Whether H and T are one matrix product.
            lerp: Whether the block is written with `torch.lerp`: one operation instead of four.
                Faster eagerly; when compiled it falls to code that is not vectorized.
        """
        import torch

        self._torch, self._num_trials, self._lerp, self._fused = torch, num_trials, lerp, fused
        blocks = params["blocks"]
        kernel, biases = blocks["kernel"], [blocks["bias"], blocks["transform_bias"]]
        kernels = [kernel] if fused else np.split(kernel, 2, axis=-1)
        arrays = [params["input"]["kernel"], params["input"]["bias"]]
        arrays += [params["head"]["kernel"], params["head"]["bias"], *kernels]
        arrays += [np.concatenate(biases, -1)] if fused else biases
        self.parameters = [self._leaf(array) for array in arrays]

    def _leaf(self, array: np.ndarray) -> Any:
        shape = (self._num_trials, *array.shape) if self._num_trials else array.shape
        return self._torch.from_numpy(np.array(np.broadcast_to(array, shape))).requires_grad_()

    def _affine(self, x: Any, kernel: Any, bias: Any) -> Any:
        if self._num_trials:
            return self._torch.baddbmm(bias.unsqueeze(-2), x, kernel)
        return self._torch.addmm(bias, x, kernel)

    def losses(self, x: Any, labels: Any) -> tuple[Any, Any]:
        """Returns the sum over trials of the mean loss, and the number of correct answers."""
        torch, axis = self._torch, 1 if self._num_trials else 0
        w_in, b_in, w_out, b_out, *stacks = self.parameters
        x = torch.relu(self._affine(x, w_in, b_in))
        for leaves in zip(*(stack.unbind(axis) for stack in stacks), strict=True):
            if self._fused:
                z_h, z_t = self._affine(x, *leaves).chunk(2, -1)
            else:
                w_h, w_t, b_h, b_t = leaves
                z_h, z_t = self._affine(x, w_h, b_h), self._affine(x, w_t, b_t)
            h, t = torch.relu(z_h), torch.sigmoid(z_t)
            x = torch.lerp(x, h, t) if self._lerp else h * t + x * (1 - t)
        logits = self._affine(x, w_out, b_out)
        loss = torch.nn.functional.cross_entropy(
            logits.reshape(-1, ours.NUM_CLASSES), labels.reshape(-1), reduction="sum"
        )
        return loss / BATCH_SIZE, (logits.argmax(-1) == labels).sum()


def work_torch(
    params: Any, num_trials: int, mode: str, fused: bool = True
) -> tuple[Callable, dict]:
    """Gets a worker ready to train with PyTorch; it measures trial-steps.

    Args:
        params: The package's parameters of one trial.
        num_trials: Trials in batched matrix products; 0 for one trial in plain ones.
        mode: "eager", or a mode of `torch.compile`.
        fused: Whether H and T are one matrix product.
    """
    import torch

    began = time.perf_counter()
    dataset = ours.make_dataset(NUM_EXAMPLES)
    images = torch.from_numpy(dataset.train.images.reshape(NUM_EXAMPLES, NUM_PIXELS))
    labels = torch.from_numpy(dataset.train.labels.astype(np.int64))
    net = TorchNet(params, num_trials, fused=fused, lerp=mode == "eager")
    losses = net.losses if mode == "eager" else torch.compile(net.losses, mode=mode)
    optimizer = torch.optim.SGD(net.parameters, LEARNING_RATE, MOMENTUM, fused=True)
    shape = (num_trials, BATCH_SIZE) if num_trials else (BATCH_SIZE,)
    total_loss, total_correct = torch.zeros(()), torch.zeros((), dtype=torch.int64)

    def step(index: Any) -> Any:
        x = images.index_select(0, index.reshape(-1)).float().mul_(1 / 255)
        optimizer.zero_grad(set_to_none=True)
        loss, correct = losses(x.reshape(*shape, NUM_PIXELS), labels[index])
        loss.backward()
        optimizer.step()
        total_loss.add_(loss.detach())
        total_correct.add_(correct)
        return loss

    def draw() -> Any:
        orders = [torch.randperm(NUM_EXAMPLES) for _ in range(max(1, num_trials))]
        batches = torch.stack(orders).reshape(len(orders), -1, BATCH_SIZE).transpose(0, 1)
        return iter(batches.reshape(-1, *shape))

    first = torch.arange(BATCH_SIZE).expand(*shape)
    per_trial = max(1, num_trials)
    checked = [float(step(first).detach()) / per_trial for _ in range(NUM_CHECKED_STEPS)]
    ready_seconds = time.perf_counter() - began
    batches = draw()

    def measure(seconds: float) -> tuple[float, float]:
        nonlocal batches
        began, taken = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < seconds or taken == 0:
            index = next(batches, None)
            if index is None:
                batches = draw()
                index = next(batches)
            step(index)
            taken += 1
        return taken * per_trial, elapsed

    measure(0.5)
    return measure, {"compile_seconds": ready_seconds, "losses": checked}


def start_all(
    rivals: machine.Rivals, depth: int, arguments: argparse.Namespace
) -> tuple[list[machine.Rival], list[machine.Rival]]:
    """Returns our ways to train and PyTorch's, ready to be measured."""
    dataset = ours.make_dataset(BATCH_SIZE)
    params, losses = ours.first_steps(settings(depth), dataset, NUM_CHECKED_STEPS)
    num_trials = trial_mesh.num_cores() * arguments.trials_per_core
    own = [
        start_ours(rivals, depth, 1, "ours, 1 trial"),
        start_ours(rivals, depth, num_trials, f"ours, {num_trials} trials"),
    ]
    theirs = []
    batch = arguments.torch_trials
    for mode in ["eager", *filter(None, arguments.compile_modes.split(","))]:
        label = "PyTorch eager" if mode == "eager" else f"PyTorch compiled ({mode})"
        work = {"module": "dense", "work": "work_torch", "params": params, "mode": mode}
        batched = machine.each_core(num_trials=batch, **work)
        ways = [
            (f"{label}, 1 process", machine.all_cores(num_trials=0, **work)),
            (f"{label}, 1 process a core", machine.each_core(num_trials=0, **work)),
            (f"{label}, 1 process a core of {batch} batched trials", batched),
        ]
        if mode == "eager":
            apart = machine.each_core(num_trials=0, fused=False, **work)
            ways.append((f"{label}, 1 process a core, H and T apart", apart))
        for name, starts in ways:
            rival = rivals.start(name, starts)
            theirs.append(rival)
            print(f"  ready: {name} ({rival.facts['compile_seconds']:.0f} s)", flush=True)
            ours.check_first_steps(rival, losses, TOLERANCE)
    return own, theirs


def compare(depth: int, arguments: argparse.Namespace, yardstick: machine.Yardstick) -> list[dict]:
    """Measures all rivals at one depth; returns a row for each."""
    print(f"depth {depth}", flush=True)
    with machine.Rivals() as rivals:
        own, theirs = start_all(rivals, depth, arguments)
        rates = rivals.measure(arguments.rounds, arguments.seconds)
        yardstick.measure()
    flops = flops_per_step(own[0].facts["multiply_adds"])
    rows = []
    for rival in own + theirs:
        per_second, per_core_second = zip(*rates[rival.name], strict=True)
        rows.append(
            {
                "depth": depth,
                "rival": rival.name,
                "steps_per_second": statistics.median(per_second),
                "steps_per_core_second": statistics.median(per_core_second),
                "rates": per_second,
                "flops_per_step": flops,
                "compile_seconds": rival.facts["compile_seconds"],
            }
        )
    best = max(row["steps_per_second"] for row in rows[len(own) :])
    return [row | {"ratio": row["steps_per_second"] / best} for row in rows]


def print_table(rows: list[dict], peak: float) -> None:
    """Prints rates, ratios to PyTorch's best way and shares of the matrix-product rate."""
    print(
        f"\n| depth | way | trial-steps/s | lowest to highest | per core-second |"
        f" to PyTorch's best | share of {peak / 1e9:.0f} GFLOP/s |\n"
        "|---:|:---|---:|---:|---:|---:|---:|"
    )
    for row in rows:
        low, high = min(row["rates"]), max(row["rates"])
        share = row["steps_per_second"] * row["flops_per_step"] / peak
        print(
            f"| {row['depth']} | {row['rival']} | {row['steps_per_second']:.0f} |"
            f" {low:.0f} to {high:.0f} | {row['steps_per_core_second']:.0f} |"
            f" {row['ratio']:.2f} | {100 * share:.0f} % |"
        )


def main() -> None:
    """Compares at every depth and prints the table."""
    parser = machine.parser(__doc__, rounds=5, seconds=3.0)
    parser.add_argument("--depths", default="10,50,100", help="hidden layers, comma-separated")
    parser.add_argument("--trials-per-core", type=int, default=2, help="in our batch of trials")
    parser.add_argument("--torch-trials", type=int, default=16, help="in PyTorch's batches")
    parser.add_argument("--compile-modes", default="default", help="of torch.compile; empty: none")
    arguments, description = machine.begin(parser)
    with machine.Yardstick() as yardstick:
        yardstick.measure()
        rows = [
            row
            for depth in map(int, arguments.depths.split(","))
            for row in compare(depth, arguments, yardstick)
        ]
    print("\n".join(yardstick.lines()))
    print_table(rows, yardstick.best)
    content = {"machine": description, "matrix_products": yardstick.rates, "rows": rows}
    machine.write_json(arguments.json, content)


if __name__ == "__main__":
    main()
