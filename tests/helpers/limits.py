"""How much time and memory something took, and an end to it where it takes too much."""

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def limit_memory(more: int) -> None:
    """From here on this process may take `more` bytes of address space, and `peak_memory` counts anew."""
    Path("/proc/self/clear_refs").write_text("5")
    address_space = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (address_space + more, resource.RLIM_INFINITY))


def peak_memory() -> int:
    """Bytes of this process that were in memory at once, at most."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.partition("VmHWM:")[2].split()[0])


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """TimeoutError when what is within computes for longer than that; a busy machine does not count."""

    def too_slow(*_: object) -> None:
        raise TimeoutError(f"took {seconds} seconds")

    previous = signal.signal(signal.SIGPROF, too_slow)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, previous)
