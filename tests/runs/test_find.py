"""Which run and which files a path stands for: the newest of several, and every folder that a run may be in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import REPOSITORY, contents, tiny_options
from tests.helpers.in_process import call_vitpe
from vitpe.errors import VitpeError
from vitpe.runs.find import RUNS, default_run, history_files, newest_run, weights_file
from vitpe.runs.folder import RunFolder, new_run

BEGIN_AND_WAIT = """
import sys
from pathlib import Path
from vitpe.runs.folder import new_run
sys.stdin.readline()
with new_run(Path(sys.argv[1])) as run:
    print(run.path.name, flush=True)
    sys.stdin.readline()
    run.best.write_bytes(b"x")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_run(folder: str, started: int, *, best: bool = True, history: bool = True) -> Path:
    """A run's files, all empty; started: seconds."""
    run = RunFolder(Path(folder))
    run.state.parent.mkdir(parents=True)
    run.checkpoints.mkdir()
    for path in (run.config, run.state, *([run.best] if best else []), *([run.checkpoint(3)] if history else [])):
        path.touch()
    os.utime(run.config, (started, started))
    return run.path


@pytest.mark.usefixtures("here")
def test_the_newest_that_holds_what_is_looked_for() -> None:
    make_run("runs/9", 30)
    make_run("runs/10", 20)
    demo = make_run("runs/demo", 40, best=False)
    make_run("runs/late", 50, best=False, history=False)
    (RUNS / "notes.txt").touch()
    (RUNS / "11").mkdir()
    told: list[str] = []
    assert weights_file(RUNS, told.append) == RUNS / "9" / "best.safetensors"
    assert history_files(RUNS, told.append) == [demo / "ckpts" / "step-0000003.safetensors"]
    assert newest_run(RUNS, "state", told.append) == RUNS / "late"
    assert told == [
        "runs/9: the newest of 2 runs in runs",
        "runs/demo: the newest of 3 runs in runs",
        "runs/late: the newest of 4 runs in runs",
    ]


@pytest.mark.usefixtures("here")
def test_of_runs_of_one_moment_the_larger_number() -> None:
    for number in (9, 10, 8):
        make_run(f"runs/{number}", 30)
    assert newest_run(RUNS, "weights") == RUNS / "10"


@pytest.mark.usefixtures("here")
def test_runs_that_is_a_run_itself_is_one_of_them() -> None:
    """As it was before runs had numbers."""
    told: list[str] = []
    assert default_run("weights", told.append) == RUNS
    make_run("runs", 30)
    assert default_run("weights", told.append) == RUNS
    make_run("runs/1", 20)
    assert default_run("weights", told.append) == RUNS
    make_run("runs/2", 40)
    assert default_run("weights", told.append) == RUNS / "2"
    assert told == [
        "runs: the newest of 2 runs in runs",
        "runs/2: the newest of 3 runs in runs",
    ]
    assert weights_file(RUNS) == RUNS / "best.safetensors"  # a run that is named is that run


@pytest.mark.usefixtures("here")
def test_nothing_to_find() -> None:
    RUNS.mkdir()
    with pytest.raises(VitpeError, match="runs holds no checkpoint"):
        weights_file(default_run("weights", print))
    with pytest.raises(VitpeError, match=r"no \.safetensors checkpoint in runs"):
        history_files(RUNS)


@pytest.mark.usefixtures("here")
def test_a_new_run_has_the_number_after_the_last() -> None:
    make_run("runs/3", 1)
    make_run("runs/demo", 2)
    (RUNS / "7").mkdir()  # a run that could not begin left folders
    (RUNS / "7" / "ckpts").mkdir()
    for number in ("4", "5"):
        with new_run(RUNS) as run:
            assert run.path == RUNS / number
            run.best.touch()
    with new_run(RUNS) as first, new_run(RUNS) as second:
        assert (first.path.name, second.path.name) == ("6", "7")
    with new_run(RUNS) as again:
        assert again.path == first.path


