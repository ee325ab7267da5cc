"""Findings with known values."""

import numpy as np

from highway_jax.storage.findings import Findings


def made_up(blocks=20, width=3, classes=2):
    """Returns the findings of a net of 20 layers, whose statistics the tests compute by hand."""
    layer = np.arange(blocks)[:, None] + np.zeros(width)
    mean = 1 / (2 + layer)
    by_class = np.stack([mean, mean])
    by_class[0, :2] += 0.1
    by_class[1, 15:] -= 0.05
    gates = np.zeros((4, blocks, width))
    gates[:, :, 0] = 0.9
    error = np.full(blocks, 0.02)
    error[[0, 3]] = 0.5, 0.0299
    changes = np.full(blocks, 0.0)
    changes[[0, 5]] = 94, 6
    losses = np.stack([error * 3, error])
    return Findings(
        title="a net",
        class_names=np.array(["0", "dog"]),
        biases_before=np.full((blocks, width), -2.0),
        biases=-2 - layer,
        counts=np.ones(classes),
        by_class=by_class,
        mean=mean,
        changes=changes,
        sample_index=np.arange(4),
        sample_image=np.zeros((4, 2, 2, 1), np.uint8),
        sample_label=np.zeros(4, int),
        sample_prediction=np.ones(4, int),
        sample_gates=gates,
        sample_outputs=gates * 2,
        num_examples=10,
        intact=np.array([0.06, 0.02]),
        shut=losses,
        opened=losses,
        shut_to=losses,
        shut_from=losses,
        num_pair_examples=5,
        pairs=np.broadcast_to(losses[:, :, None], (2, blocks, blocks)),
    )
