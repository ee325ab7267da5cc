import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "highway_jax"

# Each room may import those before it, and no other.
ORDER = [
    "errors",
    "files",
    "architectures",
    "schema",
    "config",
    "archives",
    "tfds_builders",
    "data",
    "preprocess",
    "convolution",
    "layers",
    "models",
    "optimizer",
    "metrics",
    "train",
    "evaluate",
    "rendezvous",
    "projection",
    "hosts",
    "parallel",
    "draws",
    "design",
    "trials",
    "program",
    "analysis",
    "compile_cache",
    "checkpoint",
    "tables",
    "summaries",
    "events",
    "records",
    "progress",
    "signals",
    "workdir",
    "run_context",
    "batch_run",
    "experiment",
    "recipes",
    "__init__",
    "command_line",
    "main",
    "paper",
    "findings",
    "figures",
    "analyze",
    "claims",
    "runs",
    "document",
    "page",
    "report_runs",
    "report_paper",
    "report",
]

# Libraries that stay inside certain rooms.
HOMES = {
    "flax": {"layers", "models"},
    "orbax": {"checkpoint"},
    "tensorflow_datasets": {"archives", "data", "tfds_builders"},
    "google_crc32c": {"tfds_builders"},
    "filelock": {"workdir"},
    "matplotlib": {"figures"},
    "plotly": {"page"},
    "sklearn": {"data"},
    "tensorboardX": {"events"},
}


def _imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            if node.module == "highway_jax":
                yield from (f"highway_jax.{alias.name}" for alias in node.names)
            yield node.module


def test_every_module_has_its_place():
    assert sorted(path.stem for path in SOURCE.glob("*.py")) == sorted(ORDER)


@pytest.mark.parametrize("room", ORDER)
def test_imports_point_down(room):
    allowed = set(ORDER[: ORDER.index(room)])
    ours = {
        parts[1]
        for name in _imports(SOURCE / f"{room}.py")
        if (parts := name.split("."))[0] == "highway_jax" and len(parts) > 1 and parts[1] in ORDER
    }
    assert ours <= allowed, f"{room} imports {sorted(ours - allowed)}"


@pytest.mark.parametrize("room", ORDER)
def test_libraries_stay_in_their_rooms(room):
    imported = {name.split(".")[0] for name in _imports(SOURCE / f"{room}.py")}
    for library, homes in HOMES.items():
        assert library not in imported or room in homes
    assert not imported & {"tensorflow", "pickle", "torch"}
