"""The model against timm's, against unfold + Linear, and against what the papers say of it."""

import math

import pytest
import timm.models
import torch
import torchvision
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, linear, unfold

from vitpe.config import PRESETS, ModelConfig
from vitpe.model.vit import DropPath, VisionTransformer, num_parameters, sincos_embedding, take_patches

SMALL = {"patch_size": 4, "num_classes": 7, "embed_dim": 48, "depth": 3, "num_heads": 3}


def small_model(grid: tuple[int, int] = (3, 2), **changes: object) -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(ModelConfig(**{"img_size": (grid[0] * 4, grid[1] * 4), **SMALL, **changes}))


def randomize(model: torch.nn.Module, seed: int = 0) -> None:
    """Noise on every parameter: biases, zero heads and zero position embeddings must count in a comparison."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape, generator=generator) * 0.1


def random_images(model: VisionTransformer, batch: int = 2, seed: int = 1) -> Tensor:
    return torch.randn(batch, 3, *model.config.img_size, generator=torch.Generator().manual_seed(seed))


def test_patch_embedding_equals_unfold_and_linear() -> None:
    model = small_model((3, 5)).double()
    randomize(model)
    images = torch.randn(2, 3, 12, 20, dtype=torch.float64)
    patches = unfold(images, kernel_size=4, stride=4).transpose(1, 2)  # (B, N, C·P·P), rows before columns
    proj = model.patch_embed.proj
    expected = linear(patches, proj.weight.flatten(1), proj.bias) + model.pos_embed[:, 1:]
    tokens = model.embed(images)
    torch.testing.assert_close(tokens[:, 1:], expected, rtol=0, atol=1e-12)
    class_row = (model.cls_token + model.pos_embed[:, :1])[:, 0].expand(2, -1)
    torch.testing.assert_close(tokens[:, 0], class_row, rtol=0, atol=0)


@pytest.mark.parametrize("own", [True, False], ids=["of each image", "of all images"])
def test_the_gradient_of_taken_patches_is_that_of_indexing(own: bool) -> None:
    b, n, k, width = 5, 12, 7, 8
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(b, n, generator=generator).argsort(dim=1)[:, :k]
    ours = torch.randn((b, n, width) if own else (n, width), generator=generator, requires_grad=True)
    plain = ours.detach().clone().requires_grad_()
    expected = plain[torch.arange(b)[:, None], keep] if own else plain[keep]
    taken = take_patches(ours, keep)
    assert torch.equal(taken, expected)
    gradient = torch.randn(taken.shape, generator=generator)
    taken.backward(gradient)
    expected.backward(gradient)
    assert ours.grad is not None
    assert torch.equal(ours.grad, plain.grad)
    assert torch.autograd.gradcheck(take_patches, (ours.detach().double().requires_grad_(), keep))


def test_patch_n_is_at_row_n_div_columns() -> None:
    model = small_model((3, 5))
    images = torch.zeros(1, 3, 12, 20)
    images[0, :, 4:8, 12:16] = 1  # row 1, column 3 of five
    moved = (model.embed(images) - model.embed(torch.zeros_like(images))).abs().sum(dim=2)[0]
    assert moved.nonzero().flatten().tolist() == [1 + 1 * 5 + 3]


@pytest.mark.parametrize("global_pool", ["token", "avg"])
@pytest.mark.parametrize("grid", [(13, 11), (11, 13), (14, 14)])
def test_equals_timm_in_logits_and_gradients(grid: tuple[int, int], global_pool: str) -> None:
    ours = small_model(grid, global_pool=global_pool)
    theirs = timm.models.VisionTransformer(img_size=ours.config.img_size, global_pool=global_pool, **SMALL)
    randomize(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    images = random_images(ours)
    logits, expected = ours(images), theirs(images)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-5)
    assert (logits[0] - logits[1]).std() > 0.03
    weights = torch.randn(logits.shape, generator=torch.Generator().manual_seed(2))
    for output in (logits, expected):
        (output * weights).sum().backward()
    gradients = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradients[name].grad, rtol=0, atol=1e-5, msg=name)


def test_equals_timm_in_evaluation_mode_without_gradients() -> None:
    ours = small_model((13, 11), drop_path_rate=0.5).eval()
    theirs = timm.models.VisionTransformer(img_size=ours.config.img_size, **SMALL).eval()
    randomize(ours)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    images = random_images(ours, batch=5)
    with torch.inference_mode():
        torch.testing.assert_close(ours(images), theirs(images), rtol=0, atol=1e-5)


def test_an_image_does_not_move_its_neighbours_logits() -> None:
    model = small_model()
    randomize(model)
    images = random_images(model)
    changed = images.clone()
    changed[1] += 1
    before, after = model(images), model(changed)
    assert torch.equal(before[0], after[0])
    assert not torch.allclose(before[1], after[1])


def num_parameters_of(patch_size: int, embed_dim: int, depth: int, num_heads: int) -> int:
    """For 224 × 224 pixels and 1000 classes."""
    shape = {"patch_size": patch_size, "embed_dim": embed_dim, "depth": depth, "num_heads": num_heads}
    with torch.device("meta"):
        return num_parameters(VisionTransformer(ModelConfig(img_size=(224, 224), num_classes=1000, **shape)))


@pytest.mark.parametrize(
    ("millions", "shape"),
    [
        # DeiT-Ti and DeiT-S of arXiv:2012.12877, table 1.
        ("5.7", (16, 192, 12, 3)),
        ("22", (16, 384, 12, 6)),
        # arXiv:2010.11929, table 1. Its 307 M for L is that of patches of 32; L/16 has 304.3 M.
        ("86", (16, 768, 12, 12)),
        ("307", (32, 1024, 24, 16)),
        ("632", (14, 1280, 32, 16)),
    ],
    ids=["Ti", "S", "B", "L", "H"],
)
def test_number_of_parameters_is_the_papers(millions: str, shape: tuple[int, int, int, int]) -> None:
    unit = 10.0 ** -len(millions.partition(".")[2])
    assert num_parameters_of(*shape) / 1e6 == pytest.approx(float(millions), abs=0.6 * unit)  # 86 was 86.6, cut off


@pytest.mark.parametrize(
    ("weights", "shape"),
    [
        (torchvision.models.ViT_B_16_Weights.IMAGENET1K_V1, (16, 768, 12, 12)),
        (torchvision.models.ViT_L_16_Weights.IMAGENET1K_V1, (16, 1024, 24, 16)),
        (torchvision.models.ViT_L_32_Weights.IMAGENET1K_V1, (32, 1024, 24, 16)),
        (torchvision.models.ViT_H_14_Weights.IMAGENET1K_SWAG_LINEAR_V1, (14, 1280, 32, 16)),
    ],
    ids=["B/16", "L/16", "L/32", "H/14"],
)
def test_number_of_parameters_is_torchvisions(
    weights: torchvision.models.WeightsEnum, shape: tuple[int, int, int, int]
) -> None:
    assert num_parameters_of(*shape) == weights.meta["num_params"]


def test_reference_preset_has_25_7_million_parameters() -> None:
    with torch.device("meta"):
        assert round(num_parameters(VisionTransformer(PRESETS["reference"].model)) / 1e6, 1) == 25.7


def test_first_loss_is_ln_2() -> None:
    model = small_model()
    logits = model(random_images(model, batch=4))
    labels = torch.randint(0, 2, logits.shape).float()
    assert torch.equal(logits, torch.zeros_like(logits))
    assert math.isclose(binary_cross_entropy_with_logits(logits, labels).item(), math.log(2), rel_tol=1e-6)


def test_position_embedding_starts_at_zero_and_learns() -> None:
    model = small_model()
    assert not model.pos_embed.any()
    randomize(model.head)
    model(random_images(model)).sum().backward()
    assert model.pos_embed.requires_grad
    assert model.pos_embed.grad is not None
    assert model.pos_embed.grad.abs().sum(dim=2).all()  # the class token's row too


def test_sincos_is_fixed_and_saved() -> None:
    model = small_model(grid=(5, 3), pos_embed="sincos")
    assert not model.pos_embed.requires_grad
    assert "pos_embed" in model.state_dict()
    assert "pos_embed" in dict(model.named_parameters())
    assert not model.pos_embed[0, 0].any()
    # By hand: token 1 + 2·3 + 1 is row 2, column 1; channel k of the row's sines is sin(2 / 10000^(k / 12)).
    token, quarter = model.pos_embed[0, 1 + 2 * 3 + 1], 48 // 4
    for k in (0, 5, 11):
        for position, offset in ((2, 0), (1, 2 * quarter)):
            angle = position / 10_000 ** (k / quarter)
            assert math.isclose(token[offset + k].item(), math.sin(angle), abs_tol=1e-6)
            assert math.isclose(token[offset + quarter + k].item(), math.cos(angle), abs_tol=1e-6)


def test_sincos_equals_timms() -> None:
    from timm.layers import build_sincos2d_pos_embed

    ours = sincos_embedding((7, 5), 32)
    # timm orders the channels otherwise: the same columns, sorted.
    theirs = build_sincos2d_pos_embed([7, 5], dim=32)
    rounded = [sorted(tuple(round(x, 4) + 0.0 for x in column) for column in t.T.tolist()) for t in (ours, theirs)]
    assert rounded[0] == rounded[1]


def test_drop_path_leaves_out_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop_path = DropPath(0.25)
    branch = torch.ones(4000, 3, 2)
    dropped = drop_path(branch)
    per_sample = dropped.flatten(1)
    assert torch.equal(per_sample, per_sample[:, :1].expand_as(per_sample))
    assert sorted(per_sample.unique().tolist()) == pytest.approx([0, 4 / 3])
    assert dropped.mean().item() == pytest.approx(1, abs=0.04)  # 4 standard errors of 0.009
    assert torch.equal(drop_path.eval()(branch), branch)


def test_drop_path_rate_rises_to_the_last_block() -> None:
    model = small_model(drop_path_rate=0.2)
    assert [block.drop_path1.rate for block in model.blocks] == pytest.approx([0, 0.1, 0.2])
    randomize(model)
    images = random_images(model, batch=16)
    assert not torch.equal(model(images), model(images))
    model.eval()
    assert torch.equal(model(images), model(images))


@pytest.mark.parametrize("shape", [(1, 3, 8, 12), (1, 3, 16, 8)])
def test_an_image_of_another_size_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"should be \(12, 8\)"):
        small_model(grid=(3, 2))(torch.zeros(shape))
