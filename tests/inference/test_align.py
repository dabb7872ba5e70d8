"""Aligning photos: the transform by hand-computed cases, the detector on real faces where they are."""

import os
from pathlib import Path

import numpy as np
import pytest

from vitpe.data.celeba import read_celeba
from vitpe.inference.align import EYES, SIZE, FaceAligner, similarity

CELEBA = os.environ.get("VITPE_CELEBA")


def apply(matrix, point):
    return matrix @ np.array([*point, 1.0])


def test_similarity_takes_both_points_where_they_belong():
    source = ((10.0, 20.0), (40.0, 60.0))
    matrix = similarity(source, EYES)
    for point, target in zip(source, EYES, strict=True):
        np.testing.assert_allclose(apply(matrix, point), target, atol=1e-9)
    a, b = matrix[0, 0], matrix[1, 0]
    np.testing.assert_allclose(matrix[:, :2], [[a, -b], [b, a]])  # rotation and scale, no shear


def test_similarity_by_hand():
    quarter_turn = similarity(((0.0, 0.0), (1.0, 0.0)), ((5.0, 5.0), (5.0, 7.0)))
    np.testing.assert_allclose(quarter_turn, [[0, -2, 5], [2, 0, 5]], atol=1e-12)


def test_without_a_face_the_image_is_kept_and_said_so():
    pytest.importorskip("cv2")
    notes = []
    grey = np.full((3, 120, 90), 128, dtype=np.uint8)
    assert FaceAligner(notes.append)(grey, "wall.png") is grey
    assert notes == ["wall.png: no face found, used as it is"]


@pytest.mark.skipif(CELEBA is None, reason="needs real CelebA images")
@pytest.mark.parametrize(("zoom", "angle", "shift"), [(1.0, 0.0, (0, 0)), (2.5, 8.0, (60, 30))])
def test_a_moved_face_comes_back_to_the_template(zoom, angle, shift):
    """Move a CelebA image, whose eyes are known, somewhere else; aligned, it must look like the original."""
    cv2 = pytest.importorskip("cv2")
    images = read_celeba(Path(CELEBA), "valid").read(range(24))
    matrix = cv2.getRotationMatrix2D((89, 109), angle, zoom)
    matrix[:, 2] += shift
    notes, errors, chance = [], [], []
    aligner = FaceAligner(notes.append)
    for number, image in enumerate(images):
        moved = cv2.warpAffine(image.transpose(1, 2, 0), matrix, (520, 560), borderMode=cv2.BORDER_REPLICATE)
        aligned = aligner(moved.transpose(2, 0, 1), str(number))
        if tuple(aligned.shape[1:]) != SIZE:
            continue  # no face found: said in the notes
        middle = np.s_[:, 70:180, 40:140]
        errors.append(np.abs(aligned[middle].astype(float) - image[middle]).mean())
        chance.append(np.abs(images[number - 1][middle].astype(float) - image[middle]).mean())
    assert len(errors) >= 20
    assert np.median(errors) < 0.4 * np.median(chance)
