"""The page of a report: it needs no network, and its charts work in a browser."""

import csv
import json
import re
import shutil
from importlib import resources

import numpy as np
import pytest
from made_up_findings import made_up
from matplotlib.figure import Figure
from test_report import _row, _write_run

from highway_jax import report
from highway_jax.reporting import figures
from highway_jax.reporting import page as page_lib
from highway_jax.reporting.document import Card, Cards, Chart, Picture, Section, Table, to_markdown
from highway_jax.reporting.page import to_html
from highway_jax.storage import findings

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
EVIL = "</script><b>&"


@pytest.fixture(scope="module")
def sweep_page(tmp_path_factory):
    """A report on a sweep with a rung at epoch 1, and with two nets analyzed."""
    tmp_path = tmp_path_factory.mktemp("page")
    rows = [
        _row(i, train_loss=(i + 1) / 100, learning_rate=0.1 / (i + 1), depth=(10, 20)[i % 2])
        for i in range(12)
    ]
    rows[3] |= {"status": "finished", "case": EVIL, "rung": 1}
    rows[5] |= {"status": "diverged", "diverged": True, "train_loss": ""}
    lines = [
        {"trial": i, "epoch": epoch, "step": 10 * epoch, "case": "net",
         "train_loss": (i + 1) / epoch, "train_accuracy": 0.5}
        for i in range(12)
        for epoch in ((1,) if i == 0 else (1, 2))
    ]  # fmt: skip
    _write_run(tmp_path / "sweep", rows, lines, trials=12)
    config = tmp_path / "sweep" / "config.json"
    tree = json.loads(config.read_text())
    tree["sweep"] |= {"rung_epochs": [1], "rung_keeps": [1]}
    config.write_text(json.dumps(tree))
    for trial, net in enumerate((made_up(), made_up(blocks=8)._replace(title="another net"))):
        directory = tmp_path / "sweep" / "analysis" / f"trial_{trial:04d}"
        directory.mkdir(parents=True)
        findings.save(net, directory / "findings.npz")
    with pytest.MonkeyPatch.context() as patch:
        # The page holds no pictures, which take longer than all else.
        patch.setattr(figures, "save", lambda figure, path: None)
        report.report([tmp_path / "sweep"], tmp_path / "out")
    return tmp_path / "out" / "report.html"


@pytest.fixture(scope="module")
def seeds_page(tmp_path_factory):
    """A report on two runs: three seeds of two settings, and a trial that is in training."""
    tmp_path = tmp_path_factory.mktemp("seeds")
    rows = [
        _row(i, status="finished", seed=i % 3, learning_rate=(0.1, 0.01)[i // 3],
             train_loss=0.1, valid_accuracy=0.5 + i / 100, test_accuracy=0.9)
        for i in range(6)
    ]  # fmt: skip
    lines = [
        {"trial": i, "epoch": epoch, "step": 10 * epoch, "train_loss": (i % 3 + 1) / epoch,
         "valid_loss": (i % 3 + 2) / epoch, "test_loss": (i % 3 + 3) / epoch}
        for i in range(6)
        for epoch in (1, 2, 3, 4)
    ]  # fmt: skip
    _write_run(tmp_path / "seeds", rows, lines)
    begun = [{"trial": 0, "epoch": 1, "step": 10, "case": "net", "seed": 0, "train_loss": 1.5}]
    _write_run(tmp_path / "begun", [], begun)
    report.report([tmp_path / "seeds", tmp_path / "begun"], tmp_path / "out")
    return tmp_path / "out" / "report.html"


def test_the_page_needs_nothing_else(sweep_page):
    text = sweep_page.read_text("utf-8")
    assert len(text) < 3_000_000
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)=", text)
    assert "content=\"default-src 'none'; " in text
    assert EVIL not in text
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text):
        json.loads(data)
    ids = re.findall(r'\bid="([^"]*)"', text[: text.index("<script>")])
    assert len(ids) == len(set(ids)) > 5


