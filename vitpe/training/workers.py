"""One process or many: the workers of a run, and what they compute together."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from vitpe.launch import Launch
from vitpe.training.peers import WAITING, Peers, connect

_HOST_TIMEOUT: Final = timedelta(hours=12)
"""Of values on the host, for which workers also wait while the first one scores."""


@dataclass(frozen=True)
class Workers:
    """rank of this process among world_size; rank 0 is the one that writes and speaks."""

    rank: int = 0
    world_size: int = 1
    peers: Peers | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def doing(self, what: str) -> AbstractContextManager[None]:
        """Within, others that wait for this worker can tell why: it is `what`."""
        return self.peers.doing(what) if self.peers else nullcontext()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Average gradients over all workers in the backward pass."""
        with self.doing(WAITING):
            return DistributedDataParallel(model) if self.world_size > 1 else model

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of `value` over all workers."""
        if self.world_size > 1:
            with self.doing(WAITING):
                dist.all_reduce(value)
            value /= self.world_size
        return value

    def same(self, value: torch.Tensor) -> torch.Tensor:
        """The first worker's `value`, for all."""
        if self.world_size > 1:
            with self.doing(WAITING):
                dist.broadcast(value, src=0)
        return value

    def highest(self, *values: int) -> list[int]:
        """The largest of all workers' values, one by one: how one worker's wish reaches all at the same step."""
        if self.world_size == 1:
            return list(values)
        shared = torch.tensor(values)
        with self.doing(WAITING):
            dist.all_reduce(shared, dist.ReduceOp.MAX, group=_host_group())
        return [int(value) for value in shared]

    def agree(self, value: int) -> bool:
        """Whether all workers have the same value."""
        highest, negative_lowest = self.highest(value, -value)
        return highest == -negative_lowest

    def gather(self, value: torch.Tensor) -> torch.Tensor:
        """A number of each worker → (world_size,) on the CPU, by rank."""
        host = value.detach().to("cpu", copy=True)
        if self.world_size == 1:
            return host.reshape(1)
        gathered = [torch.zeros_like(host) for _ in range(self.world_size)]
        with self.doing(WAITING):
            dist.all_gather(gathered, host, group=_host_group())
        return torch.stack(gathered)


ALONE: Final = Workers()
_groups: dict[str, Any] = {}


def _host_group() -> Any:
    """A gloo group: host values need no trip to the GPU and no synchronisation with it."""
    return _groups.get("host")


@contextmanager
def joined(launch: Launch, tell: Callable[[str], None]) -> Iterator[Workers]:
    """Join the other workers of `launch`, leave them at the end. tell: shows the user one line, whatever the rank.

    When one worker fails all end, with its exit code; one of them tells why, the others raise SystemExit. UsageError
    for an address that is no good, VitpeError when a worker never comes or is gone.
    """
    if launch.world_size == 1:
        yield ALONE
        return
    store = connect(launch, tell)
    peers = Peers(launch, store.clone(), tell)  # type: ignore[arg-type]  # a clone has the same class
    peers.arrive()
    on_gpus = torch.cuda.is_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=PrefixStore("groups", store),
        rank=launch.rank,
        world_size=launch.world_size,
    )
    _groups["host"] = dist.new_group(backend="gloo", timeout=_HOST_TIMEOUT)
    peers.watch()
    try:
        yield Workers(launch.rank, launch.world_size, peers)
    except BaseException as error:
        end = peers.end_with(error)
        if on_gpus and (world := dist.group.WORLD) is not None:
            with suppress(RuntimeError):
                world.abort()  # to leave in order, NCCL would wait for the workers that are gone
        if end is error:
            raise
        raise end from error
    finally:
        peers.end()
        _groups.clear()
        dist.destroy_process_group()
