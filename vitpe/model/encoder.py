"""Tokens → tokens: pre-norm blocks of attention and MLP, (B, T, D) throughout."""

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, scaled_dot_product_attention

LAYER_NORM_EPS = 1e-6  # of the original ViT (arXiv:2010.11929) and of timm


class Attention(nn.Module):
    """Multi-head self-attention (arXiv:1706.03762, section 3.2), fused."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)

    def forward(self, tokens: Tensor, first_only: bool = False) -> Tensor:
        """(B, T, D) → (B, T, D); with `first_only` just the first token's output, (B, 1, D), at its lower cost."""
        b, t, d = tokens.shape
        if first_only:
            weight, bias = self.qkv.weight, self.qkv.bias
            q = self._heads(linear(tokens[:, :1], weight[:d], bias[:d]))
            k, v = (self._heads(linear(tokens, weight[i : i + d], bias[i : i + d])) for i in (d, 2 * d))
        else:
            qkv = self.qkv(tokens).view(b, t, 3, self.num_heads, d // self.num_heads)
            q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = mix(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(b, -1, d))
        return out

    def _heads(self, features: Tensor) -> Tensor:
        b, t, d = features.shape
        return features.view(b, t, self.num_heads, d // self.num_heads).transpose(1, 2)


def mix(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v over (B, heads, T, d).

    torch's fused kernel, but for bfloat16 on CPUs: there its backward pass takes four times as long as the plain
    products, which run on the matrix units.
    """
    if q.device.type == "cpu" and q.dtype == torch.bfloat16:
        shares: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
        return shares @ v
    return scaled_dot_product_attention(q, k, v)


class Mlp(nn.Module):
    """Linear, GELU, linear."""

    def __init__(self, embed_dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(embed_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, embed_dim)

    def forward(self, tokens: Tensor) -> Tensor:
        out: Tensor = self.fc2(gelu(self.fc1(tokens)))
        return out


class DropPath(nn.Module):
    """Stochastic depth (arXiv:1603.09382): in training a sample's whole residual branch is left out at rate `rate`."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        mask = torch.rand(branch.shape[0], 1, 1, device=branch.device) < keep
        return branch * (mask / keep).to(branch.dtype)


class Block(nn.Module):
    """x + Attention(LayerNorm(x)), then x + Mlp(LayerNorm(x)): arXiv:2010.11929, equations 2 and 3."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(embed_dim, round(embed_dim * mlp_ratio))
        self.drop_path = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, first_only: bool = False) -> Tensor:
        """(B, T, D) → (B, T, D); with `first_only` just the first token, (B, 1, D)."""
        mixed = self.attn(self.norm1(tokens), first_only)
        tokens = (tokens[:, :1] if first_only else tokens) + self.drop_path(mixed)
        out: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return out
