"""A photo's faces, whatever their size and however they are turned: found small, then looked at closely. No torch."""

from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitpe.inference.face_detector import Face, detect
from vitpe.inference.warp import Points, inverse, move, similarity, warp

_SIDES: Final = (256, 512, 1024)  # the longer side of what is searched, until a face is found: most are in the first
_TURNED_SIDE: Final = 384
_MIN_CANDIDATE, _MIN_FACE = 0.2, 0.5  # scores in a whole photo, and seen closely and upright
_SURE: Final = 0.8
_WINDOW: Final = (192, 192)  # of the closer look
_POSE: Final = np.array([[76.0, 84], [116, 84], [96, 108], [79, 127], [113, 127]])
"""Landmarks of a face that stands upright in the middle of the window."""
_MAX_LOOKS: Final = 4
_SETTLED: Final = 7.0  # degrees: a face so nearly upright need not be looked at again
_MAX_MISFIT: Final = 0.25  # of the distance between the eyes, from landmarks to the pose's that fit them best


def find_faces(image: NDArray[np.uint8], *, every: bool = False) -> list[Face]:
    """The faces in `image` (H, W, 3), the largest first; none where there is none. May be called from several threads.

    An image in which nothing is found is searched larger, and then turned by 90, 270 and 180 degrees.
    every: search it larger in any case, for small faces beside a large one.
    Raises VitpeError where the extra is not installed.
    """
    faces: list[Face] = []
    largest = _shrink(image, _SIDES[-1])
    for side in _SIDES:
        faces = _distinct([*faces, *_search(image, _shrink(largest, side))])
        if (faces and not every) or max(image.shape) <= side:
            break
    for quarters in (1, 3, 2):
        if faces:
            break
        turned = np.rot90(image, quarters), np.rot90(_shrink(largest, _TURNED_SIDE), quarters)
        faces = _distinct([_turn_back(face, quarters, image.shape[:2]) for face in _search(*turned)])
    return sorted(faces, key=lambda face: -face.area)


def _shrink(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Until the longer side is `side` at most."""
    height, width = image.shape[:2]
    shrink = side / max(height, width)
    if shrink >= 1:
        return image
    size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR, reducing_gap=2.0))


def _search(image: NDArray[np.uint8], small: NDArray[np.uint8]) -> list[Face]:
    """The faces of an image, looked for in a smaller copy; one may be there twice."""
    scale = np.array([image.shape[1] / small.shape[1], image.shape[0] / small.shape[0]])
    candidates = [
        replace(face, box=tuple((np.array(face.box) * np.tile(scale, 2)).tolist()), landmarks=face.landmarks * scale)
        for face in detect(small, _MIN_CANDIDATE)
    ]
    return [face for candidate in candidates if (face := _look_closer(image, candidate)) is not None]


def _distinct(faces: list[Face]) -> list[Face]:
    """Those whose middle is not within another's that is surer."""
    kept: list[Face] = []
    for face in sorted(faces, key=lambda face: -face.score):
        middle = face.landmarks.mean(0)
        if all(np.hypot(*(middle - other.landmarks.mean(0))) > other.eye_distance / 2 for other in kept):
            kept.append(face)
    return kept


def _look_closer(image: NDArray[np.uint8], face: Face) -> Face | None:
    """The face with landmarks from a window in which it stands upright; None where nothing there is a face.

    Where it is not surely one, it may lie on its side or stand on its head: it is the way in which it is surest.
    """
    seen: Face | None = None
    middle = face.landmarks.mean(0)
    for quarters in range(4):
        x, y = (face.landmarks - middle).T
        turned = (np.stack([x, y], 1), np.stack([-y, x], 1), np.stack([-x, -y], 1), np.stack([y, -x], 1))[quarters]
        found = _settle(image, replace(face, landmarks=turned + middle))
        if found is not None and (seen is None or found.score > seen.score):
            seen = found
        if seen is not None and seen.score >= _SURE:
            break
    return seen


def _settle(image: NDArray[np.uint8], face: Face) -> Face | None:
    """The face in the window that shows these landmarks upright, the window turned until they are; None for no face.

    Far from upright, landmarks say too small an angle: each look turns the window by what is left.
    """
    points, middle = face.landmarks, _POSE.mean(0)
    for _ in range(_MAX_LOOKS):
        if not 1 < np.hypot(*np.ptp(points, axis=0)) < 2 * max(image.shape):
            return None
        matrix = similarity(points, _POSE)
        seen = detect(warp(image, matrix, _WINDOW), _MIN_FACE)
        seen = [each for each in seen if np.hypot(*(each.landmarks.mean(0) - middle)) < 40]
        if not seen:
            return None
        points = move(inverse(matrix), seen[0].landmarks)
        left = similarity(seen[0].landmarks, _POSE)
        if abs(np.degrees(np.arctan2(left[1, 0], left[0, 0]))) < _SETTLED:
            break
    else:
        return None
    misfit = np.sqrt(np.mean((move(left, seen[0].landmarks) - _POSE) ** 2) * 2) / (_POSE[1, 0] - _POSE[0, 0])
    return replace(face, landmarks=points, score=seen[0].score) if misfit < _MAX_MISFIT else None


def _turn_back(face: Face, quarters: int, shape: tuple[int, ...]) -> Face:
    """A face of np.rot90(image, quarters), where it lies in the image of that (height, width)."""
    height, width = shape
    x, y, box_width, box_height = face.box
    points: Points = np.concatenate([face.landmarks, [[x, y], [x + box_width, y + box_height]]])
    for turn in range(quarters):  # rot90 takes (x, y) to (y, width - x), the width being of the image that is turned
        length = width if (quarters - turn) % 2 else height
        points = np.stack([length - points[:, 1], points[:, 0]], 1)
    low, high = points[5:].min(0), points[5:].max(0)
    return replace(face, box=(*low.tolist(), *(high - low).tolist()), landmarks=points[:5])
