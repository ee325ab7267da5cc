"""What a benchmark needs to know of its machine, and how it times rivals fairly.

`python benchmarks/machine.py` prints the hardware, the versions and the rate at which the CPU
multiplies float32 matrices, the yardstick of the other benchmarks.
"""

import argparse
import contextlib
import importlib
import importlib.util
import json
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from highway_jax.storage import workdir
from highway_jax.training import trial_mesh

MATRIX_SIZE = 2048
"""Side of the square matrices of the yardstick."""

TABLES = (
    "table1_mnist.py:width16",
    "table1_mnist.py:width32",
    "table2_fitnets.py:highway_a",
    "table2_fitnets.py:highway_b",
    "table2_fitnets.py:highway_c",
    "table3_cifar.py:cifar10",
    "table3_cifar.py:cifar100",
)
"""Experiments of the paper's tables."""

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "numpy", "torch")
# Read by the libraries when they are loaded, so they are set before a worker starts.
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Start(NamedTuple):
    """How a worker process begins.

    Attributes:
        module: The module of the work, under `benchmarks/`.
        work: A function of that module: called with `arguments` it gets ready and returns
            `measure(seconds) -> (done, seconds)`.
        arguments: Its keyword arguments.
        core: The one core it may use; None for all, with a thread on each.
    """

    module: str
    work: str
    arguments: dict[str, Any]
    core: int | None = None


class Rate(NamedTuple):
    """How fast a rival was in one measurement.

    Attributes:
        per_second: Done per second of the clock, all processes together.
        per_core_second: Done per second of processor time. Times the number of cores it is well
            above `per_second` where cores stood idle, or had other work than ours.
    """

    per_second: float
    per_core_second: float


def _serve(start: Start, pipe: Any) -> None:
    try:
        if start.core is not None:
            os.sched_setaffinity(0, {start.core})
        module = importlib.import_module(start.module)
        measure, facts = getattr(module, start.work)(**start.arguments)
        pipe.send(("ready", facts))
        while (seconds := pipe.recv()) is not None:
            began = time.process_time()
            done, elapsed = measure(seconds)
            pipe.send(("measured", (done, elapsed, time.process_time() - began)))
    except BaseException as error:
        pipe.send(("failed", f"{type(error).__name__}: {error}"))
        raise


class Rival:
    """One way to do the work: a process that uses all cores, or one on each core.

    The processes get ready once and then wait, using no processor, until they are measured; so
    rivals can be measured in turn, many times, within one run.

    Attributes:
        name: What tables call it.
        facts: What the first process had to tell when it was ready.
    """

    def __init__(self, name: str, starts: list[Start], timeout: float = 1800.0):
        """Starts the processes and waits until all are ready.

        Args:
            name: What tables call it.
            starts: One for each process.
            timeout: Seconds after which getting ready has failed.

        Raises:
            RuntimeError: If a process fails or is not ready in time.
        """
        self.name = name
        self._timeout = timeout
        context = multiprocessing.get_context("spawn")
        self._pipes, self._processes = [], []
        for start in starts:
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(start, theirs), daemon=True)
            with _threads(None if start.core is None else 1):
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        try:
            self.facts, *_ = [self._receive(pipe) for pipe in self._pipes]
        except BaseException:
            self.close()
            raise

    def rate(self, seconds: float) -> Rate:
        """Returns how fast all processes together are, measured over so many seconds."""
        for pipe in self._pipes:
            pipe.send(seconds)
        done, elapsed, busy = zip(*map(self._receive, self._pipes), strict=True)
        per_second = sum(d / e for d, e in zip(done, elapsed, strict=True))
        return Rate(per_second, sum(done) / sum(busy))

    def close(self) -> None:
        """Ends the processes."""
        for pipe, process in zip(self._pipes, self._processes, strict=True):
            with contextlib.suppress(OSError):
                pipe.send(None)
            process.join(5)
            if process.is_alive():
                process.terminate()

    def _receive(self, pipe: Any) -> Any:
        if not pipe.poll(self._timeout):
            raise RuntimeError(f"{self.name}: no answer within {self._timeout:.0f} s")
        try:
            kind, value = pipe.recv()
        except EOFError:
            raise RuntimeError(f"{self.name}: its process ended") from None
        if kind == "failed":
            raise RuntimeError(f"{self.name}: {value}")
        return value


