"""State dicts of timm, torchvision and Hugging Face → ours. Tensors only; files are read elsewhere.

Logits come out equal, but for one thing that tensors do not tell: Hugging Face's default LayerNorm eps is 1e-12, ours
1e-6 as in the original code and in timm. Tokens of unit variance, as trained models have, do not feel it (5e-7).
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from vitpe.config import ModelConfig
from vitpe.errors import VitpeError
from vitpe.model.position import resample_pos_embed
from vitpe.model.vit import VisionTransformer

Origin = Literal["timm", "torchvision", "huggingface"]

# What DistributedDataParallel, torch.compile and Hugging Face's task models put before every key.
_PREFIX = re.compile(r"^(module\.|_orig_mod\.|vit\.)+")

_TORCHVISION_NAMES = (
    (r"^class_token$", "cls_token"),
    (r"^conv_proj\.", "patch_embed.proj."),
    (r"^encoder\.pos_embedding$", "pos_embed"),
    (r"^encoder\.layers\.encoder_layer_(\d+)\.", r"blocks.\1."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.self_attention\.in_proj_", ".attn.qkv."),
    (r"\.self_attention\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.(0|linear_1)\.", ".mlp.fc1."),
    (r"\.mlp\.(3|linear_2)\.", ".mlp.fc2."),
    (r"^encoder\.ln\.", "norm."),
    (r"^heads\.head\.", "head."),
)
# Two generations: the files on the hub name `encoder.layer.0.attention.attention.query`, transformers 5's models in
# memory `layers.0.attention.q_proj`.
_HUGGINGFACE_NAMES = (
    (r"^embeddings\.cls_token$", "cls_token"),
    (r"^embeddings\.position_embeddings$", "pos_embed"),
    (r"^embeddings\.patch_embeddings\.projection\.", "patch_embed.proj."),
    (r"^(encoder\.layer|layers)\.(\d+)\.", r"blocks.\2."),
    (r"\.attention\.attention\.(query|key|value)\.", r".attn.\1."),
    (r"\.attention\.q_proj\.", ".attn.query."),
    (r"\.attention\.k_proj\.", ".attn.key."),
    (r"\.attention\.v_proj\.", ".attn.value."),
    (r"\.attention\.(output\.dense|o_proj)\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
    (r"^layernorm\.", "norm."),
    (r"^classifier\.", "head."),
)
_MARKS: tuple[tuple[str, Origin, tuple[tuple[str, str], ...]], ...] = (
    ("pos_embed", "timm", ()),
    ("encoder.pos_embedding", "torchvision", _TORCHVISION_NAMES),
    ("embeddings.position_embeddings", "huggingface", _HUGGINGFACE_NAMES),
)
# Parts of Hugging Face's models that no logit of ours depends on.
_UNUSED = ("pooler.dense.weight", "pooler.dense.bias", "embeddings.mask_token")


@dataclass(frozen=True)
class Converted:
    """What `convert_state_dict` made of somebody's weights.

    state_dict: float32, every key and shape that VisionTransformer(model_config).load_state_dict(strict=True) asks for.
    origin: whose names the tensors had; ours are timm's.
    notes: one line for each thing that was not taken over as it stood.
    """

    state_dict: dict[str, Tensor]
    origin: Origin
    notes: tuple[str, ...]


def convert_state_dict(
    tensors: dict[str, Tensor],
    model_config: ModelConfig,
    old_grid: tuple[int, int] | None = None,
) -> Converted:
    """Weights of a timm, torchvision or Hugging Face ViT as a state dict for VisionTransformer(model_config).

    old_grid: (rows, columns) of the weights' pos_embed; None takes the square of its number of patches, or
    `model_config`'s own grid. pos_embed is resampled to model_config.grid_size. A head of another number of classes is
    left out: ours then starts at zero.
    VitpeError names the first tensor that is missing, has no place in the model or does not fit, and what was expected.
    """
    origin, found = _rename(tensors)
    _require_floats(found)
    notes: list[str] = []
    with torch.device("meta"):
        expected = VisionTransformer(model_config).state_dict()
    _move_norm(found, expected, notes)
    _convert_head(found, expected, notes)
    _convert_pos_embed(found, model_config, old_grid, notes)
    _check(found, expected, model_config)
    return Converted({key: found[key].float() for key in expected}, origin, tuple(notes))


def _rename(tensors: dict[str, Tensor]) -> tuple[Origin, dict[str, Tensor]]:
    """Whose tensors these are, and the tensors under timm's keys."""
    bare = {_PREFIX.sub("", key): tensor for key, tensor in tensors.items()}
    for mark, origin, names in _MARKS:
        if mark in bare:
            renamed = {_apply(names, key): tensor for key, tensor in bare.items() if key not in _UNUSED}
            return origin, _fuse_qkv(renamed) if origin == "huggingface" else renamed
    raise VitpeError(
        f"these {len(tensors)} tensors are no ViT's: the first is {next(iter(tensors), None)!r}",
        hint="weights of a VisionTransformer from timm, torchvision, Hugging Face or vitpe are understood",
    )


def _apply(names: tuple[tuple[str, str], ...], key: str) -> str:
    for pattern, replacement in names:
        key = re.sub(pattern, replacement, key)
    return key


def _require_floats(found: dict[str, Tensor]) -> None:
    for key, tensor in found.items():
        if not tensor.is_floating_point():
            raise VitpeError(
                f"tensor {key!r} holds {str(tensor.dtype).removeprefix('torch.')}, no floating-point numbers",
                hint="quantised weights are not understood: convert them to a float type",
            )


