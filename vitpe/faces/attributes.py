"""The 40 labels of a drawn face, with CelebA's frequencies and dependencies.

The labels come from a chain of logistic regressions: attribute k of the chain is 1 with probability
sigmoid(bias_k + Σ_{j<k} weight_kj · attribute_j) (the logistic autoregressive belief network of Frey, 1998, §4.3).
It matches CelebA's marginals and pairwise correlations, and learns "never together" (Bald and Bangs) as a large
negative weight. Only attribute_statistics.json ships; `python -m vitpe.faces.attributes list_attr_celeba.txt`
derives it again.
"""

import json
import sys
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.celeba import ATTRIBUTES
from vitpe.files import write_atomic

STATISTICS_FILE: Final = "attribute_statistics.json"
WEIGHT_STEP: Final = 1 / 64
"""Weights are whole multiples of this, so that a sum of them is exact and the labels do not depend on its order."""

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


@dataclass(frozen=True)
class AttributeStatistics:
    """What is known about CelebA's labels; arrays are in ATTRIBUTES' order unless said otherwise.

    num_images: rows the statistics were measured on.
    marginals: (A,) frequency of each attribute, in [0, 1].
    correlations: (A, A) Pearson correlation of each pair, rounded to 3 decimals.
    redraw_probs: (A,) how often what is seen is redrawn instead of following the label.
    chain: (A,) attribute drawn k-th.
    weights: (A, A) row k: the k-th drawn attribute's weight on each attribute drawn before it (chain order).
    biases: (A,) in chain order.
    """

    num_images: int
    marginals: NDArray[np.float64]
    correlations: NDArray[np.float64]
    redraw_probs: NDArray[np.float64]
    chain: NDArray[np.int64]
    weights: NDArray[np.float64]
    biases: NDArray[np.float64]


@cache
def attribute_statistics() -> AttributeStatistics:
    """The shipped statistics."""
    table = json.loads(files("vitpe.faces").joinpath(STATISTICS_FILE).read_text("utf-8"))
    size = len(ATTRIBUTES)
    correlations = np.eye(size)
    correlations[np.triu_indices(size, 1)] = np.array(table["correlations_per_mille"]) / 1000
    weights = np.zeros((size, size))
    weights[np.tril_indices(size, -1)] = np.array(table["weights_per_step"]) * WEIGHT_STEP
    return AttributeStatistics(
        num_images=table["num_images"],
        marginals=np.array(table["marginals"]),
        correlations=np.triu(correlations) + np.triu(correlations, 1).T,
        redraw_probs=np.array(table["redraw_probs"]),
        chain=np.array([ATTRIBUTES.index(name) for name in table["chain"]]),
        weights=weights,
        biases=np.array(table["biases_per_step"]) * WEIGHT_STEP,
    )


def uniforms(seed: int, stream: int, indices: NDArray[np.int64], num: int) -> NDArray[np.float64]:
    """(len(indices), num) numbers in [0, 1): row i depends on (seed, stream, indices[i]) and nothing else.

    SplitMix64 (Steele, Lea & Flood, OOPSLA 2014) with index · num + column as its counter.
    """
    start = _mix(_mix(np.array([seed], np.int64).astype(np.uint64)) + np.uint64(stream))
    state = (indices[:, None] * num + np.arange(num)).astype(np.uint64)
    state *= np.uint64(0x9E3779B97F4A7C15)
    state += start
    bits = _mix(state) >> np.uint64(11)
    return bits.astype(np.float64) * 2.0**-53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def draw_attributes(
    label_uniforms: NDArray[np.float64], noise_uniforms: NDArray[np.float64]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Labels and what is seen of them, both (n, A) of 0 and 1 in ATTRIBUTES' order.

    label_uniforms: (n, A) in [0, 1), one per label. noise_uniforms: (n, 2A): whether each attribute is redrawn, and
    with what. A redrawn attribute is drawn once more given the labels before it in the chain: that is label noise
    which keeps to what is plausible (no goatees on women).
    """
    statistics = attribute_statistics()
    num_images, size = label_uniforms.shape
    labels = np.zeros((size, num_images))
    redrawn = np.zeros((size, num_images))
    for k in range(size):
        logits = statistics.biases[k] + statistics.weights[k, :k] @ labels[:k]
        probs = 1 / (1 + np.exp(-logits))
        labels[k] = label_uniforms[:, k] < probs
        redrawn[k] = noise_uniforms[:, size + k] < probs
    order = np.argsort(statistics.chain)
    labels, redrawn = labels[order].T, redrawn[order].T
    seen = np.where(noise_uniforms[:, :size] < statistics.redraw_probs, redrawn, labels)
    return labels.astype(np.uint8), seen.astype(np.uint8)


def read_attribute_rows(list_attr: Path) -> NDArray[np.uint8]:
    """(n, A) 0/1 of CelebA's own list_attr_celeba.txt (count, header, rows of -1 and 1)."""
    rows = [line.split()[1:] for line in list_attr.read_text("utf-8").splitlines()[2:] if line.strip()]
    return (np.array(rows, dtype=np.int8) > 0).astype(np.uint8)


def fit_statistics(labels: NDArray[np.uint8]) -> dict[str, Any]:
    """What attribute_statistics.json holds, from (n, A) labels. About a minute for CelebA's 202,599 rows."""
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
    correlations = np.asarray(np.corrcoef(labels.T.astype(np.float64)))[np.triu_indices(size, 1)]
    return {
        "num_images": len(labels),
        "marginals": np.round(labels.mean(axis=0), 4).tolist(),
        "redraw_probs": np.round(np.minimum(errors / flips, _MOST_REDRAWN), 3).tolist(),
        "chain": [ATTRIBUTES[i] for i in chain],
        "biases_per_step": _in_steps(biases),
        "weights_per_step": _in_steps(weights[np.tril_indices(size, -1)]),
        "correlations_per_mille": np.round(correlations * 1000).astype(int).tolist(),
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
    fitted_table = fit_statistics(read_attribute_rows(Path(sys.argv[1])))
    write_atomic(Path(__file__).with_name(STATISTICS_FILE), (json.dumps(fitted_table) + "\n").encode())
