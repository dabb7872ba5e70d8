"""The training images parted into folds, for models each of which never saw one of them (K-fold cross-validation)."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from vitpe.data.samples import OnProgress, Samples
from vitpe.errors import UsageError


class SomeSamples(Samples):
    """Some of another source's samples."""

    def __init__(self, samples: Samples, chosen: NDArray[np.int64], *notes: str) -> None:
        """chosen: their numbers. notes: more than the source has."""
        self.source = samples.source
        self.attributes = samples.attributes
        self.stored_size = samples.stored_size
        self.names = [samples.names[number] for number in chosen.tolist()]
        self.labels = np.ascontiguousarray(samples.labels[chosen])
        self._samples, self._chosen, self._notes = samples, chosen, notes

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._notes, *self._samples.notes)

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return self._samples.read(self._chosen[list(indices)].tolist())

    def read_each(self, indices: Sequence[int]) -> Iterable[NDArray[np.uint8]]:
        return self._samples.read_each(self._chosen[list(indices)].tolist())

    def num_encoded_bytes(self) -> int | None:
        return self._samples.num_encoded_bytes()

    def preload(self, on_progress: OnProgress | None = None) -> None:
        self._samples.preload(on_progress)

    @property
    def reads_anywhere(self) -> bool:
        return self._samples.reads_anywhere


def folds_of(names: Sequence[str], num_folds: int) -> NDArray[np.int64]:
    """(n,) which fold, 1 to num_folds, each image is in: at random by its name, so that the order of a table and the
    seed change nothing. Folds differ in size by one at most. UsageError for fewer images than folds.
    """
    if len(names) < num_folds:
        raise UsageError(
            f"{len(names)} training images cannot be parted into {num_folds} folds", "choose fewer: --folds"
        )
    keys = [hashlib.blake2b(f"fold {name}".encode(errors="surrogatepass"), digest_size=8).digest() for name in names]
    folds = np.empty(len(names), np.int64)
    folds[sorted(range(len(names)), key=keys.__getitem__)] = np.arange(len(names)) % num_folds + 1
    return folds


def without_fold(samples: Samples, number: int, num_folds: int) -> Samples:
    """The samples that are not in this fold."""
    chosen = np.flatnonzero(folds_of(samples.names, num_folds) != number)
    note = f"fold {number} of {num_folds}: {len(samples.names) - len(chosen):,} images are left out of training"
    return SomeSamples(samples, chosen, note)


def only_fold(samples: Samples, number: int, num_folds: int) -> tuple[Samples, NDArray[np.int64]]:
    """The samples in this fold, and their numbers."""
    chosen = np.flatnonzero(folds_of(samples.names, num_folds) == number)
    return SomeSamples(samples, chosen), chosen
