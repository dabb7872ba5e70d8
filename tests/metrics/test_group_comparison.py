"""Differences of two models in groups: against the comparison of each group's images alone, and the bootstrap's
definition.
"""

import numpy as np
import pytest

from tests.metrics.test_groups import NAMES
from vitpe.metrics.comparison import compare
from vitpe.metrics.group_comparison import compare_groups
from vitpe.metrics.groups import RATES, group_by, group_replicates, score_groups
from vitpe.metrics.scores import interval, resample

THRESHOLDS = np.array([0.5, 0.6, 0.4])


def two():
    """Two models' answers, the second often wrong in Smiling where neither Male nor Young, the labels, and the groups
    by both.
    """
    rng = np.random.default_rng(0)
    labels = (rng.random((300, 3)) < [0.4, 0.6, 0.5]).astype(np.uint8)
    first, second = (1 / (1 + np.exp(-(3.0 * labels - 1.5 + rng.normal(0, 1.5, labels.shape)))) for _ in range(2))
    wrong = (labels[:, :2] == 0).all(axis=1) & (np.arange(len(labels)) % 3 > 0)
    second[wrong, 2] = 1 - labels[wrong, 2]
    return first, second, labels, group_by(labels, NAMES, {"Male": None, "Young": None})


def test_values_are_those_of_each_groups_images_alone():
    first, second, labels, grouping = two()
    found = compare_groups(first, second, labels, NAMES, grouping, 0.5, THRESHOLDS, num_resamples=50)
    for g in range(4):
        rows = grouping.group_of == g
        alone = compare(first[rows], second[rows], labels[rows], NAMES, 0.5, THRESHOLDS, num_resamples=2)
        np.testing.assert_allclose(found.differences["accuracy"].value[g], alone.per_attribute["accuracy"].value)
        np.testing.assert_allclose(
            found.differences["true_positive_rate"].value[g], alone.per_attribute["recall"].value
        )


def test_intervals_are_of_paired_resamples_by_their_definition():
    first, second, labels, grouping = two()
    found = compare_groups(first, second, labels, NAMES, grouping, num_resamples=200, seed=3)
    (weights,) = [np.concatenate([*resample(len(labels), 200, 3)])]
    for g in range(4):
        rows = grouping.group_of == g
        w = weights[:, rows]
        right = [((probs[rows] >= 0.5) == (labels[rows] == 1)).astype(float) for probs in (first, second)]
        before, after = ((w @ each) / w.sum(axis=1, keepdims=True) for each in right)
        low, high = interval(after - before)
        np.testing.assert_allclose(found.differences["accuracy"].low[g], low, atol=1e-12)
        np.testing.assert_allclose(found.differences["accuracy"].high[g], high, atol=1e-12)
        unpaired = interval(after - before[::-1])
        assert not np.allclose(low, unpaired[0])


def test_the_worst_groups_are_each_models_own():
    first, second, labels, grouping = two()
    found = compare_groups(first, second, labels, NAMES, grouping, num_resamples=200)
    before, after = found.worst_accuracies()
    for probs, values, scores in ((first, before, found.first), (second, after, found.second)):
        alone = score_groups(probs, labels, NAMES, grouping, num_resamples=0)
        np.testing.assert_array_equal(values, np.where(alone.ranked["accuracy"], alone["accuracy"], np.inf).min(axis=0))
        np.testing.assert_array_equal(scores.worst, alone.worst)
    np.testing.assert_allclose(found.worst.value, after - before)
    assert (found.first.worst != found.second.worst).any()
    assert ((found.worst.low <= found.worst.value) & (found.worst.value <= found.worst.high)).all()
    assert found.worst.exceeds[2]


def test_a_model_is_as_good_as_itself():
    first, _, labels, grouping = two()
    found = compare_groups(first, first, labels, NAMES, grouping, num_resamples=50)
    for difference in (*found.differences.values(), found.worst):
        assert np.nanmax(np.abs([difference.value, difference.low, difference.high])) == 0
        assert not difference.exceeds.any()


def test_images_outside_the_groups_count_for_nothing():
    first, second, labels, _ = two()
    inside = labels[:, 0] == 1
    terms = {"Male": 1, "Young": None}
    whole = compare_groups(first, second, labels, NAMES, group_by(labels, NAMES, terms), num_resamples=20)
    part = (each[inside] for each in (first, second, labels))
    alone = compare_groups(*part, NAMES, group_by(labels[inside], NAMES, terms), num_resamples=20)
    for rate in RATES:
        for end in ("value", "low", "high"):
            np.testing.assert_array_equal(getattr(whole.differences[rate], end), getattr(alone.differences[rate], end))


def test_one_group_has_no_worst():
    first, second, labels, _ = two()
    found = compare_groups(first, second, labels, NAMES, group_by(labels, NAMES, {"Male": 1}), num_resamples=20)
    assert np.isnan(found.worst.value).all()
    assert np.isfinite(found.differences["accuracy"].low).all()


@pytest.mark.parametrize("seed", [0, 7])
def test_replicates_are_what_score_groups_makes_its_intervals_of(seed):
    first, _, labels, grouping = two()
    drawn = group_replicates(first, labels, grouping, num_resamples=100, seed=seed)
    scores = score_groups(first, labels, NAMES, grouping, num_resamples=100, seed=seed)
    low, high = interval(drawn["accuracy"])
    np.testing.assert_array_equal(low, scores.accuracy_low)
    np.testing.assert_array_equal(high, scores.accuracy_high)
