"""What a batch of trials gains: trials at once in one program against one after another.

Trains the paper's fully connected net with 1, 8 and 40 trials in one program. One after another is
the program of one trial, which runs on one core; the time that each new process takes to start and
compile is given besides. Memory is the largest that the process had while it trained.

    python benchmarks/trials.py --depth=10 --trials=1,8,40
"""

import argparse
import resource
import statistics
import time
from collections.abc import Callable
from typing import Any

import dense
import machine


def work_trials(depth: int, num_trials: int) -> tuple[Callable, dict]:
    """Gets a worker ready; it measures trial-steps, and tells its start and its memory."""
    began = time.perf_counter()
    measure, facts = dense.work_ours(depth, num_trials)
    facts["start_seconds"] = time.perf_counter() - began
    # KiB on Linux; after the warm-up, which has trained.
    facts["memory_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return measure, facts


def compare(depth: int, counts: list[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Returns a row for each number of trials, all measured in turn."""
    rivals = [
        machine.Rival(
            f"{count} trials",
            machine.all_cores("trials", "work_trials", depth=depth, num_trials=count),
        )
        for count in counts
    ]
    try:
        rates = machine.interleaved(rivals, rounds, seconds)
        return [
            {
                "trials": count,
                "steps_per_second": statistics.median(r.per_second for r in rates[rival.name]),
                "lowest": min(r.per_second for r in rates[rival.name]),
                "highest": max(r.per_second for r in rates[rival.name]),
                "start_seconds": rival.facts["start_seconds"],
                "memory_mib": rival.facts["memory_mib"],
            }
            for count, rival in zip(counts, rivals, strict=True)
        ]
    finally:
        for rival in rivals:
            rival.close()


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows, each beside the first number of trials one after another."""
    first = rows[0]
    print("\n| trials | trial-steps/s | lowest to highest | to the first | cost of a trial |"
          " start, s | memory, MiB | a trial more, MiB |\n|" + " ---: |" * 8)  # fmt: skip
    for row in rows:
        ratio = row["steps_per_second"] / first["steps_per_second"]
        more = row["trials"] - first["trials"]
        memory = f"{(row['memory_mib'] - first['memory_mib']) / more:.1f}" if more else "-"
        print(
            f"| {row['trials']} | {row['steps_per_second']:.0f} |"
            f" {row['lowest']:.0f} to {row['highest']:.0f} | {ratio:.2f} | {1 / ratio:.2f} |"
            f" {row['start_seconds']:.1f} | {row['memory_mib']:.0f} | {memory} |"
        )


def main() -> None:
    """Measures and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--depth", type=int, default=10, help="hidden layers")
    parser.add_argument("--trials", default="1,8,40", help="of one program")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each")
    parser.add_argument("--seconds", type=float, default=2.0, help="of every measurement")
    parser.add_argument("--json", default="", metavar="FILE", help="write results there too")
    arguments = parser.parse_args()
    description = machine.describe()
    machine.print_description(description)
    counts = [int(count) for count in arguments.trials.split(",")]
    rows = compare(arguments.depth, counts, arguments.rounds, arguments.seconds)
    print_table(rows)
    machine.write_json(arguments.json, {"machine": description, "depth": arguments.depth,
                                        "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
