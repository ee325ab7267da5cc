"""The documentation: its code runs, its commands are valid, its links lead somewhere, it builds."""

import importlib
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from fault_tools import ROOT

import highway_jax
from highway_jax import analyze, command_line, registry, report
from highway_jax.config.schema import SCHEMA
from highway_jax.reporting import run_tables

PAGES = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "benchmarks/*.md", "experiments/**/README.md")
    for path in ROOT.glob(pattern)
)
# A fenced block: its language, the rest of its first line, and its text.
FENCED = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"^ {4,}(.*)$", re.MULTILINE)
COMMANDS = ("python -m highway_jax.", "highway-jax ")


def _text(page):
    return (ROOT / page).read_text()


def _blocks(page):
    """Returns the Python of a page in order, as pairs of a file name, or "", and the code."""
    found = (match.groups() for match in FENCED.finditer(_text(page)))
    return [
        ("".join(re.findall(r'title="(.*)"', rest)), code)
        for language, rest, code in found
        if language == "python"
    ]


def _commands(page):
    """Returns the commands of a page that start the package, each as a list of words."""
    text = FENCED.sub("", _text(page)).replace("\\\n", " ")
    lines = [line.strip() for line in INDENTED.findall(text)]
    lines += re.findall(r"`((?:python -m highway_jax|highway-jax) [^`]*)`", text)
    # Some end a quoted command line, as of a remote shell.
    parts = [part.strip().rstrip("'") for line in lines for part in line.split("&&")]
    return [shlex.split(part, comments=True) for part in parts if part.startswith(COMMANDS)]


def _put(title, code):
    """Saves a file of a page, or executes an addition to a module as if it stood at its end."""
    if not title.startswith("src/"):
        Path(title).write_text(code)
        return {}
    names = {"__name__": title}
    if (ROOT / title).exists():
        module = title.removeprefix("src/").removesuffix(".py").replace("/", ".")
        names = vars(importlib.import_module(module)) | names
    exec(compile(code, title, "exec"), names)
    return names


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """An empty working directory with the experiments; entries registered in it are forgotten."""
    monkeypatch.setattr(run_tables, "FIGURES", list(run_tables.FIGURES))
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    for value in vars(registry).values():
        if isinstance(value, registry.Registry):
            list(value)  # The built-in entries.
            monkeypatch.setattr(value, "_entries", dict(value._entries))
    return tmp_path


@pytest.mark.parametrize("page", [page for page in PAGES if _blocks(page)])
def test_the_code_of_a_page_runs(page, workplace):
    """Blocks with a file name are saved or added to a module, all others run in order."""
    names = {"__name__": "page"}
    for title, code in _blocks(page):
        if title:
            _put(title, code)
        else:
            exec(compile(code, page, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if _commands(page)])
def test_the_commands_of_a_page_are_valid(page, workplace, capsys):
    for title, code in _blocks(page):
        if title:
            _put(title, code)
    for words in _commands(page):
        words = words[2:] if words[0] == "python" else words
        name = words[0].removeprefix("highway_jax.")
        if name == "highway-jax":
            name, words = words[1], words[1:]
        if name in ("main", "train"):
            assert command_line.parse(words)
        elif name in ("analyze", "report"):
            # There is no run to read, which is the only complaint.
            main = {"analyze": analyze.main, "report": report.main}[name]
            # A served page would wait for the run.
            assert main([word for word in words[1:] if word != "--serve"]) == 2
            error = capsys.readouterr().err
            assert "workdir is " in error
            assert "No such file or directory" in error
        else:
            assert words == ["list"]


def test_the_additions_of_the_guide_for_contributors_train_and_report(workplace):
    """Block, data set, optimizer and figure at once."""
    added = {}
    for title, code in _blocks("CONTRIBUTING.md"):
        added |= _put(title, code)
    assert added["clip_value"].metadata["key"].check(1.0)
    config = highway_jax.default_config()
    config.data.name, config.data.valid_size = "wine", 30
    config.model.block, config.model.depth, config.model.width = "scaled", 3, 8
    config.optimizer.name, config.optimizer.learning_rate = "lion", 0.003
    config.training.epochs, config.training.batch_size = 20, 10
    (row,) = highway_jax.run(config, "runs/added")
    assert row["test_accuracy"] > 0.8
    assert run_tables.FIGURES[-1].__name__ == "accuracies"
    text = report.report([Path("runs/added")], Path("report"))
    assert "![Validation accuracy by epoch](accuracies-" in text


def test_the_pages_have_code_and_commands():
    """So that the tests above cannot pass by finding nothing."""
    assert sum(len(_blocks(page)) for page in PAGES) > 20
    assert sum(len(_commands(page)) for page in PAGES) > 30


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    text = FENCED.sub("", _text(page))
    for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
        assert ((ROOT / page).parent / link).exists(), link


def _hooks():
    names = {"__file__": str(ROOT / "docs" / "hooks.py"), "__name__": "hooks"}
    exec((ROOT / "docs" / "hooks.py").read_text(), names)
    return names


def test_the_table_of_settings_has_every_key():
    table = _hooks()["settings"]()
    rows = [line for line in table.splitlines() if line.startswith("| `")]
    assert len(rows) == len(SCHEMA)
    for row, (key, entry) in zip(rows, SCHEMA.items(), strict=True):
        assert row.startswith(f"| `{key}`<br>{type(entry.default).__name__}, default ")
        assert f"`{entry.default!r}`" in row
        assert entry.doc in row
        assert entry.allowed in row


def test_links_of_the_site_lead_to_its_pages():
    hooks = _hooks()
    docs = ROOT / "docs"
    sources = {path.relative_to(docs).as_posix(): path for path in docs.rglob("*.md")}
    for pattern in hooks["MIRRORED"]:
        sources |= {path.relative_to(ROOT).as_posix(): path for path in ROOT.glob(pattern)}
    targets = {*sources, "results.md"}
    wrong = []
    for uri, path in sources.items():
        if path.suffix != ".md":
            continue
        page = SimpleNamespace(file=SimpleNamespace(src_uri=uri))
        text = hooks["on_page_markdown"](path.read_text(), page)
        for link in re.findall(r"\]\(([^)#:\s]+\.md)(?:#[^)]*)?\)", text):
            if os.path.normpath(Path(uri).parent / link) not in targets:
                wrong.append((uri, link))
    assert wrong == []


def test_the_site_builds(tmp_path):
    for module in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(module, reason="needs the extra `docs`")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    settings = (tmp_path / "configuration" / "index.html").read_text()
    assert [key for key in SCHEMA if f"<code>{key}</code>" not in settings] == []
    reference = (tmp_path / "api" / "index.html").read_text()
    missing = [n for n in highway_jax.__all__ if f'id="highway_jax.{n}"' not in reference]
    assert missing == []
    assert "<h2 id=" in (tmp_path / "results" / "index.html").read_text()
