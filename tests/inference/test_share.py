"""Exported folders, loaded by the libraries that they are for."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import transformers
from PIL import Image, ImageOps

from vitpe.celeba import MEAN, STD
from vitpe.config import ModelConfig
from vitpe.errors import UsageError
from vitpe.inference.share import huggingface_files, timm_files
from vitpe.model.inputs import PixelClassifier
from vitpe.model.vit import VisionTransformer
from vitpe.reporting.model_card import model_card
from vitpe.runs.metadata import CheckpointInfo

ATTRIBUTES = ("Smiling", "Male", "Größe <b>")
CONFIG = ModelConfig(img_size=(24, 16), patch_size=8, embed_dim=32, depth=2, num_heads=2, num_classes=3)


def made(config: ModelConfig = CONFIG) -> tuple[VisionTransformer, dict[str, np.ndarray], CheckpointInfo]:
    torch.manual_seed(0)
    model = VisionTransformer(config)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape) * 0.1
    info = CheckpointInfo(
        model=config,
        attributes=ATTRIBUTES,
        mean=MEAN,
        std=STD,
        thresholds=(0.5, 0.25, 0.75),
        stored_size=(28, 20),
        step=1,
        images_seen=64,
        seed=0,
        data_source="celeba",
    )
    return model.eval(), {name: value.numpy() for name, value in model.state_dict().items()}, info


def write(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def expected_logits(model: VisionTransformer, images: np.ndarray) -> torch.Tensor:
    """Of uint8 images (B, 28, 20, 3), by vitpe's own preprocessing of images that need no fitting."""
    crops = torch.from_numpy(images[:, 2:26, 2:18]).permute(0, 3, 1, 2)
    with torch.inference_mode():
        logits: torch.Tensor = PixelClassifier(model, MEAN, STD)(crops)
    assert logits.std() > 0.05
    return logits


def random_images() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, 28, 20, 3), dtype=np.uint8)


@pytest.mark.parametrize("change", [{}, {"mlp_ratio": 2.33}, {"pos_embed": "factorized"}], ids=str)
def test_a_transformers_pipeline_gives_the_same_answers(tmp_path, change):
    model, weights, info = made(replace(CONFIG, **change))
    folder = write(tmp_path / "hf", huggingface_files(weights, info))
    classify = transformers.pipeline("image-classification", model=str(folder), device="cpu")
    images = random_images()
    expected = expected_logits(model, images)
    inputs = classify.image_processor([Image.fromarray(image) for image in images], return_tensors="pt")
    with torch.inference_mode():
        torch.testing.assert_close(classify.model(**inputs).logits, expected, rtol=0, atol=1e-5)
    for image, logits in zip(images, expected, strict=True):
        answers = {answer["label"]: answer["score"] for answer in classify(Image.fromarray(image), top_k=3)}
        assert answers == pytest.approx(dict(zip(ATTRIBUTES, logits.sigmoid().tolist(), strict=True)), abs=1e-5)


def test_the_configuration_holds_the_thresholds(tmp_path):
    _, weights, info = made()
    folder = write(tmp_path / "hf", huggingface_files(weights, info))
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.thresholds == dict(zip(ATTRIBUTES, info.thresholds, strict=True))


@pytest.mark.parametrize(
    "change",
    [{}, {"global_pool": "avg"}, {"mlp_ratio": 2.33}, {"mlp_ratio": 2.49}, {"pos_embed": "factorized"}],
    ids=str,
)
def test_timm_gives_the_same_logits(tmp_path, change):
    model, weights, info = made(replace(CONFIG, **change))
    folder = write(tmp_path / "timm", timm_files(weights, info))
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    images = random_images()
    data = timm.data.resolve_model_data_config(theirs)
    assert (data["input_size"], data["mean"], data["std"]) == ((3, 24, 16), [*MEAN], [*STD])
    crops = torch.from_numpy(images[:, 2:26, 2:18]).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(data[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.inference_mode():
        logits = theirs((crops - mean) / std)
    torch.testing.assert_close(logits, expected_logits(model, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("files", "change", "part"),
    [
        (huggingface_files, {"global_pool": "avg"}, "global_pool=avg"),
        (huggingface_files, {"global_pool": "queries"}, "global_pool=queries"),
        (huggingface_files, {"stem_width": 8}, "stem_width=8"),
        (timm_files, {"global_pool": "queries"}, "global_pool=queries"),
        (timm_files, {"stem_width": 8}, "stem_width=8"),
        (huggingface_files, {"rope": "axial"}, "rope=axial"),
        (timm_files, {"rope": "mixed"}, "rope=mixed"),
    ],
)
def test_a_model_that_the_library_cannot_hold_is_refused(files, change, part):
    _, weights, info = made(replace(CONFIG, **change))
    with pytest.raises(UsageError, match=part):
        files(weights, info)


@pytest.mark.parametrize("fit", ["pad", "stretch"])
def test_images_that_are_shown_whole_are_prepared_by_the_libraries_as_by_us(tmp_path, fit):
    """By timm's own transform; by transformers' after what the model card says. Where an odd number of pixels is left
    for borders, timm gives the larger part to another side than Pillow.
    """
    model, weights, info = made()
    info = replace(info, fit=fit)
    hf = write(tmp_path / "hf", huggingface_files(weights, info))
    timms = timm.create_model(f"local-dir:{write(tmp_path / 'timm', timm_files(weights, info))}", pretrained=True)
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(timms.eval()))
    processor = transformers.AutoImageProcessor.from_pretrained(hf)
    classifier = transformers.AutoModelForImageClassification.from_pretrained(hf)
    card = model_card(info, "hf", None)
    assert ("color=(129, 108, 98)" in card) == (fit == "pad")
    noise = np.random.default_rng(1).integers(0, 256, (3, 5, 4, 3), dtype=np.uint8)
    for pixels, size in zip(noise, [(64, 64), (90, 20), (30, 90)], strict=True):
        photo = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
        view = torch.from_numpy(info.fitting.view(np.asarray(photo).transpose(2, 0, 1)).copy())
        with torch.inference_mode():
            expected = PixelClassifier(model, MEAN, STD)(view[None])
            torch.testing.assert_close(timms(transform(photo)[None]), expected, rtol=0, atol=2e-3)
            if fit == "pad":
                photo = ImageOps.pad(photo, (16, 24), Image.Resampling.BILINEAR, color=(129, 108, 98))
            logits = classifier(**processor(photo, return_tensors="pt")).logits
            torch.testing.assert_close(logits, expected, rtol=0, atol=2e-3)


def test_every_file_says_who_wrote_it():
    _, weights, info = made()
    for files in (huggingface_files(weights, info), timm_files(weights, info)):
        assert all(b"written by vitpe" in data[:65536] for data in files.values())
        assert json.loads(files["config.json"])
