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
    low = np.floor(corners.min(0) - 2).astype(int)
    high = np.ceil(corners.max(0) + 2).astype(int)
    columns, rows = (np.arange(low[axis], high[axis]).clip(0, image.shape[1 - axis] - 1) for axis in (0, 1))
    part = Image.fromarray(image[rows[:, None], columns])
    scale = float(np.hypot(*matrix[:, 0]))
    if scale < 1:
        small = [max(1, round(length * scale)) for length in part.size]
        stretch = np.array(part.size) / small
        part = part.resize((small[0], small[1]), Image.Resampling.BILINEAR)
    else:
        stretch = np.ones(2)
    back = (back - np.column_stack([np.zeros((2, 2)), low])) / stretch[:, None]
    moved = part.transform(
        (width, height), Image.Transform.AFFINE, tuple(back.ravel().tolist()), Image.Resampling.BILINEAR
    )
    return np.asarray(moved)
