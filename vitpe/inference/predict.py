"""Images → predictions, in order and in constant memory, on all cores.

On a CPU each worker thread takes a batch of files through all of it: read, decode, crop, and the model on one thread.
That keeps every core busy without any of them waiting for another in the middle of a matrix product. For a GPU they
read, decode and crop; the caller's thread alone runs the model, a batch ahead of its answers. Torch-free: see
vitpe.inference.engines.
"""

import io
import itertools
import math
import os
import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitpe.config import Precision
from vitpe.data.image_files import is_image
from vitpe.data.images import Pixels, Remarks, decode
from vitpe.errors import VitpeError
from vitpe.files import make_folder, write_atomic
from vitpe.inference.engines import Engine, HandingOver, NumpyEngine, many_images
from vitpe.inference.inputs import Input
from vitpe.inference.maps import MapOptions, explain
from vitpe.inference.predictions import FoundFace, Prediction, select_attributes
from vitpe.launch import num_cpus
from vitpe.metrics.thresholds import sigmoid
from vitpe.outputs import PNG_SOFTWARE, refuse_foreign
from vitpe.runs.metadata import CheckpointInfo

_GRACE_S: Final = 0.02  # how long a batch waits for one more name while names are still coming
_PICTURE_NAME_BYTES: Final = 150

Align = Callable[[Pixels, str], Sequence[tuple[Pixels, FoundFace]]]
"""(decoded image (3, H, W), its name) → the parts of it to show the model, and which faces they are."""


@dataclass(frozen=True, eq=False)
class View:
    """What the model sees: uint8 (3, H, W) of its size, of the input of that name. face: which one, where it is one."""

    name: str
    pixels: Pixels
    face: FoundFace | None = None


_Read = View | Prediction
"""What the model sees, or the record of what it need not see."""


@dataclass(frozen=True)
class Listing:
    """What records say: columns of the attributes, the probability from which on each is present, and how many of them
    (top), None for all.
    """

    columns: tuple[int, ...]
    thresholds: tuple[float, ...]
    top: int | None = None

    @staticmethod
    def of(
        info: CheckpointInfo, attributes: str | None = None, threshold: float | None = None, top: int | None = None
    ) -> "Listing":
        """attributes: names parted by commas, all for None. threshold: for all, the checkpoint's own for None.

        Raises UsageError for unknown attributes.
        """
        names = info.attributes if attributes is None else [name.strip() for name in attributes.split(",")]
        columns = tuple(select_attributes(info.attributes, names))
        return Listing(columns, tuple(info.thresholds[i] if threshold is None else threshold for i in columns), top)


@dataclass(frozen=True)
class Predictor:
    """uint8 images → predictions. maps: which maps they get, None for none. views: whether they keep the image."""

    engine: Engine
    info: CheckpointInfo
    listing: Listing
    maps: MapOptions | None = None
    views: bool = False

    @property
    def attributes(self) -> tuple[str, ...]:
        """The listed attributes' names."""
        return tuple(self.info.attributes[i] for i in self.listing.columns)

    def predict(self, views: Sequence[View]) -> list[Prediction]:
        """One Prediction each; VitpeError for a model that gives NaN."""
        return self.start(views)()

    def start(self, views: Sequence[View]) -> Callable[[], list[Prediction]]:
        """What gives what `predict` does, when it is there: a GPU computes meanwhile."""
        answer = self.engine.start([view.pixels for view in views])
        return lambda: self._describe(views, answer())

    def _describe(self, views: Sequence[View], logits: NDArray[np.float64]) -> list[Prediction]:
        if not np.isfinite(logits).all():
            raise VitpeError(
                "the model's answers are not finite",
                "its weights are damaged or its training diverged: use an earlier checkpoint",
            )
        probs = sigmoid(logits)[:, list(self.listing.columns)]
        thresholds = np.array(self.listing.thresholds)
        found = [
            replace(
                Prediction.from_probs(view.name, row, self.attributes, thresholds, top=self.listing.top), face=view.face
            )
            for view, row in zip(views, probs, strict=True)
        ]
        if self.views:
            found = [replace(each, view=view.pixels) for view, each in zip(views, found, strict=True)]
        if self.maps is None:
            return found
        return [
            replace(prediction, maps=explain(self.engine, self.info, view.pixels, prediction, self.maps))
            for view, prediction in zip(views, found, strict=True)
        ]

    def prepare(self, data: bytes, name: str, align: Align | None, remarks: Remarks | None = None) -> list[View]:
        """Encoded bytes → what the model sees of it: with `align` its faces, else all; ImageError for what is no image.

        remarks: gets what is doubtful about it.
        """
        image = decode(data, (remarks or Remarks()).about(name))
        parts = [(image, None)] if align is None else align(image, name)
        return [View(name, self.info.fitting.view(part), face) for part, face in parts]


