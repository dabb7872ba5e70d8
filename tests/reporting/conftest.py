"""Fixtures about scores."""

import numpy as np
import pytest

from tests.helpers.answers import NAMES, answers
from vitpe.metrics.comparison import Comparison, compare


@pytest.fixture(scope="session")
def comparison() -> Comparison:
    """Of `answers` with worse ones."""
    probs, labels = answers()
    rng = np.random.default_rng(1)
    worse = np.clip(probs + rng.normal(0, [0, 0, 0.4, 0, 0, 0.6, 0, 0], probs.shape), 0, 1)
    return compare(probs, worse, labels, NAMES, num_resamples=100)
