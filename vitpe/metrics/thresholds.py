"""What is fitted on the valid split after training: thresholds per attribute, and calibration of the logits.

Never fit either on the split that is then reported.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]
Criterion = Literal["f1", "balanced_accuracy", "accuracy"]
CRITERIA: tuple[Criterion, ...] = ("f1", "balanced_accuracy", "accuracy")
Method = Literal["temperature", "platt"]

DEFAULT_THRESHOLD = 0.5
TEMPERATURE_RANGE = (0.01, 100.0)

_MAX_STEPS = 100
_DECREMENT = 1e-10  # Newton's method converges quadratically: the step after this one is below rounding
_SAME_LOGIT = 1e-9  # logits this near each other, relatively, are one


@dataclass(frozen=True)
class Calibration:
    """Calibrated logits are scale · logits + offset, both (A,).

    That is affine, so it can be folded into the model's last layer: weight · scale[:, None], bias · scale + offset.
    """

    scale: FloatArray
    offset: FloatArray

    def apply(self, logits: ArrayLike) -> FloatArray:
        """(n, A) logits → (n, A) calibrated logits."""
        return np.asarray(logits, np.float64) * self.scale + self.offset


def sigmoid(logits: ArrayLike) -> FloatArray:
    """Logits → probabilities in float64, in which no logit below 36 is rounded to a probability of 1."""
    return np.exp(-np.logaddexp(0, -np.asarray(logits, np.float64)))


def tune_thresholds(probs: ArrayLike, labels: ArrayLike, criterion: Criterion = "f1") -> FloatArray:
    """The (A,) thresholds in [0, 1] that give each attribute the best `criterion` on these images.

    probs: (n, A) in [0, 1]. labels: (n, A), 0 or 1. An attribute is answered as present at or above its threshold.
    Every cut between two distinct probabilities is tried, and the cuts below and above all of them. A cut's threshold
    is 0.5 if that makes the same answers, else the middle of the gap. Of equally good cuts the one whose threshold is
    nearest 0.5 is taken, then the lower one. Where the criterion is undefined (f1 without a present image, balanced
    accuracy with a class absent) the threshold is 0.5.
    """
    probs, present = np.asarray(probs, np.float64), np.asarray(labels) == 1
    if probs.ndim != 2 or probs.shape != present.shape or 0 in probs.shape:
        raise ValueError(f"probs {probs.shape} and labels {present.shape} must be the same (images, attributes)")
    return np.array([_tune(probs[:, a], present[:, a], criterion) for a in range(probs.shape[1])])


def calibrate(logits: ArrayLike, labels: ArrayLike, method: Method) -> Calibration:
    """Fit `method` on (n, A) logits and 0/1 labels: `fit_temperature` or `fit_platt`."""
    return fit_temperature(logits, labels) if method == "temperature" else fit_platt(logits, labels)


def fit_temperature(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """One temperature T for all attributes: probabilities are sigmoid(logits / T).

    T is the maximum-likelihood one (Guo et al. 2017, arXiv:1706.04599, section 4.2), kept within TEMPERATURE_RANGE:
    where the logits separate the labels without error, likelihood grows for ever as T falls.
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    low, high = 1 / TEMPERATURE_RANGE[1], 1 / TEMPERATURE_RANGE[0]

    def slope(inverse: float) -> float:
        return float(((sigmoid(inverse * z) - y) * z).sum())

    if slope(low) >= 0:
        high = low
    elif slope(high) <= 0:
        low = high
    inverse = float(np.clip(1.0, low, high))
    # The slope rises with 1/T: Newton's steps, and bisection whenever one leaves the bracket.
    for _ in range(_MAX_STEPS):
        if high - low <= 1e-12 * high:
            break
        gradient = slope(inverse)
        low, high = (inverse, high) if gradient < 0 else (low, inverse)
        p = sigmoid(inverse * z)
        curvature = float((p * (1 - p) * z**2).sum())
        step = gradient / curvature if curvature > 0 else np.inf
        if abs(step) <= 1e-12 * inverse:
            break
        inverse = inverse - step if low < inverse - step < high else (low + high) / 2
    num_attributes = z.shape[1]
    return Calibration(np.full(num_attributes, inverse), np.zeros(num_attributes))


