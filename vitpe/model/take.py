"""Patches by their numbers, as patch dropout needs them."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


def take_patches(patches: Tensor, keep: Tensor | None) -> Tensor:
    """Patches (B, N, X), or (N, X) that all images share → (B, K, X): those of the numbers `keep` (B, K), which differ
    within an image; for None all, as they are.
    """
    if keep is None:
        return patches
    taken: Tensor = _Take.apply(patches, keep)
    return taken


class _Take(torch.autograd.Function):
    """Indexing, with a gradient that sums in the order of the images. Indexing's own adds in whatever order a GPU's
    threads come, so that no two runs have the same digits.
    """

    @staticmethod
    def forward(ctx: Any, patches: Tensor, keep: Tensor) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.shape = patches.shape
        images = torch.arange(keep.shape[0], device=keep.device)[:, None]
        return patches[keep] if patches.ndim == 2 else patches[images, keep]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (keep,) = ctx.saved_tensors
        (b, k), (*own, num_patches, width) = keep.shape, ctx.shape
        rows = torch.cat([gradient.flatten(0, 1), gradient.new_zeros(1, width)])
        # In which row each image's patches are found: where it has left one out, in the last, of zeros.
        found = torch.full((b, num_patches), b * k, device=keep.device)
        found.scatter_(1, keep, torch.arange(b * k, device=keep.device).view(b, k))
        bags = found.view(-1, 1) if own else found.T.contiguous()
        return embedding_bag(bags, rows, mode="sum").view(ctx.shape), None
