"""What drawn faces are painted with: a batch of canvases, face coordinates, soft-edged coverage and noise plates.

Every portrait of a batch is painted at once, each shape inside its bounding box. Shapes are written as distances
along x, (n, 1, w), and y, (n, h, 1), so most of the work is one broadcast per pixel. All arrays are float32,
colours are RGB in [0, 1].
"""

from functools import cache
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.celeba import ATTRIBUTES, LEFT_EYE, RIGHT_EYE, SIZE

Array = NDArray[np.floating[Any]]
Box = tuple[slice, slice]

HEIGHT, WIDTH = SIZE
CENTRE_X: Final = (LEFT_EYE[0] + RIGHT_EYE[0]) / 2
EYE_Y: Final = float(LEFT_EYE[1])

NUISANCES: Final = tuple(
    """shift_x shift_y scale yaw gaze skin skin_warmth iris iris_depth lip_hue shadow_hue light_side light_top gain
    warmth noise noise_x noise_y plate_x plate_y backdrop_hue backdrop_value backdrop_contrast backdrop_a backdrop_b
    backdrop_c backdrop_d cloth_hue cloth_value cloth_cut hair_shade hair_length hair_volume hair_phase hair_part
    hair_offset face_width chin eye_tilt brow_height mouth_width frame_shape frame_hue lens metal hat_shape hat_hue
    hat_value beard_shape tie_hue""".split()
)
"""What varies from portrait to portrait and decides no attribute; one number in [0, 1) each."""

NUM_NUISANCES: Final = len(NUISANCES) + len(ATTRIBUTES)
_MARGIN: Final = 7
"""Pixels that pose (shift, scale, yaw) can move a shape out of its bounding box."""
_PLATE: Final = 256


class Portraits:
    """n portraits in the making.

    pixels: (N, 3, HEIGHT, WIDTH) float32, shared with the sub-batches that `only` gives.
    x, y: (n, 1, WIDTH) and (n, HEIGHT, 1) face coordinates of the pixels: x = 0 midway between the eyes, y as in
    CelebA's aligned images.
    traits: what later layers need of earlier ones (outlines, colours), (n, …) each.
    """

    def __init__(self, seen: NDArray[np.uint8], nuisance: NDArray[np.float64]) -> None:
        """seen: (n, 40) the visible attributes. nuisance: (n, NUM_NUISANCES) in [0, 1)."""
        self._nuisance = nuisance[:, : len(NUISANCES)].astype(np.float32)
        variation = nuisance[:, len(NUISANCES) :].astype(np.float32)
        self._seen = seen.astype(np.float32)
        self._amounts = np.where(seen == 1, 0.7 + 0.5 * variation, 0.25 * variation).astype(np.float32)
        self._rows: NDArray[np.intp] | None = None
        self.pixels: Array = np.empty((len(seen), 3, HEIGHT, WIDTH), np.float32)
        scale = 1 + self.vary("scale", 0.03)
        self.x: Array = (np.arange(WIDTH, dtype=np.float32) - CENTRE_X - self.vary("shift_x", 3.0)) / scale
        rows = np.arange(HEIGHT, dtype=np.float32)[:, None]
        self.y: Array = (rows - EYE_Y - self.vary("shift_y", 3.0)) / scale + EYE_Y
        self.yaw: Array = self.vary("yaw", 1.0)
        self.traits: dict[str, Array] = {}

    def __len__(self) -> int:
        return len(self._seen)

    def has(self, name: str) -> NDArray[np.bool_]:
        """(n,) whether an attribute is to be seen."""
        return self._seen[:, ATTRIBUTES.index(name)] > 0.5

    def flag(self, name: str) -> Array:
        """(n, 1, 1) the same as 0.0 or 1.0."""
        return self._seen[:, ATTRIBUTES.index(name), None, None]

    def amount(self, name: str) -> Array:
        """(n, 1, 1) how strongly an attribute shows: 0 to 0.25 where absent, 0.7 to 1.2 where present."""
        return self._amounts[:, ATTRIBUTES.index(name), None, None]

    def chance(self, name: str) -> Array:
        """(n, 1, 1) a nuisance in [0, 1)."""
        return self._nuisance[:, NUISANCES.index(name), None, None]

    def vary(self, name: str, size: float) -> Array:
        """(n, 1, 1) a nuisance in [-size, size)."""
        return (2 * self.chance(name) - 1) * np.float32(size)

    def only(self, rows: NDArray[np.bool_]) -> "Portraits | None":
        """The portraits where `rows` (n,) holds, painting on the same canvases; None when there is none."""
        chosen = np.flatnonzero(rows)
        if len(chosen) == 0:
            return None
        some = object.__new__(Portraits)
        some._nuisance, some._seen = self._nuisance[chosen], self._seen[chosen]
        some._amounts = self._amounts[chosen]
        some._rows = chosen if self._rows is None else self._rows[chosen]
        some.pixels = self.pixels
        some.x, some.y, some.yaw = self.x[chosen], self.y[chosen], self.yaw[chosen]
        some.traits = {name: trait[chosen] for name, trait in self.traits.items()}
        return some

    def blend(self, box: Box, coverage: Array, colour: Array) -> None:
        """Paint `colour`, (n, 3, 1, 1) or (n, 3, h, w), where `coverage` (n, h, w) says, in [0, 1]."""
        view = self.pixels[:, :, box[0], box[1]]
        part = view if self._rows is None else view[self._rows]
        change = colour - part
        change *= coverage[:, None]
        part += change
        if self._rows is not None:
            view[self._rows] = part

    def plate(self, box: Box) -> Array:
        """(n, h, w) unit-variance grain of about two pixels, placed by chance."""
        height, width = box[0].stop - box[0].start, box[1].stop - box[1].start
        grain, room = grain_plate(2.0), _PLATE - 1
        tops = (self.chance("plate_y").ravel() * (room - height)).astype(int)
        lefts = (self.chance("plate_x").ravel() * (room - width)).astype(int)
        corners = zip(tops, lefts, strict=True)
        return np.stack([grain[top : top + height, left : left + width] for top, left in corners])


