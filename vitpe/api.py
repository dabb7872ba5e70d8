"""vitpe from Python: a checkpoint with what it answers, what it is, and what its position embeddings look like.

`vitpe.load` is this module's; `import vitpe` alone imports none of it, and torch comes with what needs it.
"""

import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from vitpe.config import Precision
from vitpe.data.images import Remarks
from vitpe.errors import UsageError
from vitpe.inference.engines import Engine
from vitpe.inference.inputs import Input
from vitpe.inference.predict import Listing, Predictor, choose_engine, predict_files
from vitpe.inference.predictions import Prediction
from vitpe.launch import num_cpus
from vitpe.runs.find import RUNS, weights_file
from vitpe.runs.metadata import CheckpointInfo
from vitpe.runs.weights import load_arrays

if TYPE_CHECKING:
    from vitpe.model.vit import VisionTransformer

ImageLike = str | Path | Image.Image | NDArray[np.uint8]
"""A file's name, an image of Pillow's, or uint8 pixels (height, width, 3) in RGB."""

_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def load(path: str | Path | None = None, *, device: str | None = None, precision: Precision = "fp32") -> "LoadedModel":
    """The model of a checkpoint, of a run (its best), or of a folder of runs (the newest); None for that in runs.

    device: "cpu", "cuda", "cuda:1", …; None for the CPU, with numpy for few images and torch for many, as
    `vitpe predict`. precision: of matrix products; "bf16" asks for torch.
    Raises VitpeError for what cannot be read.
    """
    file = weights_file(RUNS if path is None else Path(path))
    weights, info = load_arrays(file)
    return LoadedModel(file, weights, info, device, precision)


class LoadedModel:
    """A checkpoint in memory, as `load` gives it.

    path: of the file. info: what it says of itself: the model's configuration, data, thresholds, step.
    """

    def __init__(
        self,
        path: Path,
        weights: dict[str, NDArray[np.float32]],
        info: CheckpointInfo,
        device: str | None = None,
        precision: Precision = "fp32",
    ) -> None:
        self.path, self.info = path, info
        self._weights, self._device, self._precision = weights, device, precision

    def __repr__(self) -> str:
        config = self.info.model
        rows, columns = config.grid_size
        return (
            f"<vitpe model {self.path}: {len(self.attributes)} attributes, width {config.embed_dim}, depth "
            f"{config.depth}, {rows} x {columns} patches, step {self.info.step}>"
        )

    @property
    def attributes(self) -> tuple[str, ...]:
        """The names of what it answers."""
        return self.info.attributes

    @overload
    def predict(  # type: ignore[overload-overlap]  # a str is an iterable of str, but is one name
        self, images: ImageLike, *, attributes: str | None = None, align: bool = False
    ) -> Prediction: ...
    @overload
    def predict(
        self, images: Iterable[ImageLike], *, attributes: str | None = None, align: bool = False
    ) -> list[Prediction]: ...
    def predict(
        self, images: ImageLike | Iterable[ImageLike], *, attributes: str | None = None, align: bool = False
    ) -> Prediction | list[Prediction]:
        """The record of an image, or a list of those of several, in their order, as `vitpe predict` writes them.

        attributes: names parted by commas, all for None. A record's `probs` are attribute → probability, `present` the
        attributes at or above their thresholds, `error` why the image could not be read, else None.
        align: answer for the largest face of each image; the record's `face` says where it is, or that none was
        found; then there are no probabilities. Needs the extra align.
        Raises UsageError for an unknown attribute, and for what is no image.
        """
        one = isinstance(images, str | Path | Image.Image | np.ndarray)
        wanted = cast("Iterable[Any]", [images] if one else images)
        inputs = [_input(number, image) for number, image in enumerate(wanted)]
        listing = Listing.of(self.info, attributes)
        aligner = None
        if align:
            from vitpe.inference.align import FaceAligner

            aligner = FaceAligner(Remarks())
        with _own_torch_threads():
            engine, rest = self._engine, inputs
            if engine is None:
                engine, chosen = choose_engine(self._weights, self.info, inputs)
                rest = list(chosen)
            records = list(predict_files(Predictor(engine, self.info, listing), rest, aligner))
        return records[0] if one else records

    @cached_property
    def _engine(self) -> Engine | None:
        """The one asked for; None where each call chooses."""
        if self._device is None and self._precision == "fp32":
            return None
        return choose_engine(self._weights, self.info, [], self._device, self._precision)[0]

    @cached_property
    def model(self) -> "VisionTransformer":
        """The torch module, on the CPU, for evaluation. Its input is normalised images, (B, 3, H, W)."""
        import torch

        from vitpe.runs.checkpoint import build_model

        return build_model(self.info, {name: torch.tensor(values) for name, values in self._weights.items()})

    @cached_property
    def pos_embed(self) -> NDArray[np.float32]:
        """(rows, columns, D) position embeddings of the patches."""
        found: NDArray[np.float32] = self._checkpoint.embeddings.reshape(*self.info.model.grid_size, -1)
        return found

    @cached_property
    def similarity(self) -> NDArray[np.float32]:
        """(rows, columns, rows, columns): the cosine similarity of every patch's position embedding to every other's;
        [6, 3] is the map of the patch in row 6 and column 3.
        """
        from vitpe.viz.similarity import cosine_similarity

        rows, columns = self.info.model.grid_size
        found = cosine_similarity(self._checkpoint.embeddings).astype(np.float32)
        return found.reshape(rows, columns, rows, columns)

    def visualize(self, picture: str = "final") -> Image.Image:
        """A picture of the position embeddings, which a notebook shows: "final" (all maps), "explained" or "norms"."""
        from vitpe.viz.visualize import STILLS, still_picture

        names = [name.removeprefix("pe_").removesuffix(".png") for name in STILLS]
        if picture not in names:
            raise UsageError(f"no picture {picture!r}", f"there are {', '.join(names)}")
        return Image.fromarray(still_picture(self._checkpoint, STILLS[names.index(picture)]))

    @cached_property
    def _checkpoint(self) -> Any:
        from vitpe.viz.history import read_checkpoint

        return read_checkpoint(self.path)


@contextmanager
def _own_torch_threads() -> Iterator[None]:
    """Predicting has torch use one thread for each image; afterwards it uses as many as before, or one a processor."""
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else num_cpus()
    try:
        yield
    finally:
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(before)


def _input(number: int, image: object) -> Input:
    if isinstance(image, str | Path):
        return Input(str(image))
    name = f"image {number}"
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise UsageError(
                f"{name} is an array of {image.dtype} {image.shape}", "expected uint8 pixels (height, width, 3) in RGB"
            )
        image = Image.fromarray(np.ascontiguousarray(image))
    if not isinstance(image, Image.Image):
        hint = "expected a file's name, an image of Pillow's, or an array"
        raise UsageError(f"{name} is {type(image).__name__}", hint)
    return Input(name, load=partial(_encoded, image))


def _encoded(image: Image.Image) -> bytes:
    """Without loss, so that what reads files reads it: one reader decides about colours and orientation."""
    buffer = io.BytesIO()
    upright = ImageOps.exif_transpose(image)
    upright.save(buffer, "png" if upright.mode in _PNG_MODES else "tiff")
    return buffer.getvalue()


__all__: Sequence[str] = ("ImageLike", "LoadedModel", "load")
