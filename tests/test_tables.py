"""Tables of any version are read by the names of their columns; invalid rows are refused."""

import csv
import io
import itertools
import json
import random
import shutil

import fault_tools
import pytest
from ml_collections import ConfigDict

from highway_jax import UserError, report, run
from highway_jax.config import config as config_lib
from highway_jax.reporting import run_tables
from highway_jax.storage import records, results, summaries, tables
from highway_jax.sweep import design
from highway_jax.training.program import Program

RESULTS = fault_tools.ROOT / "experiments" / "results"
COMMITTED = sorted(RESULTS.glob("**/config.json"))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, cache):
    """A run over a key that has no column in every table, in batches of one trial."""
    from highway_jax import default_config

    config = default_config()
    config.name = "scaled"
    config.seeds = (0, 1)
    config.data.valid_size = 100
    config.model.depth, config.model.width = 2, 4
    config.training.epochs = 1
    config.sweep.grid = ConfigDict({"data": {"scaling": ("unit", "signed")}})
    config.runtime.max_trials = 1
    config.runtime.progress = config.runtime.tensorboard = False
    config.runtime.compile_cache = str(cache)
    path = tmp_path_factory.mktemp("runs") / "scaled"
    run(config, path)
    return config, path


@pytest.fixture
def copy(finished, tmp_path):
    """A config, and a copy of its finished run."""
    config, path = finished
    return config, shutil.copytree(path, tmp_path / "run")


def _read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def _write(path, columns, rows):
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue())


def _without_clock(rows):
    return [{k: v for k, v in row.items() if k not in fault_tools.CLOCK} for row in rows]


def test_a_run_begun_with_the_columns_of_an_older_version_ends_alike(copy):
    config, path = copy
    whole = _read(path / "results.csv")
    assert [row["data.scaling"] for row in whole] == ["unit", "unit", "signed", "signed"]
    # Two trials of one value and one of the other were done, with columns in another order.
    columns = [name for name in tables.RESULTS if name != "architecture"]
    random.Random(0).shuffle(columns)
    _write(path / "results.csv", columns, whole[:3])
    rows = run(config, path)
    assert list(_read(path / "results.csv")[0]) == list(whole[0])
    assert _without_clock(_read(path / "results.csv")) == _without_clock(whole)
    assert [row["data.scaling"] for row in rows] == ["unit", "unit", "signed", "signed"]
    assert [line["trials"] for line in _read(path / "summary.csv")] == ["2", "2"]


def test_a_report_on_a_run_of_an_older_version_knows_what_it_varied(copy):
    _, path = copy
    whole = results.read(path)
    _write(path / "results.csv", tables.RESULTS, _read(path / "results.csv"))
    assert results.read(path).rows == whole.rows
    # A config that this version cannot plan does not say which trial had which value.
    config = json.loads((path / "config.json").read_text())
    config["model"]["gone"] = 3
    (path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"has no column 'data\.scaling', which the run varies"):
        results.read(path)


def test_columns_of_a_later_version_are_read_and_kept(copy):
    config, path = copy
    rows = [row | {"note": f"n{i}"} for i, row in enumerate(_read(path / "results.csv"))]
    _write(path / "results.csv", [*rows[0]], rows[:3])
    assert [row["note"] for row in results.read(path).rows] == ["n0", "n1", "n2"]
    run(config, path)
    assert [row["note"] for row in _read(path / "results.csv")] == ["n0", "n1", "n2", ""]


def test_a_table_that_a_spreadsheet_saved_is_read(copy, monkeypatch):
    config, path = copy
    rows = records.Records(path, config).results()
    table = path / "results.csv"
    text = table.read_text().replace("False", "FALSE").replace("\n", "\r\n")
    table.write_text(text, encoding="utf-8-sig", newline="")
    monkeypatch.setattr(Program, "__init__", None)  # Nothing is trained.
    assert run(config, path) == rows
    assert results.read(path).rows == rows


def _doubled(rows):
    return [*rows, rows[1]]


