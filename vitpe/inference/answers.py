"""Answers for images beside their labels, whoever gave them: all that scores are made of. Torch-free."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from vitpe.data.samples import Samples
from vitpe.inference.groups import Terms, check_terms
from vitpe.inference.predictions import EvalInfo, select_attributes
from vitpe.metrics.groups import GroupScores, group_by, score_groups
from vitpe.metrics.scores import Scores, score

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Labels:
    """Labels (n, L), 0 or 1, of the L attributes named; a split has more of them than a model may answer."""

    attributes: tuple[str, ...]
    values: NDArray[np.uint8]

    def of(self, attributes: Sequence[str]) -> NDArray[np.uint8]:
        """(n, A), the columns of these."""
        return self.values[:, [self.attributes.index(name) for name in attributes]]


@dataclass(frozen=True)
class Answers:
    """Probabilities (n, A) of `attributes` for n images, the (A,) thresholds of the answer "present", and the labels.

    info: what was scored, in words. names: (n,) of the images. labels: of these attributes, and maybe of others.
    train_labels: of the training images, None where these are not known. notes: what the user should know of them.
    samples: the images, None where only answers are known.
    """

    info: EvalInfo
    names: Sequence[str]
    attributes: tuple[str, ...]
    probs: FloatArray
    thresholds: FloatArray
    labels: Labels
    train_labels: Labels | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    samples: Samples | None = field(default=None, repr=False)

    def at(self, threshold: float) -> "Answers":
        """With this threshold for every attribute."""
        info = replace(self.info, thresholds=f"{threshold:g}")
        return replace(self, info=info, thresholds=np.full(len(self.attributes), threshold))

    def only(self, attributes: Sequence[str]) -> "Answers":
        """The answers for these attributes, in this order; UsageError naming one that has none."""
        columns = select_attributes(self.attributes, attributes, "these answers")
        return replace(
            self,
            attributes=tuple(self.attributes[a] for a in columns),
            probs=self.probs[:, columns],
            thresholds=self.thresholds[columns],
        )

    def truth(self) -> NDArray[np.uint8]:
        """(n, A) labels."""
        return self.labels.of(self.attributes)

    def scores(self) -> Scores:
        """Of all images."""
        return score(self.probs, self.truth(), self.attributes, self.thresholds)

    def group_scores(self, terms: Terms) -> GroupScores:
        """Of each group; UsageError for terms without labels."""
        check_terms(terms, self.labels.attributes)
        grouping = group_by(self.labels.values, self.labels.attributes, terms)
        shares = None
        if self.train_labels is not None:
            shares = group_by(self.train_labels.values, self.train_labels.attributes, terms).shares()
        return score_groups(self.probs, self.truth(), self.attributes, grouping, self.thresholds, train_shares=shares)
