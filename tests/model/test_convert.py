"""Weights of other libraries: their own models, with random weights, are the oracles."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import timm.models
import torch
import torchvision
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor, nn

from tests.helpers import Recorder
from tests.helpers.in_process import call_vitpe
from vitpe.celeba import MEAN, STD
from vitpe.config import PRESETS, ModelConfig
from vitpe.errors import VitpeError
from vitpe.model.convert import convert_state_dict, resample_pos_embed
from vitpe.model.facts import ModelFacts
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import save_checkpoint
from vitpe.runs.metadata import CheckpointInfo
from vitpe.training.train import initialize

# 3 blocks of width 128, 2 heads of 64 channels, MLP 256, patches of 8, 5 classes.
CONFIG = ModelConfig(img_size=(32, 32), patch_size=8, num_classes=5, embed_dim=128, depth=3, num_heads=2, mlp_ratio=2.0)
NAMES = ("Red", "Green", "Blue", "Bright", "Dark")
KNOWN = ModelFacts("the test", grid_size=(4, 4), num_heads=2, classes=NAMES)


def randomize(model: nn.Module) -> None:
    """Noise on every parameter; embeddings get the unit variance that they have in trained models.

    Then LayerNorm's eps, 1e-12 in Hugging Face's default and 1e-6 elsewhere, moves no logit by 1e-5.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        embedding = re.search("cls_token|class_token|pos_embed|position_embeddings", name)
        parameter.data += torch.randn(parameter.shape, generator=generator) * (1.0 if embedding else 0.1)


def timm_model(img_size: tuple[int, int] = (32, 32), **changes: object) -> nn.Module:
    shape = {"patch_size": 8, "embed_dim": 128, "depth": 3, "num_heads": 2, "mlp_ratio": 2.0, "num_classes": 5}
    return timm.models.VisionTransformer(img_size=img_size, **{**shape, **changes})


def torchvision_model() -> nn.Module:
    return torchvision.models.VisionTransformer(
        image_size=32, patch_size=8, num_layers=3, num_heads=2, hidden_dim=128, mlp_dim=256, num_classes=5
    )


def huggingface_config(img_size: tuple[int, int] = (32, 32), **changes: object) -> transformers.ViTConfig:
    return transformers.ViTConfig(
        hidden_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
        intermediate_size=256,
        image_size=img_size,
        patch_size=8,
        num_labels=5,
        **changes,
    )


def huggingface_model() -> nn.Module:
    return transformers.ViTForImageClassification(huggingface_config())


def logits_of(model: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        output = model.eval()(images)
    return output if isinstance(output, Tensor) else output.logits


def loaded(tensors: dict[str, Tensor], config: ModelConfig = CONFIG) -> VisionTransformer:
    model = VisionTransformer(config)
    model.load_state_dict(convert_state_dict(tensors, config, NAMES, KNOWN).state_dict, strict=True)
    return model


@pytest.mark.parametrize(
    ("origin", "build"),
    [("timm", timm_model), ("torchvision", torchvision_model), ("huggingface", huggingface_model)],
)
def test_logits_equal_those_of_the_library(origin: str, build: Callable[[], nn.Module]) -> None:
    theirs = build()
    randomize(theirs)
    converted = convert_state_dict(theirs.state_dict(), CONFIG, NAMES, replace(KNOWN, is_ours=True))
    assert (converted.origin, converted.notes) == (origin, ())
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = logits_of(theirs, images)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits_of(loaded(theirs.state_dict()), images), expected, rtol=0, atol=1e-5)


def test_the_files_that_hugging_face_writes_give_the_same_logits(tmp_path: Path) -> None:
    theirs = huggingface_model()
    randomize(theirs)
    theirs.save_pretrained(tmp_path)  # under other names than the model in memory has
    tensors = load_file(tmp_path / "model.safetensors")
    assert set(tensors) != set(theirs.state_dict())
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(logits_of(loaded(tensors), images), logits_of(theirs, images), rtol=0, atol=1e-5)


def test_hugging_face_model_as_initialized_gives_the_same_features_with_our_eps() -> None:
    torch.manual_seed(0)
    theirs = transformers.ViTModel(huggingface_config(layer_norm_eps=1e-6))
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        features = theirs.eval()(images).last_hidden_state
        ours = loaded(theirs.state_dict()).eval().forward_features(images)
    torch.testing.assert_close(ours, features, rtol=0, atol=1e-5)


