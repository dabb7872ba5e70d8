"""Two workers on the CPU: what one makes, they make together; one writes; when one fails, one of them says so."""

import json
import signal
import socket
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.fuzz.torture import comparable
from tests.helpers import Finished, contents, log_rows, run_python, start_python, tiny_options, train_tiny
from tests.helpers.in_process import call_vitpe
from vitpe.runs.checkpoint import read_tensors
from vitpe.runs.folder import TIMING_COLUMNS, RunFolder
from vitpe.runs.state import load_state

# Muon works in bfloat16, where the last bits of a sum are a hundredth of an update: AdamW shows sums alone.
VALUES = {"train__muon_lr": None}
JOINED = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def torchrun(folder: Path, *arguments: str | Path) -> Finished:
    """Two workers in `folder`."""
    options = ("--standalone", "--nproc-per-node=2", "-m", "--")
    return run_python("-m", "torch.distributed.run", *options, *arguments, cwd=folder)


def by_hand(
    *arguments: str | Path, folders: tuple[Path, Path] | None = None, during: Callable[[list], None] = lambda _: None
) -> list[Finished]:
    """Two workers that no torchrun kills when one of them fails, each in its folder. during: is given the processes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = str(found.getsockname()[1])
    with ExitStack() as stack:
        workers = [
            stack.enter_context(
                start_python(
                    "-m",
                    *arguments,
                    cwd=folders[rank] if folders else None,
                    **JOINED | {"RANK": str(rank), "MASTER_PORT": port, "PATIENCE": "4"},
                )
            )
            for rank in (0, 1)
        ]
        during(workers)
        written = [worker.communicate(timeout=100) for worker in workers]
        return [Finished(worker.returncode, *texts) for worker, texts in zip(workers, written, strict=True)]


def errors(done: list[Finished]) -> list[str]:
    """Every error that the workers tell, with their hints."""
    lines = [line for one in done for line in one.stderr.splitlines()]
    assert not any("Traceback" in line for line in lines)
    return [line for line in lines if line.startswith(("error:", "hint:"))]


@pytest.fixture(scope="module")
def together(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Finished]:
    """A run of two workers, and what it printed."""
    folder = tmp_path_factory.mktemp("together")
    done = torchrun(folder, "vitpe", "train", *tiny_options(celeba, **VALUES))
    assert done.code == 0, done.stderr
    return RunFolder(folder / "runs" / "1"), done


def test_two_workers_make_the_weights_of_one(
    celeba: Path, together: tuple[RunFolder, Finished], tmp_path: Path
) -> None:
    run, alone = together[0], RunFolder(tmp_path / "runs")
    train_tiny(celeba, alone.path, **VALUES)
    assert contents(run.path, ["report.html"]).keys() == contents(alone.path).keys()  # the command writes a page
    assert_alike(run, alone)


def test_two_workers_in_parts_make_the_weights_of_one(celeba: Path, tmp_path: Path) -> None:
    values = VALUES | {"train__batch_size": 10, "train__patch_keep": 0.5, "model__drop_path_rate": 0.1}
    done = torchrun(tmp_path, "vitpe", "train", *tiny_options(celeba, train__micro_batch_size=2, **values))
    assert done.code == 0, done.stderr
    train_tiny(celeba, tmp_path / "alone", **values)
    # AdamW makes a whole step of a gradient near zero, whatever its sign: a tenth of the path of one weight.
    assert_alike(RunFolder(tmp_path / "runs" / "1"), RunFolder(tmp_path / "alone"), atol=1e-3)


def assert_alike(run: RunFolder, alone: RunFolder, atol: float = 1e-5) -> None:
    """But for rounding, of at most `atol` in a weight: the weights and the rows of the log."""
    for path in (alone.best, *alone.checkpoints.iterdir()):
        ours, expected = read_tensors(run.path / path.relative_to(alone.path)), read_tensors(path)
        assert ours.keys() == expected.keys()
        for name in expected:
            torch.testing.assert_close(ours[name], expected[name], rtol=0, atol=atol)
    for row, expected_row in zip(log_rows(run.path), log_rows(alone.path), strict=True):
        for column in row.keys() - set(TIMING_COLUMNS):
            assert float(row[column] or -1) == pytest.approx(float(expected_row[column] or -1), abs=atol), column


def test_two_workers_make_nearly_the_weights_of_one_by_a_whole_recipe(celeba: Path, tmp_path: Path) -> None:
    """Muon, whitening, averages, dropped patches and branches, micro-batches: rounding is blown up, and no more."""
    whole = {"train__whiten": True, "train__ema_decay": 0.9, "train__patch_keep": 0.5, "model__drop_path_rate": 0.1}
    whole |= {"train__label_smoothing": 0.1, "train__micro_batch_size": 2, "train__num_evals": 1}
    done = torchrun(tmp_path, "vitpe", "train", *tiny_options(celeba, **whole))
    assert done.code == 0, done.stderr
    train_tiny(celeba, tmp_path / "alone", **whole)
    train_tiny(celeba, tmp_path / "other", **whole, train__seed=7)
    together, alone, other = (changes(tmp_path / name) for name in ("runs/1", "alone", "other"))
    assert (together - alone).norm() < 0.25 * alone.norm()
    assert (other - alone).norm() > alone.norm()  # or this would show nothing


def changes(run: Path) -> Tensor:
    """What training has made of all weights, in one row."""
    history = sorted(RunFolder(run).checkpoints.iterdir())
    first, last = (read_tensors(path) for path in (history[0], history[-1]))
    return torch.cat([(last[name] - first[name]).flatten() for name in sorted(first)])


@pytest.mark.parametrize("form", ["parquet", "webdataset"])
def test_workers_open_parquet_and_archives_each_by_itself(form: str, tmp_path: Path) -> None:
    drawn = tmp_path / form
    assert call_vitpe("draw", drawn, "--format", form, "--num-train", "24", "--num-valid", "130").code == 0
    values = VALUES | {"data__store": "disk", "train__steps": 3}
    done = torchrun(tmp_path, "vitpe", "train", *tiny_options(drawn, **values))
    assert done.code == 0, done.stderr
    train_tiny(drawn, tmp_path / "alone", **values)
    for row, expected in zip(log_rows(tmp_path / "runs" / "1"), log_rows(tmp_path / "alone"), strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), abs=1e-5)
        for column in ("valid_accuracy", "valid_mean_average_precision"):  # of 130 images the second worker scores 2
            found, alone = (float(of[column] or -1) for of in (row, expected))
            assert found == pytest.approx(alone, abs=1e-3)  # an answer or two of 5,200 may be on the other side of 0.5


def test_one_worker_speaks_and_writes(together: tuple[RunFolder, Finished]) -> None:
    run, done = together
    assert json.loads(done.stdout)["step"] == 12
    assert done.stderr.count("2 workers") == 1
    assert "Warning" not in done.stderr
    assert done.stderr.count(": valid accuracy") == 3
    assert [int(row["step"]) for row in log_rows(run.path)] == list(range(1, 13))


def test_a_killed_worker_ends_the_run_which_can_be_resumed(
    celeba: Path, together: tuple[RunFolder, Finished], tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "runs")
    died = by_hand(
        "tests.helpers.distributed_worker",
        "killed",
        "1",
        "7",
        "train",
        *tiny_options(celeba, **VALUES),
        "--run",
        run.path,
    )
    assert [worker.code for worker in died] == [1, -signal.SIGKILL]
    assert errors(died) == [
        "error: rank 1 of this run is gone",
        "hint: see its own message; continue with the same command and --resume",
    ]
    state = load_state(run.state)
    assert state.progress.step == 5
    assert len(state.loss_sums) == 2
    done = torchrun(tmp_path, "vitpe", "train", "--resume", "--device", "cpu")
    assert done.code == 0, done.stderr
    assert "goes on after step 5 of 12" in done.stderr
    assert comparable(run.path) == comparable(together[0].path)


def test_a_signal_to_one_worker_stops_all_after_the_same_step(celeba: Path, tmp_path: Path) -> None:
    options = [*tiny_options(celeba, train__steps=100_000, train__num_evals=1), "--run", tmp_path / "runs"]
    done = by_hand("tests.helpers.distributed_worker", "asked to end", "1", "40", "train", *options)
    assert [worker.code for worker in done] == [143, 143]
    step = load_state(RunFolder(tmp_path / "runs").state).progress.step
    assert 40 <= step < 200  # they ask each other every few steps
    assert errors(done) == [
        f"error: stopped by SIGTERM after step {step}; everything is saved",
        f"hint: continue with: the same torchrun command and --run {tmp_path / 'runs'} --resume",
    ]


@pytest.mark.parametrize(
    ("what", "rank", "message"),
    [
        ("disk", "0", "cannot write"),
        ("memory", "1", "too little memory"),
    ],
)
def test_the_failure_of_one_worker_ends_all_with_one_message(
    celeba: Path, tmp_path: Path, what: str, rank: str, message: str
) -> None:
    options = [*tiny_options(celeba, train__steps=100_000, train__num_checkpoints=500), "--run", tmp_path / "runs"]
    done = by_hand("tests.helpers.distributed_worker", what, rank, "3", "train", *options)
    assert [worker.code for worker in done] == [1, 1]
    told = errors(done)
    assert len(told) == 2
    assert message in told[0]
    assert told[0] in done[int(rank)].stderr


def test_data_that_one_worker_cannot_read_ends_all_with_one_message(celeba: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    options = tiny_options(celeba.name)
    done = by_hand("vitpe", "train", *options, "--run", tmp_path / "runs", folders=(celeba.parent, tmp_path))
    assert [worker.code for worker in done] == [1, 1] or [worker.code for worker in done] == [2, 2]
    told = errors(done)
    assert len(told) == 2
    assert told[0] in done[1].stderr


def test_a_wrong_usage_of_all_workers_is_told_once(celeba: Path, tmp_path: Path) -> None:
    options = [*tiny_options(celeba, train__batch_size=7), "--run", tmp_path / "runs"]
    done = by_hand("vitpe", "train", *options)
    assert [worker.code for worker in done] == [2, 2]
    assert errors(done) == [
        "error: batch size 7 cannot be shared by 2 workers",
        "hint: choose a multiple of the number of workers: --batch-size",
    ]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_that_hangs_is_named(celeba: Path, tmp_path: Path, rank: int) -> None:
    told: list[str] = []

    def watch(workers: list) -> None:
        """Wake the worker that was stopped when the other has told of it."""
        enough = threading.Timer(60, workers[1 - rank].kill)
        enough.start()
        for line in iter(workers[1 - rank].stderr.readline, ""):
            told.append(line)
            if "sign of life" in line:
                break
        enough.cancel()
        workers[rank].send_signal(signal.SIGCONT)

    options = [*tiny_options(celeba), "--run", tmp_path / "runs"]
    done = by_hand("tests.helpers.distributed_worker", "stopped", str(rank), "3", "train", *options, during=watch)
    assert [worker.code for worker in done] == [0, 0]
    assert told[-1].startswith(f"waiting for rank {rank}, without a sign of life for ")


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": ""}, "WORLD_SIZE is 2 and RANK is not set"),
        ({"MASTER_ADDR": ""}, "WORLD_SIZE is 2 and MASTER_ADDR is not set"),
        ({"MASTER_PORT": ""}, "WORLD_SIZE is 2 and MASTER_PORT is not set"),
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE is 'two', not a number from 1 to 65535"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is '0', not a number from 1 to 65535"),
        ({"WORLD_SIZE": "-2"}, "WORLD_SIZE is '-2', not a number from 1 to 65535"),
        ({"WORLD_SIZE": "9" * 50}, f"WORLD_SIZE is '{'9' * 40}', not a number from 1 to 65535"),
        ({"WORLD_SIZE": "", "RANK": "1"}, "RANK is 1 where WORLD_SIZE is not set"),
        ({"RANK": "2"}, "RANK is 2 where WORLD_SIZE is 2"),
        ({"RANK": "1.5"}, "RANK is '1.5', not a number from 0 to 65535"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is 'x', not a number from 0 to 65535"),
        ({"LOCAL_WORLD_SIZE": "0"}, "LOCAL_WORLD_SIZE is '0', not a number from 1 to 65535"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is 'http', not a number from 1 to 65535"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is '70000', not a number from 1 to 65535"),
        ({"MASTER_ADDR": "no.such.invalid"}, "MASTER_ADDR 'no.such.invalid' is no known machine"),
    ],
    ids=str,
)
def test_variables_that_torchrun_would_not_set_are_wrong_usage(variables: Mapping[str, str], message: str) -> None:
    done = call_vitpe("train", **JOINED | variables)
    assert done.code == 2
    assert done.stderr.splitlines()[0] == f"error: {message}"
    assert len(done.stderr.splitlines()) == 2


def test_a_busy_port_is_wrong_usage() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        done = call_vitpe("train", **JOINED | {"MASTER_PORT": str(port)})
    assert done.code == 2
    assert done.stderr.splitlines() == [
        f"error: cannot listen at 127.0.0.1, port {port} (MASTER_ADDR, MASTER_PORT): the port is in use",
        "hint: set MASTER_PORT to a free one, the same for all workers",
    ]
