"""A checkpoint: one safetensors file. Its keys are timm's and a stem's own; its metadata has all that using it needs.

No pickle is read or written. A history file is a checkpoint that holds only what the pictures of position embeddings
need (`pos_embed` and the patch projection).
"""

import json
import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import safetensors.torch
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitpe.config import ModelConfig, from_json, to_json
from vitpe.data.images import MAX_PIXELS
from vitpe.errors import VitpeError
from vitpe.files import write_atomic
from vitpe.model.vit import VisionTransformer

FORMAT_VERSION: Final = 1
HISTORY_KEYS: Final = ("pos_embed", "patch_embed.proj.weight")
_DAMAGED: Final = "the file is damaged or of another model"
_PICKLE_SUFFIXES: Final = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
# How torch.save's files begin, a zip archive's and the one before. No safetensors file can: its header would be larger
# than the library allows, or than any that there is.
_PICKLE_STARTS: Final = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")
_MAX_METADATA_CHARS: Final = 10_000_000  # room for 100,000 attributes; as nested lists, a quarter of a gigabyte


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
        if not len(self.mean) == len(self.std) == self.model.in_chans or not all(map(math.isfinite, self.mean)):
            raise VitpeError(f"mean is {self.mean}", f"expected {self.model.in_chans} numbers, as in std")
        if not all(0 < value < math.inf for value in self.std):
            raise VitpeError(f"std is {self.std}", "every value must be above 0")
        if not all(0 <= value <= 1 for value in self.thresholds):
            raise VitpeError(f"thresholds are {self.thresholds}", "every value must lie in [0, 1]")
        fits = all(stored >= side for stored, side in zip(self.stored_size, self.model.img_size, strict=True))
        if not fits or math.prod(self.stored_size) > MAX_PIXELS:
            raise VitpeError(f"stored_size is {self.stored_size}", f"it must hold img_size {self.model.img_size}")
        if min(self.step, self.images_seen) < 0:
            raise VitpeError(f"step is {self.step}, images_seen {self.images_seen}", "neither can be negative")

    def to_metadata(self) -> dict[str, str]:
        """As safetensors metadata; "format" is what Hugging Face's loaders ask for."""
        values = {
            "format_version": FORMAT_VERSION,
            "grid_size": list(self.model.grid_size),
            **to_json(self),
        }
        return {"format": "pt", "vitpe": json.dumps(values, allow_nan=False)}


