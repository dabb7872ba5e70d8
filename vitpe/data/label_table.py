"""What all tables of labels have in common: how they are opened, and what their names and cells mean."""

import collections
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from vitpe.errors import VitpeError
from vitpe.files import read_bounded
from vitpe.text import printable

T = TypeVar("T")

MAX_BYTES: Final = 1_000_000_000
"""A larger table is refused: ten million rows, or a few hundred times CelebA's."""
_BLOCK_BYTES: Final = 1 << 22
_SPLITS: Final = {
    **dict.fromkeys(("train", "training", "0"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "validate", "dev", "1"), "valid"),
    **dict.fromkeys(("test", "testing", "2"), "test"),
}
_HIDDEN: Final = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_JOINERS: Final = "\u200c\u200d"  # of letters in Persian and Hindi
_WORDS: Final = {"true": 1, "false": 0}
_SIDES: Final = re.compile("left|right")
_NO_SIDES: Final = re.compile("(?<![a-z])(cleft|bright|fright|upright|outright|downright|copyright|forthright)")
_WORD_BEGINS: Final = re.compile("(?<=[a-z0-9])(?=[A-Z])")


def open_table(path: Path) -> io.TextIOWrapper:
    """The table's text, with its line breaks as they are; a line that is not UTF-8 raises UnicodeDecodeError.

    VitpeError, whose message is the reason alone, for what is no plain file of at most MAX_BYTES.
    """
    return io.TextIOWrapper(io.BytesIO(read_bounded(path, MAX_BYTES)), encoding="utf-8-sig", newline="")


def read_plain_rows(path: Path, header: int, num_values: int) -> tuple[list[str], NDArray[np.uint8]] | None:
    """The rows below line `header` of a table that is as plain as CelebA's own: (the first field of each, labels
    (rows, num_values) with -1 as 0). None for a table with anything else in it than a name and 1, -1 or 0, parted by
    spaces, or by commas in a .csv: to be read row by row, which finds the line and the value.

    A block of rows at a time becomes arrays of bytes: a field's value is its first byte, the sign, and its last.
    """
    data = read_bounded(path, MAX_BYTES)
    start = 0
    for _ in range(header):
        start = data.find(b"\n", start) + 1
        if not start:
            return None
    names: list[str] = []
    blocks = []
    while start < len(data):
        end = data.find(b"\n", start + _BLOCK_BYTES) + 1 or len(data)
        block = _plain_block(data[start:end], ord(",") if path.suffix == ".csv" else ord(" "), num_values)
        if block is None:
            return None
        names += block[0]
        blocks.append(block[1])
        start = end
    return (names, np.concatenate(blocks)) if blocks else None


def _plain_block(data: bytes, separator: int, num_values: int) -> tuple[list[str], NDArray[np.uint8]] | None:
    """Whole lines."""
    text = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", dtype=np.uint8)
    is_space = (text == separator) | (text == ord("\n")) | (text == ord("\r"))
    if not (text.max(initial=0) < 127 and ((text > ord(" ")) | is_space).all()) or b'"' in data:
        return None
    first = np.flatnonzero(~is_space & np.concatenate([[True], is_space[:-1]]))
    last = np.flatnonzero(~is_space & np.concatenate([is_space[1:], [True]]))
    if separator == ord(","):  # else a field may be empty, and two separators are no one
        commas = text == separator
        if (commas[1:] & is_space[:-1]).any() or commas[0]:
            return None
    if not len(first) or len(first) % (num_values + 1):
        return None
    first, last = first.reshape(-1, num_values + 1), last.reshape(-1, num_values + 1)  # type: ignore[assignment]
    line = np.cumsum(text == ord("\n"))[first]
    if (line != line[:, :1]).any() or (np.diff(line[:, 0]) < 1).any():
        return None
    signs, digits, widths = text[first[:, 1:]], text[last[:, 1:]], last[:, 1:] - first[:, 1:]
    is_one = digits == ord("1")
    negative = (signs == ord("-")) & (widths == 1) & is_one
    positive = (widths == 0) & (is_one | (digits == ord("0")))
    if not (negative | positive).all():
        return None
    names = [data[a : b + 1].decode() for a, b in zip(first[:, 0].tolist(), last[:, 0].tolist(), strict=True)]
    return names, (is_one & ~negative).astype(np.uint8)


class Values(dict[str, int | None]):
    """Cell → 1, 0 or -1, None for anything else: "1", "-1.0", "True" as pandas and others write them."""

    def __missing__(self, text: str) -> int | None:
        value = _WORDS.get(text.strip().lower())
        if value is None:
            number = _number(text)
            value = int(number) if number in (0, 1, -1) else None
        return _remember(self, text, value)


class Splits(dict[str, str | None]):
    """Cell → train, valid or test, None for anything else: "val", "Training", "1", "2.0"."""

    def __missing__(self, text: str) -> str | None:
        number = _number(text)
        split = _SPLITS.get(text.strip().lower() if number is None else f"{number:g}")
        return _remember(self, text, split)


def _remember(cells: dict[str, T], text: str, meaning: T) -> T:
    """There are few spellings; of a column of something else only some are kept."""
    if len(cells) < 1000:
        cells[text] = meaning
    return meaning


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def check_attributes(names: Sequence[str]) -> None:
    """VitpeError for a name that is empty or there twice, or has characters that cannot be seen: those that control a
    terminal (C0 and C1), part lines, turn the direction of writing or have no width.
    """
    for name in names:
        if not name or any(map(_is_hidden, name)):
            raise VitpeError(f"an attribute is called '{printable(name)[:100]}'", "use letters that can be seen")
    if len(set(names)) < len(names):
        name, count = collections.Counter(names).most_common(1)[0]
        raise VitpeError(f"{count} attributes are called {printable(name)[:100]}", "each needs a name of its own")


def _is_hidden(letter: str) -> bool:
    return unicodedata.category(letter) in _HIDDEN and letter not in _JOINERS


def tells_sides(name: str) -> bool:
    """Whether an attribute's name tells left from right, so that a mirrored image needs another label."""
    words = _WORD_BEGINS.sub("_", unicodedata.normalize("NFKC", name)).lower()
    return _SIDES.search(_NO_SIDES.sub("", words)) is not None
