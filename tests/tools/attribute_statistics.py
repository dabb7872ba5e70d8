"""What is known of CelebA's labels: derives vitpe/faces/attribute_statistics.json, and what tests compare labels with.

python -m tests.tools.attribute_statistics list_attr_celeba.txt
"""

import json
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.celeba import ATTRIBUTES
from vitpe.faces.attributes import STATISTICS_FILE, WEIGHT_STEP
from vitpe.files import write_atomic

KNOWN_FILE: Final = Path(__file__).with_name("celeba_statistics.json")

# What structures a face comes first, so that what is judged by eye is drawn to fit it.
_CHAIN_START: Final = tuple(
    """Male Young Wearing_Hat Bald Gray_Hair Blond_Hair Black_Hair Brown_Hair Receding_Hairline Bangs Eyeglasses
    Mustache Goatee Sideburns 5_o_Clock_Shadow No_Beard Wearing_Lipstick Heavy_Makeup""".split()
)

# How often (%) a convolutional network disagrees with CelebA's label: Hand & Chellappa (arXiv:1604.07360), table 2,
# rounded. Much of it is label noise: two people agree on few of the 40 (Wu et al., arXiv:2210.07356).
_LABEL_ERRORS_PERCENT: Final = """5.5 16.5 17 15 1 4 28.5 15.5 10 4 4 11 7 4.5 3.5 0.5 3 2 8.5 12.5
    2 6 3 13 4 24 3 22.5 6 5 2 7 16.5 16 9.5 1 6 13.5 3.5 11.5"""
_MOST_REDRAWN: Final = 0.45
"""No attribute is redrawn more often than this: seeing it must make it likelier than not."""


def read_attribute_rows(list_attr: Path) -> NDArray[np.uint8]:
    """(n, A) 0/1 of CelebA's own list_attr_celeba.txt (count, header, rows of -1 and 1)."""
    rows = [line.split()[1:] for line in list_attr.read_text("utf-8").splitlines()[2:] if line.strip()]
    return (np.array(rows, dtype=np.int8) > 0).astype(np.uint8)


@dataclass(frozen=True)
class KnownStatistics:
    """num_images: CelebA's rows. marginals: (A,) frequency of each attribute, in [0, 1]. correlations: (A, A) Pearson
    correlation of each pair, rounded to 3 decimals.
    """

    num_images: int
    marginals: NDArray[np.float64]
    correlations: NDArray[np.float64]


def known_statistics() -> KnownStatistics:
    """As measured on CelebA's list."""
    table = json.loads(KNOWN_FILE.read_text())
    upper = np.zeros((len(ATTRIBUTES), len(ATTRIBUTES)))
    upper[np.triu_indices_from(upper, 1)] = np.array(table["correlations_per_mille"]) / 1000
    correlations = upper + upper.T + np.eye(len(ATTRIBUTES))
    return KnownStatistics(table["num_images"], np.array(table["marginals"]), correlations)


def measure_statistics(labels: NDArray[np.uint8]) -> dict[str, Any]:
    """What celeba_statistics.json holds, from (n, A) labels."""
    correlations = np.asarray(np.corrcoef(labels.T.astype(np.float64)))[np.triu_indices(len(ATTRIBUTES), 1)]
    return {
        "num_images": len(labels),
        "marginals": np.round(labels.mean(axis=0), 4).tolist(),
        "correlations_per_mille": np.round(correlations * 1000).astype(int).tolist(),
    }


def fit_statistics(labels: NDArray[np.uint8]) -> dict[str, Any]:
    """What the painter's attribute_statistics.json holds, from (n, A) labels. About a minute for CelebA's rows."""
    size = len(ATTRIBUTES)
    rest = [name for name in ATTRIBUTES if name not in _CHAIN_START]
    chain = [ATTRIBUTES.index(name) for name in (*_CHAIN_START, *rest)]
    chained = labels[:, chain].astype(np.float64)
    biases, weights = np.zeros(size), np.zeros((size, size))
    flips = np.zeros(size)
    for k in range(size):
        fitted = _fit_logistic(chained[:, :k], chained[:, k])
        biases[k], weights[k, :k] = fitted[0], fitted[1:]
        probs = 1 / (1 + np.exp(-(fitted[0] + chained[:, :k] @ fitted[1:])))
        flips[chain[k]] = np.mean(2 * probs * (1 - probs))
    errors = np.array(_LABEL_ERRORS_PERCENT.split(), dtype=float) / 100
    return {
        "redraw_probs": np.round(np.minimum(errors / flips, _MOST_REDRAWN), 3).tolist(),
        "chain": [ATTRIBUTES[i] for i in chain],
        "biases_per_step": _in_steps(biases),
        "weights_per_step": _in_steps(weights[np.tril_indices(size, -1)]),
    }


def _in_steps(values: NDArray[np.float64]) -> list[int]:
    return [int(value) for value in np.round(values / WEIGHT_STEP)]


def _fit_logistic(inputs: NDArray[np.float64], targets: NDArray[np.float64]) -> NDArray[np.float64]:
    """(1 + k,) bias and weights by Newton's method; the small ridge keeps "never together" finite (about -10)."""
    inputs = np.column_stack([np.ones(len(inputs)), inputs])
    ridge = np.full(inputs.shape[1], 0.02)
    fitted = np.zeros(inputs.shape[1])
    for _ in range(40):
        probs = 1 / (1 + np.exp(-(inputs @ fitted)))
        gradient = inputs.T @ (targets - probs) - ridge * fitted
        curvature = (inputs * (probs * (1 - probs))[:, None]).T @ inputs + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        fitted += step
        if np.abs(step).max() < 1e-4:
            break
    return fitted


if __name__ == "__main__":
    rows = read_attribute_rows(Path(sys.argv[1]))
    shipped = Path(str(files("vitpe.faces").joinpath(STATISTICS_FILE)))
    for path, table in ((shipped, fit_statistics(rows)), (KNOWN_FILE, measure_statistics(rows))):
        write_atomic(path, (json.dumps(table) + "\n").encode())
