"""Where things stand in a frame of the animation, in pixels at scale 1: maps on the left, how to read them right."""

from dataclasses import dataclass

from vitpe.viz.history import Checkpoint
from vitpe.viz.tiles import Tiles, best_cell, lay_out_map, lay_out_tiles, tiles_extent

MARGIN = 20
LABELS = 20  # room for row and column numbers
TOP = 92  # of tiles and panel
PANEL_WIDTH = 240
PANEL_HEIGHT = 700
PANEL_GAP = 28

# In the panel, counted from its top.
FIRST_COUNTERS, SECOND_COUNTERS = 8, 56  # baselines of their captions
SECOND_COLUMN = 108
HOW_TO_READ = 120
COLOUR_BAR = 284
BAR_HEIGHT = 12
EXAMPLE = 368
CURVE = 598
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
        return self.width - MARGIN - self.example.grid_size[1] * self.example_cell, TOP + EXAMPLE + 16


def lay_out(checkpoint: Checkpoint, size: int, scale: int = 1) -> Layout:
    """Cells of whole pixels in a picture as close to `size` pixels wide as they allow.

    At `scale` s everything is drawn s times as large, for print.
    """
    num_rows, num_columns = checkpoint.grid_size
    room = size - 2 * MARGIN - LABELS - PANEL_GAP - PANEL_WIDTH
    cell = best_cell(checkpoint.grid_size, room, max(size, PANEL_HEIGHT))
    face = checkpoint.face
    example_patch = face.outer_left_eye if face else (num_rows // 2, num_columns // 4)
    example_cell = max(1, min((PANEL_WIDTH - 20) // (2 * num_columns), 130 // num_rows))
    return Layout(
        width=size - room + tiles_extent(num_columns, cell),
        height=TOP + max(tiles_extent(num_rows, cell), PANEL_HEIGHT) + MARGIN,
        scale=scale,
        tiles=lay_out_tiles(checkpoint.grid_size, cell, scale),
        example=lay_out_map(checkpoint.grid_size, example_patch, example_cell * scale),
        example_patch=example_patch,
        example_cell=example_cell,
    )
