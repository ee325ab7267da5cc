"""Faults within a run: values that are not finite, memory, changed conditions."""

import csv
import json
import signal

import fault_tools
import jax
import numpy as np
import pytest
from fault_tools import Run
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from highway_jax import UserError, main, run
from highway_jax.errors import Lost
from highway_jax.runs import experiment
from highway_jax.runtime import compile_cache
from highway_jax.storage import records
from highway_jax.training.program import Program


@pytest.fixture
def quick_config(small_config):
    small_config.training.epochs = 1
    return small_config


def _rows(workdir):
    with (workdir / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _without_clock(row, *more):
    return {k: v for k, v in row.items() if k not in (*fault_tools.CLOCK, *more)}


@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_one_diverging_trial_leaves_the_others_bit_identical(
    number, quick_config, tmp_path, monkeypatch
):
    quick_config.seeds = (0, 1, 2)
    quick_config.training.epochs = 2
    quick_config.checkpoint.every_seconds = 0.0
    run(quick_config, tmp_path / "whole")
    real = Program.create

    def create(self, numbers):
        state = self.trials.fetch(real(self, numbers))

        def poison(leaf):
            leaf = np.array(leaf)
            leaf[1] = number
            return leaf

        return self.trials.place(state._replace(params=jax.tree.map(poison, state.params)))

    monkeypatch.setattr(Program, "create", create)
    rows = run(quick_config, tmp_path / "one")
    assert [row["status"] for row in rows] == ["finished", "diverged", "finished"]
    for whole, one in zip(_rows(tmp_path / "whole"), _rows(tmp_path / "one"), strict=True):
        if one["trial"] != "1":
            assert _without_clock(one) == _without_clock(whole)
    (summary,) = records.summarize(rows)
    accuracies = [row["test_accuracy"] for row in rows if row["trial"] != 1]
    assert summary["test_accuracy_mean"] == np.mean(accuracies)
    assert np.isfinite([summary["test_accuracy_std"], summary["train_loss_mean"]]).all()
    (batch,) = (tmp_path / "one" / "checkpoints").iterdir()
    steps = sorted(int(path.stem.removeprefix("step_")) for path in batch.glob("*.json"))
    assert steps == [13, 26]  # The newest is kept, whatever it holds.


def test_a_net_that_the_last_step_broke_is_not_averaged(quick_config, tmp_path):
    """After a step with an infinite rate, the loss was finite and the parameters are not."""
    quick_config.training.batch_size = 1337
    quick_config.cases.good = ConfigDict({})
    quick_config.cases.bad = ConfigDict({"optimizer": {"learning_rate": 1e30}})
    good, bad = records.summarize(run(quick_config, tmp_path))
    assert (good["diverged"], bad["diverged"]) == (0, 2)
    assert np.isfinite(good["train_loss_mean"])
    assert np.isnan(bad["train_loss_mean"])


def test_divergence_of_all_trials_is_reported_at_the_end(tmp_path, monkeypatch, capsys, caplog):
    # The net and the data of `small_config`, whose program other tests use.
    settings = {"model.width": 8, "model.depth": 3, "data.subtract_mean": False}
    settings |= {"optimizer.learning_rate": 1e30, "seeds": "0,1"}
    one = Run(tmp_path / "run", **settings)
    monkeypatch.chdir(fault_tools.ROOT)
    words = one.words()
    assert main.main(words[words.index("highway_jax.main") :]) == 0
    assert "every trial diverged: its loss became infinite or NaN" in caplog.text
    # Frozen trials take steps in no time; a rate of them would be nonsense.
    end = capsys.readouterr().out
    assert any(line.endswith("every trial diverged") for line in end.splitlines()), end
    assert [row["status"] for row in _rows(one.workdir)] == ["diverged"] * 2


@pytest.mark.slow
def test_out_of_memory_affects_only_its_batch(cache, tmp_path):
    cases = "{'a':{},'b':{'model':{'width':1000000}},'c':{'model':{'width':5}}}"
    settings = {"cases": cases, "seeds": "0"}
    one = Run(tmp_path / "run", cache, **settings)
    text = one.finish()
    assert "Out of memory" in text
    assert [row["status"] for row in _rows(one.workdir)] == ["finished", "failed", "finished"]
    assert "remove its row from results.csv" in text


def test_where_every_trial_fails_the_status_says_so(monkeypatch, capsys, tmp_path):
    row = dict.fromkeys(records.RESULTS, 1) | {"case": "a", "status": "failed", "diverged": False}
    nothing = dict.fromkeys(records.MEASURED, np.nan)
    monkeypatch.setattr(experiment, "run", lambda config, workdir, extend, display: [row | nothing])
    monkeypatch.chdir(fault_tools.ROOT)
    words = ["highway-jax", "--config=experiments/digits.py", f"--workdir={tmp_path}"]
    assert main.main(words) == 2
    assert f"error: {tmp_path}/results.csv: every trial failed" in capsys.readouterr().err


def test_a_compile_error_affects_only_its_batch(quick_config, tmp_path, monkeypatch):
    quick_config.seeds = (0, 1, 2, 3)
    real = Program.compile

    def compile_(self, numbers):
        if 2 in numbers.seed:
            raise JaxRuntimeError("INTERNAL: no such instruction")
        return real(self, numbers)

    monkeypatch.setattr(Program, "compile", compile_)
    rows = run(quick_config, tmp_path)
    assert [row["status"] for row in rows] == ["finished", "finished", "failed", "finished"]
    monkeypatch.setattr(Program, "compile", real)
    table = (tmp_path / "results.csv").read_text().splitlines(keepends=True)
    del table[3]
    (tmp_path / "results.csv").write_text("".join(table))
    rows = run(quick_config, tmp_path)
    assert [row["status"] for row in rows] == ["finished"] * 4
    fault_tools.assert_no_row_is_missing(tmp_path, 4, 1)


def test_a_device_that_cannot_compute_at_all_is_not_a_failed_trial(
    quick_config, tmp_path, monkeypatch
):
    def fail(*_):
        raise JaxRuntimeError("FAILED_PRECONDITION: DNN library initialization failed")

    real = Program.compile
    with monkeypatch.context() as patch:
        patch.setattr(Program, "compile", fail)
        patch.setattr(experiment.trial_mesh, "check_devices", fail)
        with pytest.raises(Lost, match=r"a device failed .*DNN library.*repeat the command"):
            run(quick_config, tmp_path)
    assert not (tmp_path / "results.csv").exists()
    assert Program.compile is real
    assert {row["status"] for row in run(quick_config, tmp_path)} == {"finished"}


def test_a_compiler_that_runs_out_of_memory_makes_halves(quick_config, tmp_path, monkeypatch):
    quick_config.seeds = (0, 1, 2, 3)
    real, sizes = Program.compile, []

    def compile_(self, numbers):
        sizes.append(len(numbers.seed))
        if sizes[-1] > 1:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm")
        return real(self, numbers)

    monkeypatch.setattr(Program, "compile", compile_)
    assert [row["status"] for row in run(quick_config, tmp_path)] == ["finished"] * 4
    assert sizes == [4, 2, 1, 1, 2, 1, 1]


def test_memory_that_is_not_known_stops_nothing(quick_config, tmp_path, monkeypatch):
    monkeypatch.setattr(experiment.trial_mesh, "device_memory", lambda device: None)
    assert {row["status"] for row in run(quick_config, tmp_path)} == {"finished"}


def test_out_of_memory_during_training_resumes_in_halves(quick_config, tmp_path, monkeypatch):
    quick_config.seeds = tuple(range(8))
    quick_config.training.epochs = 4
    quick_config.checkpoint.every_seconds = 0.0
    run(quick_config, tmp_path / "whole")
    real, sizes = Program.train, []

    def train(self, state, num_steps):
        sizes.append((len(state.diverged), int(self.trials.fetch(state.step).max())))
        if len(state.diverged) > 4 and sizes[-1][1] >= 26:
            raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")
        return real(self, state, num_steps)

    monkeypatch.setattr(Program, "train", train)
    run(quick_config, tmp_path / "cut")
    # The halves began where the whole was saved, not at the beginning.
    assert min(step for size, step in sizes if size == 4) == 26
    whole, cut = _rows(tmp_path / "whole"), _rows(tmp_path / "cut")
    assert [_without_clock(r, "batch") for r in whole] == [_without_clock(r, "batch") for r in cut]
    fault_tools.assert_no_row_is_missing(tmp_path / "cut", 8, 4)
    names = sorted(path.name[:9] for path in (tmp_path / "cut" / "checkpoints").iterdir())
    assert names == ["0000-0003", "0004-0007"]


def test_a_device_that_fails_is_not_a_failed_trial(quick_config, tmp_path, monkeypatch):
    quick_config.checkpoint.every_seconds = 0.0
    quick_config.training.epochs = 3
    run(quick_config, tmp_path / "whole")
    real = Program.train

    def train(self, state, num_steps):
        if self.trials.fetch(state.step).max() >= 13:
            raise JaxRuntimeError("INTERNAL: CUDA error: an illegal memory access was encountered")
        return real(self, state, num_steps)

    monkeypatch.setattr(Program, "train", train)
    with pytest.raises(Lost, match=r"a device failed .*repeat the command"):
        run(quick_config, tmp_path / "cut")
    assert not (tmp_path / "cut" / "results.csv").exists()
    monkeypatch.setattr(Program, "train", real)
    run(quick_config, tmp_path / "cut")
    assert fault_tools.left(tmp_path / "cut") == fault_tools.left(tmp_path / "whole")


def test_a_failed_device_has_a_status_of_its_own(monkeypatch, capsys, tmp_path):
    def lose(config, workdir, extend, display):
        raise Lost("a device failed")

    monkeypatch.setattr(experiment, "run", lose)
    words = ["highway-jax", "--config=experiments/digits.py", f"--workdir={tmp_path}"]
    monkeypatch.chdir(fault_tools.ROOT)
    assert main.main(words) == 75
    assert capsys.readouterr().err == "error: a device failed\n"


@pytest.mark.parametrize(
    "devices",
    [pytest.param((2, 1), marks=pytest.mark.slow), pytest.param((1, 2), marks=pytest.mark.faults)],
)
def test_resume_on_other_devices_is_bit_identical(devices, cache, tmp_path):
    """Fewer or more devices, and another `max_trials`, between the starts of a run."""
    settings = {"seeds": "0,1,2", "training.epochs": 6}
    whole = Run(tmp_path / "whole", cache, **settings)
    whole.finish()
    one = Run(tmp_path / "run", cache, **settings)
    one.environment["JAX_NUM_CPU_DEVICES"] = str(devices[0])
    process = one.start()
    one.wait_for(process, "metrics.jsonl")
    process.send_signal(signal.SIGTERM)
    assert process.wait(fault_tools.SECONDS) == 143
    one.environment["JAX_NUM_CPU_DEVICES"] = str(devices[1])
    text = one.finish(**{"runtime.max_trials": 1})
    assert "resuming from the checkpoint" in text
    assert fault_tools.left(one.workdir) == fault_tools.left(whole.workdir)


@pytest.mark.parametrize(
    ("setting", "value", "words"),
    [
        ("training.epochs", 3, "changed training.epochs from 1 to 3"),
        ("seeds", (0, 1, 2), "changed seeds from [0, 1] to [0, 1, 2]"),
        ("optimizer.learning_rate", 0.5, "changed optimizer.learning_rate from 0.05 to 0.5"),
        ("data.split_seed", 1, "changed data.split_seed from 0 to 1"),
    ],
)
def test_another_config_is_refused_by_name(setting, value, words, quick_config, tmp_path):
    run(quick_config, tmp_path)
    before = (tmp_path / "results.csv").read_bytes()
    section, _, leaf = setting.rpartition(".")
    (quick_config[section] if section else quick_config)[leaf] = value
    with pytest.raises(UserError) as caught:
        run(quick_config, tmp_path)
    assert words in str(caught.value)
    assert (tmp_path / "results.csv").read_bytes() == before


def test_other_data_are_refused(quick_config, tmp_path, monkeypatch):
    run(quick_config, tmp_path)
    real = experiment.load_data

    def load(section):
        dataset = real(section)
        dataset.train.images[0, 0, 0] ^= 1
        return dataset

    monkeypatch.setattr(experiment, "load_data", load)
    with pytest.raises(UserError, match=r"holds a run on other data: digits had fingerprint \w+"):
        run(quick_config, tmp_path)


@pytest.mark.parametrize("content", [None, "{", "[1]"])
def test_an_environment_that_cannot_be_read_is_refused(content, quick_config, tmp_path):
    run(quick_config, tmp_path)
    path = tmp_path / "environment.json"
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(UserError, match=r"environment\.json: cannot be read"):
        run(quick_config, tmp_path)


def test_a_changed_jax_or_processor_is_reported_and_recorded(quick_config, tmp_path, caplog):
    run(quick_config, tmp_path)
    (tmp_path / "results.csv").unlink()
    path = tmp_path / "environment.json"
    before = json.loads(path.read_text())
    jax = before["versions"]["jax"]
    before["versions"]["jax"], before["processor"], before["num_devices"] = "0.1.2", "Other", 99
    path.write_text(json.dumps(before))
    run(quick_config, tmp_path)
    assert f"versions.jax from '0.1.2' to '{jax}'" in caplog.text
    assert "processor from 'Other' to" in caplog.text
    assert "may differ in the last bits" in caplog.text
    assert "num_devices" not in caplog.text
    after = json.loads(path.read_text())
    assert after["versions"]["jax"] == jax
    assert [e["versions"]["jax"] for e in after["earlier"]] == ["0.1.2"]
    assert after["data_fingerprint"] == before["data_fingerprint"]
    caplog.clear()
    (tmp_path / "results.csv").unlink()
    run(quick_config, tmp_path)
    assert caplog.text == ""


def _entries(cache):
    (directory,) = cache.iterdir()
    return sorted(directory.glob("*-cache"))


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0.0, 0.5])
def test_a_trial_resumes_whether_or_not_others_of_its_batch_decay_weights(
    kept, quick_config, tmp_path
):
    quick_config.seeds = (0,)
    quick_config.sweep.grid = ConfigDict({"optimizer": {"weight_decay": (0.0, 0.5)}})
    rows = run(quick_config, tmp_path)
    lost = int(rows[0]["weight_decay"] != kept)
    table = tmp_path / "results.csv"
    lines = table.read_text().splitlines(keepends=True)
    del lines[1 + lost]
    table.write_text("".join(lines))
    again = run(quick_config, tmp_path)
    assert [_without_clock(row, "batch") for row in again] == [
        _without_clock(row, "batch") for row in rows
    ]
    # A checkpoint of an earlier version does not say whether it decays weights.
    for manifest in (tmp_path / "checkpoints").glob("*/step_*.json"):
        content = json.loads(manifest.read_text())
        content["extra"].pop("decays_weights", None)
        del content["sha256"]
        manifest.write_text(json.dumps(content))
    del lines[1:]
    table.write_text("".join(lines))
    again = run(quick_config, tmp_path)
    assert [row["train_loss"] for row in again] == [row["train_loss"] for row in rows]


