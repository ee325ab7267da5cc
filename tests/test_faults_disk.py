"""Damaged checkpoints, full, read-only and vanished disks, two runs in one directory."""

import contextlib
import errno
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import fault_tools
import numpy as np
import pytest
from fault_tools import Run

from highway_jax import UserError, run
from highway_jax.storage.checkpoint import Checkpoints
from highway_jax.storage.records import Records
from highway_jax.storage.workdir import Workdir

STATE = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(4, dtype=np.int32)}
EXTRA = {"seconds": {"compile": 1.0, "train": 2.5}, "last_epoch_recorded": 3, "trials": [0, 1]}


def _like(extra):
    return {key: np.zeros_like(value) for key, value in STATE.items()}


def _saved(directory, steps=(1, 2), keep=2):
    (directory / "checkpoints").mkdir(parents=True)
    checkpoints = Checkpoints(directory / "checkpoints" / "batch", keep)
    for step in steps:
        checkpoints.save(step, {"a": STATE["a"] + step, "b": STATE["b"] + step}, EXTRA)
    return checkpoints


def _truncate(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def _flip(path, bit=None):
    content = bytearray(path.read_bytes())
    bit = len(content) * 4 if bit is None else bit
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


HARMS = {"truncated": _truncate, "deleted": lambda path: path.unlink(), "flipped": _flip}


def _files_of(step, directory):
    manifest = directory / f"step_{step:08d}.json"
    inside = (directory / f"step_{step:08d}").rglob("*")
    return [manifest, *sorted(path for path in inside if path.is_file())]


@pytest.mark.parametrize("harm", HARMS)
def test_any_damage_to_the_newest_checkpoint_restores_the_previous_one(harm, tmp_path, caplog):
    _saved(tmp_path / "whole")
    number = len(_files_of(2, tmp_path / "whole/checkpoints/batch"))
    assert number >= 5
    for i in range(number):
        shutil.copytree(tmp_path / "whole", tmp_path / f"{i}")
        directory = tmp_path / f"{i}" / "checkpoints" / "batch"
        victim = _files_of(2, directory)[i]
        if victim.stat().st_size == 0:
            continue  # An empty file has nothing to cut or to flip.
        HARMS[harm](victim)
        caplog.clear()
        step, state, extra = Checkpoints(directory).restore(_like)
        assert (step, extra) == (1, EXTRA), victim
        np.testing.assert_array_equal(state["a"], STATE["a"] + 1)
        if (harm, i) != ("deleted", 0):  # Without its manifest a step was never finished.
            assert "checkpoint of step 2 skipped" in caplog.text
            assert victim.name in caplog.text


def test_bits_of_a_manifest_are_guarded(tmp_path):
    checkpoints = _saved(tmp_path, steps=(7,))
    manifest = tmp_path / "checkpoints" / "batch" / "step_00000007.json"
    whole = manifest.read_bytes()
    before = json.loads(whole)
    for bit in range(0, len(whole) * 8, 23):
        _flip(manifest, bit)
        if checkpoints.damage(7) is None:
            assert json.loads(manifest.read_bytes()) == before
        manifest.write_bytes(whole)
    assert checkpoints.damage(7) is None


def test_a_manifest_without_what_a_run_needs_is_damage_not_a_crash(small_config, tmp_path):
    small_config.checkpoint.keep = 1
    run(small_config, tmp_path)
    (directory,) = (tmp_path / "checkpoints").iterdir()
    (tmp_path / "results.csv").unlink()
    step = Checkpoints(directory).steps()[-1]
    for key in ("seconds", "last_epoch_recorded", "trials"):
        manifest = directory / f"step_{step:08d}.json"
        whole = manifest.read_text()
        content = json.loads(whole)
        del content["extra"][key], content["sha256"]
        manifest.write_text(json.dumps(content))
        with pytest.raises(UserError, match=r": every checkpoint is damaged"):
            run(small_config, tmp_path)
        manifest.write_text(whole)
    run(small_config, tmp_path)


def test_a_file_too_many_is_damage(tmp_path):
    checkpoints = _saved(tmp_path)
    (tmp_path / "checkpoints" / "batch" / "step_00000002" / "strange").write_text("x")
    assert checkpoints.damage(2) == "step_00000002/strange is not part of it"


def test_all_checkpoints_damaged_is_an_error(tmp_path):
    checkpoints = _saved(tmp_path)
    for step in (1, 2):
        _flip(_files_of(step, tmp_path / "checkpoints" / "batch")[-1])
    with pytest.raises(UserError, match=r"batch: every checkpoint is damaged \(step_00000002/"):
        checkpoints.restore(_like)
    for step in (1, 2):
        (tmp_path / "checkpoints" / "batch" / f"step_{step:08d}.json").unlink()
    with pytest.raises(UserError, match=r": every checkpoint is damaged \(no manifest is left"):
        checkpoints.restore(_like)
    # Unlike one that was never finished.
    (tmp_path / "none" / "step_00000001").mkdir(parents=True)
    assert Checkpoints(tmp_path / "none").restore(_like) is None


def test_arrays_of_another_shape_are_not_taken(tmp_path):
    checkpoints = _saved(tmp_path)
    other = {"a": np.zeros((2, 4), np.float32), "b": np.zeros(4, np.int32)}
    with pytest.raises(UserError, match="cannot be restored"):
        checkpoints.restore(lambda extra: other)


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_newest_is_never_removed_and_no_more_are_kept(keep, tmp_path):
    checkpoints = _saved(tmp_path, steps=range(1, 7), keep=keep)
    assert checkpoints.steps() == list(range(7 - keep, 7))
    for step in checkpoints.steps()[1:] or [6]:
        _flip(_files_of(step, tmp_path / "checkpoints" / "batch")[-1])
    # Training went back to before the damaged ones: the next is saved below their step.
    checkpoints.save(3, STATE, EXTRA)
    assert checkpoints.steps()[-1] == 3
    assert checkpoints.damage(3) is None
    names = {path.name for path in (tmp_path / "checkpoints" / "batch").iterdir()}
    assert not any(name.startswith(("step_00000005", "step_00000006")) for name in names)


def test_what_a_killed_save_left_is_removed(tmp_path):
    checkpoints = _saved(tmp_path)
    directory = tmp_path / "checkpoints" / "batch"
    (directory / "step_00000003.orbax-checkpoint-tmp").mkdir()
    (directory / "step_00000003.orbax-checkpoint-tmp" / "x").write_text("x")
    (directory / "step_00000004").mkdir()
    (directory / ".step_00000004.json.123.tmp").write_text("{")
    (directory / "notes.txt").write_text("not ours")
    assert checkpoints.steps() == [1, 2]
    checkpoints.save(5, STATE, EXTRA)
    names = {path.name for path in directory.iterdir()}
    assert {"step_00000005", "step_00000005.json", "notes.txt"} < names
    assert not any("3" in name or "4" in name for name in names)


def _tmpfs(folder, kilobytes):
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no tmpfs can be mounted here: {done.stderr.strip()}")


@pytest.mark.faults
@pytest.mark.parametrize("tensorboard", [False, True])
def test_a_full_disk_is_reported_and_the_run_resumes(tensorboard, cache, tmp_path):
    settings = {"training.epochs": 20, "runtime.tensorboard": tensorboard}
    expected = Run(tmp_path / "whole", cache, **settings)
    expected.finish()
    _tmpfs(tmp_path / "disk", 4000)
    try:
        ballast = tmp_path / "disk" / "ballast"
        one = Run(tmp_path / "disk" / "run", cache, **settings)
        one.log = tmp_path / "log"
        # Full after the first epochs: the ballast grows behind the run.
        process = one.start()
        one.wait_for(process, "checkpoints")
        with ballast.open("wb", buffering=0) as file:
            while process.poll() is None:
                with contextlib.suppress(OSError):
                    file.write(bytes(65536))
        text = one.log.read_text()
        assert process.returncode == 2, text
        (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
        assert str(one.workdir) in line
        assert "No space left on device" in line
        assert "MB of 4.1 MB are free" in line
        # What was there is whole.
        for directory in (one.workdir / "checkpoints").iterdir():
            checkpoints = Checkpoints(directory)
            assert [checkpoints.damage(step) for step in checkpoints.steps()] == [None] * len(
                checkpoints.steps()
            )
        ballast.unlink()
        one.finish()
        assert fault_tools.left(one.workdir) == fault_tools.left(expected.workdir)
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=False)


def test_a_limit_of_file_size_is_reported_and_no_file_is_torn(small_config, tmp_path, monkeypatch):
    """Without mounting: the system's limit on file sizes causes the error of a full disk."""
    workdir = tmp_path / "run"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    real = Records.add_epoch

    def add_epoch(records, lines):
        real(records, lines)
        resource.setrlimit(resource.RLIMIT_FSIZE, (600, hard))

    # From the first epoch on: the lines of the second are the next that is written.
    with monkeypatch.context() as patch:
        patch.setattr(Records, "add_epoch", add_epoch)
        try:
            with pytest.raises(UserError) as caught:
                run(small_config, workdir)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    line = str(caught.value)
    assert str(workdir) in line
    assert "File too large" in line or "No space left" in line
    assert " MB are free in " in line
    run(small_config, workdir)
    fault_tools.assert_no_row_is_missing(workdir, 2, 2)
    fault_tools.assert_tidy(workdir)


@pytest.mark.slow
def test_a_process_whose_files_may_not_grow_ends_with_status_2(cache, tmp_path):
    one = Run(tmp_path / "run", cache)
    process = one.start(output=subprocess.PIPE)
    one.wait_for(process, "metrics.jsonl")
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (600, 600))
    text = process.communicate(timeout=fault_tools.SECONDS)[0].decode()
    assert process.returncode == 2, text
    (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
    assert str(one.workdir) in line
    assert "File too large" in line or "No space left" in line
    assert " MB are free in " in line
    one.finish()
    fault_tools.assert_no_row_is_missing(one.workdir, 5, 4)
    fault_tools.assert_tidy(one.workdir)


def test_a_removed_directory_is_reported_and_nothing_more_is_written(
    small_config, tmp_path, monkeypatch
):
    workdir, away = tmp_path / "run", tmp_path / "away"
    real = Records.add_epoch

    def add_epoch(records, lines):
        real(records, lines)
        workdir.rename(away)

    monkeypatch.setattr(Records, "add_epoch", add_epoch)
    with pytest.raises(UserError, match=rf"^{re.escape(str(workdir))}: the workdir is gone"):
        run(small_config, workdir)
    assert not workdir.exists()
    assert len((away / "metrics.jsonl").read_text().splitlines()) == 2


@pytest.mark.slow
def test_a_process_whose_directory_vanishes_ends_with_status_2(cache, tmp_path):
    one = Run(tmp_path / "run", cache)
    process = one.start(**{"training.epochs": 100000})
    one.wait_for(process, "metrics.jsonl")
    one.workdir.rename(tmp_path / "away")
    process.wait(fault_tools.SECONDS)
    line = one.log.read_text().splitlines()[-1]
    assert process.returncode == 2
    assert line.startswith(f"error: {one.workdir}: the workdir is gone")
    # A save that was under way may end there; nothing else does.
    assert {path.name for path in one.workdir.glob("*")} <= {"checkpoints"}


def test_a_directory_in_its_place_is_left_alone(tmp_path):
    directory = Workdir(tmp_path / "run")
    with directory.locked():
        directory.check_held()
        (tmp_path / "run").rename(tmp_path / "away")
        with Workdir(tmp_path / "run").locked(), pytest.raises(UserError, match="was replaced"):
            directory.check_held()


def _make_read_only(disk):
    remount = ["mount", "-o", "remount,ro", str(disk)]
    subprocess.run(remount, capture_output=True, check=True)


def test_a_read_only_directory_is_reported(small_config, tmp_path):
    """Root may write where modes forbid it, so the file system itself is made read-only."""
    disk = tmp_path / "disk"
    _tmpfs(disk, 5000)
    try:
        run(small_config, disk / "run")
        (disk / "run" / "results.csv").unlink()
        before = (disk / "run" / "metrics.jsonl").read_bytes()
        _make_read_only(disk)
        words = f"workdir is '{disk}/run', which cannot be written (Read-only file"
        with pytest.raises(UserError, match=f"^{re.escape(words)}"):
            run(small_config, disk / "run")
        assert (disk / "run" / "metrics.jsonl").read_bytes() == before
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


@pytest.mark.slow
def test_a_process_in_a_read_only_directory_ends_with_status_2(cache, tmp_path):
    one = Run(tmp_path / "disk" / "run", cache)
    one.log = tmp_path / "log"
    _tmpfs(tmp_path / "disk", 5000)
    try:
        process = one.start(**{"training.epochs": 100000})
        one.wait_for(process, "metrics.jsonl")
        fault_tools.kill(process)
        before = fault_tools.size_of(one.workdir / "metrics.jsonl")
        _make_read_only(tmp_path / "disk")
        line = one.refuse(**{"training.epochs": 100000})
        assert line.startswith(
            f"error: workdir is '{one.workdir}', which cannot be written (Read-only file"
        )
        assert fault_tools.size_of(one.workdir / "metrics.jsonl") == before
    finally:
        subprocess.run(["umount", "-l", str(tmp_path / "disk")], check=False)


@pytest.mark.parametrize(
    ("number", "name"),
    [
        (errno.ENOSPC, "metrics.jsonl"),
        (errno.ENOSPC, "results.csv"),
        (errno.ENOSPC, "summary.csv"),
        (errno.ENOSPC, "config.json"),
        (errno.ENOSPC, "step_00000013"),
        (errno.EROFS, "results.csv"),
        (errno.EIO, "step_00000013"),
    ],
)
def test_each_refusal_in_each_place_is_explained(number, name, small_config, tmp_path, monkeypatch):
    """Errors of the system at each file, by the call that flushes it to the disk."""
    small_config.training.epochs = 1
    real = os.fsync

    def fsync(handle):
        if name in Path(f"/proc/self/fd/{handle}").readlink().name:
            raise OSError(number, os.strerror(number))
        return real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(UserError) as caught:
        run(small_config, tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert os.strerror(number) in str(caught.value)
    assert ("MB are free" in str(caught.value)) == (number == errno.ENOSPC)
    monkeypatch.setattr(os, "fsync", real)
    run(small_config, tmp_path)
    fault_tools.assert_no_row_is_missing(tmp_path, 2, 1)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError("quota of the project"), "quota of the project"),
        (OSError(), "OSError"),
        (ValueError("RESOURCE_EXHAUSTED: quota"), "No space left on device"),
        (OSError("No space left on device"), "No space left on device"),
    ],
)
def test_an_error_without_a_number_is_explained(error, words, small_config, tmp_path, monkeypatch):
    def save(*_):
        raise error

    small_config.training.epochs = 1
    monkeypatch.setattr("orbax.checkpoint.StandardCheckpointer.save", save)
    with pytest.raises(UserError) as caught:
        run(small_config, tmp_path)
    assert re.search(rf"step_\d+: cannot be written or read \({words}\); ", str(caught.value))


