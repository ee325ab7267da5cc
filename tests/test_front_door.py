"""The commands of `highway-jax`, and the experiments that are installed with it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import highway_jax
from highway_jax import __main__ as front_door
from highway_jax import bundled, command_line

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.stem for path in (ROOT / "experiments").glob("*.py"))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "'trian' is not a command; did you mean train?"),
        (["zzz"], "'zzz' is not a command; allowed: train, analyze, report, list"),
        (["digits"], "'digits' is not a command; did you mean --config=digits?"),
        (["digits.py"], "'digits.py' is not a command; did you mean --config=digits.py?"),
        (
            ["train", "--config=digist"],
            "--config=digist: there is no such file; did you mean digits?",
        ),
        (["train", "--wrokdir=x"], "--wrokdir is not a flag; did you mean --workdir?"),
        (["--wrokdir=x"], "--wrokdir is not a flag; did you mean --workdir?"),
        (["analyze", "--trail=1"], "'--trail' is not a flag; did you mean --trial?"),
        (["analyze", "--workdir=x", "--trial=a"], "argument --trial: invalid int value: 'a'"),
        (["report", "--wrokdir=x"], "'--wrokdir' is not a flag; did you mean --workdir?"),
        (["list", "--all"], "'--all' is not a flag; allowed: --help"),
    ],
)
def test_a_typo_is_answered_by_one_line_and_status_2(words, line, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert front_door.main(["highway-jax", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {line}\n")
    assert not list(tmp_path.iterdir())


def test_a_misspelt_public_name_has_a_suggestion():
    with pytest.raises(AttributeError, match="no attribute 'default_confg'") as caught:
        highway_jax.default_confg  # noqa: B018
    # Python makes its suggestion of these two.
    assert (caught.value.name, caught.value.obj) == ("default_confg", highway_jax)


def test_list_has_a_line_for_each_experiment(capsys):
    assert front_door.main(["highway-jax", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == NAMES
    assert all(len(line.split()) > 3 for line in lines)
    assert {command_line.load(str(path)).is_locked for path in bundled.experiments().values()}


@pytest.mark.parametrize("module", ["highway_jax", "highway_jax.main"])
def test_the_package_and_its_module_train_are_commands(module):
    command = [sys.executable, "-m", module, "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == f"highway_jax {highway_jax.__version__}\n"


def test_the_command_train_takes_the_flags_of_a_training(capsys):
    assert front_door.main(["highway-jax", "train", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: highway-jax train --config=FILE")


def test_the_wheel_holds_the_package_and_the_experiments_without_results(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    build = ["pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-q", "-w"]
    source, unwanted = tmp_path / "source", shutil.ignore_patterns("*.egg-info", "__pycache__")
    source.mkdir()
    for name in ("src", "experiments"):
        shutil.copytree(ROOT / name, source / name, ignore=unwanted)
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    subprocess.run([sys.executable, "-m", *build, tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = {Path(n) for n in zipfile.ZipFile(wheel).namelist() if n.startswith("highway_jax/")}
    files = (path for path in (source / "src" / "highway_jax").rglob("*") if path.is_file())
    wanted = {path.relative_to(source / "src") for path in files}
    assert names == wanted | {Path(f"highway_jax/experiments/{name}.py") for name in NAMES}