def test_no_chart_offers_to_upload_itself():
    """Plotly has such a button unless its configuration switches it off."""
    files = resources.files("highway_jax.reporting") / "page_files"
    script = "".join((files / name).read_text("utf-8") for name in page_lib.SCRIPTS)
    (config,) = re.findall(r"const CONFIG = \{(.*?)\};", script, re.S)
    assert "showSendToCloud: false" in config
    assert 'plotlyServerURL: ""' in config
    assert re.findall(r"Plotly\.(?!Plots|purge)\w+\(.*\)", script) == [
        "Plotly.react(element, traces, shown, CONFIG)"
    ]


def test_the_library_is_kept_with_its_licence():
    files = resources.files("highway_jax.reporting") / "page_files"
    assert "plotly.js (cartesian - minified) v4.1.1" in (files / page_lib.LIBRARY).read_text()
    assert "Permission is hereby granted" in (files / "plotly-LICENSE").read_text()


def test_tables_look_alike_in_both_forms():
    picture = Picture("two", "Words", Figure)
    sections = [
        Section("One", ["Some **bold** words.", Table(("net", "loss"), [("a < b", "0.1")])]),
        Section("Two", [Chart("lines", {"x": "", "y": "", "lines": []}), picture]),
        Section("Three", [Picture("three", "Words", Figure)]),
        Section("Four", [Cards((Card("Best", "98 %", "a & b"),))]),
    ]
    assert to_markdown("All", sections) == (
        "# All\n\n## One\n\nSome **bold** words.\n\n"
        "| net | loss |\n| --- | ---: |\n| a < b | 0.1 |\n"
        "\n## Two\n\n![Words](two.png)\n\n## Three\n\n![Words](three.png)\n"
    )
    text = to_html("All", sections)
    assert "<p>Some <strong>bold</strong> words.</p>" in text
    cells = '<td data-head="net">a &lt; b</td><td class=number data-head="loss">0.1</td>'
    assert cells in text
    assert "<h2>Two</h2>" in text
    # A picture would show what the chart shows; a section without anything else is left out.
    assert "two.png" not in text
    assert "<h2>Three</h2>" not in text
    assert "<b>98 %</b><small>a &amp; b</small>" in text


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="install .[browser]")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(QUIET))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser):
    """Opens a page with a color scheme and a width; fails on messages of its console."""
    said, opened = [], []

    def open_it(page, scheme="light", width=1200, hash=""):
        view = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.goto(page.as_uri() + hash)
        view.locator("html[data-drawn=yes]").wait_for(state="attached")
        opened.append(view)
        return view

    yield open_it
    for view in opened:
        view.close()
    assert said == []


CURVES = ".chart[data-kind=curves]"
SWEEP = ".chart[data-kind=sweep]"
INSIDE = ".chart[data-kind=inside]"


def _settle(view):
    """Waits until the charts show what was chosen: they are drawn in the next frame."""
    view.evaluate("() => new Promise((done) => requestAnimationFrame(() => setTimeout(done)))")


def _box(view, locator):
    """Scrolls to an element, and returns its box once the charts around it are drawn."""
    before, box = None, {}
    while box != before:
        locator.scroll_into_view_if_needed()
        view.wait_for_timeout(100)
        _settle(view)
        before, box = box, locator.bounding_box()
    return box


def _plot(view, place, number=0):
    """Returns a chart, once it is drawn: charts are drawn where the page is scrolled to."""
    _settle(view)
    plot = view.locator(f"{place} .plot").nth(number).element_handle()
    plot.evaluate("plot => plot.scrollIntoView({block: 'center'})")
    view.wait_for_function("plot => plot.due === null", arg=plot)
    return plot


def _data(view, place, number=0):
    return _plot(view, place, number).evaluate("plot => plot.data")


def _layout(view, place, number=0):
    return _plot(view, place, number).evaluate("plot => plot.layout")


def _choose(view, place, name, label):
    view.locator(f"{place} select[name='{name}']").first.select_option(label=label)


