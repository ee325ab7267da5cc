"""The state from which a batch of trials resumes, gathered from the checkpoints of batches."""

from typing import Any, NamedTuple

import jax
import numpy as np

from highway_jax.errors import UserError
from highway_jax.runs.context import RunContext, is_extra
from highway_jax.runtime import multihost
from highway_jax.sweep import planning
from highway_jax.sweep.trials import Batch, rung_of, saved_with_decay
from highway_jax.training.program import Program
from highway_jax.training.train import TrialState


class Restored(NamedTuple):
    """A restored state.

    Attributes:
        step: Steps taken.
        state: Host arrays [trials, ...].
        extra: The extra data of the checkpoint.
        batches: The batches whose checkpoints were read.
    """

    step: int
    state: TrialState
    extra: dict[str, Any]
    batches: list[str]


def restore(batch: Batch, program: Program, context: RunContext) -> Restored | None:
    """Returns the newest intact state of a batch, or None if its trials have not been trained.

    Raises:
        UserError: If the checkpoints are gone, damaged, or hold other trials or settings.
    """
    names = _sources(batch, context)
    if not names:
        return None
    hyperparameters = batch.hyperparameters()
    rows = context.lead(context.records.results)
    known = planning.find(context.config, rows, context.cells)
    known |= {trial.index: trial for trial in batch.trials}

    def shapes(extra: dict[str, Any]) -> TrialState:
        if not is_extra(extra):
            raise ValueError("its manifest does not hold seconds, epoch and trials")
        # The batch that saved it may have held trials with weight decay, and this one none.
        decays = saved_with_decay(extra, known)
        return program.shapes(hyperparameters, len(extra["trials"]), decays_weights=decays)

    structure = jax.tree.structure(program.shapes(hyperparameters, 1))
    parts, steps, extra = {}, set(), {}
    for name in names:
        step, state, extra = _read(name, shapes, context)
        state = jax.tree.unflatten(structure, jax.tree.leaves(state))
        steps.add(step)
        for position, index in enumerate(extra["trials"]):
            parts[index] = jax.tree.map(lambda leaf, i=position: leaf[i], state)
    indices = [trial.index for trial in batch.trials]
    if not parts.keys() >= set(indices) or len(steps) > 1:
        raise UserError(
            f"{context.checkpoints_dir}: holds other trials or steps than those from which"
            f" {batch.name} resumes; restore the directory, or use another workdir"
        )
    state = jax.tree.map(lambda *leaves: np.stack(leaves), *(parts[index] for index in indices))
    pairs = zip(state.numbers, hyperparameters, strict=True)
    other = np.any([found != expected for found, expected in pairs], axis=0)
    if other.any():
        wrong = planning.name_trials([int(index) for index in np.asarray(indices)[other]])
        raise UserError(
            f"{context.checkpoints_dir / names[0]}: holds other settings of {wrong} than"
            f" {batch.name} trains; remove the directory to train from the start, or use another"
            " workdir"
        )
    return Restored(steps.pop(), state, extra, names)


def _sources(batch: Batch, context: RunContext) -> list[str]:
    """Returns the batches from whose checkpoints a batch resumes.

    These are the batch itself, a larger one that was halved because of memory, or the batches of
    the previous rung.
    """
    indices = [trial.index for trial in batch.trials]
    begun = context.begun()
    if batch.name in begun:
        return [batch.name]
    larger = [
        other
        for other, others in begun.items()
        if rung_of(other) == batch.rung and set(indices) <= set(others)
    ]
    if larger:
        return [min(larger, key=lambda other: len(begun[other]))]
    if batch.rung == 0:
        return []
    rows = {row["trial"]: row["batch"] for row in context.lead(context.records.results)}
    names = sorted({rows[index] for index in indices})
    for gone in (other for other in names if other not in begun):
        lost = [index for index in indices if rows[index] == gone]
        raise UserError(
            f"{context.checkpoints_dir / gone}: is gone, but {batch.name} resumes from it; restore"
            f" the directory, or remove the rows of {planning.name_trials(lost)} from results.csv"
            " to train from the start"
        )
    return names


def _read(name: str, shapes: Any, context: RunContext) -> tuple[int, TrialState, dict[str, Any]]:
    """Returns the newest intact checkpoint of a batch in all processes."""
    state = None

    def read() -> tuple[int, dict[str, Any]]:
        nonlocal state
        restored = context.checkpoints(name).restore(shapes)
        if restored is None:
            raise UserError(f"{context.checkpoints_dir / name}: is gone; restore the directory")
        step, state, extra = restored
        return step, extra

    step, extra = context.lead(read)
    return step, multihost.broadcast(shapes(extra) if state is None else state), extra
