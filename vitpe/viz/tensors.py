"""Single tensors read from a safetensors file by their byte range: a 340 MB checkpoint costs a few hundred kilobytes.

The format (https://huggingface.co/docs/safetensors): eight bytes, the header's length as a little-endian integer; the
header, a JSON object from tensor names to dtype, shape and byte range, plus `__metadata__`; then the tensors' bytes.
numpy has no bfloat16, so the reader of the safetensors package cannot give it; here it is widened by hand.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from vitpe.errors import VitpeError

# Room for a hundred thousand tensors. The safetensors library takes up to 100 MB, but with a reader that knows what to
# expect: as JSON of any shape, those could fill 3 GB.
MAX_HEADER_BYTES = 10_000_000
MAX_NAME_LENGTH = 500
BYTES_PER_VALUE = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: dtype as the file names it, shape, and the range of bytes counted from the file's start."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class SafetensorsHeader:
    """What a safetensors file says about itself: its tensors by name and its free text metadata."""

    path: Path
    tensors: Mapping[str, TensorEntry]
    metadata: Mapping[str, str]


def read_header(path: Path) -> SafetensorsHeader:
    """Read and check the header of a safetensors file; no tensor is read.

    Raises VitpeError, naming the file, when it cannot be read, is not a safetensors file, or is cut off.
    """
    try:
        with path.open("rb") as file:
            num_bytes = path.stat().st_size
            return _parse_header(path, _header_text(path, file, num_bytes), num_bytes)
    except OSError as error:
        raise VitpeError(
            f"cannot read {path}: {error.strerror or error}", hint="check the name and its permissions"
        ) from error


def read_tensor(header: SafetensorsHeader, name: str) -> NDArray[np.float32]:
    """Read one tensor as float32, whatever float type it is stored in.

    Raises VitpeError, naming the file and the tensor, for other types and for values that are not finite.
    """
    entry = header.tensors[name]
    if entry.dtype not in BYTES_PER_VALUE:
        raise VitpeError(
            f"{header.path}: {name} is stored as {entry.dtype}, not as one of {', '.join(BYTES_PER_VALUE)}",
            hint="save the checkpoint in a float type",
        )
    if entry.end - entry.start != math.prod(entry.shape) * BYTES_PER_VALUE[entry.dtype]:
        raise _corrupt(header.path, f"{name} has {entry.end - entry.start} bytes for shape {entry.shape}")
    try:
        with header.path.open("rb") as file:
            file.seek(entry.start)
            data = file.read(entry.end - entry.start)
    except OSError as error:
        raise VitpeError(f"cannot read {header.path}: {error.strerror or error}") from error
    if len(data) != entry.end - entry.start:
        raise _corrupt(header.path, f"{name} ends after {len(data)} of {entry.end - entry.start} bytes")
    values = _to_float32(data, entry.dtype).reshape(entry.shape)
    if not np.isfinite(values).all():
        raise VitpeError(
            f"{header.path}: {name} holds values that are not finite",
            hint="the training run diverged; draw an earlier checkpoint",
        )
    return values


def _to_float32(data: bytes, dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    return np.frombuffer(data, {"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def _header_text(path: Path, file: BinaryIO, num_bytes: int) -> bytes:
    """The header's bytes, at most as many as the file has."""
    length = int.from_bytes(file.read(8), "little")
    if num_bytes < 10 or length < 2 or length > min(num_bytes - 8, MAX_HEADER_BYTES):
        raise _corrupt(path, "its header does not fit in it")
    return file.read(length)


def _parse_header(path: Path, text: bytes, num_bytes: int) -> SafetensorsHeader:
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _corrupt(path, "its header is no JSON") from error
    if not isinstance(fields, dict):
        raise _corrupt(path, "its header is no JSON object")
    metadata = fields.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _corrupt(path, "its metadata is no table of texts")
    data_start = 8 + len(text)
    tensors = {name: _parse_entry(path, name, entry, data_start, num_bytes) for name, entry in fields.items()}
    return SafetensorsHeader(path, tensors, metadata)


def _parse_entry(path: Path, name: str, entry: Any, data_start: int, num_bytes: int) -> TensorEntry:
    if not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise _corrupt(path, f"a tensor is called {name[:40]!r}")
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if all(
            isinstance(size, int) and size >= 0 for size in shape
        ):
            pass
        case _:
            raise _corrupt(path, f"the header's entry for {name} is incomplete")
    if not 0 <= start <= end:
        raise _corrupt(path, f"{name} has the byte range {start} to {end}")
    if data_start + end > num_bytes:
        raise _corrupt(path, f"it has {num_bytes} bytes, {name} ends at {data_start + end}")
    return TensorEntry(dtype, tuple(shape), data_start + start, data_start + end)


def _corrupt(path: Path, fact: str) -> VitpeError:
    return VitpeError(
        f"{path} is not a whole safetensors file: {fact}",
        hint="give .safetensors checkpoints; if this one was being copied or written, copy or save it again",
    )
