"""Any folder of images with CSVs of labels: a column of paths, columns of labels, and maybe one that is the split.

A table of a million rows is read in one pass, and of one that is wrong no more than it takes to say so.
"""

import csv
import hashlib
import os
import posixpath
import re
import unicodedata
from array import array
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Protocol

import numpy as np

from vitpe.data.file_samples import FileSamples
from vitpe.data.image_files import FolderFiles, ImageFolder, check_folder, is_file, is_folder, is_image, list_folder
from vitpe.data.label_columns import NUM_NAMED, Column, LabelColumns, Vocabulary, choose_columns, name_problems, plain
from vitpe.data.label_table import Splits, Values, check_attributes, open_table
from vitpe.data.shards import split_in
from vitpe.errors import VitpeError
from vitpe.text import some

PATH_COLUMNS: Final = (
    *("path", "filepath", "imagepath", "imgpath", "file", "filename", "imagefile", "imagename", "imgname"),
    *("imgfilename", "imagefilename", "imgfile"),
    *("image", "img", "imageid", "imgid", "photo", "picture"),
)
"""The path column's names, in lower case and without "_", "-" and spaces; the first one found counts."""
SPLIT_COLUMNS: Final = ("split", "partition", "evaluationstatus", "subset")
_SUFFIXES: Final = (".csv", ".tsv")
_FAIRFACE: Final = re.compile(r"fairface_label_(train|val)\.csv")
_SHARES: Final = {"train": 0.8, "valid": 0.9, "test": 1.0}
"""Upper bounds of a path's hash in [0, 1)."""
_MAX_PROBLEMS: Final = 10_000
_CELL: Final = 60  # characters of a cell that a message shows

# What may be wrong with rows, by what to do about it
_NO_PATH: Final = "name the image, or remove the line"
_NO_SPLIT: Final = "splits are train, valid and test, or 0, 1 and 2"
_TWO_SPLITS: Final = "keep one of these columns, or rename the one that is an attribute"
_NAME_SPLITS: Final = "remove the column, or rename the file"
_TWICE: Final = "keep one row for each image"
_NO_FILE: Final = "remove these rows, or put the files into the folder of --data"
_UNCLEAR: Final = "write the file's name exactly as it is"
_PASS_CSV: Final = "pass a CSV file, which is read more than once: --labels labels.csv"


class NamedImages(Protocol):
    """Images that tables name.

    folder: what they are in, for messages. visible: the names of those that are expected to have a row.
    """

    folder: Path
    visible: frozenset[str]

    def find(self, text: str) -> list[str]:
        """The one image that is meant; several where that is not clear; none."""

    def has_other(self, text: str) -> bool:
        """Whether there is something of that name that is no image."""


def read_labelled_csv(folder: Path, labels: Sequence[Path], split: str, stored_size: tuple[int, int]) -> FileSamples:
    """The samples of one split ("train", "valid" or "test"), in the order of their paths.

    folder: what the paths are relative to. labels: tables with the same columns, or folders of them; UTF-8, parted by
    commas, semicolons or tabs, the first line a header. What columns are attributes, `choose_columns` says.
    The split is what a column says, else the tables' names, else the folders in the paths, else each path's hash:
    80 % train, 10 % valid, 10 % test, the same for a path whatever else is in the table.
    stored_size: (height, width) that images are fitted to.
    Raises VitpeError naming the lines of whatever is wrong anywhere in the tables.
    """
    check_folder(folder, "pass the folder that holds the images: --data FOLDER")
    table = LabelTable(ImageFolder(folder), labels)
    splits, note = table.splits()
    chosen = sorted((path, index) for index, path in enumerate(table.paths) if splits[index] == split)
    if not chosen:
        raise no_images(table.title, split, splits)
    names = [path for path, _ in chosen]
    return FileSamples(
        "labelled_csv",
        table.columns.attributes,
        names,
        table.columns.labels[[index for _, index in chosen]],
        stored_size,
        FolderFiles(folder),
        names,
        (*table.notes(), *filter(None, [note])),
    )


def no_images(title: str, split: str, splits: Iterable[str]) -> VitpeError:
    """What to raise where a split has no image."""
    counts = Counter(splits)
    return VitpeError(
        f"{title} has no image of the {split} split ({', '.join(f'{counts[s]:,} {s}' for s in _SHARES)})",
        f"say which images are {split} in a column named split",
    )


