import copy
import dataclasses
import json
import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict, FieldReference, config_dict

from highway_jax import UserError
from highway_jax.config.config import (
    FREE_SECTIONS,
    case_settings,
    changes,
    default_config,
    flatten,
    put,
    rename,
    section,
    steps_per_epoch,
    to_json,
    unflatten,
    validate,
)
from highway_jax.config.schema import SCHEMA, depth
from highway_jax.config.sections import Config
from highway_jax.errors import show
from highway_jax.nn import model as nets
from highway_jax.nn import stacks
from highway_jax.registry import (
    ACTIVATIONS,
    ARCHITECTURES,
    BLOCKS,
    DATASETS,
    INITIALIZERS,
    OPTIMIZERS,
)
from highway_jax.storage import extension
from highway_jax.sweep import planning

KEYS = st.sampled_from(sorted(SCHEMA))
HUGE = 10**5000  # More digits than Python writes.


def _config(**settings):
    config = default_config()
    for key, value in settings.items():
        _put(config, key.replace("__", "."), value)
    return config


def _typed(**settings):
    return Config.from_settings(flatten(_config(**settings)))


def _put(config, key, value):
    """Sets a dotted key, whatever its type, with the sections on the way."""
    *sections, leaf = key.split(".")
    with config.unlocked(), config.ignore_type():
        for name in sections:
            if name not in config:
                config[name] = ConfigDict()
            config = config[name]
        config[leaf] = value


def _refusal(config):
    with pytest.raises(UserError) as caught:
        validate(config)
    return str(caught.value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=2**31)
    | st.integers(4300, 4400).map(lambda digits: 10**digits)
    | st.floats()
    | st.text()
    | st.text(alphabet="ab\n\t ", min_size=150)
    | st.binary()
)
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text(st.characters(exclude_characters=".")), inner, max_size=3)
    ),
    max_leaves=8,
)


def _assert_short(message, key):
    assert message.startswith("config.")
    assert key in message
    assert message.splitlines() == [message]
    assert len(message) < 400


@pytest.mark.parametrize("prefix", ["", "cases.some.", "sweep.grid.", "sweep.draw."])
@settings(deadline=None, max_examples=200)
@given(key=KEYS, value=trees | st.builds(ConfigDict) | st.just(default_config()))
@example(key="model.depth", value=HUGE)
@example(key="optimizer.learning_rate", value=HUGE)
@example(key="optimizer.learning_rate", value=-HUGE)
@example(key="seeds", value=(HUGE,))
@example(key="seeds", value=([],))
@example(key="name", value="a" * 10**5)
def test_any_value_at_any_key_is_allowed_or_refused_by_name(prefix, key, value):
    config = default_config()
    config.cases.some = ConfigDict()
    if prefix == "sweep.draw.":
        config.sweep.trials = 1
    try:
        _put(config, prefix + key, value)
    except OverflowError:
        return  # The ConfigDict itself makes no float of it.
    try:
        validate(config)
    except UserError as error:
        _assert_short(str(error), "sweep." if "sweep" in prefix else prefix + key)
    else:
        assert json.loads(to_json(config))


@settings(deadline=None, max_examples=60)
@given(
    st.dictionaries(
        st.sampled_from(["name", "seeds", "data", "model", "optimizer", "cases"])
        | st.text(st.characters(exclude_characters=".")),
        trees,
    )
)
def test_any_tree_is_refused_by_name(tree):
    _assert_short(_refusal(ConfigDict(tree)), "config.")


@settings(deadline=None, max_examples=40)
@given(
    st.dictionaries(st.text(st.characters(exclude_characters=".")), trees)
    | st.dictionaries(st.integers(), trees)
)
def test_any_free_section_is_allowed_or_refused_by_name(tree):
    for free in FREE_SECTIONS:
        config = default_config()
        _put(config, free, ConfigDict(tree))
        try:
            validate(config)
        except UserError as error:
            _assert_short(str(error), f"config.{free.partition('.')[0]}")


@pytest.mark.parametrize("value", [None, 3, {}, {"model": {"depth": 3}}, "x", HUGE], ids=show)
def test_only_a_config_dict_is_a_config(value):
    assert "allowed: a ml_collections.ConfigDict" in _refusal(value)


