"""Drawn faces: the labels' statistics, what each attribute changes in the picture, and where the pictures come from."""

import json
import os
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.docs.__main__ import contact_sheet
from tests.tools.attribute_statistics import fit_statistics, known_statistics, measure_statistics, read_attribute_rows
from vitpe.celeba import ATTRIBUTES
from vitpe.data.celeba import read_celeba
from vitpe.data.drawn_faces import DrawnFaces, write_celeba_folder
from vitpe.errors import VitpeError
from vitpe.faces.attributes import uniforms
from vitpe.faces.canvas import NUISANCES, NUM_NUISANCES
from vitpe.faces.painting import paint_faces

MARGINAL_TOLERANCE = 0.015
CORRELATION_TOLERANCE = 0.1


def column(name: str) -> int:
    return ATTRIBUTES.index(name)


# Labels


@pytest.fixture(scope="module")
def many_labels() -> np.ndarray:
    return DrawnFaces("train", 30_000, seed=3).labels


def test_labels_have_celebas_frequencies(many_labels: np.ndarray) -> None:
    assert many_labels.dtype == np.uint8
    difference = np.abs(many_labels.mean(axis=0) - known_statistics().marginals)
    assert difference.max() < MARGINAL_TOLERANCE, ATTRIBUTES[difference.argmax()]


def test_labels_have_celebas_correlations(many_labels: np.ndarray) -> None:
    difference = np.abs(np.corrcoef(many_labels.T.astype(float)) - known_statistics().correlations)
    assert difference.max() < CORRELATION_TOLERANCE


def test_the_statistics_are_celebas_known_ones() -> None:
    """Facts about list_attr_celeba.txt that anyone can look up."""
    statistics = known_statistics()
    assert statistics.num_images == 202_599
    majority = np.maximum(statistics.marginals, 1 - statistics.marginals).mean()
    assert majority == pytest.approx(0.805, abs=0.001)
    assert statistics.marginals[column("Male")] == pytest.approx(0.4168, abs=1e-4)
    assert statistics.correlations[column("Heavy_Makeup"), column("Wearing_Lipstick")] > 0.7
    assert np.array_equal(statistics.correlations, statistics.correlations.T)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("Bald", "Bangs"),
        ("Bald", "Blond_Hair"),
        ("Bald", "Wavy_Hair"),
        ("Black_Hair", "Blond_Hair"),
        ("Male", "Heavy_Makeup"),
        ("Goatee", "Wearing_Lipstick"),
        ("No_Beard", "Goatee"),
        ("No_Beard", "Sideburns"),
    ],
)
def test_what_excludes_each_other_in_celeba_does_so_here(many_labels: np.ndarray, first: str, second: str) -> None:
    a, b = many_labels[:, column(first)].astype(float), many_labels[:, column(second)].astype(float)
    assert (a * b).mean() < 0.2 * a.mean() * b.mean()


def test_what_is_seen_differs_from_the_label_as_often_as_celebas_labels_err() -> None:
    faces = DrawnFaces("train", 30_000)
    wrong = (faces.seen != faces.labels).mean(axis=0)
    assert 0.05 < wrong.mean() < 0.09
    assert wrong[column("Oval_Face")] > 0.1 > 0.02 > wrong[column("Eyeglasses")]
    # Seeing an attribute always makes it likelier than not: otherwise accuracy could not gain from it.
    for k, name in enumerate(ATTRIBUTES):
        assert faces.labels[faces.seen[:, k] == 1, k].mean() > 0.5, name
        assert faces.labels[faces.seen[:, k] == 0, k].mean() < 0.5, name


def test_the_fit_agrees_with_sklearn_and_reproduces_itself(many_labels: np.ndarray) -> None:
    labels = many_labels[:2000]
    table = json.loads(json.dumps(fit_statistics(labels) | measure_statistics(labels)))
    assert table["marginals"] == pytest.approx(labels.mean(axis=0), abs=1e-4)
    chain = [ATTRIBUTES.index(name) for name in table["chain"]]
    assert sorted(chain) == list(range(len(ATTRIBUTES)))
    k = chain.index(column("Smiling"))
    oracle = LogisticRegression(C=1 / 0.02, tol=1e-8, max_iter=1000).fit(labels[:, chain[:k]], labels[:, chain[k]])
    first = k * (k - 1) // 2
    assert np.array(table["weights_per_step"][first : first + k]) / 64 == pytest.approx(oracle.coef_[0], abs=0.02)
    assert table["biases_per_step"][k] / 64 == pytest.approx(oracle.intercept_[0], abs=0.02)


