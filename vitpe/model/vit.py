"""VisionTransformer: images (B, C, H, W) → logits (B, A). The state dict has timm's keys, and a stem its own."""

import torch
from torch import Tensor, nn

from vitpe.config import ModelConfig
from vitpe.model.encoder import LAYER_NORM_EPS, Block
from vitpe.model.patch_embedding import PatchEmbedding


class VisionTransformer(PatchEmbedding):
    """The pre-norm Vision Transformer of arXiv:2010.11929 with a linear head.

    It extends PatchEmbedding rather than holding one, so that `pos_embed` and `cls_token` stand at the top of the
    state dict, where timm has them. The head starts at zero: the first logits are 0 and the first loss is ln 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(
            config.img_size,
            config.patch_size,
            config.in_chans,
            config.embed_dim,
            sincos=config.pos_embed == "sincos",
            stem_width=config.stem_width,
        )
        self.config = config
        rates = torch.linspace(0, config.drop_path_rate, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(config.embed_dim, config.num_heads, config.mlp_ratio, rate) for rate in rates)
        norm = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPS)
        # As in timm: with mean pooling the norm comes after the pooling and is called fc_norm.
        self.norm = norm if config.global_pool == "token" else nn.Identity()
        self.fc_norm = norm if config.global_pool == "avg" else nn.Identity()
        self.head = nn.Linear(config.embed_dim, config.num_classes)
        self._initialize()

    def _initialize(self) -> None:
        """Truncated normals of 0.02 for weights (arXiv:2010.11929's code and timm), zero biases, zero head."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.zeros_(self.head.weight)

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → tokens (B, 1+N, D) after the last block and the final norm."""
        tokens = super().forward(images)
        for block in self.blocks:
            tokens = block(tokens)
        out: Tensor = self.norm(tokens)
        return out

    def forward(self, images: Tensor, keep: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W), or the patches `needed` for those of the numbers `keep` (B, K) → logits (B, A).

        Where the head reads the class token alone, the last block computes that alone: the same logits for less.
        """
        tokens = self.embed(images if images.ndim == 3 else self.patchify(images), keep)
        by_token = self.config.global_pool == "token"
        for block in self.blocks[:-1]:
            tokens = block(tokens)
        tokens = self.norm(self.blocks[-1](tokens, first_only=by_token))
        pooled = tokens[:, 0] if by_token else tokens[:, 1:].mean(dim=1)
        logits: Tensor = self.head(self.fc_norm(pooled))
        return logits


def num_parameters(model: nn.Module) -> int:
    """How many numbers the model holds, position embeddings included."""
    return sum(parameter.numel() for parameter in model.parameters())
