"""The experiments beyond the paper: the depth lab, and the shortcuts of He et al. 2016."""

import math
import runpy
from pathlib import Path

import jax
import pytest

from highway_jax import report, run
from highway_jax.config import config as config_lib
from highway_jax.config.sections import Config
from highway_jax.nn.model import build
from highway_jax.storage import results
from highway_jax.sweep import design, planning

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def _get_config(name, variant):
    config = runpy.run_path(str(EXPERIMENTS / f"{name}.py"))["get_config"](variant)
    config_lib.validate(config)
    return config


@pytest.mark.parametrize(("variant", "depths"), [("digits", 4), ("mnist", 5)])
def test_the_lab_trains_every_case_at_every_depth(variant, depths):
    cells = design.cells(_get_config("depth_lab", variant))
    assert len(cells) == 9 * depths
    assert all(len(cell.retrained) == 5 * len(cell.trials) for cell in cells)
    few = design.cells(_get_config("depth_lab", f"{variant},highway,gru"))
    assert [cell.case for cell in few[::depths]] == ["gru", "highway"]
    # The settings of a case do not depend on which others are trained.
    for one, other in zip(few[-1].trials, cells[-1].trials, strict=True):
        assert one.settings | {"name": ""} == other.settings | {"name": ""}


def test_the_biases_of_a_depth_are_one_batch():
    config = _get_config("depth_lab", "biases")
    batches = planning.plan(config, [])
    assert [len(batch.trials) for batch in batches] == [10 * 2] * 7
    assert {trial.settings["model.block"] for batch in batches for trial in batch.trials} == {
        "highway"
    }


@pytest.mark.slow
def test_the_lab_is_run_and_reported(tmp_path, cache):
    config = _get_config("depth_lab", "digits,rezero,highway")
    config.sweep.grid = config_lib.ConfigDict({"model": {"depth": (2, 3)}})
    config.model.width = 8
    config.training.epochs = 2
    config.sweep.trials = 3
    config.sweep.rung_epochs, config.sweep.rung_keeps = (1,), (1,)
    config.sweep.retrain_seeds = (0, 1)
    config.runtime.compile_cache = str(cache)
    config.runtime.progress = False
    run(config, tmp_path / "run")
    assert len(results.read(tmp_path / "run").rows) == 2 * 2 * (3 + 2)
    text = report.report([tmp_path / "run"], tmp_path / "out")
    lines = text[text.index("## Which nets train") :].splitlines()
    assert [line.split(" | ")[0] for line in lines if line.startswith("| ")][:4:2] == [
        "| layers",
        "| rezero",
    ]
    assert (tmp_path / "out" / "biases-run.png").exists()


@pytest.mark.parametrize(("data", "layers"), [("mnist", 1000), ("digits", 10_000)])
def test_the_deepest_nets_are_tuned(data, layers):
    untuned = design.cells(_get_config("extreme_depth", data))
    assert [cell.settings["model.depth"] for cell in untuned] == [10, 200, 500, 1000]
    for cell in design.cells(_get_config("extreme_depth", f"{data},tuned")):
        assert cell.settings["model.depth"] == layers
        assert cell.settings["model.transform_bias"] < -math.log(layers)
        assert cell.settings["optimizer.schedule"] == "one_cycle"


@pytest.mark.parametrize("variant", ["mnist", "digits", "cifar10"])
def test_the_shortcuts_are_those_of_their_table(variant):
    config = _get_config("he2016_shortcuts", variant)
    blocks = {
        cell.case: (cell.settings["model.block"], cell.settings["model.transform_bias"])
        for cell in design.cells(config)
    }
    assert len(blocks) == 2 + 8 + 2
    assert blocks["identity"][0] == "residual"
    assert blocks["constant"][0] == "constant"
    assert blocks["exclusive-7"] == ("highway", -7.0)
    assert blocks["shortcut_only-0"] == ("shortcut_gate", 0.0)


def test_the_convolutional_shortcuts_have_110_layers():
    config = _get_config("he2016_shortcuts", "cifar10")
    section = Config.from_settings(config_lib.case_settings(config, "identity")).model
    model = build(section, (32, 32, 3), 10)
    assert model.num_blocks == 106
    # 3 plain layers, the blocks of three stages, and a softmax layer.
    of_stages = sum(
        (9 * w * w + w) * n + 9 * i * w + w for w, n, i in ((16, 36, 3), (32, 35, 16), (64, 35, 32))
    )
    assert model.num_parameters == of_stages + 64 * 10 + 10
    assert jax.eval_shape(model.init, jax.random.key(0), 0.0)
