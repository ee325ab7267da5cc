"""Running an experiment: the one place that puts all the other rooms together."""

import math
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils
from ml_collections import ConfigDict

from highway_jax import config as config_lib
from highway_jax import data as data_lib
from highway_jax import evaluate, models, optimizer, parallel, preprocess, train, trials
from highway_jax.checkpoint import Checkpoints
from highway_jax.progress import Bar, Display
from highway_jax.records import Records, summarize
from highway_jax.signals import Stopped, StopRequest
from highway_jax.workdir import Workdir

SPLITS = ("train", "valid", "test")


def run(
    config: ConfigDict, workdir: str | Path, *, display: Display | None = None
) -> list[dict[str, Any]]:
    """Trains every case of a config with every seed, or goes on where an earlier run stopped.

    Args:
        config: A config from `default_config`, changed as the experiment needs.
        workdir: Directory of the run's records and checkpoints; made if need be.
        display: Where progress is shown; None follows `config.runtime.progress`.

    Returns:
        The rows of summary.csv, one a setting.

    Raises:
        UserError: If the config, the data or the directory are not fit to run.
        Stopped: If a signal asked to stop; the same call goes on from the checkpoint.
    """
    config_lib.validate(config)
    parallel.use_cores(config.runtime.devices)
    display = display or Display(enabled=config.runtime.progress)
    plan = trials.plan(config)
    datasets = {batch.config.data.to_json(): batch.config.data for batch in plan}
    datasets = {key: _load(section) for key, section in datasets.items()}
    for batch in plan:
        dataset = datasets[batch.config.data.to_json()]
        config_lib.steps_per_epoch(batch.config, dataset.train.size)
    directory = Workdir(workdir)
    with directory.locked(), StopRequest().listening() as stop:
        directory.claim(config, "-".join(d.fingerprint for d in datasets.values()))
        records = Records(directory.path, tensorboard=config.runtime.tensorboard)
        try:
            finished = {row["trial"] for row in records.results()}
            for batch in plan:
                if not finished.issuperset(trial.index for trial in batch.trials):
                    dataset = datasets[batch.config.data.to_json()]
                    BatchRun(batch, dataset, directory.path, records, display, stop).run()
                else:
                    display.say(f"{batch.name}: finished before, nothing to train")
            return summarize(records.results())
        finally:
            records.close()


def _load(section: ConfigDict) -> data_lib.Dataset:
    return data_lib.load(
        section.name,
        valid_size=section.valid_size,
        split_seed=section.split_seed,
        data_dir=section.dir,
        cache_dir=section.cache_dir,
        download=section.download,
    )


class Program:
    """The compiled functions of one batch of trials, and the data on its devices."""

    def __init__(self, batch: trials.Batch, dataset: data_lib.Dataset):
        """Builds the functions; nothing is compiled before `compile`."""
        config = batch.config
        self.config = config
        self.model = models.build(config.model, dataset.image_shape, dataset.num_classes)
        splits = [getattr(dataset, name) for name in SPLITS]
        ends = np.cumsum([0, *(split.size for split in splits)])
        self.spans = {
            name: np.asarray(span, np.int32)
            for name, *span in zip(SPLITS, ends, ends[1:], strict=False)
            if span[0] < span[1]
        }
        self.steps_per_epoch = config_lib.steps_per_epoch(config, dataset.train.size)
        decays_weights = any(trial.numbers["weight_decay"] for trial in batch.trials)
        task = train.Task(
            init=self.model.init,
            apply=self.model.apply,
            preprocess=preprocess.fit(config.data, dataset.train.images, dataset.max_value),
            optimizer=lambda numbers: optimizer.build(
                config.optimizer, self.steps_per_epoch, numbers, decays_weights=decays_weights
            ),
            num_train=dataset.train.size,
            batch_size=config.training.batch_size,
        )
        runtime = config.runtime
        self.trials = parallel.Trials(len(batch.trials), runtime.devices, runtime.trial_axis)
        self.data = self.trials.share(
            train.DeviceData(
                np.concatenate([split.images for split in splits]),
                np.concatenate([split.labels for split in splits]),
            )
        )
        self._create = self.trials.compile(lambda numbers: train.create(task, numbers))
        self._train = self.trials.compile(
            lambda state, data, num_steps: train.train_steps(task, state, data, num_steps),
            donate=True,
        )
        self._evaluate = self.trials.compile(
            lambda params, data, span: evaluate.evaluate(
                task, params, data, span, config.evaluation.batch_size
            )
        )

    def compile(self, state: train.TrialState) -> float:
        """Compiles training and evaluation for a state's shapes; returns the seconds it took."""
        began = time.perf_counter()
        self._train = self._train.lower(state, self.data, self._steps(1)).compile()
        span = self.trials.share(self.spans["train"])
        self._evaluate = self._evaluate.lower(state.params, self.data, span).compile()
        return time.perf_counter() - began

    def create(self, numbers: optimizer.Hyperparameters) -> train.TrialState:
        """Returns the state of all trials before their first step, on the devices."""
        return self._create(self.trials.place(numbers))

    def train(self, state: train.TrialState, num_steps: int) -> train.TrialState:
        """Takes steps within an epoch; the state given is used up."""
        return jax.block_until_ready(self._train(state, self.data, self._steps(num_steps)))

    def evaluate(self, params: Any, split: str) -> Any:
        """Returns the `metrics.Sums` of all trials over a split, on the host."""
        sums = self._evaluate(params, self.data, self.trials.share(self.spans[split]))
        return self.trials.fetch(sums)

    def _steps(self, num_steps: int) -> jax.Array:
        return self.trials.share(np.int32(num_steps))