def test_hugging_face_model_without_a_head_gives_the_same_features() -> None:
    config = huggingface_config(img_size=(24, 40))
    theirs = transformers.ViTModel(config)
    randomize(theirs)
    ours = ModelConfig(**{**vars(CONFIG), "img_size": (24, 40)})
    converted = convert_state_dict(theirs.state_dict(), ours)
    model = VisionTransformer(ours).eval()
    model.load_state_dict(converted.state_dict, strict=True)
    images = torch.randn(2, 3, 24, 40)
    with torch.inference_mode():
        features = theirs.eval()(images).last_hidden_state
        torch.testing.assert_close(model.forward_features(images), features, rtol=0, atol=1e-5)
    assert not converted.state_dict["head.weight"].any()


def test_torchvisions_published_files_with_their_older_names() -> None:
    tensors = torchvision_model().state_dict()
    old = {
        key.replace(".mlp.0.", ".mlp.linear_1.").replace(".mlp.3.", ".mlp.linear_2."): t for key, t in tensors.items()
    }
    assert set(old) != set(tensors)
    ours = convert_state_dict(old, CONFIG).state_dict
    for key, tensor in convert_state_dict(tensors, CONFIG).state_dict.items():
        assert torch.equal(ours[key], tensor)


PREFIXES = ["module.", "_orig_mod.", "module._orig_mod.", "model.", "backbone.", "module.model.encoder.vit."]


@pytest.mark.parametrize("build", [timm_model, torchvision_model, huggingface_model])
@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_wrappers_are_taken_off(prefix: str, build: Callable[[], nn.Module]) -> None:
    theirs = build()
    randomize(theirs)
    tensors = theirs.state_dict()
    plain = convert_state_dict(tensors, CONFIG, NAMES, KNOWN)
    wrapped = convert_state_dict({prefix + key: tensor for key, tensor in tensors.items()}, CONFIG, NAMES, KNOWN)
    assert wrapped.notes == plain.notes
    assert all(torch.equal(tensor, plain.state_dict[key]) for key, tensor in wrapped.state_dict.items())
    assert plain.state_dict["head.weight"].any()


def test_an_averaged_model_and_a_backbone_with_a_head_beside_it() -> None:
    theirs = timm_model()
    averaged = torch.optim.swa_utils.AveragedModel(theirs).state_dict()
    assert "n_averaged" in averaged
    for key, tensor in convert_state_dict(averaged, CONFIG, NAMES, KNOWN).state_dict.items():
        assert torch.equal(tensor, theirs.state_dict()[key])
    tensors = {f"model.backbone.{key}": tensor for key, tensor in theirs.state_dict().items() if "head" not in key}
    tensors |= {
        "model.head.weight": torch.ones(5, 128),
        "model.head.bias": torch.ones(5),
        "criterion.weight": torch.ones(5),
    }
    converted = convert_state_dict(tensors, CONFIG, NAMES, KNOWN)
    assert converted.state_dict["head.weight"].all()
    assert "1 tensors that are not of the ViT left out: criterion.weight" in converted.notes


def test_an_autoencoder_without_its_decoder() -> None:
    theirs = transformers.ViTMAEForPreTraining(
        transformers.ViTMAEConfig(
            hidden_size=128,
            num_hidden_layers=3,
            num_attention_heads=2,
            intermediate_size=256,
            image_size=32,
            patch_size=8,
            decoder_hidden_size=32,
            decoder_num_hidden_layers=1,
            decoder_num_attention_heads=2,
            decoder_intermediate_size=16,
        )
    )
    converted = convert_state_dict(theirs.state_dict(), CONFIG, NAMES, KNOWN)
    expected = theirs.state_dict()["vit.embeddings.position_embeddings"]
    assert torch.equal(converted.state_dict["pos_embed"], expected)
    assert any("tensors that are not of the ViT left out: decoder." in note for note in converted.notes)


def test_two_networks_in_one_file_are_refused() -> None:
    tensors = {
        prefix + key: tensor for prefix in ("model.", "ema.") for key, tensor in timm_model().state_dict().items()
    }
    with pytest.raises(VitpeError, match=r"holds 2 networks: 'model\.', 'ema\.'"):
        convert_state_dict(tensors, CONFIG)


