"""One process or many: what torchrun set up, seen from one worker."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from vitpe.errors import VitpeError


@dataclass(frozen=True)
class Workers:
    """rank of this process among world_size; rank 0 is the one that writes and speaks."""

    rank: int = 0
    world_size: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def wrap(self, model: nn.Module) -> nn.Module:
        """Average gradients over all workers in the backward pass."""
        return DistributedDataParallel(model) if self.world_size > 1 else model

    def mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of `value` over all workers."""
        if self.world_size > 1:
            dist.all_reduce(value)
            value /= self.world_size
        return value

    def same(self, value: torch.Tensor) -> torch.Tensor:
        """The first worker's `value`, for all."""
        if self.world_size > 1:
            dist.broadcast(value, src=0)
        return value

    def highest(self, *values: int) -> list[int]:
        """The largest of all workers' values, one by one: how one worker's wish reaches all at the same step."""
        if self.world_size == 1:
            return list(values)
        shared = torch.tensor(values)
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
        dist.all_gather(gathered, host, group=_host_group())
        return torch.stack(gathered)


_groups: dict[str, Any] = {}


def _host_group() -> Any:
    """A gloo group: host values need no trip to the GPU and no synchronisation with it."""
    return _groups.get("host")


def num_workers() -> int:
    """How many processes torchrun started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def joined(device: torch.device) -> Iterator[Workers]:
    """Join the other workers that torchrun started, leave them at the end. VitpeError when one of them is gone."""
    if num_workers() == 1:
        yield Workers()
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    _groups["host"] = dist.new_group(backend="gloo")
    try:
        yield Workers(dist.get_rank(), dist.get_world_size())
    except RuntimeError as error:  # what torch.distributed raises for a lost connection has no narrower class
        if not any(word in str(error).lower() for word in ("connection", "gloo", "nccl", "peer", "socket")):
            raise
        world = dist.group.WORLD
        if device.type == "cuda" and world is not None:
            with suppress(RuntimeError):
                world.abort()  # to leave in order, NCCL would wait for the dead worker until torchrun kills this one
        raise VitpeError(
            "another worker of this run is gone", "see its own message; continue with the same command and --resume"
        ) from error
    finally:
        _groups.clear()
        dist.destroy_process_group()
