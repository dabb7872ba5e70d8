"""Where an image's answers come from, as a picture: the face, then the face once for each attribute, its map over it.

Drawn on a figure of its own, without pyplot, as vitpe.reporting.report is.
"""

import io
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from vitpe.inference.eval_result import MeanMaps
from vitpe.inference.predictions import EvalInfo, MapMethod, Prediction
from vitpe.outputs import PNG_SOFTWARE
from vitpe.reporting.predict_table import percent
from vitpe.reporting.report import INK, MUTED, short
from vitpe.text import printable

Floats = NDArray[np.float64]
Pixels = NDArray[np.uint8]

DPI: Final = 120
_SCALE: Final = 2  # pixels of a picture for one of the image
FOR: Final = "#d1341f"
"""The colour of what speaks for an answer."""
AGAINST: Final = "#1f6fb4"
"""And of what speaks against it."""
_FADE, _GRAY, _COVER = 0.45, 0.7, 0.85
"""How far the face is faded to white and to gray below a map, and how much of it the strongest colour covers."""
_POWER: Final = 0.75
"""Of a value's share of the largest, for its colour: below 1, so that weak maps are seen on a scale that all share."""
_GAP, _LABEL, _TITLE, _NOTE = 14, 26, 66, 34  # pixels
_MAX_COLUMNS: Final = 5
_USUAL_WIDTH: Final = 1800
_MEAN_ASPECT: Final = 1.6  # columns to rows: 8 × 5 for CelebA's

NOTES: Final[dict[MapMethod, str]] = {
    "occlusion": "red speaks for the answer, blue against it: its logit falls, or rises, without the patch,"
    " by {limit:.2g} where the colour is deepest",
    "relevance": "red speaks for the answer: attention times its gradients, {limit:.2g} where the colour is deepest",
    "attention": "red: where the attribute's query looks, whatever the answer, {limit:.1%} where the colour is deepest",
}
_MEAN_NOTES: Final[dict[MapMethod, str]] = {
    "occlusion": "red speaks for the answer, blue against it: its logit falls, or rises, without the patch, at least by"
    " the number beside the name where the colour is deepest; without colour: not surely anything (95 %)",
    "relevance": "red: what speaks for the answer more than the mean patch does, blue: less; attention times its"
    " gradients, by at least (95 %) the number beside the name where the colour is deepest",
    "attention": "red: what the attribute's query looks at more than at the mean patch, blue: less; of its look, at"
    " least (95 %) the share beside the name where the colour is deepest",
}


def map_sheet_png(prediction: Prediction) -> bytes:
    """A PNG of a prediction with maps. All maps of a sheet share one colour scale."""
    maps = prediction.maps
    assert maps is not None
    values = list(maps.values.values())
    limit = max((float(np.abs(value).max()) for value in values), default=0.0)
    tiles = [enlarge(maps.image.transpose(1, 2, 0))]
    tiles += [overlay(maps.image.transpose(1, 2, 0), value, limit) for value in values]
    labels = ["the image", *(_answer(prediction, name) for name in maps.values)]
    note = NOTES[maps.method].format(limit=limit)
    return sheet_png(tiles, labels, prediction.file, note, min(len(tiles), _MAX_COLUMNS))


def mean_sheet_png(maps: MeanMaps, attributes: Sequence[str], info: EvalInfo) -> bytes:
    """A PNG of where a model looks on average: a tile for each attribute over the mean image, each on its own scale,
    whose end is written beside its name: they differ a hundredfold.
    """
    face = maps.image.transpose(1, 2, 0)
    shown = maps.surely()
    limits = [float(np.abs(values).max()) for values in shown]
    tiles = [overlay(face, values, limit) for values, limit in zip(shown, limits, strict=True)]
    end = {"occlusion": "±{:.2g}", "relevance": "±{:.2g}", "attention": "±{:.1%}"}[maps.method]
    labels = [f"{short(name)}  {end.format(limit)}" for name, limit in zip(attributes, limits, strict=True)]
    title = f"Where {info.checkpoint} looks: the mean of {maps.num_images:,} images of {info.images}"
    columns = math.ceil(math.sqrt(_MEAN_ASPECT * len(tiles)))
    return sheet_png(tiles, labels, title, _MEAN_NOTES[maps.method], columns)


def _answer(prediction: Prediction, name: str) -> str:
    prob = percent(prediction.probs[name])
    return f"{short(name)} {prob}" if name in prediction.present else f"no {short(name)}: {prob}"


def sheet_png(tiles: Sequence[Pixels], labels: Sequence[str], title: str, note: str, columns: int) -> bytes:
    """Tiles (h, w, 3) of one size in rows of so many, each below its label."""
    height, width = tiles[0].shape[:2]
    rows = math.ceil(len(tiles) / columns)
    total_width = _GAP + columns * (width + _GAP)
    total_height = _TITLE + rows * (_LABEL + height + _GAP) + _NOTE
    figure = Figure(figsize=(total_width / DPI, total_height / DPI), dpi=DPI, facecolor="white")

    def text(x: float, y: float, words: str, size: float, colour: str, weight: str = "normal") -> None:
        """A baseline y pixels from the top."""
        place = (x / total_width, 1 - y / total_height)
        figure.text(*place, printable(words), size=size, color=colour, weight=weight, parse_math=False)

    size = min(max(total_width / _USUAL_WIDTH, 1), 1.5)  # of what is read from farther away, on a larger sheet
    text(_GAP, 42, title, 13 * size, INK, "bold")
    for number, (tile, label) in enumerate(zip(tiles, labels, strict=True)):
        row, column = divmod(number, columns)
        left, top = _GAP + column * (width + _GAP), _TITLE + row * (_LABEL + height + _GAP)
        text(left, top + 18, label, 10 if size < 1.3 else 12, INK)
        figure.figimage(tile, left, total_height - top - _LABEL - height, origin="upper")
    text(_GAP, total_height - 14, note, 8.5 * size, MUTED)
    data = io.BytesIO()
    metadata = {"Software": PNG_SOFTWARE, "Title": printable(title)}
    figure.savefig(data, format="png", dpi=DPI, facecolor="white", metadata=metadata)
    return data.getvalue()


def enlarge(image: Pixels) -> Pixels:
    """(h, w, 3) → (h · scale, w · scale, 3)."""
    height, width = image.shape[:2]
    resized = Image.fromarray(np.ascontiguousarray(image)).resize(
        (width * _SCALE, height * _SCALE), Image.Resampling.LANCZOS
    )
    return np.asarray(resized)


def overlay(image: Pixels, values: Floats, limit: float) -> Pixels:
    """The image (h, w, 3), enlarged and faded, under the colours of values (rows, columns); limit: the deepest."""
    face = enlarge(image).astype(np.float64)
    gray = face @ np.array([0.299, 0.587, 0.114])
    face = face * (1 - _GRAY) + gray[..., None] * _GRAY
    face = face * (1 - _FADE) + 255 * _FADE
    height, width = face.shape[:2]
    shares = (values / (limit or 1)).astype(np.float32)
    spread = Image.fromarray(shares).resize((width, height), Image.Resampling.BICUBIC)
    # Between values a cubic goes beyond them: no colour may say what no value does.
    share = np.clip(np.asarray(spread, dtype=np.float64), shares.min(), shares.max())[..., None]
    colour = np.where(share > 0, _rgb(FOR), _rgb(AGAINST))
    cover = _COVER * np.abs(share) ** _POWER
    pixels: Pixels = np.rint(face * (1 - cover) + colour * cover).astype(np.uint8)
    return pixels


def _rgb(colour: str) -> Floats:
    return np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)], dtype=np.float64)
