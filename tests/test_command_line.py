"""Bad input at the command line: an error of one line, status 2, no change on disk."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import highway_jax
from highway_jax import command_line
from highway_jax.config.schema import SCHEMA
from highway_jax.main import main
from highway_jax.runs import experiment
from highway_jax.runtime.signals import Stopped

FILE = """
from ml_collections import ConfigDict
from highway_jax import UserError, default_config

def get_config(variant="small"):
    if variant not in ("small", "wide"):
        raise UserError(f"the variant is {variant!r}; allowed: small, wide")
    config = default_config()
    config.name = variant
    config.data.valid_size = 100
    config.model.depth = 2
    config.model.width = 4 if variant == "small" else 8
    config.training.epochs = 1
    config.runtime.tensorboard = False
    config.runtime.progress = False
    shared = ConfigDict({"activation": "tanh"})
    config.cases.first = ConfigDict({"model": shared, "optimizer": {"learning_rate": 1}})
    config.cases.second = ConfigDict({"model": shared})
    return config
"""
ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A folder with an experiment file and the working directory of its finished run."""
    folder = tmp_path_factory.mktemp("used")
    (folder / "small.py").write_text(FILE)
    assert main(["highway-jax", f"--config={folder}/small.py", f"--workdir={folder}/run"]) == 0
    assert (folder / "run" / "results.csv").exists()
    return folder


