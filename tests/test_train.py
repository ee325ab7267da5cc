import functools
import gc
import itertools
import math
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from highway_jax import default_config
from highway_jax.config import config as config_lib
from highway_jax.config.sections import Optimizer
from highway_jax.nn import model as nets
from highway_jax.registry import BLOCKS
from highway_jax.runs import experiment
from highway_jax.sweep import planning as trials_lib
from highway_jax.sweep.trials import Hyperparameters
from highway_jax.training import metrics, optimizer, train, trial_mesh
from highway_jax.training.evaluate import evaluate
from highway_jax.training.program import Program

NUM_TRAIN, BATCH = 25, 6


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (NUM_TRAIN + 7, 3, 3, 1), np.uint8)
    return train.DeviceData(images, rng.integers(0, 4, NUM_TRAIN + 7).astype(np.int32))


def _task(**model):
    config = default_config()
    config.model.update({"depth": 4, "width": 8, **model})
    net = nets.build(config.model, (3, 3, 1), 4)
    return train.Task(
        init=net.init,
        apply=net.apply,
        preprocess=lambda images: images.astype(jnp.float32) / 255,
        optimizer=lambda numbers: optimizer.build(
            Optimizer(), NUM_TRAIN // BATCH, numbers, net.roles, decays_weights=True
        ),
        num_train=NUM_TRAIN,
        batch_size=BATCH,
        micro_batch=BATCH,
    )


def _numbers(*rates, seeds=None):
    n = len(rates)
    full = lambda value: np.full(n, value, np.float32)  # noqa: E731
    return Hyperparameters(
        seed=np.asarray(seeds or range(n), np.uint32),
        learning_rate=np.asarray(rates, np.float32),
        momentum=full(0.9),
        decay=full(0.9),
        weight_decay=full(1e-3),
        transform_bias=full(-2),
    )


@functools.cache
def _functions(num_trials, num_devices, mode, task):
    task = task or _task()
    trials = trial_mesh.Trials(num_trials, num_devices, mode)
    create = trials.compile(lambda n: train.create(task, n))
    return trials, create, trials.compile(lambda s, d, n: train.train_steps(task, s, d, n))


def _states(numbers, data, stretches, *, mode="map", num_devices=2, task=None):
    """Yields the trials' states at the start and after each chunk."""
    trials, create, step = _functions(len(numbers.seed), num_devices, mode, task)
    state = create(trials.place(numbers))
    yield trials.fetch(state)
    for stretch in stretches:
        state = step(state, trials.share(data), trials.share(np.int32(stretch)))
        yield trials.fetch(state)


def _train(numbers, data, stretches, **options):
    *_, state = _states(numbers, data, stretches, **options)
    return state


def _equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_cutting_an_epoch_anywhere_gives_the_same_bits(data):
    numbers = _numbers(0.1, 0.2, 0.05)
    whole = _train(numbers, data, [4, 4])
    _equal(_train(numbers, data, [1, 3, 2, 1, 1]), whole)
    assert whole.step.tolist() == [8, 8, 8]
    assert whole.sums.count.tolist() == [24, 24, 24]  # of the last epoch alone


@pytest.mark.parametrize("mode", ["map", pytest.param("vmap", marks=pytest.mark.slow)])
def test_a_trial_alone_is_the_trial_in_a_batch(data, mode):
    rates = (0.1, 0.2, 0.05)
    together = _train(_numbers(*rates), data, [4, 4], mode=mode)
    for i, rate in enumerate(rates):
        alone = _train(_numbers(rate, seeds=(i,)), data, [4, 4])
        jax.tree.map(
            lambda a, b, i=i: np.testing.assert_allclose(a[0], b[i], rtol=1e-5, atol=1e-6),
            alone,
            together,
        )


