"""Decoded images → a model's input, with as few passes over the pixels as the model allows."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vitpe.data.images import normalize
from vitpe.model.vit import VisionTransformer

ToInput = Callable[[Sequence[Tensor], torch.device], Tensor]
"""B images (C, H, W) uint8 of the model's size → what to give the model, on the device."""


def input_for(model: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> ToInput:
    """Raw pixels for a model without a stem, which it is changed to take; normalised images for one that has a stem.

    A stem pads with zeros, which are the mean colour only after `normalize`.
    """
    if model.stem is not None:
        return lambda images, device: normalize(torch.stack(tuple(images)).to(device), mean, std)
    _take_pixels(model, mean, std)
    return lambda images, device: _pixel_patches(images, model.patch_size).to(device).float()


def _take_pixels(model: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
    """Make the model take `_pixel_patches` in 0..255 where it took patches of images that `normalize` made.

    The first layer is linear, so that mean and std can be part of it: W (x / 255 - mean) / std + b is
    W / (255 std) · x + (b - W mean / std). Its columns change places from channels first to channels last.
    """
    projection = model.patch_embed.proj
    weight = projection.weight.detach().double() / torch.tensor(std, dtype=torch.float64).view(-1, 1, 1)
    offset = (weight * torch.tensor(mean, dtype=torch.float64).view(-1, 1, 1)).sum(dim=(1, 2, 3))
    projection.weight.data.copy_((weight / 255).permute(0, 2, 3, 1).reshape(weight.shape))
    assert projection.bias is not None
    projection.bias.data.sub_(offset)


def _pixel_patches(images: Sequence[Tensor], patch_size: int) -> Tensor:
    """B images (C, H, W) uint8 → patches (B, N, P·P·C) uint8, row-major, each with its channels last.

    Decoders leave an image's channels last in memory, so this copies runs of bytes; to put them first would take half
    as long as decoding does.
    """
    batch = torch.stack([image.permute(1, 2, 0) for image in images])
    b, height, width, channels = batch.shape
    p = patch_size
    patches = batch.view(b, height // p, p, width // p, p * channels).transpose(2, 3)
    return patches.reshape(b, -1, p * p * channels)
