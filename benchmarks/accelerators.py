"""Compiles each of the paper's experiments for TPUs and GPUs that are not here.

Of each experiment the batch with the deepest highway net, in a process of its own. Writes
accelerators.md beside this file, a table for each topology. Rows that the file already has are
kept, unless they are made again or are of other versions of the compilers.

    python benchmarks/accelerators.py
    python benchmarks/accelerators.py --only=table1_mnist.py:width16 --topology=v5e:2x2
"""

import argparse
import importlib.metadata
import json
import platform
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import machine

from highway_jax import command_line, compile_only
from highway_jax.errors import brief
from highway_jax.sweep import planning
from highway_jax.training import topologies

ROOT = Path(__file__).parents[1]
EXPERIMENTS = (
    "depth_sweep.py:mnist",
    *machine.TABLES,
    "figure2to4_mnist.py",
    "figure2to4_cifar100.py",
)
TOPOLOGIES = ("v5e:2x2", "v6e:2x2", "h100")
PACKAGES = ("jax", "jaxlib", "libtpu", "jax-cuda12-plugin")
MEBIBYTE = 2**20

HEAD = """\
# Compiled for accelerators

Made by `python benchmarks/accelerators.py`: what the compilers say of each of the paper's
experiments, on a machine without such devices. **Nothing here has run.** Of each experiment the
batch with the deepest highway net. "Compile" is the processor time that the compiler takes for
training, and "all" for evaluation, gates and lesions too. Other load raises the processor time: the
CIFAR-10 net took 102 s and 144 s for v5e. Memory is of training, on each device, in MiB; "others"
is the most that evaluation, gates or lesions take. "Most trials" fit the memory of a device, within
1 %; it is empty where it was not searched for. Collectives are counted in all programs: none
exchanges data between trials; those counted are of devices that share the batches of a trial, where
trials are fewer than devices or cannot be divided among them. "Floor" is the time of the matrix
products of a step of a device's trials at the highest rate that its maker states for the precision.
Operations of a step are fusions and copies on TPU and launched kernels on GPU, where the last
column takes 3 µs for each, which is an estimate.
"""
COLUMNS = (
    *("experiment", "trials a device", "compile, s", "all, s", "temporaries", "peak", "others"),
    *("most trials", "floor, ms", "operations", "a layer", "collectives", "launches, ms"),
)


def measure(spec: str, name: str, *, search: bool) -> list[str]:
    """Returns the cells of a row, without the first."""
    topology = topologies.find(name)
    config = command_line.load(str(ROOT / "experiments" / spec))
    batches = planning.plan(config, [])
    batch = max(batches, key=lambda b: (b.config.model.block == "highway", b.config.model.depth))
    report = compile_only.report(batch, topology)
    training = report.training
    seconds = sum(found.processor_seconds for found in report.compiled)
    cells = [str(report.trials_per_device), f"{training.processor_seconds:.0f}"]
    if training.memory is None:
        return [*cells, f"{seconds:.0f}", brief(training.reason)]
    memories = [found.memory for found in report.compiled if found is not training]
    others = [memory.peak for memory in memories if memory is not None]
    floor = report.floor
    fitting = compile_only.most_trials(report) if search else None
    launches = training.operations * compile_only.SECONDS_A_LAUNCH
    return [
        *cells,
        f"{seconds:.0f}",
        *(
            f"{size / MEBIBYTE:,.0f}"
            for size in (training.memory.temporaries, training.memory.peak)
        ),
        f"{max(others) / MEBIBYTE:,.0f}",
        "" if fitting is None else f"{fitting:,}",
        "" if floor is None else f"{1e3 * floor:.2g}",
        f"{training.operations:,}",
        f"{training.in_loops / report.program.model.num_blocks:.1f}" if training.in_loops else "",
        str(sum(found.collectives for found in report.compiled) or "none"),
        f"{1e3 * launches:.2g}" if topology.chip.operation == "launches" else "",
    ]


def _row(cells: Iterable[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _version(package: str) -> str:
    try:
        return f"{package} {importlib.metadata.version(package)}"
    except importlib.metadata.PackageNotFoundError:
        return f"no {package}"


def main() -> None:
    """Compiles every experiment for every topology and writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=None, choices=EXPERIMENTS, help="this experiment alone")
    parser.add_argument("--topology", default="", help="this one alone")
    parser.add_argument("--no_search", action="store_true", help="leave out the most trials")
    parser.add_argument("--out", default=str(Path(__file__).with_suffix(".md")))
    parser.add_argument("--one", default="", help="print the row of this experiment as JSON")
    arguments = parser.parse_args()
    if arguments.one:
        row = measure(arguments.one, arguments.topology, search=not arguments.no_search)
        print(json.dumps(row))
        return
    out = Path(arguments.out)
    versions = ", ".join(map(_version, PACKAGES))
    made_with = f"Compilers: {versions}; Python {platform.python_version()}."
    for name in [arguments.topology] if arguments.topology else TOPOLOGIES:
        for spec in [arguments.only] if arguments.only else EXPERIMENTS:
            command = [sys.executable, __file__, f"--one={spec}", f"--topology={name}"]
            command += ["--no_search"] * arguments.no_search
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            failed = [f"failed: {brief(done.stderr[-300:], 200)}"]
            cells = failed if done.returncode else json.loads(done.stdout.splitlines()[-1])
            missing = [""] * (len(COLUMNS) - 1 - len(cells))
            rows = _read(out, made_with)  # Another process may have added rows.
            rows[name, spec] = _row([spec.replace(".py", ""), *cells, *missing])
            print(rows[name, spec], flush=True)
            _write(out, made_with, rows)


def _read(path: Path, made_with: str) -> dict[tuple[str, str], str]:
    """Returns the rows of a file by topology and experiment, if the same compilers made it."""
    lines = path.read_text().splitlines() if path.exists() else []
    rows, name = {}, ""
    specs = {spec.replace(".py", ""): spec for spec in EXPERIMENTS}
    for line in lines if made_with in lines else []:
        if line.startswith("## "):
            name = line.removeprefix("## ")
        elif line.startswith("| ") and (spec := specs.get(line.split(" | ")[0][2:])):
            rows[name, spec] = line
    return rows


def _write(path: Path, made_with: str, rows: dict[tuple[str, str], str]) -> None:
    """Writes a table for each topology, with rows in the order of `EXPERIMENTS`."""
    lines = [HEAD, made_with]
    for name in dict.fromkeys([*TOPOLOGIES, *(topology for topology, _ in rows)]):
        found = [rows[name, spec] for spec in EXPERIMENTS if (name, spec) in rows]
        if found:
            head = [_row(COLUMNS), _row(["---"] + ["---:"] * (len(COLUMNS) - 1))]
            lines += ["", f"## {name}", "", *head, *found]
    path.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
