"""The tensors that a VisionTransformer holds, by name and shape. Torch-free: a file is held against them first."""

from vitpe.config import STEM_STRIDE, ModelConfig


def tensor_shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """The state dict's names, timm's but for a stem's and attribute queries', in its order."""
    dim, hidden = config.embed_dim, config.mlp_dim
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + config.num_patches, dim),
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
    return shapes


def _linear(name: str, num_out: int, *num_in: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (num_out, *num_in), f"{name}.bias": (num_out,)}


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}
