"""Answers as a file, one row an image, so that they can be scored again without a model; anyone's, not only vitpe's.

Columns of CSV and parquet: "file", and for an attribute NAME "prob:NAME", "label:NAME" and, where it is not 0.5,
"threshold:NAME"; maybe "split". A "label:NAME" alone serves to group images. A line of JSON lines holds the same as
{"file", "split", "probs": {NAME: …}, "labels": {NAME: …}, "thresholds": {NAME: …}}. Numbers are written so that they
are read as the very same float64.
"""

import csv
import io
import json
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, Final

import numpy as np

from vitpe.data.label_table import MAX_BYTES, Values, check_attributes, open_table
from vitpe.errors import UsageError, VitpeError
from vitpe.files import read_bounded
from vitpe.inference.answers import Answers, Labels
from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.thresholds import DEFAULT_THRESHOLD
from vitpe.outputs import check_folder
from vitpe.reporting.records import SCHEMA, csv_line, dumps
from vitpe.text import brief, some

SUFFIXES: Final = (".csv", ".jsonl", ".parquet")
_KINDS: Final = {"probs": "prob", "labels": "label", "thresholds": "threshold"}
_INSTALL: Final = "install it: pip install pyarrow; or choose .csv or .jsonl"

_Rows = Iterator[tuple[str, Sequence[Any]]]
"""Where a row is ("line 7"), and its cells."""


def check_answers_file(path: Path, option: str = "--answers") -> None:
    """Raise what would hinder writing answers to `path`, a file that is there among it."""
    _check_suffix(path, option)
    if path.exists():
        raise UsageError(f"{option} {path} is there already", "choose another name, or move it away")
    check_folder(path.absolute().parent, path)


def _check_suffix(path: Path, option: str) -> None:
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{option} {path} does not end in {', '.join(SUFFIXES)}", f"name it {path.stem}.csv")
    if path.suffix.lower() == ".parquet":
        _pyarrow()


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise VitpeError("parquet needs pyarrow, which is not installed", _INSTALL) from error
    return pyarrow, pyarrow.parquet


def answers_bytes(answers: Answers, suffix: str) -> bytes:
    """The answers as a file of that kind, see SUFFIXES."""
    header, rows = _table(answers)
    if suffix == ".csv":
        lines = [csv_line(header), *map(csv_line, rows)]
        return "".join(lines).encode(errors="surrogateescape")
    if suffix == ".jsonl":
        return "".join(dumps(_record(header, row), None) + "\n" for row in rows).encode()
    arrow, parquet = _pyarrow()
    file = io.BytesIO()
    try:
        table = arrow.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True)))
    except UnicodeEncodeError as error:
        raise VitpeError("a file's name is no text, which parquet cannot hold", "choose .csv or .jsonl") from error
    parquet.write_table(table, file)
    return file.getvalue()


def _table(answers: Answers) -> tuple[list[str], Iterable[list[Any]]]:
    header = ["file", "split"]
    header += [f"prob:{name}" for name in answers.attributes]
    header += [f"label:{name}" for name in answers.labels.attributes]
    header += [f"threshold:{name}" for name in answers.attributes]
    thresholds = answers.thresholds.tolist()
    parts = zip(answers.names, answers.probs.tolist(), answers.labels.values.tolist(), strict=True)
    split = answers.info.split
    return header, [[name, split, *probs, *labels, *thresholds] for name, probs, labels in parts]


def _record(header: Sequence[str], row: Sequence[Any]) -> dict[str, Any]:
    record: dict[str, Any] = {"schema": SCHEMA, "file": row[0], "split": row[1]}
    for group, kind in _KINDS.items():
        prefix = f"{kind}:"
        record[group] = {
            column.removeprefix(prefix): cell
            for column, cell in zip(header, row, strict=True)
            if column.startswith(prefix)
        }
    return record


def read_answers(path: Path) -> tuple[Answers, list[str]]:
    """The answers of a file, and notes of what was assumed or not read.

    Raises VitpeError naming the row: for a probability that is no number from 0 to 1, a label that is not 0 or 1 or is
    missing, an image that is there twice, and a threshold that changes from row to row.
    """
    _check_suffix(path, "--from-answers")
    try:
        header, rows = _OPEN[path.suffix.lower()](path)
        return _Reader(path, header).read(rows)
    except UnicodeDecodeError as error:
        raise VitpeError(f"{path} is not UTF-8 text", "save it in UTF-8") from error


