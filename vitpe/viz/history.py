"""File names → checkpoints in the order of training; of each file only its header and the embeddings are read."""

import csv
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vitpe.errors import UsageError, VitpeError
from vitpe.viz.face import FaceGeometry, face_geometry
from vitpe.viz.position_tensors import Embeddings, read_embeddings, read_filters
from vitpe.viz.tensors import SafetensorsHeader, read_header

METADATA_KEY = "vitpe"
FORMAT_VERSION = 1
# How other trainers write the step into a name, e.g. Hugging Face's checkpoint-500/model.safetensors.
STEP_IN_NAME = re.compile(r"(?:step|checkpoint|ckpt|iter)[-_=]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True)
class Checkpoint:
    """The position embeddings of one moment of training.

    embeddings: (N, D) float32, one row per patch in reading order, without class and register tokens.
    grid_size: (Gh, Gw) with Gh·Gw = N.
    step, images_seen, valid_accuracy (in [0, 1]): None where the file does not say.
    face: where the eyes lie in the grid; None for images that are not aligned faces.
    """

    path: Path
    embeddings: NDArray[np.float32]
    grid_size: tuple[int, int]
    step: int | None = None
    images_seen: int | None = None
    valid_accuracy: float | None = None
    face: FaceGeometry | None = None

    @property
    def label(self) -> str:
        """`step 1,200`, or the file's name when it has no step."""
        return self.path.stem if self.step is None else f"step {self.step:,}"

    def filters(self) -> NDArray[np.float32] | None:
        """The patch projection's filters (D, C, P, P), read now; None when the file holds no such convolution."""
        return read_filters(read_header(self.path))


def parse_grid(text: str) -> tuple[int, int]:
    """`13x11` → (13, 11): rows, columns. Raises UsageError for anything else."""
    match = re.fullmatch(r"\s*(\d+)\s*[x×,]\s*(\d+)\s*", text, re.IGNORECASE)
    if match is None or 0 in (size := (int(match[1]), int(match[2]))):
        raise UsageError(f"grid {text!r} is not ROWSxCOLUMNS", hint="for example --grid 13x11")
    return size


def load_history(paths: Sequence[Path], grid: tuple[int, int] | None = None) -> list[Checkpoint]:
    """The checkpoints that `paths` name, by step; without steps in the order given, folders sorted by name.

    paths: run folders (with ckpts/), folders of checkpoints, and files, mixed at will; a file named twice counts once,
    and so does a step that two files hold with the same embeddings.
    grid: (rows, columns) for files that do not say it and whose grid is not square.
    Raises VitpeError, naming the file, for missing, damaged or non-ViT files, for embeddings of different shapes, and
    for one step with two different embeddings.
    """
    checkpoints = [read_checkpoint(path, grid) for path in find_checkpoints(paths)]
    _require_one_shape(checkpoints)
    if all(checkpoint.step is not None for checkpoint in checkpoints):
        checkpoints.sort(key=lambda checkpoint: checkpoint.step or 0)
        checkpoints = list(_without_repeated_steps(checkpoints))
    return checkpoints


def find_checkpoints(paths: Sequence[Path]) -> list[Path]:
    """The safetensors files that files and folders stand for, each once. Raises VitpeError when there is none."""
    found = [file for path in paths for file in _files_of(path)]
    return list({file.resolve(): file for file in found}.values())


def read_checkpoint(path: Path, grid: tuple[int, int] | None = None) -> Checkpoint:
    """Read one file of ours, timm's, torchvision's or Hugging Face's. Raises VitpeError as `load_history` does."""
    header = read_header(path)
    metadata = _vitpe_metadata(header)
    stored_grid = metadata.get("grid_size")
    embeddings: Embeddings = read_embeddings(header, grid or (tuple(stored_grid) if stored_grid else None))
    step = metadata.get("step", _step_in_name(path))
    return Checkpoint(
        path=path,
        embeddings=embeddings.values,
        grid_size=embeddings.grid_size,
        step=step,
        images_seen=metadata.get("images_seen"),
        valid_accuracy=_valid_accuracy(path, metadata, step),
        face=_face(metadata, embeddings.grid_size),
    )


def last_scored(history: Sequence[Checkpoint], index: int) -> Checkpoint | None:
    """The last checkpoint up to `index` whose accuracy is known: not each one is scored."""
    return next((c for c in reversed(history[: index + 1]) if c.valid_accuracy is not None), None)


def evenly(num_items: int, max_items: int) -> list[int]:
    """Indices of at most `max_items` ≥ 2 of `num_items`, evenly spread, the first and the last among them."""
    if num_items <= max_items:
        return list(range(num_items))
    return [round(index) for index in np.linspace(0, num_items - 1, max_items)]


def _files_of(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise VitpeError(f"no such file or folder: {path}", hint="give a run folder, its ckpts, or checkpoint files")
    for folder, pattern in ((path / "ckpts", "*.safetensors"), (path, "*.safetensors"), (path, "*/model.safetensors")):
        files = [file for file in folder.glob(pattern) if file.is_file() and not file.name.startswith(".")]
        if files:
            return sorted(files, key=_natural_key)
    raise VitpeError(f"no .safetensors checkpoint in {path}", hint="train one with `vitpe train`, or name the files")


def _natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts step-9 before step-10."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", str(path))]


