"""The images that a model mixes up as one picture: a band for each attribute, a column for each kind of mistake.

Its words are drawn on a figure of its own, without pyplot, as in vitpe.reporting.report.
"""

import io
from typing import Any, Final

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from vitpe.outputs import PNG_SOFTWARE
from vitpe.reporting.gallery import KINDS, NUM_IMAGES, Gallery
from vitpe.reporting.report import DPI, INK, MUTED, short
from vitpe.reporting.report_page import title
from vitpe.text import printable

_WIDTH, _HEIGHT = 80, 98  # pixels of an image
_GAP, _BETWEEN, _MARGIN = 4, 26, 24
_HEAD, _CAPTION, _NAME = 112, 20, 30
_KIND_WIDTH: Final = NUM_IMAGES * (_WIDTH + _GAP) - _GAP
_BAND: Final = _NAME + _HEIGHT + _CAPTION + 12
_WRONG: Final = "#b8452c"


def gallery_png(gallery: Gallery) -> bytes:
    """A PNG; below each image the probability in per cent, red where the answer contradicts the label."""
    answers, labels = gallery.answers, gallery.answers.truth()
    images = {number: image.resize((_WIDTH, _HEIGHT)) for number, image in gallery.images().items()}
    width = 2 * _MARGIN + len(KINDS) * _KIND_WIDTH + (len(KINDS) - 1) * _BETWEEN
    height = _HEAD + _BAND * len(gallery.columns) + _MARGIN
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")

    def text(x: float, y: float, words: str, size: float, colour: str = INK, **how: Any) -> None:
        """A baseline y pixels from the top."""
        words = printable(words)
        figure.text(x / width, 1 - y / height, words, size=size, color=colour, parse_math=False, **how)

    text(_MARGIN, 34, f"What {title(answers.info)} mixes up", 13, weight="bold")
    notes = (gallery.notice, "Below each image: the probability given, in per cent, and its label.")
    text(_MARGIN, 58, " ".join(filter(None, notes)), 8.5, MUTED)
    pasted: list[tuple[int, int, int]] = []
    for column, (heading, meaning) in enumerate(KINDS.values()):
        left = _MARGIN + column * (_KIND_WIDTH + _BETWEEN)
        text(left, 86, heading, 10.5, weight="bold")
        text(left, 102, meaning, 8, MUTED)
    for band, (a, found) in enumerate(zip(gallery.columns, gallery.mistakes, strict=True)):
        top = _HEAD + band * _BAND
        text(_MARGIN, top + 20, short(answers.attributes[a], 40), 10, weight="bold")
        counts = (found.num_false_positives, found.num_false_negatives, None)
        for column, (kind, count) in enumerate(zip(KINDS, counts, strict=True)):
            left = _MARGIN + column * (_KIND_WIDTH + _BETWEEN)
            words = f"threshold {answers.thresholds[a]:.3g}" if count is None else f"{count:,}"
            text(left + _KIND_WIDTH, top + 20, words, 8.5, MUTED, ha="right")
            for place, number in enumerate(getattr(found, kind).tolist()):
                x, y = left + place * (_WIDTH + _GAP), top + _NAME
                pasted.append((x, y, number))
                prob = float(answers.probs[number, a])
                wrong = (prob >= answers.thresholds[a]) != labels[number, a]
                words = f"{100 * prob:.1f}, is {labels[number, a]}"
                text(x + _WIDTH / 2, y + _HEIGHT + 14, words, 7.5, _WRONG if wrong else MUTED, ha="center")
    canvas = FigureCanvasAgg(figure)
    canvas.draw()  # type: ignore[no-untyped-call]
    drawn = np.asarray(canvas.buffer_rgba())  # type: ignore[no-untyped-call]
    picture = Image.fromarray(drawn).convert("RGB")
    for x, y, number in pasted:  # as pixels: through matplotlib a tall picture would take ten times as long
        picture.paste(images[number], (x, y))
    described = PngInfo()
    described.add_text("Software", PNG_SOFTWARE)
    described.add_itxt("Title", printable(title(answers.info)))
    data = io.BytesIO()
    picture.save(data, "PNG", pnginfo=described, compress_level=3)
    return data.getvalue()
