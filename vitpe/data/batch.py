"""One batch, all of it on the device that the model is on."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class DecodedImages:
    """A whole split on a GPU: images (n, 3, H, W) uint8, the channels last in memory, and labels (n, A) uint8.

    size: (height, width) of what is cropped from them.
    """

    images: Tensor
    labels: Tensor
    size: tuple[int, int]


@dataclass(frozen=True)
class Batch:
    """What a model is given of B images.

    tensors: all that differs from batch to batch, by name: "images" and "labels", or else "places" in `source`, int64
    (4, B), from which the device makes both when they are asked for, so that this may be part of a training step's
    CUDA graph; and perhaps "keep" and "depth".
    ready: when all is complete, where a GPU's copies go on beside its computing.
    """

    tensors: dict[str, Tensor]
    source: DecodedImages | None = None
    ready: torch.cuda.Event | None = None

    @property
    def images(self) -> Tensor:
        """(B, 3, H, W) uint8, cropped, in any memory format."""
        if self.source is None:
            return self.tensors["images"]
        return crop_on_device(self.source.images, self.tensors["places"], self.source.size)

    @property
    def labels(self) -> Tensor:
        """(B, A) uint8."""
        return self.tensors["labels"] if self.source is None else self.source.labels[self.tensors["places"][0]]

    @property
    def keep(self) -> Tensor | None:
        """(B, K) numbers of the patches that patch dropout keeps; None for all."""
        return self.tensors.get("keep")

    @property
    def depth(self) -> Tensor | None:
        """(B, branches) in [0, 1), by which stochastic depth leaves out branches; None without it."""
        return self.tensors.get("depth")

    def __len__(self) -> int:
        """B"""
        return self.tensors["images"].shape[0] if self.source is None else self.tensors["places"].shape[1]

    def split(self, size: int) -> "list[Batch]":
        """Parts of at most `size` images, as few and as equal as can be, in the same memory."""
        num_parts = -(-len(self) // size)
        split = {
            name: tensor.tensor_split(num_parts, dim=1 if name == "places" else 0)
            for name, tensor in self.tensors.items()
        }
        return [
            replace(self, tensors={name: parts[number] for name, parts in split.items()}) for number in range(num_parts)
        ]

    def clone(self) -> "Batch":
        """In memory of its own, but for the split that it is taken from."""
        return replace(self, tensors={name: tensor.clone() for name, tensor in self.tensors.items()}, ready=None)


def crop_on_device(source: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """What `crop_on_host` does, in one gather on the device.

    source: (n, 3, H, W), the channels last in memory. places: int64 (4, B), each image's index in the source, its top,
    its left, and 1 to mirror it.
    """
    height, width = size
    at, top, left, flip = places[:, :, None].unbind()
    rows = at * source.shape[2] + top + torch.arange(height, device=source.device)
    columns = torch.arange(width, device=source.device)
    columns = left + torch.where(flip > 0, width - 1 - columns, columns)
    # A number for each pixel in all the images: of several, torch would write each out in full, 75 MB for 256 images.
    numbers = rows[:, :, None] * source.shape[3] + columns[:, None, :]
    return source.permute(0, 2, 3, 1).flatten(0, 2)[numbers].permute(0, 3, 1, 2)
