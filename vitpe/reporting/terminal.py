"""Bars, interval plots and lists out of characters, for tables on a terminal; out of ASCII where it has no others."""

import math
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

MAX_NAME = 28
"""Cells for a column of names, at most."""


@dataclass(frozen=True)
class Glyphs:
    """The characters that a terminal can show. `eighths` are a cell's fillings from none to all."""

    eighths: str = " ▏▎▍▌▋▊▉█"
    right_eighth: str = "▕"
    right_half: str = "▐"
    dash: str = "–"
    minus: str = "−"
    dot: str = "·"
    ellipsis: str = "…"
    better: str = "▲"
    worse: str = "▼"
    line: str = "─"
    point: str = "●"
    zero: str = "│"
    thin: str = "━"
    half_thin: str = "╸"


ASCII = Glyphs(
    eighths=" #",
    right_eighth="#",
    right_half="#",
    dash="-",
    minus="-",
    dot="|",
    ellipsis="~",
    better="+",
    worse="-",
    line="-",
    point="o",
    zero="|",
    thin="#",
    half_thin="",
)
UNICODE = Glyphs()


def glyphs_for(options: ConsoleOptions) -> Glyphs:
    """Block characters where the encoding has them, ASCII elsewhere."""
    return ASCII if options.ascii_only else UNICODE


def bar(share: float, width: int, glyphs: Glyphs = UNICODE) -> str:
    """`width` cells of which `share` (0 to 1) is filled from the left, to an eighth of a cell; blank for NaN."""
    if math.isnan(share):
        return " " * width
    steps = len(glyphs.eighths) - 1
    whole, rest = divmod(min(max(round(share * width * steps), 0), width * steps), steps)
    return (glyphs.eighths[-1] * whole + glyphs.eighths[rest]).ljust(width)[:width]


def thin_bar(share: float, width: int, glyphs: Glyphs = UNICODE) -> str:
    """Like `bar`, but one that leaves air between lines; to half a cell."""
    halves = min(max(round(2 * share * width), 0), 2 * width)
    return (glyphs.thin * (halves // 2) + glyphs.half_thin * (halves % 2)).ljust(width)


def signed_bar(
    value: float, low: float, high: float, width: int, styles: tuple[str, str], glyphs: Glyphs = UNICODE
) -> Text:
    """A bar to the right of zero for a positive value and to its left for a negative one; blank for NaN.

    low <= 0 <= high: what is to fit into the `width` cells, on one scale to both sides. styles: of negative and of
    positive bars.
    """
    span = high - low
    if math.isnan(value) or span <= 0 or width < 2:
        return Text(" " * width)
    left = min(math.ceil(-low / span * width), width - 1)
    if value >= 0:
        return Text(" " * left + bar(value / high if high else 0, width - left, glyphs), style=styles[1])
    # Only these blocks fill from the right: an eighth of a cell, a half, the whole.
    per_cell = max(-low / left, high / (width - left))
    whole, rest = divmod(round(8 * value / -per_cell), 8)
    part = "" if rest == 0 else glyphs.right_eighth if rest < 3 else glyphs.right_half
    return Text((part + glyphs.eighths[-1] * whole)[-left:].rjust(left).ljust(width), style=styles[0])


def interval_plot(
    value: float, low: float, high: float, reach: float, width: int, style: str, glyphs: Glyphs = UNICODE
) -> Text:
    """An interval as a line with a point at its value, on an axis from -reach to reach with zero in its middle."""

    def cell(position: float) -> int:
        return min(max(round((position / reach + 1) / 2 * (width - 1)), 0), width - 1)

    cells = [Text(" ") for _ in range(width)]
    if width and reach > 0:
        cells[cell(0)] = Text(glyphs.zero, style="dim")
        if not math.isnan(low):
            for at in range(cell(low), cell(high) + 1):
                cells[at] = Text(glyphs.line, style=style)
        if not math.isnan(value):
            cells[cell(value)] = Text(glyphs.point, style=style)
    return Text().join(cells)


@dataclass(frozen=True)
class Flow:
    """Short texts one after the other, broken into lines only between them."""

    items: tuple[str, ...]
    separator: str = ", "
    style: str = ""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines: list[str] = []
        for item in self.items:
            if lines and cell_len(lines[-1] + self.separator + item) < options.max_width:
                lines[-1] += self.separator + item
            else:
                lines.append(item)
        yield Text(f"{self.separator.rstrip()}\n".join(lines), style=self.style)
