"""What an adaptive search gains: TPE against random search, both with successive halving.

Searches settings of Figure 1's nets on the digits (`experiments/depth_sweep.py:digits`) with the
same budget of training steps in three ways:

    random    one round of all trials, which are ranked together
    rounds    the same settings in rounds of five, each of which is ranked by itself
    tpe       rounds of five, of which all but the first are proposed by Optuna's TPE sampler

A search is repeated with several seeds in one run: each repetition is a case of its own, since
draws depend on the name of the case. The trial-steps to reach the best loss of `random` are those
of all rounds up to the first that has a trial with this loss or a lower one. `random` needs its
whole budget, as its last rung ends last.

    python benchmarks/adaptive_search.py --depths=10
"""

import statistics
from pathlib import Path
from typing import Any

import machine
from ml_collections import ConfigDict

import highway_jax
from highway_jax import command_line
from highway_jax.sweep import outcomes

ROUND = 5
EXPERIMENT = Path(__file__).parents[1] / "experiments" / "depth_sweep.py"
WAYS = ("random", "rounds", "tpe")


def configure(way: str, depths: tuple[int, ...], trials: int, seeds: int) -> ConfigDict:
    """Returns the config of one way to search.

    Args:
        way: One of `WAYS`.
        depths: Hidden layers of the nets.
        trials: Settings of a search; a multiple of `ROUND`.
        seeds: Repetitions.
    """
    config = command_line.load(f"{EXPERIMENT}:digits")
    blocks = dict(config.cases.items())
    with config.unlocked():
        config.cases = ConfigDict(sort_keys=False)
        for block, settings in blocks.items():
            for seed in range(seeds):
                config.cases[f"{block}-{seed}"] = settings
    config.sweep.grid.model.depth = depths
    config.sweep.trials = trials
    keeps = (2, 1)
    if way == "random":
        config.sweep.rung_keeps = tuple(keep * trials // ROUND for keep in keeps)
    else:
        config.sweep.rung_keeps, config.sweep.ask = keeps, ROUND
        config.sweep.sampler = "tpe" if way == "tpe" else "random"
    return config


def searches(rows: list[dict[str, Any]], trials: int) -> dict[tuple[str, int, str], list[Any]]:
    """Returns the rounds of each search: the trial-steps of each, and its lowest training loss.

    Args:
        rows: The rows of a run.
        trials: Settings of a search.

    Returns:
        Lists of (steps, loss or None) by block, depth and seed.
    """
    found: dict[tuple[str, int, str], list[Any]] = {}
    rows = sorted(rows, key=lambda row: row["trial"])
    for first in range(0, len(rows), trials):
        own = rows[first : first + trials]
        block, _, seed = own[0]["case"].rpartition("-")
        rounds = [own[i : i + ROUND] for i in range(0, trials, ROUND)]
        found[block, own[0]["depth"], seed] = [
            (
                sum(row["steps"] for row in one),
                min(
                    (r["train_loss"] for r in one if r["status"] == outcomes.FINISHED), default=None
                ),
            )
            for one in rounds
        ]
    return found


def best(rounds: list[Any]) -> float:
    """Returns the lowest training loss of a search."""
    return min(loss for _, loss in rounds if loss is not None)


def steps_to(target: float, rounds: list[Any]) -> int | None:
    """Returns the trial-steps of the rounds until one reaches a loss; None if none does."""
    total = 0
    for steps, loss in rounds:
        total += steps
        if loss is not None and loss <= target:
            return total
    return None


def compare(found: dict[str, dict[tuple[str, int, str], list[Any]]]) -> list[dict[str, Any]]:
    """Returns a row for each net, with lists over the seeds."""
    table = []
    for block, depth in dict.fromkeys((b, d) for b, d, _ in found["random"]):
        keys = [key for key in found["random"] if key[:2] == (block, depth)]
        row: dict[str, Any] = {"block": block, "depth": depth}
        row["budget"] = [sum(steps for steps, _ in found["random"][key]) for key in keys]
        for way in WAYS:
            row[f"{way}_loss"] = [best(found[way][key]) for key in keys]
        for way in WAYS[1:]:
            row[f"{way}_steps"] = [
                steps_to(target, found[way][key])
                for key, target in zip(keys, row["random_loss"], strict=True)
            ]
        table.append(row)
    return table


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints the rows in Markdown: geometric means of losses, and means of steps."""
    heads = ("net", "budget", *(f"loss, {way}" for way in WAYS))
    heads += tuple(f"{way}: {what}" for way in WAYS[1:] for what in ("reached", "trial-steps"))
    print("\n| " + " | ".join(heads) + " |\n| ---" + " | ---:" * (len(heads) - 1) + " |")
    for row in rows:
        cells = [f"{row['block']} {row['depth']}", f"{statistics.mean(row['budget']):.0f}"]
        cells += [f"{statistics.geometric_mean(row[f'{way}_loss']):.2e}" for way in WAYS]
        for way in WAYS[1:]:
            steps = row[f"{way}_steps"]
            bounds = [b if s is None else s for s, b in zip(steps, row["budget"], strict=True)]
            cells.append(f"{sum(s is not None for s in steps)} of {len(steps)}")
            cells.append(f"{'>= ' if None in steps else ''}{statistics.mean(bounds):.0f}")
        print("| " + " | ".join(cells) + " |")
    for way in WAYS[1:]:
        ratios = [
            own / other
            for row in rows
            for own, other in zip(row[f"{way}_loss"], row["random_loss"], strict=True)
        ]
        print(
            f"\n{way}: best loss {statistics.geometric_mean(ratios):.2f} times that of random"
            f" (geometric mean of {len(ratios)} searches); lower in {sum(r < 1 for r in ratios)},"
            f" equal in {sum(r == 1 for r in ratios)}"
        )


def main() -> None:
    """Trains the searches, or resumes them, and prints the table."""
    parser = machine.parser(__doc__)
    parser.add_argument("--depths", default="10", help="hidden layers")
    parser.add_argument("--trials", type=int, default=20, help="settings of a search")
    parser.add_argument("--seeds", type=int, default=5, help="repetitions")
    parser.add_argument("--workdir", default="runs/adaptive_search", help="directory of the runs")
    arguments, description = machine.begin(parser)
    if arguments.trials % ROUND:
        parser.error(f"--trials is {arguments.trials}; allowed: a multiple of {ROUND}")
    depths = tuple(int(depth) for depth in arguments.depths.split(","))
    found = {}
    for way in WAYS:
        config = configure(way, depths, arguments.trials, arguments.seeds)
        rows = highway_jax.run(config, Path(arguments.workdir) / way)
        found[way] = searches(rows, arguments.trials)
    rows = compare(found)
    print_table(rows)
    machine.write_json(arguments.json, {"machine": description, "rows": rows})


if __name__ == "__main__":
    main()
