"""Any folder of images with a CSV of labels: a column of paths, columns of labels, and maybe one that is the split.

A table of a million rows is read in one pass, and of one that is wrong no more than it takes to say so.
"""

import csv
import hashlib
import os
import posixpath
import unicodedata
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.data.file_samples import FileSamples
from vitpe.data.image_files import FolderFiles, ImageFolder, check_folder, is_file, is_image
from vitpe.data.label_columns import plain
from vitpe.data.label_table import Splits, Values, check_attributes, open_table
from vitpe.errors import VitpeError

PATH_COLUMNS: Final = (
    *("path", "filepath", "imagepath", "imgpath", "file", "filename", "imagefile", "imagename", "imgname"),
    *("imgfilename", "imagefilename", "imgfile"),
    *("image", "img", "imageid", "imgid", "photo", "picture"),
)
"""The path column's names, in lower case and without "_", "-" and spaces; the first one found counts."""
SPLIT_COLUMNS: Final = ("split", "partition", "evaluationstatus", "subset")
_NUMBERS: Final = ("imageid", "imgid")
"""Names of columns that number the images, where the paths are in another one."""
_MAX_WORDS: Final = 20
"""A column of no more words than these is one of categories."""
_SHARES: Final = {"train": 0.8, "valid": 0.9, "test": 1.0}
"""Upper bounds of a path's hash in [0, 1)."""
_NUM_NAMED: Final = 3
_MAX_PROBLEMS: Final = 10_000
_CELL: Final = 60  # characters of a cell that a message shows

# What may be wrong with rows, by what to do about it
_NO_PATH: Final = "name the image, or remove the line"
_NO_SPLIT: Final = "splits are train, valid and test, or 0, 1 and 2"
_TWO_SPLITS: Final = "keep one of these columns, or rename the one that is an attribute"
_TWICE: Final = "keep one row for each image"
_NO_LABEL: Final = "labels are 0 and 1, -1 and 1, or a few words; remove columns that are something else"
_NO_FILE: Final = "remove these rows, or put the files into the folder of --data"
_UNCLEAR: Final = "write the file's name exactly as it is"
_PASS_CSV: Final = "pass a CSV file, which is read more than once: --labels labels.csv"


@dataclass(frozen=True)
class _Header:
    """Which column is what; `attributes`, `columns` and `words` go together: an attribute is what its column says, or,
    where there is a word, whether its column says that. left_out: names of columns that number the images.
    """

    names: tuple[str, ...]
    path: int
    splits: tuple[int, ...]
    attributes: tuple[str, ...]
    columns: tuple[int, ...]
    words: tuple[str | None, ...]
    left_out: tuple[str, ...]


def read_labelled_csv(folder: Path, labels: Path, split: str, stored_size: tuple[int, int]) -> FileSamples:
    """The samples of one split ("train", "valid" or "test"), in the order of their paths.

    folder: what the paths are relative to. labels: UTF-8, parted by commas, semicolons or tabs, the first line a
    header. A column of a few words is an attribute for each of them (race=Black), of two words one (gender=Male).
    Without a split column each path's hash decides: 80 % train, 10 % valid, 10 % test, the same for a path
    whatever else is in the table. stored_size: (height, width) that images are fitted to.
    Raises VitpeError naming the lines of whatever is wrong anywhere in the table.
    """
    check_folder(folder, "pass the folder that holds the images: --data FOLDER")
    images = ImageFolder(folder)
    table = _read(labels, images)
    values = table.to_labels()
    chosen = sorted((path, index) for index, path in enumerate(table.paths) if table.splits[index] == split)
    if not chosen:
        counts = Counter(table.splits)
        raise VitpeError(
            f"{labels} has no image of the {split} split ({', '.join(f'{counts[s]:,} {s}' for s in _SHARES)})",
            f"say which images are {split} in a column named split",
        )
    names = [path for path, _ in chosen]
    return FileSamples(
        "labelled_csv",
        table.header.attributes,
        names,
        values[[index for _, index in chosen]],
        stored_size,
        FolderFiles(folder),
        names,
        tuple(table.notes()),
    )


def split_of(path: str) -> str:
    """The split that a path's hash puts it in; depends on nothing else, nor on how its accents are encoded."""
    text = unicodedata.normalize("NFC", path).encode(errors="surrogatepass")
    place = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / 2**64
    return next(split for split, bound in _SHARES.items() if place < bound or bound == 1)


