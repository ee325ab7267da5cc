"""Runs killed, terminated or interrupted at any moment end with the same bits when resumed."""

import collections
import random
import signal
import time

import fault_tools
import pytest
from fault_tools import Run

TRIALS, EPOCHS = 4, 6
SETTINGS = {
    "seeds": ",".join(map(str, range(TRIALS))),
    "training.epochs": EPOCHS,
    "runtime.max_trials": 2,
}


@pytest.fixture(scope="module")
def alone(tmp_path_factory, cache):
    """The files of an uninterrupted run, and the cache of its programs."""
    folder = tmp_path_factory.mktemp("alone")
    run = Run(folder / "run", cache, **SETTINGS)
    run.finish()
    return fault_tools.left(run.workdir), cache


def _kill_at_random(run, rng):
    """Starts a run and kills it within half a second of its first progress, or while it starts.

    Returns whether it was still running, and what it was doing.
    """
    metrics, before = run.workdir / "metrics.jsonl", fault_tools.size_of
    at_start = before(metrics)
    process = run.start()
    if rng.random() < 0.15:
        time.sleep(rng.uniform(0, 3))
    else:
        run.wait_for(process, "metrics.jsonl", at_start + 1)
        time.sleep(rng.expovariate(1 / 0.15))
    if process.poll() is not None:
        assert process.returncode == 0, run.log.read_text()
        return False, ""
    fault_tools.kill(process)
    return True, _was_doing(run.workdir)


def _was_doing(workdir):
    temporary = [path.name for path in workdir.glob(".*.tmp")]
    if temporary:
        return f"writing {temporary[0].split('.')[1]}"
    metrics = workdir / "metrics.jsonl"
    if metrics.exists() and not metrics.read_bytes().endswith(b"\n"):
        return "writing metrics" if metrics.stat().st_size else "starting"
    for batch in workdir.glob("checkpoints/*"):
        steps = {path.stem for path in batch.glob("step_*.json")}
        if any(path.is_dir() and path.name not in steps for path in batch.iterdir()):
            return "saving"
        if list(batch.glob(".*.tmp")):
            return "saving"
    return "other"


def _kill_until(folder, alone, num_kills, seed):
    expected, cache = alone
    rng, kills, doing = random.Random(seed), 0, collections.Counter()
    number = 0
    while kills < num_kills:
        run = Run(folder / f"run{number}", cache, **SETTINGS)
        number += 1
        running = True
        while running and kills < num_kills:
            running, what = _kill_at_random(run, rng)
            kills += running
            doing[what] += running
        run.finish()
        assert fault_tools.left(run.workdir) == expected
        fault_tools.assert_no_row_is_missing(run.workdir, TRIALS, EPOCHS)
        fault_tools.assert_tidy(run.workdir)
    print(f"{kills} kills in {number} runs: {dict(doing)}")


def test_a_run_killed_anywhere_ends_as_an_uninterrupted_one(alone, tmp_path):
    _kill_until(tmp_path, alone, 1, seed=0)


@pytest.mark.faults
def test_killed_a_hundred_times(alone, tmp_path):
    _kill_until(tmp_path, alone, 100, seed=1)


KILLER = """
import os, pathlib, shutil, signal, sys

target, at = sys.argv.pop(1).split(":")
count = 0

def before(function):
    def call(*arguments, **keywords):
        global count
        # Of a replacement, the last argument is the file that it makes.
        count += not target or str(arguments[-1]).endswith(target)
        if count == int(at):
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*arguments, **keywords)
    return call

from highway_jax.main import start
os.fsync = before(os.fsync)
shutil.rmtree = before(shutil.rmtree)
for name in ("replace", "unlink", "mkdir"):
    setattr(pathlib.Path, name, before(getattr(pathlib.Path, name)))
sys.exit(start(sys.argv))
"""


def _kill_at_each(run, points, expected, script):
    """Kills a run right before changes of the disk; returns how many there were."""
    killed = 0
    for at in points:
        one = Run(run.workdir.with_name(f"run{killed}"), "", **run.settings)
        whole, one.script = one.script, [str(script), at]
        process = one.start()
        status = process.wait(fault_tools.SECONDS)
        if status == 0:
            break  # It makes fewer changes.
        assert status == -signal.SIGKILL, one.log.read_text()
        killed += 1
        one.script = whole
        one.finish()
        assert fault_tools.left(one.workdir) == expected, at
        fault_tools.assert_tidy(one.workdir)
    return killed


def _at_each(folder, cache, points):
    (folder / "killer.py").write_text(KILLER)
    settings = {"seeds": "0,1", "training.epochs": 2, "runtime.max_trials": 1}
    run = Run(folder / "run", cache, **settings)
    run.finish()
    expected = fault_tools.left(run.workdir)
    killed = _kill_at_each(run, points, expected, folder / "killer.py")
    print(f"killed before each of {killed} changes of the disk")
    return killed


@pytest.mark.slow
def test_killed_between_the_two_tables(cache, tmp_path):
    """At the end results.csv is written and summary.csv is not."""
    assert _at_each(tmp_path, cache, ["summary.csv:2"]) == 1


