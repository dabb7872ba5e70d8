"""The panels beside the maps: lengths of the embeddings, their principal components, and the patch filters' components.

All of it comes from one checkpoint file; compare arXiv:2010.11929, Figure 7.
"""

import numpy as np
from numpy.typing import NDArray

from vitpe.viz.colours import MUTED, UNDEFINED, Palette, Pixels
from vitpe.viz.history import Checkpoint
from vitpe.viz.maps import draw_bar
from vitpe.viz.sheet import Sheet, print_scale, shorten
from vitpe.viz.similarity import Floats

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
    facts = [checkpoint.subject] if checkpoint.subject else []
    facts += [checkpoint.label, f"{num_rows} × {num_columns} patches"]
    sheet.text(MARGIN, 68, shorten(" · ".join(facts), 14.5, width - 2 * MARGIN), 14.5, MUTED)

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


def norms(embeddings: NDArray[np.floating], grid_size: tuple[int, int]) -> Floats:
    """(N, D) → (Gh, Gw): the embeddings' Euclidean lengths."""
    lengths: Floats = np.linalg.norm(np.asarray(embeddings, dtype=np.float64), axis=1)
    return lengths.reshape(grid_size)


def principal_components(vectors: NDArray[np.floating], num_components: int) -> tuple[Floats, Floats]:
    """Principal axes of M vectors (M, D), by singular value decomposition of the centred matrix.

    Returns axes (K, D) of unit length, strongest first, signed so that each one's largest entry is positive, and the
    share of variance (K,) that each explains, zeros when all vectors are equal. K = min(num_components, M, D).
    """
    centred = np.asarray(vectors, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:num_components]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1, keepdims=True), axis=1)
    variance = singular**2
    share = variance / variance.sum() if variance.sum() > 0 else variance
    return axes * np.where(largest < 0, -1.0, 1.0), share[:num_components]


def component_colours(embeddings: NDArray[np.floating], grid_size: tuple[int, int]) -> tuple[Floats, Floats]:
    """The first three principal components of the patches' embeddings as red, green and blue.

    Returns colours (Gh, Gw, 3) in [0, 1], each component stretched from its smallest to its largest value, and the
    variance shares (3,). Patches of equal colour have embeddings that are alike in the three strongest directions.
    """
    vectors = np.asarray(embeddings, dtype=np.float64)
    axes, share = principal_components(vectors, 3)
    scores = (vectors - vectors.mean(axis=0)) @ axes.T
    scores = np.pad(scores, ((0, 0), (0, 3 - scores.shape[1])))
    low, span = scores.min(axis=0), np.ptp(scores, axis=0)
    colours = (scores - low) / np.where(span > 0, span, 1.0)
    return colours.reshape(*grid_size, 3), np.pad(share, (0, 3 - share.size))


def filter_components(filters: NDArray[np.floating], num_components: int = 28) -> Floats:
    """The patch projection's principal components as images; arXiv:2010.11929, Figure 7 left, shows the first 28.

    filters: (D, C, P, P). Returns (K, P, P, C) in [0, 1] with 0.5 for zero, each stretched by its largest entry.
    """
    num_filters, channels, height, width = filters.shape
    axes, _ = principal_components(filters.reshape(num_filters, -1), num_components)
    peaks = np.abs(axes).max(axis=1, keepdims=True)
    pictures = 0.5 + 0.5 * axes / np.where(peaks > 0, peaks, 1.0)
    return pictures.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)


def _title(sheet: Sheet, x: float, text: str) -> None:
    sheet.text(x, TOP - 16, text, 14.5, weight="bold")


def _filter_pictures(checkpoint: Checkpoint) -> Floats | None:
    """(K, P, P, 3), or None when the checkpoint holds no filters with one or three channels."""
    filters = checkpoint.filters()
    if filters is None or filters.shape[1] not in (1, 3):
        return None
    pictures = filter_components(filters, NUM_FILTERS)
    return np.broadcast_to(pictures, (*pictures.shape[:3], 3))


def _ends(values: Floats) -> tuple[float, float]:
    """The smallest and the largest value, set apart when they are equal."""
    low, high = float(values.min()), float(values.max())
    return (low, high) if high - low > 1e-9 * max(abs(high), 1e-9) else (low, low + 1.0)


def _to_bytes(values: Floats) -> Pixels:
    """[0, 1] → 0 to 255."""
    return np.rint(values * 255).astype(np.uint8)


def _enlarge(pixels: Pixels, factor: int) -> Pixels:
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _resize_nearest(pixels: Pixels, side: int) -> Pixels:
    """Square pixels (S, S, C) at another side, each source pixel as it is."""
    source = np.arange(side) * len(pixels) // side
    return pixels[source][:, source]