def test_uniforms_are_uniform_and_every_row_stands_alone() -> None:
    indices = np.arange(5000) + 2**41
    values = uniforms(7, 1, indices, 8)
    assert values.min() >= 0 and values.max() < 1
    assert np.histogram(values, 10, (0, 1))[0] == pytest.approx(4000, rel=0.08)
    assert np.abs(np.corrcoef(values.T) - np.eye(8)).max() < 0.06
    assert np.array_equal(uniforms(7, 1, indices[[40, 3]], 8), values[[40, 3]])
    for other in (uniforms(8, 1, indices, 8), uniforms(7, 2, indices, 8), uniforms(7, 1, indices + 1, 8)):
        assert not np.isin(other[:100], values[:100]).all()
    assert uniforms(-1, 0, indices[:1], 1).shape == (1, 1)


@pytest.mark.skipif("VITPE_CELEBA" not in os.environ, reason="needs CelebA's list_attr_celeba.txt")
def test_labels_match_the_real_list() -> None:
    real = read_attribute_rows(Path(os.environ["VITPE_CELEBA"]) / "list_attr_celeba.txt")
    assert len(real) == known_statistics().num_images
    drawn = DrawnFaces("train", 100_000).labels
    assert np.abs(real.mean(axis=0) - drawn.mean(axis=0)).max() < MARGINAL_TOLERANCE
    correlations = np.corrcoef(real.T.astype(float))
    assert np.abs(correlations - np.corrcoef(drawn.T.astype(float))).max() < CORRELATION_TOLERANCE
    assert np.abs(correlations - known_statistics().correlations).max() < 0.001


# Pictures


def test_a_portrait_does_not_depend_on_its_batch_its_thread_or_the_size_of_the_split() -> None:
    faces = DrawnFaces("train", 80, seed=5)
    together = faces.read(range(80))
    assert together.shape == (80, 3, 218, 178) and together.dtype == np.uint8
    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(faces.read, [[i] for i in range(80)]))
    assert np.array_equal(np.concatenate(parts), together)
    order = np.random.default_rng(0).permutation(80)
    assert np.array_equal(faces.read(order.tolist()), together[order])
    fewer = DrawnFaces("train", 33, seed=5)
    assert np.array_equal(fewer.read([32]), together[[32]])
    assert np.array_equal(fewer.labels, faces.labels[:33])


def test_splits_and_seeds_share_no_portrait() -> None:
    kinds = [DrawnFaces("train", 60), DrawnFaces("valid", 60), DrawnFaces("test", 60), DrawnFaces("train", 60, seed=1)]
    portraits = np.concatenate([faces.read(range(60)) for faces in kinds])
    assert len({portrait.tobytes() for portrait in portraits}) == len(portraits)
    assert not set(kinds[0].names) & set(kinds[1].names)


def test_drawn_faces_are_samples() -> None:
    faces = DrawnFaces("valid", 5)
    assert faces.source == "drawn_faces" and faces.attributes == ATTRIBUTES and faces.stored_size == (218, 178)
    assert len(faces.names) == 5 and faces.labels.shape == (5, 40) and set(np.unique(faces.labels)) <= {0, 1}
    assert faces.read([]).shape == (0, 3, 218, 178)


@pytest.mark.parametrize("num_samples", [0, -3])
def test_no_faces_is_the_users_mistake(num_samples: int) -> None:
    with pytest.raises(VitpeError, match=str(num_samples)):
        DrawnFaces("train", num_samples)


