"""A checkpoint's answers on a split, beside the labels. Torch-free."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitpe.config import DRAWN_FACES
from vitpe.data.samples import Samples
from vitpe.errors import VitpeError
from vitpe.inference.answers import Answers, Labels
from vitpe.inference.groups import Terms, check_terms
from vitpe.inference.predictions import EvalInfo, MapMethod
from vitpe.metrics.comparison import Comparison, compare
from vitpe.metrics.group_comparison import GroupComparison, compare_groups
from vitpe.metrics.groups import group_by
from vitpe.metrics.thresholds import DEFAULT_THRESHOLD, sigmoid
from vitpe.runs.metadata import CheckpointInfo
from vitpe.text import some


@dataclass(frozen=True, eq=False)
class MeanMaps:
    """Where a model looks on average: mean and standard error (A, rows, columns) of the maps of the answers given, and
    the mean uint8 image (3, H, W), all over num_images of a split's. Maps by "relevance" and "attention" are less their
    own mean: above 0 where a patch has more than the mean patch.
    """

    mean: NDArray[np.float64]
    error: NDArray[np.float64]
    image: NDArray[np.uint8]
    num_images: int
    method: MapMethod = "occlusion"

    def surely(self) -> NDArray[np.float64]:
        """(A, rows, columns): the end of the mean's 95 % interval that is nearer to 0; 0 where that holds 0."""
        bound = np.maximum(np.abs(self.mean) - 1.96 * self.error, 0)
        found: NDArray[np.float64] = np.sign(self.mean) * bound
        return found


@dataclass(frozen=True)
class EvalResult:
    """A checkpoint's logits (n, A) on a split, with the labels (n, A), for those of its attributes that have labels.

    columns: (A,) which of the checkpoint's attributes those are. source, notes: of the images, as their reader says.
    threshold: for all attributes, None for the checkpoint's own. precision: in which the logits were computed.
    names: (n,) of the images. all_labels: theirs, of attributes that the checkpoint does not answer, too. train_labels:
    those of the training images, where they were asked for and are there. samples: the images. maps: where they were
    asked for.
    """

    path: Path
    info: CheckpointInfo
    split: str
    source: str
    columns: tuple[int, ...]
    logits: NDArray[np.float64]
    labels: NDArray[np.uint8]
    names: Sequence[str]
    all_labels: Labels
    notes: tuple[str, ...] = ()
    train_labels: Labels | None = None
    threshold: float | None = None
    precision: str = "fp32"
    maps: MeanMaps | None = field(default=None, repr=False)
    samples: Samples | None = field(default=None, repr=False)

    @property
    def attributes(self) -> tuple[str, ...]:
        """The A names."""
        return tuple(self.info.attributes[column] for column in self.columns)

    def probs(self) -> NDArray[np.float64]:
        """(n, A) in [0, 1]."""
        return sigmoid(self.logits)

    def thresholds(self) -> NDArray[np.float64]:
        """(A,) the one given, else the checkpoint's, but 0.5 on the split that these were tuned on."""
        if self.threshold is not None:
            return np.full(len(self.columns), self.threshold)
        if self.tuned_here():
            return np.full(len(self.columns), DEFAULT_THRESHOLD)
        return np.array(self.info.thresholds)[list(self.columns)]

    def tuned_here(self) -> bool:
        """Whether the checkpoint's thresholds were tuned on this split."""
        return self.info.thresholds_split == self.split

    def answers(self) -> Answers:
        """All that its scores are made of."""
        return Answers(
            info=self.describe(),
            names=self.names,
            attributes=self.attributes,
            probs=self.probs(),
            thresholds=self.thresholds(),
            labels=self.all_labels,
            train_labels=self.train_labels,
            notes=tuple(self.all_notes()),
            samples=self.samples,
        )

    def describe(self) -> EvalInfo:
        """What was scored, in words."""
        info = self.info
        thresholds = thresholds_in_words(info)
        if self.threshold is not None or self.tuned_here():
            thresholds = f"{self.thresholds()[0]:g}"
        calibration = calibration_in_words(info)
        return EvalInfo(str(self.path), self.split, self.source, info.step, thresholds, calibration, self.precision)

    def all_notes(self) -> Iterator[str]:
        """What the user should know of these scores, a line each."""
        info, path = self.info, self.path
        yield from self.notes
        if info.data_source == DRAWN_FACES and self.source == DRAWN_FACES:
            yield "these are drawn faces: the scores say nothing about photos"
        elif info.data_source == DRAWN_FACES:
            yield f"{path} was trained on drawn faces, not on photos"
        if info.balance:
            parted = ", ".join(info.balance)
            yield f"{path} was trained on groups by {parted} equally often: its probabilities are for such a mix"
        if info.calibration_method != "platt" and (info.loss != "bce" or info.pos_weight != "none"):
            how = f"loss {info.loss}, pos_weight {info.pos_weight}"
            yield f"{path} was trained with {how}: its probabilities are no frequencies before --calibrate platt"
        if self.tuned_here() and self.threshold is None:
            thresholds = thresholds_in_words(info)
            yield f"{path} has thresholds {thresholds}, so {self.split} is scored at 0.5; --split test uses them"
        if info.calibration_split == self.split:
            yield f"{path} was calibrated on {self.split}, which flatters its Brier score and calibration error here"
        if info.head_split == self.split:
            yield f"{path} has head rows fitted on {self.split} by {', '.join(info.head_by)}, which flatters it here"
        missing = [name for name in info.attributes if name not in self.attributes]
        if missing:
            shown = ", ".join(missing[:5]) + (" …" if len(missing) > 5 else "")
            yield f"{len(missing)} of {len(info.attributes)} attributes have no labels here and are left out: {shown}"


def thresholds_in_words(info: CheckpointInfo) -> str:
    """ "tuned on valid for f1", or "0.5"."""
    if info.thresholds_split is None:
        return str(DEFAULT_THRESHOLD)
    return f"tuned on {info.thresholds_split} for {info.thresholds_criterion}"


def calibration_in_words(info: CheckpointInfo) -> str | None:
    """ "platt on valid", or None."""
    return None if info.calibration_split is None else f"{info.calibration_method} on {info.calibration_split}"


def compare_results(first: EvalResult, second: EvalResult) -> Comparison:
    """Second against first on the same images; VitpeError when they answered different questions."""
    _check_comparable(first, second)
    return compare(
        first.probs(), second.probs(), first.labels, first.attributes, first.thresholds(), second.thresholds()
    )


def compare_group_results(first: EvalResult, second: EvalResult, terms: Terms) -> GroupComparison:
    """As `compare_results`, in each group; UsageError for terms without labels."""
    _check_comparable(first, second)
    check_terms(terms, first.all_labels.attributes)
    grouping = group_by(first.all_labels.values, first.all_labels.attributes, terms)
    return compare_groups(
        first.probs(), second.probs(), first.labels, first.attributes, grouping, first.thresholds(), second.thresholds()
    )


def _check_comparable(first: EvalResult, second: EvalResult) -> None:
    if first.attributes != second.attributes or not np.array_equal(first.labels, second.labels):
        raise VitpeError(
            f"{first.path} answers {some(first.attributes)}, {second.path} answers {some(second.attributes)}",
            "compare models of the same attributes and images",
        )
