"""Logits and labels → one number to make small, the mean over images and attributes."""

from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from vitpe.config import TrainConfig

MAX_POS_WEIGHT: Final = 20.0
"""Attributes of less than one image in 21 count as if they were of so many: else few labels, some of them wrong, would
outweigh all others."""
FOCAL_GAMMA: Final = 2.0  # the best of arXiv:1708.02002, table 1b
POSITIVE_GAMMA: Final = 1.0  # these as in timm; arXiv:2009.14119, sections 2.2 to 2.4, says what they do
NEGATIVE_GAMMA: Final = 4.0
NEGATIVE_MARGIN: Final = 0.05
_SMALLEST: Final = 1e-8


@dataclass(frozen=True)
class Loss:
    """kind: TrainConfig.loss. smoothing: share by which labels are drawn towards 1/2. pos_weight: (A,) by which the
    losses of labels 1 are multiplied, None for 1.
    """

    kind: str = "bce"
    smoothing: float = 0.0
    pos_weight: Tensor | None = None

    @staticmethod
    def of(config: TrainConfig, positive_share: NDArray[np.float64], device: torch.device) -> "Loss":
        """positive_share: (A,) of the training images that have each attribute, in [0, 1]."""
        weights = None
        if config.pos_weight == "auto":
            weights = torch.tensor(positive_weights(positive_share), dtype=torch.float32, device=device)
        return Loss(config.loss, config.label_smoothing, weights)

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Logits (B, A), labels (B, A) of 0 and 1 → the mean loss, ()."""
        targets = labels.float()
        if self.smoothing:
            targets = targets * (1 - self.smoothing) + self.smoothing / 2
        if self.kind == "bce":
            return binary_cross_entropy_with_logits(logits, targets, pos_weight=self.pos_weight)
        return self._focused(logits.float(), targets).mean()

    def _focused(self, logits: Tensor, targets: Tensor) -> Tensor:
        """(B, A) cross-entropies, each times (1 - p)^γ, p the probability that the model gives to the label: what is
        answered well already counts less (arXiv:1708.02002, equation 4).

        "asymmetric": γ is NEGATIVE_GAMMA for labels 0 and POSITIVE_GAMMA for labels 1, and probabilities of labels 0
        are raised by NEGATIVE_MARGIN first, so that easy ones count nothing (arXiv:2009.14119, equation 7).
        """
        p, log_p = logits.sigmoid(), logsigmoid(logits)
        gamma: Tensor | float
        if self.kind == "asymmetric":
            negative = (1 - p + NEGATIVE_MARGIN).clamp(max=1)
            log_negative = negative.clamp(min=_SMALLEST).log()
            gamma = NEGATIVE_GAMMA + (POSITIVE_GAMMA - NEGATIVE_GAMMA) * targets
        else:
            negative, log_negative = 1 - p, logsigmoid(-logits)
            gamma = FOCAL_GAMMA
        positives = targets if self.pos_weight is None else targets * self.pos_weight
        entropy = -(positives * log_p + (1 - targets) * log_negative)
        wrong = (1 - (targets * p + (1 - targets) * negative)).clamp(min=0)
        return entropy * wrong.pow(gamma)


def positive_weights(positive_share: NDArray[np.float64]) -> NDArray[np.float64]:
    """(A,) labels 0 for each label 1, from 1 / MAX_POS_WEIGHT to MAX_POS_WEIGHT: so both count as much in all."""
    with np.errstate(divide="ignore"):
        ratio = (1 - positive_share) / positive_share
    return np.clip(ratio, 1 / MAX_POS_WEIGHT, MAX_POS_WEIGHT)