HAIR = (18, 218, 0, 178)
FACE = (35, 218, 10, 168)
# Rows and columns outside of which an attribute must leave the picture as it was.
REGIONS = {
    "5_o_Clock_Shadow": (115, 195, 25, 153),
    "Arched_Eyebrows": (75, 114, 35, 143),
    "Attractive": FACE,
    "Bags_Under_Eyes": (105, 135, 35, 143),
    "Bald": HAIR,
    "Bangs": (20, 125, 15, 163),
    "Big_Lips": (135, 180, 50, 128),
    "Big_Nose": (100, 155, 55, 122),
    "Black_Hair": HAIR,
    "Blond_Hair": HAIR,
    "Blurry": (0, 218, 0, 178),
    "Brown_Hair": HAIR,
    "Bushy_Eyebrows": (80, 112, 35, 143),
    "Chubby": (18, 218, 0, 178),
    "Double_Chin": (150, 218, 0, 178),
    "Eyeglasses": (87, 137, 25, 153),
    "Goatee": (130, 195, 40, 138),
    "Gray_Hair": HAIR,
    "Heavy_Makeup": (85, 170, 25, 153),
    "High_Cheekbones": (95, 170, 25, 153),
    "Male": (0, 218, 0, 178),
    "Mouth_Slightly_Open": (130, 180, 50, 128),
    "Mustache": (128, 168, 55, 122),
    "Narrow_Eyes": (93, 130, 40, 138),
    "No_Beard": (115, 195, 25, 153),
    "Oval_Face": (18, 218, 0, 178),
    "Pale_Skin": FACE,
    "Pointy_Nose": (100, 155, 55, 122),
    "Receding_Hairline": (25, 110, 20, 158),
    "Rosy_Cheeks": (95, 170, 25, 153),
    "Sideburns": (82, 170, 25, 153),
    "Smiling": (95, 180, 25, 153),
    "Straight_Hair": HAIR,
    "Wavy_Hair": HAIR,
    "Wearing_Earrings": (120, 165, 15, 163),
    "Wearing_Hat": (5, 110, 0, 178),
    "Wearing_Lipstick": (130, 180, 50, 128),
    "Wearing_Necklace": (172, 218, 40, 138),
    "Wearing_Necktie": (172, 218, 0, 178),
    "Young": FACE,
}
ON_MEN = {"5_o_Clock_Shadow", "Goatee", "Mustache", "Sideburns", "Wearing_Necktie", "Receding_Hairline", "Bald"}


