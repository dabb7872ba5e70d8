"""Position embeddings of other people's models, against what their own libraries hold."""

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file

from vitpe.errors import VitpeError
from vitpe.viz.history import load_history, read_checkpoint


def filled(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter random, so that no two tensors can be mistaken for each other."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()


def saved(model, tmp_path, dtype=torch.float32):
    path = tmp_path / "model.safetensors"
    save_file({name: value.to(dtype).contiguous().clone() for name, value in model.state_dict().items()}, path)
    return path


def position_embeddings(model: torch.nn.Module) -> np.ndarray:
    """(N, D), rows of other tokens among them."""
    names = ("pos_embed", "pos_embedding", "position_embeddings", "position_embedding.weight")
    parameters = [item for item in model.named_parameters() if "decoder" not in item[0]]
    (found,) = (value for name, value in parameters if name.endswith(names))
    return found.detach().reshape(-1, found.shape[-1]).numpy()


TIMM = {"patch_size": 16, "embed_dim": 8, "depth": 1, "num_heads": 2, "num_classes": 3}


@pytest.mark.parametrize(
    ("options", "num_prefix", "grid"),
    [
        ({"img_size": 64}, 1, (4, 4)),
        ({"img_size": 64, "class_token": False, "global_pool": "avg"}, 0, (4, 4)),
        ({"img_size": 64, "reg_tokens": 4}, 5, (4, 4)),
        ({"img_size": 64, "reg_tokens": 4, "no_embed_class": True}, 0, (4, 4)),
        ({"img_size": (208, 176)}, 1, (13, 11)),
    ],
)
def test_timm(tmp_path, options, num_prefix, grid):
    model = filled(timm.models.VisionTransformer(**TIMM, **options))
    checkpoint = read_checkpoint(saved(model, tmp_path), None if grid == (4, 4) else grid)
    assert checkpoint.grid_size == grid == model.patch_embed.grid_size
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model)[num_prefix:])
    np.testing.assert_array_equal(checkpoint.filters(), model.patch_embed.proj.weight.detach().numpy())


def test_timm_distilled_and_compiled(tmp_path):
    model = filled(timm.models.deit.VisionTransformerDistilled(img_size=64, **TIMM))
    checkpoint = read_checkpoint(saved(torch.nn.ModuleDict({"_orig_mod": model}), tmp_path))
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model)[2:])


def test_timms_rows_and_columns(tmp_path):
    options = {"embed_dim": 8, "depth": 1, "num_heads": 2, "pos_embed": "factorized", "pos_embed_grid_size": (5, 3)}
    model = filled(timm.models.naflexvit.NaFlexVit(timm.models.naflexvit.NaFlexVitCfg(**options)))
    path = saved(model, tmp_path)
    checkpoint = read_checkpoint(path)
    assert checkpoint.grid_size == (5, 3)
    tokens = torch.zeros(1, 15, 8)
    with torch.no_grad():
        model.embeds._apply_factorized_pos_embed(tokens, (5, 3))
    np.testing.assert_array_equal(checkpoint.embeddings, tokens[0])
    np.testing.assert_array_equal(read_checkpoint(path, (5, 3)).embeddings, checkpoint.embeddings)
    with pytest.raises(VitpeError, match="says that its grid is 5 x 3, not 3 x 5") as caught:
        read_checkpoint(path, (3, 5))
    assert caught.value.hint == "do without --grid"


@pytest.mark.parametrize("shape", [(3, 8), (2, 3, 8), (1, 3, 7), (1, 0, 8), (1, 2000, 8)])
def test_columns_that_are_none(tmp_path, shape):
    save_file({"pos_embed_y": torch.zeros(1, 5, 8), "pos_embed_x": torch.zeros(shape)}, tmp_path / "m.safetensors")
    with pytest.raises(VitpeError, match=r"pos_embed_x has shape|5 x 2000 position embeddings"):
        read_checkpoint(tmp_path / "m.safetensors")