def _contents(folder):
    """All files and directories in a folder, except locks, which every start creates."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
        if path.name != ".lock"
    }


@pytest.fixture
def refusal(capsys, tmp_path, monkeypatch):
    """Runs a command line that must be refused without a change on disk; returns the error."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)

    def run(folder, *words):
        before = _contents(folder)
        capsys.readouterr()
        assert main(["highway-jax", *words]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("error: ")
        assert err.endswith("\n")
        assert err.splitlines() == [err[:-1]]
        assert "Traceback" not in err
        assert _contents(folder) == before
        assert list(elsewhere.iterdir()) == []
        return err[len("error: ") : -1]

    return run


WHOLE = "allowed: a whole number from"
MALFORMED = [
    # Keys.
    ("modle.depth=3", "--config.modle.depth is not a key; did you mean --config.model.depth?"),
    ("model.depht=3", "--config.model.depht is not a key; did you mean --config.model.depth?"),
    ("depth=3", "--config.depth is not a key; did you mean --config.model.depth?"),
    ("zzz=3", "--config.zzz is not a key; --keys lists all of them"),
    ("model=3", "--config.model is not a key; did you mean --config.model.block?"),
    ("model.depth.x=3", "--config.model.depth.x is not a key; did you mean --config.model.depth?"),
    ('model["depth"]=3', "is not a key; did you mean --config.model.depth?"),
    ("=3", "--config. is not a key; --keys lists all of them"),
    ("to_json=3", "--config.to_json is not a key"),
    # Types.
    ("model.depth=deep", "--config.model.depth is 'deep'; allowed: a whole number from 1"),
    ("model.depth=3.5", "--config.model.depth is '3.5'; allowed: a whole number from 1"),
    ("model.depth=True", "--config.model.depth is 'True'; allowed: a whole number from 1"),
    ("model.depth=", "--config.model.depth is ''; allowed: a whole number from 1"),
    ("model.depth=" + "9" * 5000, "--config.model.depth is '999"),
    ("optimizer.learning_rate=fast", "--config.optimizer.learning_rate is 'fast'; allowed: a num"),
    ("optimizer.nesterov=maybe", "--config.optimizer.nesterov is 'maybe'; allowed: True or False"),
    ("seeds=(0,", "--config.seeds is '(0,'; allowed: a tuple of different whole numbers"),
    ("seeds=0 1", "--config.seeds is '0 1'; allowed: a tuple of different whole numbers"),
    ("seeds=0-4", "config.seeds is ('0-4',); allowed: a tuple of different whole numbers"),
    ("seeds=(0.5,)", "config.seeds is (0.5,); allowed: a tuple of different whole numbers"),
    ("seeds=(True,)", "config.seeds is (True,); allowed: a tuple of different whole numbers"),
    ("seeds=((0,),)", "config.seeds is ((0,),); allowed: a tuple of different whole numbers"),
    ("cases=3", "--config.cases is '3'; allowed: a dict"),
    # Values.
    ("model.depth=-1", "config.model.depth is -1; allowed: a whole number from 1"),
    ("model.width=0", "config.model.width is 0; allowed: a whole number from 1"),
    ("model.width=10000000000", "config.model.width is 10000000000; allowed: a whole number"),
    ("model.block=highwey", "config.model.block is 'highwey'; allowed: plain, residual, highway"),
    ("model.activation=relU", "config.model.activation is 'relU'; allowed: relu, tanh"),
    (
        "model.initializer=xavier",
        "config.model.initializer is 'xavier'; allowed: he_normal, he_unif",
    ),
    ("model.gate=open", "config.model.gate is 'open'; allowed: coupled, separate"),
    (
        "model.precision=tf32",
        "config.model.precision is 'tf32'; allowed: float32, tensorfloat32, bfloat16",
    ),
    ("model.dtype=float16", "config.model.dtype is 'float16'; allowed: float32, bfloat16"),
    ("model.remat=all", "config.model.remat is 'all'; allowed: none, save_dots, full"),
    ("model.transform_bias=nan", "config.model.transform_bias is nan; allowed: a number from -1"),
    ("model.transform_bias=-1e9", "config.model.transform_bias is -1000000000.0; allowed: a numb"),
    ("data.name=minst", "config.data.name is 'minst'; allowed: "),
    ("data.valid_size=-1", "config.data.valid_size is -1; allowed: a whole number from 0"),
    ("data.valid_size=1437", "data.valid_size=1437: allowed: 0 to 1436"),
    (
        "data.scaling=zca",
        "config.data.scaling is 'zca'; allowed: unit, caffe, signed, standardize, global",
    ),
    ("training.batch_size=0", "config.training.batch_size is 0; allowed: a whole number from 1"),
    ("training.batch_size=1338", "config.training.batch_size is 1338; allowed: 1 to 1337, the tr"),
    ("training.epochs=0", "config.training.epochs is 0; allowed: a whole number from 1"),
    ("seeds=()", "config.seeds is (); allowed: a tuple of different whole numbers"),
    ("seeds=", "config.seeds is ('',); allowed: a tuple of different whole numbers"),
    ("seeds=(1,1)", "config.seeds is (1, 1); allowed: a tuple of different whole numbers"),
    ("seeds=-1", "config.seeds is (-1,); allowed: a tuple of different whole numbers from 0 to"),
    ("seeds=4294967296", "config.seeds is (4294967296,); allowed: a tuple of different whole"),
    ("optimizer.learning_rate=0", "config.optimizer.learning_rate is 0.0; allowed: a number from"),
    ("optimizer.learning_rate=nan", "config.optimizer.learning_rate is nan; allowed: a number"),
    ("optimizer.learning_rate=inf", "config.optimizer.learning_rate is inf; allowed: a number"),
    ("optimizer.learning_rate=-0.1", "config.optimizer.learning_rate is -0.1; allowed: a number"),
    ("optimizer.momentum=1.0", "config.optimizer.momentum is 1.0; allowed: a number from 0 to 0.9"),
    ("optimizer.decay=0", "config.optimizer.decay is 0.0; allowed: a number above 0 to 1"),
    ("optimizer.decay=1.01", "config.optimizer.decay is 1.01; allowed: a number above 0 to 1"),
    ("optimizer.schedule=cosine", "config.optimizer.schedule is 'cosine'; allowed: constant, exp"),
    (
        "optimizer.schedule=multistep",
        "config.optimizer.boundaries is (); allowed: at least",
    ),
    (
        "optimizer.boundaries=(5,)",
        "config.optimizer.boundaries is (5,); allowed: () un",
    ),
    ("optimizer.boundaries=(5,3)", "config.optimizer.boundaries is (5, 3); allowed: a tuple of st"),
    ("runtime.trial_axis=scan", "config.runtime.trial_axis is 'scan'; allowed: auto, map, vmap"),
    ("runtime.devices=-1", "config.runtime.devices is -1; allowed: a whole number from 0"),
    ("name=", "config.name is ''; allowed: 1 to 100 letters, digits"),
    ("name=../x", "config.name is '../x'; allowed: 1 to 100 letters, digits"),
    ("name=.x", "config.name is '.x'; allowed: 1 to 100 letters, digits"),
    # Cases.
    ("cases.frist.model.depth=3", "did you mean --config.cases.first.model.depth?"),
    ("cases.first.model.depht=3", "did you mean --config.cases.first.model.depth?"),
    ("cases.first.model.depth=0", "config.cases.first.model.depth is 0; allowed: a whole number"),
    ("cases.first.model.depth=x", "--config.cases.first.model.depth is 'x'; allowed: a whole"),
    ("cases.first.runtime.devices=1", "config.cases.first.runtime.devices is 1; allowed there: k"),
    ("cases.first.seeds=1", "config.cases.first.seeds is (1,); allowed there: keys of data, model"),
    ("cases={'a/b': {}}", "config.cases has the name 'a/b'; allowed: 1 to 100 letters, digits"),
    ("cases={'a': 3}", "config.cases.a is 3; allowed: a ConfigDict of settings"),
    ("cases={'a': {'model': {'depht': 3}}}", "config.cases.a.model.depht is not a key; did you"),
    # Sweeps.
    ("sweep.grid.model.depth=0,3", "config.sweep.grid.model.depth is 0; allowed: a whole number"),
    ("sweep.grid.model.depht=1,3", "did you mean --config.sweep.grid.model.depth?"),
    ("sweep.grid=3", "--config.sweep.grid is '3'; allowed: a dict"),
    ("sweep.trials=3", "config.sweep.trials is 3; allowed: 0 where config.sweep.draw is empty"),
    # A valid config, but not the one that ran here.
    ("model.depth=3", "holds a run with another config: changed model.depth from 2 to 3; allowed"),
    ("seeds=0,1", "holds a run with another config: changed seeds from [0] to [0, 1]; allowed"),
    ("seeds=0,1", "; allowed: the same config, or another workdir, or extend, which trains"),
    ("cases.first.model.width=9", "changed cases.first.model.width from '(unset)' to 9; allowed"),
    ("cases={}", "changed cases.first.model.activation from 'tanh' to '(unset)'; cases.first.opt"),
]


@pytest.mark.parametrize(("override", "words"), MALFORMED, ids=[o[:40] for o, _ in MALFORMED])
def test_a_bad_override_is_refused(override, words, used, refusal):
    line = refusal(
        used, f"--config={used}/small.py", f"--workdir={used}/run", f"--config.{override}"
    )
    assert words in line
    assert len(line) < 600


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--config is not given; allowed: an experiment file, such as experiments/digits.py"),
        (["--config="], "--config is not given; allowed: an experiment file"),
        (["--config.model.depth=3"], "--config is not given; allowed: an experiment file"),
        (["--config"], "Missing value for flag --config"),
        (["--config=FILE", "--workdir"], "Missing value for flag --workdir"),
        (["--config=FILE", "--workdir="], "--workdir is ''; allowed: a directory"),
        (["--config=FILE", "--config.model.depth"], "Missing value for flag --config.model.depth"),
        (["--config=FILE", "--wrokdir=x"], "--wrokdir is not a flag; did you mean --workdir?"),
        (["--config=FILE", "-x"], "--x is not a flag; allowed: --config=FILE, --config.KEY=VALUE"),
        (["--config=FILE", "train"], "'train' is not a flag; allowed: --config=FILE,"),
        (["FILE"], "--config is not given; did you mean --config=FILE?"),
        (["digits"], "--config is not given; did you mean --config=digits?"),
        (
            ["--config=FILE", "digits:x"],
            "'digits:x' is not a flag; did you mean --config=digits:x?",
        ),
        (["--config=FILE", "FILE", "--workdir=x"], "is not a flag; did you mean --config=FILE?"),
        (["--config=FILE", "--extnd"], "--extnd is not a flag; did you mean --extend?"),
        (["--config=FILE", "--noconfig.model.depth"], "--noconfig.model.depth is not a flag"),
        (["--help=3"], "--help is '3'; allowed: True or False"),
        (["--flagfile=/no/such"], "Unable to open flagfile"),
        (
            ["--config=FILE", "--config.cases={}", "--config.cases.first.model.depth=3"],
            "bad flags: ",
        ),
        (
            ["--config=FILE", "--config.cases.first.model.depth=3", "--config.cases={}"],
            "bad flags: Flag --config.cases is provided after --config.cases.first.model.depth",
        ),
    ],
)
def test_words_that_are_not_understood_are_refused(words, line, used, refusal):
    words = [word.replace("FILE", f"{used}/small.py") for word in words]
    assert line.replace("=FILE?", f"={used}/small.py?") in refusal(used, *words)