def test_position_embeddings_without_a_row_for_the_class_token() -> None:
    theirs = timm_model(no_embed_class=True)
    randomize(theirs)
    with pytest.raises(VitpeError, match="which could be 5 x 3 patches after a class token, or 4 x 4") as error:
        convert_state_dict(
            theirs.state_dict(), replace(CONFIG, img_size=(64, 64)), NAMES, replace(KNOWN, grid_size=None)
        )
    assert "--init-grid" in error.value.hint
    images = torch.randn(2, 3, 32, 32)
    ours = loaded(theirs.state_dict())
    torch.testing.assert_close(logits_of(ours, images), logits_of(theirs, images), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("grid", "old"), [(None, (13, 11)), ((11, 13), (11, 13)), ((13, 11), (13, 11))], ids=["as ours", "turned", "given"]
)
def test_a_grid_that_nobody_tells_is_ours_or_the_one_given_and_is_said(
    grid: tuple[int, int] | None, old: tuple[int, int]
) -> None:
    theirs = timm_model((8 * old[0], 8 * old[1]))
    randomize(theirs)
    config = replace(CONFIG, img_size=(104, 88))
    converted = convert_state_dict(theirs.state_dict(), config, NAMES, replace(KNOWN, grid_size=None), grid)
    expected = resample_abs_pos_embed(theirs.state_dict()["pos_embed"], (13, 11), old)
    torch.testing.assert_close(converted.state_dict["pos_embed"], expected, rtol=0, atol=1e-5)
    assumed = [note for note in converted.notes if "pos_embed taken as 13 x 11 patches after a class token" in note]
    assert len(assumed) == (grid is None)
    resampled = "pos_embed resampled from 11x13 to 13x11 patches" in converted.notes
    assert resampled == (old == (11, 13))


@pytest.mark.parametrize(
    ("changes", "num_heads", "hint"),
    [
        ({"embed_dim": 384, "depth": 12, "num_heads": 6}, None, "--preset small fits"),
        ({"embed_dim": 384, "depth": 12, "num_heads": 6}, 6, "--preset small fits"),
        ({"embed_dim": 384, "depth": 12, "num_heads": 12}, 12, "no preset fits: --set model.embed_dim=384"),
        ({"embed_dim": 192, "depth": 6, "num_heads": 3}, None, "no preset fits: --set"),  # laptop has a stem
        ({"embed_dim": 96, "depth": 4, "num_heads": 2}, 2, "no preset fits: --set model.embed_dim=96 "),
    ],
)
def test_weights_of_another_width_name_the_preset_that_fits(
    changes: dict[str, int], num_heads: int | None, hint: str
) -> None:
    with torch.device("meta"):
        tensors = timm_model((208, 176), patch_size=16, mlp_ratio=4.0, **changes).state_dict()
    with pytest.raises(VitpeError, match="the weights have embed_dim") as error:
        convert_state_dict(tensors, PRESETS["tiny"].model, NAMES, replace(KNOWN, num_heads=num_heads))
    assert error.value.hint.startswith(hint)


def test_what_stands_beside_a_hugging_face_model_is_used(tmp_path: Path) -> None:
    """Its grid, its number of heads, and the names of its classes; in shards, and named by its folder."""
    theirs = transformers.ViTForImageClassification(
        huggingface_config((24, 40), id2label=dict(enumerate(NAMES[::-1])), label2id={})
    )
    randomize(theirs)
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    config = replace(CONFIG, img_size=(40, 24))
    ours, recorder = VisionTransformer(config), Recorder()
    initialize(ours, tmp_path, NAMES, recorder)
    assert recorder.notes == [
        f"starting from {tmp_path / 'model.safetensors.index.json'} (huggingface)",
        "head: 5 of its 5 classes taken by name",
        "pos_embed 3 x 5 patches after a class token, as config.json beside the file says",
        "pos_embed resampled from 3x5 to 5x3 patches",
    ]
    assert torch.equal(ours.head.weight, theirs.classifier.weight.flip(0))
    with pytest.raises(VitpeError, match=r"have 2 heads, as config\.json says, the model has 4"):
        initialize(VisionTransformer(replace(config, num_heads=4)), tmp_path, NAMES, recorder)


