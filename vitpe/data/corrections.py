"""What is laid over any source's labels: corrections from a file, and the choice of attributes."""

import csv
import difflib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.data.label_table import Values, open_table
from vitpe.data.samples import OnProgress, Samples
from vitpe.errors import UsageError, VitpeError
from vitpe.text import brief, some

_COLUMNS: Final = ("image", "attribute", "value")
_HINT: Final = "its first line names the columns: image,attribute,value"


@dataclass(frozen=True)
class Correction:
    """line: of the file. value: 0 or 1."""

    line: int
    value: int


class RelabelledSamples(Samples):
    """Another source's samples, with other labels."""

    def __init__(self, samples: Samples, attributes: tuple[str, ...], labels: NDArray[np.uint8], *notes: str) -> None:
        """labels: (n, A) 0/1, of these A attributes. notes: more than the source has."""
        self.source = samples.source
        self.names = samples.names
        self.stored_size = samples.stored_size
        self.attributes = attributes
        self.labels = labels
        self._samples = samples
        self._notes = notes

    @property
    def notes(self) -> tuple[str, ...]:
        return (*self._notes, *self._samples.notes)

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        return self._samples.read(indices)

    def read_each(self, indices: Sequence[int]) -> Iterable[NDArray[np.uint8]]:
        return self._samples.read_each(indices)

    def num_encoded_bytes(self) -> int | None:
        return self._samples.num_encoded_bytes()

    def preload(self, on_progress: OnProgress | None = None) -> None:
        self._samples.preload(on_progress)

    @property
    def reads_anywhere(self) -> bool:
        return self._samples.reads_anywhere


def choose_attributes(samples: Samples, wanted: Sequence[str]) -> Samples:
    """The samples with the labels of these attributes alone, in this order; UsageError for one that there is not."""
    for name in wanted:
        if name not in samples.attributes:
            raise UsageError(f"no attribute {brief(name)!r} in the data", _nearest(name, samples.attributes))
    columns = [samples.attributes.index(name) for name in wanted]
    note = f"{len(wanted)} of {len(samples.attributes)} attributes: {', '.join(wanted)}"
    return RelabelledSamples(samples, tuple(wanted), np.ascontiguousarray(samples.labels[:, columns]), note)


def relabel(samples: Samples, path: Path, split: str) -> Samples:
    """The samples, which are of `split`, with the corrections in `path`, and a note that counts them.

    Images of other splits, and images that are nowhere, are counted in the note. VitpeError naming the line for an
    attribute that there is not, and as in `read_corrections`.
    """
    corrections = read_corrections(path)
    column_of = {name: column for column, name in enumerate(samples.attributes)}
    row_of = {name: row for row, name in enumerate(samples.names)}
    labels = samples.labels.copy()
    others: dict[str, None] = {}
    num_here = 0
    for (image, attribute), correction in corrections.items():
        if attribute not in column_of:
            raise VitpeError(
                f"{path}, line {correction.line}: no attribute {brief(attribute)!r} in the data",
                _nearest(attribute, samples.attributes),
            )
        row = row_of.get(image)
        if row is None:
            others[image] = None
        else:
            num_here += 1
            labels[row, column_of[attribute]] = correction.value
    changed = labels != samples.labels
    num_changed = int(changed.sum())
    images = _count(int(changed.any(axis=1).sum()), f"{split} image")
    note = f"{path}: {_count(num_changed, 'label')} of {images} changed"
    if num_here > num_changed:
        note += f", {num_here - num_changed:,} stood so already"
    if others:
        note += f"; not of the {split} split: {_count(len(others), 'image')} ({brief(some([*others]))})"
    return RelabelledSamples(samples, samples.attributes, labels, note)


def read_corrections(path: Path) -> Mapping[tuple[str, str], Correction]:
    """(image, attribute) → its correction, from UTF-8 text parted by commas, semicolons or tabs.

    The header has image, attribute and value, and perhaps other columns, which are left out; an empty value changes
    nothing. Values are 0 and 1, or -1 and 1, or false and true.
    VitpeError naming the lines for anything else, and for two corrections of one label that contradict each other.
    """
    if not os.path.lexists(path):
        raise VitpeError(f"no file {path}", "name a CSV of corrections: --relabel FILE")
    try:
        with open_table(path) as file:
            delimiter = max(",;\t", key=file.readline().count)
            file.seek(0)
            reader = csv.reader(file, delimiter=delimiter, strict=True)
            return _read(path, ((reader.line_num, row) for row in reader if row))
    except UnicodeDecodeError as error:
        raise VitpeError(f"{path} is not UTF-8 text", "save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise VitpeError(f"{path}, line {reader.line_num}: {error}", "save it as plain CSV") from error
    except VitpeError as error:
        if str(path) in error.message:
            raise
        raise VitpeError(f"cannot read {path}: {error.message}", "name a CSV file: --relabel FILE") from error


def _read(path: Path, rows: Iterator[tuple[int, list[str]]]) -> dict[tuple[str, str], Correction]:
    _, names = next(rows, (0, []))
    header = [name.strip().lower() for name in names]
    for name in _COLUMNS:
        if header.count(name) != 1:
            what = "several columns are" if name in header else "no column is"
            raise VitpeError(f"{path}: {what} named {name}", _HINT)
    image_at, attribute_at, value_at = (header.index(name) for name in _COLUMNS)
    values = Values()
    first_of: dict[int, int] = {}  # a value that means no → the first line that has it
    found: dict[tuple[str, str], Correction] = {}
    for line, row in rows:
        where = f"{path}, line {line}"
        if len(row) != len(header):
            raise VitpeError(f"{where}: {len(row)} fields where the header names {len(header)} columns", _HINT)
        key, text = (row[image_at].strip(), row[attribute_at].strip()), row[value_at].strip()
        if not text:
            continue
        value = values[text]
        if value is None:
            raise VitpeError(f"{where}: value {brief(text, 60)!r}", "values are 0 and 1, -1 and 1, or empty")
        if not all(key):
            raise VitpeError(f"{where}: no {'attribute' if key[0] else 'image'}", "name it, or remove the line")
        first_of.setdefault(value, line)
        if 0 in first_of and -1 in first_of:
            raise VitpeError(
                f"{path}: a value is 0 in line {first_of[0]} and -1 in line {first_of[-1]}",
                "values are 0 and 1, or -1 and 1, not both",
            )
        correction = Correction(line, int(value == 1))
        before = found.setdefault(key, correction)
        if before.value != correction.value:
            raise VitpeError(
                f"{where}: {brief(key[1])} of {brief(key[0])} is {text}, and was {before.value} in line {before.line}",
                "keep one of these lines",
            )
    return found


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _nearest(name: str, known: Sequence[str]) -> str:
    meant = difflib.get_close_matches(name, known, 1)
    return f"did you mean {meant[0]}? there are {', '.join(known)}" if meant else f"there are {', '.join(known)}"
