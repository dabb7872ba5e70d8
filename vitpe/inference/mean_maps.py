"""Where a model looks on average: the mean of the maps of a split's images."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from vitpe.data.images import center_crop
from vitpe.data.samples import Samples
from vitpe.inference.eval_result import EvalResult, MeanMaps
from vitpe.inference.predictions import MapMethod
from vitpe.inference.torch_engine import kept_logits
from vitpe.model.inputs import PixelClassifier, predicting_classifier, stack_images
from vitpe.model.occlusion import occlusion
from vitpe.model.relevance import AttentionRelevance
from vitpe.model.vit import VisionTransformer
from vitpe.runs.metadata import CheckpointInfo

MAX_IMAGES: Final = 256
"""Of a larger split a random sample, the same each time: occlusion runs the model once for each patch of each image."""
_SETS_AT_ONCE: Final = 64
_IMAGES_AT_ONCE: Final = 8
Maps = Callable[[torch.Tensor, NDArray[np.float64]], NDArray[np.float64]]
"""uint8 images (B, 3, H, W) on the device, signs (B, K) of their answers → maps (B, K, N); see `inference.maps`."""


def mean_maps(
    model: VisionTransformer,
    result: EvalResult,
    samples: Samples,
    device: torch.device,
    start: Callable[[str, int], Callable[[int], None]],
    method: MapMethod,
) -> MeanMaps:
    """Of the answers in `result`, which are those of the model on the samples. start: as EvalReporter's."""
    info, total = result.info, len(samples.names)
    chosen = np.sort(np.random.default_rng(0).permutation(total)[:MAX_IMAGES])
    maps_of = _maps_of(model, info, device, list(result.columns), method)
    signs = np.where(result.probs() >= result.thresholds(), 1.0, -1.0)
    found = np.zeros((len(chosen), len(result.columns), info.model.num_patches))
    pixels = np.zeros((3, *info.model.img_size))
    on_progress = start("maps", len(chosen))
    for first in range(0, len(chosen), _IMAGES_AT_ONCE):
        numbers = chosen[first : first + _IMAGES_AT_ONCE]
        images = [center_crop(samples.read([number])[0], info.model.img_size) for number in numbers.tolist()]
        found[first : first + len(numbers)] = maps_of(stack_images(images).to(device), signs[numbers])
        pixels += np.sum(images, axis=0, dtype=np.float64)
        on_progress(len(numbers))
    if method != "occlusion":  # which are never below 0
        found -= found.mean(axis=2, keepdims=True)
    mean, spread = (part.reshape(-1, *info.model.grid_size) for part in (found.mean(axis=0), found.std(axis=0)))
    # The n in place of n - 1 would make a single image's error 0, as if it were sure.
    error = spread / np.sqrt(len(chosen) - 1) if len(chosen) > 1 else np.full_like(spread, np.inf)
    return MeanMaps(mean, error, np.rint(pixels / len(chosen)).astype(np.uint8), len(chosen), method)


def _maps_of(
    model: VisionTransformer, info: CheckpointInfo, device: torch.device, columns: list[int], method: MapMethod
) -> Maps:
    """Of the attributes with these numbers."""
    if method == "relevance":
        relevance = AttentionRelevance(model, info.mean, info.std)
        return lambda images, signs: (
            relevance(images, columns, torch.from_numpy(signs).float().to(device)).cpu().double().numpy()
        )
    if method == "attention":
        looking = PixelClassifier(model, info.mean, info.std)

        def looks(images: torch.Tensor, signs: NDArray[np.float64]) -> NDArray[np.float64]:
            with torch.inference_mode():
                return looking.attribute_attention(images)[:, columns].cpu().double().numpy()

        return looks
    classifier = predicting_classifier(model, info.mean, info.std, device)

    def falls(images: torch.Tensor, signs: NDArray[np.float64]) -> NDArray[np.float64]:
        kept = (kept_logits(classifier, image[None], _SETS_AT_ONCE) for image in images)
        return signs[..., None] * np.stack([occlusion(each, info.model.num_patches)[columns] for each in kept])

    return falls
