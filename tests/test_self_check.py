"""The check at the start of a run that the compiler is correct."""

import jax
import numpy as np
import pytest

from highway_jax import UserError
from highway_jax.training import self_check, trial_mesh


@pytest.mark.parametrize(
    "options", [{}, trial_mesh.compiler_options("cpu")], ids=["default", "ours"]
)
@pytest.mark.parametrize("make", self_check.CHECKS)
def test_this_version_of_jax_computes_right(make, options):
    assert self_check.difference(make(), jax.devices()[0], options) < 1e-5


@pytest.mark.parametrize("number", range(len(self_check.CHECKS)))
def test_a_wrong_result_ends_the_run_with_the_version(number, monkeypatch):
    makes = list(self_check.CHECKS)
    check = makes[number]()

    def wrong(*arguments):
        def shift(leaf):
            return leaf.at[(-1,) * leaf.ndim].add(2e-3 * abs(leaf).max())

        return jax.tree.map(shift, check.program(*arguments))

    makes[number] = lambda: check._replace(program=wrong)
    monkeypatch.setattr(self_check, "CHECKS", makes)
    with pytest.raises(
        UserError, match=rf"jax {jax.__version__} computes {check.name} incorrectly on"
    ):
        self_check.run.__wrapped__(jax.devices()[0])


def test_a_result_that_is_not_finite_is_wrong():
    check = self_check.CHECKS[0]()
    wrong = check._replace(program=lambda x, matrix: check.program(x, matrix) * np.nan)
    assert self_check.difference(wrong, jax.devices()[0], {}) == np.inf
