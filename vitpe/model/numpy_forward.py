"""The forward pass of vit.py and its parts in numpy, for one image: an answer before torch is imported.

It reads beside them, name by name. Legend for shapes: C channels, H W pixels, P patch side, N patches, D width,
T tokens, h heads, A attributes.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from vitpe.config import LAYER_NORM_EPS, ROPE_BASE, STEM_STRIDE, ModelConfig
from vitpe.model.shapes import patch_coordinates, with_position_table

Array = NDArray[np.float32]

# erf(z) = 1 - (c₁ t + … + c₅ t⁵) exp(-z²) with t = 1 / (1 + p z), z ≥ 0, to within 1.5e-7: Abramowitz & Stegun,
# Handbook of Mathematical Functions (1964), formula 7.1.26, after C. Hastings (1955).
_ERF_P: Final = 0.3275911
_ERF_C: Final = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


class NumpyClassifier:
    """uint8 pixels of one image → logits, as PixelClassifier gives them to within 1e-4. Safe for threads."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Array], mean: tuple[float, ...], std: tuple[float, ...]
    ) -> None:
        """weights: by the names of vitpe.model.shapes. mean, std: of the pixels / 255, per channel."""
        self.config = config
        self._weights = with_position_table(weights)
        self._scale = (1 / (255 * np.array(std))).astype(np.float32)
        self._shift = (-np.array(mean) / std).astype(np.float32)
        # Channels last, as pixels lie in memory.
        self._filters = weights["patch_embed.proj.weight"].transpose(0, 2, 3, 1).reshape(config.embed_dim, -1)
        self._rotations = self._rotate_patches() if config.rope != "none" else None
        self._folded = self._fold_queries() if config.global_pool == "queries" else None

    def __call__(self, image: NDArray[np.uint8]) -> Array:
        """(C, H, W) → (A,)"""
        return self.classify(self.embed(image))

    def classify(self, tokens: Array, keep: NDArray[np.intp] | None = None) -> Array:
        """Tokens (T, D), the class token first → logits (A,). keep: numbers (T - 1,) of their patches, None for all."""
        pool, last = self.config.global_pool, self.config.depth - 1
        for number in range(last):
            tokens = self._transform(self._mix(tokens, number, keep), number)
        mixed = self._mix(tokens, last, keep, first_only=pool == "token")
        if pool == "avg":
            pooled = self._norm(self._transform(mixed, last)[1:].mean(axis=0, keepdims=True), "fc_norm")
        else:
            pooled = self._norm(self._transform(mixed[:1], last), "norm")
        logits: Array = self._linear(pooled, "head")[0]
        return logits if self._folded is None else logits + self._pool(mixed, self._folded)

    def _pool(self, tokens: Array, folded: Array) -> Array:
        """QueryPool: (T, D) → (A,)"""
        scores, values = np.split(folded @ _normalised(tokens).T, 2)  # (h · A, T)
        shares: Array = (_softmax(scores) * values).sum(axis=-1)
        logits: Array = shares.reshape(self.config.num_heads, -1).sum(axis=0)
        return logits

    def _fold_queries(self) -> Array:
        """(2 · h · A, D), as QueryPool's."""
        dim, h = self.config.embed_dim, self.config.num_heads
        folded = [
            self._weights[f"query_pool.{rows}"].reshape(-1, h, dim // h).transpose(1, 0, 2)
            @ self._weights[f"query_pool.{linear}.weight"].reshape(h, dim // h, dim)
            for rows, linear in (("queries", "key"), ("head_weight", "value"))
        ]
        folded[0] *= np.float32((dim // h) ** -0.5)
        return np.concatenate(folded).reshape(-1, dim)

    def embed(self, image: NDArray[np.uint8]) -> Array:
        """(C, H, W) → tokens (1+N, D)"""
        pixels = image.transpose(1, 2, 0) * self._scale + self._shift
        pos_embed = self._weights["pos_embed"][0]
        tokens = self._patches(pixels, self.config.patch_size) @ self._filters.T
        tokens += self._weights["patch_embed.proj.bias"] + pos_embed[1:]
        if self.config.stem_width:
            tokens += self._stem(pixels)
        return np.concatenate([self._weights["cls_token"][0] + pos_embed[:1], tokens])

    def _patches(self, features: Array, side: int) -> Array:
        """(rows · side, columns · side, C) → (N, side · side · C)"""
        rows, columns = self.config.grid_size
        split = features.reshape(rows, side, columns, side, -1).transpose(0, 2, 1, 3, 4)
        return split.reshape(rows * columns, -1)

    def _stem(self, pixels: Array) -> Array:
        """(H, W, C) → (N, D)"""
        x = pixels
        for name in ("conv1", "conv2", "conv3"):
            x = gelu(self._convolve(x, f"stem.{name}", stride=2))
        x = x + self._convolve(gelu(self._convolve(self._norm(x, "stem.norm"), "stem.conv4")), "stem.conv5")
        patches = self._patches(x, self.config.patch_size // STEM_STRIDE)
        out: Array = patches @ self._weights["stem.proj_weight"].T + self._weights["stem.proj_bias"]
        return out

    def _convolve(self, features: Array, name: str, stride: int = 1) -> Array:
        """3 × 3, zero-padded: (H, W, C) → (H / stride, W / stride, C')"""
        in_chans = features.shape[-1]
        padded = np.pad(features, ((1, 1), (1, 1), (0, 0)))
        windows = sliding_window_view(padded, (3, 3), axis=(0, 1))[::stride, ::stride].transpose(0, 1, 3, 4, 2)
        weight = self._weights[f"{name}.weight"].reshape(-1, in_chans, 3, 3).transpose(0, 2, 3, 1)
        height, width = windows.shape[:2]
        out: Array = windows.reshape(height * width, -1) @ weight.reshape(len(weight), -1).T
        out += self._weights[f"{name}.bias"]
        return out.reshape(height, width, -1)

    def _rotate_patches(self) -> tuple[Array, Array]:
        """Cosines and signed sines (blocks, h, N, d) as RotaryEmbedding's; one block and head for all with "axial"."""
        if self.config.rope == "mixed":
            freqs = self._weights["rope.freqs"]
        else:
            quarter = self.config.head_dim // 4
            falling = ROPE_BASE ** (-np.arange(quarter, dtype=np.float32) / quarter)
            freqs = np.kron(np.eye(2, dtype=np.float32), falling)[:, None, None]
        x, y = patch_coordinates(self.config.grid_size).T[:, :, None]
        angles = x * freqs[0][:, :, None] + y * freqs[1][:, :, None]
        cos, sin = np.cos(angles), np.sin(angles)
        return np.concatenate([cos, cos], axis=-1), np.concatenate([-sin, sin], axis=-1)

    def _mix(self, tokens: Array, number: int, keep: NDArray[np.intp] | None, first_only: bool = False) -> Array:
        """A block's attention: (T, D) → (T, D); with `first_only` the first token alone, (1, D)."""
        attended = self._attend(self._norm(tokens, f"blocks.{number}.norm1"), number, keep, first_only)
        mixed: Array = (tokens[:1] if first_only else tokens) + attended
        return mixed

    def _transform(self, tokens: Array, number: int) -> Array:
        """A block's MLP: (T, D) → (T, D)"""
        name = f"blocks.{number}"
        hidden = gelu(self._linear(self._norm(tokens, f"{name}.norm2"), f"{name}.mlp.fc1"))
        return tokens + self._linear(hidden, f"{name}.mlp.fc2")

    def _attend(self, tokens: Array, number: int, keep: NDArray[np.intp] | None, first_only: bool) -> Array:
        """softmax(q kᵀ / √(D/h)) v, and its projection: (T, D) → (T, D), or (1, D)."""
        dim, num_heads, name = self.config.embed_dim, self.config.num_heads, f"blocks.{number}.attn"
        qkv = self._linear(tokens, f"{name}.qkv").reshape(len(tokens), 3, num_heads, -1).transpose(1, 2, 0, 3)
        q, k, v = qkv
        if self._rotations is not None:
            cosines, sines = (part[min(number, len(part) - 1)] for part in self._rotations)
            cosines, sines = (part if keep is None else part[:, keep] for part in (cosines, sines))
            turned = qkv[:2, :, 1:]
            qkv[:2, :, 1:] = turned * cosines + np.roll(turned, self.config.head_dim // 2, axis=-1) * sines
        q = q[:, :1] if first_only else q
        scale = np.float32((dim // num_heads) ** -0.5)
        weights = _softmax((q * scale).astype(np.float32, copy=False) @ k.transpose(0, 2, 1))
        mixed: Array = (weights @ v).transpose(1, 0, 2)
        return self._linear(mixed.reshape(-1, dim), f"{name}.proj")

    def _linear(self, x: Array, name: str) -> Array:
        out: Array = x @ self._weights[f"{name}.weight"].T
        out += self._weights[f"{name}.bias"]
        return out

    def _norm(self, x: Array, name: str) -> Array:
        """LayerNorm over the last axis."""
        normalised = _normalised(x)
        normalised *= self._weights[f"{name}.weight"]
        normalised += self._weights[f"{name}.bias"]
        return normalised


def _normalised(x: Array) -> Array:
    """To mean 0 and variance 1 over the last axis."""
    centred: Array = x - x.mean(axis=-1, keepdims=True)
    variance = np.square(centred).mean(axis=-1, keepdims=True)
    centred *= 1 / np.sqrt(variance + np.float32(LAYER_NORM_EPS))
    return centred


def _softmax(scores: Array) -> Array:
    """Over the last axis, in place."""
    scores -= scores.max(axis=-1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=-1, keepdims=True)
    return scores


def gelu(x: Array) -> Array:
    """x Φ(x), Φ the normal distribution's function (arXiv:1606.08415), to within 4e-7.

    As max(x, 0) - |x| erfc(|x| / √2) / 2, which subtracts nothing from what it nearly equals.
    """
    magnitude = np.abs(x)
    t = magnitude * np.float32(_ERF_P / math.sqrt(2))
    t += np.float32(1)
    np.reciprocal(t, out=t)
    tail = t * np.float32(_ERF_C[-1] / 2)
    for coefficient in _ERF_C[-2::-1]:
        tail += np.float32(coefficient / 2)
        tail *= t
    square = np.square(x, out=t)
    square *= np.float32(-0.5)
    tail *= np.exp(square, out=square)
    tail *= magnitude
    out: Array = np.maximum(x, np.float32(0), out=magnitude)
    out -= tail
    return out