def fairface_tables(folder: Path) -> list[Path]:
    """FairFace's own tables, where they lie in the folder."""
    return [folder / name for name in sorted(list_folder(folder)) if _FAIRFACE.fullmatch(name)]


def split_of(path: str) -> str:
    """The split that a path's hash puts it in; depends on nothing else, nor on how its accents are encoded."""
    text = unicodedata.normalize("NFC", path).encode(errors="surrogatepass")
    place = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / 2**64
    return next(split for split, bound in _SHARES.items() if place < bound or bound == 1)


class _Problems:
    """What is wrong in tables, by kind; the first few of each, and how many there are."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[object, str, str]]] = {}
        self._counts: Counter[str] = Counter()

    def add(self, hint: str, place: tuple[object, str], what: str) -> None:
        """`hint` says what to do, and is the kind."""
        self._counts[hint] += 1
        if self._counts[hint] <= NUM_NAMED:
            self._found.setdefault(hint, []).append((*place, what))

    @property
    def too_many(self) -> bool:
        """Whether reading on would help nobody."""
        return self._counts.total() >= _MAX_PROBLEMS

    def refuse(self, *hints: str) -> None:
        """VitpeError of the first of these kinds that there is."""
        for hint in hints:
            if count := self._counts[hint]:
                raise VitpeError(name_problems(self._found[hint], count, " or more" * self.too_many), hint)


@dataclass(frozen=True)
class _Header:
    """Which column is what; columns: those that may be labels."""

    names: tuple[str, ...]
    path: int
    splits: tuple[int, ...]
    columns: tuple[int, ...]


class LabelTable:
    """One or more tables with the same columns: for each row its image, its split, its labels.

    paths: of all rows, the images as `images` calls them. columns: those that are labels. title: the tables, for
    messages.
    """

    def __init__(self, images: NamedImages, labels: Sequence[Path]) -> None:
        """VitpeError naming the lines of what is wrong anywhere."""
        self.paths: list[str] = []
        self._images = images
        self._tables = _tables(labels, images.folder)
        self._told = [split_in(table.name) for table in self._tables]
        self.title = some([str(table) for table in self._tables])
        self._starts = [0]  # the lines of all tables are counted through: where each table's begin
        self._lines = array("q")
        self._codes = array("B")
        self._splits: list[str] = []
        self._known_splits = Splits()
        self._line_of: dict[str, int] = {}
        self._respelt: list[tuple[str, str]] = []
        self._first_missing = ""
        self._problems = _Problems()
        num_rows = self._read()
        self._problems.refuse(self._width, _NO_PATH, _NO_SPLIT, _TWO_SPLITS, _NAME_SPLITS, _TWICE)
        self.columns = self._choose()
        if self._first_missing and not self._line_of:
            first = "first " if self._problems.too_many else ""
            raise VitpeError(
                f"{images.folder} has none of the {first}{num_rows:,} files of {self.title}: no {self._first_missing}",
                "paths are relative to the folder of --data",
            )
        self._problems.refuse(_UNCLEAR, _NO_FILE)

    @property
    def has_split_column(self) -> bool:
        """Whether a column says the split."""
        return bool(self._header.splits)

    def splits(self) -> tuple[Sequence[str], str | None]:
        """Each row's split, and what was assumed for it."""
        names = self._header.names
        if self._header.splits:
            other = [name for column in self._header.splits if (name := names[column]).lower() != SPLIT_COLUMNS[0]]
            return self._splits, f"the split is what {self.title} has in its column {other[0]}" if other else None
        told = self._told
        if None in told and set(told) != {None}:
            untold = self._tables[told.index(None)]
            one = next(table for table, split in zip(self._tables, told, strict=True) if split is not None)
            raise VitpeError(f"the name {one} tells a split, {untold} does not", "name each table after its split")
        folders = [posixpath.dirname(path) for path in self.paths]
        split_of_folder = {folder: _split_of_folder(folder) for folder in set(folders)}
        by_name = [told[self._number(line)] for line in self._lines]
        by_folder = [split_of_folder[folder] for folder in folders]
        for found, what in ((by_name, "the tables' names say"), (by_folder, "the folders in the paths say")):
            splits = [split for split in found if split is not None]
            if len(splits) == len(found) and set(splits) != {"train"}:  # of training images alone a part is kept apart
                return splits, f"{self.title}: {what} which split an image is of"
        note = f"{self.title} has no split column: a hash of each path gives 80 % train, 10 % valid, 10 % test"
        return [split_of(path) for path in self.paths], note

    def notes(self) -> Iterator[str]:
        """What was assumed, and what is left out."""
        folder = self._images.folder
        rest = self._images.visible.difference(self.paths)
        images = sorted(filter(is_image, rest))
        if images:
            what = "1 image" if len(images) == 1 else f"{len(images):,} images"
            verbs = "has no row in {} and is" if len(images) == 1 else "have no row in {} and are"
            yield f"{what} of {folder} {verbs.format(self.title)} left out: {some(images)}"
        if self._respelt:
            path, text = self._respelt[0]
            many = len(self._respelt) > 1
            paths = f"{len(self._respelt):,} paths of {self.title} are" if many else f"1 path of {self.title} is"
            yield f"{paths} spelt otherwise in {folder}: {path} for {text}{', …' if many else ''}"
        yield from self.columns.notes(self.title)

    def _read(self) -> int:
        """All rows; how many there are."""
        num_rows = 0
        for number, path in enumerate(self._tables):
            rows = _rows(path)
            line, names = next(rows, (0, []))
            first = next(rows, None)
            header = _read_header(path, line, names, first[1] if first else [])
            if not number:
                self._header = header
                self._width = f"the header names {len(header.names)} columns"
                self._vocabularies = [Vocabulary() for _ in header.columns]
            elif header.names != self._header.names:
                raise _other_columns(path, header.names, self._tables[0], self._header.names)
            if first is None:
                raise VitpeError(f"{path} has a header and no rows", "each further line names an image and its labels")
            for line, row in chain([first], rows):
                self._read_row(self._starts[-1] + line, row)
                num_rows += 1
                if self._problems.too_many:
                    return num_rows
            self._starts.append(self._starts[-1] + line)
        return num_rows

    def _read_row(self, line: int, row: list[str]) -> None:
        header = self._header
        if len(row) != len(header.names):
            self._problems.add(self._width, self._place(line), f"{len(row)} fields")
            return
        text = row[header.path].strip()
        if not text:
            self._problems.add(_NO_PATH, self._place(line), "no path")
            return
        self.paths.append(self._find(line, text))
        if header.splits:
            self._splits.append(self._split(line, row))
        self._lines.append(line)
        cells = zip(self._vocabularies, header.columns, strict=True)
        self._codes.extend([vocabulary[row[column]] for vocabulary, column in cells])

    def _find(self, line: int, text: str) -> str:
        """The image's path in the folder."""
        found, shown = self._images.find(text), text[:_CELL]
        if not found:
            self._first_missing = self._first_missing or f"{shown} ({self._place(line)[1]})"
            what = "is no plain file" if self._images.has_other(text) else ""
            self._problems.add(_NO_FILE, self._place(line), f"{shown} {what}" if what else f"no file {shown}")
            return text
        path = found[0]
        before = self._line_of.setdefault(path, line)
        if len(found) > 1:
            self._problems.add(_UNCLEAR, self._place(line), f"{shown} may be {path} or {found[1]}")
        elif before != line:
            (file, where), (other, earlier) = self._place(line), self._place(before)
            there = earlier if other == file else f"{earlier} of {other}"
            self._problems.add(_TWICE, (file, where), f"{path[:_CELL]} again, as in {there}")
        elif posixpath.basename(path) != posixpath.basename(text.replace("\\", "/")):
            self._respelt.append((path, text))
        return path

    def _split(self, line: int, row: list[str]) -> str:
        known = self._known_splits
        first, *others = ((self._header.names[column], row[column]) for column in self._header.splits)
        split = known[first[1]]
        for name, text in (first, *others):
            if known[text] is None:
                self._problems.add(_NO_SPLIT, self._place(line), f"{name} {text.strip()[:_CELL]!r}")
            elif split is not None and known[text] != split:
                what = f"{first[0]} is {first[1].strip()}, {name} is {text.strip()}"
                self._problems.add(_TWO_SPLITS, self._place(line), what)
        told = self._told[len(self._starts) - 1]
        if split is not None and told not in (None, split) and len(self._tables) > 1:
            self._problems.add(
                _NAME_SPLITS, self._place(line), f"{first[0]} is {first[1].strip()}, the table's name says {told}"
            )
        return split or ""

    def _choose(self) -> LabelColumns:
        codes = np.frombuffer(self._codes, np.uint8).reshape(len(self.paths), len(self._vocabularies))
        columns = [
            Column(self._header.names[at], [*vocabulary], codes[:, number])
            for number, (at, vocabulary) in enumerate(zip(self._header.columns, self._vocabularies, strict=True))
        ]
        return choose_columns(self.title, columns, lambda row: self._place(self._lines[row]), strict=True)

    def _number(self, line: int) -> int:
        """Of the table that it is in."""
        return bisect_left(self._starts, line) - 1

    def _place(self, line: int) -> tuple[Path, str]:
        """The table, and the line in it."""
        number = self._number(line)
        return self._tables[number], f"line {line - self._starts[number]}"


