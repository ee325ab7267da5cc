"""Ingredients of the fast recipe for CIFAR: laws by hand, off by default, exact when resumed."""

import csv
import dataclasses
import functools
import json
import runpy
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

import highway_jax
from highway_jax import UserError, default_config, run
from highway_jax.config import config as config_lib
from highway_jax.config import recipes
from highway_jax.config.sections import Data, Model, Optimizer
from highway_jax.data import preprocess
from highway_jax.data.patches import whitening_kernel
from highway_jax.nn import model as nets
from highway_jax.nn import stacks
from highway_jax.runtime.signals import Stopped
from highway_jax.storage.workdir import Workdir
from highway_jax.sweep import planning
from highway_jax.sweep.trials import Hyperparameters, _kind
from highway_jax.training import metrics, optimizer, train
from highway_jax.training.program import Program

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


def _numbers(**others):
    """Returns hyperparameters with a learning rate of 0.5 and, beside the usual ones, `others`."""
    values = [jnp.uint32(0), *(jnp.float32(v) for v in (0.5, 0.0, 1.0, 0.0, -1.0))]
    return _kind(tuple(others))(*values, *(jnp.float32(v) for v in others.values()))


# The one-cycle schedule.


@pytest.mark.parametrize(
    ("shape", "warmup", "final", "expected"),
    [
        # 20 steps, 4 of them warm-up; then 16 from 1 to the final fraction, which follows the last.
        ("linear", 0.2, 0.0, {0: 0.25, 1: 0.5, 3: 1.0, 4: 1.0, 12: 0.5, 19: 1 / 16}),
        ("linear", 0.2, 0.2, {0: 0.25, 4: 1.0, 12: 0.6, 19: 0.2 + 0.8 / 16}),
        ("cosine", 0.2, 0.0, {0: 0.25, 4: 1.0, 8: (1 + np.sqrt(0.5)) / 2, 12: 0.5}),
        ("cosine", 0.2, 0.5, {8: 0.5 + 0.5 * (1 + np.sqrt(0.5)) / 2, 12: 0.75}),
        ("linear", 0.0, 0.0, {0: 1.0, 10: 0.5, 19: 0.05}),
        ("linear", 1.0, 0.0, {0: 0.05, 9: 0.5, 19: 1.0}),
    ],
)
def test_the_rate_of_one_cycle_by_hand(shape, warmup, final, expected):
    section = Optimizer(schedule="one_cycle", decay_shape=shape)
    numbers = _numbers(warmup_fraction=warmup, final_fraction=final)
    for step, factor in expected.items():
        rate = optimizer.learning_rate(section, 5, numbers, jnp.int32(step), 4)
        np.testing.assert_allclose(rate, 0.5 * factor, rtol=1e-6, err_msg=str(step))


def test_one_cycle_needs_the_number_of_epochs():
    numbers = _numbers(warmup_fraction=0.2, final_fraction=0.0)
    with pytest.raises(ValueError, match="epochs is None; allowed: a whole number"):
        optimizer.learning_rate(Optimizer(schedule="one_cycle"), 5, numbers, jnp.int32(0))


def test_projections_sum_the_rates_of_one_cycle():
    numbers = _numbers(warmup_fraction=0.2, final_fraction=0.0)
    numbers = jax.tree.map(lambda leaf: leaf[None], numbers)
    (sums,) = optimizer.summed_rates(Optimizer(schedule="one_cycle"), 5, numbers, 4)
    factors = [0.25, 0.5, 0.75, *(1 - i / 16 for i in range(0, 16))]
    factors.insert(3, 1.0)
    np.testing.assert_allclose(sums, 0.5 * np.cumsum(factors)[4::5], rtol=1e-6)


