"""What every data source gives: named samples with labels, and images on demand."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


def stored_size(img_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which images wait for random crops of `img_size`: 218 x 178 for 208 x 176, as CelebA has it,
    and larger in the same proportion for any other size."""
    return round(img_size[0] * 218 / 208), round(img_size[1] * 178 / 176)


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
