"""Decoded images → patches for a model that takes raw pixels: no pass over the image to normalise or transpose it."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vitpe.model.vit import VisionTransformer


def take_pixels(model: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
    """Make the model take `pixel_patches` in 0..255 where it took patches of images that `normalize` made.

    The first layer is linear, so that mean and std can be part of it: W (x / 255 - mean) / std + b is
    W / (255 std) · x + (b - W mean / std). Its columns change places from channels first to channels last.
    """
    projection = model.patch_embed.proj
    weight = projection.weight.detach().double() / torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
    offset = (weight * torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)).sum(dim=(1, 2, 3))
    projection.weight.data.copy_((weight / 255).permute(0, 2, 3, 1).reshape(weight.shape))
    assert projection.bias is not None
    projection.bias.data.sub_(offset)


def pixel_patches(images: Sequence[Tensor], patch_size: int) -> Tensor:
    """B images (C, H, W) uint8 → patches (B, N, P·P·C) uint8, row-major, each with its channels last.

    Decoders leave an image's channels last in memory, so this copies runs of bytes; to put them first would take half
    as long as decoding does.
    """
    batch = torch.stack([image.permute(1, 2, 0) for image in images])
    b, height, width, channels = batch.shape
    p = patch_size
    patches = batch.view(b, height // p, p, width // p, p * channels).transpose(2, 3)
    return patches.reshape(b, -1, p * p * channels)
