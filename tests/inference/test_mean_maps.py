"""Where a model looks on average: the numbers, and what `vitpe eval --maps` writes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import train_tiny
from tests.helpers.in_process import call_vitpe
from vitpe.data.celeba import read_celeba
from vitpe.data.images import center_crop
from vitpe.inference import mean_maps as module
from vitpe.inference.eval_options import EvalOptions, plan
from vitpe.inference.eval_result import EvalResult, MeanMaps
from vitpe.inference.evaluate import evaluate
from vitpe.inference.maps import map_values
from vitpe.inference.predictions import MapMethod
from vitpe.inference.torch_engine import TorchEngine
from vitpe.outputs import refuse_foreign
from vitpe.runs.weights import load_arrays

CPU = torch.device("cpu")


class Quiet:
    def start(self, description: str, total: int):
        return lambda count: None

    def note(self, text: str) -> None:
        pass


def scored(run: Path, method: MapMethod = "occlusion", **options) -> EvalResult:
    return evaluate(plan([run], EvalOptions(maps=method, **options), lambda text: None), CPU, Quiet())[0]


@pytest.mark.parametrize("threshold", [None, "0.52"])
def test_it_is_the_mean_of_each_images_maps(trained_run, celeba, threshold):
    found = scored(trained_run, thresholds=threshold).maps
    weights, info = load_arrays(trained_run / "best.safetensors")
    engine = TorchEngine(weights, info, CPU)
    samples = read_celeba(celeba, "valid", info.stored_size)
    images = [center_crop(image, info.model.img_size) for image in samples.read(range(len(samples.names)))]
    maps = []
    for image in images:
        probs = 1 / (1 + np.exp(-engine.classify([image])[0]))
        signs = np.where(probs >= (float(threshold) if threshold else np.array(info.thresholds)), 1.0, -1.0)
        maps.append(map_values(engine, info.model, image, range(len(signs)), signs, "occlusion"))
    assert found is not None and found.num_images == 8
    np.testing.assert_allclose(found.mean, np.mean(maps, axis=0), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(found.error, np.std(maps, axis=0, ddof=1) / np.sqrt(8), rtol=1e-2, atol=1e-6)
    np.testing.assert_allclose(found.image.astype(float), np.mean(images, axis=0), atol=0.5)
    assert np.abs(found.mean).max() > 1e-5


@pytest.mark.parametrize("method", ["relevance", "attention"])
def test_the_other_methods_are_means_of_each_images_maps_too(celeba, tmp_path, method):
    train_tiny(celeba, tmp_path / "run", model__global_pool="queries", train__steps=16)
    found = scored(tmp_path / "run", method).maps
    weights, info = load_arrays(tmp_path / "run" / "best.safetensors")
    engine = TorchEngine(weights, info, CPU)
    samples = read_celeba(celeba, "valid", info.stored_size)
    images = [center_crop(image, info.model.img_size) for image in samples.read(range(len(samples.names)))]
    signs = [np.where(engine.classify([image])[0] >= 0, 1.0, -1.0) for image in images]
    maps = [
        map_values(engine, info.model, image, range(4), sign, method) for image, sign in zip(images, signs, strict=True)
    ]
    assert found.method == method
    centred = [values - values.mean(axis=(1, 2), keepdims=True) for values in maps]
    np.testing.assert_allclose(found.mean, np.mean(centred, axis=0), rtol=1e-3, atol=1e-7)
    assert found.mean.max() > 1e-6
    called = call_vitpe("eval", tmp_path / "run", "--maps", tmp_path / "maps.png", "--map-method", method)
    assert called.code == 0, called.stderr
    assert (tmp_path / "maps.png").is_file()


def test_of_many_images_a_random_sample_is_taken(trained_run, monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGES", 3)
    first, second = scored(trained_run).maps, scored(trained_run).maps
    assert first.num_images == 3
    np.testing.assert_array_equal(first.mean, second.mean)


def test_of_one_image_nothing_is_sure(trained_run, monkeypatch):
    monkeypatch.setattr(module, "MAX_IMAGES", 1)
    assert not scored(trained_run).maps.surely().any()


def test_what_may_be_nothing_is_nothing():
    mean, error = np.array([[[1.0, -1.0, 0.1, -0.1]]]), np.array([[[0.25, 0.25, 0.25, 0.25]]])
    maps = MeanMaps(mean, error, np.zeros((3, 2, 8), np.uint8), 9)
    np.testing.assert_allclose(maps.surely(), [[[0.51, -0.51, 0, 0]]])


def test_eval_writes_a_sheet_and_says_of_what(trained_run, tmp_path, monkeypatch):
    file = tmp_path / "maps.png"
    alone = call_vitpe("eval", trained_run)
    for _ in range(2):  # the second replaces the first
        called = call_vitpe("eval", trained_run, "--maps", file)
        assert called.code == 0, called.stderr
        assert called.stdout == alone.stdout
        assert f"wrote {file}: maps of 4 attributes, the mean over all 8 images" in called.stderr
    refuse_foreign(file)
    with Image.open(file) as picture:
        assert picture.info["Software"] == "vitpe"
    monkeypatch.setattr(module, "MAX_IMAGES", 5)
    assert "the mean over 5 of 8 images, taken at random" in call_vitpe("eval", trained_run, "--maps", file).stderr


def test_only_attributes_with_labels_have_a_tile(trained_run, celeba, tmp_path):
    """Whose maps are then those of their own columns."""
    rows = (celeba / "list_attr_celeba.txt").read_text().splitlines()[2:]
    lines = ["path,Blue,split", *(f"{row.split()[0]},{int(row.split()[3] == '1')},valid" for row in rows[:6])]
    (tmp_path / "labels.csv").write_text("\n".join(lines) + "\n")
    found = scored(trained_run, data=str(celeba / "img_align_celeba"), labels=[tmp_path / "labels.csv"])
    assert found.attributes == ("Blue",) and found.maps.mean.shape[0] == 1
    weights, info = load_arrays(trained_run / "best.safetensors")
    engine = TorchEngine(weights, info, CPU)
    samples = read_celeba(celeba, "train", info.stored_size)
    images = [center_crop(image, info.model.img_size) for image in samples.read(range(6))]
    column = info.attributes.index("Blue")
    maps = [
        map_values(
            engine, info.model, image, [column], np.where(engine.classify([image])[:, column] >= 0, 1, -1), "occlusion"
        )
        for image in images
    ]
    np.testing.assert_allclose(found.maps.mean, np.mean(maps, axis=0), rtol=1e-3, atol=1e-6)


def test_what_cannot_be_asked_together(trained_run, tmp_path):
    file = tmp_path / "maps.png"
    for arguments, message in (
        (["--compare", trained_run, trained_run, "--maps", file], "--compare has no --maps"),
        (["--from-answers", tmp_path / "a.csv", "--maps", file], "--from-answers with --maps"),
        ([trained_run, "--maps", tmp_path / "maps.jpg"], "does not end in .png"),
        ([trained_run, "--map-method", "relevance"], "--map-method relevance without --maps"),
        ([trained_run, "--maps", file, "--map-method", "attention"], "the model has no attribute queries"),
    ):
        called = call_vitpe("eval", *arguments)
        assert called.code == 2 and message in called.stderr, called.stderr
    file.write_bytes(b"mine")
    called = call_vitpe("eval", trained_run, "--maps", file)
    assert called.code == 2 and file.read_bytes() == b"mine"
