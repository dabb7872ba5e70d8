"""A photo → the faces in it, each brought to where CelebA's images have theirs."""

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from vitpe.celeba import SIZE
from vitpe.data.images import Pixels, Remarks
from vitpe.inference import face_detector
from vitpe.inference.face_detector import Face
from vitpe.inference.face_search import find_faces
from vitpe.inference.predictions import FoundFace
from vitpe.inference.warp import similarity, warp

Faces = Literal["largest", "all"]

_FIRM: Final = [0, 1, 3, 4]  # the eyes and the mouth's corners: the nose's tip moves as a head turns
_TEMPLATE: Final = np.array([[69.7, 112.6], [109.1, 111.8], [72.6, 153.5], [105.5, 152.7]])
"""Where the detector sees them in CelebA's aligned images: the median over 696 of its valid split."""


@dataclass(frozen=True)
class FaceAligner:
    """Callable: (image (3, H, W) uint8, its name) → of each face (3, 218, 178) uint8 and where it was, the largest
    first; nothing where there is none. faces: the largest alone, or all. May be called from several threads.

    remarks: gets a line for images without a face, and for those with several of which one is taken.
    Raises VitpeError where the extra is not installed.
    """

    remarks: Remarks
    faces: Faces = "largest"

    def __post_init__(self) -> None:
        face_detector.load()

    def __call__(self, image: Pixels, name: str) -> list[tuple[Pixels, FoundFace]]:
        photo = np.ascontiguousarray(image.transpose(1, 2, 0))
        found = find_faces(photo, every=self.faces == "all")
        tell = self.remarks.about(name)
        if not found:
            tell("no face found, so no attributes are given; without --align the whole image is answered")
        elif len(found) > 1 and self.faces == "largest":
            tell("several faces, of which the largest is answered; --faces all answers all")
        return [
            (
                warp(photo, similarity(face.landmarks[_FIRM], _TEMPLATE), SIZE).transpose(2, 0, 1),
                _place(face, number, len(found)),
            )
            for number, face in enumerate(found if self.faces == "all" else found[:1], start=1)
        ]


def _place(face: Face, number: int, count: int) -> FoundFace:
    x, y, width, height = (round(value, 1) for value in face.box)
    left, right = face.landmarks[:2].round(1).tolist()
    return FoundFace(count, number, (x, y, width, height), ((left[0], left[1]), (right[0], right[1])))