def _column(view, name):
    _settle(view)
    heads = [text.split(" ")[0] for text in view.locator(".trials th").all_inner_texts()]
    cells = view.locator(f".trials td:nth-child({heads.index(name) + 1})")
    return [text.strip() for text in cells.all_inner_texts()]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 420])
def test_all_charts_are_drawn(sweep_page, open_page, scheme, width):
    view = open_page(sweep_page, scheme, width)
    # Curves; scatter, heat map, rungs; Figure 1; six maps, layer, lesions and pairs.
    assert view.locator(".plot").count() == 14
    assert view.locator(".plot.js-plotly-plot").count() < 14  # Others are far from what is seen.
    for number in range(14):
        _plot(view, "", number)
    assert view.locator(".plot .main-svg").count() >= 14
    assert view.locator(".parallel svg path").count() == 11  # One trial has no result.
    buttons = view.locator(".modebar-btn").evaluate_all("all => all.map((b) => b.dataset.title)")
    assert "Zoom" in buttons
    assert not {title for title in buttons if re.search("cloud|share|edit", title, re.I)}
    # Nothing is wider than the window, and no table lies beyond its edge.
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    hidden = "all => all.filter((e) => e.scrollWidth > e.clientWidth + 1).length"
    assert width > 420 or view.locator(".static").evaluate_all(hidden) == 0
    colour = view.evaluate("getComputedStyle(document.body).color")
    assert (colour == "rgb(26, 26, 26)") == (scheme == "light")
    backs = view.evaluate(
        "[...document.querySelectorAll('.plot .bg, .plot .main-svg')]"
        ".map((e) => getComputedStyle(e).backgroundColor + getComputedStyle(e).fill)"
    )
    assert "rgb(255, 255, 255)" not in "".join(backs)


def test_a_sample_a_class_and_a_layer_can_be_chosen(sweep_page, open_page):
    view = open_page(sweep_page)
    inside = view.locator(INSIDE)
    close = pytest.approx
    assert np.asarray(_data(view, INSIDE, 0)[0]["z"]) == close(made_up().biases, abs=1e-3)
    assert np.asarray(_data(view, INSIDE, 2)[0]["z"]) == close(made_up().sample_gates[0], abs=1e-3)
    assert "training example 0: class 0, predicted dog" in inside.inner_text()
    inside.locator("input[name=example]").fill("4")
    _settle(view)
    assert "training example 3: class 0" in inside.inner_text()
    inside.locator("input[name=layer]").fill("5")
    assert _data(view, INSIDE, 6)[1]["y"] == close(made_up().sample_gates[3, 4], abs=1e-3)
    inside.locator("select[name=class]").select_option(label="dog")
    shown = _data(view, INSIDE, 4)[0]
    differences = (made_up().by_class[1] - made_up().mean).round(3)
    assert np.asarray(shown["z"]) == close(differences, abs=1e-3)
    assert shown["zmin"] == -shown["zmax"]  # Zero has the colour of the page.
    assert shown["colorscale"][1][1] == "#ffffff"
    inside.locator("select[name=net]").select_option(label="another net")
    assert len(_data(view, INSIDE, 0)[0]["z"]) == 8
    assert _data(view, INSIDE, 7)[0]["y"] == close(100 * made_up(blocks=8).shut[1])
    lesion = inside.get_by_role("button", name="forced open")
    assert [t["visible"] for t in _data(view, INSIDE, 7)[:2]] == [True, True]
    lesion.click()
    assert [t["visible"] for t in _data(view, INSIDE, 7)[:2]] == [True, False]


