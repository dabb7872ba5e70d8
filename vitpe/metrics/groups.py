"""For whom a model is right: rates of each group of images, the worst group, and the gaps between groups.

Groups are made of labels, so they are known without a model. A rate of a group is one of RATES; what is undefined
there (the true positive rate where nobody has the attribute) is NaN.

Shapes: n images, A attributes, G groups, R resamples, L columns of labels.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitpe.metrics.scores import (
    NUM_RESAMPLES,
    FloatArray,
    Mean,
    check_answers,
    interval,
    mean_interval,
    nanmean,
    ratio,
    resample,
    score,
)

RATES: Final = ("accuracy", "true_positive_rate", "false_positive_rate", "positive_rate")
GROUP_METRICS: Final = ("prevalence", *RATES, "average_precision")
GAPS: Final[Mapping[str, tuple[str, ...]]] = {
    "accuracy": ("accuracy",),
    "equal_opportunity": ("true_positive_rate",),
    "equalized_odds": ("true_positive_rate", "false_positive_rate"),
    "demographic_parity": ("positive_rate",),
}
"""Gap → the rates whose largest difference between two groups it is.

Equal opportunity and equalised odds: Hardt et al. 2016 (arXiv:1610.02413). Demographic parity: Dwork et al. 2012
(arXiv:1104.3913); it compares answers only, so it is 0 for a model that is right only where prevalences are equal.
"""
MIN_COUNT: Final = 10
"""A group's rate over fewer images is shown and not ranked: its standard error may exceed 16 points."""

_NONE: Final = -1
Members = list[NDArray[np.intp]]


@dataclass(frozen=True)
class Grouping:
    """Which group each image is in.

    by: the attributes that part the images. names: (G,) as "Male=1,Young=0". group_of: (n,) numbers of groups, -1 for
    an image of none.
    """

    by: tuple[str, ...]
    names: tuple[str, ...]
    group_of: NDArray[np.intp]

    def counts(self) -> NDArray[np.intp]:
        """(G,) images."""
        inside = self.group_of[self.group_of != _NONE]
        return np.bincount(inside, minlength=len(self.names))

    def members(self) -> Members:
        """Of each of the G groups the images, numbered among those that are in a group."""
        group_of = self.group_of[self.group_of != _NONE]
        return [np.flatnonzero(group_of == g) for g in range(len(self.names))]

    def shares(self) -> FloatArray:
        """(G,) of the images that are in a group; NaN when there is none."""
        counts = self.counts().astype(np.float64)
        return ratio(counts, counts.sum())


def group_by(labels: ArrayLike, attributes: Sequence[str], terms: Mapping[str, int | None]) -> Grouping:
    """Part the images by the product of their labels.

    labels: (n, L), 0 or 1, of the L attributes. terms: attribute → None for both of its values, or the one (0 or 1)
    that an image must have to be in a group at all. Raises ValueError for a name that is not in `attributes`.
    """
    columns = np.asarray(labels)[:, [attributes.index(name) for name in terms]]
    values = [(0, 1) if value is None else (value,) for value in terms.values()]
    group_of = np.full(len(columns), _NONE, np.intp)
    names = []
    for number, wanted in enumerate(itertools.product(*values)):
        group_of[(columns == wanted).all(axis=1)] = number
        names.append(",".join(f"{name}={value}" for name, value in zip(terms, wanted, strict=True)))
    return Grouping(tuple(terms), tuple(names), group_of)


@dataclass(frozen=True)
class Gap:
    """How far apart the two extreme groups are, for each attribute; NaN where fewer than two groups are ranked.

    value: (A,) the highest group's rate minus the lowest's, so never negative; of several rates the larger difference,
    NaN where one of them has none.
    low, high: (A,) its 95 % paired-bootstrap interval. The two groups (and the rate) are those of the full sample and
    stay so in each resample: the interval is for the difference of these two, may hold values below 0, and does not
    count that they were chosen as the extremes, which flatters the gap the more groups there are.
    highest, lowest: (A,) numbers of the two groups, -1 where undefined. rates: (A,) the rate that differs, "" likewise.
    """

    value: FloatArray
    low: FloatArray
    high: FloatArray
    highest: NDArray[np.intp]
    lowest: NDArray[np.intp]
    rates: tuple[str, ...]


