"""Scoring what a run was trained on, and writing into its checkpoint, while others may write there too."""

import json
import shutil
import stat
from pathlib import Path

import pytest

import vitpe.inference.evaluate
import vitpe.inference.fit
from tests.helpers import contents, train_tiny, write_celeba
from tests.helpers.in_process import Called, call_vitpe
from vitpe.runs.checkpoint import load_checkpoint, save_checkpoint
from vitpe.runs.folder import RunFolder

TUNE = ("--split", "test", "--thresholds", "tune")


@pytest.fixture
def own(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run, which may be written to."""
    return Path(shutil.copytree(trained_run, tmp_path / "runs"))


def accuracy(called: Called) -> float:
    assert called.code == 0, called.stderr
    return json.loads(called.stdout)["mean"]["accuracy"]["value"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with data and a run that was started there with a relative path; beside it one with other data."""
    for name, seed in (("project", 0), ("other", 5)):
        write_celeba(tmp_path / name / "data", 16, 8, 8, seed=seed)
    monkeypatch.chdir(tmp_path / "project")
    train_tiny("data", Path("runs"), train__steps=2, train__num_evals=1)
    return tmp_path / "project"


def make_old(run: Path, data: str) -> None:
    """As a run was written before paths were made absolute and runs had an identity."""
    values = json.loads((run / "config.json").read_text())
    del values["run"]
    values["data"]["data"] = data
    (run / "config.json").write_text(json.dumps(values))


def test_a_run_is_scored_on_its_own_data_from_any_folder(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = call_vitpe("eval", "runs")
    assert RunFolder(project / "runs").read_config().data.data == str(project / "data")
    monkeypatch.chdir(project.parent / "other")
    for path in (
        "../project/runs",
        "../project/runs/best.safetensors",
        "../project/runs/ckpts/step-0000002.safetensors",
    ):
        assert accuracy(call_vitpe("eval", path)) == accuracy(here)
    monkeypatch.chdir(project / "runs" / "ckpts")
    assert call_vitpe("eval", "step-0000002.safetensors").stderr == ""
    monkeypatch.chdir(project.parent)
    Path("latest.safetensors").symlink_to("project/runs/best.safetensors")
    assert accuracy(call_vitpe("eval", "latest.safetensors")) == accuracy(here)


def test_an_old_run_with_a_relative_path_is_looked_up_beside_it_and_that_is_said(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = accuracy(call_vitpe("eval", "runs"))
    make_old(project / "runs", "data")
    monkeypatch.chdir(project.parent / "other")
    called = call_vitpe("eval", "../project/runs")
    assert accuracy(called) == here
    assert called.stderr == (f"{project}/runs/config.json says data and not in which folder: scoring {project}/data\n")
    shutil.rmtree(project / "data")
    called = call_vitpe("eval", "../project/runs")  # there is other/data, which may be another data set
    assert called.stderr.startswith(f"{project}/runs/config.json says data and not in which folder: scoring")
    assert f"scoring {project.parent}/other/data\n" in called.stderr


def test_other_data_in_its_place_is_refused_and_may_be_named(project: Path) -> None:
    data = project / "data"
    data.rename(project / "elsewhere")
    called = call_vitpe("eval", "runs")
    assert (called.code, called.out) == (1, b"")
    assert called.stderr.startswith(f"error: no {data}, which runs/best.safetensors was trained on\nhint: ")
    shutil.copytree(project.parent / "other" / "data", data)
    for split in ("valid", "test"):
        called = call_vitpe("eval", "runs", "--split", split)
        assert (called.code, called.out) == (1, b"")
        assert f"error: {data} is not what runs/best.safetensors was trained on" in called.stderr
        assert called.stderr.endswith(f"name it: --data {data}\n")
    assert call_vitpe("eval", "runs", "--data", data).code == 0
    assert call_vitpe("eval", "runs", "--data", project / "elsewhere").code == 0


def test_the_whole_valid_split_is_compared_however_few_images_chose_the_checkpoint(project: Path) -> None:
    train_tiny("data", Path("few"), data__num_valid=3, train__steps=1, train__num_evals=1)
    assert call_vitpe("eval", "few").code == 0
    image = sorted((project / "data" / "img_align_celeba").iterdir())[23]
    image.write_bytes(image.read_bytes() + b"\0")
    assert "its valid split has changed" in call_vitpe("eval", "few").stderr


@pytest.mark.parametrize("fit", [TUNE, ("--split", "test", "--calibrate", "platt")])
def test_nothing_is_fitted_into_a_run_that_is_training(own: Path, fit: tuple[str, ...]) -> None:
    before = contents(own)
    with RunFolder(own).locked():
        for checkpoint in (own, own / "ckpts" / "step-0000012.safetensors"):
            called = call_vitpe("eval", checkpoint, *fit)
            assert (called.code, called.out) == (1, b"")
            assert called.stderr.startswith(
                f"error: another vitpe train is writing to {own}\nhint: wait until it has ended"
            )
        assert call_vitpe("eval", own).code == 0
    assert contents(own) == before
    assert call_vitpe("eval", own, *fit).code == 0


@pytest.mark.parametrize("moment", ["while it is scored", "before it is scored"])
def test_a_checkpoint_that_was_replaced_meanwhile_is_left_as_it_is(
    own: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """A run began and ended in the time that scoring took."""
    best = own / "best.safetensors"
    model, info = load_checkpoint(own / "ckpts" / "step-0000000.safetensors")
    of_scoring = moment == "while it is scored"
    module = vitpe.inference.evaluate if of_scoring else vitpe.inference.fit
    name = "classify_split" if of_scoring else "load_checkpoint"
    original, newer = getattr(module, name), []

    def replacing(*arguments: object) -> object:
        result = original(*arguments)
        if not newer:
            save_checkpoint(best, model.state_dict(), info)
            newer.append(best.read_bytes())
        return result

    monkeypatch.setattr(module, name, replacing)
    called = call_vitpe("eval", own, *TUNE)
    assert (called.code, called.out) == (1, b"")
    assert f"error: {best} has changed since it was read; it is left as it is\nhint: " in called.stderr
    assert best.read_bytes() == newer[0]


def test_what_is_reported_is_what_was_read_and_written(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One reading of the file for all of it."""
    read = []
    original = vitpe.inference.fit.load_checkpoint

    def counting(path: Path) -> object:
        read.append(path)
        return original(path)

    monkeypatch.setattr(vitpe.inference.fit, "load_checkpoint", counting)
    called = call_vitpe("eval", own, *TUNE, "--calibrate", "platt")
    assert called.code == 0
    assert read == [own / "best.safetensors"]
    assert call_vitpe("eval", own, "--split", "test").out == called.out


def test_a_private_checkpoint_stays_private_and_a_link_a_link(own: Path) -> None:
    best, store = own / "best.safetensors", own.parent / "store.safetensors"
    best.rename(store)
    store.chmod(0o600)
    best.symlink_to(store)
    assert call_vitpe("eval", own, *TUNE).code == 0
    assert best.is_symlink()
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert "tuned on valid" in call_vitpe("eval", own, "--split", "test").stdout
