"""Position embeddings of other people's models, against what their own libraries hold."""

import numpy as np
import pytest
import timm
import torch
import torchvision
import transformers
from safetensors.torch import save_file

from vitpe.viz.history import read_checkpoint


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
    np.testing.assert_array_equal(checkpoint.embeddings, model.pos_embed.detach()[0, num_prefix:].numpy())
    np.testing.assert_array_equal(checkpoint.filters(), model.patch_embed.proj.weight.detach().numpy())


def test_timm_distilled_and_compiled(tmp_path):
    model = filled(timm.models.deit.VisionTransformerDistilled(img_size=64, **TIMM))
    checkpoint = read_checkpoint(saved(torch.nn.ModuleDict({"_orig_mod": model}), tmp_path))
    np.testing.assert_array_equal(checkpoint.embeddings, model.pos_embed.detach()[0, 2:].numpy())


def test_torchvision(tmp_path):
    model = filled(torchvision.models.VisionTransformer(64, 16, 1, 2, 8, 16, num_classes=3))
    checkpoint = read_checkpoint(saved(model, tmp_path))
    np.testing.assert_array_equal(checkpoint.embeddings, model.encoder.pos_embedding.detach()[0, 1:].numpy())
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
    np.testing.assert_array_equal(checkpoint.embeddings, model.embeddings.position_embeddings.detach()[0, 1:].numpy())


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
    expected = model.vision_model.embeddings.position_embedding.weight.detach()[1:].numpy()
    np.testing.assert_array_equal(checkpoint.embeddings, expected)