@pytest.mark.slow
def test_the_cycle_is_that_of_the_whole_training_at_every_rung(small_config, tmp_path):
    small_config.optimizer.schedule = "one_cycle"
    small_config.training.epochs = 4
    small_config.sweep.trials = 2
    small_config.sweep.draw.optimizer = {"warmup_fraction": ("uniform", 0.1, 0.5)}
    small_config.sweep.rung_epochs, small_config.sweep.rung_keeps = (1,), (1,)
    rows = run(small_config, tmp_path)
    warmups = {row["trial"]: row["optimizer.warmup_fraction"] for row in rows}
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert sorted(line["epoch"] for line in lines) == [1, 1, 2, 3, 4]
    for line in lines:
        n, s = 4 * (1337 // 100), line["step"] - 1
        w = warmups[line["trial"]] * n
        expected = 0.05 * min(1, (s + 1) / w) * (1 - max(0, s - w) / (n - w))
        assert line["learning_rate"] == pytest.approx(expected, rel=1e-4)


def test_a_cycle_is_not_extended_by_epochs(small_config, tmp_path):
    small_config.optimizer.schedule = "one_cycle"
    (tmp_path / "config.json").write_text(config_lib.to_json(small_config))
    (tmp_path / "environment.json").write_text('{"format": 2, "data_fingerprint": "data"}')
    small_config.seeds = (0, 1, 2)
    Workdir(tmp_path).check(small_config, "data", extend=True)
    small_config.training.epochs = 3
    with pytest.raises(UserError, match="'one_cycle' of small depends on their number"):
        Workdir(tmp_path).check(small_config, "data", extend=True)


# Label smoothing.


def test_the_smoothed_loss_by_hand():
    logits = jnp.log(jnp.array([[0.7, 0.2, 0.1], [0.1, 0.1, 0.8]]))
    labels = jnp.array([0, 1])
    plain = metrics.cross_entropy(logits, labels)
    np.testing.assert_allclose(plain, -np.log([0.7, 0.1]), rtol=1e-5)
    smoothed = metrics.cross_entropy(logits, labels, jnp.float32(0.3))
    even = [-np.log([0.7, 0.2, 0.1]).mean(), -np.log([0.1, 0.1, 0.8]).mean()]
    np.testing.assert_allclose(
        smoothed, 0.7 * -np.log([0.7, 0.1]) + 0.3 * np.array(even), rtol=1e-5
    )


def _task(section=None, *, smoothing=None, **model):
    """Returns a task of a linear softmax net of 3 features and 2 classes, and its numbers."""
    net = nets.build(Model(depth=1, width=4, **model), (3,), 2)
    numbers = _numbers() if smoothing is None else _numbers(label_smoothing=smoothing)
    section = section or Optimizer(schedule="constant")
    task = train.Task(
        init=net.init,
        apply=net.apply,
        preprocess=lambda images: images,
        optimizer=lambda numbers: optimizer.build(
            section, 2, numbers, net.roles, decays_weights=False
        ),
        num_train=8,
        batch_size=4,
        micro_batch=4,
    )
    return task, numbers


@pytest.mark.parametrize("micro_batch", [pytest.param(4, marks=pytest.mark.slow), 2])
def test_training_descends_the_smoothed_loss_and_reports_the_plain_one(micro_batch):
    task, numbers = _task(smoothing=0.2)
    task = task._replace(micro_batch=micro_batch)
    x = jax.random.normal(jax.random.key(1), (4, 3))
    y = jnp.array([0, 1, 1, 0])
    create = jax.jit(functools.partial(train.create, task))
    step = jax.jit(functools.partial(train.train_step, task))
    state = create(numbers)
    after = step(state, train.DeviceData(x, y), jnp.arange(4), jnp.int32(0))

    def losses(params):
        return -jax.nn.log_softmax(task.apply(params, x))

    def smoothed(params):
        chosen = losses(params)[jnp.arange(4), y]
        return jnp.mean(0.8 * chosen + 0.2 * losses(params).mean(1))

    expected = jax.tree.map(
        lambda w, g: w - 0.5 * g, state.params, jax.grad(smoothed)(state.params)
    )
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-7), after.params, expected
    )
    np.testing.assert_allclose(
        after.sums.loss, losses(state.params)[jnp.arange(4), y].sum(), rtol=1e-6
    )


# The average of the weights.


def test_the_average_of_the_weights_by_hand():
    section = Optimizer(schedule="constant")
    numbers = _numbers(weight_average=0.5)
    params = {"kernel": jnp.float32(1.0)}
    rule = optimizer.build(section, 2, numbers, {"kernel": "weight"}, decays_weights=False)
    state = rule.init(params)
    assert optimizer.averaged_weights(state, None) == params
    found, weights = [], []
    for grad in (1.0, -2.0, 0.5):
        updates, state = rule.update({"kernel": jnp.float32(grad)}, state, params)
        params = optax.apply_updates(params, updates)
        weights.append(float(params["kernel"]))
        found.append(float(optimizer.averaged_weights(state, None)["kernel"]))
    assert weights == [0.5, 1.5, 1.25]
    expected = [0.5, (0.5 * 0.5 + 1.5) / 1.5, (0.25 * 0.5 + 0.5 * 1.5 + 1.25) / 1.75]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_without_an_average_the_weights_are_evaluated():
    task, numbers = _task()
    state = train.create(task, numbers)
    assert train.weights(state) is state.params


