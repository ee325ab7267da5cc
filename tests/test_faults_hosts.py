"""Two processes of two devices each: one fails or is killed, and the other does not wait for it."""

import socket
import time

import fault_tools
import pytest
from fault_tools import Run

from highway_jax import UserError
from highway_jax.runtime import multihost

SETTINGS = {"seeds": "0,1,2", "training.epochs": 6}
# The sign of a process that jax's own watch ended, before ours could say why.
ABORTED = -6


def _start_two(run, settings, of_second=(), devices=2):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = []
    for number in range(2):
        one = Run(run.workdir, environment={"JAX_NUM_CPU_DEVICES": str(devices)}, **SETTINGS)
        one.log = run.workdir.with_name(f"{number}.log")
        flags = [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--process_id={number}"]
        more = settings | (dict(of_second) if number else {})
        processes.append((one.start(*flags, **more), one.log))
    return processes


@pytest.mark.parametrize(
    ("victim", "devices"),
    [
        pytest.param(1, 2, marks=pytest.mark.slow),
        # With one device each, jax raises an error of another type.
        pytest.param(1, 1, marks=pytest.mark.slow),
        pytest.param(0, 2, marks=pytest.mark.faults),
    ],
)
def test_a_killed_process_ends_the_other_and_the_next_start_resumes(
    victim, devices, cache, tmp_path
):
    whole = Run(tmp_path / "whole", cache, **SETTINGS)
    whole.finish()
    run = Run(tmp_path / "run", cache, **SETTINGS)
    # Slowed so that the kill comes before the end.
    slow = {"runtime.chunk_seconds": 0.001, "runtime.compile_cache": cache}
    processes = _start_two(run, slow, devices=devices)
    (other, log) = processes[1 - victim]
    run.wait_for(other, "metrics.jsonl")
    fault_tools.kill(processes[victim][0])
    began = time.monotonic()
    status = other.wait(60)
    seconds = time.monotonic() - began
    print(f"process {victim} killed: the other ended after {seconds:.1f} s with status {status}")
    text = log.read_text()
    if victim == 1 or status != ABORTED:
        assert status == 75, text
        assert "another process of this run has ended" in text.splitlines()[-1]
    else:  # The first one holds what jax watches by; it may end the others itself.
        assert "distributed service detected fatal errors" in text
    # The next start has one process and two devices where there were two processes.
    run.environment["JAX_NUM_CPU_DEVICES"] = "2"
    run.finish()
    assert fault_tools.left(run.workdir) == fault_tools.left(whole.workdir)
    fault_tools.assert_no_row_is_missing(run.workdir, 3, 6)


def test_an_error_in_one_of_two_ends_both(tmp_path):
    run = Run(tmp_path / "run", **SETTINGS)
    (tmp_path / "file").write_text("")
    refused = {"runtime.compile_cache": tmp_path / "file"}
    (first, first_log), (second, second_log) = _start_two(run, {}, refused)
    assert second.wait(fault_tools.SECONDS) == 2, second_log.read_text()
    began = time.monotonic()
    assert first.wait(60) == 75, first_log.read_text()
    print(f"the other ended after {time.monotonic() - began:.1f} s")
    assert "compile_cache" in second_log.read_text().splitlines()[-1]
    assert "another process of this run has ended" in first_log.read_text().splitlines()[-1]


@pytest.mark.parametrize(
    ("variables", "gpus"),
    [
        ({}, "alone"),
        ({"SLURM_STEP_NUM_TASKS": "1", "CUDA_VISIBLE_DEVICES": "0,1"}, "alone"),
        ({"SLURM_STEP_NUM_TASKS": "2"}, None),
        ({"SLURM_STEP_NUM_TASKS": "2", "CUDA_VISIBLE_DEVICES": "0,1"}, None),
        (
            {
                "SLURM_STEP_NUM_TASKS": "2",
                "SLURM_GPUS_PER_TASK": "4",
                "CUDA_VISIBLE_DEVICES": "0,1,2,3",
            },
            [0, 1, 2, 3],
        ),
        (
            {"SLURM_STEP_NUM_TASKS": "4", "SLURM_GPUS_PER_TASK": "1", "CUDA_VISIBLE_DEVICES": "2"},
            [0],
        ),
        ({"TPU_ML_PLATFORM": "JAX"}, None),
        ({"TPU_ML_PLATFORM": "JAX", "TPU_SKIP_MDS_QUERY": "1"}, "alone"),
        ({"TPU_WORKER_HOSTNAMES": "a,b", "TPU_SKIP_MDS_QUERY": "1"}, None),
        ({"TPU_PROCESS_ADDRESSES": "a:1,b:1"}, None),
    ],
)
def test_others_are_looked_for_where_there_may_be_some(variables, gpus, monkeypatch):
    for name in (
        *("SLURM_STEP_NUM_TASKS", "SLURM_GPUS_PER_TASK", "CUDA_VISIBLE_DEVICES"),
        *("TPU_ML_PLATFORM", "TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES"),
        *("TPU_PROCESS_ADDRESSES", "TPU_PROCESS_ADDRESSES_PATH"),
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    calls = []
    monkeypatch.setattr(
        multihost.jax.distributed,
        "initialize",
        lambda *arguments, local_device_ids: calls.append((*arguments, local_device_ids)),
    )
    multihost.start()
    assert calls == ([] if gpus == "alone" else [(gpus,)])


@pytest.mark.parametrize("value", ["two", "", "-1", "2.5"])
def test_slurm_variables_that_are_no_numbers_are_named(value, monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", value)
    with pytest.raises(UserError, match=r"SLURM_STEP_NUM_TASKS is .*; allowed: a whole number"):
        multihost.start()
