"""Image files → predictions, in order and in constant memory: decoding and the model overlap.

A reader thread submits files to a pool that decodes them, at most a few batches ahead. The model takes what is
decoded, up to a batch: one file alone is answered at once, many come in full batches.
"""

import glob
import io
import os
import queue
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vitpe.data.images import ImageError, center_crop, decode, fit
from vitpe.errors import UsageError, VitpeError
from vitpe.files import write_atomic
from vitpe.model.vit import VisionTransformer
from vitpe.scoring.evaluate import predict_logits
from vitpe.scoring.records import Prediction, predict_record, select_attributes
from vitpe.scoring.thresholds import sigmoid
from vitpe.training.checkpoint import CheckpointInfo, load_checkpoint

IMAGE_SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
STDIN_IMAGE: Final = "-"
_MAX_BATCH: Final = 32
_BATCHES_AHEAD: Final = 3

Align = Callable[[Tensor, str], Tensor]
"""(decoded image (3, H, W), its name) → the part of it to show the model."""


@dataclass(frozen=True)
class Predictor:
    """A model and which of its attributes to list, with the thresholds that call one present."""

    model: VisionTransformer
    info: CheckpointInfo
    listed: tuple[int, ...]
    thresholds: tuple[float, ...]
    device: torch.device
    top: int | None = None

    @property
    def attributes(self) -> tuple[str, ...]:
        """The listed attributes' names."""
        return tuple(self.info.attributes[i] for i in self.listed)

    def predict(self, names: list[str], images: list[Tensor]) -> list[Prediction]:
        """One Prediction for each uint8 (3, H, W) image of the model's size."""
        batch = torch.stack(images).to(self.device)
        logits = predict_logits(self.model, batch, self.info.mean, self.info.std).cpu().double().numpy()
        probs = sigmoid(logits)[:, list(self.listed)]
        thresholds = np.array(self.thresholds)
        return [
            predict_record(name, row, self.attributes, thresholds, top=self.top)
            for name, row in zip(names, probs, strict=True)
        ]

    def prepare(self, data: bytes, name: str, align: Align | None) -> Tensor:
        """Encoded bytes → uint8 (3, H, W) as the model sees it; ImageError for what is no image."""
        image = decode(data)
        if align is not None:
            image = align(image, name)
        return center_crop(fit(image, self.info.stored_size), self.info.model.img_size)


@dataclass
class Failures:
    """Counts the predictions that are errors as they pass, and keeps the first few names."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def watch(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """The same predictions."""
        for prediction in predictions:
            if prediction.error is not None:
                self.count += 1
                self.first = [*self.first, prediction.file][:3]
            yield prediction

    def check(self) -> None:
        """VitpeError when there was any."""
        if self.count:
            names = ", ".join(self.first) + (" …" if self.count > len(self.first) else "")
            raise VitpeError(
                f"{self.count} image{'s' if self.count > 1 else ''} could not be read: {names}",
                "each has a record with its error; all others are complete",
            )


def load_predictor(
    checkpoint: Path,
    device: torch.device,
    attributes: str | None = None,
    threshold: float | None = None,
    top: int | None = None,
) -> Predictor:
    """attributes: names parted by commas, all for None. threshold: in [0, 1] for all, the checkpoint's own for None.

    Raises UsageError for unknown attributes and values out of range, VitpeError for a bad checkpoint.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise UsageError(f"threshold {threshold} is not a probability", "choose one from 0 to 1")
    if top is not None and top < 1:
        raise UsageError(f"top {top} lists nothing", "choose 1 or more")
    model, info = load_checkpoint(checkpoint)
    names = info.attributes if attributes is None else [name.strip() for name in attributes.split(",")]
    listed = tuple(select_attributes(info.attributes, names))
    thresholds = tuple(info.thresholds[i] if threshold is None else threshold for i in listed)
    return Predictor(model.to(device), info, listed, thresholds, device, top)


