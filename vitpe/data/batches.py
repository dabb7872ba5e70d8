"""Samples → batches of cropped uint8 images on the device, prepared by threads while the model works.

Where images wait (`store`) is chosen by what fits: decoded on the device, encoded in memory, or on disk. What a
training image looks like depends on (seed, epoch, index) alone, whatever the store, the threads or the ranks.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitpe.data.file_samples import FileSamples
from vitpe.data.samples import Samples

_DEVICE_SHARE = 0.6  # of a GPU's free memory that the images may take; the rest is for training
_MEMORY_SHARE = 0.5  # of the machine's available memory
_DECODED_LIMIT = 1 << 30  # bytes: on a CPU, small splits stay decoded, larger ones are decoded again each epoch
_CHUNK = 64  # images that a thread reads in one go when a whole split is decoded up front

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Batch:
    """images: (B, 3, H, W) uint8 on the device, cropped; labels: (B, A) uint8 beside them."""

    images: Tensor
    labels: Tensor


class Batches:
    """The batches of one split.

    In training: shuffled anew each epoch, random crops and flips, whole batches only, endless from any step.
    `batch_size` is the global batch's, at most the number of samples. Otherwise: in order, centre crops, the last batch may be smaller. With several ranks each yields its own slice of
    every global batch, so that together they see what one process would.
    """

    def __init__(
        self,
        samples: Samples,
        *,
        crop_size: tuple[int, int],
        batch_size: int,
        device: torch.device,
        store: str = "auto",
        training: bool = False,
        flip: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        on_progress: Progress | None = None,
    ) -> None:
        self._samples = samples
        self._crop_size = crop_size
        self.batch_size = min(batch_size, len(samples.names))
        self._device = device
        self._training = training
        self._flip = flip
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._num_threads = max(
            1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        )
        self._labels = torch.from_numpy(samples.labels)
        self.store = choose_store(samples, device) if store == "auto" else store
        self._decoded: Tensor | None = None
        if self.store == "device":
            self._decoded = self._decode_all(on_progress)
            self._labels = self._labels.to(device)
        elif self.store == "memory" and isinstance(samples, FileSamples):
            samples.preload()
        self.wait_seconds = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; at least 1."""
        return len(self._samples.names) // self.batch_size

    def from_step(self, step: int) -> Generator[Batch, None, None]:
        """Endless training batches, beginning with the one that `step` (0-based) trains on."""

        def plan() -> Iterator[tuple[NDArray[np.int64], int]]:
            epoch, position = divmod(step, self.steps_per_epoch)
            while True:
                order = np.random.default_rng([self._seed, epoch]).permutation(len(self._samples.names))
                for start in range(position, self.steps_per_epoch):
                    yield self._share(order[start * self.batch_size : (start + 1) * self.batch_size]), epoch
                epoch, position = epoch + 1, 0

        return self._prefetch(plan())

    def once(self) -> Generator[Batch, None, None]:
        """Every sample once, in order."""
        n = len(self._samples.names)
        starts = range(0, n, self.batch_size)
        return self._prefetch((np.arange(s, min(s + self.batch_size, n)), 0) for s in starts)

    def _share(self, indices: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.array_split(indices, self._world_size)[self._rank]

    def _prefetch(self, plan: Iterator[tuple[NDArray[np.int64], int]]) -> Generator[Batch, None, None]:
        """Batches in the plan's order; a few are prepared ahead by threads, `wait_seconds` sums what was waited for."""
        waiting: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="vitpe-data")
        try:
            for indices, epoch in plan:
                waiting.append(pool.submit(self._make, indices, epoch))
                if len(waiting) > self._num_threads:
                    yield self._await(waiting.popleft())
            while waiting:
                yield self._await(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _await(self, future: "Future[Batch]") -> Batch:
        began = time.perf_counter()
        batch = future.result()
        self.wait_seconds += time.perf_counter() - began
        return batch

    def _make(self, indices: NDArray[np.int64], epoch: int) -> Batch:
        stored, size = self._samples.stored_size, self._crop_size
        if self._training:
            top, left, flip = random_crops(self._seed, epoch, indices, stored, size, self._flip)
        else:
            top = np.full(len(indices), (stored[0] - size[0]) // 2)
            left = np.full(len(indices), (stored[1] - size[1]) // 2)
            flip = np.zeros(len(indices), dtype=bool)
        if self._decoded is not None and self._device.type != "cpu":
            at = torch.from_numpy(indices).to(self._device)
            images = crop_on_device(self._decoded, at, top, left, flip, size)
            return Batch(images, self._labels[at])
        if self._decoded is not None:
            source, rows = self._decoded.numpy(), indices
        else:
            source, rows = self._samples.read(indices.tolist()), np.arange(len(indices))
        images = torch.empty((len(indices), 3, *size), dtype=torch.uint8, pin_memory=self._device.type == "cuda")
        crop_on_host(source, rows, top, left, flip, images.numpy())
        labels = self._labels[torch.from_numpy(indices).to(self._labels.device)]
        return Batch(images.to(self._device, non_blocking=True), labels.to(self._device, non_blocking=True))

    def _decode_all(self, on_progress: Progress | None) -> Tensor:
        n = len(self._samples.names)
        decoded = torch.empty((n, 3, *self._samples.stored_size), dtype=torch.uint8, device=self._device)

        def read(start: int) -> int:
            part = range(start, min(start + _CHUNK, n))
            decoded[start : part.stop].copy_(torch.from_numpy(self._samples.read(part)))
            return len(part)

        done = 0
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="vitpe-decode") as pool:
            for count in pool.map(read, range(0, n, _CHUNK)):
                done += count
                if on_progress is not None:
                    on_progress(done, n)
        return decoded


def choose_store(samples: Samples, device: torch.device) -> str:
    """ "device" where the decoded split fits beside training, else "memory" (encoded), else "disk"."""
    height, width = samples.stored_size
    decoded = len(samples.names) * 3 * height * width
    if device.type == "cuda":
        if decoded <= _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]:
            return "device"
    elif decoded <= _DECODED_LIMIT or not isinstance(samples, FileSamples):
        return "device"
    if isinstance(samples, FileSamples) and samples.num_encoded_bytes() <= _MEMORY_SHARE * _available_memory():
        return "memory"
    return "disk"


def random_crops(
    seed: int,
    epoch: int,
    indices: NDArray[np.int64],
    stored_size: tuple[int, int],
    crop_size: tuple[int, int],
    flip: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(top, left, flipped) for each index, uniform over all positions; a function of (seed, epoch, index) alone."""
    key = _mix(np.uint64(seed % (1 << 64)) + _mix(np.full(len(indices), epoch, dtype=np.uint64)))
    bits = _mix(key + indices.astype(np.uint64))
    top = (bits & np.uint64(0xFFFF)) % np.uint64(stored_size[0] - crop_size[0] + 1)
    left = ((bits >> np.uint64(16)) & np.uint64(0xFFFF)) % np.uint64(stored_size[1] - crop_size[1] + 1)
    flipped = ((bits >> np.uint64(32)) & np.uint64(1)).astype(bool) & flip
    return top.astype(np.int64), left.astype(np.int64), flipped


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea & Flood, OOPSLA 2014): each bit of x moves each bit of the result."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def crop_on_host(
    source: NDArray[np.uint8],
    rows: Sequence[int] | NDArray[np.int64],
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    flip: NDArray[np.bool_],
    out: NDArray[np.uint8],
) -> None:
    """out[i] = the crop of source[rows[i]] at (top[i], left[i]), mirrored where flip[i]."""
    height, width = out.shape[-2:]
    for i, row in enumerate(rows):
        crop = source[row, :, top[i] : top[i] + height, left[i] : left[i] + width]
        out[i] = crop[..., ::-1] if flip[i] else crop


def crop_on_device(
    source: Tensor,
    at: Tensor,
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    flip: NDArray[np.bool_],
    size: tuple[int, int],
) -> Tensor:
    """What `crop_on_host` does, in one gather on the device: source[at], cropped, mirrored."""
    device = source.device
    tops, lefts, flips = (torch.from_numpy(values).to(device, non_blocking=True) for values in (top, left, flip))
    rows = tops[:, None] + torch.arange(size[0], device=device)
    columns = torch.arange(size[1], device=device).expand(len(at), -1)
    columns = lefts[:, None] + torch.where(flips[:, None], size[1] - 1 - columns, columns)
    channels = torch.arange(3, device=device)
    return source[
        at[:, None, None, None], channels[None, :, None, None], rows[:, None, :, None], columns[:, None, None, :]
    ]


def _available_memory() -> int:
    """Bytes that new allocations can take without swapping; total memory where the system does not say."""
    if hasattr(os, "sysconf") and "SC_AVPHYS_PAGES" in os.sysconf_names:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    return 8 << 30
