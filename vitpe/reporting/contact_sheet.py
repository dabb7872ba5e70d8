"""Images, each with the attributes that say most about it: what a contact sheet holds, and its web page."""

import base64
import io
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image

from vitpe.celeba import ATTRIBUTES, PREVALENCE
from vitpe.config import DRAWN_FACES
from vitpe.data.images import Pixels
from vitpe.inference.predictions import Prediction
from vitpe.reporting.page import render, shared_text
from vitpe.runs.metadata import CheckpointInfo
from vitpe.text import printable

NUM_TELLING: Final = 5
"""Attributes of an image that are shown where none are chosen."""
MAX_CHOSEN: Final = 12
MAX_IMAGES: Final = {".html": 1000, ".png": 120}
"""Of a sheet: more would open slowly, or be too tall for programs that show pictures."""
_VIEW_SIDE: Final = 260
"""Of an image in the sheet, in pixels, at most."""
_JPEG_QUALITY: Final = 88


@dataclass(frozen=True)
class Tile:
    """An image of a sheet. jpeg: None where it has no answer. shown: the attributes that are shown, in order."""

    prediction: Prediction
    jpeg: bytes | None
    shown: tuple[str, ...]

    @property
    def which_face(self) -> str:
        """Which of several faces it is, to stand after the file's name."""
        face = self.prediction.face
        return "" if face is None or face.count < 2 else f", face {face.number} of {face.count}"


@dataclass
class ContactSheet:
    """Gathers predictions that keep their view. kind: the file's suffix. chosen: the attributes are the user's choice,
    and shown in its order; else the most telling ones, see `telling`.
    """

    checkpoint: Path
    info: CheckpointInfo
    kind: str
    chosen: bool = False
    tiles: list[Tile] = field(default_factory=list)
    num_images: int = 0

    def add(self, prediction: Prediction) -> None:
        """One more, as far as there is room."""
        self.num_images += 1
        if len(self.tiles) >= MAX_IMAGES[self.kind]:
            return
        shown = [*prediction.probs][:MAX_CHOSEN] if self.chosen else self.telling(prediction)[:NUM_TELLING]
        jpeg = None if prediction.view is None else _jpeg(prediction.view)
        self.tiles.append(Tile(_without_view(prediction), jpeg, tuple(shown)))

    def telling(self, prediction: Prediction) -> list[str]:
        """The attributes, those first whose probability is farthest from how often they are there at all."""
        rates = self.base_rates
        return sorted(prediction.probs, key=lambda name: -abs(prediction.probs[name] - rates.get(name, 0.5)))

    @property
    def base_rates(self) -> dict[str, float]:
        """Attribute → how often it is there: in the training images where the checkpoint says so, else in CelebA."""
        if self.info.prevalence:
            return dict(zip(self.info.attributes, self.info.prevalence, strict=True))
        published = dict(zip(ATTRIBUTES, PREVALENCE, strict=True))
        return {name: published[name] for name in self.info.attributes if name in published}

    def count_in_words(self) -> str:
        """How many images it has, and of how many."""
        count = len(self.tiles)
        images = f"{count:,} image{'' if count == 1 else 's'}"
        return images if count == self.num_images else f"the first {images} of {self.num_images:,}"

    def title(self) -> str:
        """What it shows."""
        count = self.count_in_words()
        return printable(f"{count[0].upper()}{count[1:]}, answered by {self.checkpoint}")

    def lines(self) -> list[str]:
        """What has to be known to read it."""
        rates = "in the training images" if self.info.prevalence else "in CelebA"
        what = "The bar is the probability of an attribute, strong where it counts as present"
        if self.base_rates:
            what += f"; the tick is how often it is there {rates}"
        lines = [f"{what}."]
        if not self.chosen:
            against = "that tick" if self.base_rates else "one half"
            lines.append(f"Of each image those attributes are shown whose probability is farthest from {against}.")
        elif any(len(tile.prediction.probs) > len(tile.shown) for tile in self.tiles):
            lines.append(f"The first {MAX_CHOSEN} attributes are shown.")
        if self.info.data_source == DRAWN_FACES:
            lines.append("The model was trained on drawn faces: do not trust it on photos.")
        return lines


def sheet_html(sheet: ContactSheet) -> str:
    """The page, its images in it as JPEG."""
    names, rates = sheet.info.attributes, sheet.base_rates
    places = {name: place for place, name in enumerate(names)}

    def image(tile: Tile) -> dict[str, Any]:
        probs, present = tile.prediction.probs, tile.prediction.present
        return {
            "file": printable(tile.prediction.file) + tile.which_face,
            "jpeg": None if tile.jpeg is None else base64.b64encode(tile.jpeg).decode("ascii"),
            "probs": [round(probs[name], 4) if name in probs else None for name in names],
            "present": [places[name] for name in present],
            "shown": [places[name] for name in tile.shown],
            "error": None if (reason := tile.prediction.no_answer) is None else printable(reason),
        }

    listed = {name for tile in sheet.tiles for name in tile.prediction.probs}
    height, width = sheet.info.model.img_size
    data = {
        "lines": sheet.lines(),
        "size": [width, height],
        "attributes": [
            {"name": printable(name), "rate": None if name not in rates else round(rates[name], 4)} for name in names
        ],
        "listed": [place for name, place in places.items() if name in listed],
        "images": [image(tile) for tile in sheet.tiles],
    }
    return render(shared_text("sheet.html"), sheet.title(), data)


def _without_view(prediction: Prediction) -> Prediction:
    return Prediction(prediction.file, prediction.probs, prediction.present, prediction.error, face=prediction.face)


def _jpeg(view: Pixels) -> bytes:
    image = Image.fromarray(np.ascontiguousarray(view.transpose(1, 2, 0)))
    scale = _VIEW_SIDE / max(image.size)
    if scale < 1:
        size = (max(1, math.floor(image.width * scale)), max(1, math.floor(image.height * scale)))
        image = image.resize(size, Image.Resampling.LANCZOS)
    data = io.BytesIO()
    image.save(data, "JPEG", quality=_JPEG_QUALITY)
    return data.getvalue()
