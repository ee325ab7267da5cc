"""Whether the authors' CIFAR images were whitened: the size of their archive says it.

The authors offered their CIFAR-10 as LevelDBs in a .tar.bz2 of "~2.27 GB" (README of
flukeskywalker/highway-networks), and call it contrast-normalized and padded. Contrast
normalization leaves an image at most 256 different numbers, which bzip2 finds; whitening makes
every number different. This packs images of both kinds as Caffe's records of floats do, a tag
byte before every number, compresses them, and counts what an archive would hold: 50,000 training
images and 40,000 of them, padded by 8 pixels and not, 10,000 for validation and 10,000 for testing.

    python experiments/provenance/archive_size.py
"""

import argparse
import bz2
import dataclasses
import runpy
from pathlib import Path

import numpy as np

from highway_jax.config.config import flatten
from highway_jax.config.sections import Config
from highway_jax.data import preprocess
from highway_jax.runs.experiment import load_data

EXPERIMENT = Path(__file__).parents[1] / "table3_cifar.py"

_FLOAT_TAG = 0x35  # Field 6, 32 bits: `float_data` of Caffe's Datum, not packed.
_PADDED, _BARE = 50_000 + 40_000, 50_000 + 40_000 + 10_000 + 10_000


def record(image: np.ndarray, padding: int) -> bytes:
    """Returns the numbers of an image [height, width, channels] as Caffe stores them."""
    border = [(padding, padding)] * 2
    planes = np.pad(image.transpose(2, 0, 1), [(0, 0), *border]).astype("<f4")
    numbers = np.empty((planes.size, 5), np.uint8)
    numbers[:, 0] = _FLOAT_TAG
    numbers[:, 1:] = planes.reshape(-1, 1).view(np.uint8)
    return numbers.tobytes()


def compressed(images: np.ndarray, padding: int) -> float:
    """Returns the bytes that one image takes in a .bz2 of them all."""
    return len(bz2.compress(b"".join(record(image, padding) for image in images))) / len(images)


def main() -> None:
    """Compresses both kinds and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--images", type=int, default=600, help="that are compressed")
    arguments = parser.parse_args()
    experiment = runpy.run_path(str(EXPERIMENT))["get_config"]("cifar10")
    config = Config.from_settings(flatten(experiment)).data
    dataset = load_data(config)
    print("| images | one, bytes | padded, bytes | archive, GB | GiB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for kind, epsilon in (("contrast-normalized", 0.0), ("and whitened", config.zca_epsilon)):
        chosen = dataclasses.replace(config, zca_epsilon=epsilon)
        images, prepare = preprocess.examples(chosen, dataset)
        inputs = np.asarray(prepare(images[: arguments.images]))
        bare, padded = (compressed(inputs, padding) for padding in (0, 8))
        total = _BARE * bare + _PADDED * padded
        print(f"| {kind} | {bare:.0f} | {padded:.0f} | {total / 1e9:.2f} | {total / 2**30:.2f} |")


if __name__ == "__main__":
    main()
