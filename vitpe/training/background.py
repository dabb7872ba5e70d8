"""What goes on beside the training loop: writing files in a thread, and listening for signals."""

import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

from vitpe.errors import VitpeError

_SAME_WISH_SECONDS: Final = 1.0
"""torchrun passes a Ctrl-C on to workers that the terminal has told already: within this time the two are one."""
_STOPPING: Final = ("SIGINT", "SIGTERM", "SIGHUP", "SIGXCPU")
"""Ctrl-C, kill and schedulers, a terminal that is gone, a limit of processor time; not every system has them all."""
_SAVING: Final = ("SIGUSR1", "SIGUSR2")
"""What schedulers send some time before they stop a process."""


class Writer:
    """Runs writes in order in one thread. An error of a write is raised by the next `submit`, or by `close`."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="vitpe-writer")
        self._last: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether `submit` would have to wait."""
        return self._last is not None and not self._last.done()

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
    """The run was asked to stop: exit code 130 after Ctrl-C, 143 after SIGTERM. step: the last one, which is saved."""

    def __init__(self, signal_number: int, step: int, hint: str) -> None:
        name = "Ctrl-C" if signal_number == signal.SIGINT else signal.Signals(signal_number).name
        message = f"stopped by {name} after step {step}; everything is saved"
        super().__init__(message, hint, exit_code=128 + signal_number)


class StopRequest:
    """signal_number: of the first signal that asked to stop, None before. hint: how to go on afterwards.

    save_signal: of the last that asked to save and go on, None when there was none since it was set to None.
    """

    def __init__(self, hint: str = "") -> None:
        self.signal_number: int | None = None
        self.save_signal: int | None = None
        self.hint = hint
        self._asked_at = 0.0

    def check(self, step: int) -> None:
        """Raise Interrupted when asked to stop.

        It is not the handler that raises: what runs at that moment, C code above all, may turn any exception into
        another one.
        """
        if self.signal_number is not None:
            raise Interrupted(self.signal_number, step, self.hint)

    def handle(self, number: int, _frame: FrameType | None) -> None:
        """The signal handler."""
        if signal.Signals(number).name in _SAVING:
            self.save_signal = number
        elif self.signal_number is None:
            self.signal_number, self._asked_at = number, time.monotonic()
        elif number == signal.SIGINT and time.monotonic() - self._asked_at > _SAME_WISH_SECONDS:
            raise KeyboardInterrupt


@contextmanager
def stop_signals(hint: str = "") -> Iterator[StopRequest]:
    """Within, Ctrl-C, SIGTERM and the like set the request that is given; a second Ctrl-C stops at once.

    SIGHUP that is ignored from the start (nohup) stays ignored.
    """
    request = StopRequest(hint)
    known = [number for number in signal.Signals if number.name in (*_STOPPING, *_SAVING)]
    numbers = [n for n in known if n.name != "SIGHUP" or signal.getsignal(n) is not signal.SIG_IGN]
    previous = {number: signal.signal(number, request.handle) for number in numbers}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
