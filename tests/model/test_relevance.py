"""Maps of a logit against the same rules written out in full."""

import numpy as np
import pytest
import torch
from torch.nn.functional import gelu, layer_norm

from tests.model.test_inputs import MEAN, STD
from tests.model.test_numpy_forward import random_image, random_model
from vitpe.config import ModelConfig
from vitpe.model.inputs import PixelClassifier
from vitpe.model.numpy_forward import NumpyClassifier
from vitpe.model.occlusion import occlusion
from vitpe.model.relevance import AttentionRelevance
from vitpe.model.vit import VisionTransformer

SMALL = {"img_size": (48, 32), "patch_size": 16, "num_classes": 5, "embed_dim": 24, "depth": 3, "num_heads": 3}


def config(**changes) -> ModelConfig:
    return ModelConfig(**(SMALL | changes))


def written_out(model: VisionTransformer, image: np.ndarray, column: int, sign: float) -> np.ndarray:
    """Relevance (N,) with whole matrices: R = 1, then R ← R + mean((G ⊙ W)⁺) R, block by block from the first."""
    classifier = PixelClassifier(model, MEAN, STD)
    tokens = model.embed(torch.from_numpy(image)[None], None, classifier.normalize)[0]
    weights = []
    for block in model.blocks:
        t, d = tokens.shape
        h = block.attn.num_heads
        q, k, v = block.attn.qkv(block.norm1(tokens)).reshape(t, 3, h, d // h).permute(1, 2, 0, 3)
        weight = torch.softmax(q @ k.transpose(1, 2) / (d // h) ** 0.5, dim=-1)
        weight.retain_grad()
        weights.append(weight)
        mixed = tokens + block.attn.proj((weight @ v).transpose(0, 1).reshape(t, d))
        tokens = mixed
        tokens = tokens + block.mlp.fc2(gelu(block.mlp.fc1(block.norm2(tokens))))
    by_mean, pool = model.config.global_pool == "avg", model.query_pool
    normed = model.norm(tokens)
    logit = model.head(model.fc_norm(normed[1:].mean(dim=0)) if by_mean else normed[0])[column]
    look = None
    if pool is not None:  # one query, head by head
        h, d = pool.num_heads, mixed.shape[1]
        q = pool.queries[column].view(h, 1, d // h)
        seen = layer_norm(mixed, mixed.shape[-1:], eps=1e-6)
        k, v = (part(seen).view(-1, h, d // h).transpose(0, 1) for part in (pool.key, pool.value))
        look = torch.softmax(q @ k.transpose(1, 2) / (d // h) ** 0.5, dim=-1)
        look.retain_grad()
        logit = logit + pool.head_weight[column] @ (look @ v).flatten()
    (sign * logit).backward()
    relevance = torch.eye(len(tokens))
    for weight in weights:
        relevance = relevance + (weight.grad * weight.detach()).clamp(min=0).mean(dim=0) @ relevance
    found = (relevance - torch.eye(len(tokens)))[1:].mean(dim=0) if by_mean else relevance[0]
    if look is not None:
        found = found + ((look.grad * look.detach()).clamp(min=0).mean(dim=0) @ relevance)[0]
    return found[1:].detach().numpy()


@pytest.mark.parametrize(
    "changes", [{}, {"global_pool": "avg"}, {"global_pool": "queries"}, {"stem_width": 4}, {"depth": 1}], ids=str
)
def test_relevance_is_the_rule_written_out(changes):
    model = random_model(config(**changes))
    images = np.stack([random_image(model.config, seed) for seed in range(2)])
    signs = torch.tensor([[1.0, -1.0], [-1.0, 1.0]])
    found = AttentionRelevance(model, MEAN, STD)(torch.from_numpy(images), [4, 1], signs).numpy()
    expected = [
        [written_out(model, image, column, sign) for column, sign in zip([4, 1], row.tolist(), strict=True)]
        for image, row in zip(images, signs, strict=True)
    ]
    assert found.shape == (2, 2, 6)
    assert found.min() >= 0 and found.std(axis=2).min() > 0
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    assert not np.allclose(found[0, 0], found[1, 0], rtol=0.01)


def test_relevance_leaves_the_model_as_it_was():
    model = random_model(config())
    image = torch.from_numpy(random_image(model.config))[None]
    before = PixelClassifier(model, MEAN, STD)(image)
    AttentionRelevance(model, MEAN, STD)(image, [0], torch.ones(1, 1))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert torch.equal(PixelClassifier(model, MEAN, STD)(image), before)


@pytest.mark.parametrize(
    "changes", [{}, {"global_pool": "avg"}, {"global_pool": "queries"}, {"stem_width": 4}], ids=str
)
def test_occlusion_is_what_patch_dropout_takes(changes):
    """In numpy, against torch's model with that patch dropped."""
    model = random_model(config(**changes))
    image = random_image(model.config)
    in_numpy = NumpyClassifier(model.config, {n: v.numpy() for n, v in model.state_dict().items()}, MEAN, STD)
    tokens = in_numpy.embed(image)
    found = occlusion(lambda sets: np.array([in_numpy.classify(tokens[[0, *(1 + kept)]]) for kept in sets]), 6)
    classifier, pixels = PixelClassifier(model, MEAN, STD), torch.from_numpy(image)[None]
    with torch.no_grad():
        whole = classifier(pixels)[0]
        for patch in range(6):
            kept = torch.tensor([[n for n in range(6) if n != patch]])
            expected = (whole - classifier(pixels, kept)[0]).numpy()
            np.testing.assert_allclose(found[:, patch], expected, rtol=0, atol=1e-4)
    assert np.abs(found).max() > 1e-2