def test_torchvision(tmp_path):
    model = filled(torchvision.models.VisionTransformer(64, 16, 1, 2, 8, 16, num_classes=3))
    checkpoint = read_checkpoint(saved(model, tmp_path))
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model)[1:])
    np.testing.assert_array_equal(checkpoint.filters(), model.conv_proj.weight.detach().numpy())


HUGGING_FACE = {
    "hidden_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "image_size": 64,
    "patch_size": 16,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_hugging_face(tmp_path, dtype):
    config = transformers.ViTConfig(**HUGGING_FACE)
    model = filled(transformers.ViTForImageClassification(config))
    checkpoint = read_checkpoint(saved(model, tmp_path, dtype))
    embeddings = model.vit.embeddings
    expected = embeddings.position_embeddings.detach()[0, 1:].to(dtype).float().numpy()
    np.testing.assert_array_equal(checkpoint.embeddings, expected)
    np.testing.assert_array_equal(
        checkpoint.filters(), embeddings.patch_embeddings.projection.weight.detach().to(dtype).float().numpy()
    )
    bare = read_checkpoint(saved(model.vit, tmp_path, dtype))  # names without the `vit.` before them
    np.testing.assert_array_equal(bare.embeddings, expected)


def test_hugging_face_with_registers(tmp_path):
    config = transformers.Dinov2WithRegistersConfig(**HUGGING_FACE, num_register_tokens=4)
    model = filled(transformers.Dinov2WithRegistersModel(config))
    checkpoint = read_checkpoint(saved(model, tmp_path))
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model)[1:])


def test_clip_sees_with_its_vision_model(tmp_path):
    vision = {**HUGGING_FACE, "projection_dim": 8}
    text = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 50,
    }
    config = transformers.CLIPConfig(text_config=text | {"max_position_embeddings": 17}, vision_config=vision)
    model = filled(transformers.CLIPModel(config))
    checkpoint = read_checkpoint(saved(model, tmp_path))
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model.vision_model)[1:])


RECTANGLE = HUGGING_FACE | {"image_size": (208, 176)}
REGISTERS = RECTANGLE | {"num_register_tokens": 4}
DECODER = {f"decoder_{name}": value for name, value in HUGGING_FACE.items() if name not in ("image_size", "patch_size")}
MODELS = {  # model, its configuration, rows before the patches
    "ViT": (transformers.ViTModel, transformers.ViTConfig(**RECTANGLE), 1),
    "ViT, 11 x 13": (transformers.ViTModel, transformers.ViTConfig(**RECTANGLE | {"image_size": (176, 208)}), 1),
    "DeiT": (transformers.DeiTModel, transformers.DeiTConfig(**RECTANGLE), 2),
    "DINOv2": (transformers.Dinov2Model, transformers.Dinov2Config(**RECTANGLE), 1),
    "registers": (transformers.Dinov2WithRegistersModel, transformers.Dinov2WithRegistersConfig(**REGISTERS), 1),
    "MAE": (transformers.ViTMAEForPreTraining, transformers.ViTMAEConfig(**HUGGING_FACE, **DECODER), 1),
    "SigLIP": (transformers.SiglipVisionModel, transformers.SiglipVisionConfig(**HUGGING_FACE), 0),
    "CLIP": (transformers.CLIPVisionModel, transformers.CLIPVisionConfig(**HUGGING_FACE), 1),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_grid_is_read_from_the_config_that_hugging_face_saves(tmp_path, name):
    build, config, num_prefix = MODELS[name]
    model = filled(build(config))
    model.save_pretrained(tmp_path)
    size = model.config.image_size
    grid = tuple(side // 16 for side in ((size, size) if isinstance(size, int) else size))
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.grid_size == grid
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model)[num_prefix:])
    assert checkpoint.notes[0].startswith(f"{grid[0]} x {grid[1]} patches ")
    assert checkpoint.notes[0].endswith("as config.json beside the file says")
    (tmp_path / "config.json").unlink()
    if grid in ((13, 11), (11, 13)):
        with pytest.raises(VitpeError) as error:  # each of them could be 12 x 12, or is no square
            read_checkpoint(tmp_path / "model.safetensors")
        assert "--grid" in error.value.hint
    asked = read_checkpoint(tmp_path / "model.safetensors", grid)
    np.testing.assert_array_equal(asked.embeddings, checkpoint.embeddings)


