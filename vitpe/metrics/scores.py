"""Probabilities and labels → scores per attribute, their means over attributes, and bootstrap intervals.

Everything is computed by one weighted routine: weights of one give the scores, the counts of a resample give a
bootstrap replicate. What is undefined (say, the ROC AUC of an attribute that no image has) is NaN, and is left out
of the mean and counted.

Shapes: n images, A attributes, R rows of weights (resamples), T bins.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitpe.errors import VitpeError
from vitpe.metrics.names import METRICS
from vitpe.metrics.reliability import NUM_BINS, bin_of, calibration_interval

FloatArray = NDArray[np.float64]

# A resample adds its own sampling noise to every bin's gap, so replicates of the calibration error all lie above the
# estimate, which itself lies above the truth for the same reason: its interval is made by `calibration_interval`.
INTERVAL_METRICS = tuple(metric for metric in METRICS if metric != "ece")

NUM_RESAMPLES = 1000
LEVEL = 0.95

_CHUNK_WEIGHTS = 2**19  # weights held at once: 4 MB, so that a chunk's rows stay in the processor's cache


@dataclass(frozen=True)
class Mean:
    """A metric's mean over the attributes for which it is defined.

    value: the mean, NaN when it is defined for none.
    low, high: the 95 % bootstrap interval; NaN where there is none.
    num_undefined: attributes left out.
    """

    value: float
    low: float
    high: float
    num_undefined: int


@dataclass(frozen=True)
class Scores:
    """Scores of A attributes on n images; `scores["f1"]` gives a metric's (A,) values, NaN where undefined.

    attributes: the A names.
    num_images: n.
    thresholds: (A,); an attribute is answered as present where its probability is at least its threshold.
    per_attribute: metric → (A,), for every name in METRICS.
    means: metric → its mean over attributes with interval.
    num_resamples: of the bootstrap; 0 when there was none, and the intervals are then NaN.
    seed: of the bootstrap.
    """

    attributes: tuple[str, ...]
    num_images: int
    thresholds: FloatArray
    per_attribute: Mapping[str, FloatArray]
    means: Mapping[str, Mean]
    num_resamples: int
    seed: int

    def __getitem__(self, metric: str) -> FloatArray:
        return self.per_attribute[metric]

    def undefined(self, metric: str) -> tuple[str, ...]:
        """The names of the attributes for which `metric` is undefined."""
        missing = np.isnan(self.per_attribute[metric])
        return tuple(name for name, absent in zip(self.attributes, missing, strict=True) if absent)


def score(
    probs: ArrayLike,
    labels: ArrayLike,
    attributes: Sequence[str],
    thresholds: ArrayLike = 0.5,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Scores:
    """Score `probs` against `labels`.

    probs: (n, A) in [0, 1]. labels: (n, A), 0 or 1. thresholds: a number or (A,).
    majority_accuracy is that of the better constant answer on these very images; lift is accuracy minus it.
    balanced_accuracy and roc_auc need both classes; recall and average_precision an image that has the attribute;
    precision an answer "present"; f1 one of the two. Otherwise they are NaN.
    num_resamples: of the images, for the means' intervals; 0 leaves them out (NaN).
    Raises VitpeError for probabilities that are not finite, ValueError for shapes that do not fit.
    """
    prepared = _prepare(probs, labels, thresholds)
    num_images, num_attributes = prepared.labels.shape
    if len(attributes) != num_attributes:
        raise ValueError(f"{len(attributes)} attribute names for {num_attributes} columns")
    values, gaps = prepared.weigh(np.ones((1, num_images)))
    per_attribute = {metric: value[0] for metric, value in values.items()}
    per_attribute["ece"] = np.abs(gaps[0]).sum(axis=1)
    intervals: dict[str, tuple[float, float]] = {}
    if num_resamples:
        replicates, resampled_gaps = _replicates(prepared, num_resamples, seed)
        intervals = {metric: mean_interval(values) for metric, values in replicates.items()}
        intervals["ece"] = calibration_interval(gaps[0], resampled_gaps, LEVEL)
    return Scores(
        attributes=tuple(attributes),
        num_images=num_images,
        thresholds=prepared.thresholds,
        per_attribute={metric: per_attribute[metric] for metric in METRICS},
        means={metric: _mean(per_attribute[metric], intervals.get(metric)) for metric in METRICS},
        num_resamples=num_resamples,
        seed=seed,
    )


def bootstrap(
    probs: ArrayLike,
    labels: ArrayLike,
    thresholds: ArrayLike = 0.5,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, FloatArray]:
    """The metrics of INTERVAL_METRICS on resamples of the images: metric → (num_resamples, A).

    Images are drawn with replacement, n of n, all attributes of an image together (Efron and Tibshirani 1993,
    chapter 6). For one n and seed the resamples are the same, so two models' replicates are paired.
    """
    return _replicates(_prepare(probs, labels, thresholds), num_resamples, seed)[0]


def interval(replicates: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The 95 % percentile interval over axis 0, replicates that are NaN left out; NaN where all are."""
    low, high = np.full((2, *replicates.shape[1:]), np.nan)
    defined = ~np.isnan(replicates).all(axis=0)
    if defined.any():
        tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
        low[defined], high[defined] = np.nanquantile(replicates[:, defined], tails, axis=0)
    return low, high


