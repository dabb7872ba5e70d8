"""Scores against scikit-learn's, ties and absent classes included, and bootstrap intervals against their definition."""

import itertools
import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn import metrics as oracle
from sklearn.calibration import calibration_curve

from vitpe.errors import VitpeError
from vitpe.metrics.comparison import compare
from vitpe.metrics.names import METRICS
from vitpe.metrics.reliability import reliability
from vitpe.metrics.scores import INTERVAL_METRICS, bootstrap, interval, nanmean, score

TOLERANCE = 1e-9


@st.composite
def answers(draw, max_images=30, max_attributes=3):
    """(probs, labels): probabilities from a coarse grid, so that many tie, 0, 1 and the thresholds among them."""
    shape = draw(st.tuples(st.integers(1, max_images), st.integers(1, max_attributes)))
    coarse = st.sampled_from([0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0])
    probs = draw(hnp.arrays(np.float64, shape, elements=draw(st.sampled_from([coarse, st.floats(0, 1)]))))
    labels = draw(hnp.arrays(np.uint8, shape, elements=st.integers(0, 1)))
    return probs, labels


def sklearn_scores(p, y, threshold=0.5, weights=None):
    """The same metrics of one attribute from scikit-learn; NaN where the module calls them undefined."""
    answer = (p >= threshold).astype(int)
    weights = np.ones(len(p)) if weights is None else weights
    seen = y[weights > 0]
    both = 0 < seen.sum() < len(seen)
    weighted = {"sample_weight": weights}
    majority = max(weights[y == 1].sum(), weights[y == 0].sum()) / weights.sum()
    accuracy = oracle.accuracy_score(y, answer, **weighted)
    undefined = {"zero_division": np.nan, "labels": [0, 1], **weighted}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns wherever a class is absent
        return {
            "prevalence": np.average(y, weights=weights),
            "accuracy": accuracy,
            "majority_accuracy": majority,
            "lift": accuracy - majority,
            "balanced_accuracy": oracle.balanced_accuracy_score(y, answer, **weighted) if both else np.nan,
            "precision": oracle.precision_score(y, answer, **undefined),
            "recall": oracle.recall_score(y, answer, **undefined),
            "f1": oracle.f1_score(y, answer, **undefined),
            "average_precision": oracle.average_precision_score(y, p, **weighted) if seen.any() else np.nan,
            "roc_auc": oracle.roc_auc_score(y, p, **weighted) if both else np.nan,
            "brier": oracle.brier_score_loss(y, p, labels=[0, 1], **weighted),
        }


def slow_ece(p, y):
    """The definition, bin by bin."""
    edges = np.linspace(0, 1, 16)
    gaps = []
    for low, high in itertools.pairwise(edges):
        inside = (p > low) & (p <= high) | ((p == 0) & (low == 0))
        if inside.any():
            gaps.append(inside.sum() * abs(y[inside].mean() - p[inside].mean()))
    return sum(gaps) / len(p)


def names(num):
    return [f"a{i}" for i in range(num)]


@settings(max_examples=100, deadline=None)
@given(answers(), st.sampled_from([0.0, 0.3, 0.5, 0.8, 1.0]))
@example((np.array([[0.5]]), np.array([[1]])), 0.5)
@example((np.array([[0.5], [0.5]]), np.array([[1], [0]])), 0.5)
@example((np.full((3, 1), 0.1), np.zeros((3, 1))), 0.5)
def test_scores_equal_scikit_learn(case, threshold):
    probs, labels = case
    scores = score(probs, labels, names(probs.shape[1]), threshold, num_resamples=0)
    for a in range(probs.shape[1]):
        p, y = probs[:, a], labels[:, a].astype(int)
        expected = {**sklearn_scores(p, y, threshold), "ece": slow_ece(p, y)}
        assert expected.keys() == set(METRICS)
        for metric, value in expected.items():
            np.testing.assert_allclose(scores[metric][a], value, rtol=0, atol=TOLERANCE, err_msg=metric)


