"""A whole checkpoint's tensors, held against what its metadata says of the model. Torch-free."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.errors import VitpeError
from vitpe.model.shapes import tensor_shapes
from vitpe.runs.metadata import CheckpointInfo, parse_info
from vitpe.runs.tensor_file import TensorFile, open_tensors
from vitpe.text import brief

FLOAT_TYPES: Final = ("F32", "F16", "BF16")
"""In which weights may be stored, as the format names them; they are read as float32."""
_DAMAGED: Final = "the file is damaged or of another model"


@contextmanager
def open_weights(path: Path) -> Iterator[tuple[TensorFile, CheckpointInfo]]:
    """A checkpoint that holds a whole model, open to read.

    Raises VitpeError naming the file, and the tensor where one is missing, surplus, or of another shape or type.
    """
    with open_tensors(path) as file:
        info = parse_info(file.metadata, path)
        refuse_history(info, path)
        if info.model.depth > len(file.tensors):  # a damaged number could ask for more names than memory can hold
            raise VitpeError(f"{path}: {len(file.tensors)} tensors are too few for {info.model.depth} blocks", _DAMAGED)
        shapes = tensor_shapes(info.model)
        for name, shape in shapes.items():
            if name not in file.tensors:
                raise VitpeError(f"{path}: tensor {name} is missing", _DAMAGED)
            if file.tensors[name].shape != shape:
                raise VitpeError(
                    f"{path}: tensor {name} is {file.tensors[name].shape}, its metadata says {shape}", _DAMAGED
                )
        for name, entry in file.tensors.items():
            if name not in shapes:
                raise VitpeError(f"{path}: tensor {brief(name)!r} is not part of the model", _DAMAGED)
            if entry.dtype not in FLOAT_TYPES:
                raise VitpeError(
                    f"{path}: tensor {name} is stored as {brief(entry.dtype)}", f"use one of {', '.join(FLOAT_TYPES)}"
                )
        file.check_memory()
        yield file, info


def load_arrays(path: Path) -> tuple[dict[str, NDArray[np.float32]], CheckpointInfo]:
    """The tensors as numpy arrays, and what the file says of itself, both of the same file though it is replaced
    meanwhile. Raises VitpeError as `open_weights`, and naming a tensor that is not finite.
    """
    with open_weights(path) as (file, info):
        arrays = {name: _read(file, name) for name in file.tensors}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise not_finite(path, name)
    return arrays, info


def refuse_history(info: CheckpointInfo, path: Path) -> None:
    """VitpeError for a file of the history, which may hold the position embeddings alone."""
    if info.history_only:
        raise VitpeError(
            f"{path} holds position embeddings only, no whole model", "use best.safetensors of the same run"
        )


def not_finite(path: Path, name: str) -> VitpeError:
    """For infinities or NaN in a tensor."""
    return VitpeError(
        f"{path}: tensor {name} has values that are not finite",
        "training diverged (lower the learning rate: --set train.adamw_lr=…), or the file is damaged",
    )


def _read(file: TensorFile, name: str) -> NDArray[np.float32]:
    entry = file.tensors[name]
    data = np.empty(entry.num_bytes, dtype=np.uint8)
    file.read_into(name, data.data)
    match entry.dtype:
        case "F32":
            values = data.view("<f4")
        case "F16":
            values = data.view("<f2")
        case _:  # bfloat16 is the upper half of a float32
            values = (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32, copy=False).reshape(entry.shape)
