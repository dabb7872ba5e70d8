"""What each of several workers has after the same work: python -m tests.helpers.ranks FOLDER

Each writes FOLDER/RANK.safetensors. See tests/training/test_ranks.py, which does the same alone and compares.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor, nn

from vitpe.config import ModelConfig
from vitpe.data.batches import Batches
from vitpe.data.folds import SomeSamples
from vitpe.data.samples import Samples
from vitpe.data.storage import ImageStore, choose_store
from vitpe.launch import read_launch
from vitpe.model.inputs import PixelClassifier
from vitpe.model.vit import VisionTransformer
from vitpe.training.decoding import open_together
from vitpe.training.muon import BatchedMuon
from vitpe.training.scoring import classify_together, parts
from vitpe.training.workers import Workers, joined

SHAPES = ((48, 16), (16, 16), (64, 16), (16, 64), (48, 16), (16, 16), (24, 40))
FEW = SHAPES[:1]
"""Fewer matrices than workers: some have nothing to do."""
NUM_SCORED = 150
"""Ten batches, the last of which is smaller."""
NUM_DECODED = 200


def train_by_muon(workers: Workers, shapes: Sequence[tuple[int, int]], nesterov: bool = True) -> dict[str, Tensor]:
    """Weights and states after some updates with gradients that are the same for all."""
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    muon = BatchedMuon(weights, workers, lr=0.02, weight_decay=0.1, nesterov=nesterov)
    for _ in range(3):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        muon.step()
    made = {f"weight {number}": weight.detach() for number, weight in enumerate(weights)}
    return made | {f"state {number}": muon.state[weight]["momentum_buffer"] for number, weight in enumerate(weights)}


class NoisyImages(Samples):
    """Images of noise, each always the same."""

    source, attributes, stored_size = "noise", ("One", "Two", "Three"), (34, 34)

    def __init__(self, num_images: int) -> None:
        self.num_read = 0
        self.names = [str(number) for number in range(num_images)]
        self.labels = np.random.default_rng(0).integers(0, 2, (num_images, 3), dtype=np.uint8)

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        self.num_read += len(indices)
        return np.stack(
            [np.random.default_rng(i).integers(0, 256, (3, *self.stored_size), dtype=np.uint8) for i in indices]
        )


def score(workers: Workers, num_images: int, batch_size: int = 16) -> dict[str, Tensor]:
    """What a model with weights at random answers of the images of all workers."""
    torch.manual_seed(0)
    config = ModelConfig(img_size=(32, 32), patch_size=16, embed_dim=32, depth=2, num_heads=2, num_classes=3)
    model = VisionTransformer(config).eval()
    nn.init.normal_(model.head.weight)
    samples = NoisyImages(num_images)
    part = parts(num_images, batch_size, workers.world_size)[workers.rank]
    store = ImageStore(SomeSamples(samples, np.arange(part.start, part.stop)), torch.device("cpu"))
    batches = Batches(store, config.img_size, batch_size) if part else None
    logits, labels = classify_together(PixelClassifier(model, (0.5,) * 3, (0.3,) * 3), batches, 3, workers)
    return {"logits": torch.from_numpy(logits), "labels": torch.from_numpy(labels)}


def decode(workers: Workers, where: str | None = None, num_images: int = NUM_DECODED) -> dict[str, Tensor]:
    """Crops of images that each worker needs, and how many all have read. where: None for where they fit."""
    samples, device = NoisyImages(num_images), torch.device("cpu")
    store = open_together(samples, device, where or choose_store(samples, device), workers)
    assert store.where == "device"
    corner, no_flip = np.zeros(num_images, np.int64), np.zeros(num_images, bool)
    batch = store.crop(np.arange(num_images), corner, corner, no_flip, (32, 32))
    num_read = workers.all_gather(torch.tensor(samples.num_read)).sum()
    return {"images": batch.images.contiguous(), "labels": batch.labels, "number": num_read}


def do_all(workers: Workers) -> dict[str, Tensor]:
    """What is compared, by name."""
    done = {
        "many": train_by_muon(workers, SHAPES),
        "few": train_by_muon(workers, FEW),
        "plain momentum": train_by_muon(workers, SHAPES, nesterov=False),
        "scores": score(workers, NUM_SCORED),
        "few scores": score(workers, 5),
        "decoded": decode(workers, "device"),
        "decoded where it fits": decode(workers),
        "few decoded": decode(workers, "device", num_images=1),
    }
    return {f"{what}: {name}": value for what, values in done.items() for name, value in values.items()}


def main() -> None:
    with joined(read_launch(), print) as workers:
        lines = workers.all_lines(["all", *(f"of {workers.rank}, line {n}\nétc. \udc80" for n in range(workers.rank))])
        save_file(do_all(workers), Path(sys.argv[1]) / f"{workers.rank}.safetensors", {"lines": json.dumps(lines)})


if __name__ == "__main__":
    main()
