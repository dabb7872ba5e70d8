"""Two models on the same images, group by group: how far apart are they, and is that more than chance."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitpe.metrics.comparison import PairedDifference
from vitpe.metrics.groups import RATES, Grouping, GroupScores, group_replicates, score_groups
from vitpe.metrics.scores import NUM_RESAMPLES, FloatArray, interval


@dataclass(frozen=True)
class GroupComparison:
    """Scores of two models in G groups, and their differences, second minus first, with paired-bootstrap intervals.

    differences: rate of RATES → (G, A). worst: (A,) the second's accuracy in its own worst group minus the first's in
    the first's, which may be another; NaN where fewer than two groups are ranked. Which groups are the worst is decided
    on the full sample and stays so in each resample.
    """

    first: GroupScores
    second: GroupScores
    differences: Mapping[str, PairedDifference]
    worst: PairedDifference
    num_resamples: int
    seed: int

    def worst_accuracies(self) -> tuple[FloatArray, FloatArray]:
        """(A,) of the first model and of the second, each in its own worst group."""
        return _at(self.first["accuracy"], self.first.worst), _at(self.second["accuracy"], self.second.worst)


def compare_groups(
    first_probs: ArrayLike,
    second_probs: ArrayLike,
    labels: ArrayLike,
    attributes: Sequence[str],
    grouping: Grouping,
    first_thresholds: ArrayLike = 0.5,
    second_thresholds: ArrayLike = 0.5,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> GroupComparison:
    """Compare two models' (n, A) probabilities for the same images, attributes and groups.

    Both are scored on the same resamples, so that an image that is hard for both does not blur the difference. Raises
    what `score_groups` raises.
    """
    first, second = (
        score_groups(probs, labels, attributes, grouping, thresholds, num_resamples=0)
        for probs, thresholds in ((first_probs, first_thresholds), (second_probs, second_thresholds))
    )
    before, after = (
        group_replicates(probs, labels, grouping, thresholds, num_resamples=num_resamples, seed=seed)
        for probs, thresholds in ((first_probs, first_thresholds), (second_probs, second_thresholds))
    )
    differences = {
        rate: PairedDifference(second[rate] - first[rate], *interval(after[rate] - before[rate])) for rate in RATES
    }
    worst = _at(second["accuracy"], second.worst) - _at(first["accuracy"], first.worst)
    replicates = _at(after["accuracy"], second.worst) - _at(before["accuracy"], first.worst)
    return GroupComparison(
        first, second, differences, PairedDifference(worst, *interval(replicates)), num_resamples, seed
    )


def _at(values: FloatArray, groups: NDArray[np.intp]) -> FloatArray:
    """(…, G, A) and (A,) numbers of groups → (…, A); NaN where the number is below 0."""
    return np.where(groups >= 0, values[..., groups, np.arange(len(groups))], np.nan)
