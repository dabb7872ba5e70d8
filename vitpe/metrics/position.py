"""What tokens and attention know of places in a grid of patches.

N patches in reading order over a grid (Gh, Gw): patch n stands at row n // Gw, column n % Gw. n images.
"""

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.metrics.scores import NUM_RESAMPLES, FloatArray, interval, resample

RIDGE: Final = 1e-3
"""The penalty of a linear probe, as a share of the features' mean square."""


@dataclass(frozen=True)
class Estimates:
    """Means over images with their 95 % bootstrap intervals, arrays of one shape."""

    value: FloatArray
    low: FloatArray
    high: FloatArray

    @staticmethod
    def of(samples: FloatArray, *, num_resamples: int = NUM_RESAMPLES, seed: int = 0) -> "Estimates":
        """samples: (n, …), of each image one. Images are drawn with replacement, as in `metrics.scores.bootstrap`."""
        flat = samples.reshape(len(samples), -1)
        means = np.concatenate([counts @ flat for counts in resample(len(flat), num_resamples, seed)]) / len(flat)
        ends = (end.reshape(samples.shape[1:]) for end in interval(means))
        return Estimates(samples.mean(axis=0), *ends)


def patch_distances(grid_size: tuple[int, int]) -> FloatArray:
    """(N, N) Euclidean distances between patches, in patches."""
    places = np.indices(grid_size).reshape(2, -1).T.astype(np.float64)
    distances: FloatArray = np.linalg.norm(places[:, None] - places[None], axis=2)
    return distances


def place_targets(grid_size: tuple[int, int]) -> FloatArray:
    """(N, Gh + Gw): for each patch 1 at its row, 1 at its column, and 0 elsewhere."""
    rows, columns = np.divmod(np.arange(grid_size[0] * grid_size[1]), grid_size[1])
    return np.hstack([np.eye(grid_size[0])[rows], np.eye(grid_size[1])[columns]])


class PlaceProbe:
    """Ridge regression from tokens to `place_targets`: whether a linear map tells a token's row and column.

    Fed with batches of some images' tokens, it is then asked about others'.
    """

    def __init__(self, grid_size: tuple[int, int], width: int) -> None:
        self.grid_size = grid_size
        self._targets = place_targets(grid_size)
        self._gram = np.zeros((width + 1, width + 1))
        self._cross = np.zeros((width + 1, self._targets.shape[1]))

    def add(self, gram: NDArray[np.floating], sums: NDArray[np.floating], count: int) -> None:
        """A batch of images. gram: (D, D), the sum of xᵀx over all tokens x; sums: (N, D), each patch's sum over the
        images; count: of images.
        """
        total = sums.astype(np.float64)
        self._gram[:-1, :-1] += gram
        self._gram[-1, :-1] += total.sum(axis=0)
        self._gram[:-1, -1] += total.sum(axis=0)
        self._gram[-1, -1] += count * len(total)
        self._cross[:-1] += total.T @ self._targets
        self._cross[-1] += count * self._targets.sum(axis=0)

    def solve(self) -> FloatArray:
        """(D + 1, Gh + Gw): weights, and in the last row the bias, which has no penalty; of least squares, in closed
        form.
        """
        width = len(self._gram) - 1
        mean = self._gram[-1, :-1] / self._gram[-1, -1]
        centred = self._gram[:-1, :-1] - self._gram[-1, -1] * np.outer(mean, mean)
        targets = self._cross[-1] / self._gram[-1, -1]
        cross = self._cross[:-1] - self._gram[-1, -1] * np.outer(mean, targets)
        penalty = RIDGE * np.trace(centred) / width + np.finfo(np.float64).tiny ** 0.5
        weights = np.linalg.solve(centred + penalty * np.eye(width), cross)
        return np.vstack([weights, targets - mean @ weights])

    def score(self, outputs: FloatArray) -> FloatArray:
        """Outputs (n, N, Gh + Gw) for images → (n, 2): the shares of each image's tokens whose row is told, and whose
        column.
        """
        rows, columns = np.divmod(np.arange(outputs.shape[1]), self.grid_size[1])
        split = self.grid_size[0]
        told = (outputs[..., :split].argmax(axis=2) == rows, outputs[..., split:].argmax(axis=2) == columns)
        return np.stack([each.mean(axis=1) for each in told], axis=1)
