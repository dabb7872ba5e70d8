"""Where answers come from: the numbers of both engines, and what `vitpe predict --maps` writes."""

import io
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import train_tiny
from tests.helpers.in_process import call_vitpe, read_jsonl
from vitpe.data.images import center_crop, decode
from vitpe.inference.engines import NumpyEngine
from vitpe.inference.inputs import Input
from vitpe.inference.maps import NUM_MAPS, MapOptions, explain, map_values
from vitpe.inference.predict import Listing, Predictor, View, choose_engine
from vitpe.inference.torch_engine import TorchEngine
from vitpe.model.inputs import PixelClassifier
from vitpe.outputs import refuse_foreign
from vitpe.reporting.map_sheet import overlay
from vitpe.runs.weights import load_arrays

CPU = torch.device("cpu")
BOTH = ("occlusion", "relevance")


@pytest.fixture(scope="module")
def loaded(trained_run: Path):
    weights, info = load_arrays(trained_run / "best.safetensors")
    weights["head.weight"] = 300 * weights["head.weight"]  # logits that a patch moves visibly
    return weights, info


@pytest.fixture
def image(images: Path, loaded) -> np.ndarray:
    return center_crop(decode((images / "000001.jpg").read_bytes()), loaded[1].model.img_size)


# The numbers


def test_both_engines_give_the_same_occlusion(loaded, image):
    signs = np.array([1.0, -1.0, 1.0])
    found = [
        map_values(engine, loaded[1].model, image, [3, 2, 0], signs, "occlusion")
        for engine in (NumpyEngine(*loaded), TorchEngine(*loaded, CPU))
    ]
    assert found[0].shape == (3, *loaded[1].model.grid_size)
    assert np.abs(found[0]).max() > 1e-3
    np.testing.assert_allclose(found[0], found[1], rtol=0, atol=1e-4)


def test_occlusion_of_a_patch_is_the_fall_of_the_logit_without_it(loaded, image):
    engine = TorchEngine(*loaded, CPU)
    model = loaded[1].model
    row, column = 1, 2
    gone = row * model.grid_size[1] + column
    kept = torch.tensor([[n for n in range(model.num_patches) if n != gone]])
    whole = engine.classify([image])[0]
    classifier = PixelClassifier(engine.classifier.model, loaded[1].mean, loaded[1].std)
    with torch.no_grad():
        without = classifier(torch.from_numpy(image)[None], kept)[0].numpy()
    found = map_values(engine, model, image, [2], np.array([1.0]), "occlusion")
    assert found[0, row, column] == pytest.approx(whole[2] - without[2], abs=1e-4)


@pytest.mark.parametrize("method", BOTH)
def test_maps_speak_for_the_answer_that_was_given(loaded, image, method):
    """With a threshold of 0 all is present, with 1 nothing is: the signs turn round."""
    engine, info = TorchEngine(*loaded, CPU), loaded[1]
    options = MapOptions(method)
    found = []
    for threshold, sign in ((0.0, 1.0), (1.0, -1.0)):
        predictor = Predictor(engine, info, Listing.of(info, "Red,Green", threshold), options)
        maps = predictor.predict([View("a", image)])[0].maps
        assert maps is not None and list(maps.values) == ["Red", "Green"]
        columns = [info.attributes.index(name) for name in maps.values]
        expected = map_values(engine, info.model, image, columns, np.full(2, sign), method)
        np.testing.assert_array_equal(list(maps.values.values()), expected)
        found.append(maps.values["Red"])
    assert not np.allclose(*found)
    if method == "occlusion":
        np.testing.assert_array_equal(found[0], -found[1])


def test_the_most_probable_attributes_come_first(loaded, image):
    engine, info = NumpyEngine(*loaded), loaded[1]
    prediction = Predictor(engine, info, Listing.of(info)).predict([View("a", image)])[0]
    maps = explain(engine, info, image, prediction, MapOptions(count=3))
    assert list(maps.values) == sorted(prediction.probs, key=lambda name: -prediction.probs[name])[:3]


def test_numpy_has_no_gradients(loaded, image):
    with pytest.raises(TypeError):
        map_values(NumpyEngine(*loaded), loaded[1].model, image, [0], np.ones(1), "relevance")


