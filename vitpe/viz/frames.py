"""Checkpoints → frames of the animation, as palette indices.

What stays the same is drawn by matplotlib once; maps and the few changing words are laid over it.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from PIL import Image, ImageDraw

from vitpe.viz import layout as place
from vitpe.viz.colours import ACCENT, BACKGROUND, FAINT, INK, MUTED, ColourScale, Palette, Pixels
from vitpe.viz.history import Checkpoint, last_scored
from vitpe.viz.layout import Layout, lay_out
from vitpe.viz.numbers import eye_matches, number_text
from vitpe.viz.panel import Curve, draw_static, has_steps
from vitpe.viz.scale_bar import bar_levels
from vitpe.viz.sheet import HorizontalAlignment, Sheet, Weight, font, shorten
from vitpe.viz.similarity import Floats, cosine_similarity

UNDEFINED_TEXT = "undefined: the embeddings start at zero"


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
        return draw_static(self.layout, self._history, self._colours, self._curve, curve_colour)

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
        self._paste(pixels, layout.tiles.draw(levels, self._palette), layout.left, place.TOP)
        self._paste(pixels, layout.example.draw(levels, self._palette), *layout.example_map)
        bar = bar_levels(place.PANEL_WIDTH * layout.scale, place.BAR_HEIGHT * layout.scale, self._palette)
        self._paste(pixels, bar, layout.panel, place.TOP + place.COLOUR_BAR + 12)
        self._frame_right_eye(pixels)
        self._write_counters(pixels, frame)
        self._write_match(pixels, similarity)
        value = self._curve.values[frame]
        y = place.TOP + place.CURVE
        self._write(pixels, layout.width - place.MARGIN, y, number_text(value), 13, "bold", INK, "right")
        if np.isnan(similarity).all():
            self._write_undefined(pixels)
        return pixels

    def _curve_until(self, frame: int) -> Pixels:
        """The sheet with the curve in colour up to this frame."""
        if frame == len(self._history) - 1:
            return self._past.copy()
        share = frame / (len(self._history) - 1)
        split = round((self.layout.panel + share * place.PANEL_WIDTH) * self.layout.scale) + 1
        return np.concatenate([self._past[:, :split], self._ahead[:, split:]], axis=1)

    def _frame_right_eye(self, pixels: Pixels) -> None:
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
        x, first, second = self.layout.panel, place.TOP + place.FIRST_COUNTERS, place.TOP + place.SECOND_COUNTERS
        if has_steps(self._history):
            self._write(pixels, x, first + 24, f"{checkpoint.step:,}", 20, "bold", INK)
            images = "–" if checkpoint.images_seen is None else f"{checkpoint.images_seen:,}"
            self._write(pixels, x + place.SECOND_COLUMN, first + 24, images, 20, "bold", INK)
        else:
            name = shorten(checkpoint.label, 15, place.PANEL_WIDTH, "bold")
            self._write(pixels, x, first + 24, name, 15, "bold", INK)
        self._write(pixels, x, second + 24, "–" if accuracy is None else f"{accuracy:.1%}", 20, "bold", INK)
        count = f"{frame + 1} of {len(self._history)}"
        self._write(pixels, x + place.SECOND_COLUMN, second + 24, count, 20, "bold", INK)
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
        middle_y, middle_x = place.TOP + height / scale / 2, self.layout.left + width / scale / 2
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
