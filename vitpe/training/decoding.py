"""The images that all workers train on, decoded once by all of them together, not by each."""

from itertools import pairwise

import torch

from vitpe.data.samples import OnProgress, Samples
from vitpe.data.storage import STORES, ImageStore
from vitpe.training.workers import Workers


def open_together(
    samples: Samples, device: torch.device, where: str, workers: Workers, on_progress: OnProgress | None = None
) -> ImageStore:
    """The store of a split, of which every worker needs every image. Where they are kept decoded, each worker decodes
    or draws a part and sends it to the others. where: one of STORES; where workers differ, what takes the least room.
    """
    where = STORES[workers.all_max(STORES.index(where))[0]]
    bounds = [len(samples.names) * rank // workers.world_size for rank in range(workers.world_size + 1)]
    parts = [range(*bound) for bound in pairwise(bounds)]
    store = ImageStore(samples, device, where, on_progress, parts[workers.rank])
    if store.decoded is not None:
        workers.all_max(0)  # the wait for the slowest is longer than a GPU's would be allowed to be
        for rank, part in enumerate(parts):
            if part:
                workers.broadcast(store.decoded[part.start : part.stop], rank)
    return store
