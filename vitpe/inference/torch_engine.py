"""The model in torch, on any device."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from vitpe.data.images import Pixels, use_torchvision
from vitpe.device import Precision
from vitpe.model.inputs import classify, predicting_classifier, stack_images
from vitpe.runs.checkpoint import load_checkpoint

_MAX_BATCH: Final = 8  # a CPU core gains nothing from more, and loses what its caches hold
_MAX_BATCH_GPU: Final = 64


class TorchEngine:
    """An Engine. From here on torch works with one thread an operation, in this and all later threads: on a CPU each
    of several workers runs it. Of a GPU's, each that did would take 32 MiB there for cuBLAS.
    """

    def __init__(self, checkpoint: Path, device: torch.device, precision: Precision = "fp32") -> None:
        """Raises VitpeError for a checkpoint that cannot be read, UsageError for a device without that precision."""
        torch.set_num_threads(1)
        use_torchvision()
        model, self.info = load_checkpoint(checkpoint)
        self.device = device
        self.classifier = predicting_classifier(model, self.info.mean, self.info.std, device, precision)

    @property
    def max_batch(self) -> int:
        """How many images to give it at once."""
        return _MAX_BATCH if self.in_workers else _MAX_BATCH_GPU

    @property
    def in_workers(self) -> bool:
        """On a CPU."""
        return self.device.type == "cpu"

    def classify(self, images: Sequence[Pixels]) -> NDArray[np.float64]:
        """(B, A)"""
        return classify(self.classifier, stack_images(images).to(self.device)).cpu().double().numpy()
