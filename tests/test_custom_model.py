"""Linen modules of the user's own as the net of a run, and registered blocks."""

import json
import pickle
import re
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import highway_jax
from highway_jax import HighwayBlock, UserError, scan_blocks
from highway_jax.config import config as config_lib
from highway_jax.main import main
from highway_jax.nn import custom
from highway_jax.nn import model as nets
from highway_jax.registry import BLOCKS
from highway_jax.report import report
from highway_jax.runtime.signals import Stopped
from highway_jax.sweep import planning
from highway_jax.training.program import Program


class Net(nn.Module):
    """A net of highway blocks with dropout, batches in and logits out."""

    width: int = 8
    rate: float = 0.0
    scale: tuple = (1.0,)

    @nn.compact
    def __call__(self, x, train: bool = False):
        x = nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        x, _ = scan_blocks(HighwayBlock(self.width), x, 3)
        gain = self.param("gain", nn.initializers.ones, ())
        return gain * nn.Dense(10, name="head")(nn.LayerNorm()(x))


@pytest.fixture
def config(small_config):
    small_config.optimizer.weight_decay = 1e-3
    return small_config


def _same(rows, others):
    """Compares rows, in which NaN equals NaN, without the times."""
    clock = dict.fromkeys(("compile_seconds", "train_seconds", "steps_per_second"))
    assert [repr(row | clock) for row in rows] == [repr(row | clock) for row in others]


def test_a_module_is_trained_saved_and_used_again(config, tmp_path):
    config.sweep.grid = {"optimizer": {"learning_rate": (0.01, 0.05)}}
    config.runtime.max_trials = 2
    rows = highway_jax.run(config, tmp_path, model=Net(rate=0.2))
    assert [row["status"] for row in rows] == ["finished"] * 4
    assert len({row["train_loss"] for row in rows}) == 4
    assert rows[0]["num_parameters"] == 64 * 8 + 8 + 3 * (8 * 16 + 16) + 2 * 8 + 8 * 10 + 10 + 1
    saved = json.loads((tmp_path / "config.json").read_text())["model"]
    assert saved["architecture"] == "custom"
    assert re.fullmatch(r"Net-[0-9a-f]{12}", saved["module"])
    net = highway_jax.load(tmp_path, model=Net(rate=0.2))
    dataset = highway_jax.data.digits.load_digits(None)
    accuracy = net.evaluate(dataset.test.images, dataset.test.labels).accuracy
    best = max(rows, key=lambda row: row["valid_accuracy"])
    assert accuracy == pytest.approx(best["test_accuracy"], abs=1e-9)
    copy = pickle.loads(pickle.dumps(net))
    np.testing.assert_array_equal(
        copy.predict(dataset.test.images), net.predict(dataset.test.images)
    )
    with pytest.raises(ValueError, match="model is Net, whose blocks are not known"):
        net.activations(dataset.test.images[:2])
    # A finished run is returned again, and reported without the module.
    _same(highway_jax.run(config, tmp_path, model=Net(rate=0.2)), rows)
    assert "| - |" in report([tmp_path], tmp_path / "report")


@pytest.mark.slow
def test_the_net_of_a_module_is_trained_as_the_same_net_of_a_config(config, tmp_path):
    """Equal parameters, roles and numbers: a module of a DenseStack of ours."""
    config.model.depth = 2
    ours = highway_jax.run(config, tmp_path / "ours")

    class Wrapped(nn.Module):
        @nn.compact
        def __call__(self, x):
            return self.stack(x)[0]

        stack: nn.Module

    section = config_lib.Config.from_settings(config_lib.case_settings(config, "small")).model
    stack, _ = nets._net(section, 10, "cpu")
    theirs = highway_jax.run(config, tmp_path / "theirs", model=Wrapped(stack))
    keys = ("num_parameters", "steps")
    assert [[row[k] for k in keys] for row in theirs] == [[row[k] for k in keys] for row in ours]
    # The draws of the weights differ, since they have other names.
    for row, other in zip(theirs, ours, strict=True):
        assert row["train_loss"] == pytest.approx(other["train_loss"], rel=0.2)


def test_a_module_resumes_with_the_bits_of_an_uninterrupted_run(config, tmp_path, monkeypatch):
    config.checkpoint.every_seconds = 0.0
    net = Net(rate=0.2)
    whole = highway_jax.run(config, tmp_path / "whole", model=net)

    records = highway_jax.runs.context.Records
    real = records.add_epoch

    def stop(*arguments):
        real(*arguments)
        raise Stopped(15, "stopped")

    with monkeypatch.context() as patch:
        patch.setattr(records, "add_epoch", stop)
        with pytest.raises(Stopped):
            highway_jax.run(config, tmp_path / "run", model=net)
    with pytest.raises(UserError, match=r"changed model\.module from 'Net-.* to 'Net-"):
        highway_jax.run(config, tmp_path / "run", model=Net(rate=0.3))
    with pytest.raises(UserError, match=r"model\.architecture from 'custom' to 'dense'"):
        highway_jax.run(config, tmp_path / "run")
    # Keys of the net that have no effect may change.
    config.model.width = 9
    _same(highway_jax.run(config, tmp_path / "run", model=Net(rate=0.2)), whole)