def test_a_step_is_the_rule_applied_to_the_gradient(data):
    # One step written out with nothing of train.py but the order of the examples.
    task, numbers = _task(), _numbers(0.1)
    before = jax.tree.map(lambda a: a[0], _train(numbers, data, []))
    after = jax.tree.map(lambda a: a[0], _train(numbers, data, [1]))
    _, data_key = jax.random.split(jax.random.key(0))
    bits = jax.random.bits(jax.random.fold_in(data_key, 0), (NUM_TRAIN,))
    order = np.argsort(bits, stable=True)[:BATCH]
    x, y = data.images[order] / np.float32(255), data.labels[order]

    def loss(params):
        logits = task.apply(params, x)
        return -jnp.mean(jax.nn.log_softmax(logits)[jnp.arange(BATCH), y])

    value, grads = jax.value_and_grad(loss)(before.params)
    for name in ("kernel", "bias"):
        decay = 1e-3 if name == "kernel" else 0.0
        w, g = before.params["head"][name], grads["head"][name]
        np.testing.assert_allclose(
            after.params["head"][name], w - 0.1 * (g + decay * w), rtol=1e-5, atol=1e-7
        )
    np.testing.assert_allclose(after.sums.loss / BATCH, value, rtol=1e-5)


@pytest.mark.parametrize(
    "micro_batch", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (2, 3))]
)
def test_micro_batches_change_a_step_by_rounding_alone(data, micro_batch):
    plain = _task()

    def apply(params, x, keys):
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, 0.5, x.shape[1:]))(keys)
        return plain.apply(params, jnp.where(kept, x, 0))

    numbers = _numbers(0.1, 0.2)
    whole = plain._replace(apply=apply)
    parts = whole._replace(micro_batch=micro_batch)
    calm, expected, found = (_train(numbers, data, [4], task=t) for t in (plain, whole, parts))
    jax.tree.map(
        lambda a, e: np.testing.assert_allclose(a, e, rtol=1e-5, atol=1e-6), found, expected
    )
    assert found.sums.count.tolist() == [24, 24]
    assert np.abs(calm.sums.loss - expected.sums.loss).min() > 1e-2


@pytest.mark.parametrize(
    ("architecture", "batch_size", "most", "expected"),
    [
        ("highway_a", 100, 0, 10),
        ("highway_a", 64, 0, 8),
        ("highway_a", 4, 0, 4),
        # No good number divides it.
        ("highway_a", 97, 0, 97),
        ("highway_a", 100, 30, 25),
        ("highway_a", 100, 1000, 100),
        ("dense", 100, 0, 100),
        ("dense", 100, 7, 5),
    ],
)
def test_a_batch_is_computed_in_equal_parts(small_config, architecture, batch_size, most, expected):
    small_config.model.architecture = architecture
    small_config.model.depth = 11
    small_config.training.batch_size = batch_size
    small_config.runtime.micro_batch = most
    dataset = experiment.load_data(small_config.data)
    batch, *_ = trials_lib.plan(small_config, [])
    assert Program(batch, dataset).task.micro_batch == expected


def test_an_epoch_sees_each_example_once_in_an_order_of_its_own():
    seen = []
    labels = np.zeros(NUM_TRAIN, np.int32)
    images = np.arange(NUM_TRAIN, dtype=np.uint8).reshape(NUM_TRAIN, 1)

    def preprocess(x):
        jax.debug.callback(lambda v: seen.extend(v[:, 0].tolist()), x, ordered=True)
        return x.astype(jnp.float32)

    config = default_config().model
    config.update({"depth": 1, "width": 2})
    net = nets.build(config, (1,), 2)
    task = _task()._replace(
        init=net.init,
        apply=net.apply,
        preprocess=preprocess,
        optimizer=lambda numbers: optimizer.build(
            Optimizer(), 4, numbers, net.roles, decays_weights=True
        ),
    )
    numbers = jax.tree.map(lambda a: a[0], _numbers(0.1))
    step = jax.jit(lambda s, n: train.train_steps(task, s, train.DeviceData(images, labels), n))
    state = train.create(task, numbers)
    for _ in range(2):
        state = step(state, 4)
    jax.block_until_ready(state)
    first, second = seen[:24], seen[24:]
    assert len(set(first)) == len(set(second)) == 24
    assert first != second


@pytest.mark.parametrize("architecture", ["dense", "mnist10"])
def test_a_step_scatters_nothing(architecture):
    # GPUs add up scatters in any order, or slowly.
    config = default_config()
    config.model.update({"architecture": architecture, "depth": 10, "width": 4})
    model = nets.build(config.model, (28, 28, 1), 10)
    images, labels = jnp.zeros((3, 28, 28, 1)), jnp.zeros(3, jnp.int32)
    params = jax.eval_shape(model.init, jax.random.key(0), jnp.float32(-1))

    def loss(params):
        return metrics.cross_entropy(model.apply(params, images), labels).sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(params))
    assert "dot_general" in program
    assert "scatter" not in program