def _csv_rows(path: Path) -> tuple[list[str], _Rows]:
    reader = csv.reader(_text(path), strict=True)

    def rows() -> Iterator[tuple[str, list[str]]]:
        try:
            for row in reader:
                if row:
                    yield f"line {reader.line_num}", row
        except csv.Error as error:
            raise VitpeError(f"{path}, line {reader.line_num}: {error}", "save it as plain CSV") from error

    numbered = rows()
    return [name.strip() for name in next(numbered, ("", []))[1]], numbered


def _jsonl_rows(path: Path) -> tuple[list[str], _Rows]:
    def records() -> Iterator[tuple[str, dict[str, Any]]]:
        for number, line in enumerate(_text(path), 1):
            if not line.strip():
                continue
            try:
                flat = _flat(json.loads(line))
            except (ValueError, RecursionError, AttributeError) as error:
                raise VitpeError(f"{path}, line {number} is no JSON object of answers", _SHAPE) from error
            yield f"line {number}", flat

    found = records()
    first = next(found, None)
    header = [] if first is None else list(first[1])

    def rows() -> _Rows:
        for where, record in chain([] if first is None else [first], found):
            missing = [name for name in header if name not in record]
            if missing or len(record) != len(header):
                other = missing or [name for name in record if name not in header]
                raise VitpeError(
                    f"{path}, {where} {'lacks' if missing else 'alone has'} {brief(other[0], 60)}",
                    "each line holds the same attributes",
                )
            yield where, [record[name] for name in header]

    return header, rows()


_SHAPE: Final = 'a line is {"file": "a.jpg", "probs": {"Smiling": 0.9}, "labels": {"Smiling": 1}}'


def _flat(record: dict[str, Any]) -> dict[str, Any]:
    """As the columns of CSV."""
    flat = {key: value for key, value in record.items() if key not in _KINDS and key != "schema"}
    for group, kind in _KINDS.items():
        flat |= {f"{kind}:{name}": value for name, value in record.get(group, {}).items()}
    return flat


def _parquet_rows(path: Path) -> tuple[list[str], _Rows]:
    arrow, parquet = _pyarrow()
    try:
        table = parquet.read_table(io.BytesIO(_bytes(path)))
    except (arrow.ArrowException, OSError) as error:
        raise VitpeError(f"{path} is no parquet file that can be read", "write it anew") from error

    def rows() -> _Rows:
        row = 0
        for batch in table.to_batches(max_chunksize=1024):
            for cells in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                row += 1
                yield f"row {row}", cells

    return table.column_names, rows()


_OPEN: Final = {".csv": _csv_rows, ".jsonl": _jsonl_rows, ".parquet": _parquet_rows}


def _text(path: Path) -> io.TextIOWrapper:
    try:
        return io.TextIOWrapper(open_table(path).detach(), "utf-8-sig", errors="surrogateescape", newline="")
    except (VitpeError, OSError) as error:
        raise _unreadable(path, error) from error


def _bytes(path: Path) -> bytes:
    try:
        return read_bounded(path, MAX_BYTES)
    except (VitpeError, OSError) as error:
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> VitpeError:
    reason = error.message if isinstance(error, VitpeError) else getattr(error, "strerror", None) or error
    return VitpeError(f"cannot read {path}: {reason}", "name a file that vitpe eval --answers wrote, or one like it")