def _tables(labels: Sequence[Path], images: Path) -> list[Path]:
    """The tables themselves, of a folder all that lie in it."""
    found = []
    for path in labels:
        if not os.path.lexists(path):
            inside = images / path.name
            raise VitpeError(f"no file {path}", f"did you mean {inside}?" if is_file(inside) else _PASS_CSV)
        if not is_folder(path):
            found.append(path)
            continue
        names = [name for name in list_folder(path) if name.lower().endswith(_SUFFIXES) and not name.startswith(".")]
        if not names:
            raise VitpeError(f"{path} has no table of labels (looked for {', '.join(_SUFFIXES)})", _PASS_CSV)
        found += [path / name for name in sorted(names)]
    return found


def _split_of_folder(path: str) -> str | None:
    """What the names of the folders in a path tell, where they agree."""
    found = {split for name in path.split("/") if (split := split_in(name)) is not None}
    return found.pop() if len(found) == 1 else None


def _other_columns(path: Path, names: tuple[str, ...], first: Path, expected: tuple[str, ...]) -> VitpeError:
    for name in (*names, *expected):
        if (name in names) != (name in expected):
            one, other = (path, first) if name in names else (first, path)
            return VitpeError(
                f"{one} has a column {name[:_CELL]}, {other} has none", "name tables with the same columns"
            )
    return VitpeError(f"{path} has the columns of {first} in another order", "bring them into the same order")


