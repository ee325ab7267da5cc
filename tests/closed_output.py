"""Processes whose standard output has no reader."""

import os
import subprocess
from pathlib import Path


def run_with_closed_output(command: list[str], directory: Path) -> tuple[int, str]:
    """Returns the exit status and standard error of a command whose reader has left."""
    reading, writing = os.pipe()
    os.close(reading)
    paths = [str(directory), os.environ.get("PYTHONPATH", "")]
    done = subprocess.run(
        command,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        cwd=directory,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(os.path.abspath, paths)))},
    )
    os.close(writing)
    return done.returncode, done.stderr