def test_a_run_evaluates_saves_and_loads_the_average(small_config, tmp_path):
    small_config.training.epochs = 3
    (plain, *_) = run(small_config, tmp_path / "plain")
    small_config.training.weight_average = 0.9
    (row, *_) = run(small_config, tmp_path / "average")
    # The training is the same, and its weights are not those that are evaluated.
    lines = [
        json.loads((tmp_path / name / "metrics.jsonl").read_text().splitlines()[-1])
        for name in ("plain", "average")
    ]
    assert lines[0]["train_loss"] == lines[1]["train_loss"]
    assert lines[0]["valid_loss"] != lines[1]["valid_loss"]
    assert row["train_loss"] != plain["train_loss"]
    dataset = highway_jax.runs.experiment.load_data(small_config.data)
    net = highway_jax.load(tmp_path / "average", 0)
    found = net.evaluate(dataset.test.images, dataset.test.labels)
    assert found.loss == pytest.approx(row["test_loss"], rel=1e-5)
    (restored,) = (
        planning_batch_state(small_config, tmp_path / "average", position) for position in (0,)
    )
    average = optimizer.averaged_weights(restored.optimizer_state, None)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a[0], b), average, net.params)
    assert not np.array_equal(restored.params["head"]["kernel"][0], net.params["head"]["kernel"])


def planning_batch_state(config, workdir, position):
    """Returns the saved state of a batch of a run, on the host."""
    batch = planning.plan(config, [])[position]
    program = Program(batch, highway_jax.runs.experiment.load_data(config.data))
    checkpoints = highway_jax.storage.checkpoint.Checkpoints(workdir / "checkpoints" / batch.name)
    shapes = program.shapes(batch.hyperparameters(), len(batch.trials))
    return checkpoints.restore(lambda extra: shapes)[1]


# Alternating flips.


def test_each_image_is_flipped_in_every_other_epoch():
    index = jnp.arange(10_000, dtype=jnp.int32)
    first, second, third = (preprocess.is_flipped(index, jnp.int32(epoch)) for epoch in range(3))
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(third, first)
    # Half of the images, with a standard deviation of 50; neighbours have nothing in common.
    assert abs(int(first.sum()) - 5000) < 200
    assert abs(int((first[1:] == first[:-1]).sum()) - 5000) < 200


def test_the_augmentation_flips_those_images_and_no_others():
    x = jax.random.normal(jax.random.key(0), (6, 4, 4, 3))
    index = jnp.array([7, 0, 3, 12, 5, 40], jnp.int32)
    augment = preprocess.augmentation(Data(alternating_flip=True))
    for epoch in range(3):
        flipped = np.asarray(preprocess.is_flipped(index, jnp.int32(epoch)))
        found = augment(jax.random.key(epoch), x, index, jnp.int32(epoch))
        expected = np.where(flipped[:, None, None, None], np.asarray(x)[:, :, ::-1], x)
        np.testing.assert_array_equal(found, expected)
    assert 0 < flipped.sum() < 6
    with pytest.raises(ValueError, match="index or epoch is None"):
        augment(jax.random.key(0), x)


def test_training_augments_each_example_by_its_own_index_and_epoch():
    seen = {0: {}, 1: {}}

    def note(epoch, index, images):
        assert len(images) == 4
        for i, image in zip(index.tolist(), images, strict=True):
            seen[int(epoch)][i] = float(image[0])

    def augment(key, inputs, index, epoch):
        jax.debug.callback(note, epoch, index, inputs, ordered=True)
        return inputs

    task, numbers = _task()
    task = task._replace(augment=augment)
    x = jnp.arange(8, dtype=jnp.float32)[:, None] * jnp.ones(3)
    data = train.DeviceData(x, jnp.zeros(8, jnp.int32))
    step = jax.jit(lambda state, n: train.train_steps(task, state, data, n))
    state = train.create(task, numbers)
    for count in (1, 1, 2):
        state = step(state, jnp.int32(count))
    jax.block_until_ready(state)
    assert seen == {epoch: {i: float(i) for i in range(8)} for epoch in (0, 1)}


# Scaled logits and dropout, the first layer.


