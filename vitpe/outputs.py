"""Files that a command is asked to write: whether it can is known before the work, and only its own are replaced."""

import errno
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from vitpe.errors import UsageError, VitpeError

MARK: Final = "written by vitpe"
"""Stands in each file that vitpe writes for people, as a comment, a generator or a description."""
PNG_SOFTWARE: Final = "vitpe"
"""What stands for it in a PNG, under the keyword Software."""
_MARKS: Final = (MARK.encode(), f"Software\0{PNG_SOFTWARE}".encode())
_HEAD_BYTES, _TAIL_BYTES = 1 << 16, 1 << 12


def check_output(path: Path, suffix: str | tuple[str, ...], option: str) -> None:
    """Raise what would hinder writing `path`, which `option` names and whose name has to end in (one of) `suffix`.

    UsageError for another suffix, a folder, and a file that is there and not of vitpe's writing (inputs and files of a
    run among them); VitpeError when there is no such folder, or it cannot be written to. Devices and pipes pass.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        return
    suffixes = (suffix,) if isinstance(suffix, str) else suffix
    if path.suffix.lower() not in suffixes:
        raise UsageError(
            f"{option} {path} does not end in {' or '.join(suffixes)}",
            f"name a new file: {path.stem or 'vitpe'}{suffixes[0]}",
        )
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder", f"name a file in it: {path / ('vitpe' + suffixes[0])}")
    refuse_foreign(path)
    check_folder(Path(os.path.realpath(path)).parent, path)


def check_new(path: Path, suffix: str, option: str) -> None:
    """As `check_output`, for a file that a person is to edit: one that is there is never replaced."""
    if path.is_file():
        raise UsageError(
            f"{option} {path} is there already, and may have been edited", "choose another name, or move it away"
        )
    check_output(path, suffix, option)


def check_distinct(outputs: Mapping[str, Path | None]) -> None:
    """UsageError where two options name the same file, of which one result would be lost. outputs: by option."""
    seen: dict[str, str] = {}
    for option, path in outputs.items():
        if path is None or (path.exists() and not path.is_file()):
            continue
        other = seen.setdefault(os.path.realpath(path), option)
        if other != option:
            raise UsageError(f"{other} and {option} both name {path}", "name two files")


def refuse_foreign(path: Path) -> None:
    """UsageError when `path` is there and was not written by vitpe as a picture, a page or an export."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            known = not head or any(mark in head + b"\n" + file.read() for mark in _MARKS)
    except FileNotFoundError:
        return
    except OSError:
        known = False
    if not known:
        raise UsageError(f"{path} is there already, and vitpe did not write it", "choose another name, or move it away")


def check_folder(folder: Path, path: Path) -> None:
    """VitpeError when no file can be created in `folder`, where `path` is to be written."""
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno in (errno.ENOENT, errno.ENOTDIR) else error.strerror or error
        raise VitpeError(
            f"cannot write {path}: {reason}", "make the folder, check its permissions, or choose another"
        ) from error
