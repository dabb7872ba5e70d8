"""Faces placed on backgrounds: how many are found where they are, how many not at all, how many elsewhere.

200 placed crops of CelebA's and as many drawn faces, turned by up to 45 degrees, the eyes 10 to 160 pixels apart (as
often 10 to 20 as 80 to 160), and 40 backgrounds without a face. A face is found right where both eyes lie within a
quarter of their distance of where they are (Jesorsky et al., AVBPA 2001). vitpe's detector stands beside OpenCV's Haar
cascades, which it used before, where cv2 is installed.

    python -m tests.benchmarks.face_detection [--quarters] [FOLDER of CelebA]
"""

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from vitpe.celeba import LEFT_EYE, RIGHT_EYE, SIZE
from vitpe.data.celeba import read_celeba
from vitpe.data.drawn_faces import DrawnFaces
from vitpe.inference.face_search import find_faces

Eyes = NDArray[np.float64]
"""(2, 2): the eye at the face's left as one sees it, the other; x, y."""
Detector = Callable[[NDArray[np.uint8]], Eyes | None]
"""(H, W, 3) uint8 → the largest face's eyes, None for no face."""

_RIGHT: Final = 0.25  # of the distance between the eyes
_DISTANCES: Final = (10, 160)
_MAX_TURN: Final = 45
_CANVAS: Final = (480, 640)
EYES: Final = np.array([LEFT_EYE, RIGHT_EYE], float)


@dataclass(frozen=True)
class Photo:
    """pixels: (H, W, 3) uint8. eyes: of its face, None where it has none."""

    pixels: NDArray[np.uint8]
    eyes: Eyes | None


def background(rng: np.random.Generator, shape: tuple[int, int] = _CANVAS) -> Image.Image:
    """Soft colours with discs, boxes and lines in front, and grain."""
    height, width = shape
    soft = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    draw = ImageDraw.Draw(soft)
    for _ in range(int(rng.integers(5, 30))):
        x, y = rng.integers(0, width), rng.integers(0, height)
        side = rng.integers(5, 160, 2)
        colour = tuple(rng.integers(0, 256, 3).tolist())
        kind = rng.integers(3)
        corners = (int(x), int(y), int(x + side[0]), int(y + side[1]))
        if kind == 0:
            draw.ellipse(corners, fill=colour)
        elif kind == 1:
            draw.rectangle(corners, fill=colour)
        else:
            draw.line(corners, fill=colour, width=int(rng.integers(1, 9)))
    pixels = np.asarray(soft.filter(ImageFilter.GaussianBlur(float(rng.uniform(0, 2)))), float)
    return Image.fromarray((pixels + rng.normal(0, 6, pixels.shape)).clip(0, 255).astype(np.uint8))


def place(face: NDArray[np.uint8], rng: np.random.Generator, *, turn: float, distance: float) -> Photo:
    """`face` (3, 218, 178), its eyes where CelebA has them, in a soft oval somewhere on a background, all of it in
    sight. turn: degrees, clockwise. distance: between its eyes there.
    """
    scale = distance / (RIGHT_EYE[0] - LEFT_EYE[0])
    angle = np.radians(turn)
    matrix = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    corners = np.array([[0, 0], [SIZE[1], 0], [0, SIZE[0]], [SIZE[1], SIZE[0]]]) @ matrix.T
    extent = corners.max(0) - corners.min(0)
    height, width = (max(side, int(np.ceil(need)) + 4) for side, need in zip(_CANVAS, extent[::-1], strict=True))
    shift = rng.uniform(0, np.array([width, height]) - extent) - corners.min(0)
    inverse = np.linalg.inv(matrix)
    back = (*inverse[0], -inverse[0] @ shift, *inverse[1], -inverse[1] @ shift)
    image = Image.fromarray(np.ascontiguousarray(face.transpose(1, 2, 0)))
    oval = Image.new("L", image.size)
    ImageDraw.Draw(oval).ellipse((8, 8, SIZE[1] - 8, SIZE[0] - 8), fill=255)
    oval = oval.filter(ImageFilter.GaussianBlur(6))
    # Sampling takes single pixels, so a face that becomes smaller is averaged first.
    soften = ImageFilter.GaussianBlur(0.5 / scale if scale < 1 else 0)
    moved = [
        each.filter(soften).transform((width, height), Image.Transform.AFFINE, back, Image.Resampling.BICUBIC)
        for each in (image, oval)
    ]
    photo = background(rng, (height, width))
    photo.paste(moved[0], mask=moved[1])
    return Photo(np.asarray(photo), EYES @ matrix.T + shift)


def photos(faces: NDArray[np.uint8], seed: int = 0, num_empty: int = 40, *, quarters: bool = False) -> list[Photo]:
    """One of each face (N, 3, 218, 178), then backgrounds without. quarters: turned by 90, 180 or 270 degrees more."""
    rng = np.random.default_rng(seed)
    found = []
    for face in faces:
        distance = float(np.exp(rng.uniform(*np.log(_DISTANCES))))
        turn = float(rng.uniform(-_MAX_TURN, _MAX_TURN)) + (90 * int(rng.integers(1, 4)) if quarters else 0)
        found.append(place(face, rng, turn=turn, distance=distance))
    return [*found, *(Photo(np.asarray(background(rng)), None) for _ in range(num_empty))]


