"""The saved results of a run as plain tables, read without jax."""

from pathlib import Path
from typing import Any, NamedTuple

from highway_jax import files
from highway_jax.storage import results
from highway_jax.storage.summaries import summarize

Records = list[dict[str, Any]]


class SavedRun(NamedTuple):
    """The saved results of a run; `pandas.DataFrame` takes each of its tables.

    Attributes:
        results: A record for each trial that has ended, as in `results.csv`.
        summary: A record for each setting, with statistics over its trials, as in `summary.csv`.
        metrics: A record for each trial and epoch, as in `metrics.jsonl`, by trial and epoch.
        config: What `config.json` holds, with the defaults of what it lacks.
        environment: What `environment.json` holds: versions, devices, commit.
    """

    results: Records
    summary: Records
    metrics: Records
    config: dict[str, Any]
    environment: dict[str, Any]


def read_run(workdir: str | Path) -> SavedRun:
    """Reads the saved results of a run, finished or not. This needs neither jax nor the data set.

    Args:
        workdir: The run's directory.

    Raises:
        UserError: If there is no run, or its files cannot be read.

    Example:
        >>> import highway_jax
        >>> run = highway_jax.read_run("experiments/results/mnist/highway")
        >>> [round(trial["test_accuracy"], 4) for trial in run.results]
        [0.9754, 0.9765, 0.9764, 0.9745, 0.9745]
    """
    found = results.read(files.expand("workdir", workdir))
    metrics = [line for trial in sorted(found.curves) for line in found.curves[trial]]
    return SavedRun(found.rows, summarize(found.rows), metrics, found.config, found.environment)
