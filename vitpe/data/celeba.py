"""CelebA (Liu et al., ICCV 2015) in each layout that people have it in: as published, unpacked, and Kaggle's."""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.celeba import SIZE
from vitpe.data.file_samples import FileSamples
from vitpe.data.image_files import FolderFiles, check_folder, is_folder, is_image, list_folder, suffixes
from vitpe.data.label_table import Values, check_attributes, open_table, read_plain_rows
from vitpe.data.zip_files import ZipFiles
from vitpe.errors import UsageError, VitpeError
from vitpe.files import stamp_at

_SPLIT_CODES: Final = {"0": "train", "1": "valid", "2": "test"}
_FOLDERS: Final = ("", "Anno", "Eval", "Img", "celeba", "img_align_celeba")
_IMAGE_FOLDERS: Final = ("img_align_celeba", "img_align_celeba_png")
_HIDDEN: Final = re.compile(r"(?:^|[/\\])(?:\.|__MACOSX(?:[/\\]|\Z))")
_IN_IMAGE_FOLDER: Final = re.compile(rf"(?:^|[/\\])(?:{'|'.join(_IMAGE_FOLDERS)})[/\\][^/\\]*\Z")
"""Paths in an archive, which some programs write with backslashes."""
_LAYOUT_HINT: Final = (
    "expected img_align_celeba.zip or img_align_celeba/, with list_attr_celeba.txt and list_eval_partition.txt"
    " (or Kaggle's .csv) beside it or under Anno/ and Eval/"
)


@dataclass(frozen=True)
class CelebAFolder:
    """The parts of a CelebA folder, found in whichever layout it has."""

    attributes_file: Path
    partition_file: Path
    files: FolderFiles | ZipFiles
    _members: Mapping[str, Sequence[str]]
    """An image's name without its suffix, in lower case → where `files` has it."""

    def member(self, name: str) -> str | None:
        """Where `files` has the image that the lists call `name` ("000001.jpg"), perhaps as .png or .JPG; None for
        nowhere. VitpeError when it is there twice.
        """
        found = self._members.get(_stem(name), ())
        if len(found) > 1:
            found = [member for member in found if _base(member) == name] or found
        if len(found) > 1:
            raise VitpeError(
                f"{self.files.path} has {name} more than once: {', '.join(found[:3])}", "keep one file for each image"
            )
        return found[0] if found else None


def find_celeba(folder: Path) -> CelebAFolder:
    """Look for CelebA's files in `folder`; VitpeError says which is missing and what was expected."""
    check_folder(folder, f"pass the folder that holds CelebA: {_LAYOUT_HINT}")
    places = (folder / inner / name for inner in _FOLDERS for name in _IMAGE_FOLDERS)
    files, by_stem = _index_images(folder, tuple(stamp_at(path) for place in places for path in _image_places(place)))
    return CelebAFolder(
        _find_table(folder, "list_attr_celeba"), _find_table(folder, "list_eval_partition"), files, by_stem
    )


# Each split is opened by itself, and with 200,000 images each of these takes a second: the last one is kept.


@lru_cache(maxsize=1)
def _index_images(
    folder: Path, _stamps: tuple[tuple[int, ...], ...]
) -> tuple[FolderFiles | ZipFiles, dict[str, list[str]]]:
    files, members = _find_images(folder)
    by_stem: dict[str, list[str]] = {}
    for member in members:
        by_stem.setdefault(_stem(_base(member)), []).append(member)
    return files, by_stem


@lru_cache(maxsize=1)
def _plain_attributes(
    path: Path, _stamp: tuple[int, ...], header: int, num_values: int
) -> tuple[dict[str, int], NDArray[np.uint8]] | None:
    """What `_stem` makes of the names → the row in the labels; None for a table to be read row by row."""
    plain = read_plain_rows(path, header, num_values)
    if plain is None:
        return None
    stems = {_stem(name): row for row, name in enumerate(plain[0])}
    return (stems, plain[1]) if len(stems) == len(plain[0]) else None


def is_celeba(folder: Path) -> bool:
    """Whether `folder` has CelebA's attribute list, in any layout."""
    return any(_candidates(folder, "list_attr_celeba"))