@settings(max_examples=40, deadline=None)
@given(answers(max_images=12))
def test_bootstrap_replicates_equal_scikit_learn_on_the_resample(case):
    probs, labels = case
    num_images, num_attributes = probs.shape
    replicates = bootstrap(probs, labels, num_resamples=3, seed=7)
    drawn = np.random.default_rng(7).integers(num_images, size=(3, num_images))
    assert set(replicates) == set(INTERVAL_METRICS)
    for r in range(3):
        for a in range(num_attributes):
            resample = probs[drawn[r], a], labels[drawn[r], a].astype(int)
            for metric, value in sklearn_scores(*resample).items():
                np.testing.assert_allclose(replicates[metric][r, a], value, rtol=0, atol=TOLERANCE, err_msg=metric)


def test_hand_computed_case():
    """Ranked 0.9+ 0.8- 0.6+ 0.2-: AP = 1/2 · 1 + 1/2 · 2/3, AUC = 3 of 4 pairs."""
    scores = score([[0.9], [0.8], [0.6], [0.2]], [[1], [0], [1], [0]], ["a"], num_resamples=0)
    assert scores["average_precision"][0] == pytest.approx(5 / 6)
    assert scores["roc_auc"][0] == pytest.approx(3 / 4)
    assert scores["accuracy"][0] == scores["lift"][0] + 0.5 == 0.75
    assert scores["precision"][0] == pytest.approx(2 / 3)
    assert scores["recall"][0] == 1
    assert scores["f1"][0] == pytest.approx(0.8)
    assert scores["balanced_accuracy"][0] == 0.75
    assert scores["brier"][0] == pytest.approx((0.01 + 0.64 + 0.16 + 0.04) / 4)
    assert scores["ece"][0] == pytest.approx((0.1 + 0.8 + 0.4 + 0.2) / 4)


def test_thresholds_are_per_attribute_and_inclusive():
    probs, labels = np.full((4, 3), 0.5), np.ones((4, 3), int)
    scores = score(probs, labels, names(3), [0.4, 0.5, 0.6], num_resamples=0)
    assert scores["accuracy"].tolist() == [1, 1, 0]
    assert scores.thresholds.tolist() == [0.4, 0.5, 0.6]


def test_single_precision_ties_stay_ties():
    probs = np.array([[0.1], [0.1], [0.7]], np.float32)
    scores = score(probs, [[1], [0], [0]], ["a"], num_resamples=0)
    assert scores["roc_auc"][0] == 0.25


def test_undefined_is_left_out_of_the_mean_and_counted():
    probs = np.array([[0.9, 0.1, 0.8], [0.2, 0.3, 0.9], [0.8, 0.2, 0.4]])
    labels = np.array([[1, 0, 1], [0, 0, 1], [1, 0, 1]])
    scores = score(probs, labels, ["good", "never", "always"], num_resamples=50)
    assert np.isnan(scores["roc_auc"]).tolist() == [False, True, True]
    assert scores.means["roc_auc"].value == scores["roc_auc"][0] == 1
    assert scores.means["roc_auc"].num_undefined == 2
    assert scores.undefined("roc_auc") == ("never", "always")
    assert scores.undefined("average_precision") == scores.undefined("f1") == ("never",)
    assert scores.means["accuracy"].num_undefined == 0
    assert scores.means["accuracy"].value == pytest.approx((1 + 1 + 2 / 3) / 3)


def test_nothing_defined_gives_a_mean_of_nan():
    scores = score([[0.1], [0.2]], [[0], [0]], ["never"], num_resamples=5)
    mean = scores.means["roc_auc"]
    assert np.isnan([mean.value, mean.low, mean.high]).all()
    assert mean.num_undefined == 1


@settings(max_examples=100, deadline=None)
@given(answers())
def test_reliability_bins_equal_scikit_learns(case):
    probs, labels = case
    bins = reliability(probs, labels)
    for a in range(probs.shape[1]):
        filled = bins.counts[a] > 0
        share, mean_prob = calibration_curve(labels[:, a], probs[:, a], n_bins=15)
        np.testing.assert_allclose(bins.sum_labels[a, filled] / bins.counts[a, filled], share, atol=TOLERANCE)
        np.testing.assert_allclose(bins.sum_probs[a, filled] / bins.counts[a, filled], mean_prob, atol=TOLERANCE)
    assert bins.counts.sum() == probs.size
    np.testing.assert_allclose(bins.pooled().error(), [slow_ece(probs.ravel(), labels.ravel())], atol=TOLERANCE)


