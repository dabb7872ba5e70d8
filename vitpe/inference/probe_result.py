"""What `probe` finds out about a checkpoint. Torch-free."""

from dataclasses import dataclass

from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.ablation import Ablations


@dataclass(frozen=True)
class PositionProbe:
    """info: which checkpoint, on which images. grid_size: (rows, columns) of patches.

    ablations: its scores with its position embeddings, and by the name of each of `positions.CHANGES` without.
    """

    info: EvalInfo
    grid_size: tuple[int, int]
    ablations: Ablations