def check_is_celeba(folder: Path) -> None:
    """UsageError for a folder of images that are not CelebA's, and for CelebA's images without their lists.

    What else is missing, `read_celeba` tells.
    """
    if not is_folder(folder) or is_celeba(folder) or _has_place_for_images(folder):
        return
    if is_celeba(folder.parent):
        raise UsageError(
            f"{folder} is CelebA's folder of images alone", f"name the one around it: --data {folder.parent}"
        )
    names = list_folder(folder)
    if tables := sorted(name for name in names if name.lower().endswith((".csv", ".tsv"))):
        table = folder / tables[0] if len(tables) == 1 else "labels.csv"
        raise UsageError(f"{folder} is not CelebA", f"for other images name a table of labels: --labels {table}")
    if any(is_image(name) or is_folder(folder / name) for name in names):
        raise UsageError(
            f"{folder} holds images without labels: no list_attr_celeba.txt",
            "name a table of labels: --labels labels.csv (path,Smiling,Glasses), or the folder of CelebA",
        )


def _has_place_for_images(folder: Path) -> bool:
    return any(
        os.path.lexists(folder / inner / f"{name}{suffix}")
        for inner in _FOLDERS
        for name in _IMAGE_FOLDERS
        for suffix in ("", ".zip")
    )


def read_celeba(folder: Path, split: str, stored_size: tuple[int, int] = SIZE) -> FileSamples:
    """The samples of one split ("train", "valid" or "test") whose images exist in `folder`, fitted to `stored_size`.

    Raises VitpeError naming file and line for a malformed list and an image that it names twice, and when the split has
    no image at all.
    """
    found = find_celeba(folder)
    partition = read_partition_list(found.partition_file)
    wanted = [name for name, its_split in partition.items() if its_split == split]
    members = {name: member for name in wanted if (member := found.member(name)) is not None}
    present = sorted(name for name in wanted if name in members)
    if not present:
        raise VitpeError(
            f"{folder} has none of the {len(wanted):,} images of the {split} split", f"{found.files.path} holds others"
        )
    stems = list(map(_stem, present))
    attributes, rows, table = read_attribute_list(found.attributes_file, set(stems))
    missing = next((name for name, stem in zip(present, stems, strict=True) if stem not in rows), None)
    if missing is not None:
        raise VitpeError(f"{found.attributes_file} has no row for {missing}", "use the complete file")
    labels = table[[rows[stem] for stem in stems]]
    notes = []
    # A member that ends so is called so: it has the name's stem.
    if renamed := [name for name in present if not members[name].endswith(name)]:
        first = f"{members[renamed[0]]} for {renamed[0]}"
        notes.append(f"{len(renamed):,} images have other suffixes than in {found.partition_file}: {first}, …")
    taken = [members[name] for name in present]
    return FileSamples("celeba", attributes, present, labels, stored_size, found.files, taken, tuple(notes))


def _find_images(folder: Path) -> tuple[FolderFiles | ZipFiles, list[str]]:
    """The images' files and their names there, in the first place that has any."""
    for inner in _FOLDERS:
        for name in _IMAGE_FOLDERS:
            *folders, archive = _image_places(folder / inner / name)
            for candidate in folders:
                if names := _image_names(list_folder(candidate)):
                    return FolderFiles(candidate), names
            if os.path.lexists(archive):
                zipped = ZipFiles(archive)
                return zipped, _published(_image_names(zipped.names()))
    raise VitpeError(f"{folder} has no CelebA images", _LAYOUT_HINT)


def _image_places(images: Path) -> tuple[Path, Path, Path]:
    """Where the images are that would be called so: two folders, as Kaggle packs them, one, or an archive."""
    return images / images.name, images, images.with_suffix(".zip")


def _image_names(names: Iterable[str]) -> list[str]:
    """Those of images, without what macOS adds to folders and archives (__MACOSX/._000001.jpg)."""
    read = tuple(suffixes())  # of 200,000 names, faster than one by one
    return [name for name in names if name.lower().endswith(read) and not _HIDDEN.search(name)]


def _published(members: list[str]) -> list[str]:
    """Those in a folder of the published name, where there is one: archives also hold samples and thumbnails."""
    return list(filter(_IN_IMAGE_FOLDER.search, members)) or members


def _parts(member: str) -> list[str]:
    """Of a path in an archive, which some programs write with backslashes."""
    return member.replace("\\", "/").split("/")


def _base(member: str) -> str:
    return _parts(member)[-1]


def _stem(name: str) -> str:
    """What an image is known by: people have them as .png and .JPG, too."""
    name = name.lower()
    return name.rpartition(".")[0] or name


