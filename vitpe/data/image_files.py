"""Image files: which formats are read, how large they may be, and how they are found and read in a folder.

Torch-free, for the command line.
"""

import importlib
import os
import posixpath
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import ClassVar, Final

from vitpe.errors import VitpeError
from vitpe.files import read_bounded

MAX_PIXELS: Final = 50_000_000
"""Of an image; a larger declared size is refused before decoding."""
MAX_BYTES: Final = 200_000_000
"""A larger file is refused before it is read."""
_FORMATS: Final = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
_WHERE_BUILT: Final = {"AVIF": "PIL.AvifImagePlugin"}  # Pillow's names of formats that not every build of it reads
_PLUGINS: Final = {"HEIF": "pillow_heif"}  # of packages that a user may have installed beside


@cache
def formats() -> tuple[str, ...]:
    """Pillow's names of all that is read."""
    found = list(_FORMATS)
    for name, module in _WHERE_BUILT.items():
        try:
            if importlib.import_module(module).SUPPORTED:
                found.append(name)
        except (ImportError, AttributeError):
            continue
    for name, module in _PLUGINS.items():
        try:
            importlib.import_module(module).register_heif_opener()
        except (ImportError, AttributeError):
            continue
        found.append(name)
    return tuple(found)


@cache
def suffixes() -> frozenset[str]:
    """Of the files of these formats, in lower case, with their dot."""
    from PIL import Image

    Image.init()
    read = {*formats(), "MPO"}  # several JPEGs in one file, of which the first is read
    return frozenset(suffix for suffix, name in Image.registered_extensions().items() if name in read)


def is_image(name: str) -> bool:
    """Whether a file of that name is meant as an image that can be read."""
    return posixpath.splitext(name)[1].lower() in suffixes()


def check_folder(folder: Path, hint: str) -> None:
    """VitpeError, with that hint, for what is no folder that can be listed."""
    try:
        os.scandir(folder).close()
    except FileNotFoundError as error:
        raise VitpeError(f"no folder {folder}", hint) from error
    except NotADirectoryError as error:
        if folder.suffix.lower() == ".zip":
            hint = f"if it holds CelebA, name the folder that it lies in: --data {folder.parent}; else unpack it"
        raise VitpeError(f"{folder} is a file, not a folder", hint) from error
    except (OSError, ValueError) as error:
        raise VitpeError(f"cannot read {folder}: {getattr(error, 'strerror', None) or error}", hint) from error


def is_folder(path: Path) -> bool:
    """As Path.is_dir, and False where that raises: for names that are too long, and where one may not look."""
    return os.path.isdir(path)  # noqa: PTH112


def is_file(path: Path) -> bool:
    """Whether it is a plain file, or a link to one; False where Path.is_file raises."""
    return os.path.isfile(path)  # noqa: PTH113


def list_folder(folder: Path) -> list[str]:
    """The names in a folder, none where there is no such folder; VitpeError when it cannot be read."""
    try:
        return os.listdir(folder)  # noqa: PTH208 - 200,000 Paths take half a second
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise VitpeError(f"cannot read {folder}: {error.strerror}", "choose a folder that you may read") from error


class ImageFolder:
    """The files below a folder, found by the paths that tables have for them.

    visible: every plain file's path relative to the folder, with forward slashes; hidden files and those in linked
    folders are not among them, and are found all the same.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.visible = frozenset(_walk(folder))
        self._roots = {f"{place.as_posix()}/" for place in (Path(os.path.abspath(folder)), folder.resolve())}  # noqa: PTH100
        self._by_letters: dict[str, list[str]] | None = None

    def find(self, text: str) -> list[str]:
        """The path of the one file that is meant; of several where that is not clear; of none.

        Backslashes, "." and "..", and whole paths are understood. Where no file is spelt exactly so, those count that
        differ in how their accents are encoded, else those that differ in upper and lower case.
        """
        if text in self.visible:
            return [text]
        path = posixpath.normpath(text.replace("\\", "/"))
        for root in self._roots:
            path = path.removeprefix(root)
        if path in self.visible or is_file(self.folder / path):
            return [path]
        if self._by_letters is None:
            self._by_letters = {}
            for name in sorted(self.visible):
                self._by_letters.setdefault(_letters(name), []).append(name)
        alike = self._by_letters.get(_letters(path), [])
        return [name for name in alike if _accents(name) == _accents(path)] or alike

    def has_other(self, text: str) -> bool:
        """Whether there is something of that name that is no plain file: a folder, a pipe, a link to nowhere."""
        return os.path.lexists(self.folder / text.replace("\\", "/"))


def _accents(path: str) -> str:
    return unicodedata.normalize("NFC", path)


def _letters(path: str) -> str:
    return _accents(path).casefold()


def _walk(folder: Path) -> Iterator[str]:
    """Folders within folders, as deep as they go, each once: links to folders are not followed."""
    waiting = [(folder, "")]
    while waiting:
        place, prefix = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append((Path(entry.path), f"{prefix}{entry.name}/"))
                    elif entry.is_file() and not entry.name.startswith("."):
                        yield prefix + entry.name
        except OSError as error:
            raise VitpeError(f"cannot read {place}: {error.strerror}", "choose a folder that you may read") from error


class FolderFiles:
    """Encoded images in a folder, by name relative to it."""

    reads_anywhere: ClassVar = True

    def __init__(self, folder: Path) -> None:
        self.path = folder

    def read(self, name: str) -> bytes:
        """The file's bytes; VitpeError naming it when it cannot be read."""
        path = self.path / name
        try:
            return read_bounded(path, MAX_BYTES)
        except VitpeError as error:
            raise VitpeError(f"cannot read {path}: {error.message}", "put an image there, or remove it") from error

    def size(self, name: str) -> int:
        """Bytes on disk; 0 when it is gone, which `read` will tell."""
        try:
            return (self.path / name).stat().st_size
        except OSError:
            return 0

    def where(self, name: str) -> str:
        """The image, for messages."""
        return f"{self.path}: {name}"

    def release(self) -> None:
        """Nothing is kept between reads."""