def test_a_config_that_holds_itself_is_refused():
    config = default_config()
    _put(config, "model.depth", config)
    assert _refusal(config).startswith("config.model.depth.")
    config = default_config()
    config.cases.some = config
    assert _refusal(config).startswith("config.cases.some.")


def test_defaults_are_valid_locked_and_in_the_order_of_the_schema():
    config = default_config()
    validate(config)
    assert flatten(config) == {key: entry.default for key, entry in SCHEMA.items()}
    sections = [key.partition(".")[0] for key in SCHEMA]
    assert list(json.loads(to_json(config))) == [*dict.fromkeys(sections), "cases"]
    for free in FREE_SECTIONS:
        section(config, free).some = 1
    for name in ("model", "optimizer"):
        with pytest.raises(AttributeError, match="not a key"):
            config[name].no_such_key = 1
    with pytest.raises(AttributeError, match="not a key"):
        config.no_such_key = 1


def test_blocks_and_configs_have_the_same_defaults():
    model, shared = Config().model, set()
    for name in BLOCKS:
        for field in dataclasses.fields(BLOCKS[name]):
            if hasattr(model, field.name) and field.name not in ("width", "dtype", "name"):
                assert field.default == getattr(model, field.name), (name, field.name)
                shared.add(field.name)
    assert shared >= {"activation", "initializer", "gate", "transform_bias", "carry_bias"}
    assert Config.from_settings(flatten(default_config())) == Config()


def test_each_default_is_a_new_config():
    default_config().model.depth = 7
    default_config().cases.some = ConfigDict()
    assert default_config().model.depth == SCHEMA["model.depth"].default
    assert all(len(section(default_config(), free)) == 0 for free in FREE_SECTIONS)


@pytest.mark.parametrize(
    ("key", "implemented"),
    [
        ("data.name", DATASETS),
        ("model.block", BLOCKS),
        ("model.activation", ACTIVATIONS),
        ("model.initializer", INITIALIZERS),
        ("model.first_initializer", ("same", "patch_whitening", *INITIALIZERS)),
        ("model.architecture", ("dense", *ARCHITECTURES)),
        ("optimizer.name", OPTIMIZERS),
        ("model.remat", stacks.REMATS),
        ("model.dtype", nets.DTYPES),
    ],
)
def test_what_is_allowed_is_what_is_implemented(key, implemented):
    assert set(SCHEMA[key].allowed.split(", ")) == set(implemented)
    for name in implemented:
        more = {}
        if key == "model.architecture" and name != "dense":
            more = {"model__depth": depth(name, 8)}
        if name == "patch_whitening":
            more = {"model__architecture": "mnist10"}
        if name == "file":
            more = {"data__file": "mine.npz"}
        validate(_config(**{key.replace(".", "__"): name} | more))


def test_what_is_registered_is_allowed_from_then_on(monkeypatch):
    with pytest.raises(UserError, match=r"model\.block is 'mine'; allowed: .*highway"):
        validate(_config(model__block="mine"))
    BLOCKS.names()
    monkeypatch.setitem(BLOCKS._entries, "mine", BLOCKS["plain"])
    validate(_config(model__block="mine"))
    assert SCHEMA["model.block"].allowed.endswith(", mine")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model.depth", 1),
        ("model.width", 1),
        ("model.transform_bias", -1000.0),
        ("model.transform_bias", 1000),
        ("optimizer.learning_rate", 1),
        ("optimizer.learning_rate", 1e-12),
        ("optimizer.learning_rate", 1e30),
        ("optimizer.momentum", 0),
        ("optimizer.momentum", 0.999999),
        ("optimizer.decay", 1),
        ("optimizer.decay", 1e-300),
        ("optimizer.weight_decay", 0.0),
        ("seeds", (0, 2**32 - 1)),
        ("seeds", (5,)),
        ("evaluation.every_epochs", 1000),
        ("checkpoint.every_seconds", 0),
        ("data.dir", "/a b/é"),
        ("data.split_seed", 2**32 - 1),
        ("name", "a..b"),
        ("name", "_lr=0.1+x-2"),
        ("name", "7"),
        ("name", "n" * 100),
    ],
)
def test_allowed_values(key, value):
    config = default_config()
    _put(config, key, value)
    validate(config)
    assert flatten(config)[key] == value