FILES = [
    ("def get_config(:\n", "SyntaxError: invalid syntax (line 1)"),
    ("x = 1\n  y = 2\n", "IndentationError: unexpected indent (line 2)"),
    ("def get_config():\n    return 3\n", "config is 3; allowed: a ml_collections.ConfigDict"),
    ("def get_config():\n    pass\n", "config is None; allowed: a ml_collections.ConfigDict"),
    ("x = 1\n", "the file does not define get_config(); see experiments/digits.py"),
    ("get_config = 3\n", "the file does not define get_config(); see experiments/digits.py"),
    ("", "the file does not define get_config(); see experiments/digits.py"),
    ("import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module' (line 1)"),
    ("\nx = 1 / 0\n", "ZeroDivisionError: division by zero (line 2)"),
    ("raise SystemExit(0)\n", "SystemExit: 0 (line 1)"),
    ("def get_config():\n    raise KeyError('x')\n", "KeyError: 'x' (line 2)"),
    ("def get_config():\n    raise ValueError('a\\nb')\n", "ValueError: a b (line 2)"),
    ("def get_config():\n    raise ValueError('x' * 999)\n", "..."),
    (
        "def get_config(a, b):\n    pass\n",
        "the file has get_config(a, b); allowed: a variant, as in",
    ),
    (
        "def get_config(variant):\n    pass\n",
        "the file has get_config(variant); allowed: a variant, as",
    ),
    ("x = '\0'\n", "SyntaxError: source code string cannot contain null bytes"),
    ("config = default_config()\n", "NameError: name 'default_config' is not defined (line 1)"),
    (
        "config.model.depht = 3\n",
        "py: config.model.depht is not a key; did you mean config.model.depth? (line 4)",
    ),
    ("config.modle.depth = 3\n", "py: config.modle is not a key; did you mean config.model?"),
    ("config.model.depth = '3'\n", "TypeError: Could not override field 'depth'"),
    ("config.model.depth = -3\n", "config.model.depth is -3; allowed: a whole number from 1"),
    ("config.cases.a = 3\n", "config.cases.a is 3; allowed: a ConfigDict of settings"),
    ("config = config.unlock()\n    del config.model\n", "config.model.block is missing; allowed"),
    ("raise UserError('one\\ntwo')\n", "one two (line 4)"),
]


