"""Embeddings → similarity maps and other views of them. numpy only; float64 inside, as early embeddings are tiny.

N patches in reading order over a grid (Gh, Gw): patch n stands at row n // Gw, column n % Gw. NaN means undefined.
"""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NUM_BINS = 200_001


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


def colour_range(similarities: Iterable[Floats], tail_percent: float = 0.5) -> tuple[float, float]:
    """One (low, high) for all maps of all frames, self-similarity left out.

    All but `tail_percent` of the values at either end lie inside; the ends are round numbers within [-1, 1].
    (-1, 1) when nothing is defined.
    """
    counts = np.zeros(NUM_BINS, dtype=np.int64)  # over [-1, 1]; all values at once would not fit for large grids
    for similarity in similarities:
        values = without_self(similarity)
        bins = (values[np.isfinite(values)] + 1) / 2 * (NUM_BINS - 1)
        counts += np.bincount(np.rint(bins).astype(np.intp), minlength=NUM_BINS)
    if not counts.any():
        return -1.0, 1.0
    ends = np.array([tail_percent, 100 - tail_percent]) / 100 * counts.sum()
    low, high = np.searchsorted(counts.cumsum(), ends) / (NUM_BINS - 1) * 2 - 1
    # Embeddings that share a strong common part differ in the third digit: round to no more than a tenth of the span.
    unit = min(0.05, float(10 ** np.floor(np.log10(max(high - low, 1e-4)))) / 2)
    low, high = np.floor(low / unit + 1e-3) * unit, np.ceil(high / unit - 1e-3) * unit
    if high - low < unit:  # all alike
        low, high = low - unit, high + unit
    return max(float(low), -1.0), min(float(high), 1.0)


def norms(embeddings: NDArray[np.floating], grid_size: tuple[int, int]) -> Floats:
    """(N, D) → (Gh, Gw): the embeddings' Euclidean lengths."""
    lengths: Floats = np.linalg.norm(np.asarray(embeddings, dtype=np.float64), axis=1)
    return lengths.reshape(grid_size)


def principal_components(vectors: NDArray[np.floating], num_components: int) -> tuple[Floats, Floats]:
    """Principal axes of M vectors (M, D), by singular value decomposition of the centred matrix.

    Returns axes (K, D) of unit length, strongest first, signed so that each one's largest entry is positive, and the
    share of variance (K,) that each explains, zeros when all vectors are equal. K = min(num_components, M, D).
    """
    centred = np.asarray(vectors, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    _, singular, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:num_components]
    largest = np.take_along_axis(axes, np.abs(axes).argmax(axis=1, keepdims=True), axis=1)
    variance = singular**2
    share = variance / variance.sum() if variance.sum() > 0 else variance
    return axes * np.where(largest < 0, -1.0, 1.0), share[:num_components]


def component_colours(embeddings: NDArray[np.floating], grid_size: tuple[int, int]) -> tuple[Floats, Floats]:
    """The first three principal components of the patches' embeddings as red, green and blue.

    Returns colours (Gh, Gw, 3) in [0, 1], each component stretched from its smallest to its largest value, and the
    variance shares (3,). Patches of equal colour have embeddings that are alike in the three strongest directions.
    """
    vectors = np.asarray(embeddings, dtype=np.float64)
    axes, share = principal_components(vectors, 3)
    scores = (vectors - vectors.mean(axis=0)) @ axes.T
    scores = np.pad(scores, ((0, 0), (0, 3 - scores.shape[1])))
    low, span = scores.min(axis=0), np.ptp(scores, axis=0)
    colours = (scores - low) / np.where(span > 0, span, 1.0)
    return colours.reshape(*grid_size, 3), np.pad(share, (0, 3 - share.size))


def filter_components(filters: NDArray[np.floating], num_components: int = 28) -> Floats:
    """The patch projection's principal components as images; arXiv:2010.11929, Figure 7 left, shows the first 28.

    filters: (D, C, P, P). Returns (K, P, P, C) in [0, 1] with 0.5 for zero, each stretched by its largest entry.
    """
    num_filters, channels, height, width = filters.shape
    axes, _ = principal_components(filters.reshape(num_filters, -1), num_components)
    peaks = np.abs(axes).max(axis=1, keepdims=True)
    pictures = 0.5 + 0.5 * axes / np.where(peaks > 0, peaks, 1.0)
    return pictures.reshape(-1, channels, height, width).transpose(0, 2, 3, 1)
