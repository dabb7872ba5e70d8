"""Places told from tokens, against scikit-learn and cases worked out by hand."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from vitpe.metrics.position import RIDGE, Estimates, PlaceProbe, patch_distances, place_targets

GRID = (2, 3)


def fed(tokens: np.ndarray, batch: int = 4) -> PlaceProbe:
    """tokens: (n, N, D), given in batches."""
    probe = PlaceProbe(GRID, tokens.shape[-1])
    for start in range(0, len(tokens), batch):
        part = tokens[start : start + batch]
        flat = part.reshape(-1, part.shape[-1])
        probe.add(flat.T @ flat, part.sum(axis=0), len(part))
    return probe


def test_targets_are_rows_and_columns():
    assert place_targets(GRID).tolist() == [
        [1, 0, 1, 0, 0],
        [1, 0, 0, 1, 0],
        [1, 0, 0, 0, 1],
        [0, 1, 1, 0, 0],
        [0, 1, 0, 1, 0],
        [0, 1, 0, 0, 1],
    ]


def test_distances_are_in_patches():
    distances = patch_distances(GRID)
    assert distances[0].tolist() == pytest.approx([0, 1, 2, 1, 2**0.5, 5**0.5])
    np.testing.assert_array_equal(distances, distances.T)


def test_a_probe_is_scikit_learns_ridge_regression():
    rng = np.random.default_rng(0)
    tokens = rng.normal(size=(10, 6, 4)) + 5 + rng.normal(size=(6, 4))
    flat = tokens.reshape(-1, 4)
    targets = np.tile(place_targets(GRID), (10, 1))
    penalty = RIDGE * np.square(flat - flat.mean(axis=0)).sum() / 4
    expected = Ridge(alpha=penalty).fit(flat, targets)
    found = fed(tokens).solve()
    np.testing.assert_allclose(found[:-1], expected.coef_.T, rtol=0, atol=1e-10)
    np.testing.assert_allclose(found[-1], expected.intercept_, rtol=0, atol=1e-10)


def test_the_score_counts_rows_and_columns_apart():
    outputs = np.stack([place_targets(GRID), place_targets(GRID)])
    outputs[1, 0] = [0, 1, 1, 0, 0]  # of the first patch of the second image, the row is wrong
    outputs[1, 5] = [0, 1, 1, 0, 0]  # and of the last, the column
    np.testing.assert_allclose(PlaceProbe(GRID, 4).score(outputs), [[1, 1], [5 / 6, 5 / 6]])


def test_tokens_that_are_all_alike_tell_nothing():
    probe = fed(np.ones((3, 6, 4)))
    outputs = np.ones((2, 6, 4)) @ (weights := probe.solve())[:-1] + weights[-1]
    np.testing.assert_allclose(outputs, np.tile([1 / 2] * 2 + [1 / 3] * 3, (2, 6, 1)), atol=1e-9)


def test_estimates_are_means_with_intervals():
    samples = np.random.default_rng(0).normal(3, 1, size=(400, 2, 3))
    found = Estimates.of(samples, num_resamples=2000)
    np.testing.assert_allclose(found.value, samples.mean(axis=0))
    half = 1.96 * samples.std(axis=0) / 20
    np.testing.assert_allclose(found.low, found.value - half, atol=0.02)
    np.testing.assert_allclose(found.high, found.value + half, atol=0.02)
    alone = Estimates.of(np.full((5, 2), 0.25), num_resamples=10)
    assert alone.low.tolist() == alone.high.tolist() == [0.25, 0.25]
