"""What all tables of labels have in common: how they are opened, and what their names and cells mean."""

import collections
import io
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

from vitpe.errors import VitpeError
from vitpe.files import read_bounded
from vitpe.text import printable

T = TypeVar("T")

MAX_BYTES: Final = 1_000_000_000
"""A larger table is refused: ten million rows, or a few hundred times CelebA's."""
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
