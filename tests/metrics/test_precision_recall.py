"""The precision–recall curve against scikit-learn's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from vitpe.metrics.precision_recall import precision_recall

cases = st.lists(st.tuples(st.integers(0, 6).map(lambda n: n / 6), st.integers(0, 1)), min_size=1, max_size=40)


@given(cases)
def test_it_is_scikit_learns(pairs):
    probs, labels = np.array(pairs).T
    found = precision_recall(probs, labels)
    if not labels.any():
        assert found.thresholds.size == found.precision.size == found.recall.size == 0
        return
    precision, recall, thresholds = precision_recall_curve(labels, probs)
    np.testing.assert_allclose(found.thresholds[::-1], thresholds)
    np.testing.assert_allclose(found.precision[::-1], precision[:-1])
    np.testing.assert_allclose(found.recall[::-1], recall[:-1])


def test_by_hand():
    found = precision_recall([0.9, 0.5, 0.5, 0.1], [1, 0, 1, 0])
    assert found.thresholds.tolist() == [0.9, 0.5, 0.1]
    assert found.precision.tolist() == pytest.approx([1, 2 / 3, 1 / 2])
    assert found.recall.tolist() == [0.5, 1, 1]


@given(cases, st.integers(2, 12))
def test_fewer_points_are_points_of_the_whole_curve(pairs, max_points):
    probs, labels = np.array(pairs).T
    whole, thin = precision_recall(probs, labels), precision_recall(probs, labels, max_points)
    points = list(zip(whole.thresholds, whole.precision, whole.recall, strict=True))
    kept = list(zip(thin.thresholds, thin.precision, thin.recall, strict=True))
    assert len(kept) <= max_points
    assert [point for point in points if point in kept] == kept
    if points:
        assert (kept[0], kept[-1]) == (points[0], points[-1])


def test_fewer_points_are_spread_over_recall():
    rng = np.random.default_rng(0)
    labels = rng.random(5000) < 0.3
    probs = np.clip(0.3 * labels + rng.random(5000) * 0.7, 0, 1)
    assert np.diff(precision_recall(probs, labels, 50).recall).max() < 1.5 / 49
