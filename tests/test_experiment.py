import csv
import json
import types

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from highway_jax import UserError, default_config, run
from highway_jax.runs import experiment
from highway_jax.runtime.signals import Stopped
from highway_jax.storage import records
from highway_jax.storage.checkpoint import Checkpoints
from highway_jax.training.program import Program

CLOCK = ("compile_seconds", "train_seconds", "steps_per_second")


def _results(workdir, *, clock=False):
    with (workdir / "results.csv").open() as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if clock or k not in CLOCK} for row in rows]


@pytest.fixture
def stop_after(monkeypatch):
    """Makes a run receive SIGTERM after a number of compiled chunks."""

    def arrange(stretches):
        taken = []
        original = Program.train

        def train(self, state, num_steps):
            taken.append(num_steps)
            return original(self, state, num_steps)

        class Request(experiment.StopRequest):
            @property
            def signal(self):
                return 15 if len(taken) >= stretches else 0

            @signal.setter
            def signal(self, value):
                pass

        monkeypatch.setattr(Program, "train", train)
        monkeypatch.setattr(experiment, "StopRequest", Request)

    return arrange


def test_a_run_leaves_what_it_promises(small_config, tmp_path):
    small_config.runtime.tensorboard = True
    summary = records.summarize(run(small_config, tmp_path))
    rows = _results(tmp_path, clock=True)
    assert [row["seed"] for row in rows] == ["0", "1"]
    assert all(float(row["steps_per_second"]) > 0 for row in rows)
    assert rows[0]["num_parameters"] == str(64 * 8 + 8 + 2 * 2 * 72 + 8 * 10 + 10)
    assert json.loads((tmp_path / "config.json").read_text())["model"]["depth"] == 3
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["platform"] == "cpu"
    assert "jax" in environment["versions"]
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["epoch"], line["trial"]) for line in lines] == [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert lines[-1]["train_loss"] < lines[0]["train_loss"]
    with (tmp_path / "summary.csv").open() as file:
        (row,) = csv.DictReader(file)
    tests = [float(r["test_accuracy"]) for r in rows]
    assert float(row["test_accuracy_best"]) == max(tests)
    np.testing.assert_allclose(float(row["test_accuracy_mean"]), np.mean(tests))
    np.testing.assert_allclose(float(row["test_accuracy_std"]), np.std(tests, ddof=1))
    assert summary[0]["test_accuracy_mean"] == pytest.approx(np.mean(tests))
    # Each of two trials has a file of its curves and one of its results.
    events = list((tmp_path / "tensorboard").rglob("events*"))
    assert (len(events), sum(path.name.endswith(".final") for path in events)) == (4, 2)


def test_a_small_net_learns_digits(small_config, tmp_path):
    small_config.training.epochs = 15
    (row,) = records.summarize(run(small_config, tmp_path))
    assert row["test_accuracy_mean"] > 0.85
    assert row["train_loss_mean"] < 0.5


def test_a_finished_run_trains_nothing(small_config, tmp_path, monkeypatch):
    first = run(small_config, tmp_path)
    before = (tmp_path / "results.csv").read_bytes()
    monkeypatch.setattr(Program, "__init__", None)
    assert run(small_config, tmp_path) == first
    assert (tmp_path / "results.csv").read_bytes() == before


@pytest.mark.parametrize(
    "stretches", [3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5))]
)
def test_resume_is_straight_through_to_the_bit(small_config, tmp_path, stop_after, stretches):
    small_config.training.epochs = 3
    small_config.cases.highway = ConfigDict({})
    small_config.cases.plain = ConfigDict({"model": {"block": "plain"}})
    run(small_config, tmp_path / "whole")
    stop_after(stretches)
    with pytest.raises(Stopped, match="resumes from there"):
        run(small_config, tmp_path / "cut")
    stop_after(10**9)
    run(small_config, tmp_path / "cut")
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert _results(cut) == _results(whole)
    assert (cut / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    assert (cut / "summary.csv").read_bytes() == (whole / "summary.csv").read_bytes()


@pytest.mark.parametrize("name", ["adam", pytest.param("adamw", marks=pytest.mark.slow)])
def test_the_state_of_an_update_rule_is_resumed_to_the_bit(
    small_config, tmp_path, stop_after, name
):
    config = small_config
    config.optimizer.name = name
    config.optimizer.learning_rate = 0.003
    config.optimizer.weight_decay = 0.01
    config.cases.default = ConfigDict({})
    config.cases.other = ConfigDict({"optimizer": {"beta1": 0.5, "epsilon": 1e-3}})
    run(config, tmp_path / "whole")
    stop_after(2)
    with pytest.raises(Stopped, match="resumes from there"):
        run(config, tmp_path / "cut")
    stop_after(10**9)
    run(config, tmp_path / "cut")
    assert _results(tmp_path / "cut") == _results(tmp_path / "whole")


def test_the_default_config_trains(tmp_path):
    config = default_config()
    config.runtime.progress = False
    config.runtime.tensorboard = False
    (row,) = run(config, tmp_path)
    assert row["test_accuracy"] > 0.95


def test_cases_with_equal_shapes_share_a_program(small_config, tmp_path):
    small_config.seeds = (7,)
    small_config.training.epochs = 1
    small_config.cases.low = ConfigDict({"model": {"transform_bias": -4.0}})
    small_config.cases.high = ConfigDict({"model": {"transform_bias": -1.0}})
    small_config.cases.plain = ConfigDict({"model": {"block": "plain"}})
    summary = records.summarize(run(small_config, tmp_path))
    rows = _results(tmp_path)
    assert [row["case"] for row in summary] == ["low", "high", "plain"]
    assert rows[0]["batch"] == rows[1]["batch"] != rows[2]["batch"]
    assert [float(row["transform_bias"]) for row in rows[:2]] == [-4.0, -1.0]
    assert rows[0]["train_loss"] != rows[1]["train_loss"]


@pytest.mark.slow
def test_data_settings_may_be_drawn(small_config, tmp_path):
    small_config.training.epochs = 1
    small_config.sweep.trials = 4
    small_config.sweep.draw.data = {"scaling": ("choice", "signed", "caffe")}
    small_config.sweep.draw.training = {"batch_size": ("choice", 10, 100)}
    rows = run(small_config, tmp_path)
    assert [row["status"] for row in rows] == ["finished"] * 4
    assert len({row["batch"] for row in rows}) > 1
    small_config.sweep.draw.training = {"batch_size": ("choice", 100, 5000)}
    with pytest.raises(UserError, match=r"batch_size is 5000; allowed: 1 to \d+"):
        run(small_config, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_diverged_trials_are_counted_and_never_averaged(small_config, tmp_path):
    small_config.training.epochs = 1
    small_config.cases.good = ConfigDict({})
    small_config.cases.bad = ConfigDict({"optimizer": {"learning_rate": 1e30}})
    good, bad = records.summarize(run(small_config, tmp_path))
    assert (good["diverged"], bad["diverged"], bad["trials"]) == (0, 2, 2)
    assert np.isfinite(good["test_accuracy_mean"])
    assert np.isnan(bad["test_accuracy_mean"])
    assert [row["test_accuracy"] == "" for row in _results(tmp_path)] == [False, False, True, True]


def test_a_net_without_blocks_has_no_gates_to_draw(small_config, tmp_path):
    small_config.model.depth = 1
    small_config.runtime.tensorboard = True
    small_config.runtime.gate_maps_every = 1
    assert [row["status"] for row in run(small_config, tmp_path)] == ["finished"] * 2


def test_a_changed_config_is_refused_by_name(small_config, tmp_path):
    small_config.training.epochs = 1
    run(small_config, tmp_path)
    before = (tmp_path / "config.json").read_bytes()
    small_config.model.depth = 4
    with pytest.raises(UserError, match=r"model\.depth from 3 to 4"):
        run(small_config, tmp_path)
    assert (tmp_path / "config.json").read_bytes() == before
    small_config.model.depth = 3
    small_config.runtime.chunk_seconds = 1.0
    run(small_config, tmp_path)


def test_a_batch_larger_than_the_data_is_refused(small_config, tmp_path):
    small_config.training.batch_size = 5000
    with pytest.raises(UserError, match=r"batch_size is 5000; allowed: 1 to \d+"):
        run(small_config, tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_two_runs_cannot_share_a_directory(small_config, tmp_path):
    with (
        experiment.Workdir(tmp_path).locked(),
        pytest.raises(UserError, match=r"in use by process \d+ on .+ since 20"),
    ):
        run(small_config, tmp_path)


def test_a_damaged_checkpoint_is_passed_over(small_config, tmp_path, stop_after, caplog):
    small_config.training.epochs = 6
    small_config.checkpoint.every_seconds = 0.0
    run(small_config, tmp_path / "whole")
    stop_after(6)
    with pytest.raises(Stopped):
        run(small_config, tmp_path / "cut")
    (directory,) = (tmp_path / "cut" / "checkpoints").iterdir()
    newest = Checkpoints(directory).steps()[-1]
    victim = max((directory / f"step_{newest:08d}").rglob("*"), key=lambda p: p.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 4
    victim.write_bytes(content)
    stop_after(10**9)
    run(small_config, tmp_path / "cut")
    assert f"checkpoint of step {newest} skipped" in caplog.text
    assert _results(tmp_path / "cut") == _results(tmp_path / "whole")


def test_a_batch_that_memory_does_not_hold_is_halved_before_it_starts(
    small_config, tmp_path, monkeypatch, caplog
):
    small_config.seeds = tuple(range(8))
    small_config.training.epochs = 1
    run(small_config, tmp_path / "whole")
    real = Program.memory

    def memory(self):
        needed, present = real(self)
        assert 10**5 < needed < present
        # Memory that two slots of a device fit in, and four do not.
        return (needed, present) if self.trials.num_slots <= 4 else (needed, needed - 1)

    monkeypatch.setattr(Program, "memory", memory)
    run(small_config, tmp_path / "halves")
    assert "its program needs" in caplog.text
    rows, whole = _results(tmp_path / "halves"), _results(tmp_path / "whole")
    assert {row.pop("batch")[:9] for row in rows} == {"0000-0003", "0004-0007"}
    assert {row.pop("batch")[:9] for row in whole} == {"0000-0007"}
    assert rows == whole


def test_a_backend_with_fewer_devices_than_cores_is_reported(monkeypatch, caplog):
    """jax computed something before the run, which fixes the number of devices."""

    def refuse(name, value):
        raise RuntimeError("config should be updated before backends are initialized")

    trial_mesh = experiment.trial_mesh
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    monkeypatch.setattr(trial_mesh, "num_cores", lambda: 4)
    for value, warned in ((-1, True), (2, False)):
        jax_config = types.SimpleNamespace(jax_num_cpu_devices=value, update=refuse)
        monkeypatch.setattr(
            trial_mesh, "jax", types.SimpleNamespace(config=jax_config, devices=jax.devices)
        )
        caplog.clear()
        trial_mesh.use_cores()
        assert len(caplog.records) == warned
        assert all("with 2 CPU cores, of 4 cores" in r.getMessage() for r in caplog.records)
    caplog.clear()
    monkeypatch.setattr(jax_config, "jax_num_cpu_devices", -1)
    trial_mesh.use_cores(2)  # As many as were requested.
    assert not caplog.records
