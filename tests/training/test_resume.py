"""Resuming: exactly where it stopped, with what it was started with, or not at all."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open

import vitpe.training.loop
from tests.fuzz.torture import comparable
from tests.helpers import Recorder, contents, run_python, tiny_config, train_tiny, write_celeba
from tests.helpers.in_process import call_vitpe
from vitpe.config import RunConfig, TrainConfig, with_values
from vitpe.errors import UsageError, VitpeError
from vitpe.runs.folder import RunFolder
from vitpe.runs.metadata import read_info
from vitpe.runs.state import load_state
from vitpe.training.train import MAY_CHANGE, check_resumable, train

CPU = torch.device("cpu")


class StoppedHereError(Exception):
    """What a test stops a run with."""


class Stopping(Recorder):
    """Ends a run after a step as abruptly as one process can: nothing is saved on the way out."""

    step = 7

    def progress(self, step: int, num_steps: int, loss: float | None, images_per_second: float | None) -> None:
        super().progress(step, num_steps, loss, images_per_second)
        if step == self.step:
            raise StoppedHereError


@pytest.fixture
def stopped_run(celeba: Path, tmp_path: Path) -> RunFolder:
    """A run that died at step 7; its last state is of step 5."""
    run = RunFolder(tmp_path / "runs")
    with pytest.raises(StoppedHereError):
        train(tiny_config(celeba), run.path, CPU, Stopping())
    assert load_state(run.state).progress.step == 5
    return run


def test_killed_at_any_moment_a_run_ends_the_same() -> None:
    """A little of `python -m tests.fuzz.torture`."""
    done = run_python("-m", "tests.fuzz.torture", "--kills", "4", "--points", "4", timeout=300)
    assert done.code == 0, done.stdout + done.stderr
    result = json.loads(done.stdout)
    assert result["failures"] == []
    assert result["counts"]["SIGKILL at a random time"] >= 4
    assert result["counts"]["SIGKILL at a write point"] >= 4
    assert result["counts"]["runs that ended equal to the uninterrupted one"] >= 5


def test_a_resumed_run_ends_as_an_uninterrupted_one(celeba: Path, stopped_run: RunFolder, trained_run: Path) -> None:
    recorder = train_tiny(celeba, stopped_run.path, resume=True)
    assert f"the run in {stopped_run.path} goes on after step 5 of 12" in recorder.notes
    assert sorted(recorder.losses) == list(range(6, 13))
    assert comparable(stopped_run.path) == comparable(trained_run)


def test_resuming_twice(celeba: Path, stopped_run: RunFolder, trained_run: Path) -> None:
    again = Stopping()
    again.step = 9
    with pytest.raises(StoppedHereError):
        train(tiny_config(celeba), stopped_run.path, CPU, again, resume=True)
    assert load_state(stopped_run.state).progress.step == 8
    train_tiny(celeba, stopped_run.path, resume=True)
    assert comparable(stopped_run.path) == comparable(trained_run)


def test_a_finished_run_prints_its_result_and_changes_nothing(
    celeba: Path, trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "runs")
    shutil.copytree(trained_run, run.path)
    before = contents(run.path)

    def too_much(*_: object, **__: object) -> None:
        raise AssertionError("a finished run needs no batches and no optimizer")

    monkeypatch.setattr("vitpe.training.train.ImageStore", too_much)
    monkeypatch.setattr(vitpe.training.loop, "make_optimizers", too_much)
    recorder = Recorder()
    result = train(tiny_config(celeba), run.path, CPU, recorder, resume=True)
    assert contents(run.path) == before
    assert result.step == 12
    last = load_state(run.state).progress
    assert result.scores == last.scores
    assert any("is finished after step 12 of 12" in note for note in recorder.notes)


def test_a_best_checkpoint_that_was_not_written_is_made_up_for(
    celeba: Path, stopped_run: RunFolder, trained_run: Path
) -> None:
    """Killed between the state of the best step and the checkpoint itself."""
    assert load_state(stopped_run.state).progress.best_step == 5
    stopped_run.best.unlink()
    train_tiny(celeba, stopped_run.path, resume=True)
    assert comparable(stopped_run.path) == comparable(trained_run)


@pytest.mark.parametrize("damage", ["missing", "older", "empty"])
def test_so_it_is_when_the_best_step_was_the_last(celeba: Path, tmp_path: Path, damage: str) -> None:
    run = RunFolder(tmp_path / "runs")
    train_tiny(celeba, run.path, train__num_evals=1)
    expected = contents(run.path)
    if damage == "missing":
        run.best.unlink()
    else:
        run.best.write_bytes(run.checkpoint(0).read_bytes() if damage == "older" else b"")
    train_tiny(celeba, run.path, resume=True, train__num_evals=1)
    assert contents(run.path) == expected
    assert read_info(run.best).step == 12


def test_there_must_be_a_run_to_resume(celeba: Path, tmp_path: Path) -> None:
    with pytest.raises(VitpeError, match=rf"{tmp_path / 'mistyped'} holds no run"):
        train_tiny(celeba, tmp_path / "mistyped", resume=True)
    called = call_vitpe("train", "--run", tmp_path / "mistyped", "--resume", "--device", "cpu")
    assert called.code == 1
    assert called.stderr == (
        f"error: {tmp_path / 'mistyped'} holds no run\nhint: check its name, or train one first: vitpe train\n"
    )
    assert not any(tmp_path.iterdir())


def test_a_run_that_died_before_its_config_was_written_is_started_anew(
    celeba: Path, trained_run: Path, tmp_path: Path
) -> None:
    run = RunFolder(tmp_path / "runs")
    shutil.copytree(trained_run.parent / "runs" / "last", run.path / "last")
    train_tiny(celeba, run.path)
    assert comparable(run.path) == comparable(trained_run)


def test_a_run_without_its_state_is_refused(celeba: Path, stopped_run: RunFolder) -> None:
    stopped_run.state.unlink()
    before = contents(stopped_run.path)
    with pytest.raises(VitpeError, match=r"no file .*state.safetensors"):
        train_tiny(celeba, stopped_run.path, resume=True)
    assert contents(stopped_run.path) == before


def test_first_weights_are_in_the_first_state(celeba: Path, trained_run: Path, tmp_path: Path) -> None:
    """Resumed from step 0 a run does not ask again where its first weights came from."""
    init = trained_run / "best.safetensors"
    config = tiny_config(celeba, train__steps=4)
    train(config, tmp_path / "whole", CPU, Recorder(), init=init)
    stopping = Stopping()
    stopping.step = 0
    with pytest.raises(StoppedHereError):
        train(config, tmp_path / "cut", CPU, stopping, init=init)
    recorder = Recorder()
    train(config, tmp_path / "cut", CPU, recorder, resume=True, init=tmp_path / "not there any more")
    assert any("is not read again" in note for note in recorder.notes)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


def test_resumed_from_step_0_a_run_whitens_as_an_uninterrupted_one(celeba: Path, tmp_path: Path) -> None:
    """What whitening measures comes after the first state, and the optimizer is built on it."""
    config = tiny_config(celeba, train__whiten=True)
    train(config, tmp_path / "whole", CPU, Recorder())
    stopping = Stopping()
    stopping.step = 0
    with pytest.raises(StoppedHereError):
        train(config, tmp_path / "cut", CPU, stopping)
    train(config, tmp_path / "cut", CPU, Recorder(), resume=True)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        ({"train__batch_size": 4}, "cannot resume with train.batch_size 4 where the run has 8"),
        ({"train__seed": 1}, "train.seed 1 where the run has 0"),
        ({"model__depth": 2}, "model.depth 2 where the run has 1"),
        ({"model__pos_embed": "sincos"}, "model.pos_embed 'sincos' where the run has 'learned'"),
        ({"data__num_train": 16}, "data.num_train 16 where the run has None"),
        ({"data__data": "drawn_faces"}, "data.data 'drawn_faces' where the run has"),
        ({"train__adamw_lr": 1.0, "train__ema_decay": 0.5}, "adamw_lr 1.0 .*; train.ema_decay 0.5"),
    ],
)
def test_another_model_data_or_batch_size_is_refused_by_name(
    celeba: Path, stopped_run: RunFolder, values: dict[str, Any], complaint: str
) -> None:
    before = contents(stopped_run.path)
    with pytest.raises(UsageError, match=complaint) as caught:
        train_tiny(**{"data": celeba, "folder": stopped_run.path, "resume": True} | values)
    assert caught.value.exit_code == 2
    assert contents(stopped_run.path) == before


def test_what_may_change() -> None:
    config = with_values(RunConfig(), {"data.data": "faces"})
    changes = {
        "train.epochs": 9.0,
        "train.steps": 9,
        "train.num_checkpoints": 9,
        "train.num_evals": 9,
        "train.keep": "all",
        "train.compile": "off",
        "train.cuda_graph": False,
        "train.micro_batch_size": 8,
        "data.store": "disk",
    }
    assert changes.keys() == MAY_CHANGE
    check_resumable(config, with_values(config, changes))
    check_resumable(config, with_values(config, {"data.data": "./faces"}))
    check_resumable(config, with_values(config, {"data.data": str(Path.cwd() / "faces")}))


def test_more_steps_go_on_from_the_last(celeba: Path, trained_run: Path, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "runs")
    shutil.copytree(trained_run, run.path)
    recorder = train_tiny(celeba, run.path, resume=True, train__steps=15, data__store="memory")
    assert sorted(recorder.losses) == [13, 14, 15]
    assert run.read_config().train.steps == 15
    assert load_state(run.state).progress.step == 15
    assert run.metrics.read_text().startswith((trained_run / "metrics.csv").read_text())
    with pytest.raises(UsageError, match="has done 15 steps, more than 9"):
        train_tiny(celeba, run.path, resume=True, train__steps=9)


def test_data_that_changed_on_disk_is_refused(tmp_path: Path) -> None:
    data = write_celeba(tmp_path / "celeba")
    attributes, image = data / "list_attr_celeba.txt", data / "img_align_celeba" / "000030.jpg"
    train_tiny(data, tmp_path / "runs")
    before = contents(tmp_path / "runs")

    def refused() -> None:
        with pytest.raises(VitpeError, match=r"the data differs from what .* was started with"):
            train_tiny(data, tmp_path / "runs", resume=True, train__steps=15)
        assert contents(tmp_path / "runs") == before

    original, lines = attributes.read_text(), attributes.read_text().splitlines()
    flipped = lines[5].replace(" 1", " -1") if " 1" in lines[5] else lines[5].replace("-1", " 1")
    attributes.write_text("\n".join([*lines[:5], flipped, *lines[6:]]) + "\n")
    refused()
    attributes.write_text(original)
    pixels = image.read_bytes()
    image.write_bytes(pixels + b"\0")
    refused()
    image.unlink()
    refused()
    image.write_bytes(pixels)
    train_tiny(data, tmp_path / "runs", resume=True)


def test_the_same_data_in_another_place_is_the_same_data(celeba: Path, stopped_run: RunFolder, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(celeba)
    train_tiny(link, stopped_run.path, resume=True)
    assert RunFolder(stopped_run.path).read_config().data.data == str(link)


@pytest.mark.parametrize("group", ["model", "optimizer", "average"])
def test_a_state_that_does_not_fit_is_refused_by_tensor(
    celeba: Path, tmp_path: Path, group: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path / "runs")
    values = {"train__ema_decay": 0.9}
    with pytest.raises(StoppedHereError):
        train(tiny_config(celeba, **values), run.path, CPU, Stopping())
    with safe_open(run.state, framework="pt") as file:
        metadata, tensors = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    name = next(key for key in sorted(tensors) if key.startswith(f"{group}/") and tensors[key].ndim)
    damaged = {
        "is missing": {key: value for key, value in tensors.items() if key != name},
        "expected": tensors | {name: torch.zeros(3, 5)},
        "not finite": tensors | {name: torch.full_like(tensors[name], torch.nan)},
        "is not part of": tensors | {f"{group}/x": torch.zeros(1)},
    }
    before = contents(run.path, ("state.safetensors",))
    for complaint, wrong in damaged.items():
        safetensors.torch.save_file(wrong, run.state, metadata=metadata)
        with pytest.raises(VitpeError, match=complaint) as caught:
            train_tiny(celeba, run.path, resume=True, **values)
        assert caught.value.message.startswith(str(run.state))
        assert contents(run.path, ("state.safetensors",)) == before


def test_stale_temporaries_go_at_the_next_start(celeba: Path, stopped_run: RunFolder, trained_run: Path) -> None:
    for folder in (stopped_run.path, stopped_run.checkpoints, stopped_run.state.parent):
        (folder / f".metrics.csv.{os.getpid()}.partial").write_text("half")
    train_tiny(celeba, stopped_run.path, resume=True)
    assert comparable(stopped_run.path) == comparable(trained_run)


def test_a_state_of_another_run_is_refused(celeba: Path, stopped_run: RunFolder, trained_run: Path) -> None:
    shutil.copy(trained_run / "last" / "state.safetensors", stopped_run.state)
    before = contents(stopped_run.path)
    with pytest.raises(VitpeError, match=r"state.safetensors is the state of another run than .*config.json"):
        train_tiny(celeba, stopped_run.path, resume=True)
    assert contents(stopped_run.path) == before


def test_another_machine_is_said(celeba: Path, stopped_run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "__version__", "9.9.9")
    recorder = train_tiny(celeba, stopped_run.path, resume=True)
    monkeypatch.undo()
    said = [note for note in recorder.notes if "bit for bit" in note]
    assert said == [
        f"it goes on with threads 3 where it had 1; torch version 9.9.9 where it had {torch.__version__}: it will not"
        " end bit for bit as an uninterrupted one"
    ]
    machine = load_state(stopped_run.state).progress.machine
    assert machine is not None
    assert (machine.num_threads, machine.num_workers, machine.precision) == (3, 1, "fp32")


def test_precision_is_stored_as_it_was_chosen_and_kept_elsewhere(
    celeba: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a processor that would choose another one, and whether "auto" is asked for again or not."""
    chosen = "bf16"

    def choose(config: TrainConfig, device: torch.device) -> str:
        return chosen if config.precision == "auto" else config.precision

    for module in ("train", "loop"):
        monkeypatch.setattr(f"vitpe.training.{module}.choose_precision", choose)
    run, values = RunFolder(tmp_path / "runs"), {"train__precision": "auto"}
    train_tiny(celeba, run.path, train__steps=3, **values)
    assert run.read_config().train.precision == "bf16"
    chosen = "fp32"
    recorder = train_tiny(celeba, run.path, resume=True, train__steps=6, **values)
    assert not [note for note in recorder.notes if "its precision" in note]
    assert run.read_config().train.precision == "bf16"
    with pytest.raises(UsageError, match=r"train.precision 'fp32' where the run has 'bf16'"):
        train_tiny(celeba, run.path, resume=True, train__steps=9, train__precision="fp32")
    run.write_config(with_values(run.read_config(), {"train.precision": "auto"}))  # as it was written once
    recorder = train_tiny(celeba, run.path, resume=True, train__steps=9, **values)
    assert "the run does not say its precision: it goes on in fp32" in recorder.notes


