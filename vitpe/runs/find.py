"""Which run, and which checkpoint files, a path stands for. Names, folders and times alone: no file is opened."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Final, Literal

from vitpe.errors import VitpeError
from vitpe.runs.tensor_file import INDEX_SUFFIX, PICKLE_SUFFIXES, pickle_error

RUNS: Final = Path("runs")
"""Where runs lie that were given no folder of their own: runs/1, runs/2, …"""
Holds = Literal["weights", "history", "state"]
"""What a run is looked for: its best checkpoint, checkpoints of its history, or what resuming it needs."""

_SUFFIX = ".safetensors"
_MODEL = ("model.safetensors", "model" + INDEX_SUFFIX)
_SHARD = re.compile(r".*-[0-9]{5}-of-[0-9]{5}\.safetensors")
# How other trainers write the step into a name, e.g. Hugging Face's checkpoint-500/model.safetensors.
_STEP = re.compile(r"(?<![a-z])(?:step|checkpoint|ckpt|iter)[-_=]?([0-9]{1,18})(?![0-9])", re.IGNORECASE)


def kind_of(path: Path) -> Literal["file", "folder"] | None:
    """None when nothing is there; VitpeError where that cannot be known."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or error
        raise VitpeError(f"cannot read {path}: {reason}", "check the name and its permissions") from error
    return "folder" if path.is_dir() else "file"


def _tell_nobody(text: str) -> None:
    """For callers that name the file themselves."""


def newest_run(folder: Path, holds: Holds, tell: Callable[[str], None] = _tell_nobody) -> Path | None:
    """Of the runs in a folder that hold what is looked for the one that was last started or resumed; None of none.

    tell: called with a line that says which it is.
    """
    return _newest(folder, [path for path in _entries(folder) if _has(path, holds)], tell)


def default_run(holds: Holds, tell: Callable[[str], None]) -> Path:
    """The newest run in RUNS, for a user who names none; RUNS itself, which may be a run, too, when there is none.

    tell: as in `newest_run`.
    """
    if kind_of(RUNS) != "folder":
        return RUNS
    found = [path for path in (RUNS, *_entries(RUNS)) if _has(path, holds)]
    return _newest(RUNS, found, tell) or RUNS


def _newest(folder: Path, runs: list[Path], tell: Callable[[str], None]) -> Path | None:
    if not runs:
        return None
    newest = max(runs, key=lambda run: (_started(run), _natural_key(run)))
    if runs == [folder]:
        return newest
    tell(f"{newest}: the {'only run' if len(runs) == 1 else f'newest of {len(runs)} runs'} in {folder}")
    return newest


def _has(run: Path, holds: Holds) -> bool:
    match holds:
        case "weights":
            return _is_file(run / "best.safetensors")
        case "state":
            return _is_file(run / "config.json") and _is_file(run / "last" / "state.safetensors")
        case "history":
            try:
                return any(file.suffix == _SUFFIX for file in (run / "ckpts").iterdir())
            except OSError:
                return False


def _started(run: Path) -> int:
    """When: config.json is written at the start and when the run is resumed, and by nothing else. 0 for a folder that
    may not be entered.
    """
    for path in (run / "config.json", run / "best.safetensors", run / "ckpts"):
        try:
            return path.stat().st_mtime_ns
        except OSError:
            continue
    return 0


