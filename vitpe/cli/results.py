"""What the commands write for programs."""

import io
import sys

from vitpe.text import printable_lines


def write_result(text: str) -> None:
    """A result for programs, at once: UTF-8 whatever the locale; names that are no text byte by byte as they were.

    On a terminal, where no program reads it, without what could control that.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    sys.stdout.write(printable_lines(text) if sys.stdout.isatty() else text)
    sys.stdout.flush()
