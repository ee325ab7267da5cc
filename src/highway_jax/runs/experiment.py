"""Runs an experiment: loads data, plans batches of trials, trains and records them."""

import datetime
import json
import logging
import time
from pathlib import Path
from typing import Any

import jax
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from highway_jax import files
from highway_jax.config import config as config_lib
from highway_jax.config.sections import Config, Data
from highway_jax.data import preprocess
from highway_jax.data.dataset import Dataset
from highway_jax.data.dataset import load as load_data
from highway_jax.errors import Lost, UserError, brief, show
from highway_jax.nn import custom
from highway_jax.runs.batch_trainer import BatchRun, TooLarge
from highway_jax.runs.context import RunContext
from highway_jax.runs.rows import failed_rows
from highway_jax.runtime import device_errors, multihost
from highway_jax.runtime.compile_cache import CompileCache
from highway_jax.runtime.progress import Display
from highway_jax.runtime.signals import StopRequest
from highway_jax.storage import extension, preprocessing
from highway_jax.storage.workdir import Workdir
from highway_jax.sweep import adaptive, design, planning
from highway_jax.sweep.trials import Batch
from highway_jax.training import parts, self_check, trial_mesh


def run(
    config: ConfigDict,
    workdir: str | Path,
    *,
    extend: bool = False,
    dataset: Dataset | None = None,
    model: Any = None,
    display: Display | None = None,
) -> list[dict[str, Any]]:
    """Trains every case of a config at every grid point with every seed or drawn setting.

    Args:
        config: A config from `default_config`, with the changes of the experiment.
        workdir: Directory of the run's records and checkpoints; created if missing. `~` is the home
            directory.
        extend: Whether the config may add seeds and epochs to the run in the directory.
        dataset: The data set to train on (see `Dataset.from_arrays`), instead of the one that
            `config.data.name` names; the saved config then says "arrays" there. The validation
            split is drawn by `config.data.valid_size`. To resume the run, pass the same arrays.
        model: A linen module to train, instead of the net that `config.model` describes: x
            [batch, ...] -> logits [batch, classes]. It is called with `train=True` in training and
            `train=False` elsewhere if its `__call__` takes `train`, and has an rng "dropout" in
            training. Of `config.model` only `precision` has an effect; the saved config names the
            module's class and fields in `model.module`, and has the defaults of the other keys.
            Parameters named `bias` or `*_bias`, and vectors, are biases; scalars are gains; the
            others are weights, which are decayed. To resume the run, pass an equal module.
        display: Displays progress; None for one that follows `config.runtime.progress`.

    Returns:
        The rows of results.csv, one for each trial.

    Raises:
        UserError: If the config, the data or the directory is invalid.
        TypeError: If `dataset` is not a `Dataset`, or `model` is not a linen module.
        ValueError: If `dataset` has a validation split, if `model` cannot be trained, or if the
            config varies the data set or the net that is given.
        highway_jax.runtime.signals.Stopped: If a signal requested a stop; the same call resumes
            from the checkpoint.
        highway_jax.errors.Lost: If a device or another process failed; the same call resumes the
            run.

    Example:
        >>> import highway_jax
        >>> config = highway_jax.default_config()
        >>> config.training.epochs = 1
        >>> (row,) = highway_jax.run(config, "runs/example")  # doctest: +SKIP
        >>> accuracy = row["test_accuracy"]  # doctest: +SKIP
    """
    config_lib.rename(config)
    config_lib.validate(config)
    if dataset is not None:
        config = _with_arrays(config, dataset)
    if model is not None:
        config = _with_module(config, model)
    if config.sweep.sampler != "random":
        multihost.together(adaptive.require_optuna)
    trial_mesh.use_cores(config.runtime.devices)
    chosen = trial_mesh.devices(config.runtime.devices)
    parts.arrange(chosen, 1, (config.runtime.batch_devices or 1,))
    if not multihost.is_first():
        display = Display(enabled=False)
    display = display or Display(enabled=config.runtime.progress)
    datasets, fingerprints = multihost.together(lambda: _load_all(config, dataset))
    _check_alike(config, fingerprints[0])
    if model is not None:  # It is tried before files are written.
        for data in datasets.values():
            custom.functions(model, data.example_shape, data.num_classes)
    directory = Workdir(workdir)
    with (
        multihost.led(directory.locked()),
        StopRequest().listening() as stop,
        CompileCache(config.runtime.compile_cache).used() as cache,
    ):
        # The tables are read only after this check, since they depend on the config.
        found = multihost.lead(lambda: _check(directory, config, fingerprints, extend))
        numbering = design.Numbering(found[0], tuple(found[1]))  # From JSON in other processes.
        context = RunContext(config, numbering, directory, display, stop, cache, model)
        batches = context.plan()
        context.lead(
            lambda: directory.claim(config, fingerprints[0], numbering, trains=bool(batches))
        )
        context.lead(context.settle)
        try:
            for line in design.left_out(config, numbering) if batches else ():
                display.say(line)
            if not batches:
                display.say(f"{directory.path}: already finished, nothing to train")
                for section, data in datasets.items():
                    if section.file:  # It may have been moved, and the constants have its name.
                        _save_preprocessing(section, data, context)
            else:
                _train_all(batches, datasets, context)
            return context.lead(context.records.results)
        finally:
            context.records.close()


