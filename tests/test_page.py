"""The page of a report: whole without a network, and what its charts do in a browser."""

import json
import re
import shutil
from importlib import resources

import pytest
from made_up_findings import made_up
from test_report import _row, _write_run

from highway_jax import report
from highway_jax.reporting.document import Chart, Section, Table, to_markdown
from highway_jax.reporting.page import to_html
from highway_jax.storage import findings

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
EVIL = "</script><b>&"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report on a sweep, and on a run with two nets looked into."""
    tmp_path = tmp_path_factory.mktemp("page")
    rows = [_row(i, train_loss=(i + 1) / 100, learning_rate=0.1 / (i + 1)) for i in range(12)]
    rows[3] |= {"status": "finished", "case": EVIL}
    rows[5] |= {"status": "diverged", "diverged": True, "train_loss": ""}
    lines = [
        {"trial": i, "epoch": epoch, "case": "net", "train_loss": (i + 1) / epoch,
         "train_accuracy": 0.5}
        for i in range(12)
        for epoch in (1, 2)
    ]  # fmt: skip
    _write_run(tmp_path / "sweep", rows, lines, trials=12)
    for trial, net in enumerate((made_up(), made_up(blocks=8)._replace(title="another net"))):
        directory = tmp_path / "sweep" / "analysis" / f"trial_{trial:04d}"
        directory.mkdir(parents=True)
        findings.save(net, directory / "findings.npz")
    report.report([tmp_path / "sweep"], tmp_path / "out")
    return tmp_path / "out" / "report.html"


def test_the_page_needs_nothing_else(page):
    text = page.read_text("utf-8")
    assert not re.search(r"<(script|link|img|iframe)[^>]*\b(src|href)=", text)
    assert "@import" not in text
    assert EVIL not in text
    for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text):
        json.loads(data)
    ids = re.findall(r'\bid="([^"]*)"', text[: text.index("<script>")])
    assert len(ids) == len(set(ids)) > 100


def test_no_chart_offers_to_upload_itself():
    """Plotly 7 has such a button unless it is told otherwise."""
    script = (resources.files("highway_jax.reporting") / "page_files" / "page.js").read_text(
        "utf-8"
    )
    (config,) = re.findall(r"const CONFIG = \{(.*?)\};", script, re.S)
    assert "showSendToCloud: false" in config
    assert 'plotlyServerURL: ""' in config
    assert len(re.findall(r"Plotly\.react\(", script)) == len(re.findall(r"\), CONFIG\)", script))


def test_tables_look_alike_in_both_forms(tmp_path):
    sections = [
        Section("One", ["Some **bold** words.", Table(("net", "loss"), [("a < b", "0.1")])]),
        Section("Two", [Chart("lines", {"x": "", "y": "", "lines": []})]),
    ]
    assert to_markdown("All", sections) == (
        "# All\n\n## One\n\nSome **bold** words.\n\n"
        "| net | loss |\n| --- | ---: |\n| a < b | 0.1 |\n"
    )
    text = to_html("All", sections, tmp_path)
    assert "<p>Some <strong>bold</strong> words.</p>" in text
    assert "<td>a &lt; b</td><td class=number>0.1</td>" in text
    assert "<h2>Two</h2>" in text


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("there is no Chromium on the PATH")
    playwright = pytest.importorskip("playwright.sync_api", reason="install .[browser]")
    quiet = ("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=list(quiet))
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, page):
    """Opens the page with a scheme of colours and a width; fails on what it says to the console."""
    said, opened = [], []

    def open_it(scheme="light", width=1200):
        view = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
        )
        view.on("console", lambda message: said.append(message.text))
        view.on("pageerror", lambda error: said.append(str(error)))
        view.goto(page.as_uri())
        view.wait_for_function("document.documentElement.dataset.drawn === 'yes'")
        opened.append(view)
        return view

    yield open_it
    for view in opened:
        view.close()
    assert said == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1200, 400])
def test_all_charts_are_drawn(open_page, scheme, width):
    view = open_page(scheme, width)
    # Figure 1; map, layer, lesions and pairs; the curves.
    assert view.locator(".plot .main-svg").count() >= 6
    assert view.locator(".plot").count() == 6
    assert view.locator("figure svg").count() == 4
    buttons = view.locator(".modebar-btn").evaluate_all("all => all.map((b) => b.dataset.title)")
    assert "Zoom" in buttons
    assert not {title for title in buttons if re.search("cloud|share|edit", title, re.I)}
    # Nothing is wider than the window.
    assert view.evaluate("document.documentElement.scrollWidth") <= width
    colour = view.evaluate("getComputedStyle(document.body).color")
    assert (colour == "rgb(26, 26, 26)") == (scheme == "light")


def _data(view, number):
    return view.evaluate(f"document.querySelectorAll('.plot')[{number}].data")


def test_a_sample_a_class_and_a_layer_can_be_chosen(open_page):
    view = open_page()
    inside = view.locator(".chart[data-kind=inside]")
    net, show, of_class = (inside.locator(f"select[name={n}]") for n in ("net", "show", "class"))
    assert not of_class.is_visible()
    assert _data(view, 1)[0]["z"] == made_up().biases.tolist()
    show.select_option(label="gate outputs of an example")
    assert _data(view, 1)[0]["z"] == made_up().sample_gates[0].tolist()
    assert "training example 0: 0, answered dog" in inside.inner_text()
    inside.locator("input[name=example]").fill("4")
    assert "training example 3: 0" in inside.inner_text()
    inside.locator("input[name=layer]").fill("5")
    assert _data(view, 2)[0]["y"] == made_up().sample_gates[3, 4].tolist()
    show.select_option(label="mean gates of a class, minus those of all")
    of_class.select_option(label="dog")
    differences = (made_up().by_class[1] - made_up().mean).round(3)
    assert _data(view, 1)[0]["z"] == pytest.approx(differences)
    net.select_option(label="another net")
    assert len(_data(view, 1)[0]["z"]) == 8
    assert _data(view, 3)[0]["y"] == pytest.approx(100 * made_up(blocks=8).shut[1])


def test_curves_can_be_chosen(open_page):
    view = open_page()
    curves = view.locator(".chart[data-kind=curves]")
    assert len(_data(view, 5)) == 12
    assert _data(view, 5)[0]["y"] == [1, 0.5]
    curves.locator("select[name=show]").select_option(label="train accuracy")
    assert _data(view, 5)[0]["y"] == [0.5, 0.5]
    curves.locator("select[name=of]").select_option(label=f"{EVIL} 10")
    assert len(_data(view, 5)) == 1


def test_trials_can_be_sorted_and_filtered(open_page):
    view = open_page()
    heads = [text.split(" ")[0] for text in view.locator(".trials th").all_inner_texts()]
    assert "batch_size" not in heads  # The same for all is said once, above the table.

    def column(name):
        cells = view.locator(f".trials td:nth-child({heads.index(name) + 1})")
        return cells.all_inner_texts()

    assert column("trial") == [str(i) for i in range(12)]
    view.locator(".trials th button", has_text="train_loss").click()
    losses = column("train_loss")
    assert losses[-1] == ""  # Those without a number come last in either order.
    assert losses[:-1] == sorted(losses[:-1], key=float)
    view.locator(".trials th button", has_text="train_loss").click()
    assert column("train_loss")[0] == "0.12"
    assert column("train_loss")[-1] == ""
    view.get_by_label("filter").fill("DIVERGED")
    assert column("trial") == ["5"]
    assert "1 of 12 trials" in view.locator("body").inner_text()


def test_the_page_follows_the_scheme_of_colours(open_page):
    view = open_page("light")
    font = "document.querySelector('.plot').layout.font.color"
    assert view.evaluate(font) == "#1a1a1a"
    view.emulate_media(color_scheme="dark")
    view.wait_for_function(f"{font} === '#e6e6e6'")