@pytest.mark.parametrize("max_shard_size", ["1KB", "20KB"])
def test_hugging_faces_shards(tmp_path, max_shard_size):
    model = filled(transformers.ViTModel(transformers.ViTConfig(**RECTANGLE)))
    model.save_pretrained(tmp_path, max_shard_size=max_shard_size)
    assert len(list(tmp_path.glob("model-*-of-*.safetensors"))) > 1
    (checkpoint,) = load_history([tmp_path])
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model)[1:])
    np.testing.assert_array_equal(
        checkpoint.filters(), model.embeddings.patch_embeddings.projection.weight.detach().numpy()
    )


@pytest.mark.parametrize(
    ("img_size", "options", "num_prefix"),
    [
        ((208, 176), {}, 1),
        ((208, 176), {"no_embed_class": True}, 0),
        ((192, 192), {"no_embed_class": True}, 0),
        ((208, 176), {"reg_tokens": 4}, 5),
        ((208, 176), {"reg_tokens": 4, "no_embed_class": True}, 0),
        ((592, 592), {"reg_tokens": 4, "no_embed_class": True}, 0),  # 37 x 37, or 44 x 31 with five tokens
        ((208, 176), {"class_token": False, "global_pool": "avg"}, 0),
    ],
)
def test_the_grid_is_read_from_the_config_that_timm_saves(tmp_path, img_size, options, num_prefix):
    options = {"img_size": img_size, "num_classes": 3, "embed_dim": 8, "depth": 1, "num_heads": 2, **options}
    model = filled(timm.create_model("vit_tiny_patch16_224", **options))
    timm.models.save_for_hf(model, tmp_path, safe_serialization=True)
    checkpoint = read_checkpoint(tmp_path / "model.safetensors")
    assert checkpoint.grid_size == model.patch_embed.grid_size
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model)[num_prefix:])
    (tmp_path / "config.json").unlink()
    with pytest.raises(VitpeError) as error:
        read_checkpoint(tmp_path / "model.safetensors")
    assert "--grid" in error.value.hint


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        "[" * 100_000,
        '{"image_size": 224, "patch_size": 16}',
        '{"image_size": [1e9, -3], "patch_size": 0}',
    ],
)
def test_a_config_that_says_nothing_or_is_of_another_model_changes_nothing(tmp_path, text):
    model = filled(timm.models.VisionTransformer(img_size=64, **TIMM))
    path = saved(model, tmp_path)
    alone = read_checkpoint(path)
    (tmp_path / "config.json").write_text(text)
    beside = read_checkpoint(path)
    np.testing.assert_array_equal(beside.embeddings, alone.embeddings)
    assert beside.grid_size == alone.grid_size == (4, 4)
    assert ("config.json beside it says 14 x 14" in beside.notes[0]) == ("224" in text)


@pytest.mark.parametrize("prefix", ["model.", "backbone.", "module.model.backbone.", "student."])
def test_the_prefixes_of_wrappers_do_not_matter(tmp_path, prefix):
    model = filled(timm.models.VisionTransformer(img_size=64, **TIMM))
    tensors = {prefix + name: value.contiguous().clone() for name, value in model.state_dict().items()}
    save_file(tensors | {"n_averaged": torch.tensor(3)}, tmp_path / "a.safetensors")
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model)[1:])


def test_which_of_two_networks_is_drawn_is_said(tmp_path):
    model = filled(timm.models.VisionTransformer(img_size=64, **TIMM))
    tensors = {
        prefix + name: value.contiguous() * scale
        for prefix, scale in (("model.", 1), ("ema_model.", 2))
        for name, value in model.state_dict().items()
    }
    save_file(tensors, tmp_path / "a.safetensors")
    checkpoint = read_checkpoint(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(checkpoint.embeddings, position_embeddings(model)[1:])
    assert checkpoint.notes[-1] == "of 2 networks in the file this is model.pos_embed, not ema_model.pos_embed"
