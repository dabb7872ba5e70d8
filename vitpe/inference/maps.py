"""Where an answer comes from: a value for each patch of the image. Torch-free, but for the gradients of an engine.

"occlusion" (vitpe.model.occlusion) is exact, costs N + 1 passes of the model whatever the number of attributes, and is
the more faithful one: see tests/benchmarks/faithfulness.py. "relevance" (vitpe.model.relevance) costs a pass, and one
back for each attribute. "attention" shows where attribute queries look (vitpe.model.pooling), whatever the answer.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.config import ModelConfig
from vitpe.data.images import Pixels
from vitpe.errors import UsageError
from vitpe.inference.engines import Engine
from vitpe.inference.predictions import AnswerMaps, MapMethod, Prediction
from vitpe.model.occlusion import occlusion
from vitpe.runs.metadata import CheckpointInfo

NUM_MAPS: Final = 8
"""Of one image, where neither attributes nor a number of them is asked for."""


@dataclass(frozen=True)
class MapOptions:
    """count: of how many attributes of an image, those that are most probable; None for all that are listed."""

    method: MapMethod = "occlusion"
    count: int | None = None

    @property
    def needs_torch(self) -> bool:
        """For gradients, and for what the numpy forward pass does not give."""
        return self.method != "occlusion"

    def check(self, model: ModelConfig) -> None:
        """UsageError for a model that has no such maps."""
        check_grid(model)
        if self.method == "attention" and model.global_pool != "queries":
            raise UsageError(
                "--map-method attention, and the model has no attribute queries",
                "choose occlusion or relevance; --set model.global_pool=queries trains a model that has them",
            )

    def num_passes(self, model: ModelConfig) -> int:
        """How many times the model runs for an image, its answer included."""
        return 2 + model.num_patches


def check_grid(model: ModelConfig) -> None:
    """UsageError for a model with one patch."""
    if model.num_patches == 1:
        raise UsageError(
            "the model sees its image as one patch, so there is no map", "use a model with a grid of patches"
        )


def explain(
    engine: Engine, info: CheckpointInfo, image: Pixels, prediction: Prediction, options: MapOptions
) -> AnswerMaps:
    """Maps of a prediction's answers, in the order in which it lists them; with options.count the most probable first.

    image: uint8 (3, H, W), of which the prediction is. Raises TypeError where an engine without gradients is to give
    them.
    """
    names = list(prediction.probs)
    if options.count is not None:
        names = sorted(names, key=lambda name: -prediction.probs[name])[: options.count]
    columns = [info.attributes.index(name) for name in names]
    signs = np.array([1.0 if name in prediction.present else -1.0 for name in names])
    values = map_values(engine, info.model, image, columns, signs, options.method)
    return AnswerMaps(options.method, image, dict(zip(names, values, strict=True)))


def map_values(
    engine: Engine,
    model: ModelConfig,
    image: Pixels,
    columns: Sequence[int],
    signs: NDArray[np.float64],
    method: MapMethod,
) -> NDArray[np.float64]:
    """(K, rows, columns) for the attributes of these numbers; signs (K,): 1 for what speaks for "present", -1 for what
    speaks for "absent".

    Of "occlusion" by how much the logit falls (or, for "absent", rises) without the patch; of "relevance" at least 0,
    without a unit; of "attention" shares, which have no sign.
    """
    if method == "occlusion":
        values = signs[:, None] * occlusion(engine.kept_logits(image), model.num_patches)[list(columns)]
    else:
        from vitpe.inference.torch_engine import TorchEngine

        if not isinstance(engine, TorchEngine):
            raise TypeError(f"only torch has maps by {method}")
        by_signs = method == "relevance"
        values = engine.relevance([image], columns, signs[None]) if by_signs else engine.attention([image], columns)
    return values.reshape(len(columns), *model.grid_size)
