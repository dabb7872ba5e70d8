"""Where a ViT's logits come from, by its attention and the gradients of that.

Legend for shapes: B images, C channels, H W pixels, h heads, T tokens, N patches, A attributes, K of them.
"""

import copy
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

from vitpe.model.inputs import PixelClassifier
from vitpe.model.vit import Attention, VisionTransformer


class AttentionRelevance:
    """uint8 images → how much each patch adds to a logit. Safe for threads; it holds a copy of the model."""

    def __init__(self, model: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
        self._model = copy.deepcopy(model).eval().requires_grad_(False)
        self._classifier = PixelClassifier(self._model, mean, std)
        self._recorded = threading.local()
        for module in self._model.modules():
            if isinstance(module, Attention):
                module.attend = self._attend

    def __call__(self, images: Tensor, columns: Sequence[int], signs: Tensor) -> Tensor:
        """Images (B, C, H, W), the numbers of K attributes, and signs (B, K) → (B, K, N), at least 0.

        The sign is 1 where the logit is to be explained, and -1 where its negative is: what speaks for "absent".
        The rule for self-attention of arXiv:2103.15679 (equations 5 and 6), after arXiv:2012.09838: with a block's
        weights W (h, T, T) and the gradient G of the logit with respect to them, R ← R + mean over heads of
        (G ⊙ W)⁺ · R, from R = 1. Given is R's row of what the head reads, the class token or the mean of all patches.
        That row alone is followed, from the last block to the first.
        """
        with torch.enable_grad():
            weights = self._recorded.weights = []
            logits = self._classifier(images)
            maps = []
            for number, column in enumerate(columns):
                gradients = torch.autograd.grad(logits[:, column].sum(), weights, retain_graph=True)
                sign = signs[:, number, None, None, None]
                steps = [
                    (sign * gradient * weight.detach()).clamp(min=0).mean(dim=1)
                    for gradient, weight in zip(gradients, weights, strict=True)
                ]
                maps.append(self._follow(steps))
        return torch.stack(maps, dim=1)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
        if not weights.requires_grad:  # the first block's, below which nothing has gradients
            weights.requires_grad_()
        self._recorded.weights.append(weights)
        return weights @ v

    def _follow(self, steps: Sequence[Tensor]) -> Tensor:
        """From each block's (B, T, T), of the last maybe the class token's (B, 1, T), to (B, N)."""
        num_images, _, num_tokens = steps[0].shape
        read = steps[0].new_zeros(num_images, 1, num_tokens)
        if self._model.config.global_pool == "token":
            read[..., 0] = 1
        else:
            read[..., 1:] = 1 / (num_tokens - 1)
        row = read
        for step in reversed(steps):
            row = row + row[..., : step.shape[1]] @ step
        return (row - read)[:, 0, 1:]
