"""What ends a run before its time is one clear message, and nothing is lost."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from tests.helpers import (
    Recorder,
    contents,
    log_rows,
    run_vitpe,
    start_vitpe,
    tiny_config,
    tiny_options,
    train_tiny,
)
from vitpe.cli.console import show_error
from vitpe.cli.progress import TrainReporter
from vitpe.errors import VitpeError
from vitpe.runs.checkpoint import load_checkpoint
from vitpe.runs.folder import RunFolder
from vitpe.runs.state import load_state
from vitpe.training.background import Interrupted
from vitpe.training.train import train

CPU = torch.device("cpu")


@dataclass
class Signalling(Recorder):
    """Sends a signal to its own process after a step, or while data is prepared, as a user would."""

    number: int = signal.SIGTERM
    at: int | None = None

    def prepared(self, done: int, total: int) -> None:
        if self.at is None:
            os.kill(os.getpid(), self.number)

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        super().progress(step, num_steps, loss, images_per_second)
        if step == self.at:
            os.kill(os.getpid(), self.number)


STOPPING = {
    signal.SIGINT: (130, "Ctrl-C"),
    signal.SIGTERM: (143, "SIGTERM"),
    signal.SIGHUP: (129, "SIGHUP"),
    signal.SIGXCPU: (152, "SIGXCPU"),
}


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_finishes_the_step_and_saves(celeba: Path, trained_run: Path, tmp_path: Path, number: int) -> None:
    code, name = STOPPING[number]
    handlers = [signal.getsignal(each) for each in STOPPING]
    with pytest.raises(Interrupted) as caught:
        train(tiny_config(celeba), tmp_path, CPU, Signalling(number=number, at=6))
    assert caught.value.exit_code == code
    assert caught.value.message == f"stopped by {name} after step 6; everything is saved"
    assert caught.value.hint == f"continue with: vitpe train --run {tmp_path} --resume"
    assert load_state(RunFolder(tmp_path).state).progress.step == 6
    assert [row["step"] for row in log_rows(tmp_path)] == list("123456")
    assert [signal.getsignal(each) for each in STOPPING] == handlers
    train_tiny(celeba, tmp_path, resume=True)
    ended, expected = contents(tmp_path, (".lock", "metrics.csv")), contents(trained_run, (".lock", "metrics.csv"))
    assert ended == expected


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGUSR2])
def test_a_warning_of_the_scheduler_saves_and_the_run_goes_on(celeba: Path, tmp_path: Path, number: int) -> None:
    saved = []

    @dataclass
    class Warned(Signalling):
        def note(self, text: str) -> None:
            super().note(text)
            if text.startswith("SIGUSR"):
                saved.append(load_state(RunFolder(tmp_path).state).progress.step)

    recorder = Warned(number=number, at=6)
    assert train(tiny_config(celeba), tmp_path, CPU, recorder).step == 12
    assert saved == [6]
    assert f"{signal.Signals(number).name}: saved after step 6, and going on" in recorder.notes


def test_a_hangup_that_is_ignored_stays_so(celeba: Path, tmp_path: Path) -> None:
    """nohup vitpe train"""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert train(tiny_config(celeba), tmp_path, CPU, Signalling(number=signal.SIGHUP, at=6)).step == 12
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


@dataclass
class Replaced(Signalling):
    """The folder is removed and begun anew by another run, which ends; then the first is told to stop."""

    folder: Path = Path()
    again: Callable[[], object] = list

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        if step == self.at:
            shutil.rmtree(self.folder)
            self.again()
            self.left = contents(self.folder)
        super().progress(step, num_steps, loss, images_per_second)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_run_whose_folder_another_took_writes_nothing_into_it(celeba: Path, tmp_path: Path, number: int) -> None:
    run = RunFolder(tmp_path / "runs")
    values = {"train__num_evals": 1, "train__num_checkpoints": 1, "train__steps": 2000}  # no log and no file at step 7
    first = Replaced(number=number, at=7, folder=run.path, again=lambda: train_tiny(celeba, run.path, train__seed=5))
    with pytest.raises(VitpeError, match=r"runs was replaced while a run wrote to it") as caught:
        train(tiny_config(celeba, **values), run.path, CPU, first)
    assert caught.value.exit_code == 1
    assert contents(run.path) == first.left
    assert load_state(run.state).progress.step == 12
    train_tiny(celeba, run.path, resume=True, train__seed=5)


def test_a_signal_at_the_last_step_comes_too_late(celeba: Path, tmp_path: Path) -> None:
    result = train(tiny_config(celeba), tmp_path, CPU, Signalling(at=12))
    assert result.step == 12


def test_a_signal_while_data_is_prepared_stops_before_the_first_step(
    celeba: Path, trained_run: Path, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match="stopped by SIGTERM after step 0; everything is saved") as caught:
        train(tiny_config(celeba), tmp_path, CPU, Signalling())
    assert caught.value.exit_code == 143
    assert caught.value.hint == f"continue with: vitpe train --run {tmp_path} --resume"
    assert not list(RunFolder(tmp_path).checkpoints.iterdir())
    train_tiny(celeba, tmp_path, resume=True)
    assert contents(tmp_path).keys() == contents(trained_run).keys()


@dataclass
class Removing(Recorder):
    """Takes the run's folder away after a step."""

    folder: Path = Path()

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        if step == 6:
            self.folder.rename(self.folder.with_name("elsewhere"))  # at once, whatever is being written into it