class BatchRun:
    """Trains one batch of trials from wherever it stands to its result rows."""

    def __init__(
        self,
        batch: trials.Batch,
        dataset: data_lib.Dataset,
        directory: Path,
        records: Records,
        display: Display,
        stop: StopRequest,
    ):
        self._batch = batch
        self._config = batch.config
        self._records = records
        self._display = display
        self._stop = stop
        self._checkpoints = Checkpoints(
            directory / "checkpoints" / batch.name, batch.config.checkpoint.keep
        )
        self._program = Program(batch, dataset)
        self._numbers = batch.hyperparameters()
        self._total_steps = self._program.steps_per_epoch * batch.config.training.epochs
        self._seconds = {"compile": 0.0, "train": 0.0}
        self._recorded = 0
        self._saved_at = time.monotonic()

    def run(self) -> None:
        """Trains, evaluates and records; see `experiment.run` for what it raises."""
        self._introduce()
        state, step = self._begin()
        with self._display.batch(self._batch.name, self._total_steps, step) as bar:
            self._seconds["compile"] += self._program.compile(state)
            state = self._train(state, step, bar)
        self._records.add_results(self._result_rows(state))

    def _introduce(self) -> None:
        model, program = self._config.model, self._program
        spans = {name: int(end - first) for name, (first, end) in program.spans.items()}
        mesh = program.trials.mesh.devices
        self._display.say(
            f"{self._batch.name}: {len(self._batch.trials)} trials of {model.block} nets,"
            f" {model.depth} layers of {model.width} ({model.activation}),"
            f" {program.model.num_parameters:,} parameters each\n"
            f"  {self._config.data.name}: {', '.join(f'{n:,} {s}' for s, n in spans.items())};"
            f" {self._config.training.epochs} epochs of {program.steps_per_epoch} steps\n"
            f"  on {mesh.size} {mesh.flat[0].platform} device{'s' * (mesh.size > 1)}"
            f" ({mesh.flat[0].device_kind}), trials of a device:"
            f" {'in turn' if program.trials.mode == 'map' else 'at once'}"
        )

    def _begin(self) -> tuple[train.TrialState, int]:
        fresh = self._program.create(self._numbers)
        shapes = jax.tree.map(
            lambda leaf: np.zeros((len(self._batch.trials), *leaf.shape[1:]), leaf.dtype), fresh
        )
        restored = self._checkpoints.restore(shapes)
        if restored is None:
            self._records.rewind(self._batch.name, 0)
            return fresh, 0
        step, state, extra = restored
        self._seconds, self._recorded = extra["seconds"], extra["last_epoch_recorded"]
        self._records.rewind(self._batch.name, self._recorded)
        self._display.say(f"  going on from the checkpoint of step {step:,}")
        return self._program.trials.place(state), step

    def _train(self, state: train.TrialState, step: int, bar: Bar) -> train.TrialState:
        program, per_epoch = self._program, self._program.steps_per_epoch
        chunk, status = 8, ""
        while step < self._total_steps:
            num_steps = min(chunk, per_epoch - step % per_epoch)
            began = time.perf_counter()
            state = program.train(state, num_steps)
            seconds = time.perf_counter() - began
            self._seconds["train"] += seconds
            step += num_steps
            limit = self._config.runtime.chunk_seconds * num_steps / max(seconds, 1e-9)
            chunk = _agree(max(1, int(min(limit, 4 * chunk))))
            rate = num_steps * len(self._batch.trials) / max(seconds, 1e-9)
            if step % per_epoch == 0:
                status = self._end_epoch(state, step // per_epoch)
            bar.advance(step, f"{status}  {rate:,.0f} steps/s")
            self._maybe_save(state, step)
        return state

    def _end_epoch(self, state: train.TrialState, epoch: int) -> str:
        config = self._config
        if epoch % config.evaluation.every_epochs and epoch < config.training.epochs:
            return ""
        curves = {"train": self._program.trials.fetch(state.sums)}
        if "valid" in self._program.spans:
            curves["valid"] = self._program.evaluate(state.params, "valid")
        if config.evaluation.test_curve:
            curves["test"] = self._program.evaluate(state.params, "test")
        diverged = self._program.trials.fetch(state.diverged)
        self._records.add_epoch(self._epoch_lines(epoch, curves, diverged))
        self._recorded = epoch
        alive = ~diverged
        if not alive.any():
            return f"epoch {epoch}  every trial diverged"
        shown = curves.get("valid", curves["train"])
        split = "valid" if "valid" in curves else "train"
        status = (
            f"epoch {epoch}  loss {np.mean(curves['train'].mean_loss[alive]):.3g}"
            f"  {split} {100 * np.mean(shown.accuracy[alive]):.2f}%"
        )
        return status + (f"  {diverged.sum()} diverged" if diverged.any() else "")

    def _epoch_lines(self, epoch: int, curves: dict, diverged: np.ndarray) -> list[dict]:
        per_epoch = self._program.steps_per_epoch
        last_step = jnp.int32(epoch * per_epoch - 1)
        rates = jax.vmap(
            lambda n: optimizer.learning_rate(self._config.optimizer, per_epoch, n, last_step)
        )(self._numbers)
        lines = []
        for i, trial in enumerate(self._batch.trials):
            line = {
                "batch": self._batch.name,
                "trial": trial.index,
                "case": trial.case,
                "seed": trial.seed,
                "epoch": epoch,
                "step": epoch * per_epoch,
                "learning_rate": float(rates[i]),
                "diverged": bool(diverged[i]),
            }
            for split, sums in curves.items():
                line |= _measures(split, sums, i, bool(diverged[i]))
            lines.append(line)
        return lines

    def _maybe_save(self, state: train.TrialState, step: int) -> None:
        every = self._config.checkpoint.every_seconds
        due = time.monotonic() - self._saved_at >= every
        if every == 0:
            due = step % self._program.steps_per_epoch == 0
        stop = _agree(self._stop.signal)
        if stop or _agree(int(due)) or step == self._total_steps:
            host_state = self._program.trials.fetch(state)
            extra = {"seconds": self._seconds, "last_epoch_recorded": self._recorded}
            self._checkpoints.save(step, host_state, extra)
            self._saved_at = time.monotonic()
        if stop:
            raise Stopped(
                stop,
                f"{self._batch.name}: stopped at step {step:,} of {self._total_steps:,};"
                " the same command goes on from there",
            )

    def _result_rows(self, state: train.TrialState) -> list[dict[str, Any]]:
        sums = {split: self._program.evaluate(state.params, split) for split in self._program.spans}
        diverged = self._program.trials.fetch(state.diverged)
        steps = self._program.trials.fetch(state.step)
        config, flat = self._config, config_lib.flatten(self._config)
        rows = []
        for i, trial in enumerate(self._batch.trials):
            row = {key.rpartition(".")[2]: value for key, value in flat.items()}
            row |= trial.numbers | {
                "batch": self._batch.name,
                "trial": trial.index,
                "case": trial.case,
                "dataset": config.data.name,
                "seed": trial.seed,
                "steps": int(steps[i]),
                "num_parameters": self._program.model.num_parameters,
                "batch_size": config.training.batch_size,
                "diverged": bool(diverged[i]),
                "compile_seconds": round(self._seconds["compile"], 3),
                "train_seconds": round(self._seconds["train"], 3),
                "steps_per_second": round(
                    float(steps.sum()) / max(self._seconds["train"], 1e-9), 1
                ),
            }
            for split in SPLITS:
                row |= _measures(split, sums.get(split), i, bool(diverged[i]))
            rows.append(row)
        return rows


def _measures(split: str, sums: Any, trial: int, diverged: bool) -> dict[str, float]:
    if sums is None or diverged:
        return {f"{split}_loss": math.nan, f"{split}_accuracy": math.nan}
    return {
        f"{split}_loss": float(sums.mean_loss[trial]),
        f"{split}_accuracy": float(sums.accuracy[trial]),
    }


def _agree(value: int) -> int:
    """Returns the first process's value, so that all hosts run the same stretch."""
    if jax.process_count() == 1:
        return value
    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))
