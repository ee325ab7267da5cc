"""Trains on arrays of your own: which of two interleaved spirals a point lies on."""

import numpy as np

import highway_jax


def spirals(count, seed):
    rng = np.random.default_rng(seed)
    label = rng.integers(2, size=count)
    angle = rng.uniform(0.5, 3 * np.pi, size=count)
    direction = np.stack([np.cos(angle + np.pi * label), np.sin(angle + np.pi * label)], axis=1)
    return (angle[:, None] * direction / 5).astype(np.float32), label


dataset = highway_jax.Dataset.from_arrays(
    *spirals(1000, seed=0), *spirals(500, seed=1), class_names=["left", "right"]
)

config = highway_jax.default_config()
config.name = "spirals"
config.seeds = (0, 1)
config.training.epochs = 40
config.optimizer.name = "adam"
config.optimizer.learning_rate = 0.005
config.model.depth = 5

for row in highway_jax.run(config, "runs/spirals", dataset=dataset):
    print(f"seed {row['seed']}: test accuracy {100 * row['test_accuracy']:.1f} %")
