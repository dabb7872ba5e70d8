"""How much memory training needs, at least, and how much there is: known before anything is built."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from vitpe.config import ModelConfig, TrainConfig
from vitpe.errors import UsageError
from vitpe.model.vit import VisionTransformer, num_parameters

_GIGABYTE = 1e9


def check_fits(model: ModelConfig, train: TrainConfig, batch_size: int, device: torch.device, precision: str) -> None:
    """UsageError when training cannot fit into the memory of the device, or of the machine for the CPU.

    batch_size: of one worker. What would fit is never refused: see `needed_bytes`.
    """
    weights, activations = needed_bytes(model, train, batch_size, precision)
    there = memory_bytes(device)
    if there is not None and weights + activations > there:
        where = "this machine" if device.type == "cpu" else str(device)
        message = f"training needs {_shown(weights + activations)} at least, {where} has {_shown(there)}"
        if weights > there:
            raise UsageError(
                message, f"the model and its optimizer alone take {_shown(weights)}: choose a smaller model"
            )
        raise UsageError(message, f"choose smaller batches: --batch-size {batch_size} takes {_shown(activations)}")


def needed_bytes(model: ModelConfig, train: TrainConfig, batch_size: int, precision: str) -> tuple[int, int]:
    """Bytes for the weights with all that goes along with them, and for what a step keeps of a batch; both are bounds
    from below, which leave out what may or may not be there at the peak.

    Per weight: itself, its gradient, the optimizer's state (one number for Muon, two for AdamW), its average; all
    float32. Per token and block: both norms' inputs and outputs, queries, keys, values, their mixture, and the MLP's
    hidden layer before and after GELU, in the precision of the products. A last block whose class token alone counts
    keeps keys and values. Attribute queries keep a token's scores, shares and values.
    """
    with torch.device("meta"):
        one, two = (num_parameters(VisionTransformer(replace(model, depth=depth))) for depth in (1, 2))
    num_weights = one + (model.depth - 1) * (two - one)
    per_weight = 2 + (2 if train.muon_lr is None else 1) + (1 if train.ema_decay else 0)
    num_tokens = 1 + max(1, round(train.patch_keep * model.num_patches))
    block = 8 * model.embed_dim + 2 * model.mlp_dim
    # Of a last block: no more than its keys and values, or its first half.
    last = {"token": 4 * model.embed_dim, "queries": 6 * model.embed_dim}.get(model.global_pool, block)
    if model.global_pool == "queries":
        last += 3 * model.num_heads * model.num_classes
    per_token = (model.depth - 1) * block + last
    # A stem's layers before and after GELU, of a half, a quarter and an eighth of the sides, and its residual block.
    stem = round(1.125 * model.stem_width * model.img_size[0] * model.img_size[1])
    item_size = 2 if precision == "bf16" else 4
    return 4 * num_weights * per_weight, batch_size * (num_tokens * per_token + stem) * item_size


def memory_bytes(device: torch.device) -> int | None:
    """Of the GPU, or of the machine, less where the system grants this process less; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    if device.type != "cpu" or "SC_PHYS_PAGES" not in os.sysconf_names:
        return None
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for name in ("memory.max", "memory/memory.limit_in_bytes"):  # control groups, of the second and the first version
        try:
            limits.append(int((Path("/sys/fs/cgroup") / name).read_text()))
        except (OSError, ValueError):  # there is none, or it is "max"
            continue
    return min(limits)


def _shown(num_bytes: int) -> str:
    return f"{num_bytes / _GIGABYTE:,.{0 if num_bytes >= 10 * _GIGABYTE else 1}f} GB"
