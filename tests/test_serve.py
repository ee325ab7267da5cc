"""The page of `report --serve`: what its server answers, and how it follows runs."""

import http.client
import json
import re
import shutil
import signal
import socket
import subprocess
import sys

import pytest
from test_page import CURVES, _choose, _column, _data, _layout, _settle, browser  # noqa: F401
from test_report import _row, _write_run

from highway_jax import report
from highway_jax.errors import UserError

# Runs the module. Tests in the background of a script ignore Ctrl-C, and so would the server.
_MODULE = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("highway_jax.report", run_name="__main__", alter_sys=True)
"""


class Live:
    """A server in a process of its own, and the runs that it follows."""

    def __init__(self, path):
        self.path = path
        self.process = subprocess.Popen(
            [sys.executable, "-c", _MODULE, "a", "b", "--serve", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=path,
        )
        line = self.process.stderr.readline()
        self.port = int(re.fullmatch(r"Open http://localhost:(\d+)/ in a browser;.*\n", line)[1])

    def get(self, path="/", **headers):
        link = http.client.HTTPConnection("127.0.0.1", self.port)
        link.putrequest("GET", path, skip_host="Host" in headers)
        for name, value in headers.items():
            link.putheader(name.replace("_", "-"), value)
        link.endheaders()
        answer = link.getresponse()
        return answer.status, answer.read().decode()

    def write(self, name, epochs, done=False):
        """Writes the records of a run of two trials as they are after some epochs."""
        shutil.rmtree(self.path / name, ignore_errors=True)
        rows = [_row(i, seed=i, status="finished", train_loss=0.5) for i in (0, 1) if done]
        lines = [
            {"trial": i, "seed": i, "case": "net", "epoch": epoch, "step": 10 * epoch,
             "train_loss": (i + 1) / epoch, "train_accuracy": 0.5}
            for i in (0, 1)
            for epoch in range(1, epochs + 1)
        ]  # fmt: skip
        _write_run(self.path / name, rows, lines)


@pytest.fixture(scope="module")
def live(tmp_path_factory):
    found = Live(tmp_path_factory.mktemp("live"))
    yield found
    found.process.kill()
    found.process.wait()


@pytest.fixture(scope="module")
def view(browser, live):  # noqa: F811
    """The page that all tests share, opened before there is a run; it must report nothing."""
    said = []
    view = browser.new_page(viewport={"width": 1200, "height": 600})
    view.set_default_timeout(5000)
    view.on("console", lambda message: said.append(message.text))
    view.on("pageerror", lambda error: said.append(str(error)))
    view.goto(f"http://localhost:{live.port}/")
    yield view
    view.close()
    # The browser itself reports answers of 503, and those that it does not get at the end.
    assert [text for text in said if not text.startswith("Failed to load resource")] == []


def _ask(view):
    """Asks until the answer is another one: the server rests after it has made a page."""
    shown = "document.documentElement.dataset.live + document.querySelector('output').innerText"
    before = view.evaluate(shown)
    for _ in range(100):
        view.evaluate("ask()")
        if view.evaluate(shown) != before:
            break
        view.wait_for_timeout(100)
    _settle(view)


def test_runs_that_are_not_there_yet_are_waited_for(live, view):
    main = view.locator("main").inner_text()
    assert "Waiting for a run" in main
    assert "error: workdir is 'a'; allowed: a directory of a run" in main
    live.write("a", 2)
    reason = view.locator(".live output", has_text="'b'; allowed: a directory of a run")
    reason.wait_for()  # The page asks by itself.
    live.write("b", 1)
    _ask(view)
    assert view.locator("h1").inner_text() == "a, b"
    assert "Trials\n0\n2 runs, and 4 in training" in view.locator(".cards").inner_text()
    assert _column(view, "train_loss") == ["0.5", "1", "1", "2"]  # Those of the last epoch.
    assert "status training" in view.locator(".trials + .note").inner_text()
    assert view.locator(".live output").inner_text().startswith("updated ")


def test_a_page_that_is_the_newest_is_not_sent_again(live, view):
    status, text = live.get()
    version = re.search(r'<html lang="en" data-live="(\d+)">', text)[1]
    assert "connect-src 'self'" in text
    assert status == 200
    assert live.get(If_None_Match=version) == (304, "")


def test_what_a_reader_chose_and_sees_stays(live, view):
    view.get_by_label("filter").fill("train_loss>0")
    _choose(view, CURVES, "scale", "linear")
    view.locator(".trials th button", has_text="train_loss").click()
    view.locator(".trials tbody tr[data-trial='1']").click()
    view.locator(".chooser summary").click()
    view.evaluate(
        f"Plotly.relayout(document.querySelector('{CURVES} .plot'),"
        " {'xaxis.range[0]': 1, 'xaxis.range[1]': 3, 'yaxis.range[0]': 0, 'yaxis.range[1]': 5})"
    )
    view.get_by_label("filter").focus()
    view.evaluate("scrollTo(0, 300)")
    before = view.evaluate("[location.hash, scrollY]")
    live.write("a", 3, done=True)
    _ask(view)
    assert view.evaluate("[location.hash, scrollY]") == before
    assert view.get_by_label("filter").input_value() == "train_loss>0"
    assert _column(view, "status").count("finished") == 2
    drawn = [trace for trace in _data(view, CURVES) if 3 in trace["x"]]
    assert drawn
    layout = _layout(view, CURVES)
    assert (layout["xaxis"]["range"], layout["yaxis"]["range"]) == ([1, 3], [0, 5])
    assert "1 selected" in view.locator(".count").inner_text()
    assert view.locator(".trials th[aria-sort=ascending]").inner_text().startswith("train_loss")
    assert view.locator(".chooser").evaluate("(e) => e.open")
    assert view.evaluate("document.activeElement.name") == "filter"
    # Where its axes mean something else, a chart is shown whole.
    _choose(view, CURVES, "scale", "log")
    assert _layout(view, CURVES)["yaxis"]["range"] != [0, 5]


def test_a_page_that_cannot_be_made_keeps_the_one_before(live, view):
    config = live.path / "a" / "config.json"
    whole = config.read_text()
    config.write_text(whole[:10])
    _ask(view)
    assert "not updated: error: workdir is 'a'" in view.locator(".live output").inner_text()
    assert len(_column(view, "train_loss")) == 4
    assert live.get()[0] == 200
    config.write_text(whole)
    _ask(view)
    assert view.locator(".live output").inner_text().startswith("updated ")


def test_live_can_be_switched_off(live, view):
    box = view.locator("input[name=live]")
    assert box.is_checked()
    box.uncheck()
    assert "live=off" in view.evaluate("location.hash")
    box.check()
    assert "live" not in view.evaluate("location.hash")


@pytest.mark.parametrize(
    "path",
    ["/config.json", "/a/config.json", "/../a/config.json", "/%2e%2e/etc/passwd", "//etc/passwd",
     "/?file=a", "a/config.json", "/a\0", "http://localhost/"],
)  # fmt: skip
def test_nothing_but_the_page_is_served(live, path):
    link = socket.create_connection(("127.0.0.1", live.port))
    with link, link.makefile("rb") as answer:
        link.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost:{live.port}\r\n\r\n".encode())
        first, *_ = answer.read().decode().splitlines()
    assert first in ("HTTP/1.0 404 Not Found", "HTTP/1.0 400 Bad request version")


def test_only_this_machine_is_served(live):
    assert live.get(Host=f"evil.example:{live.port}") == (403, "allowed: requests to localhost")
    assert live.get(Host="localhost.evil.example")[0] == 403
    for host in ("localhost", "localhost:9000", "127.0.0.1:80"):  # Of a port that is forwarded.
        assert live.get(Host=host)[0] == 200
    with pytest.raises(ConnectionRefusedError):  # Another address of this machine.
        socket.create_connection(("127.0.0.2", live.port))


def test_ctrl_c_ends_it_with_one_line(live):
    link = socket.create_connection(("127.0.0.1", live.port))  # A browser that stays connected.
    live.process.send_signal(signal.SIGINT)
    out, err = live.process.communicate(timeout=10)
    link.close()
    assert (live.process.returncode, out, err) == (0, "", "stopped\n")


@pytest.mark.parametrize("port", [-1, 65536, 10**30])
def test_a_port_out_of_range_is_refused(tmp_path, capsys, port):
    assert report.main([str(tmp_path), "--serve", f"--port={port}"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: --port is {port}; allowed: 0, for any that is free, or a port")
    assert line.count("\n") == 1


def test_a_port_in_use_is_refused(tmp_path, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert report.main([str(tmp_path), "--serve", f"--port={port}"]) == 2
    line = capsys.readouterr().err
    assert line.startswith(f"error: --port is {port}; allowed: ")
    assert "in use" in line
    assert line.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--serve", "--port=many"], "error: argument --port: invalid int value: 'many'\n"),
        (["--serve", "--out=x"], "error: argument --out: not allowed with argument --serve\n"),
        ([], "error: --workdir is missing; allowed: one or more directories of runs\n"),
    ],
)
def test_other_flags_are_refused(words, line, capsys):
    assert report.main(words if not words else ["run", *words]) == 2
    assert capsys.readouterr().err == line


def test_a_run_that_is_half_written_gives_a_page_or_one_line(tmp_path):
    """Every file, cut off at many positions, and missing."""
    lines = [{"trial": 0, "case": "net", "seed": 0, "epoch": 1, "step": 10, "train_loss": 1.0}]
    _write_run(tmp_path / "run", [_row(0, status="finished"), _row(1)], lines, trials=2)
    pages = 0
    for path in sorted((tmp_path / "run").iterdir()):
        whole = path.read_bytes()
        for length in [None, *range(0, len(whole), max(1, len(whole) // 12)), len(whole)]:
            path.unlink(missing_ok=True)
            if length is not None:
                path.write_bytes(whole[:length])
            try:
                text = report.live_page([tmp_path / "run"], "1", "")
                pages += 1
            except UserError as error:
                text = report.live_page([tmp_path / "run"], "", str(error))
            for data in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', text):
                json.loads(data)
    assert pages > 10