def test_curves_of_a_sweep(sweep_page, open_page):
    view = open_page(sweep_page)
    traces = _data(view, CURVES)
    # One trace for all trials of a net; the trial with a single point is a marker.
    assert [t["name"] for t in traces] == [f"{EVIL} 20", "net 10", "net 10, one point", "net 20"]
    assert traces[0]["y"] == [4, 2, None]
    assert traces[2]["mode"] == "markers"
    assert traces[2]["y"][0] == 1
    assert "learning_rate 0.1" in traces[2]["text"][0]
    assert "trial" not in traces[2]["text"][0]
    _choose(view, CURVES, "show", "accuracy")
    assert _data(view, CURVES)[0]["y"] == [0.5, 0.5, None]
    assert _layout(view, CURVES)["yaxis"]["type"] == "linear"
    _choose(view, CURVES, "scale", "log")
    assert _layout(view, CURVES)["yaxis"]["type"] == "log"
    view.locator(CURVES).get_by_role("button", name="net 10").click()
    assert [t["name"] for t in _data(view, CURVES)] == [f"{EVIL} 20", "net 20"]
    _choose(view, CURVES, "colour by", "learning_rate")
    names = [t["name"] for t in _data(view, CURVES)]
    assert names[0] == "learning_rate 0.00833"
    assert "learning_rate 0.02 to 0.025" in names


def test_outliers_do_not_use_up_the_axis(open_page, tmp_path):
    lines = [
        {"trial": 0, "epoch": epoch, "step": epoch, "train_loss": 1e20 if epoch == 1 else 1 / epoch}
        for epoch in range(1, 201)
    ]
    _write_run(tmp_path / "run", [], lines)
    report.report([tmp_path / "run"], tmp_path / "out")
    view = open_page(tmp_path / "out" / "report.html")
    axis = _layout(view, CURVES)["yaxis"]
    assert axis["title"]["text"] == "loss, highest 1 % cut off (scale: log shows them)"
    assert axis["range"] == pytest.approx(
        [np.log10(1 / 200) - 0.1, np.log10(1 / 3) + 0.3], abs=0.01
    )
    _choose(view, CURVES, "scale", "log")
    assert _layout(view, CURVES)["yaxis"]["range"][1] > 20


def test_means_over_seeds_and_single_seeds(seeds_page, open_page):
    view = open_page(seeds_page)
    traces = {(t["name"], t["line"].get("dash")): t for t in _data(view, CURVES)}
    label = "net 10, learning_rate 0.01"
    assert traces[label, "solid"]["y"][:4] == pytest.approx([2, 1, 2 / 3, 0.5], rel=1e-3)
    assert traces[label, "dash"]["y"][0] == 3  # Validation.
    assert traces[label, "dot"]["y"][0] == 4  # Test.
    assert traces[label, "solid"]["text"][0].startswith(f"{label}, mean of 3 trials")
    (band, *_) = (t for t in _data(view, CURVES) if t["name"] == "band")
    assert band["y"][:8] == pytest.approx([3, 1.5, 1, 0.75, 0.25, 1 / 3, 0.5, 1], rel=1e-3)
    assert band["y"][8:9] == [None]
    # A trial that is in training has one point so far, and is seen.
    one = [t for t in _data(view, CURVES) if t["name"].endswith("one point")]
    assert [t["y"][0] for t in one] == [1.5]
    legend = [t.strip() for t in view.locator(f"{CURVES} .legend button").all_inner_texts()]
    assert len(legend) == 3
    _choose(view, CURVES, "draw", "each trial")
    (line,) = (t for t in _data(view, CURVES) if (t["name"], t["line"]["dash"]) == (label, "solid"))
    assert len(line["y"]) == 15
    assert line["text"][0] == f"{label}, seed 0"
    view.locator(CURVES).get_by_role("checkbox", name="test").uncheck()
    assert {t["line"]["dash"] for t in _data(view, CURVES)} == {"solid", "dash"}
    view.locator(CURVES).get_by_role("checkbox", name="validation").uncheck()

    def drawn():
        return next(t for t in _data(view, CURVES) if t["name"] == label)

    _choose(view, CURVES, "over", "step")
    assert drawn()["x"][:4] == [10, 20, 30, 40]
    _choose(view, CURVES, "over", "time")  # 20 steps took 5 seconds.
    assert drawn()["x"][:4] == [2.5, 5, 7.5, 10]
    view.locator("input[name=smoothing]").fill("0.5")
    assert drawn()["y"][:2] == pytest.approx([1, (0.25 * 1 + 0.5 * 0.5) / 0.75])


