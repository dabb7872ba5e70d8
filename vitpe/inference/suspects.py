"""Answers beside labels → the labels that a person should look at again. Torch-free."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from vitpe.celeba import EXCLUSIVE
from vitpe.inference.answers import Answers
from vitpe.metrics.contradictions import Contradictions, find_contradictions
from vitpe.metrics.suspects import Suspects, find_suspects

Kind = Literal["model", "contradiction", "both"]


@dataclass(frozen=True)
class SuspectLabel:
    """One label (0 or 1) of an image, and the model's probability that it has the attribute.

    kind: who doubts it. contradicts: attributes that the image is labelled with and that exclude this one.
    """

    image: str
    attribute: str
    label: int
    probability: float
    kind: Kind
    contradicts: tuple[str, ...]


@dataclass(frozen=True)
class SuspectLabels:
    """What the model says of the labels, what these say of each other, and both as a list.

    rows: a row for each label that one of them doubts; the lower the probability of the given label, the earlier.
    """

    num_labels: int
    by_model: Suspects
    contradictions: Contradictions
    rows: tuple[SuspectLabel, ...]

    def num_of(self, kind: Kind) -> int:
        """Rows of this kind."""
        return sum(row.kind == kind for row in self.rows)


def suspect_labels(answers: Answers) -> SuspectLabels:
    """Of all attributes that are answered."""
    probs, labels, attributes = answers.probs, answers.truth(), answers.attributes
    by_model = find_suspects(probs, labels, attributes)
    contradictions = find_contradictions(labels, attributes, EXCLUSIVE)
    excluded_by: dict[tuple[int, int], list[str]] = {}
    for (first, second), images in zip(contradictions.pairs, contradictions.images, strict=True):
        for image in images.tolist():
            excluded_by.setdefault((image, attributes.index(first)), []).append(second)
            excluded_by.setdefault((image, attributes.index(second)), []).append(first)

    def rows() -> Iterator[SuspectLabel]:
        doubted = by_model.found.copy()
        for at in excluded_by:
            doubted[at] = True
        images, columns = np.nonzero(doubted)
        order = np.argsort(by_model.self_confidence[images, columns], kind="stable")
        for image, a in zip(images[order].tolist(), columns[order].tolist(), strict=True):
            others = tuple(excluded_by.get((image, a), ()))
            kind: Kind = "model" if not others else "both" if by_model.found[image, a] else "contradiction"
            label, probability = int(labels[image, a]), float(probs[image, a])
            yield SuspectLabel(answers.names[image], attributes[a], label, probability, kind, others)

    return SuspectLabels(labels.size, by_model, contradictions, tuple(rows()))
