"""Names and messages from anywhere, made safe to show."""

from collections.abc import Sequence


def printable(text: str) -> str:
    r"""`text` on one line; what controls a terminal or cannot be seen is written as \n, \x1b, \u202e, \xff.

    Not printable are control characters (C0 and C1), separators of lines and paragraphs, all spaces but " ", what turns
    the direction of writing, what has no width, and bytes of a file's name that are no text.
    """
    return text if text.isprintable() else "".join(map(_printable_letter, text))


def _printable_letter(letter: str) -> str:
    if letter.isprintable():
        return letter
    if "\udc80" <= letter <= "\udcff":  # a byte of a file's name that is no text, see os.fsdecode
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def brief(value: object, limit: int = 200) -> str:
    """str(value) on one printable line of at most `limit` characters, for a message."""
    line = printable(str(value)[: limit + 1])
    return line if len(line) <= limit else line[: limit - 1] + "…"


def printable_lines(text: str) -> str:
    """The same for a text of many lines, which stay lines."""
    return text if text.isprintable() else "\n".join(map(printable, text.split("\n")))


def some(names: Sequence[str]) -> str:
    """The first three, parted by commas."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
