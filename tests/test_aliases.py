"""Keys and values by earlier names: in saved runs, experiment files and flags."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from highway_jax import command_line, default_config, run
from highway_jax.config import aliases
from highway_jax.config import config as config_lib
from highway_jax.config.schema import SCHEMA
from highway_jax.storage import results
from highway_jax.sweep import design

RESULTS = Path(__file__).parents[1] / "experiments" / "results"
NEW = {key for key in SCHEMA if key.startswith(("optimizer.name", "optimizer.beta"))}
NEW |= {"optimizer.epsilon"}


def test_every_alias_leads_to_a_key_or_value_of_now():
    for old, new in aliases.KEYS.items():
        assert old not in SCHEMA
        assert new in SCHEMA
        assert old.partition(".")[0] == new.partition(".")[0]
    for (key, old), new in aliases.VALUES.items():
        assert not SCHEMA[key].check(old)
        assert SCHEMA[key].check(new)


def _flat(tree, prefix=""):
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


@pytest.mark.parametrize(
    "path", sorted(RESULTS.glob("**/config.json")), ids=lambda p: p.parent.name
)
def test_committed_runs_are_read(path):
    saved = dict(_flat(json.loads(path.read_text())))
    config = dict(_flat(config_lib.from_json(path.read_text()).to_dict()))
    for old, value in saved.items():
        key = aliases.current_path(old)
        value = tuple(value) if isinstance(value, list) else value
        assert config[key] == aliases.current_value(key, value)
    read = results.read(path.parent)
    schedules = {"exponential", "constant", "multistep", "one_cycle"}
    assert {row["schedule"] for row in read.rows} <= schedules
    name = "adamw" if "adamw" in path.parent.name else "momentum"
    assert read.config["optimizer"]["name"] == name


def test_a_saved_run_is_read_without_jax_and_whatever_block_it_has(small_config, tmp_path):
    small_config.training.epochs = 1
    run(small_config, tmp_path)
    for name in ("config.json", "results.csv"):
        path = tmp_path / name
        path.write_text(path.read_text().replace("highway", "unheard_of"))
    code = (
        "import sys; from pathlib import Path; from highway_jax.storage import results\n"
        f"run = results.read(Path({str(tmp_path)!r}))\n"
        "assert {row['block'] for row in run.rows} == {'unheard_of'}\n"
        "assert run.settings[0]['block'] == 'unheard_of'\n"
        "assert not {'jax', 'flax'} & {*sys.modules}\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == ""


@pytest.fixture
def varied(small_config):
    """A search in which renamed keys and values are in a case, the grid and the draws."""
    config = small_config
    config.seeds = (0,)
    config.data.random_flip = True
    config.optimizer.weight_decay = 0.01
    config.optimizer.head_weight_decay_multiplier = 10.0
    config.optimizer.boundaries = (5,)
    config.optimizer.schedule = "multistep"
    config.cases.first = ConfigDict({"data": {"scaling": "global_contrast_normalization"}})
    config.sweep.grid = ConfigDict({"data": {"random_crop_padding": (0, 1)}})
    config.sweep.trials = 2
    # One value, since each has a program of its own.
    config.sweep.draw = ConfigDict({"optimizer": {"bias_learning_rate_multiplier": (
        "choice", 2.0)}})  # fmt: skip
    config.runtime.max_trials = 1
    config_lib.validate(config)
    return config


def _old(text):
    """Returns a record as an earlier version wrote it."""
    for old, new in aliases.KEYS.items():
        text = text.replace(new, old).replace(
            f'"{new.partition(".")[2]}"', f'"{old.partition(".")[2]}"'
        )
    for (_, old), new in aliases.VALUES.items():
        text = text.replace(new, old)
    return text


def _age(workdir):
    for name in ("config.json", "results.csv"):
        path = workdir / name
        text = _old(path.read_text())
        assert text != path.read_text()
        path.write_text(text)
    path = workdir / "config.json"
    tree = json.loads(path.read_text())
    for key in NEW:
        section, leaf = key.split(".")
        del tree[section][leaf]
    path.write_text(json.dumps(tree, indent=2))


CLOCK = ("compile_seconds", "train_seconds", "steps_per_second")


def _without_clock(rows):
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def test_a_run_with_earlier_names_is_resumed(varied, tmp_path):
    before = run(varied, tmp_path)
    _age(tmp_path)
    path = tmp_path / "results.csv"
    lines = path.read_text().splitlines(keepends=True)
    assert "data.pad" in lines[0]
    path.write_text("".join(lines[:-2]))
    after = run(varied, tmp_path)
    assert str(_without_clock(after)) == str(_without_clock(before))
    assert "data.random_crop_padding" in path.read_text().splitlines()[0]
    assert "random_flip" in (tmp_path / "config.json").read_text()


def test_draws_do_not_depend_on_the_names_of_now():
    place = {"data.random_crop_padding": 1, "data.scaling": "global_contrast_normalization"}
    assert design._label("a", place) == '["a", {"data.pad": 1, "data.scaling": "contrast"}]'


EXPERIMENT = """
from ml_collections import ConfigDict
from highway_jax import default_config