_ALIKE = ("devices", "batch_devices", "trial_axis", "max_trials", "micro_batch")
"""Keys of `runtime` in which the processes of a run may not differ."""


def _check_alike(config: ConfigDict, fingerprint: str) -> None:
    """Checks that all processes of a run have the same config and data.

    Raises:
        UserError: In all processes, if one differs from the first.
    """
    if jax.process_count() == 1:
        return
    own = {"config": json.loads(config_lib.to_json(config)), "data": fingerprint}
    first = multihost.lead(lambda: own)

    def compare():
        changed = extension.changes(first["config"], own["config"])
        changed |= config_lib.differences(
            *({f"runtime.{k}": c["config"]["runtime"][k] for k in _ALIKE} for c in (first, own))
        )
        if changed:
            raise UserError(
                f"has another config than process 0: changed {'; '.join(changed.values())};"
                " allowed: the same config in all processes"
            )
        if first["data"] != fingerprint:
            raise UserError(
                f"has other data than process 0: {config.data.name} has fingerprint"
                f" {fingerprint[:12]}, not {first['data'][:12]}; allowed: the same data in all"
                " processes"
            )

    multihost.together(compare)


def _with_arrays(config: ConfigDict, dataset: Dataset) -> ConfigDict:
    """Returns the config of a run on a data set that the caller gives."""
    if not isinstance(dataset, Dataset):
        raise TypeError(f"dataset is {show(dataset)}; allowed: a highway_jax.Dataset")
    for key in ("data.name", "data.file"):
        if key in config_lib.varied_keys(config):
            raise ValueError(f"the config varies {key}; allowed: not where dataset is given")
    tree = json.loads(config_lib.to_json(config))
    tree["data"] |= {"name": "arrays", "file": ""}
    return config_lib.from_json(json.dumps(tree))


def _with_module(config: ConfigDict, module: Any) -> ConfigDict:
    """Returns the config of a run that trains a module that the caller gives."""
    custom.check(module)
    varied = [key for key in config_lib.varied_keys(config) if key.startswith("model.")]
    if others := [key for key in varied if key != "model.precision"]:
        raise ValueError(
            f"the config varies {', '.join(others)}; allowed: no key of the net but model.precision"
            " where model is given"
        )
    tree = json.loads(config_lib.to_json(config))
    tree["model"] = {
        "architecture": "custom",
        "block": "custom",
        "module": custom.identity(module),
        "precision": config.model.precision,
    }
    return config_lib.from_json(json.dumps(tree))


def _train_all(batches: list[Batch], datasets: dict[Data, Dataset], context: RunContext) -> None:
    """Trains batches, and those that follow from their results, until none is left."""
    context.lead(context.records.open)
    multihost.together(lambda: self_check.run(jax.local_devices()[0]))
    began = time.monotonic()
    total, done = planning.work_planned(context.config, context.cells), context.work_done()
    with context.display.training(context.config.name, total, done) as context.bar:
        while batches:
            _run_or_halve(batches[0], datasets[batches[0].config.data], context)
            batches = context.plan()
    seconds = round(time.monotonic() - began)
    context.display.say(f"Trained in {datetime.timedelta(seconds=seconds)}")


