"""What a batch of trials gains: trials at once in one program against one after another.

Trains the paper's fully connected net with 1, 8 and 40 trials in one program. One after another is
the program of one trial, which runs on one core; the time that each new process takes to start and
compile is given besides. Memory is the largest that the process had while it trained.

    python benchmarks/trials.py --depth=10 --trials=1,8,40
"""

import statistics
from typing import Any

import dense
import machine


def compare(depth: int, counts: list[int], rounds: int, seconds: float) -> list[dict[str, Any]]:
    """Returns a row for each number of trials, all measured in turn."""
    with machine.Rivals() as rivals:
        ours = [dense.start_ours(rivals, depth, count) for count in counts]
        rates = rivals.measure(rounds, seconds)
        return [
            {
                "trials": count,
                "steps_per_second": statistics.median(r.per_second for r in rates[rival.name]),
                "lowest": min(r.per_second for r in rates[rival.name]),
                "highest": max(r.per_second for r in rates[rival.name]),
                "start_seconds": rival.facts["start_seconds"],
                "memory_mib": rival.facts["memory_mib"],
            }
            for count, rival in zip(counts, ours, strict=True)
        ]


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
    parser = machine.parser(__doc__, rounds=5, seconds=5.0)
    parser.add_argument("--depth", type=int, default=10, help="hidden layers")
    parser.add_argument("--trials", default="1,8,40", help="of one program")
    arguments, description = machine.begin(parser)
    counts = [int(count) for count in arguments.trials.split(",")]
    rows = compare(arguments.depth, counts, arguments.rounds, arguments.seconds)
    print_table(rows)
    machine.write_json(arguments.json, {"machine": description, "depth": arguments.depth,
                                        "rows": rows})  # fmt: skip


if __name__ == "__main__":
    main()