def test_logits_are_scaled_by_a_constant_that_is_not_a_parameter():
    plain = nets.build(Model(depth=3, width=8), (5,), 4)
    scaled = nets.build(Model(depth=3, width=8, logit_scale=0.25), (5,), 4)
    assert scaled.num_parameters == plain.num_parameters
    assert scaled.roles["logit_scale"] == "constant"
    params, x = plain.init(jax.random.key(0), -2.0), jnp.ones((2, 5))
    own = scaled.init(jax.random.key(0), -2.0)
    np.testing.assert_allclose(scaled.apply(own, x), 0.25 * plain.apply(params, x), rtol=1e-6)
    logits, _ = scaled.activations(stacks.set_logit_scale(own, 3.0), x)
    np.testing.assert_allclose(logits, 3 * plain.apply(params, x), rtol=1e-6)


@pytest.mark.parametrize("name", ["momentum", "adam", "adamw"])
def test_constants_are_not_updated_and_not_clipped(name):
    section = Optimizer(name=name, schedule="constant", clip_norm=5.0)
    params = {"kernel": jnp.ones(()), "scale": jnp.ones(())}
    roles = {"kernel": "weight", "scale": "constant"}
    grads = {"kernel": jnp.float32(3.0), "scale": jnp.float32(1e6)}
    given = _numbers(beta1=0.9, beta2=0.999, epsilon=1e-8)
    rule = optimizer.build(section, 2, given, roles, decays_weights=True)
    state = rule.init(params)
    for _ in range(2):
        updates, state = rule.update(grads, state, params)
        assert updates["scale"] == 0
    if name == "momentum":  # A gradient of 3 is not above the norm of 5.
        assert updates["kernel"] == pytest.approx(-0.5 * 3)


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.0])
def test_scaled_dropout_is_that_of_flax_at_the_scaled_rate(scale):
    x = jax.random.normal(jax.random.key(1), (3, 4, 4, 2))
    keys = jax.random.split(jax.random.key(0), 3)
    drop = nn.Dropout(0.5 * scale, deterministic=False, parent=None)
    expected = [drop.apply({}, image, rng=key) for image, key in zip(x, keys, strict=True)]
    found = jax.jit(lambda s: stacks._drop(0.5, keys, x, s))(jnp.float32(scale))
    np.testing.assert_allclose(found, jnp.stack(expected), rtol=1e-6)
    bfloat = stacks._drop(0.5, keys, x.astype(jnp.bfloat16), jnp.float32(scale))
    assert bfloat.dtype == jnp.bfloat16


def test_a_whitening_kernel_whitens_the_patches_it_was_fitted_to():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal((200, 12, 12, 2))
    images = np.float32(noise + 0.8 * np.roll(noise, 1, 1) + 0.5 * noise[..., ::-1] + 3)
    kernel = whitening_kernel(images, (3, 3, 2, 36))
    np.testing.assert_array_equal(kernel[..., 18:], -kernel[..., :18])
    windows = np.lib.stride_tricks.sliding_window_view(images, (3, 3), (1, 2))
    outputs = np.einsum("nhwcij,ijcf->nhwf", windows, kernel[..., :18]).reshape(-1, 18)
    np.testing.assert_allclose(np.cov(outputs.T), np.eye(18), atol=0.02)
    # Fewer filters are the first of them, the components with the largest variances.
    few = whitening_kernel(images, (3, 3, 2, 7))
    np.testing.assert_array_equal(few[..., :4], kernel[..., :4])
    np.testing.assert_array_equal(few[..., 4:], -kernel[..., :3])
    with pytest.raises(UserError, match=r"config\.model\.width is 37; allowed: 1 to 36 where"):
        whitening_kernel(images, (3, 3, 2, 37))


# All together.


@pytest.fixture
def fast(small_config):
    """A small convolutional net on digits with every ingredient."""
    config = small_config
    config.model.architecture, config.model.depth, config.model.width = "highway_a", 11, 4
    config.model.transform_bias = -1.0
    config.optimizer.nesterov = True
    for settings in recipes.INGREDIENTS.values():
        recipes.change(config, settings)
    config.data.random_crop_padding = 1
    config.training.weight_average = 0.9
    config.training.epochs = 3
    config.checkpoint.every_seconds = 0.0
    config_lib.validate(config)
    return config


def _left(workdir):
    clock = ("compile_seconds", "train_seconds", "steps_per_second")
    with (workdir / "results.csv").open(newline="") as file:
        rows = [{k: v for k, v in row.items() if k not in clock} for row in csv.DictReader(file)]
    return rows, (workdir / "metrics.jsonl").read_text()


