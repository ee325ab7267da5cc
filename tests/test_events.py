"""The TensorBoard events of a run, as the reader of TensorBoard sees them."""

import io
import json

import numpy as np
import pytest
from PIL import Image
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from highway_jax.runs.experiment import run
from highway_jax.storage import records

reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")


def _events(directory):
    """Returns what TensorBoard shows of a directory."""
    return reader.EventAccumulator(
        str(directory), dict.fromkeys(reader.DEFAULT_SIZE_GUIDANCE, 0)
    ).Reload()


def _points(directory):
    """Returns the (step, value) of each scalar of a directory by tag."""
    events = _events(directory)
    return {t: [(e.step, e.value) for e in events.Scalars(t)] for t in events.Tags()["scalars"]}


def _hparams(events, name):
    content = events.SummaryMetadata(f"_hparams_/{name}").plugin_data.content
    return HParamsPluginData.FromString(content)


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    from highway_jax import default_config

    config = default_config()
    config.data.valid_size = 100
    config.model.depth, config.model.width = 4, 6
    config.training.epochs = 3
    config.sweep.trials = 3
    config.runtime.max_trials = 1  # The best of the rung is known after its last batch.
    config.sweep.rung_epochs, config.sweep.rung_keeps = (1,), (1,)
    config.sweep.draw.optimizer = {"learning_rate": ("log_uniform", 0.01, 0.1)}
    config.sweep.draw.training = {"label_smoothing": ("uniform", 0.1, 0.3)}
    config.runtime.progress = False
    config.runtime.gate_maps_every = 2
    path = tmp_path_factory.mktemp("sweep")
    return path, run(config, path)


def _directory(path, trial):
    (directory,) = path.glob(f"tensorboard/*-{trial}")
    return directory


def test_a_trial_has_one_short_name_and_its_curves(sweep):
    path, rows = sweep
    names = sorted(directory.name for directory in (path / "tensorboard").iterdir())
    assert names == ["run-0", "run-1", "run-2"]
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        points = _points(_directory(path, row["trial"]))
        own = [line for line in lines if line["trial"] == row["trial"]]
        assert len(own) == (3 if row["status"] == "finished" else 1)
        for tag, metric in (
            ("loss/train", "train_loss"),
            ("accuracy/valid", "valid_accuracy"),
            ("learning_rate", "learning_rate"),
        ):
            expected = [(line["step"], pytest.approx(line[metric])) for line in own]
            assert points[tag] == expected
        assert own[0]["step"] > 10  # Steps, not epochs.
        assert "accuracy/test" not in points  # The test split is read once, after training.


def test_final_evaluations_have_tags_of_their_own(sweep):
    """A running mean and an evaluation of the same epoch have different values."""
    path, rows = sweep
    for row in rows:
        directory = _directory(path, row["trial"])
        points = _points(directory)
        for metric in records.MEASURED:
            known = np.isfinite(row[metric])
            measured = [(row["steps"], pytest.approx(row[metric]))] if known else []
            assert points.get(f"final/{metric}", []) == measured
        assert points["final/train_loss"][0][1] != points["loss/train"][-1][1]
        infos = _hparams(_events(directory), "experiment").experiment.metric_infos
        assert {info.name.tag for info in infos} == {t for t in points if t.startswith("final/")}


def test_every_trial_has_its_settings(sweep):
    path, rows = sweep
    for row in rows:
        start = _hparams(_events(_directory(path, row["trial"])), "session_start_info")
        settings = start.session_start_info.hparams
        rate = settings["learning_rate"].number_value
        assert rate == pytest.approx(row["learning_rate"])
        assert settings["status"].string_value == row["status"]
        assert {*records.SHOWN, "training.label_smoothing"} == set(settings)
        smoothing = settings["training.label_smoothing"].number_value
        assert smoothing == pytest.approx(row["training.label_smoothing"])
    assert len({row["learning_rate"] for row in rows}) == 3


def test_the_gates_are_drawn(sweep):
    path, rows = sweep
    (best,) = [row for row in rows if row["status"] == "finished"]
    maps = _events(_directory(path, best["trial"])).Images("gates")
    assert len(maps) == 3  # After each rung's last epoch, and after every second.
    with Image.open(io.BytesIO(maps[-1].encoded_image_string)) as picture:
        pixels = np.asarray(picture.convert("L"))
    # Three blocks of six gates, eight pixels each.
    assert pixels.shape == (3 * 8, 6 * 8)
    gates = pixels[::8, ::8] / 255
    assert (pixels == np.kron(pixels[::8, ::8], np.ones((8, 8)))).all()
    # From the initial bias of -2, gates are about 0.12.
    assert 0.05 < gates.mean() < 0.3
    assert gates.std() > 0
