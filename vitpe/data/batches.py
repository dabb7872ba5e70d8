"""Samples → batches of cropped uint8 images on the device, prepared by threads while the model works.

Where images wait (`store`) is chosen by what fits: decoded on the device, encoded in memory, or on disk. What a
training image looks like depends on (seed, epoch, index) alone, whatever the store, the threads or the ranks.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitpe.data.file_samples import FileSamples
from vitpe.data.samples import Samples
from vitpe.errors import UsageError

_DEVICE_SHARE = 0.6  # of a GPU's free memory that the images may take; the rest is for training
_MEMORY_SHARE = 0.5  # of the machine's available memory
_DECODED_LIMIT = 1 << 30  # bytes: on a CPU, small splits stay decoded, larger ones are decoded again each epoch
_CHUNK = 64  # images that a thread reads in one go when a whole split is decoded up front
_MAX_THREADS = 16  # decode 50,000 CelebA images a second; each holds a batch

Progress = Callable[[int, int], None]
Beside = Callable[[int], Tensor | None]


@dataclass(frozen=True)
class Batch:
    """images: (B, 3, H, W) uint8 on the device, cropped, in any memory format; labels: (B, A) uint8 beside them."""

    images: Tensor
    labels: Tensor
    beside: Tensor | None = None
    """What `from_step` was asked to make for each step, on the device."""
    ready: torch.cuda.Event | None = None
    """When all is complete, where a GPU's copies run beside its computing."""


