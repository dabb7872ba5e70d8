"""One frame of the animation: maps on the left, how to read them on the right, as palette indices.

What stays the same is drawn by matplotlib once; maps and the few changing words are laid over it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vitpe.viz.colours import ACCENT, BACKGROUND, FAINT, HATCH, INK, MUTED, UNDEFINED, ColourScale, Palette, Pixels
from vitpe.viz.history import Checkpoint, last_scored
from vitpe.viz.maps import (
    Tiles,
    bar_levels,
    best_cell,
    draw_image_plane,
    draw_row_and_column_numbers,
    draw_ticks,
    lay_out_map,
    lay_out_tiles,
    tiles_extent,
)
from vitpe.viz.numbers import eye_matches, number_text
from vitpe.viz.sheet import HorizontalAlignment, Sheet, Weight, font, shorten
from vitpe.viz.similarity import Floats, cosine_similarity

TITLE = "What position embeddings learn"
HOW_TO_READ = (
    "Each small map belongs to one patch of the image and stands where that patch stands. Its colours say how similar"
    " the patch's position embedding is to that of every other patch."
)
UNDEFINED_TEXT = "undefined: the embeddings start at zero"

MARGIN = 20
LABELS = 20  # room for row and column numbers
TOP = 92  # of tiles and panel
PANEL_WIDTH = 240
PANEL_HEIGHT = 700
PANEL_GAP = 28

# In the panel, counted from its top.
FIRST_COUNTERS, SECOND_COUNTERS = 8, 56  # baselines of their captions
SECOND_COLUMN = 108
HOW_TO_READ_Y = 120
COLOUR_BAR_Y = 284
BAR_HEIGHT = 12
EXAMPLE_Y = 368
CURVE_Y = 598
CURVE_HEIGHT = 48


@dataclass(frozen=True)
class Layout:
    """Places at scale 1; `tiles` and `example` are made for the scale that is drawn."""

    width: int
    height: int
    scale: int
    tiles: Tiles
    example: Tiles
    example_patch: tuple[int, int]
    example_cell: int

    @property
    def left(self) -> int:
        """The left edge of the tiles."""
        return MARGIN + LABELS

    @property
    def panel(self) -> int:
        """The left edge of the panel."""
        return self.width - MARGIN - PANEL_WIDTH

    @property
    def example_map(self) -> tuple[int, int]:
        """(x, y) of the example's map; its place in the image is drawn on the other side of the panel."""
        return self.width - MARGIN - self.example.grid_size[1] * self.example_cell, TOP + EXAMPLE_Y + 16