def _check(
    directory: Workdir, config: ConfigDict, fingerprints: tuple[str, ...], extend: bool
) -> design.Numbering:
    with files.explained(directory.path):
        return directory.check(config, fingerprints, extend=extend)


_SOURCE = ("name", "file", "valid_size", "split_seed", "dir", "cache_dir", "download")
_DATA_KEYS = ("data.", "training.", "model.architecture")
"""Prefixes of the keys by which data are loaded or checked."""


def _load_all(
    config: ConfigDict, given: Dataset | None
) -> tuple[dict[Data, Dataset], tuple[str, str]]:
    """Returns the data of all trials by section, and the fingerprints of those of the cells.

    The fingerprints are that of this version, and that of earlier ones.
    """
    keys = [k for k in config_lib.CASE_KEYS if k.startswith(_DATA_KEYS)]
    datasets: dict[Data, Dataset] = {}
    loaded: dict[tuple, Dataset] = {}
    seen = set()

    def load(settings: dict[str, Any], *, checked: bool) -> None:
        values = (checked, *[settings[key] for key in keys])
        if values in seen:
            return
        seen.add(values)
        typed = Config.from_settings(settings)
        source = tuple(getattr(typed.data, name) for name in _SOURCE)
        if source not in loaded:
            loaded[source] = (
                load_data(typed.data)
                if given is None
                else given.with_validation(typed.data.valid_size, typed.data.split_seed)
            )
        datasets[typed.data] = loaded[source]
        if checked:
            preprocess.check(typed, loaded[source])
            config_lib.steps_per_epoch(typed, loaded[source].train.size)

    # All grid points, since the fingerprint must not depend on the format of the numbers. Where a
    # key is drawn, no trial has the value that they have for it.
    is_drawn = not config_lib.flatten(config.sweep.draw).keys().isdisjoint(keys)
    for _, _, settings in design.grid_points(config, 1):
        load(settings, checked=not is_drawn)
    found = [(dataset.fingerprint, dataset.arrays_fingerprint) for dataset in datasets.values()]
    now, before = ("-".join(fingerprints) for fingerprints in zip(*found, strict=True))
    if is_drawn:
        for cell in design.cells(config):
            for trial in cell.trials:
                load(trial.settings, checked=True)
    return datasets, (now, before)


def _save_preprocessing(data: Data, dataset: Dataset, context: RunContext) -> None:
    """Saves what using the nets of a `data` section without the data set needs, once."""
    path = preprocessing.path(context.directory.path, data)
    if not context.lead(lambda: preprocessing.exists(path)):
        # All processes need the constants, and compute them at the same time.
        saved = preprocessing.of(data, dataset)
        context.lead(lambda: preprocessing.save(saved, path))


def _run_or_halve(batch: Batch, dataset: Dataset, context: RunContext) -> None:
    """Runs a batch; halves it if memory or the compiler fails, and records a failed trial."""
    context.check_stop(batch.name)
    run = None
    try:
        with device_errors.in_one_type():
            _save_preprocessing(batch.config.data, dataset, context)
            run = BatchRun(batch, dataset, context)
            run.run()
        return
    except (JaxRuntimeError, MemoryError) as error:
        if jax.process_count() > 1 and not isinstance(error, TooLarge):
            raise  # The other processes are in a computation that this one has left.
        reason = brief(str(error) or type(error).__name__, 200)
        # After the first step, the batch is the cause only of errors of memory.
        if run is not None and run.has_trained and not trial_mesh.is_memory(error):
            raise _lost(batch, reason) from error
    finally:
        context.records.close()
    run = None  # Frees its arrays on the devices before the halves run.
    halves = planning.distinct(batch.halves(), context.begun())
    if len(halves) > 1:
        logging.warning("%s failed (%s); its halves are trained instead", batch.name, reason)
        for half in halves:
            _run_or_halve(half, dataset, context)
    else:
        try:
            with device_errors.in_one_type():
                trial_mesh.check_devices()
        except JaxRuntimeError as error:
            raise _lost(batch, brief(str(error), 200)) from error
        logging.warning(
            "%s failed (%s); to train it again, remove its row from results.csv", batch.name, reason
        )
        context.add_results(failed_rows(batch))


def _lost(batch: Batch, reason: str) -> Lost:
    return Lost(
        f"{batch.name}: a device failed ({reason}); repeat the command: the run resumes from its"
        " last checkpoint"
    )
