"""Tuned thresholds against trying them all; calibration against scikit-learn's logistic regression."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.linear_model import LogisticRegression

from vitpe.metrics.scores import score
from vitpe.metrics.thresholds import (
    CRITERIA,
    TEMPERATURE_RANGE,
    calibrate,
    fit_platt,
    fit_temperature,
    sigmoid,
    tune_thresholds,
)


@st.composite
def cases(draw):
    num = draw(st.integers(1, 12))
    coarse = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
    probs = draw(hnp.arrays(np.float64, num, elements=draw(st.sampled_from([coarse, st.floats(0, 1)]))))
    return probs, draw(hnp.arrays(np.uint8, num, elements=st.integers(0, 1)))


def value(probs, labels, threshold, criterion):
    return score(probs[:, None], labels[:, None], ["a"], threshold, num_resamples=0)[criterion][0]


@settings(max_examples=120, deadline=None)
@given(cases(), st.sampled_from(CRITERIA))
def test_no_threshold_is_better(case, criterion):
    probs, labels = case
    (threshold,) = tune_thresholds(probs[:, None], labels[:, None], criterion)
    assert 0 <= threshold <= 1
    reached = value(probs, labels, threshold, criterion)
    # Every answer a threshold in [0, 1] can give is given by one of these.
    others = np.concatenate([probs, np.minimum(np.nextafter(probs, 2), 1), [0, 0.5, 1]])
    values = np.array([value(probs, labels, other, criterion) for other in others])
    needs = {"f1": labels.any(), "balanced_accuracy": 0 < labels.sum() < len(labels), "accuracy": True}
    if not needs[criterion]:
        assert threshold == 0.5
        return
    assert reached == pytest.approx(np.nanmax(values), abs=1e-12)
    if value(probs, labels, 0.5, criterion) == reached:
        assert threshold == 0.5


@pytest.mark.parametrize("criterion", CRITERIA)
def test_a_clean_split_is_cut_in_the_middle(criterion):
    probs, labels = np.array([[0.05], [0.1], [0.2], [0.3]]), np.array([[0], [0], [1], [1]])
    assert tune_thresholds(probs, labels, criterion) == pytest.approx(0.15)


def test_of_equally_good_cuts_the_one_nearest_a_half_is_taken():
    # Accuracy: cutting above 0.9 and below 0.6 are both right 3 times of 4; 0.95 and 0.575 are their middles.
    probs, labels = np.array([[0.9], [0.8], [0.6], [0.55]]), np.array([[1], [0], [1], [0]])
    assert tune_thresholds(probs, labels, "accuracy") == pytest.approx(0.575)
    # Answering "absent" to both (0.875) and "present" to both (0.125) are each right once, and equally near.
    assert tune_thresholds([[0.75], [0.25]], [[0], [1]], "accuracy") == 0.125


def test_neighbouring_floats_have_no_middle():
    low = 0.25
    high = np.nextafter(low, 1)
    (threshold,) = tune_thresholds(np.array([[low], [high]]), np.array([[0], [1]]), "accuracy")
    assert low < threshold <= high


def test_attributes_are_tuned_alone():
    rng = np.random.default_rng(0)
    probs, labels = rng.random((50, 4)), rng.integers(0, 2, (50, 4))
    together = tune_thresholds(probs, labels, "f1")
    alone = [tune_thresholds(probs[:, [a]], labels[:, [a]], "f1")[0] for a in range(4)]
    assert together.tolist() == alone


def test_sigmoid_neither_overflows_nor_saturates_early():
    np.testing.assert_array_equal(sigmoid([-1e4, 0, 1e4]), [0, 0.5, 1])
    assert sigmoid(30) < 1
    assert sigmoid(-700) > 0
    np.testing.assert_allclose(sigmoid([-3, 2.5]), [1 / (1 + np.exp(3)), 1 / (1 + np.exp(-2.5))], rtol=1e-15)


def logits_and_labels(num_images=600, num_attributes=6, sharpness=2.5, seed=0):
    """Overconfident logits: labels follow sigmoid(logits / sharpness), shifted a little for each attribute."""
    rng = np.random.default_rng(seed)
    honest = rng.normal(np.linspace(-2, 1, num_attributes), 1.5, (num_images, num_attributes))
    labels = rng.random(honest.shape) < sigmoid(honest)
    return sharpness * honest + np.linspace(-0.5, 0.5, num_attributes), labels.astype(np.uint8)


def unpenalised(x, y, weights=None, *, fit_intercept):
    model = LogisticRegression(
        C=np.inf, fit_intercept=fit_intercept, tol=1e-12, max_iter=1000, solver="newton-cholesky"
    )
    model.fit(np.asarray(x).reshape(-1, 1), y, sample_weight=weights)
    return model.coef_[0, 0], model.intercept_[0] if fit_intercept else 0.0


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 8.0])
def test_temperature_equals_an_unpenalised_logistic_regression(sharpness):
    logits, labels = logits_and_labels(sharpness=sharpness)
    slope, _ = unpenalised(logits.ravel(), labels.ravel(), fit_intercept=False)
    calibration = fit_temperature(logits, labels)
    np.testing.assert_allclose(calibration.scale, slope, rtol=1e-8)
    np.testing.assert_array_equal(calibration.offset, 0)


def test_platt_equals_an_unpenalised_logistic_regression_on_platts_targets():
    logits, labels = logits_and_labels()
    calibration = fit_platt(logits, labels)
    for a in range(logits.shape[1]):
        num_positive = labels[:, a].sum()
        num_negative = len(labels) - num_positive
        targets = np.where(labels[:, a] == 1, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
        # A target t is a label 1 of weight t and a label 0 of weight 1 - t.
        x, y = np.tile(logits[:, a], 2), np.repeat([1, 0], len(labels))
        expected = unpenalised(x, y, np.concatenate([targets, 1 - targets]), fit_intercept=True)
        np.testing.assert_allclose((calibration.scale[a], calibration.offset[a]), expected, rtol=1e-7)


def test_platt_on_many_images_is_maximum_likelihood_on_the_labels():
    logits, labels = logits_and_labels(num_images=50_000, num_attributes=1)
    expected = unpenalised(logits[:, 0], labels[:, 0], fit_intercept=True)
    calibration = fit_platt(logits, labels)
    np.testing.assert_allclose((calibration.scale[0], calibration.offset[0]), expected, rtol=2e-3)


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_calibration_repairs_overconfidence(method):
    logits, labels = logits_and_labels(num_images=4000)
    names = [str(a) for a in range(6)]
    before = score(sigmoid(logits), labels, names, num_resamples=0)
    after = score(sigmoid(calibrate(logits, labels, method).apply(logits)), labels, names, num_resamples=0)
    assert after.means["ece"].value < 0.5 * before.means["ece"].value
    assert after.means["brier"].value < before.means["brier"].value
    np.testing.assert_allclose(after["roc_auc"], before["roc_auc"], atol=1e-12)


def test_separated_labels_keep_finite_calibration():
    logits, labels = np.array([[-3.0], [-1.0], [1.0], [2.0]]), np.array([[0], [0], [1], [1]])
    assert fit_temperature(logits, labels).scale == pytest.approx(1 / TEMPERATURE_RANGE[0])
    assert fit_temperature(-logits, labels).scale == pytest.approx(1 / TEMPERATURE_RANGE[1])
    platt = fit_platt(logits, labels)
    assert np.isfinite([platt.scale, platt.offset]).all()
    assert platt.scale > 0


def test_platt_leaves_what_it_cannot_fit_as_it_is():
    logits = np.array([[0.3, 1.0, -2.0], [0.7, 1.0, 0.5], [-1.0, 1.0, 3.0]])
    labels = np.array([[0, 0, 0], [0, 1, 0], [0, 0, 1]])
    calibration = fit_platt(logits, labels)
    assert calibration.scale[:2].tolist() == [1, 1]
    assert calibration.offset[:2].tolist() == [0, 0]
    assert calibration.scale[2] != 1


@settings(max_examples=100, deadline=None)
@given(
    hnp.arrays(np.float64, (8, 2), elements=st.floats(-1e4, 1e4)),
    hnp.arrays(np.uint8, (8, 2), elements=st.integers(0, 1)),
)
def test_fits_end_finite_whatever_the_logits(logits, labels):
    for fit in (fit_temperature, fit_platt):
        calibration = fit(logits, labels)
        assert np.isfinite(calibration.scale).all()
        assert np.isfinite(calibration.offset).all()


def test_folding_a_calibration_into_the_last_layer_gives_the_same_logits():
    rng = np.random.default_rng(0)
    features, weight, bias = rng.standard_normal((5, 7)), rng.standard_normal((3, 7)), rng.standard_normal(3)
    logits = features @ weight.T + bias
    calibration = fit_platt(logits, np.array([[0, 1, 0], [1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]]))
    folded = features @ (weight * calibration.scale[:, None]).T + bias * calibration.scale + calibration.offset
    np.testing.assert_allclose(folded, calibration.apply(logits), rtol=1e-12)