def test_a_program_is_gone_once_it_is_not_used(small_config):
    batch, *_ = trials_lib.plan(small_config, [])
    program = Program(batch, experiment.load_data(small_config.data))
    seen = weakref.ref(program)
    gc.disable()
    try:
        del program
        assert seen() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("mode", ["map", pytest.param("vmap", marks=pytest.mark.slow)])
def test_a_diverging_trial_is_frozen_and_disturbs_no_other(data, mode):
    with_it = _train(_numbers(0.1, 1e30, 0.2), data, [4, 4, 4], mode=mode)
    without = _train(_numbers(0.1, 0.3, 0.2), data, [4, 4, 4], mode=mode)
    assert with_it.diverged.tolist() == [False, True, False]
    assert without.diverged.tolist() == [False] * 3
    for i in (0, 2):
        _equal(*(jax.tree.map(lambda a, i=i: a[i], state) for state in (with_it, without)))
    assert 0 < with_it.step[1] < 12
    longer = _train(_numbers(0.1, 1e30, 0.2), data, [4, 4, 4, 4], mode=mode)
    _equal(*(jax.tree.map(lambda a: a[1], state) for state in (with_it, longer)))


@pytest.mark.parametrize("mode", [pytest.param("map", marks=pytest.mark.slow), "vmap"])
def test_a_diverging_trial_stays_as_it_was_before_the_step(data, mode):
    states = [
        jax.tree.map(lambda a: a[1], state)
        for state in _states(_numbers(0.1, 1e30), data, [1, 1, 1, 1, 4], mode=mode)
    ]
    number = [bool(state.diverged) for state in states].index(True)
    last, first = states[number - 1 : number + 1]
    for later in states[number:]:
        _equal(later._replace(diverged=None), last._replace(diverged=None))
    # A stretch in the midst of which the trial diverges ends with the same bits.
    _, whole = _states(_numbers(0.1, 1e30), data, [4], mode=mode)
    _equal(jax.tree.map(lambda a: a[1], whole), first)


def test_trials_at_once_do_not_copy_the_examples():
    num_examples, depth, width = 5000, 10, 50
    config = default_config().model
    config.update({"depth": depth, "width": width})
    net = nets.build(config, (28, 28, 1), 10)
    task = _task()._replace(
        init=net.init, apply=net.apply, num_train=num_examples, batch_size=100, micro_batch=100
    )

    def shapes(tree):
        return jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), tree)

    data = train.DeviceData(
        np.zeros((num_examples, 28, 28, 1), np.uint8), np.zeros(num_examples, np.int32)
    )
    temporary = []
    for num_trials in (4, 12):
        trials = trial_mesh.Trials(num_trials, 1, "vmap")
        numbers = _numbers(*[0.1] * num_trials)
        state = jax.eval_shape(jax.vmap(lambda n: train.create(task, n)), numbers)
        steps = trials.compile(lambda s, d, n: train.train_steps(task, s, d, n))
        program = steps.lower(state, shapes(data), jax.ShapeDtypeStruct((), np.int32)).compile()
        temporary.append(program.memory_analysis().temp_size_in_bytes)
    # What a trial needs of its own: parameters and velocities; the order of the examples, and the
    # random numbers it is sorted by; a batch, stored and as float32; a block's input, both its
    # maps and its gate, for the backward pass.
    own = sum(math.prod(a.shape[1:]) * a.dtype.itemsize for a in jax.tree.leaves(state))
    own += 8 * num_examples + 100 * (5 * 784 + 4 * depth * 4 * width)
    assert (temporary[1] - temporary[0]) / 8 < 2 * own