def test_a_search_goes_to_its_next_rung_with_trials_without_weight_decay(quick_config, tmp_path):
    quick_config.training.epochs = 2
    sweep = quick_config.sweep
    sweep.trials, sweep.rung_epochs, sweep.rung_keeps = 6, (1,), (2,)
    sweep.draw = ConfigDict({"optimizer": {"weight_decay": ("choice", 0.0, 0.5)}})
    rows = run(quick_config, tmp_path)
    assert [row["status"] for row in rows].count("finished") == 2
    assert {row["weight_decay"] for row in rows if row["epochs"] == 2} == {0.0}
    assert {row["weight_decay"] for row in rows} == {0.0, 0.5}
    # The time of the second rung is that of its own steps.
    last = next(row for row in rows if row["epochs"] == 2)
    steps = 2 * last["steps"] / 2
    assert last["steps_per_second"] == pytest.approx(steps / last["train_seconds"], rel=0.1)


def test_checkpoints_that_do_not_fit_are_not_reported_as_damaged(quick_config, tmp_path):
    run(quick_config, tmp_path)
    (tmp_path / "results.csv").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    config["model"]["width"] = quick_config.model.width = 9
    (tmp_path / "config.json").write_text(json.dumps(config))
    (directory,) = (tmp_path / "checkpoints").iterdir()
    directory.rename(directory.with_name(directory.name.replace("3x8", "3x9")))
    with pytest.raises(UserError, match=r"although its files have their checksums; use the data"):
        run(quick_config, tmp_path)