class Batches:
    """The batches of one split.

    In training: shuffled anew each epoch, random crops and flips, whole batches only, endless from any step.
    Otherwise: in order, centre crops, the last batch may be smaller.
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
        """batch_size: of the global batch; the number of samples bounds it. With several ranks each yields its slice
        of every training batch, so that together they see what one process would.

        Raises UsageError when the samples are smaller than the crop, or fewer than the ranks.
        """
        if any(stored < crop for stored, crop in zip(samples.stored_size, crop_size, strict=True)):
            raise UsageError(
                f"images of {_by(samples.stored_size)} pixels cannot be cropped to {_by(crop_size)}",
                "choose a smaller img_size",
            )
        self._samples = samples
        self._crop_size = crop_size
        batch_size = min(batch_size, len(samples.names))
        self.batch_size = batch_size - batch_size % world_size  # else the ranks' mean is not the batch's
        if self.batch_size == 0:
            raise UsageError(f"{len(samples.names)} images cannot be shared by {world_size} workers", "start fewer")
        self._device = device
        self._training = training
        self._flip = flip
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._num_threads = min(_num_cpus(), _MAX_THREADS)
        self._copies = torch.cuda.Stream(device) if device.type == "cuda" else None  # type: ignore[no-untyped-call]
        self._labels = torch.from_numpy(samples.labels).to(device)
        self.store = choose_store(samples, device) if store == "auto" else store
        self._decoded: Tensor | None = None
        if self.store == "device":
            self._decoded = self._decode_all(on_progress)
        elif self.store == "memory" and isinstance(samples, FileSamples):
            samples.preload(on_progress)
        self.wait_seconds = 0.0

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch; at least 1."""
        return len(self._samples.names) // self.batch_size

    def from_step(self, step: int, beside: Beside = lambda _: None) -> Generator[Batch, None, None]:
        """Endless training batches, beginning with the one that `step` (0-based) trains on.

        beside: what else a step needs, made on the CPU from the step's number, in the threads that make the batches.
        """

        def plan() -> Iterator[tuple[NDArray[np.int64], int, int]]:
            epoch, position = divmod(step, self.steps_per_epoch)
            while True:
                order = np.random.default_rng([self._seed, epoch]).permutation(len(self._samples.names))
                for start in range(position, self.steps_per_epoch):
                    batch = order[start * self.batch_size : (start + 1) * self.batch_size]
                    number = epoch * self.steps_per_epoch + start
                    yield np.split(batch, self._world_size)[self._rank], epoch, number
                epoch, position = epoch + 1, 0

        return self._prefetch(plan(), beside)

    def once(self) -> Generator[Batch, None, None]:
        """Every sample once, in order; each rank gets them all."""
        return self._through(np.arange(len(self._samples.names)))

    def sample(self, count: int) -> Generator[Batch, None, None]:
        """`count` samples at random, all where there are fewer; each rank gets the same."""
        return self._through(np.random.default_rng(self._seed).permutation(len(self._samples.names))[:count])

    def _through(self, indices: NDArray[np.int64]) -> Generator[Batch, None, None]:
        starts = range(0, len(indices), self.batch_size)
        plan = ((indices[start : start + self.batch_size], 0, 0) for start in starts)
        return self._prefetch(plan, lambda _: None)

    def _prefetch(
        self, plan: Iterator[tuple[NDArray[np.int64], int, int]], beside: Beside
    ) -> Generator[Batch, None, None]:
        """Batches in the order of the plan's indices, epochs and steps; a few are prepared ahead by threads,
        `wait_seconds` sums what was waited for.
        """
        waiting: deque[Future[Batch]] = deque()
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="vitpe-data")
        try:
            for indices, epoch, step in plan:
                waiting.append(pool.submit(self._make, indices, epoch, step, beside))
                if len(waiting) > self._num_threads:
                    yield self._await(waiting.popleft())
            while waiting:
                yield self._await(waiting.popleft())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _await(self, future: "Future[Batch]") -> Batch:
        began = time.perf_counter()
        batch = future.result()
        if batch.ready is not None:
            computing = torch.cuda.current_stream(self._device)
            computing.wait_event(batch.ready)
            for tensor in (batch.images, batch.labels, batch.beside):
                if tensor is not None:
                    tensor.record_stream(computing)  # so that its memory is not given away while the model reads it
        self.wait_seconds += time.perf_counter() - began
        return batch

    def _make(self, indices: NDArray[np.int64], epoch: int, step: int, make_beside: Beside) -> Batch:
        stored, size = self._samples.stored_size, self._crop_size
        if self._training:
            top, left, flip = random_crops(self._seed, epoch, indices, stored, size, self._flip)
        else:
            top = np.full(len(indices), (stored[0] - size[0]) // 2)
            left = np.full(len(indices), (stored[1] - size[1]) // 2)
            flip = np.zeros(len(indices), dtype=bool)
        beside = make_beside(step)
        on_device = self._decoded if self._device.type != "cpu" else None
        if on_device is None:
            images = torch.empty(
                (len(indices), 3, *size),
                dtype=torch.uint8,
                memory_format=torch.channels_last,  # as decoders give them: no copy has to part the channels
                pin_memory=self._device.type == "cuda",
            )
            crop_on_host(self._stored(indices), top, left, flip, images.numpy())
        with self._copying():
            places = self._send(torch.from_numpy(np.stack([indices, top, left, flip])))
            if on_device is None:
                images = images.to(self._device, non_blocking=True)
            else:
                images = crop_on_device(on_device, places, size)
            return Batch(
                images,
                self._labels[places[0]],
                None if beside is None else self._send(beside),
                None if self._copies is None else self._copies.record_event(),
            )

    def _send(self, values: Tensor) -> Tensor:
        """To the device. From memory that is not pinned, or not contiguous, the copy would wait for all before it."""
        if self._device.type == "cuda":
            values = values.contiguous().pin_memory()
        return values.to(self._device, non_blocking=True)

    def _stored(self, indices: NDArray[np.int64]) -> Iterable[NDArray[np.uint8]]:
        """The whole images (3, H, W), one after the other."""
        if self._decoded is not None:
            decoded = self._decoded.numpy()
            return (decoded[index] for index in indices)
        if isinstance(self._samples, FileSamples):
            # One at a time, so that each is cropped while it is still in the processor's cache.
            return (self._samples.read([index])[0] for index in indices.tolist())
        return self._samples.read(indices.tolist())

    def _copying(self) -> AbstractContextManager[object]:
        """Within, copies to a GPU go on beside its computing."""
        return torch.cuda.stream(self._copies) if self._copies is not None else nullcontext()

    def _decode_all(self, on_progress: Progress | None) -> Tensor:
        n = len(self._samples.names)
        decoded = torch.empty(
            (n, 3, *self._samples.stored_size),
            dtype=torch.uint8,
            memory_format=torch.channels_last,
            device=self._device,
        )

        def read(start: int) -> int:
            part = range(start, min(start + _CHUNK, n))
            decoded[start : part.stop].copy_(torch.from_numpy(self._samples.read(part)))
            return len(part)

        done = 0
        pool = ThreadPoolExecutor(self._num_threads, thread_name_prefix="vitpe-decode")
        try:
            for count in pool.map(read, range(0, n, _CHUNK)):
                done += count
                if on_progress is not None:
                    on_progress(done, n)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
        return decoded


def choose_store(samples: Samples, device: torch.device) -> str:
    """ "device" where the decoded split fits beside training, else "memory" (encoded), else "disk"."""
    height, width = samples.stored_size
    decoded = len(samples.names) * 3 * height * width
    encoded_first = isinstance(samples, FileSamples)  # what is not in files would have to be drawn again each epoch
    if device.type == "cuda":
        room = _DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    else:
        room = _MEMORY_SHARE * _available_memory()
        if encoded_first:
            room = min(room, _DECODED_LIMIT)
    if decoded <= room:
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
    images: Iterable[NDArray[np.uint8]],
    top: NDArray[np.int64],
    left: NDArray[np.int64],
    flip: NDArray[np.bool_],
    out: NDArray[np.uint8],
) -> None:
    """out[i] = the crop of image i (3, H, W) at (top[i], left[i]), mirrored where flip[i]."""
    height, width = out.shape[-2:]
    for image, y, x, mirrored, target in zip(images, top.tolist(), left.tolist(), flip.tolist(), out, strict=True):
        crop = image[:, y : y + height, x : x + width]
        if mirrored:  # channel by channel: with the channels last in memory numpy would go through them innermost
            for to, plane in zip(target, crop, strict=True):
                to[...] = plane[:, ::-1]
        else:
            target[...] = crop


def crop_on_device(source: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """What `crop_on_host` does, in one gather on the device.

    source: (n, 3, H, W), the channels last in memory. places: int64 (4, B), each image's index in the source, its top,
    its left, and 1 to mirror it.
    """
    height, width = size
    at, top, left, flip = places[:, :, None].unbind()
    rows = at * source.shape[2] + top + torch.arange(height, device=source.device)
    columns = torch.arange(width, device=source.device)
    columns = left + torch.where(flip > 0, width - 1 - columns, columns)
    # A number for each pixel in all the images: of several, torch would write each out in full, 75 MB for 256 images.
    numbers = rows[:, :, None] * source.shape[3] + columns[:, None, :]
    return source.permute(0, 2, 3, 1).flatten(0, 2)[numbers].permute(0, 3, 1, 2)


def _num_cpus() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _available_memory() -> int:
    """Bytes that new allocations can take without swapping; 8 GiB where the system does not say."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].removesuffix("kB")) * 1024
    except (OSError, KeyError, ValueError):
        return 8 << 30


def _by(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