def save_checkpoint(path: Path, state_dict: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    """Write `path` whole or not at all; with info.history_only just the tensors of HISTORY_KEYS.

    Raises VitpeError, with `path` untouched, when it cannot be written or a tensor is not finite.
    """
    kept = {key: state_dict[key] for key in HISTORY_KEYS} if info.history_only else state_dict
    write_tensors(path, kept, info.to_metadata())


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file whole or not at all; equal tensors and metadata always give equal bytes.

    (safetensors.torch.save puts the metadata in a random order.) Raises VitpeError, with `path` untouched, when it
    cannot be written or a tensor is not finite.
    """
    check_finite(tensors, path)
    plain = memoryview(
        safetensors.torch.save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})
    )
    end = 8 + int.from_bytes(plain[:8], "little")
    header = json.dumps({"__metadata__": metadata, **json.loads(bytes(plain[8:end]))}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)  # as the library does, so that the tensors stay aligned
    write_atomic(path, len(header).to_bytes(8, "little"), header, plain[end:])


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
    tensors = read_tensors(path)
    _check_claims(info.model, tensors, path)
    with torch.device("meta"):
        model = VisionTransformer(info.model)
    check_tensors(tensors, model.state_dict(), path)
    check_finite(tensors, path)
    model.to_empty(device="cpu").load_state_dict(tensors)
    return model.eval(), info


def check_tensors(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path) -> None:
    """Raise VitpeError naming the first tensor that is missing, surplus, or of another shape or type."""
    for name in expected:
        if name not in tensors:
            raise VitpeError(f"{path}: tensor {name} is missing", _DAMAGED)
    for name, tensor in tensors.items():
        if name not in expected:
            raise VitpeError(f"{path}: tensor {brief(name)!r} is not part of the model", _DAMAGED)
        want = expected[name]
        if tensor.shape != want.shape or tensor.dtype != want.dtype:
            raise VitpeError(f"{path}: tensor {name} is {_describe(tensor)}, expected {_describe(want)}", _DAMAGED)


def check_finite(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Raise VitpeError naming the first tensor that has infinities or NaN."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise VitpeError(
                f"{path}: tensor {name} has values that are not finite",
                "training diverged (lower the learning rate: --set train.adamw_lr=…), or the file is damaged",
            )


def _check_claims(model: ModelConfig, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Hold the sizes that the metadata claims against the tensors before anything is built from them: a damaged number
    could ask for more memory than there is.
    """
    if model.depth > len(tensors):
        raise VitpeError(f"{path}: {len(tensors)} tensors are too few for {model.depth} blocks", _DAMAGED)
    hidden = model.embed_dim * model.mlp_ratio
    claims: dict[str, tuple[int, ...]] = {
        "pos_embed": (1, 1 + model.num_patches, model.embed_dim),
        "patch_embed.proj.weight": (model.embed_dim, model.in_chans, model.patch_size, model.patch_size),
        f"blocks.{model.depth - 1}.mlp.fc1.weight": (round(hidden) if math.isfinite(hidden) else 0, model.embed_dim),
        "head.weight": (model.num_classes, model.embed_dim),
    }
    if model.stem_width:
        claims["stem.conv1.weight"] = (model.stem_width, model.in_chans * 9)
    for name, shape in claims.items():
        if name not in tensors:
            raise VitpeError(f"{path}: tensor {name} is missing", _DAMAGED)
        if tensors[name].shape != shape:
            raise VitpeError(
                f"{path}: tensor {name} is {_describe(tensors[name])}, its metadata says {shape}", _DAMAGED
            )


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
    """The string-to-string metadata of a safetensors file, perhaps empty; VitpeError for a pickle, unread."""
    try:
        with path.open("rb") as opened:
            start = opened.read(4)
        if path.suffix in _PICKLE_SUFFIXES or start in _PICKLE_STARTS:
            raise VitpeError(f"{path} is a pickle, which could run any code when read", _how_to_convert(path))
        with safe_open(path, framework="pt") as file:
            return dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error


def parse_info(metadata: Mapping[str, str], path: Path) -> CheckpointInfo:
    """CheckpointInfo from safetensors metadata; VitpeError for another tool's file, a newer format, or damage."""
    if "vitpe" not in metadata:
        raise VitpeError(f"{path} was not written by vitpe", "start from it with: vitpe train --init FILE")
    try:
        values: dict[str, Any] = parse_json(metadata["vitpe"])
        version = values.pop("format_version")
        grid_size = values.pop("grid_size")  # for readers without our model
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise _damaged_metadata(path, error) from error
    if version != FORMAT_VERSION:
        raise VitpeError(
            f"{path} has format version {brief(repr(version))}, not {FORMAT_VERSION}", "use the vitpe that wrote it"
        )
    try:
        info = from_json(CheckpointInfo, values, "vitpe")
    except (VitpeError, OverflowError) as error:
        raise _damaged_metadata(path, error) from error
    if grid_size != list(info.model.grid_size):
        raise _damaged_metadata(path, f"grid_size {grid_size!r} where the model has {list(info.model.grid_size)}")
    return info


def parse_json(text: str) -> Any:
    """json.loads for metadata of a sane length; ValueError beyond it."""
    if len(text) > _MAX_METADATA_CHARS:
        raise ValueError(f"{len(text):,} characters")
    return json.loads(text)


def brief(value: object) -> str:
    """str(value) on one printable line of at most 200 characters."""
    line = "".join(character if character.isprintable() else " " for character in str(value)[:201])
    return line if len(line) <= 200 else line[:199] + "…"


def _how_to_convert(path: Path) -> str:
    load = "torch.load(argv[1], weights_only=True)"
    code = f"from sys import argv; import torch, safetensors.torch as s; s.save_file({load}, argv[2])"
    names = shlex.join([str(path), str(path.with_suffix(".safetensors"))])
    return f'convert it where you trust it: python -c "{code}" {names}'


def _damaged_metadata(path: Path, reason: object) -> VitpeError:
    return VitpeError(f"{path}: its metadata is damaged ({brief(reason)})", "restore it from a copy, or train again")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _unreadable(path: Path, error: Exception) -> VitpeError:
    if isinstance(error, FileNotFoundError):
        return VitpeError(f"no file {path}", "check the name, or train first: vitpe train")
    if isinstance(error, OSError) and error.strerror:
        return VitpeError(f"cannot read {path}: {error.strerror}", "name a safetensors file that you may read")
    return VitpeError(f"{path} is no whole safetensors file ({brief(error)})", "restore it from a copy, or train again")