def test_trials_can_be_sorted_and_filtered(sweep_page, open_page):
    view = open_page(sweep_page)
    heads = view.locator(".trials th").all_inner_texts()
    assert "batch_size" not in heads  # The same for all is said once, below the table.
    assert heads[:5] == ["trial", "case", "depth", "learning_rate", "train_loss"]
    assert _column(view, "trial") == [str(i) for i in range(12)]
    view.locator(".trials th button", has_text="train_loss").click()
    losses = _column(view, "train_loss")
    assert losses[-1] == ""  # Those without a number come last in either order.
    assert losses[:-1] == sorted(losses[:-1], key=float)
    view.locator(".trials th button", has_text="train_loss").click()
    assert _column(view, "train_loss")[0] == "0.12"
    assert _column(view, "train_loss")[-1] == ""
    view.get_by_label("filter").fill("DIVERGED")
    assert _column(view, "trial") == ["5"]
    assert "1 of 12 trials" in view.locator("body").inner_text()


@pytest.mark.parametrize(
    ("terms", "trials"),
    [
        ("depth=20 train_loss<0.05", [1, 3]),
        ("learning_rate>=0.05", [0, 1]),
        ("learning_rate<=0.01", [9, 10, 11]),
        ("depth!=10 learning_rate>0.02", [1, 3]),
        ('status="finished"', [3]),
        ("train_loss>0 dropped 0.12", [11]),
        ('case!="</script><b>&" depth=20 train_loss<=0.08', [1, 7]),
    ],
)
def test_a_filter_has_terms(sweep_page, open_page, terms, trials):
    view = open_page(sweep_page)
    view.get_by_label("filter").fill(terms)
    assert _column(view, "trial") == [str(i) for i in trials]
    # The filter is that of all charts.
    drawn = {t for trace in _data(view, CURVES) for t in trace["customdata"] if t is not None}
    assert drawn == set(trials)


@pytest.mark.parametrize(
    ("term", "words"),
    [
        ("dept=3", "no column is named dept"),
        ("depth<a", "depth is a number, and a is none"),
        ("depth<", "depth< needs a value"),
    ],
)
def test_a_wrong_term_is_explained_and_left_out(sweep_page, open_page, term, words):
    view = open_page(sweep_page)
    view.get_by_label("filter").fill(f"train_loss<0.02 {term}")
    assert _column(view, "trial") == ["0"]
    assert view.get_by_role("alert").inner_text() == words


def test_a_selected_row_highlights_its_curve(sweep_page, open_page):
    view = open_page(sweep_page)
    view.locator(".trials tbody tr").nth(7).click()
    traces = {t["name"]: t for t in _data(view, CURVES)}
    assert traces["net 20, selected"]["y"] == [8, 4, None]
    assert traces["net 20, selected"]["line"]["width"] == 3
    assert traces["net 20"]["opacity"] < 0.3
    assert "1 selected" in view.locator(".count").inner_text()
    sizes = _data(view, SWEEP, 0)
    assert sum(size > 10 for trace in sizes for size in trace["marker"]["size"]) == 1
    width = view.locator(".parallel path[data-trial='7']").get_attribute("stroke-width")
    assert width == "3"
    view.get_by_role("button", name="clear selection").click()
    assert "net 20, selected" not in [t["name"] for t in _data(view, CURVES)]