@pytest.mark.slow
def test_a_resumed_run_with_every_ingredient_has_the_same_bits(fast, tmp_path, monkeypatch):
    rows = run(fast, tmp_path / "whole")
    assert not any(row["diverged"] for row in rows)
    real = Program.train

    def train_some(self, state, num_steps):
        if self.trials.fetch(state.step).max() >= 1.5 * self.steps_per_epoch:
            raise Stopped(15, "stopped")
        return real(self, state, num_steps)

    with monkeypatch.context() as patch:
        patch.setattr(Program, "train", train_some)
        with pytest.raises(Stopped):
            run(fast, tmp_path / "cut")
    run(fast, tmp_path / "cut")
    assert _left(tmp_path / "cut") == _left(tmp_path / "whole")
    states = [planning_batch_state(fast, tmp_path / name, 0) for name in ("whole", "cut")]
    jax.tree.map(np.testing.assert_array_equal, *states)
    # The first kernel whitens and stays, and so does the scale; the first bias is trained.
    state = states[0]
    dataset = highway_jax.runs.experiment.load_data(fast.data)
    _, prepare = preprocess.examples(dataclasses.replace(Data(), **_data(fast)), dataset)
    inputs = np.asarray(prepare(dataset.train.images))
    expected = whitening_kernel(inputs, (3, 3, 1, 4))
    np.testing.assert_allclose(state.params["plain1"]["kernel"][0], expected, rtol=1e-5)
    assert np.abs(state.params["plain1"]["bias"][0]).max() > 0
    assert state.params["logit_scale"].tolist() == [0.5, 0.5]


def _data(config):
    fields = {field.name for field in dataclasses.fields(Data)}
    return {key: value for key, value in config.data.items() if key in fields}


VARIED = {
    "optimizer.warmup_fraction": 0.5,
    "optimizer.final_fraction": 0.5,
    "training.label_smoothing": 0.3,
    "training.weight_average": 0.5,
    "model.logit_scale": 0.1,
    "model.dropout_scale": 0.9,
}


@pytest.mark.slow
def test_hyperparameters_of_ingredients_are_those_of_the_trial_and_share_a_program(fast, tmp_path):
    fast.seeds = (0,)
    fast.training.epochs = 1
    fast.cases.all = ConfigDict()
    for key, value in VARIED.items():
        name = key.rpartition(".")[2]
        fast.cases[name] = ConfigDict()
        config_lib.put(fast.cases[name], key, value)
    rows = run(fast, tmp_path / "all")
    assert len({row["batch"] for row in rows}) == 1
    assert len({row["test_loss"] for row in rows}) == len(VARIED) + 1
    # Alone, with the hyperparameter as the config's, the trial is the same.
    fast.cases = ConfigDict({})
    for key, value in VARIED.items():
        config_lib.put(fast, key, value)
        if key in ("model.logit_scale", "training.weight_average"):
            (alone,) = run(fast, tmp_path / key)
            (row,) = (row for row in rows if row["case"] == key.rpartition(".")[2])
            assert alone["test_loss"] == pytest.approx(row["test_loss"], rel=1e-4)
        config_lib.put(fast, key, config_lib.SCHEMA[key].default)
        for settings in recipes.INGREDIENTS.values():
            if key in settings:
                config_lib.put(fast, key, settings[key])
        if key == "training.weight_average":
            fast.training.weight_average = 0.9


