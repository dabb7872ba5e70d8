"""How this process was started: alone, or by torchrun as one of several workers of a run; and on what processors."""

import os
from dataclasses import dataclass
from typing import Final

from vitpe.errors import UsageError

_LARGEST: Final = 65_535
"""Of ports, and more workers than anyone has."""


@dataclass(frozen=True)
class Launch:
    """rank among world_size workers, local_rank among those of this machine.

    address, port: where rank 0, or torchrun for it, keeps what the workers tell each other; none for one alone.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    address: str = ""
    port: int = 0


def read_launch() -> Launch:
    """From the variables that torchrun sets. UsageError where they are incomplete or contradict each other."""
    world_size = _number("WORLD_SIZE", 1, lowest=1)
    rank = _number("RANK", 0 if world_size == 1 else None)
    local_rank = _number("LOCAL_RANK", 0)
    num_local_workers()  # which is needed later: what is wrong is told at once
    if rank >= world_size:
        raise _refused(f"RANK is {rank} where WORLD_SIZE is {os.environ.get('WORLD_SIZE') or 'not set'}")
    if world_size == 1:
        return Launch(local_rank=local_rank)
    address = os.environ.get("MASTER_ADDR", "")
    if not address:
        raise _refused(f"WORLD_SIZE is {world_size} and MASTER_ADDR is not set")
    return Launch(rank, world_size, local_rank, address, _number("MASTER_PORT", None, lowest=1))


def num_local_workers() -> int:
    """Workers that torchrun has started on this machine, who share its processors and memory; 1 without it."""
    return _number("LOCAL_WORLD_SIZE", 1, lowest=1)


def num_cpus() -> int:
    """Processors that this process may use: its share, where workers on one machine may use the same."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, there // num_local_workers())


def _number(name: str, default: int | None, lowest: int = 0) -> int:
    """default None: one of several workers needs it."""
    text = os.environ.get(name, "").strip()
    if not text:
        if default is None:
            raise _refused(f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and {name} is not set")
        return default
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and lowest <= int(text) <= _LARGEST):
        raise _refused(f"{name} is {text[:40]!r}, not a number from {lowest} to {_LARGEST}")
    return int(text)


def _refused(message: str) -> UsageError:
    return UsageError(message, "start several workers with torchrun, which sets it; for one, unset WORLD_SIZE and RANK")
