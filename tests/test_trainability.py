"""Tables and maps of which nets train."""

import json
import math

import numpy as np
import pytest
from test_report import _row, _write_run

from highway_jax import report
from highway_jax.reporting import figures, paper_tables, trainability
from highway_jax.reporting.document import Picture
from highway_jax.storage import results

NAN, INF = np.nan, np.inf


@pytest.fixture
def lab(tmp_path):
    """Two cases at two depths: three trials each, of which the last diverges, and two seeds."""
    rows, cases = [], {"deep": "highway", "skip": "residual"}
    for case, block in cases.items():
        for depth in (10, 1000):
            for i, rate in enumerate((0.004, 0.02, 0.2)):
                status = ("dropped", "finished", "diverged")[i]
                loss = np.nan if i == 2 else depth / 1000 + i
                bias = (-1, -3, -3)[i]
                rows.append(
                    _row(len(rows), case=case, block=block, depth=depth, status=status,
                         train_loss=loss, learning_rate=rate, transform_bias=bias)
                )  # fmt: skip
            for seed in (0, 1):
                rows.append(
                    _row(len(rows), case=f"{case}-best", block=block, depth=depth, seed=seed,
                         status="finished", train_loss=0.1 + seed / 10, learning_rate=0.004,
                         transform_bias=-1, test_accuracy=0.9 + seed / 50)
                )  # fmt: skip
    rows[-1] |= {"status": "diverged", "diverged": True}
    lines = [{"trial": i, "epoch": 1, "train_loss": 1} for i in range(len(rows))]
    _write_run(tmp_path / "lab", rows, lines, 3, {"model": {"depth": [10, 1000]}})
    path = tmp_path / "lab" / "config.json"
    config = json.loads(path.read_text())
    config["cases"] = {case: {"model": {"block": block}} for case, block in cases.items()}
    config["sweep"] |= {
        "retrain_seeds": [0, 1],
        "draw": {
            "optimizer": {"learning_rate": ["log_uniform", 0.003, 0.3]},
            "model": {"transform_bias": ["integer", -3, -1]},
        },
    }
    path.write_text(json.dumps(config))
    return tmp_path / "lab"


def test_tables_have_a_row_for_each_case_and_a_column_for_each_depth(lab, tmp_path):
    text = report.report([lab], tmp_path / "out")
    for line in (
        "| layers | 10 | 1000 |",
        "| deep | 91.0 ± 1.4 | 91.0 ± 1.4 |",
        "| skip | 91.0 ± 1.4 | 90.0, 1 of 2 diverged |",
        "| deep | 0.15 ± 0.071 | 0.15 ± 0.071 |",
        "| deep | 0.004, -1 | 0.004, -1 |",
        "| skip | 0.004 | 0.004 |",
        "| skip | 1 of 3 | 1 of 3 |",
    ):
        assert line in text.splitlines()
    assert "![Training loss by learning rate and depth](rates-lab.png)" in text
    assert "![Training loss by initial gate bias and depth](biases-lab.png)" in text
    for name in ("rates-lab", "biases-lab"):
        assert (tmp_path / "out" / f"{name}.svg").exists()
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('data-kind="maps"') == 2


def test_a_map_has_the_lowest_loss_of_each_field(lab, tmp_path):
    (section,) = trainability.which_train([results.read(lab)])
    rates, biases = (part.data for part in section.parts if getattr(part, "kind", "") == "maps")
    assert [found["title"] for found in rates["maps"]] == ["deep", "skip"]
    assert [found["title"] for found in biases["maps"]] == ["deep"]  # The other has no gates.
    middle = np.log10(0.004 * 0.2) / 2
    np.testing.assert_allclose(
        rates["maps"][0]["x"], 10 ** (middle + np.array([-1, -0.5, 0, 0.5, 1]))
    )
    assert rates["maps"][0]["loss"] == [[0.01, 1.01, None, None], [1.0, 2.0, None, None]]
    assert rates["maps"][0]["diverged"] == [[0, 0, 0, 1], [0, 0, 0, 1]]
    assert biases["maps"][0]["x"] == [-3.5, -2.5, -1.5, -0.5]
    # A trial that diverged does not hide another one of its field.
    assert biases["maps"][0]["loss"] == [[1.01, None, 0.01], [2.0, None, 1.0]]
    assert biases["maps"][0]["diverged"] == [[0, 0, 0], [0, 0, 0]]
    assert biases["copied"] == (-1.0, -3.0)
    ends = biases["maps"][0]["y"][0], biases["maps"][0]["y"][-1]
    assert biases["rule"] == [(depth, -math.log(depth)) for depth in ends]


def test_every_rate_is_in_a_field_of_its_map(tmp_path):
    rows = [
        _row(i, learning_rate=rate, train_loss=loss, status="diverged" if i == 2 else "finished")
        for i, (rate, loss) in enumerate(((0.003, 0.5), (0.03, 0.1), (0.3, NAN)))
    ]
    (found,) = trainability.by_rate([row | {"depth": 10} for row in rows])
    np.testing.assert_array_equal(found.loss, [[0.5, 0.1, NAN, INF]])


