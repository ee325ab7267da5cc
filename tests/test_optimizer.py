from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from highway_jax import default_config, run
from highway_jax.config import config as config_lib
from highway_jax.config.sections import Model, Optimizer
from highway_jax.errors import UserError
from highway_jax.nn import model as nets
from highway_jax.nn.roles import roles as roles_of
from highway_jax.registry import BLOCKS, OPTIMIZERS
from highway_jax.sweep.trials import Hyperparameters, _kind
from highway_jax.training.optimizer import build, learning_rate, register_optimizer

NUMBERS = Hyperparameters(
    seed=jnp.uint32(0),
    learning_rate=jnp.float32(0.5),
    momentum=jnp.float32(0.5),
    decay=jnp.float32(0.1),
    weight_decay=jnp.float32(0.25),
    transform_bias=jnp.float32(-1),
)


ROLES = {"kernel": "weight", "bias": "bias"}


def _run(section, grads, *, decays_weights=False, steps_per_epoch=100):
    """Steps a kernel and a bias, both from 1.0, through the same gradients; returns both paths."""
    params = {"kernel": jnp.ones(()), "bias": jnp.ones(())}
    names = ("beta1", "beta2", "epsilon")
    values = (jnp.float32(getattr(section, name)) for name in names)
    given = _kind(names)(*NUMBERS, *values)
    rule = build(section, steps_per_epoch, given, ROLES, decays_weights=decays_weights)
    state = rule.init(params)
    paths = []
    for g in grads:
        updates, state = rule.update(jax.tree.map(lambda _, g=g: g, params), state, params)
        params = optax.apply_updates(params, updates)
        paths.append((float(params["kernel"]), float(params["bias"])))
    return np.array(paths).T


GRADS = [jnp.float32(1.0), jnp.float32(0.5), jnp.float32(-2.0)]


def test_classical_momentum_by_hand():
    # v: 0.5, 0.5*0.5+0.25 = 0.5, 0.25-1 = -0.75
    kernel, bias = _run(Optimizer(schedule="constant"), GRADS)
    np.testing.assert_allclose(kernel, [0.5, 0.0, 0.75], rtol=1e-6)
    np.testing.assert_allclose(bias, kernel)


def test_caffes_nesterov_by_hand():
    # Caffe: v' = mu v + rate g; w -= (1 + mu) v' - mu v.
    # v: 0.5, 0.5, -0.75; steps: 1.5*0.5 = 0.75, 0.75-0.25 = 0.5, 1.5*-0.75-0.25 = -1.375
    kernel, _ = _run(Optimizer(schedule="constant", nesterov=True), GRADS)
    np.testing.assert_allclose(kernel, [0.25, -0.25, 1.125], rtol=1e-6)


def test_weight_decay_is_coupled_and_spares_biases():
    # Kernel: g + 0.25 w enters the velocity. Step 1: g=1.25, v=0.625, w=0.375.
    # Step 2: g=0.5+0.09375=0.59375, v=0.3125+0.296875=0.609375, w=-0.234375.
    section = Optimizer(schedule="constant")
    kernel, bias = _run(section, GRADS[:2], decays_weights=True)
    np.testing.assert_allclose(kernel, [0.375, -0.234375], rtol=1e-6)
    np.testing.assert_allclose(bias, [0.5, 0.0], atol=1e-7)


def test_the_rate_enters_the_velocity_before_it_falls():
    # Boundary at step 1, factor 0.1: v = 0.5 then 0.5*0.5 + 0.05*0.5 = 0.275. The rate applied
    # outside the velocity would give 0.05 * (0.5 * 1 + 0.5) = 0.05 instead.
    kernel, _ = _run(Optimizer(schedule="multistep", boundaries=(1,)), GRADS[:2])
    np.testing.assert_allclose(kernel, [0.5, 0.225], rtol=1e-6)


