"""What every data source gives: named samples with labels, and images on demand."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

OnProgress = Callable[[int, int], None]
"""Called with how many are done, and of how many."""


def stored_size(img_size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) at which images wait for random crops of `img_size`: 218 x 178 for 208 x 176, as CelebA has it,
    and larger in the same proportion for any other size."""
    return round(img_size[0] * 218 / 208), round(img_size[1] * 178 / 176)


class Samples(ABC):
    """One split of a data source; a source need only set the fields and say how it reads.

    source: "celeba", "labelled_csv", "parquet", "webdataset" or "drawn_faces".
    attributes: the A column names.
    names: one per sample.
    labels: (n, A) uint8, 0 or 1.
    stored_size: (height, width) of every image that `read` gives.
    """

    source: str
    attributes: tuple[str, ...]
    names: Sequence[str]
    labels: NDArray[np.uint8]
    stored_size: tuple[int, int]

    @abstractmethod
    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """(len(indices), 3, height, width) RGB. May be called from several threads at once."""

    def read_each(self, indices: Sequence[int]) -> Iterable[NDArray[np.uint8]]:
        """The same images, (3, height, width) each, for whoever is done with one before the next."""
        return self.read(indices)

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know, a line each; of the images themselves what was found in those read so far."""
        return ()

    def num_encoded_bytes(self) -> int | None:
        """Of all images' files, which is what `preload` holds in memory; None where images are drawn."""
        return None

    def preload(self, on_progress: OnProgress | None = None) -> None:  # noqa: B027
        """Read every file into memory, still encoded; nothing is to be done where images are drawn. Images can be read
        meanwhile, by other threads.
        """

    @property
    def reads_anywhere(self) -> bool:
        """Whether one image can be read as fast as all in their order."""
        return True


def fingerprint(splits: Iterable[Samples]) -> str:
    """Changes with the names, the labels and, where they are files, the number of bytes of the images of all splits."""
    digest = hashlib.sha256()
    for samples in splits:
        digest.update("\n".join((samples.source, *samples.attributes, *samples.names, "")).encode())
        digest.update(samples.labels.tobytes())
        num_bytes = samples.num_encoded_bytes()
        if num_bytes is not None:
            digest.update(str(num_bytes).encode())
    return digest.hexdigest()
