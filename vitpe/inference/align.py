"""A photo → the face in it, brought to CelebA's template, with OpenCV's Haar cascades (an optional extra).

Cascades: Viola & Jones, CVPR 2001; OpenCV's wheels carry them, so nothing is downloaded.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.celeba import LEFT_EYE, RIGHT_EYE, SIZE
from vitpe.data.images import Pixels
from vitpe.errors import VitpeError

Eyes = tuple[tuple[float, float], tuple[float, float]]
"""(x, y) of the eye at the image's left and of the one at its right."""
Box = tuple[int, int, int, int]
"""(x, y, width, height)"""
EYES: Final[Eyes] = (LEFT_EYE, RIGHT_EYE)

# Where a frontal-face box has its eyes, as shares of its side: the mean over 384 of CelebA's valid split.
_EYES_IN_BOX: Final = ((0.305, 0.379), (0.690, 0.379))
_MAX_SIDE: Final = 1024  # a larger photo is searched at this size: faces worth aligning stay large enough
_ANGLES: Final = (0, 25, -25)  # degrees by which an image is turned until a face is found; the cascade sees up to 15
_MAX_EYE_SHIFT: Final = 0.13  # of the box's width, between where an eye is found and where it should be
_EYE_BAND: Final = (0.15, 0.6)  # of the box's height, where its eyes can be


class FaceAligner:
    """Callable: (image (3, H, W) uint8, its name) → (3, 218, 178) uint8. May be called from several threads.

    The largest face with two eyes in it is taken, and these are put on EYES by a similarity transform (rotation, scale,
    shift). Where only faces are found the largest one's box stands for the eyes; where no face is found the image is
    returned as it is. `tell` gets one line for an image without or with several faces.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        try:
            import cv2
        except ImportError as error:
            raise VitpeError("--align needs OpenCV", "install it: pip install 'vitpe[align]'") from error
        self._cv2: Any = cv2
        self._tell = tell
        self._local = threading.local()  # a cascade must not be used by two threads at once

    def __call__(self, image: Pixels, name: str) -> Pixels:
        upright = np.ascontiguousarray(image.transpose(1, 2, 0))
        for angle in _ANGLES:
            pixels = self._turn(upright, angle)
            faces = self._find_faces(pixels)
            if faces:
                break
        else:
            self._tell(f"{name}: no face found, used as it is")
            return image
        # What has two eyes in it is a face; a box without them is often a fold of cloth.
        found = [eyes for eyes in (self._find_eyes(pixels, box) for box in faces) if eyes is not None]
        count = len(found) or len(faces)
        if count > 1:
            self._tell(f"{name}: {count} faces found, the largest is used")
        return self._warp(pixels, found[0] if found else _guess_eyes(faces[0]))

    def _turn(self, pixels: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
        """Rotated about its middle, on a canvas that holds all of it."""
        if not degrees:
            return pixels
        height, width = pixels.shape[:2]
        matrix = self._cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
        size = np.abs(matrix[:, :2]) @ (width, height)
        matrix[:, 2] += (size - (width, height)) / 2
        turned: NDArray[np.uint8] = self._cv2.warpAffine(
            pixels, matrix, tuple(np.ceil(size).astype(int).tolist()), borderMode=self._cv2.BORDER_REPLICATE
        )
        return turned

    def _warp(self, pixels: NDArray[np.uint8], eyes: Eyes) -> Pixels:
        """The part of the image that has `eyes` at EYES, (3, 218, 178)."""
        scale = float(np.hypot(*similarity(eyes, EYES)[:, 0]))
        if scale < 1:  # warping samples single pixels, so a large photo is averaged down first
            pixels = self._cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=self._cv2.INTER_AREA)
            eyes = (eyes[0][0] * scale, eyes[0][1] * scale), (eyes[1][0] * scale, eyes[1][1] * scale)
        moved: NDArray[np.uint8] = self._cv2.warpAffine(
            pixels,
            similarity(eyes, EYES),
            (SIZE[1], SIZE[0]),
            flags=self._cv2.INTER_LINEAR,
            borderMode=self._cv2.BORDER_REPLICATE,
        )
        return moved.transpose(2, 0, 1)

    def _cascade(self, name: str) -> Any:
        if not hasattr(self._local, name):
            path = Path(self._cv2.data.haarcascades) / f"haarcascade_{name}.xml"
            setattr(self._local, name, self._cv2.CascadeClassifier(str(path)))
        return getattr(self._local, name)

    def _find_faces(self, pixels: NDArray[np.uint8]) -> list[Box]:
        """The largest first."""
        grey = self._cv2.cvtColor(pixels, self._cv2.COLOR_RGB2GRAY)
        shrink = min(1.0, _MAX_SIDE / max(grey.shape))
        if shrink < 1:
            grey = self._cv2.resize(grey, None, fx=shrink, fy=shrink, interpolation=self._cv2.INTER_AREA)
        smallest = max(24, min(grey.shape) // 10)
        found = self._cascade("frontalface_alt2").detectMultiScale(grey, 1.1, 4, minSize=(smallest, smallest))
        boxes = np.round(np.reshape(found, (-1, 4)) / shrink).astype(int).tolist()
        return sorted(map(tuple, boxes), key=lambda box: -box[2] * box[3])

    def _find_eyes(self, pixels: NDArray[np.uint8], box: Box) -> Eyes | None:
        """The centres of both eyes in a face's box, None where they are not found near where eyes should be."""
        x, y, width, height = box
        top, bottom = (y + round(share * height) for share in _EYE_BAND)
        grey = self._cv2.cvtColor(pixels[max(0, top) : bottom, max(0, x) : x + width], self._cv2.COLOR_RGB2GRAY)
        size = max(8, width // 7)
        found = self._cascade("eye").detectMultiScale(grey, 1.05, 3, minSize=(size, size))
        centres = [
            (max(0, x) + ex + ew / 2, max(0, top) + ey + eh / 2)
            for ex, ey, ew, eh in np.reshape(found, (-1, 4)).tolist()
        ]
        eyes = []
        for gx, gy in _guess_eyes(box):
            near = sorted((np.hypot(cx - gx, cy - gy), cx, cy) for cx, cy in centres)
            if not near or near[0][0] > _MAX_EYE_SHIFT * width:
                return None
            eyes.append((near[0][1], near[0][2]))
        return eyes[0], eyes[1]


def _guess_eyes(box: Box) -> Eyes:
    x, y, width, height = box
    (ax, ay), (bx, by) = _EYES_IN_BOX
    return (x + ax * width, y + ay * height), (x + bx * width, y + by * height)


def similarity(source: Eyes, target: Eyes) -> NDArray[np.float64]:
    """The (2, 3) matrix of the rotation, scale and shift that takes two points (x, y) to two others.

    With points as complex numbers it is z → a z + b, a = (t1 - t0) / (s1 - s0), b = t0 - a s0.
    """
    (s0, s1), (t0, t1) = ([complex(*point) for point in points] for points in (source, target))
    a = (t1 - t0) / (s1 - s0)
    b = t0 - a * s0
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])
