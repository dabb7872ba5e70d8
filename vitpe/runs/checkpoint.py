"""A checkpoint: one safetensors file. Its keys are timm's and a stem's own; its metadata has all that using it needs.

No pickle is read or written. A history file is a checkpoint that holds only what the pictures of position embeddings
need (`HISTORY_KEYS`).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import safetensors.torch
import torch
from torch import Tensor

from vitpe.errors import VitpeError
from vitpe.files import provide_temporary_folder, write_atomic
from vitpe.model.facts import ModelFacts
from vitpe.model.vit import VisionTransformer
from vitpe.runs.find import weights_file
from vitpe.runs.metadata import KEY, CheckpointInfo, facts_beside, parse_info
from vitpe.runs.tensor_file import TensorFile, open_tensors
from vitpe.runs.weights import not_finite, open_weights, refuse_history
from vitpe.text import brief

HISTORY_KEYS: Final = ("pos_embed", "pos_embed_y", "pos_embed_x", "patch_embed.proj.weight", "rope.freqs")
"""What a history file has of them is what the model has."""
_DAMAGED: Final = "the file is damaged or of another model"
_WIDTH_MARKS: Final = ("pos_embed", "pos_embedding", "position_embeddings", "position_embedding.weight")

# As the format names them. What else there is, of four bits and of shared exponents, no ViT is kept in.
_DTYPES: Final = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "U16": torch.uint16,
    "U32": torch.uint32,
    "U64": torch.uint64,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


def save_checkpoint(path: Path, state_dict: Mapping[str, Tensor], info: CheckpointInfo) -> None:
    """Write `path` whole or not at all; with info.history_only just what `history_part` takes.

    Raises VitpeError, with `path` untouched, when it cannot be written or a tensor is not finite.
    """
    kept = history_part(state_dict) if info.history_only else state_dict
    write_tensors(path, kept, info.to_metadata())


def history_part(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that the pictures of position embeddings need."""
    return {key: state_dict[key] for key in HISTORY_KEYS if key in state_dict}


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


def load_checkpoint(path: Path) -> tuple[VisionTransformer, CheckpointInfo]:
    """The model with its weights on the CPU in float32, and its info, both of the same file though it is replaced
    meanwhile. Raises VitpeError as `open_weights`, and naming a tensor that is not finite.
    """
    with open_weights(path) as (file, info):
        tensors = {name: tensor.float() for name, tensor in _read_all(file).items()}
    check_finite(tensors, path)
    return build_model(info, tensors), info


def build_model(info: CheckpointInfo, tensors: Mapping[str, Tensor]) -> VisionTransformer:
    """The model that a checkpoint describes, made of these very tensors, in eval mode."""
    provide_temporary_folder()  # which torch asks for when it outlines a model
    with torch.device("meta"):
        model = VisionTransformer(info.model)
    model.load_state_dict(tensors, assign=True)
    return model.eval()


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
            raise not_finite(path, name)


@dataclass(frozen=True)
class Foreign:
    """Somebody's weights, and what is said of them by our metadata or a config.json beside the file."""

    path: Path
    tensors: dict[str, Tensor]
    facts: ModelFacts


def load_foreign(path: Path) -> Foreign:
    """Any safetensors file's tensors: one file, several with an index, or those of a folder with one model in it."""
    path = weights_file(path)
    with open_tensors(path) as file:
        if KEY in file.metadata:
            info = parse_info(file.metadata, path)
            refuse_history(info, path)
            model = info.model
            grid, heads = model.grid_size, model.num_heads
            facts = ModelFacts("its metadata", grid, heads, info.attributes, rope=model.rope, is_ours=True)
        else:
            names = sorted((name for name in file.tensors if name.endswith(_WIDTH_MARKS)), key=len)
            shape = file.tensors[names[0]].shape if names else ()
            facts = facts_beside(path, file.tensors, shape[-1] if shape else None)
        return Foreign(path, _read_all(file), facts)


def read_file(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The string-to-string metadata, perhaps empty, and all tensors on the CPU, both of the same file.

    VitpeError when it is no safetensors file, is cut short, or was written to meanwhile; for a pickle, unread.
    """
    with open_tensors(path) as file:
        return dict(file.metadata), _read_all(file)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file on the CPU; VitpeError as in `read_file`."""
    return read_file(path)[1]


def _outline(file: TensorFile) -> dict[str, Tensor]:
    """The tensors without their values."""
    outline = {}
    for name, entry in file.tensors.items():
        if entry.dtype not in _DTYPES:
            raise VitpeError(f"{file.path}: tensor {name} is stored as {brief(entry.dtype)}", "use a float type")
        outline[name] = torch.empty(entry.shape, dtype=_DTYPES[entry.dtype], device="meta")
    return outline


def _read_all(file: TensorFile) -> dict[str, Tensor]:
    """The tensors, in memory of their own."""
    outline = _outline(file)
    file.check_memory()
    tensors = {}
    for name, like in outline.items():
        data = torch.empty(file.tensors[name].num_bytes, dtype=torch.uint8)
        file.read_into(name, data.numpy().data)
        tensors[name] = data.view(like.dtype).reshape(like.shape)
    return tensors


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
