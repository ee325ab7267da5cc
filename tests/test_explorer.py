"""The data of all trials for the page, compared with values computed by hand."""

import base64

import numpy as np
import pytest
from made_up_findings import made_up
from test_report import ENVIRONMENT, _row, _write_run

from highway_jax import report
from highway_jax.reporting import explorer, figures, paper_tables, run_tables
from highway_jax.reporting.importance import importance
from highway_jax.storage import findings, results


def _search(tmp_path, losses, rates, name="search"):
    """Returns a search whose training losses depend on the learning rate alone."""
    rows = [
        _row(i, train_loss=loss, learning_rate=rate, momentum=(i * 7 % 11) / 20)
        for i, (loss, rate) in enumerate(zip(losses, rates, strict=True))
    ]
    lines = [{"trial": i, "epoch": 1, "step": 10, "train_loss": v} for i, v in enumerate(losses)]
    _write_run(tmp_path / name, rows, lines, trials=len(rows))
    return results.read(tmp_path / name)


def test_the_setting_that_matters_is_the_most_important(tmp_path):
    rates = [10 ** (-3 + i / 20) for i in range(60)]
    run = _search(tmp_path, [rate**2 for rate in rates], rates)
    found = importance(run, run.rows)
    assert (found["epoch"], found["trials"]) == (1, 60)
    assert [setting["name"] for setting in found["settings"]] == ["learning_rate", "momentum"]
    first, second = found["settings"]
    assert first["mean"] > 5 * first["std"] > 0
    assert second["mean"] < 0.1 * first["mean"]
    assert found["r2"] > 0.8
    assert importance(run, run.rows) == found


def test_importance_is_silent_where_it_would_be_noise(tmp_path):
    rates = [(i + 1) / 100 for i in range(60)]
    noise = np.random.default_rng(0).lognormal(size=60).tolist()
    run = _search(tmp_path, noise, rates)
    assert importance(run, run.rows) is None  # The forest predicts no better than the mean.
    few = _search(tmp_path, rates[:12], rates[:12], "few")
    assert importance(few, few.rows) is None
    alike = _search(tmp_path, [0.5] * 60, rates, "alike")
    assert importance(alike, alike.rows) is None
    assert explorer.explore([few])["searches"][0]["importance"] is None


def test_importance_compares_losses_at_an_epoch_that_nine_of_ten_reached(tmp_path):
    """Of sixty trials, one continued to epoch 8 and one diverged before epoch 3."""
    rows = [_row(i, train_loss=0.1, learning_rate=(i + 1) / 100) for i in range(60)]
    ends = {0: 8, 1: 2}
    lines = [
        {"trial": i, "epoch": epoch, "step": epoch, "train_loss": (i + 1) / epoch}
        for i in range(60)
        for epoch in range(1, ends.get(i, 3) + 1)
    ]
    _write_run(tmp_path / "run", rows, lines, trials=60)
    run = results.read(tmp_path / "run")
    found = importance(run, run.rows)
    assert (found["epoch"], found["trials"]) == (3, 59)


