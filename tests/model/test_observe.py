"""What a model is seen to do is what it does."""

import numpy as np
import pytest
import torch

from tests.helpers import SMALL
from vitpe.model.inputs import PixelClassifier
from vitpe.model.observe import Observer
from vitpe.model.vit import VisionTransformer

MEAN, STD = (0.5, 0.4, 0.3), (0.3, 0.2, 0.25)


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = VisionTransformer(SMALL).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3).requires_grad_(False)
    return model


@pytest.fixture(scope="module")
def images():
    return torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 3, *SMALL.img_size), dtype=np.uint8))


def watch(model, images):
    seen = []
    Observer(model, MEAN, STD).watch(images, lambda *layer: seen.append(layer))
    return seen


def test_tokens_are_the_models(model, images):
    """The last ones, through the final norm and the head, give the model's logits where it pools patches."""
    normalize = PixelClassifier(model, MEAN, STD)._normalize
    tokens = model.embed(images, None, normalize)
    expected = [tokens]
    for block in model.blocks:
        expected.append(block(expected[-1]))
    seen = watch(model, images)
    assert [layer for layer, _, _ in seen] == list(range(1 + SMALL.depth))
    for (_, found, _), own in zip(seen, expected, strict=True):
        torch.testing.assert_close(found, own[:, 1:], rtol=0, atol=1e-4)


def test_attention_is_what_mixes_the_values(model, images):
    (_, before, nothing), (_, _, weights), *_ = watch(model, images)
    assert nothing is None
    assert weights.shape == (3, SMALL.num_heads, 6, 6)
    torch.testing.assert_close(weights.sum(dim=-1), torch.ones(3, SMALL.num_heads, 6))
    block, dim = model.blocks[0], SMALL.embed_dim // SMALL.num_heads
    q, k = (block.attn.qkv(block.norm1(before)).view(3, 6, 3, SMALL.num_heads, dim)[:, :, part] for part in (0, 1))
    expected = (torch.einsum("bqhd,bkhd->bhqk", q, k) / dim**0.5).softmax(dim=-1)
    torch.testing.assert_close(weights, expected, rtol=0, atol=1e-5)


def test_patches_that_are_alike_are_looked_at_alike(model):
    found = Observer(model, MEAN, STD).attention_of(torch.ones(6, SMALL.embed_dim))
    torch.testing.assert_close(found, torch.full((SMALL.num_heads, 6, 6), 1 / 6))
    other = Observer(model, MEAN, STD).attention_of(torch.eye(6, SMALL.embed_dim))
    assert (other - 1 / 6).abs().max() > 0.01
