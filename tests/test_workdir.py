"""Where a run's directory is, and the code that it records."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from highway_jax import UserError, analyze, report
from highway_jax.storage import workdir

SOURCE = Path(workdir.__file__).parents[1]
VERSION = r"0\.1\.0\+sha256:[0-9a-f]{12}"


def test_importing_needs_no_module_that_only_unix_has(tmp_path):
    """Such as `fcntl`. They are imported by a process that has none of them, as on Windows."""
    code = (
        "import importlib, sys;"
        "sys.modules.update(dict.fromkeys(('fcntl', 'grp', 'pwd', 'resource', 'termios')));"
        "[importlib.import_module(f'highway_jax.{name}') for name in sys.argv[1:]]"
    )
    paths = [path.relative_to(SOURCE).with_suffix("") for path in SOURCE.rglob("*.py")]
    names = [".".join(path.parts) for path in paths if path.stem != "__init__"]
    assert "storage.workdir" in names
    done = subprocess.run(
        [sys.executable, "-c", code, *names], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_lock_is_the_one_that_earlier_versions_take(tmp_path):
    """They call `flock` on the same file, and write their process to it."""
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".lock").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.write("process 7 on host since then\n")
        file.flush()
        with (
            pytest.raises(UserError, match="is in use by process 7 on host since then; allowed"),
            workdir.Workdir(tmp_path).locked(),
        ):
            raise AssertionError
    with workdir.Workdir(tmp_path).locked(), (tmp_path / ".lock").open("a+") as file:
        with pytest.raises(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.seek(0)
        assert file.read().startswith(f"process {os.getpid()} on ")


def _git(folder, *words):
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    subprocess.run(["git", "-C", folder, *identity, *words], check=True, capture_output=True)


@pytest.fixture
def package(tmp_path):
    """A copy of the package outside of any git repository."""
    target = tmp_path / "site-packages" / "highway_jax"
    shutil.copytree(SOURCE, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


@pytest.fixture
def commit(package):
    """Returns the commit that a process of the package records when it is called."""
    code = (
        "import sys, highway_jax.storage.workdir as w\n"
        "for _ in sys.stdin: print(w.describe_environment()['commit'], flush=True)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": str(package.parent), "JAX_PLATFORMS": "cpu"},
        cwd=package.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def ask():
            process.stdin.write("\n")
            process.stdin.flush()
            return process.stdout.readline().rstrip()

        yield ask


def test_without_git_the_source_is_known_by_its_version_and_checksum(package, commit):
    first = commit()
    assert re.fullmatch(VERSION, first)
    compiled = package / "__pycache__" / "another.pyc"
    compiled.parent.mkdir(exist_ok=True)
    compiled.write_bytes(b"another")
    assert commit() == first  # Compiled files do not count.
    with (package / "files.py").open("a") as file:
        file.write("\n# Another.\n")
    second = commit()
    assert re.fullmatch(VERSION, second)
    assert second != first


def test_the_commit_of_another_repository_is_not_taken(package, commit, tmp_path):
    """Such as that of a project with its virtual environment inside."""
    _git(tmp_path, "init", "-q")
    (tmp_path / ".gitignore").write_text("site-packages\n")
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-qm", "first")
    assert re.fullmatch(VERSION, commit())
    _git(tmp_path, "add", "-f", "site-packages")
    _git(tmp_path, "commit", "-qm", "second")
    assert re.fullmatch("[0-9a-f]{40}", commit())
    with (package / "files.py").open("a") as file:
        file.write("\n# Another.\n")
    assert re.fullmatch(r"[0-9a-f]{40}\+changes", commit())


@pytest.mark.parametrize("command", [analyze, report])
def test_other_commands_know_the_home_directory_too(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert command.main([f"--out={tmp_path}/out", "--workdir=~/no_such_run"]) == 2
    assert str(tmp_path / "no_such_run") in capsys.readouterr().err
    assert command.main(["--workdir=~no_such_user/run"]) == 2
    assert "allowed: a user who exists after ~" in capsys.readouterr().err
