"""How much memory training needs, and how much there is: known before anything is built.

The model's code is run on tensors without numbers (torch's device "meta"), and what autograd keeps for the backward
pass is counted, so that this knows of every kind of model. torch.compile keeps as much, within a tenth.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from vitpe.celeba import MEAN, STD
from vitpe.config import ModelConfig, TrainConfig
from vitpe.data.storage import num_threads
from vitpe.device import free_gpu_bytes
from vitpe.errors import UsageError
from vitpe.model.vit import Block, VisionTransformer, attend_by_products, attends_by_products, num_parameters
from vitpe.training.forward import TrainForward
from vitpe.training.optimizer import is_matrix

_MARGIN: Final = 1.15
_LIBRARIES_BYTES: Final = 1 << 29
_BEYOND: Final = 1 << 62  # more bytes than torch can count


@dataclass(frozen=True)
class Needs:
    """Bytes that training takes on a device, of one worker.

    weights: themselves, the optimizer's state (one number for Muon, two for AdamW), their averages; all float32.
    gradients: of all weights. activations: what the backward pass needs of the images that are computed at once.
    batches: images that are prepared ahead. in_parts: whether there are gradients when activations are made.

    Left out are what operations need while they run, the images' store, and what an allocator cannot use.
    """

    weights: int
    gradients: int
    activations: int
    batches: int
    in_parts: bool

    @property
    def total(self) -> int:
        """At the peak, at least. Gradients come as activations go, but where those of another part are there."""
        both = self.gradients + self.activations if self.in_parts else max(self.gradients, self.activations)
        return self.weights + self.batches + both

    @property
    def reserve(self) -> int:
        """What to keep free for training: the total, what it leaves out, and the GPU's libraries."""
        return round(_MARGIN * (self.total + min(self.gradients, self.activations))) + _LIBRARIES_BYTES


def check_fits(model: ModelConfig, train: TrainConfig, batch_size: int, device: torch.device, images: int = 0) -> None:
    """UsageError when training cannot fit into what the GPU has free, or the machine for the CPU, with what would.

    train: its precision decided. batch_size: of one worker. images: bytes of those that are to be decoded on the GPU.
    """
    needs = training_needs(model, train, batch_size, device.type)
    if images:
        needs = replace(needs, batches=0)  # of images that are there only the places are sent
    there = memory_bytes(device)
    if there is None or needs.total + images <= there:
        return
    where = "this machine has" if device.type == "cpu" else f"{device} has free"
    message = f"training needs {bytes_in_words(needs.total)} at least, {where} {bytes_in_words(there)}"
    if needs.total <= there:
        raise UsageError(
            f"{bytes_in_words(images)} of images, and {message}", "keep the images elsewhere: --store auto"
        )
    smaller = _largest_part(model, train, batch_size, device.type, there)
    fixed = needs.weights + needs.gradients
    if smaller is None and needs.batches > fixed:
        ahead = bytes_in_words(needs.batches)
        raise UsageError(message, f"batches that are prepared ahead take {ahead} of it: lower --batch-size")
    if smaller is None:
        raise UsageError(
            message, f"the model and its optimizer alone take {bytes_in_words(fixed)}: choose a smaller model"
        )
    size, total = smaller
    raise UsageError(
        message, f"compute each batch in parts: --set train.micro_batch_size={size} takes {bytes_in_words(total)}"
    )


def _largest_part(
    model: ModelConfig, train: TrainConfig, batch_size: int, device_type: str, there: int
) -> tuple[int, int] | None:
    """The most images to compute at once that fit, a power of two, and the bytes of the total; None where not even
    one does.
    """
    size = 1 << (batch_size.bit_length() - 1)
    while size:
        total = training_needs(model, replace(train, micro_batch_size=size), batch_size, device_type).total
        if total <= there:
            return size, total
        size //= 2
    return None