REFUSED = [
    *(("model.depth", value) for value in (0, -1, 10**7, True, 3.0, "3", None, (3,), HUGE)),
    *(("model.width", value) for value in (0, -50)),
    *(("optimizer.learning_rate", value) for value in (0, 0.0, -0.1, 1e-13, 1e31, "0.1")),
    *(("optimizer.learning_rate", value) for value in (math.nan, math.inf, -math.inf, None)),
    *(("optimizer.momentum", value) for value in (1.0, 1, -0.1, math.nan)),
    *(("optimizer.decay", value) for value in (0, 0.0, 1.0001, -1, math.nan)),
    *(("optimizer.weight_decay", value) for value in (-1e-9, math.inf)),
    *(("model.transform_bias", value) for value in (math.nan, math.inf, -1001, "-1")),
    *(("optimizer.nesterov", value) for value in (0, 1, "True", None)),
    *(("model.block", value) for value in ("Highway", "", "lstm", 3, None)),
    *(("model.dtype", value) for value in ("float16", "f32")),
    *(("optimizer.schedule", value) for value in ("cosine", "step")),
    *(("seeds", value) for value in ((), (1, 1), (-1,), (2**32,), (0.0,), (True,), ("0",))),
    *(("seeds", value) for value in (0, None, ((0,),), "0", {0})),
    *(("optimizer.boundaries", value) for value in ((0,), (-1, 2), (2, 1), (2, 2), (1.0,))),
    *(("optimizer.boundaries", value) for value in ((2**31,), (True,))),
    *(("name", value) for value in ("", ".", "..", ".x", "a/b", "../x", "a b", "-x", "é", "a\n")),
    *(("name", value) for value in ("n" * 101, "a\0", 3, None)),
    *(("data.dir", value) for value in ("a\0b", "a\nb", 3)),
    *(("data.valid_size", value) for value in (-1, 10**9)),
    *(("data.split_seed", value) for value in (-1, 2**32)),
    *(("runtime.devices", value) for value in (-1, 10**6)),
]


@pytest.mark.parametrize("prefix", ["", "cases.some."])
@pytest.mark.parametrize(("key", "value"), REFUSED, ids=lambda v: show(v)[:40])
def test_values_that_are_not_allowed(prefix, key, value):
    config = default_config()
    config.cases.some = ConfigDict()
    _put(config, prefix + key, value)
    message = _refusal(config)
    value = flatten(config)[prefix + key]  # A ConfigDict makes 1.0 of a 1 where a 2.0 was.
    if prefix and key.partition(".")[0] in ("name", "seeds", "runtime"):
        assert f"config.{prefix}{key} is {show(value)}; allowed there: keys of data" in message
    else:
        assert message == (f"config.{prefix}{key} is {show(value)}; allowed: {SCHEMA[key].allowed}")


def test_a_flag_is_not_a_number_where_a_config_dict_does_not_make_it_one():
    config = default_config()
    config.cases.some = ConfigDict({"optimizer": {"learning_rate": True}})
    assert "learning_rate is True; allowed: a number" in _refusal(config)


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("model.depht", "model.depth"),
        ("modle.depth", "model.depth"),
        ("depth", "model.depth"),
        ("batch_size", "training.batch_size"),
        ("block", "model.block"),
        ("learning_rate", "optimizer.learning_rate"),
        ("model.depth.x", "model.depth"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "cases.some."])
def test_a_misspelt_key_is_refused_with_the_nearest(prefix, key, nearest):
    config = default_config()
    config.cases.some = ConfigDict()
    target = config.cases.some if prefix else config
    if key == "model.depth.x":
        _put(target, "model", ConfigDict({"depth": {"x": 1}}))
    else:
        _put(target, key, 1)
    assert _refusal(config) == (
        f"config.{prefix}{key} is not a key; did you mean config.{prefix}{nearest}?"
    )


@pytest.mark.parametrize(
    ("use", "line"),
    [
        (
            lambda c: setattr(c.model, "depht", 3),
            "model.depht is not a key; did you mean model.depth?",
        ),
        (lambda c: c.model["depht"], "model.depht is not a key; did you mean model.depth?"),
        (lambda c: c["model.depht"], "model.depht is not a key; did you mean model.depth?"),
        (lambda c: c.modle.depth, "modle is not a key; did you mean model?"),
        (lambda c: setattr(c, "depth", 3), "depth is not a key; did you mean model.depth?"),
        (lambda c: c.update({"case": {}}), "case is not a key; did you mean cases?"),
        (lambda c: c.sweep.grids, "sweep.grids is not a key; did you mean sweep.grid?"),
        (lambda c: c[3], "3 is not a key; --keys lists all of them"),
    ],
)
def test_a_misspelt_key_is_refused_where_it_is_set_or_read(use, line):
    with pytest.raises(UserError) as refusal:
        use(default_config())
    assert str(refusal.value) == "config." + line.replace("mean ", "mean config.")


