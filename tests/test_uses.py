"""Grid points that differ only in settings without an effect on a case are trained once."""

import csv
import io
import json

import pytest
from ml_collections import ConfigDict
from rich.console import Console

from highway_jax import UserError, default_config, run
from highway_jax.config import config as config_lib
from highway_jax.config.schema import USES
from highway_jax.registry import BLOCKS
from highway_jax.runtime.progress import Display
from highway_jax.sweep import design

KEYS = {
    # By key: two values, settings that use it, settings that do not.
    "data.split_seed": ((0, 1), {"data.valid_size": 500}, {"data.valid_size": 0}),
    "data.contrast_std": (
        (1.0, 0.5),
        {"data.scaling": "global_contrast_normalization"},
        {"data.scaling": "signed"},
    ),
    "model.dropout": ((True, False), None, {}),
    "model.dropout_scale": ((1.0, 0.5), None, {}),
    "model.gate": (("coupled", "separate"), {}, {"model.block": "residual"}),
    "model.transform_bias": ((-1.0, -3.0), {}, {"model.depth": 1}),
    "model.carry_bias": ((0.0, 3.0), {"model.gate": "separate"}, {}),
    "model.residual_scale": ((0.0, 0.5), {"model.block": "rezero"}, {}),
    "optimizer.momentum": ((0.5, 0.9), {}, {"optimizer.name": "adam"}),
    "optimizer.nesterov": ((False, True), {}, {"optimizer.name": "adamw"}),
    "optimizer.beta1": ((0.5, 0.9), {"optimizer.name": "adam"}, {}),
    "optimizer.beta2": ((0.5, 0.9), {"optimizer.name": "adam"}, {}),
    "optimizer.epsilon": ((1e-8, 1e-2), {"optimizer.name": "adamw"}, {}),
    "optimizer.decay": (
        (0.5, 0.9),
        {"optimizer.decay_every": "step"},
        {"optimizer.schedule": "constant"},
    ),
    "optimizer.decay_every": (
        ("epoch", "step"),
        {"optimizer.decay": 0.5},
        {
            "optimizer.decay": 0.5,
            "optimizer.schedule": "multistep",
            "optimizer.boundaries": (3,),
        },
    ),
    "optimizer.warmup_fraction": ((0.1, 0.5), {"optimizer.schedule": "one_cycle"}, {}),
    "optimizer.final_fraction": ((0.1, 0.5), {"optimizer.schedule": "one_cycle"}, {}),
    "optimizer.decay_shape": (("linear", "cosine"), {"optimizer.schedule": "one_cycle"}, {}),
    "optimizer.head_weight_decay_multiplier": ((1.0, 10.0), {"optimizer.weight_decay": 0.1}, {}),
}


@pytest.fixture
def grid():
    """Three gate biases by two depths, for a highway and a plain net."""
    config = default_config()
    config.cases.highway = ConfigDict({"model": {"block": "highway"}})
    config.cases.plain = ConfigDict({"model": {"block": "plain"}})
    config.sweep.grid.model = {"transform_bias": (-1, -2, -3), "depth": (2, 3)}
    config.seeds = (5, 6)
    return config


def _points(config, *keys, numbering=design.NEW):
    config_lib.validate(config)
    cells = design.cells(config, numbering)
    indices = [trial.index for cell in cells for trial in cell.trials]
    assert indices == list(range(len(indices)))
    return [(cell.case, *(cell.settings[key] for key in keys)) for cell in cells]


def test_a_case_trains_no_point_twice(grid):
    keys = ("model.depth", "model.transform_bias")
    assert _points(grid, *keys) == [
        *(("highway", depth, bias) for depth in (2, 3) for bias in (-1, -2, -3)),
        ("plain", 2, -1),
        ("plain", 3, -1),
    ]
    assert design.left_out(grid) == [
        "plain: model.transform_bias is only used in nets of several layers whose blocks declare"
        " transform_bias; elsewhere, only the first of its 3 values is trained, -1"
    ]
    # Runs that began before this train and number all points.
    assert len(_points(grid, *keys, numbering=design.Numbering(1))) == 12
    assert design.left_out(grid, design.Numbering(1)) == []


def test_use_is_seen_at_each_point(grid):
    grid.cases = ConfigDict({})
    grid.sweep.grid = ConfigDict(
        {
            "model": {
                "block": ("plain", "highway"),
                "gate": ("coupled", "separate"),
                "carry_bias": (0.0, 1.0),
            }
        }
    )
    assert _points(grid, "model.block", "model.gate", "model.carry_bias") == [
        ("run", "plain", "coupled", 0.0),
        ("run", "highway", "coupled", 0.0),
        ("run", "highway", "separate", 0.0),
        ("run", "highway", "separate", 1.0),
    ]
    assert len(design.left_out(grid)) == 2


def test_the_points_that_stay_draw_what_they_drew(grid):
    grid.sweep.trials = 3
    grid.sweep.draw.optimizer = {"learning_rate": ("log_uniform", 0.01, 0.1)}
    every = {(c.case, *c.settings.items()): c for c in design.cells(grid, design.Numbering(1))}
    few = design.cells(grid)
    assert len(few) == 8
    for cell in few:
        other = every[(cell.case, *cell.settings.items())]
        for a, b in zip(cell.trials, other.trials, strict=True):
            assert (a.settings, a.seed) == (b.settings, b.seed)