def some_answers(num_images=400, num_attributes=5, seed=1):
    rng = np.random.default_rng(seed)
    labels = rng.random((num_images, num_attributes)) < np.linspace(0.1, 0.6, num_attributes)
    logits = rng.standard_normal(labels.shape) + 2 * labels - 1
    return 1 / (1 + np.exp(-logits)), labels


def test_intervals_are_those_of_the_means_replicates():
    probs, labels = some_answers()
    scores = score(probs, labels, names(5), num_resamples=200, seed=3)
    replicates = bootstrap(probs, labels, num_resamples=200, seed=3)
    for metric in INTERVAL_METRICS:
        means = np.array([row.mean() for row in replicates[metric]])
        low, high = np.quantile(means, [0.025, 0.975])
        mean = scores.means[metric]
        assert (mean.low, mean.high) == pytest.approx((low, high), abs=1e-12)
        assert mean.low < mean.value < mean.high


@pytest.mark.parametrize("slope", [1.0, 0.9, 0.4])
def test_the_interval_of_the_calibration_error_holds_the_truth(slope):
    """Labels are drawn with probability sigmoid(slope · logit): calibrated at 1, where the error is truly 0 and neither
    the percentile nor the basic bootstrap interval has it even once.
    """
    rng = np.random.default_rng(0)

    def draw(num_images):
        logits = 1.5 * (rng.standard_normal((num_images, 1)) + rng.standard_normal((num_images, 4))) / 2
        return 1 / (1 + np.exp(-logits)), 1 / (1 + np.exp(-slope * logits))

    truth = reliability(*draw(400_000)).error().mean()
    means = []
    for seed in range(100):
        probs, true_probs = draw(400)
        labels = rng.random(probs.shape) < true_probs
        means.append(score(probs, labels, names(4), num_resamples=100, seed=seed).means["ece"])
    assert np.mean([mean.low <= truth <= mean.high for mean in means]) >= 0.93
    assert all(0 <= mean.low <= mean.value <= mean.high for mean in means)
    tells = np.mean([mean.low > 0.01 for mean in means])
    assert tells > 0.9 if slope == 0.4 else tells < 0.1
    if slope == 1:
        assert truth < 0.002 < min(mean.value for mean in means)


def test_interval_of_accuracy_agrees_with_the_binomial_one():
    probs, labels = some_answers(num_images=2000, num_attributes=1)
    mean = score(probs, labels, ["a"]).means["accuracy"]
    half = 1.96 * np.sqrt(mean.value * (1 - mean.value) / 2000)
    assert mean.high - mean.value == pytest.approx(half, rel=0.15)
    assert mean.value - mean.low == pytest.approx(half, rel=0.15)


def test_resamples_repeat_and_do_not_depend_on_their_number():
    probs, labels = some_answers(num_images=60_000, num_attributes=1)  # large enough for several chunks
    first = bootstrap(probs, labels, num_resamples=20, seed=5)["roc_auc"]
    np.testing.assert_array_equal(first, bootstrap(probs, labels, num_resamples=20, seed=5)["roc_auc"])
    np.testing.assert_array_equal(first[:9], bootstrap(probs, labels, num_resamples=9, seed=5)["roc_auc"])
    assert not np.array_equal(first, bootstrap(probs, labels, num_resamples=20, seed=6)["roc_auc"])


def test_interval_leaves_undefined_replicates_out():
    low, high = interval(np.array([[1.0, np.nan], [np.nan, np.nan], [3.0, np.nan]]))
    assert (low[0], high[0]) == pytest.approx((1.05, 2.95))
    assert np.isnan([low[1], high[1]]).all()


def test_nanmean_is_quiet_about_nothing():
    np.testing.assert_array_equal(nanmean(np.array([[1.0, np.nan, 3.0], [np.nan] * 3])), [2.0, np.nan])


def test_probabilities_that_are_not_finite_are_the_users_matter():
    with pytest.raises(VitpeError, match="1 of 2 images are not finite") as raised:
        score([[np.nan, 0.5], [0.5, 0.5]], [[0, 1], [1, 0]], names(2))
    assert "earlier checkpoint" in raised.value.hint


