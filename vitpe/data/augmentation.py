"""What training does to its images at random: their order, crops, mirroring, and which patches are kept.

Every draw is a function of (seed, round, index) or (seed, step) alone, whatever the threads, the workers, or where
a run was resumed.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DEPTH, PATCHES, GROUPS = range(3)
"""What is drawn for: stochastic depth, patch dropout, the order within a group of images."""


@dataclass(frozen=True)
class Augmentation:
    """flip: whether each image is mirrored at random. patch_keep: the share of each image's `num_patches` patches that
    is kept (patch dropout, arXiv:2208.07220), 1 for all. num_branches: residual branches with stochastic depth
    (arXiv:1603.09382), 0 for none.
    """

    seed: int = 0
    flip: bool = True
    patch_keep: float = 1.0
    num_patches: int = 0
    num_branches: int = 0

    def keep(self, step: int, batch_size: int) -> Tensor | None:
        """(batch_size, K) distinct patch numbers for each image of the step's batch, K = patch_keep · num_patches
        rounded, at least 1, in random order; None where all patches are kept.
        """
        if self.patch_keep == 1:
            return None
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, PATCHES))
        num_kept = max(1, round(self.patch_keep * self.num_patches))
        return torch.rand(batch_size, self.num_patches, generator=generator).argsort(dim=1)[:, :num_kept]

    def depth(self, step: int, batch_size: int) -> Tensor | None:
        """(batch_size, num_branches) uniform in [0, 1): by which each image of the step's batch leaves out branches.
        None where there are none.
        """
        if not self.num_branches:
            return None
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, DEPTH))
        return torch.rand(batch_size, self.num_branches, generator=generator)


def shuffled_order(seed: int, epoch: int, num_images: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(indices, rounds), (num_images,) each: the epoch's permutation of all images, and how often each had come before.

    A function of its arguments alone.
    """
    return np.random.default_rng([seed, epoch]).permutation(num_images), np.full(num_images, epoch)


def step_seed(seed: int, step: int, purpose: int, *more: int) -> int:
    """64 bits for what a step draws, in which each of these non-negative integers counts: neighbours are unrelated."""
    return int(np.random.SeedSequence((seed, step, purpose, *more)).generate_state(1, np.uint64)[0])


def random_crops(
    seed: int,
    rounds: int | NDArray[np.int64],
    indices: NDArray[np.int64],
    stored_size: tuple[int, int],
    crop_size: tuple[int, int],
    flip: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.bool_]]:
    """(top, left, flipped) for each index, uniform over all positions; a function of (seed, round, index) alone.

    rounds: how often each image has come before, so that it looks another way each time.
    """
    key = _mix(np.uint64(seed % (1 << 64)) + _mix(np.full(len(indices), rounds, dtype=np.uint64)))
    bits = _mix(key + indices.astype(np.uint64))
    top = (bits & np.uint64(0xFFFF)) % np.uint64(stored_size[0] - crop_size[0] + 1)
    left = ((bits >> np.uint64(16)) & np.uint64(0xFFFF)) % np.uint64(stored_size[1] - crop_size[1] + 1)
    flipped = ((bits >> np.uint64(32)) & np.uint64(1)).astype(bool) & flip
    return top.astype(np.int64), left.astype(np.int64), flipped


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """SplitMix64's output function (Steele, Lea & Flood, OOPSLA 2014): each bit of x moves each bit of the result."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
