"""What goes on beside the training loop: writing files in a thread, and listening for signals."""

import signal
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any

from vitpe.errors import VitpeError


class Writer:
    """Runs writes in order in one thread. An error of a write is raised by the next `submit`, or by `close`."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vitpe-writer")
        self._last: Future[None] | None = None

    def submit(self, write: Callable[..., None], *args: Any) -> None:
        """Queue write(*args); waits for the one before, so that at most one snapshot is held in memory."""
        self.wait()
        self._last = self._pool.submit(write, *args)

    def wait(self) -> None:
        """Return when everything is on disk."""
        if self._last is not None:
            last, self._last = self._last, None
            last.result()

    def close(self) -> None:
        """Wait, then end the thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()


class Interrupted(VitpeError):
    """The run was asked to stop, and has saved all: exit code 130 after Ctrl-C, 143 after SIGTERM."""

    def __init__(self, signal_number: int, step: int, resume_command: str) -> None:
        name = "Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name
        super().__init__(
            f"stopped by {name} after step {step}; everything is saved",
            f"continue with: {resume_command}",
            exit_code=128 + signal_number,
        )


class StopRequest:
    """Holds the number of the first signal that asked to stop, None before."""

    signal_number: int | None = None


@contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Within, Ctrl-C and SIGTERM only set the request; a second Ctrl-C interrupts at once."""
    request = StopRequest()

    def ask(number: int, _frame: FrameType | None) -> None:
        if request.signal_number is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        request.signal_number = number

    previous = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
