"""Which tensor of a ViT checkpoint holds the position embeddings, and which of its rows are patches.

Names are those of timm (and of vitpe), torchvision, Hugging Face transformers and vit-pytorch.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vitpe.errors import VitpeError
from vitpe.model.facts import Grid, PatchRows, split_rows, tokens_before_patches
from vitpe.runs.metadata import facts_beside
from vitpe.runs.tensor_file import BYTES_PER_VALUE, TensorFile

POSITION_NAMES = (
    "pos_embed",
    "pos_embedding",
    "embeddings.position_embeddings",
    "embeddings.position_embedding.weight",
    "embeddings.position_embedding",
)
# (1, rows, width) and (1, columns, width), whose sum is a patch's: vitpe's and timm's NaFlexViT's.
FACTOR_NAMES = ("pos_embed_y", "pos_embed_x")
FILTER_NAMES = (
    "patch_embed.proj.weight",
    "conv_proj.weight",
    "patch_embeddings.projection.weight",
    "embeddings.patch_embedding.weight",
)
FREQUENCY_NAMES = ("rope.freqs",)
FLOATS = ("F64", "F32", "F16", "BF16")
# Other networks that may lie in the same file.
OTHER_NETWORKS = ("decoder", "text_model", "teacher", "predictor")
# More tiles than this no picture can show.
MAX_PATCHES = 1600
MAX_WIDTH = 1 << 16
MAX_FILTER_VALUES = 1 << 26
MAX_FREQUENCIES = 1 << 20


@dataclass(frozen=True)
class Embeddings:
    """values: (N, D) float32 of the patches alone; grid_size: (Gh, Gw), Gh·Gw = N. notes: what was assumed, or read
    elsewhere, one line each, the same for files of one kind.
    """

    values: NDArray[np.float32]
    grid_size: Grid
    notes: tuple[str, ...] = ()


def read_embeddings(file: TensorFile, asked: Grid | None, stored: Grid | None = None) -> Embeddings:
    """Read the patches' position embeddings.

    asked, stored: (rows, columns) as the user and our own metadata say. Where neither does, config.json beside the
    file may, or the tensor's shape; see `split_rows` for files of which nothing is known.
    Raises VitpeError, naming the file, when there are no position embeddings, when their number fits no grid, when it
    fits more than one, and when two sources contradict each other.
    """
    name, others = _find(file, POSITION_NAMES)
    rows, columns = (_find(file, [kind])[0] for kind in FACTOR_NAMES)
    if name is None and rows is not None and columns is not None:
        return _read_factors(file, rows, columns, asked)
    if name is None:
        raise VitpeError(
            f"{file.path} holds no position embeddings",
            hint="give a ViT with learned ones; looked for " + ", ".join(POSITION_NAMES),
        )
    shape = file.tensors[name].shape
    if len(shape) == 4 and shape[0] == 1:  # (1, Gh, Gw, D), as in SAM
        stored = stored or (shape[1], shape[2])
        num_rows, width = shape[1] * shape[2], shape[3]
    elif len(shape) in (2, 3) and math.prod(shape[:-2]) == 1:
        num_rows, width = shape[-2:]
    else:
        raise VitpeError(f"{file.path}: {name} has shape {shape}, not (1, tokens, width)", hint="is this a ViT?")
    if num_rows > 2 * MAX_PATCHES or width > MAX_WIDTH:
        raise _too_large(file, f"{num_rows} position embeddings of width {width}")
    if stored is not None and asked is not None and asked != stored:
        raise _other_grid(file, stored, asked)
    patches, notes = _split(file, name, num_rows, asked or stored)
    if math.prod(patches.grid_size) > MAX_PATCHES:
        raise _too_large(file, f"{patches.grid_size[0]} x {patches.grid_size[1]} patches")
    if others:
        notes.append(f"of {1 + len(others)} networks in the file this is {name}, not {others[0]}")
    values = read_floats(file, name).reshape(num_rows, width)[patches.num_prefix :]
    return Embeddings(values, patches.grid_size, tuple(notes))


def _read_factors(file: TensorFile, rows: str, columns: str, asked: Grid | None) -> Embeddings:
    """The sums of what is learned for each row and for each column."""
    shapes = file.tensors[rows].shape, file.tensors[columns].shape
    for name, shape in zip((rows, columns), shapes, strict=True):
        if len(shape) != 3 or shape[0] != 1 or min(shape) < 1 or shape[2] != shapes[0][2]:
            raise VitpeError(f"{file.path}: {name} has shape {shape}, not (1, sides, width)", hint="is this a ViT?")
    grid = shapes[0][1], shapes[1][1]
    if asked is not None and asked != grid:
        raise _other_grid(file, grid, asked)
    if math.prod(grid) > MAX_PATCHES or shapes[0][2] > MAX_WIDTH:
        raise _too_large(file, f"{grid[0]} x {grid[1]} position embeddings of width {shapes[0][2]}")
    y, x = (read_floats(file, name)[0] for name in (rows, columns))
    return Embeddings((y[:, None] + x).reshape(-1, shapes[0][2]), grid)


def _other_grid(file: TensorFile, grid: Grid, asked: Grid) -> VitpeError:
    return VitpeError(
        f"{file.path} says that its grid is {grid[0]} x {grid[1]}, not {asked[0]} x {asked[1]}",
        hint="do without --grid",
    )


def _too_large(file: TensorFile, fact: str) -> VitpeError:
    return VitpeError(
        f"{file.path} has {fact}, at most {MAX_PATCHES} of width {MAX_WIDTH} can be drawn",
        hint="resample the position embeddings to a smaller grid",
    )


def read_filters(file: TensorFile) -> NDArray[np.float32] | None:
    """The patch projection's filters (D, C, P, P); None when the file has none or its projection is no convolution."""
    name, _ = _find(file, FILTER_NAMES)
    if name is None or len(file.tensors[name].shape) != 4:
        return None
    if math.prod(file.tensors[name].shape) > MAX_FILTER_VALUES:
        raise VitpeError(
            f"{file.path}: {name} has shape {file.tensors[name].shape}", hint="no patch projection is as large"
        )
    return read_floats(file, name)


