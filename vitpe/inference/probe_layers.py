"""What a model's layers know of place: linear probes of its tokens, and how far and where its attention looks."""

from collections.abc import Callable
from typing import Final

import numpy as np
import torch
from torch import Tensor

from vitpe.data.batches import Batches
from vitpe.data.samples import Samples
from vitpe.data.storage import ImageStore
from vitpe.errors import VitpeError
from vitpe.inference.positions import SEED
from vitpe.inference.probe_result import LayerProbe
from vitpe.metrics.position import Estimates, PlaceProbe, patch_distances
from vitpe.metrics.scores import FloatArray
from vitpe.model.observe import Observer
from vitpe.model.vit import VisionTransformer
from vitpe.runs.metadata import CheckpointInfo

NUM_IMAGES: Final = 512
"""Half of them to fit the linear probes on, half to score them on. arXiv:2010.11929 measured distances on 128."""
_BATCH_SIZE: Final = 32


def probe_layers(
    whole: VisionTransformer,
    without: VisionTransformer,
    info: CheckpointInfo,
    samples: Samples,
    device: torch.device,
    start: Callable[[str, int], Callable[[int], None]],
) -> LayerProbe:
    """whole, without: the model with its position embeddings and with none, on the device; both are changed.

    VitpeError when there is but one image.
    """
    count = min(NUM_IMAGES, len(samples.names))
    if count < 2:
        raise VitpeError("one image alone: a linear probe is fitted on some and scored on others", "give more images")
    num_fit = count // 2
    batches = Batches(ImageStore(samples, device, "disk"), info.model.img_size, min(_BATCH_SIZE, num_fit))
    watched = [_Watched(Observer(model, info.mean, info.std), info) for model in (whole, without)]
    on_progress = start("probing layers", count)
    seen = 0
    for batch in batches.sample(count, SEED):
        for each in watched:
            each.see(batch.images, fit=seen < num_fit)
        seen += len(batch.labels)
        on_progress(len(batch.labels))
    first, second = watched
    places = first.places()
    return LayerProbe(
        num_fit=count - len(places),
        num_held_out=len(places),
        places=Estimates.of(places),
        places_without=Estimates.of(second.places()),
        distances=Estimates.of(np.concatenate(first.distances)),
        uniform_distance=float(patch_distances(info.model.grid_size).mean()),
        position_attention=first.position_attention(),
    )


class _Watched:
    """One model, and what was seen of it."""

    def __init__(self, observer: Observer, info: CheckpointInfo) -> None:
        config = info.model
        self._observer = observer
        self._probes = [PlaceProbe(config.grid_size, config.embed_dim) for _ in range(1 + config.depth)]
        self._weights: list[Tensor] = []
        self._far = observer.model.cls_token.new_tensor(patch_distances(config.grid_size))
        self._sum_of_inputs = np.zeros(config.embed_dim)
        self._num_inputs = 0
        self._scores: list[FloatArray] = []
        self.distances: list[FloatArray] = []

    def see(self, images: Tensor, fit: bool) -> None:
        """One batch; after the first one that is not to fit on, no other may be."""
        if not fit and not self._weights:
            self._weights = [self._far.new_tensor(probe.solve()) for probe in self._probes]
        scores: list[FloatArray] = []
        distances: list[Tensor] = []

        def on_layer(layer: int, tokens: Tensor, attention: Tensor | None) -> None:
            if attention is not None:
                distances.append((attention * self._far).sum(dim=-1).mean(dim=-1))
            if fit:
                flat = tokens.flatten(0, 1)
                sums = tokens.sum(dim=0).cpu().numpy()
                self._probes[layer].add((flat.T @ flat).cpu().numpy(), sums, len(tokens))
                if layer == 0:
                    self._sum_of_inputs += sums.sum(axis=0, dtype=np.float64)
                    self._num_inputs += len(flat)
            else:
                weights = self._weights[layer]
                outputs = tokens @ weights[:-1] + weights[-1]
                scores.append(self._probes[layer].score(outputs.cpu().double().numpy()))

        self._observer.watch(images, on_layer)
        self.distances.append(torch.stack(distances, dim=1).cpu().double().numpy())
        if scores:
            self._scores.append(np.stack(scores, axis=1))

    def places(self) -> FloatArray:
        """(n, 1 + depth, 2) shares of the tokens of each image held out whose row and column are told."""
        return np.concatenate(self._scores)

    def position_attention(self) -> FloatArray:
        """(h, N, N), see `LayerProbe`."""
        positions = self._observer.model.position_table()[0, 1:].detach()
        content = positions.new_tensor(self._sum_of_inputs / self._num_inputs) - positions.mean(dim=0)
        return self._observer.attention_of(content + positions).cpu().double().numpy()