def test_two_runs_cannot_share_a_directory_and_a_stale_lock_is_ignored(cache, tmp_path):
    one = Run(tmp_path / "run", cache)
    process = one.start(**{"training.epochs": 100000})
    one.wait_for(process, "config.json")  # Written once the directory is locked.
    holder = f"in use by process {process.pid} on {re.escape(os.uname().nodename)} since 20"
    try:
        with pytest.raises(UserError, match=holder), Workdir(one.workdir).locked():
            raise AssertionError
    finally:
        fault_tools.kill(process)
    # The lock file is still there, and says of whom it was.
    assert str(process.pid) in (one.workdir / ".lock").read_text()
    with Workdir(one.workdir).locked():
        pass


@pytest.mark.slow
def test_the_second_of_two_processes_in_a_directory_ends_with_status_2(cache, tmp_path):
    one = Run(tmp_path / "run", cache)
    process = one.start(**{"training.epochs": 100000})
    one.wait_for(process, "metrics.jsonl")
    two = Run(one.workdir, cache, **{"training.epochs": 100000})
    two.log = tmp_path / "second.log"
    line = two.refuse()
    assert f"is in use by process {process.pid} on {os.uname().nodename} since 20" in line
    fault_tools.kill(process)
    process = two.start()  # The lock file is still there, and says of whom it was.
    size = fault_tools.size_of(one.workdir / "metrics.jsonl")
    two.wait_for(process, "metrics.jsonl", size + 1)
    assert process.poll() is None, two.log.read_text()
    process.send_signal(signal.SIGTERM)
    assert process.wait(fault_tools.SECONDS) == 128 + signal.SIGTERM


def test_a_file_system_without_locks_is_distinguished_from_a_run(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with (
        pytest.raises(UserError, match=r"cannot be locked \(No locks available\)"),
        Workdir(tmp_path).locked(),
    ):
        raise AssertionError