def test_of_several_retrained_settings_that_of_the_best_is_shown(lab):
    run = results.read(lab)
    old = [
        row | {"trial": row["trial"] + 100, "learning_rate": 0.02, "transform_bias": -3}
        for row in run.rows
        if row["case"].endswith("-best")
    ]
    expected = trainability.which_train([run])[0].parts[1]
    for rows in ([*old, *run.rows], [*run.rows, *old]):
        rates = [0.02 if row["status"] == "dropped" else 0.004 for row in rows]
        swapped = [  # The best drawn setting, which has finished, is that of the second group.
            row | {"learning_rate": rate, "transform_bias": -1}
            if row["status"] == "finished" and not row["case"].endswith("-best")
            else row
            for row, rate in zip(rows, rates, strict=True)
        ]
        (section,) = trainability.which_train([run._replace(rows=swapped)])
        assert section.parts[1] == expected


def _without_drawing(parts):
    """Returns parts of which pictures compare by name and caption; charts have the same data."""
    return [part._replace(draw=None) if isinstance(part, Picture) else part for part in parts]


def test_runs_of_parts_are_one_map(lab):
    whole = results.read(lab)
    parts = [
        whole._replace(name=f"lab{depth}", rows=[r for r in whole.rows if r["depth"] == depth])
        for depth in (10, 1000)
    ]
    other = whole._replace(config=whole.config | {"training": {"epochs": 2}})
    expected, joined, apart = (
        trainability.which_train(runs) for runs in ([whole], parts, [whole, other])
    )
    assert [section.title for section in joined] == ["Which nets train: lab10, lab1000"]
    assert _without_drawing(joined[0].parts) == _without_drawing(expected[0].parts)
    assert len(apart) == 2


def test_a_grid_of_biases_and_rates_is_a_map_too(lab):
    run = results.read(lab)
    sweep = {"trials": 0, "retrain_seeds": [], "draw": {}}
    sweep["grid"] = {
        "model": {"depth": [10, 1000], "transform_bias": [-3, -1]},
        "optimizer": {"learning_rate": [0.004, 0.02]},
    }
    rows = [row for row in run.rows if not row["case"].endswith("-best")]
    grid = run._replace(config=run.config | {"sweep": run.config["sweep"] | sweep}, rows=rows)
    (section,) = trainability.which_train([grid])
    charts = [part.data for part in section.parts if getattr(part, "kind", "") == "maps"]
    assert [chart["x"] for chart in charts] == ["Learning rate", "Initial gate bias"]
    search = grid._replace(config=grid.config | {"sweep": grid.config["sweep"] | {"trials": 2}})
    assert not trainability.which_train([search])  # Figure 1 has its own section.


def test_edges_hold_their_numbers():
    np.testing.assert_allclose(trainability.depth_edges([10, 1000]), [1, 100, 10000])
    np.testing.assert_allclose(
        trainability.depth_edges([10, 100, 1000]), 10 ** np.array([0.5, 1.5, 2.5, 3.5])
    )
    low, high = trainability.depth_edges([7])
    assert low < 7 < high
    np.testing.assert_allclose(trainability.rate_edges(0.1, 0.1), 10 ** np.array([-1.25, -0.75]))
    np.testing.assert_allclose(trainability.rate_edges(0.01, 0.1), 10 ** np.array([-2, -1.5, -1]))


def test_guideline_and_copied_biases_are_drawn_into_the_maps():
    x, y = np.array([-3.5, -2.5, -1.5]), np.array([5.0, 20.0, 80.0])
    found = trainability.Map("highway", x, y, (10, 40), np.array([[0.1, INF], [NAN, 2.0]]))
    lines = trainability._lines("biases", [found])
    figure = figures.trainability([found] * 4, "Bias", **lines)
    axes = figure.axes[:4]
    assert [axis.get_title() for axis in axes] == ["highway"] * 4
    assert [tick.get_text() for tick in axes[0].get_yticklabels()] == ["10", "40"]
    lines = [line.get_xydata().tolist() for line in axes[0].lines]
    assert [[-1, 10], [-2, 20], [-3, 30]] in lines
    assert {line[0][0] for line in lines if len(line) == 2} == {-1.0, -3.0, -math.log(5)}
    assert [[-math.log(5), 5], [-math.log(80), 80]] in lines
    assert axes[0].get_xlim()[0] == -3.5  # The rule does not widen the map.
    grey, loss = axes[0].collections
    assert grey.get_array().compressed().tolist() == [1.0]
    assert loss.get_array().compressed().tolist() == [0.1, 2.0]


def test_maps_without_any_finite_loss_are_drawn():
    edges = np.array([1.0, 10.0, 100.0])
    found = trainability.Map("plain", edges, edges, (2, 30), np.full((2, 2), INF))
    assert figures.trainability([found], "Learning rate").axes[0].get_xscale() == "log"


def test_other_runs_have_no_such_section(tmp_path):
    _write_run(tmp_path / "run", [_row(0)], [], 3, {"model": {"depth": [10, 1000]}})
    assert not trainability.which_train([results.read(tmp_path / "run")])


def test_nets_of_other_kinds_or_of_few_images_are_not_those_of_figure_1(lab):
    run = results.read(lab)
    assert not paper_tables.figure1_cells([run])
    rows = [row | {"block": "highway", "dataset": "mnist", "depth": 10} for row in run.rows]
    assert paper_tables.figure1_cells([run._replace(rows=rows)])
    config = run.config | {"data": run.config["data"] | {"valid_size": 40_000}}
    assert not paper_tables.figure1_cells([run._replace(rows=rows, config=config)])
    assert not trainability.which_train([results.read(lab)._replace(rows=[])])
