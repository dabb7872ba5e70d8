"""Position embeddings of one grid resampled to another."""

import torch
from torch import Tensor
from torch.nn.functional import interpolate


def resample_pos_embed(
    pos_embed: Tensor, old_grid: tuple[int, int], new_grid: tuple[int, int], num_prefix_tokens: int = 1
) -> Tensor:
    """(1, T, D) on `old_grid` (rows, columns) → (1, T', D) on `new_grid`, T = num_prefix_tokens + rows · columns.

    The patches' rows are a picture of D channels, resized by antialiased bicubic interpolation in float32 and given
    back in their own dtype; the prefix (class token) stays as it is. Grids are compared by their sides and never by
    their number of patches: 13 × 11 to 11 × 13 is a resize too. ValueError when T does not fit `old_grid`.
    """
    num_patches = pos_embed.shape[1] - num_prefix_tokens
    if num_patches != old_grid[0] * old_grid[1]:
        raise ValueError(f"pos_embed holds {num_patches} patches, a grid of {old_grid} does not")
    if old_grid == new_grid:
        return pos_embed
    prefix, patches = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    picture = patches.float().reshape(len(patches), *old_grid, -1).permute(0, 3, 1, 2)
    resized = interpolate(picture, size=new_grid, mode="bicubic", antialias=True)
    return torch.cat([prefix, resized.flatten(2).transpose(1, 2).to(pos_embed.dtype)], dim=1)
