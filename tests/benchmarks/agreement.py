"""How far apart the engines' answers are on real images: numpy and torch in float32, torch in bfloat16.

python -m tests.benchmarks.agreement CHECKPOINT CELEBA
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from vitpe.data.celeba import read_celeba
from vitpe.data.images import center_crop
from vitpe.device import computes_bfloat16
from vitpe.inference.engines import Engine, NumpyEngine
from vitpe.inference.torch_engine import TorchEngine
from vitpe.metrics.scores import score
from vitpe.metrics.thresholds import DEFAULT_THRESHOLD, sigmoid
from vitpe.runs.weights import load_arrays


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("celeba", type=Path)
    arguments = parser.parse_args()
    cpu = torch.device("cpu")
    weights, info = load_arrays(arguments.checkpoint)
    engines: dict[str, Engine] = {"torch": TorchEngine(weights, info, cpu), "numpy": NumpyEngine(weights, info)}
    if computes_bfloat16(cpu):
        engines["bfloat16"] = TorchEngine(weights, info, cpu, "bf16")
    samples = read_celeba(arguments.celeba, "valid", info.stored_size)
    logits = {name: np.empty(samples.labels.shape) for name in engines}
    for start in range(0, len(samples.names), 8):
        part = range(start, min(start + 8, len(samples.names)))
        crops = [center_crop(image, info.model.img_size) for image in samples.read(part)]
        for name, engine in engines.items():
            logits[name][start : part.stop] = engine.classify(crops)
    exact = sigmoid(logits["torch"])
    for name, found in logits.items():
        apart = np.abs(sigmoid(found) - exact)
        means = score(
            sigmoid(found), samples.labels, samples.attributes, np.full(len(samples.attributes), DEFAULT_THRESHOLD)
        ).means
        furthest = np.abs(found - logits["torch"]).max()
        print(
            f"{name:9} logits within {furthest:.1e}, probabilities within {apart.max():.1e} (mean {apart.mean():.1e});"
            f" accuracy {means['accuracy'].value:.4f},"
            f" mAP {means['average_precision'].value:.4f}; {len(found):,} images"
        )


if __name__ == "__main__":
    main()
