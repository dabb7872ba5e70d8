"""Rotary position embedding (RoPE): attention knows how far apart two patches are, and in which direction."""

import torch
from torch import Tensor, nn

from vitpe.config import ROPE_BASE, ROPE_GRID, ModelConfig
from vitpe.model.take import take_patches

Rotation = tuple[Tensor, Tensor]
"""Cosines and signed sines (T, 1, h, d) of the angles of a block's tokens, or (B, T, 1, h, d) where images keep
different patches; h is 1 where all heads turn alike."""


class RotaryEmbedding(nn.Module):
    """How far the queries and keys of each token are turned in each block (arXiv:2403.13298).

    Channels i and i + d/2 of a head, d wide, turn together, by x · freqs[0, i] + y · freqs[1, i] radians for a patch at
    column x and row y (`patch_coordinates` in vitpe.model.shapes); the product of a query and a key then depends on how
    far apart their patches are. The class token is nowhere and stands still.

    With config.rope "axial" the first half of these pairs turns with x and the second with y, in every head and block,
    by fixed frequencies; with "mixed" `freqs` (2, depth, h, d/2), timm's in name and shape, is learned: each head of
    each block starts with axes in a random direction.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.freqs = None
        if config.rope == "mixed":
            directions = 2 * torch.pi * torch.rand(config.depth, config.num_heads, 1)
            self.freqs = nn.Parameter(frequencies(config, directions))

    def forward(self, tokens: Tensor, keep: Tensor | None = None) -> list[Rotation]:
        """One a block. tokens (B, T, D): for their device. keep: numbers (B, K) of the patches that they are of, None
        for all.
        """
        device = tokens.device
        if self.freqs is None:
            freqs = frequencies(self.config, torch.zeros(1, 1, 1, device=device))
        else:
            freqs = self.freqs.float()
        # Made on the device: nothing may be copied to it while a CUDA graph is recorded.
        y, x = (
            ((torch.arange(side, device=device) + 0.5) * (reference / side) - 0.5).view(-1, 1, 1, 1)
            for side, reference in zip(self.config.grid_size, ROPE_GRID, strict=True)
        )
        angles = (x * freqs[0] + y[:, None] * freqs[1]).flatten(0, 1)  # (N, blocks, h, d/2)
        cos, sin = angles.cos(), angles.sin()
        table = torch.stack([torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)], dim=1)
        still = torch.stack([torch.ones_like(table[0, :1]), torch.zeros_like(table[0, :1])], dim=1)
        patches = take_patches(table.flatten(1), keep)
        patches = patches.view(*patches.shape[:-1], *table.shape[1:])
        if keep is not None:
            still = still.expand(keep.shape[0], *still.shape)
        cosines, sines = torch.cat([still, patches], dim=-5).unsqueeze(-3).unbind(dim=-5)
        blocks = [min(block, table.shape[2] - 1) for block in range(self.config.depth)]
        return [(cosines[..., block, :, :, :], sines[..., block, :, :, :]) for block in blocks]


def rotate(features: Tensor, rotation: Rotation) -> Tensor:
    """Queries and keys (B, T, 1 or 2, h, d), turned."""
    cosines, sines = (part.to(features.dtype) for part in rotation)
    return torch.addcmul(features * cosines, features.roll(features.shape[-1] // 2, -1), sines)


def frequencies(config: ModelConfig, directions: Tensor) -> Tensor:
    """(2, …, d/2) radians for a step of 1 in x and in y: half of the pairs along an axis in the direction (…, 1), in
    radians from x, the other half along the one across it; each falls geometrically from 1 to nearly 1 / ROPE_BASE.
    """
    quarter = config.head_dim // 4
    falling = ROPE_BASE ** (-torch.arange(quarter, device=directions.device) / quarter)
    along, across = directions, directions + torch.pi / 2
    return torch.stack(
        [
            torch.cat([falling * along.cos(), falling * across.cos()], dim=-1),
            torch.cat([falling * along.sin(), falling * across.sin()], dim=-1),
        ]
    )
