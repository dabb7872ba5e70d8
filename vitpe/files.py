"""Files that are either whole or not there: every write goes to a temporary name beside the target and is renamed."""

import contextlib
import os
from pathlib import Path

from vitpe.errors import VitpeError

TEMPORARY_SUFFIX = ".partial"


def write_atomic(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` to `path` so that a crash at any moment leaves the old file or the new one, never half of one.

    The parts follow each other without a gap. When it returns, the new file survives a power loss too. Raises
    VitpeError when the folder is missing, read-only or full; the old file is then untouched.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY_SUFFIX}")
    try:
        with temporary.open("wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        _remove_quietly(temporary)
        raise VitpeError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free some space, check the folder's permissions, or choose another folder",
        ) from error


def make_folder(path: Path) -> None:
    """Create a folder and its parents, where they are missing, so that they survive a power loss; OSError if not."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def remove_stale_temporaries(folder: Path) -> int:
    """Remove what writers that died in `folder` (not below it) left behind; returns how many files that were."""
    stale = [path for path in folder.glob(f".*{TEMPORARY_SUFFIX}") if path.is_file()]
    for path in stale:
        _remove_quietly(path)
    return len(stale)


def _sync_folder(folder: Path) -> None:
    """Make the rename itself survive a power loss, where the system can sync a folder (POSIX)."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove_quietly(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
