"""A sheet of paper measured in pixels from its top left corner, drawn on by matplotlib's rasteriser without pyplot."""

from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import Any, Literal

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont
from matplotlib.lines import Line2D
from matplotlib.patches import Ellipse, FancyArrowPatch, Patch, Rectangle
from numpy.typing import NDArray
from PIL import ImageFont

from vitpe.viz.colours import BACKGROUND, INK, Pixels

# The font that matplotlib carries along: pictures look the same on every machine.
FONT = "DejaVu Sans"
# 22 cm at 300 dots per inch.
PRINT_WIDTH = 2600
MAX_PRINT_SCALE = 3
Points = Sequence[float] | NDArray[np.float64]
Weight = Literal["normal", "bold"]
HorizontalAlignment = Literal["left", "center", "right"]


def print_scale(width: int) -> int:
    """How many times as large a picture `width` pixels wide is drawn for print."""
    return max(1, min(MAX_PRINT_SCALE, PRINT_WIDTH // width))


@cache
def font(size: int, weight: Weight = "normal") -> ImageFont.FreeTypeFont:
    """The font as Pillow draws it, `size` in pixels."""
    return ImageFont.truetype(findfont(FontProperties(family=FONT, weight=weight)), size)


def text_width(text: str, size: float, weight: Weight = "normal") -> float:
    """Width of one line in pixels."""
    return font(100, weight).getlength(text) * size / 100


def shorten(text: str, size: float, width: float, weight: Weight = "normal") -> str:
    """The text, or its beginning and an ellipsis, at most `width` pixels wide."""
    if text_width(text, size, weight) <= width:
        return text
    return next(
        short for end in range(len(text), -1, -1) if text_width(short := f"{text[:end]}…", size, weight) <= width
    )


def wrap(text: str, size: float, width: float) -> list[str]:
    """Break a text into lines at most `width` pixels wide; a longer word stands alone."""
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


class Sheet:
    """All measures are pixels at scale 1, y downwards; text is placed by its baseline."""

    def __init__(self, width: int, height: int, scale: int = 1) -> None:
        self.width, self.height, self.scale = width, height, scale
        # At 72 dots per inch a point is a pixel, so font sizes and line widths are pixels, too.
        self._order = count(1)
        self._figure = Figure(figsize=(width / 72, height / 72), dpi=72 * scale, facecolor=BACKGROUND)
        self._canvas = FigureCanvasAgg(self._figure)
        self._transform = mpl.transforms.Affine2D().scale(scale).scale(1, -1).translate(0, height * scale)

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 13,
        colour: str = INK,
        weight: Weight = "normal",
        align: HorizontalAlignment = "left",
        **style: Any,
    ) -> None:
        """One line, its baseline at y."""
        self._figure.text(
            x,
            y,
            text,
            transform=self._transform,
            fontsize=size,
            color=colour,
            fontweight=weight,
            ha=align,
            va="baseline",
            fontfamily=FONT,
            parse_math=False,
            zorder=next(self._order),
            **style,
        )

    def paragraph(
        self, x: float, y: float, width: float, text: str, size: float = 12.5, colour: str = INK, leading: float = 1.4
    ) -> float:
        """Wrapped lines, the first baseline at y; returns the baseline that a next line would have."""
        for line in wrap(text, size, width):
            self.text(x, y, line, size, colour)
            y += size * leading
        return y

    def line(self, xs: Points, ys: Points, colour: str, width: float = 1, **style: Any) -> None:
        """A line through points."""
        self._add(Line2D(list(xs), list(ys), color=colour, linewidth=width, **style))

    def rectangle(
        self, x: float, y: float, width: float, height: float, fill: str = "none", edge: str = "none", line: float = 1
    ) -> None:
        """A rectangle from its top left corner."""
        line = 0 if edge == "none" else line
        self._add(Rectangle((x, y), width, height, facecolor=fill, edgecolor=edge, linewidth=line, joinstyle="miter"))

    def ellipse(
        self, x: float, y: float, width: float, height: float, colour: str, line: float = 1, fill: str = "none"
    ) -> None:
        """An ellipse around (x, y), its outline in `colour`."""
        self._add(Ellipse((x, y), width, height, facecolor=fill, edgecolor=colour, linewidth=line))

    def picture(self, pixels: Pixels, x: float, y: float) -> None:
        """RGB pixels (height, width, 3), made for this scale and not resampled, below all that is drawn."""
        bottom = self.height * self.scale - round(y * self.scale) - pixels.shape[0]
        self._figure.figimage(pixels, round(x * self.scale), bottom, origin="upper", zorder=-1)

    def arrow(self, start: tuple[float, float], end: tuple[float, float], colour: str, bend: float = 0.0) -> None:
        """A curved arrow with a halo; `bend` is the height of its bow as a share of its length."""
        for ink, line in ((BACKGROUND, 5.0), (colour, 1.8)):
            arrow = FancyArrowPatch(
                start,
                end,
                connectionstyle=f"arc3,rad={bend}",
                arrowstyle="-|>,head_length=8,head_width=4",
                color=ink,
                linewidth=line,
                shrinkA=0,
                shrinkB=0,
                mutation_scale=1,
                capstyle="round",
            )
            self._add(arrow)

    def leader(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """A thin line with a halo that leads from a word to a thing, and ends there in a dot."""
        xs, ys = (start[0], end[0]), (start[1], end[1])
        self.line(xs, ys, BACKGROUND, 3.6)
        self.line(xs, ys, INK, 1.2)
        self.line([end[0]], [end[1]], INK, 0, marker="o", markersize=5, markeredgecolor=BACKGROUND)

    def pixels(self) -> Pixels:
        """The sheet as RGB (height · scale, width · scale, 3)."""
        self._canvas.draw()  # type: ignore[no-untyped-call]
        return np.asarray(self._canvas.buffer_rgba())[..., :3].copy()  # type: ignore[no-untyped-call]

    def _add(self, artist: Line2D | Patch) -> None:
        artist.set_transform(self._transform)
        artist.set_figure(self._figure)
        artist.set_zorder(next(self._order))  # what is drawn later lies above
        self._figure.add_artist(artist)
