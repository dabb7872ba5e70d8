"""Which columns of a dataset are attributes, where nothing but their values tells: one rule for all sources."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.data.image_files import is_image
from vitpe.data.label_table import Values, check_attributes
from vitpe.errors import VitpeError

MANY: Final = 255
"""The number that all values share that come after this many different ones."""
MAX_WORDS: Final = 20
"""A column of no more words than these is one of categories."""
_NO_ATTRIBUTES: Final = frozenset({"celebid", "identity", "personid", "id", "imageid", "imgid", "index"})
"""Names, as `plain` gives them, of numbers that are no attributes even where they are 0 and 1."""
_NO_PARTS: Final = str.maketrans("", "", "_- ")
NUM_NAMED: Final = 3
_CELL: Final = 60  # characters of a cell that a message shows
_OTHER: Final = 2
_NULL: Final = 3
_HINT: Final = "labels are 0 and 1, -1 and 1, true and false, or a few words; remove what is something else"
_TEXTS: Final = Values()

Place = Callable[[int], tuple[object, str]]
"""Of a row the file, and where in it: (labels.csv, "line 3")."""


@dataclass(frozen=True)
class Other:
    """A value that is no text and no number. text: how it is shown."""

    text: str

    def __str__(self) -> str:
        return self.text


class Vocabulary(dict[Any, int]):
    """A column's different values, numbered as they come: 0 … 254, and MANY for all after these."""

    def __missing__(self, value: Any) -> int:
        if len(self) >= MANY:
            return MANY
        number = self[value] = len(self)
        return number


@dataclass(frozen=True)
class Column:
    """values: the different ones, None for a missing one. codes: (rows,) uint8, the number of each row's value."""

    name: str
    values: Sequence[Any]
    codes: NDArray[np.uint8]


@dataclass(frozen=True)
class LabelColumns:
    """attributes: names. labels: (rows, attributes) uint8, 0 or 1. left_out: name → what it holds instead of labels.
    words: name → the words that became attributes.
    """

    attributes: tuple[str, ...]
    labels: NDArray[np.uint8]
    left_out: dict[str, str] = field(default_factory=dict)
    words: dict[str, list[str]] = field(default_factory=dict)

    def notes(self, path: object) -> Iterator[str]:
        """What became of the columns of `path`, a line each."""
        for name, words in self.words.items():
            if len(words) > 1:
                yield f"{path}: {name} is one attribute for each of its {len(words)} words: {name}={words[0]}, …"
            else:
                yield f"{path}: {name} has two words and is one attribute, {name}={words[0]}"
        if self.left_out:
            columns = ", ".join(f"{name} ({kind})" for name, kind in self.left_out.items())
            yield f"columns that are no attributes are left out: {columns[:300]}"


def plain(name: str) -> str:
    """In lower case, without "_", "-" and spaces."""
    return name.lower().translate(_NO_PARTS)


def choose_columns(path: object, columns: Sequence[Column], place: Place, strict: bool) -> LabelColumns:
    """Those that are labels. A column of a few words, each again and again, is an attribute for each of them
    (race=Black), of two words one (gender=Male); one whose values are mostly 0, 1 and -1 is one attribute.

    What numbers the images or names their files is left out. So is what else there is, or, if `strict`, as in a table
    that its user wrote and can mend, it is refused. path, place: for messages. Raises VitpeError naming the rows of
    values that are missing or no labels, for a column with both 0 and -1, which would leave open what 0 means, and when
    there is no attribute.
    """
    attributes: list[tuple[str, NDArray[np.bool_]]] = []
    left_out, words_of = dict[str, str](), dict[str, list[str]]()
    wrong = _WrongCells(place)
    for column in columns:
        cells = _Cells(column)
        words = cells.words()
        if cells.name_images:
            left_out[column.name] = cells.kind
        elif words and not (strict and cells.has_gaps):
            if cells.has_gaps:
                left_out[column.name] = "text with gaps"
                continue
            words_of[column.name] = named = list(words) if len(words) != 2 else [*words][1:]
            attributes += [(f"{column.name}={word}", np.isin(column.codes, words[word])) for word in named]
        elif not strict and not cells.are_mostly_labels:
            left_out[column.name] = cells.kind
        elif not wrong.add(cells):
            cells.check_signs(place)
            attributes.append((column.name, cells.equal(1)))
    wrong.refuse()
    full = tuple(name for name, _ in attributes)
    names = full if strict else _bare(full)  # a table has no structs
    if not names:
        there = f" ({', '.join(column.name for column in columns)[:200]})" if columns else ""
        raise VitpeError(f"{path} has no column of labels{there}", _HINT)
    try:
        check_attributes(names)
    except VitpeError as error:
        raise VitpeError(f"{path}: {error.message}", error.hint) from error
    labels = np.stack([has_it for _, has_it in attributes], axis=1).astype(np.uint8)
    return LabelColumns(names, labels, left_out, words_of)


def name_problems(found: Sequence[tuple[object, str, str]], count: int, more: str = "") -> str:
    """ "labels.csv, line 2: no path; line 7: no path; … 5 in all": of (file, where, what), of `count` the first few.
    more: what stands behind the count.
    """
    parts, last = list[str](), None
    for file, where, what in found[:NUM_NAMED]:
        parts.append(f"{'' if file == last else f'{file}, '}{where}: {what}")
        last = file
    return "; ".join(parts) + (f"; … {count:,}{more} in all" if count > NUM_NAMED else "")


