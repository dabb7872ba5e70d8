"""A folder of images: whether it is one, what it holds, and which file a table's path means."""

import os
import posixpath
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from vitpe.data.formats import suffixes
from vitpe.errors import VitpeError


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


def is_image(name: str) -> bool:
    """Whether a file of that name is meant as an image that can be read."""
    return posixpath.splitext(name)[1].lower() in suffixes()


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