def test_clipping_bounds_the_norm():
    kernel, bias = _run(Optimizer(schedule="constant", clip_norm=1.0), [jnp.float32(100.0)])
    np.testing.assert_allclose([kernel[0], bias[0]], 1 - 0.5 / np.sqrt(2), rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schedule": "constant"}, [0.5, 0.5, 0.5, 0.5, 0.5]),
        ({"decay_every": "epoch"}, [0.5, 0.5, 0.05, 0.05, 0.005]),
        ({"decay_every": "step"}, [0.5, 0.05, 0.005, 0.0005, 0.00005]),
        # As Caffe's multistep: the rate is down already at the step of the boundary.
        ({"schedule": "multistep", "boundaries": (1, 4)}, [0.5, 0.05, 0.05, 0.05, 0.005]),
    ],
)
def test_schedules(changes, expected):
    rates = [learning_rate(Optimizer(**changes), 2, NUMBERS, jnp.int32(step)) for step in range(5)]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_every_number_can_change_without_a_new_program():
    section, traces = Optimizer(schedule="exponential", nesterov=True), []

    @jax.jit
    def step(numbers, grad):
        traces.append(1)
        params = {"kernel": jnp.ones(())}
        rule = build(section, 10, numbers, {"kernel": "weight"}, decays_weights=True)
        return rule.update({"kernel": grad}, rule.init(params), params)[0]["kernel"]

    first = step(NUMBERS, jnp.float32(1))
    others = [
        step(NUMBERS._replace(**{name: jnp.float32(0.3)}), jnp.float32(1))
        for name in ("learning_rate", "momentum", "weight_decay")
    ]
    assert len(traces) == 1
    assert all(abs(float(other - first)) > 1e-3 for other in others)


def test_biases_at_twice_the_rate_and_the_softmax_layer_at_ten_times_the_decay():
    section = Optimizer(
        schedule="constant", head_weight_decay_multiplier=10.0, bias_learning_rate_multiplier=2.0
    )
    leaves = {"kernel": jnp.ones(()), "bias": jnp.ones(()), "transform_bias": jnp.ones(())}
    params = {"blocks": leaves, "head": {"kernel": jnp.ones(()), "bias": jnp.ones(())}}
    roles = {"blocks": {**ROLES, "transform_bias": "bias"}, "head": ROLES}
    rule = build(section, 100, NUMBERS, roles, decays_weights=True)
    updates, _ = rule.update(jax.tree.map(jnp.ones_like, params), rule.init(params), params)
    # -0.5 * (1 + 0.25), -0.5 * (1 + 2.5), and -0.5 * 2 for every bias.
    assert updates["blocks"]["kernel"] == pytest.approx(-0.625)
    assert updates["head"]["kernel"] == pytest.approx(-1.75)
    for bias in ("bias", "transform_bias"):
        assert updates["blocks"][bias] == pytest.approx(-1.0)
    assert updates["head"]["bias"] == pytest.approx(-1.0)


