"""Whether initial weights and preprocessing are the authors': losses of nets that nobody trained.

The authors' logs begin with the test loss of a net as it was drawn. This draws each of these nets
many times and prints the range of its loss on the first test images. That the log's lies within it
says that kernels, gate biases and the scale of the images are right together.

    python experiments/provenance/initial_loss.py --draws=40
"""

import argparse
import runpy
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from highway_jax.config.config import flatten
from highway_jax.config.sections import Config
from highway_jax.data import preprocess
from highway_jax.nn import model as nets
from highway_jax.paper import published
from highway_jax.runs.experiment import load_data
from highway_jax.training import metrics

EXPERIMENTS = Path(__file__).parents[1]


class Net(NamedTuple):
    """A net with a log: its experiment, and what `paper.author_curve` calls it."""

    file: str
    variant: str
    key: tuple[str, int, str]


NETS = (
    Net("table1_mnist.py", "width32", ("mnist10", 32, "mnist")),
    Net("table3_cifar.py", "cifar10", ("cifar19", 32, "cifar10")),
    Net("table3_cifar.py", "cifar100", ("cifar19", 32, "cifar100")),
)


def losses(net: Net, draws: int, num_images: int) -> np.ndarray:
    """Returns the mean test loss of so many freshly drawn nets."""
    experiment = runpy.run_path(str(EXPERIMENTS / net.file))["get_config"](net.variant)
    config = Config.from_settings(flatten(experiment))
    dataset = load_data(config.data)
    model = nets.build(config.model, dataset.example_shape, dataset.num_classes)
    images, prepare = preprocess.examples(config.data, dataset)
    inputs = prepare(jnp.asarray(images[-dataset.test.size :][:num_images]))
    labels = jnp.asarray(dataset.test.labels[:num_images])

    @jax.jit
    def loss(seed):
        params = model.init(jax.random.key(seed), config.model.transform_bias)
        return metrics.cross_entropy(model.apply(params, inputs), labels).mean()

    return np.asarray([loss(seed) for seed in range(draws)])


def main() -> None:
    """Draws the nets and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--draws", type=int, default=40, help="of each net")
    parser.add_argument("--images", type=int, default=1000, help="test images")
    arguments = parser.parse_args()
    print("| net | log | median | lowest to highest | within |\n| --- | ---: | ---: | ---: | --- |")
    all_within = True
    for net in NETS:
        log = float(published.author_curve(*net.key)[0, 2])
        found = losses(net, arguments.draws, arguments.images)
        within = found.min() <= log <= found.max()
        all_within &= bool(within)
        print(
            f"| {net.key[0]} on {net.key[2]} | {log:.3f} | {np.median(found):.2f} |"
            f" {found.min():.2f} to {found.max():.2f} | {'yes' if within else 'NO'} |"
        )
    if not all_within:
        raise SystemExit("a log lies outside")


if __name__ == "__main__":
    main()