def mean_interval(replicates: FloatArray) -> tuple[float, float]:
    """The 95 % percentile interval of the mean over attributes, from an attribute's replicates in each column."""
    low, high = interval(nanmean(replicates)[:, None])
    return float(low[0]), float(high[0])


def nanmean(values: FloatArray) -> FloatArray:
    """The mean over the last axis with NaN left out; NaN where nothing is left."""
    defined = ~np.isnan(values)
    counts = defined.sum(axis=-1)
    return ratio(np.where(defined, values, 0.0).sum(axis=-1), counts.astype(np.float64))


@dataclass(frozen=True)
class _Ranking:
    """One attribute's images from the most to the least probable, equal probabilities forming a group.

    order: (n,) image numbers in that order. positives: (m,) numbers of the images that have the attribute, likewise.
    end: (m,) for each of those, how many images rank above its group or in it. positive_end: (m,) the same count
    among the images that have the attribute.
    mixed: which of the m share their group with an image that lacks the attribute; mixed_start, mixed_positive_start:
    for each of these, the counts above its group.
    residuals: (n,) label - probability in that order. bins: those of `Reliability` that are not empty, from the
    highest down; bin_start: the place in that order of each one's first image.
    """

    order: NDArray[np.intp]
    positives: NDArray[np.intp]
    end: NDArray[np.intp]
    positive_end: NDArray[np.intp]
    mixed: NDArray[np.intp]
    mixed_start: NDArray[np.intp]
    mixed_positive_start: NDArray[np.intp]
    residuals: FloatArray
    bins: NDArray[np.intp]
    bin_start: NDArray[np.intp]

    def weigh(self, weights: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(R, n) counts → average precision and ROC AUC, both (R,), NaN where undefined; (R, T) sums of residuals."""
        drawn = np.take(weights, self.order, axis=1)
        residuals = np.zeros((len(weights), NUM_BINS))
        residuals[:, self.bins] = np.add.reduceat(drawn * self.residuals, self.bin_start, axis=1)
        ranked = _running_sum(drawn)
        gains = np.take(weights, self.positives, axis=1)
        hits = _running_sum(gains)
        num_positive, num_negative = hits[:, -1], ranked[:, -1] - hits[:, -1]
        through = np.take(ranked, self.end, axis=1)
        hits_through = np.take(hits, self.positive_end, axis=1)
        misses_through = through - hits_through
        # Average precision: Σ over groups of (recall gained) · precision, without interpolation. Where nothing was
        # drawn yet (through is 0) nothing is gained.
        area = np.einsum("rm,rm->r", gains, hits_through / np.maximum(through, 1.0))
        # ROC AUC, the Mann-Whitney statistic: each negative below counts 1, each in the same group 1/2.
        misses_above = ranked[:, self.mixed_start] - hits[:, self.mixed_positive_start]
        level = np.einsum("rm,rm->r", gains[:, self.mixed], misses_through[:, self.mixed] - misses_above)
        pairs = num_positive * num_negative - np.einsum("rm,rm->r", gains, misses_through) + level / 2
        return ratio(area, num_positive), ratio(pairs, num_positive * num_negative), residuals


@dataclass(frozen=True)
class _Prepared:
    """All that does not depend on the weights.

    probs, labels: (n, A). thresholds: (A,). columns: (n, 4A), what is summed over images: labels, answers, right
    answers "present", squared errors.
    """

    probs: FloatArray
    labels: FloatArray
    thresholds: FloatArray
    columns: FloatArray
    rankings: tuple[_Ranking, ...]

    def weigh(self, weights: FloatArray) -> tuple[dict[str, FloatArray], FloatArray]:
        """(R, n) counts → every metric of INTERVAL_METRICS, (R, A); the gaps of `calibration_interval`, (R, A, T)."""
        positive, answered, hit, squared = np.split(weights @ self.columns, 4, axis=1)
        total = np.broadcast_to(weights.sum(axis=1, keepdims=True), positive.shape)
        negative = total - positive
        ranked = [ranking.weigh(weights) for ranking in self.rankings]
        accuracy = ratio(total - positive - answered + 2 * hit, total)
        majority_accuracy = ratio(np.maximum(positive, negative), total)
        recall = ratio(hit, positive)
        metrics = {
            "prevalence": ratio(positive, total),
            "accuracy": accuracy,
            "majority_accuracy": majority_accuracy,
            "lift": accuracy - majority_accuracy,
            "balanced_accuracy": (recall + ratio(negative - answered + hit, negative)) / 2,
            "precision": ratio(hit, answered),
            "recall": recall,
            "f1": ratio(2 * hit, positive + answered),
            "average_precision": np.stack([area for area, _, _ in ranked], axis=1),
            "roc_auc": np.stack([area for _, area, _ in ranked], axis=1),
            "brier": ratio(squared, total),
        }
        gaps = np.stack([residuals for _, _, residuals in ranked], axis=1) / total[:, :, None]
        return metrics, gaps


def check_answers(probs: ArrayLike, labels: ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Both as (n, A) float64; raises what `score` raises for them."""
    given_labels = np.asarray(labels)
    probs = np.asarray(probs, np.float64, order="C")  # sums, to the last digit, depend on the order in memory
    if probs.ndim != 2 or probs.shape != given_labels.shape or 0 in probs.shape:
        raise ValueError(f"probs {probs.shape} and labels {given_labels.shape} must be the same (images, attributes)")
    broken = int((~np.isfinite(probs)).any(axis=1).sum())
    if broken:
        raise VitpeError(
            f"the probabilities of {broken:,} of {len(probs):,} images are not finite",
            hint="the model's weights are damaged or its training diverged: use an earlier checkpoint",
        )
    if probs.min() < 0 or probs.max() > 1:
        raise ValueError(f"probs must lie in [0, 1], not in [{probs.min()}, {probs.max()}]")
    if not np.isin(given_labels, (0, 1)).all():
        raise ValueError("labels must be 0 or 1")
    return probs, given_labels.astype(np.float64, order="C")


def _prepare(probs: ArrayLike, labels: ArrayLike, thresholds: ArrayLike) -> _Prepared:
    probs, labels = check_answers(probs, labels)
    thresholds = np.broadcast_to(np.asarray(thresholds, np.float64), probs.shape[1:]).copy()
    answers = (probs >= thresholds).astype(np.float64)
    columns = np.hstack([labels, answers, answers * labels, (probs - labels) ** 2])
    rankings = tuple(_rank(probs[:, a], labels[:, a] == 1) for a in range(probs.shape[1]))
    return _Prepared(probs, labels, thresholds, columns, rankings)


def _rank(probs: FloatArray, present: NDArray[np.bool_]) -> _Ranking:
    order = np.argsort(-probs, kind="stable")
    ranked = -probs[order]
    positives = order[present[order]]
    hits = -probs[positives]
    start, end = np.searchsorted(ranked, hits, side="left"), np.searchsorted(ranked, hits, side="right")
    positive_start, positive_end = np.searchsorted(hits, hits, side="left"), np.searchsorted(hits, hits, side="right")
    mixed = np.flatnonzero(end - start > positive_end - positive_start)
    bins = bin_of(probs[order])
    bin_start = np.flatnonzero(np.diff(bins, prepend=-1))
    return _Ranking(
        order,
        positives,
        end,
        positive_end,
        mixed,
        start[mixed],
        positive_start[mixed],
        present[order] - probs[order],
        bins[bin_start],
        bin_start,
    )


def _replicates(prepared: _Prepared, num_resamples: int, seed: int) -> tuple[dict[str, FloatArray], FloatArray]:
    """What `_Prepared.weigh` gives for all resamples."""
    chunks = [prepared.weigh(weights) for weights in resample(len(prepared.probs), num_resamples, seed)]
    metrics = {name: np.concatenate([values[name] for values, _ in chunks]) for name in INTERVAL_METRICS}
    return metrics, np.concatenate([gaps for _, gaps in chunks])


def resample(num_images: int, num_resamples: int, seed: int) -> Iterator[FloatArray]:
    """How often each image was drawn, a few rows of (R, n) at a time; the rows do not depend on how many are asked."""
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_WEIGHTS // num_images)
    for start in range(0, num_resamples, step):
        rows = min(step, num_resamples - start)
        drawn = rng.integers(num_images, size=(rows, num_images)) + num_images * np.arange(rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=rows * num_images)
        yield counts.reshape(rows, num_images).astype(np.float64)


def _mean(values: FloatArray, ends: tuple[float, float] | None) -> Mean:
    low, high = ends or (np.nan, np.nan)
    return Mean(float(nanmean(values)), low, high, int(np.isnan(values).sum()))


def _running_sum(values: FloatArray) -> FloatArray:
    """(R, n) → (R, n + 1): column k is the sum of the first k."""
    sums = np.zeros((values.shape[0], values.shape[1] + 1))
    np.cumsum(values, axis=1, out=sums[:, 1:])
    return sums


def ratio(numerator: FloatArray, denominator: FloatArray, empty: float = np.nan) -> FloatArray:
    """numerator / denominator, `empty` where the denominator is 0."""
    result = np.full(np.broadcast_shapes(np.shape(numerator), np.shape(denominator)), empty)
    np.divide(numerator, denominator, out=result, where=np.asarray(denominator) > 0)
    return result
