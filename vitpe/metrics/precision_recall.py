"""Precision and recall of one attribute at every threshold."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class PrecisionRecall:
    """Operating points (m,), from the highest threshold to the lowest: "present" is answered at a threshold or above.

    Recall rises along them, to 1. All are empty where no image has the attribute.
    """

    thresholds: FloatArray
    precision: FloatArray
    recall: FloatArray


def precision_recall(probs: ArrayLike, labels: ArrayLike, max_points: int | None = None) -> PrecisionRecall:
    """The curve of (n,) probabilities in [0, 1] and 0/1 labels, a point for each distinct probability.

    max_points: at most so many of these (2 or more), the first and the last among them, the others spread over recall.
    """
    probs, labels = np.asarray(probs, np.float64), np.asarray(labels, np.float64)
    order = np.argsort(-probs, kind="stable")
    ranked = probs[order]
    ends = np.flatnonzero(np.diff(ranked, append=-1.0))  # the last of each group of equal probabilities
    hits = np.cumsum(labels[order])[ends]
    if not labels.any():
        return PrecisionRecall(*np.empty((3, 0)))
    thresholds, precision, recall = ranked[ends], hits / (ends + 1), hits / hits[-1]
    if max_points is not None and len(ends) > max_points:
        first = recall[0]
        wanted = first + (1 - first) * np.arange(1, max_points - 1) / (max_points - 1)
        kept = np.unique([0, *np.searchsorted(recall, wanted), len(ends) - 1])
        thresholds, precision, recall = thresholds[kept], precision[kept], recall[kept]
    return PrecisionRecall(thresholds, precision, recall)
