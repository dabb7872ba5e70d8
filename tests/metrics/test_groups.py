"""Groups against fairlearn's MetricFrame, hand-computed cases, and intervals against their definition."""

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import accuracy_score

from vitpe.errors import VitpeError
from vitpe.metrics.groups import GAPS, RATES, Grouping, group_by, score_groups
from vitpe.metrics.scores import interval, score

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of its own dependencies
    from fairlearn import metrics as oracle

NAMES = ("Male", "Young", "Smiling")


def fairlearn_scores(p, y, groups, threshold=0.5):
    """MetricFrame of one attribute."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return oracle.MetricFrame(
            metrics={
                "accuracy": accuracy_score,
                "true_positive_rate": oracle.true_positive_rate,
                "false_positive_rate": oracle.false_positive_rate,
                "positive_rate": oracle.selection_rate,
                "count": oracle.count,
            },
            y_true=y,
            y_pred=(p >= threshold).astype(int),
            sensitive_features=groups,
        )


def case(seed=0, num_images=200):
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_images, 3)) < [0.4, 0.7, 0.5]).astype(np.uint8)
    signs = 2.0 * labels - 1
    noise = rng.standard_normal((num_images, 3)) * (0.5 + labels[:, :1])
    return 1 / (1 + np.exp(-(signs + noise))), labels


@st.composite
def answers(draw):
    """(probs, labels, group numbers), few images, so that groups and classes are often missing."""
    num_images = draw(st.integers(2, 25))  # fairlearn takes no single one
    probs = draw(hnp.arrays(np.float64, (num_images, 2), elements=st.sampled_from([0.0, 0.2, 0.5, 0.8, 1.0])))
    labels = draw(hnp.arrays(np.uint8, (num_images, 2), elements=st.integers(0, 1)))
    return probs, labels, draw(hnp.arrays(np.intp, num_images, elements=st.integers(0, 2)))


@settings(max_examples=80, deadline=None)
@given(answers())
def test_rates_and_gaps_equal_fairlearn(drawn):
    probs, labels, group_of = drawn
    grouping = Grouping(("g",), ("a", "b", "c"), group_of)
    scores = score_groups(probs, labels, ["x", "y"], grouping, min_count=0, num_resamples=0)
    for a in range(2):
        frame = fairlearn_scores(probs[:, a], labels[:, a].astype(int), group_of)
        for g in range(3):
            seen = group_of == g
            assert scores.counts[g] == seen.sum()
            if not seen.any():
                assert all(np.isnan(scores[rate][g, a]) for rate in RATES)
                continue
            present = labels[seen, a]
            # fairlearn says 0 where nobody could have been right; here that is undefined
            for rate, defined in (
                ("accuracy", True),
                ("positive_rate", True),
                ("true_positive_rate", present.any()),
                ("false_positive_rate", not present.all()),
            ):
                expected = frame.by_group.loc[g, rate] if defined else np.nan
                np.testing.assert_allclose(scores[rate][g, a], expected, atol=1e-12, err_msg=rate)
        if len(np.unique(group_of)) > 1:
            gaps = frame.difference(method="between_groups")
            assert scores.gaps["accuracy"].value[a] == pytest.approx(gaps["accuracy"], abs=1e-12)
            assert scores.gaps["demographic_parity"].value[a] == pytest.approx(gaps["positive_rate"], abs=1e-12)
            sides = [labels[group_of == g, a] for g in np.unique(group_of)]
            if all(0 < side.sum() < len(side) for side in sides):
                tpr, fpr = gaps["true_positive_rate"], gaps["false_positive_rate"]
                assert scores.gaps["equal_opportunity"].value[a] == pytest.approx(tpr, abs=1e-12)
                assert scores.gaps["equalized_odds"].value[a] == pytest.approx(max(tpr, fpr), abs=1e-12)
        else:
            assert all(np.isnan(scores.gaps[name].value[a]) for name in GAPS)


@settings(max_examples=40, deadline=None)
@given(answers())
def test_ranges_and_what_adds_up(drawn):
    probs, labels, group_of = drawn
    grouping = Grouping(("g",), ("a", "b", "c"), group_of)
    scores = score_groups(
        probs, labels, ["x", "y"], grouping, min_count=2, num_resamples=20, train_shares=grouping.shares()
    )
    whole = score(probs, labels, ["x", "y"], num_resamples=0)
    np.testing.assert_allclose(scores.whole["accuracy"], whole["accuracy"], atol=1e-12)
    # weighted by the shares of the very images, it is the plain mean
    np.testing.assert_allclose(scores.reweighted, whole["accuracy"], atol=1e-12)
    for gap in scores.gaps.values():
        assert not (gap.value < 0).any()
        assert not (gap.value > 1).any()
        assert (np.isnan(gap.value) == (gap.highest == -1)).all()
        assert (gap.low <= gap.high)[~np.isnan(gap.low)].all()
    for a, worst in enumerate(scores.worst):
        if worst >= 0:
            assert scores.counts[worst] >= 2
            assert scores["accuracy"][worst, a] == np.min(scores["accuracy"][scores.ranked["accuracy"][:, a], a])


def test_hand_computed_case():
    """Women: ++-- answered +-+-; men: ++- answered ++-. One more image is of no group."""
    labels = np.array([[1], [1], [0], [0], [1], [1], [0], [1]])
    probs = np.array([[0.9], [0.1], [0.8], [0.2], [0.9], [0.7], [0.3], [0.0]])
    grouping = Grouping(("Male",), ("Male=0", "Male=1"), np.array([0, 0, 0, 0, 1, 1, 1, -1]))
    shares = np.array([0.25, 0.75])
    scores = score_groups(probs, labels, ["x"], grouping, min_count=1, num_resamples=0, train_shares=shares)
    assert scores["accuracy"][:, 0].tolist() == [0.5, 1.0]
    assert scores["true_positive_rate"][:, 0].tolist() == [0.5, 1.0]
    assert scores["false_positive_rate"][:, 0].tolist() == [0.5, 0.0]
    assert scores["positive_rate"][:, 0].tolist() == [0.5, pytest.approx(2 / 3)]
    assert scores["prevalence"][:, 0].tolist() == [0.5, pytest.approx(2 / 3)]
    # ranked 0.9+ 0.8- 0.2- 0.1+: 1/2 · 1 + 1/2 · 2/4
    assert scores["average_precision"][:, 0].tolist() == [0.75, 1.0]
    assert (scores.counts.tolist(), scores.num_outside) == ([4, 3], 1)
    assert scores.whole["accuracy"][0] == scores.mean_accuracy.value == pytest.approx(5 / 7)
    assert scores.mean_reweighted.value == 0.25 * 0.5 + 0.75 * 1.0
    assert scores.worst.tolist() == [0]
    assert {name: gap.value[0] for name, gap in scores.gaps.items()} == {
        "accuracy": 0.5,
        "equal_opportunity": 0.5,
        "equalized_odds": 0.5,
        "demographic_parity": pytest.approx(1 / 6),
    }
    assert scores.gaps["accuracy"].highest.tolist() == [1]


def test_equalised_odds_is_the_larger_of_two_differences():
    labels = np.array([[1], [1], [0], [0], [1], [1], [0], [0]])
    probs = np.array([[1], [0], [0], [0], [1], [1], [1], [1]])  # rates 0.5 and 0; 1 and 1
    scores = score_groups(probs, labels, ["x"], Grouping(("g",), ("a", "b"), np.repeat([0, 1], 4)), min_count=1)
    gap = scores.gaps["equalized_odds"]
    assert (gap.value[0], gap.rates) == (1.0, ("false_positive_rate",))
    assert (gap.highest[0], gap.lowest[0]) == (1, 0)
    assert scores.gaps["equal_opportunity"].value[0] == 0.5


def test_intervals_are_of_the_two_extreme_groups_on_paired_resamples():
    probs, labels = case(num_images=120)
    grouping = group_by(labels, NAMES, {"Male": None, "Young": None})
    scores = score_groups(probs, labels, NAMES, grouping, num_resamples=50, seed=3)
    gap = scores.gaps["accuracy"]
    right = (probs >= 0.5) == labels
    drawn = np.random.default_rng(3).integers(120, size=(50, 120))
    for a in range(3):
        differences = np.array(
            [
                right[rows[grouping.group_of[rows] == gap.highest[a]], a].mean()
                - right[rows[grouping.group_of[rows] == gap.lowest[a]], a].mean()
                for rows in drawn
            ]
        )
        low, high = interval(differences[:, None])
        assert (gap.low[a], gap.high[a]) == (pytest.approx(low[0]), pytest.approx(high[0]))
        assert gap.low[a] <= gap.value[a] <= gap.high[a]
        for g in range(4):
            accuracies = np.array([right[rows[grouping.group_of[rows] == g], a].mean() for rows in drawn])
            found = scores.accuracy_low[g, a], scores.accuracy_high[g, a]
            np.testing.assert_allclose(found, np.ravel(interval(accuracies[:, None])), atol=1e-12)


def test_small_groups_are_shown_and_not_ranked():
    """Three images of one group, all answered wrong, are no worst group; nor are two of its positives a rate."""
    labels = np.array([[1]] * 3 + [[1], [0]] * 20)
    probs = np.array([[0.0]] * 3 + [[0.9], [0.2]] * 18 + [[0.1], [0.9]] * 2)
    grouping = Grouping(("g",), ("few", "many", "others"), np.array([0] * 3 + [1, 1, 2, 2] * 10))
    scores = score_groups(probs, labels, ["x"], grouping, min_count=10, num_resamples=10)
    assert scores["accuracy"][0, 0] == 0
    assert scores.ranked["accuracy"][:, 0].tolist() == [False, True, True]
    assert scores.worst[0] != 0
    stricter = score_groups(probs, labels, ["x"], grouping, min_count=15, num_resamples=10)
    assert stricter.ranked["accuracy"][:, 0].tolist() == [False, True, True]
    assert not stricter.ranked["true_positive_rate"].any()  # 10 of each group have the attribute
    assert np.isnan(stricter.gaps["equal_opportunity"].value[0])
    assert np.isnan(stricter.gaps["equal_opportunity"].low[0])


def test_groups_of_labels():
    labels = np.array([[0, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]])
    both = group_by(labels, NAMES, {"Male": None, "Young": None})
    assert both.names == ("Male=0,Young=0", "Male=0,Young=1", "Male=1,Young=0", "Male=1,Young=1")
    assert both.group_of.tolist() == [1, 2, 3, 0]
    part = group_by(labels, NAMES, {"Male": 1, "Young": None})
    assert part.names == ("Male=1,Young=0", "Male=1,Young=1")
    assert part.group_of.tolist() == [-1, 0, 1, -1]
    assert part.shares().tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="not in"):
        group_by(labels, NAMES, {"Old": None})


def test_the_attribute_that_parts_the_images():
    """Its groups differ in what is asked: one rate each, no parity, and no part in the means of gaps."""
    probs, labels = case()
    scores = score_groups(probs, labels, NAMES, group_by(labels, NAMES, {"Male": None}), num_resamples=20)
    assert np.isnan(scores["true_positive_rate"][0, 0])
    assert np.isnan(scores["false_positive_rate"][1, 0])
    assert np.isnan(scores["average_precision"][:, 0]).all()
    assert not np.isnan(scores.gaps["accuracy"].value[0])
    for name in ("equal_opportunity", "equalized_odds", "demographic_parity"):
        assert np.isnan(scores.gaps[name].value[0])
    assert scores.mean_gaps["accuracy"].value == pytest.approx(scores.gaps["accuracy"].value[1:].mean())
    assert scores.mean_gaps["accuracy"].num_undefined == 1


def test_a_group_without_images():
    probs, labels = case()
    labels[:, 0] = 0
    grouping = group_by(labels, NAMES, {"Male": None})
    shares = np.array([0.6, 0.4])
    scores = score_groups(probs, labels, NAMES, grouping, num_resamples=20, train_shares=shares)
    assert scores.counts.tolist() == [200, 0]
    assert np.isnan(scores["accuracy"][1]).all()
    assert (scores.worst == -1).all()
    assert np.isnan(scores.mean_reweighted.value)  # what is trained on and not here leaves it open
    nobody = score_groups(probs, labels, NAMES, group_by(labels, NAMES, {"Male": 1}), num_resamples=20)
    assert (nobody.counts.tolist(), nobody.num_outside) == ([0], 200)
    assert np.isnan(nobody.mean_accuracy.value)


def test_the_bootstrap_covers_a_known_gap():
    """Two groups whose accuracies are 0.9 and 0.7: 95 % intervals hold 0.2 about as often as they say."""
    rng = np.random.default_rng(0)
    group_of = np.repeat([0, 1], 150)
    grouping = Grouping(("g",), ("a", "b"), group_of)
    labels = np.ones((300, 60))
    probs = (rng.random((300, 60)) < np.where(group_of == 0, 0.9, 0.7)[:, None]).astype(float)
    names = [str(a) for a in range(60)]
    gap = score_groups(probs, labels, names, grouping, num_resamples=400).gaps["accuracy"]
    covered = ((gap.low <= 0.2) & (gap.high >= 0.2)).mean()
    assert covered >= 0.85


def test_what_is_not_finite_is_refused():
    with pytest.raises(VitpeError, match="not finite"):
        score_groups([[np.nan]], [[1]], ["x"], Grouping(("g",), ("a",), np.array([0])))
