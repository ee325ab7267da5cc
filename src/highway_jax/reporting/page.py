"""A report as one HTML page that needs no network: text, tables and interactive charts.

`page_files/page.html` is its Jinja template. `SCRIPTS` draw the charts from JSON data in the page;
`KINDS` in them has a function for each kind of `document.Chart`.

Charts are drawn by the cartesian bundle of plotly.js, which is kept beside the scripts in a pinned
version, with its licence. The Python package of Plotly has only the whole library, which alone is
larger (4.8 MB) than a page should be.
"""

import functools
import re
from collections.abc import Iterable
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup, escape

from highway_jax.reporting import document, figures
from highway_jax.reporting.document import Section

SCRIPTS = (
    *("core.js", "trials.js", "curves.js", "sweep.js", "paper.js", "maps.js", "live.js", "main.js"),
)
LIBRARY = "plotly-cartesian.min.js"


def to_html(
    title: str, sections: Iterable[Section], trials: Any = None, live: str | None = None
) -> str:
    """Returns the page.

    Args:
        title: Its heading.
        sections: Its sections. Those that hold nothing but pictures are left out.
        trials: What `explorer.explore` returns, for the charts of all trials.
        live: The version of a page that asks its server for later ones; None for one that stays.
    """
    shown = [
        section._replace(parts=parts)
        for section in sections
        if (parts := [p for p in section.parts if not isinstance(p, document.Picture)])
    ]
    return _template().render(
        title=title,
        sections=shown,
        trials=trials,
        live=live,
        scales=figures.color_scales(),
        style=Markup(_read("page.css")),
        library=Markup(_read(LIBRARY)),
        script=Markup("\n".join(map(_read, SCRIPTS))),
        kind=lambda part: type(part).__name__,
        bold=_bold,
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    # Compact, in the given order, and never with NaN, which is not JSON.
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.from_string(_read("page.html"))


def _read(name: str) -> str:
    return (resources.files("highway_jax.reporting") / "page_files" / name).read_text("utf-8")


def _bold(text: str) -> Markup:
    text = str(escape(text)).replace(" ± ", "\N{NO-BREAK SPACE}±\N{NO-BREAK SPACE}")
    return Markup(re.sub(r"\*\*(.+?)\*\*", r"<strong>\1</strong>", text))
