"""Trains highway and plain nets with two learning rates each, and plots the training losses.

Needs matplotlib: `pip install -e '.[report]'`.
"""

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

import highway_jax

config = highway_jax.default_config()
config.name = "sweep"
config.training.epochs = 5
config.optimizer.name = "adam"
config.model.depth = 20
config.sweep.grid = {
    "model": {"block": ("highway", "plain")},
    "optimizer": {"learning_rate": (0.001, 0.003)},
}
highway_jax.run(config, "runs/sweep")

run = highway_jax.read_run("runs/sweep")  # Its tables are lists of dicts, for pandas too.
for trial in run.results:
    curve = [line for line in run.metrics if line["trial"] == trial["trial"]]
    plt.semilogy(
        [line["epoch"] for line in curve],
        [line["train_loss"] for line in curve],
        label=f"{trial['block']}, learning rate {trial['learning_rate']}",
    )
plt.xlabel("epoch")
plt.ylabel("training loss")
plt.legend()
plt.savefig("runs/sweep/curves.png")
print("runs/sweep/curves.png")