def test_by_default_no_ingredient_is_part_of_a_program(small_config):
    small_config.sweep.grid.training = {"label_smoothing": (0.0, 0.1, 0.2)}
    plain, smooth = planning.plan(small_config, [])
    assert len(plain.trials) == 2
    assert len(smooth.trials) == 4
    assert type(plain.hyperparameters()) is Hyperparameters
    assert plain.hyperparameters()._fields == (
        *("seed", "learning_rate", "momentum", "decay", "weight_decay", "transform_bias"),
    )
    found = smooth.hyperparameters()
    assert found._fields == (*Hyperparameters._fields, "label_smoothing")
    np.testing.assert_allclose(found.label_smoothing, [0.1, 0.1, 0.2, 0.2])
    assert type(found) is type(smooth.hyperparameters())
    small_config.optimizer.name = "adam"
    adaptive = planning.plan(small_config, [])[0].hyperparameters()
    assert adaptive._fields == (*Hyperparameters._fields, "beta1", "beta2", "epsilon")
    program = Program(plain, highway_jax.runs.experiment.load_data(small_config.data))
    state = program.shapes(plain.hyperparameters(), 2)
    # Rate and velocity; what checkpoints of earlier versions hold.
    assert [type(part).__name__ for part in state.optimizer_state] == [
        "ScaleByScheduleState",
        "TraceState",
    ]
    assert state.params.keys() == {"input", "blocks", "head"}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"data.random_flip": True, "data.alternating_flip": True},
            "config.data.alternating_flip is True; allowed: False where data.random_flip is True",
        ),
        (
            {"model.first_initializer": "patch_whitening"},
            "config.model.first_initializer is 'patch_whitening'; allowed: same or a registered",
        ),
        ({"model.dropout_scale": 1.5}, "model.dropout_scale is 1.5; allowed: a number from 0 to 1"),
        ({"model.logit_scale": 0.0}, "model.logit_scale is 0.0; allowed: a number above 0"),
        ({"training.label_smoothing": 1.0}, "allowed: a number from 0 to 0.999999"),
        ({"training.weight_average": 1.0}, "allowed: a number from 0 to 0.999999"),
        ({"optimizer.warmup_fraction": -0.1}, "allowed: a number from 0 to 1"),
        ({"optimizer.decay_shape": "square"}, "allowed: linear, cosine"),
    ],
)
def test_bad_settings_are_refused_in_one_line(settings, words):
    config = default_config()
    recipes.change(config, settings)
    with pytest.raises(UserError) as caught:
        config_lib.validate(config)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vectors_are_not_flipped(small_config):
    small_config.data.alternating_flip = True
    x = np.zeros((10, 4), np.float32)
    dataset = highway_jax.Dataset.from_arrays(x, np.arange(10) % 2, x, np.arange(10) % 2)
    with pytest.raises(UserError, match=r"config\.data\.alternating_flip is True; allowed: False"):
        preprocess.check(small_config, dataset)


# The experiments.


def _get_config(name, variant):
    return runpy.run_path(str(EXPERIMENTS / f"{name}.py"))["get_config"](variant)


@pytest.mark.parametrize(
    ("name", "variant", "classes", "parameters"),
    [
        ("table2_fitnets", "highway_a", 10, 236_328),
        ("table2_fitnets", "highway_b", 10, 2_277_688),
        ("table2_fitnets", "highway_c", 10, 1_264_502),
        ("table3_cifar", "cifar10", 10, 2_256_838),
        ("table3_cifar", "cifar100", 100, 2_265_928),
    ],
)
def test_the_fast_experiments_train_the_papers_nets(name, variant, classes, parameters):
    for options, num_train, num_steps in (
        (",fast", 50_000, 20_000),
        (",fast,choose", 45_000, 19_800),
    ):
        config = _get_config(name, variant + options)
        config_lib.validate(config)
        assert nets.build(config.model, (32, 32, 3), classes).num_parameters == parameters
        assert 50_000 - config.data.valid_size == num_train
        assert config.training.epochs * num_train // config.training.batch_size == num_steps
        assert not config.evaluation.test_curve
    for options in (",choose", ",short,fast", ",short,choose"):
        with pytest.raises(UserError, match="allowed: none, short, fast, or fast with choose"):
            _get_config(name, variant + options)


def test_the_ablation_has_a_row_for_each_ingredient():
    without, added = (_get_config("ablation", variant) for variant in ("without", "added"))
    for config in (without, added):
        config_lib.validate(config)
    assert list(without.cases)[:2] == ["fast", "paper"]
    assert next(iter(added.cases)) == "paper"
    for name, settings in recipes.INGREDIENTS.items():
        fast, paper = (config_lib.flatten(config) for config in (without, added))
        row = config_lib.case_settings(without, f"without_{name}")
        assert {key for key in settings if row[key] != fast[key]} == {
            key for key in settings if paper[key] != fast[key]
        }
        assert {key for key in row if row[key] != fast[key]} <= set(settings)
        row = config_lib.case_settings(added, f"with_{name}")
        # Highway A has a highest learning rate of its own, and no dropout.
        own = {
            "one_cycle": {"optimizer.learning_rate": 0.1},
            "less_dropout": {"model.dropout_scale": 0.0},
        }
        settings = settings | own.get(name, {})
        assert all(row[key] == value for key, value in settings.items())
    # The cases that hold the other recipe hold all of it.
    other = config_lib.case_settings(without, "paper")
    differs = {key for key in other if other[key] != config_lib.flatten(added)[key]}
    assert {key for key in differs if not key.startswith(("name", "seeds"))} == set()
