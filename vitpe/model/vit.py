"""VisionTransformer: images (B, C, H, W) → patches (B, N, C·P·P) → tokens (B, 1+N, D) → logits (B, A).

The pre-norm Vision Transformer of arXiv:2010.11929 on rectangular grids. State-dict keys are timm's; a stem,
attribute queries and rotary embeddings have their own.
Legend for shapes: B batch, C channels, H W pixels, P patch side, N = rows · columns patches, K kept ones, D width,
T tokens, A attributes.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu, linear, pad, scaled_dot_product_attention

from vitpe.config import LAYER_NORM_EPS, ModelConfig
from vitpe.model.pooling import QueryPool
from vitpe.model.rope import RotaryEmbedding, Rotation, rotate
from vitpe.model.stem import ConvStem
from vitpe.model.take import take_patches


class PatchEmbed(nn.Module):
    """A linear map of each P × P patch: (B, K, C·P·P) → (B, K, D) (arXiv:2010.11929, equation 1).

    The weight has the name and the shape of the equivalent strided convolution, (D, C, P, P), so that state dicts are
    timm's; the product itself is one matrix multiplication, which is faster on CPUs than the convolution.
    """

    def __init__(self, in_chans: int, patch_size: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, stride=patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        return linear(patches, self.proj.weight.flatten(1), self.proj.bias)


class Attention(nn.Module):
    """Multi-head self-attention (arXiv:1706.03762, section 3.2), fused."""

    def __init__(self, embed_dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(embed_dim, 3 * embed_dim)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.attend: Callable[[Tensor, Tensor, Tensor], Tensor] = attend
        """Replaced where the weights themselves are asked for: vitpe.model.relevance."""

    def forward(self, tokens: Tensor, rotation: Rotation | None = None, first_only: bool = False) -> Tensor:
        """(B, T, D) → (B, T, D); with `first_only` the first token's output alone, (B, 1, D), at its lower cost.

        rotation: turns queries and keys by where their patches are; the first token stands still.
        """
        b, t, d = tokens.shape
        if first_only:
            weight, bias = self.qkv.weight, self.qkv.bias
            q, k, v = (
                linear(x, weight[i : i + d], bias[i : i + d]).view(b, -1, 1, self.num_heads, d // self.num_heads)
                for x, i in ((tokens[:, :1], 0), (tokens, d), (tokens, 2 * d))
            )
            k = k if rotation is None else rotate(k, rotation)
        else:
            qkv = self.qkv(tokens).view(b, t, 3, self.num_heads, d // self.num_heads)
            qk, v = qkv[:, :, :2], qkv[:, :, 2:]
            q, k = (qk if rotation is None else rotate(qk, rotation)).split(1, dim=2)
        q, k, v = (part.squeeze(2).transpose(1, 2) for part in (q, k, v))
        out: Tensor = self.proj(self.attend(q, k, v).transpose(1, 2).reshape(b, -1, d))
        return out


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / √d) v over (B, heads, T, d).

    torch's fused kernel, but for bfloat16 on CPUs: there its backward pass takes four times as long as the plain
    products, which run on the matrix units.
    """
    if attends_by_products(q.device.type, q.dtype):
        return attend_by_products(q, k, v)
    return scaled_dot_product_attention(q, k, v)


def attends_by_products(device_type: str, dtype: torch.dtype) -> bool:
    """Where torch's fused kernel is not the fastest."""
    return device_type == "cpu" and dtype == torch.bfloat16


