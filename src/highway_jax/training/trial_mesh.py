"""The trial axis: a function of one trial becomes a compiled function of a batch of trials.

Trials are sharded over a mesh axis `trials`; the trials of one device run in turn (`map`) or at
once (`vmap`). On CPU, where a batched small matrix product is no faster than several, trials run
in turn, and every core is a device (`use_cores`). Trials of convolutional nets run in turn on every
platform: at once they would be grouped convolutions, which are slow on GPU and TPU. Along a second
axis, `batch`, several devices share the batches of a trial (`parts`).
"""

import contextlib
import functools
import logging
import math
import os
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from highway_jax.errors import UserError
from highway_jax.training import parts

AXIS = "trials"

CPU_OPTIONS = {
    "xla_cpu_prefer_vector_width": 512,
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_CONVOLUTION",
    "xla_cpu_copy_insertion_use_region_analysis": True,
}
"""Compiler options on CPU: vectors as wide as the processor has; YNNPACK for convolutions (up to
1.15 times faster), but Eigen for matrix products, small ones above all; fewer copies of what loops
carry. Together, they make dense nets 1.15 to 1.3 times faster.

YNNPACK's convolutions are slower since jaxlib 0.11.0: 3x3, 10 images of 24x24, 16 to 32 channels,
one Zen 4 core, take 0.53 ms with jaxlib 0.9.2 to 0.10.1 and 0.68 ms with 0.11.0 to 0.12.0.1, where
Eigen's take 0.72 ms with all of them. No option of these versions changes that
(`xla_cpu_enable_platform_dependent_math` does not)."""


