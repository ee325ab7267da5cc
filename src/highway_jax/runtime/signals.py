"""Requests to stop: SIGTERM from a scheduler, Ctrl-C from a person, SIGHUP from a terminal."""

import contextlib
import signal
from collections.abc import Iterator


class Stopped(Exception):
    """Training stopped at a checkpoint because a signal asked for it.

    Attributes:
        signal: The signal's number.
    """

    def __init__(self, signal_number: int, message: str):
        super().__init__(message)
        self.signal = signal_number


class StopRequest:
    """Remembers the first signal that asked to stop; a second Ctrl-C stops at once."""

    def __init__(self):
        self.signal = 0

    @contextlib.contextmanager
    def listening(self) -> Iterator["StopRequest"]:
        """Listens within the block, where signals can be heard at all (the main thread).

        SIGHUP stays ignored where it was, as `nohup` asks for.
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
            pass  # Not the main thread: whoever owns that one decides about signals.
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _hear(self, number: int, _frame: object) -> None:
        if self.signal == number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = self.signal or number