@pytest.mark.parametrize(("text", "words"), FILES, ids=[text[:40] for text, _ in FILES])
def test_a_bad_experiment_file_is_refused(text, words, used, tmp_path, refusal):
    if text.startswith(("config.", "config = config", "raise UserError")):
        text = (
            "from highway_jax import UserError, default_config\n"
            f"def get_config():\n    config = default_config()\n    {text}    return config\n"
        )
    path = tmp_path / "bad.py"
    path.write_text(text)
    line = refusal(used, f"--config={path}", f"--workdir={used}/run", "--config.model.depth=3")
    assert line.startswith(f"--config={path}: ")
    assert words in line
    assert len(line) < len(str(path)) + 350
    assert [p.name for p in tmp_path.iterdir() if p.name != "elsewhere"] == ["bad.py"]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("no_such.py", "there is no such file; allowed: an experiment file, such as experiments/"),
        ("experiments/digist.py", "there is no such file; did you mean digits?"),
        ("elsewhere/digits.py", "there is no such file; did you mean digits?"),
        ("mnist:plan", "the variant is 'plan'; allowed: highway, plain, residual"),
        ("", "there is no such file"),
        ("FOLDER", "there is no such file"),
        ("a" * 5000, "File name too long"),
        ("FOLDER/run/config.json", "(line "),
        ("FOLDER/small.py:big", "the variant is 'big'; allowed: small, wide"),
        ("FOLDER/small.py:", "the variant is ''; allowed: small, wide"),
        ("FOLDER/small.py:a:b", "the variant is 'a:b'; allowed: small, wide"),
        ("FOLDER/plain.py:big", "the file has get_config(); allowed: no variant"),
    ],
)
def test_a_file_or_variant_that_does_not_exist_is_refused(spec, words, used, refusal):
    (used / "plain.py").write_text("def get_config():\n    raise AssertionError\n")
    spec = spec.replace("FOLDER", str(used)) or ":small"
    line = refusal(used, f"--config={spec}")
    assert line.startswith(f"--config={spec[:297]}")
    assert words in line


