"""Signals that request a stop: SIGTERM, SIGINT (Ctrl-C) and SIGHUP (closed terminal)."""

import contextlib
import signal
from collections.abc import Iterator


class Stopped(Exception):
    """Training stopped at a checkpoint because a signal requested it.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal = signal_number


class StopRequest:
    """Stores the first signal that requests a stop; a second Ctrl-C stops immediately.

    Attributes:
        signal: The number of the signal; 0 if there was none.
    """

    def __init__(self):
        self.signal = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handles signals within the block, if it runs in the main thread.

        SIGHUP stays ignored if it is ignored, as under `nohup`.
        """
        before = {}
        numbers = [signal.SIGTERM, signal.SIGINT]
        hangup = getattr(signal, "SIGHUP", None)  # Windows has none.
        if hangup and signal.getsignal(hangup) is not signal.SIG_IGN:
            numbers.append(hangup)
        try:
            for number in numbers:
                before[number] = signal.signal(number, self._hear)
        except ValueError:
            pass  # Only the main thread can set signal handlers.
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _frame: object) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
