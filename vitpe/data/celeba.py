"""CelebA (Liu et al., ICCV 2015) in each layout that people have it in: as published, unpacked, and Kaggle's."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from vitpe.data.file_samples import FileSamples, FolderFiles, ZipFiles
from vitpe.errors import VitpeError

ATTRIBUTES: Final = tuple(
    """5_o_Clock_Shadow Arched_Eyebrows Attractive Bags_Under_Eyes Bald Bangs Big_Lips Big_Nose Black_Hair Blond_Hair
    Blurry Brown_Hair Bushy_Eyebrows Chubby Double_Chin Eyeglasses Goatee Gray_Hair Heavy_Makeup High_Cheekbones Male
    Mouth_Slightly_Open Mustache Narrow_Eyes No_Beard Oval_Face Pale_Skin Pointy_Nose Receding_Hairline Rosy_Cheeks
    Sideburns Smiling Straight_Hair Wavy_Hair Wearing_Earrings Wearing_Hat Wearing_Lipstick Wearing_Necklace
    Wearing_Necktie Young""".split()
)
SIZE: Final = (218, 178)
"""(height, width) of every published image."""
NUM_PUBLISHED: Final = 202_599
_SPLIT_CODES: Final = {"train": "0", "valid": "1", "test": "2"}
_FOLDERS: Final = ("", "Anno", "Eval", "Img", "celeba", "img_align_celeba")
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
    members: dict[str, str]
    """Image name ("000001.jpg") → where `files` has it."""


def find_celeba(folder: Path) -> CelebAFolder:
    """Look for CelebA's files in `folder`; VitpeError says which is missing and what was expected."""
    if not folder.is_dir():
        raise VitpeError(f"no folder {folder}", f"pass the folder that holds CelebA: {_LAYOUT_HINT}")
    files, members = _find_images(folder)
    return CelebAFolder(
        _find_table(folder, "list_attr_celeba"), _find_table(folder, "list_eval_partition"), files, members
    )


def is_celeba(folder: Path) -> bool:
    """Whether `folder` has CelebA's attribute list, in any layout."""
    return any(_candidates(folder, "list_attr_celeba", (".txt", ".csv")))


def read_celeba(folder: Path, split: str, stored_size: tuple[int, int] = SIZE) -> FileSamples:
    """The samples of one split ("train", "valid" or "test") whose images exist in `folder`, fitted to `stored_size`.

    Raises VitpeError naming file and line for a malformed list, and when the split has no image at all.
    """
    found = find_celeba(folder)
    code = _SPLIT_CODES[split]
    wanted = {name for name, value in _read_partition(found.partition_file) if value == code}
    present = sorted(wanted & found.members.keys())
    if not present:
        raise VitpeError(
            f"{folder} has none of the {len(wanted):,} images of the {split} split", f"{found.files.path} holds others"
        )
    attributes, rows = _read_attributes(found.attributes_file, set(present))
    missing = next((name for name in present if name not in rows), None)
    if missing is not None:
        raise VitpeError(f"{found.attributes_file} has no row for {missing}", "use the complete file")
    labels = np.array([rows[name] for name in present], dtype=np.uint8)
    members = [found.members[name] for name in present]
    return FileSamples("celeba", attributes, present, labels, stored_size, found.files, members)


def _find_images(folder: Path) -> tuple[FolderFiles | ZipFiles, dict[str, str]]:
    for inner in _FOLDERS:
        images = folder / inner / "img_align_celeba"
        for candidate in (images / "img_align_celeba", images):
            names = [path.name for path in candidate.glob("*.jpg")] if candidate.is_dir() else []
            if names:
                return FolderFiles(candidate), {name: name for name in names}
        archive = folder / inner / "img_align_celeba.zip"
        if archive.is_file():
            zipped = ZipFiles(archive)
            return zipped, {name.rpartition("/")[2]: name for name in zipped.names() if name.endswith(".jpg")}
    raise VitpeError(f"{folder} has no CelebA images", _LAYOUT_HINT)


def _find_table(folder: Path, stem: str) -> Path:
    for path in _candidates(folder, stem, (".txt", ".csv")):
        return path
    raise VitpeError(f"{folder} has no {stem}.txt", _LAYOUT_HINT)


def _candidates(folder: Path, stem: str, suffixes: tuple[str, ...]) -> Iterator[Path]:
    for inner in _FOLDERS:
        for suffix in suffixes:
            path = folder / inner / (stem + suffix)
            if path.is_file():
                yield path


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """(line number, fields) of every line that is not blank; commas or runs of spaces part them."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise VitpeError(f"cannot read {path}: {error}", "download it again") from error
    fields = csv.reader(lines) if path.suffix == ".csv" else map(str.split, lines)
    return ((number, row) for number, row in enumerate(fields, start=1) if row)


def _read_partition(path: Path) -> Iterator[tuple[str, str]]:
    for number, row in _rows(path):
        if number == 1 and row[1:] == ["partition"]:
            continue
        if len(row) != 2 or row[1] not in _SPLIT_CODES.values():
            raise VitpeError(
                f"{path}, line {number}: {' '.join(row)!r}",
                "expected an image name and 0 (train), 1 (valid) or 2 (test)",
            )
        yield row[0], row[1]


def _read_attributes(path: Path, wanted: set[str]) -> tuple[tuple[str, ...], dict[str, list[int]]]:
    """The attribute names and the wanted rows, -1 turned into 0; every row's length is checked, wanted or not."""
    rows = _rows(path)
    number, header = next(rows, (0, []))
    if len(header) == 1 and header[0].isdigit():  # the published file opens with the number of rows
        number, header = next(rows, (0, []))
    attributes = tuple(header[1:] if header[:1] == ["image_id"] else header)
    if not attributes or len(set(attributes)) != len(attributes):
        raise VitpeError(f"{path}, line {number}: no header of attribute names", "download it again")
    values = {"-1": 0, "0": 0, "1": 1}
    found: dict[str, list[int]] = {}
    for number, row in rows:
        if len(row) != len(attributes) + 1:
            raise VitpeError(
                f"{path}, line {number}: {len(row) - 1} values where the header names {len(attributes)} attributes",
                "the file was cut or edited: download it again",
            )
        if row[0] in wanted:
            try:
                found[row[0]] = [values[value] for value in row[1:]]
            except KeyError as error:
                raise VitpeError(f"{path}, line {number}: value {error} of {row[0]}", "expected -1, 0 or 1") from error
    return attributes, found