def num_cores() -> int:
    """Returns the CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def use_cores(num_devices: int = 0) -> None:
    """Makes one virtual CPU device for each core, if JAX has not started its backends yet.

    It keeps a number of devices that the user has set through JAX's own options.

    Args:
        num_devices: Virtual CPU devices, at most one a core; 0 for as many.
    """
    current = getattr(jax.config, "jax_num_cpu_devices")  # noqa: B009
    if current < 0 and "host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
        wanted = min(num_devices, num_cores()) or num_cores()
        try:
            jax.config.update("jax_num_cpu_devices", wanted)
        except RuntimeError:  # The backends are initialized already.
            found = jax.devices()
            if found[0].platform == "cpu" and len(found) < wanted:
                logging.warning(
                    "jax was initialized before the run with %s, of %d cores; to use them all,"
                    " start the run before other computations, or set jax_num_cpu_devices",
                    describe(found[0], len(found)),
                    num_cores(),
                )


def devices(num_devices: int = 0) -> list[Any]:
    """Returns the devices to use.

    Args:
        num_devices: How many; 0 for all.

    Raises:
        UserError: If there are fewer, or JAX cannot start any.
    """
    try:
        found = jax.devices()
    except RuntimeError as error:
        raise UserError(f"jax finds no device ({' '.join(str(error).split())})") from error
    if num_devices > len(found):
        raise UserError(
            f"config.runtime.devices is {num_devices}; allowed: 0 to {len(found)},"
            f" the {found[0].platform} devices here"
        )
    chosen = found[: num_devices or len(found)]
    firsts = {device.process_index: i for i, device in reversed(list(enumerate(found)))}
    least = 1 + max(firsts.values())  # So many have one of each process.
    if len(chosen) < least:
        raise UserError(
            f"config.runtime.devices is {num_devices}; allowed: 0, or {least} to {len(found)}, so"
            " that each process of the run has a device"
        )
    return chosen


def describe(device: Any, count: int) -> str:
    """Returns `count` devices of a kind in words, such as "2 CPU cores"."""
    if device.platform != "cpu":
        return f"{count} x {device.device_kind}"
    noun = "core" if count <= num_cores() else "device"
    return f"{count} CPU {noun}{'s' * (count > 1)}"


def device_memory(device: Any) -> int | None:
    """Returns the bytes that programs may use on a device, or None if it does not report them.

    CPU devices share the memory of the machine equally.
    """
    if device.process_index != jax.process_index():
        device = jax.local_devices()[0]  # Only those of this process can be asked.
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * size // len(jax.local_devices())


def is_memory(error: Exception) -> bool:
    """Returns whether an error says that there was not enough memory."""
    return isinstance(error, MemoryError) or bool(
        re.search(r"out of memory|RESOURCE_EXHAUSTED", str(error), re.I)
    )


def check_devices() -> None:
    """Runs a small product and a small convolution on every device of this process.

    Raises:
        JaxRuntimeError: If a device fails.
    """
    for device in jax.local_devices():
        with jax.default_device(device):
            images, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
            convolved = jax.lax.conv_general_dilated(
                images, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            jax.block_until_ready(convolved[0, 0] @ jnp.ones((4, 4)))


@functools.cache
def compiler_options(platform: str) -> dict[str, Any]:
    """Returns those of the options for a platform that this version of the compiler has."""
    if platform != "cpu":
        return {}
    known = {}
    with jax.default_device(jax.local_devices(backend=platform)[0]):
        for name, value in CPU_OPTIONS.items():
            with contextlib.suppress(JaxRuntimeError):
                jax.jit(lambda: 0, compiler_options={name: value}).lower().compile()
                known[name] = value
    return known


class Trials:
    """The devices that a batch of trials runs on.

    Example:
        >>> import numpy as np
        >>> from highway_jax.training.trial_mesh import Trials
        >>> trials = Trials(3)
        >>> add = trials.compile(lambda trial, shared: trial + shared)
        >>> rates, more = np.float32([1, 2, 3]), np.float32(10)
        >>> trials.fetch(add(trials.place(rates), trials.share(more))).tolist()
        [11.0, 12.0, 13.0]

    Attributes:
        num_trials: Trials of the batch.
        mesh: The devices, axes `trials` and `batch`; never more rows than there are trials.
        parts: How the devices of a row share the batches of its trials.
        num_slots: Trials, and the copies of the last that give each row equally many.
        platform: The platform of the devices, such as "cpu".
        mode: "map" or "vmap" over the trials of one row.
        sharded: The sharding of a batch of trials.
        absent: The devices compiled for that are not here; else empty.
    """

    def __init__(
        self,
        num_trials: int,
        num_devices: int = 0,
        mode: str = "auto",
        *,
        convolves: bool = False,
        batch_devices: Sequence[int] = (1,),
        absent: Sequence[Any] = (),
    ):
        """Chooses devices.

        Args:
            num_trials: At least 1.
            num_devices: How many devices to use; 0 for all.
            mode: "map", "vmap", or "auto" for vmap unless on CPU or `convolves`.
            convolves: Whether the nets are convolutional.
            batch_devices: Numbers of devices that may share the batches of a trial (see `parts`).
            absent: Devices of a topology (see `topologies`) to compile for in place of those of
                this machine; nothing can be placed on them.

        Raises:
            UserError: If there are fewer devices.
        """
        chosen = list(absent) or devices(num_devices)
        grid = parts.arrange(chosen, num_trials, batch_devices)
        self.absent = list(absent)
        self.num_trials = num_trials
        self.num_slots = math.ceil(num_trials / len(grid)) * len(grid)
        self.platform = grid[0, 0].platform
        in_turn = convolves or self.platform == "cpu"
        self.mode = mode if mode != "auto" else "map" if in_turn else "vmap"
        self.mesh = Mesh(grid, (AXIS, parts.AXIS))
        self.parts = parts.Parts(grid.shape[1])
        self.sharded = NamedSharding(self.mesh, P(AXIS))
        self._replicated = NamedSharding(self.mesh, P())

    def compile(self, function: Callable, *, donate: bool = False) -> jax.stages.Wrapped:
        """Returns `function(trial, *shared)` as a jitted function of all trials.

        Args:
            function: Takes one trial's tree and trees that all trials share. Where `parts` divides
                batches, every device of a row calls it, and must compute the same result.
            donate: Whether the trials' buffers may be reused for the result.
        """

        def one_device(trials, *shared):
            if self.mode == "vmap":
                return jax.vmap(lambda trial: function(trial, *shared))(trials)
            return jax.lax.map(lambda trial: function(trial, *shared), trials)

        def everywhere(trials, *shared):
            # check_vma is off because the gradient rules of the convolution do not state how their
            # results vary over the mesh; only `Parts.total` exchanges values between devices.
            specs = (P(AXIS), *(P() for _ in shared))
            mapped = jax.shard_map(
                one_device, mesh=self.mesh, in_specs=specs, out_specs=P(AXIS), check_vma=False
            )
            return mapped(trials, *shared)

        options = compiler_options(self.platform)
        donated = (0,) if donate else ()
        return jax.jit(everywhere, donate_argnums=donated, compiler_options=options)

    def place(self, tree: Any) -> Any:
        """Puts host arrays [num_trials, ...] onto the devices; spare slots copy the last trial."""
        index = np.minimum(np.arange(self.num_slots), self.num_trials - 1)

        def put(leaf):
            slots = np.asarray(leaf)[index]
            return jax.make_array_from_callback(slots.shape, self.sharded, lambda i: slots[i])

        return jax.tree.map(put, tree)

    def share(self, tree: Any) -> Any:
        """Puts host arrays onto every device."""

        def put(leaf):
            array = np.asarray(leaf)
            return jax.make_array_from_callback(array.shape, self._replicated, lambda i: array[i])

        return jax.tree.map(put, tree)

    def placed_shapes(self, tree: Any) -> Any:
        """Returns the shapes of what `place` returns, of arrays or shapes [trials, ...]."""

        def shape(leaf):
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
            slots = (self.num_slots, *leaf.shape[1:])
            return jax.ShapeDtypeStruct(slots, dtype, sharding=self.sharded)

        return jax.tree.map(shape, tree)

    def shared_shapes(self, tree: Any) -> Any:
        """Returns the shapes of what `share` returns, of arrays or shapes."""

        def shape(leaf):
            dtype = jax.dtypes.canonicalize_dtype(leaf.dtype)
            return jax.ShapeDtypeStruct(leaf.shape, dtype, sharding=self._replicated)

        return jax.tree.map(shape, tree)

    def fetch(self, tree: Any) -> Any:
        """Returns device arrays [num_slots, ...] as host arrays [num_trials, ...]."""
        if jax.process_count() > 1:
            tree = multihost_utils.process_allgather(tree, tiled=True)
        return jax.tree.map(lambda leaf: np.asarray(leaf)[: self.num_trials], tree)