def test_fewer_images_are_worth_torch_when_the_model_runs_more_often(loaded, images, monkeypatch):
    monkeypatch.setattr("vitpe.inference.predict.many_images", lambda config: 400)
    inputs = [Input(str(images / "000001.jpg"))] * 200
    assert isinstance(choose_engine(*loaded, inputs)[0], NumpyEngine)
    assert isinstance(choose_engine(*loaded, inputs, maps=MapOptions())[0], TorchEngine)
    assert isinstance(choose_engine(*loaded, inputs[:1], maps=MapOptions())[0], NumpyEngine)
    assert isinstance(choose_engine(*loaded, inputs[:1], maps=MapOptions("relevance"))[0], TorchEngine)


# The command


@pytest.mark.parametrize("method", BOTH)
def test_records_hold_a_number_for_each_patch_and_pictures_are_written(predicted, images, tmp_path, method):
    called = predicted(
        images / "000001.jpg",
        images / "000002.jpg",
        *("--maps", tmp_path / "new" / "maps", "--map-method", method, "--attributes", "Red,Bright"),
    )
    assert called.code == 0, called.stderr
    for record in read_jsonl(called):
        assert record["maps"]["method"] == method
        assert list(record["maps"]["values"]) == ["Red", "Bright"]
        assert np.array(list(record["maps"]["values"].values())).shape == (2, 2, 3)
    written = sorted((tmp_path / "new" / "maps").iterdir())
    assert [path.name for path in written] == ["00000001-000001.png", "00000002-000002.png"]
    for path in written:
        refuse_foreign(path)
        with Image.open(path) as picture:
            assert picture.width > 3 * 2 * 24 and picture.height > 2 * 16


def test_without_attributes_the_most_probable_have_maps(predicted, images, tmp_path):
    for more, count in ((), min(4, NUM_MAPS)), (("--top", "3"), 3):
        called = predicted(images / "000001.jpg", "--maps", tmp_path, *more, "--format", "json")
        (record,) = json.loads(called.stdout)
        ranked = sorted(record["probs"], key=lambda name: -record["probs"][name])
        assert list(record["maps"]["values"]) == ranked[:count]
        assert len(record["probs"]) == (3 if more else 4)


@pytest.mark.parametrize("kind", ["table", "csv"])
def test_other_formats_are_as_without_maps(predicted, images, tmp_path, kind):
    alone, with_maps = (
        predicted(images / "000001.jpg", *more, "--format", kind) for more in ((), ("--maps", tmp_path))
    )
    assert with_maps.stdout == alone.stdout
    assert len(list(tmp_path.iterdir())) == 1