def history_files(path: Path, tell: Callable[[str], None] = _tell_nobody) -> list[Path]:
    """The history that a run's folder, a folder of checkpoints, or a trainer's folder of folders stands for; that of
    its newest run for a folder of runs, and tell is called with which it is.

    A file stands for itself. Of a Hugging Face Trainer's folder, the final model comes after its checkpoints. Files
    are sorted by name, step-9 before step-10; shards are there as their index. VitpeError when there is none.
    """
    match kind_of(path):
        case "file":
            return [path]
        case None:
            raise VitpeError(f"no such file or folder: {path}", "give a run folder, its ckpts, or checkpoint files")
    for folder in (path / "ckpts", path):
        single = _single_files(folder) if kind_of(folder) == "folder" else []
        nested = _nested_files(path) if folder == path else []
        if {file.name for file in single} <= set(_MODEL):
            single = nested + single
        if single:
            return single
    if run := newest_run(path, "history", tell):
        return _single_files(run / "ckpts")
    pickles = sorted(file for file in _entries(path) if file.suffix in PICKLE_SUFFIXES)
    if pickles:
        raise pickle_error(pickles[0])
    raise VitpeError(f"no .safetensors checkpoint in {path}", "train one with `vitpe train`, or name the files")


def weights_file(path: Path, tell: Callable[[str], None] = _tell_nobody) -> Path:
    """The file of whole weights that a path stands for: itself, of a folder best.safetensors or the one model, or of a
    folder of runs the best of the newest, and tell is called with which it is.

    VitpeError when there is none.
    """
    match kind_of(path):
        case "file":
            return path
        case None:
            raise VitpeError(f"no checkpoint {path}", "check the name, or train one first: vitpe train")
    single = _single_files(path)
    for file in single:
        if file.name in ("best.safetensors", *_MODEL):
            return file
    if len(single) == 1:
        return single[0]
    if run := newest_run(path, "weights", tell):
        return run / "best.safetensors"
    raise _no_single_model(path)


def _no_single_model(folder: Path) -> VitpeError:
    """For a folder where one model is expected, by what it holds instead."""
    try:
        files = history_files(folder)
    except VitpeError as error:
        return VitpeError(f"{folder} holds no checkpoint", error.hint)
    count = f"{len(files)} checkpoint{'s' if len(files) > 1 else ''}"
    run = folder.parent if folder.name == "ckpts" else folder
    if run != folder and _is_file(run / "best.safetensors"):
        return VitpeError(f"{folder} is the history of a run, {count}", f"name the run, whose best is taken: {run}")
    return VitpeError(f"{folder} holds {count}, none of them called best.safetensors", f"name one: {files[-1]}")


def step_in_name(path: Path) -> int | None:
    """As the file's name has it; of a file whose name says nothing, as its folder's name has it."""
    match = _STEP.search(path.stem) or (_STEP.search(path.parent.name) if path.name in _MODEL else None)
    return int(match[1]) if match else None


def display_name(path: Path) -> str:
    """What to call a checkpoint without a step: its file, or its folder where each file has the same name."""
    return path.parent.name or path.stem if path.name in _MODEL else path.stem


def _single_files(folder: Path) -> list[Path]:
    """Checkpoints that lie in the folder itself."""
    files = [file for file in _entries(folder) if file.name.endswith((_SUFFIX, INDEX_SUFFIX))]
    has_index = any(file.name.endswith(INDEX_SUFFIX) for file in files)
    files = [file for file in files if _is_file(file) and not (has_index and _SHARD.fullmatch(file.name))]
    return sorted(files, key=_natural_key)


def _nested_files(folder: Path) -> list[Path]:
    """One model of each folder below it."""
    found = []
    for below in _entries(folder):
        models = [below / name for name in _MODEL if _is_file(below / name)]
        found += models[:1]
    return sorted(found, key=_natural_key)


def _entries(folder: Path) -> list[Path]:
    """What is not hidden: unfinished files are."""
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".")]
    except OSError as error:
        raise VitpeError(f"cannot read {folder}: {error.strerror or error}", "check its permissions") from error


def _is_file(path: Path) -> bool:
    """False too where that cannot be known, in a folder that may not be entered."""
    try:
        return path.is_file()
    except OSError:
        return False


def _natural_key(path: Path) -> list[tuple[int, str]]:
    """Sorts step-9 before step-10. Digits are ASCII's: others, as in 1²3, are letters here."""
    return [
        (int(part), "") if part.isascii() and part.isdecimal() else (0, part)
        for part in re.split(r"([0-9]+)", str(path))
    ]
