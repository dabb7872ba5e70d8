"""What trackers are told, read back with their own readers."""

import os
import subprocess
import sys

import numpy as np
import pytest
from sklearn.metrics import multilabel_confusion_matrix

from tests.helpers import log_rows, tiny_options
from tests.helpers.in_process import call_vitpe
from vitpe.cli.trackers import TensorBoard, _confusions
from vitpe.metrics.scores import score


def options(celeba, run, **values):
    return ["train", "--run", run, *tiny_options(celeba, **values)]


def scalars(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(run / "tensorboard"))
    found.Reload()
    return found


def test_tensorboard_has_the_rows_of_the_log_and_the_embeddings(celeba, tmp_path):
    run = tmp_path / "run"
    called = call_vitpe(*options(celeba, run), "--log", "tensorboard")
    assert called.code == 0, called.stderr
    found = scalars(run)
    rows = log_rows(run)
    for column, tag in (("loss", "train/loss"), ("valid_accuracy", "valid/accuracy")):
        expected = [(int(row["step"]), float(row[column])) for row in rows if row[column]]
        assert [(event.step, event.value) for event in found.Scalars(tag)] == [
            (step, pytest.approx(value, rel=1e-6)) for step, value in expected
        ]
    assert {"valid accuracy/Red", "valid average_precision/Bright"} <= set(found.Tags()["scalars"])
    (picture,) = found.Images("position embeddings")
    assert (picture.step, picture.width > 300) == (12, True)
    assert "valid/confusion/text_summary" in found.Tags()["tensors"]


def test_a_resumed_run_goes_on_in_tensorboard(celeba, tmp_path):
    run = tmp_path / "run"
    assert call_vitpe(*options(celeba, run, **{"train.steps": 6}), "--log", "tensorboard").code == 0
    again = call_vitpe("train", "--resume", "--run", run, "--steps", "12", "--log", "tensorboard")
    assert again.code == 0, again.stderr
    assert [event.step for event in scalars(run).Scalars("train/loss")] == list(range(1, 13))


def test_confusions_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    probs, labels = rng.random((37, 5)), rng.random((37, 5)) < [0, 0.1, 0.5, 0.9, 1]
    expected = multilabel_confusion_matrix(labels, probs >= 0.5)  # [[TN, FP], [FN, TP]]
    found = _confusions(score(probs, labels, tuple("ABCDE"), num_resamples=0))
    assert [row[1:] for row in found] == [(m[1, 1], m[0, 1], m[1, 0], m[0, 0]) for m in expected]


def test_a_tracker_that_fails_does_not_stop_training(celeba, tmp_path, monkeypatch):
    def fail(*_: object) -> None:
        raise ConnectionError("no network")

    for method in ("start", "log", "scored", "finish"):
        monkeypatch.setattr(TensorBoard, method, fail)
    run = tmp_path / "run"
    called = call_vitpe(*options(celeba, run), "--log", "tensorboard")
    assert called.code == 0
    assert called.stderr.count("warning: tensorboard failed and is told no more: ConnectionError: no network") == 1
    assert (run / "best.safetensors").exists()


def test_wandb_offline(celeba, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "vitpe", *map(str, options(celeba, run)), "--log", "wandb"]
    done = subprocess.run(command, env={**os.environ, "WANDB_MODE": "offline"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = run.glob("wandb/offline-run-*/*.wandb")
    data = file.read_bytes()
    assert all(key in data for key in (b"valid/accuracy", b"train/loss", b"valid/confusion", b"adamw_lr"))
    assert list(run.glob("wandb/offline-run-*/files/media/images/position embeddings*.png"))


def test_an_unknown_tracker_and_one_that_is_not_installed(tmp_path, monkeypatch):
    called = call_vitpe("train", "--run", tmp_path / "run", "--log", "mlflow")
    assert (called.code, "choose one of tensorboard, wandb" in called.stderr) == (2, True)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    called = call_vitpe("train", "--run", tmp_path / "run", "--log", "tensorboard")
    assert (called.code, "pip install 'vitpe[tensorboard]'" in called.stderr) == (2, True)
    assert not (tmp_path / "run").exists()
