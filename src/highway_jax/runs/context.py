"""State shared by the batches of a run: directory, records, checkpoints, planning."""

import logging
import shutil
from collections.abc import Callable, Collection
from typing import Any

from ml_collections import ConfigDict

from highway_jax import files
from highway_jax.errors import UserError
from highway_jax.runtime import multihost
from highway_jax.runtime.compile_cache import CompileCache
from highway_jax.runtime.progress import Bar, Display
from highway_jax.runtime.signals import Stopped, StopRequest
from highway_jax.storage.checkpoint import Checkpoints
from highway_jax.storage.records import Records
from highway_jax.storage.workdir import Workdir
from highway_jax.sweep import design, outcomes, planning
from highway_jax.sweep.trials import Batch, rung_of


class RunContext:
    """State shared by all batches of a run.

    Attributes:
        bar: The progress of the run.
    """

    def __init__(
        self,
        config: ConfigDict,
        numbering: design.Numbering,
        directory: Workdir,
        display: Display,
        stop: StopRequest,
        cache: CompileCache,
        module: Any = None,
    ):
        """Initializes the context without reading or writing files.

        Args:
            config: The run's config.
            numbering: How it numbers its trials.
            directory: Its directory.
            display: Displays progress.
            stop: Whether a signal requested a stop.
            cache: The cache of compiled programs.
            module: The linen module to train instead of the nets that the config describes.
        """
        self.config = config
        self.numbering = numbering
        self.cells = design.cells(config, numbering)
        self.directory = directory
        self.checkpoints_dir = directory.path / "checkpoints"
        self.records = Records(directory.path, config, self.cells)
        self.display = display
        self.bar = Bar()
        self.stop = stop
        self.cache = cache
        self.module = module
        self._warned: set[str] = set()

    def lead(self, function: Callable[[], Any]) -> Any:
        """Calls a function that reads or writes the directory, in the first process.

        Returns:
            The result, in all processes.

        Raises:
            UserError: If reading or writing failed, or the directory was removed or replaced.
        """

        def guarded():
            with files.explained(self.directory.path):
                self.directory.check_held()
                try:
                    return function()
                except OSError:
                    self.directory.check_held()  # A removed directory is the cause to report.
                    raise

        return multihost.lead(guarded)

    def plan(self) -> list[Batch]:
        """Returns the batches to train; a batch that has checkpoints keeps its trials."""
        rows, begun = self.lead(lambda: (self.records.results(), self._begun()))
        for line in planning.outdated(self.config, rows, self.cells):
            if line not in self._warned and multihost.is_first():
                logging.warning(line)
            self._warned.add(line)
        batches = planning.plan(self.config, rows, begun, self.cells)
        known = {row["batch"] for row in rows} | {batch.name for batch in batches}
        if lost := [name for name, indices in begun.items() if not indices and name not in known]:
            raise UserError(
                f"{self.checkpoints_dir / lost[0]}: every checkpoint is damaged; restore a copy of"
                " the directory, or remove it to train from the start"
            )
        return batches

    def begun(self) -> dict[str, list[int]]:
        """Returns the trials of each batch that has checkpoints, by batch name; () if damaged."""
        return self.lead(self._begun)

    def _begun(self) -> dict[str, list[int]]:
        found = {}
        for path in sorted(self.checkpoints_dir.glob("*/")):
            checkpoints = Checkpoints(path)
            if checkpoints.exist():
                whole = (extra for extra in checkpoints.extras() if is_extra(extra))
                found[path.name] = next((extra["trials"] for extra in whole), [])
        return found

    def work_done(self, but: Collection[int] = ()) -> float:
        """Returns the work of all rows of results.csv, without those of some trials."""
        return planning.work_done(self.lead(self.records.results), but)

    def checkpoints(self, batch_name: str) -> Checkpoints:
        """Returns the checkpoints of a batch."""
        return Checkpoints(self.checkpoints_dir / batch_name, self.config.checkpoint.keep)

    def check_stop(self, batch_name: str) -> None:
        """Raises `Stopped` without saving if a signal requested a stop."""
        if stop := multihost.largest(self.stop.signal):
            raise Stopped(
                stop,
                f"{batch_name}: stopped before its next step; the same command resumes the run",
            )

    def add_results(self, rows: list[dict[str, Any]]) -> None:
        """Records rows and the decisions that follow, and removes unneeded checkpoints."""
        self.lead(lambda: self._add_results(rows))

    def _add_results(self, rows: list[dict[str, Any]]) -> None:
        new = {row["trial"] for row in rows}
        kept = [row for row in self.records.results() if row["trial"] not in new]
        before = {row["trial"] for row in kept if row["status"] in outcomes.SETTLED}
        rows = planning.decide(self.config, [*kept, *rows], self._begun(), self.cells)
        settled = [row for row in rows if row["status"] in outcomes.SETTLED]
        # First, since a killed process does it again only for trials without a row.
        self.records.add_settings(row for row in settled if row["trial"] not in before)
        self.records.write_results(rows)
        self._remove_unneeded(rows)

    def settle(self) -> None:
        """Completes the updates that follow results.csv, which a killed process may have missed."""
        if rows := self.records.results():
            self.records.write_summary(rows)
            self._remove_unneeded(rows)

    def _remove_unneeded(self, rows: list[dict[str, Any]]) -> None:
        useful = (outcomes.WAITING, outcomes.PROMOTED, outcomes.FINISHED)
        needed = {row["batch"] for row in rows if row["status"] in useful}
        extended = planning.extended(rows, self.cells)
        rungs = {row["trial"]: row["rung"] for row in rows if row["trial"] not in extended}
        # Only directories that exist: names in a table may be paths to other directories.
        for name, indices in self._begun().items():
            done = all(rungs.get(index, -1) >= rung_of(name) for index in indices)
            if indices and done and name not in needed:
                shutil.rmtree(self.checkpoints_dir / name, ignore_errors=True)


def is_extra(extra: Any) -> bool:
    """Returns whether a value is the extra data that a batch saves with a checkpoint."""
    if not isinstance(extra, dict):
        return False
    seconds, epoch, indices = (extra.get(k) for k in ("seconds", "last_epoch_recorded", "trials"))
    return (
        isinstance(seconds, dict)
        and all(type(seconds.get(k)) in (int, float) for k in ("compile", "train"))
        and type(epoch) is int
        and isinstance(indices, list)
        and all(type(index) is int for index in indices)
        and len(indices) > 0
    )
