"""vitpe from Python, against what the commands say."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import vitpe
from tests.helpers.in_process import call_vitpe
from vitpe.config import PRESETS
from vitpe.errors import UsageError, VitpeError
from vitpe.runs.folder import RunFolder


@pytest.fixture
def image(celeba):
    return celeba / "img_align_celeba" / "000001.jpg"


def test_importing_brings_nothing_along():
    script = "import sys, vitpe; assert not {'numpy', 'torch', 'typer'} & set(sys.modules); vitpe.load"
    subprocess.run([sys.executable, "-c", script], check=True)
    assert {"load", "LoadedModel"} <= set(vitpe.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        vitpe.lode  # noqa: B018


def test_a_record_is_what_the_command_writes(trained_run, image):
    called = call_vitpe("predict", image, "--checkpoint", trained_run, "--format", "json")
    (expected,) = json.loads(called.out)["predictions"] if b'"predictions"' in called.out else json.loads(called.out)
    record = vitpe.load(trained_run).predict(image)
    assert record.probs == expected["probs"]
    assert list(record.present) == expected["present"]
    assert record.file == str(image)


def test_files_images_and_arrays_are_alike(trained_run, image):
    model = vitpe.load(str(trained_run))
    opened = Image.open(image)
    sources = [str(image), opened, np.asarray(opened), opened.convert("CMYK").convert("RGB"), "missing.jpg"]
    found = model.predict(iter(sources), attributes=model.attributes[0])
    assert [record.file for record in found[1:4]] == ["image 1", "image 2", "image 3"]
    assert found[0].probs == found[1].probs == found[2].probs
    assert list(found[0].probs) == [model.attributes[0]]
    assert found[4].error == "No such file or directory"
    assert model.predict([]) == []


@pytest.mark.parametrize("mode", ["L", "LA", "P", "1", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_images_of_every_mode_are_read(trained_run, image, mode, tmp_path):
    opened = Image.open(image)
    if mode == "I;16":
        converted = Image.fromarray(np.asarray(opened.convert("L")).astype(np.uint16) * 257)
    else:
        converted = opened.convert(mode)
    suffix = "tif" if mode in ("CMYK", "YCbCr") else "png"
    converted.save(tmp_path / f"image.{suffix}")
    model = vitpe.load(trained_run)
    assert model.predict(converted).probs == model.predict(tmp_path / f"image.{suffix}").probs


def test_a_turned_photo_is_upright_as_in_its_file(trained_run, image, tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    Image.open(image).save(tmp_path / "turned.png", exif=exif)
    model = vitpe.load(trained_run)
    turned = Image.open(tmp_path / "turned.png")
    assert model.predict(turned).probs == model.predict(tmp_path / "turned.png").probs


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (np.zeros((4, 4), np.uint8), r"image 0 is an array of uint8 \(4, 4\)"),
        (np.zeros((4, 4, 3), np.float32), "image 0 is an array of float32"),
        ([b"bytes"], "image 0 is bytes"),
    ],
)
def test_what_is_no_image_is_refused(trained_run, bad, message):
    with pytest.raises(UsageError, match=message):
        vitpe.load(trained_run).predict(bad)


def test_the_module_computes_the_same(trained_run, image):
    from vitpe.data.images import center_crop, crop_and_resize, decode

    loaded = vitpe.load(trained_run)
    pixels = center_crop(
        crop_and_resize(decode(image.read_bytes()), loaded.info.stored_size), loaded.info.model.img_size
    )
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (loaded.info.mean, loaded.info.std))
    with torch.inference_mode():
        probs = loaded.model((torch.from_numpy(pixels.copy()) / 255 - mean)[None] / std).sigmoid()
    assert list(loaded.predict(image).probs.values()) == pytest.approx(probs[0].tolist(), abs=2e-6)
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    torch_record = vitpe.load(trained_run, device="cpu").predict(image)
    assert torch.get_num_threads() == 3  # which are the caller's
    torch.set_num_threads(threads)
    assert list(torch_record.probs.values()) == pytest.approx(probs[0].tolist(), abs=2e-6)


def test_embeddings_and_their_similarity(trained_run):
    loaded = vitpe.load(trained_run)
    rows, columns = loaded.info.model.grid_size
    embeddings = loaded.model.pos_embed[0, 1:].detach().numpy().reshape(rows, columns, -1)
    assert np.array_equal(loaded.pos_embed, embeddings)
    one, other = embeddings[0, 1], embeddings[rows - 1, 0]
    cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
    assert loaded.similarity.shape == (rows, columns, rows, columns)
    assert loaded.similarity[0, 1, rows - 1, 0] == pytest.approx(cosine, abs=1e-5)


def test_pictures_show_in_a_notebook(trained_run):
    loaded = vitpe.load(trained_run)
    for name in ("final", "explained", "norms"):
        picture = loaded.visualize(name)
        assert min(picture.size) > 300
        assert picture._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(UsageError, match="no picture 'x'"):
        loaded.visualize("x")


def test_what_it_is(trained_run, tmp_path):
    loaded = vitpe.load(trained_run)
    assert loaded.path == RunFolder(trained_run).best
    assert f"{len(loaded.attributes)} attributes" in repr(loaded)
    with pytest.raises(VitpeError):
        vitpe.load(tmp_path / "none")
    assert PRESETS["tiny"].model != loaded.info.model
