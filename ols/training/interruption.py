"""Signals that ask a run to stop, from a scheduler, a launcher, the keyboard, or a terminal that is closed."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Launchers pass on what the terminal or the scheduler has sent to all processes: the same signal, twice.
ECHO_SECONDS = 2.0
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP")  # Windows lacks the last


class Interruption:
    """Remembers that a signal asked the run to stop; a second one, later than a launcher's echo, exits at once."""

    def __init__(self):
        self._first: float | None = None  # when, by time.monotonic

    @property
    def requested(self) -> bool:
        """Whether a signal came."""
        return self._first is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM, SIGINT and SIGHUP inside; may be nested. Call from the main thread.

        A SIGHUP that is ignored, as under `nohup`, stays so.
        """
        numbers = [getattr(signal, name) for name in SIGNALS if hasattr(signal, name)]
        before = {
            number: signal.signal(number, self._take)
            for number in numbers
            if signal.getsignal(number) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _take(self, number: int, frame: FrameType | None) -> None:
        name = signal.Signals(number).name
        # os.write: a handler may have interrupted a print.
        if self._first is None:
            self._first = time.monotonic()
            os.write(2, f"{name}: stopping after this step; a second signal exits at once\n".encode())
        elif time.monotonic() - self._first > ECHO_SECONDS:
            os.write(2, f"{name} again: exiting without saving\n".encode())
            os._exit(128 + number)


class Interrupted(SystemExit):
    """The run was asked to stop, and can be continued."""

    def __init__(self):
        super().__init__(0)
