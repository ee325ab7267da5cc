"""What runs found, beside what the paper reports.

    python -m highway_jax.report --workdir=runs/sweep --workdir=runs/table1 --out=report

Reads the records of any number of runs, finished or not, and writes `report.md` and a page to
explore, `report.html`, with figures as PNG and SVG. Nothing is trained.
"""

import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from highway_jax import files
from highway_jax.arguments import Parser
from highway_jax.errors import UserError
from highway_jax.paper import published
from highway_jax.reporting import page, paper_tables, run_tables
from highway_jax.reporting.document import to_markdown
from highway_jax.storage import results


def report(workdirs: Iterable[Path], out: Path) -> str:
    """Writes `report.md`, `report.html` and the figures; returns the Markdown.

    Args:
        workdirs: Directories of runs.
        out: Where to write; made if need be.

    Raises:
        UserError: If a directory holds no run, or the report cannot be written.
    """
    found = results.read_all(workdirs)
    try:
        out.mkdir(parents=True, exist_ok=True)
        sections = [
            run_tables.overview(found),
            paper_tables.figure1(found, out),
            *(paper_tables.table(name, found, out) for name in published.TABLES),
            paper_tables.inside(found, out),
            *(run_tables.by_depth(run, out) for run in found),
            *(run_tables.curves(run) for run in found),
            run_tables.trial_table(found),
            run_tables.provenance(found),
        ]
        sections = [section for section in sections if section.parts]
        title = "Highway networks beside the paper"
        text = to_markdown(title, sections)
        files.write_atomically(out / "report.html", page.to_html(title, sections, out))
        files.write_atomically(out / "report.md", text)
    except OSError as error:
        raise UserError(
            f"--out is {str(out)!r}; allowed: a directory to write ({error})"
        ) from error
    return text


def main(argv: Sequence[str]) -> int:
    """Runs one command line without the program's name; returns the exit status."""
    parser = Parser(prog="python -m highway_jax.report", description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", action="append", required=True, help="of a run; repeatable")
    parser.add_argument("--out", default="report", help="directory to write (default: report)")
    try:
        arguments = parser.parse(argv)
        workdirs = [files.expand("--workdir", workdir) for workdir in arguments.workdir]
        out = files.expand("--out", arguments.out)
        print(report(workdirs, out))
    except UserError as error:
        print("error:", " ".join(str(error).split()), file=sys.stderr)
        return 2
    print(f"Open {out / 'report.html'} in a browser.", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