def get_config():
    config = default_config()
    config.data.pad = 4
    assert config.data.pad == config.data.random_crop_padding == 4
    config.optimizer.bias_rate_factor = 2.0
    config.data.update({"mirror": True})
    config.data.scaling = "contrast"
    config.cases.first = ConfigDict(
        {"optimizer": {"schedule": "steps", "boundaries": (3,), "last_decay_factor": 10.0}}
    )
    config.sweep.grid = ConfigDict(
        {
            "model": {"remat": ("none", "products"), "depth": (2, 3)},
            "data": {"mirror": (True, False), "name": ("digits", "mnist")},
        }
    )
    return config
"""


def test_an_experiment_file_and_flags_may_use_earlier_names(tmp_path, caplog):
    path = tmp_path / "old.py"
    path.write_text(EXPERIMENT)
    words = (
        "--config.data.pad=8",
        "--noconfig.data.mirror",
        "--config.cases.first.optimizer.last_decay_factor=5",
        "--config.cases.first.data.scaling=contrast",
    )
    with caplog.at_level(logging.WARNING):
        config = command_line.parse(["highway-jax", f"--config={path}", *words]).config
    assert config.data.random_crop_padding == 8
    assert config.data.random_flip is False
    assert config.data.scaling == "global_contrast_normalization"
    assert config.optimizer.bias_learning_rate_multiplier == 2.0
    assert config.cases.first.to_dict() == {
        "optimizer": {
            "schedule": "multistep",
            "boundaries": (3,),
            "head_weight_decay_multiplier": 5.0,
        },
        "data": {"scaling": "global_contrast_normalization"},
    }
    # In the order that they had, which numbers the trials.
    assert list(config_lib.flatten(config.sweep.grid).items()) == [
        ("data.random_flip", (True, False)),
        ("data.name", ("digits", "mnist")),
        ("model.depth", (2, 3)),
        ("model.remat", ("none", "save_dots")),
    ]
    for line in (
        "--config.data.pad is now --config.data.random_crop_padding",
        "--config.data.mirror is now --config.data.random_flip",
        "config.data.scaling: 'contrast' is now 'global_contrast_normalization'",
        "the config key bias_rate_factor is now bias_learning_rate_multiplier",
        "cases.first.optimizer.last_decay_factor is now",
        "config.sweep.grid.model.remat: ('none', 'products') is now ('none', 'save_dots')",
    ):
        assert any(line in message for message in caplog.messages), line
    assert all(len(message.splitlines()) == 1 for message in caplog.messages)


def test_a_config_with_earlier_values_is_run(small_config, tmp_path, caplog):
    small_config.training.epochs = 1
    small_config.model.remat = "products"
    run(small_config, tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["model"]["remat"] == "save_dots"
    assert caplog.messages.count("config.model.remat: 'products' is now 'save_dots'") == 1


def test_names_of_now_are_left_alone(caplog):
    config = default_config()
    before = config.to_dict()
    config_lib.rename(config)
    assert config.to_dict() == before
    assert caplog.messages == []