class _Problems:
    """What is wrong in a table, by kind; the first few of each, and how many there are."""

    def __init__(self, labels: Path) -> None:
        self._labels = labels
        self._found: dict[str, list[str]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, hint: str, line: int, what: str) -> None:
        """`hint` says what to do, and is the kind."""
        self._counts[hint] += 1
        if self._counts[hint] <= _NUM_NAMED:
            self._found.setdefault(hint, []).append(f"line {line}: {what}")

    @property
    def too_many(self) -> bool:
        """Whether reading on would help nobody."""
        return self._counts.total() >= _MAX_PROBLEMS

    def refuse(self, *hints: str) -> None:
        """VitpeError of the first of these kinds that there is."""
        for hint in hints:
            if count := self._counts[hint]:
                named = "; ".join(self._found[hint])
                counted = f"{count:,}{' or more' if self.too_many else ''} in all"
                raise VitpeError(f"{self._labels}, {named}{f'; … {counted}' if count > _NUM_NAMED else ''}", hint)


class _Table:
    """A table's rows as they are read: for each its line, its image's path, its split, its A labels (1, 0, -1)."""

    def __init__(self, labels: Path, images: ImageFolder, header: _Header) -> None:
        self.header = header
        self.lines = array("q")
        self.paths: list[str] = []
        self.splits: list[str] = []
        self._labels = labels
        self._images = images
        self._problems = _Problems(labels)
        self._width = f"the header names {len(header.names)} columns"
        self._cells = array("b")
        self._has_words = any(word is not None for word in header.words)
        self._values, self._splits = Values(), Splits()
        self._line_of: dict[str, int] = {}
        self._respelt: list[tuple[str, str]] = []
        self._first_missing = ""

    def read(self, rows: Iterable[tuple[int, list[str]]]) -> None:
        """All rows; VitpeError naming the lines of what is wrong."""
        num_rows = 0
        for line, row in rows:
            self._read_row(line, row)
            num_rows += 1
            if self._problems.too_many:
                break
        self._problems.refuse(self._width, _NO_PATH, _NO_SPLIT, _TWO_SPLITS, _TWICE, _NO_LABEL)
        if self._first_missing and not self._line_of:
            first = "first " if self._problems.too_many else ""
            raise VitpeError(
                f"{self._images.folder} has none of the {first}{num_rows:,} files of {self._labels}:"
                f" no {self._first_missing}",
                "paths are relative to the folder of --data",
            )
        self._problems.refuse(_UNCLEAR, _NO_FILE)

    def _read_row(self, line: int, row: list[str]) -> None:
        problems, names = self._problems, self.header.names
        if len(row) != len(names):
            problems.add(self._width, line, f"{len(row)} fields")
            return
        text = row[self.header.path].strip()
        if not text:
            problems.add(_NO_PATH, line, "no path")
            return
        path = self._find(line, text)
        split = split_of(path) if not self.header.splits else self._split(line, row)
        cells = [self._values[row[column]] for column in self.header.columns]
        if self._has_words:
            for number, (column, word) in enumerate(zip(self.header.columns, self.header.words, strict=True)):
                cell = row[column].strip()
                if word is not None and cell:
                    cells[number] = int(cell == word)
        if None in cells:
            for column, value in zip(self.header.columns, cells, strict=True):
                if value is None:
                    problems.add(_NO_LABEL, line, f"{names[column]} is {row[column].strip()[:_CELL]!r}")
            return
        self.lines.append(line)
        self.paths.append(path)
        self.splits.append(split)
        self._cells.extend(cells)  # type: ignore[arg-type]

    def _find(self, line: int, text: str) -> str:
        """The image's path in the folder."""
        found, shown = self._images.find(text), text[:_CELL]
        if not found:
            self._first_missing = self._first_missing or f"{shown} (line {line})"
            what = "is no plain file" if self._images.has_other(text) else ""
            self._problems.add(_NO_FILE, line, f"{shown} {what}" if what else f"no file {shown}")
            return text
        path = found[0]
        before = self._line_of.setdefault(path, line)
        if len(found) > 1:
            self._problems.add(_UNCLEAR, line, f"{shown} may be {path} or {found[1]}")
        elif before != line:
            self._problems.add(_TWICE, line, f"{path[:_CELL]} again, as in line {before}")
        elif posixpath.basename(path) != posixpath.basename(text.replace("\\", "/")):
            self._respelt.append((path, text))
        return path

    def _split(self, line: int, row: list[str]) -> str:
        first, *others = ((self.header.names[column], row[column]) for column in self.header.splits)
        split = self._splits[first[1]]
        for name, text in (first, *others):
            if self._splits[text] is None:
                self._problems.add(_NO_SPLIT, line, f"{name} {text.strip()[:_CELL]!r}")
            elif split is not None and self._splits[text] != split:
                self._problems.add(_TWO_SPLITS, line, f"{first[0]} is {first[1].strip()}, {name} is {text.strip()}")
        return split or ""

    def to_labels(self) -> NDArray[np.uint8]:
        """(rows, A) 0/1. A column is 0/1 or -1/1; both in one would leave open what 0 means."""
        values = np.frombuffer(self._cells, np.int8).reshape(len(self.lines), len(self.header.columns))
        for column in np.flatnonzero((values == 0).any(axis=0) & (values == -1).any(axis=0)):
            zero, minus = (self.lines[int((values[:, column] == value).argmax())] for value in (0, -1))
            raise VitpeError(
                f"{self._labels}: {self.header.attributes[column]} is 0 in line {zero} and -1 in line {minus}",
                "a column is 0 and 1, or -1 and 1, not both",
            )
        return np.equal(values, 1).astype(np.uint8)

    def notes(self) -> Iterator[str]:
        """What was assumed, and what is left out."""
        folder, labels = self._images.folder, self._labels
        rest = self._images.visible.difference(self.paths)
        images = sorted(filter(is_image, rest))
        named = ", ".join(images[:_NUM_NAMED]) + (", …" if len(images) > _NUM_NAMED else "")
        if len(images) == 1:
            yield f"1 image of {folder} has no row in {labels} and is left out: {named}"
        elif images:
            yield f"{len(images):,} images of {folder} have no row in {labels} and are left out: {named}"
        if self._respelt:
            path, text = self._respelt[0]
            many = len(self._respelt) > 1
            paths = f"{len(self._respelt):,} paths of {labels} are" if many else f"1 path of {labels} is"
            yield f"{paths} spelt otherwise in {folder}: {path} for {text}{', …' if many else ''}"
        words_of: dict[str, list[str]] = {}
        for column, word in zip(self.header.columns, self.header.words, strict=True):
            if word is not None:
                words_of.setdefault(self.header.names[column], []).append(word)
        for name, words in words_of.items():
            if len(words) > 1:
                yield f"{labels}: {name} is one attribute for each of its {len(words)} words: {name}={words[0]}, …"
            else:
                yield f"{labels}: {name} has two words and is one attribute, {name}={words[0]}"
        if self.header.left_out:
            yield f"{labels}: {', '.join(self.header.left_out)} left out: no attribute"
        if not self.header.splits:
            yield f"{labels} has no split column: a hash of each path gives 80 % train, 10 % valid, 10 % test"
        elif other := [name for c in self.header.splits if (name := self.header.names[c]).lower() != SPLIT_COLUMNS[0]]:
            yield f"the split is what {labels} has in its column {other[0]}"


