"""What judges maps, on a model whose answers are known sums: the true map is the best, and its reverse the worst."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.benchmarks.faithfulness import (
    Subject,
    all_curves,
    changed_patches,
    chosen,
    curve_rows,
    curves,
    interval,
    pointing,
    priors,
    read_images,
    subjects_of,
)
from vitpe.celeba import ATTRIBUTES
from vitpe.config import ModelConfig
from vitpe.data.drawn_faces import DrawnFaces
from vitpe.inference.torch_engine import TorchEngine
from vitpe.metrics.thresholds import sigmoid
from vitpe.runs.metadata import CheckpointInfo
from vitpe.runs.weights import load_arrays

MODEL = ModelConfig(num_classes=2)


def test_the_true_map_is_the_best():
    truth = np.random.default_rng(0).normal(0.1, 1, (3, 40))

    def probs(keep):
        return sigmoid(np.take_along_axis(truth, keep, axis=1).sum(axis=1))

    best, worst = curves(probs, truth), curves(probs, -truth)
    random = curves(probs, np.random.default_rng(1).random((3, 40)))
    assert best[0] < random[0] < worst[0]
    assert best[1] > random[1] > worst[1]


def test_curves_by_hand():
    """Ten patches, of which the first alone decides: gone from the first step on, and there from the first on."""

    def probs(keep):
        return np.array([float(0 in row) for row in keep])

    first = np.array([[1.0, *[0.0] * 9]])
    assert curves(probs, first) == (pytest.approx(0.1), 1.0)
    assert curves(probs, -first) == (1.0, pytest.approx(0.1))


def test_priors_are_of_others_with_the_same_answer():
    logits = np.array([[1.0], [2.0], [-1.0], [3.0]])
    maps = [np.full((1, 2), float(value)) for value in (1, 10, 100, 1000)]
    subjects = [
        Subject(np.zeros((3, 2, 2), np.uint8), row, {"occlusion": each}) for row, each in zip(logits, maps, strict=True)
    ]
    found = [prior[0, 0] for prior in priors(subjects)]
    assert found == pytest.approx([505, 500.5, (1 + 10 + 1000) / 3, 5.5])


def test_answers_of_both_kinds_are_chosen():
    subject = Subject(np.zeros((3, 2, 2), np.uint8), np.r_[np.ones(6), -np.ones(2)], {})
    columns = chosen(subject, np.random.default_rng(0))
    assert len(set(columns)) == 4 and (columns < 6).sum() == 2


def test_a_patch_has_changed_where_its_pixels_have():
    before = np.zeros((3, *MODEL.img_size), np.uint8)
    after = before.copy()
    after[:, 16:32, 32:48] = 200  # patch 13
    after[:, 16:32, 48:50] = 40  # of its neighbour, a little
    assert np.flatnonzero(changed_patches(after, before, MODEL)).tolist() == [1 * 11 + 2]
    assert not changed_patches(before, before, MODEL).any()


def test_a_map_that_knows_the_truth_points_at_it():
    """Eyeglasses change the eyes, and a map of what changed finds them; its reverse does not."""
    faces = DrawnFaces("valid", 60)
    names = ("Eyeglasses", "Wearing_Hat")
    info = CheckpointInfo(MODEL, names, (0.5,) * 3, (0.5,) * 3, (0.5,) * 2, (218, 178), 1, 1, 0, "test")
    images, truth = read_images(faces, 60, MODEL), []
    for name in names:
        bare = DrawnFaces("valid", 60)
        bare.seen[:, ATTRIBUTES.index(name)] = 0
        without = read_images(bare, 60, MODEL)
        truth.append([changed_patches(*pair, MODEL) for pair in zip(images, without, strict=True)])
    changes = np.array(truth, dtype=float).swapaxes(0, 1)
    subjects = [
        Subject(image, np.ones(2), {"truth": change, "wrong": -change})
        for image, change in zip(images, changes, strict=True)
    ]
    found = pointing(subjects, faces, info)
    assert set(found) == set(names)
    for name, by in found.items():
        assert len(by["truth"]) == faces.seen[:, ATTRIBUTES.index(name)].sum() > 0
        assert np.mean(by["truth"]) == 1 and np.mean(by["wrong"]) == 0, name
        assert 0 < np.mean(by["chance"]) < 0.5


def test_intervals():
    assert interval([1.0, 3.0]) == (2.0, pytest.approx(1.96))
    assert np.isnan(interval([1.0])[1])
    rows = curve_rows({"random": np.array([[0.5, 0.5], [0.5, 0.5]]), "good": np.array([[0.2, 0.9], [0.4, 0.9]])})
    assert rows["good"]["above random"][0] == pytest.approx(0.6)
    assert rows["random"]["above random"] == (0, 0)


def test_all_of_it_on_a_model(trained_run: Path):
    weights, info = load_arrays(trained_run / "best.safetensors")
    weights["head.weight"] = 300 * weights["head.weight"]
    engine = TorchEngine(weights, info, torch.device("cpu"))
    images = list(np.random.default_rng(0).integers(0, 256, (4, 3, *info.model.img_size), dtype=np.uint8))
    subjects = subjects_of(engine, info, images)
    assert set(subjects[0].maps) == {"occlusion", "relevance", "random", "prior"}
    found = all_curves(engine, info, subjects)
    assert set(found) == {"no token", "mean colour"}
    for by in found.values():
        assert {values.shape for values in by.values()} == {(4, 2)}
        assert all(((values >= 0) & (values <= 1)).all() for values in by.values())
    means = {method: float((values @ [-1, 1]).mean()) for method, values in found["no token"].items()}
    assert means["occlusion"] > means["random"]
