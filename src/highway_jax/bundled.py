"""The experiment files that are installed with the package."""

import ast
from pathlib import Path

_PACKAGE = Path(__file__).parent


def experiments() -> dict[str, Path]:
    """Returns the bundled experiment files by name, in alphabetical order."""
    installed, checkout = _PACKAGE / "experiments", _PACKAGE.parents[1] / "experiments"
    directory = installed if installed.is_dir() else checkout
    return {path.stem: path for path in sorted(directory.glob("*.py")) if path.stem[0] != "_"}


def find(name: str) -> Path | None:
    """Returns the bundled file that `digits`, `digits.py` or `experiments/digits.py` names."""
    path = Path(name)
    if path.parent.as_posix() in (".", "experiments") and path.suffix in ("", ".py"):
        return experiments().get(path.stem)
    return None


def title(path: Path) -> str:
    """Returns the first line of the docstring of an experiment file."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return text.partition("\n")[0]
