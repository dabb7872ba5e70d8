"""The ways to tell a patch where it is, against timm's and against one another."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from timm.models.naflexvit import NaFlexVit, NaFlexVitCfg
from torch import Tensor

from tests.model.test_inputs import MEAN, STD
from tests.model.test_model import random_images, randomize
from vitpe.config import ModelConfig
from vitpe.errors import VitpeError
from vitpe.model.convert import convert_state_dict
from vitpe.model.facts import ModelFacts
from vitpe.model.inputs import PixelClassifier, predicting_classifier
from vitpe.model.numpy_forward import NumpyClassifier
from vitpe.model.vit import VisionTransformer, sincos_embedding
from vitpe.training.forward import TrainForward

CONFIG = ModelConfig((20, 12), 4, num_classes=5, embed_dim=48, depth=2, num_heads=3, pos_embed="factorized")
KINDS = ("learned", "sincos", "factorized", "none")
NAMES = tuple("abcde")


def random_model(pos_embed: str = "factorized", img_size: tuple[int, int] = CONFIG.img_size) -> VisionTransformer:
    """With random weights, and embeddings as large as the rest of a token, where they are learned."""
    torch.manual_seed(0)
    model = VisionTransformer(replace(CONFIG, pos_embed=pos_embed, img_size=img_size)).eval()
    fixed = {name: value.clone() for name, value in model.named_parameters() if not value.requires_grad}
    randomize(model)
    for name, value in model.named_parameters():
        if name in fixed:
            value.data = fixed[name]
        elif name.startswith("pos_embed"):
            value.data.normal_(std=0.5)
    return model


def test_logits_of_rows_and_columns_are_timms() -> None:
    ours = random_model()
    theirs = NaFlexVit(
        NaFlexVitCfg(
            patch_size=4,
            embed_dim=48,
            depth=2,
            num_heads=3,
            pos_embed="factorized",
            pos_embed_grid_size=(5, 3),
            class_token=True,
            reg_tokens=0,
            global_pool="token",
        ),
        num_classes=5,
    ).eval()
    weights = {}
    for name, value in ours.state_dict().items():
        if name == "patch_embed.proj.weight":
            value = value.permute(0, 2, 3, 1).flatten(1)
        name = name.replace("patch_embed.", "embeds.")
        weights[f"embeds.{name}" if name.startswith(("pos_embed", "cls_token")) else name] = value
    theirs.load_state_dict(weights)
    images = random_images(ours)
    with torch.inference_mode():
        expected, logits = theirs(images), ours(images)
        ours.pos_embed_y.data, ours.pos_embed_x.data = (
            value.roll(1, dims=1) for value in (ours.pos_embed_y.data, ours.pos_embed_x.data)
        )
        assert (ours(images) - expected).abs().max() > 0.01
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)


def test_rows_and_columns_start_at_zero_and_learn_with_patch_dropout() -> None:
    model = VisionTransformer(CONFIG)
    assert not model.position_table().any()
    assert "pos_embed" not in model.state_dict()
    randomize(model.head)
    keep = torch.tensor([[0, 4, 8], [0, 3, 1]])  # by row and column: (0, 0) (1, 1) (2, 2); (0, 0) (1, 0) (0, 1)
    model(random_images(model), keep).sum().backward()
    for table, seen in ((model.pos_embed_y, [0, 1, 2]), (model.pos_embed_x, [0, 1, 2])):
        assert table.grad is not None
        assert table.grad[0].abs().sum(dim=1).nonzero().flatten().tolist() == seen


def test_without_embeddings_the_order_of_patches_is_nothing() -> None:
    model = random_model("none")
    images = random_images(model)
    trained = {name for name, value in model.named_parameters() if value.requires_grad}
    assert "pos_embed" not in trained
    assert not model.position_table().any()
    with torch.inference_mode():
        logits = model(images)
        torch.testing.assert_close(model(images.flip(-2).unflatten(-2, (5, 4)).flip(-2).flatten(-3, -2)), logits)
        assert (random_model()(images.flip(-1)) - random_model()(images)).abs().max() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("img_size", [(20, 12), (8, 28)])
def test_all_that_classifies_agrees(kind: str, img_size: tuple[int, int]) -> None:
    """Also of kept patches, and in bfloat16."""
    model = random_model(kind, img_size)
    images = torch.randint(0, 256, (2, 3, *img_size), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    classifier = PixelClassifier(model, MEAN, STD)
    with torch.inference_mode():
        logits = classifier(images)
        assert (logits[0] - logits[1]).abs().max() > 1e-3
        folded = predicting_classifier(model, MEAN, STD, torch.device("cpu"))
        torch.testing.assert_close(folded(images), logits, rtol=0, atol=1e-5)
        every = torch.stack([torch.randperm(model.config.num_patches) for _ in images])
        torch.testing.assert_close(classifier(images, every), logits, rtol=0, atol=1e-5)
        rough = TrainForward(model, MEAN, STD, "bf16")(images)
        torch.testing.assert_close(rough, logits, rtol=0, atol=0.1 * logits.abs().max().item())
    in_numpy = NumpyClassifier(model.config, {k: v.numpy() for k, v in model.state_dict().items()}, MEAN, STD)
    for image, expected in zip(images.numpy(), logits, strict=True):
        np.testing.assert_allclose(in_numpy(image), expected, rtol=0, atol=1e-4)


def converted(
    model: VisionTransformer, pos_embed: str, img_size: tuple[int, int] = CONFIG.img_size
) -> tuple[VisionTransformer, tuple[str, ...]]:
    """A model of another kind or grid that starts from the weights, and what is said of that."""
    config = replace(CONFIG, pos_embed=pos_embed, img_size=img_size)
    facts = ModelFacts("the test", model.config.grid_size, 3, NAMES, rope="none", is_ours=True)
    result = convert_state_dict(dict(model.state_dict()), config, NAMES, facts)
    ours = VisionTransformer(config).eval()
    ours.load_state_dict(result.state_dict, strict=True)
    return ours, result.notes


def difference(first: VisionTransformer, second: VisionTransformer) -> float:
    images = random_images(first)
    with torch.inference_mode():
        return (first(images) - second(images)).abs().max().item()


@pytest.mark.parametrize("theirs", KINDS)
@pytest.mark.parametrize("kind", KINDS)
def test_logits_change_where_that_is_said_and_nowhere_else(theirs: str, kind: str) -> None:
    model = random_model(theirs)
    found, notes = converted(model, kind)
    changed = "so that their logits change" in " ".join(notes)
    assert changed == ((kind == "none" and theirs != "none") or (kind == "factorized" and theirs == "learned"))
    gap = difference(model, found)
    assert gap > 0.01 if changed else gap < 1e-5
    if kind == theirs:
        assert notes == ()
        assert all(torch.equal(value, found.state_dict()[name]) for name, value in model.state_dict().items())
    if kind == "sincos" and theirs != "sincos":
        assert notes == ("pos_embed: the weights' own, which stay as they are, in the place of sines and cosines",)


def test_a_table_gives_the_nearest_rows_and_columns() -> None:
    """By least squares, which numpy solves."""
    model = random_model("learned")
    found, _ = converted(model, "factorized")
    table = model.pos_embed[0, 1:].detach().double().numpy()
    n = np.arange(15)
    design = np.concatenate([n[:, None] // 3 == np.arange(5), n[:, None] % 3 == np.arange(3)], axis=1).astype(float)
    nearest = design @ np.linalg.lstsq(design, table, rcond=None)[0]
    np.testing.assert_allclose(found.position_table()[0, 1:].detach(), nearest, rtol=0, atol=1e-5)
    assert np.abs(nearest - table).max() > 0.1


def test_rows_and_columns_are_resampled_as_their_sums_would_be() -> None:
    model = random_model()
    found, notes = converted(model, "factorized", (28, 16))
    assert notes == ("pos_embed resampled from 5x3 to 7x4 patches",)
    as_table, _ = converted(converted(model, "learned")[0], "learned", (28, 16))
    torch.testing.assert_close(found.position_table(), as_table.position_table(), rtol=0, atol=1e-5)
    assert torch.equal(found.pos_embed_y, converted(model, "factorized", (28, 12))[0].pos_embed_y)


def test_a_sum_of_sines_and_cosines_is_one_of_rows_and_columns() -> None:
    found, notes = converted(random_model("sincos"), "factorized")
    assert notes == ()
    torch.testing.assert_close(found.position_table()[0, 1:], sincos_embedding((5, 3), 48), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pos_embed_x": None}, "tensor 'pos_embed_x' is missing"),
        ({"pos_embed_y": None}, "these 32 tensors are no ViT's"),
        ({"pos_embed_x": torch.zeros(1, 3, 44)}, r"'pos_embed_x' has shape \(1, 3, 44\), expected \(1, side, 48\)"),
        ({"pos_embed_x": torch.zeros(3, 48)}, r"'pos_embed_x' has shape \(3, 48\)"),
        ({"pos_embed_y": torch.zeros(2, 5, 48)}, r"'pos_embed_y' has shape \(2, 5, 48\)"),
    ],
)
def test_rows_and_columns_that_do_not_fit_are_named(change: dict[str, Tensor | None], message: str) -> None:
    tensors = {k: v for k, v in (dict(random_model().state_dict()) | change).items() if v is not None}
    with pytest.raises(VitpeError, match=message):
        convert_state_dict(tensors, CONFIG, NAMES, ModelFacts(num_heads=3, classes=NAMES))


def test_another_grid_than_theirs_cannot_be_asked_for() -> None:
    facts = ModelFacts(num_heads=3, classes=NAMES)
    with pytest.raises(VitpeError, match="its grid is 5x3, not 3x5") as caught:
        convert_state_dict(dict(random_model().state_dict()), CONFIG, NAMES, facts, (3, 5))
    assert caught.value.hint == "do without --init-grid"
