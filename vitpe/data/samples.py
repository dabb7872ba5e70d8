"""What every data source gives: named samples with labels, and images on demand."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class Samples(Protocol):
    """One split of a data source.

    source: "celeba", "labelled_csv" or "drawn_faces".
    attributes: the A column names.
    names: one per sample.
    labels: (n, A) uint8, 0 or 1.
    stored_size: (height, width) of every image that `read` gives.
    """

    @property
    def source(self) -> str: ...
    @property
    def attributes(self) -> tuple[str, ...]: ...
    @property
    def names(self) -> Sequence[str]: ...
    @property
    def labels(self) -> NDArray[np.uint8]: ...
    @property
    def stored_size(self) -> tuple[int, int]: ...

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """(len(indices), 3, height, width) RGB. May be called from several threads at once."""
        ...
