"""Runs of several processes: the first one reads and writes files and broadcasts the results.

With one process, these functions are plain calls. With several, every process must make the same
calls in the same order, and a `UserError` in one is raised in all. A process that ends for another
reason must call `leave`, so that the others do not wait for it.
"""

import contextlib
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError
from jax.experimental import multihost_utils

from highway_jax.errors import Lost, UserError, brief, show
from highway_jax.runtime import device_errors, rendezvous

_MESSAGE_BYTES = 1000
_PIECE_BYTES = 2**28
_JOIN_SECONDS = 60  # All processes are known to be present.
_TPU_ADDRESSES = ("TPU_PROCESS_ADDRESSES", "TPU_PROCESS_ADDRESSES_PATH")


def start(
    coordinator: str = "",
    num_processes: int = 0,
    process_id: int = -1,
    timeout: int | None = None,
) -> None:
    """Connects the processes of a run; must be called before jax's first computation.

    Without arguments, the processes are those of a TPU pod or of a SLURM job step, if there is one.

    Args:
        coordinator: HOST:PORT of process 0; empty to detect it.
        num_processes: Number of processes of the run.
        process_id: Number of this process, from 0.
        timeout: Seconds to wait for the other processes; None for `rendezvous.SECONDS`.

    Raises:
        UserError: If the arguments are invalid, or the other processes cannot be reached.
    """
    arguments: dict[str, Any] = {}
    if coordinator:
        if num_processes < 1:
            raise UserError(f"--num_processes is {num_processes}; allowed: at least 1")
        if not 0 <= process_id < num_processes:
            raise UserError(f"--process_id is {process_id}; allowed: 0 to {num_processes - 1}")
        seconds = rendezvous.SECONDS if timeout is None else timeout
        if seconds < 1:
            raise UserError(f"--coordinator_timeout is {seconds}; allowed: at least 1")
        rendezvous.meet(coordinator, num_processes, process_id, seconds)
        arguments = {
            "coordinator_address": coordinator,
            "num_processes": num_processes,
            "process_id": process_id,
            "initialization_timeout": _JOIN_SECONDS,
        }
    elif num_processes or process_id >= 0 or timeout is not None:
        raise UserError("--coordinator is ''; allowed: HOST:PORT, as other flags name processes")
    elif not _may_have_others():
        return
    try:
        jax.distributed.initialize(local_device_ids=_own_gpus(), **arguments)
    except (RuntimeError, ValueError, LookupError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"--coordinator is {show(coordinator)}, where the processes cannot connect ({reason});"
            " allowed: HOST:PORT of process 0"
        ) from error


def _own_gpus() -> list[int] | None:
    """Returns all GPUs of a SLURM task with its own GPUs; jax would use one for each task."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    if "SLURM_GPUS_PER_TASK" not in os.environ or not visible:
        return None
    return list(range(len(visible.split(","))))


def _may_have_others() -> bool:
    # Set if jax found a TPU and may query the cloud for other workers; a single worker starts too.
    is_pod = os.environ.get("TPU_ML_PLATFORM") == "JAX" and "TPU_SKIP_MDS_QUERY" not in os.environ
    is_pod |= "," in os.environ.get("TPU_WORKER_HOSTNAMES", "")
    is_pod |= any(name in os.environ for name in _TPU_ADDRESSES)
    # Set by srun for each job step, but not in a shell with an allocation.
    tasks = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if not tasks.isdecimal():
        raise UserError(f"SLURM_STEP_NUM_TASKS is {show(tasks)}; allowed: a whole number")
    return is_pod or int(tasks) > 1


def leave(status: int) -> None:
    """Ends this process immediately if it is one of several.

    A normal exit of Python would wait for the other processes, and they for this one. They detect
    that its connections are closed.
    """
    if jax.distributed.is_initialized():
        for stream in (sys.stdout, sys.stderr):
            # A process may have no stdout or stderr.
            with contextlib.suppress(OSError, ValueError, AttributeError):
                stream.flush()
        os._exit(status)


@contextlib.contextmanager
def watching() -> Iterator[None]:
    """Raises `Lost` for an error of a computation in a run of several processes.

    Raises:
        Lost: If another process has ended, or a device failed.
    """
    try:
        with device_errors.in_one_type():
            yield
    except JaxRuntimeError as error:
        if jax.process_count() == 1:
            raise
        raise Lost(
            "another process of this run has ended, or a device failed"
            f" ({brief(str(error), 200)}); start all processes again: the run resumes from its last"
            " checkpoint"
        ) from error


def is_first() -> bool:
    """Returns whether this process is the one that writes files."""
    return jax.process_index() == 0


def lead(function: Callable[[], Any]) -> Any:
    """Calls a function in the first process and returns its result, JSON data, in all.

    Raises:
        UserError: In all processes, if it raised one in the first.
        Lost: In the other processes, if it raised another error in the first.
    """
    if jax.process_count() == 1:
        return function()
    answer, failure = {}, None
    if is_first():
        try:
            answer = {"result": function()}
        except Exception as error:
            kind = "error" if isinstance(error, UserError) else "fault"
            answer, failure = {kind: f"{error}"}, error
    answer = json.loads(_broadcast_bytes(json.dumps(answer).encode()))
    if failure is not None:
        if isinstance(failure, UserError):
            failure.shared = True
        raise failure
    if "error" in answer:
        raise _shared(0, answer["error"])
    if "fault" in answer:
        raise Lost(f"process 0 has failed ({brief(answer['fault'], 200)})")
    return answer["result"]


def _shared(process: int, message: str) -> UserError:
    error = UserError(f"process {process}: {message}")
    error.shared = True
    return error


@contextlib.contextmanager
def led(context: AbstractContextManager) -> Iterator[None]:
    """Enters a context in the first process only; an error is raised in all processes."""
    with contextlib.ExitStack() as stack:
        lead(lambda: stack.enter_context(context) and None)
        yield


def together(function: Callable[[], Any]) -> Any:
    """Calls a function in every process and returns its own result in each.

    Raises:
        UserError: In all processes, if any raised one.
    """
    if jax.process_count() == 1:
        return function()
    result, message = None, b""
    try:
        result = function()
    except UserError as error:
        message = str(error).encode()[:_MESSAGE_BYTES]
    padded = np.frombuffer(message.ljust(_MESSAGE_BYTES, b"\0"), np.uint8)
    for number, found in enumerate(multihost_utils.process_allgather(padded)):
        if text := found.tobytes().rstrip(b"\0"):
            raise _shared(number, text.decode(errors="replace"))
    return result


def broadcast(tree: Any) -> Any:
    """Returns the host arrays of the first process in all; shapes must be equal."""
    if jax.process_count() == 1:
        return tree

    def send(leaf):
        leaf = np.asarray(leaf)
        content = np.frombuffer(leaf.tobytes(), np.uint8)
        # In pieces: their sizes are int32.
        pieces = [content[i : i + _PIECE_BYTES] for i in range(0, leaf.nbytes, _PIECE_BYTES)]
        sent = b"".join(multihost_utils.broadcast_one_to_all(p).tobytes() for p in pieces)
        return np.frombuffer(sent, leaf.dtype).reshape(leaf.shape)

    return jax.tree.map(send, tree)


def largest(value: int) -> int:
    """Returns the maximum of a value over all processes."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.int32(value))))


def first(value: int) -> int:
    """Returns the value of the first process."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def _broadcast_bytes(content: bytes) -> bytes:
    size = first(len(content))
    content = content if is_first() else bytes(size)
    return multihost_utils.broadcast_one_to_all(np.frombuffer(content, np.uint8)).tobytes()
