"""The TensorBoard events of a run, read from its event files."""

import io
import json
import struct
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from highway_jax.runs.experiment import run
from highway_jax.storage import records


def _events(directory):
    """Returns the summary values of all event files of a directory, (step, value) by tag."""
    found = defaultdict(list)
    for path in sorted(directory.glob("events*")):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            for value in event.summary.value:
                found[value.tag].append((event.step, value))
            place += 16 + length
    return found


def _session(events, kind):
    ((_, value),) = events[f"_hparams_/session_{kind}_info"]
    return HParamsPluginData.FromString(value.metadata.plugin_data.content)


def _session_metrics(events):
    """Returns the metrics that the HParams tab shows."""
    ((_, value),) = events["_hparams_/experiment"]
    data = HParamsPluginData.FromString(value.metadata.plugin_data.content)
    return data.experiment.metric_infos


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    from highway_jax import default_config

    config = default_config()
    config.data.valid_size = 100
    config.model.depth, config.model.width = 4, 6
    config.training.epochs = 3
    config.sweep.trials = 3
    config.sweep.rung_epochs, config.sweep.rung_keeps = (1,), (1,)
    config.sweep.draw.optimizer = {
        "learning_rate": ("log_uniform", 0.01, 0.1),
        "clip_norm": ("choice", 1.0, 2.0),
    }
    config.runtime.progress = False
    config.runtime.gate_maps_every = 2
    path = tmp_path_factory.mktemp("sweep")
    return path, run(config, path)


def test_a_trial_has_its_curves(sweep):
    path, rows = sweep
    (best,) = [row for row in rows if row["status"] == "finished"]
    (directory,) = path.glob(f"tensorboard/*rung1/*-trial{best['trial']}")
    curves = _events(directory)
    losses = {step: value.simple_value for step, value in curves["loss/train"]}
    assert sorted(losses) == [2, 3]
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    (last,) = [ln for ln in lines if (ln["trial"], ln["epoch"]) == (best["trial"], 3)]
    assert losses[3] == pytest.approx(last["train_loss"], rel=1e-5)
    assert losses[3] != pytest.approx(best["train_loss"], rel=1e-5)
    for tag in ("learning_rate", "accuracy/train", "loss/valid", "accuracy/valid"):
        assert len(curves[tag]) >= 2
    assert not curves["accuracy/test"]  # The test split is read once, after training.


def test_final_evaluations_have_tags_of_their_own(sweep):
    """A running mean and an evaluation of the same epoch have different values."""
    path, rows = sweep
    for directory in path.glob("tensorboard/*/*-trial*"):
        curves = _events(directory)
        for tag, points in curves.items():
            steps = [step for step, _ in points]
            assert len(set(steps)) == len(steps), tag
    for row in rows:
        found = [
            events
            for directory in path.glob(f"tensorboard/*/*-trial{row['trial']}")
            if (events := _events(directory))["final/train_loss"]
        ]
        (events,) = found
        for metric in records.MEASURED:
            values = [(step, value.simple_value) for step, value in events[f"final/{metric}"]]
            measured = [(row["epochs"], row[metric])] if np.isfinite(row[metric]) else []
            assert values == [(step, pytest.approx(value)) for step, value in measured]
        names = {metric.name.tag for metric in _session_metrics(events)}
        assert names == {tag for tag in events if tag.startswith("final/") and events[tag]}


def test_every_trial_has_its_settings_once(sweep):
    path, rows = sweep
    for row in rows:
        found = [
            _session(events, "start")
            for directory in path.glob(f"tensorboard/*/*-trial{row['trial']}")
            if (events := _events(directory))["_hparams_/session_start_info"]
        ]
        (start,) = found
        settings = start.session_start_info.hparams
        rate = settings["learning_rate"].number_value
        assert rate == pytest.approx(row["learning_rate"])
        assert settings["status"].string_value == row["status"]
        assert {*records.SHOWN, "optimizer.clip_norm"} == set(settings)
        assert settings["optimizer.clip_norm"].number_value == row["optimizer.clip_norm"]
    assert len({row["learning_rate"] for row in rows}) == 3


def test_the_gates_are_drawn(sweep):
    path, rows = sweep
    (best,) = [row for row in rows if row["status"] == "finished"]
    (directory,) = path.glob(f"tensorboard/*rung1/*-trial{best['trial']}")
    maps = _events(directory)["gates"]
    assert [step for step, _ in maps] == [2, 3]
    with Image.open(io.BytesIO(maps[-1][1].image.encoded_image_string)) as picture:
        pixels = np.asarray(picture.convert("L"))
    # Three blocks of six gates, eight pixels each.
    assert pixels.shape == (3 * 8, 6 * 8)
    gates = pixels[::8, ::8] / 255
    assert (pixels == np.kron(pixels[::8, ::8], np.ones((8, 8)))).all()
    # From the initial bias of -2, gates are about 0.12.
    assert 0.05 < gates.mean() < 0.3
    assert gates.std() > 0
