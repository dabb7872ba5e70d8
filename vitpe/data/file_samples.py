"""Samples whose images are files in a folder or in a zip archive."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vitpe.data.images import ImageError, decode, fit
from vitpe.errors import VitpeError


class FolderFiles:
    """Encoded images in a folder, by name relative to it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder

    def read(self, name: str) -> bytes:
        """The file's bytes; VitpeError naming it when it cannot be read."""
        try:
            return (self.path / name).read_bytes()
        except OSError as error:
            raise VitpeError(f"cannot read {self.path / name}: {error.strerror}", "was it moved or removed?") from error

    def size(self, name: str) -> int:
        """Bytes on disk."""
        return (self.path / name).stat().st_size


class ZipFiles:
    """Encoded images in a zip archive, by member name, read without unpacking it. Safe for threads."""

    def __init__(self, archive: Path) -> None:
        self.path = archive
        try:
            self._zip = zipfile.ZipFile(archive)
        except (OSError, zipfile.BadZipFile) as error:
            raise VitpeError(f"cannot read {archive}: {error}", "download it again, or unpack what it holds") from error

    def names(self) -> list[str]:
        """Every member's name, folders left out."""
        return [info.filename for info in self._zip.infolist() if not info.is_dir()]

    def read(self, name: str) -> bytes:
        """The member's bytes; VitpeError naming it when the archive is damaged there."""
        try:
            return self._zip.read(name)
        except (OSError, zipfile.BadZipFile, EOFError) as error:
            raise VitpeError(f"cannot read {name} in {self.path}: {error}", "download the archive again") from error

    def size(self, name: str) -> int:
        """Bytes of the image itself."""
        return self._zip.getinfo(name).file_size


class FileSamples:
    """Samples (see data.samples) over files; every image comes out at `stored_size`, cropped and resized to fit."""

    def __init__(
        self,
        source: str,
        attributes: tuple[str, ...],
        names: Sequence[str],
        labels: NDArray[np.uint8],
        stored_size: tuple[int, int],
        files: FolderFiles | ZipFiles,
        members: Sequence[str],
    ) -> None:
        """names[i] is what a user calls image i, members[i] where `files` has it."""
        self.source = source
        self.attributes = attributes
        self.names = names
        self.labels = labels
        self.stored_size = stored_size
        self._files = files
        self._members = members
        self._encoded: list[bytes] | None = None

    def first(self, count: int | None) -> "FileSamples":
        """The first `count` samples, or all of them for None."""
        if count is None:
            return self
        return FileSamples(
            self.source,
            self.attributes,
            self.names[:count],
            self.labels[:count],
            self.stored_size,
            self._files,
            self._members[:count],
        )

    def num_encoded_bytes(self) -> int:
        """What `preload` would hold in memory."""
        return sum(self._files.size(member) for member in self._members)

    def preload(self) -> None:
        """Read every file into memory, still encoded."""
        self._encoded = [self._files.read(member) for member in self._members]

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """(len(indices), 3, height, width) RGB; VitpeError naming the file for an image that cannot be decoded."""
        out = np.empty((len(indices), 3, *self.stored_size), dtype=np.uint8)
        for slot, index in enumerate(indices):
            data = self._encoded[index] if self._encoded is not None else self._files.read(self._members[index])
            try:
                out[slot] = fit(decode(data), self.stored_size).numpy()
            except ImageError as error:
                raise VitpeError(
                    f"{self._files.path}: {self._members[index]}: {error.message}", "replace it, or remove it"
                ) from error
        return out
