"""Similarity and the numbers drawn from it, against torch, scipy-free arithmetic, and embeddings with known answers."""

import io
import json

import numpy as np
import pytest
import torch
from rich.console import Console

from tests.helpers.viz_history import GRID, face_embeddings, write_checkpoint
from vitpe.viz import numbers as nums
from vitpe.viz.colours import colour_range
from vitpe.viz.components import component_colours, filter_components, norms, principal_components
from vitpe.viz.face import face_geometry
from vitpe.viz.history import read_checkpoint
from vitpe.viz.numbers import NUMBERS, EmbeddingGrid, numbers_legend, numbers_table
from vitpe.viz.similarity import cosine_similarity, without_self

FACE = face_geometry((208, 176), 16)
GRIDS = [(13, 11), (4, 4), (3, 7), (1, 5)]


def assert_same_maps(ours, oracle):
    """The comparison that the tests of similarity rest on; shown to fail below."""
    assert ours.shape == oracle.shape
    np.testing.assert_allclose(ours, oracle, atol=1e-6)


def random_embeddings(grid=GRID, width=24, seed=0):
    return np.random.default_rng(seed).standard_normal((grid[0] * grid[1], width))


def torch_similarity(embeddings):
    tensor = torch.from_numpy(embeddings)
    return torch.nn.CosineSimilarity(dim=2)(tensor[:, None], tensor[None]).numpy()


@pytest.mark.parametrize("grid", GRIDS)
def test_similarity_is_torchs(grid):
    embeddings = random_embeddings(grid)
    assert_same_maps(cosine_similarity(embeddings), torch_similarity(embeddings))
    single = embeddings.astype(np.float32)
    assert_same_maps(cosine_similarity(single), torch_similarity(single))


@pytest.mark.parametrize("wrong", [lambda s: s.T[::-1], lambda s: s + 2e-6, lambda s: np.roll(s, 1, axis=0)])
def test_the_comparison_can_fail(wrong):
    similarity = cosine_similarity(random_embeddings())
    with pytest.raises(AssertionError):
        assert_same_maps(wrong(similarity), torch_similarity(random_embeddings()))


def test_tiny_embeddings_have_a_direction_too():
    embeddings = random_embeddings()
    for factor in (1e-12, 1e12):
        assert_same_maps(cosine_similarity(embeddings * factor), cosine_similarity(embeddings))


def test_zero_embeddings_are_undefined_and_only_they():
    embeddings = random_embeddings((2, 3))
    embeddings[4] = 0
    undefined = np.isnan(cosine_similarity(embeddings))
    expected = np.zeros((6, 6), dtype=bool)
    expected[4], expected[:, 4] = True, True
    np.testing.assert_array_equal(undefined, expected)


@pytest.mark.parametrize("grid", GRIDS)
def test_one_hot_rows_resemble_nothing_else(grid):
    maps = cosine_similarity(3.0 * np.eye(grid[0] * grid[1])).reshape(*grid, *grid)
    for row in range(grid[0]):
        for column in range(grid[1]):
            expected = np.zeros(grid)
            expected[row, column] = 1
            np.testing.assert_array_equal(maps[row, column], expected)


@pytest.mark.parametrize("grid", [(13, 11), (4, 4), (3, 7)])
def test_mirrored_embeddings_give_mirrored_maps(grid):
    half = random_embeddings(grid).reshape(*grid, -1)
    mirrored = half + half[:, ::-1]
    measured = EmbeddingGrid(mirrored.reshape(grid[0] * grid[1], -1), grid)
    maps = measured.similarity.reshape(*grid, *grid)
    np.testing.assert_allclose(maps, maps[:, ::-1, :, ::-1], atol=1e-12)
    assert nums.mirror_symmetry(measured) == pytest.approx(1)
    # A patch and its mirror image are the same vector; any other pair of random ones is not.
    assert nums.mirror_excess(measured) > 0.8


def test_permuted_embeddings_give_permuted_maps():
    embeddings, order = random_embeddings(), np.random.default_rng(1).permutation(143)
    similarity = cosine_similarity(embeddings)
    np.testing.assert_allclose(cosine_similarity(embeddings[order]), similarity[np.ix_(order, order)], atol=1e-12)


