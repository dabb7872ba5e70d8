"""Suspects against cleanlab's confident learning, ties and absent classes included, and on a case done by hand."""

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vitpe.celeba import ATTRIBUTES, EXCLUSIVE
from vitpe.errors import VitpeError
from vitpe.metrics.contradictions import find_contradictions
from vitpe.metrics.suspects import find_suspects

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    from cleanlab.count import compute_confident_joint, get_confident_thresholds
    from cleanlab.filter import find_label_issues


@st.composite
def answers(draw, max_images=60, max_attributes=3):
    """(probs, labels): many ties, or none, and probabilities that know something of the labels, or nothing.

    Of 12 digits: of 2e-193 cleanlab, which computes with 1 - p, knows no more.
    """
    shape = draw(st.tuples(st.integers(1, max_images), st.integers(1, max_attributes)))
    coarse = st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
    probs = draw(hnp.arrays(np.float64, shape, elements=draw(st.sampled_from([coarse, st.floats(0, 1)]))))
    labels = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    return probs.round(12), labels


def cleanlab_answers(p, y):
    """(joint, mask, ranked indices) of one attribute."""
    both = np.stack([1 - p, p], axis=1)
    joint = compute_confident_joint(y, both)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it warns of small classes
        mask = find_label_issues(y, both, n_jobs=1)
        ranked = find_label_issues(y, both, n_jobs=1, return_indices_ranked_by="self_confidence")
    return joint, mask, ranked


def names(num):
    return [f"a{i}" for i in range(num)]


def assert_same(probs, labels):
    suspects = find_suspects(probs, labels, names(probs.shape[1]))
    for a in range(probs.shape[1]):
        y, confidence = labels[:, a].astype(int), suspects.self_confidence[:, a]
        if y.all():  # cleanlab takes a single class only if it is class 0: the mirror image of the case
            joint, mask, ranked = cleanlab_answers(1 - probs[:, a], 1 - y)
            joint = joint[::-1, ::-1]
        else:
            joint, mask, ranked = cleanlab_answers(probs[:, a], y)
        np.testing.assert_array_equal(suspects.joint[a], joint)
        found = suspects.found[:, a]
        for label in (0, 1):  # which of equally confident images are taken is open
            np.testing.assert_array_equal(
                np.sort(confidence[found & (y == label)]), np.sort(confidence[mask & (y == label)])
            )
        if len(np.unique(confidence)) == len(confidence):
            np.testing.assert_array_equal(found, mask)
            np.testing.assert_array_equal(np.flatnonzero(found)[np.argsort(confidence[found])], ranked)


@settings(max_examples=200, deadline=None)
@given(answers())
@example((np.array([[0.5]]), np.array([[1]])))
@example((np.full((4, 1), 0.9), np.zeros((4, 1), int)))
@example((np.array([[0.9], [0.9], [0.1]]), np.array([[0], [1], [1]])))
def test_counts_and_sets_equal_cleanlab(case):
    assert_same(*case)


@pytest.mark.parametrize("seed", range(5))
def test_counts_and_sets_equal_cleanlab_where_a_model_has_learned_something(seed):
    probs, labels, flipped = noisy(500, 4, seed)
    assert_same(probs, labels)
    assert find_suspects(probs, labels, names(4)).found[flipped].mean() > 0.5


def noisy(num, num_attributes, seed):
    """(probs, labels, flipped): a model that is mostly right about labels of which a tenth were flipped afterwards."""
    rng = np.random.default_rng(seed)
    true = rng.random((num, num_attributes)) < 0.3
    probs = 1 / (1 + np.exp(-rng.normal(np.where(true, 2.5, -2.5), 1)))
    flipped = rng.random(true.shape) < 0.1
    return probs, (true ^ flipped).astype(np.uint8), flipped


def test_a_case_by_hand():
    # Labelled 0: mean of 1 - p is (0.9 + 0.8 + 0.8 + 0.1) / 4 = 0.65. Labelled 1: mean of p is 0.7.
    probs = np.array([0.1, 0.2, 0.2, 0.9, 0.8, 0.6])[:, None]
    labels = np.array([0, 0, 0, 0, 1, 1])[:, None]
    suspects = find_suspects(probs, labels, ["Smiling"])
    np.testing.assert_allclose(suspects.class_thresholds, [[0.65, 0.7]])
    # 0.9 is confidently 1 and labelled 0; 0.6 is confidently neither, so the row of one image is scaled to two.
    np.testing.assert_array_equal(suspects.joint, [[[3, 1], [0, 2]]])
    np.testing.assert_array_equal(suspects.num_errors(), [[1, 0]])
    np.testing.assert_array_equal(suspects.found[:, 0], [0, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(suspects.self_confidence[:, 0], [0.9, 0.8, 0.8, 0.1, 0.8, 0.6])


def test_class_thresholds_equal_cleanlab():
    probs, labels, _ = noisy(300, 1, 0)
    both = np.stack([1 - probs[:, 0], probs[:, 0]], axis=1)
    np.testing.assert_allclose(
        find_suspects(probs, labels, ["a"]).class_thresholds[0], get_confident_thresholds(labels[:, 0], both)
    )


@settings(max_examples=50, deadline=None)
@given(answers())
def test_rows_of_the_joint_keep_the_number_of_labels_and_no_class_loses_all(case):
    probs, labels = case
    suspects = find_suspects(probs, labels, names(probs.shape[1]))
    present = labels == 1
    np.testing.assert_array_equal(suspects.joint.sum(axis=2), np.stack([(~present).sum(0), present.sum(0)], axis=1))
    for label in (False, True):
        there = (present == label).any(axis=0)
        assert ((present == label) & ~suspects.found).any(axis=0)[there].all()


def test_what_cannot_be_answered_is_refused():
    with pytest.raises(VitpeError, match="not finite"):
        find_suspects([[np.nan]], [[1]], ["a"])
    with pytest.raises(ValueError, match="2 attribute names for 1 columns"):
        find_suspects([[0.5]], [[1]], ["a", "b"])


def test_contradictions_are_counted_and_found():
    labels = [[1, 1, 0], [1, 0, 1], [1, 1, 1], [0, 1, 1]]
    pairs = [("Bald", "Bangs"), ("Bald", "Black_Hair"), ("No_Beard", "Bangs")]
    found = find_contradictions(labels, ["Bald", "Bangs", "Black_Hair"], pairs)
    assert found.pairs == (("Bald", "Bangs"), ("Bald", "Black_Hair"))  # No_Beard has no labels here
    assert [images.tolist() for images in found.images] == [[0, 2], [1, 2]]
    assert found.counts() == (2, 2)


def test_all_that_exclude_each_other_are_attributes_and_stand_once():
    assert {name for pair in EXCLUSIVE for name in pair} <= set(ATTRIBUTES)
    assert len(set(map(frozenset, EXCLUSIVE))) == len(EXCLUSIVE) == 14