@dataclass(frozen=True)
class GroupScores:
    """Scores of G groups; `scores["accuracy"]` gives a metric of GROUP_METRICS as (G, A), NaN where undefined.

    counts: (G,) images. num_outside: images in no group; they are in nothing here. whole: metric → (A,) over all
    groups' images. ranked: rate → (G, A), whether it is over at least `min_count` images.
    accuracy_low, accuracy_high: (G, A) the 95 % bootstrap interval of a group's accuracy, which is too narrow for a
    group of a dozen images.
    worst: (A,) the ranked group of the lowest accuracy, -1 where fewer than two are ranked.
    gaps: by the names of GAPS. mean_gaps: their means over those attributes that do not part the images themselves.
    mean_accuracy: over attributes, each image counting alike.
    train_shares: (G,) or None, and reweighted: each group's accuracy weighted by them, (A,); mean_reweighted its mean
    over attributes, undefined for a group that trains but has no image here (all None without shares).
    """

    attributes: tuple[str, ...]
    grouping: Grouping
    counts: NDArray[np.intp]
    num_outside: int
    per_group: Mapping[str, FloatArray]
    whole: Mapping[str, FloatArray]
    ranked: Mapping[str, NDArray[np.bool_]]
    accuracy_low: FloatArray
    accuracy_high: FloatArray
    worst: NDArray[np.intp]
    gaps: Mapping[str, Gap]
    mean_gaps: Mapping[str, Mean]
    mean_accuracy: Mean
    train_shares: FloatArray | None
    reweighted: FloatArray | None
    mean_reweighted: Mean | None
    min_count: int
    num_resamples: int
    seed: int

    def __getitem__(self, metric: str) -> FloatArray:
        return self.per_group[metric]

    @property
    def groups(self) -> tuple[str, ...]:
        """The G names."""
        return self.grouping.names