@pytest.mark.parametrize("kind", ["GeneratorExit", "BaseException", "asyncio.CancelledError"])
@pytest.mark.parametrize("place", ["", "def get_config():\n    "])
def test_whatever_an_experiment_file_raises_is_refused(kind, place, used, tmp_path, refusal):
    path = tmp_path / "bad.py"
    path.write_text(f"import asyncio\n{place}raise {kind}('here')\n")
    line = refusal(used, f"--config={path}")
    name = kind.rpartition(".")[2]
    assert line == f"--config={path}: {name}: here (line {2 + bool(place)})"


def test_an_experiment_file_does_not_move_the_run(used, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    moving = f"import os\nos.chdir({str(tmp_path / 'there')!r})\n"
    (tmp_path / "moving.py").write_text(moving + FILE + f"    {moving.splitlines()[1]}\n")
    (tmp_path / "failing.py").write_text(f"{moving}raise KeyError\n")
    assert main(["highway-jax", f"--config={tmp_path}/failing.py"]) == 2
    assert Path.cwd() == tmp_path / "here"
    assert main(["highway-jax", f"--config={tmp_path}/moving.py", "--workdir=run"]) == 0
    assert (tmp_path / "here" / "run" / "results.csv").exists()
    assert not list((tmp_path / "there").iterdir())


def test_a_workdir_may_be_in_the_home_directory(small_config, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    small_config.training.epochs = 1
    highway_jax.run(small_config, "~/run")
    assert (tmp_path / "home" / "run" / "results.csv").exists()
    assert not list((tmp_path / "elsewhere").iterdir())


@pytest.mark.parametrize(
    ("workdir", "words"),
    [
        ("run\udcff", r"workdir is .*run\\udcff'; allowed: a path in UTF-8"),
        ("~no_such_user/run", "--workdir is '~no_such_user/run'; allowed: a user who exists after"),
    ],
)
def test_a_workdir_whose_name_cannot_be_used_is_refused(workdir, words, used, refusal):
    assert re.match(words, refusal(used, f"--config={used}/small.py", f"--workdir={workdir}"))


def test_a_relative_workdir_in_a_directory_that_is_not_utf8_is_refused(used, tmp_path, monkeypatch):
    (tmp_path / "a\udcff").mkdir()
    monkeypatch.chdir(tmp_path / "a\udcff")
    assert main(["highway-jax", f"--config={used}/small.py", "--workdir=run"]) == 2
    assert not list(Path().iterdir())


@pytest.mark.parametrize("workdir", ["FOLDER/small.py", "FOLDER/small.py/x", "/proc/x", "n" * 300])
def test_a_workdir_that_cannot_be_written_is_refused(workdir, used, refusal):
    workdir = workdir.replace("FOLDER", str(used))
    line = refusal(used, f"--config={used}/small.py", f"--workdir={workdir}")
    assert re.match(
        rf"workdir is '{workdir}', which cannot be written \(.+\); allowed: a directory", line
    )


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("config.json", b"", "config.json: cannot be read"),
        ("config.json", b"{", "config.json: cannot be read"),
        ("config.json", b"\xff\xfe\0", "config.json: cannot be read"),
        ("config.json", b"[1]", "config.json: cannot be read"),
        ("config.json", b'{"sweep": {"grid": 3}}', "config.json: cannot be read"),
        ("config.json", b"[" * 10**5, "config.json: cannot be read"),
        ("config.json", "directory", "config.json: cannot be read"),
        ("config.json", b"{}", "holds a run with another config: changed cases.first.model."),
        (
            "config.json",
            "missing",
            "holds checkpoints, metrics.jsonl, results.csv, summary.csv but",
        ),
        ("environment.json", b'{"data_fingerprint": 3}', "holds a run on other data: digits had"),
        (
            "results.csv",
            b"a,b\n1,2\n",
            "results.csv has no column 'batch'; allowed",
        ),
        ("results.csv", b"", "results.csv has no column 'batch'; allowed"),
    ],
)
def test_a_damaged_workdir_is_refused_and_unchanged(name, content, words, used, tmp_path, refusal):
    workdir = tmp_path / "run"
    shutil.copytree(used / "run", workdir)
    (workdir / name).unlink()
    if content == "directory":
        (workdir / name).mkdir()
    elif content != "missing":
        (workdir / name).write_bytes(content)
    line = refusal(tmp_path, f"--config={used}/small.py", f"--workdir={workdir}")
    assert str(workdir) in line
    assert words in line


