"""The examples in docstrings."""

import doctest
import importlib

import pytest

from highway_jax.registry import BLOCKS

_MODULES = (
    "nn.architectures",
    "nn.blocks",
    "nn.convolution",
    "nn.custom",
    "nn.initializers",
    "nn.model",
    "nn.pooling",
    "nn.stacks",
    "training.evaluate",
    "training.metrics",
    "training.trial_mesh",
)


@pytest.mark.parametrize("name", _MODULES)
def test_examples_run(name, monkeypatch):
    list(BLOCKS)  # The built-in entries.
    monkeypatch.setattr(BLOCKS, "_entries", dict(BLOCKS._entries))
    failed, tried = doctest.testmod(importlib.import_module(f"highway_jax.{name}"))
    assert failed == 0
    assert tried > 0
