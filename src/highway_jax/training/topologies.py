"""Devices to compile for that this machine does not have: TPUs and GPUs by name.

Their compilers need no hardware: that of TPUs is the package libtpu, that of GPUs is part of jax's
CUDA plugin. Programs compiled here are never run.
"""

import importlib.util
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax.experimental import topologies

from highway_jax.errors import UserError, brief, show, suggestion
from highway_jax.training import trial_mesh


class Chip(NamedTuple):
    """A kind of device.

    Attributes:
        memory: Bytes that programs may use.
        rates: Multiplications and additions a second, by `model.precision`, at best.
        operation: What the operations of a compiled program are called: those of a TPU are mostly
            fusions, those of a GPU launch a kernel each.
    """

    memory: int
    rates: dict[str, float]
    operation: str


class Topology(NamedTuple):
    """Devices to compile for.

    Attributes:
        name: Its name, such as "v5e:2x4".
        devices: The devices, of one kind.
        chip: Their kind.
    """

    name: str
    devices: list[Any]
    chip: Chip


def _tpu(gibibytes: float, tera: float) -> Chip:
    # A product of float32 takes six of bfloat16; a TPU has no tensorfloat32, for which jax takes
    # three.
    rates = {"bfloat16": 1.0, "tensorfloat32": 1 / 3, "float32": 1 / 6}
    rates = {precision: tera * 1e12 * share for precision, share in rates.items()}
    return Chip(int(gibibytes * 2**30), rates, "operations")


def _gpu(memory: int, float32: float, tensorfloat32: float, bfloat16: float) -> Chip:
    rates = {"float32": float32, "tensorfloat32": tensorfloat32, "bfloat16": bfloat16}
    rates = {precision: tera * 1e12 for precision, tera in rates.items()}
    # jax reserves three quarters of a GPU's memory unless it is asked for more.
    return Chip(memory * 3 // 4, rates, "launches")


_TPUS = {
    "v4": (_tpu(31.25, 275), ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")),
    "v5e": (_tpu(15.75, 197), ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
    "v5p": (_tpu(95.74, 459), ("2x2x1", "2x2x2", "2x2x4", "2x4x4", "4x4x4")),
    "v6e": (_tpu(31.25, 918), ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16")),
}
"""The memory that libtpu lets programs use, the bfloat16 rate of Google's pages, and the shapes."""

_GPUS = {
    "a100": _gpu(85_100_068_864, 19.5, 156, 312),
    "h100": _gpu(84_978_434_048, 66.9, 494.7, 989.4),
}
"""The memory of the 80 GB models for SXM, and the dense rates of NVIDIA's data sheets."""

# What CUDA reports of each GPU, which the compiler asks for.
_SPECIFICATION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared_memory}
  threads_per_core_limit: 2048
  core_count: {cores}
  fpus_per_core: {units}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth}
  l2_cache_size: {cache}
  clock_rate_ghz: {clock}
  device_memory_size: {memory}
  shared_memory_per_block_optin: {shared_memory_per_block}
  cuda_compute_capability {{ major: {capability} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 8 patch: 0 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "{name}"
"""
_SPECIFICATIONS = {
    "a100": {
        "name": "NVIDIA A100-SXM4-80GB",
        "capability": 8,
        "cores": 108,
        "units": 64,
        "clock": 1.41,
        "memory": 85_100_068_864,
        "bandwidth": 2_039_040_000_000,
        "cache": 41_943_040,
        "shared_memory": 167_936,
        "shared_memory_per_block": 166_912,
    },
    "h100": {
        "name": "NVIDIA H100 80GB HBM3",
        "capability": 9,
        "cores": 132,
        "units": 128,
        "clock": 1.98,
        "memory": 84_978_434_048,
        "bandwidth": 3_352_320_000_000,
        "cache": 52_428_800,
        "shared_memory": 233_472,
        "shared_memory_per_block": 232_448,
    },
}


def names() -> list[str]:
    """Returns every name that `find` knows."""
    tpus = (f"{kind}:{shape}" for kind, (_, shapes) in _TPUS.items() for shape in shapes)
    return [*tpus, *_GPUS, "cpu"]


def allowed() -> str:
    """Returns what `find` knows, in one line."""
    tpus = (f"{kind}:{{{','.join(shapes)}}}" for kind, (_, shapes) in _TPUS.items())
    return ", ".join([*tpus, *_GPUS, "cpu"])


def find(name: str) -> Topology:
    """Returns the devices of a name.

    Without this, jax would look for devices of this machine; it uses its CPU from here on.

    Args:
        name: One of `names`; "cpu" for the cores of this machine.

    Raises:
        UserError: If there is no such topology, or the compiler for it is not installed.
    """
    kind, _, shape = name.partition(":")
    known = kind in _TPUS and shape in _TPUS[kind][1]
    if not known and name not in names():
        hint = suggestion(name, names(), "--topology=")
        raise UserError(
            f"--topology is {show(name)}; {f'{hint} ' if hint else ''}allowed: {allowed()}"
        )
    if name == "cpu":
        trial_mesh.use_cores()
        devices = trial_mesh.devices()
        return Topology(name, devices, Chip(trial_mesh.device_memory(devices[0]) or 0, {}, "calls"))
    jax.config.update("jax_platforms", "cpu")
    if known:
        return Topology(
            name, _explained(name, "libtpu", "compile-tpu", _tpu_devices), _TPUS[kind][0]
        )
    package = "jax_cuda12_plugin"
    return Topology(name, _explained(name, package, "compile-gpu", _gpu_devices), _GPUS[name])


def _explained(name: str, package: str, extra: str, make: Callable[[str], list[Any]]) -> list[Any]:
    """Returns the devices of a name; says in one line what is missing to compile for them."""
    command = f"pip install 'highway-jax[{extra}]'"
    if importlib.util.find_spec(package) is None:
        raise UserError(
            f"--topology is {name!r}, for which {package.replace('_', '-')} is missing; install it"
            f" with {command}"
        )
    try:
        return make(name)
    except Exception as error:
        raise UserError(
            f"--topology is {name!r}, but {package.replace('_', '-')} does not work with jax"
            f" {jax.__version__} ({brief(str(error), 200)}); install its version with {command}"
        ) from error


_TPU_ENVIRONMENT = {
    # Without these two, libtpu asks the metadata server of Google's machines.
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    # One process of a machine may use its TPUs, but several may compile.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def _tpu_devices(name: str) -> list[Any]:
    for variable, value in _TPU_ENVIRONMENT.items():
        os.environ.setdefault(variable, value)
    return list(topologies.get_topology_desc(name, platform="tpu").devices)


def _gpu_devices(name: str) -> list[Any]:
    target = _SPECIFICATION.format(**_SPECIFICATIONS[name])
    found = topologies.get_topology_desc(platform="cuda", target_config=target, topology="1x1x1")
    return list(found.devices)
