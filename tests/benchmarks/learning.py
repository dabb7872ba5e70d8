"""What is learned in a given time: other models and recipes on the same images, batches, crops, mirrors and machine.

    python -m tests.benchmarks.learning CELEBA MODEL --minutes 10 [--size laptop] [--seed 0] [--out learning.jsonl]

These are what `vitpe train`, run as it is, is held against, each with the whole budget: the images that fit into it are
counted from the speed of a few updates beforehand, in the faster of float32 and bfloat16, and the schedule ends with
them. `--images` gives their number instead, where the speed was measured before. A line of JSON goes to stdout and to
`--out`: accuracy and mAP on valid at a threshold of 0.5 after the last update, images seen, FLOPs, minutes.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.flop_counter import FlopCounterMode

from vitpe.celeba import MEAN, STD
from vitpe.config import PRESETS, ModelConfig
from vitpe.data.augmentation import Augmentation
from vitpe.data.batch import Batch
from vitpe.data.batches import Batches
from vitpe.data.celeba import read_celeba
from vitpe.data.storage import ImageStore
from vitpe.metrics.scores import score
from vitpe.metrics.thresholds import sigmoid
from vitpe.model.inputs import classify_split
from vitpe.model.vit import num_parameters

CPU = torch.device("cpu")
IMG_SIZE = (208, 176)


@dataclass(frozen=True)
class Recipe:
    """A model and how it is trained with AdamW. floor: the last learning rate. pos_weight: negatives / positives."""

    make: Callable[[ModelConfig], nn.Module]
    lr: float = 1e-3
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup_fraction: float = 0.05
    floor: float = 0.0
    flip: bool = True
    pos_weight: bool = False
    batch_size: int = 64

    def rate(self, step: int, num_steps: int) -> float:
        """Linear warm-up, then a cosine to the floor."""
        warmup = self.warmup_fraction * num_steps
        if step < warmup:
            return self.lr * (step + 1) / warmup
        share = (step - warmup) / max(1.0, num_steps - warmup)
        return self.floor + (self.lr - self.floor) * (1 + math.cos(math.pi * share)) / 2


def _timm(config: ModelConfig) -> nn.Module:
    import timm

    return timm.models.VisionTransformer(
        img_size=IMG_SIZE,
        patch_size=config.patch_size,
        embed_dim=config.embed_dim,
        depth=config.depth,
        num_heads=config.num_heads,
        num_classes=40,
    )


def _resnet18(_: ModelConfig) -> nn.Module:
    from torchvision.models import resnet18

    return resnet18(num_classes=40).to(memory_format=torch.channels_last)


class Reference(nn.Module):
    """What this project started from: width 512, depth 8, ReLU, dropout 0.15, learned positions; where it is silent,
    torch's own encoder layer."""

    def __init__(self) -> None:
        super().__init__()
        self.projection = nn.Conv2d(3, 512, 16, stride=16)
        self.class_token = nn.Parameter(torch.zeros(1, 1, 512))
        self.positions = nn.Parameter(torch.zeros(1, 144, 512))
        layer = nn.TransformerEncoderLayer(512, 8, 2048, 0.15, "relu", batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 8, nn.LayerNorm(512), enable_nested_tensor=False)
        self.head = nn.Linear(512, 40)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.projection(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(len(images), -1, -1), patches], dim=1) + self.positions
        logits: Tensor = self.head(self.encoder(tokens)[:, 0])
        return logits


RECIPES = {
    "timm": Recipe(_timm),
    "resnet18": Recipe(_resnet18),
    "reference": Recipe(
        lambda _: Reference(),
        lr=1e-4,
        weight_decay=0.01,
        betas=(0.9, 0.95),
        warmup_fraction=0.0,
        floor=1e-6,
        flip=False,
        pos_weight=True,
    ),
}


