"""What depth costs: time to compile, steps a second, and a net of 1,000 layers that trains.

The equal blocks of a net are one loop in the compiled program, so compiling should take the same
time at every depth, and a step time in proportion to it. Every compilation is in a fresh process;
depths take turns.

    python benchmarks/depth.py --depths=10,100,1000
"""

import json
import math
import statistics
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dense
import machine
import ours

from highway_jax.config import config as config_lib
from highway_jax.runs import experiment
from highway_jax.training import trial_mesh

ALLOWED_RATIO = 1.25
"""Compiling the deepest net may take this much longer than compiling the shallowest."""


def work_compile(depth: int, num_trials: int) -> tuple[Callable, dict]:
    """Compiles in this worker; there is nothing more to measure."""
    trial_mesh.use_cores()
    program, numbers = ours.make_program(dense.settings(depth), num_trials, ours.make_dataset())
    return (lambda seconds: (0, seconds)), {"compile_seconds": program.compile(numbers)}


def measure_compiling(depths: list[int], repetitions: int) -> dict[int, list[float]]:
    """Returns the seconds that compiling took, by depth, every time in a fresh process."""
    seconds: dict[int, list[float]] = {depth: [] for depth in depths}
    for _ in range(repetitions):
        for depth in depths:
            work = {"depth": depth, "num_trials": trial_mesh.num_cores()}
            with machine.Rivals() as rivals:
                rival = rivals.start(
                    f"depth {depth}", machine.all_cores("depth", "work_compile", **work)
                )
                seconds[depth].append(rival.facts["compile_seconds"])
    return seconds


def measure_steps(depths: list[int], rounds: int, seconds: float) -> dict[int, list[float]]:
    """Returns trial-steps a second by depth, of a batch with a trial for each core."""
    rates = {}
    for depth in depths:
        with machine.Rivals() as rivals:
            rival = dense.start_ours(rivals, depth, trial_mesh.num_cores(), f"depth {depth}")
            measured = rivals.measure(rounds, seconds)[rival.name]
            rates[depth] = [rate.per_second for rate in measured]
    return rates


def train_deep(depth: int, epochs: int) -> dict[str, Any]:
    """Trains a deep highway net on the digits with a few seeds, as any experiment is run.

    Returns:
        `curves`, each trial's training loss after every epoch, its result `rows`, and `seconds`.

    Raises:
        RuntimeError: If a trial diverged, or its training loss did not fall to a tenth.
    """
    config = config_lib.default_config()
    config.name = f"depth{depth}"
    config.seeds = tuple(range(trial_mesh.num_cores()))
    config.data.subtract_mean = True
    config.model.depth, config.model.width = depth, dense.WIDTH
    config.model.transform_bias = -8.0
    config.optimizer.learning_rate = 0.1
    config.training.epochs = epochs
    config.runtime.tensorboard = False
    curves: dict[int, list[float]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as workdir:
        rows = experiment.run(config, workdir)
        for line in (Path(workdir) / "metrics.jsonl").read_text(encoding="utf-8").splitlines():
            entry = json.loads(line)
            curves[entry["trial"]].append(entry["train_loss"])
    for row in rows:
        curve = curves[row["trial"]]
        if row["diverged"] or not all(map(math.isfinite, curve)):
            raise RuntimeError(f"depth {depth}: the trial of seed {row['seed']} diverged")
        if not curve[-1] < curve[0] / 10:
            raise RuntimeError(f"depth {depth}: training loss only fell from {curve[0]:.3g} to"
                               f" {curve[-1]:.3g}")  # fmt: skip
    return {"curves": list(curves.values()), "rows": rows}


def print_costs(
    compiling: dict[int, list[float]], rates: dict[int, list[float]]
) -> tuple[float, float]:
    """Prints the table of depths; returns the ratio of compile times and its allowed value."""
    first = statistics.median(next(iter(compiling.values())))
    print("\n| depth | compile, s | lowest to highest | to the first | trial-steps/s |\n"
          "|---:|---:|---:|---:|---:|")  # fmt: skip
    for depth, seconds in compiling.items():
        ratio = statistics.median(seconds) / first
        print(
            f"| {depth} | {statistics.median(seconds):.2f} |"
            f" {min(seconds):.2f} to {max(seconds):.2f} | {ratio:.2f} |"
            f" {statistics.median(rates[depth]):.1f} |"
        )
    return ratio, ALLOWED_RATIO


def print_training(depth: int, result: dict[str, Any]) -> None:
    """Prints how the deep net's training went."""
    print("\n| seed | depth | training loss, epoch 1 | last epoch | test accuracy |\n"
          "|---:|---:|---:|---:|---:|")  # fmt: skip
    for row, curve in zip(result["rows"], result["curves"], strict=True):
        print(
            f"| {row['seed']} | {depth} | {curve[0]:.3f} | {curve[-1]:.2g} |"
            f" {100 * row['test_accuracy']:.2f} % |"
        )
    row = result["rows"][0]
    print(f"{row['epochs']} epochs, {row['steps']} steps: {row['train_seconds']:.0f} s")


def main() -> None:
    """Measures, trains and prints the tables."""
    parser = machine.parser(__doc__, rounds=3, seconds=3.0)
    parser.add_argument("--depths", default="10,100,1000", help="hidden layers, shallowest first")
    parser.add_argument("--repetitions", type=int, default=5, help="compilations of each depth")
    parser.add_argument(
        "--train-depth", type=int, default=1000, help="of the net to train; 0: none"
    )
    parser.add_argument("--train-epochs", type=int, default=30, help="on the digits")
    arguments, description = machine.begin(parser)
    depths = [int(depth) for depth in arguments.depths.split(",")]
    compiling = measure_compiling(depths, arguments.repetitions)
    rates = measure_steps(depths, arguments.rounds, arguments.seconds)
    ratio, allowed = print_costs(compiling, rates)
    content = {"machine": description, "compile_seconds": compiling, "steps_per_second": rates}
    if arguments.train_depth:
        content["training"] = train_deep(arguments.train_depth, arguments.train_epochs)
        print_training(arguments.train_depth, content["training"])
    machine.write_json(arguments.json, content)
    if ratio > allowed:
        raise SystemExit(f"compiling the deepest net takes {ratio:.2f} times as long as the first;"
                         f" at most {allowed} is allowed")  # fmt: skip


if __name__ == "__main__":
    main()
