"""Several devices train a trial together, as one device does to rounding."""

import os
import pickle
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest

import highway_jax
from highway_jax.config import config as config_lib
from highway_jax.errors import UserError
from highway_jax.nn.architectures import Blocks, Dropout, GlobalAverage, MaxPool, Plain
from highway_jax.registry import ARCHITECTURES
from highway_jax.runs import experiment
from highway_jax.sweep import planning
from highway_jax.training import trial_mesh
from highway_jax.training.parts import arrange
from highway_jax.training.program import Program

NUM_STEPS = 3
NETS = {
    "dense": {"model.depth": 3},
    # As many devices a trial as are fastest.
    "convolutional": {
        "model.architecture": "tiny",
        "model.depth": 4,
        "data.random_crop_padding": 1,
        "data.random_flip": True,
        "optimizer.weight_decay": 1e-3,
    },
}
QUICK = [("convolutional", "vmap", 5)]
SLOW = [(net, mode, n) for net in NETS for mode in ("map", "vmap") for n in (1, 5)]
NUM_DEVICES = {"QUICK": 4, "SLOW": 8}


def _tiny(width):
    return (Dropout(0.2), Plain(width), MaxPool(), Dropout(0.3), Blocks(2), GlobalAverage())


@pytest.fixture
def tiny(monkeypatch):
    list(ARCHITECTURES)  # The built-in entries.
    monkeypatch.setitem(ARCHITECTURES._entries, "tiny", _tiny)


def _config(num_trials, **settings):
    config = highway_jax.default_config()
    config.seeds = tuple(range(num_trials))
    settings = {
        "data.valid_size": 101,
        "model.width": 4,
        "training.batch_size": 80,
        "evaluation.batch_size": 30,
        "runtime.progress": False,
        "runtime.tensorboard": False,
    } | settings
    for key, value in settings.items():
        config_lib.put(config, key, value)
    config_lib.validate(config)
    return config


def _program(num_trials, **settings):
    config = _config(num_trials, **settings)
    batch, *_ = planning.plan(config, [])
    return Program(batch, experiment.load_data(config.data)), batch.hyperparameters()


def _train(num_trials, **settings):
    """Returns the shape of the mesh, the states and the metrics of the validation split."""
    program, numbers = _program(num_trials, **settings)
    state = program.train(program.create(numbers), NUM_STEPS)
    shape, valid = program.trials.mesh.devices.shape, program.evaluate(state.params, "valid")
    return shape, jax.tree.map(np.asarray, tuple(program.trials.fetch(state))), tuple(valid)


def _train_all(chosen):
    """Returns what `_train` returns for nets, modes and numbers of trials, and on one device."""
    ARCHITECTURES.register("tiny")(_tiny)
    found = {}
    alone = {"runtime.batch_devices": 1, "runtime.devices": 1, "runtime.trial_axis": "map"}
    for net in {net for net, *_ in chosen}:
        found[net] = _train(5, **NETS[net] | alone)
    # Dense nets in two rows of half the devices each, and convolutional ones in the quick form.
    half = jax.device_count() // 2
    rows = {"dense": {"runtime.batch_devices": half}, "convolutional": {}}
    if chosen == QUICK:
        rows["convolutional"] = {"runtime.batch_devices": half}
    for net, mode, count in chosen:
        settings = NETS[net] | rows[net] | {"runtime.trial_axis": mode}
        found[net, mode, count] = _train(count, **settings)
    return found


@pytest.fixture(
    scope="module", params=["QUICK", pytest.param("SLOW", marks=pytest.mark.slow)], ids=str.lower
)
def trained(request, tmp_path_factory):
    """The number of devices of a process, and what `_train_all` returns there."""
    path = tmp_path_factory.mktemp("mesh") / "trained"
    count = NUM_DEVICES[request.param]
    environment = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(count)}
    command = [sys.executable, __file__, request.param, str(path)]
    done = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return count, pickle.loads(path.read_bytes())


def _assert_close(found, expected):
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-4, atol=1e-5), found, expected
    )


