"""Rotary embeddings against timm's, and what the paper says of them."""

from dataclasses import replace

import numpy as np
import pytest
import timm.models
import torch
from torch import Tensor

from tests.model.test_inputs import MEAN, STD
from tests.model.test_model import random_images, randomize
from vitpe.config import ModelConfig
from vitpe.errors import UsageError, VitpeError
from vitpe.model.convert import convert_state_dict
from vitpe.model.facts import ModelFacts
from vitpe.model.inputs import PixelClassifier, classify_kept
from vitpe.model.numpy_forward import NumpyClassifier
from vitpe.model.rope import RotaryEmbedding, rotate
from vitpe.model.shapes import patch_coordinates
from vitpe.model.vit import VisionTransformer
from vitpe.training.forward import TrainForward

CONFIG = ModelConfig((52, 44), patch_size=4, num_classes=5, embed_dim=48, depth=2, num_heads=3, rope="mixed")
KINDS = ("axial", "mixed")


def random_model(config: ModelConfig = CONFIG) -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(config).eval()
    randomize(model)
    model.pos_embed.data.normal_(std=0.5)
    for block in model.blocks:
        block.attn.qkv.weight.data *= 3  # attention that is far from uniform
    return model


def timms(model: VisionTransformer) -> torch.nn.Module:
    """timm's model with the same weights. There channels 2i and 2i + 1 of a head turn together."""
    config = model.config
    theirs = timm.models.Eva(
        img_size=config.img_size,
        patch_size=config.patch_size,
        num_classes=config.num_classes,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        global_pool="token",
        use_rot_pos_emb=True,
        rope_type="cat" if config.rope == "axial" else "mixed",
        rope_temperature=10.0,
        rope_grid_indexing="xy",
        attn_type="rope",
        init_values=None,
    ).eval()
    d = config.head_dim
    interleaved = torch.arange(d).view(2, d // 2).T.flatten()
    order = torch.arange(2 * config.embed_dim).view(-1, d)[:, interleaved].flatten()
    order = torch.cat([order, torch.arange(2 * config.embed_dim, 3 * config.embed_dim)])
    weights = {k: v[order] if ".qkv." in k else v for k, v in model.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(weights, strict=False)
    assert not unexpected
    assert not [key for key in missing if not key.startswith("rope.")]
    return theirs


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_timms(kind: str) -> None:
    ours = random_model(replace(CONFIG, rope=kind))
    images = random_images(ours)
    with torch.inference_mode():
        expected, logits = timms(ours)(images), ours(images)
        ours.rope = None
        assert (ours(images) - expected).abs().max() > 0.05
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("img_size", [(52, 44), (24, 40)])
def test_a_product_depends_on_the_distance_alone(kind: str, img_size: tuple[int, int]) -> None:
    config = replace(CONFIG, img_size=img_size, rope=kind)
    rows, columns = config.grid_size
    turn = RotaryEmbedding(config)(torch.empty(0))[1]
    q, k = torch.randn(2, 1, 1, 1, 3, 16, generator=torch.Generator().manual_seed(0)).expand(
        -1, 1, 1 + config.num_patches, -1, -1, -1
    )
    products = torch.einsum("bsxhd,btxhd->hst", rotate(q, turn), rotate(k, turn))
    grid = products[:, 1:, 1:].reshape(3, rows, columns, rows, columns)
    torch.testing.assert_close(grid[:, 0, 1, 2, 2], grid[:, 3, 2, 5, 3], rtol=0, atol=1e-4)
    assert (grid[:, 0, 1, 2, 2] - grid[:, 0, 1, 2, 3]).abs().max() > 0.01
    torch.testing.assert_close(rotate(q, turn)[:, 0], q[:, 0])  # the class token stands still


def test_the_place_in_the_image_counts_on_any_grid() -> None:
    x, y = patch_coordinates((13, 11)).T
    np.testing.assert_allclose(x, np.tile(np.arange(11), 13), atol=1e-6)
    np.testing.assert_allclose(y, np.repeat(np.arange(13), 11), atol=1e-6)
    finer = patch_coordinates((26, 22)).reshape(13, 2, 11, 2, 2).mean(axis=(1, 3))
    np.testing.assert_allclose(finer.reshape(-1, 2), np.stack([x, y], axis=1), atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pool", ["token", "queries"])
def test_kept_patches_keep_their_places(kind: str, pool: str) -> None:
    """In training's forward pass, where images keep different ones, and in those of occlusion, in torch and numpy."""
    model = random_model(replace(CONFIG, rope=kind, global_pool=pool))
    keep = torch.tensor([[7, 130, 3, 55], [60, 1, 140, 9]])
    images = torch.randint(0, 256, (2, 3, 52, 44), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    classifier = PixelClassifier(model, MEAN, STD)
    with torch.inference_mode():
        logits = classifier(images, keep)
        # By hand: the rotations of all, of which the kept are taken.
        tokens = classifier.embed(images)
        for number in range(2):
            rows = torch.cat([torch.zeros(1, dtype=torch.long), 1 + keep[number]])
            all_rotations = model.rope(tokens)
            model.rope.forward = lambda *_, r=rows, a=all_rotations: [(c[r], s[r]) for c, s in a]
            expected = model.classify(tokens[number : number + 1, rows])
            del model.rope.forward
            torch.testing.assert_close(logits[number : number + 1], expected, rtol=0, atol=1e-5)
            kept = classify_kept(classifier, images[number : number + 1], keep)
            torch.testing.assert_close(kept[number], expected[0], rtol=0, atol=1e-5)
            in_numpy = NumpyClassifier(model.config, {k: v.numpy() for k, v in model.state_dict().items()}, MEAN, STD)
            found = in_numpy.classify(in_numpy.embed(images[number].numpy())[rows], keep[number].numpy())
            np.testing.assert_allclose(found, expected[0], rtol=0, atol=1e-4)
            elsewhere = model.classify(tokens[number : number + 1, rows], (keep[number : number + 1] + 2) % 143)
            assert (elsewhere - expected).abs().max() > 1e-3


def test_learned_frequencies_learn_with_patch_dropout_and_in_bfloat16() -> None:
    model = random_model()
    images = torch.randint(0, 256, (2, 3, 52, 44), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keep = torch.rand(2, 143, generator=torch.Generator().manual_seed(1)).argsort(dim=1)[:, :70]
    gradients = []
    for precision in ("fp32", "bf16"):
        TrainForward(model, MEAN, STD, precision)(images, keep).square().sum().backward()
        gradients.append(model.rope.freqs.grad)
        model.zero_grad()
    exact, rough = gradients
    assert exact.abs().amax(dim=(0, 3)).min() > 0  # in each head of each block
    assert torch.nn.functional.cosine_similarity(exact.flatten(), rough.flatten(), dim=0) > 0.98


def test_heads_of_a_width_that_cannot_turn_are_refused() -> None:
    with pytest.raises(UsageError, match="heads of 6 channels, which is not a multiple of 4") as caught:
        replace(CONFIG, embed_dim=24, num_heads=4)
    assert caught.value.hint == "rotary position embeddings need that"


def converted(
    tensors: dict[str, Tensor], rope: str, theirs: str | None, is_ours: bool = True
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    facts = ModelFacts("the test", (13, 11), 3, tuple("abcde"), rope=theirs, is_ours=is_ours)
    result = convert_state_dict(tensors, replace(CONFIG, rope=rope), tuple("abcde"), facts)
    VisionTransformer(replace(CONFIG, rope=rope)).load_state_dict(result.state_dict, strict=True)
    return result.state_dict, result.notes


def test_other_rotations_than_in_training_are_said() -> None:
    mixed, axial = (random_model(replace(CONFIG, rope=kind)).state_dict() for kind in ("mixed", "axial"))
    tensors, notes = converted(mixed, "mixed", "mixed")
    assert notes == ()
    assert torch.equal(tensors["rope.freqs"], mixed["rope.freqs"])
    assert converted(axial, "axial", "axial")[1] == ()
    for weights, theirs, ours in ((axial, "axial", "none"), (mixed, "mixed", "axial"), (axial, "axial", "mixed")):
        _, notes = converted(weights, ours, theirs)
        assert notes == (f"rope: {ours} where the weights were trained with {theirs}, so that their logits change",)
    with pytest.raises(VitpeError, match="rotary frequencies of another library"):
        converted(mixed, "mixed", None, is_ours=False)