def test_what_depends_on_a_draw_is_used(grid):
    grid.cases = ConfigDict({})
    grid.sweep.trials = 3
    grid.sweep.draw.model = {"block": ("choice", "plain", "highway")}
    assert len(_points(grid)) == 6
    assert design.left_out(grid) == []


@pytest.mark.slow
def test_every_setting_is_used_where_it_is_said_and_nowhere_else(small_config, tmp_path):
    """Trains two values of each: equal results where it has no effect, different ones elsewhere."""
    assert KEYS.keys() == USES.keys()
    config = small_config
    config.seeds = (0,)
    config.training.epochs = 1
    config.model.depth = 2
    config.data.valid_size = 0
    expected = {}
    for key, (values, *bases) in KEYS.items():
        for is_used, base in zip((True, False), bases, strict=True):
            for i, value in enumerate(values if base is not None else ()):
                name = f"{key}-{is_used}-{i}".replace(".", "_")
                config.cases[name] = ConfigDict({})
                for other, setting in (base | {key: value}).items():
                    config_lib.put(config.cases[name], other, setting)
                settings = config_lib.case_settings(config, name)
                assert USES[key].check(*(settings[k] for k in USES[key].keys)) == is_used
                expected[key, is_used] = is_used
    losses = {row["case"]: row["train_loss"] for row in run(config, tmp_path)}
    for (key, is_used), differs in expected.items():
        names = (f"{key}-{is_used}-{i}".replace(".", "_") for i in range(2))
        first, second = (losses[name] for name in names)
        assert (first != second) == differs, (key, is_used, first, second)


def _run(config, workdir):
    console = Console(file=io.StringIO(), width=200)
    run(config, workdir, display=Display(console=console))
    with (workdir / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file)), console.file.getvalue()


def test_a_run_says_what_it_leaves_out_and_an_old_one_keeps_its_trials(
    grid, small_config, tmp_path, monkeypatch
):
    grid.sweep.grid.model = {"transform_bias": (-1, -2, -3)}
    for section in ("model", "training", "data", "runtime"):
        grid[section] = small_config[section]
    grid.training.epochs = 1
    grid.runtime.max_trials = 1
    grid.seeds = (5,)
    rows, text = _run(grid, tmp_path / "new")
    assert len(rows) == 4
    assert text.count("plain: model.transform_bias is only used in nets of several") == 1
    environment = tmp_path / "new" / "environment.json"
    assert json.loads(environment.read_text())["format"] == 3

    with monkeypatch.context() as patch:
        patch.setattr("highway_jax.storage.workdir.NEW", design.Numbering(1))
        every, _ = _run(grid, tmp_path / "old")
    assert [row["trial"] for row in every] == [str(i) for i in range(6)]
    environment = tmp_path / "old" / "environment.json"
    content = json.loads(environment.read_text())
    assert content.pop("format") == 1
    environment.write_text(json.dumps(content))
    path = tmp_path / "old" / "results.csv"
    table = path.read_text().splitlines(keepends=True)
    path.write_text("".join(table[:-2]))
    again, text = _run(grid, tmp_path / "old")
    assert "only used" not in text
    clock = ("compile_seconds", "train_seconds", "steps_per_second")
    for row, before in zip(again, every, strict=True):
        assert row | dict.fromkeys(clock) == before | dict.fromkeys(clock)


def test_a_format_of_a_later_version_is_refused(small_config, tmp_path):
    small_config.training.epochs = 1
    run(small_config, tmp_path)
    environment = tmp_path / "environment.json"
    content = json.loads(environment.read_text())
    for number in (4, 0, "2", None):
        environment.write_text(json.dumps(content | {"format": number}))
        with pytest.raises(UserError, match=r"environment\.json: format is .*; allowed: 1 to 3"):
            run(small_config, tmp_path)


def test_a_block_of_the_users_own_says_which_settings_it_uses(grid, monkeypatch):
    BLOCKS.names()
    for name in ("without", "with"):
        entry = type(name, (BLOCKS["plain"],), {"settings": ("transform_bias",) * (name == "with")})
        monkeypatch.setitem(BLOCKS._entries, name, entry)
    grid.cases = ConfigDict({name: {"model": {"block": name}} for name in ("without", "with")})
    keys = ("model.depth", "model.transform_bias")
    biases = [(depth, bias) for bias in (-1, -2, -3) for depth in (2, 3)]
    assert sorted(_points(grid, *keys)) == sorted(
        [("without", 2, -1), ("without", 3, -1), *(("with", *point) for point in biases)]
    )
    # Runs of format 2 trained all points of both.
    assert len(_points(grid, *keys, numbering=design.Numbering(2))) == 12
    assert design.left_out(grid, design.Numbering(2)) == []
    assert [line.split(":")[0] for line in design.left_out(grid)] == ["without"]
    monkeypatch.delitem(BLOCKS._entries, "with")
    with pytest.raises(UserError, match=r"model\.block is 'with'; allowed: .*whose module is impo"):
        design.cells(grid)
