"""What the commands write: results on stdout; progress, notes and errors on stderr."""

import io
import json
import sys
from collections.abc import Callable
from types import TracebackType
from typing import Any, NoReturn

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from vitpe.errors import VitpeError

PIPED_WIDTH = 100
"""Of a table that goes into a pipe or a file, whose width nobody knows."""


def stderr_console() -> Console:
    """A console on stderr; away from a terminal it neither wraps, nor colours, nor draws bars."""
    if sys.stderr.isatty():
        return Console(stderr=True, highlight=False)
    return Console(stderr=True, highlight=False, force_terminal=False, color_system=None, width=10_000)


def printable(text: str) -> str:
    r"""`text` on one line and without control of the terminal: what cannot be printed is written as \n, \x1b, \xff."""
    return text if text.isprintable() else "".join(map(_printable_letter, text))


def _printable_letter(letter: str) -> str:
    if letter.isprintable():
        return letter
    if "\udc80" <= letter <= "\udcff":  # a byte of a file's name that is no text, see os.fsdecode
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("unicode_escape").decode()


def show_error(error: VitpeError) -> None:
    """One line of fact, one line of hint."""
    console = stderr_console()
    console.print(f"[red]error:[/] {escape(printable(error.message))}", soft_wrap=True)
    if error.hint:
        console.print(f"[dim]hint:[/] {escape(printable(error.hint))}", soft_wrap=True)


def show_note(text: str) -> None:
    """One line that the user should know."""
    stderr_console().print(f"[dim]{escape(printable(text))}[/]", soft_wrap=True)


class _Stdout(Console):
    def on_broken_pipe(self) -> NoReturn:
        """Raise the BrokenPipeError that is being handled; rich would exit with code 1."""
        raise


def show_table(table: RenderableType) -> None:
    """A result for people, on stdout; the same text in every pipe, whatever the terminal and its settings."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stdout.isatty():
        console = _Stdout(highlight=False)
    else:
        console = _Stdout(highlight=False, force_terminal=False, color_system=None, width=PIPED_WIDTH)
    console.print(table, crop=False)  # a long name of a file stays whole


def show_summary(values: dict[str, Any], lines: list[str]) -> None:
    """A short result: `lines` on a terminal, `values` as JSON on one line in a pipe."""
    print("\n".join(lines) if sys.stdout.isatty() else json.dumps(values))


def write_result(text: str) -> None:
    """A result for programs, at once: UTF-8 whatever the locale; names that are no text byte by byte as they were."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8", errors="surrogateescape")
    sys.stdout.write(text)
    sys.stdout.flush()


class Counters:
    """Progress bars on a terminal, one for each thing that is counted."""

    def __init__(self) -> None:
        console = stderr_console()
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )

    def start(self, description: str, total: int) -> Callable[[int], None]:
        """A bar over `total` things; call what is returned with how many more are done."""
        task = self._progress.add_task(description, total=total)
        return lambda count: self._progress.advance(task, count)

    def note(self, text: str) -> None:
        """One line that the user should know, above the bars."""
        self._progress.console.print(f"[dim]{escape(printable(text))}[/]", soft_wrap=True)

    def __enter__(self) -> "Counters":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


class TrainReporter:
    """Shows a training run (see training.loop.Reporter): a bar on a terminal, a line per scoring elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = stderr_console()
        self._quiet = quiet  # all workers but the first
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._preparing: TaskID | None = None
        self._training: TaskID | None = None
        self._status = {"loss": "", "speed": ""}

    def __enter__(self) -> "TrainReporter":
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def note(self, text: str) -> None:
        """One line that the user should know."""
        if not self._quiet:
            self._console.print(f"[dim]{escape(printable(text))}[/]", soft_wrap=True)

    def prepared(self, done: int, total: int) -> None:
        """While a split's images are decoded or drawn up front."""
        if self._preparing is None:
            self._preparing = self._progress.add_task("preparing images", total=total, status="")
        self._progress.update(self._preparing, completed=done, total=total)
        if done == total:
            self._progress.remove_task(self._preparing)
            self._preparing = None

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        """After a step; loss and speed are None between the rows of the log."""
        if self._training is None:
            self._training = self._progress.add_task("training", total=num_steps, completed=step, status="")
        if loss is not None:
            self._status["loss"] = f"loss {loss:.4f}"
        if images_per_second is not None:
            self._status["speed"] = f"{images_per_second:,.0f} images/s"
        self._progress.update(self._training, completed=step, status="  ".join(filter(None, self._status.values())))

    def scored(self, step: int, scores: dict[str, float], best: bool) -> None:
        """After a scoring on valid."""
        self.note(
            f"step {step:>6,}: valid accuracy {scores['mean_accuracy']:.4f}"
            f" (majority {scores['majority_accuracy']:.4f}),"
            f" mean average precision {scores['mean_average_precision']:.4f}"
            f"{', best so far' if best else ''}  {self._status['loss']}  {self._status['speed']}"
        )