def find_list(folder: Path, stem: str) -> Path | None:
    """CelebA's list of that name, in any layout; None where there is none."""
    return next(_candidates(folder, stem), None)


def _find_table(folder: Path, stem: str) -> Path:
    for path in _candidates(folder, stem):
        return path
    raise VitpeError(f"{folder} has no {stem}.txt", _LAYOUT_HINT)


def _candidates(folder: Path, stem: str) -> Iterator[Path]:
    for inner in _FOLDERS:
        for suffix in (".txt", ".csv"):
            path = folder / inner / (stem + suffix)
            if os.path.lexists(path):
                yield path


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every line that is not blank; commas or runs of spaces part them."""
    try:
        with open_table(path) as file:
            if path.suffix == ".csv":
                reader = csv.reader(file)
                yield from ((reader.line_num, row) for row in reader if row)
            else:
                yield from ((number, row) for number, row in enumerate(map(str.split, file), start=1) if row)
    except VitpeError as error:
        raise VitpeError(f"cannot read {path}: {error.message}", "download it again") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise VitpeError(f"cannot read {path}: {error}", "download it again") from error


def read_partition_list(path: Path) -> dict[str, str]:
    """Image name → train, valid or test, for all images; VitpeError naming the line of what is wrong."""
    return _read_partition(path, stamp_at(path))


@lru_cache(maxsize=1)
def _read_partition(path: Path, _stamp: tuple[int, ...]) -> dict[str, str]:
    """Image name → train, valid or test, for all images."""
    splits: dict[str, str] = {}
    lines: dict[str, int] = {}
    for number, row in _rows(path):
        if number == 1 and row[1:] == ["partition"]:
            continue
        if len(row) != 2 or row[1] not in _SPLIT_CODES:
            raise VitpeError(
                f"{path}, line {number}: {' '.join(row)[:100]!r}",
                "expected an image name and 0 (train), 1 (valid) or 2 (test)",
            )
        _check_new(path, number, row[0], lines)
        splits[row[0]] = _SPLIT_CODES[row[1]]
    return splits


def read_attribute_list(path: Path, wanted: set[str]) -> tuple[tuple[str, ...], dict[str, int], NDArray[np.uint8]]:
    """The attribute names; what `_stem` makes of the images' names → the row, of wanted images at least, in the labels
    (rows, A), -1 turned into 0. Every row's length is checked, wanted or not.
    """
    rows = _rows(path)
    number, header = next(rows, (0, []))
    if len(header) == 1 and header[0].isdigit():  # the published file opens with the number of rows
        number, header = next(rows, (0, []))
    attributes = tuple(header[1:] if header[:1] == ["image_id"] else header)
    if not attributes:
        raise VitpeError(f"{path}, line {number}: no header of attribute names", "download it again")
    try:
        check_attributes(attributes)
    except VitpeError as error:
        raise VitpeError(
            f"{path}, line {number}: no header of attribute names: {error.message}", "download it again"
        ) from error
    plain = _plain_attributes(path, stamp_at(path), number, len(attributes))
    if plain is not None:
        return attributes, *plain
    values = Values()
    found: dict[str, int] = {}
    labels: list[list[int]] = []
    lines: dict[str, int] = {}
    for number, row in rows:
        if len(row) != len(attributes) + 1:
            raise VitpeError(
                f"{path}, line {number}: {len(row) - 1} values where the header names {len(attributes)} attributes",
                "the file was cut or edited: download it again",
            )
        name = _check_new(path, number, row[0], lines)
        if name in wanted:
            cells = [values[text] for text in row[1:]]
            if None in cells:
                text = row[1 + cells.index(None)]
                raise VitpeError(f"{path}, line {number}: value {text[:100]!r} of {row[0]}", "expected -1, 0 or 1")
            found[name] = len(labels)
            labels.append([int(cell == 1) for cell in cells])
    return attributes, found, np.array(labels, dtype=np.uint8).reshape(-1, len(attributes))


def _check_new(path: Path, number: int, name: str, lines: dict[str, int]) -> str:
    """What the image is known by, entered into `lines`; VitpeError naming both lines when it was there before."""
    stem = _stem(name)
    before = lines.setdefault(stem, number)
    if before != number:
        raise VitpeError(
            f"{path}, line {number}: {name} again, as in line {before}",
            "keep one row for each image, or download it again",
        )
    return stem
