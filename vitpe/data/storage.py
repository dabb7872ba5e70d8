"""Where a split's images are kept until they are cropped: decoded on the device, encoded in memory, or on disk."""

import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitpe.data.batch import Batch, DecodedImages
from vitpe.data.images import use_torchvision
from vitpe.data.samples import OnProgress, Samples
from vitpe.device import free_gpu_bytes
from vitpe.launch import num_cpus, num_local_workers

STORES: Final = ("device", "memory", "disk")
"""Where images may be kept, by the room that they take: most first."""
_MEMORY_SHARE: Final = 0.5  # of the machine's available memory
_DECODED_LIMIT: Final = 1 << 30  # bytes: on a CPU, small splits stay decoded, larger ones are decoded again each epoch
_CHUNK: Final = 64  # images that a thread reads in one go when a whole split is decoded up front
_MAX_THREADS: Final = 16  # decode 50,000 CelebA images a second; each holds a batch


class ImageStore:
    """A split's samples, with their images kept where they fit.

    where: "device" (decoded), "memory" (encoded) or "disk" (read or drawn again each time).
    """

    def __init__(
        self,
        samples: Samples,
        device: torch.device,
        where: str = "auto",
        on_progress: OnProgress | None = None,
        part: range | None = None,
    ) -> None:
        """Decodes or draws what is kept, which may take minutes, or begins to read it. where: "auto" for what fits.
        part: the images to decode where all are kept so, None for all; the others are to be put into `decoded`.
        """
        use_torchvision()
        self.samples, self.device = samples, device
        self.where = choose_store(samples, device) if where == "auto" else where
        self._labels = torch.from_numpy(samples.labels).to(device)
        self._decoded: Tensor | None = None
        if self.where == "device":
            part = range(len(samples.names)) if part is None else part
            self._decoded = _decode(samples, part, device, on_progress)
        self._preloading: _Preloading | None = None
        if self.where == "memory" and samples.reads_anywhere:
            self._preloading = _Preloading(samples)
        elif self.where == "memory":
            samples.preload(on_progress)

    def __len__(self) -> int:
        return len(self.samples.names)

    @property
    def decoded(self) -> Tensor | None:
        """(n, H, W, 3) uint8 on the device, as they lie in memory; None where they are not kept decoded."""
        return None if self._decoded is None else self._decoded.permute(0, 2, 3, 1)

    def close(self) -> None:
        """Read no further."""
        if self._preloading is not None:
            self._preloading.close()

    def crop(
        self,
        indices: NDArray[np.int64],
        top: NDArray[np.int64],
        left: NDArray[np.int64],
        flip: NDArray[np.bool_],
        size: tuple[int, int],
    ) -> Batch:
        """Of each index the crop of that size at (top, left), mirrored where `flip` says: images (B, 3, *size) and
        labels (B, A), both on the device. Copies to a GPU go on in the current stream.

        VitpeError naming the file for an image that cannot be read, be it one of these or of those read meanwhile.
        """
        if self._preloading is not None:
            self._preloading.check()
        places = send(torch.from_numpy(np.stack([indices, top, left, flip])), self.device)
        if self._decoded is not None and self.device.type != "cpu":
            return Batch({"places": places}, DecodedImages(self._decoded, self._labels, size))
        images = torch.empty(
            (len(indices), 3, *size),
            dtype=torch.uint8,
            memory_format=torch.channels_last,  # as decoders give them: no copy has to part the channels
            pin_memory=self.device.type == "cuda",
        )
        crop_on_host(self._whole(indices), top, left, flip, images.numpy())
        return Batch({"images": images.to(self.device, non_blocking=True), "labels": self._labels[places[0]]})

    def _whole(self, indices: NDArray[np.int64]) -> Iterable[NDArray[np.uint8]]:
        """The whole images (3, H, W), one after the other: each is cropped while it is in the processor's cache."""
        if self._decoded is None:
            return self.samples.read_each(indices.tolist())
        decoded = self._decoded.numpy()
        return (decoded[index] for index in indices)


class _Preloading:
    """Reads all of a split into memory by a thread, while training on what it needs first has begun."""

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._error: Exception | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="vitpe-preload", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._samples.preload(self._go_on)
        except _Closed:
            pass
        except Exception as error:
            self._error = error

    def _go_on(self, _done: int, _total: int) -> None:
        if self._closed.is_set():
            raise _Closed

    def check(self) -> None:
        """Raises what ended the thread."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._closed.set()
        self._thread.join()


class _Closed(Exception):
    """What is left need not be read."""


def _decode(samples: Samples, part: range, device: torch.device, on_progress: OnProgress | None) -> Tensor:
    """(n, 3, H, W) on the device, of which the images of `part` are there."""
    decoded = torch.empty(
        (len(samples.names), 3, *samples.stored_size),
        dtype=torch.uint8,
        memory_format=torch.channels_last,
        device=device,
    )

    def read(start: int) -> int:
        chunk = range(start, min(start + _CHUNK, part.stop))
        decoded[start : chunk.stop].copy_(torch.from_numpy(samples.read(chunk)))
        return len(chunk)

    done = 0
    pool = ThreadPoolExecutor(num_threads(), thread_name_prefix="vitpe-decode")
    try:
        for count in pool.map(read, range(part.start, part.stop, _CHUNK)):
            done += count
            if on_progress is not None:
                on_progress(done, len(part))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return decoded


def num_decoded_bytes(samples: Samples) -> int:
    """Of the whole split, decoded."""
    height, width = samples.stored_size
    return len(samples.names) * 3 * height * width


def choose_store(samples: Samples, device: torch.device, reserve: int = 0) -> str:
    """ "device" where the decoded split leaves `reserve` bytes of a GPU's memory free, else "memory" (encoded), else
    "disk". Each of a machine's workers keeps all images.
    """
    decoded = num_decoded_bytes(samples)
    memory = _MEMORY_SHARE * _available_memory() / num_local_workers()
    room = free_gpu_bytes(device) - reserve if device.type == "cuda" else memory
    if decoded <= (room if device.type == "cuda" else min(room, _DECODED_LIMIT)):
        return "device"
    encoded = samples.num_encoded_bytes()
    if encoded is None:  # all would have to be drawn again each epoch
        return "device" if decoded <= room else "disk"
    return "memory" if encoded <= memory else "disk"


def send(values: Tensor, device: torch.device) -> Tensor:
    """To the device. From memory that is not pinned, or not contiguous, the copy would wait for all before it."""
    if device.type == "cuda":
        values = values.contiguous().pin_memory()
    return values.to(device, non_blocking=True)


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


def num_threads() -> int:
    """That read images: one for each processor that this process may use, up to a limit."""
    return min(num_cpus(), _MAX_THREADS)


def _available_memory() -> int:
    """Bytes that new allocations can take without swapping; 8 GiB where the system does not say."""
    try:
        fields = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        return int(fields["MemAvailable"].removesuffix("kB")) * 1024
    except (OSError, KeyError, ValueError):
        return 8 << 30
