"""What is installed: the extras, the digits, the sdist."""

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

import highway_jax
from highway_jax import UserError, analyze, report
from highway_jax.config import config as config_lib
from highway_jax.config.sections import Config
from highway_jax.data.dataset import load

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("command", [report, analyze])
def test_figures_need_the_extra_report(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert command.main([f"--workdir={tmp_path}", f"--out={tmp_path}/out"]) == 2
    name = command.__name__.rpartition(".")[2].replace("analyze", "analysis")
    article = "a" if name == "report" else "an"
    assert capsys.readouterr().err == (
        f"error: {article} {name} needs matplotlib, which is not installed; install it with pip"
        " install 'highway-jax[report]'\n"
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["mnist", "cifar10", "cifar100"])
def test_downloads_need_the_extra_data(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    config = highway_jax.default_config()
    config.data.name = name
    config.data.dir, config.data.cache_dir = str(tmp_path / "data"), str(tmp_path / "cache")
    words = rf"data\.name={name} needs tensorflow_datasets, .*pip install 'highway-jax\[data\]'"
    with pytest.raises(UserError, match=words):
        load(Config.from_settings(config_lib.case_settings(config, "run")).data)
    assert not list(tmp_path.iterdir())


def test_the_classifier_needs_the_extra_sklearn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.base", None)
    monkeypatch.delitem(sys.modules, "highway_jax.sklearn", raising=False)
    monkeypatch.delitem(vars(highway_jax), "HighwayClassifier", raising=False)
    with pytest.raises(ImportError, match=r"scikit-learn; .* pip install 'highway-jax\[sklearn\]'"):
        highway_jax.HighwayClassifier  # noqa: B018


def test_the_digits_need_numpy_alone():
    code = (
        "from highway_jax.data.digits import load_digits; import sys; load_digits();"
        "print({'sklearn', 'scipy', 'tensorflow_datasets', 'jax'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_the_extras_that_messages_name_exist_and_the_tests_have_all():
    extras = PROJECT["optional-dependencies"]
    assert extras["all"] == ["highway-jax[data,report,sklearn,optuna]"]
    assert {"data", "report", "sklearn", "optuna"} < set(extras)
    assert "highway-jax[all]" in extras["test"]
    optional = (
        *("matplotlib", "scikit-learn", "optuna"),
        *("tensorflow-datasets", "pillow", "google-crc32c"),
    )
    assert not [d for d in PROJECT["dependencies"] if d.startswith(optional)]


def test_the_sdist_has_what_its_tests_need(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    folders = ("benchmarks", "docs", "examples", "experiments", "notebooks", "src", "tests")
    source, unwanted = tmp_path / "source", shutil.ignore_patterns("*.egg-info", "__pycache__")
    for folder in (*folders, "typings"):
        shutil.copytree(ROOT / folder, source / folder, ignore=unwanted)
    for path in ROOT.iterdir():
        if path.is_file() and not path.name.startswith("."):
            shutil.copy(path, source)
    code = f"from setuptools import build_meta; build_meta.build_sdist({str(tmp_path)!r})"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=source, capture_output=True)
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {member.name.partition("/")[2] for member in archive.getmembers()}
        metadata = archive.extractfile(f"{path.name.removesuffix('.tar.gz')}/PKG-INFO").read()
    needed = (path for folder in folders for path in (source / folder).rglob("*") if path.is_file())
    assert {path.relative_to(source).as_posix() for path in needed} - names == set()
    assert {"README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "pyproject.toml"} <= names
    # The page on the package index is the README without links to files, which it does not have.
    text = metadata.decode()
    assert "Description-Content-Type: text/markdown" in text
    assert "License-Expression: Apache-2.0 AND CC-BY-4.0 AND MIT" in text
    assert "## What you can run" in text
    assert [link for link in re.findall(r"\]\(([^)]*)\)", text) if "://" not in link] == []