def fit_platt(logits: ArrayLike, labels: ArrayLike) -> Calibration:
    """Scale a and offset b for each attribute: probabilities are sigmoid(a · logits + b).

    Maximum likelihood with Platt's targets (Platt 1999, "Probabilistic outputs for support vector machines", equations
    1 to 3): (p + 1) / (p + 2) for the p images that have the attribute and 1 / (q + 2) for the q others, with which a
    finite maximum always exists. An attribute with one class or one logit only is left as it is (a = 1, b = 0).
    """
    z, y = np.asarray(logits, np.float64), np.asarray(labels, np.float64)
    scale, offset = np.ones(z.shape[1]), np.zeros(z.shape[1])
    differs = np.ptp(z, axis=0) > _SAME_LOGIT * np.maximum(1, np.abs(z).max(axis=0))
    fitted = (np.ptp(y, axis=0) > 0) & differs
    if fitted.any():
        scale[fitted], offset[fitted] = _fit_logistic(z[:, fitted], _platt_targets(y[:, fitted]))
    return Calibration(scale, offset)


def _tune(probs: FloatArray, present: NDArray[np.bool_], criterion: Criterion) -> float:
    order = np.argsort(-probs, kind="stable")
    ranked, ranked_present = probs[order], present[order]
    ends = np.flatnonzero(np.append(np.diff(ranked) != 0, True))  # the last image of each run of equal probabilities
    # Cut k answers "present" for the first answered[k] images, whose lowest probability is upper[k].
    answered = np.append(0, ends + 1)
    hit = np.append(0, np.cumsum(ranked_present)[ends])
    upper, lower = np.append(1.0, ranked[ends]), np.append(ranked[ends], 0.0)
    num_positive, num_negative = int(hit[-1]), len(probs) - int(hit[-1])
    rejected = num_negative - answered + hit
    # Whole numbers, and one division at most: equally good cuts compare as equal.
    if criterion == "f1":
        value = 2 * hit / (answered + num_positive) if num_positive else None
    elif criterion == "balanced_accuracy":
        value = hit * num_negative + rejected * num_positive if num_positive and num_negative else None
    else:
        value = hit + rejected
    if value is None:
        return DEFAULT_THRESHOLD

    middle = (lower + upper) / 2
    thresholds = np.where(middle > lower, middle, upper)  # between neighbouring floats there is no middle
    thresholds[(lower < DEFAULT_THRESHOLD) & (upper >= DEFAULT_THRESHOLD)] = DEFAULT_THRESHOLD
    possible = lower < upper  # no threshold up to 1 lies above a probability of 1
    possible[-1] = True  # but 0 lies at or below every probability, 0 included
    best = np.lexsort((thresholds, np.abs(thresholds - DEFAULT_THRESHOLD), np.where(possible, -value, np.inf)))
    return float(thresholds[best[0]])


def _platt_targets(labels: FloatArray) -> FloatArray:
    num_positive = labels.sum(axis=0)
    num_negative = len(labels) - num_positive
    targets: FloatArray = np.where(labels == 1, (num_positive + 1) / (num_positive + 2), 1 / (num_negative + 2))
    return targets


def _fit_logistic(z: FloatArray, targets: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Slope and intercept (both (A,)) of a logistic regression of each column of targets in (0, 1) on that of z.

    Newton's method on all columns at once; a step that does not lower a column's loss is halved.
    """
    centre, spread = z.mean(axis=0), z.std(axis=0)
    x = (z - centre) / spread
    rate = targets.mean(axis=0)
    slope, intercept = np.zeros_like(rate), np.log(rate / (1 - rate))

    def loss(slope: FloatArray, intercept: FloatArray) -> FloatArray:
        value = slope * x + intercept
        mean: FloatArray = (np.logaddexp(0, value) - targets * value).mean(axis=0)
        return mean

    current = loss(slope, intercept)
    for _ in range(_MAX_STEPS):
        p = sigmoid(slope * x + intercept)
        weight, error = p * (1 - p), p - targets
        g0, g1 = error.mean(axis=0), (error * x).mean(axis=0)
        h00, h01, h11 = weight.mean(axis=0), (weight * x).mean(axis=0), (weight * x**2).mean(axis=0)
        determinant = h00 * h11 - h01**2
        step1 = (h00 * g1 - h01 * g0) / determinant
        step0 = (h11 * g0 - h01 * g1) / determinant
        decrement = g0 * step0 + g1 * step1
        size = np.ones_like(rate)
        for _ in range(30):
            trial = loss(slope - size * step1, intercept - size * step0)
            worse = trial > current + 1e-15
            if not worse.any():
                break
            size[worse] /= 2
        slope, intercept, current = slope - size * step1, intercept - size * step0, trial
        if (decrement < _DECREMENT).all():
            break
    return slope / spread, intercept - slope * centre / spread