def test_a_damaged_compile_cache_is_rebuilt(tmp_path):
    cache = tmp_path / "cache"
    one, two = Run(tmp_path / "one", cache), Run(tmp_path / "two", cache)
    one.finish()
    entries = _entries(cache)
    assert {path.stem for path in entries} == {p.stem for p in entries[0].parent.glob("*.sha256")}
    whole = {path: path.read_bytes() for path in entries}
    for number, (path, content) in enumerate(whole.items()):
        middle = len(content) // 2
        flipped = bytes([content[middle] ^ 4])
        path.write_bytes(
            content[:middle] if number % 2 else content[:middle] + flipped + content[middle + 1 :]
        )
    entries[0].with_suffix(".sha256").unlink()  # Killed before it was sealed.
    text = two.finish()
    assert text.count("is damaged; its program is compiled again") == len(entries) - 1
    assert _entries(cache) == entries
    assert fault_tools.left(two.workdir) == fault_tools.left(one.workdir)
    (two.workdir / "results.csv").unlink()
    assert "is damaged" not in two.finish()


def test_each_processor_and_jaxlib_has_a_cache_of_its_own(tmp_path, monkeypatch):
    keys = [compile_cache._key()]
    monkeypatch.setattr("jaxlib.version.__version__", "9.9.9")
    keys.append(compile_cache._key())
    monkeypatch.setattr("platform.processor", lambda: "another")
    keys.append(compile_cache._key())
    assert len(set(keys)) == 3
    assert "9.9.9" in keys[1]


def test_a_cache_that_cannot_be_made_is_refused(quick_config, tmp_path):
    (tmp_path / "file").write_text("")
    quick_config.runtime.compile_cache = str(tmp_path / "file")
    with pytest.raises(
        UserError, match=r"config\.runtime\.compile_cache is .*; allowed: a directory"
    ):
        run(quick_config, tmp_path / "run")
