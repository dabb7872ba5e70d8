"""Where a model looks on average: the mean of the maps of a split's images, by occlusion."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch

from vitpe.data.images import center_crop
from vitpe.data.samples import Samples
from vitpe.inference.eval_result import EvalResult, MeanMaps
from vitpe.inference.torch_engine import kept_logits
from vitpe.model.inputs import predicting_classifier, stack_images
from vitpe.model.occlusion import occlusion
from vitpe.model.vit import VisionTransformer

MAX_IMAGES: Final = 256
"""Of a larger split a random sample, the same each time: for an image the model runs once for each patch."""
_SETS_AT_ONCE: Final = 64


def mean_maps(
    model: VisionTransformer,
    result: EvalResult,
    samples: Samples,
    device: torch.device,
    start: Callable[[str, int], Callable[[int], None]],
) -> MeanMaps:
    """Of the answers in `result`, which are those of the model on the samples. start: as EvalReporter's."""
    info, total = result.info, len(samples.names)
    chosen = np.sort(np.random.default_rng(0).permutation(total)[:MAX_IMAGES])
    classifier = predicting_classifier(model, info.mean, info.std, device)
    signs = np.where(result.probs() >= result.thresholds(), 1.0, -1.0)
    found = np.zeros((len(chosen), len(result.columns), info.model.num_patches))
    pixels = np.zeros((3, *info.model.img_size))
    on_progress = start("maps", len(chosen))
    for row, number in enumerate(chosen.tolist()):
        image = center_crop(samples.read([number])[0], info.model.img_size)
        logits_of = kept_logits(classifier, stack_images([image]).to(device), _SETS_AT_ONCE)
        found[row] = signs[number][:, None] * occlusion(logits_of, info.model.num_patches)[list(result.columns)]
        pixels += image
        on_progress(1)
    mean, spread = (part.reshape(-1, *info.model.grid_size) for part in (found.mean(axis=0), found.std(axis=0)))
    # The n in place of n - 1 would make a single image's error 0, as if it were sure.
    error = spread / np.sqrt(len(chosen) - 1) if len(chosen) > 1 else np.full_like(spread, np.inf)
    return MeanMaps(mean, error, np.rint(pixels / len(chosen)).astype(np.uint8), len(chosen))
