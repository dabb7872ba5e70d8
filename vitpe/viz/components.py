"""The panels beside the maps: lengths of the embeddings, their principal components, and the patch filters' components.

All of it comes from one checkpoint file; compare arXiv:2010.11929, Figure 7.
"""

import numpy as np
from numpy.typing import NDArray

from vitpe.viz.colours import MUTED, UNDEFINED, Palette, Pixels
from vitpe.viz.history import Checkpoint
from vitpe.viz.maps import draw_bar
from vitpe.viz.sheet import Sheet, print_scale
from vitpe.viz.similarity import component_colours, filter_components, norms

MARGIN = 28
TOP = 118
GAP = 48
MAP_HEIGHT = 312
MAX_MAP_WIDTH = 340
NUM_FILTERS = 28
FILTERS_PER_ROW = 7
NO_FILTERS = "This file holds no patch projection with colour channels."


def components_picture(checkpoint: Checkpoint, palette: Palette, scale: int | None = None) -> Pixels:
    """RGB pixels; `scale` 1 is for screens, None for print."""
    num_rows, num_columns = checkpoint.grid_size
    cell = max(1, min(MAP_HEIGHT // num_rows, MAX_MAP_WIDTH // num_columns))
    map_width, map_height = num_columns * cell, num_rows * cell
    pictures = _filter_pictures(checkpoint)
    filter_side = (MAP_HEIGHT - 3 * 6) // 4
    filters_width = FILTERS_PER_ROW * (filter_side + 6) - 6
    column = max(map_width, 230)
    xs = [MARGIN, MARGIN + column + GAP, MARGIN + 2 * (column + GAP)]
    width = xs[2] + filters_width + MARGIN
    scale = scale or print_scale(width)
    sheet = Sheet(width, TOP + max(MAP_HEIGHT, map_height) + 74, scale)
    sheet.text(MARGIN, 42, "Behind the maps", 24, weight="bold")
    sheet.text(MARGIN, 68, f"{checkpoint.label} · {num_rows} × {num_columns} patches", 14.5, MUTED)

    lengths = norms(checkpoint.embeddings, checkpoint.grid_size)
    low, high = _ends(lengths)
    levels = np.rint((lengths - low) / (high - low) * (palette.num_levels - 1)).astype(np.uint8)
    _title(sheet, xs[0], "Length of the embeddings")
    sheet.picture(palette.to_rgb(_enlarge(levels, cell * scale)), xs[0], TOP)
    draw_bar(sheet, xs[0], TOP + map_height + 16, map_width, 12, palette, (low, high))

    colours, share = component_colours(checkpoint.embeddings, checkpoint.grid_size)
    _title(sheet, xs[1], "Three components as colour")
    if share.any():
        sheet.picture(_enlarge(_to_bytes(colours), cell * scale), xs[1], TOP)
        named = zip(("red", "green", "blue"), share, strict=True)
        text = "Share of the variance: " + ", ".join(f"{name} {value:.0%}" for name, value in named)
    else:
        sheet.rectangle(xs[1], TOP, map_width, map_height, fill=UNDEFINED)
        text = "Undefined: all embeddings are equal"
    sheet.paragraph(xs[1], TOP + map_height + 24, column, text, 12, MUTED)

    _title(sheet, xs[2], "Components of the patch filters")
    if pictures is None:
        sheet.paragraph(xs[2], TOP + 14, filters_width, NO_FILTERS, 12, MUTED)
        return sheet.pixels()
    for index, picture in enumerate(pictures):
        row, place = divmod(index, FILTERS_PER_ROW)
        pixels = _resize_nearest(_to_bytes(picture), filter_side * scale)
        sheet.picture(pixels, xs[2] + place * (filter_side + 6), TOP + row * (filter_side + 6))
    caption = f"The first {len(pictures)} principal components of {checkpoint.embeddings.shape[1]} filters"
    sheet.text(xs[2], TOP + MAP_HEIGHT + 24, caption, 12, MUTED)
    return sheet.pixels()


def _title(sheet: Sheet, x: float, text: str) -> None:
    sheet.text(x, TOP - 16, text, 14.5, weight="bold")


def _filter_pictures(checkpoint: Checkpoint) -> NDArray[np.float64] | None:
    """(K, P, P, 3), or None when the checkpoint holds no filters with one or three channels."""
    filters = checkpoint.filters()
    if filters is None or filters.shape[1] not in (1, 3):
        return None
    pictures = filter_components(filters, NUM_FILTERS)
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3))


def _ends(values: NDArray[np.float64]) -> tuple[float, float]:
    """The smallest and the largest value, set apart when they are equal."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if high - low > 1e-9 * max(abs(high), 1e-9) else (low, low + 1.0)


def _to_bytes(values: NDArray[np.float64]) -> Pixels:
    """[0, 1] → 0 to 255."""
    return np.rint(values * 255).astype(np.uint8)


def _enlarge(pixels: Pixels, factor: int) -> Pixels:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _resize_nearest(pixels: Pixels, side: int) -> Pixels:
    """Square pixels (S, S, C) at another side, each source pixel as it is."""
    source = np.arange(side) * len(pixels) // side
    return pixels[source][:, source]
