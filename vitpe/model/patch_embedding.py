"""(B, C, H, W) → tokens (B, 1+N, D): projection of patches, class token, position embedding."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import embedding_bag, linear

from vitpe.model.stem import ConvStem


class PatchProjection(nn.Module):
    """A linear map of each P × P patch: patches (B, N, C·P·P) → (B, N, D).

    The weight has the shape of the equivalent strided convolution, (D, C, P, P), and timm's name, so that state
    dicts are shared; the product itself is one matrix multiplication, which is faster on CPUs than the convolution.
    Source: arXiv:2010.11929, equation 1.
    """

    def __init__(self, in_chans: int, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class PatchEmbedding(nn.Module):
    """(B, C, H, W) → tokens (B, 1+N, D). Token 0 is the class token, token 1 + n is patch n in row-major order.

    `pos_embed` (1, 1+N, D) starts at zero, so that whatever it shows later was learned; with `sincos` it is the fixed
    two-dimensional sine-cosine embedding instead, and is saved all the same. `stem`, where there is one, adds to the
    projection of each patch.
    """

    def __init__(
        self,
        img_size: tuple[int, int],
        patch_size: int,
        in_chans: int,
        embed_dim: int,
        sincos: bool = False,
        stem_width: int = 0,
    ) -> None:
        super().__init__()
        self.img_size = img_size
        self.patch_size = patch_size
        self.grid_size = (img_size[0] // patch_size, img_size[1] // patch_size)
        self.patch_embed = PatchProjection(in_chans, patch_size, embed_dim)
        self.stem = ConvStem(self.grid_size, patch_size, in_chans, stem_width, embed_dim) if stem_width else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed_dim))
        num_patches = self.grid_size[0] * self.grid_size[1]
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + num_patches, embed_dim), requires_grad=not sincos)
        if sincos:
            self.pos_embed.data[0, 1:] = sincos_embedding(self.grid_size, embed_dim)

    def forward(self, images: Tensor) -> Tensor:
        return self.embed(self.patchify(images))

    def patchify(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → patches (B, N, C·P·P) of the same type; patch n lies at row n // Gw, column n % Gw."""
        if images.shape[-2:] != self.img_size:
            raise ValueError(f"images (B, C, H, W) of {tuple(images.shape)} where (H, W) should be {self.img_size}")
        b, c, _, _ = images.shape
        (rows, columns), p = self.grid_size, self.patch_size
        patches = images.reshape(b, c, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(b, rows * columns, c * p * p)

    def needed(self, patches: Tensor, keep: Tensor | None) -> Tensor:
        """Of all patches (B, N, X) what `embed` takes to make the tokens of those in `keep`: them, but a stem's filters
        look at all.
        """
        return take_patches(patches, keep) if self.stem is None else patches

    def embed(self, patches: Tensor, keep: Tensor | None = None) -> Tensor:
        """Patches (B, N, C·P·P) → tokens (B, 1+N, D); with `keep` (B, K) the tokens of just those patches, of
        what `needed` gave (patch dropout, arXiv:2208.07220).
        """
        position = self.pos_embed[0, 1:]
        own = patches if self.stem is None else take_patches(patches, keep)
        tokens = self.patch_embed(own) + take_patches(position, keep)
        if self.stem is not None:
            tokens = tokens + take_patches(self.stem(patches), keep)
        cls_token = (self.cls_token + self.pos_embed[:, :1]).to(tokens.dtype)
        return torch.cat([cls_token.expand(patches.shape[0], -1, -1), tokens], dim=1)


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


def sincos_embedding(grid_size: tuple[int, int], embed_dim: int) -> Tensor:
    """(N, D): the first half of D encodes the row, the second the column, each by sines then cosines.

    Frequencies fall geometrically from 1 to 1/10000 (arXiv:1706.03762, section 3.5, in two dimensions as in
    arXiv:2111.06377). `embed_dim` must be a multiple of 4.
    """
    quarter = embed_dim // 4
    frequencies = torch.exp(-math.log(10_000) * torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(
        torch.arange(grid_size[0], dtype=torch.float64), torch.arange(grid_size[1], dtype=torch.float64), indexing="ij"
    )
    angles = [position.flatten()[:, None] * frequencies for position in (rows, columns)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()
