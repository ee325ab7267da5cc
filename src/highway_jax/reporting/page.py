"""A report as one HTML page that needs no network: text, tables, figures, charts to explore.

The charts are drawn by Plotly, whose script is copied into the page, from the JSON data beside
them; `page_files/page.js` has one function for each kind of `document.Chart`.
"""

import html
import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

from highway_jax.reporting import figures
from highway_jax.reporting.document import Chart, Picture, Section, Table


def to_html(title: str, sections: Iterable[Section], directory: Path) -> str:
    """Returns the page.

    Args:
        title: Its heading.
        sections: Its parts.
        directory: Where the SVG files of its pictures lie, which are copied into it.
    """
    from plotly.offline import get_plotlyjs

    sections = list(sections)
    titles = [section.title for section in sections]
    links = "".join(f'<a href="#s{i}">{html.escape(name)}</a>' for i, name in enumerate(titles))
    body, number = [], 0
    for i, section in enumerate(sections):
        body.append(f'<section id="s{i}"><h2>{html.escape(section.title)}</h2>')
        for part in section.parts:
            body.append(_part(part, directory, number))
            number += isinstance(part, Chart)
        body.append("</section>")
    files = resources.files("highway_jax.reporting") / "page_files"
    style, script = ((files / f"page.{kind}").read_text("utf-8") for kind in ("css", "js"))
    return (
        "<!doctype html>\n"
        '<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{style}</style></head><body>"
        f"<header><h1>{html.escape(title)}</h1><nav>{links}</nav></header>"
        f"<main>{''.join(body)}</main>"
        f'<script type="application/json" id="scales">{json.dumps(figures.color_scales())}</script>'
        f"<script>{get_plotlyjs()}</script><script>{script}</script></body></html>\n"
    )


def _part(part: str | Table | Picture | Chart, directory: Path, number: int) -> str:
    if isinstance(part, str):
        return f"<p>{_inline(part)}</p>"
    if isinstance(part, Picture):
        svg = (directory / f"{part.name}.svg").read_text("utf-8")
        # Ids would clash with those of other figures on the page: each has its own.
        svg = svg[svg.index("<svg") :]
        own = f"p{part.name}-"
        svg = re.sub(r'(\bid="|href="#|url\(#)', lambda match: match[1] + own, svg)
        words = html.escape(part.words)
        return (
            f'<figure role="img" aria-label="{words}">{svg}'
            f"<figcaption>{words}</figcaption></figure>"
        )
    if isinstance(part, Table):
        return _table(part)
    # A "</script>" within a name must not end the data.
    data = json.dumps(part.data, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
    return (
        f'<div class="chart" data-kind="{html.escape(part.kind)}" data-number="{number}">'
        f'<script type="application/json">{data}</script></div>'
    )


def _table(table: Table) -> str:
    def cells(row, tag):
        return "".join(
            f"<{tag}{'' if i in table.words else ' class=number'}>{_inline(cell)}</{tag}>"
            for i, cell in enumerate(row)
        )

    head = f"<thead><tr>{cells(table.heads, 'th')}</tr></thead>"
    body = "".join(f"<tr>{cells(row, 'td')}</tr>" for row in table.rows)
    return f'<div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'


def _inline(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", html.escape(text))
