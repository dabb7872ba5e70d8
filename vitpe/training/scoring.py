"""Scoring on valid while training: each worker has a part of the images, and the first gets all answers."""

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from vitpe.data.batches import Batches
from vitpe.model.inputs import classify_split
from vitpe.training.workers import Workers


def parts(num_images: int, batch_size: int, world_size: int) -> list[range]:
    """The images that each worker scores, in order, by rank; some have none where there are few.

    In whole batches, those that one worker would have: products of other sizes may be rounded otherwise.
    """
    num_batches = -(-num_images // batch_size)
    first_batches = [-(-num_batches * rank // world_size) for rank in range(world_size + 1)]
    bounds = [min(num_images, batch_size * first) for first in first_batches]
    return [range(*bound) for bound in pairwise(bounds)]


def classify_together(
    classifier: nn.Module,
    batches: Batches | None,
    num_attributes: int,
    workers: Workers,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """(logits (n, A) float64, labels (n, A)) of all workers' images, by rank, in each of them.

    batches: of this worker's images, None where it has none. The model must be in eval mode.
    """
    logits, labels = np.empty((0, num_attributes)), np.empty((0, num_attributes), np.uint8)
    if batches is not None:
        logits, labels = classify_split(classifier, batches.once(), on_progress)
    all_logits, all_labels = (workers.all_gather_rows(torch.from_numpy(values)).numpy() for values in (logits, labels))
    return all_logits, all_labels
