"""Runs as real processes, for tests that inject faults, and the comparison of their files."""

import csv
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = Path(__file__).parents[1]
CLOCK = ("compile_seconds", "train_seconds", "steps_per_second")
SECONDS = 1200
TINY = {
    "model.depth": 2,
    "model.width": 4,
    "data.valid_size": 100,
    "training.epochs": 4,
    "checkpoint.every_seconds": 0,
    "runtime.tensorboard": False,
}


class Run:
    """The command line of one run, which can be started repeatedly."""

    def __init__(self, workdir, cache="", wrapper=(), environment=(), **settings):
        self.workdir = Path(workdir)
        self.settings = TINY | {"runtime.compile_cache": cache} | settings
        self.wrapper = list(wrapper)
        self.environment = dict(environment)
        self.script = ["-m", "highway_jax.main"]
        self.log = self.workdir.parent / f"{self.workdir.name}.log"

    def words(self, *more, **settings):
        flags = [f"--config.{key}={value}" for key, value in (self.settings | settings).items()]
        start = [sys.executable, *self.script, "--config=experiments/digits.py"]
        return [*start, "--config.cases={}", f"--workdir={self.workdir}", *flags, *more]

    def start(self, *more, output=None, **settings):
        """Starts a process, whose output is written to `log` unless another output is given."""
        environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"} | self.environment
        with self.log.open("w") as log:
            return subprocess.Popen(
                [*self.wrapper, *self.words(*more, **settings)],
                cwd=ROOT,
                env=os.environ | environment,
                stdout=output or log,
                stderr=subprocess.STDOUT,
            )

    def finish(self, process=None, status=0, **settings):
        """Waits for a process, one started now by default; returns what it printed."""
        process = process or self.start(**settings)
        found = process.wait(SECONDS)
        text = self.log.read_text()
        assert found == status, text
        assert "Traceback" not in text, text
        return text

    def refuse(self, **settings):
        """Runs a process that must end with status 2; returns its error of one line."""
        text = self.finish(status=2, **settings)
        (line,) = [line for line in text.splitlines() if line.startswith("error: ")]
        assert line == text.splitlines()[-1], text
        return line

    def wait_for(self, process, path, size=1):
        """Waits until a file of the run has a size, or the process ended."""
        began = time.monotonic()
        path = self.workdir / path
        while process.poll() is None and not (path.exists() and path.stat().st_size >= size):
            assert time.monotonic() - began < SECONDS
            time.sleep(0.01)


def size_of(path):
    return path.stat().st_size if path.exists() else 0


def kill(process):
    process.kill()
    process.wait(SECONDS)


def left(workdir):
    """What a run left, without times: tables, curves, and every bit of the last states."""
    with (workdir / "results.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in CLOCK} for row in csv.DictReader(file)]
    return {
        "results": rows,
        "summary": (workdir / "summary.csv").read_bytes(),
        "metrics": (workdir / "metrics.jsonl").read_bytes(),
        "states": {path.name: _last_state(path) for path in (workdir / "checkpoints").iterdir()},
    }


def _last_state(directory):
    manifest = max(directory.glob("step_*.json"))
    with ocp.StandardCheckpointer() as checkpointer:
        state = checkpointer.restore(manifest.with_suffix("").absolute())
    leaves = jax.tree.leaves_with_path(state)
    return {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


def assert_no_row_is_missing(workdir, trials, epochs):
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    found = sorted((line["trial"], line["epoch"]) for line in lines)
    assert found == [(trial, epoch) for trial in range(trials) for epoch in range(1, epochs + 1)]
    with (workdir / "results.csv").open(newline="") as file:
        assert [int(row["trial"]) for row in csv.DictReader(file)] == list(range(trials))


def assert_tidy(workdir, keep=2):
    """No temporary file of a killed process is left, and no more checkpoints than are kept."""
    names = sorted(path.name for path in workdir.iterdir())
    expected = ["checkpoints", "config.json", "environment.json", "metrics.jsonl"]
    preprocessing = [name for name in names if re.fullmatch(r"preprocessing-\w{16}\.npz", name)]
    assert len(preprocessing) == 1
    assert [name for name in names if name not in ("tensorboard", *preprocessing)] == [
        ".lock",
        *expected,
        "results.csv",
        "summary.csv",
    ]
    for directory in (workdir / "checkpoints").iterdir():
        names = {path.name for path in directory.iterdir()}
        steps = {name for name in names if name.startswith("step_") and "." not in name}
        assert len(steps) <= keep
        assert names == steps | {f"{step}.json" for step in steps} | {"saved"}
