"""A budget of time: how many steps fit, and a run that has it."""

import time
from contextlib import nullcontext
from types import SimpleNamespace

import pytest

from tests.helpers import log_rows, tiny_options
from tests.helpers.in_process import call_vitpe
from vitpe.config import TrainConfig
from vitpe.errors import UsageError
from vitpe.runs.folder import RunFolder
from vitpe.training.budget import steps_within
from vitpe.training.loop import Trainer
from vitpe.training.plan import Plan
from vitpe.training.workers import ALONE


class Trial:
    """Of a machine whose updates take 0.1 s each, and which scores 200 images a second."""

    plan = Plan.of(TrainConfig(epochs=5, num_evals=4, batch_size=10), 100)

    def measure_seconds(self, train, valid, seconds):
        self.seconds = seconds
        return 0.1, 0.005


def steps(seconds, num_valid=0, spent=0.0, workers=ALONE, trial=None, notes=None):
    context = SimpleNamespace(
        workers=workers,
        reporter=SimpleNamespace(note=[].append if notes is None else notes.append, doing=lambda _: nullcontext()),
    )
    return steps_within(seconds, time.monotonic() - spent, trial or Trial(), (None, None), num_valid, context)


def test_steps_and_scorings_fill_the_time_but_for_a_reserve():
    notes: list[str] = []
    assert steps(100, notes=notes) == pytest.approx(970, abs=1)
    assert notes == ["1.66667 minutes: 969 steps, 96.9 epochs, as a step takes 100 ms now"]
    assert steps(100, num_valid=1000) == pytest.approx(970 - 4 * 50, abs=1)
    assert steps(100, spent=50) == pytest.approx(470, abs=1)


def test_measuring_takes_a_small_part():
    trial = Trial()
    for seconds in (20, 600, 360_000):
        steps(seconds, trial=trial)
        assert trial.seconds == pytest.approx(min(0.03 * seconds, 10))


def test_the_slowest_worker_decides():
    class Slow:
        def all_max(self, *values):
            return [3 * value for value in values]

    assert steps(100, workers=Slow()) == pytest.approx(323, abs=1)


def test_too_short_a_time_is_refused():
    with pytest.raises(
        UsageError, match=r"^0\.0166667 minutes are too short: a step takes 0\.1 s, all else 0 s"
    ) as error:
        steps(1)
    assert "give it 0.1 minutes at least" in error.value.hint


@pytest.fixture
def slow_machine(monkeypatch):
    """One that does as many steps in a minute as fit into a test, and says so after it has measured."""
    measure = Trainer.measure_seconds

    def measured(trainer, train, valid, seconds):
        assert all(value >= 0 for value in measure(trainer, train, valid, 0.01))
        return 3.0, 0.0

    monkeypatch.setattr(Trainer, "measure_seconds", measured)


@pytest.mark.usefixtures("slow_machine")
def test_a_run_has_its_steps_and_goes_on_like_any_other(celeba, tmp_path):
    run = tmp_path / "run"
    options = [option for option in tiny_options(celeba) if "train.steps" not in option]
    called = call_vitpe("train", "--run", run, "--minutes", "1", *options)
    assert called.code == 0, called.stderr
    config = RunFolder(run).read_config()
    assert config.train.steps is not None
    assert int(log_rows(run)[-1]["step"]) == config.train.steps >= 10
    assert float(log_rows(run)[-1]["learning_rate_factor"]) < 0.2
    assert f"1 minutes: {config.train.steps:,} steps, " in called.stderr
    again = call_vitpe("train", "--resume", "--run", run)
    assert again.code == 0
    assert "is finished" in again.stderr


@pytest.mark.usefixtures("slow_machine")
def test_measuring_leaves_the_run_as_it_would_be(celeba, tmp_path):
    """The same steps, given as such, end with the same weights."""
    run, other = tmp_path / "run", tmp_path / "other"
    options = [option for option in tiny_options(celeba) if "train.steps" not in option]
    assert call_vitpe("train", "--run", run, "--minutes", "1", *options).code == 0
    steps = RunFolder(run).read_config().train.steps
    assert call_vitpe("train", "--run", other, "--steps", str(steps), *options).code == 0
    assert RunFolder(run).best.read_bytes() == RunFolder(other).best.read_bytes()


@pytest.mark.parametrize(
    "options",
    [["--epochs", "2"], ["--steps", "5"], ["--resume"]],
)
def test_a_second_length_is_refused(tmp_path, options):
    called = call_vitpe("train", "--run", tmp_path / "run", "--minutes", "1", *options)
    assert called.code == 2
    assert f"--minutes with {options[0]}" in called.stderr


@pytest.mark.parametrize("value", ["0", "-1", "nan", "x"])
def test_nonsense_is_refused(tmp_path, value):
    called = call_vitpe("train", "--run", tmp_path / "run", f"--minutes={value}")
    assert (called.code, called.out) == (2, b"")
