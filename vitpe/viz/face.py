"""Where the parts of an aligned face lie in the grid of patches.

CelebA's aligned images are 178 wide and 218 high; the alignment puts the eyes' centres at (x, y) = (69, 111) and
(108, 111). Left and right are the image's, not the person's. The model sees the middle of what an image is fitted to,
which is also the mean of the random crops of training.
"""

from dataclasses import dataclass

from vitpe.celeba import LEFT_EYE, RIGHT_EYE, SIZE
from vitpe.config import DataConfig, Fit
from vitpe.data.fitting import Fitting

# An eye's opening is about 30 mm wide and 10 mm high where the pupils are 63 mm apart.
EYE_SIZE = (10 / 63 * (RIGHT_EYE[0] - LEFT_EYE[0]), 30 / 63 * (RIGHT_EYE[0] - LEFT_EYE[0]))
# A row or column of patches belongs to an eye when the eye takes this share of it, or it this share of the eye.
MIN_SHARE = 0.25
MIN_APART = 2  # patches between the eyes' centres: what is nearer is alike as all neighbours are


@dataclass(frozen=True)
class FaceGeometry:
    """Patches (row, column) of both eyes in reading order, and the eyes' centres in patch units, (row, column)."""

    left_eye: tuple[tuple[int, int], ...]
    right_eye: tuple[tuple[int, int], ...]
    left_eye_centre: tuple[float, float]
    right_eye_centre: tuple[float, float]

    @property
    def outer_left_eye(self) -> tuple[int, int]:
        """The left eye's patch farthest from the face's axis: its match across the face is no near neighbour."""
        return min(self.left_eye, key=lambda patch: (patch[1], abs(patch[0] + 0.5 - self.left_eye_centre[0])))


def face_geometry(img_size: tuple[int, int], patch_size: int, fit: Fit = "crop") -> FaceGeometry | None:
    """The eyes' patches in what a model of `img_size` (height, width) sees of a CelebA image. fit: `data.fit`.

    None when an eye is cut off, or the patches are too large to tell one eye from the other.
    """
    (y_scale, top), (x_scale, left) = Fitting.of(DataConfig(fit=fit), img_size).place(SIZE)
    # The centre of pixel x is x + 0.5 from the image's edge.
    centres = [
        ((y_scale * (y + 0.5) + top) / patch_size, (x_scale * (x + 0.5) + left) / patch_size)
        for x, y in (LEFT_EYE, RIGHT_EYE)
    ]
    height, width = y_scale * EYE_SIZE[0] / patch_size, x_scale * EYE_SIZE[1] / patch_size
    num_rows, num_columns = img_size[0] // patch_size, img_size[1] // patch_size
    eyes = [
        tuple(
            (row, column)
            for row in _covered(centre[0], height, num_rows)
            for column in _covered(centre[1], width, num_columns)
        )
        for centre in centres
    ]
    apart = centres[1][1] - centres[0][1] >= MIN_APART
    whole = all(0 <= row < num_rows and 0 <= column < num_columns for row, column in centres)
    if not whole or not apart or not all(eyes):
        return None
    return FaceGeometry(eyes[0], eyes[1], centres[0], centres[1])


def _covered(centre: float, extent: float, num_cells: int) -> list[int]:
    """The unit cells whose overlap with the interval around `centre` is MIN_SHARE of the smaller of the two."""
    low, high = centre - extent / 2, centre + extent / 2
    return [i for i in range(num_cells) if min(high, i + 1) - max(low, i) >= MIN_SHARE * min(extent, 1)]