def test_several_devices_train_as_one(trained):
    count, states = trained
    together = {key: value for key, value in states.items() if key not in NETS}
    assert len(together) in (len(QUICK), len(SLOW))
    for (net, mode, num_trials), (shape, *found) in together.items():
        _, *expected = states[net]
        in_rows = net == "dense" or count == NUM_DEVICES["QUICK"]
        assert shape == ((min(num_trials, 2), count // 2) if in_rows else (1, count)), mode
        _assert_close(found, jax.tree.map(lambda leaf, n=num_trials: leaf[:n], expected))
        _, (_, _, counts) = found
        assert counts.tolist() == [101] * num_trials


def _together(**settings):
    return {"runtime.batch_devices": 2, "runtime.trial_axis": "map"} | settings


@pytest.mark.slow
def test_augmentation_and_dropout_are_drawn_for_the_example(tiny):
    """Two devices agree with one only if a device's part has the draws of the whole batch."""
    settings = NETS["convolutional"]
    program, numbers = _program(1, **settings, **_together())
    two = program.trials.fetch(program.train(program.create(numbers), 1))
    alone, _ = _program(1, **settings, **_together(**{"runtime.batch_devices": 1}))
    one = alone.trials.fetch(alone.train(alone.create(numbers), 1))
    _assert_close(tuple(two), tuple(one))
    # Augmentation and dropout change the loss by far more than rounding.
    calm, _ = _program(1, **settings | {"data.random_flip": False}, **_together())
    other = calm.trials.fetch(calm.train(calm.create(numbers), 1))
    assert np.abs(other.sums.loss - one.sums.loss).max() > 1e-3


@pytest.mark.parametrize("mode", ["map", pytest.param("vmap", marks=pytest.mark.slow)])
def test_a_diverging_trial_is_frozen_on_all_its_devices_alike(mode):
    settings = NETS["dense"] | _together(**{"runtime.trial_axis": mode})
    program, numbers = _program(3, **settings)
    assert program.trials.mesh.devices.shape == (1, 2)
    expected = program.trials.fetch(program.train(program.create(numbers), 8))
    rates = np.where(np.arange(3) == 1, np.float32(1e30), numbers.learning_rate)
    state = program.train(program.create(numbers._replace(learning_rate=rates)), 8)
    for leaf in jax.tree.leaves(state):
        first, second = (shard.data for shard in leaf.addressable_shards)
        np.testing.assert_array_equal(first, second)
    found = program.trials.fetch(state)
    assert found.diverged.tolist() == [False, True, False]
    assert found.step[0] == 8 > found.step[1] > 0
    for i in (0, 2):
        jax.tree.map(lambda a, e, i=i: np.testing.assert_array_equal(a[i], e[i]), found, expected)


def test_a_stop_changes_no_bit():
    program, numbers = _program(3, **NETS["dense"] | _together())
    whole = program.trials.fetch(program.train(program.create(numbers), 5))
    stopped = program.trials.fetch(program.train(program.create(numbers), 2))
    resumed = program.trials.fetch(program.train(program.trials.place(stopped), 3))
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


@pytest.mark.parametrize(
    ("net", "counts"),
    [
        ("dense", (2, 1)),
        *(
            pytest.param("convolutional", counts, marks=pytest.mark.slow)
            for counts in ((2, 1), (1, 2))
        ),
    ],
)
def test_a_run_resumes_on_another_mesh(net, counts, tiny, tmp_path):
    settings = NETS[net] | {"training.epochs": 2, "runtime.trial_axis": "map"}
    num_trials = 3 if net == "dense" else 1
    whole = highway_jax.run(
        _config(num_trials, **settings | {"runtime.batch_devices": counts[0]}), tmp_path / "whole"
    )
    for epochs, count in zip((1, 2), counts, strict=True):
        changed = {"training.epochs": epochs, "runtime.batch_devices": count}
        found = highway_jax.run(
            _config(num_trials, **settings | changed), tmp_path / "run", extend=epochs == 2
        )
    for row, expected in zip(found, whole, strict=True):
        for split in ("train", "valid", "test"):
            key = f"{split}_loss"
            assert row[key] == pytest.approx(expected[key], rel=1e-3)
        assert row["steps"] == expected["steps"] > 20


@pytest.mark.parametrize(("most", "expected"), [(0, 10), (30, 20), (1000, 40)])
def test_micro_batches_divide_the_part_of_a_device(most, expected, tiny):
    settings = NETS["convolutional"] | _together(**{"runtime.micro_batch": most})
    task = _program(1, **settings)[0].task
    assert (task.parts.count, task.micro_batch) == (2, expected)


def test_one_device_trains_a_dense_net_by_default(tiny):
    assert _program(1)[0].trials.mesh.devices.shape == (1, 1)
    assert _program(1, **NETS["convolutional"])[0].trials.mesh.devices.shape == (1, 2)
    few = {"training.batch_size": 14}
    assert _program(1, **NETS["convolutional"] | few)[0].trials.mesh.devices.shape == (1, 1)


@pytest.mark.parametrize(
    ("per_process", "num_trials", "allowed", "expected"),
    [
        ((8,), 5, (1, 2, 4, 5), (2, 4)),
        ((8,), 1, (1, 2, 4, 5), (1, 5)),
        ((8,), 8, (1, 2, 4, 8), (8, 1)),
        ((8,), 16, (1, 2, 4, 8), (8, 1)),
        ((8,), 9, (1, 2, 4, 8), (1, 8)),
        ((8,), 5, (1,), (5, 1)),
        ((2,), 3, (1, 2), (1, 2)),
        # Rows lie in one process.
        ((4, 4), 1, (1, 2, 4, 8), (2, 4)),
        ((3, 3), 1, (2,), (2, 2)),
        ((3, 5), 1, (2,), (3, 2)),
        # Where they cannot, they have all devices.
        ((2, 2), 1, (4,), (1, 4)),
        ((1, 1), 3, (2,), (1, 2)),
    ],
)
def test_the_fastest_mesh_is_chosen(per_process, num_trials, allowed, expected):
    grid = arrange(_devices(per_process), num_trials, allowed)
    assert grid.shape == expected
    if grid.shape[1] <= min(per_process):
        assert all(len({device.process_index for device in row}) == 1 for row in grid)
    if len(per_process) > 1:
        assert {device.process_index for device in grid.flat} == set(range(len(per_process)))


def _devices(per_process):
    return [
        types.SimpleNamespace(process_index=index, platform="cpu")
        for index, count in enumerate(per_process)
        for _ in range(count)
    ]


@pytest.mark.parametrize(
    ("per_process", "count", "message"),
    [
        ((2,), 3, "config.runtime.batch_devices is 3; allowed: 0 to 2, the cpu devices here"),
        ((2, 2), 3, "is 3; allowed: 0 to 2, the cpu devices of a process, or a divisor of 4"),
    ],
)
def test_more_devices_than_there_are_are_refused(per_process, count, message):
    with pytest.raises(UserError, match=message):
        arrange(_devices(per_process), 1, (count,))


def test_a_run_refuses_a_number_of_devices_before_it_writes(tmp_path):
    config = _config(1, **{"runtime.batch_devices": 4})
    with pytest.raises(UserError, match=r"config.runtime.batch_devices is 4; allowed: 0 to 2"):
        highway_jax.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    config.runtime.batch_devices = 3
    message = r"config.runtime.batch_devices is 3; allowed: 0, or a divisor of .*batch_size, 80"
    with pytest.raises(UserError, match=message):
        highway_jax.run(config, tmp_path / "run")


if __name__ == "__main__":
    chosen = {"QUICK": QUICK, "SLOW": SLOW}[sys.argv[1]]
    Path(sys.argv[2]).write_bytes(pickle.dumps(_train_all(chosen)))


@pytest.mark.parametrize(("count", "least"), [(1, 3), (2, 3), (3, None), (0, None)])
def test_every_process_of_a_run_has_a_device(count, least, monkeypatch):
    found = [types.SimpleNamespace(process_index=i, platform="cpu") for i in (0, 0, 1, 1)]
    monkeypatch.setattr(jax, "devices", lambda: found)
    if least is None:
        assert trial_mesh.devices(count) == found[: count or 4]
    else:
        words = rf"runtime.devices is {count}; allowed: 0, or {least} to 4, so that each process"
        with pytest.raises(UserError, match=words):
            trial_mesh.devices(count)