class _Reader:
    """Cells → answers, a row at a time."""

    def __init__(self, path: Path, header: Sequence[str]) -> None:
        self._path = path
        twice = [name for name, count in Counter(header).items() if count > 1]
        if twice:
            raise VitpeError(f"{path} has two columns {brief(twice[0], 60)!r}", "keep one of them")
        if "file" not in header:
            raise VitpeError(f"{path} has no column named file", "name each image in a column: file")
        self._header = list(header)
        self._columns = {kind: self._of(kind) for kind in _KINDS.values()}
        self._attributes = tuple(self._columns["prob"])
        self._labelled = tuple(self._columns["label"])
        if not self._attributes:
            raise VitpeError(
                f"{path} has no probabilities", "name their columns prob:Smiling, those of labels label:Smiling"
            )
        for kind in ("prob", "threshold"):
            missing = [name for name in self._columns[kind] if name not in self._columns["label"]]
            if missing:
                raise VitpeError(f"{path} has {kind}:{missing[0]} and no label:{missing[0]}", "give the labels, too")
        check_attributes(self._labelled)
        self._values = Values()

    def _of(self, kind: str) -> dict[str, int]:
        """Attribute → column number."""
        prefix = f"{kind}:"
        columns = enumerate(self._header)
        return {name.removeprefix(prefix): column for column, name in columns if name.startswith(prefix)}

    def read(self, rows: _Rows) -> tuple[Answers, list[str]]:
        """All of them."""
        probs, labels = array("d"), array("b")
        seen: dict[str, str] = {}
        thresholds: list[float] | None = None
        splits: set[str] = set()
        file = self._header.index("file")
        split = self._header.index("split") if "split" in self._header else None
        for where, cells in rows:
            if len(cells) != len(self._header):
                raise self._wrong(where, f"{len(cells)} fields", f"the header names {len(self._header)} columns")
            name = cells[file]
            if not isinstance(name, str) or not name:
                raise self._wrong(where, "no file", "name each image")
            if name in seen:
                raise self._wrong(where, f"{brief(name, 60)} again, as in {seen[name]}", "keep one row for each image")
            seen[name] = where
            if split is not None:
                splits.add(str(cells[split] or ""))
            probs.extend(self._number(where, column, cells) for column in self._columns["prob"].values())
            labels.extend(self._label(where, column, cells) for column in self._columns["label"].values())
            given = [self._number(where, column, cells) for column in self._columns["threshold"].values()]
            if thresholds is not None and given != thresholds:
                changed = next(i for i, value in enumerate(given) if value != thresholds[i])
                name = list(self._columns["threshold"])[changed]
                raise self._wrong(
                    where,
                    f"threshold:{name} is {given[changed]}, before {thresholds[changed]}",
                    "it is one for all images",
                )
            thresholds = given
        if thresholds is None:
            raise VitpeError(f"{self._path} has no answers", "each row holds those of one image")
        known = dict(zip(self._columns["threshold"], thresholds, strict=True))
        chosen = np.array([known.get(name, DEFAULT_THRESHOLD) for name in self._attributes])
        words = f"{chosen[0]:g}" if len(set(chosen.tolist())) == 1 else "of the answers"
        split_name = splits.pop() if len(splits) == 1 else ""
        answers = Answers(
            info=EvalInfo(str(self._path), split_name or None, "answers", thresholds=words),
            names=list(seen),
            attributes=self._attributes,
            probs=np.frombuffer(probs).reshape(len(seen), -1),
            thresholds=chosen,
            labels=Labels(self._labelled, np.frombuffer(labels, np.int8).astype(np.uint8).reshape(len(seen), -1)),
        )
        return answers, list(self._notes())

    def _notes(self) -> Iterator[str]:
        known = {"file", "split"} | {f"{kind}:{name}" for kind, names in self._columns.items() for name in names}
        ignored = [name for name in self._header if name not in known]
        if ignored:
            many = "columns are" if len(ignored) > 1 else "column is"
            yield f"{len(ignored)} {many} not read: {brief(some(ignored))}"
        without = [name for name in self._attributes if name not in self._columns["threshold"]]
        if without:
            yield f"{self._path} has no thresholds for {some(without)}: {DEFAULT_THRESHOLD} is taken"

    def _number(self, where: str, column: int, cells: Sequence[Any]) -> float:
        cell = cells[column]
        try:
            value = float(cell)
        except (TypeError, ValueError):
            value = np.nan
        if not 0 <= value <= 1 or (isinstance(cell, str) and "_" in cell):  # NaN is not either
            raise self._wrong(where, self._shown(column, cell), "expected a number from 0 to 1")
        return value

    def _label(self, where: str, column: int, cells: Sequence[Any]) -> int:
        cell = cells[column]
        value = self._values[str(cell)] if cell is not None else None
        if value not in (0, 1):
            raise self._wrong(where, self._shown(column, cell), "labels are 0 and 1, one for each image")
        return int(value)

    def _shown(self, column: int, cell: Any) -> str:
        name = self._header[column]
        return f"{name} is missing" if cell is None or cell == "" else f"{name} is {brief(cell, 60)!r}"

    def _wrong(self, where: str, what: str, hint: str) -> VitpeError:
        return VitpeError(f"{self._path}, {where}: {brief(what)}", hint)
