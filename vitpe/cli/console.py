"""What the commands write: results on stdout; progress, notes and errors on stderr."""

import io
import json
import os
import sys
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from vitpe.cli.results import write_result
from vitpe.errors import VitpeError
from vitpe.text import brief, printable, printable_lines

_MAX_LINE = 2_000
PIPED_WIDTH = 100
"""Of a table that goes into a pipe or a file, whose width nobody knows."""


class SafeConsole(Console):
    """A console that obeys no text: nothing in a name is markup, and what could control a terminal is shown escaped.

    Names in cells of tables are best given as str, which are escaped before a column's width is reckoned, or as what
    `printable` made of them; anything else is escaped when it is written.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """The text as it stands, on one line."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """As rich does, without control characters in any text."""
        for segment in super().render(renderable, options):
            safe = segment.control or segment.text.isprintable() or segment.text == "\n"
            yield segment if safe else Segment(printable_lines(segment.text), segment.style)

    def on_broken_pipe(self) -> NoReturn:
        """Raise the BrokenPipeError that is being handled; rich would exit with code 1."""
        raise


class _Stderr(io.TextIOBase):
    """stderr, which may go away: what cannot be written is dropped and stops nothing, whoever was to read it."""

    def __init__(self) -> None:
        self._stream = sys.stderr
        self.isatty, self.fileno = self._stream.isatty, self._stream.fileno  # type: ignore[method-assign]

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """What can be shown there."""
        return self._stream.encoding

    def write(self, text: str) -> int:
        """len(text), whether it could be written or not."""
        try:
            self._stream.write(text)
        except OSError:
            self._give_up()
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._give_up()

    def _give_up(self) -> None:
        """From now on all of it, what is still waiting included, goes nowhere."""
        with suppress(OSError), open(os.devnull, "wb") as null:  # noqa: PTH123
            os.dup2(null.fileno(), self._stream.fileno())


def stderr_console() -> Console:
    """A console on stderr; away from a terminal it neither wraps, nor colours, nor draws bars."""
    stderr: Any = _Stderr()
    if stderr.isatty():
        return SafeConsole(file=stderr, stderr=True)
    return SafeConsole(file=stderr, stderr=True, force_terminal=False, color_system=None, width=10_000)


def moves(console: Console) -> bool:
    """Whether bars can move there: on a terminal that can write over what it has written."""
    return console.is_terminal and not console.is_dumb_terminal


def print_line(console: Console, text: str, style: str = "", head: int = 0) -> None:
    """Broken between words where a terminal is too narrow, never within one: a file's name can be copied whole.

    `style` is of the first `head` letters, or of all. What nobody would read to its end is cut.
    """
    text = brief(text, _MAX_LINE)
    if console.is_terminal:
        text = textwrap.fill(text, console.width, break_long_words=False, break_on_hyphens=False)
    line = Text(text)
    line.stylize(style, 0, head or None)
    console.print(line, soft_wrap=True)


def show_error(error: VitpeError) -> None:
    """One line of fact, one line of hint."""
    console = stderr_console()
    print_line(console, f"error: {error.message}", "red", head=len("error:"))
    if error.hint:
        print_line(console, f"hint: {error.hint}", "dim", head=len("hint:"))


def show_note(text: str) -> None:
    """One line that the user should know."""
    print_line(stderr_console(), text, "dim")


def show_table(table: RenderableType) -> None:
    """A result for people, on stdout; the same text in every pipe, whatever the terminal and its settings."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stdout.isatty():
        console = SafeConsole()
    else:
        console = SafeConsole(force_terminal=False, color_system=None, width=PIPED_WIDTH)
    console.print(table, crop=False)  # a long name of a file stays whole


def show_summary(values: dict[str, Any], lines: list[str]) -> None:
    """A short result: `lines` on a terminal, `values` as JSON on one line in a pipe."""
    write_result("\n".join(map(printable, lines) if sys.stdout.isatty() else [json.dumps(values)]) + "\n")
