"""Compiling for devices that are not here: errors, tables, memory and collectives."""

import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

import highway_jax
from highway_jax import compile_only, main
from highway_jax.config import config as config_lib
from highway_jax.data import mnist_cifar
from highway_jax.sweep import planning
from highway_jax.training import compiled_text, topologies, trial_mesh
from highway_jax.training.program import Program

FLAGS = ["highway-jax", "--config=experiments/digits.py", "--compile_only"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--topology=v5e:2x5"], "--topology is 'v5e:2x5'; did you mean --topology=v5e:2x4?"),
        (["--topology=v7"], "--topology is 'v7'; allowed: v4:{2x2x1,"),
        (["--topology="], "--topology is not given; allowed: a name that --topology=list lists"),
        ([], "--topology is not given; allowed: a name that --topology=list lists"),
        (["--topology=cpu", "--workdir=x"], "--workdir is 'x'; allowed: not with --compile_only"),
        (["--topology=cpu", "--extend"], "--extend is True; allowed: not with --compile_only"),
        (
            ["--topology=cpu", "--config.runtime.devices=999"],
            "config.runtime.devices is 999; allowed: 0 to 2, the devices of cpu",
        ),
    ],
)
def test_a_bad_flag_is_one_line_and_status_2(flags, message, capsys, tmp_path, monkeypatch):
    config = FLAGS[1].replace("experiments", str(main.Path("experiments").absolute()))
    monkeypatch.chdir(tmp_path)
    assert main.main([FLAGS[0], config, FLAGS[2], *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_a_topology_without_compile_only_is_an_error(capsys):
    assert main.main([*FLAGS[:2], "--topology=h100"]) == 2
    assert "--topology is 'h100'; allowed: only with --compile_only" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "extra"), [("v6e:2x2", "compile-tpu"), ("a100", "compile-gpu")])
def test_a_missing_compiler_is_named_with_its_installation(name, extra, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda package: None)
    assert main.main([*FLAGS, f"--topology={name}"]) == 2
    error = capsys.readouterr().err
    assert f"install it with pip install 'highway-jax[{extra}]'" in error
    assert error.count("\n") == 1


def test_the_list_names_every_topology(capsys):
    assert main.main(["highway-jax", "--topology=list"]) == 0
    assert capsys.readouterr().out.split() == topologies.names()
    assert {"v4:2x2x1", "v5e:2x4", "v5p:2x2x1", "v6e:2x2", "h100", "a100"} <= {*topologies.names()}


@pytest.fixture
def mnist_config(small_config):
    config_lib.put(small_config, "data.name", "mnist")
    config_lib.put(small_config, "data.subtract_mean", True)
    return small_config


def _refuse(*_):
    raise AssertionError("read the data set")


