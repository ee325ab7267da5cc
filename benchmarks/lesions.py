"""Figure 4's work: every layer lesioned in turn, in one program or in as many evaluations.

A highway net of 50 layers and the 60,000 training images of MNIST's shape: its 49 lesions and the
whole net are evaluated at once by `analysis.Nets.lesion`, and one after another by evaluations that
are compiled once, and by ones that are compiled for each lesion, as one would write it first.

    python benchmarks/lesions.py
"""

import time

import dense
import jax
import machine
import numpy as np
import ours

from highway_jax.analysis import trained_nets


def measure(depth: int, num_examples: int) -> dict[str, float]:
    """Returns the seconds that each way takes, compiling included, and checks that all agree."""
    program, numbers = ours.make_program(dense.settings(depth), 1, ours.make_dataset(num_examples))
    params = program.trials.fetch(program.create(numbers).params)
    nets = trained_nets.Nets(program, params)
    whole = np.full((1, nets.num_blocks), np.nan)
    gates = np.concatenate([whole, trained_nets.single_lesions(nets.num_blocks)])
    images = jax.device_put(program.examples.images)
    labels = jax.device_put(program.examples.labels)
    own = jax.tree.map(lambda leaf: jax.device_put(leaf[0]), params)
    size = program.config.evaluation.batch_size

    @jax.jit
    def batch_loss(images, labels, gates):
        logits = program.model.apply(own, program.task.preprocess(images), gates=gates)
        return -jax.nn.log_softmax(logits)[np.arange(len(labels)), labels].sum()

    def one_by_one(gates):
        total = 0.0
        for first in range(0, num_examples, size):
            total += batch_loss(images[first : first + size], labels[first : first + size], gates)
        return float(total) / num_examples

    began = time.perf_counter()
    together = nets.lesion(gates, num_examples=num_examples).mean_loss[0]
    seconds = {"one program": time.perf_counter() - began}
    began = time.perf_counter()
    again = [one_by_one(row.astype(np.float32)) for row in gates]
    seconds["50 evaluations, compiled once"] = time.perf_counter() - began
    np.testing.assert_allclose(together, again, rtol=1e-4)
    began = time.perf_counter()
    for row in gates:
        jax.clear_caches()
        one_by_one(row.astype(np.float32))
    seconds["50 evaluations, compiled each"] = time.perf_counter() - began
    return seconds


def main() -> None:
    """Measures and prints the table."""
    parser = machine.parser(__doc__)
    parser.add_argument("--depth", type=int, default=50, help="hidden layers")
    parser.add_argument("--examples", type=int, default=60_000, help="images")
    arguments, description = machine.begin(parser)
    seconds = measure(arguments.depth, arguments.examples)
    print("\n| way | seconds | to one program |\n| --- | ---: | ---: |")
    for name, value in seconds.items():
        print(f"| {name} | {value:.1f} | {value / seconds['one program']:.2f} |")
    machine.write_json(arguments.json, {"machine": description, "seconds": seconds})


if __name__ == "__main__":
    main()
