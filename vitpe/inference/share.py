"""A checkpoint → the files of a folder that Hugging Face's transformers, or timm, loads by itself. Torch-free."""

import json
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from vitpe.config import LAYER_NORM_EPS, ModelConfig
from vitpe.errors import UsageError
from vitpe.model.shapes import with_position_table
from vitpe.outputs import MARK
from vitpe.runs.metadata import CheckpointInfo

Weights = Mapping[str, NDArray[np.float32]]

WEIGHTS: Final = "model.safetensors"
_BLOCK_NAMES: Final = (
    ("norm1", "layernorm_before"),
    ("attn.proj", "attention.output.dense"),
    ("norm2", "layernorm_after"),
    ("mlp.fc1", "intermediate.dense"),
    ("mlp.fc2", "output.dense"),
)
_QKV: Final = ("query", "key", "value")
_TIMM_CROP_MODES: Final = {"crop": "center", "pad": "border", "stretch": "squash"}
_BILINEAR: Final = 2  # as Pillow numbers its filters


def huggingface_files(weights: Weights, info: CheckpointInfo) -> dict[str, bytes]:
    """config.json, preprocessor_config.json and the weights, for
    `transformers.pipeline("image-classification", FOLDER)`, which answers with sigmoids.

    Names of the weights are those of the hub's files, which every version of transformers reads. For a model of cropped
    images the preprocessor fits an image to info.stored_size, which leaves one that is cut as CelebA's are as it is,
    and crops the model's img_size from its middle, as vitpe does; others it stretches, where vitpe crops them. For one
    of stretched images it does what vitpe does; for one of images with borders, too, once they have these.
    UsageError for a model that ViTForImageClassification cannot hold.
    """
    model = info.model
    _refuse_what_others_lack(model, "transformers", pools=("token",))
    weights = with_position_table(weights)
    labels = {str(number): name for number, name in enumerate(info.attributes)}
    config = {
        "generator": MARK,
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "problem_type": "multi_label_classification",
        "id2label": labels,
        "label2id": {name: int(number) for number, name in labels.items()},
        "thresholds": dict(zip(info.attributes, info.thresholds, strict=True)),
        "image_size": list(model.img_size),
        "patch_size": model.patch_size,
        "num_channels": model.in_chans,
        "hidden_size": model.embed_dim,
        "num_hidden_layers": model.depth,
        "num_attention_heads": model.num_heads,
        "intermediate_size": model.mlp_dim,
        "hidden_act": "gelu",
        "layer_norm_eps": LAYER_NORM_EPS,
        "qkv_bias": True,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "torch_dtype": "float32",
    }
    crops = info.fit == "crop"
    preprocessor = {
        "generator": MARK,
        "image_processor_type": "CLIPImageProcessor",  # ViT's own does not crop
        "do_convert_rgb": True,
        "do_resize": True,
        "size": _height_width(info.stored_size if crops else model.img_size),
        "resample": _BILINEAR,
        "do_center_crop": crops,
        "crop_size": _height_width(model.img_size),
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": list(info.mean),
        "image_std": list(info.std),
    }
    return {
        "config.json": _json(config),
        "preprocessor_config.json": _json(preprocessor),
        WEIGHTS: _safetensors(dict(_huggingface_tensors(weights, model))),
    }


def timm_files(weights: Weights, info: CheckpointInfo) -> dict[str, bytes]:
    """config.json and the weights, for `timm.create_model("local-dir:FOLDER", pretrained=True)`.

    UsageError for a model that timm's VisionTransformer cannot hold.
    """
    model = info.model
    _refuse_what_others_lack(model, "timm", pools=("token", "avg"))
    weights = with_position_table(weights)
    exact = round(model.mlp_ratio * model.embed_dim) == model.mlp_ratio * model.embed_dim
    config = {
        "generator": MARK,
        "architecture": "vit_base_patch16_224",  # the class; model_args say the rest
        "num_classes": model.num_classes,
        "num_features": model.embed_dim,
        "label_names": list(info.attributes),
        "model_args": {
            "img_size": list(model.img_size),
            "patch_size": model.patch_size,
            "embed_dim": model.embed_dim,
            "depth": model.depth,
            "num_heads": model.num_heads,
            "global_pool": model.global_pool,
            # timm rounds the width down, vitpe to the nearest
            "mlp_ratio": model.mlp_ratio if exact else (model.mlp_dim + 0.5) / model.embed_dim,
        },
        "pretrained_cfg": {
            "input_size": [model.in_chans, *model.img_size],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": _TIMM_CROP_MODES[info.fit],
            "mean": list(info.mean),
            "std": list(info.std),
            "num_classes": model.num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    return {"config.json": _json(config), WEIGHTS: _safetensors(weights)}


def _refuse_what_others_lack(model: ModelConfig, library: str, pools: tuple[str, ...]) -> None:
    """UsageError naming the part of the model that the library's ViT does not have."""
    lacking = {
        f"global_pool={model.global_pool}": model.global_pool not in pools,
        f"stem_width={model.stem_width}": model.stem_width > 0,
        f"rope={model.rope}": model.rope != "none",
    }
    for part, absent in lacking.items():
        if absent:
            raise UsageError(
                f"the Vision Transformer of {library} has nothing like model.{part}",
                "export to ONNX, which holds every model: --format onnx",
            )


def _huggingface_tensors(weights: Weights, model: ModelConfig) -> dict[str, NDArray[np.float32]]:
    tensors = {
        "vit.embeddings.cls_token": weights["cls_token"],
        "vit.embeddings.position_embeddings": weights["pos_embed"],
    }
    renamed = {"patch_embed.proj": "vit.embeddings.patch_embeddings.projection", "norm": "vit.layernorm"}
    renamed["head"] = "classifier"
    for number in range(model.depth):
        block, theirs = f"blocks.{number}", f"vit.encoder.layer.{number}"
        renamed |= {f"{block}.{ours}": f"{theirs}.{name}" for ours, name in _BLOCK_NAMES}
        for kind in ("weight", "bias"):
            for name, part in zip(_QKV, np.split(weights[f"{block}.attn.qkv.{kind}"], 3), strict=True):
                tensors[f"{theirs}.attention.attention.{name}.{kind}"] = part
    for ours, name in renamed.items():
        tensors |= {f"{name}.{kind}": weights[f"{ours}.{kind}"] for kind in ("weight", "bias")}
    return tensors


def _safetensors(tensors: Weights) -> bytes:
    whole = {name: np.ascontiguousarray(values) for name, values in tensors.items()}
    return save(whole, metadata={"format": "pt", "generator": MARK})


def _height_width(size: tuple[int, int]) -> dict[str, int]:
    return {"height": size[0], "width": size[1]}


def _json(values: Mapping[str, Any]) -> bytes:
    return (json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode(errors="replace")
