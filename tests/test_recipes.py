"""Variants of experiment files."""

from pathlib import Path

import pytest

from highway_jax import UserError, command_line
from highway_jax.config import recipes

EXPERIMENTS = sorted((Path(__file__).parents[1] / "experiments").glob("*.py"))


@pytest.mark.parametrize(
    ("variant", "expected"),
    [
        ("mnist", ("mnist", frozenset())),
        ("mnist,fast", ("mnist", {"fast"})),
        ("digits,small,fast", ("digits", {"fast", "small"})),
    ],
)
def test_a_variant_is_a_name_and_options(variant, expected):
    assert recipes.choose(variant, ("digits", "mnist"), ("fast", "small")) == expected


@pytest.mark.parametrize(
    "variant", ["", "cifar", "fast", "mnist,", "mnist,slow", "mnist,fast,fast", "mnist, fast"]
)
def test_an_unknown_variant_is_refused_in_one_line(variant):
    with pytest.raises(UserError) as caught:
        recipes.choose(variant, ("digits", "mnist"), ("fast", "small"))
    assert str(caught.value) == (
        f"the variant is {variant!r}; allowed: digits, mnist; then any of ,fast ,small"
    )
    with pytest.raises(UserError, match=r"^the variant is 'mnist,fast'; allowed: digits, mnist$"):
        recipes.choose("mnist,fast", ("digits", "mnist"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_refuses_an_unknown_variant(path):
    with pytest.raises(
        UserError, match=r"the variant is 'nonsense'; allowed: |the file has get_config"
    ):
        command_line.load(f"{path}:nonsense")
    assert command_line.load(str(path)).name.startswith(path.stem)