def _rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Each row that is not empty, with its line."""
    try:
        file = open_table(path)
    except VitpeError as error:
        raise VitpeError(f"cannot read {path}: {error.message}", _PASS_CSV) from error
    try:
        delimiter = max(",;\t", key=file.readline().count)
        file.seek(0)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        for row in reader:
            if row:
                yield reader.line_num, row
    except UnicodeDecodeError as error:
        raise VitpeError(f"{path} is not UTF-8 text", "save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise VitpeError(f"{path}, line {reader.line_num}: {error}", "save it as plain CSV") from error


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
    columns = tuple(column for column in range(len(names)) if column != path and column not in splits)
    values = Values()
    if any(values[names[column]] is not None for column in columns):
        raise VitpeError(f"{where} is no header: a column would be named 0 or 1", "put the columns' names there")
    if not columns or path in splits:
        raise VitpeError(
            f"{where}: no column of labels beside {', '.join(repr(name[:_CELL]) for name in names[:NUM_NAMED])}",
            "the header names a path column and the attributes: path,Smiling,Glasses",
        )
    try:
        check_attributes([names[column] for column in columns])
    except VitpeError as error:
        raise VitpeError(f"{where}: {error.message}", error.hint) from error
    return _Header(tuple(names), path, splits, columns)


def _path_column(names: list[str], first: list[str]) -> int:
    """By its name; of several, or of none, by what stands below it; else the first."""
    named = [names.index(name) for name in PATH_COLUMNS if name in names]
    images = [column for column, cell in enumerate(first) if is_image(cell.strip())]
    return next((column for column in named if column in images), next(iter([*named, *images]), 0))
