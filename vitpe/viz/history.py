"""File names → checkpoints in the order of training; of each file only its header and the embeddings are read."""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.config import DRAWN_FACES
from vitpe.errors import VitpeError
from vitpe.runs.find import display_name, history_files, step_in_name
from vitpe.runs.metadata import HistoryInfo, parse_history
from vitpe.runs.tensor_file import changed_error, open_tensors
from vitpe.text import brief, printable
from vitpe.viz.face import FaceGeometry, face_geometry
from vitpe.viz.position_tensors import read_embeddings, read_filters, read_frequencies

_DATA: Final = {
    DRAWN_FACES: "drawn faces",
    "celeba": "CelebA",
    "celebamask_hq": "CelebAMask-HQ",
    "lfwa": "LFWA",
    "labelled_csv": "images of a table",
    "parquet": "images of a Parquet file",
    "webdataset": "images of a WebDataset",
}


@dataclass(frozen=True)
class Checkpoint:
    """The position embeddings of one moment of training.

    embeddings: (N, D) float32, one row per patch in reading order, without class and register tokens.
    grid_size: (Gh, Gw) with Gh·Gw = N.
    step, images_seen, valid_accuracy (in [0, 1]): None where the file does not say.
    face: where the eyes lie in the grid; None for images that are not aligned faces.
    subject: the model and its data, as "tiny on drawn faces"; None where the file does not say.
    notes: what was assumed of the file. stamp: changes when the file does.
    """

    path: Path
    embeddings: NDArray[np.float32]
    grid_size: tuple[int, int]
    step: int | None = None
    images_seen: int | None = None
    valid_accuracy: float | None = None
    face: FaceGeometry | None = None
    subject: str | None = None
    notes: tuple[str, ...] = ()
    stamp: tuple[tuple[int, ...], ...] = ()

    @property
    def label(self) -> str:
        """`step 1,200`, or the file's name, made fit to be drawn, when it has no step."""
        return printable(display_name(self.path)) if self.step is None else f"step {self.step:,}"

    @property
    def example_patch(self) -> tuple[int, int]:
        """The patch whose map is shown enlarged: at the left eye; without a face, half way to the left edge."""
        num_rows, num_columns = self.grid_size
        return self.face.outer_left_eye if self.face else (num_rows // 2, num_columns // 4)

    def filters(self) -> NDArray[np.float32] | None:
        """The patch projection's filters (D, C, P, P), read now; None when the file holds no such convolution.

        Raises VitpeError when the file is no longer the one that the embeddings are from.
        """
        with open_tensors(self.path) as file:
            if file.stamp != self.stamp:
                raise changed_error(self.path)
            return read_filters(file)

    def frequencies(self) -> NDArray[np.float32] | None:
        """What rotary embeddings have learned (2, L, h, K), see viz.rotary, read now; None where there is nothing.

        Raises VitpeError as `filters` does.
        """
        with open_tensors(self.path) as file:
            if file.stamp != self.stamp:
                raise changed_error(self.path)
            return read_frequencies(file)


def load_history(
    paths: Sequence[Path], grid: tuple[int, int] | None = None, note: Callable[[str], None] = lambda text: None
) -> list[Checkpoint]:
    """The checkpoints that `paths` name, by step; without steps in the order given, folders sorted by name.

    paths: run folders (with ckpts/), folders of runs, whose newest is taken and noted, folders of checkpoints or of
    folders with a model each, and files, mixed at will;
    a file named twice counts once, and so does a step that two files hold with the same embeddings.
    grid: (rows, columns) for files that do not say it.
    note: called with what a user should know: what was assumed of a file, and which ones were left out.
    Raises VitpeError, naming the file, for missing, damaged or non-ViT files, for embeddings of different shapes, and
    for one step with two different embeddings.
    """
    folders = [[read_checkpoint(file, grid) for file in history_files(path, note)] for path in paths]
    for line in dict.fromkeys(line for folder in folders for checkpoint in folder for line in checkpoint.notes):
        note(line)
    found = [checkpoint for folder in folders for checkpoint in _without_final_model(folder, note)]
    checkpoints = list({checkpoint.path.resolve(): checkpoint for checkpoint in found}.values())
    _require_one_shape(checkpoints)
    if all(checkpoint.step is not None for checkpoint in checkpoints):
        checkpoints.sort(key=lambda checkpoint: checkpoint.step or 0)
        checkpoints = list(_without_repeated_steps(checkpoints))
    return checkpoints


def read_checkpoint(path: Path, grid: tuple[int, int] | None = None) -> Checkpoint:
    """Read one file of ours, timm's, torchvision's or Hugging Face's. Raises VitpeError as `load_history` does."""
    with open_tensors(path) as file:
        info = parse_history(file.metadata, path)
        embeddings = read_embeddings(file, grid, None if info is None else info.grid_size)
    checkpoint = Checkpoint(
        path, embeddings.values, embeddings.grid_size, step_in_name(path), notes=embeddings.notes, stamp=file.stamp
    )
    if info is None:
        return checkpoint
    return replace(
        checkpoint,
        step=info.step,
        images_seen=info.images_seen,
        valid_accuracy=_accuracy_in_log(path, info.step) if info.valid_accuracy is None else info.valid_accuracy,
        face=_face(info),
        subject=_subject(info),
    )


def last_scored(history: Sequence[Checkpoint], index: int) -> Checkpoint | None:
    """The last checkpoint up to `index` whose accuracy is known: not each one is scored."""
    return next((c for c in reversed(history[: index + 1]) if c.valid_accuracy is not None), None)


def evenly(num_items: int, max_items: int) -> list[int]:
    """Indices of at most `max_items` ≥ 2 of `num_items`, evenly spread, the first and the last among them."""
    if num_items <= max_items:
        return list(range(num_items))
    return [round(index) for index in np.linspace(0, num_items - 1, max_items)]


def _accuracy_in_log(checkpoint: Path, step: int) -> float | None:
    """Of the run in whose folder the checkpoint lies.

    The log is only a second source: what is missing, half written or may not be read is no reason to fail.
    """
    logs = (folder / "metrics.csv" for folder in (checkpoint.parent, checkpoint.parent.parent))
    path = next((log for log in logs if log.is_file()), None)
    if path is None:
        return None
    with suppress(OSError, csv.Error), path.open(newline="", encoding="utf-8", errors="replace") as file:
        for row in csv.DictReader(file):
            if row.get("step") == str(step) and re.fullmatch(r"[01]?\.[0-9]+|[01]", row.get("valid_accuracy") or ""):
                return float(row["valid_accuracy"])
    return None


def _subject(info: HistoryInfo) -> str | None:
    """The model and its data, as far as the file says them."""
    data = None if info.data_source is None else _DATA.get(info.data_source, printable(brief(info.data_source)))
    if info.model_name is None:
        return None if data is None else f"trained on {data}"
    return info.model_name if data is None else f"{info.model_name} on {data}"


def _face(info: HistoryInfo) -> FaceGeometry | None:
    """Only data sources with CelebA's alignment have their eyes in a known place."""
    if info.data_source not in ("celeba", DRAWN_FACES) or info.img_size is None or info.patch_size is None:
        return None
    return face_geometry(info.img_size, info.patch_size, info.fit)


def _without_final_model(folder: Sequence[Checkpoint], note: Callable[[str], None]) -> list[Checkpoint]:
    """One folder's checkpoints, less those without a step where others have one: a trainer's final or best model.

    It is as a rule a copy of one of them; what differs from all is noted.
    """
    stepless = [checkpoint for checkpoint in folder if checkpoint.step is None]
    if not stepless or len(stepless) == len(folder):
        return list(folder)
    others = [checkpoint for checkpoint in folder if checkpoint.step is not None]
    for checkpoint in stepless:
        if not any(np.array_equal(checkpoint.embeddings, other.embeddings) for other in others):
            note(f"{checkpoint.path} is left out: it does not say its step, and no checkpoint has its embeddings")
    return others


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
                hint="draw the checkpoints of one run, or compare two: vitpe viz-pe A B --compare",
            )
