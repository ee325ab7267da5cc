"""The scripts in examples/, each in an empty directory."""

import re
import runpy
from pathlib import Path

import pytest

from highway_jax import registry

EXAMPLES = Path(__file__).parents[1] / "examples"
PRINTED = {
    "own_block.py": r"highway +test accuracy [\d.]+ %\naveraged +test accuracy [\d.]+ %\n",
    "own_data.py": r"(seed \d: test accuracy (9\d|100)\.\d %\n){2}",
    "own_module.py": r"the better net: Evaluation\(loss=[\d.]+, accuracy=0\.9\d+\)\n",
    "predict.py": r"(a \d: \d with probability [\d.]+\n){5}Evaluation\(.*\)\ngates .* by 0\.\d+",
    "sweep_and_plot.py": r"runs/sweep/curves\.png\n",
}


@pytest.fixture
def registry_of_blocks(monkeypatch):
    """Forgets what a script registers."""
    list(registry.BLOCKS)  # The built-in entries.
    monkeypatch.setattr(registry.BLOCKS, "_entries", dict(registry.BLOCKS._entries))


@pytest.mark.parametrize("name", sorted(PRINTED))
def test_a_script_does_what_it_says(name, registry_of_blocks, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    printed = capsys.readouterr().out
    assert re.search(PRINTED[name], printed), printed
    assert (tmp_path / "runs").is_dir()
    assert len((EXAMPLES / name).read_text().splitlines()) <= 45
