"""What position embeddings are worth: `tiny` with other ones or none, on faces that lie as in training and otherwise.

    python -m tests.benchmarks.position_value CELEBA FOLDER [--epochs 4] [--seeds 0 1] [--variants learned none …]

Each variant is trained from each seed on the same batches, and each final model answers the same images of valid:
- aligned: as in training;
- shifted: each image moved by up to 20 % of its height and width, uniformly, by the same draws for all models; what
  comes into view from outside the photo has the mean colour;
- 160x128, 256x208: resized to that many pixels (height x width; antialiased, bilinear), on 10 x 8 and 16 x 13 patches.
  These are whole patches; the face is stretched by 6 % and 4 %. Embeddings are resampled as `vitpe train --init` does
  (rows and columns each by itself), and rotary coordinates stay those of the place in the image.

FOLDER keeps the runs and results.jsonl. What is there already is not made again, and a run that was cut goes on, so
that the command can be given again. Last comes a table in Markdown: accuracy at 0.5 / mAP, means over seeds.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from tests.benchmarks.runs import trained
from vitpe.data.celeba import read_celeba
from vitpe.data.samples import Samples, stored_size
from vitpe.metrics.scores import score
from vitpe.metrics.thresholds import sigmoid
from vitpe.model.convert import convert_state_dict
from vitpe.model.facts import ModelFacts
from vitpe.model.inputs import classify, predicting_classifier
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import load_checkpoint
from vitpe.runs.metadata import CheckpointInfo

CPU = torch.device("cpu")
VARIANTS = {
    "learned": ("learned", "none"),
    "sincos": ("sincos", "none"),
    "factorized": ("factorized", "none"),
    "none": ("none", "none"),
    "none, axial RoPE": ("none", "axial"),
    "none, mixed RoPE": ("none", "mixed"),
    "learned, mixed RoPE": ("learned", "mixed"),
}
"""Name → model.pos_embed, model.rope."""
MAX_SHIFT = 0.2  # of height and width
BATCH_SIZE = 64
Offsets = NDArray[np.int64]
View = Callable[[Tensor, Offsets], Tensor]
"""Stored images uint8 (B, 3, H, W) and their shifts (B, 2), down and right → what the model sees, uint8 too."""


def shifted(stored: Tensor, offsets: Offsets, size: tuple[int, int], fill: Tensor) -> Tensor:
    """The middle `size` (height, width) of each image after it moved down and right by its offset, in pixels.

    fill: uint8 (3,) colour of what was outside.
    """
    _, _, height, width = stored.shape
    out = fill.view(1, -1, 1, 1).repeat(len(stored), 1, *size)
    for image, view, (down, right) in zip(stored, out, offsets.tolist(), strict=True):
        top, left = (height - size[0]) // 2 - down, (width - size[1]) // 2 - right
        rows, columns = slice(max(top, 0), top + size[0]), slice(max(left, 0), left + size[1])
        part = image[:, rows, columns]
        y, x = max(-top, 0), max(-left, 0)
        view[:, y : y + part.shape[1], x : x + part.shape[2]] = part
    return out


def resized(images: Tensor, size: tuple[int, int]) -> Tensor:
    """uint8 (B, 3, H, W) → (B, 3, *size)"""
    values = interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return values.round().clamp(0, 255).to(torch.uint8)


def on_grid(model: VisionTransformer, info: CheckpointInfo, img_size: tuple[int, int]) -> VisionTransformer:
    """The model for images of another size."""
    config = replace(model.config, img_size=img_size)
    facts = ModelFacts("it", model.config.grid_size, config.num_heads, info.attributes, rope=config.rope, is_ours=True)
    other = VisionTransformer(config)
    other.load_state_dict(convert_state_dict(model.state_dict(), config, info.attributes, facts).state_dict)
    return other.eval()


def conditions(info: CheckpointInfo) -> dict[str, tuple[tuple[int, int], View]]:
    """Name → the size (height, width) that the model is to have, and what it sees."""
    size = info.model.img_size
    fill = (torch.tensor(info.mean) * 255).round().to(torch.uint8)

    def middle(stored: Tensor, offsets: Offsets) -> Tensor:
        return shifted(stored, 0 * offsets, size, fill)

    def moved(stored: Tensor, offsets: Offsets) -> Tensor:
        return shifted(stored, offsets, size, fill)

    def smaller(stored: Tensor, offsets: Offsets) -> Tensor:
        return resized(middle(stored, offsets), (160, 128))

    def larger(stored: Tensor, offsets: Offsets) -> Tensor:
        return resized(middle(stored, offsets), (256, 208))

    return {
        "aligned": (size, middle),
        "shifted": (size, moved),
        "160x128": ((160, 128), smaller),
        "256x208": ((256, 208), larger),
    }


def draw_offsets(num_images: int, size: tuple[int, int]) -> Offsets:
    """(n, 2) whole pixels, uniform in ± MAX_SHIFT of (height, width); the same each time."""
    limits = [round(MAX_SHIFT * side) for side in size]
    rng = np.random.default_rng(0)
    return np.stack([rng.integers(-limit, limit, num_images, endpoint=True) for limit in limits], axis=1)


def measure(checkpoint: Path, valid: Samples, wanted: list[str]) -> Iterator[tuple[str, dict[str, float]]]:
    """(condition, scores) of a checkpoint on all of valid."""
    model, info = load_checkpoint(checkpoint)
    offsets = draw_offsets(len(valid.names), info.model.img_size)
    columns = [info.attributes.index(name) for name in valid.attributes]
    for name, (size, view) in conditions(info).items():
        if name not in wanted:
            continue
        classifier = predicting_classifier(on_grid(model, info, size), info.mean, info.std, CPU)
        logits = []
        for start in range(0, len(valid.names), BATCH_SIZE):
            part = range(start, min(start + BATCH_SIZE, len(valid.names)))
            stored = torch.from_numpy(np.ascontiguousarray(valid.read(part)))
            logits.append(classify(classifier, view(stored, offsets[start : part.stop])))
        probs = sigmoid(torch.cat(logits).double().numpy()[:, columns])
        means = score(probs, valid.labels, valid.attributes, num_resamples=0).means
        keys = {"accuracy": "accuracy", "mean_average_precision": "average_precision", "majority": "majority_accuracy"}
        yield name, {key: means[metric].value for key, metric in keys.items()}


def train(celeba: Path, run: Path, variant: str, epochs: float, seed: int) -> Path:
    """The final weights of a run, which is trained first where it is not there yet."""
    pos_embed, rope = VARIANTS[variant]
    settings = {"model.pos_embed": pos_embed, "model.rope": rope, "train.num_checkpoints": 1, "train.num_evals": 1}
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    options += ["--preset", "tiny", "--epochs", f"{epochs:g}", "--seed", str(seed), "--data", str(celeba)]
    return trained(run, *options) / "best.safetensors"


def complete(celeba: Path, folder: Path, variants: list[str], epochs: float, seeds: list[int]) -> list[dict[str, Any]]:
    """All results of these runs; those that results.jsonl lacks are made, and added to it one by one."""
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "results.jsonl"
    found = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    valid = None
    for seed in seeds:
        for variant in variants:
            key = {"variant": variant, "epochs": epochs, "seed": seed}
            there = [each["condition"] for each in found if key.items() <= each.items()]
            wanted = [name for name in ("aligned", "shifted", "160x128", "256x208") if name not in there]
            if not wanted:
                continue
            name = f"{variant.replace(', ', '-').replace(' ', '-')}-{epochs:g}-epochs-seed-{seed}"
            checkpoint = train(celeba, folder / name, variant, epochs, seed)
            valid = valid or read_celeba(celeba, "valid", stored_size((208, 176)))
            for condition, scores in measure(checkpoint, valid, wanted):
                found.append(key | {"condition": condition} | scores)
                with log.open("a") as file:
                    file.write(json.dumps(found[-1]) + "\n")
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
    asked = [each for each in found if each["variant"] in variants and each["seed"] in seeds]
    return [each for each in asked if each["epochs"] == epochs]


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a row a variant, a column a condition, each accuracy / mAP, means over seeds."""
    names, variants = (list(dict.fromkeys(each[key] for each in results)) for key in ("condition", "variant"))
    lines = [f"| position embedding | {' | '.join(names)} |", f"|{' --- |' * (1 + len(names))}"]
    for variant in variants:
        cells = []
        for name in names:
            own = [each for each in results if (each["variant"], each["condition"]) == (variant, name)]
            means = [np.mean([each[key] for each in own]) for key in ("accuracy", "mean_average_precision")]
            cells.append(f"{means[0]:.4f} / {means[1]:.3f}")
        lines.append(f"| {variant} | {' | '.join(cells)} |")
    seeds = sorted({each["seed"] for each in results})
    lines.append(f"\n{results[0]['epochs']:g} epochs, seeds {seeds}; majority alone: {results[0]['majority']:.4f}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("celeba", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    asked = parser.parse_args()
    print(table(complete(asked.celeba, asked.folder, asked.variants, asked.epochs, asked.seeds)))


if __name__ == "__main__":
    main()