@dataclass
class ReadErrors:
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
                f"{self.count:,} image{'s' if self.count > 1 else ''} could not be read: {names}",
                "each has a record with its error; all others are complete",
            )


def choose_engine(
    weights: Mapping[str, NDArray[np.float32]],
    info: CheckpointInfo,
    inputs: Iterable[Input],
    device: str | None = None,
    precision: Precision = "fp32",
    *,
    streaming: bool = False,
    maps: MapOptions | None = None,
) -> tuple[Engine, Iterable[Input]]:
    """What will be done soonest, and the inputs again, some of which are looked at for it.

    Numpy for fewer than `many_images`, torch for more; for a stream, numpy until so many wait; with maps, for which the
    model runs more often, for as many fewer. Where a device or another precision is asked for, or maps that need
    gradients, torch. Equal inputs get the same one; when a stream changes to torch is up to the clock.
    weights, info: as from `load_arrays`, read once, so that both engines have the same though the file is replaced.
    """

    def load_torch() -> Engine:
        from vitpe.device import select_device
        from vitpe.inference.torch_engine import TorchEngine

        return TorchEngine(weights, info, select_device(device), precision)

    if device is not None or precision != "fp32" or (maps is not None and maps.needs_torch):
        return load_torch(), inputs
    many = math.ceil(many_images(info.model) / (1 if maps is None else maps.num_passes(info.model)))
    if streaming:
        return HandingOver(NumpyEngine(weights, info), load_torch, many), inputs
    rest = iter(inputs)
    first = list(itertools.islice(rest, many))
    return NumpyEngine(weights, info) if len(first) < many else load_torch(), itertools.chain(first, rest)