def attend_by_products(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """As `attend`."""
    weights: Tensor = (q * q.shape[-1] ** -0.5 @ k.transpose(-1, -2)).softmax(dim=-1)
    return weights @ v


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
    """Stochastic depth (arXiv:1603.09382): in training a sample's whole residual branch is left out at rate `rate`.

    draws: (B,) uniform in [0, 1), by which samples are left out; None for torch's own generator.
    """

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.draws: Tensor | None = None

    def forward(self, branch: Tensor) -> Tensor:
        if not self.training or self.rate == 0:
            return branch
        keep = 1 - self.rate
        draws = torch.rand(branch.shape[0], device=branch.device) if self.draws is None else self.draws
        return branch * ((draws < keep) / keep).to(branch.dtype)[:, None, None]


class Block(nn.Module):
    """x + Attention(LayerNorm(x)), then x + Mlp(LayerNorm(x)): arXiv:2010.11929, equations 2 and 3."""

    def __init__(self, embed_dim: int, num_heads: int, mlp_ratio: float, drop_path_rate: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.attn = Attention(embed_dim, num_heads)
        self.norm2 = nn.LayerNorm(embed_dim, eps=LAYER_NORM_EPS)
        self.mlp = Mlp(embed_dim, round(embed_dim * mlp_ratio))
        self.drop_path1 = DropPath(drop_path_rate)
        self.drop_path2 = DropPath(drop_path_rate)

    def forward(self, tokens: Tensor, rotation: Rotation | None = None, first_only: bool = False) -> Tensor:
        """(B, T, D) → (B, T, D); with `first_only` the first token alone, (B, 1, D). rotation: see Attention."""
        return self.transform(self.mix(tokens, rotation, first_only))

    def mix(self, tokens: Tensor, rotation: Rotation | None = None, first_only: bool = False) -> Tensor:
        """The first half, attention, of the shapes of `forward`."""
        attended = self.attn(self.norm1(tokens), rotation, first_only)
        out: Tensor = (tokens[:, :1] if first_only else tokens) + self.drop_path1(attended)
        return out

    def transform(self, tokens: Tensor) -> Tensor:
        """The second half, the MLP: each token for itself."""
        out: Tensor = tokens + self.drop_path2(self.mlp(self.norm2(tokens)))
        return out


class VisionTransformer(nn.Module):
    """Pre-norm ViT with a linear head on the class token, or on the mean of the patch tokens; with config.global_pool
    "queries" attributes also look at all tokens for themselves.

    Token 0 is the class token, token 1 + n is patch n at row n // columns, column n % columns. `pos_embed`
    (1, 1+N, D) starts at zero, so that whatever it shows later was learned; with config.pos_embed "sincos" it is the
    fixed sine-cosine embedding, with "none" it stays zero. With "factorized" there are `pos_embed_y` (1, rows, D) and
    `pos_embed_x` (1, columns, D), also zero at first, in its place, as in timm's NaFlexViT; the class token, which is
    learned itself, then has no embedding beside. The head starts at zero: the first logits are 0 and the first loss is
    ln 2.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        dim = config.embed_dim
        self.patch_embed = PatchEmbed(config.in_chans, config.patch_size, dim)
        self.stem = ConvStem(config) if config.stem_width else None
        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        if config.pos_embed == "factorized":
            rows, columns = config.grid_size
            self.pos_embed_y = nn.Parameter(torch.zeros(1, rows, dim))
            self.pos_embed_x = nn.Parameter(torch.zeros(1, columns, dim))
        else:
            table = torch.zeros(1, 1 + config.num_patches, dim)
            if config.pos_embed == "sincos":
                table[0, 1:] = sincos_embedding(config.grid_size, dim)
            self.pos_embed = nn.Parameter(table, requires_grad=config.pos_embed == "learned")
        rates = torch.linspace(0, config.drop_path_rate, config.depth, device="cpu").tolist()
        self.blocks = nn.ModuleList(Block(dim, config.num_heads, config.mlp_ratio, rate) for rate in rates)
        norm = nn.LayerNorm(dim, eps=LAYER_NORM_EPS)
        # As in timm: with mean pooling the norm comes after the pooling and is called fc_norm.
        self.norm = nn.Identity() if config.global_pool == "avg" else norm
        self.fc_norm = norm if config.global_pool == "avg" else nn.Identity()
        self.head = nn.Linear(dim, config.num_classes)
        self._initialize()
        self.query_pool = QueryPool(config) if config.global_pool == "queries" else None
        self.rope = None if config.rope == "none" else RotaryEmbedding(config)

    def _initialize(self) -> None:
        """Truncated normals of 0.02 for weights (arXiv:2010.11929's code and timm), zero biases, zero head."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.cls_token, std=1e-6)
        nn.init.zeros_(self.head.weight)

    def set_depth_draws(self, draws: Tensor | None) -> None:
        """(B, 2 · depth), a column for each residual branch, by which stochastic depth goes from now on; None: draw."""
        branches = (module for module in self.modules() if isinstance(module, DropPath))
        for number, branch in enumerate(branches):
            branch.draws = None if draws is None else draws[:, number]

    def forward(
        self, images: Tensor, keep: Tensor | None = None, normalize: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Images (B, C, H, W) → logits (B, A). keep and normalize: see `embed`."""
        return self.classify(self.embed(images, keep, normalize), keep)

    def patchify(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → patches (B, N, C·P·P) of the same type, in reading order."""
        if images.shape[-2:] != self.config.img_size:
            raise ValueError(
                f"images (B, C, H, W) of {tuple(images.shape)} where (H, W) should be {self.config.img_size}"
            )
        b, c, _, _ = images.shape
        (rows, columns), p = self.config.grid_size, self.config.patch_size
        patches = images.reshape(b, c, rows, p, columns, p).permute(0, 2, 4, 1, 3, 5)
        return patches.reshape(b, rows * columns, c * p * p)

    def embed(
        self, images: Tensor, keep: Tensor | None = None, normalize: Callable[[Tensor], Tensor] | None = None
    ) -> Tensor:
        """Images (B, C, H, W) → tokens (B, 1+N, D).

        keep: patch dropout (arXiv:2208.07220): numbers (B, K) of the patches that get tokens, (B, 1+K, D). Of others
        nothing is computed, but by a stem, whose filters look at all.
        normalize: pixels of patches (B, K, C·P·P) → values to project, of the same shape; None where they are.
        """
        normalize = normalize or _unchanged
        patches = self.patchify(images)
        tokens = self.patch_embed(normalize(take_patches(patches, keep)))
        tokens = tokens + take_patches(self.position_table()[0, 1:], keep)
        if self.stem is not None:
            tokens = tokens + take_patches(self.stem(normalize(patches)), keep)
        return self.add_cls_token(tokens)

    def position_table(self) -> Tensor:
        """(1, 1+N, D): what is added to each token, the class token's first."""
        if self.config.pos_embed != "factorized":
            return self.pos_embed
        return position_table(self.pos_embed_y, self.pos_embed_x)

    def add_cls_token(self, tokens: Tensor) -> Tensor:
        """Tokens of patches (B, K, D) → (B, 1+K, D), the class token first."""
        cls_token = (self.cls_token + self.position_table()[:, :1]).to(tokens.dtype)
        return torch.cat([cls_token.expand(tokens.shape[0], -1, -1), tokens], dim=1)

    def classify(self, tokens: Tensor, keep: Tensor | None = None) -> Tensor:
        """Tokens (B, T, D) → logits (B, A). keep: numbers (B, K) of their patches, None for all."""
        pooled, mixed = self._encode(tokens, keep)
        logits: Tensor = self.head(pooled)
        return logits if self.query_pool is None else logits + self.query_pool(mixed)

    def rotations(self, tokens: Tensor, keep: Tensor | None = None) -> Sequence[Rotation | None]:
        """How each block turns the tokens (B, T, D) of these patches (B, K), None for all; None without RoPE."""
        return [None] * len(self.blocks) if self.rope is None else self.rope(tokens, keep)

    def _encode(self, tokens: Tensor, keep: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Tokens (B, T, D) → what the head reads, (B, D), and what attribute queries read: the tokens between the two
        halves of the last block.

        The last block computes what is read and no more. Queries that read its end learn as much, for more time.
        """
        pool, last = self.config.global_pool, self.blocks[-1]
        assert isinstance(last, Block)
        rotations = self.rotations(tokens, keep)
        for block, rotation in zip(self.blocks[:-1], rotations, strict=False):
            tokens = block(tokens, rotation)
        mixed = last.mix(tokens, rotations[-1], first_only=pool == "token")
        tokens = self.norm(last.transform(mixed if pool == "avg" else mixed[:, :1]))
        pooled = tokens[:, 1:].mean(dim=1) if pool == "avg" else tokens[:, 0]
        return self.fc_norm(pooled), mixed

    def head_weights(self) -> list[Tensor]:
        """Each attribute has a row in each of these, (A, D): its logit is the rows · what they read + bias."""
        return [self.head.weight, *([] if self.query_pool is None else [self.query_pool.head_weight])]

    def head_inputs(self, tokens: Tensor, attributes: Sequence[int], keep: Tensor | None = None) -> Tensor:
        """Tokens (B, T, D) → (B, len(attributes), F): what the rows of these attributes read, those of the F / D
        `head_weights` one after the other. keep: see `classify`.
        """
        pooled, mixed = self._encode(tokens, keep)
        inputs = pooled[:, None].expand(-1, len(attributes), -1)
        if self.query_pool is None:
            return inputs
        return torch.cat([inputs, self.query_pool.found(mixed)[:, list(attributes)]], dim=2)

    def attribute_attention(self, images: Tensor, normalize: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Images (B, C, H, W) → (B, A, N): the share of each attribute's look that goes to each patch, the mean of the
        heads. They sum to 1 with the class token's share. normalize: see `embed`. ValueError without attribute queries.
        """
        if self.query_pool is None:
            raise ValueError(f"global_pool is {self.config.global_pool!r}, which has no attribute queries")
        _, mixed = self._encode(self.embed(images, normalize=normalize))
        return self.query_pool.attention(mixed).mean(dim=1)[..., 1:]

    def forward_features(self, images: Tensor) -> Tensor:
        """(B, C, H, W) → tokens (B, 1+N, D) after the last block and the final norm, as timm's."""
        tokens = self.embed(images)
        for block, rotation in zip(self.blocks, self.rotations(tokens), strict=True):
            tokens = block(tokens, rotation)
        out: Tensor = self.norm(tokens)
        return out


def sincos_embedding(grid_size: tuple[int, int], embed_dim: int) -> Tensor:
    """(N, D): the first half of D encodes the row, the second the column, each by sines then cosines.

    Frequencies fall geometrically from 1 to 1/10000 (arXiv:1706.03762, section 3.5, in two dimensions as in
    arXiv:2111.06377). `embed_dim` must be a multiple of 4.
    """
    quarter = embed_dim // 4
    frequencies = torch.exp(-math.log(10_000) * torch.arange(quarter, dtype=torch.float64) / quarter)
    rows, columns = torch.meshgrid(
        torch.arange(grid_size[0], dtype=torch.float64), torch.arange(grid_size[1], dtype=torch.float64), indexing="ij"
    )
    angles = [position.flatten()[:, None] * frequencies for position in (rows, columns)]
    return torch.cat([part for angle in angles for part in (angle.sin(), angle.cos())], dim=1).float()


def position_table(y: Tensor, x: Tensor) -> Tensor:
    """Rows (1, rows, D) and columns (1, columns, D) → their sums (1, 1+N, D) after a zero row for the class token."""
    return pad((y[:, :, None] + x[:, None]).flatten(1, 2), (0, 0, 1, 0))


def num_parameters(model: nn.Module) -> int:
    """How many numbers the model holds, position embeddings included."""
    return sum(parameter.numel() for parameter in model.parameters())


def _unchanged(patches: Tensor) -> Tensor:
    return patches