def test_columns_can_be_chosen_and_downloaded(sweep_page, open_page, tmp_path):
    view = open_page(sweep_page)
    view.locator(".chooser summary").click()
    view.locator(".chooser").get_by_label("case").uncheck()
    view.locator(".chooser").get_by_label("width").check()
    view.get_by_label("filter").fill("depth=20")
    view.locator(".trials th button", has_text="train_loss").click()
    shown = [text.split(" ")[0] for text in view.locator(".trials th").all_inner_texts()]
    assert "case" not in shown
    assert "width" in shown
    with view.expect_download() as download:
        view.get_by_role("button", name="Download CSV").click()
    download.value.save_as(tmp_path / "trials.csv")
    with (tmp_path / "trials.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == shown
    assert [row["trial"] for row in rows] == ["1", "3", "7", "9", "11", "5"]
    assert rows[1]["train_loss"] == "0.04"


def test_the_address_shares_what_was_chosen(sweep_page, open_page):
    view = open_page(sweep_page)
    view.get_by_label("filter").fill("depth=20")
    _choose(view, CURVES, "show", "accuracy")
    view.locator(".trials th button", has_text="train_loss").click()
    view.locator(".trials tbody tr").nth(0).click()
    view.locator("select[name=theme]").select_option(label="dark")
    _settle(view)
    again = open_page(sweep_page, hash=view.evaluate("location.hash"))
    assert again.get_by_label("filter").input_value() == "depth=20"
    assert _column(again, "trial") == ["1", "3", "7", "9", "11", "5"]
    assert [t["y"] for t in _data(again, CURVES)] == [t["y"] for t in _data(view, CURVES)]
    assert "1 selected" in again.locator(".count").inner_text()
    assert again.evaluate("getComputedStyle(document.body).color") == "rgb(230, 230, 230)"


def test_a_link_of_the_navigation_keeps_the_state(sweep_page, open_page):
    view = open_page(sweep_page, hash="#q=depth%3D20")
    view.locator("nav a", has_text="Settings and results").click()
    _settle(view)
    top = "[...document.querySelectorAll('h2')].find((h) => h.innerText === 'Settings and results')"
    assert 0 <= view.evaluate(f"{top}.getBoundingClientRect().top") < 200
    assert view.evaluate("location.hash") == "#q=depth%3D20"


def _click_point(view, place, number, trace, index):
    """Clicks a point of a chart, as Plotly reports it: pixels of its axes."""
    _plot(view, place, number).evaluate(
        "(plot, [trace, index]) => {"
        " const data = plot.data[trace];"
        " plot.emit('plotly_click', {points: [{x: data.x?.[index], y: index + 1,"
        " customdata: data.customdata?.[index]}]}); }",
        [trace, index],
    )
    _settle(view)


def test_every_other_control(sweep_page, open_page):
    """One page, on which all controls are used that no other test uses."""
    view = open_page(sweep_page)
    selected = view.locator(".trials tr[aria-selected=true]")

    def trials():
        _settle(view)
        return selected.evaluate_all("all => all.map((line) => line.dataset.trial)")

    # A click on a curve, a point, or a line of the parallel coordinates selects its trial.
    trace = next(i for i, t in enumerate(_data(view, CURVES)) if t["name"] == "net 20")
    _click_point(view, CURVES, 0, trace, 0)
    assert len(trials()) == 1
    trace = next(i for i, t in enumerate(_data(view, SWEEP, 0)) if t["name"] == "net 10")
    _click_point(view, SWEEP, 0, trace, 1)
    assert trials() == ["1", "2"]
    assert "sel=0.1%7E0.2" in view.evaluate("location.hash")
    view.locator(".parallel path[data-trial='4']").dispatch_event("click")
    assert "4" in trials()
    view.locator(".trials tr[data-trial='4'] input").press("Space")
    _settle(view)
    assert "4" not in trials()
    view.get_by_role("button", name="clear selection").click()
    # Legends: a double click shows an entry alone, another one all.
    for place, drawn in ((CURVES, 0), (SWEEP, 0)):
        entry = view.locator(f"{place} .legend").first.get_by_role("button", name="net 10")
        for expected in ({"net 10"}, {"net 10", "net 20", f"{EVIL} 20"}):
            entry.dblclick()
            names = {t["name"].removesuffix(", one point") for t in _data(view, place, drawn)}
            assert names == expected
    # The result is that of the parallel coordinates, the scatter and the heat map.
    _choose(view, SWEEP, "result", "train_loss")
    _choose(view, SWEEP, "colour", "depth")
    assert [t["name"] for t in _data(view, SWEEP, 0)] == ["depth 10", "depth 20"]
    _choose(view, SWEEP, "across", "case")
    _choose(view, SWEEP, "down", "depth")
    heat = _data(view, SWEEP, 1)[0]
    assert (heat["x"], heat["y"]) == ([EVIL, "net"], ["10", "20"])
    # A part of an axis of words, and of one that is cut off in the other direction.
    area = view.locator(".parallel .brush[data-axis=case]")
    for start, end, words in ((0.4, 0.99, f"case={EVIL}"), (0.01, 0.4, "case=net")):
        box = _box(view, area)  # The first filter moves it.
        middle = box["x"] + box["width"] / 2
        view.mouse.move(middle, box["y"] + start * box["height"])
        view.mouse.down()
        view.mouse.move(middle, box["y"] + end * box["height"])
        view.mouse.up()
        _settle(view)
        assert view.get_by_label("filter").input_value() == words
    view.get_by_label("filter").fill("")
    # A field of a gate map chooses its layer.
    _click_point(view, INSIDE, 0, 0, 2)
    assert view.locator("input[name=layer]").input_value() == "3"
    # The training curve can be left out, and what is zoomed to holds until it is shown whole.
    view.locator(CURVES).get_by_role("checkbox", name="train").uncheck()
    assert "no trial shown has such a curve" in _layout(view, CURVES)["annotations"][0]["text"]
    view.locator(CURVES).get_by_role("checkbox", name="train").check()
    _settle(view)
    plot = f"document.querySelector('{CURVES} .plot')"
    view.evaluate(f"Plotly.relayout({plot}, {{'xaxis.range[0]': 1, 'xaxis.range[1]': 1.5}})")
    view.wait_for_function("location.hash.includes('zoom-curves0=1')")
    view.locator("input[name=smoothing]").fill("0.5")
    assert _layout(view, CURVES)["xaxis"]["range"] == [1, 1.5]
    view.evaluate(f"Plotly.relayout({plot}, {{'xaxis.autorange': true, 'yaxis.autorange': true}})")
    view.wait_for_function("!location.hash.includes('zoom')")
    assert _layout(view, CURVES)["xaxis"]["range"] != [1, 1.5]
    # Another address, as a link that is pasted, is another choice.
    view.evaluate("location.hash = '#q=depth%3D20'")
    view.locator("html[data-drawn=yes]").wait_for(state="attached")
    view.wait_for_function("document.querySelector('[name=filter]')?.value === 'depth=20'")


@pytest.mark.parametrize("width", [1200, 420])
def test_dragging_along_an_axis_filters(sweep_page, open_page, width):
    view = open_page(sweep_page, width=width)
    axis = view.locator(".parallel .brush[data-axis=train_loss]")
    box = _box(view, axis)
    upright = box["height"] > box["width"]
    begin = (box["x"] + box["width"] / 2, box["y"] + box["height"] - 2)
    end = (box["x"] + box["width"] / 2, box["y"] + box["height"] * 0.6)
    if not upright:
        begin = (box["x"] + 2, box["y"] + box["height"] / 2)
        end = (box["x"] + box["width"] * 0.4, box["y"] + box["height"] / 2)
    view.mouse.move(*begin)
    view.mouse.down()
    view.mouse.move(*end)
    view.mouse.up()
    _settle(view)
    terms = view.get_by_label("filter").input_value()
    assert re.fullmatch(r"train_loss<=0\.0[56]\d*", terms)
    assert set(_column(view, "trial")) <= {"0", "1", "2", "3", "4"}
    axis.click()
    _settle(view)
    assert view.get_by_label("filter").input_value() == ""


def test_settings_against_results(sweep_page, open_page):
    view = open_page(sweep_page)
    # Scatter: the setting with most values, and losses of trials that have one.
    scatter = _data(view, SWEEP, 0)
    assert sum(len(trace["x"]) for trace in scatter) == 11
    assert _layout(view, SWEEP, 0)["xaxis"]["title"]["text"] == "learning rate"
    _choose(view, SWEEP, "setting", "depth")
    assert {x for trace in _data(view, SWEEP, 0) for x in trace["x"]} == {10, 20}
    # Heat map: the best of each pair of settings.
    _choose(view, SWEEP, "across", "depth")
    _choose(view, SWEEP, "down", "case")
    (heat,) = _data(view, SWEEP, 1)
    assert heat["x"] == ["10", "20"]
    by_case = dict(zip(heat["y"], heat["text"], strict=True))
    assert by_case == {"net": ["0.01", "0.02"], EVIL: ["", "0.04"]}
    _choose(view, SWEEP, "value", "mean")
    assert _data(view, SWEEP, 1)[0]["text"][heat["y"].index("net")][1] == "0.08"
    # Rungs: of twelve trials, one passed epoch 1.
    kinds = {t.get("name"): t for t in _data(view, SWEEP, 2)}
    assert (len(kinds["kept"]["x"]), len(kinds["dropped"]["x"])) == (1, 11)
    assert "Epoch 1: 1 of 12 trials kept" in view.locator(SWEEP).inner_text()
    # Twelve trials are too few for an importance.
    assert "Importance" not in view.locator(SWEEP).inner_text()


def test_the_page_follows_the_scheme_of_colours(sweep_page, open_page):
    view = open_page(sweep_page, "light")
    assert _layout(view, CURVES)["font"]["color"] == "#1a1a1a"
    view.emulate_media(color_scheme="dark")
    assert _layout(view, CURVES)["font"]["color"] == "#e6e6e6"
    view.locator("select[name=theme]").select_option(label="light")
    assert _layout(view, CURVES)["font"]["color"] == "#1a1a1a"


def test_cards_say_how_it_went(seeds_page, open_page):
    view = open_page(seeds_page)
    cards = view.locator(".card").all_inner_texts()
    assert cards[0].split("\n") == [
        "Best test accuracy",
        "90.00 ± 0.00 %",
        "net, 10 layers; chosen by validation accuracy",
    ]
    assert cards[1].split("\n") == ["Trials", "6", "2 runs, and 1 in training"]
    assert view.locator("h1").inner_text() == "seeds, begun"


def test_seven_hundred_trials_open_within_two_seconds(browser, tmp_path):
    """Seconds of processor time of the page's thread, which other work does not lengthen."""
    rows = [
        _row(i, status="finished", learning_rate=(i + 1) / 1000, depth=(10, 20, 50)[i % 3],
             momentum=(i % 17) / 20, train_loss=(i + 1) / 100, test_accuracy=0.9)
        for i in range(700)
    ]  # fmt: skip
    lines = [
        {"trial": i, "epoch": epoch, "step": epoch, "train_loss": (i + 1) / epoch}
        for i in range(700)
        for epoch in range(1, 41)
    ]
    _write_run(tmp_path / "many", rows, lines, trials=700)
    report.report([tmp_path / "many"], tmp_path / "out")
    view = browser.new_page(viewport={"width": 1200, "height": 900}, offline=True)
    session = view.context.new_cdp_session(view)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    view.goto((tmp_path / "out" / "report.html").as_uri())
    view.locator("html[data-drawn=yes]").wait_for(state="attached")
    metrics = {m["name"]: m["value"] for m in session.send("Performance.getMetrics")["metrics"]}
    assert view.locator(".trials tbody tr").count() == 700
    view.close()
    assert 0.05 < metrics["TaskDuration"] < 2


def test_a_page_without_trials_opens(open_page, tmp_path):
    _write_run(tmp_path / "new", [], [])
    report.report([tmp_path / "new"], tmp_path / "out")
    view = open_page(tmp_path / "out" / "report.html")
    assert "No batch of trials is finished yet." in view.locator("main").inner_text()
    assert view.locator(".toolbar").count() == 0