def _vitpe_metadata(header: SafetensorsHeader) -> dict[str, Any]:
    """Our JSON, checked as far as it is used here; empty for other people's files."""
    text = header.metadata.get(METADATA_KEY)
    if text is None:
        return {}
    try:
        metadata = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _damaged_metadata(header.path, "no JSON") from error
    match metadata:
        case {"format_version": int(version)} if version > FORMAT_VERSION:
            raise VitpeError(
                f"{header.path} has format version {version}, this vitpe reads {FORMAT_VERSION}",
                hint="a newer vitpe wrote it: update",
            )
        case {"step": int(step), "images_seen": int(seen), "grid_size": [int(rows), int(columns)]} if (
            min(step, seen) >= 0 and min(rows, columns) > 0
        ):
            return dict(metadata)
        case _:
            raise _damaged_metadata(header.path, "without step, images_seen or grid_size")


def _damaged_metadata(path: Path, fact: str) -> VitpeError:
    return VitpeError(f"{path}: its metadata is {fact}", hint="the file is damaged: copy or save it again")


def _step_in_name(path: Path) -> int | None:
    for name in (path.stem, path.parent.name):
        if match := STEP_IN_NAME.search(name):
            return int(match[1])
    return None


def _valid_accuracy(path: Path, metadata: dict[str, Any], step: int | None) -> float | None:
    match metadata.get("valid"):
        case {"mean_accuracy": (float() | int()) as accuracy} if 0 <= accuracy <= 1:
            return float(accuracy)
    for folder in (path.parent, path.parent.parent):
        if metadata and (folder / "metrics.csv").is_file():
            return _accuracy_in_log(folder / "metrics.csv", step)
    return None


def _accuracy_in_log(path: Path, step: int | None) -> float | None:
    """The log is only a second source: a row that is missing or half written is no reason to fail."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            if row.get("step") == str(step) and re.fullmatch(r"[01]?\.\d+|[01]", row.get("valid_accuracy") or ""):
                return float(row["valid_accuracy"])
    return None


def _face(metadata: dict[str, Any], grid_size: tuple[int, int]) -> FaceGeometry | None:
    """Only data sources with CelebA's alignment have their eyes in a known place."""
    match metadata:
        case {
            "data_source": "celeba" | "drawn_faces",
            "model": {"img_size": [int(height), int(width)], "patch_size": int(patch_size)},
        } if grid_size == (height // patch_size, width // patch_size):
            return face_geometry((height, width), patch_size)
    return None


def _require_one_shape(checkpoints: Sequence[Checkpoint]) -> None:
    first = checkpoints[0]
    for other in checkpoints[1:]:
        if (other.grid_size, other.embeddings.shape) != (first.grid_size, first.embeddings.shape):
            raise VitpeError(
                f"{other.path} has {_shape_text(other)}, {first.path} has {_shape_text(first)}",
                hint="draw the checkpoints of one run",
            )


def _shape_text(checkpoint: Checkpoint) -> str:
    rows, columns = checkpoint.grid_size
    return f"{rows} x {columns} embeddings of width {checkpoint.embeddings.shape[1]}"


def _without_repeated_steps(checkpoints: Iterable[Checkpoint]) -> Iterable[Checkpoint]:
    """One checkpoint a step; `checkpoints` are sorted by step."""
    previous: Checkpoint | None = None
    for checkpoint in checkpoints:
        if previous is None or previous.step != checkpoint.step:
            yield checkpoint
            previous = checkpoint
        elif not np.array_equal(previous.embeddings, checkpoint.embeddings):
            raise VitpeError(
                f"{checkpoint.path} and {previous.path} differ, but both are of step {checkpoint.step}",
                hint="draw the checkpoints of one run",
            )
