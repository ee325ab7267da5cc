"""Reports the results of runs, beside those of the paper where it has them.

    python -m highway_jax.report --workdir=runs/sweep --workdir=runs/table1 --out=report

Reads the records of any number of runs, finished or not. Writes `report.md` with figures as PNG and
SVG, and an interactive page, `report.html`. Nothing is trained.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from highway_jax import files
from highway_jax.arguments import Parser
from highway_jax.errors import UserError, require
from highway_jax.paper import published
from highway_jax.reporting import explorer, page, paper_tables, run_tables, trainability
from highway_jax.reporting.document import Chart, Section, to_markdown
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
    try:
        out.mkdir(parents=True, exist_ok=True)
        beside = [
            paper_tables.figure1(found, out),
            *(paper_tables.table(name, found, out) for name in published.TABLES),
            paper_tables.inside(found, out),
        ]
        sections = [
            run_tables.overview(found),
            *_charts(trials),
            run_tables.differences(found),
            *beside,
            *(draw(run, out) for draw in run_tables.FIGURES for run in found),
            *trainability.which_train(found, out),
            run_tables.provenance(found),
        ]
        sections = [section for section in sections if section.parts]
        title = _title(found, any(section.parts for section in beside))
        text = to_markdown(title, sections)
        files.write_atomically(out / "report.html", page.to_html(title, sections, trials))
        files.write_atomically(out / "report.md", text)
    except OSError as error:
        raise UserError(
            f"--out is {str(out)!r}; allowed: a directory to write ({error})"
        ) from error
    return text


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


def _title(found: Sequence[Run], beside_paper: bool) -> str:
    if beside_paper:
        return "Highway networks beside the paper"
    names = [run.name for run in found]
    return ", ".join(names) if len(names) <= 3 else f"{names[0]} and {len(names) - 1} other runs"


def main(argv: Sequence[str]) -> int:
    """Runs a command line, given without the program's name; returns the exit status."""
    parser = Parser(
        prog="python -m highway_jax.report",
        description="Reports the results of runs, beside those of the paper where it has them.",
    )
    parser.add_argument(
        "--workdir", action="append", required=True, help="directory of a run; repeatable"
    )
    parser.add_argument("--out", default="report", help="directory to write (default: report)")
    try:
        arguments = parser.parse(argv)
        workdirs = [files.expand("--workdir", workdir) for workdir in arguments.workdir]
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
