"""The images that a model mixes up, by hand and by what they have to be."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from vitpe.metrics.mistakes import find_mistakes


def test_by_hand():
    probs = [0.9, 0.2, 0.5, 0.95, 0.1, 0.45, 0.7]
    labels = [0, 1, 0, 1, 1, 0, 0]
    found = find_mistakes(probs, labels, 0.5, 2)
    assert found.false_positives.tolist() == [0, 6]  # 2, at the threshold, is the third
    assert found.num_false_positives == 3
    assert found.false_negatives.tolist() == [4, 1]
    assert found.num_false_negatives == 2
    assert found.least_certain.tolist() == [2, 5]


def test_another_threshold_and_none_of_a_kind():
    found = find_mistakes([0.2, 0.3], [1, 1], 0.1, 5)
    assert found.false_positives.size == found.false_negatives.size == 0
    assert found.least_certain.tolist() == [0, 1]


@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=1, max_size=50),
    st.floats(0, 1),
    st.integers(1, 8),
)
def test_they_are_what_they_are_called(pairs, threshold, count):
    probs, labels = np.array(pairs).T
    found = find_mistakes(probs, labels, threshold, count)
    answered = probs >= threshold
    assert found.num_false_positives + found.num_false_negatives == (answered != labels).sum()
    assert (answered & (labels == 0))[found.false_positives].all()
    assert (~answered & (labels == 1))[found.false_negatives].all()
    assert len(found.false_positives) == min(count, found.num_false_positives)
    assert len(found.false_negatives) == min(count, found.num_false_negatives)
    for images, order in (
        (found.false_positives, -probs),
        (found.false_negatives, probs),
        (found.least_certain, abs(probs - threshold)),
    ):
        assert (np.diff(order[images]) >= 0).all()
        assert len(set(images.tolist())) == len(images)
    left_out = np.setdiff1d(np.arange(len(probs)), found.least_certain)
    if left_out.size:
        distance = abs(probs - threshold)
        assert distance[left_out].min() >= distance[found.least_certain].max()
