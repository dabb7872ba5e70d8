"""The one place where pixels become a model's input: uint8 images → normalised patches → logits.

Each classifier holds a model, with the mean and std that it was trained with, and never changes it.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import linear

from vitpe.config import Precision
from vitpe.data.batch import Batch
from vitpe.device import check_bfloat16, computes_bfloat16
from vitpe.model.vit import VisionTransformer


class Normalize(nn.Module):
    """Patches (B, K, C·P·P) of pixels in 0..255 → float32 (pixels / 255 - mean) / std, per channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float], patch_size: int) -> None:
        super().__init__()
        # As scale · pixels + shift, for each number of a patch, whose order is channel, row, column.
        scale = torch.tensor([1 / (255 * s) for s in std]).repeat_interleave(patch_size**2)
        shift = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).repeat_interleave(patch_size**2)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("shift", shift, persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        return torch.addcmul(self.shift, patches.float(), self.scale)


class PixelClassifier(nn.Module):
    """uint8 images (B, C, H, W) → float32 logits (B, A)."""

    def __init__(self, model: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.model = model
        self.normalize = Normalize(mean, std, model.config.patch_size).to(model.cls_token.device)

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """keep: numbers (B, K) of the patches that are not dropped, None for all."""
        logits: Tensor = self.model(images, keep, self._normalize)
        return logits.float()

    def embed(self, images: Tensor) -> Tensor:
        """→ tokens (B, 1+N, D)"""
        return self.model.embed(images, None, self._normalize)

    def attribute_attention(self, images: Tensor) -> Tensor:
        """→ (B, A, N), see VisionTransformer; ValueError without attribute queries."""
        return self.model.attribute_attention(images, self._normalize)

    def _normalize(self, patches: Tensor) -> Tensor:
        values: Tensor = self.normalize(patches)
        return values.to(self.model.cls_token.dtype)


class FoldedClassifier(nn.Module):
    """As PixelClassifier, for prediction: fewer passes over the pixels, no patch dropout, no gradients.

    The patch projection is linear, so that mean and std can be part of a copy of it: W (x / 255 - mean) / std + b is
    W / (255 std) · x + (b - W mean / std). Its columns are in the order in which decoders leave pixels, channels last:
    to put channels first would take half as long as decoding does. Not for models with a stem: that pads with zeros,
    which are the mean colour only of normalised images.
    """

    weight: Tensor
    bias: Tensor

    def __init__(self, model: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        projection = model.patch_embed.proj
        assert model.stem is None and projection.bias is not None
        self.model = model
        precise = projection.weight.detach().double()
        weight = (precise / (255 * precise.new_tensor(std).view(-1, 1, 1))).to(projection.weight.dtype)
        # Of the weight as it was rounded, so that what rounding did to it does nothing to the mean colour.
        at_mean = (weight.double() * 255 * precise.new_tensor(mean).view(-1, 1, 1)).sum(dim=(1, 2, 3))
        bias = projection.bias.detach().double() - at_mean
        self.register_buffer("weight", weight.permute(0, 2, 3, 1).flatten(1).contiguous(), persistent=False)
        self.register_buffer("bias", bias.to(projection.weight.dtype), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """images: as from `stack_images`; any other order in memory is slower."""
        logits: Tensor = self.model.classify(self.embed(images))
        return logits.float()

    def embed(self, images: Tensor) -> Tensor:
        """→ tokens (B, 1+N, D)"""
        # A pixel's 256 values are whole numbers in bfloat16, too.
        pixels = self._patches(images).type(self.weight.dtype)
        tokens = linear(pixels, self.weight, self.bias) + self.model.position_table()[:, 1:]
        return self.model.add_cls_token(tokens)

    def _patches(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → (B, N, P·P·C)"""
        b, channels, _, _ = images.shape
        (rows, columns), p = self.model.config.grid_size, self.model.config.patch_size
        patches = images.permute(0, 2, 3, 1).reshape(b, rows, p, columns, p * channels).transpose(2, 3)
        return patches.reshape(b, rows * columns, p * p * channels)


def predicting_classifier(
    model: VisionTransformer,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device,
    precision: Precision = "fp32",
) -> PixelClassifier | FoldedClassifier:
    """The fastest one without gradients: uint8 images (B, C, H, W) → float32 logits (B, A), on the device.

    precision: on a GPU "fp32" is what `autocast` makes of it; with "bf16" all is computed in bfloat16, by a copy of the
    model. Raises UsageError for a device that only emulates that.
    """
    if precision == "bf16":
        check_bfloat16(device)
        model = copy.deepcopy(model).to(torch.bfloat16)
    kind = FoldedClassifier if model.stem is None else PixelClassifier
    return kind(model, mean, std).to(device)


def stack_images(images: Sequence[NDArray[np.uint8]], pinned: bool = False) -> Tensor:
    """B images (C, H, W) → (B, C, H, W), channels last in memory, as decoders leave them: it copies runs of bytes.

    pinned: into memory from which a GPU copies by itself.
    """
    channels, height, width = images[0].shape
    stacked = torch.empty((len(images), height, width, channels), dtype=torch.uint8, pin_memory=pinned)
    np.stack([image.transpose(1, 2, 0) for image in images], out=stacked.numpy())
    return stacked.permute(0, 3, 1, 2)


def autocast(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 on GPUs that compute with it, at twice the speed; float32, with all its digits, elsewhere."""
    if device.type == "cuda" and computes_bfloat16(device):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def classify(classifier: nn.Module, images: Tensor) -> Tensor:
    """uint8 (B, C, H, W) → float32 logits (B, A), without gradients. The model must be in eval mode."""
    with torch.inference_mode(), autocast(images.device):
        logits: Tensor = classifier(images)
        return logits


def classify_kept(classifier: PixelClassifier | FoldedClassifier, image: Tensor, keep: Tensor) -> Tensor:
    """One uint8 image (1, C, H, W) → float32 logits (M, A) of M sets of its patches, whose numbers are keep (M, K)."""
    with torch.inference_mode(), autocast(image.device):
        tokens = classifier.embed(image)
        cls_token = tokens[:, :1].expand(len(keep), -1, -1)
        logits: Tensor = classifier.model.classify(torch.cat([cls_token, tokens[0, 1:][keep]], dim=1), keep)
    return logits.float()


def classify_split(
    classifier: nn.Module, batches: Iterable[Batch], on_progress: Callable[[int], None] | None = None
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """(logits (n, A) float64, labels (n, A)) in the batches' order. The model must be in eval mode."""
    logits, labels = [], []
    for batch in batches:
        logits.append(classify(classifier, batch.images))
        labels.append(batch.labels)
        if on_progress is not None:
            on_progress(len(batch.labels))
    return torch.cat(logits).cpu().double().numpy(), torch.cat(labels).cpu().numpy()
