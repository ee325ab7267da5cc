"""The parts of reports, and their form in Markdown."""

import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple


class Table(NamedTuple):
    """A table of texts. Its first column holds words, the others numbers.

    Attributes:
        heads: Headings of the columns.
        rows: Cells.
        words: Positions of all columns that hold words.
    """

    heads: Sequence[str]
    rows: Sequence[Sequence[str]]
    words: Sequence[int] = (0,)


class Picture(NamedTuple):
    """A figure of the Markdown report. The page shows a chart of the same data in its place.

    Attributes:
        name: Name of its file beside the report, without the suffix.
        words: Its caption.
        draw: Returns it as a matplotlib figure.
    """

    name: str
    words: str
    draw: Callable[[], Any]


class Chart(NamedTuple):
    """An interactive chart of the page.

    Attributes:
        kind: Name of the function that draws it (`KINDS` in `page_files`).
        data: What it draws, as JSON data. None for charts of all trials (`explorer.explore`).
    """

    kind: str
    data: Any = None


class Card(NamedTuple):
    """A number at the top of the page.

    Attributes:
        title: What it is.
        value: The number as text.
        detail: Further words about it.
    """

    title: str
    value: str
    detail: str


class Cards(NamedTuple):
    """The cards of a section."""

    cards: Sequence[Card]


Part = str | Table | Picture | Chart | Cards


class Section(NamedTuple):
    """A section of a report.

    Attributes:
        title: Its heading.
        parts: Its contents in order.
    """

    title: str
    parts: Sequence[Part]


def to_markdown(title: str, sections: Iterable[Section]) -> str:
    """Returns a report as Markdown, without what only the page shows."""
    blocks = [f"# {title}"]
    for section in sections:
        shown = [part for part in section.parts if not isinstance(part, Chart | Cards)]
        if shown:
            blocks += [f"## {section.title}", *map(_markdown, shown)]
    return "\n\n".join(blocks) + "\n"


def _markdown(part: str | Table | Picture) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, Picture):
        return f"![{part.words}]({urllib.parse.quote(part.name)}.png)"
    rules = ["---" if i in part.words else "---:" for i in range(len(part.heads))]
    lines = (part.heads, rules, *part.rows)
    cells = [[cell.replace("|", "\\|") for cell in line] for line in lines]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
