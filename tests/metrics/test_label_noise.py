"""The ranking of suspects against the truth: labels of drawn faces of which one in twenty was flipped."""

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict

from tests.benchmarks.label_noise import flip, rank
from vitpe.data.drawn_faces import DrawnFaces

NUM_FACES = 600


@pytest.fixture(scope="module")
def noisy():
    """(probs, labels, flipped): out-of-fold answers of logistic regressions that learned from flipped labels, too."""
    faces = DrawnFaces("train", NUM_FACES, stored_size=(27, 22))
    labels, flipped = flip(faces.labels, 0.05, seed=0)
    pixels = faces.read(range(NUM_FACES)).reshape(NUM_FACES, -1) / 255
    features = PCA(50, whiten=True, random_state=0).fit_transform(pixels)
    probs = np.full(labels.shape, 0.5)
    for a in np.flatnonzero(labels.sum(axis=0) >= 30):
        model = LogisticRegression(C=0.02, max_iter=200)
        probs[:, a] = cross_val_predict(model, features, labels[:, a], cv=4, method="predict_proba")[:, 1]
    return probs, labels, flipped


def test_flipped_labels_come_first(noisy):
    probs, labels, flipped = noisy
    measured = rank(probs, labels, flipped)
    assert measured["chance"] == pytest.approx(0.05, abs=0.005)
    assert measured["precision_at_100"] > 10 * measured["chance"]
    assert measured["average_precision"] > 5 * measured["chance"]
    assert measured["found_precision"] > 3 * measured["chance"]
    assert measured["found_recall"] > 0.4


def test_a_model_that_knows_nothing_is_no_better_than_chance(noisy):
    _, labels, flipped = noisy
    measured = rank(np.random.default_rng(1).random(labels.shape), labels, flipped)
    for name in ("precision_at_1000", "average_precision", "found_precision"):
        assert measured[name] == pytest.approx(measured["chance"], abs=0.02), name