def predict_files(
    predictor: Predictor, names: Iterable[str], align: Align | None = None, crops: Path | None = None
) -> Iterator[Prediction]:
    """A Prediction for each file, in order, as soon as its batch is done; one with an error where it cannot be read.

    crops: a folder that gets what the model sees of each file, as PNG files.
    """

    def load(name: str) -> Tensor:
        try:
            data = sys.stdin.buffer.read() if name is STDIN_IMAGE else Path(name).read_bytes()
        except OSError as error:
            raise ImageError(error.strerror or str(error)) from error
        image = predictor.prepare(data, name, align)
        if crops is not None:
            write_atomic(crops / f"{name.strip('/').replace('/', '_')}.png", _png(image))
        return image

    num_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    waiting: queue.Queue[tuple[str, Future[Tensor]] | BaseException | None] = queue.Queue(_BATCHES_AHEAD * _MAX_BATCH)
    stopped = threading.Event()

    def submit_all() -> None:
        end: BaseException | None = None
        try:
            for name in names:
                _put(waiting, (name, pool.submit(load, name)), stopped)
                if stopped.is_set():
                    return
        except BaseException as error:  # shown where the predictions are taken
            end = error
        _put(waiting, end, stopped)

    if crops is not None:
        crops.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(num_threads, thread_name_prefix="vitpe-decode") as pool:
        reader = threading.Thread(target=submit_all, name="vitpe-paths", daemon=True)
        reader.start()
        try:
            finished = False
            while not finished:
                chunk = _take(waiting)
                if not isinstance(chunk[-1], tuple):
                    finished, end = True, chunk.pop()
                yield from _answer(predictor, [item for item in chunk if isinstance(item, tuple)])
            if isinstance(end, BaseException):
                raise end
        finally:
            stopped.set()
            pool.shutdown(wait=True, cancel_futures=True)


def expand_paths(arguments: Iterable[str]) -> Iterator[str]:
    """Files as they are, the images of folders (recursively, sorted) and of glob patterns. A name that is nothing of
    these is passed on, to become a record with an error.
    """
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            yield from _images_below(path)
        elif not path.exists() and glob.has_magic(argument):
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
            if not matches:
                raise VitpeError(f"nothing matches {argument}", "check the pattern; quote it so that it arrives whole")
            yield from matches
        else:
            yield argument


def paths_from(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    """Names parted by `separator`, each as soon as it has arrived; empty ones are skipped."""
    rest = b""
    while chunk := stream.read1(1 << 16) if hasattr(stream, "read1") else stream.read(1 << 16):
        *whole, rest = (rest + chunk).split(separator)
        yield from _names(whole, separator)
    yield from _names([rest], separator)


def _names(parts: list[bytes], separator: bytes) -> Iterator[str]:
    for part in parts:
        name = part.removesuffix(b"\r") if separator == b"\n" else part
        if name:
            yield os.fsdecode(name)


def _png(image: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(buffer, "png")
    return buffer.getvalue()


def _images_below(folder: Path) -> Iterator[str]:
    found = False
    for parent, folders, files in os.walk(folder):
        folders.sort()
        for file in sorted(files):
            if file.lower().endswith(IMAGE_SUFFIXES):
                found = True
                yield str(Path(parent) / file)
    if not found:
        raise VitpeError(f"no images in {folder}", f"looked for {', '.join(IMAGE_SUFFIXES)}")


def _take(
    waiting: "queue.Queue[tuple[str, Future[Tensor]] | BaseException | None]",
) -> list[tuple[str, Future[Tensor]] | BaseException | None]:
    """Wait for one, then take what else is there already, up to a batch or the end."""
    chunk = [waiting.get()]
    while len(chunk) < _MAX_BATCH and isinstance(chunk[-1], tuple):
        try:
            chunk.append(waiting.get_nowait())
        except queue.Empty:
            break
    return chunk


def _put(
    waiting: "queue.Queue[tuple[str, Future[Tensor]] | BaseException | None]",
    item: tuple[str, Future[Tensor]] | BaseException | None,
    stopped: threading.Event,
) -> None:
    """Put once there is room, or give up when nobody takes any more."""
    while not stopped.is_set():
        try:
            waiting.put(item, timeout=0.1)
            return
        except queue.Full:
            continue


def _answer(predictor: Predictor, chunk: list[tuple[str, "Future[Tensor]"]]) -> Iterator[Prediction]:
    results: dict[int, Prediction] = {}
    slots, names, images = [], [], []
    for slot, (name, future) in enumerate(chunk):
        try:
            images.append(future.result())
            names.append(name)
            slots.append(slot)
        except ImageError as error:
            results[slot] = Prediction(name, error=error.message)
    if images:
        results.update(zip(slots, predictor.predict(names, images), strict=True))
    yield from (results[slot] for slot in range(len(chunk)))
