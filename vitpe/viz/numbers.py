"""What the pictures claim, as numbers, each with the value that random embeddings of the same shape have.

Notation: s(n, m) is the cosine similarity of patches n and m, at (r, c) in a grid (Gh, Gw) and at n' = (r, Gw-1-c)
mirrored. A patch's similarity to itself never counts. Training with mirrored images, as is usual, favours mirrored
embeddings by itself; what it cannot bring about is that the two sides of the face resemble one another at a distance.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitpe.viz.face import FaceGeometry
from vitpe.viz.history import Checkpoint
from vitpe.viz.similarity import Floats, cosine_similarity, without_self

NUM_RANDOM_DRAWS = 10
RANDOM_SEED = 0


@dataclass(frozen=True)
class EyeMatch:
    """The best match of one left-eye patch: similarity in [-1, 1]; on_right_eye: there, or one row above or below."""

    patch: tuple[int, int]
    match: tuple[int, int]
    similarity: float
    on_right_eye: bool


@dataclass(frozen=True)
class Numbers:
    """One checkpoint's numbers; None where undefined. Each one's formula stands at the function of the same name."""

    mirror_symmetry: float | None
    mirror_excess: float | None
    eye_similarity: float | None
    eye_hit_rate: float | None
    border_coherence: float | None
    distance_correlation: float | None
    row_structure: float | None
    column_structure: float | None


def mirror_symmetry(similarity: Floats, grid_size: tuple[int, int]) -> float | None:
    """Mean over n of the Pearson correlation, over m ≠ n, of s(n, m) with s(n', m'); in [-1, 1].

    That is: each map against the flipped map of the mirrored patch. Maps that depend on distance alone score 1 as
    well; `mirror_excess` is about more than that.
    """
    others = without_self(similarity)
    mirror = _mirrored(grid_size)
    return _mean([_correlation(others[n], others[mirror[n], mirror]) for n in range(len(others))])


def mirror_excess(similarity: Floats, grid_size: tuple[int, int]) -> float | None:
    """Mean over n of s(n, n') minus the mean of s(n, m) over the other m as far from n, in its row or its column.

    Only n with n' at least two columns away count, and with such an m inside the grid. 0 when similarity depends on
    distances in rows and columns alone, as with sine-cosine embeddings; above 0 when a patch resembles its mirror
    image more than what is equally near.
    """
    num_rows, num_columns = grid_size
    differences: list[float | None] = []
    for row, column in np.ndindex(grid_size):
        twin = num_columns - 1 - column
        distance = abs(twin - column)
        values = similarity[row * num_columns + column].reshape(grid_size)
        places = [(row, 2 * column - twin), (row - distance, column), (row + distance, column)]
        others = [values[r, c] for r, c in places if 0 <= r < num_rows and 0 <= c < num_columns]
        if distance >= 2 and others:
            differences.append(float(values[row, twin] - np.mean(others)))
    return _mean(differences)


def eye_matches(similarity: Floats, grid_size: tuple[int, int], face: FaceGeometry | None) -> list[EyeMatch]:
    """For each patch n of the left eye: the m with the largest s(n, m) outside n and its eight neighbours.

    Empty without a face and where similarity is undefined.
    """
    if face is None:
        return []
    rows = {row + offset for row, _ in face.right_eye for offset in (-1, 0, 1)}
    columns = {column for _, column in face.right_eye}
    matches = []
    for row, column in face.left_eye:
        values = similarity[row * grid_size[1] + column].reshape(grid_size).copy()
        values[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2] = np.nan
        if np.isnan(values).all():
            continue
        best_row, best_column = map(int, np.unravel_index(np.nanargmax(values), grid_size))
        matches.append(
            EyeMatch(
                patch=(row, column),
                match=(best_row, best_column),
                similarity=float(values[best_row, best_column]),
                on_right_eye=best_row in rows and best_column in columns,
            )
        )
    return matches


def eye_similarity(matches: Sequence[EyeMatch]) -> float | None:
    """Mean similarity of the left-eye patches' best matches, wherever these are; in [-1, 1]."""
    return _mean([match.similarity for match in matches])


def eye_hit_rate(matches: Sequence[EyeMatch]) -> float | None:
    """The share of left-eye patches whose best match lies on the right eye; in [0, 1]."""
    return _mean([float(match.on_right_eye) for match in matches])


def border_coherence(similarity: Floats, grid_size: tuple[int, int]) -> float | None:
    """Mean s(n, m) over n ≠ m both on the grid's outermost ring, minus the mean over n on it and m inside it."""
    on_border = np.ones(grid_size, dtype=bool)
    on_border[1:-1, 1:-1] = False
    border = on_border.ravel()
    return _difference(without_self(similarity)[np.ix_(border, border)], similarity[np.ix_(border, ~border)])


def distance_correlation(similarity: Floats, grid_size: tuple[int, int]) -> float | None:
    """Pearson correlation, over all pairs n < m, of s(n, m) with their distance in patches; negative when it decays."""
    upper = np.triu_indices(len(similarity), k=1)
    return _correlation(similarity[upper], _distances(grid_size)[upper])


def similarity_by_distance(similarity: Floats, grid_size: tuple[int, int]) -> list[float | None]:
    """The curve behind `distance_correlation`: mean s(n, m) of pairs at rounded distance 1, 2, 3, … patches."""
    upper = np.triu_indices(len(similarity), k=1)
    values, bins = similarity[upper], np.rint(_distances(grid_size)[upper]).astype(int)
    return [_mean(values[bins == distance]) for distance in range(1, int(bins.max()) + 1)]


def row_structure(embeddings: NDArray[np.floating], grid_size: tuple[int, int]) -> float | None:
    """The share of the embeddings' variance that lies between the means of rows; in [0, 1].

    Σ_r Gw |mean_r - mean|² / Σ_n |x_n - mean|²: 1 when an embedding tells its row and nothing else.
    """
    grid = np.asarray(embeddings, dtype=np.float64).reshape(*grid_size, -1)
    return _variance_share(grid, grid.mean(axis=1, keepdims=True))


def column_structure(embeddings: NDArray[np.floating], grid_size: tuple[int, int]) -> float | None:
    """As `row_structure`, between the means of columns. Rows and columns together are at most 1, for a sum of both."""
    grid = np.asarray(embeddings, dtype=np.float64).reshape(*grid_size, -1)
    return _variance_share(grid, grid.mean(axis=0, keepdims=True))


def numbers(
    embeddings: NDArray[np.floating],
    similarity: Floats,
    grid_size: tuple[int, int],
    matches: Sequence[EyeMatch],
) -> Numbers:
    """All numbers of embeddings (N, D) with similarity (N, N); all are None when an embedding is all zero."""
    if np.isnan(similarity).any():
        return Numbers(*[None] * len(fields(Numbers)))
    return Numbers(
        mirror_symmetry=mirror_symmetry(similarity, grid_size),
        mirror_excess=mirror_excess(similarity, grid_size),
        eye_similarity=eye_similarity(matches),
        eye_hit_rate=eye_hit_rate(matches),
        border_coherence=border_coherence(similarity, grid_size),
        distance_correlation=distance_correlation(similarity, grid_size),
        row_structure=row_structure(embeddings, grid_size),
        column_structure=column_structure(embeddings, grid_size),
    )


def random_numbers(embed_dim: int, grid_size: tuple[int, int], face: FaceGeometry | None = None) -> Numbers:
    """The mean of the numbers of NUM_RANDOM_DRAWS standard normal embeddings: what no learning gives."""
    generator = np.random.default_rng(RANDOM_SEED)
    draws = []
    for _ in range(NUM_RANDOM_DRAWS):
        embeddings = generator.standard_normal((grid_size[0] * grid_size[1], embed_dim))
        similarity = cosine_similarity(embeddings)
        draws.append(numbers(embeddings, similarity, grid_size, eye_matches(similarity, grid_size, face)))
    return Numbers(**{field.name: _mean([getattr(draw, field.name) for draw in draws]) for field in fields(Numbers)})


def checkpoint_record(checkpoint: Checkpoint, random: Numbers) -> dict[str, Any]:
    """One checkpoint as a JSON-able dictionary; `random` holds the same numbers of random embeddings."""
    embeddings, grid_size = checkpoint.embeddings, checkpoint.grid_size
    similarity = cosine_similarity(embeddings)
    defined = not np.isnan(similarity).any()
    matches = eye_matches(similarity, grid_size, checkpoint.face) if defined else []
    return {
        "file": str(checkpoint.path),
        "step": checkpoint.step,
        "images_seen": checkpoint.images_seen,
        "valid_accuracy": checkpoint.valid_accuracy,
        "grid_size": list(grid_size),
        "embed_dim": embeddings.shape[1],
        "defined": defined,
        **asdict(numbers(embeddings, similarity, grid_size, matches)),
        "eye_matches": [{**asdict(match), "patch": list(match.patch), "match": list(match.match)} for match in matches],
        "similarity_by_distance": similarity_by_distance(similarity, grid_size) if defined else [],
        "random": asdict(random),
    }


def number_text(value: float | None) -> str:
    """Two digits after the point, with a real minus sign; "undefined" for None."""
    return "undefined" if value is None else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _mirrored(grid_size: tuple[int, int]) -> NDArray[np.intp]:
    """n' for each n."""
    return np.arange(grid_size[0] * grid_size[1]).reshape(grid_size)[:, ::-1].ravel()


def _distances(grid_size: tuple[int, int]) -> Floats:
    """(N, N) Euclidean distances between patches, in patches."""
    places = np.indices(grid_size).reshape(2, -1).T.astype(np.float64)
    distances: Floats = np.linalg.norm(places[:, None] - places[None], axis=2)
    return distances


def _mean(values: Sequence[float | None] | Floats) -> float | None:
    """The mean of what is defined, neither None nor NaN; None when nothing is."""
    numeric = np.array(values, dtype=np.float64)  # None becomes NaN
    defined = numeric[np.isfinite(numeric)]
    return float(defined.mean()) if defined.size else None


def _difference(left: Floats, right: Floats) -> float | None:
    """Mean of left minus mean of right; None when either is undefined."""
    left_mean, right_mean = _mean(left), _mean(right)
    return None if left_mean is None or right_mean is None else left_mean - right_mean


def _correlation(left: Floats, right: Floats) -> float | None:
    """Pearson's r where both are defined; None when one of them does not vary."""
    defined = np.isfinite(left) & np.isfinite(right)
    left, right = left[defined] - left[defined].mean(), right[defined] - right[defined].mean()
    scale = np.sqrt(np.square(left).sum() * np.square(right).sum())
    return float((left * right).sum() / scale) if scale > 1e-12 else None


def _variance_share(grid: Floats, means: Floats) -> float | None:
    """The variance of `means`, broadcast over the grid (Gh, Gw, D), as a share of the grid's."""
    centre = grid.mean(axis=(0, 1), keepdims=True)
    total = np.square(grid - centre).sum()
    between = np.square(np.broadcast_to(means, grid.shape) - centre).sum()
    return float(between / total) if total > 0 else None
