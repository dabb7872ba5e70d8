"""A checkpoint: one safetensors file with timm's keys, and in its metadata all that using the model needs.

No pickle is read or written. A history file is a checkpoint that holds only what the pictures of position embeddings
need (`pos_embed` and the patch projection).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitpe.config import ModelConfig, from_json, to_json
from vitpe.errors import VitpeError
from vitpe.files import write_atomic
from vitpe.model.vit import VisionTransformer

FORMAT_VERSION: Final = 1
HISTORY_KEYS: Final = ("pos_embed", "patch_embed.proj.weight")
_PICKLE_SUFFIXES: Final = (".pt", ".pth", ".ckpt", ".bin", ".pkl")


@dataclass(frozen=True)
class CheckpointInfo:
    """What a checkpoint says of itself.

    attributes: names of the A logits. mean, std: of the pixels / 255, per channel. thresholds: (A,) in [0, 1].
    stored_size: (height, width) that images are fitted to before the centre crop to model.img_size.
    thresholds_from, calibration: in words, what was fitted on valid after training.
    data_source: what it was trained on. valid: scores on valid at `step`, where they were taken.
    """

    model: ModelConfig
    attributes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    thresholds: tuple[float, ...]
    stored_size: tuple[int, int]
    step: int
    images_seen: int
    seed: int
    data_source: str
    valid: dict[str, float] | None = None
    history_only: bool = False
    thresholds_from: str = "0.5"
    calibration: str | None = None

    def __post_init__(self) -> None:
        num_attributes = len(self.attributes)
        if not num_attributes == len(self.thresholds) == self.model.num_classes:
            raise VitpeError(
                f"{num_attributes} attributes, {len(self.thresholds)} thresholds and {self.model.num_classes} classes",
                "the three must be equal",
            )

    def to_metadata(self) -> dict[str, str]:
        """As safetensors metadata; "format" is what Hugging Face's loaders ask for."""
        values = {
            "format_version": FORMAT_VERSION,
            "grid_size": list(self.model.grid_size),
            **to_json(self),
        }
        return {"format": "pt", "vitpe": json.dumps(values)}


def save_checkpoint(path: Path, state_dict: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    """Write `path` whole or not at all; with info.history_only just the tensors of HISTORY_KEYS."""
    kept = {key: state_dict[key] for key in HISTORY_KEYS} if info.history_only else state_dict
    tensors = {key: value.detach().cpu().contiguous() for key, value in kept.items()}
    write_atomic(path, safetensors.torch.save(tensors, metadata=info.to_metadata()))


def read_info(path: Path) -> CheckpointInfo:
    """The metadata of one of our checkpoints, without its tensors; VitpeError for anything else."""
    return parse_info(read_metadata(path), path)


def load_checkpoint(path: Path) -> tuple[VisionTransformer, CheckpointInfo]:
    """The model with its weights on the CPU, and its info.

    Raises VitpeError naming the file, and the tensor where one is missing, surplus, of another shape or type, or not
    finite.
    """
    info = read_info(path)
    if info.history_only:
        raise VitpeError(
            f"{path} holds position embeddings only, no whole model", "use best.safetensors of the same run"
        )
    model = VisionTransformer(info.model)
    tensors = read_tensors(path)
    check_tensors(tensors, model.state_dict(), path)
    model.load_state_dict(tensors)
    return model.eval(), info


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise VitpeError naming the first tensor that does not fit `expected` or is not finite."""
    hint = "the file is damaged or of another model"
    for name in expected.keys() - tensors.keys():
        raise VitpeError(f"{path}: tensor {name} is missing", hint)
    for name in tensors.keys() - expected.keys():
        raise VitpeError(f"{path}: tensor {name} is not part of the model", hint)
    for name, tensor in tensors.items():
        want = expected[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise VitpeError(
                f"{path}: tensor {name} is {_describe(tensor)}, expected {_describe(want)}",
                hint,
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise VitpeError(f"{path}: tensor {name} has values that are not finite", "training diverged, or damage")


def load_foreign(path: Path) -> tuple[dict[str, Tensor], tuple[int, int] | None]:
    """Any safetensors file's tensors, and the (rows, columns) of its grid where our metadata tells."""
    metadata = read_metadata(path)
    grid = parse_info(metadata, path).model.grid_size if "vitpe" in metadata else None
    return read_tensors(path), grid


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file on the CPU; VitpeError when it is none or is cut short."""
    try:
        return safetensors.torch.load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def read_metadata(path: Path) -> dict[str, str]:
    """The string-to-string metadata of a safetensors file, perhaps empty."""
    if path.suffix in _PICKLE_SUFFIXES:
        raise VitpeError(
            f"{path} is a pickle, which could run any code when read",
            "convert it once where you trust it: safetensors.torch.save_file(torch.load(FILE, weights_only=True), OUT)",
        )
    try:
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def parse_info(metadata: Mapping[str, str], path: Path) -> CheckpointInfo:
    """CheckpointInfo from safetensors metadata; VitpeError for another tool's file, a newer format, or damage."""
    if "vitpe" not in metadata:
        raise VitpeError(f"{path} was not written by vitpe", "start from it with: vitpe train --init FILE")
    try:
        values: dict[str, Any] = json.loads(metadata["vitpe"])
        version = values.pop("format_version")
        values.pop("grid_size")  # for readers without our model; it follows from the model
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise VitpeError(f"{path}: its metadata is damaged ({error})", "restore it from a copy") from error
    if version != FORMAT_VERSION:
        raise VitpeError(f"{path} has format version {version}, not {FORMAT_VERSION}", "use the vitpe that wrote it")
    return from_json(CheckpointInfo, values, path)


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _unreadable(path: Path, error: Exception) -> VitpeError:
    if isinstance(error, FileNotFoundError):
        return VitpeError(f"no file {path}", "check the name, or train first: vitpe train")
    return VitpeError(f"{path} is no whole safetensors file ({error})", "restore it from a copy, or train again")
