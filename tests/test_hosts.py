"""Two real processes of two devices each compute the same as one process."""

import csv
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from highway_jax.errors import UserError
from highway_jax.runtime import multihost

ROOT = Path(__file__).parents[1]
SETTINGS = [
    "--config=experiments/digits.py",
    "--config.model.depth=3",
    "--config.model.width=10",
    "--config.training.epochs=12",
    "--config.runtime.tensorboard=False",
    "--config.evaluation.every_epochs=4",
]
SECONDS = 240


def _start(workdir, *arguments, devices=2, seeds="0,1,2"):
    # All programs are cached, however quickly they compile: most processes here have the same.
    cache = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    environment = os.environ | cache | {"JAX_NUM_CPU_DEVICES": str(devices)}
    settings = [f"--workdir={workdir}", f"--config.seeds={seeds}", *SETTINGS, *arguments]
    return subprocess.Popen(
        [sys.executable, "-m", "highway_jax.main", *settings],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _start_two(workdir, *arguments, **options):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", *arguments]
    return [_start(workdir, *flags, f"--process_id={i}", **options) for i in range(2)]


def _finish(processes, status=0):
    outputs = [process.communicate(timeout=SECONDS) for process in processes]
    assert [process.returncode for process in processes] == [status] * len(processes), outputs
    return outputs


def _results(workdir):
    clock = ("compile_seconds", "train_seconds", "steps_per_second")
    with (workdir / "results.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k not in clock} for row in csv.DictReader(file)]


def test_two_processes_compute_what_one_computes_across_a_stop(tmp_path):
    one_case = "--config.cases={}"
    _finish([_start(tmp_path / "one", one_case, devices=4)])
    two = _start_two(tmp_path / "two", one_case, "--config.runtime.chunk_seconds=0.05")
    metrics = tmp_path / "two" / "metrics.jsonl"
    began = time.monotonic()
    while not (metrics.exists() and metrics.stat().st_size):
        assert time.monotonic() - began < SECONDS
        assert two[0].poll() is None, two[0].communicate()
        time.sleep(0.05)
    # To one of them: both save the same step and stop.
    two[1].send_signal(signal.SIGTERM)
    outputs = _finish(two, 128 + signal.SIGTERM)
    assert outputs[0][1].splitlines()[-1] == outputs[1][1].splitlines()[-1]
    (first, _), (second, _) = _finish(_start_two(tmp_path / "two", one_case))
    assert "resuming from the checkpoint" in first
    assert "Test accuracy" in first
    # The second prints only what its libraries do.
    assert "epoch" not in second
    assert "Test accuracy" not in second
    assert _results(tmp_path / "two") == _results(tmp_path / "one")


@pytest.mark.slow
def test_eight_devices_are_as_one(tmp_path):
    seeds = "0,1,2,3,4,5,6,7,8"
    (eight, _), _ = _finish(
        [
            _start(tmp_path / str(n), "--config.training.epochs=3", devices=n, seeds=seeds)
            for n in (8, 1)
        ]
    )
    # Nine trials: seven devices have one slot too many.
    assert re.search(r"9 trials on 8 CPU (devices|cores), one after another on each", eight)
    assert _results(tmp_path / "8") == _results(tmp_path / "1")


@pytest.mark.slow
def test_two_processes_share_the_batches_of_a_trial(tmp_path):
    settings = ["--config.training.epochs=2", "--config.runtime.batch_devices=4"]
    _finish([_start(tmp_path / "one", *settings, devices=4, seeds="0")])
    (first, _), _ = _finish(_start_two(tmp_path / "two", *settings, seeds="0"))
    assert re.search(r"1 trial on 4 CPU (devices|cores), 4 a trial", first)
    pairs = zip(_results(tmp_path / "two"), _results(tmp_path / "one"), strict=True)
    for found, expected in pairs:
        for key in ("train_loss", "test_loss"):
            assert float(found[key]) == pytest.approx(float(expected[key]), rel=1e-4)


def test_what_is_wrong_in_the_first_process_is_said_in_both(tmp_path):
    (tmp_path / "file").write_text("")
    for _, err in _finish(_start_two(tmp_path / "file"), 2):
        assert "cannot be written" in err.splitlines()[-1]


def test_processes_with_other_configs_are_refused(tmp_path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2"]
    processes = [
        _start(tmp_path / "run", *flags, f"--process_id={i}", *more)
        for i, more in enumerate(([], ["--config.optimizer.learning_rate=1e-6"]))
    ]
    for _, err in _finish(processes, 2):
        (line,) = err.splitlines()[-1:]
        assert "process 1: has another config than process 0: changed optimizer.learni" in line
        assert "to 1e-06; allowed: the same config in all processes" in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("here", 2, 0), "--coordinator is 'here'; allowed: HOST:PORT"),
        (("here:1", 0, 0), "--num_processes is 0; allowed: at least 1"),
        (("here:1", 2, 2), "--process_id is 2; allowed: 0 to 1"),
        (("", 2, 0), "--coordinator is ''"),
    ],
)
def test_processes_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        multihost.start(*arguments)


def test_alone_everything_is_a_plain_call():
    assert multihost.lead(lambda: 3) == 3
    assert multihost.together(lambda: 4) == 4
    assert multihost.largest(5) == multihost.first(5) == 5
    assert multihost.broadcast({"a": 1}) == {"a": 1}
    assert multihost.is_first()
