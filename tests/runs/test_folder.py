"""A run's folder: one writer at a time, nothing overwritten, a log that is always whole."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, contents, tiny_config
from vitpe.config import RunConfig
from vitpe.errors import UsageError, VitpeError
from vitpe.files import write_atomic
from vitpe.runs.folder import METRIC_COLUMNS, TIMING_COLUMNS, RunFolder

HOLD_LOCK = """
import sys, time
from pathlib import Path
from vitpe.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("locked", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    run = RunFolder(tmp_path / "deep" / "runs")
    with run.locked():
        pass
    return run


def log_rows(run: RunFolder, *steps: int) -> None:
    for step in steps:
        run.log({"step": step, "loss": step / 10})


def test_two_holders_of_one_folder(run: RunFolder) -> None:
    refused = pytest.raises(VitpeError, match=r"another vitpe train is writing to .*runs")
    with run.locked(), refused as caught, RunFolder(run.path).locked():
        raise AssertionError("the lock was given twice")
    assert caught.value.exit_code == 1
    assert "--run" in caught.value.hint
    with run.locked():
        pass


def test_a_dead_process_holds_no_lock(run: RunFolder) -> None:
    command = [sys.executable, "-c", HOLD_LOCK, str(run.path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "locked\n"
        with pytest.raises(VitpeError, match="another vitpe train"), run.locked():
            raise AssertionError("the lock was given twice")
        os.kill(holder.pid, signal.SIGKILL)
    with run.locked():
        pass


def test_a_folder_that_was_removed_and_made_anew_is_another_runs(run: RunFolder) -> None:
    """Writing goes by names, and removing a folder does not stop who writes there."""
    with run.locked():
        shutil.rmtree(run.path)
        other = RunFolder(run.path)
        with other.locked():
            log_rows(other, 1)
            before = contents(run.path)
            for write in (
                lambda: log_rows(run, 5),
                lambda: run.write_config(RunConfig()),
                lambda: run.rewind(0),
                lambda: run.write(write_atomic, run.state, b"x"),
            ):
                with pytest.raises(VitpeError, match=r"runs was replaced while a run wrote to it"):
                    write()
            assert contents(run.path) == before
            log_rows(other, 2)


def test_so_is_one_whose_lock_is_gone(run: RunFolder) -> None:
    """Nobody can tell then whose it is: a copy of another run may have no lock."""
    with run.locked():
        (run.path / ".lock").unlink()
        with pytest.raises(VitpeError, match=r"runs was replaced while a run wrote to it"):
            run.write(write_atomic, run.state, b"x")
        assert contents(run.path) == {}


def test_locking_clears_what_dead_writers_left(run: RunFolder) -> None:
    left = [
        path.with_name(f".{path.name}.0123456789abcdef.partial")
        for path in (run.config, run.metrics, run.best, run.state, run.checkpoint(3), run.checkpoint(12_345_678))
    ]
    kept = [run.path / ".mine.partial", run.path / ".report.png.0123456789abcdef.partial"]
    for path in (*left, *kept):
        path.write_bytes(b"half")
    with run.locked():
        assert set(contents(run.path)) == {".lock", *(path.name for path in kept)}


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    refused = pytest.raises(VitpeError, match=r"cannot write to .*file/runs: File exists")
    with refused as caught, RunFolder(tmp_path / "file" / "runs").locked():
        raise AssertionError("locked")
    assert "--run" in caught.value.hint


@pytest.mark.parametrize("left", ["config.json", "metrics.csv", "best.safetensors", "ckpts/step-0000000.safetensors"])
def test_parts_of_a_run_are_refused(run: RunFolder, left: str) -> None:
    run.refuse_existing()
    (run.path / left).write_text("x")
    with pytest.raises(UsageError, match=f"already holds a run .{left}") as caught:
        run.refuse_existing()
    assert caught.value.exit_code == 2
    assert ("--resume" in caught.value.hint) == (left == "config.json")


def test_config_round_trip_and_damage(run: RunFolder) -> None:
    with pytest.raises(VitpeError, match="holds no run"):
        run.read_config()
    config = tiny_config("celeba", train__seed=5)
    run.write_config(config)
    assert run.read_config() == config
    run.config.write_text(run.config.read_text()[:-20])
    with pytest.raises(VitpeError, match=r"cannot read .*config.json"):
        run.read_config()
    run.config.write_text("[" * 100_000)
    with pytest.raises(VitpeError, match=r"cannot read .*config.json"):
        run.read_config()
    run.config.write_text("[]")
    with pytest.raises(VitpeError, match=r"config.json: RunConfig is not a JSON object"):
        run.read_config()


def test_the_log_is_what_was_logged(run: RunFolder) -> None:
    log_rows(run, 1, 5)
    header = ",".join(METRIC_COLUMNS)
    assert run.metrics.read_text() == f"{header}\n1,,,0.1,,,,,\n5,,,0.5,,,,,\n"
    assert set(TIMING_COLUMNS) < set(METRIC_COLUMNS)


def test_rewinding_keeps_what_came_before(run: RunFolder) -> None:
    log_rows(run, 1, 5, 9)
    before = run.metrics.read_text().splitlines()
    names = ("step-0000000", "step-0000005", "step-0000006", "step-0000009", "step-best", "mine")
    for name in names:
        (run.checkpoints / f"{name}.safetensors").write_bytes(b"x")
    resumed = RunFolder(run.path)
    resumed.rewind(5)
    assert run.metrics.read_text().splitlines() == before[:3]
    left = {path.stem for path in run.checkpoints.iterdir()}
    assert left == {"step-0000000", "step-0000005", "step-best", "mine"}
    log_rows(resumed, 9)
    assert run.metrics.read_text().splitlines() == before


def test_rewinding_where_there_is_no_log_starts_one(run: RunFolder) -> None:
    run.rewind(0)
    assert run.metrics.read_text() == ",".join(METRIC_COLUMNS) + "\n"


@pytest.mark.parametrize(
    ("damage", "line"),
    [
        (lambda text: text.replace("step", "stop", 1), 1),
        (lambda text: text[:-4], 3),
        (lambda text: text + "5,,,0.5,,,,,\n", 4),
        (lambda text: text.replace("\n5", "\nfive"), 3),
    ],
)
def test_a_damaged_log_is_refused_by_line(run: RunFolder, damage: object, line: int) -> None:
    assert callable(damage)
    log_rows(run, 1, 5)
    run.metrics.write_text(damage(run.metrics.read_text()))
    (run.checkpoints / "step-0000005.safetensors").write_bytes(b"x")
    before = contents(run.path)
    with pytest.raises(VitpeError, match=rf"metrics.csv, line {line}: "):
        RunFolder(run.path).rewind(1)
    assert contents(run.path) == before


def test_a_config_of_another_version_is_named(run: RunFolder) -> None:
    run.write_config(RunConfig())
    run.config.write_text(run.config.read_text().replace('"preset"', '"preset_name"'))
    with pytest.raises(VitpeError, match=r"config.json: unknown key 'preset_name'"):
        run.read_config()