def box(left: float, right: float, top: float, bottom: float) -> Box:
    """The pixels that a shape within these face coordinates can reach in any pose."""
    columns = slice(max(0, round(CENTRE_X + left) - _MARGIN), min(WIDTH, round(CENTRE_X + right) + _MARGIN))
    return slice(max(0, round(top) - _MARGIN), min(HEIGHT, round(bottom) + _MARGIN)), columns


def ramp(distance: Array) -> Array:
    """Coverage of a pixel whose centre lies `distance` pixels inside an edge; overwrites its argument."""
    distance += np.float32(0.5)
    return np.clip(distance, 0, 1, out=distance)


def fade(distance: Array, width: float) -> Array:
    """0 at `distance` 0 to 1 at `width`, linear; a soft edge."""
    share: Array = distance * np.float32(1 / width)
    return np.clip(share, 0, 1, out=share)


def line(distance: Array, half_thickness: Array | float, softness: float = 1.0) -> Array:
    """Coverage of a line at signed `distance` pixels; softness is the width of its edges."""
    inside = half_thickness - np.abs(distance)
    if softness != 1.0:
        inside *= np.float32(1 / softness)
    return ramp(inside)


def bump(distance: Array, width: Array | float) -> Array:
    """exp(-½ (distance / width)²)."""
    scaled: Array = distance / width
    scaled *= scaled
    scaled *= np.float32(-0.5)
    np.exp(scaled, out=scaled)
    return scaled


def edge_slope(profile: Array) -> Array:
    """(n, h, 1) cosine of the outline's slope where its half-width is `profile` (n, h, 1): x-distance → distance."""
    slope = np.gradient(profile[:, :, 0], axis=1)[:, :, None]
    cosine: Array = 1 / np.sqrt(1 + slope * slope)
    return cosine


def rgb(*values: float) -> Array:
    """(1, 3, 1, 1) one colour."""
    return np.array(values, np.float32).reshape(1, 3, 1, 1)


def mix(low: Array, high: Array, share: Array) -> Array:
    """`low` where share is 0, `high` where it is 1; share is (n, 1, 1), the colours (n or 1, 3, 1, 1)."""
    return low + (high - low) * share[:, None]


def palette(colours: Array, place: Array) -> Array:
    """(n, 3, 1, 1) colours (k, 3) interpolated at place (n, 1, 1) in [0, 1]."""
    at = np.clip(place[:, 0, 0], 0, 1) * (len(colours) - 1)
    low = np.minimum(at.astype(int), len(colours) - 2)
    share: Array = (at - low.astype(np.float32))[:, None]
    mixed: Array = colours[low] * (1 - share) + colours[low + 1] * share
    return mixed[:, :, None, None]


def hue(place: Array, strength: Array | float, value: Array | float) -> Array:
    """(n, 3, 1, 1) colour of a hue `place` in [0, 1) (n, 1, 1), saturation `strength`, brightness `value`."""
    turns = place[:, None] + np.array([0, 2 / 3, 1 / 3], np.float32).reshape(1, 3, 1, 1)
    wheel = 0.5 + 0.5 * np.cos(np.float32(2 * np.pi) * turns)
    strength, value = np.asarray(strength, np.float32), np.asarray(value, np.float32)
    strength = strength[:, None] if strength.ndim else strength
    value = value[:, None] if value.ndim else value
    colour: Array = value * (1 - strength * (1 - wheel))
    return colour


@cache
def grain_plate(size: float) -> Array:
    """(256, 256) noise of unit variance that wraps round, its grain about `size` pixels."""
    noise = np.random.default_rng(40).standard_normal((_PLATE, _PLATE))
    frequency = np.fft.fftfreq(_PLATE)
    radius2 = frequency[:, None] ** 2 + frequency[None, :] ** 2
    smooth = np.fft.ifft2(np.fft.fft2(noise) * np.exp(-radius2 * (size * np.pi) ** 2 / 2)).real
    smooth /= smooth.std()
    return smooth.astype(np.float32)


@cache
def strand_table() -> Array:
    """(8192,) brightness of hair across its strands, mean 0, about ±1, wrapping round."""
    generator = np.random.default_rng(41)
    frequency = np.fft.rfftfreq(8192, 1 / 8192)
    # Strands of three widths; index steps of about 25 lie one pixel apart.
    total = np.zeros(8192)
    for cycles, weight in ((40, 0.5), (110, 0.6), (220, 0.45)):
        spectrum = np.fft.rfft(generator.standard_normal(8192)) * np.exp(
            -(((frequency - cycles) / (0.4 * cycles)) ** 2)
        )
        band = np.fft.irfft(spectrum, 8192)
        total += weight * band / band.std()
    total /= total.std()
    return total.astype(np.float32)
