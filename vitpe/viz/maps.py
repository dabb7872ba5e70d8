"""Maps as pixels, and what stands beside them: numbers of rows and columns, the colour bar, and where patches lie.

In the grid of maps tile (r, c) shows the map of patch (r, c), and in it cell (i, j) stands for patch (i, j).
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitpe.viz.colours import BACKGROUND, CELL, FAINT, HATCH, INK, MUTED, TRANSPARENT, UNDEFINED, Palette, Pixels
from vitpe.viz.face import FaceGeometry
from vitpe.viz.sheet import Sheet

MAX_CELL = 64


@dataclass(frozen=True)
class Tiles:
    """One or all maps of N patches, as the place that each pixel's value comes from.

    grid_size: (Gh, Gw) of the patches; cell: side of a cell, gap: space between tiles, both in pixels.
    source: (height, width), flat index n · N + m of the similarity that a pixel shows; N² for gaps, N² + 1 for the
    outline of a tile's own patch and N² + 2 for its inside. hatch: (height, width), which pixels are darker where
    similarity is undefined.
    """

    grid_size: tuple[int, int]
    cell: int
    gap: int
    source: NDArray[np.int32]
    hatch: NDArray[np.bool_]

    def tile_box(self, row: int, column: int) -> tuple[int, int, int, int]:
        """(top, left, bottom, right) of tile (row, column) in pixels, bottom and right excluded."""
        height, width = self.grid_size[0] * self.cell, self.grid_size[1] * self.cell
        top, left = row * (height + self.gap), column * (width + self.gap)
        return top, left, top + height, left + width

    def draw(self, levels: Pixels, palette: Palette) -> Pixels:
        """Levels (N, N), TRANSPARENT where undefined → palette indices (height, width), undefined cells hatched."""
        inks = [palette.index_of(colour) for colour in (BACKGROUND, INK, BACKGROUND)]
        pixels: Pixels = np.append(levels.ravel(), np.array(inks, dtype=np.uint8))[self.source]
        hatch = np.where(self.hatch, palette.index_of(HATCH), palette.index_of(UNDEFINED)).astype(np.uint8)
        return np.where(pixels == TRANSPARENT, hatch, pixels)


def best_cell(grid_size: tuple[int, int], width: int, max_height: int) -> int:
    """The side of the cells with which the tiles come closest to `width`, in pixels, at least one.

    Tiles are no higher than `max_height`, unless cells of one pixel are.
    """
    num_rows, num_columns = grid_size
    fitting = [cell for cell in range(1, MAX_CELL + 1) if tiles_extent(num_rows, cell) <= max_height]
    return min(fitting or [1], key=lambda cell: abs(tiles_extent(num_columns, cell) - width))


def tiles_extent(num_cells: int, cell: int) -> int:
    """Length in pixels of a line of `num_cells` tiles of `num_cells` cells each, and of the gaps between them."""
    return num_cells * (num_cells * cell + _gap(cell)) - _gap(cell)


def lay_out_tiles(grid_size: tuple[int, int], cell: int, scale: int = 1) -> Tiles:
    """All maps, each in its patch's place; with `scale` s, everything is s times as large as with 1."""
    num_rows, num_columns = grid_size
    cell, gap = cell * scale, _gap(cell) * scale
    tile_height, tile_width = num_rows * cell, num_columns * cell
    tile_row, y = np.divmod(np.arange(num_rows * (tile_height + gap) - gap, dtype=np.int32)[:, None], tile_height + gap)
    tile_column, x = np.divmod(
        np.arange(num_columns * (tile_width + gap) - gap, dtype=np.int32)[None], tile_width + gap
    )
    source = _source(tile_row * num_columns + tile_column, y, x, grid_size, cell)
    source = np.where((y < tile_height) & (x < tile_width), source, np.int32((num_rows * num_columns) ** 2))
    return Tiles(grid_size, cell, gap, source, _stripes(y, x, cell))