class _Cells:
    """What a column's values mean."""

    def __init__(self, column: Column) -> None:
        self.column = column
        self._meanings = np.full(MANY + 1, _OTHER, dtype=np.int8)
        self._meanings[: len(column.values)] = [_meaning(value) for value in column.values]
        self._counts = np.bincount(column.codes, minlength=MANY + 1)

    @property
    def name_images(self) -> bool:
        """Whether they number the images, or are names of files."""
        first = next((value for value in self.column.values if value not in (None, "")), None)
        is_file = isinstance(first, str) and is_image(first.strip())
        return is_file or plain(self.column.name) in _NO_ATTRIBUTES

    @property
    def kind(self) -> str:
        """What they are, for a note."""
        there = [value for value in self.column.values if _meaning(value) != _NULL]
        if not there:
            return "empty"
        if any(isinstance(value, str) and not _is_number(value) for value in there):
            return "text"
        return "numbers" if all(isinstance(value, int | float | str) for value in there) else "other"

    @property
    def has_gaps(self) -> bool:
        return self._count(_NULL) > 0

    @property
    def are_mostly_labels(self) -> bool:
        others, there = self._count(_OTHER), len(self.column.codes) - self._count(_NULL)
        return 2 * others <= there and there > 0

    def words(self) -> dict[str, list[int]]:
        """Each word, in alphabetical order, with the numbers of its spellings; none where they are not words, or many,
        or of each image another."""
        there = sum(_meaning(value) != _NULL for value in self.column.values)
        found = self._words()
        return found if sum(map(len, found.values())) == there else {}

    def equal(self, meaning: int) -> NDArray[np.bool_]:
        """(rows,)"""
        found: NDArray[np.bool_] = (self._meanings == meaning)[self.column.codes]
        return found

    def check_signs(self, place: Place) -> None:
        """VitpeError for both 0 and -1."""
        if self._count(0) and self._count(-1):
            (file, zero), (other, minus) = (place(int(self.equal(value).argmax())) for value in (0, -1))
            there = minus if other == file else f"{other}, {minus}"
            raise VitpeError(
                f"{file}: {self.column.name} is 0 in {zero} and -1 in {there}",
                "a column is 0 and 1, or -1 and 1, not both",
            )

    def wrong(self) -> NDArray[np.int64]:
        """Rows that are no label, or among words no word."""
        if words := self._words():
            is_word = np.zeros(MANY + 1, dtype=np.bool_)
            is_word[[code for codes in words.values() for code in codes]] = True
            if 2 * self._counts[is_word].sum() > len(self.column.codes):
                return np.flatnonzero(~is_word[self.column.codes])
        if not self._count(_OTHER) and not self._count(_NULL):
            return np.empty(0, dtype=np.int64)
        return np.flatnonzero(self.equal(_OTHER) | self.equal(_NULL))

    def shown(self, row: int) -> str:
        """What stands in a row."""
        code = self.column.codes[row]
        value = self.column.values[code] if code < len(self.column.values) else "something else"
        if _meaning(value) == _NULL:
            return f"{self.column.name} is empty"
        return f"{self.column.name} is {repr(value.strip()[:_CELL]) if isinstance(value, str) else str(value)[:_CELL]}"

    def _words(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for code, value in enumerate(self.column.values):
            if isinstance(value, str) and _meaning(value) == _OTHER and not _is_number(value):
                found.setdefault(value.strip(), []).append(code)
        most = min(MAX_WORDS, len(self.column.codes) / 2)
        return dict(sorted(found.items())) if 2 <= len(found) <= most and not self._counts[MANY] else {}

    def _count(self, meaning: int) -> int:
        return int(self._counts[self._meanings == meaning].sum())


class _WrongCells:
    """Those of all columns: how many, and the first few."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self._first: list[tuple[int, str]] = []
        self._count = 0

    def add(self, cells: _Cells) -> bool:
        """Whether there are any."""
        rows = cells.wrong()
        self._first += [(int(row), cells.shown(int(row))) for row in rows[:NUM_NAMED]]
        self._count += len(rows)
        return bool(len(rows))

    def refuse(self) -> None:
        """VitpeError, if there were any."""
        if self._count:
            self._first.sort(key=lambda each: each[0])
            found = [(*self._place(row), what) for row, what in self._first[:NUM_NAMED]]
            raise VitpeError(name_problems(found, self._count), _HINT)


def _meaning(value: Any) -> int:
    if value is None:
        return _NULL
    if isinstance(value, str):
        if not value.strip():
            return _NULL
        known = _TEXTS[value]
        return _OTHER if known is None else known
    if isinstance(value, int | float) and value in (0, 1, -1):
        return int(value)
    return _OTHER


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return _TEXTS[text] is not None
    return True


def _bare(names: tuple[str, ...]) -> tuple[str, ...]:
    """Without the name of the struct that they are fields of, where that leaves no two alike."""
    bare = []
    for name in names:
        column, equals, word = name.partition("=")
        bare.append(column.rpartition(".")[2] + equals + word)
    return tuple(bare) if len(set(bare)) == len(bare) else names
