"""Any folder of images with a CSV of labels: a path column, columns of 0/1 or -1/1, and maybe a `split` column."""

import csv
import hashlib
import os
import posixpath
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.data.file_samples import FileSamples, FolderFiles
from vitpe.data.samples import stored_size
from vitpe.errors import VitpeError

PATH_COLUMNS: Final = ("path", "file", "filename", "image", "image_id")
"""The path column's names, the first one found counts; without any it is the first column."""
SPLIT_COLUMN: Final = "split"
_SPLITS: Final = {"train": "train", "valid": "valid", "val": "valid", "validation": "valid", "test": "test"}
_SHARES: Final = {"train": 0.8, "valid": 0.9, "test": 1.0}
"""Upper bounds of a path's hash in [0, 1)."""
_IMAGE_SUFFIXES: Final = frozenset({".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff"})
_VALUES: Final = {"0": 0, "1": 1, "-1": -1}
_NUM_NAMED: Final = 3


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    split: str
    values: Sequence[str]


@dataclass(frozen=True)
class _Header:
    """Which column is what; `attributes` and `columns` go together."""

    path: int
    split: int | None
    attributes: tuple[str, ...]
    columns: tuple[int, ...]


def read_labelled_csv(folder: Path, labels: Path, split: str, img_size: tuple[int, int]) -> FileSamples:
    """The samples of one split ("train", "valid" or "test"), in the order of their paths.

    folder: what the paths are relative to. labels: UTF-8, parted by commas, semicolons or tabs, the first line a
    header. Without a split column each path's hash decides: 80 % train, 10 % valid, 10 % test, the same for a path
    whatever else is in the table. img_size: (height, width) of the model; images are kept a little larger.
    Raises VitpeError naming the lines of whatever is wrong anywhere in the table.
    """
    if not folder.is_dir():
        raise VitpeError(f"no folder {folder}", "pass the folder that holds the images: --data FOLDER")
    table = _read_table(labels, folder)
    header = _read_header(labels, table)
    rows = _read_rows(labels, header, table, folder)
    values = _to_labels(labels, header, rows)
    notes = _check_files(labels, rows, folder)
    if header.split is None:
        notes.append(f"{labels} has no split column: a hash of each path gives 80 % train, 10 % valid, 10 % test")
    chosen = sorted((row.path, index) for index, row in enumerate(rows) if row.split == split)
    if not chosen:
        counts = ", ".join(f"{sum(row.split == name for row in rows):,} {name}" for name in _SHARES)
        raise VitpeError(
            f"{labels} has no image of the {split} split ({counts})",
            f"say which images are {split} in a column named split",
        )
    names = [path for path, _ in chosen]
    return FileSamples(
        "labelled_csv",
        header.attributes,
        names,
        np.ascontiguousarray(values[[index for _, index in chosen]]),
        stored_size(img_size),
        FolderFiles(folder),
        names,
        tuple(notes),
    )


def split_of(path: str) -> str:
    """The split that a path's hash puts it in; depends on nothing else."""
    digest = hashlib.blake2b(path.encode(), digest_size=8).digest()
    place = int.from_bytes(digest) / 2**64
    return next(split for split, bound in _SHARES.items() if place < bound or bound == 1)


