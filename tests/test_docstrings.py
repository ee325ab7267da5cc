"""The examples in docstrings of the public API run."""

import doctest
import importlib
from pathlib import Path

import pytest

from highway_jax.registry import DATASETS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize(
    "module", ["analysis.predict", "data.dataset", "sklearn", "storage.read_run"]
)
def test_examples_in_docstrings_run(module, monkeypatch):
    list(DATASETS)  # The built-in entries.
    monkeypatch.setattr(DATASETS, "_entries", dict(DATASETS._entries))
    monkeypatch.chdir(ROOT)
    failed, attempted = doctest.testmod(importlib.import_module(f"highway_jax.{module}"))
    assert failed == 0
    assert attempted > 0
