"""Two models on the same images: how far apart are their scores, and is that more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitpe.metrics.names import METRICS
from vitpe.metrics.scores import (
    NUM_RESAMPLES,
    FloatArray,
    Scores,
    bootstrap,
    interval,
    mean_interval,
    nanmean,
    score,
)


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first, with its 95 % paired-bootstrap interval; NaN where undefined.

    value, low, high: (A,) for attributes, or arrays of shape () for their mean. low and high are NaN for "ece", for
    which the bootstrap does not hold (see `reliability.calibration_interval`).
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray

    @property
    def exceeds(self) -> NDArray[np.bool_]:
        """Where the interval does not hold 0: the difference is more than which images were drawn explains."""
        result: NDArray[np.bool_] = (self.low > 0) | (self.high < 0)
        return result


@dataclass(frozen=True)
class Comparison:
    """Scores of two models and their differences.

    per_attribute: metric → difference of each attribute. means: metric → its mean over the attributes for which the
    metric is defined for both models.
    """

    first: Scores
    second: Scores
    per_attribute: Mapping[str, PairedDifference]
    means: Mapping[str, PairedDifference]
    num_resamples: int
    seed: int

    def both(self, metric: str) -> tuple[float, float]:
        """Both models' means over those attributes, so that their difference is the one in `means`."""
        first, second = self.first[metric], self.second[metric]
        shared = np.where(np.isnan(first + second), np.nan, [first, second])
        before, after = nanmean(shared)
        return float(before), float(after)


def compare(
    first_probs: ArrayLike,
    second_probs: ArrayLike,
    labels: ArrayLike,
    attributes: Sequence[str],
    first_thresholds: ArrayLike = 0.5,
    second_thresholds: ArrayLike = 0.5,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compare two models' (n, A) probabilities for the same images and attributes.

    Both are scored on the same resamples, so that an image that is hard for both does not blur the difference
    (paired bootstrap; Efron and Tibshirani 1993, chapter 8). Raises what `metrics.score` raises.
    """
    first = score(first_probs, labels, attributes, first_thresholds, num_resamples=0)
    second = score(second_probs, labels, attributes, second_thresholds, num_resamples=0)
    before = bootstrap(first_probs, labels, first_thresholds, num_resamples=num_resamples, seed=seed)
    after = bootstrap(second_probs, labels, second_thresholds, num_resamples=num_resamples, seed=seed)
    per_attribute, means = {}, {}
    for metric in METRICS:
        value = second[metric] - first[metric]
        if metric in before:
            replicates = after[metric] - before[metric]
        else:
            replicates = np.full((1, len(value)), np.nan)
        per_attribute[metric] = PairedDifference(value, *interval(replicates))
        means[metric] = PairedDifference(nanmean(value), *map(np.asarray, mean_interval(replicates)))
    return Comparison(first, second, per_attribute, means, num_resamples, seed)
