"""How far probabilities are from what they promise: reliability diagrams, and the calibration error with an interval.

Shapes: n images, A attributes, R resamples, T bins.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]

NUM_BINS = 15  # Guo et al. 2017, section 5


@dataclass(frozen=True)
class Reliability:
    """What each bin of probabilities held. Bin t of T covers (t/T, (t+1)/T]; the first also holds 0.

    counts: (A, T) images in the bin.
    sum_probs, sum_labels: (A, T) sums of their probabilities and of their labels.
    """

    counts: FloatArray
    sum_probs: FloatArray
    sum_labels: FloatArray

    def pooled(self) -> "Reliability":
        """All attributes taken together: arrays of shape (1, T)."""
        total = partial(np.sum, axis=0, keepdims=True)
        return Reliability(total(self.counts), total(self.sum_probs), total(self.sum_labels))

    def error(self) -> FloatArray:
        """Expected calibration error, (A,): Σ over bins of |sum of labels - sum of probabilities| / n.

        Guo et al. 2017 (arXiv:1706.04599), equation 3, with 15 bins of equal width. Theirs is for the confidence of
        the chosen class; for one yes/no attribute this is the same sum with "confidence" read as the probability
        that the attribute is present and "accuracy" as how often it is.
        """
        result: FloatArray = np.abs(self.sum_labels - self.sum_probs).sum(axis=1) / self.counts.sum(axis=1)
        return result


def reliability(probs: ArrayLike, labels: ArrayLike, num_bins: int = NUM_BINS) -> Reliability:
    """Sort (n, A) probabilities in [0, 1] and their 0/1 labels into `num_bins` bins of equal width."""
    probs, labels = np.asarray(probs, np.float64), np.asarray(labels, np.float64)
    num_attributes = probs.shape[1]
    bins = bin_of(probs, num_bins)
    flat = (bins + num_bins * np.arange(num_attributes)).ravel()

    def fill(weights: FloatArray | None) -> FloatArray:
        sums = np.bincount(flat, weights, minlength=num_attributes * num_bins)
        return sums.astype(np.float64).reshape(num_attributes, num_bins)

    return Reliability(fill(None), fill(probs.ravel()), fill(labels.ravel()))


def bin_of(probs: FloatArray, num_bins: int = NUM_BINS) -> NDArray[np.intp]:
    """Each probability's bin, see `Reliability`."""
    return np.searchsorted(np.linspace(0, 1, num_bins + 1)[1:-1], probs)


def calibration_interval(gaps: FloatArray, resampled: FloatArray, level: float) -> tuple[float, float]:
    """An interval for the mean over attributes of the expected calibration error that endless images would give.

    gaps: (A, T), each bin's (sum of labels - sum of probabilities) / n. resampled: (R, A, T), those of resamples.
    The error, a sum of |gap|, is biased upwards (Roelofs et al. 2022, arXiv:2012.08668), and where gaps are near zero
    the bootstrap does not have its distribution (Andrews 2000, Econometrica 68): on a calibrated model neither the
    percentile nor the basic interval ever holds the truth. Of the gaps themselves, which are means, it has. With
    noise e = gap found - true gap, | |gap| - |true gap| | <= |e| bounds the truth from below, and from above, for
    signs s of the true gaps, Σ |gap| >= Σ |true gap| + Σ s e. So the interval holds the truth in a share of
    `level` of all samples or more, and is wide: its lower end is near 0 until the error stands out of the noise.
    """
    noise = resampled - gaps
    least = np.abs(noise).sum(axis=2).mean(axis=1)
    most = (np.sign(gaps) * noise).sum(axis=2).mean(axis=1)
    error = np.abs(gaps).sum(axis=1).mean()
    low = error - np.quantile(least, (1 + level) / 2)
    high = error - np.quantile(most, (1 - level) / 2)
    return max(0.0, float(low)), float(high)
