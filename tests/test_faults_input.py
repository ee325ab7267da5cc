"""Hostile input: values of every wrong kind, and directories from an untrusted source."""

import contextlib
import csv
import hashlib
import io
import json
import math
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest
from fault_tools import Run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from highway_jax import UserError, command_line, default_config, run
from highway_jax.config import config
from highway_jax.config.schema import SCHEMA
from highway_jax.storage.checkpoint import Checkpoints

VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=10**30),
        st.floats(),
        st.text(max_size=20),
        st.binary(max_size=9),
        st.complex_numbers(),
    ),
    lambda inner: st.one_of(
        st.lists(inner, max_size=4),
        st.lists(inner, max_size=4).map(tuple),
        st.dictionaries(st.text(max_size=6), inner, max_size=3),
    ),
    max_leaves=6,
)
KEYS = st.sampled_from(sorted(SCHEMA))
MANY = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))


REFUSED = (TypeError, ValueError, KeyError, AttributeError, OverflowError)


def _is_refused(function):
    """Calls a function; returns whether it refused, which it must do in one line."""
    try:
        function()
    except UserError as error:
        message = str(error)
    else:
        return False
    assert message.splitlines() == [message]
    assert len(message) < 700
    return True


def _put(key, value):
    made = default_config()
    with made.unlocked(), made.ignore_type():
        config.put(made, key, value)
    return made


@MANY
@given(KEYS, VALUES)
@example("seeds", (0, float("nan")))
@example("training.epochs", True)
@example("optimizer.learning_rate", 10**400)
@example("name", "a\n")
@example("model.width", "8")
def test_any_value_of_any_key_is_allowed_or_refused_in_one_line(key, value):
    try:
        made = _put(key, value)
    except REFUSED:
        return  # ConfigDict itself takes no such value.
    if _is_refused(lambda: config.validate(made)):
        return
    kind = type(SCHEMA[key].default)
    stored = config.section(made, key)
    assert isinstance(stored, kind) or (kind is float and isinstance(stored, int))
    # What is allowed can be written down, and is the same when it is read.
    again = config.from_json(config.to_json(made))
    assert config.changes(config.flatten(made), config.flatten(again)) == {}


@MANY
@given(st.sampled_from(["cases", "sweep.grid", "sweep.draw"]), VALUES)
def test_any_value_of_a_free_section_is_allowed_or_refused_in_one_line(section, value):
    try:
        made = _put(section, ConfigDict(value) if isinstance(value, dict) else value)
    except REFUSED:
        return
    _is_refused(lambda: config.validate(made))


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    path = tmp_path_factory.mktemp("empty") / "x.py"
    path.write_text(
        "import highway_jax\n"
        "def get_config():\n"
        "    config = highway_jax.default_config()\n"
        "    config.runtime.progress = False\n"
        "    return config\n"
    )
    return path


WORDS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)


@settings(MANY, max_examples=150)
@given(key=KEYS, word=WORDS)
@example(key="seeds", word="__import__('os').system('touch nowhere')")
@example(key="cases", word="{'a': __import__('os')}")
@example(key="model.depth", word="0x10")
@example(key="seeds", word="(" * 500)
@example(key="optimizer.learning_rate", word="1" + "0" * 400)
def test_any_word_after_a_key_is_taken_or_refused_in_one_line(key, word, empty):
    words = ["highway-jax", f"--config={empty}", f"--config.{key}={word}"]
    with contextlib.redirect_stderr(io.StringIO()):
        _is_refused(lambda: command_line.parse(words))
    assert not Path("nowhere").exists()


TRAP = """
import os, sys

def hook(event, arguments):
    if event in ("pickle.find_class", "marshal.loads") and "importlib" not in repr(
        sys._getframe(1).f_code.co_filename
    ):
        print("TRAP", event, arguments, sys._getframe(1).f_code.co_filename, file=sys.stderr)
        os._exit(99)

from highway_jax.main import start
import orbax.checkpoint, sklearn.datasets, tensorboardX
sys.addaudithook(hook)
status = start(sys.argv)
(results,) = (word.partition("=")[2] + "/results.csv" for word in sys.argv if "--workdir=" in word)
os.unlink(results)  # So that the checkpoint is read again.
sys.exit(status or start(sys.argv))
"""


