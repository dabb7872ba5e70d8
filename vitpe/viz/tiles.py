"""The grid of maps as pixels: tile (r, c) shows the map of patch (r, c); in it, cell (i, j) stands for patch (i, j)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitpe.viz.colours import BACKGROUND, HATCH, INK, TRANSPARENT, UNDEFINED, Palette, Pixels

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