def test_a_run_of_an_earlier_version_goes_on(celeba: Path, stopped_run: RunFolder) -> None:
    """Without an identity, and with a state that does not say whose it is."""
    with safe_open(stopped_run.state, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        progress = json.loads(file.metadata()["vitpe_state"])
    old = {key: value for key, value in progress.items() if key not in ("run_id", "machine")}
    safetensors.torch.save_file(tensors, stopped_run.state, {"vitpe_state": json.dumps(old)})
    values = json.loads(stopped_run.config.read_text())
    del values["run"]
    stopped_run.config.write_text(json.dumps(values))
    recorder = train_tiny(celeba, stopped_run.path, resume=True)
    assert not [note for note in recorder.notes if "bit for bit" in note]
    run = RunFolder(stopped_run.path)
    run.read_config()
    assert run.identity is not None
    assert run.identity.id == load_state(run.state).progress.run_id


def test_data_and_run_may_move(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    data = write_celeba(tmp_path / "here" / "celeba")
    train_tiny("celeba", Path("runs"), train__steps=3)
    assert RunFolder(Path("runs")).read_config().data.data == str(data)
    (tmp_path / "here").rename(tmp_path / "there")
    monkeypatch.chdir(tmp_path / "there")
    train_tiny("celeba", Path("runs"), resume=True, train__steps=6)
    assert RunFolder(Path("runs")).read_config().data.data == str(tmp_path / "there" / "celeba")
    write_celeba(tmp_path / "other", seed=3)
    with pytest.raises(VitpeError, match="the data differs from what runs was started with"):
        train_tiny(tmp_path / "other", Path("runs"), resume=True, train__steps=9)
