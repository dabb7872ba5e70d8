"""Pixels → logits: against images that are normalised by the definition."""

import copy

import pytest
import torch
from torch import Tensor, nn

from tests.model.test_model import random_images, randomize, small_model
from vitpe.model.inputs import (
    FoldedClassifier,
    Normalize,
    PixelClassifier,
    classify,
    predicting_classifier,
    stack_images,
)
from vitpe.model.vit import VisionTransformer

MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.2, 0.1)


@pytest.fixture
def model() -> VisionTransformer:
    made = small_model((3, 5)).eval()
    randomize(made)
    return made


def random_pixels(model: VisionTransformer, batch: int = 4) -> Tensor:
    shape = (batch, 3, *model.config.img_size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def normalized(images: Tensor) -> Tensor:
    mean, std = (torch.tensor(values, dtype=torch.float64).view(3, 1, 1) for values in (MEAN, STD))
    return (images.double() / 255 - mean) / std


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_normalized_patches_are_patches_of_normalized_images(
    layout: torch.memory_format, model: VisionTransformer
) -> None:
    images = random_pixels(model).contiguous(memory_format=layout)
    untouched = images.clone()
    found = Normalize(MEAN, STD, model.config.patch_size)(model.patchify(images))
    assert found.dtype == torch.float32
    assert found.is_contiguous()
    torch.testing.assert_close(found.double(), model.patchify(normalized(images)), atol=1e-5, rtol=0)
    assert torch.equal(images, untouched)


@pytest.mark.parametrize("kind", [PixelClassifier, FoldedClassifier])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_classifiers_give_the_logits_of_normalized_images(
    kind: type[nn.Module], layout: torch.memory_format, model: VisionTransformer
) -> None:
    images = random_pixels(model).contiguous(memory_format=layout)
    logits = classify(kind(model, MEAN, STD), images)
    expected = copy.deepcopy(model).double()(normalized(images))
    assert logits.std() > 0.1
    torch.testing.assert_close(logits.double(), expected, atol=2e-5, rtol=0)


@pytest.mark.parametrize("stem_width", [0, 2])
def test_to_classify_pixels_leaves_the_model_as_it_was(stem_width: int) -> None:
    model = small_model((2, 3), stem_width=stem_width, patch_size=8, img_size=(16, 24)).eval()
    randomize(model)
    weights, images = copy.deepcopy(model.state_dict()), random_images(model)
    before = model(images)
    for classifier in (PixelClassifier(model, MEAN, STD), predicting_classifier(model, MEAN, STD, torch.device("cpu"))):
        classify(classifier, random_pixels(model))
    assert isinstance(classifier, PixelClassifier if stem_width else FoldedClassifier)
    assert torch.equal(model(images), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.state_dict().items())
    assert model.state_dict().keys() == weights.keys()


def test_stacked_images_have_their_channels_last_in_memory() -> None:
    decoded = [torch.randint(0, 256, (9, 8, 3), dtype=torch.uint8).permute(2, 0, 1)[:, 1:7, 2:6] for _ in range(3)]
    stacked = stack_images([image.numpy() for image in decoded])
    assert stacked.shape == (3, 3, 6, 4)
    assert stacked.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(ours, image) for ours, image in zip(stacked, decoded, strict=True))
