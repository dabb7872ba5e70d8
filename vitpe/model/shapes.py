"""The tensors that a VisionTransformer holds, by name and shape. Torch-free: a file is held against them first."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from vitpe.config import ROPE_GRID, STEM_STRIDE, ModelConfig


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The state dict's names, timm's but for those of a stem, attribute queries and RoPE."""
    dim, hidden = config.embed_dim, config.mlp_dim
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        **_pos_embed(config),
        **_linear("patch_embed.proj", dim, config.in_chans, config.patch_size, config.patch_size),
    }
    if width := config.stem_width:
        for number, (num_out, num_in) in enumerate(((1, 0), (2, 1), (4, 2)), start=1):
            shapes |= _linear(f"stem.conv{number}", width * num_out, (width * num_in or config.in_chans) * 9)
        shapes |= _norm("stem.norm", 4 * width)
        for number in (4, 5):
            shapes |= _linear(f"stem.conv{number}", 4 * width, 4 * width * 9)
        num_values = 4 * width * (config.patch_size // STEM_STRIDE) ** 2
        shapes |= {"stem.proj_weight": (dim, num_values), "stem.proj_bias": (dim,)}
    for block in (f"blocks.{number}" for number in range(config.depth)):
        shapes |= _norm(f"{block}.norm1", dim) | _norm(f"{block}.norm2", dim)
        shapes |= _linear(f"{block}.attn.qkv", 3 * dim, dim) | _linear(f"{block}.attn.proj", dim, dim)
        shapes |= _linear(f"{block}.mlp.fc1", hidden, dim) | _linear(f"{block}.mlp.fc2", dim, hidden)
    shapes |= _norm("fc_norm" if config.global_pool == "avg" else "norm", dim)
    shapes |= _linear("head", config.num_classes, dim)
    if config.global_pool == "queries":
        shapes |= {f"query_pool.{name}": (config.num_classes, dim) for name in ("queries", "head_weight")}
        shapes |= {f"query_pool.{name}.weight": (dim, dim) for name in ("key", "value")}
    if config.rope == "mixed":
        shapes["rope.freqs"] = (2, config.depth, config.num_heads, dim // config.num_heads // 2)
    return shapes


def with_position_table(weights: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """The same weights with one `pos_embed` (1, 1+N, D) in the place of rows and columns, where they have these."""
    whole = dict(weights)
    if "pos_embed_y" in whole:
        y, x = whole.pop("pos_embed_y"), whole.pop("pos_embed_x")
        patches = (y[:, :, None] + x[:, None]).reshape(1, -1, y.shape[-1])
        whole["pos_embed"] = np.pad(patches, ((0, 0), (1, 0), (0, 0)))
    return whole


def patch_coordinates(grid_size: tuple[int, int]) -> NDArray[np.float32]:
    """(N, 2): x and y of each patch of a grid (rows, columns), for rotary embeddings.

    Column and row on a grid of ROPE_GRID; on any other grid the place of the patch's middle in the image has the
    coordinates that it has there, so that learned frequencies fit all grids.
    """
    y, x = (
        (np.arange(side) + 0.5) * (reference / side) - 0.5 for side, reference in zip(grid_size, ROPE_GRID, strict=True)
    )
    return np.stack(np.meshgrid(x, y), axis=-1).reshape(-1, 2).astype(np.float32)


def _pos_embed(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    if config.pos_embed == "factorized":
        rows, columns = config.grid_size
        return {"pos_embed_y": (1, rows, config.embed_dim), "pos_embed_x": (1, columns, config.embed_dim)}
    return {"pos_embed": (1, 1 + config.num_patches, config.embed_dim)}


def _linear(name: str, num_out: int, *num_in: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (num_out, *num_in), f"{name}.bias": (num_out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