def test_mirror_symmetry_by_hand():
    """Against numpy's own correlation, patch by patch on whole maps."""
    grid = EmbeddingGrid(random_embeddings((3, 4)), (3, 4))
    maps = without_self(grid.similarity).reshape(3, 4, 3, 4)
    correlations = []
    for row in range(3):
        for column in range(4):
            ours, twin = maps[row, column], maps[row, 3 - column][:, ::-1]
            known = ~np.isnan(ours)
            np.testing.assert_array_equal(known, ~np.isnan(twin))
            correlations.append(np.corrcoef(ours[known], twin[known])[0, 1])
    assert nums.mirror_symmetry(grid) == pytest.approx(np.mean(correlations))


def sine_cosine(grid, width=64):
    places = np.indices(grid).reshape(2, -1)
    frequencies = 1 / 100 ** (np.arange(width // 4) / (width // 4))
    angles = places[:, :, None] * frequencies
    return np.concatenate([np.sin(angles[0]), np.cos(angles[0]), np.sin(angles[1]), np.cos(angles[1])], axis=1)


def test_fixed_sine_cosine_embeddings_are_mirror_symmetric_but_not_in_excess():
    grid = EmbeddingGrid(sine_cosine((9, 9)), (9, 9))
    assert nums.mirror_symmetry(grid) == pytest.approx(1, abs=1e-6)
    assert nums.mirror_excess(grid) == pytest.approx(0, abs=1e-12)
    assert nums.distance_correlation(grid) < -0.8
    rows, columns = nums.row_structure(grid), nums.column_structure(grid)
    assert rows == pytest.approx(columns)
    assert rows + columns == pytest.approx(1)


def test_rows_and_columns_share_the_variance():
    grid, generator = (5, 8), np.random.default_rng(0)
    row, column = generator.standard_normal((5, 1, 6)), generator.standard_normal((1, 8, 6))
    flat = lambda values: EmbeddingGrid(np.broadcast_to(values, (*grid, 6)).reshape(40, 6), grid)  # noqa: E731
    assert nums.row_structure(flat(row)) == pytest.approx(1)
    assert nums.column_structure(flat(row)) == pytest.approx(0)
    assert nums.column_structure(flat(column)) == pytest.approx(1)
    expected = np.var(row, axis=0).sum() / (np.var(row, axis=0).sum() + np.var(column, axis=1).sum())
    assert nums.row_structure(flat(row + column)) == pytest.approx(expected)
    assert nums.row_structure(flat(np.ones(6))) is None


def test_the_border_coheres_when_it_shares_a_direction():
    grid = (4, 5)
    embeddings = np.zeros((20, 2))
    border = np.ones(grid, dtype=bool)
    border[1:-1, 1:-1] = False
    embeddings[border.ravel(), 0] = 1
    embeddings[~border.ravel(), 1] = 1
    assert nums.border_coherence(EmbeddingGrid(embeddings, grid)) == pytest.approx(1)
    embeddings[:] = 1
    assert nums.border_coherence(EmbeddingGrid(embeddings, grid)) == pytest.approx(0)
    assert nums.border_coherence(EmbeddingGrid(random_embeddings((1, 5)), (1, 5))) is None


def test_distance_by_hand():
    grid = EmbeddingGrid(np.array([[1.0, 0], [1, 0], [0, 1]]), (1, 3))
    # Pairs at distance 1: similarities 1 and 0; at distance 2: 0.
    assert nums.similarity_by_distance(grid) == [0.5, 0.0]
    assert nums.distance_correlation(grid) == pytest.approx(np.corrcoef([1, 2, 1], [1, 0, 0])[0, 1])


def test_eye_matches_look_beyond_the_neighbours():
    embeddings = random_embeddings(seed=3)
    at = lambda row, column: row * 11 + column  # noqa: E731
    embeddings[at(6, 7)] = embeddings[at(6, 3)] + 0.01  # the right eye
    embeddings[at(7, 4)] = embeddings[at(6, 3)]  # even more alike, but a neighbour
    embeddings[at(0, 0)] = embeddings[at(6, 4)] * 2  # far away from any eye
    grid = EmbeddingGrid(embeddings, GRID, FACE)
    left, right = grid.matches
    assert (left.patch, left.match, left.on_right_eye) == ((6, 3), (6, 7), True)
    assert left.similarity == pytest.approx(1, abs=1e-3)
    assert (right.patch, right.match, right.on_right_eye) == ((6, 4), (0, 0), False)
    assert right.similarity == pytest.approx(1)
    assert nums.eye_hit_rate(grid) == 0.5
    assert nums.eye_similarity(grid) == pytest.approx((left.similarity + right.similarity) / 2)
    assert EmbeddingGrid(embeddings, GRID).matches == []


@pytest.mark.parametrize(("row", "column", "hit"), [(5, 6, True), (7, 7, True), (4, 6, False), (6, 8, False)])
def test_the_right_eye_is_its_columns_and_one_row_around(row, column, hit):
    embeddings = random_embeddings(seed=4)
    embeddings[row * 11 + column] = embeddings[6 * 11 + 3]
    match = EmbeddingGrid(embeddings, GRID, FACE).matches[0]
    assert (match.match, match.on_right_eye) == ((row, column), hit)


def test_random_embeddings_have_the_numbers_of_chance():
    random = nums.random_numbers(192, GRID, FACE)
    assert random == nums.random_numbers(192, GRID, FACE)
    assert abs(random["mirror_symmetry"]) < 0.05
    assert abs(random["mirror_excess"]) < 0.02
    assert abs(random["border_coherence"]) < 0.01
    assert abs(random["distance_correlation"]) < 0.01
    # Means of 11 of 143 patches: (rows - 1) / (N - 1) of the variance is between them by chance.
    assert random["row_structure"] == pytest.approx(12 / 142, abs=0.005)
    assert random["column_structure"] == pytest.approx(10 / 142, abs=0.005)
    # The largest of 134 nearly normal values with deviation 1 / sqrt(192).
    assert random["eye_similarity"] == pytest.approx(2.6 / np.sqrt(192), abs=0.03)
    assert nums.random_numbers(192, GRID)["eye_similarity"] is None


def test_a_record_says_all_numbers_and_json_takes_it(tmp_path):
    path = write_checkpoint(tmp_path / "a.safetensors", face_embeddings(1.0), 100, valid={"mean_accuracy": 0.9})
    random = nums.random_numbers(192, GRID, FACE)
    record = nums.checkpoint_record(read_checkpoint(path), random)
    assert set(NUMBERS) <= set(record)
    assert set(NUMBERS) == set(record["random"])
    assert record["step"] == 100
    assert record["valid_accuracy"] == 0.9
    assert record["defined"] is True
    # What the drawing helper put in is found.
    assert record["mirror_symmetry"] > 0.9 > 0.1 > record["random"]["mirror_symmetry"]
    assert record["eye_hit_rate"] == 1
    assert record["border_coherence"] > 0.3
    assert record["similarity_by_distance"][0] > record["similarity_by_distance"][5]
    assert json.loads(json.dumps(record, allow_nan=False)) == record


def test_nothing_is_claimed_of_zero_embeddings(tmp_path):
    path = write_checkpoint(tmp_path / "a.safetensors", np.zeros((143, 8)), 0)
    record = nums.checkpoint_record(read_checkpoint(path), nums.random_numbers(8, GRID, FACE))
    assert record["defined"] is False
    assert all(record[key] is None for key in NUMBERS)
    assert record["eye_matches"] == record["similarity_by_distance"] == []


def test_one_colour_range_for_all_frames_without_the_self_similarity():
    quiet = np.full((4, 4), 0.2)
    loud = np.full((4, 4), -0.4)
    for similarity in (quiet, loud):
        np.fill_diagonal(similarity, 1.0)
    assert colour_range([quiet, loud]) == pytest.approx((-0.4, 0.2))
    assert colour_range([np.full((4, 4), np.nan), quiet, loud]) == pytest.approx((-0.4, 0.2))
    assert colour_range([np.full((4, 4), np.nan)]) == (-1, 1)
    low, high = colour_range([quiet])
    assert low < 0.2 < high
    close = np.linspace(0.981, 0.994, 16).reshape(4, 4)
    low, high = colour_range([close])
    assert 0.97 < low <= 0.982
    assert 0.993 <= high < 1


def test_the_colour_range_leaves_out_outliers():
    values = np.random.default_rng(0).uniform(-0.3, 0.5, (100, 100))
    values[0, 1:4] = -1
    assert colour_range([values]) == pytest.approx((-0.3, 0.5))


def test_norms_and_principal_components():
    embeddings = random_embeddings((3, 4), 10)
    np.testing.assert_allclose(norms(embeddings, (3, 4)).ravel(), np.sqrt((embeddings**2).sum(axis=1)))
    axes, share = principal_components(embeddings, 3)
    values, vectors = np.linalg.eigh(np.cov(embeddings.T))
    np.testing.assert_allclose(share, values[::-1][:3] / values.sum())
    np.testing.assert_allclose(np.abs(np.sum(axes * vectors.T[::-1][:3], axis=1)), 1)
    assert principal_components(np.ones((4, 3)), 2)[1].tolist() == [0, 0]


def test_component_colours_show_the_strongest_direction_in_red():
    grid = (3, 4)
    embeddings = np.zeros((12, 5))
    embeddings[:, 2] = np.arange(12.0)
    colours, share = component_colours(embeddings, grid)
    np.testing.assert_allclose(colours[..., 0].ravel(), np.arange(12) / 11)
    np.testing.assert_allclose(share, [1, 0, 0], atol=1e-12)
    assert colours.min() >= 0
    assert colours.max() <= 1


def test_filter_components_find_the_pictures_that_filters_are_made_of():
    pattern = np.random.default_rng(0).standard_normal((3, 4, 4))
    filters = np.linspace(-1, 1, 7)[:, None, None, None] * pattern
    pictures = filter_components(filters, 28)
    assert pictures.shape == (7, 4, 4, 3)
    expected = pattern / np.abs(pattern).max()
    found = 2 * pictures[0].transpose(2, 0, 1) - 1
    np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-9)
    assert np.abs((found * expected).sum()) == pytest.approx((expected**2).sum())


def test_the_table_has_a_line_for_random_embeddings():
    record = dict.fromkeys(NUMBERS, 0.25) | {"defined": True, "step": 1000, "valid_accuracy": None}
    record |= {"random": dict.fromkeys(NUMBERS, -0.001), "file": "a"}
    records = [record, record | dict.fromkeys(NUMBERS) | {"defined": False, "step": 0}]
    columns = [list(column.cells) for column in numbers_table(records).columns]
    assert columns[0] == ["1,000", "0", "random"]
    assert columns[2] == ["0.25", "–", "0.00"]
    assert len(columns) == 2 + len(NUMBERS)
    no_eyes = record | {"eye_similarity": None, "eye_hit_rate": None}
    assert len(numbers_table([no_eyes]).columns) == len(NUMBERS)
    assert numbers_table([record] * 30).row_count == 13


def test_the_table_shows_what_was_scored():
    record = dict.fromkeys(NUMBERS, 0.25) | {"defined": True, "file": "a"}
    record["random"] = dict.fromkeys(NUMBERS, 0.0)
    records = [record | {"step": n, "valid_accuracy": 0.8 if n in (7, 13, 30) else None} for n in range(31)]
    steps = list(numbers_table(records, max_rows=7).columns[0].cells)
    assert steps == ["0", "7", "10", "13", "20", "30", "random"]
    assert numbers_table([record | {"step": n, "valid_accuracy": 0.8} for n in range(31)]).row_count == 13


def test_columns_have_the_names_of_the_records_and_fit_a_terminal():
    record = dict.fromkeys(NUMBERS, -0.25) | {"defined": True, "step": 162_770, "valid_accuracy": 0.9}
    record |= {"random": dict.fromkeys(NUMBERS, -0.25), "file": "a"}
    table, console = numbers_table([record]), Console(width=80, file=io.StringIO())
    headers = [str(column.header).replace("-\n", "").replace("\n", "_") for column in table.columns]
    assert headers == ["step", "valid_accuracy", *NUMBERS]
    console.print(table)
    shown = console.file.getvalue()
    assert "…" not in shown
    assert all(part in shown for part in ("162,770", "corre-", "lation", "struc-", "ture"))


def test_each_column_is_explained():
    record = dict.fromkeys(NUMBERS, 0.25) | {"eye_similarity": None}
    name, meaning = (list(column.cells) for column in numbers_legend([record]).columns)
    assert name == [*(key.replace("_", " ") for key in NUMBERS if key != "eye_similarity"), "random"]
    assert all(meaning)
