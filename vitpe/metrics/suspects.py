"""Labels that are probably wrong: those that a model contradicts, and those that contradict each other.

Confident learning: Northcutt et al. 2021 (arXiv:1911.00068). Each attribute is a problem of two classes of its own,
0 (absent) and 1 (present). The probabilities must be out of sample: of a model that did not train on these labels.

Shapes: n images, A attributes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitpe.metrics.scores import FloatArray, check_answers

_ROUNDING: Final = 1e-6  # by as much a probability may fall short of its class's threshold
_NEVER: Final = 2.0  # the threshold of a class that no image is labelled with


@dataclass(frozen=True)
class Suspects:
    """What a model says of n images' labels.

    class_thresholds: (A, 2) the mean probability of class c over the images that are labelled c; at or above it an
    image counts as confidently of c. 2, which none reaches, where no image is labelled c.
    joint: (A, 2, 2) `joint[a, given, true]`, the estimated number of images by given and by true label. Each row sums
    to the number of images labelled so; what is off the diagonal is the estimated number of label errors.
    self_confidence: (n, A) in [0, 1], the probability of the label that was given.
    found: (n, A) the suspects: of each direction as many of the lowest self-confidence as `joint` estimates, without
    those whose label the model answers itself (at 0.5), and never all images of a class.
    """

    attributes: tuple[str, ...]
    class_thresholds: FloatArray
    joint: NDArray[np.intp]
    self_confidence: FloatArray
    found: NDArray[np.bool_]

    def num_errors(self) -> NDArray[np.intp]:
        """(A, 2) estimated label errors: of those labelled 0 that are 1, and of those labelled 1 that are 0."""
        return np.stack([self.joint[:, 0, 1], self.joint[:, 1, 0]], axis=1)


def find_suspects(probs: ArrayLike, labels: ArrayLike, attributes: Sequence[str]) -> Suspects:
    """Which labels the model contradicts. probs, labels: (n, A), as in `metrics.score`, which says what is raised."""
    probs, given = check_answers(probs, labels)
    if len(attributes) != probs.shape[1]:
        raise ValueError(f"{len(attributes)} attribute names for {probs.shape[1]} columns")
    present = given == 1
    self_confidence = np.where(present, probs, 1 - probs)
    thresholds, joint, found = [], [], np.zeros(present.shape, np.bool_)
    for a in range(probs.shape[1]):
        of_class = np.stack([1 - probs[:, a], probs[:, a]], axis=1)
        limits = _class_thresholds(of_class, present[:, a])
        thresholds.append(limits)
        joint.append(_confident_joint(of_class, present[:, a], limits))
        found[:, a] = _prune(self_confidence[:, a], present[:, a], joint[-1])
    return Suspects(tuple(attributes), np.array(thresholds), np.array(joint), self_confidence, found)


def _class_thresholds(of_class: FloatArray, present: NDArray[np.bool_]) -> FloatArray:
    """Equation 2: the mean self-confidence of each class."""
    labelled = (~present, present)
    return np.array([of_class[rows, c].mean() if rows.any() else _NEVER for c, rows in enumerate(labelled)])


def _confident_joint(of_class: FloatArray, present: NDArray[np.bool_], limits: FloatArray) -> NDArray[np.intp]:
    """Equations 1 and 3: images counted by given label and by the class they are confidently of, the likelier one where
    they are of both; then each row scaled to the number of images labelled so, in whole numbers."""
    confident = of_class >= limits - _ROUNDING
    true = np.where(confident.all(axis=1), of_class.argmax(axis=1), confident.argmax(axis=1))
    counted = np.zeros((2, 2))
    np.add.at(counted, (present.astype(np.intp), true), confident.any(axis=1))
    np.fill_diagonal(counted, counted.diagonal().clip(min=1))
    num_labelled = np.array([(~present).sum(), present.sum()])
    scaled = counted / counted.sum(axis=1, keepdims=True) * num_labelled[:, None]
    return np.array([_whole(row, total) for row, total in zip(scaled, num_labelled, strict=True)], np.intp)


def _whole(pair: FloatArray, total: int) -> FloatArray:
    """Both rounded to the nearest, halves to even, and the one that this wrongs most corrected to keep the total."""
    rounded = np.round(pair)
    over = int(rounded.sum()) - total
    if over > 0:
        rounded[np.argmax(rounded - pair)] -= 1
    elif over < 0:
        rounded[1 - np.argmax((pair - rounded)[::-1])] += 1
    return rounded


def _prune(self_confidence: FloatArray, present: NDArray[np.bool_], joint: NDArray[np.intp]) -> NDArray[np.bool_]:
    """(n,) "prune by noise rate" (section 3.2): the estimated number of errors of each class, the least confident."""
    found = np.zeros(len(present), np.bool_)
    for label in (0, 1):
        labelled = np.flatnonzero(present == label)
        num = min(int(joint[label, 1 - label]), max(len(labelled) - 1, 0))
        found[labelled[np.argsort(self_confidence[labelled], kind="stable")[:num]]] = True
    return found & (self_confidence < 0.5)