def _set(**values):
    return lambda rows: [rows[0], rows[1] | values, *rows[2:]]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_doubled, r"line 6 of results\.csv: trial is 1, as in line 3; allowed: one row for each"),
        (_set(trial="99"), r"line 3 of results\.csv: trial is 99; allowed: 0 to 3"),
        (_set(trial="-1"), r"line 3 of results\.csv: trial is -1; allowed: 0 to 3"),
        (_set(trial=""), r"line 3 of results\.csv: trial is empty; allowed: a whole number"),
        (_set(status="lost"), r"line 3 of results\.csv: status is 'lost'; allowed: waiting, "),
        (_set(status=""), r"line 3 of results\.csv: status is empty"),
        (_set(diverged="no"), r"line 3 of results\.csv: diverged is 'no'; allowed: True or False"),
        (_set(depth="1.5"), r"line 3 of results\.csv: depth is '1\.5'; allowed: a whole number"),
        (_set(test_loss="low"), r"line 3 of results\.csv: test_loss is 'low'; allowed: a number"),
    ],
)
def test_rows_that_no_run_wrote_are_refused(change, words, copy, tmp_path, capsys):
    config, path = copy
    rows = _read(path / "results.csv")
    _write(path / "results.csv", [*rows[0]], change(rows))
    before = (path / "results.csv").read_bytes()
    with pytest.raises(UserError, match=words):
        run(config, path)
    assert (path / "results.csv").read_bytes() == before
    assert report.main([f"--workdir={path}", f"--out={tmp_path / 'out'}"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "results.csv" in line


@pytest.mark.parametrize("content", ["trial,case\n0,a\n", "", "x"])
def test_a_table_without_a_column_that_every_version_has_is_refused(content, copy):
    config, path = copy
    (path / "results.csv").write_text(content)
    with pytest.raises(UserError, match=r"results\.csv has no column 'batch'; allowed: a table"):
        run(config, path)


def test_a_column_that_is_there_twice_is_refused(copy):
    config, path = copy
    lines = (path / "results.csv").read_text().splitlines()
    lines = [f"{lines[0]},trial", *(f"{line},3" for line in lines[1:])]
    (path / "results.csv").write_text("\n".join(lines))
    with pytest.raises(
        UserError, match=r"results\.csv has the column 'trial' twice; allowed: once"
    ):
        run(config, path)


def test_a_line_with_other_cells_than_the_first_is_refused(copy):
    config, path = copy
    lines = (path / "results.csv").read_text().splitlines()
    for last in (lines[4] + ",1", lines[4].rpartition(",")[0]):
        (path / "results.csv").write_text("\n".join([*lines[:4], last]))
        with pytest.raises(UserError, match=r"line 5 of results\.csv: the number of cells differs"):
            run(config, path)


def test_retrained_trials_are_trials_of_the_run(small_config):
    small_config.sweep.trials = 3
    small_config.sweep.draw = ConfigDict({"optimizer": {"learning_rate": ("uniform", 0.1, 0.2)}})
    small_config.sweep.retrain_seeds = (7, 8)
    assert tables.num_trials(design.cells(small_config, numbering=design.Numbering(1))) == 3 + 2
    # Since format 2, whichever setting is the best has indices of its own.
    assert tables.num_trials(design.cells(small_config)) == 3 + 3 * 2


@pytest.mark.parametrize(
    "path", COMMITTED, ids=lambda path: "-".join(path.relative_to(RESULTS).parts[:-1])
)
def test_every_committed_run_is_read(path):
    found = results.read(path.parent)
    config = config_lib.from_json(path.read_text())
    rows = records.Records(path.parent, config).results()
    assert found.rows == rows
    if not rows:
        assert found.curves
        return
    # The trainings of the settings that are not the best of a cell have numbers too.
    assert all(a["trial"] < b["trial"] for a, b in itertools.pairwise(rows))
    lines = summaries.summarize(rows)
    assert len(_read(path.parent / "summary.csv")) == len(lines)
    for line, text in zip(lines, _read(path.parent / "summary.csv"), strict=True):
        assert text["case"] == line["case"]
        assert int(text["trials"]) == line["trials"]
        assert float(text["train_loss_mean"] or "nan") == pytest.approx(
            line["train_loss_mean"], nan_ok=True
        )


def test_the_page_of_results_states_what_each_took():
    heads = ("results", "runs", "trials", "training steps", "core-hours", "processors")
    lines = [f"| {' | '.join(heads)} |", "| --- | ---: | ---: | ---: | ---: | --- |"]
    for directory in sorted(path for path in RESULTS.iterdir() if path.is_dir()):
        found = [results.read(path.parent) for path in COMMITTED if directory in path.parents]
        rows = [row for run in found for row in run.rows]
        hours = sum(
            run_tables.train_seconds(run) * run.environment["num_devices"] / 3600 for run in found
        )
        names = {run.environment["processor"] for run in found}
        processors = {name.replace("(R)", "").removesuffix(" Processor") for name in names}
        cells = (
            *(f"[{directory.name}]({directory.name}/README.md)", f"{len(found)}"),
            *(f"{len(rows):,}", f"{sum(row['steps'] for row in rows):,}", f"{hours:.2f}"),
            ", ".join(sorted(processors)),
        )
        lines.append(f"| {' | '.join(cells)} |")
    assert "\n".join(lines) in (RESULTS / "README.md").read_text()