def test_programs_are_compiled_without_reading_or_writing(
    mnist_config, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(mnist_cifar, "_obtain_arrays", _refuse)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(compile_only, "_MOST_TRIALS", 4)
    compile_only.run(mnist_config, "cpu")
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not list(tmp_path.iterdir())
    rows = [line.split()[0] for line in lines if line.startswith("  ")]
    assert rows == ["program", "creation", "training", "evaluation", "gates", "lesions"]
    assert lines[1:3] == ["", "highway 3x8 on mnist: trials: 2, 1 per device"]
    assert "collectives: none" in lines
    assert "largest batch that fits: 4 trials per device, 8 in all (within 1 %)" in lines
    # (784 * 8 + 2 * 8 * 16 + 8 * 10) products of 100 examples: forward, and those of the gradient,
    # in which the first layer has no gradient of its input.
    assert "matrix products of a step: 0.00271 GFLOP per trial" in " ".join(lines)


def test_the_work_of_a_trial_is_counted_where_devices_share_its_batches(mnist_config):
    work = []
    for count in (1, 2):
        config_lib.put(mnist_config, "runtime.batch_devices", count)
        (batch,) = planning.plan(mnist_config, [])
        dataset = compile_only._dataset(batch.config)
        program = Program(batch, dataset)
        assert program.trials.parts.count == count
        step = compile_only._step(program, batch.hyperparameters(), dataset)
        work.append(compiled_text.operations_of_products(step))
    assert work[0] == work[1] > 0


def test_the_work_of_a_step_does_not_depend_on_the_platform(mnist_config, monkeypatch):
    config_lib.put(mnist_config, "model.architecture", "mnist10")
    config_lib.put(mnist_config, "model.depth", 10)
    config_lib.put(mnist_config, "model.width", 4)
    (batch,) = planning.plan(mnist_config, [])
    dataset = compile_only._dataset(batch.config)
    work = []
    for platform in ("cpu", "tpu"):
        monkeypatch.setattr(trial_mesh.Trials, "platform", platform, raising=False)
        monkeypatch.setattr(trial_mesh, "compiler_options", lambda platform: {})
        program = Program(batch, dataset)
        step = compile_only._step(program, batch.hyperparameters(), dataset)
        work.append(compiled_text.operations_of_products(step))
    assert work[0] == work[1] > 0


def test_a_run_needs_the_memory_of_evaluation_beside_the_state_of_training():
    training = compiled_text.Memory(arguments=30, temporaries=5, outputs=1)
    evaluation = compiled_text.Memory(arguments=10, temporaries=40, outputs=2)
    assert compiled_text.needed(training, evaluation) == 52 + 20
    assert compiled_text.needed(training, evaluation._replace(temporaries=1)) == 36


def test_the_memory_is_that_of_the_run(mnist_config, monkeypatch):
    monkeypatch.setattr(compile_only, "FUNCTIONS", ("training", "evaluation"))
    config_lib.put(mnist_config, "model.block", "plain")  # A net without lesions to compile.
    topology = topologies.find("cpu")
    (report,) = compile_only.reports(mnist_config, topology)
    training = report.training
    (batch,) = planning.plan(mnist_config, [])
    dataset = compile_only._dataset(batch.config)
    program = Program(batch, dataset)
    program.compile(batch.hyperparameters())
    assert program.memory()[0] == compile_only._need(report.compiled)
    images = 70_000 * 28 * 28 + 70_000 * 4
    assert images < training.memory.arguments < images + 300_000


def _need(report):
    running = ("training", "evaluation")
    return compile_only._need(found for found in report.compiled if found.name in running)


@pytest.mark.slow
def test_the_most_trials_fit_and_more_do_not(mnist_config):
    topology = topologies.find("cpu")
    (report,) = compile_only.reports(mnist_config, topology)
    present = _need(report) + 10**6
    chip = topology.chip._replace(memory=present)
    fitting = compile_only.most_trials(report._replace(topology=topology._replace(chip=chip)))

    def peak(count):
        config = mnist_config.copy_and_resolve_references()
        config_lib.put(config, "seeds", tuple(range(count)))
        config_lib.put(config, "runtime.devices", 1)
        (found,) = compile_only.reports(config, topology)
        return _need(found)

    assert 1 < fitting < 100
    assert peak(fitting) <= present < peak(fitting + 1)


def test_whitened_examples_are_float32_and_not_computed(small_config, monkeypatch):
    monkeypatch.setattr(mnist_cifar, "_obtain_arrays", _refuse)
    monkeypatch.setattr(compile_only.preprocess, "_whitened", _refuse)
    config_lib.put(small_config, "data.name", "mnist")
    config_lib.put(small_config, "data.zca_epsilon", 0.1)
    config_lib.put(small_config, "data.scaling", "global_contrast_normalization")
    monkeypatch.setattr(
        compile_only, "compile_lowered", lambda name, _: compile_only.Compiled(name, 0.0, 0.0)
    )
    (report,) = compile_only.reports(small_config, topologies.find("cpu"))
    assert report.program.examples.images.dtype == np.float32
    assert report.program.spans["valid"].tolist() == [59_900, 60_000]


def test_whitened_examples_may_be_of_any_scaling(small_config, monkeypatch):
    monkeypatch.setattr(compile_only, "compile_lowered", lambda *_: None)
    config_lib.put(small_config, "data.zca_epsilon", 0.1)
    for name, scaling in (("mnist", "signed"), ("digits", "unit")):
        config_lib.put(small_config, "data.name", name)
        config_lib.put(small_config, "data.scaling", scaling)
        (report,) = compile_only.reports(small_config, topologies.find("cpu"))
        assert report.program.examples.images.dtype == np.float32


def test_batches_whose_programs_differ_are_all_compiled(small_config, monkeypatch):
    monkeypatch.setattr(compile_only, "report", lambda batch, topology: batch)
    grid = {"training": {"label_smoothing": (0.0, 0.1)}, "optimizer": {"weight_decay": (0.0, 0.1)}}
    small_config.sweep.grid = ConfigDict(grid, sort_keys=False)
    assert len(planning.plan(small_config, [])) == 2
    assert len(list(compile_only.reports(small_config, topologies.find("cpu")))) == 2
    config_lib.put(small_config, "runtime.max_trials", 1)
    assert len(planning.plan(small_config, [])) == 8
    assert len(list(compile_only.reports(small_config, topologies.find("cpu")))) == 4


@pytest.mark.parametrize("first", [1, 7, 300])
def test_largest_takes_few_attempts(first):
    attempts = []

    def needed(count):
        attempts.append(count)
        return None if count > 5000 else 50 + 3 * count + count**2 // 1000

    found = compile_only.largest(needed, 12_300, (first, needed(first)), 50)
    assert 0.98 * 2307 < found <= 2307
    assert len(attempts) <= 10
    assert compile_only.largest(needed, 10, (first, needed(first)), 50) == 0
    assert compile_only.largest(lambda count: 5, 10, (first, 5)) == 2**16


def test_operations_of_loops_count_as_often_as_they_run():
    def layers(x, kernels):
        return jax.lax.scan(lambda x, kernel: (jnp.sort(x @ kernel), None), x, kernels)[0]

    def steps(count, x, kernels):
        return jax.lax.fori_loop(0, count, lambda _, x: layers(x, kernels), x)

    x, kernels = jnp.ones((7, 5)), jnp.ones((3, 5, 5))
    short = compiled_text.Operations(_text(steps, 2, x, kernels))
    longer = compiled_text.Operations(_text(steps, 2, x, jnp.ones((30, 5, 5))))
    assert short.of_inner_loops() >= 3
    assert longer.of_inner_loops() == 10 * short.of_inner_loops()
    assert longer.of_step() - longer.of_inner_loops() == short.of_step() - short.of_inner_loops()


def _text(function, *arguments):
    return jax.jit(function).lower(*arguments).compile().as_text()


# As the compiler for TPU writes loops, without their numbers of iterations.
_TPU = """
%layer (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %a = f32[8]{0:T(128)} fusion(%p), kind=kLoop, calls=%fused
  %b = f32[8]{0:T(128)} copy-start(%a)
  %c = f32[8]{0:T(128)} copy-done(%b)
  ROOT %t = (s32[]{:T(128)}, f32[8]{0:T(128)}) tuple(%a, %c)
}
%below (p: (s32[], f32[8])) -> pred[] {
  %seven = s32[]{:T(128)} constant(7)
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  ROOT %lt = pred[]{:T(512)} compare(%i, %seven), direction=LT
}
%step (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  %g = f32[8]{0:T(128)} all-reduce-start(%p), to_apply=%add
  ROOT %w = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%p), condition=%below, body=%layer
}
%more (p: (s32[], f32[8])) -> pred[] {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %and = pred[]{:T(512)} and(%p, %p)
}
ENTRY %main (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %p = (s32[]{:T(128)}, f32[8]{0:T(128)}) parameter(0)
  ROOT %w = (s32[]{:T(128)}, f32[8]{0:T(128)}) while(%p), condition=%more, body=%step
}
"""


def test_loops_of_a_tpu_program_are_counted_by_their_conditions():
    found = compiled_text.Operations(_TPU)
    assert (found.of_step(), found.of_inner_loops(), found.collectives()) == (15, 14, 1)


# ---- the compilers for TPU and GPU


def _needs(package, extra):
    missing = importlib.util.find_spec(package) is None
    return pytest.mark.skipif(missing, reason=f"no {package}: pip install '.[{extra}]'")


_TPU_COMPILER = _needs("libtpu", "compile-tpu")
_GPU_COMPILER = _needs("jax_cuda12_plugin", "compile-gpu")
MEBIBYTE = 2**20


# Topology, settings, trials; bounds of temporaries (MiB), operations of a step, and of a layer.
_BOUNDED = {
    "dense on TPU": ("v5e:2x2", {"model.depth": 10}, 400, 260, 850, 82),
    "convolutional on TPU": (
        *("v5e:2x2", {"model.architecture": "mnist10", "model.width": 16}),
        *(8, 60, 800, 50),
    ),
    "dense on GPU": ("h100", {"model.depth": 10}, 800, 1100, 95, 0),
    "deep on GPU": ("h100", {"model.depth": 100}, 100, 850, 1050, 11),
}


@pytest.mark.compile
@pytest.mark.parametrize(
    ("name", "settings", "trials", "temporaries", "operations", "a_layer"),
    [
        pytest.param(*row, marks=_GPU_COMPILER if row[0] == "h100" else _TPU_COMPILER, id=net)
        for net, row in _BOUNDED.items()
    ],
)
def test_training_holds_memory_and_operations_and_exchanges_nothing(
    name, settings, trials, temporaries, operations, a_layer
):
    """The bounds are a few percent above what was measured, in MiB and operations."""
    config = highway_jax.default_config()
    for key, value in {"data.name": "mnist", "seeds": tuple(range(trials)), **settings}.items():
        config_lib.put(config, key, value)
    (batch,) = planning.plan(config, [])
    program = Program(batch, compile_only._dataset(config), absent=topologies.find(name).devices)
    lowered = program.lower("training", batch.hyperparameters())
    found = compile_only.compile_lowered("training", lowered)
    assert found.memory.temporaries <= temporaries * MEBIBYTE
    assert found.in_loops / program.model.num_blocks <= a_layer
    assert found.in_loops < found.operations <= operations
    assert not found.collectives
    assert not found.reason