def test_a_config_lacks_an_unknown_key_as_any_object_and_mapping_do():
    config = default_config()
    assert not hasattr(config.model, "depht")
    assert config.model.get("depht", 3) == 3
    assert copy.deepcopy(config) == config
    with config.unlocked():
        config.new = 3
    assert config.new == 3


def test_a_key_unlike_any_other_is_refused():
    config = default_config()
    _put(config, "zzz", 1)
    assert _refusal(config) == "config.zzz is not a key; --keys lists all of them"


@pytest.mark.parametrize("key", sorted(SCHEMA))
def test_a_missing_key_is_refused(key):
    config = default_config()
    name, _, leaf = key.rpartition(".")
    with config.unlocked():
        del (config[name] if name else config)[leaf]
    assert _refusal(config) == f"config.{key} is missing; allowed: {SCHEMA[key].allowed}"


@pytest.mark.parametrize("value", [3, None, (), "model"])
def test_a_section_must_be_a_config_dict(value):
    config = default_config()
    _put(config, "model", value)
    assert _refusal(config) == f"config.model is {value!r}; allowed: a ConfigDict of settings"
    config = default_config()
    _put(config, "cases", value)
    assert _refusal(config) == f"config.cases is {value!r}; allowed: a ConfigDict"
    config = default_config()
    _put(config, "cases.some", value)
    assert _refusal(config) == f"config.cases.some is {value!r}; allowed: a ConfigDict of settings"


@pytest.mark.parametrize("placeholder", [config_dict.placeholder, config_dict.required_placeholder])
def test_a_placeholder_that_nobody_filled_is_refused(placeholder):
    config = default_config()
    config.model.depth = placeholder(int)
    assert _refusal(config).startswith("config.model.depth is None; allowed:")
    config.model.depth = 3
    validate(config)


def test_a_section_may_be_replaced():
    config = default_config()
    config.training = ConfigDict({**config.training, "epochs": 3, "batch_size": 10})
    validate(config)
    assert config.training.epochs == 3


def test_references_are_followed():
    config = default_config()
    config.model.depth = FieldReference(7)
    config.model.width = config.model.get_ref("depth") * 2
    validate(config)
    assert json.loads(to_json(config))["model"]["width"] == 14
    config.model.depth = 0
    assert "config.model.depth is 0" in _refusal(config)


@pytest.mark.parametrize("name", ["", "-a", "a/b", "a b", "é", 3, "n" * 101])
def test_names_of_cases_must_do_for_files(name):
    config = default_config()
    config.cases[name] = ConfigDict()
    assert _refusal(config).startswith(f"config.cases has the name {show(name)}; allowed: 1 to 100")


STEPS = {"optimizer.schedule": "multistep", "optimizer.boundaries": (10, 20)}


@pytest.mark.parametrize(
    ("top", "case", "refused"),
    [
        ({}, {}, None),
        (STEPS, {}, None),
        ({}, STEPS, None),
        ({"optimizer.schedule": "multistep"}, {}, "()"),
        ({"optimizer.schedule": "multistep"}, {"optimizer.boundaries": (5,)}, None),
        ({}, {"optimizer.schedule": "multistep"}, "()"),
        (STEPS, {"optimizer.boundaries": ()}, "()"),
        (STEPS, {"optimizer.schedule": "constant"}, "(10, 20)"),
        ({"optimizer.boundaries": (10, 20)}, {}, "(10, 20)"),
        ({"optimizer.boundaries": (10, 20)}, {"optimizer.schedule": "multistep"}, None),
    ],
)
def test_boundaries_and_the_schedule_steps_belong_together(top, case, refused):
    config = default_config()
    for key, value in top.items():
        put(config, key, value)
    if case:
        _expect_boundaries(unflatten(flatten(config) | case), "", refused)
    else:
        _expect_boundaries(config, "", refused)
    config.cases.some = ConfigDict()
    for key, value in case.items():
        put(config.cases.some, key, value)
    _expect_boundaries(config, "cases.some." if case else "", refused)


