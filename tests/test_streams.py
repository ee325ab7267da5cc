"""A run without a working output trains to its end: closed pipes, full disks, lost terminals."""

import contextlib
import io
import os
import pty
import signal
import subprocess
import threading

import fault_tools
import pytest
from fault_tools import ROOT, Run

from highway_jax.runs import experiment
from highway_jax.runtime import multihost, progress
from highway_jax.runtime.signals import StopRequest

CLOSED = "WARNING: standard output is closed; training continues without progress"
FULL = (
    "WARNING: standard output cannot be written (No space left on device);"
    " training continues without progress"
)


def _start(run, words=(), script="", **streams):
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    return subprocess.Popen(
        ["bash", "-c", script, "bash", *run.words(*words)] if script else run.words(*words),
        cwd=ROOT,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        **streams,
    )


def _finish(run, process, status=0):
    errors = process.communicate(timeout=fault_tools.SECONDS)[1]
    assert process.returncode == status, errors
    assert "Traceback" not in errors
    assert "Exception ignored" not in errors
    if status == 0:
        fault_tools.assert_no_row_is_missing(run.workdir, 5, 4)
        fault_tools.assert_tidy(run.workdir)
    # Without what the compiler says of programs in the cache.
    return [line for line in errors.splitlines() if line.startswith(("WARNING: ", "error: "))]


def _where(run):
    return f"the results are in {run.workdir}/summary.csv and {run.workdir}/results.csv"


def test_a_closed_pipe_does_not_end_the_run(cache, tmp_path):
    run = Run(tmp_path / "run", cache)
    process = _start(run, stdout=subprocess.PIPE)
    assert "5 trials on 1 CPU core, one after another" in process.stdout.readline()
    process.stdout.close()
    process.stdout = None
    lines = _finish(run, process)
    assert lines.count(CLOSED) == 1
    assert lines[-1] == f"WARNING: standard output is closed; {_where(run)}"


def test_a_full_disk_of_the_log_does_not_end_the_run(cache, tmp_path):
    run = Run(tmp_path / "run", cache)
    with open("/dev/full", "w") as full:  # noqa: PTH123
        lines = _finish(run, _start(run, stdout=full))
    assert lines.count(FULL) == 1
    assert lines[-1].endswith(_where(run))


def test_a_closed_terminal_does_not_end_the_run(small_config, tmp_path):
    """The progress bar writes from a thread of its own."""
    small_config.runtime.progress = True
    ours, theirs = pty.openpty()

    def look_and_leave():
        begun.append(os.read(ours, 4))
        os.close(ours)

    begun, reader = [], threading.Thread(target=look_and_leave)
    reader.start()
    # What is still to be written when the file is closed cannot be.
    with contextlib.suppress(OSError), open(theirs, "w") as file:  # noqa: PTH123
        display = progress.Display(console=progress.Console(file=file))
        rows = experiment.run(small_config, tmp_path / "run", display=display)
    reader.join()
    assert begun[0]
    assert display.failure.startswith("standard output cannot be written (Input/output error")
    assert [row["status"] for row in rows] == ["finished"] * 2


@pytest.mark.slow
def test_a_process_outlives_its_terminal(cache, tmp_path):
    run = Run(tmp_path / "run", cache)
    ours, theirs = pty.openpty()
    process = _start(run, stdout=theirs)
    os.close(theirs)
    assert os.read(ours, 4)  # The bar has begun.
    os.close(ours)
    lines = _finish(run, process)
    assert lines[-1].endswith(_where(run))


@pytest.mark.parametrize(
    "streams",
    [
        ">&- 2>&-",
        *(pytest.param(s, marks=pytest.mark.slow) for s in (">&-", ">/dev/full 2>/dev/full")),
    ],
)
def test_without_any_stream_a_finished_run_ends_with_status_0(streams, cache, tmp_path):
    run = Run(tmp_path / "run", cache)
    lines = _finish(run, _start(run, script=f'exec "$@" {streams}'))
    assert len(lines) == (2 if streams == ">&-" else 0)


def test_nohup_is_respected():
    stop = StopRequest()
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop.listening():
            os.kill(os.getpid(), signal.SIGHUP)
            assert stop.signal == 0
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.slow
def test_a_run_under_nohup_outlives_its_terminal(cache, tmp_path):
    run = Run(tmp_path / "run", cache)
    process = _start(run, script='trap "" HUP; exec "$@"', stdout=subprocess.DEVNULL)
    run.wait_for(process, "metrics.jsonl")
    process.send_signal(signal.SIGHUP)
    _finish(run, process)


@pytest.mark.parametrize(
    ("flag", "stdout", "status", "errors"),
    [
        ("--keys", "| true", 0, ""),
        ("--help", "| true", 0, ""),
        ("--keys", ">/dev/full", 2, "error: standard output cannot be written (No space left on"),
        ("--version", ">/dev/full", 2, "error: standard output cannot be written (No space left"),
    ],
)
def test_an_answer_that_nobody_reads_is_no_error_and_one_that_is_lost_is(
    flag, stdout, status, errors, tmp_path
):
    words = f"python -m highway_jax.main {flag} {stdout}; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert done.stderr.startswith(errors)
    assert len(done.stderr.splitlines()) == bool(errors)


class _Broken(io.StringIO):
    def __init__(self, error):
        super().__init__()
        self._error = error

    def write(self, *_):
        raise self._error

    flush = write


@pytest.mark.parametrize(
    "error", [BrokenPipeError(32, "Broken pipe"), ValueError("closed"), RuntimeError("strange")]
)
def test_nothing_leaves_a_display(error, caplog):
    console = progress.Console(file=_Broken(error), force_terminal=True)
    display = progress.Display(console=console)
    display.say("first")
    with display.training("net", 10) as bar:
        bar.advance(5, "half")
        bar.advance(10, "whole")
    display.search_table([])
    assert [record.message.partition(";")[2] for record in caplog.records] == [
        " training continues without progress"
    ]
    assert display.failure


def test_what_a_stream_cannot_encode_is_replaced(caplog):
    raw = io.BytesIO()
    display = progress.Display(console=progress.Console(file=io.TextIOWrapper(raw, "ascii")))
    display.say("90.4 ± 0.3")
    assert raw.getvalue() == b"90.4 ? 0.3\n"
    assert not display.failure


def test_a_process_of_several_leaves_with_its_status_whatever_its_streams(monkeypatch):
    closed = io.StringIO()
    closed.close()
    statuses = []
    monkeypatch.setattr(multihost.jax.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(os, "_exit", statuses.append)
    for stdout, stderr in ((closed, closed), (None, None), (_Broken(OSError(5, "x")), closed)):
        with monkeypatch.context() as patch:
            patch.setattr("sys.stdout", stdout)
            patch.setattr("sys.stderr", stderr)
            with contextlib.suppress(SystemExit):
                multihost.leave(75)
    assert statuses == [75, 75, 75]


def test_the_second_interrupt_ends_a_run_that_another_signal_stops():
    with StopRequest().listening() as stop:
        signal.raise_signal(signal.SIGTERM)
        signal.raise_signal(signal.SIGINT)
        assert stop.signal == signal.SIGTERM
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_an_interrupt_that_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with StopRequest().listening() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.signal == 0
    finally:
        signal.signal(signal.SIGINT, before)