def _read(labels: Path, images: ImageFolder) -> _Table:
    if not os.path.lexists(labels):
        inside = images.folder / labels.name
        raise VitpeError(f"no file {labels}", f"did you mean {inside}?" if is_file(inside) else _PASS_CSV)
    try:
        file = open_table(labels)
    except VitpeError as error:
        raise VitpeError(f"cannot read {labels}: {error.message}", _PASS_CSV) from error
    try:
        delimiter = max(",;\t", key=file.readline().count)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        rows = ((reader.line_num, row) for row in reader if row)
        line, names = next(rows, (0, []))
        first = next(rows, None)
        header = _read_header(labels, line, names, first[1] if first else [])
        if first is not None and _has_words(header, first[1]):
            words = _find_words(header, chain([first], rows))
            header = _with_words(f"{labels}, line {line}", header, words)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            rows = ((reader.line_num, row) for row in reader if row)
            next(rows)
            first = next(rows)
        table = _Table(labels, images, header)
        if first is None:
            raise VitpeError(f"{labels} has a header and no rows", "each further line names an image and its labels")
        table.read(chain([first], rows))
        return table
    except UnicodeDecodeError as error:
        raise VitpeError(f"{labels} is not UTF-8 text", "save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise VitpeError(f"{labels}, line {reader.line_num}: {error}", "save it as plain CSV") from error


def _read_header(labels: Path, line: int, cells: list[str], first: list[str]) -> _Header:
    """first: the row after it, which shows where the paths are when no name does."""
    if not cells:
        raise VitpeError(f"{labels} is empty", "its first line names the columns: path,Smiling,Glasses")
    where, names = f"{labels}, line {line}", [name.strip() for name in cells]
    if "" in names:
        raise VitpeError(
            f"{where}: column {names.index('') + 1} has no name", "name it, or remove it (pandas: to_csv(index=False))"
        )
    name, count = Counter(name.lower() for name in names).most_common(1)[0]
    if count > 1:
        raise VitpeError(f"{where}: {count} columns are named {name[:_CELL]!r}", "remove all but one")
    splits = tuple(column for column, name in enumerate(names) if plain(name) in SPLIT_COLUMNS)
    path = _path_column([plain(name) for name in names], first)
    beside = [column for column in range(len(names)) if column != path and column not in splits]
    left_out = [
        column
        for column in beside
        if plain(names[column]) in _NUMBERS or (column < len(first) and is_image(first[column].strip()))
    ]
    columns = tuple(column for column in beside if column not in left_out)
    values = Values()
    if any(values[names[column]] is not None for column in columns):
        raise VitpeError(f"{where} is no header: a column would be named 0 or 1", "put the columns' names there")
    if not columns or path in splits:
        raise VitpeError(
            f"{where}: no column of labels beside {', '.join(repr(name[:_CELL]) for name in names[:_NUM_NAMED])}",
            "the header names a path column and the attributes: path,Smiling,Glasses",
        )
    attributes = tuple(names[column] for column in columns)
    try:
        check_attributes(attributes)
    except VitpeError as error:
        raise VitpeError(f"{where}: {error.message}", error.hint) from error
    left_out_names = tuple(names[column] for column in left_out)
    return _Header(tuple(names), path, splits, attributes, columns, (None,) * len(columns), left_out_names)


def _has_words(header: _Header, first: list[str]) -> bool:
    """Whether a column of labels may be one of words, by the first row."""
    values = Values()
    return len(first) == len(header.names) and any(values[first[column]] is None for column in header.columns)


def _find_words(header: _Header, rows: Iterable[tuple[int, list[str]]]) -> dict[int, list[str]]:
    """Column → its words in alphabetical order, of columns of nothing but a few words, each again and again."""
    found: dict[int, set[str]] = {column: set() for column in header.columns}
    num_rows = 0
    for _, row in rows:
        num_rows += 1
        if len(row) == len(header.names):
            for column, words in found.items():
                if len(words) <= _MAX_WORDS:
                    words.add(row[column].strip())
    return {
        column: sorted(words)
        for column, cells in found.items()
        if 2 <= len(words := cells - {""}) <= min(_MAX_WORDS, num_rows / 2) and not any(map(_is_number, words))
    }


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return Values()[text] is not None
    return True


def _with_words(where: str, header: _Header, words: dict[int, list[str]]) -> _Header:
    """Each of these columns as an attribute for each word; of two, as one: the other says nothing more."""
    parts: list[tuple[str, int, str | None]] = []
    for column in header.columns:
        name, its = header.names[column], words.get(column, [])
        named = its if len(its) != 2 else its[1:]
        parts += [(f"{name}={word}", column, word) for word in named] or [(name, column, None)]
    attributes = tuple(name for name, _, _ in parts)
    try:
        check_attributes(attributes)
    except VitpeError as error:
        raise VitpeError(f"{where}: {error.message}", error.hint) from error
    return replace(
        header,
        attributes=attributes,
        columns=tuple(column for _, column, _ in parts),
        words=tuple(word for _, _, word in parts),
    )


def _path_column(names: list[str], first: list[str]) -> int:
    """By its name; of several, or of none, by what stands below it; else the first."""
    named = [names.index(name) for name in PATH_COLUMNS if name in names]
    images = [column for column, cell in enumerate(first) if is_image(cell.strip())]
    return next((column for column in named if column in images), next(iter([*named, *images]), 0))
