"""Where else a run's numbers go, beside metrics.csv: what such a place is told, and that none stops training."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from vitpe.metrics.scores import Scores


class Tracker(Protocol):
    """An experiment tracker. Whatever its methods raise ends it, not the run."""

    name: str

    def start(self, folder: Path, run_id: str | None, config: Mapping[str, Any], step: int) -> None:
        """Before the first step. step: done already, by a run that is resumed."""

    def log(self, row: Mapping[str, object]) -> None:
        """A row of metrics.csv, of which "step" is always there."""

    def scored(self, step: int, scores: Scores) -> None:
        """All scores on valid after a step."""

    def finish(self, folder: Path) -> None:
        """After the last step, or when the run stops before it."""


class Trackers:
    """All of a run's; one that fails is noted and left out from there on."""

    def __init__(self, trackers: Sequence[Tracker], note: Callable[[str], None]) -> None:
        self._trackers, self._note = list(trackers), note

    def start(self, folder: Path, run_id: str | None, config: Mapping[str, Any], step: int) -> None:
        """As a Tracker's."""
        self._each(lambda tracker: tracker.start(folder, run_id, config, step))

    def log(self, row: Mapping[str, object]) -> None:
        """As a Tracker's."""
        self._each(lambda tracker: tracker.log(row))

    def scored(self, step: int, scores: Scores) -> None:
        """As a Tracker's."""
        self._each(lambda tracker: tracker.scored(step, scores))

    def finish(self, folder: Path) -> None:
        """As a Tracker's."""
        self._each(lambda tracker: tracker.finish(folder))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for tracker in list(self._trackers):
            try:
                call(tracker)
            except Exception as error:  # of libraries that talk to servers anything may come
                self._trackers.remove(tracker)
                self._note(f"warning: {tracker.name} failed and is told no more: {type(error).__name__}: {error}")