def test_mean_gates_of_trials_at_once_keep_no_map_of_every_block(small_config):
    small_config.seeds = tuple(range(8))
    small_config.model.depth = 21
    small_config.runtime.devices = 1
    small_config.runtime.trial_axis = "vmap"
    batch, *_ = trials_lib.plan(small_config, [])
    program = Program(batch, experiment.load_data(small_config.data))
    params = program.create(batch.hyperparameters()).params
    compiled = program.lower("gates", batch.hyperparameters()).compile()
    # 8 trials, 20 blocks, 1,000 examples and 8 units.
    assert compiled.memory_analysis().temp_size_in_bytes < 8 * 20 * 1000 * 8 * 4
    assert program.gate_means(params).shape == (8, 20, 8)


def _program(config, **settings):
    config = config.copy_and_resolve_references()
    for key, value in settings.items():
        config_lib.put(config, key, value)
    batch, *_ = trials_lib.plan(config, [])
    return Program(batch, experiment.load_data(batch.config.data))


def test_programs_that_differ_in_numbers_alone_share_their_functions(small_config):
    first = _program(small_config)
    numbers = {"optimizer.learning_rate": 0.01, "model.transform_bias": -1.0, "seeds": (5, 6)}
    assert _program(small_config, **numbers)._functions is first._functions
    # No schedule but this one depends on the end of training.
    assert _program(small_config, **{"training.epochs": 9})._functions is first._functions
    cycles = [{"optimizer.schedule": "one_cycle", "training.epochs": n} for n in (8, 9)]
    one, other = (_program(small_config, **cycle)._functions for cycle in cycles)
    assert one is not other


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("seeds", (0, 1, 2)),
        ("model.activation", "tanh"),
        ("data.subtract_mean", True),
        ("data.split_seed", 1),
        ("data.valid_size", 101),
        ("optimizer.weight_decay", 0.1),
        ("optimizer.clip_norm", 1.0),
        ("optimizer.name", "adam"),
        ("optimizer.schedule", "one_cycle"),
        ("training.label_smoothing", 0.1),
        ("evaluation.batch_size", 50),
        ("runtime.devices", 1),
        ("runtime.trial_axis", "vmap"),
        ("runtime.micro_batch", 10),
    ],
)
def test_other_programs_have_functions_of_their_own(small_config, key, value):
    small_config.data.subtract_mean = key == "data.split_seed"  # The mean is a constant.
    first = _program(small_config)
    assert _program(small_config, **{key: value})._functions is not first._functions


def test_a_block_registered_anew_has_functions_of_its_own(small_config, monkeypatch):
    monkeypatch.setattr(BLOCKS, "_entries", dict(BLOCKS._entries))
    first = _program(small_config)
    BLOCKS.register("another")(BLOCKS["plain"])
    assert _program(small_config)._functions is not first._functions


def test_seeds_draw_weights_and_order(data):
    same = _train(_numbers(0.1, 0.1, 0.1, seeds=(3, 3, 4)), data, [4])
    kernel = same.params["blocks"]["kernel"]
    np.testing.assert_array_equal(kernel[0], kernel[1])
    assert not np.allclose(kernel[0], kernel[2])


def test_evaluation_counts_every_example_once(data):
    task = _task()
    params = task.init(jax.random.key(0), jnp.float32(-1))
    logits = task.apply(params, task.preprocess(data.images))
    losses = -jax.nn.log_softmax(logits)[jnp.arange(len(data.labels)), data.labels]
    sums_of = jax.jit(functools.partial(evaluate, task), static_argnames="batch_size")
    spans = ((0, NUM_TRAIN), (NUM_TRAIN, NUM_TRAIN + 7))
    for batch_size, (first, end) in itertools.product((1, 5, 7, 100), spans):
        sums = sums_of(params, data, jnp.array([first, end]), batch_size=batch_size)
        assert sums.count == end - first
        assert sums.correct == np.sum(np.argmax(logits, 1)[first:end] == data.labels[first:end])
        np.testing.assert_allclose(sums.mean_loss, losses[first:end].mean(), rtol=1e-5)


def test_trials_fill_the_devices_and_come_back_alone():
    trials = trial_mesh.Trials(3, 2)
    assert (trials.num_slots, trials.mesh.size, trials.mode) == (4, 2, "map")
    double = trials.compile(lambda x, y: x * 2 + y)
    result = double(trials.place(np.arange(3)), trials.share(np.int64(10)))
    assert result.shape == (4,)
    assert trials.fetch(result).tolist() == [10, 12, 14]
    assert trial_mesh.Trials(1).mesh.size == 1
