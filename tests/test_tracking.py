"""Weights & Biases and MLflow: what they get from a run, also from one that is interrupted."""

import importlib.util
import json
import logging
import struct
import time

import numpy as np
import pytest

from highway_jax.errors import UserError
from highway_jax.runs import experiment
from highway_jax.runs.experiment import run
from highway_jax.storage import records, tracking

NAMES = ("loss/train", "accuracy/train", "loss/valid", "accuracy/valid", "learning_rate")


def _interrupted(config, path, monkeypatch):
    """Runs a config of four epochs; it is killed after the third, with a checkpoint of the second.

    Returns:
        The lines of metrics.jsonl and the rows of results.csv.
    """
    config.training.epochs = 4
    config.checkpoint.every_seconds = 1e6
    add, added = records.Records.add_epoch, []

    def add_epoch(self, lines):
        add(self, lines)
        added.append(lines[0]["epoch"])
        if added == [1, 2, 3]:
            raise KeyboardInterrupt

    save = experiment.BatchRun._maybe_save

    def maybe_save(self, state, step):
        self._saved_at = -1e9 if step == 2 * self._program.steps_per_epoch else self._saved_at
        save(self, state, step)

    with monkeypatch.context() as patch:
        patch.setattr(records.Records, "add_epoch", add_epoch)
        patch.setattr(experiment.BatchRun, "_maybe_save", maybe_save)
        with pytest.raises(KeyboardInterrupt):
            run(config, path)
        rows = run(config, path)
    assert added == [1, 2, 3, 3, 4]
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()], rows


def _expected(lines, trial):
    names = {"loss/train": "train_loss", "accuracy/valid": "valid_accuracy"}
    return {
        tag: [(line["step"], line[name]) for line in lines if line["trial"] == trial]
        for tag, name in names.items()
    }


class Recorder:
    """A service in place of a real one: it keeps what it is asked to do."""

    calls: list = []  # noqa: RUF012

    def __init__(self, config, directory):
        self.name = config.record.wandb

    def open(self):
        self.calls.append(("open", self.name))

    def add_scalars(self, trial, values):
        self.calls.append(("scalars", trial["trial"], trial["step"], values))

    def add_settings(self, row, settings, measured):
        self.calls.append(("settings", row["trial"], settings, measured))

    def close(self):
        self.calls.append(("close",))


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setattr(tracking, "_WeightsAndBiases", Recorder)
    monkeypatch.setattr(tracking, "require", lambda *_: None)
    monkeypatch.setattr(Recorder, "calls", [])
    return Recorder


def test_a_tracker_gets_every_point_once(recorder, small_config, tmp_path, monkeypatch):
    small_config.record.wandb = "project"
    small_config.runtime.tensorboard = True
    lines, rows = _interrupted(small_config, tmp_path, monkeypatch)
    points = [call[1:] for call in recorder.calls if call[0] == "scalars"]
    for trial in (0, 1):
        for tag, expected in _expected(lines, trial).items():
            assert [(step, v[tag]) for t, step, v in points if t == trial] == expected
    settled = [call[1:] for call in recorder.calls if call[0] == "settings"]
    for (trial, settings, measured), row in zip(settled, rows, strict=True):
        assert (trial, settings["seed"]) == (row["trial"], row["seed"])
        assert measured["final/test_accuracy"] == row["test_accuracy"]
    assert recorder.calls[0] == ("open", "project")
    assert recorder.calls[-1] == ("close",)
    # TensorBoard had the third epoch twice, and shows it once; so too if a trial is repeated.
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (tmp_path / "results.csv").unlink()
    run(small_config, tmp_path)
    for row in rows:
        directory = tmp_path / "tensorboard" / f"small-{row['trial']}"
        events = reader.EventAccumulator(str(directory)).Reload()
        for tag, expected in _expected(lines, row["trial"]).items():
            shown = [(event.step, event.value) for event in events.Scalars(tag)]
            assert shown == [(step, pytest.approx(value)) for step, value in expected]
        assert [e.step for e in events.Scalars("final/test_loss")] == [row["steps"]]


