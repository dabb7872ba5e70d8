"""The model in torch, on any device."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from vitpe.config import Precision
from vitpe.data.images import Pixels, use_torchvision
from vitpe.inference.engines import Answer
from vitpe.model.inputs import (
    FoldedClassifier,
    PixelClassifier,
    classify,
    classify_kept,
    predicting_classifier,
    stack_images,
)
from vitpe.model.occlusion import KeptLogits
from vitpe.model.relevance import AttentionRelevance
from vitpe.runs.checkpoint import build_model
from vitpe.runs.metadata import CheckpointInfo

_MAX_BATCH: Final = 8  # a CPU core gains nothing from more, and loses what its caches hold
_MAX_BATCH_GPU: Final = 64


class TorchEngine:
    """An Engine. From here on torch works with one thread an operation, in this and all later threads: on a CPU each
    of several workers runs it. Of a GPU's, each that did would take 32 MiB there for cuBLAS.
    """

    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        info: CheckpointInfo,
        device: torch.device,
        precision: Precision = "fp32",
    ) -> None:
        """weights, info: as from `load_arrays`. Raises UsageError for a device without that precision."""
        torch.set_num_threads(1)
        use_torchvision()
        self.device = device
        model = build_model(info, {name: torch.from_numpy(array) for name, array in weights.items()})
        self._model, self._info = model.to(device), info
        self.classifier = predicting_classifier(model, info.mean, info.std, device, precision)

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
        return self.start(images)()

    def start(self, images: Sequence[Pixels]) -> Answer:
        """A GPU computes on while the caller does something else: of both copies neither waits for anything."""
        on_gpu = self.device.type == "cuda"
        pixels = stack_images(images, pinned=on_gpu).to(self.device, non_blocking=on_gpu)
        logits = classify(self.classifier, pixels)
        if not on_gpu:
            found = logits.cpu().double().numpy()
            return lambda: found
        copy = torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True).copy_(logits, non_blocking=True)
        copied = torch.cuda.current_stream(self.device).record_event()

        def answer() -> NDArray[np.float64]:
            copied.synchronize()
            return copy.double().numpy()

        return answer

    def kept_logits(self, image: Pixels) -> KeptLogits:
        """Of one image, in batches."""
        return kept_logits(self.classifier, stack_images([image]).to(self.device), 8 * self.max_batch)

    def relevance(
        self, images: Sequence[Pixels], columns: Sequence[int], signs: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        """signs (B, K) → (B, K, N): see AttentionRelevance."""
        found = self._relevance(
            stack_images(images).to(self.device), columns, torch.from_numpy(signs).float().to(self.device)
        )
        return found.cpu().double().numpy()

    def attention(self, images: Sequence[Pixels], columns: Sequence[int]) -> NDArray[np.float64]:
        """(B, K, N): the share of each attribute's look that a patch gets; ValueError without attribute queries."""
        classifier = PixelClassifier(self._model, self._info.mean, self._info.std)
        with torch.inference_mode():
            found = classifier.attribute_attention(stack_images(images).to(self.device))[:, list(columns)]
        return found.cpu().double().numpy()

    @cached_property
    def _relevance(self) -> AttentionRelevance:
        return AttentionRelevance(self._model, self._info.mean, self._info.std)


def kept_logits(classifier: PixelClassifier | FoldedClassifier, image: torch.Tensor, size: int) -> KeptLogits:
    """Of one image (1, 3, H, W) on the classifier's device, `size` sets of patches at once."""

    def logits(keep: NDArray[np.intp]) -> NDArray[np.float64]:
        numbers = torch.from_numpy(keep).to(image.device)
        parts = [numbers[start : start + size] for start in range(0, len(numbers), size)]
        return torch.cat([classify_kept(classifier, image, part) for part in parts]).cpu().double().numpy()

    return logits
