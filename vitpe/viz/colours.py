"""Every colour of the pictures and the page: those of similarity, the inks around the maps, and the GIF's palette.

A GIF with one palette for all frames does not flicker, and needs no dithering when nothing else was ever drawn.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from vitpe.errors import UsageError
from vitpe.viz.similarity import Floats, without_self

Pixels = NDArray[np.uint8]

BACKGROUND = "#ffffff"
INK = "#1d2433"
MUTED = "#667085"
FAINT = "#d5d9e0"
CELL = "#f1f3f6"
ACCENT = "#e0245e"
UNDEFINED = "#e6e8ec"
HATCH = "#cdd1d8"

# Steps of the colour map. 61 frames of a real run take 2.6 MB as a GIF with 28, each within 2 % of its value, and
# 4.3 MB with 64.
GIF_LEVELS = 28
NUM_LEVELS = 128
PAGE_LEVELS = 256
# Shades that anti-aliased drawing needs between the background and each ink.
_SHADES = {INK: 40, MUTED: 24, FAINT: 8, ACCENT: 24, CELL: 3, UNDEFINED: 1, HATCH: 1}
# Similarity is counted in so many steps of [-1, 1] to find the range that colours show.
NUM_BINS = 200_001
# Never drawn: a frame's pixels that are as in the frame before.
TRANSPARENT = 255


def rgb(colour: str) -> tuple[int, int, int]:
    """`#rrggbb` → (r, g, b), each 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


@dataclass(frozen=True)
class Palette:
    """colours: (256, 3) uint8; indices 0 to num_levels - 1 are the colour map, then come inks; 255 is transparent."""

    colours: Pixels
    num_levels: int

    def index_of(self, colour: str) -> int:
        """The index of the inks above, exactly."""
        found = np.flatnonzero((self.colours[self.num_levels : TRANSPARENT] == rgb(colour)).all(axis=1))
        return self.num_levels + int(found[0])

    def ramp(self, colour: str) -> Pixels:
        """256 indices from the background to an ink, by coverage 0 to 255."""
        coverage = np.linspace(0, 1, 256)[:, None]
        return self.nearest(np.rint(np.array(rgb(BACKGROUND)) * (1 - coverage) + np.array(rgb(colour)) * coverage))

    def nearest(self, pixels: NDArray[np.generic]) -> Pixels:
        """RGB pixels (…, 3) in 0 to 255 → the indices of the nearest inks (…); the colour map is not drawn from."""
        red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
        packed = red << 16 | green << 8 | blue
        table = np.zeros(1 << 24, dtype=np.uint8)  # by colour; a picture has far fewer colours than pixels
        table[packed] = 1
        colours = np.flatnonzero(table)
        channels = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], axis=1)
        inks = self.colours[self.num_levels : TRANSPARENT].astype(np.int64)
        table[colours] = self.num_levels + np.square(channels[:, None] - inks[None]).sum(axis=2).argmin(axis=1)
        indices: Pixels = table[packed]
        return indices

    def to_rgb(self, indices: Pixels) -> Pixels:
        """(…) indices → (…, 3) RGB."""
        return self.colours[indices]


def colour_map(cmap: str, num_levels: int) -> Pixels:
    """The colours of similarity from the lowest to the highest, (num_levels, 3), for all pictures and the page.

    cmap: one of matplotlib's. Raises UsageError when it knows none of that name.
    """
    if cmap not in mpl.colormaps:
        raise UsageError(
            f"unknown colour map {cmap!r}",
            hint="perceptually uniform ones are viridis, magma, inferno, plasma and cividis",
        )
    colours: Floats = mpl.colormaps[cmap].resampled(num_levels)(np.arange(num_levels))[:, :3]
    return np.rint(colours * 255).astype(np.uint8)


def make_palette(cmap: str, num_levels: int = NUM_LEVELS) -> Palette:
    """The palette of a colour map; see `colour_map`."""
    background = np.array(rgb(BACKGROUND))
    inks = [background] + [
        background + (np.array(rgb(colour)) - background) * (shade / num_shades)
        for colour, num_shades in _SHADES.items()
        for shade in range(1, num_shades + 1)
    ]
    colours = np.zeros((256, 3))
    colours[:num_levels] = colour_map(cmap, num_levels)
    colours[num_levels : num_levels + len(inks)] = inks
    colours[num_levels + len(inks) :] = background
    return Palette(np.rint(colours).astype(np.uint8), num_levels)


def colour_range(similarities: Iterable[Floats], tail_percent: float = 0.5) -> tuple[float, float]:
    """One (low, high) for all maps of all frames, self-similarity left out.

    All but `tail_percent` of the values at either end lie inside; the ends are round numbers within [-1, 1].
    (-1, 1) when nothing is defined.
    """
    return range_of((without_self(similarity) for similarity in similarities), tail_percent)


def range_of(arrays: Iterable[Floats], tail_percent: float = 0.5) -> tuple[float, float]:
    """As `colour_range`, of all values in these arrays that are defined."""
    counts = np.zeros(NUM_BINS, dtype=np.int64)  # over [-1, 1]; all values at once would not fit for large grids
    for values in arrays:
        bins = (values[np.isfinite(values)] + 1) / 2 * (NUM_BINS - 1)
        counts += np.bincount(np.rint(bins).astype(np.intp), minlength=NUM_BINS)
    if not counts.any():
        return -1.0, 1.0
    ends = np.array([tail_percent, 100 - tail_percent]) / 100 * counts.sum()
    low, high = np.searchsorted(counts.cumsum(), ends) / (NUM_BINS - 1) * 2 - 1
    # Embeddings that share a strong common part differ in the third digit: round to no more than a tenth of the span.
    unit = min(0.05, float(10 ** np.floor(np.log10(max(high - low, 1e-4)))) / 2)
    low, high = np.floor(low / unit + 1e-3) * unit, np.ceil(high / unit - 1e-3) * unit
    if high - low < unit:  # all alike
        low, high = low - unit, high + unit
    return max(float(low), -1.0), min(float(high), 1.0)


@dataclass(frozen=True)
class ColourScale:
    """Similarity → level. per_tile: each map from its own lowest to its own highest value instead of low to high."""

    low: float
    high: float
    per_tile: bool = False

    def levels(self, similarity: Floats, num_levels: int) -> Pixels:
        """(N, N), rows are maps → levels 0 to num_levels - 1; TRANSPARENT where undefined. The diagonal is not scaled
        with the others, and clips."""
        low: float | Floats = self.low
        high: float | Floats = self.high
        if self.per_tile:
            others = np.where(np.eye(len(similarity), dtype=bool) | np.isnan(similarity), np.inf, similarity)
            low = others.min(axis=1, keepdims=True)
            high = np.where(np.isinf(others), -np.inf, others).max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            share = (similarity - low) / (high - low)
        share = np.nan_to_num(share, nan=0.5, posinf=1.0, neginf=0.0)
        levels = np.rint(np.clip(share, 0, 1) * (num_levels - 1)).astype(np.uint8)
        levels[np.isnan(similarity)] = TRANSPARENT
        return levels