def test_dropout_is_for_training_alone(config):
    init, apply, _ = custom.functions(Net(rate=0.5), (8, 8, 1), 10)
    params, x = init(jax.random.key(0)), jnp.ones((4, 8, 8, 1))
    keys = jax.random.split(jax.random.key(1), 4)
    np.testing.assert_array_equal(apply(params, x), apply(params, x))
    assert jnp.any(apply(params, x, keys) != apply(params, x))
    dropped = apply(params, x, keys)
    assert len(np.unique(np.asarray(dropped)[:, 0])) == 4  # Each example has its own mask.


def test_parameters_have_their_roles_by_rank_and_biases_of_runs_by_name(config):
    section = config_lib.Config.from_settings(config_lib.case_settings(config, "small")).model
    roles = nets.build(section, (8, 8, 1), 10, module=Net()).roles
    assert roles["gain"] == "gain"
    assert roles["head"] == {"kernel": "weight", "bias": "bias"}
    assert roles["LayerNorm_0"] == {"scale": "bias", "bias": "bias"}
    assert roles["HighwayBlock_0"] == {
        "kernel": "weight",
        "bias": "bias",
        "transform_bias": "bias",
    }


class _Stateful(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.BatchNorm(use_running_average=True)(nn.Dense(10)(x.reshape(len(x), -1)))


class _Integer(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.param("count", lambda key: jnp.int32(3))
        return nn.Dense(10)(x.reshape(len(x), -1))


@pytest.mark.parametrize(
    ("model", "kind", "words"),
    [
        (Net, TypeError, r"model is the class Net; allowed: .*, such as Net\(\)"),
        (3, TypeError, r"model is 3; allowed: a flax\.linen\.Module, such as MyNet\(\)"),
        (
            nn.Dense(7),
            ValueError,
            r"Dense returns float32\[1, 8, 8, 7\] for .*logits \[1, 10\]",
        ),
        (
            nn.Sequential([jnp.shape]),
            ValueError,
            "Sequential returns a tuple for one example",
        ),
        (_Stateful(), ValueError, "has the variables batch_stats; allowed: parameters alone"),
        (_Integer(), ValueError, "model _Integer has count of int32; allowed: a float type"),
        (nn.Sequential([lambda x: x[:, 0, :, 0][:, [0, 1] * 5]]), ValueError, "has no parameters"),
    ],
)
def test_what_is_not_a_net_is_refused(model, kind, words, config, tmp_path):
    with pytest.raises(kind, match=words):
        highway_jax.run(config, tmp_path / "run", model=model)
    assert not (tmp_path / "run" / "config.json").exists()


def test_settings_of_the_net_are_not_varied_where_a_module_is_given(config, tmp_path):
    config.cases.deep = {"model": {"depth": 4}}
    config.sweep.grid = {"model": {"precision": ("float32", "bfloat16"), "width": (2, 3)}}
    words = r"the config varies model\.depth, model\.width; allowed: no key of the net but"
    with pytest.raises(ValueError, match=words):
        highway_jax.run(config, tmp_path, model=Net())


def test_a_config_alone_does_not_choose_a_module(config, tmp_path):
    config.model.module = "Net-123456789abc"
    with pytest.raises(UserError, match=r"model\.module is 'Net-.*unless highway_jax"):
        highway_jax.run(config, tmp_path)
    config.model.architecture = "custom"
    with pytest.raises(UserError, match=r"model\.architecture is 'custom'; allowed"):
        highway_jax.run(config, tmp_path)


def test_a_run_is_loaded_with_its_module_and_no_other(config, tmp_path):
    config.training.epochs = 1
    highway_jax.run(config, tmp_path / "own", model=Net(rate=0.2))
    with pytest.raises(ValueError, match=r"model is None; allowed: the Net that the run trained"):
        highway_jax.load(tmp_path / "own")
    with pytest.raises(ValueError, match=r"model is Net-.*; allowed: the Net that the run trained"):
        highway_jax.load(tmp_path / "own", model=Net(width=9, rate=0.2))
    with pytest.raises(TypeError, match="model is the class Net"):
        highway_jax.load(tmp_path / "own", model=Net)
    config.optimizer.weight_decay = 0.0
    highway_jax.run(config, tmp_path / "ours")
    with pytest.raises(ValueError, match=r"model is Net-.*; allowed: none, as the run's config"):
        highway_jax.load(tmp_path / "ours", model=Net(rate=0.2))


def test_the_identity_of_a_module_is_that_of_its_fields():
    def with_scale(scale):
        return Net(scale=(nn.initializers.normal(scale), np.ones(2000), {"a": nn.Dense(3)}))

    assert custom.identity(with_scale(0.1)) == custom.identity(with_scale(0.1))
    others = [Net(), Net(9), with_scale(0.1), with_scale(0.2), Net(scale=(np.zeros(2000),))]
    others += [Net(scale=(jnp.float32,)), Net(scale=(nn.Dense(3),)), Net(scale=(nn.Dense(4),))]
    assert len({custom.identity(other) for other in others}) == len(others)
    assert " at 0x" not in custom._describe(Net(scale=(object(),)), ())


def test_vectors_are_trained_on_by_a_module(config, tmp_path):
    x = np.random.default_rng(0).standard_normal((120, 5), np.float32)
    y = np.arange(120) % 3
    dataset = highway_jax.Dataset.from_arrays(x, y, x[:30], y[:30])
    config.data.valid_size = 0
    config.training.batch_size = 20
    rows = highway_jax.run(config, tmp_path, dataset=dataset, model=nn.Dense(3))
    assert rows[0]["num_parameters"] == 18


def test_all_trials_of_a_module_are_one_program(config):
    config.optimizer.learning_rate = 0.05
    config = highway_jax.runs.experiment._with_module(config, Net())
    batches = planning.plan(config, [])
    assert [len(batch.trials) for batch in batches] == [2]
    assert batches[0].label == "Net"
    assert batches[0].name == "0000-0001-digits-Net"
    dataset = highway_jax.data.digits.load_digits(None)
    program = Program(batches[0], dataset, Net())
    assert program.task.micro_batch == program.task.batch_size


@pytest.fixture
def registry_of_blocks(monkeypatch):
    """Forgets blocks that a test registers."""
    list(BLOCKS)  # The built-in entries.
    monkeypatch.setattr(BLOCKS, "_entries", dict(BLOCKS._entries))


_BLOCK = """
import flax.linen as nn
import jax.numpy as jnp
from highway_jax import Block, BlockActivations, register_block

@register_block("averaged")
class Averaged(Block):
    @nn.compact
    def activations(self, x, gate=None):
        self.check(x)
        (z,) = self.affine(x, bias=0.0)
        h, half = self.nonlinear(z), jnp.full_like(z, 0.5)
        return BlockActivations(x, h, half, half, (h + x) / 2)
"""
_EXPERIMENT = """
import blocks_of_the_user
from highway_jax import default_config

def get_config():
    config = default_config()
    config.training.epochs = 1
    config.model.depth = 3
    config.runtime.progress = config.runtime.tensorboard = False
    return config
"""


def test_a_block_beside_the_experiment_file_is_chosen_on_the_command_line(
    registry_of_blocks, tmp_path, monkeypatch, capsys
):
    home = tmp_path / "home"
    home.mkdir()
    (home / "blocks_of_the_user.py").write_text(_BLOCK)
    (home / "exp.py").write_text(_EXPERIMENT)
    monkeypatch.setattr(sys, "path", list(sys.path))
    flags = [f"--config={home}/exp.py", f"--workdir={tmp_path}/run"]
    status = main(["x", *flags, "--config.model.block=averaged"])
    assert (status, capsys.readouterr().err) == (0, "")
    assert highway_jax.read_run(tmp_path / "run").results[0]["block"] == "averaged"
    assert main(["x", *flags, "--config.model.block=averged"]) == 2
    assert "is 'averged'; allowed: plain, residual, highway, " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("block", "words"),
    [
        (nn.Dense, "block 'mine' is <class .*Dense'>; allowed: a subclass of highway_jax.Block"),
        (lambda x: x, "block 'mine' is <function .*; allowed: a subclass of highway_jax.Block"),
        (HighwayBlock(3), "block 'mine' is HighwayBlock.*; allowed: a subclass"),
        (type("Empty", (highway_jax.Block,), {}), "Empty, which has no activations of its own"),
    ],
)
def test_what_is_not_a_block_is_not_registered(block, words):
    with pytest.raises(TypeError, match=words):
        highway_jax.register_block("mine")(block)
    assert "mine" not in BLOCKS


def test_a_name_of_a_block_is_registered_once():
    with pytest.raises(ValueError, match="'highway' is registered already; choose another name"):
        highway_jax.register_block("highway")(type("Mine", (HighwayBlock,), {}))
