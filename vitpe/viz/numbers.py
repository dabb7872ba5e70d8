"""What the pictures claim, as numbers, each with the value that random embeddings of the same shape have.

Notation: s(n, m) is the cosine similarity of patches n and m, at (r, c) in a grid (Gh, Gw) and at n' = (r, Gw-1-c)
mirrored. A patch's similarity to itself never counts. Training with mirrored images, as is usual, favours mirrored
embeddings by itself; what it cannot bring about is that the two sides of the face resemble one another at a distance.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from vitpe.metrics.position import patch_distances
from vitpe.viz.face import FaceGeometry
from vitpe.viz.history import Checkpoint, evenly
from vitpe.viz.similarity import Floats, cosine_similarity, without_self

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

NUM_RANDOM_DRAWS = 10
RANDOM_SEED = 0
_DIVIDED = {"similarity": "simi-_larity", "correlation": "corre-_lation", "structure": "struc-_ture"}
RANDOM_MEANING = "embeddings of the same shape that learned nothing"


@dataclass(frozen=True)
class EyeMatch:
    """The best match of one left-eye patch: similarity in [-1, 1]; on_right_eye: there, or one row above or below."""

    patch: tuple[int, int]
    match: tuple[int, int]
    similarity: float
    on_right_eye: bool


@dataclass(frozen=True)
class EmbeddingGrid:
    """What is measured: embeddings (N, D) of a grid (Gh, Gw), and where the eyes are, if they are known."""

    embeddings: NDArray[np.floating]
    grid_size: tuple[int, int]
    face: FaceGeometry | None = None

    @cached_property
    def similarity(self) -> Floats:
        """(N, N)."""
        return cosine_similarity(self.embeddings)

    @cached_property
    def defined(self) -> bool:
        """Whether no embedding is all zero."""
        return not np.isnan(self.similarity).any()

    @cached_property
    def matches(self) -> list[EyeMatch]:
        """See `eye_matches`."""
        return eye_matches(self.similarity, self.grid_size, self.face)


Formula = Callable[[EmbeddingGrid], float | None]


class Number(NamedTuple):
    """name: in words, as the key says it. meaning: what it says, in a line. formula: None where undefined."""

    name: str
    meaning: str
    formula: Formula


NUMBERS: dict[str, Number] = {}
"""By the name of the function below that works it out. Records, table and page show each of these."""


def register_number(meaning: str) -> Callable[[Formula], Formula]:
    """Decorate a formula to add it to NUMBERS; it is asked of grids without a zero embedding only."""

    def register(formula: Formula) -> Formula:
        NUMBERS[formula.__name__] = Number(formula.__name__.replace("_", " "), meaning, formula)
        return formula

    return register


@register_number("correlation of each map with the flipped map of the mirrored patch")
def mirror_symmetry(grid: EmbeddingGrid) -> float | None:
    """Mean over n of the Pearson correlation, over m ≠ n, of s(n, m) with s(n', m'); in [-1, 1].

    That is: each map against the flipped map of the mirrored patch. Maps that depend on distance alone score 1 as
    well; `mirror_excess` is about more than that.
    """
    others = without_self(grid.similarity)
    mirror = _mirrored(grid.grid_size)
    return _mean([_correlation(others[n], others[mirror[n], mirror]) for n in range(len(others))])


@register_number("similarity to the mirrored patch, minus that to others as far away in row or column")
def mirror_excess(grid: EmbeddingGrid) -> float | None:
    """Mean over n of s(n, n') minus the mean of s(n, m) over the other m as far from n, in its row or its column.

    Only n with n' at least two columns away count, and with such an m inside the grid. 0 when similarity depends on
    distances in rows and columns alone, as with sine-cosine embeddings; above 0 when a patch resembles its mirror
    image more than what is equally near.
    """
    num_rows, num_columns = grid.grid_size
    differences: list[float | None] = []
    for row, column in np.ndindex(grid.grid_size):
        twin = num_columns - 1 - column
        distance = abs(twin - column)
        values = grid.similarity[row * num_columns + column].reshape(grid.grid_size)
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


@register_number("similarity of the left eye's patches to their best match, not a neighbour")
def eye_similarity(grid: EmbeddingGrid) -> float | None:
    """Mean similarity of the left-eye patches' best matches, wherever these are; in [-1, 1]."""
    return _mean([match.similarity for match in grid.matches])


@register_number("share of these best matches that lie on the right eye")
def eye_hit_rate(grid: EmbeddingGrid) -> float | None:
    """The share of left-eye patches whose best match lies on the right eye; in [0, 1]."""
    return _mean([float(match.on_right_eye) for match in grid.matches])


@register_number("similarity of border patches to one another, minus to those inside")
def border_coherence(grid: EmbeddingGrid) -> float | None:
    """Mean s(n, m) over n ≠ m both on the grid's outermost ring, minus the mean over n on it and m inside it."""
    on_border = np.ones(grid.grid_size, dtype=bool)
    on_border[1:-1, 1:-1] = False
    border = on_border.ravel()
    return _difference(without_self(grid.similarity)[np.ix_(border, border)], grid.similarity[np.ix_(border, ~border)])


@register_number("correlation of similarity with distance: negative when near patches are more alike")
def distance_correlation(grid: EmbeddingGrid) -> float | None:
    """Pearson correlation, over all pairs n < m, of s(n, m) with their distance in patches; negative when it decays."""
    upper = np.triu_indices(len(grid.similarity), k=1)
    return _correlation(grid.similarity[upper], patch_distances(grid.grid_size)[upper])


def similarity_by_distance(grid: EmbeddingGrid) -> list[float | None]:
    """The curve behind `distance_correlation`: mean s(n, m) of pairs at rounded distance 1, 2, 3, … patches."""
    upper = np.triu_indices(len(grid.similarity), k=1)
    values, bins = grid.similarity[upper], np.rint(patch_distances(grid.grid_size)[upper]).astype(int)
    return [_mean(values[bins == distance]) for distance in range(1, int(bins.max()) + 1)]


@register_number("share of the embeddings' variance that tells rows apart")
def row_structure(grid: EmbeddingGrid) -> float | None:
    """The share of the embeddings' variance that lies between the means of rows; in [0, 1].

    Σ_r Gw |mean_r - mean|² / Σ_n |x_n - mean|²: 1 when an embedding tells its row and nothing else.
    """
    return _variance_share(grid, axis=1)


@register_number("share of the embeddings' variance that tells columns apart")
def column_structure(grid: EmbeddingGrid) -> float | None:
    """As `row_structure`, between the means of columns. Rows and columns together are at most 1, for a sum of both."""
    return _variance_share(grid, axis=0)


Values = dict[str, float | None]
"""By the keys of NUMBERS."""


def measure(grid: EmbeddingGrid) -> Values:
    """All numbers; None when an embedding is all zero."""
    return {key: number.formula(grid) if grid.defined else None for key, number in NUMBERS.items()}


def random_numbers(embed_dim: int, grid_size: tuple[int, int], face: FaceGeometry | None = None) -> Values:
    """The mean of the numbers of NUM_RANDOM_DRAWS standard normal embeddings: what no learning gives."""
    generator = np.random.default_rng(RANDOM_SEED)
    shape = (grid_size[0] * grid_size[1], embed_dim)
    draws = [measure(EmbeddingGrid(generator.standard_normal(shape), grid_size, face)) for _ in range(NUM_RANDOM_DRAWS)]
    return {key: _mean([draw[key] for draw in draws]) for key in NUMBERS}


def checkpoint_record(checkpoint: Checkpoint, random: Values) -> dict[str, Any]:
    """One checkpoint as a JSON-able dictionary; `random` holds the same numbers of random embeddings."""
    grid = EmbeddingGrid(checkpoint.embeddings, checkpoint.grid_size, checkpoint.face)
    matches = [asdict(match) for match in grid.matches] if grid.defined else []
    return {
        "file": str(checkpoint.path),
        "step": checkpoint.step,
        "images_seen": checkpoint.images_seen,
        "valid_accuracy": checkpoint.valid_accuracy,
        "grid_size": list(grid.grid_size),
        "embed_dim": grid.embeddings.shape[1],
        "defined": grid.defined,
        **measure(grid),
        "eye_matches": [match | {"patch": list(match["patch"]), "match": list(match["match"])} for match in matches],
        "similarity_by_distance": similarity_by_distance(grid) if grid.defined else [],
        "random": random,
    }


def numbers_table(records: Sequence[dict[str, Any]], max_rows: int = 12) -> "Table":
    """One line a checkpoint, at most `max_rows` of them, scored ones before others, and one for random embeddings.

    records: see `checkpoint_record`. Numbers that no checkpoint has, such as eyes without a face, are left out.
    """
    from rich import box  # only for terminals
    from rich.table import Table

    keys = [key for key in NUMBERS if any(record[key] is not None for record in records)]
    by_step = all(record["step"] is not None for record in records)
    table = Table(title="What the position embeddings know", box=box.SIMPLE_HEAD, padding=(0, 0), pad_edge=False)
    table.add_column("step" if by_step else "file", justify="right", no_wrap=by_step, overflow="fold")
    table.add_column(_header("valid_accuracy"), justify="right")
    for key in keys:
        table.add_column(_header(key), justify="right")
    for record in _shown(records, max_rows):
        accuracy = "–" if record["valid_accuracy"] is None else f"{record['valid_accuracy']:.1%}"
        name = f"{record['step']:,}" if by_step else record["file"]
        table.add_row(name, accuracy, *(number_text(record[key]) if record["defined"] else "–" for key in keys))
    table.add_section()
    table.add_row("random", "", *(number_text(records[0]["random"][key]) for key in keys))
    return table


def numbers_legend(records: Sequence[dict[str, Any]]) -> "Table":
    """What the columns of `numbers_table` mean, a line each."""
    from rich.table import Table

    legend = Table.grid(padding=(0, 1), pad_edge=True)
    legend.add_column(no_wrap=True)
    legend.add_column()
    for key, number in NUMBERS.items():
        if any(record[key] is not None for record in records):
            legend.add_row(number.name, number.meaning)
    legend.add_row("random", RANDOM_MEANING)
    return legend


def _header(key: str) -> "Text":
    """The key's words below each other, long ones divided, so that all columns fit in 80 cells."""
    from rich.text import Text

    for word, parts in _DIVIDED.items():
        key = key.replace(word, parts)
    return Text(key.replace("_", "\n"))


def number_text(value: float | None) -> str:
    """Two digits after the point, with a real minus sign; "undefined" for None."""
    return "undefined" if value is None else f"{value:.2f}".replace("-0.00", "0.00").replace("-", "−")


def _shown(records: Sequence[dict[str, Any]], max_rows: int) -> list[dict[str, Any]]:
    """The scored ones and, where there is room, others evenly spread; the first and the last among them."""
    scored = [index for index, record in enumerate(records) if record["valid_accuracy"] is not None]
    room = max_rows - len(scored)
    indices = sorted({*scored, *evenly(len(records), room)}) if room >= 2 else evenly(len(records), max_rows)
    return [records[index] for index in indices]


def _mirrored(grid_size: tuple[int, int]) -> NDArray[np.intp]:
    """n' for each n."""
    return np.arange(grid_size[0] * grid_size[1]).reshape(grid_size)[:, ::-1].ravel()


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


def _variance_share(grid: EmbeddingGrid, axis: int) -> float | None:
    """The variance of the means over rows (0) or columns (1) as a share of the embeddings'; None if they are equal."""
    values = np.asarray(grid.embeddings, dtype=np.float64).reshape(*grid.grid_size, -1)
    means = values.mean(axis=axis, keepdims=True)
    centre = values.mean(axis=(0, 1), keepdims=True)
    total = np.square(values - centre).sum()
    between = np.square(np.broadcast_to(means, values.shape) - centre).sum()
    return float(between / total) if total > 0 else None
