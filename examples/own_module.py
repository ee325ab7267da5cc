"""Trains a linen module of your own with two learning rates, and uses the better net."""

import flax.linen as nn

import highway_jax
from highway_jax.data.digits import load_digits


class ConvNet(nn.Module):
    """A small convolutional net with highway layers on top."""

    width: int = 32

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Conv(16, (3, 3), strides=2)(x))
        x = nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        x = nn.Dropout(0.1, deterministic=not train)(x)
        x, _ = highway_jax.scan_blocks(highway_jax.HighwayBlock(self.width), x, num_blocks=5)
        return nn.Dense(10)(x)


config = highway_jax.default_config()
config.name = "own_module"
config.data.valid_size = 200
config.training.epochs = 10
config.sweep.grid = {"optimizer": {"learning_rate": (0.01, 0.05)}}
highway_jax.run(config, "runs/own_module", model=ConvNet())

net = highway_jax.load("runs/own_module", model=ConvNet())
test = load_digits().test
print(f"the better net: {net.evaluate(test.images, test.labels)}")