@pytest.mark.parametrize(
    ("probs", "labels", "attributes"),
    [
        ([[0.5, 0.5]], [[1]], ["a", "b"]),
        ([[0.5]], [[1]], ["a", "b"]),
        ([[1.5]], [[1]], ["a"]),
        ([[0.5]], [[-1]], ["a"]),
        (np.empty((0, 1)), np.empty((0, 1)), ["a"]),
        ([0.5], [1], ["a"]),
    ],
)
def test_wrong_shapes_and_ranges_are_bugs(probs, labels, attributes):
    with pytest.raises(ValueError, match=r"probs|labels|names"):
        score(probs, labels, attributes)


def test_a_model_compared_with_itself_differs_in_nothing():
    probs, labels = some_answers()
    comparison = compare(probs, probs, labels, names(5), num_resamples=50)
    for metric in METRICS:
        np.testing.assert_array_equal(comparison.per_attribute[metric].value, 0)
        assert not comparison.per_attribute[metric].exceeds.any()
        assert not comparison.means[metric].exceeds


def test_differences_have_paired_intervals():
    probs, labels = some_answers()
    rng = np.random.default_rng(0)
    blurred = np.clip(probs + rng.normal(0, 0.3, probs.shape), 0, 1)
    comparison = compare(blurred, probs, labels, names(5), 0.5, [0.5, 0.4, 0.5, 0.6, 0.5], num_resamples=100, seed=2)
    before = bootstrap(blurred, labels, num_resamples=100, seed=2)
    after = bootstrap(probs, labels, [0.5, 0.4, 0.5, 0.6, 0.5], num_resamples=100, seed=2)
    for metric in INTERVAL_METRICS:
        change = comparison.per_attribute[metric]
        np.testing.assert_array_equal(change.value, comparison.second[metric] - comparison.first[metric])
        low, high = np.quantile(after[metric] - before[metric], [0.025, 0.975], axis=0)
        np.testing.assert_allclose((change.low, change.high), (low, high), atol=1e-12)
        mean = comparison.means[metric]
        np.testing.assert_allclose(mean.value, change.value.mean(), atol=1e-12)
        means = (after[metric] - before[metric]).mean(axis=1)
        np.testing.assert_allclose((mean.low, mean.high), np.quantile(means, [0.025, 0.975]), atol=1e-12)
    assert comparison.means["roc_auc"].exceeds
    assert np.isnan(comparison.means["ece"].low)
    assert not comparison.means["ece"].exceeds


def test_means_that_are_compared_are_over_the_same_attributes():
    labels = np.array([[1, 1], [0, 1], [1, 0], [0, 0]])
    never = np.column_stack([[0.9, 0.2, 0.8, 0.7], [0.1, 0.2, 0.3, 0.4]])  # says "present" of the first only
    comparison = compare(never, 1 - never, labels, names(2), num_resamples=10)
    assert comparison.both("precision") == pytest.approx((2 / 3, 0))
    assert comparison.means["precision"].value == pytest.approx(0 - 2 / 3)
    assert comparison.second.means["precision"].value == pytest.approx(0.25)


def test_pairing_makes_the_interval_of_a_difference_narrow():
    """Two models that differ on few images: their own accuracies are uncertain, the difference is not."""
    probs, labels = some_answers(num_attributes=1)
    other = probs.copy()
    other[:4] = 1 - other[:4]
    difference = compare(probs, other, labels, ["a"]).means["accuracy"]
    own = score(probs, labels, ["a"]).means["accuracy"]
    assert difference.high - difference.low < 0.5 * (own.high - own.low)


def test_means_of_differences_leave_out_what_either_lacks():
    labels = np.array([[1, 1], [0, 0], [1, 0]])
    silent, loud = np.full((3, 2), 0.1), np.array([[0.9, 0.1], [0.1, 0.1], [0.9, 0.1]])
    comparison = compare(silent, loud, labels, names(2), num_resamples=20)
    assert np.isnan(comparison.per_attribute["precision"].value).all()
    assert np.isnan(comparison.means["precision"].value)
    assert comparison.means["recall"].value == 0.5
