"""TensorBoard events: curves, images of the gates, hyperparameters and results."""

import contextlib
import importlib
import time
from pathlib import Path
from typing import Any

import numpy as np

_PIXELS = 8  # Side of a gate in an image.
_FINAL = ".final"  # Ends the name of a file with final results.


class Events:
    """The event files of a run, with a directory for each trial.

    The x axis of all events is the training step. A trial has the curves that were measured in
    training, and its final results in a file of their own, which is replaced if the trial is
    trained again.

    tensorboardX's SummaryWriter has a thread and a pipe for each trial, and blocks forever if the
    thread fails because the disk is full. Here each call writes and flushes its events.
    """

    def __init__(self, directory: Path):
        """Initializes the events without writing files.

        Args:
            directory: Directory of the event files.
        """
        self._directory = Path(directory)
        self._writers: dict[Path, Any] = {}

    def add_scalars(self, trial: dict[str, Any], values: dict[str, float]) -> None:
        """Adds points of curves.

        Args:
            trial: A line of metrics.jsonl, which identifies the trial and the step.
            values: The values, by tag.
        """
        from tensorboardX.summary import scalar

        self._write(trial, [scalar(tag, value) for tag, value in values.items()])

    def add_gates(self, trial: dict[str, Any], gates: np.ndarray) -> None:
        """Adds an image of mean gate outputs [blocks, width]; 0 is black and 1 white."""
        from tensorboardX.summary import image

        grey = np.kron(np.nan_to_num(gates), np.ones((_PIXELS, _PIXELS)))
        self._write(trial, [image("gates", grey.astype(np.float32), dataformats="HW")])

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

        path = self._path(row)
        earlier = list(path.glob(f"events*{_FINAL}"))
        writer = self._writer(path, _FINAL)
        last = [scalar(tag, value) for tag, value in measured.items()]
        for summary in (*hparams(settings, measured), *last):
            writer.write_event(_event(row["steps"], summary=summary))
        writer.close()
        for file in earlier:
            file.unlink(missing_ok=True)

    def close(self) -> None:
        """Closes the event files."""
        for writer in self._writers.values():
            # All events were flushed before; a full disk raises the same error again.
            with contextlib.suppress(OSError):
                writer.close()
        self._writers.clear()

    def _write(self, trial: dict[str, Any], summaries: list[Any]) -> None:
        path, step = self._path(trial), trial["step"]
        if path not in self._writers:
            writer = self._writers[path] = self._writer(path)
            # Hides events from this step on that were written before training resumed.
            log = _protocol().SessionLog
            writer.write_event(_event(step, session_log=log(status=log.START)))
        for summary in summaries:
            self._writers[path].write_event(_event(step, summary=summary))
        self._writers[path].flush()

    def _path(self, trial: dict[str, Any]) -> Path:
        return self._directory / f"{trial['case']}-{trial['trial']}"

    def _writer(self, path: Path, suffix: str = "") -> Any:
        from tensorboardX.event_file_writer import EventsWriter

        path.mkdir(parents=True, exist_ok=True)
        # The library names files by the second, and would overwrite one of the same second.
        return EventsWriter(str(path / "events"), f".{time.time_ns()}{suffix}")


def _event(step: int, **content: Any) -> Any:
    return _protocol().Event(wall_time=time.time(), step=step, **content)


def _protocol() -> Any:
    return importlib.import_module("tensorboardX.proto.event_pb2")
