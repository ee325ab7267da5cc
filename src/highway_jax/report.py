"""Reports the results of runs, beside those of the paper where it has them.

    python -m highway_jax.report runs/sweep runs/table1 --out=report
    python -m highway_jax.report runs/sweep --serve

Reads the records of any number of runs, finished or not. Writes `report.md` with figures as PNG and
SVG, and an interactive page, `report.html`; or serves a page that follows runs in training. Nothing
is trained.
"""

import sys
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from highway_jax import files
from highway_jax.arguments import Parser
from highway_jax.errors import UserError, require
from highway_jax.paper import published
from highway_jax.reporting import (
    explorer,
    figures,
    page,
    paper_tables,
    run_tables,
    serve,
    trainability,
)
from highway_jax.reporting.document import Chart, Picture, Section, to_markdown
from highway_jax.runtime.output import print_error, standard_output
from highway_jax.storage import results
from highway_jax.storage.results import Run


def report(workdirs: Iterable[Path], out: Path) -> str:
    """Writes `report.md`, `report.html` and the figures.

    Args:
        workdirs: Directories of runs.
        out: Directory to write; it is created if it does not exist.

    Returns:
        The Markdown.

    Raises:
        UserError: If a directory holds no run, the report cannot be written, or the extra `report`
            is not installed.
    """
    require("report", "a report", "matplotlib", "sklearn")
    found = results.read_all(workdirs)
    trials = explorer.explore(found)
    title, sections = _sections(found, trials)
    text = to_markdown(title, sections)
    try:
        out.mkdir(parents=True, exist_ok=True)
        for picture in (part for section in sections for part in section.parts):
            if isinstance(picture, Picture):
                figures.save(picture.draw(), out / picture.name)
        files.write_atomically(out / "report.html", page.to_html(title, sections, trials))
        files.write_atomically(out / "report.md", text)
    except OSError as error:
        raise UserError(
            f"--out is {str(out)!r}; allowed: a directory to write ({error})"
        ) from error
    return text


def live_page(workdirs: Sequence[Path], version: str, trouble: str) -> str:
    """Returns the page of a server.

    Args:
        workdirs: Directories of runs.
        version: A name of the page as it is now.
        trouble: Why the runs cannot be read, or "".

    Raises:
        UserError: If a directory holds no run and there is no `trouble`.
    """
    if trouble:
        title = ", ".join(path.name for path in workdirs)
        return page.to_html(title, [Section("Waiting for a run", [trouble])], live=version)
    found = results.read_all(workdirs)
    trials = explorer.explore(found)
    return page.to_html(*_sections(found, trials), trials, live=version)


def _sections(found: list[Run], trials: explorer.Row | None) -> tuple[str, list[Section]]:
    """Returns the title and the sections of a report."""
    beside = [
        paper_tables.figure1(found),
        *(paper_tables.table(name, found) for name in published.TABLES),
    ]
    sections = [
        run_tables.overview(found),
        *_charts(trials),
        run_tables.differences(found),
        *beside,
        paper_tables.inside(found),
        *(make(run) for make in run_tables.FIGURES for run in found),
        *trainability.which_train(found),
        run_tables.provenance(found),
    ]
    title = _title(found, [section.title for section in beside if section.parts])
    return title, [section for section in sections if section.parts]


def _charts(trials: explorer.Row | None) -> list[Section]:
    """Returns the sections of the page that show all trials."""
    if trials is None:
        return []
    varied = [c for c in trials["columns"] if c["varied"] and c["role"] == "setting"]
    return [
        Section("Curves", [Chart("curves")] if trials["metrics"] else []),
        Section("Every trial", [Chart("trials")]),
        Section("Settings and results", [Chart("sweep")] if varied else []),
    ]


def _title(found: Sequence[Run], of_paper: Sequence[str]) -> str:
    if of_paper:
        return "; ".join(of_paper)
    names = [run.name for run in found]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} other runs"


def main(argv: Sequence[str]) -> int:
    """Runs a command line, given without the program's name; returns the exit status."""
    parser = Parser(
        prog="highway-jax report",
        description="Reports the results of runs, beside those of the paper where it has them.",
    )
    parser.add_argument("workdirs", nargs="*", metavar="WORKDIR", help="directory of a run")
    parser.add_argument(
        "--workdir", action="append", default=[], help="the same as a flag; repeatable"
    )
    way = parser.add_mutually_exclusive_group()
    way.add_argument("--out", default="report", help="directory to write (default: report)")
    way.add_argument(
        "--serve", action="store_true", help="show a page that follows runs, to this machine alone"
    )
    parser.add_argument("--port", type=int, default=8000, help="port of --serve (default: 8000)")
    try:
        arguments = parser.parse(argv)
        workdirs = [
            files.expand("--workdir", path) for path in (*arguments.workdirs, *arguments.workdir)
        ]
        if not workdirs:
            raise UserError("--workdir is missing; allowed: one or more directories of runs")
        if arguments.serve:
            require("report", "a report", "matplotlib", "sklearn")
            live = serve.LivePage(workdirs, partial(live_page, workdirs))
            serve.serve(live, arguments.port, partial(print, file=sys.stderr, flush=True))
            return 0
        out = files.expand("--out", arguments.out)
        with standard_output() as output:
            print(report(workdirs, out), file=output)
    except UserError as error:
        print_error(error)
        return 2
    print(f"Open {out / 'report.html'} in a browser.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