def _expect_boundaries(config, prefix, refused):
    if refused is None:
        validate(config)
    else:
        message = _refusal(config)
        assert message.startswith(f"config.{prefix}optimizer.boundaries is {refused}; allowed:")
        assert "optimizer.schedule is 'multistep'" in message


@pytest.mark.parametrize(
    ("key", "points"),
    [
        ("model.depth", (1,)),
        ("model.depth", (10, 20, 50)),
        ("model.activation", ("relu", "tanh")),
        ("model.transform_bias", (-1, -2.5)),
        ("optimizer.nesterov", (False, True)),
        ("data.name", ("mnist", "cifar10")),
    ],
)
def test_grids_that_are_allowed(key, points):
    config = default_config()
    _put(config, f"sweep.grid.{key}", points)
    validate(config)
    assert len(planning.cells(config)) == len(points)


@pytest.mark.parametrize(
    ("key", "points", "words"),
    [
        ("model.depth", (), "is (); allowed: a tuple of different values, at least one"),
        ("model.depth", 3, "is 3; allowed: a tuple of different values"),
        ("model.depth", [3, 4], "is [3, 4]; allowed: a tuple of different values"),
        ("model.depth", (3, 3), "is (3, 3); allowed: a tuple of different values"),
        ("model.depth", (3, 0), "is 0; allowed: a whole number from 1"),
        ("model.depth", (3, "4"), "is '4'; allowed: a whole number from 1"),
        ("model.depth", ([3],), "is [3]; allowed: a whole number from 1"),
        ("model.depht", (3, 4), "is not a key; did you mean config.sweep.grid.model.depth?"),
        ("runtime.devices", (1, 2), "is (1, 2); allowed there: keys of data, model"),
        ("seeds", ((0,), (1,)), "is ((0,), (1,)); allowed there: keys of data, model"),
        ("model.width", (3, 4), "is (3, 4); allowed there: keys that no case"),
    ],
)
def test_grids_that_are_not_allowed(key, points, words):
    config = default_config()
    config.cases.some = ConfigDict({"model": {"width": 5}})
    _put(config, f"sweep.grid.{key}", points)
    assert f"config.sweep.grid.{key} {words}" in _refusal(config)


@pytest.mark.parametrize(
    ("key", "drawn"),
    [
        ("optimizer.learning_rate", ("log_uniform", 1e-3, 1)),
        ("optimizer.decay", ("uniform", 0.9, 1.0)),
        ("model.transform_bias", ("integer", -10, -1)),
        ("model.transform_bias", ("uniform", -10, -1)),
        ("model.depth", ("integer", 1, 2)),
        ("model.activation", ("choice", "relu", "tanh")),
        ("model.depth", ("choice", 10)),
    ],
)
def test_draws_that_are_allowed(key, drawn):
    config = default_config()
    config.sweep.trials = 20
    _put(config, f"sweep.draw.{key}", drawn)
    validate(config)
    (cell,) = planning.cells(config)
    for trial in cell.trials:
        validate(unflatten(trial.settings | {"sweep.trials": 0}))


