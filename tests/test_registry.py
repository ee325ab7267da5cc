"""Registries of named entries."""

import importlib
import sys

import pytest

from highway_jax.registry import Registry


def _registry(home, places, monkeypatch):
    """Returns a registry of what a module in `places` registers, as `__main__.REGISTRY` there."""
    registry = Registry("model.block", home)
    monkeypatch.syspath_prepend(str(places))
    monkeypatch.setattr(sys.modules["__main__"], "REGISTRY", registry, raising=False)
    return registry


def test_an_entry_is_found_by_its_name():
    registry = Registry("model.block")

    @registry.register("mine")
    class Mine:
        pass

    assert registry["mine"] is Mine
    assert registry.names() == ("mine",)
    assert "mine" in registry
    assert "other" not in registry


def test_an_unknown_name_is_refused_with_those_that_are_known():
    registry = Registry("model.block")
    registry.register("one")(1)
    registry.register("two")(2)
    with pytest.raises(ValueError, match=r"model\.block is 'three'; allowed: one, two"):
        registry["three"]


@pytest.mark.parametrize("name", ["one", "not a name", "", 3, print])
def test_a_name_is_registered_once_and_is_an_identifier(name):
    registry = Registry("model.block")
    registry.register("one")(1)
    with pytest.raises(ValueError, match=r"choose another name|a Python identifier"):
        registry.register(name)(2)
    assert registry["one"] == 1


def test_a_definition_that_is_run_again_replaces_the_earlier_one():
    """As a notebook's cell does."""
    registry = Registry("model.block")

    def run_cell(value):
        @registry.register("mine")
        class Mine:
            number = value

    run_cell(1)
    run_cell(2)
    assert registry["mine"].number == 2
    with pytest.raises(ValueError, match="registered already"):

        @registry.register("mine")
        class Other:
            pass


def test_modules_that_could_not_be_imported_are_imported_when_asked_for_again(
    tmp_path, monkeypatch
):
    (tmp_path / "home_of_errors.py").write_text(
        "import no_such_module_yet\nfrom __main__ import REGISTRY\nREGISTRY.register('late')(3)\n"
    )
    registry = _registry("home_of_errors", tmp_path, monkeypatch)
    for _ in range(2):
        with pytest.raises(ModuleNotFoundError, match="no_such_module_yet"):
            registry.names()
    (tmp_path / "no_such_module_yet.py").touch()
    importlib.invalidate_caches()
    assert registry["late"] == 3


def test_the_modules_of_built_in_entries_are_imported_when_they_are_asked_for(
    tmp_path, monkeypatch
):
    (tmp_path / "home_of_entries.py").write_text(
        "from __main__ import REGISTRY\nREGISTRY.register('late')(3)\n"
    )
    registry = _registry("home_of_entries", tmp_path, monkeypatch)
    assert "home_of_entries" not in sys.modules
    assert registry.names() == ("late",)
    assert registry["late"] == 3


def test_the_name_of_a_built_in_entry_is_taken_before_it_is_loaded(tmp_path, monkeypatch):
    code = "import __main__\n\n\n@__main__.REGISTRY.register('gru')\nclass Gru:\n    pass\n"
    (tmp_path / "lazy_entry.py").write_text(code)
    registry = _registry("lazy_entry", tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"model.block: 'gru' is registered already"):
        registry.register("gru")(_registry)
    assert registry["gru"].__name__ == "Gru"


def test_all_modules_of_a_package_are_imported(tmp_path, monkeypatch):
    """So that a data set is one new file in `highway_jax.data`."""
    package = tmp_path / "home_of_data"
    package.mkdir()
    (package / "__init__.py").touch()
    for name in ("first", "second"):
        text = f"from __main__ import REGISTRY\nREGISTRY.register({name!r})({name!r})\n"
        (package / f"{name}.py").write_text(text)
    registry = _registry("home_of_data", tmp_path, monkeypatch)
    assert registry.names() == ("first", "second")