class OnPixels(nn.Module):
    """A model of normalised images, given uint8 ones."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        mean, std = (torch.tensor(values).view(-1, 1, 1) for values in (MEAN, STD))
        self.scale, self.shift = 1 / (255 * std), -mean / std

    def forward(self, images: Tensor) -> Tensor:
        values = images.to(torch.float32, memory_format=torch.contiguous_format)
        logits: Tensor = self.model(torch.addcmul(self.shift, values, self.scale))
        return logits.float()


class Training:
    """One recipe's model and optimizer; `update` does a step."""

    def __init__(self, recipe: Recipe, config: ModelConfig, positive_share: Tensor, seed: int, bf16: bool) -> None:
        torch.manual_seed(seed)
        self.recipe = recipe
        self.model = OnPixels(recipe.make(config))
        self.bf16 = bf16
        self.pos_weight = (1 - positive_share) / positive_share if recipe.pos_weight else None
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(), recipe.lr, recipe.betas, weight_decay=recipe.weight_decay, fused=True
        )

    def _precision(self) -> AbstractContextManager[object]:
        return torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext()

    def update(self, batch: Batch, rate: float) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        with self._precision():
            logits = self.model(batch.images)
        loss = binary_cross_entropy_with_logits(logits, batch.labels.float(), pos_weight=self.pos_weight)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def speed(self, batches: Batches, num_steps: int = 12) -> float:
        """Images a second: the median of a few updates, the first ones left out, which leave the weights alone."""
        seconds = []
        stream = batches.from_step(0)
        for _ in range(num_steps):
            began = time.perf_counter()
            self.update(next(stream), 0.0)
            seconds.append(time.perf_counter() - began)
        stream.close()
        return self.recipe.batch_size / float(np.median(seconds[3:]))

    def flops(self, batch: Batch) -> float:
        """Of forward and backward, an image."""
        with FlopCounterMode(display=False) as counter:
            self.update(batch, 0.0)
        return counter.get_total_flops() / len(batch.labels)


def learn(celeba: Path, name: str, size: str, seconds: float, num_images: int | None, seed: int) -> dict[str, object]:
    """Train RECIPES[name], where it has sizes in that of a preset, and score it on valid."""
    recipe, config = RECIPES[name], PRESETS[size].model
    train, valid = (read_celeba(celeba, split) for split in ("train", "valid"))
    batches = Batches(ImageStore(train, CPU), IMG_SIZE, recipe.batch_size, Augmentation(seed, recipe.flip))
    positive_share = torch.from_numpy(train.labels).float().mean(dim=0)
    contenders = [Training(recipe, config, positive_share, seed, bf16) for bf16 in (False, True)]
    speeds = [contender.speed(batches) for contender in contenders]
    bf16 = speeds[1] > speeds[0]
    flops = contenders[bf16].flops(next(batches.once()))
    training = Training(recipe, config, positive_share, seed, bf16)
    num_steps = round((num_images or max(speeds) * seconds) / recipe.batch_size)
    began = time.perf_counter()
    for step, batch in zip(range(num_steps), batches.from_step(0), strict=False):
        training.update(batch, recipe.rate(step, num_steps))
    minutes = (time.perf_counter() - began) / 60
    training.model.eval()
    chunks = Batches(ImageStore(valid, CPU), IMG_SIZE, 64)
    logits, labels = classify_split(training.model, chunks.once())
    means = score(sigmoid(logits), labels, valid.attributes, num_resamples=0).means
    seen = num_steps * recipe.batch_size
    return {
        "model": name if name != "timm" else f"timm, {size}",
        "parameters": num_parameters(training.model),
        "precision": "bf16" if bf16 else "fp32",
        "images_per_second": round(max(speeds), 1),
        "images_seen": seen,
        "training_flops": flops * seen,
        "minutes": round(minutes, 2),
        "seed": seed,
        "accuracy": means["accuracy"].value,
        "mean_average_precision": means["average_precision"].value,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("celeba", type=Path)
    parser.add_argument("model", choices=RECIPES)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--images", type=int, help="see so many instead")
    parser.add_argument("--size", default="tiny", help="preset whose size timm's model takes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("learning.jsonl"))
    asked = parser.parse_args()
    found = learn(asked.celeba, asked.model, asked.size, 60 * asked.minutes, asked.images, asked.seed)
    line = json.dumps(found)
    print(line)
    with asked.out.open("a") as file:
        file.write(line + "\n")


if __name__ == "__main__":
    main()