def test_a_tracker_that_fails_is_reported_once_and_training_ends(
    recorder, small_config, tmp_path, monkeypatch, caplog
):
    small_config.record.wandb = "project"

    def fail(self, trial, values):
        self.calls.append("failed")
        raise ConnectionError("no route")

    monkeypatch.setattr(recorder, "add_scalars", fail)
    with caplog.at_level(logging.WARNING):
        rows = run(small_config, tmp_path)
    assert [row["status"] for row in rows] == ["finished"] * 2
    (line,) = [r.getMessage() for r in caplog.records if "record.wandb" in r.getMessage()]
    assert "no route; nothing more is sent there until the run is started again" in line
    assert recorder.calls.count("failed") == 1


def test_a_tracker_that_cannot_be_opened_stops_the_run_before_it_trains(
    recorder, small_config, tmp_path, monkeypatch
):
    small_config.record.wandb = "project"
    monkeypatch.setattr(recorder, "open", lambda self: 1 / 0)
    with pytest.raises(UserError, match=r"config\.record\.wandb is 'project'; allowed: what wandb"):
        run(small_config, tmp_path)
    assert not (tmp_path / "metrics.jsonl").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_a_missing_package_names_its_extra(name, small_config, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda module: None if module == name else find(module)
    )
    small_config.record[name] = "somewhere"
    with pytest.raises(UserError, match=rf"config\.record\.{name} needs {name}, .*\[{name}\]"):
        run(small_config, tmp_path)


@pytest.mark.filterwarnings("ignore")
def test_mlflow_has_every_point_once(small_config, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow", reason="install .[mlflow]")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    small_config.record.mlflow = (tmp_path / "store").as_uri()
    lines, rows = _interrupted(small_config, tmp_path / "run", monkeypatch)
    client = mlflow.MlflowClient(tracking_uri=small_config.record.mlflow)
    experiment_id = client.get_experiment_by_name("small").experiment_id
    found = {run.info.run_name: run for run in client.search_runs([experiment_id])}
    assert sorted(found) == ["small-0", "small-1"]
    for row in rows:
        own = found[f"small-{row['trial']}"]
        assert own.info.status == "FINISHED"
        assert own.data.params["seed"] == str(row["seed"])
        assert own.data.tags["status"] == "finished"
        expected = _expected(lines, row["trial"])
        expected["final/test_accuracy"] = [(row["steps"], row["test_accuracy"])]
        for tag, points in expected.items():
            history = client.get_metric_history(own.info.run_id, tag)
            assert sorted((point.step, point.value) for point in history) == points


def _records(content):
    """Yields the records of a file of W&B: a LevelDB log after a header of seven bytes."""
    position, parts = 7, b""
    while position + 7 <= len(content):
        if (left := 2**15 - position % 2**15) < 7:
            position += left
            continue
        length, kind = struct.unpack_from("<HB", content, position + 4)
        parts += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # A whole record, or the last part of one.
            yield parts
            parts = b""


@pytest.mark.filterwarnings("ignore")
def test_wandb_has_every_point_once(small_config, tmp_path, monkeypatch):
    """Offline, which leaves a file for each trial and start of the run."""
    pytest.importorskip("wandb", reason="install .[wandb]")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    small_config.record.wandb = "project"
    lines, rows = _interrupted(small_config, tmp_path, monkeypatch)
    points, finals, ids = {}, {}, set()
    for path in sorted(tmp_path.glob("wandb/offline-run-*/*.wandb")):
        own, records = None, []
        for _ in range(100):  # The service of W&B still writes once `finish` has returned.
            contents = _records(path.read_bytes())
            records = [wandb_internal_pb2.Record.FromString(content) for content in contents]
            if any(record.HasField("exit") for record in records):
                break
            time.sleep(0.1)
        for record in records:
            if record.HasField("run"):
                own = record.run.display_name
                ids.add(record.run.run_id)
            items = record.history.item if record.HasField("history") else ()
            values = {(i.key or "/".join(i.nested_key)): json.loads(i.value_json) for i in items}
            for tag in NAMES:
                if tag in values:
                    point = (values["_step"], values[tag])
                    points.setdefault((own, tag), []).append(point)
            for item in record.summary.update if record.HasField("summary") else ():
                finals[own, item.key or "/".join(item.nested_key)] = json.loads(item.value_json)
    assert len(ids) == 2  # A resumed trial is the same run.
    for row in rows:
        for tag, expected in _expected(lines, row["trial"]).items():
            assert points[f"small-{row['trial']}", tag] == expected
        final = finals[f"small-{row['trial']}", "final/test_accuracy"]
        assert np.isclose(final, row["test_accuracy"])
