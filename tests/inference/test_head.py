"""`eval --fit head`: which rows are fitted, on what, what is written, and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import train_tiny, write_celeba
from tests.helpers.in_process import call_vitpe
from vitpe.config import DataConfig
from vitpe.data.sources import open_samples
from vitpe.metrics.groups import group_by
from vitpe.metrics.last_layer import retrain_last_layer
from vitpe.model.inputs import PixelClassifier
from vitpe.runs.checkpoint import load_checkpoint, save_checkpoint

BY = ("Red", "Green")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images enough that each group has a dozen in valid; Bright is not without two colours."""
    return write_celeba(tmp_path_factory.mktemp("many"), num_train=16, num_valid=120, num_test=40)


@pytest.fixture(scope="module", params=["token", "avg", "queries"])
def pooled(request: pytest.FixtureRequest, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run on them."""
    return trained(tmp_path_factory, data, request.param)


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another."""
    return trained(tmp_path_factory, data, "token")


def trained(tmp_path_factory: pytest.TempPathFactory, data: Path, pool: str) -> Path:
    folder = tmp_path_factory.mktemp("head") / "runs"
    train_tiny(data, folder, model__global_pool=pool, data__attributes=["Red", "Green", "Bright"])
    return folder


def fit(run: Path, out: Path, *more: str | Path, by: str = ",".join(BY)):
    return call_vitpe("eval", run, "--fit", "head", "--by", by, "--out", out, "--split", "test", *more)


def test_rows_are_fitted_on_what_the_head_is_given(pooled, data, tmp_path):
    run, out = pooled, tmp_path / "new.safetensors"
    before = (run / "best.safetensors").read_bytes()
    called = fit(run, out)
    assert called.code == 0, called.stderr
    assert (run / "best.safetensors").read_bytes() == before

    old, info = load_checkpoint(run / "best.safetensors")
    valid = open_samples(DataConfig(str(data)), "valid", (16, 24))
    features = head_features(old, PixelClassifier(old, info.mean, info.std), crops(valid))
    grouping = group_by(valid.labels, valid.attributes, dict.fromkeys(BY))
    expected = retrain_last_layer(features, valid.labels[:, :2], grouping.group_of)

    new, written = load_checkpoint(out)
    logits = PixelClassifier(new, info.mean, info.std)(crops(valid)).detach().numpy()
    for row in (0, 1):
        np.testing.assert_allclose(logits[:, row], features[row] @ expected.weight[row] + expected.bias[row], atol=2e-3)
    assert not torch.equal(new.head.weight[:2], old.head.weight[:2])
    kept = {"head.weight": slice(2, None), "head.bias": slice(2, None), "query_pool.head_weight": slice(2, None)}
    for name, tensor in old.state_dict().items():
        rows = kept.get(name, ...)
        assert torch.equal(new.state_dict()[name][rows], tensor[rows]), name
    assert written == replace(info, head_split="valid", head_by=BY)
    size = int(grouping.counts().min())
    c = expected.strengths
    assert (
        f"wrote {out}: head rows of Red (C {c[0]:g}), Green (C {c[1]:g}): the mean of 10 fits, "
        f"each to {size} images of each of 4 groups of valid\n"
    ) in called.stderr

    shutil.copy(run / "config.json", tmp_path)
    again = call_vitpe("eval", out, "--by", "Red,Green", "--split", "test")
    assert json.loads(again.stdout) == json.loads(called.stdout)
    here = call_vitpe("eval", out).stderr
    assert f"{out} has head rows fitted on valid by Red, Green, which flatters it here" in here
    assert "flatters" not in again.stderr


def head_features(model, classifier, images) -> list[np.ndarray]:
    """What the first two attributes' rows read, from the logits alone: of unit rows each gives one number."""
    old = [weight.detach().clone() for weight in model.head_weights()]
    found = []
    with torch.no_grad():
        bias = model.head.bias.clone()
        model.head.bias.zero_()
        for number, weight in enumerate(model.head_weights()):
            for other in model.head_weights():
                other.zero_()
            for column in range(weight.shape[1]):
                weight.zero_()
                weight[:, column] = 1
                found.append(classifier(images)[:, :2].double().numpy())
            weight.copy_(old[number])
        for weight, values in zip(model.head_weights(), old, strict=True):
            weight.copy_(values)
        model.head.bias.copy_(bias)
    return [np.stack([column[:, row] for column in found], axis=1) for row in (0, 1)]


def crops(samples) -> torch.Tensor:
    """The centres, of the model's size."""
    top, left = ((stored - side) // 2 for stored, side in zip(samples.stored_size, (16, 24), strict=True))
    return torch.from_numpy(samples.read(range(len(samples.names))))[:, :, top : top + 16, left : left + 24]


def test_groups_may_be_of_what_the_model_does_not_answer(run, tmp_path):
    out = tmp_path / "new.safetensors"
    called = fit(run, out, by="Green,Blue")
    assert called.code == 0, called.stderr
    assert "head rows of Green (C " in called.stderr
    old, new = (load_checkpoint(path)[0].head.weight for path in (run / "best.safetensors", out))
    assert [bool((old[row] == new[row]).all()) for row in range(3)] == [True, False, True]


def test_groups_that_nobody_is_in_are_left_out(run, tmp_path):
    called = fit(run, tmp_path / "new.safetensors", by="Red,Green,Bright")
    assert called.code == 1
    assert "images are in the group Red=" in called.stderr
    assert "Red=0,Green=0,Bright=1" not in called.stderr
    called = fit(run, tmp_path / "new.safetensors", by="Red,Bright")
    assert called.code == 0, called.stderr


def test_tuned_thresholds_are_one_half_again(run, tmp_path):
    model, info = load_checkpoint(run / "best.safetensors")
    shutil.copy(run / "config.json", tmp_path)
    tuned = replace(info, thresholds=(0.4, 0.5, 0.6), thresholds_split="valid", thresholds_criterion="f1")
    save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), tuned)
    called = fit(tmp_path, tmp_path / "new.safetensors")
    assert called.code == 0, called.stderr
    assert load_checkpoint(tmp_path / "new.safetensors")[1] == replace(info, head_split="valid", head_by=BY)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--fit", "head", "--by", "Red", "--split", "test"], "--fit head without --out"),
        (["--out", "new.safetensors"], "--out new.safetensors without --fit"),
        (["--fit", "head", "--out", "new.safetensors", "--split", "test"], "--fit head without groups"),
        (
            ["--fit", "head", "--by", "Red=1", "--out", "new.safetensors", "--split", "test"],
            "--fit head without groups",
        ),
        (
            ["--fit", "head", "--by", "Red", "--out", "new.safetensors"],
            "what is fitted on valid must not be reported on valid",
        ),
        (
            ["--fit", "head", "--by", "Red", "--out", "new.safetensors", "--split", "test", "--thresholds", "tune"],
            "--fit head with --thresholds tune",
        ),
        (
            ["--fit", "head", "--by", "Red", "--out", "new.safetensors", "--split", "test", "--calibrate", "platt"],
            "--fit head with --calibrate platt",
        ),
        (
            ["--fit", "head", "--by", "Rde", "--out", "new.safetensors", "--split", "test"],
            "--by Rde: there are no labels of that name",
        ),
        (
            ["--fit", "head", "--by", "Red", "--out", "new.pt", "--split", "test"],
            "--out new.pt does not end in .safetensors",
        ),
        (
            ["--fit", "head", "--by", "Red", "--out", "missing/new.safetensors", "--split", "test"],
            "cannot write missing/new.safetensors",
        ),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(run, tmp_path, options, error, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = call_vitpe("eval", run, *options)
    assert called.code in (1, 2)
    assert called.stderr.splitlines()[-2].startswith(f"error: {error}")
    assert not any(tmp_path.iterdir())


def test_nothing_that_is_there_is_replaced(run, tmp_path):
    out = tmp_path / "new.safetensors"
    shutil.copy(run / "best.safetensors", out)
    called = fit(run, out)
    assert (called.code, called.stderr) == (
        2,
        f"error: --out {out} is there already\nhint: choose another name, or move it away\n",
    )


def test_it_is_refused_for_a_calibrated_checkpoint(run, tmp_path):
    model, info = load_checkpoint(run / "best.safetensors")
    shutil.copy(run / "config.json", tmp_path)
    calibrated = replace(info, calibration_split="valid", calibration_method="platt")
    save_checkpoint(tmp_path / "best.safetensors", model.state_dict(), calibrated)
    called = fit(tmp_path, tmp_path / "new.safetensors")
    assert called.code == 1
    assert f"error: {tmp_path / 'best.safetensors'} was calibrated" in called.stderr
    assert not (tmp_path / "new.safetensors").exists()


def test_small_groups_are_refused(celeba, trained_run, tmp_path):
    called = fit(trained_run, tmp_path / "new.safetensors")
    assert called.code == 1
    assert "of valid's images are in the group Red=" in called.stderr
    assert "hint: each group needs 10: name fewer attributes, or other images" in called.stderr
    assert not (tmp_path / "new.safetensors").exists()
