"""Points moved onto others by rotation, scale and shift, and the part of an image that this brings into view."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

Points = NDArray[np.float64]
"""(n, 2): x, y in pixels from the image's upper left corner, so that the first pixel's middle is (0.5, 0.5)."""
Similarity = NDArray[np.float64]
"""(2, 3): a rotation and scale, and beside it a shift."""


def similarity(source: Points, target: Points) -> Similarity:
    """What brings `source` nearest to `target`, both of at least two points that differ: least squares.

    With points as complex numbers, both sets about their means, it is z → a z + b, a = Σ s̄ t / Σ |s|² (the solution of
    Umeyama, TPAMI 1991, in the plane and without mirroring).
    """
    s, t = (points[:, 0] + 1j * points[:, 1] for points in (source, target))
    centred = s - s.mean()
    a = np.vdot(centred, t) / np.vdot(centred, centred)
    b = t.mean() - a * s.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def move(matrix: Similarity, points: Points) -> Points:
    """Each point by `matrix`."""
    moved: Points = points @ matrix[:, :2].T + matrix[:, 2]
    return moved


def inverse(matrix: Similarity) -> Similarity:
    """What undoes `matrix`."""
    back = np.linalg.inv(matrix[:, :2])
    return np.column_stack([back, -back @ matrix[:, 2]])


def warp(image: NDArray[np.uint8], matrix: Similarity, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The part of `image` (H, W, 3) that `matrix` brings into (height, width) = `size`, as (height, width, 3).

    Bilinear; what becomes smaller is averaged first. Beyond the image's edge its last pixels are repeated.
    """
    height, width = size
    back = inverse(matrix)
    corners = move(back, np.array([[0.0, 0.0], [width, 0], [0, height], [width, height]]))
    low, high = np.floor(corners.min(0) - 2).astype(int), np.ceil(corners.max(0) + 2).astype(int)
    sides = np.array([image.shape[1], image.shape[0]])
    first, last = low.clip(0, sides - 1), high.clip(1, sides)
    last = np.maximum(last, first + 1)
    part = image[first[1] : last[1], first[0] : last[0]]
    scale = min(1.0, float(np.hypot(*matrix[:, 0])))
    small = np.maximum(1, np.round((last - first) * scale).astype(int))
    stretch = (last - first) / small
    if scale < 1:
        resized = Image.fromarray(part).resize((int(small[0]), int(small[1])), Image.Resampling.BILINEAR)
        part = np.asarray(resized)
    before, after = (np.ceil(gap.clip(0) / stretch).astype(int) for gap in (first - low, high - last))
    part = np.pad(part, ((before[1], after[1]), (before[0], after[0]), (0, 0)), mode="edge")
    back = (back - np.column_stack([np.zeros((2, 2)), first - before * stretch])) / stretch[:, None]
    moved = Image.fromarray(part).transform(
        (width, height), Image.Transform.AFFINE, tuple(back.ravel().tolist()), Image.Resampling.BILINEAR
    )
    return np.asarray(moved)
