"""Ways to take position from a model without training it anew: its position embeddings, changed. Torch-free.

The embeddings are those of a grid of patches; the class token's own is left as it is.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float32]
"""(Gh, Gw, D)"""
SEED: Final = 0
NUM_DRAWS: Final = 3


@dataclass(frozen=True)
class Change:
    """name: in tables. meaning: in a line. apply: embeddings → embeddings; None where the image is changed instead.

    num_draws: how often it is drawn, where it is random.
    """

    name: str
    meaning: str
    apply: Callable[[Embeddings, np.random.Generator], Embeddings] | None
    num_draws: int = 1


def shuffled(embeddings: Embeddings, rng: np.random.Generator) -> Embeddings:
    """Each patch gets another's: a random order, the same for all images."""
    flat = embeddings.reshape(-1, embeddings.shape[-1])
    return flat[rng.permutation(len(flat))].reshape(embeddings.shape)


def averaged(embeddings: Embeddings, axes: tuple[int, ...]) -> Embeddings:
    """The mean over these axes of the grid, everywhere along them."""
    mean = embeddings.mean(axis=axes, keepdims=True, dtype=np.float64).astype(embeddings.dtype)
    return np.broadcast_to(mean, embeddings.shape).copy()


CHANGES: Final = (
    Change("zeroed", "no patch has an embedding", lambda pos, rng: np.zeros_like(pos)),
    Change("averaged", "every patch has the mean of all", lambda pos, rng: averaged(pos, (0, 1))),
    Change("rows only", "every patch has its row's mean: columns are alike", lambda pos, rng: averaged(pos, (1,))),
    Change("columns only", "every patch has its column's mean: rows are alike", lambda pos, rng: averaged(pos, (0,))),
    Change("mirrored", "left and right are exchanged", lambda pos, rng: pos[:, ::-1].copy()),
    Change("shuffled", "every patch has another's, the same in all images", shuffled, NUM_DRAWS),
    Change("image shuffled", "embeddings stay, the patches of each image change places", None),
)
"""What `probe` measures, in the order in which it is shown. A ViT without a stem sees a set of patches with their
embeddings, so that to shuffle the ones or the others is the same in kind; a stem sees the shuffled image, too."""