def _fuse_qkv(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Separate query, key and value → one qkv, stacked along the outputs."""
    fused = {key: tensor for key, tensor in tensors.items() if not re.search(r"\.attn\.(query|key|value)\.", key)}
    for key in [key for key in tensors if ".attn.query." in key]:
        parts = [key.replace(".query.", f".{name}.") for name in ("query", "key", "value")]
        for part in parts:
            if part not in tensors:
                raise _missing(part, "query, key and value belong together")
            if tensors[part].shape != tensors[key].shape or tensors[part].ndim == 0:
                raise _misfit(part, tensors[part], f"{tuple(tensors[key].shape)}, as {key!r} has")
        fused[key.replace(".query.", ".qkv.")] = torch.cat([tensors[part] for part in parts])
    return fused


def _move_norm(found: dict[str, Tensor], expected: dict[str, Tensor], notes: list[str]) -> None:
    """The final norm is called norm before the class token's head and fc_norm after mean pooling."""
    for old, new in (("norm", "fc_norm"), ("fc_norm", "norm")):
        if f"{old}.weight" in found and f"{new}.weight" in expected:
            for part in ("weight", "bias"):
                if f"{old}.{part}" in found:
                    found[f"{new}.{part}"] = found.pop(f"{old}.{part}")
            notes.append(f"{old} taken as {new}: the weights were trained with the other pooling")


def _convert_head(found: dict[str, Tensor], expected: dict[str, Tensor], notes: list[str]) -> None:
    if "head.weight" in found:
        num_classes = _shape(found, "head.weight", "(A, D)")[0]
        ours = len(expected["head.weight"])
        if num_classes == ours:
            return
        notes.append(f"head of {num_classes} classes dropped: ours has {ours}")
    for key in ("head.weight", "head.bias"):
        found[key] = torch.zeros(expected[key].shape)


def _convert_pos_embed(
    found: dict[str, Tensor], config: ModelConfig, old_grid: tuple[int, int] | None, notes: list[str]
) -> None:
    num_patches = _num_patches(found)
    same_count = config.grid_size if num_patches == config.num_patches else None
    grid = old_grid or _square_grid(num_patches) or same_count or _not_square(num_patches)
    if num_patches != grid[0] * grid[1]:
        raise VitpeError(
            f"tensor 'pos_embed' holds {num_patches} patches, a grid of {grid[0]}x{grid[1]} has {grid[0] * grid[1]}",
            hint="the weights' own (rows, columns) are needed",
        )
    if grid != config.grid_size:
        found["pos_embed"] = resample_pos_embed(found["pos_embed"].float(), grid, config.grid_size)
        notes.append("pos_embed resampled from {}x{} to {}x{} patches".format(*grid, *config.grid_size))


def _check(found: dict[str, Tensor], expected: dict[str, Tensor], config: ModelConfig) -> None:
    """VitpeError unless `found` has the expected keys and shapes."""
    depth = _depth(found)
    if depth != config.depth:
        raise VitpeError(
            f"the weights have {depth} blocks, the model has depth {config.depth}", hint="choose the preset that fits"
        )
    if config.stem_width and not any(key.startswith("stem.") for key in found):
        raise VitpeError(
            "the weights have no convolutional stem, the model has one", hint="do without: --set model.stem_width=0"
        )
    for key, tensor in expected.items():
        if key not in found:
            raise _missing(key, f"the model needs it, of shape {tuple(tensor.shape)}")
        if found[key].shape != tensor.shape:
            raise _misfit(key, found[key], str(tuple(tensor.shape)))
    for key in found:
        if key not in expected:
            raise VitpeError(
                f"tensor {key!r} of shape {tuple(found[key].shape)} has no place in the model",
                hint="only the plain ViT with a class token is understood: no registers, no layer scale",
            )


def _shape(found: dict[str, Tensor], key: str, expected: str) -> tuple[int, ...]:
    """The shape of a tensor that must be there with as many sides as `expected` names, none of them empty."""
    if key not in found:
        raise _missing(key, f"expected {expected}")
    shape = tuple(found[key].shape)
    sides = expected.count(",") + 1
    if len(shape) != sides or 0 in shape:
        raise _misfit(key, found[key], expected)
    return shape


def _num_patches(found: dict[str, Tensor]) -> int:
    num_patches = _shape(found, "pos_embed", "(1, 1 + N, D)")[1] - 1
    if num_patches < 1:
        raise _misfit("pos_embed", found["pos_embed"], "(1, 1 + N, D)")
    return num_patches


def _depth(found: dict[str, Tensor]) -> int:
    blocks = (re.match(r"blocks\.(\d+)\.", key) for key in found)
    return 1 + max((int(match[1]) for match in blocks if match), default=-1)


def _square_grid(num_patches: int) -> tuple[int, int] | None:
    side = math.isqrt(num_patches)
    return (side, side) if side * side == num_patches else None


def _not_square(num_patches: int) -> tuple[int, int]:
    raise VitpeError(
        f"tensor 'pos_embed' holds {num_patches} patches, which is no square, and no grid is given",
        hint="the weights' own (rows, columns) are needed",
    )


def _missing(key: str, why: str) -> VitpeError:
    return VitpeError(f"tensor {key!r} is missing: {why}", hint="the weights are not those of a whole plain ViT")


def _misfit(key: str, tensor: Tensor, expected: str) -> VitpeError:
    return VitpeError(
        f"tensor {key!r} has shape {tuple(tensor.shape)}, expected {expected}",
        hint="choose the preset, width and patch size that the weights were trained with",
    )
