"""Where a ViT's logits come from, by its attention and the gradients of that.

Legend for shapes: B images, C channels, H W pixels, h heads, T tokens, N patches, A attributes, K of them.
"""

import copy
import threading
from collections.abc import Sequence

import torch
from torch import Tensor, nn

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
        if self._model.query_pool is not None:
            self._model.query_pool.softmax.register_forward_hook(self._record_looks)

    def __call__(self, images: Tensor, columns: Sequence[int], signs: Tensor) -> Tensor:
        """Images (B, C, H, W), the numbers of K attributes, and signs (B, K) → (B, K, N), at least 0.

        The sign is 1 where the logit is to be explained, and -1 where its negative is: what speaks for "absent".
        The rule for self-attention of arXiv:2103.15679 (equations 5 and 6), after arXiv:2012.09838: with a block's
        weights W (h, T, T) and the gradient G of the logit with respect to them, R ← R + mean over heads of
        (G ⊙ W)⁺ · R, from R = 1. Given is R's row of what the head reads, the class token or the mean of all patches;
        of an attribute's query the class token and, by the rule for attention to others (equation 11), its own look's
        mean over heads of (G ⊙ W)⁺. That row alone is followed, from the last block to the first.
        """
        with torch.enable_grad():
            weights: list[Tensor] = []
            self._recorded.weights, self._recorded.looks = weights, []
            logits = self._classifier(images)
            looks: list[Tensor] = self._recorded.looks
            maps = []
            for number, column in enumerate(columns):
                gradients = torch.autograd.grad(logits[:, column].sum(), weights + looks, retain_graph=True)
                parts = [
                    (signs[:, number].view(-1, *(1,) * (weight.ndim - 1)) * gradient * weight.detach()).clamp(min=0)
                    for gradient, weight in zip(gradients, weights + looks, strict=True)
                ]
                read = pooled = self._pooled(parts[0])
                for part in parts[len(weights) :]:
                    read = read + part[..., column :: logits.shape[1]].mean(dim=2)[:, None]  # head by head
                maps.append(_follow(read, [part.mean(dim=1) for part in parts[: len(weights)]]) - pooled)
        return torch.cat(maps, dim=1)[..., 1:]

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
        if not weights.requires_grad:  # the first block's, below which nothing has gradients
            weights.requires_grad_()
        self._recorded.weights.append(weights)
        return weights @ v

    def _record_looks(self, module: nn.Module, inputs: object, looks: Tensor) -> None:
        """Of attribute queries, (B, T, h·A)."""
        self._recorded.looks.append(looks)

    def _pooled(self, weights: Tensor) -> Tensor:
        """What the head reads, (B, 1, T), of tokens with attention weights (B, h, …, T)."""
        num_images, num_tokens = weights.shape[0], weights.shape[-1]
        pooled = weights.new_zeros(num_images, 1, num_tokens)
        if self._model.config.global_pool == "avg":
            pooled[..., 1:] = 1 / (num_tokens - 1)
        else:
            pooled[..., 0] = 1
        return pooled


def _follow(read: Tensor, steps: Sequence[Tensor]) -> Tensor:
    """From what is read after the last block, (B, 1, T), to what that is of each token before the first, (B, 1, T).

    steps: each block's (B, T, T), of the last maybe the class token's (B, 1, T).
    """
    for step in reversed(steps):
        read = read + read[..., : step.shape[1]] @ step
    return read
