"""Labels of one image that cannot both be true. No model is asked."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Contradictions:
    """pairs: those of the pairs asked for whose two attributes have labels. images: of each, the images with both."""

    pairs: tuple[tuple[str, str], ...]
    images: tuple[NDArray[np.intp], ...]

    def counts(self) -> tuple[int, ...]:
        """Images with both, for each pair."""
        return tuple(len(images) for images in self.images)


def find_contradictions(
    labels: ArrayLike, attributes: Sequence[str], pairs: Sequence[tuple[str, str]]
) -> Contradictions:
    """Images that are labelled with both attributes of a pair. labels: (n, A), 0 or 1."""
    present = np.asarray(labels) == 1
    known = tuple(pair for pair in pairs if set(pair) <= set(attributes))
    both = [present[:, attributes.index(first)] & present[:, attributes.index(second)] for first, second in known]
    return Contradictions(known, tuple(map(np.flatnonzero, both)))
