"""The job script of docs/slurm.md, and the names of tests in docs/reliability.md."""

import os
import re
import subprocess

import pytest
from fault_tools import ROOT

from highway_jax import command_line

DOCS = ROOT / "docs"


def _script():
    (script,) = re.findall(r"```bash\n(.*?)```", (DOCS / "slurm.md").read_text(), re.S)
    return script


@pytest.mark.parametrize(
    ("status", "requeued", "ends"),
    [(0, 0, 0), *((again, 1, 0) for again in (143, 130, 137, 75, 134)), (2, 0, 2), (1, 0, 1)],
)
def test_the_job_script_requeues_what_can_resume(status, requeued, ends, tmp_path, monkeypatch):
    """Run by bash, with a fake `srun` of each status and an `scontrol` that logs its arguments."""
    for name, text in {
        "srun": f'echo "$@" > {tmp_path}/words\nexit {status}',
        "scontrol": f'echo "$@" >> {tmp_path}/asked',
    }.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SLURM_SUBMIT_DIR": str(tmp_path),
        "SLURM_JOB_ID": "7",
    }
    done = subprocess.run(
        ["bash", "-c", _script()], env=environment, capture_output=True, check=False
    )
    assert done.returncode == ends, done.stderr
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == "requeue 7\n" * requeued
    monkeypatch.chdir(ROOT)
    words = (tmp_path / "words").read_text().split()
    module = words.index("highway_jax.main")
    assert command_line.parse(words[module:]).config.name == "mnist-highway"


def test_every_test_that_the_page_names_exists():
    text = (DOCS / "reliability.md").read_text()
    named = set(re.findall(r"`(test_\w+)`", text))
    assert len(named) > 20
    defined = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        defined |= set(re.findall(r"^def (test_\w+)", path.read_text(), re.M)) | {path.stem}
    assert named <= defined, named - defined
    for page in ("reliability", "tpu", "gpu", "slurm"):
        for link in re.findall(r"\]\(([^)#:]+)\)", (DOCS / f"{page}.md").read_text()):
            assert (DOCS / link).exists(), link
