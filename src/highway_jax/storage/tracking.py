"""Optional services that track the trials of a run: Weights & Biases and MLflow.

A tracker gets each point once, after the checkpoint from which training resumes: no point is sent
again when a run resumes. Each trial is a run of the service, which a resumed run finds again.
"""

import logging
import uuid
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from highway_jax import files
from highway_jax.errors import UserError, brief, require, show
from highway_jax.sweep import outcomes

Row = dict[str, Any]

_TAG = "highway_jax_trial"  # Tag of MLflow by which a resumed run finds its trials.


class Trackers:
    """The trackers that a config asks for. One that fails is reported and not used again."""

    def __init__(self, config: ConfigDict, directory: Path, writes: bool):
        """Initializes the trackers without connecting to them.

        Args:
            config: The config of the run.
            directory: The working directory.
            writes: Whether there are any, as the config says.

        Raises:
            UserError: If the package of a service is not installed.
        """
        kinds: dict[str, type] = {"wandb": _WeightsAndBiases, "mlflow": _Mlflow}
        # Each has `open`, which connects before anything is trained, `add_scalars` and
        # `add_settings`, as those of `Events`, and `close`, which delivers everything.
        self._used: dict[str, Any] = {}
        for name, kind in kinds.items():
            if writes and config.record[name]:
                require(name, f"config.record.{name}", name)
                self._used[name] = kind(config, Path(directory))
        self._config = config

    def open(self) -> None:
        """Connects to the services.

        Raises:
            UserError: If that fails.
        """
        for name, tracker in self._used.items():
            try:
                tracker.open()
            except Exception as error:  # Each library has its own.
                raise UserError(
                    f"config.record.{name} is {show(self._config.record[name])}; allowed: what"
                    f" {name} can write to ({brief(str(error), 200)})"
                ) from error

    def call(self, method: str, *arguments: Any) -> None:
        """Calls a method of each tracker. Training does not depend on whether it succeeds."""
        for name, tracker in list(self._used.items()):
            try:
                getattr(tracker, method)(*arguments)
            except Exception as error:  # Each library has its own, and those of the network.
                logging.warning(
                    "config.record.%s: %s; nothing more is sent there until the run is started"
                    " again; metrics.jsonl has all points",
                    name,
                    brief(str(error) or type(error).__name__, 200),
                )
                del self._used[name]


def _identity(directory: Path) -> str:
    """Returns a name of the run that no other run has; it is saved in the directory."""
    path = directory / "tracking_id"
    if not path.exists():
        files.write_atomically(path, uuid.uuid4().hex[:12])
    return path.read_text("utf-8").strip()


def _name(trial: Row) -> str:
    return f"{trial['case']}-{trial['trial']}"


class _WeightsAndBiases:
    """Writes to the project `config.record.wandb`, with a run for each trial."""

    def __init__(self, config: ConfigDict, directory: Path):
        self._project, self._group = config.record.wandb, config.name
        self._directory = directory
        self._runs: dict[int, Any] = {}

    def open(self) -> None:
        import wandb  # pyright: ignore[reportMissingImports]

        wandb.login()  # Needs no key where WANDB_MODE is offline.

    def add_scalars(self, trial: Row, values: dict[str, float]) -> None:
        self._run(trial).log(values, step=trial["step"])

    def add_settings(self, row: Row, settings: Row, measured: dict[str, float]) -> None:
        self._run(row).config.update(settings, allow_val_change=True)
        self._run(row).summary.update(measured)

    def close(self) -> None:
        while self._runs:
            self._runs.popitem()[1].finish()

    def _run(self, trial: Row) -> Any:
        import wandb  # pyright: ignore[reportMissingImports]

        if trial["trial"] not in self._runs:
            self._runs[trial["trial"]] = wandb.init(
                project=self._project,
                group=self._group,
                name=_name(trial),
                id=f"{_identity(self._directory)}-{trial['trial']}",
                resume="allow",
                reinit="create_new",
                dir=self._directory,
                settings=wandb.Settings(silent=True, console="off"),
            )
        return self._runs[trial["trial"]]


class _Mlflow:
    """Writes to the store `config.record.mlflow`, with an experiment for the run."""

    def __init__(self, config: ConfigDict, directory: Path):
        self._store, self._name = config.record.mlflow, config.name
        self._directory = directory
        self._client: Any = None
        self._experiment = ""
        self._runs: dict[int, str] = {}

    def open(self) -> None:
        from mlflow import MlflowClient  # pyright: ignore[reportMissingImports]

        self._client = MlflowClient(tracking_uri=self._store)
        found = self._client.get_experiment_by_name(self._name)
        self._experiment = (
            found.experiment_id if found else self._client.create_experiment(self._name)
        )

    def add_scalars(self, trial: Row, values: dict[str, float]) -> None:
        run = self._run(trial)
        for tag, value in values.items():
            self._client.log_metric(run, tag, value, step=trial["step"])

    def add_settings(self, row: Row, settings: Row, measured: dict[str, float]) -> None:
        run = self._run(row)
        for tag, value in measured.items():
            self._client.log_metric(run, tag, value, step=row["steps"])
        known = self._client.get_run(run).data.params
        for name, value in settings.items():
            # A parameter of MLflow cannot change, as the status and the epochs may.
            is_new = name != "status" and name not in known
            (self._client.log_param if is_new else self._client.set_tag)(run, name, value)
        ended = row["status"] in (outcomes.DIVERGED, outcomes.FAILED)
        self._client.set_terminated(run, "FAILED" if ended else "FINISHED")

    def close(self) -> None:
        self._runs.clear()

    def _run(self, trial: Row) -> str:
        if trial["trial"] not in self._runs:
            identity = f"{_identity(self._directory)}-{trial['trial']}"
            found = self._client.search_runs([self._experiment], f"tags.{_TAG} = '{identity}'")
            run = (
                found[0]
                if found
                else self._client.create_run(
                    self._experiment, tags={_TAG: identity}, run_name=_name(trial)
                )
            )
            self._runs[trial["trial"]] = run.info.run_id
        return self._runs[trial["trial"]]
