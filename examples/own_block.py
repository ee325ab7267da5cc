"""Registers a block of your own and trains it beside the highway block."""

import flax.linen as nn
import jax.numpy as jnp

import highway_jax


@highway_jax.register_block("averaged")
class AveragedBlock(highway_jax.Block):
    """y = (H(x) + x) / 2: a highway block whose gate is always half open."""

    @nn.compact
    def activations(self, x, gate=None):
        self.check(x)
        (z,) = self.affine(x, bias=0.0)
        h, half = self.nonlinear(z), jnp.full_like(z, 0.5)
        return highway_jax.BlockActivations(x, h, half, half, (h + x) / 2)


config = highway_jax.default_config()
config.name = "own_block"
config.training.epochs = 10
config.cases.highway = {"model": {"block": "highway"}}
config.cases.averaged = {"model": {"block": "averaged"}}

for row in highway_jax.run(config, "runs/own_block"):
    print(f"{row['case']:<9} test accuracy {100 * row['test_accuracy']:.1f} %")