def test_what_varies_comes_first(tmp_path):
    run = _search(tmp_path, [0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    columns = explorer.explore([run])["columns"]
    names = [column["name"] for column in columns]
    assert names[:4] == ["trial", "learning_rate", "momentum", "train_loss"]
    assert [c["role"] for c in columns[:4]] == ["record", "setting", "setting", "metric"]
    assert all(column["varied"] for column in columns[:4])
    assert not any(column["varied"] for column in columns[4:])


def test_trials_of_two_runs_have_names_of_their_own(tmp_path):
    runs = []
    for name, rate in (("a", 0.1), ("b", 0.2)):
        rows = [_row(i, status="finished", seed=i, learning_rate=rate) for i in (0, 1)]
        _write_run(tmp_path / name, rows, [])
        runs.append(tmp_path / name)
    found = explorer.explore(results.read_all(runs))
    assert found["names"] == [
        *(f"a, net 10, learning_rate 0.1, seed {seed}" for seed in (0, 1)),
        *(f"b, net 10, learning_rate 0.2, seed {seed}" for seed in (0, 1)),
    ] or found["names"] == [f"{run}, net 10, seed {seed}" for run in "ab" for seed in (0, 1)]
    assert found["setting"] == [0, 0, 1, 1]


def test_a_trial_in_training_has_a_curve_and_a_status(tmp_path):
    line = {"trial": 3, "case": "net", "seed": 1, "epoch": 1, "step": 10, "train_loss": 2.0}
    _write_run(tmp_path / "run", [_row(0, status="finished")], [line])
    found = explorer.explore([results.read(tmp_path / "run")])
    column = [column["name"] for column in found["columns"]].index("status")
    assert [row[column] for row in found["rows"]] == ["finished", "training"]
    assert found["curves"] == [None, {"epoch": [1], "step": [10], "train_loss": [2.0]}]


def test_long_curves_are_thinned_alike_and_keep_their_ends(tmp_path, monkeypatch):
    monkeypatch.setattr(explorer, "MAX_VALUES", 10)
    lines = [
        {"trial": i, "epoch": e, "step": e, "train_loss": 1 / e}
        for i, last in ((0, 12), (1, 11))
        for e in range(1, last + 1)
    ]
    _write_run(tmp_path / "run", [_row(i) for i in (0, 1)], lines)
    found = explorer.explore([results.read(tmp_path / "run")])
    assert found["stride"] == 3
    assert [curve["epoch"] for curve in found["curves"]] == [[1, 4, 7, 10, 12], [1, 4, 7, 10, 11]]
    # One of three points, not the points of one of three epochs, and those at rungs.
    for line in lines:
        line["epoch"] *= 10
    _write_run(tmp_path / "sparse", [_row(i) for i in (0, 1)], lines)
    run = results.read(tmp_path / "sparse")
    run.config["sweep"]["rung_epochs"] = [50]
    found = explorer.explore([run])
    assert found["curves"][0]["epoch"] == [10, 40, 50, 70, 100, 120]


def test_seconds_of_a_step_are_those_of_the_last_rung(tmp_path):
    rows = [
        _row(0, rung=1, status="finished", epochs=5, steps=50, train_seconds=8.0),
        _row(1, rung=0, epochs=1, steps=10, train_seconds=3.0),
        _row(2, rung=0, epochs=1, steps=10, train_seconds=""),
    ]
    _write_run(tmp_path / "run", rows, [], trials=3)
    run = results.read(tmp_path / "run")
    run.config["sweep"]["rung_epochs"] = [1]
    assert explorer.explore([run])["seconds"] == [0.2, 0.3, None]
    # A trial that diverged in step 3 of 10 was in a batch that went on.
    row = _row(0, status="diverged", diverged=True, epochs=1, steps=3, train_seconds=3.0)
    line = {"trial": 0, "epoch": 1, "step": 10, "train_loss": None}
    _write_run(tmp_path / "other", [row], [line])
    assert explorer.explore([results.read(tmp_path / "other")])["seconds"] == [0.3]


def test_a_promoted_trial_shows_what_was_measured_last(tmp_path):
    rows = [_row(0, status="promoted", epochs=1, steps=10, train_loss=2.0), _row(1)]
    lines = [{"trial": 0, "epoch": e, "step": 10 * e, "train_loss": 2.0 / e} for e in range(1, 6)]
    _write_run(tmp_path / "run", rows, lines)
    found = explorer.explore([results.read(tmp_path / "run")])
    names = [column["name"] for column in found["columns"]]
    shown = dict(zip(names, found["rows"][0], strict=True))
    assert (shown["status"], shown["epochs"], shown["train_loss"]) == ("training", 5, 0.4)


def test_a_setting_that_another_run_varies_is_shown(tmp_path):
    _write_run(tmp_path / "a", [_row(0), _row(1)], [])
    _write_run(tmp_path / "b", [_row(0)], [])
    varying, other = results.read_all([tmp_path / "a", tmp_path / "b"])
    varying.config["sweep"]["grid"] = {"optimizer": {"clip_norm": [0.5, 1.0]}}
    for row, value in zip(varying.rows, (0.5, 1.0), strict=True):
        row["optimizer.clip_norm"] = value
    other.config["optimizer"]["clip_norm"] = 2.0
    found = explorer.explore([varying, other])
    column = [column["name"] for column in found["columns"]].index("optimizer.clip_norm")
    assert [row[column] for row in found["rows"]] == [0.5, 1.0, 2.0]
    assert found["ids"] == ["0.0", "0.1", "1.0"]


def test_the_best_is_never_chosen_by_its_test_accuracy(tmp_path):
    rows = [
        _row(0, status="finished", learning_rate=0.1, valid_accuracy=0.9, test_accuracy=0.7),
        _row(1, status="finished", learning_rate=0.2, valid_accuracy=0.8, test_accuracy=0.99),
    ]
    _write_run(tmp_path / "run", rows, [])
    best, trials, diverged, spent = run_tables.cards([results.read(tmp_path / "run")]).cards
    assert (best.title, best.value) == ("Best test accuracy", "70.00 %")
    assert best.detail == "net, 10 layers; chosen by validation accuracy"
    assert (trials.value, diverged.value, spent.value) == ("2", "0", "5 s")
    # Without validation, what is chosen by its loss is not called the best.
    rows = [row | {"valid_accuracy": ""} for row in rows]
    _write_run(tmp_path / "loss", rows, [])
    assert run_tables.cards([results.read(tmp_path / "loss")]).cards[0].title == "Test accuracy"


def test_a_search_shows_what_was_drawn_where_it_has_an_effect(tmp_path):
    rows = [_row(0, learning_rate=0.1, transform_bias=-3.0)]
    rows.append(_row(1, learning_rate=0.2, transform_bias=-4.0, block="plain", case="plain"))
    _write_run(tmp_path / "run", rows, [], trials=1)
    run = results.read(tmp_path / "run")
    run.config["sweep"]["draw"] = {
        "optimizer": {"learning_rate": ["uniform", 0.1, 0.3]},
        "model": {"transform_bias": ["uniform", -9, -1]},
    }
    (_, table, _) = run_tables.overview([run]).parts
    settings = [row[table.heads.index("settings")] for row in table.rows]
    assert settings == [
        "block highway, learning_rate 0.1, transform_bias -3",
        "block plain, learning_rate 0.2",
    ]
    alone = run._replace(rows=run.rows[:1])
    (_, table, _) = run_tables.overview([alone]).parts
    assert table.rows[0][table.heads.index("settings")] == "learning_rate 0.1, transform_bias -3"


def test_the_best_of_a_search_is_among_those_trained_furthest(tmp_path):
    rows = [
        _row(0, status="finished", epochs=9, learning_rate=0.1, train_loss=0.5),
        _row(1, epochs=2, learning_rate=0.2, train_loss=0.1),
    ]
    _write_run(tmp_path / "run", rows, [], trials=2)
    best = run_tables.cards([results.read(tmp_path / "run")]).cards[0]
    assert (best.title, best.value) == ("Best training loss", "0.5")


def test_where_every_trial_diverged_there_is_no_best(tmp_path):
    rows = [_row(i, status="diverged", train_loss="") for i in (0, 1)]
    _write_run(tmp_path / "run", rows, [])
    best, _, diverged, _ = run_tables.cards([results.read(tmp_path / "run")]).cards
    assert (best.value, best.detail) == ("-", "every trial diverged")
    assert (diverged.value, diverged.detail) == ("2", "100 % of trials")


def test_keys_in_which_runs_differ_are_listed(tmp_path):
    for name, trials in (("a", 0), ("b", 4)):
        _write_run(tmp_path / name, [_row(0, status="finished")], [], trials=trials)
    found = results.read_all([tmp_path / "a", tmp_path / "b"])
    (table,) = run_tables.differences(found).parts
    assert table.heads == ("setting", "a", "b")
    assert table.rows == [("sweep.trials", "0", "4"), ("sweep.grid.model.depth", "-", "[10]")]
    assert run_tables.differences(found[:1]).parts == []


def test_a_title_says_what_was_run(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    _write_run(tmp_path / "digits", [_row(0, status="finished", dataset="digits")], [])
    text = report.report([tmp_path / "digits"], tmp_path / "out")
    assert text.startswith("# digits\n")
    (tmp_path / "digits" / "analysis" / "trial_0000").mkdir(parents=True)
    findings.save(made_up(), tmp_path / "digits" / "analysis" / "trial_0000" / "findings.npz")
    text = report.report([tmp_path / "digits"], tmp_path / "out")
    assert text.startswith("# digits\n")


def test_commits_are_short(tmp_path, monkeypatch):
    commit = "78a10ac8a57c059c0c3b3a09b46481c916653bb6"
    assert explorer.short_commit(commit) == "78a10ac8a"
    assert explorer.short_commit(f"{commit}+changes") == "78a10ac8a+changes"
    assert explorer.short_commit("unknown") == "unknown"
    monkeypatch.setitem(ENVIRONMENT, "commit", commit)
    _write_run(tmp_path / "run", [_row(0)], [])
    table = run_tables.provenance([results.read(tmp_path / "run")]).parts[0]
    assert table.rows[0][-1] == "78a10ac8a"


@pytest.mark.parametrize("bits", [8, 16])
def test_packed_arrays_keep_values_and_gaps(bits):
    values = np.array([[0.0, 0.25, np.nan], [1.0, -0.5, 0.125]])
    packed = paper_tables.pack(values, bits=bits)
    steps = np.frombuffer(base64.b64decode(packed["packed"]), f"<u{bits // 8}")
    steps = steps.astype(float).reshape(packed["shape"])
    steps[steps == 2**bits - 1] = np.nan
    np.testing.assert_allclose(
        packed["low"] + steps * packed["step"], values, atol=1.5 / 2**bits, equal_nan=True
    )
    constant = paper_tables.pack(np.full((2, 2), -3.0))
    assert (constant["low"], constant["step"]) == (-3.0, 1.0)
