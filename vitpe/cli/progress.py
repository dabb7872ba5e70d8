"""How far what takes its time has come: bars on a terminal, a line now and then in a pipe or a log."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, Self

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vitpe.cli.console import moves, print_line, stderr_console

_SILENCE_SECONDS: Final = 1.5
"""After which a pipe is told what is waited for."""
_LINE_SECONDS: Final = 10.0
_LINE_SHARE: Final = 0.05
"""Between two lines: so many seconds, or this share of the time so far, which keeps the log of days short."""


def duration(seconds: float) -> str:
    """To a second, from a minute on to a minute: "40 s", "5 min", "2 h 5 min"."""
    if seconds < 59.5:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


class _Pace:
    """When a pipe is told of progress again."""

    def __init__(self) -> None:
        self.began = self._told = time.monotonic()

    def told(self) -> None:
        """A line was written."""
        self._told = time.monotonic()

    @property
    def is_due(self) -> bool:
        """Whether the last line is long enough ago."""
        now = time.monotonic()
        return now - self._told > max(_LINE_SECONDS, _LINE_SHARE * (now - self.began))


class _Count:
    """Things that are counted in a pipe: a line when they take long, then one now and then."""

    def __init__(self, what: str, total: int | None, tell: Callable[[str], None]) -> None:
        self._what, self._total, self._tell = what, total, tell
        self._done, self._pace = 0, _Pace()
        self._timer = threading.Timer(_SILENCE_SECONDS, tell, [f"{what} …"])
        self._timer.daemon = True
        self._timer.start()

    def advance(self, count: int) -> None:
        """So many more are done."""
        self._done += count
        if self._total is None:
            return
        if self._done >= self._total:
            self.end()
        elif self._done and self._pace.is_due:
            self._pace.told()
            left = (time.monotonic() - self._pace.began) * (self._total / self._done - 1)
            self._tell(f"{self._what} {self._done:,}/{self._total:,}, {duration(left)} left")

    def end(self) -> None:
        """They are not waited for any more."""
        self._timer.cancel()


class Counters:
    """A bar, or lines, for each thing that is counted. quiet: as all workers but the first are."""

    def __init__(self, quiet: bool = False) -> None:
        self._console: Console = stderr_console()
        self._quiet = quiet
        self._has_bars = moves(self._console) and not quiet
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.fields[status]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._has_bars,
        )
        self._counts: list[_Count] = []

    def start(self, description: str, total: int) -> Callable[[int], None]:
        """`total` things begin; call what is returned with how many more are done."""
        return self._start(description, total)[0]

    @contextmanager
    def doing(self, what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
        """Within, that is waited for; call what is given with how many more of `total` are done."""
        advance, end = self._start(what, total)
        try:
            yield advance
        finally:
            end()

    def _start(self, what: str, total: int | None) -> tuple[Callable[[int], None], Callable[[], None]]:
        """What is called when more are done, and when nothing is waited for any more."""
        if not self._has_bars:
            count = _Count(what, total, self.note)
            self._counts.append(count)
            return count.advance, count.end
        task, done = self._bars.add_task(what, total=total, status=""), 0

        def advance(count: int) -> None:
            nonlocal done
            done += count
            self._bars.update(task, completed=done, status="" if total is None else f"{done:,}/{total:,}")

        return advance, lambda: self._bars.remove_task(task)

    def note(self, text: str) -> None:
        """One line that the user should know, above the bars."""
        if not self._quiet:
            print_line(self._console, text, "dim")

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        for count in self._counts:
            count.end()
        self._bars.stop()


class TrainReporter(Counters):
    """Shows a training run (see training.loop.Reporter): a bar on a terminal; elsewhere a line a scoring, and one now
    and then, with the steps in all and the time left.
    """

    def __init__(self, quiet: bool = False) -> None:
        super().__init__(quiet)
        self._preparing: tuple[int, Callable[[int], None], Callable[[], None]] | None = None
        self._training: TaskID | None = None
        self._status = {"loss": "", "speed": ""}
        self._num_steps = 0
        self._since: tuple[float, int] | None = None  # the end of the first step, which is slower than the others
        self._pace = _Pace()

    def note(self, text: str) -> None:
        """One line that the user should know."""
        super().note(text)
        self._pace.told()

    def prepared(self, done: int, total: int) -> None:
        """While a split's images are decoded or drawn up front."""
        before, advance, end = self._preparing or (0, *self._start("preparing images", total))
        advance(done - before)
        if done == total:
            end()
        self._preparing = None if done == total else (done, advance, end)

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        """After a step; loss and speed are None between the rows of the log."""
        self._num_steps = num_steps
        if self._since is None and step:
            self._since = time.monotonic(), step
        if loss is not None:
            self._status["loss"] = f"loss {loss:.4f}"
        if images_per_second is not None:
            self._status["speed"] = f"{images_per_second:,.0f} images/s"
        if not self._has_bars:
            if self._pace.is_due and step < num_steps:
                self.note(f"step {step:,}/{num_steps:,}  {self._status_text(step)}")
            return
        if self._training is None:
            self._training = self._bars.add_task("training", total=num_steps, completed=step, status="")
        status = "  ".join(filter(None, (f"{step:,}/{num_steps:,}", *self._status.values())))
        self._bars.update(self._training, completed=step, status=status)

    def scored(self, step: int, scores: dict[str, float], best: bool) -> None:
        """After a scoring on valid."""
        total = f"{self._num_steps:,}"
        self.note(
            f"step {step:>{len(total)},}/{total}: valid accuracy {scores['mean_accuracy']:.4f}"
            f" (majority {scores['majority_accuracy']:.4f}), mAP {scores['mean_average_precision']:.4f}"
            f"{', best' if best else ''}{'' if self._has_bars else f'  {self._status_text(step)}'}"
        )

    def _status_text(self, step: int) -> str:
        """In place of a bar."""
        left = ""
        if self._since is not None and self._since[1] < step < self._num_steps:
            began, first = self._since
            left = f"{duration((time.monotonic() - began) / (step - first) * (self._num_steps - step))} left"
        return "  ".join(filter(None, (*self._status.values(), left)))