def test_what_stands_beside_a_timm_model_is_used(tmp_path: Path) -> None:
    shape = {"embed_dim": 128, "depth": 3, "num_heads": 4, "mlp_ratio": 2.0, "patch_size": 8, "num_classes": 5}
    theirs = timm.create_model("vit_tiny_patch16_224", img_size=(24, 40), **shape)
    timm.models.save_for_hf(theirs, tmp_path, {"label_names": list(NAMES)}, safe_serialization=True)
    recorder = Recorder()
    with pytest.raises(VitpeError, match=r"have 4 heads, as config\.json says, the model has 2"):
        initialize(VisionTransformer(CONFIG), tmp_path, NAMES, recorder)
    ours = VisionTransformer(replace(CONFIG, num_heads=4, img_size=(24, 40)))
    initialize(ours, tmp_path, NAMES, recorder)
    assert recorder.notes[1:] == ["pos_embed 3 x 5 patches after a class token, as config.json beside the file says"]
    assert torch.equal(ours.head.weight, theirs.head.weight)


def test_our_own_metadata_tells_heads_grid_and_names(tmp_path: Path) -> None:
    theirs = VisionTransformer(CONFIG)
    randomize(theirs)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, theirs.state_dict(), info_of(CONFIG))
    ours, recorder = VisionTransformer(CONFIG), Recorder()
    initialize(ours, tmp_path, NAMES[::-1], recorder)
    assert recorder.notes == [f"starting from {path} (timm)", "head: 5 of its 5 classes taken by name"]
    assert torch.equal(ours.head.weight, theirs.head.weight.flip(0))
    with pytest.raises(VitpeError, match="have 2 heads, as its metadata says, the model has 8"):
        initialize(VisionTransformer(replace(CONFIG, num_heads=8)), path, NAMES, recorder)
    with pytest.raises(VitpeError, match="its grid is 4x4, not 2x8"):
        initialize(ours, path, NAMES, recorder, (2, 8))
    save_checkpoint(path, theirs.state_dict(), replace(info_of(CONFIG), history_only=True))
    with pytest.raises(VitpeError, match="holds position embeddings only"):
        initialize(ours, path, NAMES, recorder)


def test_the_options_of_train_say_early_what_is_wrong_with_them(tmp_path: Path) -> None:
    pickle, weights = tmp_path / "a.pth", tmp_path / "a.safetensors"
    pickle.touch()
    save_file(timm_model().state_dict(), weights)
    for arguments, code, error in (
        (["--init-grid", "13x11"], 2, "--init-grid 13x11 without --init"),
        (["--init", weights, "--init-grid", "13"], 2, "--init-grid '13' is not ROWSxCOLUMNS"),
        (["--init", tmp_path / "nothing"], 1, f"no checkpoint {tmp_path / 'nothing'}"),
        (["--init", pickle], 1, f"{pickle} is a pickle"),
    ):
        called = call_vitpe("train", "--run", tmp_path / "runs", *arguments)
        assert (called.code, called.stderr.count("\n")) == (code, 2)
        assert called.stderr.startswith(f"error: {error}")


def test_mean_pooling_weights_equal_timms_and_the_other_pooling_is_noted() -> None:
    theirs = timm_model(global_pool="avg")
    randomize(theirs)
    config = ModelConfig(**{**vars(CONFIG), "global_pool": "avg"})
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(
        logits_of(loaded(theirs.state_dict(), config), images), logits_of(theirs, images), rtol=0, atol=1e-5
    )
    converted = convert_state_dict(theirs.state_dict(), CONFIG, NAMES, replace(KNOWN, is_ours=True))
    assert converted.notes == ("fc_norm taken as norm: the weights were trained with the other pooling",)
    assert torch.equal(converted.state_dict["norm.weight"], theirs.state_dict()["fc_norm.weight"])


def test_half_precision_becomes_float32() -> None:
    tensors = {key: tensor.half() for key, tensor in timm_model().state_dict().items()}
    assert {tensor.dtype for tensor in convert_state_dict(tensors, CONFIG).state_dict.values()} == {torch.float32}


