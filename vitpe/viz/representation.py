"""How alike two runs' position embeddings are, whatever directions each has chosen for them.

X (N, D) and Y (N, D') belong to the same N patches; D and D' may differ.
"""

import numpy as np
from numpy.typing import NDArray

from vitpe.viz.numbers import NUM_RANDOM_DRAWS, RANDOM_SEED
from vitpe.viz.similarity import Floats, cosine_similarity

Alikeness = dict[str, float | None]
"""By the names in ALIKENESS; None where an embedding is zero, or all are equal."""
ALIKENESS = {
    "map_correlation": "correlation of their maps, each patch's similarity to itself left out",
    "cka": "linear CKA of their embeddings (arXiv:1905.00414)",
}


def map_correlation(x: NDArray[np.floating], y: NDArray[np.floating]) -> float | None:
    """Pearson's r over all pairs n < m of the cosine similarities in X and in Y; in [-1, 1].

    This is representational similarity analysis (Kriegeskorte et al. 2008). None where it is undefined.
    """
    upper = np.triu_indices(len(x), k=1)
    left, right = cosine_similarity(x)[upper], cosine_similarity(y)[upper]
    if np.isnan(left).any() or np.isnan(right).any():
        return None
    return _cosine(left - left.mean(), right - right.mean())


def linear_cka(x: NDArray[np.floating], y: NDArray[np.floating]) -> float | None:
    """|Yᵀ X|² / (|Xᵀ X| |Yᵀ Y|), Frobenius norms of the centred X and Y; in [0, 1] (arXiv:1905.00414, equation 3).

    1 for embeddings that differ by a rotation and a scale. Of random ones it is far from 0 where D is not small beside
    N: compare with `random_alikeness`. None where all embeddings of one run are equal.
    """
    left, right = _kernel(x), _kernel(y)
    return _cosine(left, right)  # <XXᵀ, YYᵀ> = |Yᵀ X|²


def alikeness(x: NDArray[np.floating], y: NDArray[np.floating]) -> Alikeness:
    """All of ALIKENESS. ValueError for different numbers of patches."""
    if len(x) != len(y):
        raise ValueError(f"{len(x)} and {len(y)} patches")
    return {"map_correlation": map_correlation(x, y), "cka": linear_cka(x, y)}


def random_alikeness(num_patches: int, first_width: int, second_width: int) -> Alikeness:
    """The means of some draws of two standard normal embeddings of these shapes: what no learning gives."""
    generator = np.random.default_rng(RANDOM_SEED)
    draws = [
        alikeness(*(generator.standard_normal((num_patches, width)) for width in (first_width, second_width)))
        for _ in range(NUM_RANDOM_DRAWS)
    ]
    means: Alikeness = {}
    for name in ALIKENESS:
        values = [value for draw in draws if (value := draw[name]) is not None]
        means[name] = float(np.mean(values)) if values else None
    return means


def _kernel(x: NDArray[np.floating]) -> Floats:
    """(N, N) inner products of the centred embeddings, scaled so that tiny ones do not vanish."""
    centred = np.asarray(x, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    largest = np.abs(centred).max()
    centred = centred / largest if largest > 0 else centred
    kernel: Floats = centred @ centred.T
    return kernel


def _cosine(left: Floats, right: Floats) -> float | None:
    scale = np.sqrt(np.square(left).sum() * np.square(right).sum())
    return float((left * right).sum() / scale) if scale > 1e-12 else None
