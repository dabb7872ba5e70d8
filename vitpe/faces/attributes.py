"""The 40 labels of a drawn face, with CelebA's frequencies and dependencies.

The labels come from a chain of logistic regressions: attribute k of the chain is 1 with probability
sigmoid(bias_k + Σ_{j<k} weight_kj · attribute_j) (the logistic autoregressive belief network of Frey, 1998, §4.3).
It matches CelebA's marginals and pairwise correlations, and learns "never together" (Bald and Bangs) as a large
negative weight. attribute_statistics.json holds the chain; tests/tools/attribute_statistics.py derives it again.
"""

import json
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.celeba import ATTRIBUTES

STATISTICS_FILE: Final = "attribute_statistics.json"
WEIGHT_STEP: Final = 1 / 64
"""Weights are whole multiples of this, so that a sum of them is exact and the labels do not depend on its order."""


@dataclass(frozen=True)
class AttributeStatistics:
    """How labels are drawn that are distributed as CelebA's; arrays are in ATTRIBUTES' order unless said otherwise.

    redraw_probs: (A,) how often what is seen is redrawn instead of following the label.
    chain: (A,) attribute drawn k-th.
    weights: (A, A) row k: the k-th drawn attribute's weight on each attribute drawn before it (chain order).
    biases: (A,) in chain order.
    """

    redraw_probs: NDArray[np.float64]
    chain: NDArray[np.int64]
    weights: NDArray[np.float64]
    biases: NDArray[np.float64]


@cache
def attribute_statistics() -> AttributeStatistics:
    """The shipped statistics."""
    table = json.loads(files("vitpe.faces").joinpath(STATISTICS_FILE).read_text("utf-8"))
    size = len(ATTRIBUTES)
    weights = np.zeros((size, size))
    weights[np.tril_indices(size, -1)] = np.array(table["weights_per_step"]) * WEIGHT_STEP
    return AttributeStatistics(
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