@contextlib.contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Sets the number of threads that libraries of processes started meanwhile will use."""
    before = {name: os.environ.get(name) for name in _THREAD_VARIABLES}
    if count is not None:
        os.environ.update(dict.fromkeys(_THREAD_VARIABLES, str(count)))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def each_core(module: str, work: str, **arguments: Any) -> list[Start]:
    """Returns the start of one single-threaded process on every core."""
    return [Start(module, work, arguments, core) for core in sorted(os.sched_getaffinity(0))]


def all_cores(module: str, work: str, **arguments: Any) -> list[Start]:
    """Returns the start of one process that uses all cores."""
    return [Start(module, work, arguments)]


def repeat(function: Callable[[], Any], seconds: float) -> tuple[int, float]:
    """Calls a function until that many seconds have passed; returns the calls and the seconds."""
    began, calls = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - began) < seconds or calls == 0:
        function()
        calls += 1
    return calls, elapsed


class Rivals(contextlib.ExitStack):
    """The rivals of one comparison: their processes end with its `with` block, however it ends."""

    def __init__(self):
        """Begins without any."""
        super().__init__()
        self._rivals: list[Rival] = []

    def start(self, name: str, starts: list[Start]) -> Rival:
        """Returns a rival that is ready; it is measured with the others."""
        rival = Rival(name, starts)
        self.callback(rival.close)
        self._rivals.append(rival)
        return rival

    def measure(self, rounds: int, seconds: float) -> dict[str, list[Rate]]:
        """Measures every rival once a round; returns their rates by name, one for each round."""
        rates: dict[str, list[Rate]] = {rival.name: [] for rival in self._rivals}
        for _ in range(rounds):
            for rival in self._rivals:
                rates[rival.name].append(rival.rate(seconds))
        return rates


def work_matrix_product(library: str) -> tuple[Callable, dict]:
    """Gets a worker ready to multiply two square matrices with "jax", "numpy" or "torch"."""
    size = MATRIX_SIZE
    if library == "jax":
        import jax

        a = jax.numpy.ones((size, size))
        product = jax.jit(jax.numpy.matmul)

        def multiply():
            product(a, a).block_until_ready()
    elif library == "torch":
        import torch

        a = torch.ones((size, size))
        out = torch.empty((size, size))

        def multiply():
            torch.mm(a, a, out=out)
    else:
        import numpy as np

        a = np.ones((size, size), np.float32)
        out = np.empty((size, size), np.float32)

        def multiply():
            np.matmul(a, a, out=out)

    multiply()

    def measure(seconds: float) -> tuple[float, float]:
        calls, elapsed = repeat(multiply, seconds)
        return 2.0 * size**3 * calls, elapsed

    return measure, {}


class Yardstick(Rivals):
    """The rate of large float32 matrix products, by several libraries, in floating-point ops.

    Attributes:
        rates: All rates measured so far, in operations a second, by way.
    """

    def __init__(self):
        """Starts the processes that multiply."""
        super().__init__()
        libraries = ["jax", "numpy"] + (["torch"] if has("torch") else [])
        for library in libraries:
            work = {"module": "machine", "work": "work_matrix_product", "library": library}
            self.start(f"{library}, one process", all_cores(**work))
            self.start(f"{library}, a process a core", each_core(**work))
        self.rates: dict[str, list[float]] = {rival.name: [] for rival in self._rivals}

    def measure(self, rounds: int = 3, seconds: float = 0.5) -> dict[str, list[Rate]]:
        """Measures every way once more; returns only what is new."""
        measured = super().measure(rounds, seconds)
        for name, rates in measured.items():
            self.rates[name] += [rate.per_second for rate in rates]
        return measured

    @property
    def best(self) -> float:
        """The highest of the ways' medians."""
        return max(statistics.median(rates) for rates in self.rates.values())

    def lines(self) -> list[str]:
        """Returns a table of the ways, one string a line."""
        return [
            f"{name:28s} {statistics.median(rates) / 1e9:7.1f} GFLOP/s"
            f"  ({min(rates) / 1e9:.1f} to {max(rates) / 1e9:.1f})"
            for name, rates in self.rates.items()
        ]


def has(package: str) -> bool:
    """Returns whether a package is installed."""
    return importlib.util.find_spec(package) is not None


def describe() -> dict[str, Any]:
    """Returns the hardware, the versions and how busy the machine is."""
    trial_mesh.use_cores()
    environment = workdir.describe_environment()
    versions = {p: metadata.version(p) for p in _PACKAGES if has(p)}
    return {
        "processor": environment["processor"],
        "cores": trial_mesh.num_cores(),
        "system": environment["system"],
        "python": environment["python"],
        "versions": versions,
        "commit": environment["commit"],
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "time": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def print_description(description: dict[str, Any]) -> None:
    """Prints what `describe` returned, and a warning if the machine was busy."""
    versions = ", ".join(f"{k} {v}" for k, v in description["versions"].items())
    print(f"{description['processor']}, {description['cores']} cores; {description['system']}")
    print(f"Python {description['python']}, {versions}; commit {description['commit'] or '-'}")
    busy = description["load_average"][0]
    print(f"{description['time']}, load average {busy}")
    if busy > 0.5:
        print("WARNING: the machine is busy; these numbers are only provisional")


def parser(
    doc: str, rounds: int | None = None, seconds: float | None = None
) -> argparse.ArgumentParser:
    """Returns a benchmark's parser, from its docstring and how often and long it measures."""
    parser = argparse.ArgumentParser(description=doc.partition("\n")[0])
    if rounds is not None:
        parser.add_argument("--rounds", type=int, default=rounds, help="measurements of each way")
        parser.add_argument("--seconds", type=float, default=seconds, help="of each measurement")
    parser.add_argument("--json", default="", metavar="FILE", help="write results there too")
    return parser


def begin(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, dict[str, Any]]:
    """Returns the arguments of the command line and the machine, which it prints."""
    arguments = parser.parse_args()
    description = describe()
    print_description(description)
    return arguments, description


def write_json(path: str, content: Any) -> None:
    """Writes results where `--json` says; an empty path writes nothing."""
    if path:
        Path(path).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Prints the machine and its rate."""
    arguments, description = begin(parser(__doc__, rounds=5, seconds=1.0))
    with Yardstick() as yardstick:
        yardstick.measure(arguments.rounds, arguments.seconds)
    print("\n".join(yardstick.lines()))
    print(f"matrix-product rate: {yardstick.best / 1e9:.0f} GFLOP/s")
    write_json(arguments.json, {"machine": description, "rates": yardstick.rates})


if __name__ == "__main__":
    main()
