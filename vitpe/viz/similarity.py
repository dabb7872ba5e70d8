"""Embeddings → similarity maps. numpy only; float64 inside, as early embeddings are tiny.

N patches in reading order over a grid (Gh, Gw): patch n stands at row n // Gw, column n % Gw. NaN means undefined.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def cosine_similarity(embeddings: NDArray[np.floating]) -> Floats:
    """(N, D) → (N, N): x·y / (|x| |y|), in [-1, 1]. NaN where x or y is all zero: a zero vector has no direction."""
    vectors = np.asarray(embeddings, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    directions = np.divide(vectors, norms, out=np.full_like(vectors, np.nan), where=norms > 0)
    # Not by BLAS: its threads cost more than they save here, and a thousand times more on a busy machine.
    similarity: Floats = np.clip(np.einsum("nd,md->nm", directions, directions), -1.0, 1.0)
    return similarity


def without_self(similarity: Floats) -> Floats:
    """A copy whose diagonal, always 1 and no news, is NaN."""
    others = similarity.copy()
    np.fill_diagonal(others, np.nan)
    return others
