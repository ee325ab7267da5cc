"""Restores the trained nets of a saved run, without the data set that they were trained on."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import ConfigDict

from highway_jax.config import config as config_lib
from highway_jax.data.dataset import Dataset
from highway_jax.errors import UserError
from highway_jax.nn.model import Model
from highway_jax.storage.checkpoint import Checkpoints
from highway_jax.storage.records import Records
from highway_jax.storage.workdir import Workdir
from highway_jax.sweep import planning
from highway_jax.sweep.trials import Batch, Trial, saved_with_decay
from highway_jax.training import optimizer, train


class Saved(NamedTuple):
    """The config and the results of a saved run.

    Attributes:
        workdir: The run's directory.
        config: Its config.
        rows: The rows of results.csv.
        trials: The trials that are known, by index.
    """

    workdir: Path
    config: ConfigDict
    rows: list[dict[str, Any]]
    trials: dict[int, Trial]


def read(workdir: Path) -> Saved:
    """Reads the config and the results of a run.

    Raises:
        UserError: If there is no run, or its files cannot be read.
    """
    try:
        config = config_lib.from_json((workdir / "config.json").read_text("utf-8"))
    except OSError as error:
        raise UserError(
            f"workdir is {str(workdir)!r}; allowed: a directory of a run ({error.strerror})"
        ) from error
    cells = planning.cells(config, Workdir(workdir).numbering())
    rows = Records(workdir, config, cells, writes=False).results()
    return Saved(workdir, config, rows, planning.find(config, rows, cells))


def check_data(saved: Saved, dataset: Dataset) -> None:
    """Checks that a data set is one on which the run was trained.

    Raises:
        UserError: If it is another one.
    """
    known = Workdir(saved.workdir).environment(must_exist=True).get("data_fingerprint")
    if {dataset.fingerprint, dataset.arrays_fingerprint}.isdisjoint(str(known).split("-")):
        raise UserError(
            f"{saved.workdir}: the run was trained on other data: {dataset.name} had fingerprint"
            f" {str(known)[:12]}, now {dataset.fingerprint[:12]}; allowed: the same data"
        )


def params(saved: Saved, batch_name: str, indices: list[int], model: Model) -> Any:
    """Restores the parameters of trials from the newest intact checkpoint of their batch.

    Where `training.weight_average` is set, they are the averaged ones.

    Args:
        saved: The run.
        batch_name: Name of the batch, as in results.csv.
        indices: The trials to restore.
        model: Their net.

    Returns:
        A tree of host arrays [len(indices), ...].

    Raises:
        UserError: If there is no intact checkpoint, or it holds other trials.
    """

    def shapes(extra: dict[str, Any]) -> train.TrialState:
        # Others of the batch may be unknown: retrained trials without a row.
        batch = Batch(batch_name, tuple(saved.trials[index] for index in indices), 0, 0, True)
        decays = saved_with_decay(extra, saved.trials)
        return _shapes(batch, model, len(extra["trials"]), decays)

    directory = saved.workdir / "checkpoints" / batch_name
    restored = Checkpoints(directory).restore(shapes)
    if restored is None:
        raise UserError(f"{directory} does not exist; allowed: a run with its checkpoints")
    _, state, extra = restored
    if lost := sorted({*indices} - {*extra["trials"]}):
        raise UserError(
            f"{directory}: its checkpoints hold {planning.name_trials(extra['trials'])}, not"
            f" {planning.name_trials(lost)}; restore a copy of the directory, or remove the rows of"
            f" {planning.name_trials(lost)} from results.csv to train from the start"
        )
    positions = [extra["trials"].index(index) for index in indices]
    return jax.tree.map(lambda leaf: leaf[positions], train.weights(state))


def _shapes(batch: Batch, model: Model, num_trials: int, decays_weights: bool) -> train.TrialState:
    """Returns the shapes of a saved state of `num_trials` trials, as arrays of zeros."""
    section = batch.config.optimizer
    task = train.Task(
        init=model.init,
        apply=model.apply,
        preprocess=lambda images: images,
        # The number of steps of an epoch has no influence on shapes.
        optimizer=lambda hyperparameters: optimizer.build(
            section, 1, hyperparameters, model.roles, decays_weights=decays_weights, epochs=1
        ),
        num_train=1,
        batch_size=1,
        micro_batch=1,
    )
    create = jax.vmap(functools.partial(train.create, task))
    return jax.tree.map(
        lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), (num_trials, *leaf.shape[1:])),
        jax.eval_shape(create, batch.hyperparameters()),
    )
