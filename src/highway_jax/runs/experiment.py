"""Running an experiment: the one place that puts all the other rooms together."""

import json
import logging
from pathlib import Path
from typing import Any

import jax
from jax.errors import JaxRuntimeError
from ml_collections import ConfigDict

from highway_jax.config import config as config_lib
from highway_jax.data import preprocess
from highway_jax.data.dataset import Dataset
from highway_jax.data.dataset import load as load_data
from highway_jax.errors import Lost, brief, show
from highway_jax.runs.batch_trainer import BatchRun, TooLarge, failed_rows
from highway_jax.runs.context import RunContext
from highway_jax.runtime import multihost
from highway_jax.runtime.compile_cache import CompileCache
from highway_jax.runtime.progress import Display
from highway_jax.runtime.signals import StopRequest
from highway_jax.storage import preprocessing
from highway_jax.storage.workdir import Workdir
from highway_jax.sweep import design
from highway_jax.sweep.trials import Batch
from highway_jax.training import trial_mesh


def run(
    config: ConfigDict,
    workdir: str | Path,
    *,
    dataset: Dataset | None = None,
    display: Display | None = None,
) -> list[dict[str, Any]]:
    """Trains all that a config asks for: every case, point of the grid, and seed or drawn setting.

    Args:
        config: A config from `default_config`, changed as the experiment needs.
        workdir: Directory of the run's records and checkpoints; made if need be.
        dataset: The data set to train on (see `Dataset.from_arrays`), instead of the one that
            `config.data.name` names; the saved config then says "arrays" there. The validation
            split is drawn by `config.data.valid_size`. To resume the run, give the same arrays.
        display: Where progress is shown; None follows `config.runtime.progress`.

    Returns:
        The rows of results.csv, one a trial.

    Raises:
        UserError: If the config, the data or the directory are not fit to run.
        TypeError: If `dataset` is not a `Dataset`.
        ValueError: If `dataset` has a validation split, or the config varies the data set.
        Stopped: If a signal asked to stop; the same call goes on from the checkpoint.
        Lost: If a device or another process failed; the same call goes on.
    """
    config_lib.validate(config)
    if dataset is not None:
        config = _with_arrays(config, dataset)
    trial_mesh.use_cores(config.runtime.devices)
    trial_mesh.devices(config.runtime.devices)
    if not multihost.is_first():
        display = Display(enabled=False)
    display = display or Display(enabled=config.runtime.progress)
    datasets, fingerprint = multihost.together(lambda: _load_all(config, dataset))
    directory = Workdir(workdir)
    with (
        multihost.led(directory.locked()),
        StopRequest().listening() as stop,
        CompileCache(config.runtime.compile_cache).used() as cache,
    ):
        numbering = multihost.lead(directory.numbering)
        context = RunContext(config, numbering, directory, display, stop, cache)
        # Before the tables are read, which another config would make no sense of.
        context.lead(lambda: directory.check(config, fingerprint))
        batches = context.plan()
        context.lead(lambda: directory.claim(config, fingerprint, trains=bool(batches)))
        context.lead(context.settle)
        try:
            for line in design.left_out(config, context.numbering) if batches else ():
                display.say(line)
            if not batches:
                display.say(f"{directory.path}: finished before, nothing to train")
            while batches:
                _run_or_halve(batches[0], datasets[_data_key(batches[0].config)], context)
                batches = context.plan()
            return context.lead(context.records.results)
        finally:
            context.records.close()


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


def _load_all(config: ConfigDict, given: Dataset | None) -> tuple[dict[str, Dataset], str]:
    """Returns the data of all trials by `_data_key`, and the fingerprint of those of the cells."""
    keys = [k for k in config_lib.CASE_KEYS if k.startswith(_DATA_KEYS)]
    datasets: dict[str, Dataset] = {}
    loaded: dict[tuple, Dataset] = {}
    seen = set()

    def load(settings: dict[str, Any]) -> None:
        values = tuple([settings[key] for key in keys])
        if values in seen:
            return
        seen.add(values)
        section = config_lib.unflatten(settings)
        source = tuple(section.data[name] for name in _SOURCE)
        if source not in loaded:
            loaded[source] = (
                load_data(section.data)
                if given is None
                else given.with_validation(section.data.valid_size, section.data.split_seed)
            )
        datasets[_data_key(section)] = loaded[source]
        preprocess.check(section, loaded[source])
        config_lib.steps_per_epoch(section, loaded[source].train.size)

    # All points, whatever the format: the fingerprint must not depend on it.
    for _, _, settings in design.places(config, 1):
        load(settings)
    fingerprint = "-".join(dataset.fingerprint for dataset in datasets.values())
    if not config_lib.flatten(config.sweep.draw).keys().isdisjoint(keys):
        for cell in design.cells(config):
            for trial in cell.trials:
                load(trial.settings)
    return datasets, fingerprint


def _data_key(config: ConfigDict) -> str:
    return config.data.to_json()


_SOURCE = ("name", "file", "valid_size", "split_seed", "dir", "cache_dir", "download")
_DATA_KEYS = ("data.", "training.", "model.architecture")  # What data are loaded or checked by.


def _save_preprocessing(batch: Batch, dataset: Dataset, context: RunContext) -> None:
    """Saves what using the batch's nets without the data set needs, once for all batches."""
    data = batch.config.data
    path = preprocessing.path(context.directory.path, data)
    if not context.lead(lambda: preprocessing.exists(path)):
        # All processes need the constants, and compute them at the same time.
        saved = preprocessing.of(data, dataset)
        context.lead(lambda: preprocessing.save(saved, path))


def _run_or_halve(batch: Batch, dataset: Dataset, context: RunContext) -> None:
    """Runs a batch; one that memory or the compiler refuses is halved, a single trial recorded."""
    context.check_stop(batch.name)
    run = None
    try:
        _save_preprocessing(batch, dataset, context)
        run = BatchRun(batch, dataset, context)
        run.run()
        return
    except (JaxRuntimeError, MemoryError) as error:
        if jax.process_count() > 1 and not isinstance(error, TooLarge):
            raise  # The others are within a computation that this process will not come back to.
        reason = brief(str(error) or type(error).__name__, 200)
        # Once steps were taken, only memory is the batch's own fault.
        if run is not None and run.has_trained and not trial_mesh.is_memory(error):
            raise _lost(batch, reason) from error
    finally:
        context.records.close()
    run = None  # Its arrays on the devices make room for the halves'.
    halves = batch.halves()
    if len(halves) > 1:
        logging.warning("%s failed (%s); trying halves of it", batch.name, reason)
        for half in halves:
            _run_or_halve(half, dataset, context)
    else:
        try:
            trial_mesh.check_devices()
        except JaxRuntimeError as error:
            raise _lost(batch, brief(str(error), 200)) from error
        logging.warning(
            "%s failed (%s); to try it again, remove its row from results.csv", batch.name, reason
        )
        context.add_results(failed_rows(batch))


def _lost(batch: Batch, reason: str) -> Lost:
    return Lost(
        f"{batch.name}: a device failed ({reason}); start again: the run goes on from its last"
        " checkpoint"
    )
