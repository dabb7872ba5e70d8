"""Which images a model mixes up: its most confident wrong answers, and those of which it is least certain."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Mistakes:
    """Of one attribute, numbers of images, the most telling first, at most as many as were asked for of each.

    false_positives: answered present and labelled 0, the highest probability first. false_negatives: answered absent
    and labelled 1, the lowest first. least_certain: right or wrong, the nearest to the threshold first.
    num_false_positives, num_false_negatives: how many there are in all.
    """

    false_positives: NDArray[np.intp]
    false_negatives: NDArray[np.intp]
    least_certain: NDArray[np.intp]
    num_false_positives: int
    num_false_negatives: int


def find_mistakes(probs: ArrayLike, labels: ArrayLike, threshold: float, count: int) -> Mistakes:
    """Of (n,) probabilities in [0, 1] and 0/1 labels; at the threshold or above "present" is answered.

    Where images are equally telling, the earlier comes first.
    """
    probs, labels = np.asarray(probs, np.float64), np.asarray(labels)
    present = probs >= threshold
    false_positives, false_negatives = np.flatnonzero(present & (labels == 0)), np.flatnonzero(~present & (labels == 1))

    def first(images: NDArray[np.intp], by: NDArray[np.float64]) -> NDArray[np.intp]:
        return images[np.argsort(by[images], kind="stable")[:count]]

    return Mistakes(
        first(false_positives, -probs),
        first(false_negatives, probs),
        first(np.arange(len(probs)), np.abs(probs - threshold)),
        len(false_positives),
        len(false_negatives),
    )
