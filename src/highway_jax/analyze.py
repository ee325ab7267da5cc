"""Figures 2 to 4 of a run: its gates, how they route classes, and what lesions of its layers cost.

    python -m highway_jax.analyze --workdir=runs/figure2to4

Looks into the best trial of each highway net of the run, dense or convolutional, and writes for
each of them into `analysis/` of the run: `findings.npz` (all arrays), `numbers.json`, and the
figures. Nothing is trained.
"""

import json
import sys
from pathlib import Path

import numpy as np

from highway_jax import files
from highway_jax.analysis import statistics
from highway_jax.analysis.collect import Options, analyze
from highway_jax.arguments import Parser
from highway_jax.errors import UserError
from highway_jax.reporting import figures
from highway_jax.storage import findings
from highway_jax.storage.findings import Findings


def write(found: Findings, out: Path) -> dict[str, float]:
    """Writes the arrays, numbers and figures of one net into a directory; returns the numbers."""
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
    """Runs one command line without the program's name; returns the exit status."""
    parser = Parser(prog="python -m highway_jax.analyze", description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", required=True, help="of a run")
    parser.add_argument(
        "--trial", action="append", type=int, default=[], help="its number; repeatable"
    )
    parser.add_argument("--out", help="directory to write (default: analysis/ in the run's)")
    parser.add_argument(
        "--examples", type=int, default=0, help="training examples for lesions (default: all)"
    )
    parser.add_argument(
        "--pair_examples", type=int, default=2000, help="for pairs of layers (default: 2000)"
    )
    parser.add_argument(
        "--batch_size", type=int, default=0, help="examples at a time (default: as the run)"
    )
    try:
        arguments = parser.parse(argv)
        workdir = files.expand("--workdir", arguments.workdir)
        out = files.expand("--out", arguments.out) if arguments.out else workdir / "analysis"
        for name in ("examples", "pair_examples", "batch_size"):
            if getattr(arguments, name) < 0:
                raise UserError(f"--{name} is {getattr(arguments, name)}; allowed: 0 or more")
        options = Options(
            arguments.examples, arguments.pair_examples, batch_size=arguments.batch_size
        )
        for index, found in analyze(workdir, arguments.trial, options).items():
            directory = out / f"trial_{index:04d}"
            numbers = write(found, directory)
            print(f"{found.title}: {directory}")
            for words, value in statistics.describe(numbers):
                print(f"  {value:>8}  {words}")
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    except OSError as error:
        print(f"error: --out is {str(out)!r}; allowed: a directory to write ({error})",
              file=sys.stderr)  # fmt: skip
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
