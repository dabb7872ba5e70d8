"""Embeddings that are sums of a row's and a column's: their parts, and the picture of these."""

import numpy as np
import pytest

from tests.helpers.in_process import call_vitpe
from tests.helpers.viz_history import float32, vitpe_metadata, write_checkpoint, write_safetensors
from vitpe.viz.colours import make_palette
from vitpe.viz.factors import GAP, MARGIN, MAX_CELL, NUMBERS, TOP, factors_picture, row_and_column_parts
from vitpe.viz.history import read_checkpoint

GRID = (3, 4)
GENERATOR = np.random.default_rng(0)
ROWS, COLUMNS = GENERATOR.standard_normal((3, 8)), GENERATOR.standard_normal((4, 8))
SUMS = (ROWS[:, None] + COLUMNS).reshape(12, 8)


def factorized(path, factor=1.0, step=10):
    tensors = {"pos_embed_y": float32(factor * ROWS[None]), "pos_embed_x": float32(factor * COLUMNS[None])}
    return write_safetensors(path, tensors, vitpe_metadata(step, GRID))


def test_the_parts_are_what_was_learned_less_its_mean(tmp_path):
    rows, columns = row_and_column_parts(read_checkpoint(factorized(tmp_path / "a.safetensors")))
    np.testing.assert_allclose(rows, ROWS - ROWS.mean(axis=0), atol=1e-6)
    np.testing.assert_allclose(columns, COLUMNS - COLUMNS.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("embeddings", "grid"),
    [(SUMS + 1e-3 * GENERATOR.standard_normal((12, 8)), GRID), (0 * SUMS, GRID), (0 * SUMS + 1, GRID), (SUMS, (1, 12))],
)
def test_others_have_none(tmp_path, embeddings, grid):
    assert (
        row_and_column_parts(read_checkpoint(write_checkpoint(tmp_path / "a.safetensors", embeddings, 1, grid))) is None
    )


def test_a_cell_is_the_similarity_of_two_rows(tmp_path):
    checkpoint = read_checkpoint(factorized(tmp_path / "a.safetensors"))
    palette = make_palette("viridis")
    pixels = factors_picture([checkpoint], palette, scale=1)
    left = MARGIN + NUMBERS + 4 * MAX_CELL + GAP + NUMBERS
    centred = ROWS - ROWS.mean(axis=0)
    for i, j in np.ndindex(3, 3):
        cosine = centred[i] @ centred[j] / np.linalg.norm(centred[i]) / np.linalg.norm(centred[j])
        level = np.rint((cosine + 1) / 2 * (palette.num_levels - 1)).astype(np.uint8)
        cell = pixels[TOP + i * MAX_CELL + 4 : TOP + (i + 1) * MAX_CELL - 4, left + j * MAX_CELL + 4 :][
            :, : MAX_CELL - 8
        ]
        assert (cell == palette.to_rgb(level[None])[0]).all(), (i, j)


def test_viz_pe_draws_them_where_they_are(tmp_path):
    for step in (0, 10, 20):
        factorized(tmp_path / "runs" / f"step-{step:07d}.safetensors", step / 20, step)
    called = call_vitpe("viz-pe", tmp_path / "runs", "--size", "400", "--out", tmp_path / "out")
    assert called.code == 0, called.stderr
    assert (tmp_path / "out" / "pe_rows_columns.png").is_file()
    called = call_vitpe("viz-pe", tmp_path / "runs", "--size", "400", "--out", tmp_path / "none", "--no-stills")
    assert called.code == 0, called.stderr
    assert not (tmp_path / "none" / "pe_rows_columns.png").exists()


def test_where_none_are_learned_that_is_said(tmp_path):
    for step in (0, 10):
        write_checkpoint(tmp_path / "runs" / f"step-{step:07d}.safetensors", 0 * SUMS, step, GRID)
    called = call_vitpe("viz-pe", tmp_path / "runs", "--size", "400", "--out", tmp_path / "out")
    assert called.code == 0, called.stderr
    assert "all position embeddings are zero, at the end of training, too" in called.stderr
    assert not (tmp_path / "out" / "pe_rows_columns.png").exists()
