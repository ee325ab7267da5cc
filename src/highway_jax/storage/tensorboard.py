"""TensorBoard events: curves, images of the gates, hyperparameters and results."""

import contextlib
import importlib
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

_PIXELS = 8  # Side of a gate in an image.


class Events:
    """The event files of a run, with a directory for each trial of a batch.

    tensorboardX's SummaryWriter has a thread and a pipe for each trial, and blocks forever if the
    thread fails because the disk is full. Here each call writes and flushes its events.
    """

    def __init__(self, directory: Path):
        """Initializes the events without writing files.

        Args:
            directory: Directory of the event files.
        """
        self._directory = Path(directory)
        self._writers: dict[str, Any] = {}

    def add_scalars(self, trial: dict[str, Any], values: dict[str, float], epoch: int) -> None:
        """Adds points of curves.

        Args:
            trial: A line of metrics.jsonl or a row of results.csv, which identifies the trial.
            values: The values, by tag.
            epoch: Their epoch.
        """
        from tensorboardX.summary import scalar

        self._write(trial, [scalar(tag, value) for tag, value in values.items()], epoch)

    def add_gates(self, trial: dict[str, Any], gates: np.ndarray, epoch: int) -> None:
        """Adds an image of mean gate outputs [blocks, width]; 0 is black and 1 white."""
        from tensorboardX.summary import image

        grey = np.kron(np.nan_to_num(gates), np.ones((_PIXELS, _PIXELS)))
        self._write(trial, [image("gates", grey.astype(np.float32), dataformats="HW")], epoch)

    def add_settings(
        self, row: dict[str, Any], settings: dict[str, Any], measured: dict[str, float]
    ) -> None:
        """Adds the hyperparameters and results of a trial, for the HParams tab.

        Args:
            row: Its row of results.csv.
            settings: The hyperparameters by name.
            measured: The results by tag.
        """
        from tensorboardX.summary import hparams, scalar

        measured = {tag: value for tag, value in measured.items() if math.isfinite(value)}
        last = [scalar(tag, value) for tag, value in measured.items()]
        self._write(row, [*hparams(settings, measured), *last], row["epochs"])

    def close(self) -> None:
        """Closes the event files."""
        for writer in self._writers.values():
            # All events were flushed before; a full disk raises the same error again.
            with contextlib.suppress(OSError):
                writer.close()
        self._writers.clear()

    def _write(self, trial: dict[str, Any], summaries: list[Any], epoch: int) -> None:
        from tensorboardX.event_file_writer import EventsWriter

        proto: Any = importlib.import_module("tensorboardX.proto.event_pb2")

        name = f"{trial['batch']}/{trial['case']}-seed{trial['seed']}-trial{trial['trial']}"
        if name not in self._writers:
            path = self._directory / name
            path.mkdir(parents=True, exist_ok=True)
            writer = self._writers[name] = EventsWriter(str(path / "events"))
            # Hides events from this epoch on that were written before training resumed.
            start = proto.SessionLog(status=proto.SessionLog.START)
            writer.write_event(proto.Event(wall_time=time.time(), step=epoch, session_log=start))
        writer = self._writers[name]
        for summary in summaries:
            writer.write_event(proto.Event(wall_time=time.time(), step=epoch, summary=summary))
        writer.flush()
