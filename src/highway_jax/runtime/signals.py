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
        self._interrupted = False

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Handles signals within the block, if it runs in the main thread.

        SIGHUP and SIGINT stay ignored if they are ignored, as under `nohup` or in the background.
        """
        before = {}
        numbers = [signal.SIGTERM]
        for name in ("SIGINT", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP.
            if number and signal.getsignal(number) is not signal.SIG_IGN:
                numbers.append(number)
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
        if number == signal.SIGINT:
            if self._interrupted:
                raise KeyboardInterrupt
            self._interrupted = True
        self.signal = self.signal or number
