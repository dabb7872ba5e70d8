"""Two workers on the CPU: what one makes, they make together; one writes; when one dies the other says so."""

import json
from pathlib import Path

import pytest
import torch

from tests.helpers import Finished, contents, log_rows, run_python, tiny_options, train_tiny
from tests.torture import comparable
from vitpe.training.checkpoint import read_tensors
from vitpe.training.run_folder import TIMING_COLUMNS, RunFolder
from vitpe.training.state import load_state

# Muon works in bfloat16, where the last bits of a sum are a hundredth of an update: AdamW shows sums alone.
VALUES = {"train__muon_lr": None}


def torchrun(folder: Path, *arguments: str | Path) -> Finished:
    """Two workers in `folder`. (Before Python 3.12.8 torchrun takes a --run after -m vitpe for its own --run-path.)"""
    return run_python("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", *arguments, cwd=folder)


@pytest.fixture(scope="module")
def together(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Finished]:
    """A run of two workers, and what it printed."""
    folder = tmp_path_factory.mktemp("together")
    done = torchrun(folder, "vitpe", "train", *tiny_options(celeba, **VALUES))
    assert done.code == 0, done.stderr
    return RunFolder(folder / "runs"), done


def test_two_workers_make_the_weights_of_one(
    celeba: Path, together: tuple[RunFolder, Finished], tmp_path: Path
) -> None:
    run, alone = together[0], RunFolder(tmp_path / "runs")
    train_tiny(celeba, alone.path, **VALUES)
    assert contents(run.path).keys() == contents(alone.path).keys()
    for path in (alone.best, *alone.checkpoints.iterdir()):
        ours, expected = read_tensors(run.path / path.relative_to(alone.path)), read_tensors(path)
        assert ours.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(ours[name], expected[name], rtol=0, atol=1e-5)
    for row, expected_row in zip(log_rows(run.path), log_rows(alone.path), strict=True):
        for column in row.keys() - set(TIMING_COLUMNS):
            assert float(row[column] or -1) == pytest.approx(float(expected_row[column] or -1), abs=1e-5), column


def test_one_worker_speaks_and_writes(together: tuple[RunFolder, Finished]) -> None:
    run, done = together
    assert json.loads(done.stdout)["step"] == 12
    assert done.stderr.count("2 workers") == 1
    assert done.stderr.count("valid accuracy") == 3
    assert [int(row["step"]) for row in log_rows(run.path)] == list(range(1, 13))


def test_a_killed_worker_ends_the_run_which_can_be_resumed(
    celeba: Path, together: tuple[RunFolder, Finished], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "runs")
    died = torchrun(tmp_path, "tests.distributed_worker", celeba, run.path, "7", json.dumps(VALUES))
    assert died.code == 1
    assert "error: another worker of this run is gone\nhint: see its own message; continue with" in died.stderr
    state = load_state(run.state)
    assert state.progress.step == 5
    assert len(state.loss_sums) == 2
    done = torchrun(tmp_path, "vitpe", "train", "--resume", "--device", "cpu")
    assert done.code == 0, done.stderr
    assert "goes on after step 5 of 12" in done.stderr
    assert comparable(run.path) == comparable(together[0].path)