@given(
    old_grid=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    new_grid=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    num_prefix_tokens=st.integers(0, 2),
)
@settings(max_examples=60, deadline=None)
def test_resampling_equals_timms(old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix_tokens: int) -> None:
    tokens = num_prefix_tokens + old_grid[0] * old_grid[1]
    pos_embed = torch.randn(1, tokens, 6, generator=torch.Generator().manual_seed(tokens))
    ours = resample_pos_embed(pos_embed, old_grid, new_grid, num_prefix_tokens)
    theirs = resample_abs_pos_embed(pos_embed, new_grid, old_grid, num_prefix_tokens=num_prefix_tokens)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_13x11_to_11x13_is_really_resampled() -> None:
    rows = torch.arange(13.0)[:, None].expand(13, 11).reshape(1, 143, 1)
    pos_embed = torch.cat([torch.full((1, 1, 1), 99.0), rows], dim=1)
    resampled = resample_pos_embed(pos_embed, (13, 11), (11, 13))
    assert resampled.shape == pos_embed.shape
    assert not torch.allclose(resampled, pos_embed)
    picture = resampled[0, 1:].reshape(11, 13)
    assert resampled[0, 0] == 99
    torch.testing.assert_close(picture, picture[:, :1].expand(11, 13))  # still constant along a row
    assert (picture[:, 0].diff() > 0).all()
    # Row centres: new row i sees the old rows about (i + 0.5) · 13 / 11 - 0.5; exact away from the borders.
    expected = (torch.arange(11.0) + 0.5) * 13 / 11 - 0.5
    torch.testing.assert_close(picture[2:-2, 0], expected[2:-2], rtol=0, atol=0.06)


def test_resampling_refuses_a_wrong_grid() -> None:
    with pytest.raises(ValueError, match="143 patches"):
        resample_pos_embed(torch.zeros(1, 144, 8), (12, 12), (13, 11))


@pytest.mark.parametrize(
    ("img_size", "old_grid"),
    [((32, 32), None), ((24, 48), (3, 6)), ((48, 24), (6, 3))],
    ids=["square", "wide", "same count of patches"],
)
def test_pos_embed_is_resampled_from_any_grid(img_size: tuple[int, int], old_grid: tuple[int, int] | None) -> None:
    tensors = timm_model(img_size).state_dict()
    tensors["pos_embed"] = torch.randn(tensors["pos_embed"].shape)
    config = ModelConfig(**{**vars(CONFIG), "img_size": (16, 72)})  # 2 × 9 patches
    facts = ModelFacts(num_heads=2, classes=NAMES)
    converted = convert_state_dict(tensors, config, NAMES, facts, old_grid)
    grid = old_grid or (4, 4)
    expected = resample_abs_pos_embed(tensors["pos_embed"], (2, 9), grid)
    torch.testing.assert_close(converted.state_dict["pos_embed"], expected, rtol=0, atol=1e-5)
    assert converted.notes[-1] == f"pos_embed resampled from {grid[0]}x{grid[1]} to 2x9 patches"
    assert len(converted.notes) == (1 if old_grid else 2)  # a grid that nobody told is said


def test_a_square_grid_of_as_many_patches_is_resampled_too() -> None:
    tensors = timm_model((48, 48)).state_dict()  # 6 × 6
    config = ModelConfig(**{**vars(CONFIG), "img_size": (32, 72)})  # 4 × 9
    notes = convert_state_dict(tensors, config, NAMES, replace(KNOWN, grid_size=None)).notes
    assert notes == (
        "pos_embed taken as 6 x 6 patches after a class token, which the file does not say; if it is another grid:"
        " --init-grid ROWSxCOLUMNS",
        "pos_embed resampled from 6x6 to 4x9 patches",
    )


def test_the_heads_rows_are_taken_by_name_and_nothing_else_is() -> None:
    tensors = timm_model().state_dict()
    ours = ("Bright", "Smiling", "Red", "Dark", "Blue")
    converted = convert_state_dict(tensors, CONFIG, ours, KNOWN)
    weight, bias = (converted.state_dict[f"head.{part}"] for part in ("weight", "bias"))
    for row, name in enumerate(ours):
        old = NAMES.index(name) if name in NAMES else None
        assert torch.equal(weight[row], torch.zeros(128) if old is None else tensors["head.weight"][old])
        assert bias[row] == (0 if old is None else tensors["head.bias"][old])
    assert "head: 4 of 5 attributes by name, zero for Smiling" in converted.notes


