"""A check that all processes of a run are present, made before jax connects them.

`jax.distributed.initialize` aborts a process with a C++ stack if another process does not connect
in time, if the port is in use, or if two processes have the same number. Therefore process 0 first
listens on that port itself and the others register there; jax is initialized once all have.
"""

import contextlib
import errno
import json
import logging
import os
import selectors
import socket
import time
from typing import Any

from highway_jax.errors import UserError, brief, show

logger = logging.getLogger(__name__)

SECONDS = 300
_LOG_SECONDS = 10.0
_RETRY_SECONDS = 0.5
_CONNECT_SECONDS = 5.0
# Process 0 reports a timeout to the others, which wait a little longer for it.
_GRACE_SECONDS = 10.0
_LINE_BYTES = 1000
_START = b'{"highway_jax": 1, '  # Of every message; another version has another number.


def meet(coordinator: str, num_processes: int, process_id: int, seconds: float = SECONDS) -> None:
    """Returns once all processes of a run have called this function.

    Args:
        coordinator: HOST:PORT of process 0.
        num_processes: Number of processes in the run.
        process_id: Number of this process; 0 listens, on all addresses of its machine.
        seconds: Limit on the wait for the others.

    Raises:
        UserError: If the address is invalid, the port is in use, two processes have the same
            number, or others are missing after `seconds`.
    """
    host, port = _address(coordinator)
    wait = _Wait(seconds)
    if process_id == 0:
        with contextlib.closing(_Coordinator(coordinator, port, num_processes)) as own:
            own.gather(wait)
    else:
        hello = {"process_id": process_id, "num_processes": num_processes, "name": _name()}
        _register((host, port), coordinator, hello, wait)


def _address(coordinator: str) -> tuple[str, int]:
    host, _, port = coordinator.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or len(port) > 5 or not 1 <= int(port) <= 65535:
        raise UserError(
            f"--coordinator is {show(coordinator)}; allowed: HOST:PORT, with a port from 1 to 65535"
        )
    try:
        socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it cannot be one"
        raise UserError(
            f"--coordinator is {show(coordinator)}; {show(host)} is not the name of a host"
            f" ({reason}); allowed: the name or address of the machine of process 0"
        ) from error
    return host, int(port)


def _name() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


class _Wait:
    """A wait with a time limit; logs a line every ten seconds."""

    def __init__(self, seconds: float):
        self.seconds = seconds
        self._began, self._logged = time.monotonic(), 0.0

    def left(self, what: str) -> float:
        """Returns the seconds left, at least 0.

        Args:
            what: What is waited for, in words, for the log.
        """
        passed = time.monotonic() - self._began
        if passed - self._logged >= _LOG_SECONDS:
            self._logged = passed
            logger.info("waiting for %s (%.0f of %.0f s)", what, passed, self.seconds)
        return max(0.0, self.seconds - passed)


class _Lines:
    """Messages on a connection, one JSON object per line."""

    def __init__(self, connection: socket.socket):
        self.connection = connection
        self._buffer = b""

    def send(self, **message: Any) -> None:
        """Sends a message, which must be shorter than `_LINE_BYTES`."""
        self.connection.sendall(_START + json.dumps(message)[1:].encode() + b"\n")

    def receive(self) -> dict[str, Any] | None:
        """Returns the next message, or None if it has not arrived yet.

        Raises:
            OSError: If the connection is broken or closed.
            ValueError: If the content is not a message of this protocol.
        """
        if b"\n" not in self._buffer:
            with contextlib.suppress(BlockingIOError, TimeoutError):
                content = self.connection.recv(_LINE_BYTES)
                if not content:
                    raise ConnectionResetError(errno.ECONNRESET, "connection closed")
                self._buffer += content
        line, end, rest = self._buffer.partition(b"\n")
        if len(line) > _LINE_BYTES or not line.startswith(_START[: len(line)]):
            raise ValueError("no message")
        if not end:
            return None
        self._buffer = rest
        return json.loads(line)


