"""What is the same in every frame: title, row and column numbers, and the panel that says how to read the maps."""

from collections.abc import Sequence
from dataclasses import dataclass

from vitpe.viz import layout as place
from vitpe.viz.colours import BACKGROUND, FAINT, HATCH, INK, MUTED, UNDEFINED, ColourScale
from vitpe.viz.face_drawing import draw_image_plane
from vitpe.viz.history import Checkpoint
from vitpe.viz.layout import Layout
from vitpe.viz.scale_bar import draw_numbers, draw_ticks
from vitpe.viz.sheet import Sheet, shorten

TITLE = "What position embeddings learn"
HOW_TO_READ = (
    "Each small map belongs to one patch of the image and stands where that patch stands. Its colours say how similar"
    " the patch's position embedding is to that of every other patch."
)


@dataclass(frozen=True)
class Curve:
    """One number over the history: values in [-1, 1] or None, one a frame, and what random embeddings give."""

    name: str
    meaning: str
    values: Sequence[float | None]
    random: float | None


def has_steps(history: Sequence[Checkpoint]) -> bool:
    """Whether every checkpoint says its step."""
    return all(checkpoint.step is not None for checkpoint in history)


def draw_static(
    layout: Layout, history: Sequence[Checkpoint], colours: ColourScale, curve: Curve, curve_colour: str
) -> Sheet:
    """The sheet below all frames; maps, the colour bar's colours and what changes are left out."""
    sheet = Sheet(layout.width, layout.height, layout.scale)
    _draw_head(sheet, layout, history[-1])
    x, top, width = layout.panel, place.TOP, place.PANEL_WIDTH
    captions = [
        ("VALID ACCURACY", 0, place.SECOND_COUNTERS),
        ("CHECKPOINT", place.SECOND_COLUMN, place.SECOND_COUNTERS),
    ]
    if has_steps(history):
        captions += [("STEP", 0, place.FIRST_COUNTERS), ("IMAGES SEEN", place.SECOND_COLUMN, place.FIRST_COUNTERS)]
    else:
        captions += [("FILE", 0, place.FIRST_COUNTERS)]
    for caption, dx, y in captions:
        sheet.text(x + dx, top + y, caption, 9.5, MUTED)
    _draw_how_to_read(sheet, x, top + place.HOW_TO_READ, width)
    _draw_bar_labels(sheet, x, top + place.COLOUR_BAR, width, colours)
    _draw_example(sheet, layout, history[-1])
    _draw_curve(sheet, x, top + place.CURVE, width, curve, curve_colour, history)
    return sheet


def _draw_head(sheet: Sheet, layout: Layout, checkpoint: Checkpoint) -> None:
    num_rows, num_columns = checkpoint.grid_size
    sheet.text(place.MARGIN, 36, TITLE, 21, weight="bold")
    subtitle = f"Cosine similarity between the position embeddings of {num_rows} × {num_columns} image patches"
    sheet.text(place.MARGIN, 57, shorten(subtitle, 12.5, layout.width - 2 * place.MARGIN), 12.5, MUTED)
    draw_numbers(sheet, layout.tiles, layout.left, place.TOP)


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
    draw_ticks(sheet, x, bar + place.BAR_HEIGHT, width, colours.low, colours.high)
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
    top, height = y + 28, place.CURVE_HEIGHT
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
    if has_steps(history):
        first, last = history[0].label, f"{history[-1].step:,}"
    sheet.text(x, top + height + 15, first, 10.5, MUTED)
    sheet.text(x + width, top + height + 15, last, 10.5, MUTED, align="right")
