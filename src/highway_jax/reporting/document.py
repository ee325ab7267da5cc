"""The parts that reports are made of, and how they look in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table of text; its first column is of words, the others of numbers.

    Attributes:
        heads: Headings of the columns.
        rows: Cells.
        words: Further columns that are of words.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = (0,)


class Picture(NamedTuple):
    """A figure.

    Attributes:
        name: Its file beside the report, without the ending.
        words: What it shows.
    """

    name: str
    words: str


class Chart(NamedTuple):
    """Something to explore, on the page only.

    Attributes:
        kind: What draws it (see `page/page.js`).
        data: What it draws, as JSON data.
    """

    kind: str
    data: Any


class Section(NamedTuple):
    """A part of a report.

    Attributes:
        title: Its heading.
        parts: Text, tables, pictures and charts, one after the other.
    """

    title: str
    parts: Sequence[str | Table | Picture | Chart]


def to_markdown(title: str, sections: Iterable[Section]) -> str:
    """Returns a report as Markdown, without its charts."""
    blocks = [f"# {title}"]
    for section in sections:
        shown = [part for part in section.parts if not isinstance(part, Chart)]
        if shown:
            blocks += [f"## {section.title}", *map(_markdown, shown)]
    return "\n\n".join(blocks) + "\n"


def _markdown(part: str | Table | Picture) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Picture):
        return f"![{part.words}]({part.name}.png)"
    rules = ["---" if i in part.words else "---:" for i in range(len(part.heads))]
    lines = (part.heads, rules, *part.rows)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