@pytest.mark.parametrize(
    ("key", "drawn", "words"),
    [
        ("optimizer.learning_rate", ("log_uniform", 0.1, 0.1), "is ('log_uniform', 0.1, 0.1)"),
        ("optimizer.learning_rate", ("log_uniform", 1.0, 0.1), "is ('log_uniform', 1.0, 0.1)"),
        ("optimizer.learning_rate", ("log_uniform", 0.1), "is ('log_uniform', 0.1)"),
        ("optimizer.learning_rate", ("log_uniform", 0.0, 0.1), "is 0.0; allowed: a number"),
        ("optimizer.learning_rate", ("uniform", 0.1, "1"), "is '1'; allowed: a number"),
        ("optimizer.learning_rate", ("normal", 0.1, 1.0), "is ('normal', 0.1, 1.0)"),
        ("optimizer.learning_rate", ("choice",), "is ('choice',)"),
        ("training.epochs", ("choice", 2, 3), "is ('choice', 2, 3); allowed there: other keys, as"),
        ("optimizer.learning_rate", ["choice", 0.1], "is ['choice', 0.1]"),
        ("optimizer.learning_rate", (), "is ()"),
        ("optimizer.learning_rate", 0.1, "is 0.1"),
        ("optimizer.weight_decay", ("log_uniform", 0.0, 0.1), "is ('log_uniform', 0.0, 0.1)"),
        ("model.transform_bias", ("integer", -10.0, -1), "is ('integer', -10.0, -1)"),
        ("model.depth", ("uniform", 1, 20), "is ('uniform', 1, 20)"),
        ("model.activation", ("uniform", "relu", "tanh"), "is ('uniform', 'relu', 'tanh')"),
        ("model.activation", ("integer", "relu", "tanh"), "is ('integer', 'relu', 'tanh')"),
        ("model.activation", ("choice", "relu", "tahn"), "is 'tahn'; allowed: relu, tanh"),
        ("model.depht", ("choice", 3), "is not a key; did you mean config.sweep.draw.model.depth?"),
        ("seeds", ("choice", (3,)), "is ('choice', (3,)); allowed there: keys of data, model"),
        ("model.width", ("choice", 3), "is ('choice', 3); allowed there: keys that no case"),
        ("model.remat", ("choice", "none"), "is ('choice', 'none'); allowed there: keys that no"),
    ],
)
def test_draws_that_are_not_allowed(key, drawn, words):
    config = default_config()
    config.sweep.trials = 2
    config.cases.some = ConfigDict({"model": {"width": 5}})
    config.sweep.grid = ConfigDict({"model": {"remat": ("none", "full")}})
    _put(config, f"sweep.draw.{key}", drawn)
    message = _refusal(config)
    assert f"config.sweep.draw.{key} {words}" in message
    assert "allowed" in message or "did you mean" in message


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {
                "runtime.batch_devices": 2,
                "sweep.draw.training.batch_size": ("integer", 10, 12),
            },
            "runtime.batch_devices is 2; allowed: 0, or a divisor of training.batch_size, 11",
        ),
        (
            {
                "model.architecture": "mnist10",
                "model.depth": 10,
                "sweep.draw.model.depth": ("integer", 3, 30),
            },
            "model.depth is 3; allowed: 10 where model.architecture is 'mnist10'",
        ),
        (
            {
                "sweep.criterion": "valid_loss",
                "sweep.draw.data.valid_size": ("integer", 0, 3),
            },
            "sweep.criterion is 'valid_loss'; allowed: train_loss or projected_train_loss where",
        ),
    ],
)
def test_rules_hold_for_all_integers_that_may_be_drawn(settings, words):
    config = default_config()
    config.sweep.trials = 2
    for key, value in settings.items():
        _put(config, key, value)
    assert f"config.{words}" in _refusal(config)