@pytest.mark.parametrize(
    ("classes", "num_classes", "note"),
    [
        (NAMES[::-1], 5, "head: 5 of its 5 classes taken by name"),
        ((*NAMES, "Smiling"), 6, "head: 5 of its 6 classes taken by name"),
        (("Red", "Red", "Green", "Blue", "Bright"), 5, "head: 3 of 5 attributes by name, zero for Red, Dark"),
        (("LABEL_0", "LABEL_1"), 2, "head of 2 classes left out, none is called as ours are: ours starts at zero"),
        (None, 5, "head of 5 classes left out, as nothing tells their names: ours starts at zero"),
        (NAMES, 1000, "head of 1000 classes left out, as nothing tells their names: ours starts at zero"),
        (NAMES, 0, "head: the weights have none, ours starts at zero"),
    ],
)
def test_what_becomes_of_a_head_is_said(classes: tuple[str, ...] | None, num_classes: int, note: str) -> None:
    tensors = timm_model(num_classes=num_classes).state_dict()
    converted = convert_state_dict(tensors, CONFIG, NAMES, replace(KNOWN, classes=classes))
    assert [line for line in converted.notes if line.startswith("head")] == [note]
    assert bool(converted.state_dict["head.weight"].any()) == ("by name" in note)


def test_another_number_of_heads_is_refused_and_an_unknown_one_said() -> None:
    tensors = timm_model().state_dict()
    with pytest.raises(VitpeError, match=r"have 4 heads, as config\.json says, the model has 2") as error:
        convert_state_dict(tensors, CONFIG, NAMES, replace(KNOWN, num_heads=4, source="config.json"))
    assert error.value.hint == "--set model.num_heads=4"
    notes = convert_state_dict(tensors, CONFIG, NAMES, replace(KNOWN, num_heads=None)).notes
    assert "taken as a model of 2 heads, which the file does not say" in notes


def altered(change: Callable[[dict[str, Tensor]], object]) -> dict[str, Tensor]:
    tensors = timm_model().state_dict()
    change(tensors)
    return tensors


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (dict, "these 0 tensors are no ViT's"),
        (lambda: torchvision.models.resnet18().state_dict(), "no ViT's: the first is 'conv1.weight'"),
        (lambda: timm_model(depth=4).state_dict(), "the weights have depth 4, the model has depth 3"),
        (lambda: timm_model(embed_dim=64).state_dict(), "the weights have embed_dim 64, the model has embed_dim 128"),
        (
            lambda: timm_model(mlp_ratio=4.0).state_dict(),
            "the weights have mlp_ratio 4, the model has mlp_ratio 2",
        ),
        (
            lambda: timm_model(patch_size=16).state_dict(),
            "the weights have patch_size 16, the model has patch_size 8",
        ),
        (lambda: altered(lambda t: t.pop("blocks.1.norm2.bias")), "'blocks.1.norm2.bias' is missing"),
        (lambda: timm_model(reg_tokens=4).state_dict(), "'reg_token' of shape (1, 4, 128) has no place"),
        (
            lambda: timm_model(init_values=0.1).state_dict(),
            "'blocks.0.ls1.gamma' of shape (128,) has no place in the model",
        ),
        (
            lambda: altered(lambda t: t.update(pos_embed=torch.zeros(128))),
            "'pos_embed' has shape (128,), expected (1, 1 + N, D)",
        ),
        (
            lambda: altered(lambda t: t.update(pos_embed=torch.zeros(1, 12, 128))),
            "'pos_embed' has 12 position embeddings: with 1 or 0 of them for tokens that are no patches",
        ),
        (
            lambda: altered(lambda t: t.update({"head.weight": torch.zeros(())})),
            "'head.weight' has shape (), expected (A, D)",
        ),
    ],
)
def test_what_does_not_fit_is_named(tensors: Callable[[], dict[str, Tensor]], message: str) -> None:
    with pytest.raises(VitpeError) as error:
        convert_state_dict(tensors(), CONFIG)
    assert message in error.value.message
    assert error.value.hint


def test_a_grid_that_does_not_fit_the_patches_is_refused() -> None:
    with pytest.raises(VitpeError, match=r"has 17 position embeddings: .* the rest is not 13 x 11"):
        convert_state_dict(timm_model().state_dict(), CONFIG, grid=(13, 11))


