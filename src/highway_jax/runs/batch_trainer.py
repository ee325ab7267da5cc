"""Trains one batch of trials from its last checkpoint, or from the start, to its result rows."""

import math
import time
from typing import Any

import numpy as np
from jax.errors import JaxRuntimeError

from highway_jax.data.dataset import Dataset
from highway_jax.errors import brief
from highway_jax.runs import resume, rows
from highway_jax.runs.context import RunContext
from highway_jax.runtime import multihost
from highway_jax.runtime.progress import format_rate
from highway_jax.runtime.signals import Stopped
from highway_jax.sweep import planning, projection
from highway_jax.sweep.trials import Batch, rung_of
from highway_jax.training import optimizer, train, trial_mesh
from highway_jax.training.program import Program


class TooLarge(MemoryError):
    """The compiler reports that a batch does not fit in memory, before any of it runs."""


class BatchRun:
    """Trains one batch of trials and records its results.

    Attributes:
        has_trained: Whether any step was taken.
    """

    def __init__(self, batch: Batch, dataset: Dataset, context: RunContext):
        self._batch = batch
        self._config = batch.config
        self._context = context
        self._display = context.display
        self._checkpoints = context.checkpoints(batch.name)
        self._program = Program(batch, dataset, context.module)
        self._hyperparameters = batch.hyperparameters()
        self._indices = [trial.index for trial in batch.trials]
        self._total_steps = self._program.steps_per_epoch * batch.epochs
        self._seconds = {"compile": 0.0, "train": 0.0}
        self._recorded = _first_epoch(batch)
        self._saved_in = batch.name
        self._saved_at = time.monotonic()
        self._work_before = 0.0
        self._accuracy = ""
        self.has_trained = False

    def run(self) -> None:
        """Trains, evaluates and records; raises what `experiment.run` lists."""
        self._introduce()
        state, step = self._begin()
        self._work_before = self._context.work_done(self._indices)
        self._show(step, "compiling")
        self._compile()
        self._context.lead(self._context.cache.seal)
        self._context.check_stop(self._batch.name)
        state = self._train(state, step)
        self._context.add_results(self._result_rows(state))

    def _show(self, step: int, status: str) -> None:
        epochs = step / self._program.steps_per_epoch
        done = planning.work((trial.settings for trial in self._batch.trials), epochs)
        self._context.bar.advance(self._work_before + done, f"{self._batch.label}  {status}")

    def _compile(self) -> None:
        """Compiles; raises `TooLarge`, in all processes, if the batch does not fit in any.

        A single trial is attempted whatever memory the compiler estimates.
        """
        reason, memory = "", None
        try:
            self._seconds["compile"] += self._program.compile(self._hyperparameters)
            memory = self._program.memory()
        except JaxRuntimeError as error:
            if not trial_mesh.is_memory(error):
                raise
            reason = brief(str(error), 200)
        if memory is not None and len(self._batch.trials) > 1 and memory[0] > memory[1]:
            needed, present = (size / 2**30 for size in memory)
            reason = f"its program needs {needed:.3g} GiB per device, which has {present:.3g} GiB"
        if multihost.largest(int(bool(reason))):
            raise TooLarge(reason or "it is too large for another process")

    def _introduce(self) -> None:
        batch, program, trials = self._batch, self._program, self._program.trials
        count = len(batch.trials)
        devices = trials.mesh.devices
        rows, length = devices.shape
        shared = f", {length} a trial" if length > 1 else ""
        way = "one after another" if trials.mode == "map" else "at once"
        way = f", {way}{' on each' if length == 1 < rows else ''}" if count > rows else ""
        sizes = (f"{end - first:,} {name}" for name, (first, end) in program.spans.items())
        self._display.say(
            f"{batch.label} on {self._config.data.name}: {count} trial{'s' * (count > 1)} on"
            f" {trial_mesh.describe(devices.flat[0], devices.size)}{shared}{way}\n"
            f"  {program.model.num_parameters:,} parameters; {batch.epochs} epochs of"
            f" {program.steps_per_epoch:,} steps; examples: {', '.join(sizes)}"
        )

    def _begin(self) -> tuple[train.TrialState, int]:
        """Returns the state to start from, restored or new, and its step."""
        batch, context = self._batch, self._context
        restored = resume.restore(batch, self._program, context)
        if restored is not None:
            extra, names = restored.extra, restored.batches
            self._recorded = max(extra["last_epoch_recorded"], self._recorded)
            if names == [batch.name]:
                context.lead(self._checkpoints.tidy)
            if rung_of(names[0]) == batch.rung:
                self._seconds = dict(extra["seconds"])
                # The time of a larger batch was also that of trials which are not in this one.
                self._seconds["train"] *= len(self._indices) / len(extra["trials"])
                self._display.say(f"  resuming from the checkpoint of step {restored.step:,}")
                if restored.step == self._total_steps:
                    self._saved_in = names[0]
        context.lead(lambda: context.records.rewind(self._indices, self._recorded))
        if restored is None:
            return self._program.create(self._hyperparameters), 0
        return self._program.trials.place(restored.state), restored.step

    def _train(self, state: train.TrialState, step: int) -> train.TrialState:
        program, per_epoch = self._program, self._program.steps_per_epoch
        chunk = 1
        while step < self._total_steps:
            num_steps = min(chunk, per_epoch - step % per_epoch)
            began = time.perf_counter()
            state = program.train(state, num_steps)
            seconds = max(time.perf_counter() - began, 1e-9)
            self._seconds["train"] += seconds
            self.has_trained = True
            step += num_steps
            limit = self._config.runtime.chunk_seconds * num_steps / seconds
            chunk = multihost.first(max(1, int(min(limit, 4 * chunk, per_epoch))))
            rate = format_rate(num_steps * len(self._indices) / seconds)
            # The sums are those of the epoch so far, also at its end.
            status = self._status(state, -(-step // per_epoch), rate)
            if step % per_epoch == 0:
                self._end_epoch(state, step // per_epoch)
            self._show(step, status)
            self._maybe_save(state, step)
        return state

    def _status(self, state: train.TrialState, epoch: int, rate: str) -> str:
        """Returns the epoch, its mean training loss, the last accuracy, and the rate."""
        diverged = self._program.trials.fetch(state.diverged)
        loss = self._program.trials.fetch(state.sums).mean_loss
        status = f"epoch {epoch}/{self._batch.epochs}"
        if diverged.all():  # Their steps take no time: a rate would be meaningless.
            return f"{status}  every trial diverged"
        status += f"  loss {np.mean(loss[~diverged]):.3g}{self._accuracy}"
        return f"{status}{f'  {diverged.sum()} diverged' if diverged.any() else ''}  {rate}"

    def _end_epoch(self, state: train.TrialState, epoch: int) -> None:
        """Evaluates and records the epoch if `evaluation.every_epochs` includes it."""
        section, program = self._config.evaluation, self._program
        if epoch % section.every_epochs and epoch < self._batch.epochs:
            return
        weights = train.weights(state)
        curves = {"train": program.trials.fetch(state.sums)}
        if "valid" in program.spans:
            curves["valid"] = program.evaluate(weights, "valid")
        if section.test_curve:
            curves["test"] = program.evaluate(weights, "test")
        diverged = program.trials.fetch(state.diverged)
        step = epoch * program.steps_per_epoch
        rates = program.learning_rates(self._hyperparameters, step - 1)
        lines = rows.epoch_lines(self._batch, epoch, step, rates, curves, diverged)
        self._context.lead(lambda: self._context.records.add_epoch(lines))
        self._recorded = epoch
        # A net of one hidden layer has no blocks.
        every = self._config.runtime.gate_maps_every if program.model.num_blocks else 0
        if every and (epoch % every == 0 or epoch == self._batch.epochs):
            gates = program.gate_means(weights)
            self._context.lead(lambda: self._context.records.add_gates(lines, gates))
        split = "valid" if "valid" in curves else "train"
        if not diverged.all():
            accuracy = np.mean(curves[split].accuracy[~diverged])
            self._accuracy = f"  {split} {100 * accuracy:.2f}%"

    def _maybe_save(self, state: train.TrialState, step: int) -> None:
        """Saves a checkpoint if one is due, and stops if a signal requested it."""
        every = self._config.checkpoint.every_seconds
        due = time.monotonic() - self._saved_at >= every
        if every == 0:
            due = step % self._program.steps_per_epoch == 0
        stop = multihost.largest(self._context.stop.signal)
        if stop or multihost.first(int(due)) or step == self._total_steps:
            extra = {
                "seconds": self._seconds,
                "last_epoch_recorded": self._recorded,
                "trials": self._indices,
                "decays_weights": self._batch.decays_weights,
            }
            host_state = self._program.trials.fetch(state)
            self._context.lead(lambda: self._save(step, host_state, extra))
            self._saved_at = time.monotonic()
        if stop:
            raise Stopped(
                stop,
                f"{self._batch.label}: stopped at step {step:,} of {self._total_steps:,}; the same"
                " command resumes from there",
            )

    def _save(self, step: int, state: train.TrialState, extra: dict[str, Any]) -> None:
        self._checkpoints.save(step, state, extra)
        self._context.records.send()  # Trackers get what a resumed run does not train again.

    def _projected(self) -> list[float]:
        """Returns the projected final loss of each trial; NaN after its last rung."""
        indices = self._indices
        if self._batch.last:
            return [math.nan] * len(indices)
        curves = self._context.records.losses(indices)
        sums = optimizer.summed_rates(
            self._config.optimizer,
            self._program.steps_per_epoch,
            self._hyperparameters,
            self._config.training.epochs,
        )
        return [
            projection.project(curves[index], own, self._batch.epochs)
            for index, own in zip(indices, sums, strict=True)
        ]

    def _result_rows(self, state: train.TrialState) -> list[dict[str, Any]]:
        """Returns the row of each trial; reads the test split only after the last rung."""
        program, weights = self._program, train.weights(state)
        sums = {
            split: program.evaluate(weights, split)
            for split in program.spans
            if split != "test" or self._batch.last
        }
        # The loss may have become infinite or NaN in the last step.
        finite = np.isfinite([split.mean_loss for split in sums.values()]).all(axis=0)
        diverged = program.trials.fetch(state.diverged) | ~finite
        return rows.result_rows(
            self._batch,
            sums,
            program.trials.fetch(state.step),
            diverged,
            self._context.lead(self._projected),
            self._seconds,
            program.steps_per_epoch * _first_epoch(self._batch),
            {"batch": self._saved_in, "num_parameters": program.model.num_parameters},
        )


def _first_epoch(batch: Batch) -> int:
    """Returns the epoch at which the trials' rung begins."""
    whole = batch.config.training.epochs
    rungs = [epochs for epochs in batch.config.sweep.rung_epochs if epochs < whole]
    return rungs[batch.rung - 1] if batch.rung else 0
