"""Highway layers around dense, convolutional, recurrent and attention layers, on digits.

    python examples/highway_around_anything.py                 # 2 to 50 layers, minutes
    python examples/highway_around_anything.py --depths 2 5 --steps 50

Stacks of equal layers are trained twice with the same settings: as y = H(x), and as
y = H(x) * T(x) + x * (1 - T(x)) by `highway_jax.Highway`. An image of the digits has 8 rows of 8
pixels. A layer H is

    dense           a dense layer of 32 units with ReLU
    convolutional   a convolution of 3 x 3 with 8 channels and ReLU, at each of 8 x 8 positions
    recurrent       a gated recurrent unit of 16 units, over the 8 rows
    attention       self-attention of two heads between the 8 rows, 16 units each

Every net begins with a dense layer to the width of H, and ends with a softmax layer of all units.
Adam, batches of 100. The initial gate bias of n layers is -log(n). A gate is then 1 / (n + 1),
and all layers together carry about 1 / e of their input, whatever n.
"""

import argparse
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn.datasets import load_digits

from highway_jax import Highway, scan_blocks


def _dense() -> nn.Module:
    return nn.Sequential([nn.Dense(32), nn.relu])


def _convolutional() -> nn.Module:
    return nn.Sequential([nn.Conv(8, (3, 3)), nn.relu])


def _recurrent() -> nn.Module:
    return nn.RNN(nn.GRUCell(16))


def _attention() -> nn.Module:
    return nn.MultiHeadDotProductAttention(num_heads=2)


TRANSFORMS: dict[str, tuple[Callable[[], nn.Module], int, tuple[int, ...]]] = {
    # The layer, its width, and the shape in which a net sees an image.
    "dense": (_dense, 32, (64,)),
    "convolutional": (_convolutional, 8, (8, 8, 1)),
    "recurrent": (_recurrent, 16, (8, 8)),
    "attention": (_attention, 16, (8, 8)),
}


class Net(nn.Module):
    """A stack of equal layers between a dense layer and a softmax layer.

    Attributes:
        kind: A name in `TRANSFORMS`.
        depth: Layers of the stack.
        gated: Whether they are highway layers.
        bias: Their initial gate bias.
    """

    kind: str
    depth: int
    gated: bool
    bias: float

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Returns logits [batch, 10] of images [batch, 64]."""
        make, width, shape = TRANSFORMS[self.kind]
        x = nn.Dense(width)(images.reshape(-1, *shape))
        # A gate that is forced to 1 leaves H alone.
        gates = None if self.gated else jnp.ones(self.depth)
        layer = Highway(make(), transform_bias=self.bias, name="blocks")
        x, _ = scan_blocks(layer, x, self.depth, gates)
        return nn.Dense(10)(x.reshape(len(x), -1))


def train(
    kind: str, depth: int, *, gated: bool, bias: float, rate: float, steps: int, seed: int = 0
) -> tuple[float, float]:
    """Trains a net and returns its training loss and its test accuracy.

    Args:
        kind: A name in `TRANSFORMS`.
        depth: Layers of the stack.
        gated: Whether they are highway layers.
        bias: Their initial gate bias.
        rate: Learning rate.
        steps: Steps of training.
        seed: Seed of the initial weights and of the batches.
    """
    digits: Any = load_digits()
    images, labels = np.float32(digits.data / 16), np.int32(digits.target)
    order = np.random.default_rng(0).permutation(len(labels))
    x, y, test_x, test_y = *_at(order[:1437], images, labels), *_at(order[1437:], images, labels)
    net = Net(kind, depth, gated, bias)
    optimizer = optax.adam(rate)

    def loss(params, x, y):
        return optax.softmax_cross_entropy_with_integer_labels(net.apply(params, x), y).mean()

    @functools.partial(jax.jit, static_argnums=1)
    def fit(key, steps):
        params = net.init(key, x[:1])

        def step(state, key):
            params, moments = state
            batch = jax.random.choice(key, len(x), (100,), replace=False)
            gradient = jax.grad(loss)(params, x[batch], y[batch])
            updates, moments = optimizer.update(gradient, moments)
            return (optax.apply_updates(params, updates), moments), None

        start = params, optimizer.init(params)
        (params, _), _ = jax.lax.scan(step, start, jax.random.split(key, steps))
        right = net.apply(params, test_x).argmax(-1) == test_y
        return loss(params, x, y), right.mean()

    return tuple(map(float, fit(jax.random.key(seed), steps)))


def _at(index: np.ndarray, *arrays: np.ndarray) -> list[jax.Array]:
    return [jnp.asarray(array[index]) for array in arrays]


def main(argv: list[str] | None = None) -> None:
    """Prints a table of training losses and test accuracies."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--depths", type=int, nargs="+", default=[2, 10, 20, 50])
    parser.add_argument("--kinds", nargs="+", choices=list(TRANSFORMS), default=list(TRANSFORMS))
    parser.add_argument("--rate", type=float, default=0.003)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args(argv)
    print("                        highway layers        without gates")
    print("layer H        layers   loss   accuracy       loss   accuracy", flush=True)
    for kind in arguments.kinds:
        for depth in arguments.depths:
            line = f"{kind:13} {depth:7}"
            for gated in (True, False):
                bias = -math.log(depth)
                found = train(
                    kind, depth, gated=gated, bias=bias, rate=arguments.rate, steps=arguments.steps
                )
                line += f"  {found[0]:5.3f}   {100 * found[1]:6.2f} %  "
            print(line.rstrip(), flush=True)


if __name__ == "__main__":
    main()
