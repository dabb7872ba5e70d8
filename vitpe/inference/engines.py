"""What runs the model for `predict`: numpy, which answers at once, or torch, which takes seconds to import.

Torch-free: torch is imported where a TorchEngine is made.
"""

import platform
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from vitpe.config import ModelConfig
from vitpe.data.images import Pixels
from vitpe.launch import num_cpus
from vitpe.model.numpy_forward import NumpyClassifier
from vitpe.model.occlusion import KeptLogits
from vitpe.model.shapes import tensor_shapes
from vitpe.runs.metadata import CheckpointInfo

# Medians on two cores of an AMD EPYC (Zen 4), one thread an image, of the presets tiny to base. On a processor of
# another speed all of them change alike, and what follows from them stays.
_IMPORT_S: Final = 3.1
"""For importing torch and torchvision."""
_DECODE_S: Final = 2.1e-4
"""By which torchvision decodes one of CelebA's JPEGs sooner than Pillow."""
_NUMPY_S: Final = 1.5e-11
"""A floating-point operation of a model's, in numpy."""
_TORCH_S: Final = 1.3e-11
"""And in torch."""


Answer = Callable[[], NDArray[np.float64]]
"""Waits for the logits (B, A) and gives them."""


class Engine(Protocol):
    """Decoded images → logits. Safe for threads."""

    @property
    def max_batch(self) -> int:
        """How many images to give it at once."""

    @property
    def in_workers(self) -> bool:
        """Whether each thread that decodes runs it too; else one thread alone should."""

    def classify(self, images: Sequence[Pixels]) -> NDArray[np.float64]:
        """uint8 (3, H, W) images of the model's size → (B, A) logits."""

    def start(self, images: Sequence[Pixels]) -> Answer:
        """As `classify`, of what a device may still compute when this comes back."""

    def kept_logits(self, image: Pixels) -> KeptLogits:
        """What is answered from some of the patches of an image."""


class NumpyEngine:
    """One image at a time, in the calling thread alone."""

    max_batch = 4
    in_workers = True

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], info: CheckpointInfo) -> None:
        """As from `load_arrays`."""
        self._classifier = NumpyClassifier(info.model, weights, info.mean, info.std)

    def classify(self, images: Sequence[Pixels]) -> NDArray[np.float64]:
        """(B, A)"""
        return np.array([self._classifier(image) for image in images], dtype=np.float64)

    def start(self, images: Sequence[Pixels]) -> Answer:
        """All is computed when this comes back."""
        logits = self.classify(images)
        return lambda: logits

    def kept_logits(self, image: Pixels) -> KeptLogits:
        """Of one image, on all cores."""
        tokens = self._classifier.embed(image)

        def one(kept: NDArray[np.intp]) -> NDArray[np.float32]:
            return self._classifier.classify(np.concatenate([tokens[:1], tokens[1:][kept]]), kept)

        def logits(keep: NDArray[np.intp]) -> NDArray[np.float64]:
            with ThreadPoolExecutor(num_cpus()) as pool:
                return np.array(list(pool.map(one, keep)), dtype=np.float64)

        return logits


class HandingOver:
    """Numpy until there is enough to do, then torch, which is loaded beside it. many: how much is enough."""

    def __init__(self, first: Engine, load: Callable[[], Engine], many: int) -> None:
        self.many = many
        self._engine = first
        self._load = load
        self._begun = False

    @property
    def max_batch(self) -> int:
        """Of the one that answers now."""
        return self._engine.max_batch

    @property
    def in_workers(self) -> bool:
        """Of the one that answers now."""
        return self._engine.in_workers

    def classify(self, images: Sequence[Pixels]) -> NDArray[np.float64]:
        """(B, A), by the one that answers now."""
        return self._engine.classify(images)

    def start(self, images: Sequence[Pixels]) -> Answer:
        """By the one that answers now."""
        return self._engine.start(images)

    def kept_logits(self, image: Pixels) -> KeptLogits:
        """Of the one that answers now."""
        return self._engine.kept_logits(image)

    def begin(self) -> None:
        """Load the second engine in a thread of its own; once it is there, it answers. May be called often."""
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._hand_over, name="vitpe-engine", daemon=True).start()

    def _hand_over(self) -> None:
        with suppress(Exception):  # then the first goes on, whose answers are the same
            self._engine = self._load()


def many_images(config: ModelConfig) -> int:
    """From how many images on torch, with the time that it takes to import, is done sooner than numpy."""
    operations = num_operations(config)
    gain = _DECODE_S + operations * (_NUMPY_S - (0 if _may_have_gpu() else _TORCH_S))
    return round(_IMPORT_S * num_cpus() / gain)


def num_operations(config: ModelConfig) -> int:
    """Floating-point operations of one image: two for each weight that a token meets, and the products of attention.
    Attribute queries are met folded (vitpe.model.pooling).
    """
    tokens = 1 + config.num_patches
    per_token = sum(
        shape[0] * int(np.prod(shape[1:]))
        for name, shape in tensor_shapes(config).items()
        if len(shape) > 1 and name.startswith(("blocks.", "patch_embed."))
    )
    if config.global_pool == "queries":
        per_token += 2 * config.num_heads * config.num_classes * config.embed_dim
        per_token -= 2 * config.embed_dim * config.mlp_dim  # of the last block, whose end one token alone reaches
    return 2 * tokens * per_token + 4 * config.depth * tokens * tokens * config.embed_dim


def _may_have_gpu() -> bool:
    """Whether there is a sign of one. Only torch knows."""
    return Path("/dev/nvidiactl").exists() or (sys.platform == "darwin" and platform.machine() == "arm64")
