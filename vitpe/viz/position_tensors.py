"""Which tensor of a ViT checkpoint holds the position embeddings, and which of its rows are patches.

Names are those of timm (and of vitpe), torchvision, Hugging Face transformers and vit-pytorch.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitpe.errors import VitpeError
from vitpe.viz.tensors import SafetensorsHeader, read_tensor

POSITION_NAMES = (
    "pos_embed",
    "pos_embedding",
    "embeddings.position_embeddings",
    "embeddings.position_embedding.weight",
)
FILTER_NAMES = (
    "patch_embed.proj.weight",
    "conv_proj.weight",
    "patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
)
# Tokens that stand before the patches, by the last part of their name. Each counts as many rows as it has.
PREFIX_TOKEN_NAMES = (
    "cls_token",
    "class_token",
    "class_embedding",
    "dist_token",
    "distillation_token",
    "reg_token",
    "register_tokens",
)
# Other networks that may lie in the same file.
OTHER_NETWORKS = ("decoder", "text_model", "teacher", "predictor")
# Of named tensors; a file with forty of them, damaged or made with intent, has more sums than memory can hold.
MAX_PREFIX_TOKENS = 6
# More tiles than this no picture can show.
MAX_PATCHES = 1600


@dataclass(frozen=True)
class Embeddings:
    """values: (N, D) float32 of the patches alone; grid_size: (Gh, Gw), Gh·Gw = N."""

    values: NDArray[np.float32]
    grid_size: tuple[int, int]


def read_embeddings(header: SafetensorsHeader, grid: tuple[int, int] | None) -> Embeddings:
    """Read the patches' position embeddings.

    grid: (rows, columns) when it is known; otherwise the grid must be square.
    Raises VitpeError, naming the file, when there are no position embeddings or when their number fits no grid.
    """
    name = _find(header, POSITION_NAMES)
    if name is None:
        raise VitpeError(
            f"{header.path} holds no position embeddings",
            hint="give a ViT with learned ones; looked for " + ", ".join(POSITION_NAMES),
        )
    shape = header.tensors[name].shape
    if len(shape) == 4 and shape[0] == 1:  # (1, Gh, Gw, D), as in SAM
        grid = grid or (shape[1], shape[2])
        num_rows, width = shape[1] * shape[2], shape[3]
    elif len(shape) in (2, 3) and math.prod(shape[:-2]) == 1:
        num_rows, width = shape[-2:]
    else:
        raise VitpeError(f"{header.path}: {name} has shape {shape}, not (1, tokens, width)", hint="is this a ViT?")
    num_prefix, grid_size = _split(header, num_rows, grid)
    if grid_size[0] * grid_size[1] > MAX_PATCHES:
        raise VitpeError(
            f"{header.path} has {grid_size[0]} x {grid_size[1]} patches, at most {MAX_PATCHES} can be drawn",
            hint="resample the position embeddings to a smaller grid",
        )
    return Embeddings(read_tensor(header, name).reshape(num_rows, width)[num_prefix:], grid_size)


def read_filters(header: SafetensorsHeader) -> NDArray[np.float32] | None:
    """The patch projection's filters (D, C, P, P); None when the file has none or its projection is no convolution."""
    name = _find(header, FILTER_NAMES)
    if name is None or len(header.tensors[name].shape) != 4:
        return None
    return read_tensor(header, name)


def _find(header: SafetensorsHeader, suffixes: Iterable[str]) -> str | None:
    """The shortest tensor name that is one of `suffixes`, or ends in one after a dot."""
    matches = (
        name
        for suffix in suffixes
        for name in sorted(header.tensors, key=len)
        if f".{name}".endswith(f".{suffix}") and not any(other in name for other in OTHER_NETWORKS)
    )
    return next(matches, None)


def _split(header: SafetensorsHeader, num_rows: int, grid: tuple[int, int] | None) -> tuple[int, tuple[int, int]]:
    """How many rows stand before the patches, and the patches' grid."""
    counts = _possible_prefixes(header)
    for num_prefix in counts:
        num_patches = num_rows - num_prefix
        side = math.isqrt(max(num_patches, 0))
        guess = grid or (side, side)
        if num_patches > 1 and guess[0] * guess[1] == num_patches:
            return num_prefix, guess
    wanted = f"not {grid[0]} x {grid[1]}" if grid else "no square"
    raise VitpeError(
        f"{header.path} has {num_rows} position embeddings: with {' or '.join(map(str, counts))} of them for tokens"
        f" that are no patches, the rest is {wanted}",
        hint="give the grid of patches, for example --grid 13x11 for 13 rows and 11 columns",
    )


def _possible_prefixes(header: SafetensorsHeader) -> tuple[int, ...]:
    """How many rows may stand before the patches: every sum of the tokens that the file names, and none.

    Not every named token has a position embedding: timm's register models have none for class and register tokens,
    Hugging Face's have one for the class token alone. A file without names may or may not have a class token.
    """
    sizes = [
        math.prod(entry.shape[:-1])
        for name, entry in header.tensors.items()
        if name.split(".")[-1] in PREFIX_TOKEN_NAMES and not any(other in name for other in OTHER_NETWORKS)
    ]
    sums = {0}
    for size in sorted(sizes)[:MAX_PREFIX_TOKENS] or [1]:
        sums |= {size + other for other in sums}
    return tuple(sorted(sums, reverse=True))