def test_a_finished_run_can_be_started_again(used, capsys):
    before = _contents(used)
    words = [f"--config={used}/small.py", f"--workdir={used}/run", "--config.runtime.devices=1"]
    assert main(["highway-jax", *words]) == 0
    quiet = capsys.readouterr().out
    assert "first" in quiet
    assert "already finished" not in quiet
    assert main(["highway-jax", *words, "--config.runtime.progress=True"]) == 0
    assert "already finished" in capsys.readouterr().out
    after = _contents(used)
    assert after.keys() == before.keys()
    assert {name for name in after if after[name] != before[name]} == {"run/config.json"}


def test_more_devices_than_there_are_are_refused(used, tmp_path, refusal):
    (tmp_path / "data").mkdir()
    line = refusal(
        tmp_path / "data",
        f"--config={used}/small.py",
        f"--workdir={tmp_path}/run",
        "--config.runtime.devices=3",
    )
    assert line == "config.runtime.devices is 3; allowed: 0 to 2, the cpu devices here"


@pytest.mark.parametrize("content", [None, b"not a cache"])
def test_missing_data_and_a_damaged_cache_are_reported(content, used, tmp_path, refusal):
    for name in ("data", "cache"):
        (tmp_path / name).mkdir()
    if content is not None:
        (tmp_path / "cache" / "mnist.npz").write_bytes(content)
    line = refusal(
        tmp_path,
        f"--config={used}/small.py",
        f"--workdir={tmp_path}/run",
        "--config.data.name=mnist",
        f"--config.data.dir={tmp_path}/data",
        f"--config.data.cache_dir={tmp_path}/cache",
        "--config.data.download=False",
    )
    assert "data.name=mnist: no prepared data in" in line
    assert "data.download=False" in line
    assert (f"the cache {tmp_path}/cache/mnist.npz is damaged" in line) == (content is not None)


def _parsed(used, *words):
    return command_line.parse(["highway-jax", f"--config={used}/small.py", *words]).config


@pytest.mark.parametrize(
    ("words", "seeds"),
    [
        (["--config.seeds=3"], (3,)),
        (["--config.seeds=(3,)"], (3,)),
        (["--config.seeds", "3"], (3,)),
        (["--config.seeds=0,1"], (0, 1)),
        (["--config.seeds=(0, 1)"], (0, 1)),
        (["--config.seeds=[0, 1]"], (0, 1)),
        (["--config.seeds=0", "--config.seeds=1"], (0, 1)),
        ([], (0,)),
    ],
)
def test_ways_to_write_seeds(words, seeds, used):
    assert _parsed(used, *words).seeds == seeds


