"""What is told while something takes its time: nothing waits in silence, and the time left is what the pace says."""

import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from tests.helpers import Recorder, tiny_config
from vitpe.cli import progress
from vitpe.cli.progress import Counters, TrainReporter, duration
from vitpe.training.train import train

SCORES = {"mean_accuracy": 0.9, "majority_accuracy": 0.8, "mean_average_precision": 0.7}


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[float], None]]:
    """Time stands still; call with seconds to go on."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def go_on(seconds: float) -> None:
        now[0] += seconds

    yield go_on


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "1 s"),
        (40.4, "40 s"),
        (59.6, "1 min"),
        (61, "1 min"),
        (3570, "1 h 0 min"),
        (7500, "2 h 5 min"),
        (1e6, "277 h 47 min"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_pipe_is_told_the_steps_in_all_and_the_time_left(
    clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]
) -> None:
    with TrainReporter() as reporter:
        reporter.progress(0, 832, None, None)
        clock(30)  # the first step is not counted: it may compile
        reporter.progress(1, 832, None, None)
        for step in range(2, 105):
            clock(0.5)
            reporter.progress(step, 832, 0.25 if step > 4 else None, 396.0 if step > 4 else None)
        reporter.scored(104, SCORES, best=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 1/832  "
    # a step each half a second, a line each ten
    assert re.fullmatch(r"step 22/832  loss 0\.2500  396 images/s  7 min left", lines[1])
    assert [line.split("/")[0] for line in lines[1:5]] == ["step 22", "step 43", "step 64", "step 85"]
    expected = "step 104/832: valid accuracy 0.9000 (majority 0.8000), mAP 0.7000, best"
    assert lines[-1] == f"{expected}  loss 0.2500  396 images/s  6 min left"


def test_a_long_log_stays_short(clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    """Of ten hours, with a step a second, a line each twentieth of the time."""
    with TrainReporter() as reporter:
        for step in range(36_000):
            clock(1)
            reporter.progress(step, 36_000, 0.5, 1.0)
    assert 60 < len(capsys.readouterr().err.splitlines()) < 140


def test_a_pipe_is_told_what_it_waits_for(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(progress, "_SILENCE_SECONDS", 0.02)
    with Counters() as counters:
        with counters.doing("quick"):
            pass
        with counters.doing("slow"):
            time.sleep(0.2)
        counters.start("never counted", 5)
    time.sleep(0.1)
    assert capsys.readouterr().err == "slow …\n"


def test_counts_are_told_with_the_time_left(clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    with Counters() as counters:
        advance = counters.start("scoring valid", 1000)
        for _ in range(4):
            clock(11)
            advance(250)
    assert capsys.readouterr().err.splitlines() == [
        "scoring valid 250/1,000, 33 s left",
        "scoring valid 500/1,000, 22 s left",
        "scoring valid 750/1,000, 11 s left",
    ]


def test_the_other_workers_are_quiet(clock: Callable[[float], None], capsys: pytest.CaptureFixture[str]) -> None:
    with TrainReporter(quiet=True) as reporter, reporter.doing("slow", 10) as advance:
        clock(100)
        advance(5)
        reporter.progress(1, 10, 0.5, 1.0)
    assert capsys.readouterr().err == ""


class Stop(Exception):
    """Of a run that would take hours."""


def test_hours_on_a_cpu_are_warned_of(celeba: Path, tmp_path: Path) -> None:
    class Stopping(Recorder):
        def note(self, text: str) -> None:
            super().note(text)
            if "hours" in text:
                raise Stop(text)

    cpu = torch.device("cpu")
    with pytest.raises(Stop, match=r"warning: on this CPU that may take [\d,]+ hours; --minutes 10"):
        train(tiny_config(celeba, train__steps=10**9), tmp_path / "long", cpu, Stopping())
    train(tiny_config(celeba, train__steps=1), tmp_path / "short", cpu, Stopping())