def pair_that_differs_in(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Twelve portraits without and with one attribute, all else alike."""
    seen = np.zeros((12, 40), np.uint8)
    seen[:, [column("No_Beard"), column("Young")]] = 1
    seen[:, column("Male")] = name in ON_MEN
    nuisance = uniforms(11, 0, np.arange(12), NUM_NUISANCES)
    without, present = seen.copy(), seen.copy()
    without[:, column(name)], present[:, column(name)] = 0, 1
    return paint_faces(without, nuisance).astype(int), paint_faces(present, nuisance).astype(int)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_each_attribute_shows_where_it_belongs_and_nowhere_else(name: str) -> None:
    without, present = pair_that_differs_in(name)
    difference = np.abs(present - without).max(axis=1)
    changed = (difference > 8).mean(axis=(1, 2))
    assert changed.mean() > 1 / 400 and changed.min() > 0
    top, bottom, left, right = REGIONS[name]
    inside = np.zeros((218, 178), bool)
    inside[top:bottom, left:right] = True
    assert difference[:, ~inside].max(initial=0) <= 2  # soft shading fades out, but never quite ends


def test_some_attributes_change_the_picture_the_way_their_name_says() -> None:
    forehead, lips = np.s_[:, :, 74:84, 78:98], np.s_[:, :, 143:160, 78:98]
    without, present = pair_that_differs_in("Bangs")
    assert (np.abs(present - without)[forehead].mean(axis=(1, 2, 3)) > 10).all()
    without, present = pair_that_differs_in("Wearing_Lipstick")
    redness = (present - without)[lips][:, 0] - (present - without)[lips][:, 1]
    assert (redness.mean(axis=(1, 2)) > 0).all() and redness.mean() > 5
    without, present = pair_that_differs_in("Pale_Skin")
    assert (present - without)[:, :, 120:126, 65:75].mean() > 10
    without, present = pair_that_differs_in("Black_Hair")
    assert (present[:, :, 46:54, 75:100].mean(axis=(1, 2, 3)) < 90).all()
    without, present = pair_that_differs_in("Mouth_Slightly_Open")
    assert (present - without)[lips].std() > 20


def test_the_eyes_of_a_face_are_alike_and_those_of_two_faces_are_not() -> None:
    faces = DrawnFaces("train", 40)
    nuisance = uniforms(0, 9, np.arange(40), NUM_NUISANCES)
    for name in ("shift_x", "shift_y", "scale", "yaw", "gaze", "light_side"):
        nuisance[:, NUISANCES.index(name)] = 0.5
    portraits = paint_faces(faces.seen, nuisance).astype(float)
    left, right = portraits[:, :, 98:124, 55:83], portraits[:, :, 98:124, 95:123][..., ::-1]
    within = np.abs(left - right).mean()
    between = np.abs(left - np.roll(right, 1, axis=0)).mean()
    assert within < 0.3 * between
    cheeks = portraits[:, :, 124:150, 55:83]
    assert left.std(axis=(2, 3)).mean() > 1.5 * cheeks.std(axis=(2, 3)).mean()


def test_contact_sheet_lays_out_the_first_portraits_by_row() -> None:
    sheet = contact_sheet(2, 3, seed=4)
    assert sheet.shape == (436, 534, 3) and sheet.dtype == np.uint8
    fifth = DrawnFaces("train", 6, seed=4).read([4])[0].transpose(1, 2, 0)
    assert np.array_equal(sheet[218:, 178:356], fifth)


# Folders in CelebA's format


@pytest.mark.parametrize("zipped", [False, True])
def test_a_folder_of_drawn_faces_reads_as_celeba(tmp_path: Path, zipped: bool) -> None:
    folder = tmp_path / "new" / "celeba"
    write_celeba_folder(folder, num_train=7, num_valid=3, num_test=2, seed=6, zipped=zipped)
    assert (folder / "img_align_celeba.zip").is_file() == zipped
    for split, num, first in (("train", 7, 1), ("valid", 3, 8), ("test", 2, 11)):
        read, faces = read_celeba(folder, split), DrawnFaces(split, num, seed=6)
        assert list(read.names) == [f"{first + i:06d}.jpg" for i in range(num)]
        assert np.array_equal(read.labels, faces.labels)
        decoded, drawn = read.read(range(num)).astype(int), faces.read(range(num)).astype(int)
        assert np.abs(decoded - drawn).mean() < 4  # JPEG's loss
    assert not list(folder.rglob("*.partial"))


def test_the_lists_are_written_as_celebas_are(tmp_path: Path) -> None:
    write_celeba_folder(tmp_path, num_train=2, num_valid=0, num_test=1, zipped=True)
    lines = (tmp_path / "list_attr_celeba.txt").read_bytes().decode().split("\r\n")
    assert lines[0] == "3" and lines[1].split() == list(ATTRIBUTES) and lines[-1] == ""
    labels = DrawnFaces("train", 2).labels
    assert lines[2] == "000001.jpg " + " ".join(f"{2 * int(label) - 1:2d}" for label in labels[0])
    assert (tmp_path / "list_eval_partition.txt").read_bytes() == b"000001.jpg 0\r\n000002.jpg 0\r\n000003.jpg 2\r\n"
    with zipfile.ZipFile(tmp_path / "img_align_celeba.zip") as archive:
        assert archive.namelist() == [f"img_align_celeba/{i:06d}.jpg" for i in (1, 2, 3)]
    assert np.array_equal(read_attribute_rows(tmp_path / "list_attr_celeba.txt")[:2], labels)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    precious = tmp_path / "list_attr_celeba.txt"
    precious.write_text("mine")
    with pytest.raises(VitpeError, match="not empty"):
        write_celeba_folder(tmp_path, 1, 1, 1)
    assert precious.read_text() == "mine" and list(tmp_path.iterdir()) == [precious]
    with pytest.raises(VitpeError, match="cannot write"):
        write_celeba_folder(precious, 1, 1, 1)
