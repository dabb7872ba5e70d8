"""Colour bars, which colour stands for which number, and the numbers of rows and columns."""

import math

import numpy as np
from numpy.typing import NDArray

from vitpe.viz.colours import MUTED, Palette, Pixels
from vitpe.viz.sheet import Sheet
from vitpe.viz.tiles import Tiles


def bar_levels(width: int, height: int, palette: Palette) -> Pixels:
    """The colour map from left to right as palette indices (height, width)."""
    levels: NDArray[np.uint8] = (np.arange(width) * palette.num_levels // width).astype(np.uint8)
    return np.broadcast_to(levels, (height, width))


def draw_bar(
    sheet: Sheet, x: float, y: float, width: int, height: int, palette: Palette, ends: tuple[float, float] | None
) -> None:
    """A bar with its top left corner at (x, y); with (low, high) in `ends` there are ticks below."""
    sheet.picture(palette.to_rgb(bar_levels(width * sheet.scale, height * sheet.scale, palette)), x, y)
    if ends is not None:
        draw_ticks(sheet, x, y + height, width, *ends)


def draw_ticks(sheet: Sheet, x: float, y: float, width: float, low: float, high: float) -> None:
    """Ticks and their numbers below a bar whose lower edge is y."""
    for value, label in ticks(low, high):
        tick = x + (value - low) / (high - low) * width
        sheet.line([tick, tick], [y, y + 4], MUTED)
        sheet.text(tick, y + 15, label, 10.5, MUTED, align="center")


def draw_numbers(sheet: Sheet, tiles: Tiles, x: float, y: float) -> None:
    """Row numbers on the left and column numbers above tiles, made for the sheet's scale, that stand at (x, y)."""
    num_rows, num_columns = tiles.grid_size
    every = max(1, -(-16 * sheet.scale // (tiles.cell * num_columns)))
    for row in range(0, num_rows, every):
        top, _, bottom, _ = tiles.tile_box(row, 0)
        sheet.text(x - 7, y + (top + bottom) / 2 / sheet.scale + 3.5, str(row), 9.5, MUTED, align="right")
    for column in range(0, num_columns, every):
        _, left, _, right = tiles.tile_box(0, column)
        sheet.text(x + (left + right) / 2 / sheet.scale, y - 7, str(column), 9.5, MUTED, align="center")


def ticks(low: float, high: float, max_ticks: int = 5) -> list[tuple[float, str]]:
    """At most `max_ticks` + 1 round values from low to high (low < high), and their labels."""
    exponent = math.floor(math.log10((high - low) / max_ticks))
    candidates = [factor * 10.0**exponent for factor in (1, 2, 5, 10)]
    spacing = next(candidate for candidate in candidates if (high - low) / candidate <= max_ticks)
    digits = max(0, -math.floor(math.log10(spacing) + 1e-9))
    values = [i * spacing for i in range(math.ceil(low / spacing - 1e-6), math.floor(high / spacing + 1e-6) + 1)]
    return [(value, f"{value:.{digits}f}".replace("-", "−")) for value in values]