def source_faces(count: int, celeba: Path | None) -> NDArray[np.uint8]:
    """(count, 3, 218, 178) of CelebA's valid split, drawn ones without it."""
    if celeba is None:
        return DrawnFaces("valid", count).read(range(count))
    samples = read_celeba(celeba, "valid")
    return samples.read(np.random.default_rng(1).permutation(len(samples.names))[:count].tolist())


def verdict(eyes: Eyes | None, photo: Photo) -> str:
    """right, not found or wrong."""
    if photo.eyes is None:
        return "right" if eyes is None else "wrong"
    if eyes is None:
        return "not found"
    distance = np.hypot(*(photo.eyes[1] - photo.eyes[0]))
    return "right" if np.hypot(*(eyes - photo.eyes).T).max() <= _RIGHT * distance else "wrong"


def centerface(pixels: NDArray[np.uint8]) -> Eyes | None:
    """vitpe's."""
    faces = find_faces(pixels)
    return faces[0].landmarks[:2] if faces else None


class Haar:
    """OpenCV's frontal faces and, in them, eyes; turned by 25 degrees each way where nothing is found."""

    def __init__(self) -> None:
        import cv2

        self._cv2: Any = cv2
        folder = Path(cv2.data.haarcascades)
        self._faces = cv2.CascadeClassifier(str(folder / "haarcascade_frontalface_alt2.xml"))
        self._eyes = cv2.CascadeClassifier(str(folder / "haarcascade_eye.xml"))

    def __call__(self, pixels: NDArray[np.uint8]) -> Eyes | None:
        cv2 = self._cv2
        cv2.setNumThreads(1)
        grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
        height, width = grey.shape
        for degrees in (0, 25, -25):
            matrix = cv2.getRotationMatrix2D((width / 2, height / 2), degrees, 1)
            size = np.abs(matrix[:, :2]) @ (width, height)
            matrix[:, 2] += (size - (width, height)) / 2
            turned = cv2.warpAffine(grey, matrix, tuple(np.ceil(size).astype(int).tolist()))
            smallest = max(24, min(grey.shape) // 10)
            boxes = np.reshape(self._faces.detectMultiScale(turned, 1.1, 4, minSize=(smallest, smallest)), (-1, 4))
            if len(boxes):
                box = boxes[np.argmax(boxes[:, 2] * boxes[:, 3])]
                back = np.linalg.inv(matrix[:, :2])
                return (self._eyes_of(turned, box) - matrix[:, 2]) @ back.T
        return None

    def _eyes_of(self, grey: NDArray[np.uint8], box: NDArray[np.int32]) -> Eyes:
        """Where the cascade finds both near where a face has them, else there."""
        x, y, side = (int(value) for value in box[:3])
        usual = np.array([[0.305, 0.379], [0.690, 0.379]]) * side + (x, y)
        top = y + round(0.15 * side)
        size = max(8, side // 7)
        found = self._eyes.detectMultiScale(
            grey[top : y + round(0.6 * side), x : x + side], 1.05, 3, minSize=(size, size)
        )
        if not len(found):
            return usual
        centres = np.asarray(found)[:, :2] + np.asarray(found)[:, 2:] / 2 + (x, top)
        away = np.hypot(*(centres[None] - usual[:, None]).transpose(2, 0, 1))
        return centres[away.argmin(1)] if away.min(1).max() <= 0.13 * side else usual


def measure(detector: Detector, images: Sequence[Photo]) -> tuple[list[str], NDArray[np.float64]]:
    """A verdict for each photo, and the milliseconds of processor time that each takes."""
    detector(images[0].pixels)
    verdicts, times = [], []
    for photo in images:
        began = time.process_time()
        eyes = detector(photo.pixels)
        times.append(1000 * (time.process_time() - began))
        verdicts.append(verdict(eyes, photo))
    return verdicts, np.array(times)


def main() -> None:
    """Print a table for each kind of face."""
    arguments = [each for each in sys.argv[1:] if each != "--quarters"]
    folder = arguments[0] if arguments else os.environ.get("VITPE_CELEBA")
    detectors: dict[str, Detector] = {"CenterFace": centerface}
    try:
        detectors["Haar"] = Haar()
    except (ImportError, AttributeError):  # OpenCV 5 has no cascades
        print("Haar is left out: no cv2 that has it is installed")
    print(
        f"{'':28}{'right':>8}{'not found':>12}{'wrong':>8}{'empty: wrong':>15}{'ms, mean':>12}{'median':>9}{'empty':>8}"
    )
    for name, celeba in (("drawn", None), *((("CelebA", Path(folder)),) if folder else ())):
        images = photos(source_faces(200, celeba), quarters="--quarters" in sys.argv)
        for detector_name, detector in detectors.items():
            verdicts, times = measure(detector, images)
            placed, empty = verdicts[:200], verdicts[200:]
            counts = [placed.count(each) for each in ("right", "not found", "wrong")]
            title = f"{name}, {detector_name}"
            print(
                f"{title:28}{counts[0]:8}{counts[1]:12}{counts[2]:8}{empty.count('wrong'):15}"
                f"{times[:200].mean():12.1f}{np.median(times[:200]):9.1f}{times[200:].mean():8.1f}"
            )


if __name__ == "__main__":
    main()