def _read_table(path: Path, folder: Path) -> list[tuple[int, list[str]]]:
    """(line number, fields) of every line that is not blank."""
    try:
        # newline="" keeps line breaks within quotes
        with path.open(encoding="utf-8-sig", newline="") as file:
            header = file.readline()
            delimiter = max(",;\t", key=header.count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            return [(reader.line_num, [field.strip() for field in row]) for row in reader if row]
    except FileNotFoundError as error:
        inside = folder / path.name
        hint = f"did you mean {inside}?" if inside.is_file() else "pass a CSV file: --labels labels.csv"
        raise VitpeError(f"no file {path}", hint) from error
    except OSError as error:
        raise VitpeError(f"cannot read {path}: {error.strerror}", "pass a CSV file: --labels labels.csv") from error
    except UnicodeDecodeError as error:
        raise VitpeError(f"{path} is not UTF-8 text", "save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise VitpeError(f"{path}, line {reader.line_num}: {error}", "save it as plain CSV") from error


def _read_header(labels: Path, table: list[tuple[int, list[str]]]) -> _Header:
    if not table:
        raise VitpeError(f"{labels} is empty", "its first line names the columns: path,Smiling,Glasses")
    line, names = table[0]
    where = f"{labels}, line {line}"
    if "" in names:
        raise VitpeError(
            f"{where}: column {names.index('') + 1} has no name", "name it, or remove it (pandas: to_csv(index=False))"
        )
    lower = [name.lower() for name in names]
    twice = next((name for name in lower if lower.count(name) > 1), None)
    if twice is not None:
        raise VitpeError(f"{where}: {lower.count(twice)} columns are named {twice!r}", "remove all but one")
    path = next((lower.index(name) for name in PATH_COLUMNS if name in lower), 0)
    split = lower.index(SPLIT_COLUMN) if SPLIT_COLUMN in lower else None
    columns = tuple(column for column in range(len(names)) if column not in (path, split))
    if any(names[column] in _VALUES for column in columns):
        raise VitpeError(f"{where} is no header: a column would be named 0 or 1", "put the columns' names there")
    if not columns or path == split:
        raise VitpeError(
            f"{where}: no column of labels beside {', '.join(map(repr, names))}",
            "the header names a path column and the attributes: path,Smiling,Glasses",
        )
    return _Header(path, split, tuple(names[column] for column in columns), columns)


def _read_rows(labels: Path, header: _Header, table: list[tuple[int, list[str]]], folder: Path) -> list[_Row]:
    num_columns = len(table[0][1])
    body = table[1:]
    if not body:
        raise VitpeError(f"{labels} has a header and no rows", "each further line names an image and its labels")
    _refuse(
        labels,
        ((line, f"{len(row)} fields") for line, row in body if len(row) != num_columns),
        f"the header names {num_columns} columns",
    )
    _refuse(
        labels, ((line, "no path") for line, row in body if not row[header.path]), "name the image, or remove the line"
    )
    rows = []
    for line, fields in body:
        path = _normal_path(fields[header.path], folder)
        split = split_of(path) if header.split is None else fields[header.split].lower()
        rows.append(_Row(line, path, _SPLITS.get(split, split), [fields[column] for column in header.columns]))
    _refuse(
        labels,
        ((row.line, f"split {row.split!r}") for row in rows if row.split not in _SHARES),
        "splits are train, valid and test",
    )
    first: dict[str, int] = {}
    for row in rows:
        first.setdefault(row.path, row.line)
    _refuse(
        labels,
        ((row.line, f"{row.path} again, as in line {first[row.path]}") for row in rows if first[row.path] != row.line),
        "keep one row for each image",
    )
    return rows


def _to_labels(labels: Path, header: _Header, rows: list[_Row]) -> NDArray[np.uint8]:
    """(rows, A) 0/1. A column is 0/1 or -1/1; both in one would leave open what 0 means."""
    _refuse(
        labels,
        (
            (row.line, f"{name} is {value!r}")
            for row in rows
            for name, value in zip(header.attributes, row.values, strict=True)
            if value not in _VALUES
        ),
        "labels are 0 and 1, or -1 and 1; remove columns that are something else",
    )
    values = np.array([[_VALUES[value] for value in row.values] for row in rows], dtype=np.int8)
    for column in np.flatnonzero((values == 0).any(axis=0) & (values == -1).any(axis=0)):
        zero, minus = (rows[int((values[:, column] == value).argmax())].line for value in (0, -1))
        raise VitpeError(
            f"{labels}: {header.attributes[column]} is 0 in line {zero} and -1 in line {minus}",
            "a column is 0 and 1, or -1 and 1, not both",
        )
    return np.equal(values, 1).astype(np.uint8)


def _check_files(labels: Path, rows: list[_Row], folder: Path) -> list[str]:
    """A note for images without a row; VitpeError for rows without an image."""
    present = set(_walk(folder))
    rest = present.difference(row.path for row in rows)
    missing = [row for row in rows if row.path not in present and not (folder / row.path).is_file()]
    if len(missing) == len(rows):
        raise VitpeError(
            f"{folder} has none of the {len(rows):,} files of {labels}: no {rows[0].path} (line {rows[0].line})",
            "paths are relative to the folder of --data",
        )
    _refuse(
        labels,
        ((row.line, f"no file {row.path}") for row in missing),
        f"remove these rows, or put the files into {folder}",
    )
    images = sorted(name for name in rest if posixpath.splitext(name)[1].lower() in _IMAGE_SUFFIXES)
    if not images:
        return []
    named = ", ".join(images[:_NUM_NAMED]) + (", …" if len(images) > _NUM_NAMED else "")
    if len(images) == 1:
        return [f"1 image of {folder} has no row in {labels} and is left out: {named}"]
    return [f"{len(images):,} images of {folder} have no row in {labels} and are left out: {named}"]


def _refuse(labels: Path, problems: Iterable[tuple[int, str]], hint: str) -> None:
    """VitpeError with the first few of (line, what) and the count of all, unless there are none."""
    found = list(problems)
    if found:
        named = "; ".join(f"line {line}: {what}" for line, what in found[:_NUM_NAMED])
        more = f"; … {len(found):,} in all" if len(found) > _NUM_NAMED else ""
        raise VitpeError(f"{labels}, {named}{more}", hint)


def _normal_path(text: str, folder: Path) -> str:
    """With forward slashes, without "." and "..", relative to the folder where it is within it."""
    path = posixpath.normpath(text.replace("\\", "/"))
    root = folder.resolve().as_posix() + "/"
    return path.removeprefix(root)


def _walk(folder: Path) -> Iterable[str]:
    """Every visible file's path below the folder, relative to it, with forward slashes."""
    for parent, _, names in os.walk(folder):
        inner = Path(parent).relative_to(folder)
        yield from ((inner / name).as_posix() for name in names if not name.startswith("."))
