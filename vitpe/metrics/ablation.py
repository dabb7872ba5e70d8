"""What a model loses when a part of it is taken away: its scores before and after, on the same images."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from vitpe.launch import num_cpus
from vitpe.metrics.comparison import PairedDifference
from vitpe.metrics.scores import (
    NUM_RESAMPLES,
    FloatArray,
    Mean,
    bootstrap,
    interval,
    mean_interval,
    nanmean,
    score,
)

ABLATION_METRICS: Final = ("accuracy", "average_precision")
"""The metrics that an ablation is measured by."""
_MAX_THREADS: Final = 8  # each holds some tens of megabytes, of thousands of images


@dataclass(frozen=True)
class Ablation:
    """Scores without a part; where that is taken away at random, their means over several draws.

    values: metric → (A,), NaN where undefined. means: metric → its mean over attributes. draws: metric → that mean of
    each draw, (K,). per_attribute, mean_change: metric → what changed, after minus before.
    """

    values: Mapping[str, FloatArray]
    means: Mapping[str, float]
    draws: Mapping[str, FloatArray]
    per_attribute: Mapping[str, PairedDifference]
    mean_change: Mapping[str, PairedDifference]


@dataclass(frozen=True)
class Ablations:
    """The whole model's scores, and for each part what they are without it.

    attributes: the A names. values: metric → (A,) of the whole model. means: of its metrics, and of the answer that
    needs no model: "majority_accuracy", and "prevalence", which is the average precision of a random ranking.
    """

    attributes: tuple[str, ...]
    num_images: int
    num_resamples: int
    values: Mapping[str, FloatArray]
    means: Mapping[str, Mean]
    parts: Mapping[str, Ablation]


def measure_ablations(
    whole: ArrayLike,
    without: Mapping[str, Sequence[ArrayLike]],
    labels: ArrayLike,
    attributes: Sequence[str],
    thresholds: ArrayLike = 0.5,
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Ablations:
    """whole: (n, A) probabilities of the whole model. without: of each part, those of one draw or more without it.

    Intervals are those of a paired bootstrap over images, as in `comparison.compare`, of the mean over the draws: which
    images there were, not which draws, is what they answer for. Raises what `metrics.score` raises.
    """
    scores = score(whole, labels, attributes, thresholds, num_resamples=0)
    before = bootstrap(whole, labels, thresholds, num_resamples=num_resamples, seed=seed)
    means = {
        metric: Mean(scores.means[metric].value, *mean_interval(before[metric]), scores.means[metric].num_undefined)
        for metric in (*ABLATION_METRICS, "majority_accuracy", "prevalence")
    }
    values = {metric: scores[metric] for metric in ABLATION_METRICS}
    # numpy's work on whole arrays lets other threads run: each draw is a core's.
    resampled = partial(bootstrap, labels=labels, thresholds=thresholds, num_resamples=num_resamples, seed=seed)
    with ThreadPoolExecutor(min(num_cpus(), _MAX_THREADS)) as pool:
        replicates_of = {name: [pool.submit(resampled, probs) for probs in draws] for name, draws in without.items()}
    parts = {}
    for name, draws in without.items():
        found = [score(probs, labels, attributes, thresholds, num_resamples=0) for probs in draws]
        after = [each.result() for each in replicates_of[name]]
        changes = {}
        mean_changes = {}
        for metric in ABLATION_METRICS:
            # The mean of differences: of draws that change nothing, it is 0 to the last digit.
            change = np.mean([each[metric] - values[metric] for each in found], axis=0)
            replicates = np.mean([each[metric] - before[metric] for each in after], axis=0)
            changes[metric] = PairedDifference(change, *interval(replicates))
            mean_changes[metric] = PairedDifference(nanmean(change), *map(np.asarray, mean_interval(replicates)))
        of_draws = {metric: np.array([each.means[metric].value for each in found]) for metric in ABLATION_METRICS}
        parts[name] = Ablation(
            {metric: values[metric] + changes[metric].value for metric in ABLATION_METRICS},
            {metric: float(of_draws[metric].mean()) for metric in ABLATION_METRICS},
            of_draws,
            changes,
            mean_changes,
        )
    return Ablations(tuple(attributes), scores.num_images, num_resamples, values, means, parts)
