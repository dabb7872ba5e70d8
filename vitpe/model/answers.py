"""Model + batches → probabilities and labels of a whole split."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vitpe.data.batches import Batch
from vitpe.data.images import normalize
from vitpe.device import computes_bfloat16

Progress = Callable[[int], None]


def precision(device: torch.device) -> AbstractContextManager[object]:
    """bfloat16 autocast on GPUs that compute with it, at twice the speed; float32, with all its digits, elsewhere."""
    if device.type == "cuda" and computes_bfloat16(device):
        return torch.autocast("cuda", torch.bfloat16)
    return nullcontext()


def predict_logits(model: nn.Module, images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """uint8 (B, C, H, W) → float32 logits (B, A), without gradients."""
    with torch.inference_mode(), precision(images.device):
        logits: Tensor = model(normalize(images, mean, std))
        return logits.float()


def predict_split(
    model: nn.Module,
    batches: Iterable[Batch],
    mean: Sequence[float],
    std: Sequence[float],
    on_progress: Progress | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """(logits (n, A) float64, labels (n, A)) in the batches' order. The model must be in eval mode."""
    logits, labels = [], []
    for batch in batches:
        logits.append(predict_logits(model, batch.images, mean, std))
        labels.append(batch.labels)
        if on_progress is not None:
            on_progress(len(batch.labels))
    return torch.cat(logits).cpu().double().numpy(), torch.cat(labels).cpu().numpy()
