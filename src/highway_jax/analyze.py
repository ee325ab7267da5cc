"""Analyzes the trained highway nets of a run: gates, routing by class, lesions (Figures 2 to 4).

    python -m highway_jax.analyze --workdir=runs/figure2to4

Analyzes the best trial of each highway net of the run, dense or convolutional. For each of them it
writes into `analysis/` of the run: `findings.npz` (all arrays), `numbers.json` (the statistics) and
the figures. Nothing is trained.
"""

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from highway_jax import files
from highway_jax.analysis import statistics
from highway_jax.analysis.collect import Options, analyze
from highway_jax.arguments import Parser
from highway_jax.errors import UserError, require
from highway_jax.reporting import figures
from highway_jax.runtime.output import print_error, standard_output
from highway_jax.runtime.progress import Output
from highway_jax.storage import findings
from highway_jax.storage.findings import Findings


def write(found: Findings, out: Path) -> dict[str, float]:
    """Writes the arrays, statistics and figures of a net into a directory.

    Returns:
        The statistics of `statistics.NUMBERS`.
    """
    numbers = statistics.measure(found)
    out.mkdir(parents=True, exist_ok=True)
    findings.save(found, out / "findings.npz")
    clean = {key: None if np.isnan(value) else value for key, value in numbers.items()}
    files.write_atomically(out / "numbers.json", json.dumps(clean, indent=2) + "\n")
    figures.save(figures.figure2([found]), out / "figure2")
    figures.save(figures.figure3([found]), out / "figure3")
    figures.save(figures.figure4([found]), out / "figure4")
    figures.save(figures.lesions(found), out / "lesions")
    return numbers


def main(argv: list[str]) -> int:
    """Runs a command line, given without the program's name; returns the exit status."""
    parser = Parser(
        prog="highway-jax analyze",
        description="Analyzes the trained highway nets of a run (Figures 2 to 4).",
    )
    parser.add_argument("--workdir", required=True, help="directory of the run")
    parser.add_argument(
        "--trial", action="append", type=int, default=[], help="index of a trial; repeatable"
    )
    parser.add_argument("--out", help="directory to write (default: analysis/ of the run)")
    parser.add_argument(
        "--examples", type=int, default=0, help="training examples for lesions (default: all)"
    )
    parser.add_argument(
        "--pair_examples",
        type=int,
        default=2000,
        help="training examples for lesions of two layers (default: 2000; 0: no such lesions)",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        default=0,
        help="examples evaluated together (default: as in the run)",
    )
    try:
        arguments = parser.parse(argv)
        with standard_output() as output:
            _write_all(arguments, output)
    except UserError as error:
        print_error(error)
        return 2
    return 0


def _write_all(arguments: argparse.Namespace, output: Output) -> None:
    require("report", "an analysis", "matplotlib")
    workdir = files.expand("--workdir", arguments.workdir)
    out = files.expand("--out", arguments.out) if arguments.out else workdir / "analysis"
    for name in ("examples", "pair_examples", "batch_size"):
        if getattr(arguments, name) < 0:
            raise UserError(f"--{name} is {getattr(arguments, name)}; allowed: 0 or more")
    options = Options(arguments.examples, arguments.pair_examples, batch_size=arguments.batch_size)
    for index, found in analyze(workdir, arguments.trial, options).items():
        directory = out / f"trial_{index:04d}"
        try:
            numbers = write(found, directory)
        except OSError as error:
            raise UserError(
                f"--out is {str(out)!r}; allowed: a directory to write ({error})"
            ) from error
        print(f"{found.title}: {directory}", file=output)
        for words, value in statistics.describe(numbers):
            print(f"  {value:>8}  {words}", file=output)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