def test_a_missing_key_tensor_of_hugging_face_is_named() -> None:
    tensors = huggingface_model().state_dict()
    tensors.pop("vit.layers.1.attention.k_proj.weight")
    with pytest.raises(VitpeError, match=r"blocks\.1\.attn\.key\.weight"):
        convert_state_dict(tensors, CONFIG)


def test_convert_changes_nothing_in_what_it_is_given() -> None:
    tensors = timm_model(num_classes=9, global_pool="avg").state_dict()
    before = {key: tensor.clone() for key, tensor in tensors.items()}
    convert_state_dict(tensors, CONFIG)
    assert list(tensors) == list(before)
    assert all(torch.equal(tensors[key], before[key]) for key in before)


def info_of(config: ModelConfig) -> CheckpointInfo:
    return CheckpointInfo(
        model=config,
        attributes=(*NAMES, *map(str, range(config.num_classes)))[: config.num_classes],
        mean=MEAN,
        std=STD,
        thresholds=(0.5,) * config.num_classes,
        stored_size=config.img_size,
        step=1,
        images_seen=64,
        seed=0,
        data_source="celeba",
    )


def test_timms_create_model_loads_our_checkpoints(tmp_path: Path) -> None:
    config = PRESETS["small"].model
    ours = VisionTransformer(config).eval()
    randomize(ours.head)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, ours.state_dict(), info_of(config))
    theirs = timm.create_model("vit_small_patch16_224", img_size=(208, 176), num_classes=40, checkpoint_path=str(path))
    images = torch.randn(1, 3, 208, 176)
    expected = logits_of(ours, images)
    assert expected.std() > 0.1
    torch.testing.assert_close(logits_of(theirs, images), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("origin", "build"),
    [("timm", timm_model), ("torchvision", torchvision_model), ("huggingface", huggingface_model)],
)
def test_a_run_starts_from_the_file_of_a_library(origin: str, build: Callable[[], nn.Module], tmp_path: Path) -> None:
    theirs = build()
    randomize(theirs)
    path = tmp_path / "model.safetensors"
    if isinstance(theirs, transformers.PreTrainedModel):
        theirs.save_pretrained(tmp_path)
    else:
        save_file(theirs.state_dict(), path)
    ours, recorder = VisionTransformer(CONFIG), Recorder()
    initialize(ours, path, NAMES, recorder)
    assert recorder.notes[0] == f"starting from {path} ({origin})"
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    expected = loaded(theirs.state_dict()).eval()
    with torch.inference_mode():
        torch.testing.assert_close(
            ours.eval().forward_features(images), expected.forward_features(images), rtol=0, atol=1e-5
        )


def test_the_grid_of_our_own_checkpoints_is_known(tmp_path: Path) -> None:
    """3 × 6 patches to 6 × 3: as many, so that only the metadata tells."""
    old, new = (ModelConfig(**{**vars(CONFIG), "img_size": size}) for size in ((24, 48), (48, 24)))
    theirs, ours, recorder = VisionTransformer(old), VisionTransformer(new), Recorder()
    randomize(theirs)
    path = tmp_path / "best.safetensors"
    save_checkpoint(path, theirs.state_dict(), info_of(old))
    initialize(ours, path, NAMES, recorder)
    assert recorder.notes[1:] == ["pos_embed resampled from 3x6 to 6x3 patches"]
    expected = resample_abs_pos_embed(theirs.pos_embed.detach(), (6, 3), (3, 6))
    torch.testing.assert_close(ours.pos_embed.detach(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t["norm.weight"].fill_(torch.nan), "tensor norm.weight has values that are not finite"),
        (
            lambda t: t.update({"norm.bias": torch.zeros(128).char()}),
            "tensor 'norm.bias' holds int8, no floating-point",
        ),
        (lambda t: t.pop("norm.bias"), "tensor 'norm.bias' is missing"),
        (lambda t: t.update({"x" * 400: torch.zeros(1)}), "tensor 'xxx"),
    ],
    ids=["not finite", "quantised", "missing", "long name"],
)
def test_what_is_wrong_with_a_file_to_start_from_is_named(
    change: Callable[[dict[str, Tensor]], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "their.safetensors"
    save_file(altered(change), path)
    with pytest.raises(VitpeError) as error:
        initialize(VisionTransformer(CONFIG), path, NAMES, Recorder())
    assert error.value.message.startswith(f"{path}: {message}")
    assert len(error.value.message) < 500
    assert error.value.hint
