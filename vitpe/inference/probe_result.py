"""What `probe` finds out about a checkpoint. Torch-free."""

from dataclasses import dataclass

from vitpe.inference.predictions import EvalInfo
from vitpe.metrics.ablation import Ablations
from vitpe.metrics.position import Estimates
from vitpe.metrics.scores import FloatArray


@dataclass(frozen=True)
class LayerProbe:
    """What the layers of a model know of place; layer 0 is before the first of L blocks, layer l after block l.

    places: (1 + L, 2) shares of the patches' tokens, in images that were held out, whose row and whose column a linear
    map tells, fitted on other images' tokens of that layer. places_without: the same of the model without position
    embeddings, which knows only what is usually seen where. num_fit, num_held_out: of images.
    distances: (L, h) how far each head of each block looks, in patches: the mean distance of patches from the patch
    that looks, weighted by attention (arXiv:2010.11929, Figure 7, right). uniform_distance: what it would be if each
    patch looked at all alike.
    position_attention: (h, N, N) of the first block where every patch has the same content, the mean of all, and only
    the embeddings differ; rows sum to 1.
    """

    num_fit: int
    num_held_out: int
    places: Estimates
    places_without: Estimates
    distances: Estimates
    uniform_distance: float
    position_attention: FloatArray


@dataclass(frozen=True)
class PositionProbe:
    """info: which checkpoint, on which images. grid_size: (rows, columns) of patches.

    ablations: its scores with its position embeddings, and by the name of each of `positions.CHANGES` without.
    """

    info: EvalInfo
    grid_size: tuple[int, int]
    ablations: Ablations
    layers: LayerProbe
