"""Processes that cannot connect report one line each, within the time limit."""

import concurrent.futures
import contextlib
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from highway_jax import UserError, main
from highway_jax.runtime import rendezvous

ROOT = Path(__file__).parents[1]


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def meet(port):
    """Calls `meet` as a process of a number, in a thread; returns what it raised or None."""

    def call(process_id, num_processes, seconds):
        try:
            rendezvous.meet(f"127.0.0.1:{port}", num_processes, process_id, seconds)
        except UserError as error:
            return str(error)

    with concurrent.futures.ThreadPoolExecutor() as pool:
        yield lambda *arguments, seconds=10: pool.submit(call, *arguments, seconds)


def _start(*words):
    settings = ["--config=experiments/digits.py", "--config.training.epochs=1"]
    return subprocess.Popen(
        [sys.executable, "-m", "highway_jax.main", *settings, *words],
        cwd=ROOT,
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _refused(process, seconds):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 2, err
    assert out == ""
    (line,) = [line for line in err.splitlines() if not line.startswith("INFO: waiting for ")]
    return line


def _refused_here(capsys, *words):
    """Returns the error of a command line that is refused before jax has any other process."""
    assert main.main(["highway-jax", "--config=experiments/digits.py", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    return line


@pytest.mark.parametrize(
    ("address", "number", "line"),
    [
        ("127.0.0.1:99999", 1, "--coordinator is '127.0.0.1:99999'; allowed: HOST:PORT, with a po"),
        ("no-such-host.invalid:{port}", 1, "'no-such-host.invalid' is not the name of a host ("),
        ("no-such-host.invalid:{port}", 0, "'no-such-host.invalid' is not the name of a host ("),
        ("127.0.0.1:{port}", 1, "which cannot be reached within 2 s: connection refused; allowed:"),
        ("127.0.0.1:{port}", 0, "--coordinator: process 1 of 2 did not connect within 2 s"),
        ("127.0.0.1:{taken}", 0, "({taken}) (Address already in use); allowed: a free port"),
        ("127.0.0.1:{taken}", 1, "which cannot be reached within 2 s: no answer; allowed:"),
    ],
)  # fmt: skip
def test_one_process_is_refused_in_one_line_and_in_time(
    address, number, line, port, tmp_path, capsys, monkeypatch
):
    monkeypatch.chdir(ROOT)
    with socket.create_server(("127.0.0.1", 0)) as server:
        taken = server.getsockname()[1]
        address = address.format(port=port, taken=taken)
        line = line.replace("({taken})", f"at port {taken}")
        words = (
            *(f"--workdir={tmp_path}/run", f"--coordinator={address}", "--coordinator_timeout=2"),
            *("--num_processes=2", f"--process_id={number}"),
        )
        if (address, number) == (f"127.0.0.1:{port}", 1):  # One case in a process of its own.
            found = _refused(_start(*words), 60)
        else:
            found = _refused_here(capsys, *words)
    assert found.startswith("error: ")
    assert line in found
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_duplicate_and_missing_processes_are_named(port, tmp_path):
    words = (f"--coordinator=127.0.0.1:{port}", "--num_processes=3", "--coordinator_timeout=25")
    processes = [
        _start(f"--workdir={tmp_path}/run", *words, f"--process_id={n}") for n in (0, 1, 1)
    ]
    lines = [_refused(process, 90) for process in processes]
    assert sum("did not connect" in line for line in lines) == 2
    assert set(lines) >= {"error: --coordinator: process 2 of 3 did not connect within 25 s"}
    (twice,) = [line for line in lines if "did not connect" not in line]
    assert twice.startswith("error: --process_id is 1, which process ")
    pids = [process.pid for process in processes[1:] if f"process {process.pid} on" in twice]
    assert len(pids) == 1


def test_all_return_together(meet):
    second = meet(2, 3)
    first = meet(1, 3)
    time.sleep(0.5)
    assert not second.done()
    coordinator = meet(0, 3)
    assert [each.result(5) for each in (coordinator, first, second)] == [None] * 3


def test_a_process_that_was_restarted_registers_again(meet, port):
    coordinator = meet(0, 3)
    with contextlib.closing(_connect(port)) as gone:
        lines = rendezvous._Lines(gone)
        lines.send(process_id=1, num_processes=3, name="gone")
        assert lines.receive()["wait"] > 5
    others = [meet(2, 3), meet(1, 3)]
    assert [each.result(5) for each in (coordinator, *others)] == [None] * 3


def _connect(port):
    until = time.monotonic() + 5
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=5)
        except ConnectionRefusedError:
            assert time.monotonic() < until
            time.sleep(0.02)


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 5000, b"{" * 5000, b'{"highway_jax": 2, '),
        *(b'{"highway_jax": 1, }\n', b'{"highway_jax": 1, "process_id": [1]}\n'),
        b'{"highway_jax": 1, "process_id": [1], "num_processes": 2, "name": 3}\n',
        b'{"highway_jax": 1, "a": ' + b"[" * 970 + b"\n",
        b'{"highway_jax": 1, "a": ' + b"[" * 5000 + b"\n",
    ],
)
def test_other_programs_on_the_port_are_ignored(content, meet, port):
    coordinator = meet(0, 2)
    with contextlib.closing(_connect(port)) as other:
        other.sendall(content)
        assert (meet(1, 2).result(5), coordinator.result(5)) == (None, None)


def test_different_numbers_of_processes_are_refused(meet):
    coordinator = meet(0, 2, seconds=1.5)
    assert meet(1, 3).result(5) == "--num_processes is 3; process 0 has 2"
    assert coordinator.result(5) == "--coordinator: process 1 of 2 did not connect within 2 s"


def test_a_wait_is_counted(meet, monkeypatch, caplog):
    caplog.set_level("INFO", "highway_jax")
    monkeypatch.setattr(rendezvous, "_LOG_SECONDS", 1.0)
    coordinator, other = meet(0, 3, seconds=5), meet(1, 3, seconds=5)
    assert coordinator.result(20) == other.result(20)
    lines = "\n".join(caplog.messages)
    counts = [int(count) for count in re.findall(r"for process 2 of 3 \((\d) of 5 s\)", lines)]
    assert counts == sorted(set(counts))
    assert len(counts) > 1
    # The other one adopts the limit of process 0, and waits a little longer.
    assert re.search(r"waiting for the other processes \(\d of 1[45] s\)", lines)


def test_a_socket_that_was_connected_to_itself_is_no_coordinator(port, monkeypatch):
    """A system without a listener may assign the port that is being connected to."""

    def itself(address, timeout):
        connection = socket.socket()
        connection.bind(address)
        connection.connect(address)
        return connection

    monkeypatch.setattr(socket, "create_connection", itself)
    monkeypatch.setattr(rendezvous, "_RETRY_SECONDS", 1.5)  # Once: the port is not free at once.
    with pytest.raises(UserError, match="cannot be reached within 1 s: connection refused"):
        rendezvous.meet(f"127.0.0.1:{port}", 2, 1, 1)
