"""Attribute queries: each attribute looks at all tokens for itself."""

from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm, linear

from vitpe.config import LAYER_NORM_EPS, ModelConfig

QUERY_TENSORS: Final = ("queries", "head_weight")
"""Those that hold one row an attribute, as the head does."""


class QueryPool(nn.Module):
    """Tokens (B, T, D) → logits (B, A), to be added to the class token's.

    One learned query an attribute attends to all tokens, by as many heads as in the blocks, and its own row of weights
    reads what it finds: logit a is w_a · Σ_t softmax_t(q_a · K x_t / √(D/h)) V x_t, head by head (queries of classes as
    in arXiv:2107.10834 and arXiv:2111.12933, of one layer and without an MLP). The x_t are the tokens, each normalised
    to mean 0 and variance 1. The rows start at zero, so that the first logits are those of the class token.

    Queries and rows do not depend on the image, so that both maps are folded into them: q_a · K x = (Kᵀ q_a) · x. A
    token then meets 2 · h · A numbers of D weights, where keys and values would be 2 · D: 80 instead of 128 in `tiny`.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.queries = nn.Parameter(torch.empty(config.num_classes, config.embed_dim))
        self.key = nn.Linear(config.embed_dim, config.embed_dim, bias=False)
        self.value = nn.Linear(config.embed_dim, config.embed_dim, bias=False)
        self.softmax = nn.Softmax(dim=1)  # a module, so that vitpe.model.relevance can ask for what it gives
        self.head_weight = nn.Parameter(torch.zeros(config.num_classes, config.embed_dim))
        for weight in (self.queries, self.key.weight, self.value.weight):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, tokens: Tensor) -> Tensor:
        scores, values = linear(_normalised(tokens), self._folded()).chunk(2, dim=-1)  # (B, T, h·A)
        logits: Tensor = (self.softmax(scores) * values).sum(dim=1)
        return logits.view(tokens.shape[0], self.num_heads, -1).sum(dim=1)

    def found(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) → (B, A, D): what each attribute's row of `head_weight` reads."""
        values = (
            self.value(_normalised(tokens)).view(*tokens.shape[:2], self.num_heads, -1).transpose(1, 2)
        )  # (B, h, T, D/h)
        found: Tensor = (self.attention(tokens) @ values).transpose(1, 2).flatten(2)
        return found

    def attention(self, tokens: Tensor) -> Tensor:
        """Tokens (B, T, D) → (B, h, A, T): how each head of each attribute shares its look, of sum 1."""
        scores, _ = linear(_normalised(tokens), self._folded()).chunk(2, dim=-1)
        return scores.softmax(dim=1).view(*tokens.shape[:2], self.num_heads, -1).permute(0, 2, 3, 1)

    def _folded(self) -> Tensor:
        """(2 · h · A, D): what gives a token's scores, then what gives its share of the logits; head by head."""
        dim, h = self.queries.shape[1], self.num_heads
        keys, values = (
            rows.view(-1, h, dim // h).transpose(0, 1) @ weight.view(h, dim // h, dim)  # (h, A, D)
            for rows, weight in (
                (self.queries * (dim // h) ** -0.5, self.key.weight),
                (self.head_weight, self.value.weight),
            )
        )
        return torch.cat([keys, values]).flatten(0, 1)


def _normalised(tokens: Tensor) -> Tensor:
    return layer_norm(tokens, tokens.shape[-1:], eps=LAYER_NORM_EPS)
