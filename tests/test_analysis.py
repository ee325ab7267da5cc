"""Analyses of nets whose weights are set by hand, so that the result is known."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.errors import JaxRuntimeError

from highway_jax.analysis import statistics, trained_nets
from highway_jax.config.config import default_config
from highway_jax.data.dataset import Dataset, Split
from highway_jax.errors import UserError
from highway_jax.sweep import planning
from highway_jax.training import metrics, trial_mesh
from highway_jax.training.program import Program

CLASSES = ("left", "right", "neither")


def _dataset(size, shape=(4, 4, 1), num_classes=2, seed=0):
    rng = np.random.default_rng(seed)

    def split(count):
        images = rng.integers(0, 256, (count, *shape), dtype=np.uint8)
        return Split(images, rng.integers(0, num_classes, count, dtype=np.int32))

    return Dataset("mnist", split(size), split(0), split(7), CLASSES)


def _program(dataset, seeds=(0,), **model):
    config = default_config()
    config.seeds = seeds
    config.evaluation.batch_size = 8
    config.training.batch_size = 5
    config.model.update(model)
    (batch,) = planning.plan(config, [])
    return Program(batch, dataset), batch


def _create(program, batch):
    state = program.create(batch.hyperparameters())
    return jax.tree.map(np.array, program.trials.fetch(state.params))


@pytest.fixture
def nets():
    # Three nets of four highway blocks over 21 examples: batches of 8 leave a rest.
    dataset = _dataset(21)
    program, batch = _program(dataset, (0, 1, 2), depth=5, width=6, activation="tanh")
    params = _create(program, batch)
    rng = np.random.default_rng(3)
    shape = params["blocks"]["transform_bias"].shape
    params["blocks"]["transform_bias"] = rng.normal(0, 1, shape).astype(np.float32)
    return program, dataset, params


def _one(params, net):
    return jax.tree.map(lambda leaf: leaf[net : net + 1], params)


def _net(params, net):
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[net]), params)


def test_gates_are_the_means_over_each_class(nets):
    program, dataset, params = nets
    found = trained_nets.Nets(program, params).gates()
    assert found.by_class.shape == (3, 3, 4, 6)
    images, labels = dataset.train.images, dataset.train.labels
    own = _net(params, 1)
    _, (blocks,) = program.model.activations(own, program.task.preprocess(jnp.asarray(images)))
    np.testing.assert_array_equal(found.counts[1], np.bincount(labels, minlength=3))
    for label in (0, 1):
        expected = blocks.t[:, labels == label].mean(1)
        np.testing.assert_allclose(found.by_class[1, label], expected, rtol=1e-5)
    # No example is of the third class.
    assert np.isnan(found.by_class[:, 2]).all()
    np.testing.assert_allclose(found.mean[1], blocks.t.mean(1), rtol=1e-5)
    expected = jnp.abs(blocks.y - blocks.x).mean((1, 2))
    np.testing.assert_allclose(found.changes[1], expected, rtol=1e-5)
    # What a block gets is what the one before it gave.
    np.testing.assert_array_equal(blocks.x[1:], blocks.y[:-1])


def test_a_batch_of_nets_is_the_nets_one_by_one(nets):
    program, _, params = nets
    together = trained_nets.Nets(program, params)
    lesions = trained_nets.single_lesions(4)
    gates, costs = together.gates(), together.lesion(lesions)
    samples, biases = together.samples(np.array([2, 5])), together.biases()
    for i in range(3):
        alone = trained_nets.Nets(program, _one(params, i))
        own = alone.gates()
        for a, b in zip(gates, own, strict=True):
            np.testing.assert_array_equal(a[i], b[0])
        for a, b in zip(costs, alone.lesion(lesions), strict=True):
            np.testing.assert_array_equal(a[i], b[0])
        found = alone.samples(np.array([2, 5]))
        for a, b in zip(samples, found, strict=True):
            np.testing.assert_allclose(a[i], b[0], rtol=1e-5, atol=1e-6)
        np.testing.assert_array_equal(biases[i], alone.biases()[0])


def test_samples_are_those_asked_for(nets):
    program, dataset, params = nets
    index = np.array([20, 4, 4])
    found = trained_nets.Nets(program, params).samples(index)
    assert found.gates.shape == found.outputs.shape == (3, 3, 4, 6)
    inputs = program.task.preprocess(jnp.asarray(dataset.train.images[index]))
    own = _net(params, 2)
    logits, (blocks,) = program.model.activations(own, inputs)
    np.testing.assert_allclose(found.gates[2], np.swapaxes(blocks.t, 0, 1), rtol=1e-5)
    np.testing.assert_allclose(found.outputs[2], np.swapaxes(blocks.y, 0, 1), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found.label[2], dataset.train.labels[index])
    np.testing.assert_array_equal(found.prediction[2], np.argmax(logits, -1))


def test_lesioning_a_closed_gate_changes_nothing(nets):
    program, _, params = nets
    params["blocks"]["transform_bias"][:, 2] = -1e4
    found = trained_nets.Nets(program, params)
    whole = found.lesion(np.full((1, 4), np.nan))
    single = found.lesion(trained_nets.single_lesions(4))
    np.testing.assert_array_equal(single.loss[:, 2], whole.loss[:, 0])
    assert (single.loss[:, [0, 1, 3]] != whole.loss).all()
    opened = found.lesion(trained_nets.single_lesions(4, 1.0))
    assert (opened.loss[:, 2] != whole.loss[:, 0]).all()


def test_lesions_are_the_evaluation_of_a_net_with_those_gates(nets):
    program, dataset, params = nets
    gates = np.array([[np.nan, 0.0, 1.0, np.nan], [0.25, np.nan, np.nan, 0.0]], np.float32)
    found = trained_nets.Nets(program, params).lesion(gates, num_examples=10)
    assert (found.count == 10).all()
    inputs = program.task.preprocess(jnp.asarray(dataset.train.images[:10]))
    labels = jnp.asarray(dataset.train.labels[:10])
    for net in range(3):
        own = _net(params, net)
        for lesion in range(2):
            logits = program.model.apply(own, inputs, gates=jnp.asarray(gates[lesion]))
            expected = metrics.sums(logits, labels, jnp.ones(10, bool))
            np.testing.assert_allclose(found.loss[net, lesion], expected.loss, rtol=1e-5)
            assert found.correct[net, lesion] == expected.correct


def _out_of_memory(monkeypatch, most):
    """Refuses programs that compute more lesions at once than `most`, or any for 0."""
    compile_, asked = trial_mesh.Trials.compile, []

    def refuse(self, function):
        def call(items, *shared):
            asked.append(items[1].shape[1] if len(items) > 1 and items[1].ndim > 2 else 1)
            if asked[-1] > most:
                raise JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nwhile allocating")
            return compile_(self, function)(items, *shared)

        return call

    monkeypatch.setattr(trial_mesh.Trials, "compile", refuse)
    return asked


def test_lesions_are_the_same_however_many_at_once(nets, monkeypatch):
    program, _, params = nets
    found, gates = trained_nets.Nets(program, params), trained_nets.pair_lesions(4)
    expected = found.lesion(gates, at_once=1)
    asked = _out_of_memory(monkeypatch, 2)
    for at_once in (2, 3, 10):
        sums = found.lesion(gates, at_once=at_once)
        np.testing.assert_allclose(sums.loss, expected.loss, rtol=1e-6)
        np.testing.assert_array_equal(sums.correct, expected.correct)
        np.testing.assert_array_equal(sums.count, expected.count)
    # Where memory ends, they are halved.
    assert asked == [2, 3, 2, 10, 5, 3, 2]


def test_memory_that_does_not_hold_one_net_is_an_error_in_one_line(nets, monkeypatch):
    program, _, params = nets
    found = trained_nets.Nets(program, params, batch_size=6)
    asked = _out_of_memory(monkeypatch, 0)
    calls = (found.gates, lambda: found.samples(np.array([1])))
    for call in (*calls, lambda: found.lesion(trained_nets.single_lesions(4), at_once=3)):
        with pytest.raises(UserError, match=r"^--batch_size is 6; allowed: fewer.*memory"):
            call()
    assert asked == [1, 1, 3, 2, 1]


def test_lesions_at_once_and_not_their_number_take_memory(nets, monkeypatch):
    program, _, params = nets
    found, temporary = trained_nets.Nets(program, params), {}
    compile_ = trial_mesh.Trials.compile

    def measured(self, function):
        def call(*arguments):
            program = compile_(self, function).lower(*arguments).compile()
            temporary[case] = program.memory_analysis().temp_size_in_bytes
            return program(*arguments)

        return call

    monkeypatch.setattr(trial_mesh.Trials, "compile", measured)
    for case in ((20, 20), (200, 20), (200, 200)):
        found.lesion(np.full((case[0], 4), 0.5), at_once=case[1])
    assert temporary[200, 20] < 1.1 * temporary[20, 20] < temporary[200, 200] / 4


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_lesions_are_one_at_a_time_on_cpu_and_a_budget_of_bytes_elsewhere(
    nets, monkeypatch, platform
):
    program, _, params = nets
    device = SimpleNamespace(platform=platform)
    monkeypatch.setattr(trial_mesh, "devices", lambda: [device, device])
    found, budget = trained_nets.Nets(program, params, batch_size=1000), trained_nets._BYTES_AT_ONCE
    # Three nets on two devices; six units of four bytes on 1,000 examples.
    assert found._lesions_at_once(10) == (1 if platform == "cpu" else 15)
    assert found._lesions_at_once(10**6) == (1 if platform == "cpu" else budget // 24_000)


def test_a_net_without_blocks_is_refused():
    program, batch = _program(_dataset(5), depth=1)
    with pytest.raises(UserError, match=r"config\.model\.depth is 1; allowed: at least 2"):
        trained_nets.Nets(program, _create(program, batch))


def test_lesioning_the_only_useful_layer_has_its_whole_cost():
    # The class is which of two pixels is bright. The first layer passes both on; the second of
    # three blocks alone does something: it exchanges them, as the softmax layer expects.
    dataset = _dataset(20, (1, 2, 1))
    labels = dataset.train.labels
    dataset.train.images[...] = 0
    dataset.train.images[np.arange(20), 0, labels] = 255
    program, batch = _program(dataset, depth=4, width=2)
    params = _create(program, batch)
    exchange = np.array([[0, 1], [1, 0]], np.float32)
    params["input"]["kernel"][0] = np.eye(2)
    params["blocks"]["kernel"][...] = 0
    params["blocks"]["kernel"][0, 1, :, :2] = exchange
    params["blocks"]["transform_bias"][...] = [[-1e4] * 2, [1e4] * 2, [-1e4] * 2]
    params["head"]["kernel"][0] = 0
    params["head"]["kernel"][0, :, :2] = 5 * exchange
    params["head"]["bias"][0] = [0, 0, -100]
    found = trained_nets.Nets(program, params)
    right, wrong = np.log1p(np.exp(-5.0)), np.log1p(np.exp(5.0))
    whole = found.lesion(np.full((1, 3), np.nan))
    np.testing.assert_allclose(whole.mean_loss, [[right]], rtol=1e-3)
    single = found.lesion(trained_nets.single_lesions(3))
    np.testing.assert_allclose(single.mean_loss, [[right, wrong, right]], rtol=1e-3)
    np.testing.assert_array_equal(single.accuracy, [[1, 0, 1]])
    # Its gates are open already; an open block of zeros lets nothing through.
    opened = found.lesion(trained_nets.single_lesions(3, 1.0))
    np.testing.assert_allclose(opened.mean_loss, [[np.log(2), right, np.log(2)]], rtol=1e-3)
    np.testing.assert_allclose(found.gates().changes, [[0, 1, 0]], atol=1e-6)


@pytest.mark.slow
def test_maps_of_a_convolutional_net_are_averaged_over_space():
    dataset = _dataset(6, (32, 32, 3))
    net = {"architecture": "highway_a", "depth": 11, "width": 2, "initializer": "msra"}
    program, batch = _program(dataset, **net)
    params = _create(program, batch)
    found = trained_nets.Nets(program, params)
    np.testing.assert_array_equal(found.widths, [2, 2, 4, 4, 8, 8])
    gates = found.gates()
    own = _net(params, 0)
    images = dataset.train.images
    _, runs = program.model.activations(own, program.task.preprocess(jnp.asarray(images)))
    row = 0
    for run in runs:
        for t in run.t:
            width = t.shape[-1]
            np.testing.assert_allclose(gates.mean[0, row, :width], t.mean((0, 1, 2)), rtol=1e-5)
            assert np.isnan(gates.mean[0, row, width:]).all()
            row += 1
    assert row == 6
    np.testing.assert_array_equal(np.isnan(found.biases()), np.isnan(gates.mean))
    costs = found.lesion(trained_nets.single_lesions(6))
    assert len(set(costs.loss[0].tolist())) == 6


def test_kinds_of_lesions():
    n = np.nan
    np.testing.assert_array_equal(trained_nets.single_lesions(2, 1), [[1, n], [n, 1]])
    np.testing.assert_array_equal(
        trained_nets.range_lesions(3, from_here=True), [[0, 0, 0], [n, 0, 0], [n, n, 0]]
    )
    np.testing.assert_array_equal(
        trained_nets.range_lesions(3, from_here=False), [[0, n, n], [0, 0, n], [0, 0, 0]]
    )
    np.testing.assert_array_equal(trained_nets.pair_lesions(2), [[0, n], [0, 0], [n, 0]])


def test_sparsity_has_the_known_values():
    even, single = np.full(8, 0.3), np.eye(8)[2]
    np.testing.assert_allclose(statistics.sparsity(np.stack([even, single])), [0, 1 - 1 / 8])
    assert statistics.sparsity(np.array([0.5, 0.5, np.nan])) == pytest.approx(0)


def test_correlation_is_pearsons():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 5, 4))
    assert statistics.correlation(a, b) == pytest.approx(np.corrcoef(a.ravel(), b.ravel())[0, 1])
    b[0, 0] = np.nan
    expected = np.corrcoef(a.ravel()[1:], b.ravel()[1:])[0, 1]
    assert statistics.correlation(a, b) == pytest.approx(expected)
    assert np.isnan(statistics.correlation(a, np.ones(4)))


def test_reach_counts_the_blocks_that_do_most():
    assert statistics.reach(np.array([50, 45, 4, 1])) == 2
    assert statistics.reach(np.array([50, 44, 5, 1])) == 3
    assert statistics.reach(np.ones(20)) == 19
    assert statistics.reach(np.array([0.0, 0.0, 1.0])) == 3
