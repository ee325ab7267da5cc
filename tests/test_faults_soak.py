"""A sweep that is killed repeatedly: nothing leaks, and no trial is lost."""

import os
import random
import signal
import time
from pathlib import Path

import fault_tools
import pytest
from fault_tools import Run

SECONDS = float(os.environ.get("HIGHWAY_SOAK_SECONDS", "3600"))
SWEEP = {
    "sweep.grid.model.width": "3,4,5,6",
    "sweep.grid.model.depth": "2,3,4",
    "sweep.draw.optimizer.learning_rate": "('log_uniform',0.001,10.0)",
    "sweep.trials": 4,
    "sweep.rung_epochs": "2,",
    "sweep.rung_keeps": "2,",
    "sweep.retrain_seeds": "0,1",
    "training.epochs": 4,
    "runtime.tensorboard": True,
}
NUM_TRIALS = 12 * (4 + 2)


def _use(process):
    """Resident bytes and open files of a process, or nothing if it is gone."""
    try:
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[1])
        files = len(list(Path(f"/proc/{process.pid}/fd").iterdir()))
        return pages * os.sysconf("SC_PAGE_SIZE"), files
    except (OSError, IndexError):
        return 0, 0


def _disk(folder):
    found = 0
    for path in folder.rglob("*"):
        try:
            found += path.lstat().st_blocks * 512
        except OSError:
            continue
    return found


def _watch(process, workdir, seconds=1e9):
    """Watches a process until it ends or for some seconds; returns its memory, files and disk."""
    began, uses = time.monotonic(), []
    while process.poll() is None and time.monotonic() - began < seconds:
        uses.append((*_use(process), _disk(workdir / "checkpoints")))
        time.sleep(0.1)
    return uses


def _most(uses):
    return [max(values) for values in zip(*uses, strict=True)]


@pytest.mark.faults
def test_soak(tmp_path):
    cache = tmp_path / "cache"
    whole = Run(tmp_path / "whole", cache, **SWEEP)
    whole.finish()  # Fills the cache, so that the next is like those that follow.
    expected = fault_tools.left(whole.workdir)
    assert len(expected["results"]) == NUM_TRIALS
    alone = Run(tmp_path / "alone", cache, **SWEEP)
    uses = _watch(process := alone.start(), alone.workdir)
    alone.finish(process)
    memory, files, disk = _most(uses)
    settled = uses[len(uses) // 2][0]
    print(f"alone: {memory / 1e6:.0f} MB, {files} files, {disk / 1e6:.1f} MB of checkpoints")
    assert memory < 1.3 * settled, "memory grows from batch to batch"
    rng, began = random.Random(0), time.monotonic()
    kills = sweeps = 0
    most = [0, 0, 0]
    while time.monotonic() - began < SECONDS:
        run = Run(tmp_path / f"sweep{sweeps}", cache, **SWEEP)
        status = None
        while status != 0:
            process = run.start()
            uses = _watch(process, run.workdir, rng.uniform(2, 20))
            most = _most([most, *uses])
            if process.poll() is None:
                process.send_signal(rng.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM)))
                kills += 1
            status = process.wait(fault_tools.SECONDS)
            assert status in (0, -9, 143, -15), run.log.read_text()
        assert fault_tools.left(run.workdir) == expected
        fault_tools.assert_tidy(run.workdir)
        sweeps += 1
    hours = (time.monotonic() - began) / 3600
    print(
        f"{hours:.2f} h: {kills} kills in {sweeps} sweeps of {NUM_TRIALS} trials; at most"
        f" {most[0] / 1e6:.0f} MB, {most[1]} files, {most[2] / 1e6:.1f} MB of checkpoints"
    )
    assert most[0] < 1.3 * memory
    assert most[1] <= files + 8
    assert most[2] < 1.5 * disk
