"""One process or many: the workers of a run, and what they compute together."""

import time
import warnings
from collections.abc import Callable, Iterable, Iterator
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
from vitpe.training.heartbeat import WAITING, Heartbeat, connect

_HOST_TIMEOUT: Final = timedelta(hours=12)
"""Of values on the host, for which workers also wait while one is slow to read or to write files."""


_MEETING_SECONDS: Final = 0.5
_MAX_STEPS_APART: Final = 64
"""A host may give its GPU many steps before the first of them is done: their time is not known yet."""


@dataclass(frozen=True)
class Workers:
    """This process, `rank`, among world_size that train one model. Rank 0 writes all files and tells the user.

    Methods named after collective operations of torch.distributed do nothing when there is one worker.
    """

    rank: int = 0
    world_size: int = 1
    heartbeat: Heartbeat | None = None

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def doing(self, what: str) -> AbstractContextManager[None]:
        """Within, workers that wait for this one can tell the user why: it is `what`, say "loading images"."""
        return self.heartbeat.doing(what) if self.heartbeat else nullcontext()

    def wrap(self, model: nn.Module) -> nn.Module:
        """Average gradients over all workers in the backward pass: each bucket of them as soon as it is complete, while
        the rest is computed; a compiled model is cut into graphs for it.
        """
        if self.world_size == 1:
            return model
        with self.doing(WAITING), warnings.catch_warnings():
            # torch 2.14 has another name for it, and 2.11 this one alone.
            warnings.filterwarnings("ignore", "`broadcast_buffers`", FutureWarning)
            return DistributedDataParallel(model, broadcast_buffers=False, gradient_as_bucket_view=True)

    def all_reduce_mean(self, value: torch.Tensor) -> torch.Tensor:
        """The mean of `value` over all workers; overwrites it."""
        if self.world_size > 1:
            with self.doing(WAITING):
                dist.all_reduce(value)
            value /= self.world_size
        return value

    def broadcast(self, value: torch.Tensor, rank: int = 0) -> torch.Tensor:
        """The `value` of one, by its rank; overwrites the others'."""
        if self.world_size > 1:
            with self.doing(WAITING):
                dist.broadcast(value, src=rank)
        return value

    def all_max(self, *values: int) -> list[int]:
        """Each value's maximum over all workers, on the host: how a request to one of them reaches all at one step."""
        if self.world_size == 1:
            return list(values)
        shared = torch.tensor(values)
        with self.doing(WAITING):
            dist.all_reduce(shared, dist.ReduceOp.MAX, group=_host_group())
        return [int(value) for value in shared]

    def all_equal(self, value: int) -> bool:
        """Whether `value` is the same in all workers."""
        highest, negative_lowest = self.all_max(value, -value)
        return highest == -negative_lowest

    def all_gather(self, value: torch.Tensor) -> torch.Tensor:
        """Each worker's `value`, all of one shape → (world_size, *shape), by rank, on its device."""
        if self.world_size == 1:
            return value[None]
        gathered = value.new_empty(self.world_size, *value.shape)
        group = _host_group() if value.device.type == "cpu" else None
        with self.doing(WAITING):
            dist.all_gather(list(gathered.unbind()), value, group=group)
        return gathered

    def all_gather_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """Each worker's rows (n, …), as many as it has → all, by rank, on the same device."""
        if self.world_size == 1:
            return rows
        counts = self.all_gather(torch.tensor(len(rows))).tolist()
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        return torch.cat([of_one[:count] for of_one, count in zip(self.all_gather(padded), counts, strict=True)])

    def all_lines(self, lines: Iterable[str]) -> list[str]:
        """All workers' lines, each once."""
        if self.world_size == 1:
            return list(dict.fromkeys(lines))
        text = "".join(f"{line}\0" for line in lines).encode(errors="surrogatepass")
        gathered = self.all_gather_rows(torch.tensor([*text], dtype=torch.uint8))
        return list(dict.fromkeys(gathered.numpy().tobytes().decode(errors="surrogatepass").split("\0")[:-1]))


class Meetings:
    """The steps at which the workers ask each other something, the same in each: about twice a second.

    To ask costs a message to all and back, and the wait for whose host is slowest; a step may take a millisecond.
    """

    def __init__(self, workers: Workers) -> None:
        self._workers = workers
        self._next = 0
        self._last: tuple[int, float] | None = None  # step and time

    def due(self, step: int) -> bool:
        """Whether they ask after `step`; one alone does after each."""
        return step >= self._next

    def all_max(self, step: int, *values: int) -> list[int]:
        """As Workers.all_max; all must ask after this step."""
        now = time.monotonic()
        elapsed = 0.0 if self._last is None else now - self._last[1]
        *highest, longest = self._workers.all_max(*values, round(1e6 * elapsed))
        num_steps = 1
        if self._last is not None and self._workers.world_size > 1:
            num_steps = int((step - self._last[0]) * _MEETING_SECONDS / max(longest / 1e6, 1e-6))
        self._next = step + min(max(1, num_steps), _MAX_STEPS_APART)
        self._last = (step, now)
        return highest


ALONE: Final = Workers()
_groups: dict[str, Any] = {}


def _host_group() -> Any:
    """A gloo group: values of the host need no copy to the GPU and no synchronisation with it."""
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
    heartbeat = Heartbeat(launch, store.clone(), tell)  # type: ignore[arg-type]  # a clone has the same class
    heartbeat.wait_for_all()
    on_gpus = torch.cuda.is_available()
    dist.init_process_group(
        "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
        store=PrefixStore("groups", store),
        rank=launch.rank,
        world_size=launch.world_size,
    )
    _groups["host"] = dist.new_group(backend="gloo", timeout=_HOST_TIMEOUT)
    heartbeat.start()
    try:
        yield Workers(launch.rank, launch.world_size, heartbeat)
    except BaseException as error:
        end = heartbeat.error_to_raise(error)
        if on_gpus and (world := dist.group.WORLD) is not None:
            with suppress(RuntimeError):
                world.abort()  # to leave in order, NCCL would wait for the workers that are gone
        if end is error:
            raise
        raise end from error
    finally:
        heartbeat.stop()
        _groups.clear()
        dist.destroy_process_group()