def test_adam_by_hand():
    # Bias-corrected moments of the first gradient g are g and g**2: a step of rate * sign(g).
    kernel, bias = _run(Optimizer(name="adam", schedule="constant", epsilon=1e-12), GRADS)
    np.testing.assert_allclose(kernel[0], 0.5, rtol=1e-5)
    np.testing.assert_allclose(bias, kernel)
    # Step 2: m = 0.1 * (0.9 * 1 + 0.5) / 0.19, v = 0.001 * (0.999 * 1 + 0.25) / 0.001999.
    m, v = 0.1 * 1.4 / 0.19, 0.001 * 1.249 / 0.001999
    np.testing.assert_allclose(kernel[1], 0.5 - 0.5 * m / np.sqrt(v), rtol=1e-4)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adams_decay_is_in_the_gradient_and_that_of_adamw_is_decoupled(name):
    section = Optimizer(name=name, schedule="constant", epsilon=1e-12)
    kernel, bias = _run(section, GRADS[:1], decays_weights=True)
    # The sign of 1 + 0.25 w is that of 1; decoupled, 0.25 w is added to it. Biases have none.
    np.testing.assert_allclose(kernel[0], 1 - 0.5 * (1.25 if name == "adamw" else 1), rtol=1e-5)
    np.testing.assert_allclose(bias[0], 0.5, rtol=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adams_biases_have_their_multiple_of_the_learning_rate(name):
    section = Optimizer(
        name=name, schedule="constant", bias_learning_rate_multiplier=2.0, clip_norm=1.0
    )
    kernel, bias = _run(section, GRADS[:1])
    np.testing.assert_allclose([kernel[0], bias[0]], [0.5, 0.0], atol=1e-5)


def test_gains_are_not_decayed_and_keep_the_learning_rate():
    section = Optimizer(schedule="constant", bias_learning_rate_multiplier=2.0)
    params = {"scale": jnp.ones(()), "kernel": jnp.ones(()), "bias": jnp.ones(())}
    roles = {"scale": "gain", **ROLES}
    rule = build(section, 100, NUMBERS, roles, decays_weights=True)
    updates, _ = rule.update(jax.tree.map(jnp.ones_like, params), rule.init(params), params)
    assert updates == {"scale": -0.5, "kernel": -0.625, "bias": -1.0}


def test_roles_are_declared_by_the_block_or_follow_from_the_rank():
    class Declares:
        roles: ClassVar = {"mixing": "weight", "offset": "gain"}

    params = {
        "input": {"kernel": np.ones((2, 3)), "bias": np.ones(3), "mixing": np.ones(3)},
        "blocks": {
            "mixing": np.ones((5, 3)),
            "offset": np.ones((5, 3)),
            "bias": np.ones((5, 3)),
            "scale": np.ones(5),
            "kernel": np.ones((5, 3, 3)),
        },
    }
    with pytest.MonkeyPatch.context() as patch:
        BLOCKS.names()
        patch.setitem(BLOCKS._entries, "declares", Declares)
        assert roles_of(params, "declares") == {
            "input": {"kernel": "weight", "bias": "bias", "mixing": "bias"},
            "blocks": {
                "mixing": "weight",
                "offset": "gain",
                "bias": "bias",
                "scale": "gain",
                "kernel": "weight",
            },
        }
        Declares.roles = {"mixing": "heavy"}
        with pytest.raises(UserError, match="declares the role 'heavy' for its parameter"):
            roles_of(params, "declares")


@pytest.mark.parametrize("architecture", ["dense", "mnist10", "highway_c"])
def test_the_papers_nets_have_kernels_that_decay_and_biases(architecture):
    depth, shape = {"dense": (3, (8, 8, 1)), "mnist10": (10, (28, 28, 1))}.get(
        architecture, (32, (32, 32, 3))
    )
    net = nets.build(Model(architecture=architecture, depth=depth, width=4), shape, 10)
    for path, role in jax.tree_util.tree_leaves_with_path(net.roles):
        assert role == ("weight" if path[-1].key == "kernel" else "bias")


def test_a_registered_rule_is_chosen_by_its_name_and_clipped(monkeypatch):
    monkeypatch.setattr(OPTIMIZERS, "_entries", dict(OPTIMIZERS._entries))

    @register_optimizer("signs")
    def signs(parts):
        return optax.chain(optax.scale_by_sign(), *parts.decay, *parts.bias_rate, parts.descend)

    config = default_config()
    config.optimizer.name = "signs"
    config_lib.validate(config)
    kernel, bias = _run(Optimizer(name="signs", schedule="constant"), GRADS, decays_weights=True)
    np.testing.assert_allclose(kernel[0], 1 - 0.5 * 1.25)
    np.testing.assert_allclose(bias, [0.5, 0.0, 0.5])
    with pytest.raises(ValueError, match="registered already"):
        register_optimizer("signs")(lambda parts: parts.descend)


def test_a_registered_rule_that_returns_no_transformation_is_named(monkeypatch):
    monkeypatch.setattr(OPTIMIZERS, "_entries", {"nothing": lambda parts: None})
    with pytest.raises(TypeError, match=r"update rule 'nothing' is None; allowed: an optax\.Gradi"):
        _run(Optimizer(name="nothing", schedule="constant"), GRADS)


@pytest.fixture
def adams(small_config):
    """Trials that differ in Adam's hyperparameters alone."""
    config = small_config
    config.seeds = (0,)
    config.optimizer.name = "adam"
    config.optimizer.learning_rate = 0.003
    for name, settings in {
        "default": {},
        "first": {"beta1": 0.5},
        "second": {"beta2": 0.5},
        "epsilon": {"epsilon": 1.0},
        "rate": {"learning_rate": 0.01},
    }.items():
        config.cases[name] = ConfigDict({"optimizer": settings})
    return config


def test_adams_hyperparameters_are_those_of_the_trial_and_share_a_program(adams, tmp_path):
    rows = run(adams, tmp_path)
    assert len({row["batch"] for row in rows}) == 1
    assert len({row["train_loss"] for row in rows}) == 5
    assert [row["optimizer.beta1"] for row in rows] == [0.9, 0.5, 0.9, 0.9, 0.9]
    # With the hyperparameter as the config's, which the cases do not vary, the trial is the same.
    adams.cases = ConfigDict({})
    adams.optimizer.beta1 = 0.5
    adams.seeds = (0, 1, 2, 3, 4)  # As many trials as before, for the same program.
    alone, *_ = run(adams, tmp_path / "alone")
    assert alone["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-5)
