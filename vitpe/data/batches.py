"""Samples → batches of cropped uint8 images on the device, prepared by threads while the model works."""

import sys
import time
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitpe.data.augmentation import Augmentation, random_crops, shuffled_order
from vitpe.data.balance import Indices, balanced_order
from vitpe.data.batch import Batch
from vitpe.data.storage import ImageStore, num_threads, send
from vitpe.errors import UsageError

Rows = TypeVar("Rows", NDArray[np.int64], Tensor)


@dataclass(frozen=True)
class Shard:
    """The part of each training batch that one of `world_size` workers computes."""

    rank: int = 0
    world_size: int = 1

    def of(self, rows: Rows) -> Rows:
        """This worker's rows of the whole batch's, whose number world_size divides."""
        count = len(rows) // self.world_size
        return rows[self.rank * count : (self.rank + 1) * count]


_WHOLE: Final = Shard()


class Batches:
    """The batches of one split.

    With an augmentation, for training: shuffled anew each epoch, random crops and flips, whole batches only, endless
    from any step; with groups, these equally often, as many images an epoch as there are. Otherwise: in order, centre
    crops, the last batch may be smaller.
    """

    def __init__(
        self,
        store: ImageStore,
        crop_size: tuple[int, int],
        batch_size: int,
        augmentation: Augmentation | None = None,
        shard: Shard = _WHOLE,
        groups: Sequence[Indices] = (),
    ) -> None:
        """batch_size: of the whole batch over all workers; the number of samples bounds it. shard: this worker's, so
        that together they see what one process would. groups: which samples are in each, see `balanced_order`.

        Raises UsageError when the samples are smaller than the crop, or fewer than the workers.
        """
        stored = store.samples.stored_size
        if any(side < crop for side, crop in zip(stored, crop_size, strict=True)):
            raise UsageError(
                f"images of {_by(stored)} pixels cannot be cropped to {_by(crop_size)}", "choose a smaller img_size"
            )
        batch_size = min(batch_size, len(store))
        self.batch_size = batch_size - batch_size % shard.world_size  # else the workers' mean is not the batch's
        if self.batch_size == 0:
            raise UsageError(f"{len(store)} images cannot be shared by {shard.world_size} workers", "start fewer")
        self.store = store
        self._crop_size = crop_size
        self._augmentation = augmentation
        self._shard = shard
        self._groups = groups
        self._num_threads = num_threads()
        on_gpu = store.device.type == "cuda"
        self._copies = torch.cuda.Stream(store.device) if on_gpu else None  # type: ignore[no-untyped-call]
        self.wait_seconds = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; at least 1."""
        return len(self.store) // self.batch_size

    @property
    def positive_share(self) -> NDArray[np.float64]:
        """(A,) of the images that come, in [0, 1]: the share that has each attribute."""
        labels = self.store.samples.labels
        shares = [labels[images].mean(axis=0) for images in self._groups] or [labels.mean(axis=0)]
        mean: NDArray[np.float64] = np.mean(shares, axis=0, dtype=np.float64)
        return mean

    def from_step(self, step: int) -> Generator[Batch, None, None]:
        """Endless training batches, beginning with the one that `step` (0-based) trains on."""
        augmentation = self._augmentation
        assert augmentation is not None, "these batches are not for training"

        def plan() -> Iterator[tuple[Indices, Indices, int]]:
            epoch, position = divmod(step, self.steps_per_epoch)
            while True:
                indices, rounds = self._order(augmentation.seed, epoch)
                for start in range(position, self.steps_per_epoch):
                    batch = slice(start * self.batch_size, (start + 1) * self.batch_size)
                    at = epoch * self.steps_per_epoch + start
                    yield self._shard.of(indices[batch]), self._shard.of(rounds[batch]), at
                epoch, position = epoch + 1, 0

        return self._prefetch(plan())

    def _order(self, seed: int, epoch: int) -> tuple[Indices, Indices]:
        if self._groups:
            return balanced_order(self._groups, seed, epoch, len(self.store))
        return shuffled_order(seed, epoch, len(self.store))

    def once(self) -> Generator[Batch, None, None]:
        """Every sample once, in order; each worker gets them all."""
        return self._through(np.arange(len(self.store)))

    def sample(self, count: int, seed: int) -> Generator[Batch, None, None]:
        """`count` samples at random, all where there are fewer; each worker gets the same."""
        return self._through(np.random.default_rng(seed).permutation(len(self.store))[:count])

    def _through(self, indices: Indices) -> Generator[Batch, None, None]:
        starts = range(0, len(indices), self.batch_size)
        parts = (indices[start : start + self.batch_size] for start in starts)
        return self._prefetch((part, np.zeros_like(part), None) for part in parts)

    def _prefetch(self, plan: Iterator[tuple[Indices, Indices, int | None]]) -> Generator[Batch, None, None]:
        """Batches in the order of the plan's indices, rounds and steps; a few are prepared ahead by threads,
        `wait_seconds` sums what was waited for.
        """
        waiting: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="vitpe-data")
        is_finalizing = sys.is_finalizing  # a name of its own: modules lose theirs while the interpreter ends
        try:
            for indices, rounds, step in plan:
                waiting.append(pool.submit(self._make, indices, rounds, step))
                if len(waiting) > self._num_threads:
                    yield self._await(waiting.popleft())
            while waiting:
                yield self._await(waiting.popleft())
        finally:
            if not is_finalizing():  # else its threads have ended
                pool.shutdown(wait=True, cancel_futures=True)

    def _await(self, future: "Future[Batch]") -> Batch:
        began = time.perf_counter()
        batch = future.result()
        if batch.ready is not None:
            computing = torch.cuda.current_stream(self.store.device)
            computing.wait_event(batch.ready)
            for tensor in batch.tensors.values():
                tensor.record_stream(computing)  # so that its memory is not given away while the model reads it
        self.wait_seconds += time.perf_counter() - began
        return batch

    def _make(self, indices: Indices, rounds: Indices, step: int | None) -> Batch:
        """rounds: how often each image has come before. step: the training step that it is for, None for none: then
        nothing is dropped.
        """
        stored, size, augmentation = self.store.samples.stored_size, self._crop_size, self._augmentation
        device = self.store.device
        drawn: dict[str, Tensor | None] = {}
        if augmentation is None:
            top = np.full(len(indices), (stored[0] - size[0]) // 2)
            left = np.full(len(indices), (stored[1] - size[1]) // 2)
            flip = np.zeros(len(indices), dtype=bool)
        else:
            top, left, flip = random_crops(augmentation.seed, rounds, indices, stored, size, augmentation.flip)
            if step is not None:
                draws = {"keep": augmentation.keep, "depth": augmentation.depth}
                drawn = {name: draw(step, self.batch_size) for name, draw in draws.items()}
        with self._copying():
            batch = self.store.crop(indices, top, left, flip, size)
            sent = {name: send(self._shard.of(rows), device) for name, rows in drawn.items() if rows is not None}
            ready = None if self._copies is None else self._copies.record_event()
            return replace(batch, tensors=batch.tensors | sent, ready=ready)

    def _copying(self) -> AbstractContextManager[object]:
        """Within, copies to a GPU go on beside its computing."""
        return torch.cuda.stream(self._copies) if self._copies is not None else nullcontext()


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
