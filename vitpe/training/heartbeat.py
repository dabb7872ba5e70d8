"""Heartbeats of a run's workers: each tells the others that it lives, what it is doing, and that it failed.

A collective operation (all_reduce and the like) never returns when a worker failed or hangs, and says nothing. So each
worker has a thread that writes a heartbeat into the shared store every second, and reads those of the others.
"""

import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import timedelta
from typing import Final, TypeVar

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from vitpe.errors import UsageError, VitpeError
from vitpe.launch import Launch

JOIN_SECONDS = 600.0
"""How long a worker waits at the start for the others."""
PATIENCE_SECONDS = 30.0
"""After waiting so long, the user is told for which worker."""
LEAVE_SECONDS = 20.0
"""How long a worker may take to end after another failed; torchrun kills it after 30."""

_BEAT_SECONDS: Final = 1.0
_SAME_ERROR_SECONDS: Final = 0.5

STEP: Final = "in a step"
WAITING: Final = "waiting"
_MAY_WAIT: Final = (STEP, WAITING)
"""In these a worker may be waiting for another one. In anything else it is busy, and others wait for it."""

T = TypeVar("T")


class Heartbeat:
    """This worker's heartbeat, and what it knows of the others by theirs. tell: shows the user one line."""

    def __init__(self, launch: Launch, store: TCPStore, tell: Callable[[str], None]) -> None:
        self._rank, self._world_size, self._tell = launch.rank, launch.world_size, tell
        self._store = store
        self._store_hosts = [] if _torchrun_hosts_store() else [0]
        self._others = [rank for rank in range(launch.world_size) if rank != launch.rank]
        self._doing, self._since = "starting", time.monotonic()
        self._beats = 0
        self._last_beats: dict[int, tuple[str, float]] = {}  # rank → its last one, and when that came
        self._answered = time.monotonic()
        self._told_since = -1.0
        self._told: set[str] = set()
        self._failed = False
        self._others_failure: int | None = None  # the exit code of a worker that failed
        self._stopped = threading.Event()

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """Within, this worker's heartbeat says that it is `what`, which others that wait for it can show."""
        before = self._doing
        self._doing, self._since = what, time.monotonic()
        try:
            yield
        finally:
            self._doing, self._since = before, time.monotonic()

    def wait_for_all(self) -> None:
        """Return when all workers are here. VitpeError after JOIN_SECONDS, naming who is not."""
        self._beat()
        began, told = time.monotonic(), False
        missing = self._others
        while missing := [rank for rank in missing if not self._store.check([f"beat/{rank}"])]:
            waited = time.monotonic() - began
            if waited > JOIN_SECONDS:
                raise VitpeError(f"{_ranks(missing)} never came, in {waited:.0f} s", "see its own message")
            if waited > PATIENCE_SECONDS and not told:
                told = True
                self._tell(f"waiting for {_ranks(missing)}, not there yet after {waited:.0f} s")
            time.sleep(0.05)

    def start(self) -> None:
        """Start the thread that sends this worker's heartbeats and reads the others'."""
        threading.Thread(target=self._watch, name="vitpe-heartbeat", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def error_to_raise(self, error: BaseException) -> BaseException:
        """What to raise in place of `error`, which ends this worker, so that only one worker tells the user: the error
        itself, another one, or SystemExit, which is silent.
        """
        if _is_lost_connection(error):
            return self._after_lost_connection()
        code = _exit_code(error)
        if code == 0:
            return error
        self._failed = True
        kind = "failed" if code < 128 else "stopped"
        _ask_store(lambda: self._store.set(kind, str(code)))
        _ask_store(lambda: self._store.set(f"knows/{self._rank}", ""))
        if kind == "failed" and self._rank in self._store_hosts:
            self._wait_until_known()
        if isinstance(error, VitpeError) and not self._is_first_to_report(error.message):
            return SystemExit(code)
        return error

    def _wait_until_known(self) -> None:
        """With this process ends the store, by which the others learn that it failed and was not killed."""
        deadline = time.monotonic() + 3 * _BEAT_SECONDS
        keys = [f"knows/{rank}" for rank in self._others]
        while time.monotonic() < deadline and not _ask_store(lambda: self._store.check(keys)):
            time.sleep(0.02)

    def _after_lost_connection(self) -> BaseException:
        """Another worker closed its connections. If it does not report a failure within seconds, it was killed."""
        _ask_store(lambda: self._store.set(f"lost/{self._rank}", ""))
        deadline = time.monotonic() + 4 * _BEAT_SECONDS
        while time.monotonic() < deadline:
            code = _ask_store(self._failure)
            if code is not None:
                time.sleep(_SAME_ERROR_SECONDS)  # torchrun ends all at the first exit: let it be the one that tells
                return SystemExit(code)
            time.sleep(0.1)
        gone = _ask_store(self._gone)
        if gone is None:
            gone = self._store_hosts  # with whom the store is gone
        if not self._is_first_to_report("gone"):
            return SystemExit(1)
        return VitpeError(
            f"{_ranks(gone) if gone else 'another worker'} of this run is gone",
            "see its own message; continue with the same command and --resume",
        )

    def _gone(self) -> list[int]:
        return [rank for rank in self._others if not self._store.check([f"lost/{rank}"])]

    def _failure(self) -> int | None:
        """The exit code of a worker that failed or was stopped, None while there is none."""
        if self._others_failure is not None:
            return self._others_failure
        for kind in ("failed", "stopped"):
            if self._store.check([kind]):
                return int(self._store.get(kind))
        return None

    def _is_first_to_report(self, message: str) -> bool:
        """Whether no other worker reports this message; rank 0 has precedence."""
        key = f"said/{message}"
        if self._rank:
            deadline = time.monotonic() + _SAME_ERROR_SECONDS
            while time.monotonic() < deadline and not _ask_store(lambda: self._store.check([key])):
                time.sleep(0.02)
        first = _ask_store(lambda: self._store.add(key, 1)) in (1, None)
        if not first:
            time.sleep(_SAME_ERROR_SECONDS)  # torchrun ends all at the first exit: let it be the one that tells
        return first

    def _watch(self) -> None:
        failed_at: float | None = None
        asked = _in_thread(self._exchange)
        while not self._stopped.wait(_BEAT_SECONDS):
            now = time.monotonic()
            if asked.done():
                code = None if asked.exception() else asked.result()
                self._answered = self._answered if code is None else now
                if code and not self._failed:
                    failed_at = failed_at or now
                asked = _in_thread(self._exchange)
            if failed_at is not None and now - failed_at > LEAVE_SECONDS:
                sys.stderr.flush()
                os._exit(1)  # the thread that trains is in a call that does not return; another worker told why
            if self._doing in _MAY_WAIT and now - self._since > PATIENCE_SECONDS:
                self._report_awaited(now)

    def _exchange(self) -> int:
        """Send a heartbeat, read the others'. Returns the exit code of a worker that failed, 0 for none."""
        self._beat()
        if self._store.check(["failed"]):
            self._others_failure = int(self._store.get("failed"))
            self._store.set(f"knows/{self._rank}", "")
            return self._others_failure
        if time.monotonic() - self._since > _silent_seconds():
            shown = self._store.multi_get([f"beat/{rank}" for rank in self._others])
            for rank, value in zip(self._others, shown, strict=True):
                if self._last_beats.get(rank, ("", 0.0))[0] != value.decode():
                    self._last_beats[rank] = (value.decode(), time.monotonic())
        return 0

    def _beat(self) -> None:
        self._beats += 1
        self._store.set(f"beat/{self._rank}", f"{self._beats} {self._doing}")

    def _report_awaited(self, now: float) -> None:
        """Tell the user for whom the others wait: once a wait, by the first worker that is not waited for itself, and
        what a busy worker does only once a run.
        """
        doing = {rank: shown.partition(" ")[2] for rank, (shown, _) in self._last_beats.items()}
        silent = [rank for rank, (_, new_at) in self._last_beats.items() if now - new_at > _silent_seconds()]
        if now - self._answered > _silent_seconds():
            doing, silent = {}, self._store_hosts
        busy = [rank for rank in doing if rank not in silent and doing[rank] not in _MAY_WAIT]
        there = set(range(self._world_size)) - {*silent, *busy}
        if self._told_since == self._since or self._rank != min(there) or not (silent or busy):
            return
        self._told_since = self._since
        if silent:
            self._tell(f"waiting for {_ranks(silent)}, without a sign of life for {now - self._since:.0f} s")
        for line in sorted({f"waiting for {_ranks([rank])}, which is {doing[rank]}" for rank in busy} - self._told):
            self._told.add(line)
            self._tell(line)


def connect(launch: Launch, tell: Callable[[str], None]) -> TCPStore:
    """The store through which the workers of a run find each other. UsageError for an address that is no good."""
    place = f"{launch.address}, port {launch.port}"
    try:
        socket.getaddrinfo(launch.address, launch.port)
    except (OSError, UnicodeError) as error:
        raise UsageError(f"MASTER_ADDR {launch.address!r} is no known machine", "name the machine of rank 0") from error
    hosts = launch.rank == 0 and not _torchrun_hosts_store()
    timeout = timedelta(seconds=JOIN_SECONDS)
    connected = _in_thread(
        lambda: TCPStore(launch.address, launch.port, launch.world_size, hosts, timeout, wait_for_workers=False)
    )
    try:
        try:
            return connected.result(PATIENCE_SECONDS)
        except TimeoutError:
            tell(f"waiting for rank 0 at {place}")
        return connected.result()
    except RuntimeError as error:
        if hosts:
            hint = "set MASTER_PORT to a free one, the same for all workers"
            raise UsageError(f"cannot listen at {place} (MASTER_ADDR, MASTER_PORT): {_reason(error)}", hint) from error
        hint = "see the message of rank 0; MASTER_ADDR and MASTER_PORT name where it is"
        raise VitpeError(f"no answer from rank 0 at {place}", hint) from error


def _silent_seconds() -> float:
    """A worker or store from which nothing came for so long counts as stopped."""
    return PATIENCE_SECONDS / 3


def _torchrun_hosts_store() -> bool:
    """Whether torchrun hosts the store for its workers; else rank 0 does."""
    return os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


def _reason(error: Exception) -> str:
    return "the port is in use" if "EADDRINUSE" in str(error) else " ".join(str(error).split())[:100]


def _in_thread(call: Callable[[], T]) -> Future[T]:
    """Run `call` in a thread: a store whose host has stopped never answers, and Ctrl-C would not end such a call."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(call())
        except Exception as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def _ask_store(call: Callable[[], T]) -> T | None:
    """The result of `call`, which asks the store; None when the store is gone or its host stopped."""
    try:
        return _in_thread(call).result(_silent_seconds())
    except (RuntimeError, TimeoutError):
        return None


def _is_lost_connection(error: BaseException) -> bool:
    """torch.distributed has no narrower class than RuntimeError for what gloo raises."""
    words = ("connection", "gloo", "nccl", "peer", "socket")
    return (
        isinstance(error, RuntimeError)
        and not isinstance(error, torch.OutOfMemoryError)
        and any(word in str(error).lower() for word in words)
    )


def _exit_code(error: BaseException) -> int:
    if isinstance(error, VitpeError):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def _ranks(ranks: list[int]) -> str:
    return f"rank{'s' if len(ranks) > 1 else ''} {', '.join(map(str, ranks))}"