@cache
def training_needs(model: ModelConfig, train: TrainConfig, batch_size: int, device_type: str) -> Needs:
    """train: its precision decided. batch_size: of one worker. Nothing is allocated."""
    num_weights, num_in_matrices = _by_depth(model, _weights)
    of_state = 2 * num_weights if train.muon_lr is None else 2 * num_weights - num_in_matrices
    of_averages = num_weights if train.ema_decay else 0
    part = train.images_at_once(batch_size)
    height, width = model.img_size
    ahead = num_threads() + 2 if device_type == "cuda" else 0  # and the one that is computed, copied for the CUDA graph
    return Needs(
        weights=4 * (num_weights + of_state + of_averages),
        gradients=4 * num_weights,
        activations=_activation_bytes(model, train, part, device_type),
        batches=ahead * batch_size * model.in_chans * height * width,
        in_parts=part < batch_size,
    )


def _activation_bytes(model: ModelConfig, train: TrainConfig, num_images: int, device_type: str) -> int:
    def kept(images: int) -> int:
        return _by_depth(model, lambda one: [_kept_bytes(one, train, images, device_type)])[0]

    try:
        two, four = kept(2), kept(4)
    except RuntimeError:  # of a size that overflows
        return _BEYOND
    return two + (four - two) * (num_images - 2) // 2


def _by_depth(model: ModelConfig, count: Callable[[ModelConfig], list[int]]) -> list[int]:
    """What `count` gives for a model whose blocks from the second on are alike."""
    if model.depth <= 3:
        return count(model)
    two, three = (count(replace(model, depth=depth)) for depth in (2, 3))
    return [a + (model.depth - 2) * (b - a) for a, b in zip(two, three, strict=True)]


def _weights(model: ModelConfig) -> list[int]:
    """How many there are, and how many of them in matrices that Muon may update."""
    with torch.device("meta"):
        built = VisionTransformer(model)
    return [num_parameters(built), sum(p.numel() for name, p in built.named_parameters() if is_matrix(name, p))]


def _kept_bytes(model: ModelConfig, train: TrainConfig, num_images: int, device_type: str) -> int:
    """Bytes of all that the forward pass keeps for the backward pass, the weights themselves left out."""
    kept: dict[int, tuple[Tensor, int]] = {}  # with a tensor of each memory, so that no other gets its number

    def keep(tensor: Tensor) -> Tensor:
        memory = tensor.untyped_storage()
        if memory._cdata not in own:
            kept[memory._cdata] = tensor, memory.nbytes()
        return tensor

    with torch.device("meta"):
        built = VisionTransformer(model)
        forward = TrainForward(built, MEAN, STD, train.precision)
        own = {tensor.untyped_storage()._cdata for tensor in [*built.parameters(), *forward.buffers()]}
        by_products = attends_by_products(device_type, torch.bfloat16 if train.precision == "bf16" else torch.float32)
        for block in built.blocks:
            assert isinstance(block, Block)
            block.attn.attend = attend_by_products if by_products else _attend_fused
        built.set_depth_draws(torch.empty(num_images, 2 * model.depth))
        num_kept = max(1, round(train.patch_keep * model.num_patches))
        patches = None if train.patch_keep == 1 else torch.empty(num_images, num_kept, dtype=torch.int64)
        images = torch.empty(num_images, model.in_chans, *model.img_size, dtype=torch.uint8)
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            forward(images, patches)
    return sum(num_bytes for _, num_bytes in kept.values())


class _Fused(torch.autograd.Function):
    """What fused attention keeps: its inputs, its output, and a number for each row (arXiv:2205.14135, section 3.1)."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = torch.empty_like(q)
        ctx.save_for_backward(q, k, v, out, q.new_empty(q.shape[:-1], dtype=torch.float32))
        return out


def _attend_fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    out: Tensor = _Fused.apply(q, k, v)
    return out


def bytes_in_words(num_bytes: int) -> str:
    """ "3.2 GB"; "40 MB" of less than a tenth of one."""
    if num_bytes < 1e8:
        return f"{num_bytes / 1e6:.0f} MB"
    return f"{num_bytes / 1e9:,.{0 if num_bytes >= 100e9 else 1}f} GB"


def memory_bytes(device: torch.device) -> int | None:
    """Free on the GPU, or of the machine, less where the system grants this process less; None where nobody says."""
    if device.type == "cuda":
        return free_gpu_bytes(device)
    if device.type != "cpu" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, of the second and the first version
        try:
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return min(limits)