def test_nothing_is_unpickled_in_a_run_or_a_resume(tmp_path):
    one = Run(tmp_path / "run", "", **{"runtime.tensorboard": True, "seeds": "0"})
    (tmp_path / "trap.py").write_text(TRAP)
    one.script = [str(tmp_path / "trap.py")]
    assert "resuming from the checkpoint" in one.finish()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_malicious_checkpoint_executes_nothing(small_config, tmp_path):
    """Every file replaced by a pickle that would leave a trace, with checksums that fit it."""
    run(small_config, tmp_path / "run")
    (tmp_path / "run" / "results.csv").unlink()
    (directory,) = (tmp_path / "run" / "checkpoints").iterdir()
    trace = tmp_path / "trace"
    bomb = pickle.dumps(Bomb(trace))
    for step in Checkpoints(directory).steps():
        manifest = directory / f"step_{step:08d}.json"
        content = json.loads(manifest.read_text())
        del content["sha256"]
        for name in content["files"]:
            (directory / f"step_{step:08d}" / name).write_bytes(bomb)
            content["files"][name] = hashlib.sha256(bomb).hexdigest()
        manifest.write_text(json.dumps(content))
        assert Checkpoints(directory).damage(step) is None
    with pytest.raises(UserError, match=r": every checkpoint is damaged"):
        run(small_config, tmp_path / "run")
    assert not trace.exists()
    pickle.loads(bomb).close()
    assert trace.exists()


@pytest.mark.parametrize("name", ["../../victim", pytest.param("..", marks=pytest.mark.slow)])
def test_names_in_a_malicious_table_remove_nothing(name, small_config, tmp_path):
    small_config.seeds = (0, 1)
    small_config.runtime.max_trials = 1
    small_config.training.epochs = 1
    run(small_config, tmp_path / "run")
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "precious").write_text("x")
    table = tmp_path / "run" / "results.csv"
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    # The first row names another directory and is dropped, so its checkpoints are to be removed;
    # the second is still to be trained.
    rows[0] |= {"batch": name, "status": "diverged"}
    text = io.StringIO()
    writer = csv.DictWriter(text, rows[0], lineterminator="\n")
    writer.writeheader()
    writer.writerow(rows[0])
    table.write_text(text.getvalue())
    run(small_config, tmp_path / "run")
    assert (victim / "precious").exists()
    assert (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    "content",
    [
        b"\xff\xfe",
        b'{"batch": 1}\n{"x": ',
        b"[]\n[]\n",
        b'{"trial": "x", "epoch": 1}\n{}\n',
        b"\0" * 99 + b"\n" + b"{}\n",
    ],
)
def test_malicious_curves_are_refused_or_dropped(content, small_config, tmp_path):
    """A last line may be torn; a damaged one before it is named."""
    small_config.training.epochs = 1
    run(small_config, tmp_path)
    for path in ("results.csv",):
        (tmp_path / path).unlink()
    (tmp_path / "metrics.jsonl").write_bytes(content)
    with pytest.raises(UserError, match=r"metrics\.jsonl"):
        run(small_config, tmp_path)


def test_a_damaged_line_of_another_trial_is_named(small_config, tmp_path):
    small_config.runtime.max_trials = 1
    small_config.training.epochs = 1
    run(small_config, tmp_path)
    path = tmp_path / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([lines[0][:-9] + "\n", *lines[1:]]))
    rows = (tmp_path / "results.csv").read_text().splitlines(keepends=True)
    (tmp_path / "results.csv").write_text("".join(rows[:2]))
    with pytest.raises(UserError, match=r"metrics\.jsonl: line 1 is damaged"):
        run(small_config, tmp_path)


def test_an_evaluation_batch_is_never_larger_than_the_data(small_config, tmp_path):
    """A million examples at a time would be 10 GB of activations here, not 1,797."""
    small_config.training.epochs = 1
    small_config.model.width = 50
    small_config.seeds = (0,)
    small_config.evaluation.batch_size = 10**6
    (row,) = run(small_config, tmp_path)
    assert math.isfinite(row["test_loss"])


@pytest.mark.parametrize("word", [b"--config=/dev/null", b"--config=\xff", b"--config=/"])
def test_no_file_to_read_is_is_refused(word):
    done = subprocess.run(
        [sys.executable, "-m", "highway_jax.main", word], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert re.fullmatch(rb"error: .*\n", done.stderr)