@pytest.mark.faults
def test_killed_before_each_change_of_the_disk(cache, tmp_path):
    """Each flush, replacement and removal of tables, manifests and checkpoints in turn."""
    assert _at_each(tmp_path, cache, (f":{n}" for n in range(1, 1000))) > 30


def _stop(run, number, moment, **settings):
    """Starts a run, sends it a signal at a moment, and returns the seconds until it ended."""
    process = run.start(**settings)
    if moment == "training":
        run.wait_for(process, "metrics.jsonl")
    elif moment == "saving":
        while process.poll() is None and not list(run.workdir.glob("checkpoints/*/*tmp*")):
            time.sleep(0.001)
    elif moment == "compiling":  # The first line is shown before, the cache is filled within.
        while process.poll() is None and " trials on " not in run.log.read_text():
            time.sleep(0.01)
        time.sleep(0.5)
    assert process.poll() is None, run.log.read_text()
    process.send_signal(number)
    began = time.monotonic()
    assert process.wait(fault_tools.SECONDS) == 128 + number, run.log.read_text()
    return time.monotonic() - began


@pytest.mark.parametrize(
    ("number", "moment"),
    [
        pytest.param(signal.SIGTERM, "training", marks=pytest.mark.faults),
        pytest.param(signal.SIGINT, "saving", marks=pytest.mark.faults),
        pytest.param(signal.SIGTERM, "compiling", marks=pytest.mark.faults),
        (signal.SIGHUP, "training"),
        pytest.param(signal.SIGINT, "training", marks=pytest.mark.faults),
        pytest.param(signal.SIGTERM, "saving", marks=pytest.mark.faults),
        pytest.param(signal.SIGINT, "compiling", marks=pytest.mark.faults),
    ],
)
def test_a_stop_signal_saves_in_time_and_the_run_resumes(number, moment, alone, tmp_path):
    expected, cache = alone
    run = Run(tmp_path / "run", cache, **SETTINGS)
    if moment == "compiling":  # Anew, which takes seconds.
        run = Run(tmp_path / "run", environment={"JAX_ENABLE_COMPILATION_CACHE": "0"}, **SETTINGS)
    seconds = _stop(run, number, moment)
    print(f"{signal.Signals(number).name} while {moment}: ended after {seconds:.2f} s")
    # Compiling ends first: it cannot be interrupted.
    assert seconds < (60 if moment == "compiling" else 10)
    (line,) = [line for line in run.log.read_text().splitlines() if "stopped" in line]
    assert "the same command resumes" in line
    if moment != "compiling":
        (batch,) = (run.workdir / "checkpoints").iterdir()
        assert list(batch.glob("step_*.json"))
    run.finish(**{"runtime.compile_cache": cache})
    assert fault_tools.left(run.workdir) == expected
    fault_tools.assert_tidy(run.workdir)


INTERRUPTER = """
import os, signal, sys

number = int(sys.argv.pop(1))
from highway_jax.main import start
from highway_jax.training.program import Program
evaluate = Program.evaluate

def interrupted(*arguments):
    Program.evaluate = evaluate
    os.kill(os.getpid(), number)
    return evaluate(*arguments)

Program.evaluate = interrupted
sys.exit(start(sys.argv))
"""


@pytest.mark.parametrize(
    "number",
    [
        pytest.param(signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.faults),
    ],
)
def test_a_stop_signal_in_an_evaluation_ends_it_and_the_run_resumes(number, alone, tmp_path):
    expected, cache = alone
    (tmp_path / "interrupter.py").write_text(INTERRUPTER)
    run = Run(tmp_path / "run", cache, **SETTINGS)
    whole, run.script = run.script, [str(tmp_path / "interrupter.py"), str(int(number))]
    text = run.finish(status=128 + number)
    assert text.count("stopped at step") == 1
    # The epoch that was evaluated is recorded and saved.
    assert fault_tools.size_of(run.workdir / "metrics.jsonl") > 0
    run.script = whole
    assert "resuming from the checkpoint" in run.finish()
    assert fault_tools.left(run.workdir) == expected


@pytest.mark.faults
def test_stop_signals_at_twenty_random_moments(alone, tmp_path):
    """Evaluations, tables and the starts of the next batches included."""
    expected, cache = alone
    rng, number, stops = random.Random(2), 0, collections.Counter()
    while sum(stops.values()) < 20:
        run = Run(tmp_path / f"run{number}", cache, **SETTINGS)
        number += 1
        status = None
        while status != 0 and sum(stops.values()) < 20:
            size = fault_tools.size_of(run.workdir / "metrics.jsonl")
            process = run.start()
            run.wait_for(process, "metrics.jsonl", size + 1)
            time.sleep(rng.uniform(0, 0.4))
            asked = rng.choice((signal.SIGTERM, signal.SIGINT))
            process.send_signal(asked)
            status = process.wait(fault_tools.SECONDS)
            # Asked while it ends, it may be finished, or past where it listens.
            assert status in (0, 128 + asked, -asked), run.log.read_text()
            stops[status] += 1
        run.finish()
        assert fault_tools.left(run.workdir) == expected
        fault_tools.assert_no_row_is_missing(run.workdir, TRIALS, EPOCHS)
    print(f"{sum(stops.values())} signals in {number} runs: {dict(stops)}")
