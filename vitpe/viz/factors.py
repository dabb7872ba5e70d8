"""Embeddings that are a sum of one for the row and one for the column: what rows and what columns have in common.

So are those of model.pos_embed "factorized" and "sincos", at any time of training; those that are learned patch by
patch are not.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from vitpe.viz.colours import MUTED, TRANSPARENT, UNDEFINED, ColourScale, Palette, Pixels
from vitpe.viz.history import Checkpoint, evenly
from vitpe.viz.maps import draw_bar, draw_image_plane
from vitpe.viz.sheet import Sheet, print_scale, shorten
from vitpe.viz.similarity import Floats, cosine_similarity

MARGIN: Final = 28
WIDTH: Final = 1120
TOP: Final = 150
NUMBERS: Final = 24
SIDE: Final = 338
"""Of the largest of the three panels; their cells have one size."""
GAP: Final = 44
MAX_CELL: Final = 26
NUM_MOMENTS: Final = 7
_RESIDUE: Final = 1e-9


def row_and_column_parts(checkpoint: Checkpoint) -> tuple[Floats, Floats] | None:
    """(rows, D) and (columns, D), each of mean 0, that with the mean of all embeddings add up to them; None where there
    are no such, where a grid has one row or column, and where all embeddings are equal.
    """
    grid = np.asarray(checkpoint.embeddings, dtype=np.float64).reshape(*checkpoint.grid_size, -1)
    centred = grid - grid.mean(axis=(0, 1))
    rows, columns = centred.mean(axis=1), centred.mean(axis=0)
    total = np.square(centred).sum()
    residue = np.square(centred - rows[:, None] - columns).sum()
    if min(checkpoint.grid_size) == 1 or total == 0 or residue > _RESIDUE * total:
        return None
    return rows, columns


def factors_picture(history: Sequence[Checkpoint], palette: Palette, scale: int | None = None) -> Pixels:
    """Of the last checkpoint, which has such parts, and small of earlier ones that have them.

    RGB pixels; `scale` 1 is for screens, None for print.
    """
    last = history[-1]
    parts = row_and_column_parts(last)
    assert parts is not None
    cell = max(2, min(MAX_CELL, SIDE // max(last.grid_size)))
    num_rows, num_columns = last.grid_size
    earlier = [(each, found) for each in history if (found := row_and_column_parts(each)) is not None]
    shown = [earlier[index] for index in evenly(len(earlier), NUM_MOMENTS)] if len(earlier) > 1 else []
    small = max(1, (WIDTH - 2 * MARGIN) // NUM_MOMENTS // (num_rows + num_columns + 2))
    strip = TOP + max(last.grid_size) * cell + 124
    height = strip + (max(last.grid_size) * small + 40 if shown else -60)
    width = max(WIDTH, 2 * MARGIN + 3 * NUMBERS + (num_rows + 2 * num_columns) * cell + 2 * GAP)
    sheet = Sheet(width, height, scale or print_scale(width))
    sheet.text(MARGIN, 42, "Rows and columns", 24, weight="bold")
    facts = [last.subject] if last.subject else []
    facts += [last.label, f"each embedding is the sum of its row's and its column's, {len(parts[0][0])} numbers wide"]
    sheet.text(MARGIN, 68, shorten(" · ".join(facts), 14.5, width - 2 * MARGIN), 14.5, MUTED)

    squares = [length * np.square(part).sum() for part, length in zip(parts, (num_columns, num_rows), strict=True)]
    shares = [square / sum(squares) for square in squares]
    x = float(MARGIN + NUMBERS)
    _title(sheet, x, "The grid", f"{num_rows} rows, {num_columns} columns")
    draw_image_plane(sheet, x, TOP, last.grid_size, cell, last.face)
    _draw_numbers(sheet, x, num_rows, num_columns, cell)
    x += num_columns * cell + GAP + NUMBERS
    for part, share, name in zip(parts, shares, ("rows", "columns"), strict=True):
        _title(sheet, x, f"Similarity of {name}", f"{share:.0%} of the embeddings' variance")
        sheet.picture(_matrix(part, palette, cell * sheet.scale), x, TOP)
        _draw_numbers(sheet, x, len(part), len(part), cell)
        x += len(part) * cell + GAP + NUMBERS
    y = TOP + max(last.grid_size) * cell + 22
    draw_bar(sheet, MARGIN + NUMBERS, y, 240, 12, palette, (-1.0, 1.0))
    text = "cosine similarity of what tells a row (or column) from the mean of all"
    sheet.text(MARGIN + NUMBERS + 262, y + 11, text, 12, MUTED)
    for number, (checkpoint, found) in enumerate(shown):
        x = MARGIN + number * ((WIDTH - 2 * MARGIN) // NUM_MOMENTS)
        sheet.text(x, strip - 8, checkpoint.label, 11.5, weight="bold")
        for part in found:
            sheet.picture(_matrix(part, palette, small * sheet.scale), x, strip)
            x += (len(part) + 1) * small
    return sheet.pixels()


def _matrix(part: Floats, palette: Palette, cell: int) -> Pixels:
    """(n · cell, n · cell, 3)"""
    levels = ColourScale(-1.0, 1.0).levels(cosine_similarity(part), palette.num_levels)
    levels = np.where(levels == TRANSPARENT, np.uint8(palette.index_of(UNDEFINED)), levels)
    return palette.to_rgb(levels.repeat(cell, axis=0).repeat(cell, axis=1))


def _title(sheet: Sheet, x: float, title: str, below: str) -> None:
    sheet.text(x, TOP - 44, title, 14.5, weight="bold")
    sheet.text(x, TOP - 26, below, 12, MUTED)


def _draw_numbers(sheet: Sheet, x: float, num_rows: int, num_columns: int, cell: int) -> None:
    """On the left and above."""
    every = max(1, -(-14 // cell))
    for row in range(0, num_rows, every):
        sheet.text(x - 6, TOP + (row + 0.5) * cell + 3.5, str(row), 9.5, MUTED, align="right")
    for column in range(0, num_columns, every):
        sheet.text(x + (column + 0.5) * cell, TOP - 6, str(column), 9.5, MUTED, align="center")