def read_frequencies(file: TensorFile) -> NDArray[np.float32] | None:
    """The learned frequencies of rotary embeddings (2, L, h, K); None when the file has none in this form."""
    name, _ = _find(file, FREQUENCY_NAMES)
    if name is None:
        return None
    shape = file.tensors[name].shape
    if len(shape) != 4 or shape[0] != 2 or not 0 < math.prod(shape) <= MAX_FREQUENCIES:
        return None
    return read_floats(file, name)


def read_floats(file: TensorFile, name: str) -> NDArray[np.float32]:
    """Read one tensor as float32, whatever float type it is stored in.

    Raises VitpeError, naming the file and the tensor, for other types and for values that are not finite.
    """
    entry = file.tensors[name]
    if entry.dtype not in FLOATS:
        raise VitpeError(
            f"{file.path}: {name} is stored as {entry.dtype}, not as one of {', '.join(FLOATS)}",
            hint="save the checkpoint in a float type",
        )
    assert entry.num_bytes == math.prod(entry.shape) * BYTES_PER_VALUE[entry.dtype]
    data = np.empty(entry.num_bytes, np.uint8)
    file.read_into(name, data.data)
    values = _to_float32(data, entry.dtype).reshape(entry.shape)
    if not np.isfinite(values).all():
        raise VitpeError(
            f"{file.path}: {name} holds values that are not finite",
            hint="the training run diverged; draw an earlier checkpoint",
        )
    return values


def _to_float32(data: NDArray[np.uint8], dtype: str) -> NDArray[np.float32]:
    if dtype == "BF16":  # the upper half of a float32; numpy has no such type
        return (data.view("<u2").astype(np.uint32) << 16).view(np.float32)
    with np.errstate(over="ignore"):  # of float64: infinite then, and said to be
        return data.view({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).astype(np.float32)


def _find(file: TensorFile, suffixes: Iterable[str]) -> tuple[str | None, list[str]]:
    """The shortest tensor name that is one of `suffixes`, or ends in one after a dot, and the others that do."""
    for suffix in suffixes:
        matches = [name for name in sorted(file.tensors, key=len) if f".{name}".endswith(f".{suffix}")]
        matches = [name for name in matches if not _is_of_another_network(name)]
        if matches:
            return matches[0], matches[1:]
    return None, []


def _is_of_another_network(name: str) -> bool:
    return any(other in name for other in OTHER_NETWORKS)


def _split(file: TensorFile, name: str, num_rows: int, known: Grid | None) -> tuple[PatchRows, list[str]]:
    """The rows of the patches, and what a user should know of how that was found."""
    shapes = {key: entry.shape for key, entry in file.tensors.items() if not _is_of_another_network(key)}
    tokens = tokens_before_patches(shapes, name)
    is_whole = any(re.search(r"\.[0-9]+\.", key) for key in shapes)  # a numbered block
    beside = None if known else facts_beside(file.path, file.tensors, shapes[name][-1]).grid_size
    try:
        rows = split_rows(num_rows, tokens, known=known, beside=beside, is_whole=is_whole)
    except VitpeError as error:
        raise VitpeError(f"{file.path} has {error.message}", error.hint) from error
    return rows, [rows.assumed] if rows.assumed else []