def lay_out(checkpoint: Checkpoint, size: int, scale: int = 1) -> Layout:
    """Cells of whole pixels in a picture as close to `size` pixels wide as they allow.

    At `scale` s everything is drawn s times as large, for print.
    """
    num_rows, num_columns = checkpoint.grid_size
    room = size - 2 * MARGIN - LABELS - PANEL_GAP - PANEL_WIDTH
    cell = best_cell(checkpoint.grid_size, room, max(size, PANEL_HEIGHT))
    example_cell = max(1, min((PANEL_WIDTH - 20) // (2 * num_columns), 130 // num_rows))
    return Layout(
        width=size - room + tiles_extent(num_columns, cell),
        height=TOP + max(tiles_extent(num_rows, cell), PANEL_HEIGHT) + MARGIN,
        scale=scale,
        tiles=lay_out_tiles(checkpoint.grid_size, cell, scale),
        example=lay_out_map(checkpoint.grid_size, checkpoint.example_patch, example_cell * scale),
        example_patch=checkpoint.example_patch,
        example_cell=example_cell,
    )


@dataclass(frozen=True)
class Curve:
    """One number over the history: values in [-1, 1] or None, one a frame, and what random embeddings give."""

    name: str
    meaning: str
    values: Sequence[float | None]
    random: float | None


def mirror_curve(records: Sequence[dict[str, Any]]) -> Curve:
    """The curve of the animation, from its frames' records; see `checkpoint_record`."""
    return Curve(
        "Mirror symmetry",
        "correlation of maps with mirrored maps",
        [record["mirror_symmetry"] for record in records],
        records[0]["random"]["mirror_symmetry"],
    )


class FramePainter:
    """Draws any checkpoint of one history; every frame has the same size, colour scale and palette.

    curve: one number over the history. size: width in pixels at scale 1, see `lay_out`. scale: 1 for screens.
    """

    def __init__(
        self,
        history: Sequence[Checkpoint],
        curve: Curve,
        colours: ColourScale,
        palette: Palette,
        size: int,
        scale: int = 1,
    ) -> None:
        self._history, self._curve, self._colours, self._palette = history, curve, colours, palette
        self.layout: Layout = lay_out(history[0], size, scale)
        self._ramps = {colour: palette.ramp(colour) for colour in (INK, MUTED)}
        self._shape = self.layout.height * scale, self.layout.width * scale

    @cached_property
    def _past(self) -> Pixels:
        """The sheet below all frames, with the whole curve in colour."""
        return self._palette.nearest(self._sheet(ACCENT).pixels())

    @cached_property
    def _ahead(self) -> Pixels:
        """The same, with the whole curve pale."""
        return self._palette.nearest(self._sheet(FAINT).pixels())

    def _sheet(self, curve_colour: str) -> Sheet:
        return _draw_static(self.layout, self._history, self._colours, self._curve, curve_colour)

    def draw_all(self) -> Pixels:
        """All frames, (T, height, width)."""
        frames = np.empty((len(self._history), *self._shape), dtype=np.uint8)
        for frame in range(len(frames)):
            frames[frame] = self.draw(frame)
        return frames

    def draw(self, frame: int) -> Pixels:
        """Palette indices (height · scale, width · scale) of one checkpoint's frame."""
        layout, checkpoint = self.layout, self._history[frame]
        similarity = cosine_similarity(checkpoint.embeddings)
        levels = self._colours.levels(similarity, self._palette.num_levels)
        pixels = self._curve_until(frame)
        self._paste(pixels, layout.tiles.draw(levels, self._palette), layout.left, TOP)
        self._paste(pixels, layout.example.draw(levels, self._palette), *layout.example_map)
        bar = bar_levels(PANEL_WIDTH * layout.scale, BAR_HEIGHT * layout.scale, self._palette)
        self._paste(pixels, bar, layout.panel, TOP + COLOUR_BAR_Y + 12)
        self._outline_right_eye(pixels)
        self._write_counters(pixels, frame)
        self._write_match(pixels, similarity)
        value = self._curve.values[frame]
        y = TOP + CURVE_Y
        self._write(pixels, layout.width - MARGIN, y, number_text(value), 13, "bold", INK, "right")
        if np.isnan(similarity).all():
            self._write_undefined(pixels)
        return pixels

    def _curve_until(self, frame: int) -> Pixels:
        """The sheet with the curve in colour up to this frame."""
        if frame == len(self._history) - 1:
            return self._past.copy()
        share = frame / (len(self._history) - 1)
        split = round((self.layout.panel + share * PANEL_WIDTH) * self.layout.scale) + 1
        return np.concatenate([self._past[:, :split], self._ahead[:, split:]], axis=1)

    def _outline_right_eye(self, pixels: Pixels) -> None:
        """A line around the right eye's patches, in the example's map and in its place in the image."""
        face, layout = self._history[0].face, self.layout
        if face is None:
            return
        cell, scale, ink = layout.example_cell, layout.scale, self._palette.index_of(ACCENT)
        rows, columns = ([patch[axis] for patch in face.right_eye] for axis in (0, 1))
        thick = 2 * scale
        for left, top in ((layout.panel, layout.example_map[1]), layout.example_map):
            y0, y1 = (scale * (top + row * cell) for row in (min(rows), max(rows) + 1))
            x0, x1 = (scale * (left + column * cell) for column in (min(columns), max(columns) + 1))
            box = pixels[y0 - thick : y1 + thick, x0 - thick : x1 + thick]
            inside = box[thick:-thick, thick:-thick].copy()
            box[:] = ink
            box[thick:-thick, thick:-thick] = inside

    def _write_counters(self, pixels: Pixels, frame: int) -> None:
        checkpoint = self._history[frame]
        scored = last_scored(self._history, frame)
        accuracy = None if scored is None else scored.valid_accuracy
        x, first, second = self.layout.panel, TOP + FIRST_COUNTERS, TOP + SECOND_COUNTERS
        if _has_steps(self._history):
            self._write(pixels, x, first + 24, f"{checkpoint.step:,}", 20, "bold", INK)
            images = "–" if checkpoint.images_seen is None else f"{checkpoint.images_seen:,}"
            self._write(pixels, x + SECOND_COLUMN, first + 24, images, 20, "bold", INK)
        else:
            name = shorten(checkpoint.label, 15, PANEL_WIDTH, "bold")
            self._write(pixels, x, first + 24, name, 15, "bold", INK)
        self._write(pixels, x, second + 24, "–" if accuracy is None else f"{accuracy:.1%}", 20, "bold", INK)
        count = f"{frame + 1} of {len(self._history)}"
        self._write(pixels, x + SECOND_COLUMN, second + 24, count, 20, "bold", INK)
        if scored is not None and scored is not checkpoint:
            self._write(pixels, x, second + 38, f"at {scored.label}", 10, "normal", MUTED)

    def _write_match(self, pixels: Pixels, similarity: Floats) -> None:
        """Where the example's best match lies."""
        checkpoint, layout = self._history[0], self.layout
        for match in eye_matches(similarity, checkpoint.grid_size, checkpoint.face):
            if match.patch == layout.example_patch:
                text = f"Best match: {number_text(match.similarity)} at row {match.match[0]}, column {match.match[1]}"
                y = layout.example_map[1] + checkpoint.grid_size[0] * layout.example_cell + 53
                self._write(pixels, layout.panel, y, text, 12, "normal", INK)

    def _write_undefined(self, pixels: Pixels) -> None:
        scale = self.layout.scale
        height, width = self.layout.tiles.source.shape
        middle_y, middle_x = TOP + height / scale / 2, self.layout.left + width / scale / 2
        half = font(15 * scale, "bold").getlength(UNDEFINED_TEXT) / scale / 2 + 18
        box = [round(scale * v) for v in (middle_y - 22, middle_y + 22, middle_x - half, middle_x + half)]
        pixels[box[0] : box[1], box[2] : box[3]] = self._palette.index_of(BACKGROUND)
        self._write(pixels, middle_x, middle_y + 5, UNDEFINED_TEXT, 15, "bold", INK, "center")

    def _write(
        self,
        pixels: Pixels,
        x: float,
        y: float,
        text: str,
        size: int,
        weight: Weight,
        colour: str,
        align: HorizontalAlignment = "left",
    ) -> None:
        """One line on the plain background, its baseline at y; all lengths at scale 1."""
        scale = self.layout.scale
        typeface = font(size * scale, weight)
        left, top, right, bottom = (round(edge) for edge in typeface.getbbox(text, anchor="ls"))
        picture = Image.new("L", (right - left, bottom - top))
        ImageDraw.Draw(picture).text((-left, -top), text, fill=255, font=typeface, anchor="ls")
        shift = {"left": 0.0, "center": 0.5, "right": 1.0}[align] * typeface.getlength(text)
        origin = round(x * scale - shift) + left, round(y * scale) + top
        region = pixels[origin[1] : origin[1] + picture.height, origin[0] : origin[0] + picture.width]
        coverage = np.asarray(picture)[: region.shape[0], : region.shape[1]]
        region[:] = np.where(coverage > 0, self._ramps[colour][coverage], region)

    def _paste(self, pixels: Pixels, picture: Pixels, x: float, y: float) -> None:
        """Put a picture, drawn at the right scale, where (x, y) at scale 1 is."""
        top, left = round(y * self.layout.scale), round(x * self.layout.scale)
        pixels[top : top + picture.shape[0], left : left + picture.shape[1]] = picture


def _has_steps(history: Sequence[Checkpoint]) -> bool:
    """Whether every checkpoint says its step."""
    return all(checkpoint.step is not None for checkpoint in history)


def _draw_static(
    layout: Layout, history: Sequence[Checkpoint], colours: ColourScale, curve: Curve, curve_colour: str
) -> Sheet:
    """The sheet below all frames; maps, the colour bar's colours and what changes are left out."""
    sheet = Sheet(layout.width, layout.height, layout.scale)
    _draw_head(sheet, layout, history[-1])
    x, top, width = layout.panel, TOP, PANEL_WIDTH
    captions = [("VALID ACCURACY", 0, SECOND_COUNTERS), ("CHECKPOINT", SECOND_COLUMN, SECOND_COUNTERS)]
    if _has_steps(history):
        captions += [("STEP", 0, FIRST_COUNTERS), ("IMAGES SEEN", SECOND_COLUMN, FIRST_COUNTERS)]
    else:
        captions += [("FILE", 0, FIRST_COUNTERS)]
    for caption, dx, y in captions:
        sheet.text(x + dx, top + y, caption, 9.5, MUTED)
    _draw_how_to_read(sheet, x, top + HOW_TO_READ_Y, width)
    _draw_bar_labels(sheet, x, top + COLOUR_BAR_Y, width, colours)
    _draw_example(sheet, layout, history[-1])
    _draw_curve(sheet, x, top + CURVE_Y, width, curve, curve_colour, history)
    return sheet


def _draw_head(sheet: Sheet, layout: Layout, checkpoint: Checkpoint) -> None:
    num_rows, num_columns = checkpoint.grid_size
    sheet.text(MARGIN, 36, TITLE, 21, weight="bold")
    what = f"cosine similarity between the position embeddings of {num_rows} × {num_columns} image patches"
    subtitle = f"{checkpoint.subject}: {what}" if checkpoint.subject else what.capitalize()
    sheet.text(MARGIN, 57, shorten(subtitle, 12.5, layout.width - 2 * MARGIN), 12.5, MUTED)
    draw_row_and_column_numbers(sheet, layout.tiles, layout.left, TOP)


def _draw_how_to_read(sheet: Sheet, x: float, y: float, width: float) -> None:
    sheet.text(x, y, "How to read it", 13, weight="bold")
    y = sheet.paragraph(x, y + 20, width, HOW_TO_READ, 12)
    sheet.rectangle(x, y - 5, 12, 12, fill=INK)
    sheet.rectangle(x + 3, y - 2, 6, 6, fill=BACKGROUND)
    sheet.text(x + 22, y + 5, "the patch itself", 12)
    sheet.rectangle(x, y + 15, 12, 12, fill=UNDEFINED)
    for offset in (2, 7):
        sheet.line([x + offset, x], [y + 15, y + 15 + offset], HATCH, 1.6, solid_capstyle="butt")
        sheet.line([x + 12, x + offset], [y + 15 + offset, y + 27], HATCH, 1.6, solid_capstyle="butt")
    sheet.text(x + 22, y + 25, "undefined: the embedding is zero", 12)


def _draw_bar_labels(sheet: Sheet, x: float, y: float, width: float, colours: ColourScale) -> None:
    sheet.text(x, y, "Cosine similarity", 13, weight="bold")
    bar = y + 12
    if colours.per_tile:
        sheet.text(x, bar + 27, "a tile's lowest", 10.5, MUTED)
        sheet.text(x + width, bar + 27, "a tile's highest", 10.5, MUTED, align="right")
        sheet.text(x, bar + 44, "Each tile has a scale of its own", 10.5, MUTED)
        return
    draw_ticks(sheet, x, bar + BAR_HEIGHT, width, colours.low, colours.high)
    sheet.text(x, bar + 44, "One scale for all maps and all frames", 10.5, MUTED)


def _draw_example(sheet: Sheet, layout: Layout, checkpoint: Checkpoint) -> None:
    x, y = layout.panel, layout.example_map[1]
    row, column = layout.example_patch
    cell, face = layout.example_cell, checkpoint.face
    where = "a patch at the left eye" if face else f"row {row}, column {column}"
    sheet.text(x, y - 16, f"Example: {where}", 13, weight="bold")
    draw_image_plane(sheet, x, y, checkpoint.grid_size, cell, face)
    sheet.rectangle(x + column * cell, y + row * cell, cell, cell, fill=INK)
    if cell >= 4:
        edge = max(1, cell // 5)
        inside = cell - 2 * edge
        sheet.rectangle(x + column * cell + edge, y + row * cell + edge, inside, inside, fill=BACKGROUND)
    below = y + checkpoint.grid_size[0] * cell + 16
    sheet.text(x, below, "its place", 10.5, MUTED)
    sheet.text(layout.example_map[0], below, "its map", 10.5, MUTED)
    if face:
        sheet.text(x, below + 20, "Framed: the right eye", 12)


def _draw_curve(
    sheet: Sheet, x: float, y: float, width: float, curve: Curve, colour: str, history: Sequence[Checkpoint]
) -> None:
    sheet.text(x, y, curve.name, 13, weight="bold")
    sheet.text(x, y + 17, curve.meaning, 10.5, MUTED)
    if len(history) == 1:
        sheet.text(x, y + 38, f"of random embeddings: {number_text(curve.random)}", 10.5, MUTED)
        return
    top, height = y + 28, CURVE_HEIGHT
    sheet.line([x, x + width], [top + height] * 2, FAINT)
    if curve.random is not None:
        level = top + height * (1 - max(0.0, curve.random))
        sheet.line([x, x + width], [level, level], MUTED, 0.8, dashes=(3, 3))
        sheet.text(x + width / 2, top + height + 15, "dashed: random", 10.5, MUTED, align="center")
    values = [(i, value) for i, value in enumerate(curve.values) if value is not None]
    if len(values) > 1:
        xs = [x + width * i / (len(curve.values) - 1) for i, _ in values]
        sheet.line(xs, [top + height * (1 - max(0.0, value)) for _, value in values], colour, 1.8)
    first, last = ("first", "last")
    if _has_steps(history):
        first, last = history[0].label, f"{history[-1].step:,}"
    sheet.text(x, top + height + 15, first, 10.5, MUTED)
    sheet.text(x + width, top + height + 15, last, 10.5, MUTED, align="right")
