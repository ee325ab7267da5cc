"""One batch of trials, from wherever it stands to its rows of results.csv."""

import math
import time
from typing import Any

import jax
import numpy as np
from jax.errors import JaxRuntimeError

from highway_jax.data.dataset import Dataset
from highway_jax.errors import UserError, brief
from highway_jax.runs.context import RunContext, is_extra
from highway_jax.runtime import multihost
from highway_jax.runtime.progress import Bar, format_rate
from highway_jax.runtime.signals import Stopped
from highway_jax.storage.checkpoint import Checkpoints
from highway_jax.storage.tables import SETTINGS
from highway_jax.sweep import planning, projection
from highway_jax.sweep.trials import Batch, Trial, rung_of
from highway_jax.training import metrics, optimizer, train
from highway_jax.training.program import SPLITS, Program
from highway_jax.training.trial_mesh import is_memory


class TooLarge(MemoryError):
    """The compiler says that a batch will not fit, before anything of it runs."""


class BatchRun:
    """Trains one batch of trials from wherever it stands to its result rows."""

    def __init__(self, batch: Batch, dataset: Dataset, context: RunContext):
        self._batch = batch
        self._config = batch.config
        self._context = context
        self._display = context.display
        self._checkpoints = context.checkpoints(batch.name)
        self._program = Program(batch, dataset)
        self._numbers = batch.hyperparameters()
        self._total_steps = self._program.steps_per_epoch * batch.epochs
        self._seconds = {"compile": 0.0, "train": 0.0}
        self._recorded = _first_epoch(batch)
        self._saved_in = batch.name
        self._saved_at = time.monotonic()
        self.has_trained = False
        self._any_alive = True

    def run(self) -> None:
        """Trains, evaluates and records; see `experiment.run` for what it raises."""
        self._introduce()
        state, step = self._begin()
        with self._display.batch(self._batch.name, self._total_steps, step) as bar:
            self._compile()
            self._context.lead(self._context.cache.seal)
            self._context.check_stop(self._batch.name)
            state = self._train(state, step, bar)
        self._context.add_results(self._result_rows(state))

    def _compile(self) -> None:
        """Compiles; raises `TooLarge`, in all processes, if the batch will not fit in any.

        One trial is tried whatever the compiler's count says, unless it refuses.
        """
        reason, memory = "", None
        try:
            self._seconds["compile"] += self._program.compile(self._numbers)
            memory = self._program.memory()
        except JaxRuntimeError as error:
            if not is_memory(error):
                raise
            reason = brief(str(error), 200)
        if memory is not None and len(self._batch.trials) > 1 and memory[0] > memory[1]:
            needed, present = (size / 2**30 for size in memory)
            reason = f"its program needs {needed:.3g} GiB a device, of {present:.3g}"
        if multihost.largest(int(bool(reason))):
            raise TooLarge(reason or "it is too large for another process")

    def _introduce(self) -> None:
        model, program, batch = self._config.model, self._program, self._batch
        spans = {name: int(end - first) for name, (first, end) in program.spans.items()}
        devices = program.trials.mesh.devices
        kind = devices.flat[0].device_kind
        self._display.say(
            f"{batch.name}: {len(batch.trials)} {model.block} net{'s' * (len(batch.trials) > 1)},"
            f" {program.model.num_parameters:,} parameters each\n"
            f"  {model.depth} layers of {model.width} ({model.activation}); to epoch"
            f" {batch.epochs}, {program.steps_per_epoch} steps each\n"
            f"  {self._config.data.name}: {', '.join(f'{n:,} {s}' for s, n in spans.items())}\n"
            f"  {devices.size} device{'s' * (devices.size > 1)} ({kind}), its trials"
            f" {'in turn' if program.trials.mode == 'map' else 'at once'}"
        )

    def _begin(self) -> tuple[train.TrialState, int]:
        """Returns the state to go on from and its step: a checkpoint, the rung before, or new."""
        batch, context = self._batch, self._context
        indices = [trial.index for trial in batch.trials]
        state, step = None, 0
        if sources := self._sources(indices):
            step, state, extra = self._gather(sources, indices)
            self._recorded = max(extra["last_epoch_recorded"], self._recorded)
            if sources == [batch.name]:
                context.lead(self._checkpoints.tidy)
            if rung_of(sources[0]) == batch.rung:
                self._seconds = dict(extra["seconds"])
                self._display.say(f"  going on from the checkpoint of step {step:,}")
                if step == self._total_steps:
                    self._saved_in = sources[0]
        context.lead(lambda: context.records.rewind(indices, self._recorded))
        if state is None:
            return self._program.create(self._numbers), step
        return self._program.trials.place(state), step

    def _sources(self, indices: list[int]) -> list[str]:
        """Returns the batches with checkpoints to go on from: this one, a larger, or those before.

        A larger batch is one that memory made halves of.
        """
        rung, name, begun = self._batch.rung, self._batch.name, self._context.begun()
        if name in begun:
            return [name]
        larger = [
            other
            for other, others in begun.items()
            if rung_of(other) == rung and set(indices) <= set(others)
        ]
        if larger:
            return [min(larger, key=lambda other: len(begun[other]))]
        if rung == 0:
            return []
        rows = {
            row["trial"]: row["batch"] for row in self._context.lead(self._context.records.results)
        }
        names = sorted({rows[index] for index in indices})
        for gone in (other for other in names if other not in begun):
            lost = [index for index in indices if rows[index] == gone]
            raise UserError(
                f"{self._context.checkpoints_dir / gone} is gone, from which {name} resumes;"
                f" restore it, or remove the rows of {planning.name_trials(lost)} from results.csv"
                " to train from the start"
            )
        return names

    def _gather(self, names: list[str], indices: list[int]) -> tuple[int, train.TrialState, dict]:
        """Returns step, state and extra data of trials from the newest checkpoints of batches."""
        parts, steps = {}, set()
        for name in names:
            step, state, extra = self._restore(self._context.checkpoints(name))
            steps.add(step)
            for place, index in enumerate(extra["trials"]):
                parts[index] = jax.tree.map(lambda leaf, place=place: leaf[place], state)
        if not parts.keys() >= set(indices) or len(steps) > 1:
            raise UserError(
                f"{self._context.checkpoints_dir} holds other trials or steps than"
                f" {self._batch.name} goes on from; restore it, or use another --workdir"
            )
        chosen = [parts[index] for index in indices]
        state = jax.tree.map(lambda *leaves: np.stack(leaves), *chosen)
        pairs = zip(state.numbers, self._numbers, strict=True)
        other = np.any([found != expected for found, expected in pairs], axis=0)
        if other.any():
            wrong = planning.name_trials([int(index) for index in np.asarray(indices)[other]])
            raise UserError(
                f"{self._context.checkpoints_dir / names[0]} holds other settings of {wrong} than"
                f" {self._batch.name} trains; remove it to train from the start, or use another"
                " --workdir"
            )
        return steps.pop(), state, extra

    def _restore(self, checkpoints: Checkpoints) -> tuple[int, train.TrialState, dict]:
        """Returns the newest intact checkpoint in all processes."""
        state = None

        def read():
            nonlocal state
            step, state, extra = checkpoints.restore(self._shapes)
            return step, extra

        step, extra = self._context.lead(read)
        return step, multihost.broadcast(state if state is not None else self._shapes(extra)), extra

    def _shapes(self, extra: dict[str, Any]) -> train.TrialState:
        if not is_extra(extra):
            raise ValueError("its manifest does not say seconds, epoch and trials")
        return self._program.shapes(self._numbers, len(extra["trials"]))

    def _train(self, state: train.TrialState, step: int, bar: Bar) -> train.TrialState:
        program, per_epoch = self._program, self._program.steps_per_epoch
        chunk, status = 1, ""
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
            if step % per_epoch == 0:
                status = self._end_epoch(state, step // per_epoch) or status
            # Frozen trials take their steps in no time: a rate would say nothing.
            rate = format_rate(num_steps * len(self._numbers.seed) / seconds)
            bar.advance(step, f"{status}  {rate}" if self._any_alive else status)
            self._maybe_save(state, step)
        return state

    def _end_epoch(self, state: train.TrialState, epoch: int) -> str:
        """Records the epoch if its turn has come; returns how training stands, in words."""
        section = self._config.evaluation
        if epoch % section.every_epochs and epoch < self._batch.epochs:
            return ""
        curves = {"train": self._program.trials.fetch(state.sums)}
        if "valid" in self._program.spans:
            curves["valid"] = self._program.evaluate(state.params, "valid")
        if section.test_curve:
            curves["test"] = self._program.evaluate(state.params, "test")
        diverged = self._program.trials.fetch(state.diverged)
        lines = self._epoch_lines(epoch, curves, diverged)
        self._context.lead(lambda: self._context.records.add_epoch(lines))
        self._recorded = epoch
        # A net of one hidden layer has no blocks to show.
        every = self._config.runtime.gate_maps_every if self._program.model.num_blocks else 0
        if every and (epoch % every == 0 or epoch == self._batch.epochs):
            gates = self._program.gate_means(state.params)
            self._context.lead(lambda: self._context.records.add_gates(lines, gates))
        alive = ~diverged
        self._any_alive = bool(alive.any())
        if not self._any_alive:
            return f"epoch {epoch}  every trial diverged"
        split = "valid" if "valid" in curves else "train"
        status = (
            f"epoch {epoch}  loss {np.mean(curves['train'].mean_loss[alive]):.3g}"
            f"  {split} {100 * np.mean(curves[split].accuracy[alive]):.2f}%"
        )
        return status + (f"  {diverged.sum()} diverged" if diverged.any() else "")

    def _epoch_lines(
        self, epoch: int, curves: dict[str, metrics.Sums], diverged: np.ndarray
    ) -> list[dict[str, Any]]:
        step = epoch * self._program.steps_per_epoch
        rates = self._program.learning_rates(self._numbers, step - 1)
        lines = []
        for i, trial in enumerate(self._batch.trials):
            line = {
                "batch": self._batch.name,
                "trial": trial.index,
                "case": trial.case,
                "seed": trial.seed,
                "epoch": epoch,
                "step": step,
                "learning_rate": float(rates[i]),
                "diverged": bool(diverged[i]),
            }
            for split, sums in curves.items():
                line |= _measures(split, None if diverged[i] else sums, i)
            lines.append(line)
        return lines

    def _maybe_save(self, state: train.TrialState, step: int) -> None:
        """Saves a checkpoint if one is due, and stops if a signal asked to."""
        every = self._config.checkpoint.every_seconds
        due = time.monotonic() - self._saved_at >= every
        if every == 0:
            due = step % self._program.steps_per_epoch == 0
        stop = multihost.largest(self._context.stop.signal)
        if stop or multihost.first(int(due)) or step == self._total_steps:
            extra = {
                "seconds": self._seconds,
                "last_epoch_recorded": self._recorded,
                "trials": [trial.index for trial in self._batch.trials],
            }
            host_state = self._program.trials.fetch(state)
            self._context.lead(lambda: self._checkpoints.save(step, host_state, extra))
            self._saved_at = time.monotonic()
        if stop:
            raise Stopped(
                stop,
                f"{self._batch.name}: stopped at step {step:,} of {self._total_steps:,};"
                " the same command goes on from there",
            )

    def _projected(self) -> list[float]:
        """Returns the loss that each trial is projected to end with; NaN after its last rung."""
        indices = [trial.index for trial in self._batch.trials]
        if self._batch.last:
            return [math.nan] * len(indices)
        curves = self._context.records.losses(indices)
        sums = optimizer.summed_rates(
            self._config.optimizer,
            self._program.steps_per_epoch,
            self._numbers,
            self._config.training.epochs,
        )
        return [
            projection.project(curves[index], own, self._batch.epochs)
            for index, own in zip(indices, sums, strict=True)
        ]

    def _result_rows(self, state: train.TrialState) -> list[dict[str, Any]]:
        """Returns a row of results.csv for each trial; the test split is read for its last."""
        program = self._program
        sums = {
            split: program.evaluate(state.params, split)
            for split in program.spans
            if split != "test" or self._batch.last
        }
        # The last step may have made a net whose loss is not finite.
        finite = np.isfinite([split.mean_loss for split in sums.values()]).all(axis=0)
        diverged = program.trials.fetch(state.diverged) | ~finite
        steps = program.trials.fetch(state.step)
        status = planning.FINISHED if self._batch.last else planning.WAITING
        projected = self._context.lead(self._projected)
        rows = []
        for i, trial in enumerate(self._batch.trials):
            row = _describe(trial, self._batch) | {
                "batch": self._saved_in,
                "status": planning.DIVERGED if diverged[i] else status,
                "steps": int(steps[i]),
                "num_parameters": program.model.num_parameters,
                "projected_train_loss": math.nan if diverged[i] else projected[i],
                "diverged": bool(diverged[i]),
                "compile_seconds": round(self._seconds["compile"], 3),
                "train_seconds": round(self._seconds["train"], 3),
                "steps_per_second": round(
                    float(steps.sum()) / max(self._seconds["train"], 1e-9), 1
                ),
            }
            for split in SPLITS:
                row |= _measures(split, None if diverged[i] else sums.get(split), i)
            rows.append(row)
        return rows


def _describe(trial: Trial, batch: Batch) -> dict[str, Any]:
    """Returns what results.csv says of a trial before anything is measured."""
    return (
        trial.settings
        | {name: trial.settings[key] for name, key in SETTINGS.items()}
        | trial.numbers
        | {
            "batch": batch.name,
            "trial": trial.index,
            "case": trial.case,
            "seed": trial.seed,
            "rung": batch.rung,
            "epochs": batch.epochs,
        }
    )


def failed_rows(batch: Batch) -> list[dict[str, Any]]:
    """Returns the rows of trials of which nothing could be measured."""
    nothing = {"status": planning.FAILED, "steps": 0, "num_parameters": 0, "diverged": False}
    nothing |= dict.fromkeys(
        ("projected_train_loss", "compile_seconds", "train_seconds", "steps_per_second"), math.nan
    )
    for split in SPLITS:
        nothing |= _measures(split, None, 0)
    return [_describe(trial, batch) | nothing for trial in batch.trials]


def _measures(split: str, sums: metrics.Sums | None, trial: int) -> dict[str, float]:
    if sums is None:
        return {f"{split}_loss": math.nan, f"{split}_accuracy": math.nan}
    return {
        f"{split}_loss": float(sums.mean_loss[trial]),
        f"{split}_accuracy": float(sums.accuracy[trial]),
    }


def _first_epoch(batch: Batch) -> int:
    """Returns the epoch at which the trials' rung begins."""
    whole = batch.config.training.epochs
    rungs = [epochs for epochs in batch.config.sweep.rung_epochs if epochs < whole]
    return rungs[batch.rung - 1] if batch.rung else 0
