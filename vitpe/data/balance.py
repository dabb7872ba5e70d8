"""An order of training images in which groups of them come equally often, however large they are."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from vitpe.data.augmentation import GROUPS, step_seed

Indices = NDArray[np.int64]


def balanced_order(members: Sequence[Indices], seed: int, epoch: int, num_images: int) -> tuple[Indices, Indices]:
    """(indices, rounds), (num_images,) each: what the epoch trains on, and how often each image had come before.

    members: of each of the G groups, none of them empty. The epochs are cut from one endless series whose slot s holds
    slot s // G of group s % G; a group's slots hold its images, shuffled anew each time all of them were there. So over
    any number of epochs the groups differ by one image at most, and so do the images of a group. Within an epoch the
    slots are shuffled. A function of its arguments alone: an epoch needs none before it.
    """
    slots = np.arange(epoch * num_images, (epoch + 1) * num_images)
    group, place = slots % len(members), slots // len(members)
    indices, rounds = np.empty_like(slots), np.empty_like(slots)
    for number, images in enumerate(members):
        here = np.flatnonzero(group == number)
        rounds[here], position = np.divmod(place[here], len(images))
        for each in np.unique(rounds[here]).tolist():
            shuffled = np.random.default_rng(step_seed(seed, each, GROUPS, number)).permutation(images)
            now = rounds[here] == each
            indices[here[now]] = shuffled[position[now]]
    order = np.random.default_rng([seed, epoch]).permutation(num_images)
    return indices[order], rounds[order]
