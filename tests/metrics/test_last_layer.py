"""Last-layer retraining: scikit-learn and the optimality conditions for the regression, and a head that leans on a
spurious feature for the whole.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from vitpe.metrics.last_layer import STRENGTHS, fit_sparse_logistic, retrain_last_layer
from vitpe.metrics.thresholds import sigmoid


def problem(n: int, d: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Correlated features, and labels of which a few of them tell."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, d)) @ (np.eye(d) + 0.5 * rng.normal(size=(d, d)) / np.sqrt(d))
    y = (x[:, 0] - x[:, 1 % d] + rng.normal(size=n) > 0.3).astype(float)
    y[:2] = 0, 1
    return x, y


def objective(row: np.ndarray, x: np.ndarray, y: np.ndarray, strength: float) -> float:
    """‖weights‖₁ + strength · the sum of the log losses."""
    losses = np.logaddexp(0, np.where(y == 1, -1, 1) * (x @ row[:-1] + row[-1]))
    return float(np.abs(row[:-1]).sum() + strength * losses.sum())


@pytest.mark.parametrize("strength", [0.03, 0.3, 1.0])
@pytest.mark.parametrize(("n", "d"), [(48, 128), (400, 20), (30, 1)])
def test_it_is_scikit_learns(strength, n, d):
    x, y = problem(n, d, n + d)
    oracle = LogisticRegression(l1_ratio=1, C=strength, solver="saga", tol=1e-9, max_iter=200_000, random_state=0).fit(
        x, y
    )
    row = fit_sparse_logistic(x, y, strength)
    theirs = np.append(oracle.coef_[0], oracle.intercept_[0])
    np.testing.assert_allclose(row[:-1], theirs[:-1], atol=1e-3)
    assert objective(row, x, y, strength) <= objective(theirs, x, y, strength) + 1e-9  # theirs leaves the bias early


@given(st.integers(3, 60), st.integers(1, 40), st.sampled_from(STRENGTHS), st.integers(0, 2**32))
@settings(deadline=None, max_examples=40)
def test_the_optimality_conditions_hold(n, d, strength, seed):
    """The loss' gradient is -sign(w) where w is not 0, within [-1, 1] where it is, and 0 for the bias."""
    x, y = problem(n, d, seed)
    row = fit_sparse_logistic(x, y, strength)
    gradient = strength * ((sigmoid(x @ row[:-1] + row[-1]) - y) @ np.column_stack([x, np.ones(n)]))
    assert abs(gradient[-1]) < 1e-4
    used = row[:-1] != 0
    np.testing.assert_allclose(gradient[:-1][used], -np.sign(row[:-1][used]), atol=1e-4)
    assert (np.abs(gradient[:-1]) <= 1 + 1e-4).all()


def test_it_begins_anywhere():
    x, y = problem(100, 10, 0)
    expected = fit_sparse_logistic(x, y, 0.3)
    np.testing.assert_allclose(fit_sparse_logistic(x, y, 0.3, np.full(11, 3.0)), expected, atol=1e-5)


SIZES = {(0, 0): 500, (0, 1): 500, (1, 0): 400, (1, 1): 40}
"""Images by label and the other attribute: rare where both are present, as blond men are."""


def spurious(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features whose first tells the label a little and whose second tells the other attribute well."""
    rng = np.random.default_rng(seed)
    y, a = (np.repeat([key[i] for key in SIZES], [*SIZES.values()]) for i in (0, 1))
    x = rng.normal(size=(len(y), 12))
    x[:, 0] += 3 * (y - 0.5)
    x[:, 1] = 5 + 4 * (a - 0.5) + 0.5 * x[:, 1]
    return x, y, 2 * y + a


def worst(row: np.ndarray, bias: float, x: np.ndarray, y: np.ndarray, group_of: np.ndarray) -> float:
    right = (x @ row + bias >= 0) == (y == 1)
    return min(right[group_of == g].mean() for g in range(4))


def test_it_mends_the_worst_group():
    x, y, groups = spurious(0)
    plain = LogisticRegression().fit(x, y)
    found = retrain_last_layer([x], y[:, None], groups)
    new = spurious(1)
    before, after = worst(plain.coef_[0], plain.intercept_[0], *new), worst(found.weight[0], found.bias[0], *new)
    assert before < 0.6
    assert after > 0.85
    assert found.num_per_group == 40
    assert found.strengths[0] in STRENGTHS


def test_rows_are_of_their_own_features_and_the_same_whatever_their_scale():
    x, y, groups = spurious(0)
    other = np.random.default_rng(5).permutation(x, axis=1) * 100 + 7
    labels = np.stack([y, groups % 2], axis=1)
    both = retrain_last_layer([x, other], labels, groups, num_draws=3)
    for t, features in enumerate((x, other)):
        alone = retrain_last_layer([features], labels[:, [t]], groups, num_draws=3)
        np.testing.assert_array_equal(both.weight[t], alone.weight[0])
    scaled = retrain_last_layer([x * 1000 - 5], labels[:, :1], groups, num_draws=3)
    np.testing.assert_allclose(
        (x * 1000 - 5) @ scaled.weight[0] + scaled.bias[0], x @ both.weight[0] + both.bias[0], atol=1e-4
    )


def test_a_constant_feature_gets_no_weight():
    x, y, groups = spurious(0)
    found = retrain_last_layer([np.column_stack([x, np.full(len(x), 3.0)])], y[:, None], groups, num_draws=2)
    assert found.weight[0, -1] == 0
    assert np.isfinite(found.weight).all()


def test_it_is_a_function_of_the_seed():
    x, y, groups = spurious(0)
    first, same, other = (retrain_last_layer([x], y[:, None], groups, num_draws=2, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.weight, same.weight)
    assert not np.array_equal(first.weight, other.weight)


def test_a_group_needs_an_image_for_each_half():
    x, y, groups = spurious(0)
    keep = (groups < 3) | (np.arange(len(groups)) == len(groups) - 1)
    with pytest.raises(ValueError, match="every group needs two images"):
        retrain_last_layer([x[keep]], y[keep, None], groups[keep])
