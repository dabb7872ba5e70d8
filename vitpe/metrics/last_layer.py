"""Last-layer retraining on balanced groups (deep feature reweighting; Kirichenko et al., arXiv:2204.02937).

A network's features often hold what the rare groups need, while its head leans on what goes with an attribute only in
the frequent ones (hair colour and sex). So the features stay and the head's row is fitted anew, by an ℓ1-regularised
logistic regression on held-out images of which each group has equally many.

Shapes: n images, D features, T attributes to refit, G groups.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from vitpe.metrics.scores import FloatArray
from vitpe.metrics.thresholds import sigmoid

STRENGTHS: Final = (0.01, 0.03, 0.07, 0.1, 0.3, 0.7, 1.0)
"""Weights C of the log loss beside the ℓ1 norm that are tried, those of the paper's appendix; the least fits least."""
NUM_DRAWS: Final = 10
"""Balanced parts of the images whose rows are averaged."""

_MAX_STEPS: Final = 20_000
_TOLERANCE: Final = 1e-6  # of the optimality conditions, beside the ℓ1 norm's 1


@dataclass(frozen=True)
class LastLayer:
    """Rows of a head: weights (T, D) and biases (T,), for logits = weight · features + bias.

    strengths: (T,) the C of each. num_per_group: images of each group in a draw. num_draws: that were averaged.
    """

    weight: FloatArray
    bias: FloatArray
    strengths: FloatArray
    num_per_group: int
    num_draws: int


def retrain_last_layer(
    features: Sequence[FloatArray],
    labels: ArrayLike,
    group_of: NDArray[np.intp],
    *,
    num_draws: int = NUM_DRAWS,
    seed: int = 0,
) -> LastLayer:
    """Fit each attribute's row on images of which each group has equally many: all of the smallest.

    features: for each of the T attributes (n, D) inputs of its row, which may be one array. labels: (n, T), 0 or 1.
    group_of: (n,) each image's group, 0 to G - 1. Features are standardised over all n images.
    Each row's C is the one of STRENGTHS with which the worst group of one half of the images (of each group) is most
    often answered rightly at a probability of 0.5 by rows fitted on the other half; of equal ones that with the
    higher mean of the groups, then the least. Then all images are used: rows of `num_draws` draws are averaged, so that
    frequent groups are seen by more than one draw. A function of its arguments alone.
    Raises ValueError where a group has fewer than two images.
    """
    y = np.asarray(labels, np.float64)
    members = [np.flatnonzero(group_of == g) for g in range(int(group_of.max(initial=-1)) + 1)]
    if min(map(len, members), default=0) < 2:
        raise ValueError("every group needs two images, one for each half")
    rng = np.random.default_rng(seed)
    shuffled = [rng.permutation(rows) for rows in members]
    fitting = [rows[: (len(rows) + 1) // 2] for rows in shuffled]
    judging = [rows[(len(rows) + 1) // 2 :] for rows in shuffled]
    half, whole = (list(_draws(groups, num_draws, rng)) for groups in (fitting, members))
    weights, biases, strengths = [], [], []
    for t, x in enumerate(features):
        centre, scale = x.mean(axis=0), x.std(axis=0)
        scale = np.where(scale > 1e-12 * np.maximum(1, np.abs(centre)), scale, np.inf)  # a constant one says nothing
        z = (x - centre) / scale
        best = (-1.0, -1.0)
        strength = STRENGTHS[0]
        for candidate, row in zip(STRENGTHS, _rows(z, y[:, t], half), strict=True):
            right = (z @ row[:-1] + row[-1] >= 0) == (y[:, t] == 1)
            accuracies = [float(right[rows].mean()) for rows in judging]
            judged = min(accuracies), float(np.mean(accuracies))
            if judged > best:
                best, strength = judged, candidate
        row = _rows(z, y[:, t], whole, (strength,))[0]
        weights.append(row[:-1] / scale)
        biases.append(row[-1] - centre @ weights[-1])
        strengths.append(strength)
    return LastLayer(np.array(weights), np.array(biases), np.array(strengths), min(map(len, members)), num_draws)


def _draws(groups: Sequence[NDArray[np.intp]], count: int, rng: np.random.Generator) -> Iterator[NDArray[np.intp]]:
    """As many images of each group as the smallest has, at random, `count` times."""
    size = min(map(len, groups))
    for _ in range(count):
        yield np.concatenate([rng.choice(rows, size, replace=False) for rows in groups])


def _rows(
    z: FloatArray, y: FloatArray, draws: Sequence[NDArray[np.intp]], strengths: Sequence[float] = STRENGTHS
) -> list[FloatArray]:
    """For each strength the mean of the draws' rows (D + 1,), weights and bias."""
    found = np.zeros((len(strengths), z.shape[1] + 1))
    for images in draws:
        row = np.zeros(z.shape[1] + 1)
        for number, strength in enumerate(strengths):  # each begins where the weaker one ended
            row = fit_sparse_logistic(z[images], y[images], strength, row)
            found[number] += row / len(draws)
    return list(found)


def fit_sparse_logistic(
    features: FloatArray, labels: FloatArray, strength: float, start: FloatArray | None = None
) -> FloatArray:
    """(D + 1,) weights and a bias that minimise ‖weights‖₁ + strength · the sum of the log losses; the bias is free.

    features: (n, D). labels: (n,), 0 and 1, both present. By the accelerated proximal gradient method (Beck and
    Teboulle 2009, FISTA), begun anew where its momentum points uphill (O'Donoghue and Candès 2015), until the
    optimality conditions hold to 1e-6.
    """
    x = np.column_stack([features, np.ones(len(features))])
    row = np.zeros(x.shape[1]) if start is None else start
    # The loss' curvature is at most a quarter of that of the squares.
    step = 4 / (strength * np.linalg.norm(x, 2) ** 2)
    shrink = np.full(len(row), step)
    shrink[-1] = 0
    ahead, momentum = row, 1.0
    for _ in range(_MAX_STEPS):
        gradient = strength * ((sigmoid(x @ ahead) - labels) @ x)
        moved = ahead - step * gradient
        new: FloatArray = np.sign(moved) * np.maximum(np.abs(moved) - shrink, 0)
        if np.abs(new - ahead).max() <= _TOLERANCE * step:
            return new
        if (ahead - new) @ (new - row) > 0:
            momentum = 1.0
        following = (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = new + (momentum - 1) / following * (new - row)
        row, momentum = new, following
    return row