def test_what_cannot_be_read_has_no_map_and_keeps_its_number(predicted, images, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    called = predicted(tmp_path / "bad.jpg", images / "000002.jpg", "--maps", tmp_path / "maps")
    assert called.code == 1
    assert [path.name for path in (tmp_path / "maps").iterdir()] == ["00000002-000002.png"]
    assert ["maps" in record for record in read_jsonl(called)] == [False, True]


def test_only_vitpes_own_pictures_are_replaced(predicted, images, tmp_path):
    assert predicted(images / "000001.jpg", "--maps", tmp_path).code == 0
    assert predicted(images / "000001.jpg", "--maps", tmp_path).code == 0
    mine = tmp_path / "00000001-000001.png"
    shutil.copyfile(images / "000001.jpg", mine)
    called = predicted(images / "000001.jpg", "--maps", tmp_path)
    assert called.code == 2 and "vitpe did not write it" in called.stderr
    assert mine.read_bytes() == (images / "000001.jpg").read_bytes()


def test_pictures_in_the_predicted_folder_are_not_predicted(predicted, images, tmp_path):
    shutil.copyfile(images / "000001.jpg", tmp_path / "a.jpg")
    for _ in range(2):
        called = predicted(tmp_path, "--maps", tmp_path, "--save-crops", tmp_path / "crops")
        assert called.code == 0
        assert [Path(record["file"]).name for record in read_jsonl(called)] == ["a.jpg"]
    assert "in a folder of crops or maps" in called.stderr


def test_a_method_without_maps_is_refused(predicted, images):
    called = predicted(images / "000001.jpg", "--map-method", "relevance")
    assert called.code == 2
    assert "--map-method relevance without --maps" in called.stderr and "hint: " in called.stderr


def test_a_folder_that_is_a_file(predicted, images, tmp_path):
    (tmp_path / "file").write_text("mine")
    called = predicted(images / "000001.jpg", "--maps", tmp_path / "file")
    assert called.code == 1 and "cannot write into" in called.stderr


def test_maps_of_one_image_need_no_torch(trained_run, images, tmp_path):
    code = (
        "import sys; from vitpe.__main__ import main\n"
        f"sys.argv = ['vitpe', 'predict', {str(images / '000001.jpg')!r}, '--checkpoint', {str(trained_run)!r},"
        f" '--maps', {str(tmp_path)!r}]\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == 1


def test_attention_needs_attribute_queries(predicted, images, tmp_path):
    called = predicted(images / "000001.jpg", "--maps", tmp_path, "--map-method", "attention")
    assert called.code == 2
    assert "no attribute queries" in called.stderr and "hint: " in called.stderr
    assert not list(tmp_path.iterdir())


def test_one_patch_is_no_map(celeba, images, tmp_path):
    sizes = {"model__img_size": [16, 16], "model__patch_size": 16, "train__patch_keep": 1.0, "train__steps": 1}
    train_tiny(celeba, tmp_path / "run", **sizes)
    for command in (["predict", images / "000001.jpg", "--checkpoint"], ["eval"]):
        called = call_vitpe(*command, tmp_path / "run", "--maps", tmp_path / "maps.png")
        assert called.code == 2, called.stderr
        assert "one patch, so there is no map" in called.stderr


def test_attention_is_where_the_queries_look(celeba, images, tmp_path):
    train_tiny(celeba, tmp_path / "run", model__global_pool="queries", train__steps=2)
    for method in ("attention", "relevance", "occlusion"):
        called = call_vitpe(
            *("predict", images / "000001.jpg", "--checkpoint", tmp_path / "run", "--attributes", "Blue,Red"),
            *("--maps", tmp_path / method, "--map-method", method),
        )
        assert called.code == 0, called.stderr
        assert len(list((tmp_path / method).iterdir())) == 1
        (record,) = read_jsonl(called)
        found = np.array(list(record["maps"]["values"].values()))
        assert found.shape == (2, 2, 3) and (method != "attention" or 0.5 < found[0].sum() < 1)
    weights, info = load_arrays(tmp_path / "run" / "best.safetensors")
    weights["query_pool.queries"] = 3000 * weights["query_pool.queries"]  # which then look here and there
    engine = TorchEngine(weights, info, CPU)
    image = center_crop(decode((images / "000001.jpg").read_bytes()), info.model.img_size)
    shares = map_values(engine, info.model, image, [2, 0], np.ones(2), "attention")
    classifier = PixelClassifier(engine.classifier.model, info.mean, info.std)
    with torch.no_grad():
        expected = classifier.attribute_attention(torch.from_numpy(image)[None])[0, [2, 0]].numpy()
    np.testing.assert_allclose(shares.reshape(2, -1), expected, atol=1e-6)
    assert expected.std(axis=1).min() > 1e-3


# The picture


def test_colours_say_what_the_values_do():
    gray = np.full((32, 48, 3), 128, np.uint8)
    values = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, -0.5]])
    tile = overlay(gray, values, 1.0).astype(int)
    assert tile.shape == (64, 96, 3)
    plain, red, blue = tile[8, 8], tile[8, 88], tile[56, 88]
    assert plain[0] == plain[1] == plain[2]
    assert red[0] - red[2] > 100 and blue[2] - blue[0] > 40
    weaker = overlay(gray, values, 4.0).astype(int)[8, 88]  # on a scale that stronger maps share
    assert 0 < weaker[0] - weaker[2] < red[0] - red[2]
    same = overlay(gray, np.maximum(values, 0), 1.0).astype(int)
    assert (same[..., 2] <= same[..., 0]).all()  # nothing is blue where nothing is below 0


def test_a_map_of_nothing_is_no_colour():
    tile = overlay(np.full((16, 16, 3), 90, np.uint8), np.zeros((2, 2)), 0.0)
    assert np.ptp(tile) == 0


def test_any_name_can_stand_on_a_sheet(predicted, images, tmp_path):
    name = tmp_path / "$x_1$ \N{LATIN SMALL LETTER E WITH ACUTE}\n.jpg"
    shutil.copyfile(images / "000001.jpg", name)
    called = predicted(name, "--maps", tmp_path / "maps", "--top", "1")
    assert called.code == 0, called.stderr
    (picture,) = (tmp_path / "maps").iterdir()
    assert Image.open(io.BytesIO(picture.read_bytes())).info["Software"] == "vitpe"
