"""Notebooks train nets that take longer to run than to compile, so their programs are optimized."""

import os

import pytest

UNOPTIMIZED = "--xla_backend_optimization_level=0"  # Set by tests/conftest.py.


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item, nextitem):
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("XLA_FLAGS") == UNOPTIMIZED:
            patch.delenv("XLA_FLAGS")
        return (yield)