SEARCH = {"sweep.trials": 4, "sweep.draw.optimizer.momentum": ("choice", 0.5, 0.9)}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (SEARCH, None),
        (SEARCH | {"sweep.rung_epochs": (1, 2), "sweep.rung_keeps": (2, 1)}, None),
        (SEARCH | {"sweep.retrain_seeds": (1, 2)}, None),
        (SEARCH | {"sweep.criterion": "valid_accuracy", "data.valid_size": 10}, None),
        (SEARCH | {"sweep.sampler": "tpe", "sweep.ask": 4}, None),
        (SEARCH | {"sweep.ask": 3}, None),
        (
            SEARCH | {"sweep.sampler": "tpe"},
            "sweep.ask is 0; allowed: above 0 where sweep.sampler is 'tpe'",
        ),
        (SEARCH | {"sweep.ask": 5}, "sweep.ask is 5; allowed: 0 to 4, sweep.trials"),
        (
            SEARCH
            | {
                "sweep.sampler": "tpe",
                "sweep.ask": 2,
                "sweep.draw.data.subtract_mean": ("choice", True),
            },
            "sweep.draw.data.subtract_mean is ('choice', True); allowed where sweep.sampler is",
        ),
        ({"sweep.trials": 4}, "sweep.trials is 4; allowed: 0 where config.sweep.draw is empty"),
        (SEARCH | {"sweep.trials": 0}, "sweep.trials is 0; allowed: 0 where config.sweep.draw is"),
        (
            SEARCH | {"sweep.rung_epochs": (1, 2), "sweep.rung_keeps": (2,)},
            "sweep.rung_keeps is (2,); allowed: as many numbers as sweep.rung_epochs has",
        ),
        (
            {"sweep.rung_epochs": (1,), "sweep.rung_keeps": (2,)},
            "sweep.rung_epochs is (1,); allowed: () unless sweep.trials is above 0",
        ),
        (
            {"sweep.retrain_seeds": (1,)},
            "sweep.retrain_seeds is (1,); allowed: () unless sweep.trials is above 0",
        ),
        (
            SEARCH | {"sweep.criterion": "valid_loss"},
            "sweep.criterion is 'valid_loss'; allowed: train_loss or projected_train_loss where"
            " data.valid_size is 0",
        ),
        (
            {"sweep.grid.optimizer.schedule": ("constant", "multistep")},
            "optimizer.boundaries is (); allowed: at least one step where optimizer.schedule",
        ),
        (
            SEARCH | {"sweep.draw.optimizer.schedule": ("choice", "constant", "multistep")},
            "optimizer.boundaries is (); allowed: at least one step where optimizer.schedule",
        ),
        (
            {"optimizer.schedule": "multistep", "sweep.grid.optimizer.boundaries": ((1,), (2, 3))},
            None,
        ),
    ],
)
def test_settings_of_sweeps_belong_together(settings, words):
    config = default_config()
    for key, value in settings.items():
        _put(config, key, value)
    if words is None:
        validate(config)
    else:
        assert f"config.{words}" in _refusal(config)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sweep.grid.model.depth": tuple(range(1, 1001)), "seeds": tuple(range(1000))}, None),
        (
            {"sweep.grid.model.depth": tuple(range(1, 1001)), "seeds": tuple(range(1001))},
            "1,000 of config.sweep.grid.model.depth x 1,001 of config.seeds are 1,001,000 trials",
        ),
        (
            dict.fromkeys(
                ("sweep.grid.model.depth", "sweep.grid.model.width"), tuple(range(1, 2001))
            ),
            "2,000 of config.sweep.grid.model.depth x 2,000 of config.sweep.grid.model.width are"
            " 4,000,000 trials; allowed: at most 1,000,000",
        ),
        (SEARCH | {"sweep.trials": 10**6}, None),
        (
            SEARCH | {"sweep.trials": 10**6, "sweep.retrain_seeds": (1,)},
            "(1,000,000 of config.sweep.trials + 1 of config.sweep.retrain_seeds) are 1,000,001",
        ),
        (
            SEARCH | {"sweep.trials": 10**6, "cases.a": ConfigDict({}), "cases.b": ConfigDict({})},
            "2 of config.cases x 1,000,000 of config.sweep.trials are 2,000,000 trials",
        ),
    ],
)
def test_more_trials_than_can_be_planned_are_refused(settings, words):
    config = default_config()
    for key, value in settings.items():
        _put(config, key, value)
    if words is None:
        validate(config)
    else:
        assert _refusal(config).startswith(words)


def test_validation_changes_nothing():
    config = default_config()
    config.cases.some = ConfigDict({"model": {"depth": 3}})
    before = copy.deepcopy(config.to_dict())
    validate(config)
    assert config.to_dict() == before
    assert config.is_locked


def test_a_case_is_the_config_with_its_settings_put_in():
    config = default_config()
    config.model.activation = "tanh"
    shared = ConfigDict({"depth": 3, "block": "plain"})
    config.cases.a = ConfigDict({"model": shared, "training": {"epochs": 5}})
    config.cases.b = ConfigDict({"model": shared})
    validate(config)
    before = config.to_dict()
    defaults = flatten(default_config()) | {"model.activation": "tanh"}
    changed = defaults | {"model.depth": 3, "model.block": "plain"}
    assert case_settings(config, "b") == changed
    assert case_settings(config, "a") == changed | {"training.epochs": 5}
    assert case_settings(config, "no_such_case") == defaults
    assert config.to_dict() == before


def test_settings_make_a_config_again():
    config = default_config()
    config.model.depth = 7
    again = unflatten(flatten(config))
    validate(again)
    assert again.to_dict() == config.to_dict()
    again.model.depth = 8
    assert config.model.depth == 7
    with pytest.raises(AttributeError, match="not a key"):
        again.model.no_such_key = 1


@pytest.mark.parametrize(("batch", "steps"), [(1, 10), (3, 3), (5, 2), (6, 1), (10, 1)])
def test_an_epoch_has_only_whole_batches(batch, steps):
    assert steps_per_epoch(_typed(training__batch_size=batch), 10) == steps


def test_a_batch_larger_than_the_data_is_refused():
    with pytest.raises(UserError, match=r"training.batch_size is 11; allowed: 1 to 10, .* digits"):
        steps_per_epoch(_typed(training__batch_size=11), 10)


