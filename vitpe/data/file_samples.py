"""Samples whose images lie encoded in files: in a folder of them, an archive, or one of the formats for datasets."""

import copy
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from vitpe.data.fitting import Fitting
from vitpe.data.images import ImageError, Remarks, decode, upright_size
from vitpe.data.samples import OnProgress, Samples
from vitpe.errors import VitpeError

_NUM_LOOKED_AT: Final = 8


class EncodedImages(Protocol):
    """Encoded images, each by what this kind of files knows it by: a name, or a number. Safe for threads."""

    path: Path
    reads_anywhere: ClassVar[bool]
    """Whether one image can be read as fast as all in their order."""

    def read(self, member: Any, /) -> bytes:
        """The encoded image; VitpeError saying where it is when it cannot be read."""

    def size(self, member: Any, /) -> int:
        """Bytes of the encoded image, or about that, without reading it."""

    def where(self, member: Any, /) -> str:
        """Where the image is, for messages."""

    def release(self) -> None:
        """Forget what is kept for the next read."""


class FileSamples(Samples):
    """Samples over files; every image comes out at `stored_size`, cropped and resized where they are not `fitted`."""

    def __init__(
        self,
        source: str,
        attributes: tuple[str, ...],
        names: Sequence[str],
        labels: NDArray[np.uint8],
        stored_size: tuple[int, int],
        files: EncodedImages,
        members: Sequence[Any],
        notes: tuple[str, ...] = (),
    ) -> None:
        """names[i] is what a user calls image i, members[i] where `files` has it.

        notes: what the user should know of these data, a line each.
        """
        self.source = source
        self.attributes = attributes
        self.names = names
        self.labels = labels
        self.stored_size = stored_size
        self._fitting = Fitting(stored_size, stored_size)
        self._notes = notes
        self._remarks = Remarks()
        self._files = files
        self._members = members
        self._encoded: list[bytes | None] = []
        """Of each image what `preload` has read so far; empty before."""

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._notes, *self._remarks.lines())

    def take(self, indices: Sequence[int], *notes: str) -> "FileSamples":
        """Some of the samples, with more notes."""
        taken = FileSamples(
            self.source,
            self.attributes,
            [self.names[index] for index in indices],
            self.labels[list(indices)],
            self.stored_size,
            self._files,
            [self._members[index] for index in indices],
            (*self._notes, *notes),
        )
        taken._fitting = self._fitting
        return taken

    def fitted(self, fitting: Fitting) -> "FileSamples":
        """The same samples, brought to size in this way, and a note of what it does to them."""
        other = copy.copy(self)
        other._fitting, other.stored_size = fitting, fitting.stored_size
        other._notes = (*self._notes, *filter(None, [fitting.note(self._sizes())]))
        return other

    def _sizes(self) -> list[tuple[int, int]]:
        """(height, width) of a few of the images, those that cannot be read left out: of these it is said later."""
        count = len(self._members)
        spread = range(0, count, max(1, count // _NUM_LOOKED_AT)) if self.reads_anywhere else range(count)
        sizes = []
        for index in spread[:_NUM_LOOKED_AT]:
            try:
                sizes.append(upright_size(self._files.read(self._members[index])))
            except VitpeError:
                continue
        return sizes

    def sample(self, split: str, count: int | None, seed: int) -> "FileSamples":
        """`count` of these samples, which are of `split`, in their order; all for None, and where there are fewer.

        Which ones depends on the seed and their names alone: not on the order of a table's rows, and a smaller sample
        is part of every larger one.
        """
        total = len(self.names)
        if count is None or count == total:
            return self
        if count > total:
            return self.take(range(total), f"asked for {count:,} {split} images: there are {total:,}, all are taken")
        keys = [
            hashlib.blake2b(f"{seed} {name}".encode(errors="surrogatepass"), digest_size=8).digest()
            for name in self.names
        ]
        chosen = sorted(sorted(range(total), key=keys.__getitem__)[:count])
        return self.take(chosen, f"{count:,} of {total:,} {split} images: a random sample, the same for seed {seed}")

    def num_encoded_bytes(self) -> int:
        return sum(self._files.size(member) for member in self._members)

    def preload(self, on_progress: OnProgress | None = None) -> None:
        self._encoded = [None] * len(self._members)
        for index, member in enumerate(self._members):
            self._encoded[index] = self._files.read(member)
            if on_progress is not None:
                on_progress(index + 1, len(self._members))
        self._files.release()

    @property
    def reads_anywhere(self) -> bool:
        return self._files.reads_anywhere

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """(len(indices), 3, height, width) RGB; VitpeError naming the file for an image that cannot be decoded."""
        # Decoders give rows of pixels, so the channels stay last in memory: the copy is six times as fast.
        out = np.empty((len(indices), *self.stored_size, 3), dtype=np.uint8).transpose(0, 3, 1, 2)
        for slot, index in enumerate(indices):
            out[slot] = self._pixels(index)
        return out

    def read_each(self, indices: Sequence[int]) -> Iterable[NDArray[np.uint8]]:
        return map(self._pixels, indices)

    def _pixels(self, index: int) -> NDArray[np.uint8]:
        data = self._encoded[index] if self._encoded else None
        data = self._files.read(self._members[index]) if data is None else data
        tell = self._remarks.about(self.names[index])
        try:
            return self._fitting(decode(data, tell))
        except ImageError as error:
            raise VitpeError(
                f"{self._files.where(self._members[index])}: {error.message}", "replace it, or remove it"
            ) from error
