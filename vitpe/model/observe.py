"""A ViT watched at work: the tokens before its blocks and after each, and the weights of its attention."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from vitpe.model.vit import VisionTransformer

OnLayer = Callable[[int, Tensor, Tensor | None], None]
"""Called with a layer's number, the patches' tokens (B, N, D) there, and the attention (B, h, N, N) between patches
that they come from: each row sums to 1, what goes to the class token left out. Layer 0, before the first block, has
none.
"""


class Observer:
    """Runs a model that is its own from now on, and tells of each layer."""

    def __init__(self, model: VisionTransformer, mean: Sequence[float], std: Sequence[float]) -> None:
        """mean, std: of the pixels / 255, per channel."""
        self.model = model
        self._mean, self._std = (model.cls_token.new_tensor(values).view(1, -1, 1, 1) for values in (mean, std))
        self._weights: list[Tensor] = []
        self._on_layer: OnLayer | None = None
        model.blocks[0].register_forward_pre_hook(self._before)
        for number, block in enumerate(model.blocks, 1):
            block.attn.attend = self._attend  # type: ignore[union-attr]
            block.register_forward_hook(self._after(number))

    def watch(self, images: Tensor, on_layer: OnLayer) -> None:
        """uint8 images (B, C, H, W) through all blocks."""
        self._on_layer = on_layer
        with torch.inference_mode():
            self.model.forward_features((images.to(self._mean.dtype) / 255 - self._mean) / self._std)

    def attention_of(self, patches: Tensor) -> Tensor:
        """The first block's attention (h, N, N) between patches whose tokens before it are (N, D)."""
        self._on_layer = None
        with torch.inference_mode():
            tokens = self.model.add_cls_token(patches[None])
            self.model.blocks[0](tokens, self.model.rotations(tokens)[0])
        weights: Tensor = _between_patches(self._weights.pop())
        return weights.squeeze(0)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        weights: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
        self._weights.append(weights)
        return weights @ v

    def _before(self, block: object, inputs: tuple[Tensor, ...]) -> None:
        if self._on_layer is not None:
            self._on_layer(0, inputs[0][:, 1:], None)

    def _after(self, number: int) -> Callable[[object, object, Tensor], None]:
        def hook(block: object, inputs: object, tokens: Tensor) -> None:
            if self._on_layer is not None:
                self._on_layer(number, tokens[:, 1:], _between_patches(self._weights.pop()))

        return hook


def _between_patches(weights: Tensor) -> Tensor:
    """(B, h, 1+N, 1+N) → (B, h, N, N), each row scaled to the sum 1."""
    patches: Tensor = weights[..., 1:, 1:]
    scaled: Tensor = patches / patches.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(patches.dtype).tiny)
    return scaled
