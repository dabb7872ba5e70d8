"""The training forward pass: uint8 images → float32 logits, in the fastest precision."""

from collections.abc import Sequence

import torch
from torch import Tensor

from vitpe.config import TrainConfig
from vitpe.device import computes_bfloat16
from vitpe.model.inputs import PixelClassifier
from vitpe.model.vit import VisionTransformer


class TrainForward(PixelClassifier):
    """In training: precision "bf16" runs the model on bfloat16 copies of the weights, made once a step, so that all
    that lies between its layers is bfloat16 too; the weights themselves, their gradients and the optimizer's state stay
    float32. Autocast would cast at every product, and leave the tokens that go from block to block in float32: a
    fifth more memory traffic.
    """

    def __init__(self, model: VisionTransformer, mean: Sequence[float], std: Sequence[float], precision: str) -> None:
        super().__init__(model, mean, std)
        self.precision = precision

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """As PixelClassifier's."""
        if self.precision == "fp32":
            return super().forward(images, keep)
        # An angle is many times its frequency and needs more digits.
        weights = {
            name: value if name == "rope.freqs" else value.bfloat16() for name, value in self.model.named_parameters()
        }
        logits: Tensor = torch.func.functional_call(self.model, weights, (images, keep, self._normalize_to_bfloat16))
        return logits.float()

    def _normalize_to_bfloat16(self, patches: Tensor) -> Tensor:
        values: Tensor = self.normalize(patches)
        return values.bfloat16()


def choose_precision(config: TrainConfig, device: torch.device) -> str:
    """ "bf16" on devices that compute with it (on CPUs with AMX a training step then takes 0.4 of its time in float32,
    with AVX-512 0.57), else "fp32".
    """
    if config.precision != "auto":
        return config.precision
    return "bf16" if computes_bfloat16(device) else "fp32"