def lay_out_map(grid_size: tuple[int, int], patch: tuple[int, int], cell: int) -> Tiles:
    """One patch's map alone."""
    y, x = np.indices((grid_size[0] * cell, grid_size[1] * cell), dtype=np.int32, sparse=True)
    source = _source(np.array(patch[0] * grid_size[1] + patch[1], dtype=np.int32), y, x, grid_size, cell)
    return Tiles(grid_size, cell, 0, source, _stripes(y, x, cell))


def _gap(cell: int) -> int:
    return max(1, 3 * cell // 4)


def _source(
    patch: NDArray[np.int32], y: NDArray[np.int32], x: NDArray[np.int32], grid_size: tuple[int, int], cell: int
) -> NDArray[np.int32]:
    """What pixel (y, x) of a patch's tile shows, by broadcasting."""
    num_patches = grid_size[0] * grid_size[1]
    other = (y // cell) * grid_size[1] + x // cell
    from_edge = np.minimum(np.minimum(y % cell, x % cell), cell - 1 - np.maximum(y % cell, x % cell))
    mark = np.where(from_edge < max(1, cell // 5), np.int32(num_patches**2 + 1), np.int32(num_patches**2 + 2))
    return np.where(patch == other, mark, patch * np.int32(num_patches) + other)


def _stripes(y: NDArray[np.int32], x: NDArray[np.int32], cell: int) -> NDArray[np.bool_]:
    """Diagonal stripes, a third of the pixels."""
    stripes: NDArray[np.bool_] = (y + x) // max(2, cell // 2) % 3 == 0
    return stripes


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


def draw_row_and_column_numbers(sheet: Sheet, tiles: Tiles, x: float, y: float) -> None:
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


def draw_image_plane(
    sheet: Sheet, x: float, y: float, grid_size: tuple[int, int], cell: float, face: FaceGeometry | None
) -> None:
    """Draw the grid of patches with its top left corner at (x, y); `cell` is a patch's side in pixels."""
    num_rows, num_columns = grid_size
    height, width = num_rows * cell, num_columns * cell
    sheet.rectangle(x, y, width, height, fill=CELL)
    for row in range(num_rows + 1):
        sheet.line([x, x + width], [y + row * cell] * 2, FAINT, 0.8)
    for column in range(num_columns + 1):
        sheet.line([x + column * cell] * 2, [y, y + height], FAINT, 0.8)
    if face is not None:
        _draw_face(sheet, x, y, cell, face)


def _draw_face(sheet: Sheet, x: float, y: float, cell: float, face: FaceGeometry) -> None:
    """A line drawing in units of the distance between the eyes; only the eyes' places are data."""
    eye_y = y + face.left_eye_centre[0] * cell
    left_x, right_x = (x + centre[1] * cell for centre in (face.left_eye_centre, face.right_eye_centre))
    middle, unit = (left_x + right_x) / 2, right_x - left_x
    line = max(1.0, cell / 9)
    sheet.ellipse(middle, eye_y + 0.30 * unit, 2.55 * unit, 3.45 * unit, MUTED, line)
    for eye_x in (left_x, right_x):
        sheet.ellipse(eye_x, eye_y, 0.48 * unit, 0.22 * unit, MUTED, line)
        sheet.ellipse(eye_x, eye_y, 0.12 * unit, 0.14 * unit, MUTED, line)
    nose = np.array([[-0.05, 0.15], [-0.17, 0.62], [0.0, 0.7], [0.17, 0.62]])
    sheet.line(middle + unit * nose[:, 0], eye_y + unit * nose[:, 1], MUTED, line, solid_joinstyle="round")
    angle = np.linspace(0, np.pi, 24)
    sheet.line(middle + 0.46 * unit * np.cos(angle), eye_y + unit * (1.02 + 0.16 * np.sin(angle)), MUTED, line)
