"""`data.fit`: what becomes of images that have not the model's shape, from whatever source and for every command."""

import csv
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from tests.helpers import encode, tiny_config, tiny_options, train_tiny
from tests.helpers.in_process import call_vitpe, read_jsonl
from vitpe.celeba import MEAN
from vitpe.config import DataConfig, Fit
from vitpe.data.augmentation import Augmentation
from vitpe.data.batches import Batches
from vitpe.data.fitting import Fitting
from vitpe.data.sources import open_samples
from vitpe.data.storage import ImageStore
from vitpe.errors import UsageError
from vitpe.runs.metadata import read_info

CPU = torch.device("cpu")
SIZE = (16, 24)
FITS: tuple[Fit, ...] = ("crop", "pad", "stretch")
SHAPES = [(178, 218), (128, 128), (400, 100), (100, 400), (9, 8), (8, 64), (2000, 1500)]
"""(width, height): CelebA's, a square, a landscape, a portrait, tiny ones, a large one."""
BORDER = (129, 108, 98)  # MEAN × 255
SQUARE = {"crop": "images of other shapes are cropped", "pad": "whole images are shown, between borders"}
SQUARE |= {"stretch": "whole images are shown, stretched"}


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth, so that JPEG keeps it, and unlike at every edge."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (5, 4, 3), dtype=np.uint8))
    return small.resize((width, height), Image.Resampling.BICUBIC)


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def padded(image: Image.Image, img_size: tuple[int, int]) -> Image.Image:
    return ImageOps.pad(image, img_size[::-1], Image.Resampling.BILINEAR, color=BORDER)


def stretched(image: Image.Image, img_size: tuple[int, int]) -> Image.Image:
    return image.resize(img_size[::-1], Image.Resampling.BILINEAR)


ORACLES: dict[Fit, Callable[[Image.Image, tuple[int, int]], Image.Image]] = {"pad": padded, "stretch": stretched}


@pytest.mark.parametrize("fit", ORACLES)
@pytest.mark.parametrize("size", SHAPES)
def test_a_model_sees_what_pillow_makes_of_the_image(fit, size):
    fitting = Fitting((218, 178), (208, 176), fit)
    expected = pixels(ORACLES[fit](photo(*size), (208, 176)))
    found = fitting.view(pixels(photo(*size)))
    np.testing.assert_array_equal(found, expected)


def test_cropping_is_pillows_too():
    """Pillow cuts at fractions of a pixel: a smooth picture differs by little, one that is not cut by more."""
    fitting = Fitting((218, 178), (218, 178), "crop")
    for size in [(128, 128), (400, 100), (100, 400), (2000, 1500)]:
        image = photo(*size)
        expected = pixels(ImageOps.fit(image, (178, 218), Image.Resampling.BILINEAR)).astype(int)
        assert np.abs(fitting(pixels(image)) - expected).mean() < 1.5
        assert np.abs(pixels(stretched(image, (218, 178))) - expected).mean() > 5


@given(st.sampled_from(FITS), *[st.integers(1, 300)] * 2, *[st.sampled_from([(16, 24), (208, 176), (64, 64)])])
def test_every_shape_comes_to_the_same_size(fit, height, width, img_size):
    fitting = Fitting.of(DataConfig(fit=fit), img_size)
    image = np.full((3, height, width), 200, np.uint8)
    image[0] = 10
    stored = fitting(image)
    assert stored.shape == (3, *fitting.stored_size) and stored.dtype == np.uint8
    assert fitting.view(image).shape == (3, *img_size)
    inside = (stored == np.array([10, 200, 200])[:, None, None]).all(axis=0)
    border = (stored == np.array(BORDER)[:, None, None]).all(axis=0)
    assert (inside ^ border).all()
    assert inside.all() if fit == "crop" else inside.any()
    if fit == "stretch":
        assert not border[0].all() or fitting.stored_size[0] > img_size[0]
        assert fitting.view(image)[0].max() == 10
    if fit == "pad":  # the longer side reaches from edge to edge of what is seen
        seen = (fitting.view(image) == np.array([10, 200, 200])[:, None, None]).all(axis=0)
        assert seen.any(axis=0).all() or seen.any(axis=1).all()


def test_borders_are_nearly_nothing_to_the_model():
    border = np.array(Fitting((218, 178), (208, 176), "pad").border)
    assert tuple(border) == BORDER
    assert np.abs(border / 255 - np.array(MEAN)).max() <= 0.5 / 255


# Sources

NAMES = [f"{split}/{number}.png" for split in ("train", "valid") for number in range(6)]


def files() -> dict[str, bytes]:
    return {name: encode(photo(*SHAPES[1 + i % 4], seed=i), "PNG") for i, name in enumerate(NAMES)}


def rows() -> str:
    lines = [f"{name},{name.partition('/')[0]},{number % 2}" for number, name in enumerate(NAMES)]
    return "\n".join(["path,split,Odd", *lines]) + "\n"