def test_ways_to_write_other_values(used):
    config = _parsed(
        used,
        "--config.model.depth",
        "7",
        "--config.optimizer.learning_rate=1",
        "--config.model.transform_bias",
        "-5",
        "--config.optimizer.nesterov",
        "--noconfig.data.download",
        "-config.training.epochs=9",
        "--config.training.epochs=8",
        "--config.data.dir=/a b",
        "--config.optimizer.schedule=multistep",
        "--config.optimizer.boundaries=5,9",
    )
    assert config.model.depth == 7
    assert (config.optimizer.learning_rate, type(config.optimizer.learning_rate)) == (1.0, float)
    assert config.model.transform_bias == -5.0
    assert config.optimizer.nesterov is True
    assert config.data.download is False
    assert config.training.epochs == 8
    assert config.data.dir == "/a b"
    assert config.optimizer.boundaries == (5, 9)


def test_flags_may_stand_in_any_order(used):
    words = ["highway-jax", "--config.model.depth", "7", f"--config={used}/small.py", "--workdir=x"]
    arguments = command_line.parse(words)
    assert arguments.config.model.depth == 7
    assert arguments.workdir == Path("x")
    assert command_line.parse([*words, "--workdir", "y/z"]).workdir == Path("y/z")


def test_what_was_parsed_is_valid_and_locked(used):
    (used / "open.py").write_text(FILE.replace("return config", "return config.unlock()"))
    assert command_line.load(f"{used}/open.py").is_locked
    with pytest.raises(highway_jax.UserError, match="depth is 0"):
        _parsed(used, "--config.model.depth=0")


def test_cases_can_be_overridden_one_by_one(used):
    config = _parsed(
        used,
        "--config.cases.first.model.activation=relu",  # Is set there, in a section both share.
        "--config.cases.first.optimizer.learning_rate=0.5",  # Is set there as a whole number.
        "--config.cases.first.model.depth=20",  # Is not set there.
        "--config.cases.second.optimizer.boundaries=5,9",  # Nor the section.
        "--config.cases.second.optimizer.schedule=multistep",
    )
    assert config.cases.first.to_dict() == {
        "model": {"activation": "relu", "depth": 20},
        "optimizer": {"learning_rate": 0.5},
    }
    assert config.cases.second.to_dict() == {
        "model": {"activation": "tanh"},
        "optimizer": {"boundaries": (5, 9), "schedule": "multistep"},
    }


def test_free_sections_can_be_given_whole(used):
    config = _parsed(
        used,
        "--config.cases={'deep': {'model': {'depth': 90}}}",
        "--config.sweep.grid.model.width=10,20",
        "--config.sweep.draw={'optimizer': {'momentum': ('choice', 0.5, 0.9)}}",
        "--config.sweep.trials=3",
    )
    assert config.cases.to_dict() == {"deep": {"model": {"depth": 90}}}
    assert config.sweep.grid.to_dict() == {"model": {"width": (10, 20)}}
    assert config.sweep.draw.to_dict() == {"optimizer": {"momentum": ("choice", 0.5, 0.9)}}