def test_more_steps_than_can_be_counted_are_refused():
    config = _typed(training__batch_size=1, training__epochs=35791)
    assert steps_per_epoch(config, 60000) * 35791 < 2**31
    config = _typed(training__batch_size=1, training__epochs=35792)
    with pytest.raises(UserError, match=r"training.epochs is 35792; allowed: 1 to 35791,"):
        steps_per_epoch(config, 60000)


OTHER = {bool: lambda v: not v, int: lambda v: v + 1, float: lambda v: v / 2 + 0.15}


@pytest.mark.parametrize("key", sorted(SCHEMA))
def test_a_change_is_reported_by_key_unless_it_may_differ_between_starts(key):
    before = flatten(default_config())
    value = before[key]
    if isinstance(value, str | tuple):
        changed = "other" if isinstance(value, str) else (8, 9)
    else:
        changed = OTHER[type(value)](value)
    reported = changes(before, before | {key: changed})
    if key.startswith(
        ("runtime.", "record.", "checkpoint.", "data.dir", "data.cache_dir", "data.download",
         "data.file")
    ):  # fmt: skip
        assert reported == {}
    else:
        assert reported == {key: f"{key} from {_listed(value)!r} to {_listed(changed)!r}"}


def _listed(value):
    return list(value) if isinstance(value, tuple) else value


def test_what_was_written_equals_what_is_read():
    config = _config(seeds=(3, 4), optimizer__schedule="multistep", optimizer__boundaries=(1, 2))
    _put(config, "cases.some.optimizer.boundaries", (5,))
    _put(config, "sweep.grid.model.depth", (3, 4))
    validate(config)
    read = ConfigDict(json.loads(to_json(config)))
    assert changes(flatten(read), flatten(config)) == {}


def test_the_order_that_numbers_trials_is_compared():
    def tree(*cases, grid=(), draw=()):
        sweep = {"grid": {"model": dict.fromkeys(grid)}, "draw": {"model": dict.fromkeys(draw)}}
        return {"cases": {name: {} for name in cases}, "sweep": sweep}

    assert extension.changes(tree("a", "b"), tree("a", "b")) == {}
    for names in (("b", "a"), ("a",), ("a", "b", "c"), ()):
        assert list(extension.changes(tree("a", "b"), tree(*names))) == ["cases"]
    for name in ("grid", "draw"):
        keys = ({name: ("depth", "width")}, {name: ("width", "depth")})
        old, new = (tree("a", **order) for order in keys)
        assert extension.changes(old, new) == {
            f"sweep.{name}": f"sweep.{name} from ['model.depth', 'model.width'] to"
            " ['model.width', 'model.depth']"
        }
    # The order is compared where settings differ too.
    reordered = tree("b", "a")
    reordered["cases"]["a"] = {"training": {"epochs": 3}}
    assert list(extension.changes(tree("a", "b"), reordered)) == [
        "cases.a.training.epochs",
        "cases",
    ]
    # A key that is added is reported by its value, and not in the order too.
    added = tree("a", grid=("depth",))
    added["sweep"]["grid"]["model"]["depth"] = [1]
    assert list(extension.changes(tree("a"), added)) == ["sweep.grid.model.depth"]


def test_a_section_with_an_earlier_name_is_renamed():
    config = default_config()
    with config.unlocked():
        config.data = ConfigDict(config.data.to_dict() | {"mirror": True})
    with config.data.unlocked():
        del config.data["random_flip"]
    rename(config)
    validate(config)
    assert config.data.random_flip is True


def test_changes_report_what_was_added_and_what_was_removed():
    assert changes({"a": 1}, {"b": "x" * 200}) == {
        "a": "a from 1 to '(unset)'",
        "b": f"b from '(unset)' to '{'x' * 96}...",
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (1.5, "1.5"),
        ("a\nb", "'a\\nb'"),
        ("x" * 98, f"'{'x' * 98}'"),
        ("x" * 99, f"'{'x' * 96}..."),
        (HUGE, "<int>"),
        (ConfigDict({"a": 1, "b": 2}), "a: 1 b: 2"),
    ],
    ids=lambda v: show(v)[:20],
)
def test_values_are_shown_on_one_short_line(value, shown):
    assert show(value) == shown
    assert len(show(value)) <= 100
