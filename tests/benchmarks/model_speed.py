"""A training step and inference of our ViT-Ti/16 and tiny models beside timm, Hugging Face and vit-pytorch.

Random images of 208 × 176, the same batch, threads and optimizer (fused AdamW) for all: first in float32, then in
bfloat16 where `vitpe train` chooses it on this machine, the others by autocast. "matrix products alone" is what a
machine would do that did nothing but our model's operations, at the pace of one large square product: the ratio beside
it is the share of that which is reached.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.flop_counter import FlopCounterMode

from tests.benchmarks.measure import Row, compare
from vitpe.celeba import MEAN, STD
from vitpe.config import ModelConfig, TrainConfig
from vitpe.model.vit import VisionTransformer
from vitpe.training.forward import TrainForward, choose_precision

SIZES = {"ViT-Ti/16": (192, 12, 3, 32), "tiny": (128, 4, 2, 64)}
"""name → width, depth, heads, batch"""
PEAK = "matrix products alone"
IMG_SIZE = (208, 176)


def measure(repeats: int = 7) -> list[Row]:
    found = []
    for name, (width, depth, heads, batch) in SIZES.items():
        images = torch.randn(batch, 3, *IMG_SIZE)
        labels = torch.randint(0, 2, (batch, 40)).float()
        models = {peer: make(width, depth, heads) for peer, make in PEERS.items()}
        steps = {peer: _training(model, images, labels) for peer, model in models.items()}
        steps[PEAK] = _at_peak(torch.float32, _operations(models["vitpe"], images, training=True))
        found += compare(f"training step, {name}, fp32", "images/s", steps, repeats)
        if choose_precision(TrainConfig(), torch.device("cpu")) == "bf16":
            steps = {
                peer: _training_as_shipped(model, batch, labels)
                if isinstance(model, VisionTransformer)
                else _training(model, images, labels, bf16=True)
                for peer, model in models.items()
            }
            steps[PEAK] = _at_peak(torch.bfloat16, _operations(models["vitpe"], images, training=True))
            found += compare(f"training step, {name}, bf16", "images/s", steps, repeats)
        answers = {peer: _inference(model, images) for peer, model in models.items()}
        answers[PEAK] = _at_peak(torch.float32, _operations(models["vitpe"], images, training=False))
        found += compare(f"inference, {name}, fp32", "images/s", answers, repeats)
    return found


def _at_peak(dtype: torch.dtype, operations: float) -> Callable[[], float]:
    """As many images as a large product has the operations of."""
    side, count = 2048, 8
    left, right = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)

    def multiply() -> float:
        with torch.inference_mode():
            for _ in range(count):
                left @ right
        return count * 2 * side**3 / operations

    return multiply


def _operations(model: nn.Module, images: Tensor, training: bool) -> float:
    """Floating-point operations of the matrix products of an image."""
    model.train(training)
    with FlopCounterMode(display=False) as counter, torch.set_grad_enabled(training):
        logits = _logits(model(images))
        if training:
            logits.sum().backward()
            model.zero_grad(set_to_none=True)
    return float(counter.get_total_flops()) / len(images)


def _training(model: nn.Module, images: Tensor, labels: Tensor, bf16: bool = False) -> Callable[[], float]:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = _logits(model(images))
        binary_cross_entropy_with_logits(logits.float(), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return len(images)

    return step


def _training_as_shipped(model: VisionTransformer, batch: int, labels: Tensor) -> Callable[[], float]:
    forward = TrainForward(model, MEAN, STD, "bf16")
    images = torch.randint(0, 256, (batch, 3, *IMG_SIZE), dtype=torch.uint8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def step() -> float:
        binary_cross_entropy_with_logits(forward(images), labels).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return batch

    return step


def _inference(model: nn.Module, images: Tensor) -> Callable[[], float]:
    def answer() -> float:
        model.eval()
        with torch.inference_mode():
            model(images)
        return len(images)

    return answer


def _logits(output: Any) -> Tensor:
    """Hugging Face wraps logits in an object."""
    return output if isinstance(output, Tensor) else output.logits


def _ours(width: int, depth: int, heads: int) -> nn.Module:
    return VisionTransformer(ModelConfig(img_size=IMG_SIZE, embed_dim=width, depth=depth, num_heads=heads))


def _timm(width: int, depth: int, heads: int) -> nn.Module:
    import timm

    return timm.models.VisionTransformer(
        img_size=IMG_SIZE, patch_size=16, embed_dim=width, depth=depth, num_heads=heads, num_classes=40
    )


def _hugging_face(width: int, depth: int, heads: int) -> nn.Module:
    import transformers

    return transformers.ViTForImageClassification(
        transformers.ViTConfig(
            image_size=IMG_SIZE,
            patch_size=16,
            hidden_size=width,
            num_hidden_layers=depth,
            num_attention_heads=heads,
            intermediate_size=4 * width,
            num_labels=40,
            hidden_dropout_prob=0.0,
            attn_implementation="sdpa",
        )
    )


def _vit_pytorch(width: int, depth: int, heads: int) -> nn.Module:
    import vit_pytorch

    return vit_pytorch.ViT(
        image_size=IMG_SIZE,
        patch_size=16,
        num_classes=40,
        dim=width,
        depth=depth,
        heads=heads,
        dim_head=width // heads,
        mlp_dim=4 * width,
    )


PEERS = {"vitpe": _ours, "timm": _timm, "Hugging Face": _hugging_face, "vit-pytorch": _vit_pytorch}