def score_groups(
    probs: ArrayLike,
    labels: ArrayLike,
    attributes: Sequence[str],
    grouping: Grouping,
    thresholds: ArrayLike = 0.5,
    *,
    train_shares: FloatArray | None = None,
    min_count: int = MIN_COUNT,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> GroupScores:
    """Score each group. probs, labels, thresholds: as in `metrics.score`, which also says what is raised.

    A group's rate is ranked where at least `min_count` images stand below its line: those that have the attribute for
    the true positive rate, those that lack it for the false positive rate, all for the others. average_precision needs
    both classes in the group. An attribute that parts the images has no demographic parity of its own: its groups
    differ in the very thing that is asked.
    train_shares: (G,), of the groups among the training images; the mean accuracy reweighted by them is the one that
    group DRO reports (Sagawa et al. 2020, arXiv:1911.08731). num_resamples: of the images; 0 leaves intervals out.
    """
    inside = grouping.group_of != _NONE
    p, y = (values[inside] for values in check_answers(probs, labels))
    attributes = tuple(attributes)
    members = grouping.members()
    num_images = len(p)
    found = _sums(p, y, thresholds, members, np.ones((1, num_images)))
    values, over = _rates(found)
    per_group = {name: value[0] for name, value in values.items()}
    per_group["average_precision"] = np.stack([_average_precision(p[rows], y[rows]) for rows in members])
    whole = {name: value[0, 0] for name, value in _rates(found.sum(axis=1, keepdims=True))[0].items()}
    whole["average_precision"] = _average_precision(p, y)
    ranked = {rate: over[rate][0] >= max(min_count, 1) for rate in RATES}
    extremes = {rate: _extremes(per_group[rate], ranked[rate]) for rate in RATES}

    replicates = {rate: np.full((1, len(members), len(attributes)), np.nan) for rate in RATES}
    whole_accuracy = np.full((1, len(attributes)), np.nan)
    if num_resamples and num_images:
        drawn = _drawn(p, y, thresholds, members, num_resamples, seed)
        replicates = _ranked_rates(drawn)
        whole_accuracy = _rates(drawn.sum(axis=1, keepdims=True))[0]["accuracy"][:, 0]

    parting = np.isin(attributes, grouping.by)
    gaps, mean_gaps = {}, {}
    for name, rates in GAPS.items():
        gap, differences = _gap(rates, per_group, replicates, extremes, parting & (name == "demographic_parity"))
        gaps[name] = gap
        mean_gaps[name] = _mean(np.where(parting, np.nan, gap.value), np.where(parting, np.nan, differences))
    accuracy_low, accuracy_high = interval(replicates["accuracy"])
    reweighted, mean_reweighted = None, None
    if train_shares is not None:
        reweighted = _weighted(per_group["accuracy"], train_shares)
        mean_reweighted = _mean(reweighted, _weighted(replicates["accuracy"], train_shares))
    return GroupScores(
        attributes=attributes,
        grouping=grouping,
        counts=grouping.counts(),
        num_outside=int((~inside).sum()),
        per_group={metric: per_group[metric] for metric in GROUP_METRICS},
        whole={metric: whole[metric] for metric in GROUP_METRICS},
        ranked=ranked,
        accuracy_low=accuracy_low,
        accuracy_high=accuracy_high,
        worst=gaps["accuracy"].lowest,
        gaps=gaps,
        mean_gaps=mean_gaps,
        mean_accuracy=_mean(whole["accuracy"], whole_accuracy),
        train_shares=train_shares,
        reweighted=reweighted,
        mean_reweighted=mean_reweighted,
        min_count=min_count,
        num_resamples=num_resamples,
        seed=seed,
    )


def group_replicates(
    probs: ArrayLike,
    labels: ArrayLike,
    grouping: Grouping,
    thresholds: ArrayLike = 0.5,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> dict[str, FloatArray]:
    """RATES of each group on resamples of the images: rate → (num_resamples, G, A), NaN where undefined.

    For one grouping and seed the resamples are the same, so two models' replicates are paired.
    """
    inside = grouping.group_of != _NONE
    p, y = (values[inside] for values in check_answers(probs, labels))
    return _ranked_rates(_drawn(p, y, thresholds, grouping.members(), num_resamples, seed))


def _ranked_rates(sums: FloatArray) -> dict[str, FloatArray]:
    return {rate: value for rate, value in _rates(sums)[0].items() if rate in RATES}


def _drawn(
    p: FloatArray, y: FloatArray, thresholds: ArrayLike, members: Members, num_resamples: int, seed: int
) -> FloatArray:
    """(num_resamples, G, 4A): `_sums` of resamples."""
    drawn = [_sums(p, y, thresholds, members, weights) for weights in resample(len(p), num_resamples, seed)]
    return np.concatenate(drawn)


def _sums(p: FloatArray, y: FloatArray, thresholds: ArrayLike, members: Members, weights: FloatArray) -> FloatArray:
    """(R, n) weights → (R, G, 4A): what `_rates` takes. p, y, members: of images in groups alone."""
    answers = (p >= np.asarray(thresholds, np.float64)).astype(np.float64)
    columns = np.hstack([y, answers, answers * y])
    parts = [weights[:, rows] @ columns[rows] for rows in members]
    totals = [np.repeat(weights[:, rows].sum(axis=1)[:, None], p.shape[1], axis=1) for rows in members]
    return np.concatenate([np.stack(totals, axis=1), np.stack(parts, axis=1)], axis=2)


def _rates(sums: FloatArray) -> tuple[dict[str, FloatArray], dict[str, FloatArray]]:
    """(R, G, 4A) sums of images, labels, answers and right answers "present" → prevalence and RATES, (R, G, A) each;
    and over how many images each rate is.
    """
    total, positive, answered, hit = np.split(sums, 4, axis=2)
    negative = total - positive
    over = {
        "accuracy": total,
        "true_positive_rate": positive,
        "false_positive_rate": negative,
        "positive_rate": total,
    }
    values = {
        "prevalence": ratio(positive, total),
        "accuracy": ratio(total - positive - answered + 2 * hit, total),
        "true_positive_rate": ratio(hit, positive),
        "false_positive_rate": ratio(answered - hit, negative),
        "positive_rate": ratio(answered, total),
    }
    return values, over


def _average_precision(probs: FloatArray, labels: FloatArray) -> FloatArray:
    """(A,); NaN where a class is absent."""
    if not len(probs):
        return np.full(probs.shape[1], np.nan)
    both = (labels.min(axis=0) == 0) & (labels.max(axis=0) == 1)
    names = [str(a) for a in range(probs.shape[1])]
    return np.where(both, score(probs, labels, names, num_resamples=0)["average_precision"], np.nan)


def _extremes(values: FloatArray, ranked: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """(G, A) → the numbers of the highest and of the lowest ranked group, (A,) each, -1 where none is ranked."""
    none = ~ranked.any(axis=0)
    highest = np.where(none, _NONE, np.where(ranked, values, -np.inf).argmax(axis=0))
    lowest = np.where(none, _NONE, np.where(ranked, values, np.inf).argmin(axis=0))
    # Where all groups are equal, both are the first: any two of them differ by 0, say the first and the last ranked.
    last = len(values) - 1 - ranked[::-1].argmax(axis=0)
    return np.where(none, _NONE, np.where(highest == lowest, last, highest)), lowest


def _gap(
    rates: Sequence[str],
    values: Mapping[str, FloatArray],
    replicates: Mapping[str, FloatArray],
    extremes: Mapping[str, tuple[NDArray[np.intp], NDArray[np.intp]]],
    meaningless: NDArray[np.bool_],
) -> tuple[Gap, FloatArray]:
    """The gap, and its replicates (R, A)."""
    num_attributes = len(meaningless)
    columns = np.arange(num_attributes)
    value = np.full(num_attributes, np.nan)
    differences = np.full((len(next(iter(replicates.values()))), num_attributes), np.nan)
    highest, lowest = np.full((2, num_attributes), _NONE)
    names = np.full(num_attributes, "", object)
    unknown = meaningless.copy()
    for rate in rates:
        top, bottom = extremes[rate]
        apart = np.where(top != bottom, values[rate][top, columns] - values[rate][bottom, columns], np.nan)
        unknown |= np.isnan(apart)
        better = ~unknown & ~(apart <= value)
        value = np.where(better, apart, value)
        drawn = replicates[rate]
        differences = np.where(better, drawn[:, top, columns] - drawn[:, bottom, columns], differences)
        highest, lowest = np.where(better, top, highest), np.where(better, bottom, lowest)
        names[better] = rate
    value, differences = np.where(unknown, np.nan, value), np.where(unknown, np.nan, differences)
    highest, lowest, names = (
        np.where(unknown, _NONE, highest),
        np.where(unknown, _NONE, lowest),
        np.where(unknown, "", names),
    )
    return Gap(value, *interval(differences), highest, lowest, tuple(names)), differences


def _weighted(accuracies: FloatArray, shares: FloatArray) -> FloatArray:
    """(…, G, A) → (…, A): their mean by (G,) shares; a group without a share counts for nothing, be it undefined."""
    parts = np.where(shares[:, None] > 0, accuracies * shares[:, None], 0.0)
    result: FloatArray = np.where(np.isnan(shares).any(), np.nan, parts.sum(axis=-2))
    return result


def _mean(values: FloatArray, replicates: FloatArray) -> Mean:
    return Mean(float(nanmean(values)), *mean_interval(replicates), int(np.isnan(values).sum()))
