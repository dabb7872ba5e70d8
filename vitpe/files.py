"""Files: writing that leaves a whole file or none, and reading that neither waits for ever nor fills the memory."""

import atexit
import contextlib
import errno
import os
import re
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from vitpe.errors import VitpeError

TEMPORARY_SUFFIX = ".partial"
_O_BINARY = getattr(os, "O_BINARY", 0)  # Windows has this one, other systems the other
_O_NONBLOCK = getattr(os, "O_NONBLOCK", 0)
_READ_BYTES = 1 << 16
# In earlier versions a process number stood in place of the random letters.
_TEMPORARY = re.compile(r"\.(.+)\.([0-9a-f]{16}|\d+)" + re.escape(TEMPORARY_SUFFIX), re.DOTALL)
_MAX_NAME = 57  # letters of the target's name in a temporary one: with four bytes each it stays below the usual 255


def write_atomic(path: Path, *parts: bytes | memoryview) -> None:
    """Write `parts` to `path` so that a crash at any moment leaves the old file or the new one, never half of one.

    The parts follow each other without a gap. When it returns, the new file survives a power loss too. A file that is
    replaced keeps its permissions, and where `path` is a link, what it points to is replaced. A device or a pipe is
    written to as it is.
    Raises VitpeError when the folder is missing, read-only or full; the old file is then untouched.
    """
    try:
        if path.exists() and not path.is_file():
            with path.open("wb") as file:
                file.writelines(parts)
        else:
            _replace(Path(os.path.realpath(path)), parts)
    except OSError as error:
        raise VitpeError(
            f"cannot write {path}: {error.strerror or error}",
            hint="free some space, check the folder's permissions, or choose another folder",
        ) from error


def _replace(target: Path, parts: Iterable[bytes | memoryview]) -> None:
    if target.is_symlink():  # what a circle of links is resolved to
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
    old = target.stat() if target.exists() else None
    mode = 0o666 if old is None else stat.S_IMODE(old.st_mode)
    # Nobody can foresee the name, and what is there already, be it a link, is not opened.
    temporary = target.with_name(f".{target.name[:_MAX_NAME]}.{os.urandom(8).hex()}{TEMPORARY_SUFFIX}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _O_BINARY
    descriptor = os.open(temporary, flags, mode)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if old is not None:
                with contextlib.suppress(OSError, AttributeError):  # not ours to give away, or no owners here
                    os.chown(temporary, old.st_uid, old.st_gid)
                temporary.chmod(mode)
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except BaseException:
        _remove_quietly(temporary)
        raise
    _sync_folder(target.parent)


def stamp(status: os.stat_result) -> tuple[int, ...]:
    """Equal for what is the same file with the same bytes."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def stamp_at(path: Path) -> tuple[int, ...]:
    """Of what lies there now; () where that cannot be known, or nothing does."""
    try:
        return stamp(path.stat())
    except (OSError, ValueError):
        return ()


def read_bounded(path: str | Path, limit: int, *, streams: bool = False) -> bytes:
    """All of a file that has at most `limit` bytes; of a larger one nothing, or little more than that, is read.

    Pipes and devices, which may never end or never begin, are read with `streams` alone; a pipe's writer is waited for.
    Raises VitpeError, whose message is the reason and does not name the file.
    """
    try:
        with open_to_read(path, streams=streams) as file:
            return read_stream(file, limit)
    except OSError as error:
        raise VitpeError(error.strerror or str(error)) from error


def read_stream(file: BinaryIO, limit: int) -> bytes:
    """What is left of an unbuffered stream, when that is at most `limit` bytes; VitpeError as in `read_bounded`."""
    status = os.fstat(file.fileno())
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    check_count(size, limit)
    parts, count = [], 0
    # One byte more than there should be, so that a file comes in one piece; the kernel's own files declare no size.
    while part := file.read(min(size + 1 if size else _READ_BYTES, limit + 1 - count)):
        parts.append(part)
        count += len(part)
        check_count(count, limit)
    if part is None:
        raise VitpeError("to read it would be to wait: it is no plain file")
    return b"".join(parts)


def open_to_read(path: str | Path, *, streams: bool = False) -> BinaryIO:
    """A file opened without a buffer, and so that no read of it waits. Raises as `read_bounded` does, and OSError."""
    if "\0" in str(path):
        raise VitpeError("no file has a NUL in its name")
    waits = streams and not stat.S_ISREG(os.stat(path).st_mode)  # noqa: PTH116 - a Path would take time for nothing
    descriptor = os.open(path, os.O_RDONLY | _O_BINARY | (0 if waits else _O_NONBLOCK))
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not streams and not stat.S_ISREG(mode):
            raise VitpeError(f"it is a {'pipe' if stat.S_ISFIFO(mode) else 'device'}, not a file")
        return open(descriptor, "rb", buffering=0)  # noqa: PTH123
    except BaseException:
        os.close(descriptor)
        raise


def check_count(count: int, limit: int) -> None:
    """VitpeError for more bytes than the limit."""
    if count > limit:
        raise VitpeError(f"{count:,} bytes is over the limit of {limit // 1_000_000} MB")


def make_folder(path: Path) -> None:
    """Create a folder and its parents, where they are missing, so that they survive a power loss; OSError if not."""
    if not path.is_dir():
        make_folder(path.parent)
        path.mkdir(exist_ok=True)
        _sync_folder(path.parent)


def remove_stale_temporaries(folder: Path, names: re.Pattern[str]) -> int:
    """Remove what writers of files with such `names` left in `folder` (not below it) when they died.

    The caller makes sure that none of them lives. Returns how many files that were.
    """
    found = [(path, _TEMPORARY.fullmatch(path.name)) for path in folder.glob(f".*{TEMPORARY_SUFFIX}")]
    stale = [path for path, match in found if match is not None and names.fullmatch(match[1]) and path.is_file()]
    for path in stale:
        _remove_quietly(path)
    return len(stale)


def provide_temporary_folder() -> None:
    """Let `tempfile` have a folder where the usual ones are full or read-only, as in many containers.

    torch wants one as soon as it loads. VitpeError when there is none at all.
    """
    import tempfile  # which takes longer than all the rest of --help's files

    try:
        tempfile.gettempdir()
    except FileNotFoundError as error:
        try:
            tempfile.tempdir = tempfile.mkdtemp(prefix="vitpe-", dir="/dev/shm")
        except OSError:
            raise VitpeError("no folder for temporary files can be written", "name one: TMPDIR=FOLDER") from error
        atexit.register(shutil.rmtree, tempfile.tempdir, ignore_errors=True)


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