def as_folder(folder: Path) -> DataConfig:
    for name, data in files().items():
        (folder / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "images" / name).write_bytes(data)
    (folder / "labels.csv").write_text(rows())
    return DataConfig(str(folder / "images"), (str(folder / "labels.csv"),))


def as_celeba_zip(folder: Path) -> DataConfig:
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for name, data in files().items():
            archive.writestr(f"img_align_celeba/{name.replace('/', '')}", data)
    names = [name.replace("/", "") for name in NAMES]
    labels = "".join(f"{name} {1 if number % 2 else -1}\n" for number, name in enumerate(names))
    (folder / "list_attr_celeba.txt").write_text(f"{len(names)}\nOdd\n{labels}")
    splits = "".join(f"{name} {0 if name.startswith('train') else 1}\n" for name in names)
    (folder / "list_eval_partition.txt").write_text(splits)
    return DataConfig(str(folder))


def as_webdataset(folder: Path) -> DataConfig:
    for split in ("train", "valid"):
        with tarfile.open(folder / f"{split}-0.tar", "w") as archive:
            for name, data in files().items():
                if name.startswith(split):
                    number = int(name.partition("/")[2][0])
                    for kind, content in (("png", data), ("json", json.dumps({"Odd": number % 2}).encode())):
                        member = tarfile.TarInfo(f"{number}.{kind}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))
    return DataConfig(str(folder))


def as_parquet(folder: Path) -> DataConfig:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for split in ("train", "valid"):
        data = [data for name, data in files().items() if name.startswith(split)]
        pq.write_table(pa.table({"image": data, "Odd": [i % 2 for i in range(6)]}), folder / f"{split}-0.parquet")
    return DataConfig(str(folder))


SOURCES = [as_folder, as_celeba_zip, as_webdataset, as_parquet]


@pytest.mark.parametrize("fit", FITS)
@pytest.mark.parametrize("write", SOURCES)
def test_every_source_fits_its_images_and_says_what_that_does(write, fit, tmp_path):
    config = write(tmp_path)
    samples = open_samples(DataConfig(config.data, config.labels, fit=fit), "train", SIZE)
    fitting = Fitting((17, 24), SIZE, fit)
    expected = [fitting(pixels(photo(*SHAPES[1 + i % 4], seed=i))) for i in range(6)]
    np.testing.assert_array_equal(samples.read(range(6)), expected)
    np.testing.assert_array_equal(list(samples.read_each([5, 2])), [expected[5], expected[2]])
    assert samples.stored_size == (17, 24)
    assert samples.notes[-1].startswith(SQUARE[fit])
    samples.preload()
    np.testing.assert_array_equal(samples.read([3]), [expected[3]])
    fewer = open_samples(DataConfig(config.data, config.labels, fit=fit, num_train=2), "train", SIZE)
    numbers = [list(samples.names).index(name) for name in fewer.names]
    np.testing.assert_array_equal(fewer.read(range(2)), [expected[number] for number in numbers])


@pytest.mark.parametrize("fit", FITS)
def test_drawn_faces_are_fitted_too(fit):
    whole = open_samples(DataConfig(num_train=3), "train", (208, 176)).read(range(3))
    for img_size in [(208, 176), (64, 64)]:
        found = open_samples(DataConfig(num_train=3, fit=fit), "train", img_size)
        fitting = Fitting.of(DataConfig(fit=fit), img_size)
        np.testing.assert_array_equal(found.read(range(3)), [fitting(face) for face in whole])


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_training_shifts_the_whole_image_wherever_it_waits(fit, tmp_path):
    config = as_folder(tmp_path)
    samples = open_samples(DataConfig(config.data, config.labels, fit=fit), "train", (64, 48))
    assert samples.stored_size == (67, 49)
    by_store = []
    for store in ("device", "memory", "disk"):
        batches = Batches(ImageStore(samples, CPU, store), (64, 48), 6, Augmentation(0, False, 1.0, 12))
        steps = batches.from_step(0)
        by_store.append([next(steps).images.numpy() for _ in range(4)])
        steps.close()
    np.testing.assert_array_equal(by_store[0], by_store[1])
    np.testing.assert_array_equal(by_store[0], by_store[2])
    whole = samples.read(range(6))
    windows = {
        whole[i, :, top : top + 64, left : left + 48].tobytes(): (top, left)
        for i in range(6)
        for top in range(4)
        for left in range(2)
    }
    shifts = {windows[image.tobytes()] for step in by_store[0] for image in np.ascontiguousarray(step)}
    assert len(shifts) == 8  # all that there are


# Notes


@pytest.mark.parametrize(
    ("fit", "sizes", "note"),
    [
        ("crop", [(218, 178)], None),
        ("crop", [], None),
        (
            "crop",
            [(128, 128)],
            "images of other shapes are cropped: one of 128 x 128 pixels loses 10% at the left and right; data.fit=pad "
            "shows all of it",
        ),
        (
            "crop",
            [(218, 178), (128, 128), (400, 100)],
            "images of other shapes are cropped: one of 100 x 400 pixels loses 35% at the top and bottom; data.fit=pad "
            "shows all of it",
        ),
        ("crop", [(218, 178), (218, 178)], None),
        ("crop", [(436, 356), (218, 178)], "images of other sizes are resized: one of 356 x 436 pixels"),
        (
            "pad",
            [(128, 128)],
            "whole images are shown, between borders of the mean colour: 15% of the picture for one of 128 x 128 "
            "pixels",
        ),
        ("stretch", [(9, 8)], "whole images are shown, stretched to the model's shape: one of 8 x 9 pixels"),
    ],
)
def test_the_line_about_the_data_says_what_is_cut(fit, sizes, note):
    assert Fitting((218, 178), (208, 176), fit).note(sizes) == note


def test_a_photo_that_lies_on_its_side_is_measured_upright(tmp_path):
    config = as_folder(tmp_path)
    exif = Image.Exif()
    exif[0x0112] = 6
    for name in NAMES:
        photo(400, 100).save(tmp_path / "images" / name, exif=exif)
    notes = open_samples(config, "train", (208, 176)).notes
    assert notes[-1].startswith("images of other shapes are cropped: one of 100 x 400 pixels loses 35% at the top")


def test_images_that_cannot_be_read_are_no_reason_to_stop_before_they_are_needed(tmp_path):
    config = as_folder(tmp_path)
    for name in NAMES:
        (tmp_path / "images" / name).write_bytes(b"no image")
    assert open_samples(config, "train", SIZE).notes == ()


# Commands


@pytest.fixture(scope="module", params=["pad", "stretch"])
def own_shape(request, tmp_path_factory) -> tuple[Path, Path, Fit]:
    """Images of all shapes, a run on them, and its fit."""
    folder = tmp_path_factory.mktemp("shapes")
    config = as_folder(folder)
    values = {"data__labels": list(config.labels or ()), "data__fit": request.param, "train__batch_size": 6}
    train_tiny(config.data, folder / "run", **values)
    return folder, folder / "run", request.param


def test_the_checkpoint_says_it_and_predict_and_eval_follow(own_shape, tmp_path):
    folder, run, fit = own_shape
    assert read_info(run / "best.safetensors").fit == fit
    images = [folder / "images" / name for name in NAMES if name.startswith("valid")]
    by_engine = []
    for engine in ([], ["--device", "cpu"]):
        crops = tmp_path / f"crops{len(engine)}"
        called = call_vitpe(
            "predict", "--checkpoint", run, *images, "--format", "jsonl", "--save-crops", crops, *engine
        )
        by_engine.append([record["probs"]["Odd"] for record in read_jsonl(called)])
        for image, crop in zip(images, sorted(crops.iterdir()), strict=True):
            expected = Fitting.of(DataConfig(fit=fit), SIZE).view(pixels(Image.open(image)))
            np.testing.assert_array_equal(pixels(Image.open(crop)), expected)
    assert by_engine[0] == pytest.approx(by_engine[1], abs=1e-5)
    answers = tmp_path / "answers.csv"
    assert call_vitpe("eval", run, "--answers", answers, "--device", "cpu").code == 0
    with answers.open(newline="") as file:
        scored = [float(row[key]) for row in csv.DictReader(file) for key in row if key == "prob:Odd"]
    assert sorted(scored) == pytest.approx(sorted(by_engine[1]), abs=1e-5)
    assert len(set(scored)) > 1


def test_a_checkpoint_of_an_earlier_version_was_trained_on_crops(own_shape, tmp_path):
    _, run, _ = own_shape
    with safe_open(run / "best.safetensors", "numpy") as file:
        values = json.loads(file.metadata()["vitpe"])
    del values["fit"]
    old = tmp_path / "old.safetensors"
    save_file(load_file(run / "best.safetensors"), old, {"format": "pt", "vitpe": json.dumps(values)})
    assert read_info(old).fit == "crop"


def test_a_run_goes_on_with_its_own(own_shape):
    folder, run, fit = own_shape
    options = tiny_options(folder / "images", data__labels=[str(folder / "labels.csv")], train__batch_size=6)
    called = call_vitpe("train", "--run", run, "--resume", *options, "--set", "data.fit=crop")
    assert called.code == 2 and f"cannot resume with data.fit 'crop' where the run has '{fit}'" in called.stderr


def test_another_word_is_refused():
    with pytest.raises(UsageError, match=r"data\.fit is .squash") as refused:
        tiny_config("x", data__fit="squash")
    assert refused.value.hint == "expected one of crop, pad, stretch"


def test_an_exported_folder_says_what_its_images_need(own_shape, tmp_path):
    _, run, fit = own_shape
    called = call_vitpe("export", run, "--format", "hf", "--out", tmp_path / "hf")
    assert called.code == 0
    assert ("images need borders first" in called.stderr) == (fit == "pad")
    card = (tmp_path / "hf" / "README.md").read_text()
    assert ("ImageOps.pad(photo, (24, 16)" in card) == (fit == "pad")
    preprocessor = json.loads((tmp_path / "hf" / "preprocessor_config.json").read_text())
    assert (preprocessor["size"], preprocessor["do_center_crop"]) == ({"height": 16, "width": 24}, False)