class _Coordinator:
    """Process 0, which listens and keeps a connection to each registered process."""

    def __init__(self, coordinator: str, port: int, num_processes: int):
        self._num_processes = num_processes
        self._present: dict[int, tuple[str, _Lines]] = {}
        self._selector = selectors.DefaultSelector()
        # With this variable jax listens on another port, which is forwarded.
        bound = os.environ.get("JAX_COORDINATOR_BIND_ADDRESS", "").rpartition(":")[2]
        port = int(bound) if bound.isdecimal() else port
        try:
            self._listener = _listen(port)
        except (OSError, OverflowError) as error:
            self._selector.close()
            number = getattr(error, "errno", None)
            reason = os.strerror(number) if number else str(error)
            raise UserError(
                f"--coordinator is {show(coordinator)}; process 0 cannot listen at port {port}"
                f" ({reason}); allowed: a free port, and --process_id=0 once"
            ) from error
        self._listener.setblocking(False)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def gather(self, wait: _Wait) -> None:
        """Waits until all other processes have registered, and releases them.

        Raises:
            UserError: If some have not in time; those that have raise the same error.
        """
        while missing := [n for n in range(1, self._num_processes) if n not in self._present]:
            these = brief(f"process {', '.join(map(str, missing))}") + f" of {self._num_processes}"
            left = wait.left(these)
            if not left:
                message = f"--coordinator: {these} did not connect within {wait.seconds:.0f} s"
                self._tell_all(error=message)
                raise UserError(message)
            for key, _ in self._selector.select(min(left, _RETRY_SECONDS)):
                if key.data is None:
                    self._accept()
                else:
                    self._hear(key.data, left)
        self._tell_all(start=True)

    def close(self) -> None:
        """Closes the listener and all connections."""
        self._listener.close()
        for key in list(self._selector.get_map().values()):
            if isinstance(key.data, _Lines):
                key.data.connection.close()
        self._selector.close()

    def _tell_all(self, **answer: Any) -> None:
        for _, lines in self._present.values():
            with contextlib.suppress(OSError):  # That process has ended.
                lines.send(**answer)

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # The connection was closed before it was accepted.
            connection, _ = self._listener.accept()
            connection.setblocking(False)
            self._selector.register(connection, selectors.EVENT_READ, _Lines(connection))

    def _hear(self, lines: _Lines, left: float) -> None:
        """Registers a process or refuses it; disconnects any other program."""
        try:
            hello = lines.receive()
            if hello is None:
                return
            if error := self._refusal(hello):
                lines.send(error=error)
            else:
                lines.send(wait=left)
                self._present[hello["process_id"]] = str(hello["name"]), lines
                return
        except (OSError, ValueError, KeyError, RecursionError):  # Any program may connect.
            pass
        self._present = {n: one for n, one in self._present.items() if one[1] is not lines}
        self._selector.unregister(lines.connection)
        lines.connection.close()

    def _refusal(self, hello: dict[str, Any]) -> str:
        number, others = hello["process_id"], hello["num_processes"]
        if type(number) is not int or type(others) is not int:
            raise ValueError("no message")
        if others != self._num_processes:
            return f"--num_processes is {others}; process 0 has {self._num_processes}"
        if number in self._present:
            return f"--process_id is {number}, which {self._present[number][0]} already has"
        return ""


def _listen(port: int) -> socket.socket:
    if socket.has_dualstack_ipv6():
        try:
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                raise
    return socket.create_server(("", port))


def _register(
    address: tuple[str, int], coordinator: str, hello: dict[str, Any], wait: _Wait
) -> None:
    """Registers this process with process 0, repeatedly if necessary, until it is released."""
    where, reason = f"the coordinator {coordinator}", ""
    while wait.left(f"{where}{reason}"):
        try:
            with socket.create_connection(address, timeout=_CONNECT_SECONDS) as connection:
                if connection.getsockname() == connection.getpeername():
                    # The system chose the port itself as the local one: a self-connection.
                    raise ConnectionRefusedError(errno.ECONNREFUSED, "connection refused")
                lines = _Lines(connection)
                lines.send(**hello)
                if _is_released(lines, where, wait):
                    return
            reason = ": no answer"
        except OSError as error:
            reason = f": {(error.strerror or str(error)).lower()}"
        except ValueError:
            reason = ": another program answers, or a run that has already started"
        time.sleep(_RETRY_SECONDS)
    raise UserError(
        f"--coordinator is {show(coordinator)}, which cannot be reached within"
        f" {wait.seconds:.0f} s{reason}; allowed: HOST:PORT of process 0"
    )


def _is_released(lines: _Lines, where: str, wait: _Wait) -> bool:
    """Returns whether all processes have registered; False if process 0 does not answer in time.

    Raises:
        UserError: If process 0 refuses this process, or others are missing.
    """
    lines.connection.settimeout(_RETRY_SECONDS)
    while wait.left(where):
        message = lines.receive() or {}
        if "error" in message:
            raise UserError(str(message["error"]))
        if "start" in message:
            return True
        if "wait" in message:  # Registered: process 0 decides from here on.
            where = "the other processes"
            wait = _Wait(float(message["wait"]) + _GRACE_SECONDS)
    return False