def test_processes_that_begin_at_once_have_a_run_each(tmp_path: Path) -> None:
    command = [sys.executable, "-c", BEGIN_AND_WAIT, str(tmp_path / "runs")]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, cwd=REPOSITORY, stdin=pipe, stdout=pipe, text=True) for _ in range(4)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("begin\n")
        process.stdin.flush()
    found = []
    for process in processes:
        assert process.stdout is not None
        found.append(process.stdout.readline().strip())
    for process in processes:
        process.communicate("end\n", timeout=30)
    assert sorted(found) == ["1", "2", "3", "4"]
    assert sorted(path.parent.name for path in (tmp_path / "runs").glob("*/best.safetensors")) == sorted(found)


def test_commands_find_the_newest_run(celeba: Path, trained_run: Path, here: Path) -> None:
    for name in ("old", "new"):
        shutil.copytree(trained_run, RUNS / name)
    os.utime(RUNS / "old" / "config.json", (1, 1))
    face = celeba / "img_align_celeba" / "000001.jpg"
    commands = (
        ["eval"],
        ["eval", "runs"],
        ["predict", face],
        ["predict", face, "--checkpoint", "runs"],
        ["viz-pe", "--no-stills"],
    )
    for command in commands:
        called = call_vitpe(*command)
        assert called.code == 0, called.stderr
        assert "runs/new: the newest of 2 runs in runs\n" in called.stderr
    called = call_vitpe("eval", "runs/old")
    assert called.code == 0
    assert "newest" not in called.stderr


def test_a_run_is_repeated_from_its_configuration(celeba: Path, here: Path) -> None:
    """With its data, attributes and corrections, from any folder."""
    fixes = Path("fixes.csv")
    fixes.write_text("image,attribute,value\n000001.jpg,Red,1\n000002.jpg,Red,0\n")
    options = [*tiny_options(celeba), "--attributes", "Red,Bright", "--relabel", str(fixes)]
    first = call_vitpe("train", *options)
    assert first.code == 0, first.stderr
    assert "run: runs/1\n" in first.stderr
    assert first.stderr.endswith("next: vitpe eval runs/1, and look at it: vitpe viz-pe runs/1\n")
    assert "best: runs/1/best.safetensors, of step " in first.stderr
    for source in ("runs/1/config.json", "runs/1"):
        again = call_vitpe("train", "--config", source, "--device", "cpu")
        assert again.code == 0, again.stderr
    ignore = (".lock", "metrics.csv", "report.html")  # which hold timings
    assert contents(RUNS / "2", ignore) == contents(RUNS / "1", ignore)
    assert contents(RUNS / "3", ignore) == contents(RUNS / "1", ignore)
    changed = call_vitpe("train", "--config", "runs/1", "--device", "cpu", "--seed", "1", "--epochs", "2")
    assert changed.code == 0, changed.stderr
    config = RunFolder(RUNS / "4").read_config()
    assert (config.train.seed, config.train.steps, config.train.epochs) == (1, None, 2)
    assert '"step": 6' in changed.stdout  # 24 images in batches of 8, twice


def test_resume_finds_the_newest_run(celeba: Path, here: Path) -> None:
    for _ in range(2):
        assert call_vitpe("train", *tiny_options(celeba, train__steps=3)).code == 0
    called = call_vitpe("train", "--resume", "--steps", "6", "--device", "cpu")
    assert called.code == 0, called.stderr
    assert "the run in runs/2 goes on after step 3 of 6" in called.stderr
    called = call_vitpe("train", "--resume", "--run", "runs/1", "--steps", "6", "--device", "cpu")
    assert "the run in runs/1 goes on after step 3 of 6" in called.stderr


def test_a_run_that_began_with_weights_is_not_repeated_without(celeba: Path, trained_run: Path, here: Path) -> None:
    first = trained_run / "best.safetensors"
    assert call_vitpe("train", *tiny_options(celeba, train__steps=2), "--init", first).code == 0
    refused = call_vitpe("train", "--config", "runs/1", "--device", "cpu")
    assert refused.code == 2
    assert refused.stderr == (
        f"error: the run in runs/1 began with the weights of {first}\n"
        f"hint: repeat it with them, or others: --init {first}\n"
    )
    assert call_vitpe("train", "--config", "runs/1", "--device", "cpu", "--init", first).code == 0
    ignore = (".lock", "metrics.csv", "report.html")  # which hold timings
    assert contents(RUNS / "2", ignore) == contents(RUNS / "1", ignore)
