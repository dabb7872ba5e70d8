"""The annotated picture: all maps, one patch at an eye and one at the border enlarged, and what to see there.

Every place follows from the grid and from where the eyes are; every number is measured. Nothing is set by hand.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from vitpe.viz.colours import ACCENT, BACKGROUND, INK, MUTED, ColourScale, Palette, Pixels
from vitpe.viz.history import Checkpoint
from vitpe.viz.maps import (
    best_cell,
    draw_bar,
    draw_image_plane,
    draw_row_and_column_numbers,
    lay_out_map,
    lay_out_tiles,
    tiles_extent,
)
from vitpe.viz.numbers import EyeMatch, eye_matches, number_text
from vitpe.viz.sheet import Sheet, print_scale
from vitpe.viz.similarity import Floats, cosine_similarity

Patch = tuple[int, int]
Box = tuple[int, int, int, int]  # top row, left column, bottom row, right column; the last two excluded

MARGIN = 28
TOP = 104
SIDE_WIDTH, MAX_SIDE_WIDTH = 250, 460
SIDE_SHARE = 0.45  # of the tiles' width, where that is more: large grids have wide tiles
ARROW_GAP = 62
TILES_WIDTH = 400
MAX_TILES_HEIGHT = 600
SKETCH_HEIGHT = 104
MAP_TOP = TOP + SKETCH_HEIGHT + 66
BAR_WIDTH = 240
UNDEFINED_TEXT = "Its map is undefined: the embeddings start at zero."


@dataclass(frozen=True)
class Callout:
    """One enlarged map: whose it is, what is said about it, and what is outlined in it, the first of them named."""

    patch: Patch
    heading: str
    text: str
    outlined: tuple[Box, ...]
    outlined_text: str


def explained_picture(
    checkpoint: Checkpoint, colours: ColourScale, palette: Palette, scale: int | None = None
) -> Pixels:
    """RGB pixels; `scale` 1 is for screens, None for print."""
    similarity = cosine_similarity(checkpoint.embeddings)
    levels = colours.levels(similarity, palette.num_levels)
    num_rows, num_columns = checkpoint.grid_size
    cell = best_cell(checkpoint.grid_size, TILES_WIDTH, MAX_TILES_HEIGHT)
    tiles_height, tiles_width = tiles_extent(num_rows, cell), tiles_extent(num_columns, cell)
    side_width = max(SIDE_WIDTH, min(round(SIDE_SHARE * tiles_width), MAX_SIDE_WIDTH))
    map_cell = max(1, min(side_width // num_columns, max(300, side_width) // num_rows))
    map_height, map_width = map_cell * num_rows, map_cell * num_columns

    tiles_x = MARGIN + side_width + ARROW_GAP
    right_x = tiles_x + tiles_width + ARROW_GAP
    height = max(TOP + tiles_height + 76, MAP_TOP + map_height + 60) + MARGIN
    width = right_x + side_width + MARGIN
    scale = scale or print_scale(width)
    tiles = lay_out_tiles(checkpoint.grid_size, cell, scale)
    sheet = Sheet(width, height, scale)
    _draw_head(sheet, checkpoint)
    sheet.picture(palette.to_rgb(tiles.draw(levels, palette)), tiles_x, TOP)
    draw_row_and_column_numbers(sheet, tiles, tiles_x, TOP)
    _draw_bar(sheet, tiles_x + (tiles_width - BAR_WIDTH) / 2, TOP + tiles_height + 36, colours, palette)

    for callout, x, map_x in (
        (inner_callout(checkpoint, similarity), MARGIN, MARGIN + side_width - map_width),
        (border_callout(checkpoint, similarity), right_x, right_x),
    ):
        _draw_callout(sheet, checkpoint, callout, x, side_width)
        patch_map = lay_out_map(checkpoint.grid_size, callout.patch, map_cell * scale)
        sheet.picture(palette.to_rgb(patch_map.draw(levels, palette)), map_x, MAP_TOP)
        _annotate(sheet, callout, map_x, map_cell, checkpoint.grid_size)
        top, left, bottom, right = (edge / scale for edge in tiles.tile_box(*callout.patch))
        sheet.rectangle(tiles_x + left - 1, TOP + top - 1, right - left + 2, bottom - top + 2, edge=ACCENT, line=2.5)
        to_left = map_x < tiles_x
        start = tiles_x + (left - 2 if to_left else right + 2), TOP + (top + bottom) / 2
        end = (map_x + map_width + 5 if to_left else map_x - 5), MAP_TOP + (callout.patch[0] + 0.5) * map_cell
        sheet.arrow(start, end, ACCENT, bend=0.12 if to_left else -0.12)
    return sheet.pixels()


def _draw_head(sheet: Sheet, checkpoint: Checkpoint) -> None:
    num_rows, num_columns = checkpoint.grid_size
    sheet.text(MARGIN, 42, "What the position embeddings know of the image", 24, weight="bold")
    facts = [checkpoint.subject] if checkpoint.subject else []
    facts += [f"cosine similarity of {num_rows} × {num_columns} position embeddings", checkpoint.label]
    if checkpoint.images_seen is not None:
        facts.append(f"{checkpoint.images_seen:,} images seen")
    if checkpoint.valid_accuracy is not None:
        facts.append(f"valid accuracy {checkpoint.valid_accuracy:.1%}")
    sheet.text(MARGIN, 68, " · ".join(facts), 14.5, MUTED)


def _draw_bar(sheet: Sheet, x: float, y: float, colours: ColourScale, palette: Palette) -> None:
    label = "lowest to highest of each tile" if colours.per_tile else "cosine similarity"
    sheet.text(x + BAR_WIDTH / 2, y - 8, label, 12.5, MUTED, align="center")
    draw_bar(sheet, x, y, BAR_WIDTH, 12, palette, None if colours.per_tile else (colours.low, colours.high))


def _draw_callout(sheet: Sheet, checkpoint: Checkpoint, callout: Callout, x: float, width: float) -> None:
    """Heading, the patch's place in the image, and the text beside it."""
    num_rows, num_columns = checkpoint.grid_size
    sheet.text(x, TOP + 4, callout.heading, 16, weight="bold")
    cell = max(1, min(SKETCH_HEIGHT // num_rows, 90 // num_columns))
    y = TOP + 20
    draw_image_plane(sheet, x, y, checkpoint.grid_size, cell, checkpoint.face)
    row, column = callout.patch
    sheet.rectangle(x + column * cell, y + row * cell, cell, cell, fill=INK)
    text_x = x + num_columns * cell + 14
    sheet.paragraph(text_x, y + 11, x + width - text_x, callout.text, 13)


def _annotate(sheet: Sheet, callout: Callout, x: float, cell: int, grid_size: tuple[int, int]) -> None:
    """Names for the patch itself, above the map, and for what to look at, below it."""
    row, column = callout.patch
    centre = x + (column + 0.5) * cell
    middle = x + grid_size[1] * cell / 2
    label_x = middle + 0.35 * (centre - middle)
    sheet.leader((label_x, MAP_TOP - 10), (centre, MAP_TOP + row * cell))
    sheet.text(label_x, MAP_TOP - 15, "the patch itself", 13, align="center")

    for top_row, left_column, bottom_row, right_column in callout.outlined:
        box = (x + left_column * cell, MAP_TOP + top_row * cell)
        size = ((right_column - left_column) * cell, (bottom_row - top_row) * cell)
        for ink, width in ((BACKGROUND, 5.0), (ACCENT, 2.5)):
            sheet.rectangle(*box, *size, edge=ink, line=width)
    _, left_column, bottom_row, right_column = callout.outlined[0]
    target_x = x + (left_column + right_column) / 2 * cell
    below = MAP_TOP + grid_size[0] * cell
    label_x = middle + 0.35 * (target_x - middle)
    sheet.leader((label_x, below + 14), (target_x, MAP_TOP + bottom_row * cell))
    sheet.text(label_x, below + 29, callout.outlined_text, 13, ACCENT, align="center")


def inner_callout(checkpoint: Checkpoint, similarity: Floats) -> Callout:
    """A patch at the left eye; without a face, one half way to the left edge, and its mirror image."""
    (row, column), face = checkpoint.example_patch, checkpoint.face
    if face is None:
        mirrored = (row, checkpoint.grid_size[1] - 1 - column)
        mean = _mean_similarity(checkpoint, similarity, (row, column), [mirrored])
        return Callout(
            patch=(row, column),
            heading="A patch inside",
            text=f"Row {row}, column {column}. Framed in its map: the patch on the opposite side.",
            outlined=(_box_around([mirrored]),),
            outlined_text=f"opposite: {number_text(mean)}",
        )
    match = next((m for m in eye_matches(similarity, checkpoint.grid_size, face) if m.patch == (row, column)), None)
    mean = _mean_similarity(checkpoint, similarity, (row, column), face.right_eye)
    return Callout(
        patch=(row, column),
        heading="A patch at the left eye",
        text=f"Row {row}, column {column}. " + (UNDEFINED_TEXT if match is None else _match_text(match)),
        outlined=(_box_around(face.right_eye),),
        outlined_text=f"the right eye: mean {number_text(mean)}",
    )


def _match_text(match: EyeMatch) -> str:
    row, column = match.match
    place = "on the right eye" if match.on_right_eye else "not on the right eye"
    return (
        f"Beyond its neighbours it is most like row {row}, column {column}, {place}: {number_text(match.similarity)}."
    )


def border_callout(checkpoint: Checkpoint, similarity: Floats) -> Callout:
    """The middle of the right border."""
    num_rows, num_columns = checkpoint.grid_size
    patch = (num_rows // 2, num_columns - 1)
    everywhere = [(row, column) for row in range(num_rows) for column in range(num_columns)]
    border = [p for p in everywhere if p[0] in (0, num_rows - 1) or p[1] in (0, num_columns - 1)]
    inside = [p for p in everywhere if p not in border]
    to_border, to_inside = (_mean_similarity(checkpoint, similarity, patch, others) for others in (border, inside))
    text = f"Row {patch[0]}, column {patch[1]}. " + (
        UNDEFINED_TEXT
        if to_border is None
        else f"Its mean similarity to the rest of the border is {number_text(to_border)},"
        f" to the patches inside {number_text(to_inside)}."
    )
    return Callout(
        patch=patch,
        heading="A patch at the border",
        text=text,
        outlined=((0, 0, num_rows, num_columns), (1, 1, num_rows - 1, num_columns - 1)),
        outlined_text=f"the border: mean {number_text(to_border)}",
    )


def _box_around(patches: Iterable[Patch]) -> Box:
    rows, columns = zip(*patches, strict=True)
    return min(rows), min(columns), max(rows) + 1, max(columns) + 1


def _mean_similarity(checkpoint: Checkpoint, similarity: Floats, patch: Patch, others: Iterable[Patch]) -> float | None:
    """Mean similarity of a patch to others, itself left out; None when there are none or it is undefined."""
    num_columns = checkpoint.grid_size[1]
    row = similarity[patch[0] * num_columns + patch[1]]
    values = [row[other[0] * num_columns + other[1]] for other in others if other != patch]
    mean = float(np.mean(values)) if values else float("nan")
    return None if np.isnan(mean) else mean
