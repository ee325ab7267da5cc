"""Pages that `mkdocs build` makes: the settings, the results, and the Markdown outside of docs/.

Links in the repository are relative to their file, as GitHub resolves them. On the site, docs/ is
the root and what lies beside it is mirrored into it, so links between the two are rewritten.
"""

import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from highway_jax.config import sections
from highway_jax.config.schema import RULES, SCHEMA, USES

ROOT = Path(__file__).parents[1]
MIRRORED = (
    "experiments/results/**/*.md",
    "experiments/results/**/*.png",
    "experiments/provenance/README.md",
    "benchmarks/*.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
)
SETTINGS = "<!-- settings -->"
"""Where configuration.md has the tables of all settings."""


def on_files(files: Any, config: Any) -> Any:
    """Adds the pages and pictures from outside of docs/."""
    from mkdocs.structure.files import File

    for pattern in MIRRORED:
        for path in sorted(ROOT.glob(pattern)):
            uri = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, uri, abs_src_path=str(path)))
    files.append(File.generated(config, "results.md", content=results()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Fills in the settings, and rewrites links that leave or enter docs/."""
    if "/" not in page.file.src_uri:
        markdown = re.sub(r"\]\((?:\.\./|docs/)", "](", markdown)
    else:
        markdown = re.sub(r"\]\(((?:\.\./)+)docs/", r"](\1", markdown)
    # Source files are not on the site; a link to one becomes its text.
    markdown = re.sub(r"\[([^]]*)\]\([^)#:]+\.py\)", r"\1", markdown)
    return markdown.replace(SETTINGS, settings()) if SETTINGS in markdown else markdown


def results() -> str:
    """Returns the page of results, which is the section of that name in the README."""
    text = (ROOT / "README.md").read_text()
    (section,) = re.findall(r"^## Results\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL)
    return "# Results\n" + re.sub(r"^###", "##", section, flags=re.MULTILINE)


def settings() -> str:
    """Returns a table of keys for each section of a config, and the rules between keys."""
    tables = []
    for title, doc, keys in _sections():
        rows = ["| key | meaning |", "| --- | --- |", *map(_row, keys)]
        tables += [f"## {title}", doc, "\n".join(rows)]
    rules = "\n".join(f"- {_rule(rule)}" for rule in RULES)
    return "\n\n".join([*tables, "## Rules between keys", rules]) + "\n"


def _sections() -> Iterator[tuple[str, str, list[str]]]:
    """Yields the heading, the description and the keys of each section."""
    names = dict.fromkeys(key.rpartition(".")[0] for key in SCHEMA)
    for name in names:
        owner = type(getattr(sections.Config(), name)) if name else sections.Config
        doc = "Settings of the whole run." if not name else inspect.getdoc(owner) or ""
        title = f"`{name}` {{ #{name} }}" if name else "Run { #run }"
        yield title, doc, [key for key in SCHEMA if key.rpartition(".")[0] == name]


def _row(key: str) -> str:
    entry = SCHEMA[key]
    meaning = f"{entry.doc}.<br>Allowed: {entry.allowed}."
    if key in USES:
        meaning += f"<br>Has an effect only {USES[key].where}."
    head = f"`{key}`<br>{type(entry.default).__name__}, default `{entry.default!r}`"
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in (head, meaning)) + " |"


def _rule(rule: Any) -> str:
    first, *others = (f"`{key}`" for key in rule.keys)
    text = f"{first} must agree with {' and '.join(others)}"
    return f"{text}. Allowed: {rule.allowed}." if isinstance(rule.allowed, str) else f"{text}."
