"""Which package imports which, and what an import costs."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("jinja2", "matplotlib", "orbax", "rich", "sklearn", "tensorboardX", "tensorflow_datasets")


def test_packages_keep_their_contracts():
    """The contracts are in pyproject.toml."""
    code = "import sys, importlinter.cli as cli; sys.exit(cli.lint_imports(no_cache=True))"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _modules(code):
    """Returns the top-level modules that a fresh interpreter has loaded after some code."""
    code += "; import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_package_alone_loads_nothing():
    assert not _modules("import highway_jax") & {"jax", "flax", "numpy", *HEAVY}


def test_a_block_loads_flax_and_little_else():
    loaded = _modules("from highway_jax import HighwayBlock, scan_blocks")
    assert "flax" in loaded
    without = _modules("import jax, flax.linen, jaxtyping")
    assert not (loaded - without) & {*HEAVY, "optax", "absl", "ml_collections"}


@pytest.mark.parametrize(
    "code",
    [
        "from highway_jax.config.schema import SCHEMA",
        "from highway_jax import default_config; default_config()",
        "from highway_jax.storage import results",
        "from highway_jax import report",
        "from highway_jax.paper import claims",
        "from highway_jax.main import main; main(['highway-jax', '--config=none.py'])",
    ],
)
def test_saved_runs_and_bad_command_lines_load_no_jax(code):
    assert not _modules(code) & {"jax", "flax", "optax", "orbax", "sklearn", "tensorflow_datasets"}


def test_an_unknown_name_is_an_attribute_error():
    import highway_jax

    with pytest.raises(AttributeError, match="no attribute 'HighwayBlok'"):
        highway_jax.HighwayBlok  # noqa: B018
    assert set(highway_jax.__all__) <= set(dir(highway_jax))