def test_a_folder_that_goes_away_is_one_clear_error(celeba: Path, tmp_path: Path) -> None:
    with pytest.raises(VitpeError, match=r"cannot write .*: No such file or directory") as caught:
        train(tiny_config(celeba), tmp_path / "runs", CPU, Removing(folder=tmp_path / "runs"))
    assert caught.value.exit_code == 1
    assert caught.value.hint


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """mounts(options): a file system of its own in memory, mounted or mounted anew; needs the rights to mount."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = False

    def mount(options: str) -> Path:
        nonlocal mounted
        options = f"remount,{options}" if mounted else options
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("no right to mount a file system")
        mounted = True
        return folder

    yield mount
    if mounted:
        subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_one_clear_error_and_loses_nothing(
    celeba: Path, trained_run: Path, small_disk: Callable[[str], Path]
) -> None:
    run = RunFolder(small_disk("size=300k") / "runs")
    with pytest.raises(VitpeError, match=r"cannot write .*: No space left on device") as caught:
        train_tiny(celeba, run.path)
    assert caught.value.exit_code == 1
    assert caught.value.hint.startswith("free some space")
    assert not [name for name in contents(run.path) if name.endswith(".partial")]
    step = load_state(run.state).progress.step
    for path in run.checkpoints.iterdir():
        load_checkpoint(path)
    assert step < 12
    small_disk("size=10m")
    train_tiny(celeba, run.path, resume=True)
    ignored = (".lock", "metrics.csv")
    assert contents(run.path, ignored) == contents(trained_run, ignored)


def test_a_read_only_disk_is_one_clear_error(
    celeba: Path, trained_run: Path, small_disk: Callable[[str], Path]
) -> None:
    run = RunFolder(small_disk("size=10m") / "runs")
    shutil.copytree(trained_run, run.path)
    small_disk("ro")
    before = contents(run.path)
    for folder, options in ((run.path, {"resume": True, "train__steps": 20}), (run.path.parent / "new", {})):
        with pytest.raises(VitpeError, match=r"cannot write to .*: Read-only file system") as caught:
            train_tiny(celeba, folder, **options)
        assert caught.value.exit_code == 1
        assert "--run" in caught.value.hint
    assert contents(run.path) == before


def test_the_command_line_stops_and_goes_on(celeba: Path, tmp_path: Path) -> None:
    """The one test of all of it in processes of their own: exit codes, stdout and stderr."""
    run = RunFolder(tmp_path / "runs")
    options = [*tiny_options(celeba, train__num_evals=1, train__steps=1_000_000), "--run", run.path]
    with start_vitpe("train", *options) as process:
        wait_for(run.checkpoint(0).exists)
        with pytest.raises(VitpeError, match="another vitpe train is writing to"):
            train_tiny(celeba, run.path, resume=True, train__steps=1_000_000, train__num_evals=1)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    step = load_state(run.state).progress.step
    assert stderr.splitlines()[-2:] == [
        f"error: stopped by Ctrl-C after step {step}; everything is saved",
        f"hint: continue with: vitpe train --run {run.path} --resume",
    ]
    done = run_vitpe("train", "--run", run.path, "--resume", "--device", "cpu", "--steps", str(step + 3))
    assert done.code == 0
    result = json.loads(done.stdout)
    assert (result["run"], result["step"]) == (str(run.path), step + 3)
    assert 0 <= result["valid"]["mean_accuracy"] <= 1
    assert f"goes on after step {step} of {step + 3}" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGHUP, 129), (signal.SIGINT, 130)])
def test_a_run_outlives_whoever_reads_its_notes(celeba: Path, tmp_path: Path, number: int, code: int) -> None:
    """2>&1 | tee log, and Ctrl-C ends tee; or the terminal is gone."""
    run = RunFolder(tmp_path / "runs")
    options = [*tiny_options(celeba, train__num_evals=1_000, train__steps=1_000_000), "--run", run.path]
    with start_vitpe("train", *options) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        wait_for(run.best.exists)  # a scoring, which is told
        written = run.best.stat().st_mtime_ns
        wait_for(lambda: load_state(run.state).progress.step > 1_000 and run.best.stat().st_mtime_ns >= written)
        process.send_signal(number)
        assert process.wait(60) == code
    step = load_state(run.state).progress.step
    assert int(log_rows(run.path)[-1]["step"]) <= step


def test_notes_that_a_full_disk_does_not_take_stop_nothing(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr("sys.stderr", full)
        with TrainReporter() as reporter:
            assert train(tiny_config(celeba), tmp_path, CPU, reporter).step == 12
        show_error(VitpeError("an error that nobody can read"))
        print("it goes nowhere from now on", file=full, flush=True)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 100
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