@pytest.mark.parametrize("name", ["mnist", "mnist.py", "experiments/mnist.py"])
def test_a_bundled_experiment_is_found_by_name_unless_a_file_has_it(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert command_line.load(f"{name}:plain").name == "mnist-plain"
    Path(name).parent.mkdir(exist_ok=True)
    Path(name).write_text(FILE)
    assert command_line.load(name).name == "small"


def test_a_workdir_of_the_command_line_may_be_in_the_home_directory(used, monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    words = ["highway-jax", f"--config={used}/small.py", "--workdir=~/run"]
    assert command_line.parse(words).workdir == Path("/home/someone/run")


def test_a_variant_reaches_get_config(used):
    parse = command_line.parse
    assert parse(["highway-jax", f"--config={used}/small.py:wide"]).config.model.width == 8
    assert parse(["highway-jax", f"--config={used}/small.py:small"]).config.model.width == 4


def test_each_experiment_file_of_the_repository_loads():
    paths = sorted((ROOT / "experiments").glob("*.py"))
    assert paths
    for path in paths:
        config = command_line.load(str(path))
        assert config.is_locked
        assert config.to_dict() == command_line.load(str(path)).to_dict()


def test_without_a_workdir_the_name_gives_it(used, tmp_path, monkeypatch):
    asked = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        experiment, "run", lambda config, workdir, extend, display: asked.append(workdir)
    )
    monkeypatch.setattr("highway_jax.main.summarize", lambda rows: [])
    assert main(["highway-jax", f"--config={used}/small.py:wide"]) == 0
    assert asked == [Path("runs/wide")]


@pytest.mark.parametrize(
    ("raised", "status", "line"),
    [
        (Stopped(15, "stopped at step 3"), 143, "stopped at step 3\n"),
        (KeyboardInterrupt(), 130, "stopped\n"),
        (highway_jax.UserError("a\nb"), 2, "error: a b\n"),
    ],
)
def test_the_exit_status_says_why_a_run_ended(raised, status, line, used, capsys, monkeypatch):
    def run(config, workdir, extend, display):
        raise raised

    monkeypatch.setattr(experiment, "run", run)
    assert main(["highway-jax", f"--config={used}/small.py"]) == status
    assert capsys.readouterr().err == line


@pytest.mark.parametrize("flag", ["--help", "-h", "-help"])
def test_help_is_short_and_says_where_the_keys_are(flag, capsys):
    assert main(["highway-jax", flag]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith("usage: ")
    for word in ("--config=FILE", "--config.KEY=VALUE", "--workdir=DIR", "--keys", "example"):
        assert word in out
    assert len(out.splitlines()) <= 20
    assert max(map(len, out.splitlines())) <= 80


def test_the_example_of_the_help_is_a_valid_command(capsys, monkeypatch):
    main(["highway-jax", "--help"])
    _, _, example = capsys.readouterr().out.partition("example:\n")
    words = example.replace("\\\n", " ").split()
    assert words[:2] == ["highway-jax", "train"]
    monkeypatch.chdir(ROOT)
    config = command_line.parse(words[1:]).config
    assert config.model.depth == 10
    assert config.cases.plain.model.width == 64


def test_keys_lists_every_key_with_its_default(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    assert main(["highway-jax", "--keys"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    for key, entry in SCHEMA.items():
        (line,) = [line for line in lines if line.startswith(f"{key} ")]
        assert repr(entry.default) in line
        meaning, allowed = lines[lines.index(line) + 1 :][:2]
        assert entry.doc in meaning
        assert entry.allowed in allowed
    for key in ("cases.NAME.KEY", "sweep.grid.KEY", "sweep.draw.KEY"):
        assert key in lines


def test_no_key_is_cut_in_a_terminal_of_80_columns(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["highway-jax", "--keys"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert set(SCHEMA) <= {line.partition(" ")[0] for line in lines}


def test_version(capsys):
    assert main(["highway-jax", "--version"]) == 0
    assert capsys.readouterr().out == f"highway_jax {highway_jax.__version__}\n"


def _start(*words):
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "--config is not given; allowed: an experiment file, such as experiments/digits.py"),
        (["--config.model.depth=3"], "changed model.depth from 2 to 3; allowed: the same config,"),
    ],
)
def test_a_process_is_refused_with_one_line_and_status_2(words, line, used):
    if words:
        words = [f"--config={used}/small.py", f"--workdir={used}/run", *words]
    before = _contents(used)
    done = _start("-m", "highway_jax.main", *words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.splitlines() == [done.stderr[:-1]]
    assert line in done.stderr
    assert _contents(used) == before


def test_a_process_asked_for_its_version_ends_with_status_0():
    done = _start("-m", "highway_jax.main", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"highway_jax {highway_jax.__version__}\n"


def test_importing_starts_no_backend():
    # The number of devices can only be set before the backends start.
    code = (
        "import highway_jax.main, jax; jax.config.update('jax_num_cpu_devices', 3);"
        "assert jax.device_count('cpu') == 3"
    )
    done = _start("-W", "error", "-c", code)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_config_of_a_run_is_what_the_command_said(used):
    written = json.loads((used / "run" / "config.json").read_text())
    assert written["model"]["depth"] == 2
    assert written["cases"]["first"]["optimizer"]["learning_rate"] == 1