def predict_files(
    predictor: Predictor,
    inputs: Iterable[Input],
    align: Align | None = None,
    crops: Path | None = None,
    *,
    streaming: bool = False,
    remarks: Remarks | None = None,
) -> Generator[Prediction, None, None]:
    """A Prediction for each input, in order, as soon as its batch is done; one with an error where it cannot be read.

    align: then one for each face that it gives, and one without attributes where it gives none.

    streaming: inputs may be slow to come, so do not wait for a whole batch of them. Otherwise equal inputs make equal
    batches and so the same digits (in torch's batches of another size the last digit of six may differ).
    remarks: gets what is doubtful about the images.
    crops: a folder that gets what the model sees of each image as 00000001-NAME.png, numbered as they come, and of its
    second face as 00000001-NAME-2.png.
    """

    def read(numbered: list[tuple[int, Input]]) -> list[_Read]:
        found: list[_Read] = []
        for number, image in numbered:
            try:
                views = predictor.prepare(image.read(), image.name, align, remarks)
            except VitpeError as error:
                found.append(Prediction(image.name, error=error.message))
                continue
            if crops is not None:
                for view in views:
                    crop = crops / picture_name(number, view.name, view.face)
                    refuse_foreign(crop)
                    write_atomic(crop, _png(view.pixels))
            found += views or [Prediction(image.name, face=FoundFace())]
        return found

    def answer(found: list[_Read]) -> Callable[[], list[Prediction]]:
        views = [each for each in found if isinstance(each, View)]
        starts = range(0, len(views), engine.max_batch)  # a photo may have many faces
        started = [predictor.start(views[start : start + engine.max_batch]) for start in starts]

        def finish() -> list[Prediction]:
            done = itertools.chain(*(one() for one in started))
            return [next(done) if isinstance(each, View) else each for each in found]

        return finish

    def work(numbered: list[tuple[int, Input]]) -> list[_Read]:
        found = read(numbered)
        return [*answer(found)()] if engine.in_workers else found

    if crops is not None:
        make_pictures_folder(crops)
    engine = predictor.engine
    num_threads = num_cpus()
    size, on_full = 2 * num_threads * engine.max_batch, None
    if isinstance(engine, HandingOver):
        size, on_full = max(size, engine.many), engine.begin
    ahead = _Ahead(enumerate(inputs, start=1), size, on_full)
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="vitpe-predict")
    try:
        working: deque[Future[list[_Read]]] = deque()
        answers: deque[Callable[[], list[Prediction]]] = deque()
        num_batches = 0
        while True:
            while len(working) < 2 * num_threads:
                # Batches grow: the first answers come early, and a few images are spread over all workers.
                batch_size = min(1 << min(num_batches // num_threads, 10), engine.max_batch)
                batch = ahead.take(batch_size, streaming, wait=not working)
                if not batch:
                    break
                working.append(pool.submit(work, batch))
                num_batches += 1
            if not working:
                break
            answers.append(answer(working.popleft().result()))
            # A GPU is given the next batch, where that is ready, before these answers are waited for.
            while answers and (engine.in_workers or len(answers) > 1 or not (working and working[0].done())):
                yield from answers.popleft()()
        ahead.check()
    finally:
        ahead.close()
        pool.shutdown(wait=True, cancel_futures=True)


class _Ahead:
    """Numbered inputs taken from an iterable by a thread, because getting the next one may take for ever.

    It runs at most `size` ahead, and is let go on once for each batch: to wake it for each input would cost more.
    on_full: called, perhaps often, when so many wait.
    """

    def __init__(
        self, inputs: Iterable[tuple[int, Input]], size: int, on_full: Callable[[], None] | None = None
    ) -> None:
        self._waiting: queue.SimpleQueue[tuple[int, Input] | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(size)
        self._on_full = on_full
        self._error: BaseException | None = None
        self._closed = self._ended = False
        threading.Thread(target=self._fill, args=(inputs,), name="vitpe-inputs", daemon=True).start()

    def take(self, count: int, streaming: bool, wait: bool) -> list[tuple[int, Input]]:
        """The next `count` (at most `size`), fewer at the end. With `streaming` fewer when they come slowly, and none
        when there is none at once and not `wait`.
        """
        taken: list[tuple[int, Input]] = []
        while len(taken) < count and not self._ended:
            try:
                if not streaming or (wait and not taken):
                    item = self._waiting.get()
                else:
                    item = self._waiting.get(timeout=_GRACE_S)
            except queue.Empty:
                break
            if item is None:
                self._ended = True
            else:
                taken.append(item)
        if taken:
            self._room.release(len(taken))
        return taken

    def check(self) -> None:
        """Raise what the iterable raised, after its last input."""
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Let the thread end, once the iterable lets it."""
        self._closed = True
        self._room.release()

    def _fill(self, inputs: Iterable[tuple[int, Input]]) -> None:
        try:
            for item in inputs:
                if not self._room.acquire(blocking=False):
                    if self._on_full is not None:
                        self._on_full()
                    self._room.acquire()
                if self._closed:
                    return
                self._waiting.put(item)
        except BaseException as error:
            self._error = error
        self._waiting.put(None)


def make_pictures_folder(folder: Path) -> None:
    """Where it is missing; VitpeError if it cannot be."""
    try:
        make_folder(folder)
    except OSError as error:
        raise VitpeError(f"cannot write into {folder}: {error.strerror}", "choose another folder") from error


def picture_name(number: int, name: str, face: FoundFace | None = None) -> str:
    """No two images share one, nor two faces of an image, and images sort as they came."""
    name = Path(name).stem if is_image(name) else Path(name).name
    stem = os.fsencode(name)[:_PICTURE_NAME_BYTES]
    which = f"-{face.number}" if face is not None and face.number is not None and face.number > 1 else ""
    return f"{number:08d}-{os.fsdecode(stem)}{which}.png"


def _png(image: Pixels) -> bytes:
    from PIL.PngImagePlugin import PngInfo

    buffer = io.BytesIO()
    origin = PngInfo()
    origin.add_text("Software", PNG_SOFTWARE)
    Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0))).save(buffer, "png", pnginfo=origin)
    return buffer.getvalue()
