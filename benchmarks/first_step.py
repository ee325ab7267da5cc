"""Seconds from the start of each of the paper's experiments to the end of its first step.

Each experiment's first batch of trials, on random images of its data set's shape, in a fresh
process and without a compilation cache. Processor seconds hold on a busy machine too.

    python benchmarks/first_step.py
    python benchmarks/first_step.py --only=table1
"""

import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import machine
import ours

from highway_jax import command_line
from highway_jax.sweep import planning
from highway_jax.training import trial_mesh
from highway_jax.training.program import Program

ROOT = Path(__file__).parents[1]
EXPERIMENTS = (
    "digits.py",
    "mnist.py",
    "depth_sweep.py:mnist",
    "extreme_depth.py",
    *machine.TABLES,
)
SHAPES = {"digits": (8, 8, 1), "mnist": (28, 28, 1)}
NUM_EXAMPLES = 2000


def measure(spec: str) -> dict[str, Any]:
    """Returns wall and processor seconds of what comes before the second step."""
    trial_mesh.use_cores()
    config = command_line.load(str(ROOT / "experiments" / spec))
    batch = planning.plan(config, [])[0]
    name = batch.config.data.name
    dataset = ours.make_dataset(NUM_EXAMPLES, SHAPES.get(name, (32, 32, 3)))
    class_names = tuple(map(str, range(100 if name == "cifar100" else 10)))
    dataset = dataclasses.replace(dataset, name=name, class_names=class_names)
    row: dict[str, Any] = {"experiment": spec, "trials": len(batch.trials)}

    def timed(key: str, function: Callable[[], Any]) -> Any:
        began, busy = time.perf_counter(), time.process_time()
        result = function()
        row[key] = time.perf_counter() - began
        row[f"{key}_cpu"] = time.process_time() - busy
        return result

    numbers = batch.hyperparameters()
    program = timed("build", lambda: Program(batch, dataset))
    timed("compile", lambda: program.compile(numbers))
    state = timed("create", lambda: program.create(numbers))
    timed("step", lambda: program.train(state, 1))
    return row


def main() -> None:
    """Measures every experiment and prints the table."""
    parser = machine.parser(__doc__)
    parser.add_argument("--only", default="", help="experiments with this in their name")
    parser.add_argument("--one", default="", help="measure this one here and print it as JSON")
    if "--one" in sys.argv:
        print(json.dumps(measure(parser.parse_args().one)))
        return
    arguments, description = machine.begin(parser)
    rows = []
    print(
        "\n| experiment | trials | initial weights, s | train and evaluate, s | first step, s |"
        " processor, s |\n| --- |" + " ---: |" * 5
    )
    for spec in EXPERIMENTS:
        if arguments.only not in spec:
            continue
        command = [sys.executable, __file__, "--one", spec]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{spec}: {done.stderr[-2000:]}")
        rows.append(row := json.loads(done.stdout.splitlines()[-1]))
        stages = ("build", "compile", "create", "step")
        print(
            f"| {spec} | {row['trials']} | {row['create']:.1f} | {row['compile']:.1f} |"
            f" {sum(row[stage] for stage in stages):.1f} |"
            f" {sum(row[f'{stage}_cpu'] for stage in stages):.1f} |",
            flush=True,
        )
    machine.write_json(arguments.json, {"machine": description, "rows": rows})


if __name__ == "__main__":
    main()
