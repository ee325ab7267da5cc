"""What a compiled loop costs convolutional nets on CPU, and what their gradients here save.

Milliseconds of a training step of the paper's convolutional nets: with XLA's gradients outside a
loop and in `lax.scan`, and with this package's in `lax.scan`. All run in this process, in turn, on
one core; XLA's gradients in a loop take seconds to minutes and run in the first round alone.

    python benchmarks/convolution.py --rounds 3
"""

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

import convnets
import jax
import jax.numpy as jnp
import machine
from jax import lax

from highway_jax.config.sections import Model
from highway_jax.nn import convolution
from highway_jax.nn.model import build

LEARNING_RATE = 1e-6  # The work of a step matters here, not its effect.
SLOW_STEPS = 2  # XLA unrolls a loop of one step.
FORMS = {
    "XLA's, outside a loop": ("native", False),
    "XLA's, in a loop": ("native", True),
    "ours, in a loop": ("loop_safe", True),
}


def prepare(net: convnets.Net, form: str, num_steps: int) -> tuple[Callable[[], Any], int]:
    """Returns a function that takes steps of a net, and how many it takes."""
    implementation, in_loop = FORMS[form]
    steps = SLOW_STEPS if form == "XLA's, in a loop" else num_steps
    settings = convnets.settings(net).items()
    fields = {key.removeprefix("model."): v for key, v in settings if key.startswith("model.")}
    model = build(Model(**fields), net.shape, 10, "cpu")
    params = model.init(jax.random.key(0), -1.0)
    images = jax.random.normal(jax.random.key(1), (convnets.BATCH_SIZE, *net.shape))
    labels = jnp.arange(convnets.BATCH_SIZE) % 10

    def loss(params):
        return -jnp.mean(jax.nn.log_softmax(model.apply(params, images))[jnp.arange(100), labels])

    def step(params, _=None):
        gradients = jax.grad(loss)(params)
        return jax.tree.map(lambda p, g: p - LEARNING_RATE * g, params, gradients), None

    def program(params):
        return lax.scan(step, params, length=steps)[0] if in_loop else step(params)[0]

    original = convolution.conv2d
    convolution.conv2d = functools.partial(original, implementation=implementation)
    try:
        compiled = jax.jit(program).lower(params).compile()
    finally:
        convolution.conv2d = original

    def work() -> None:
        state = params
        for _ in range(1 if in_loop else steps):
            state = compiled(state)
        jax.block_until_ready(state)

    return work, steps


def measure(net: convnets.Net, rounds: int, num_steps: int) -> dict[str, float]:
    """Returns the median milliseconds of a step in each form."""
    prepared = {form: prepare(net, form, num_steps) for form in FORMS}
    times: dict[str, list[float]] = {form: [] for form in FORMS}
    for number in range(rounds + 1):
        for form, (work, steps) in prepared.items():
            if form == "XLA's, in a loop" and number != 1:
                continue
            began = time.perf_counter()
            work()
            if number:  # The first round warms up.
                times[form].append(1e3 * (time.perf_counter() - began) / steps)
    return {form: statistics.median(values) for form, values in times.items()}


def main() -> None:
    """Measures every net and prints the table."""
    parser = machine.parser(__doc__, rounds=3, seconds=0.0)
    parser.add_argument("--steps", type=int, default=4, help="steps of a measurement")
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[:1]))
    arguments, description = machine.begin(parser)
    print("\n| net |" + "".join(f" {form} |" for form in FORMS) + "\n| --- |" + " ---: |" * 3)
    rows = []
    for net in convnets.NETS:
        found = measure(net, arguments.rounds, arguments.steps)
        rows.append({"net": net.name, **found})
        print(f"| {net.name} |" + "".join(f" {value:,.1f} |" for value in found.values()))
    machine.write_json(arguments.json, {"machine": description, "rows": rows})


if __name__ == "__main__":
    main()
