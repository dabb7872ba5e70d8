"""What the command line names → the images to predict, one after the other, as they come."""

import glob
import io
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Final

from vitpe.data.image_files import MAX_BYTES, suffixes
from vitpe.data.tar_files import SUFFIXES as TAR_SUFFIXES
from vitpe.errors import UsageError, VitpeError
from vitpe.files import read_bounded, read_stream

STDIN: Final = "-"
PICTURE_NAME: Final = re.compile(r"\d{8}-.*\.png", re.DOTALL)
"""Of the pictures that `vitpe predict` writes."""
DATASETS: Final = (".parquet", *TAR_SUFFIXES)
"""Suffixes of files that hold many images; of a compressed one it is said how to unpack it."""
_READ_BYTES: Final = 1 << 16
_NUM_REASONS: Final = 8
_OUTPUTS: Final = "in a folder of crops or maps"
_SHEET: Final = "sheet that is written anew"
_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")


@dataclass(frozen=True)
class Input:
    """An image to predict, or the reason why there is none.

    name: as records have it. data: its encoded bytes where they are at hand; None for a file to be read. load: reads
    them from elsewhere.
    """

    name: str
    data: bytes | None = None
    error: str | None = None
    load: Callable[[], bytes] | None = None

    def read(self) -> bytes:
        """The encoded bytes; VitpeError when they cannot be read."""
        if self.error is not None:
            raise VitpeError(self.error)
        if self.load is not None:
            return self.load()
        return _read_file(self.name) if self.data is None else self.data


@dataclass(frozen=True)
class PredictInputs:
    """The inputs that a command line asks for; iterate over them once.

    arguments: see `expand`. null: names on stdin end in NUL and not in a line's end. stdin_image: stdin is the image.
    outputs: folders that get pictures, and a picture, which are no input. left_out: of what is not read, how much there
    is, by reason.
    Raises UsageError when nothing is asked for, or two things.
    """

    arguments: Sequence[str]
    null: bool = False
    stdin_image: bool = False
    outputs: Sequence[str] = ()
    left_out: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        if self.stdin_image == bool(self.arguments):
            raise UsageError(
                "--stdin-image and names of files" if self.stdin_image else "no image to predict",
                "name files or folders, or '-' for names on stdin, or --stdin-image alone",
            )
        if self.null and not self.is_stream:
            raise UsageError("-0 without '-'", "add '-' to read names from stdin")
        if sys.stdin is None and (self.is_stream or self.stdin_image):
            raise UsageError("stdin is closed", "name files or folders")

    @property
    def is_stream(self) -> bool:
        """Whether inputs may be slow to come."""
        return STDIN in self.arguments

    @property
    def is_one_image(self) -> bool:
        """Whether it is a single image, named as such."""
        one_file = list(map(os.path.isfile, self.arguments)) == [True]
        return self.stdin_image or (one_file and not self.arguments[0].lower().endswith(DATASETS))

    def __iter__(self) -> Iterator[Input]:
        if self.stdin_image:
            return iter([_image_from(_unbuffered_stdin())])
        stdin = _unbuffered_stdin() if self.is_stream else io.BytesIO()
        return expand(self.arguments, stdin, b"\0" if self.null else b"\n", self.outputs, self.left_out)

    def note(self) -> str | None:
        """What was left out, in a line; None when nothing was."""
        if not self.left_out:
            return None
        common = self.left_out.most_common(_NUM_REASONS)
        counts = [f"{count:,} {reason}" for reason, count in common]
        others = self.left_out.total() - sum(count for _, count in common)
        counts += [f"{others:,} others"] if others else []
        more = "; .heic is read with: pip install pillow-heif" if ".heic" in self.left_out else ""
        return f"left out: {', '.join(counts)}{more}"


def expand(
    arguments: Iterable[str],
    stdin: BinaryIO,
    separator: bytes,
    outputs: Sequence[str] = (),
    left_out: Counter[str] | None = None,
) -> Iterator[Input]:
    """Files as they are, the images in parquet files and tar archives, those below folders, what glob patterns match,
    and for "-" the names on `stdin`.

    Below a folder: sorted, recursively, links followed but each folder read once, by the suffixes of what can be read;
    hidden ones are left out. Of what is not named itself, the folders `outputs` are left out, and the pictures in them.
    A file that exists is never taken for a pattern, and names on stdin are names of files only. What gives no image
    becomes an Input with an error; the rest goes on. left_out: counts what is left out, by reason.
    """
    left_out = Counter() if left_out is None else left_out
    for argument in arguments:
        if _is_sheet(argument, outputs, left_out):
            continue
        if argument == STDIN:
            names = names_from(stdin, separator)
            for name in names:
                yield from _file(name, outputs, left_out)
        elif os.path.isdir(argument):  # noqa: PTH112 - unlike Path's it is False, and never raises, for any text
            yield from _images_below(argument, outputs, left_out)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            yield from _matches(argument, outputs, left_out)
        elif _is_dataset(argument):
            yield from _images_in(argument)
        else:
            yield Input(argument)


def _file(name: str, outputs: Sequence[str], left_out: Counter[str]) -> Iterator[Input]:
    """What a name in a list, or one that a pattern matches, gives."""
    if _is_picture(name, outputs, left_out):
        return
    if _is_dataset(name):
        yield from _images_in(name)
    else:
        yield Input(name)


def _is_dataset(path: str) -> bool:
    return path.lower().endswith(DATASETS) and os.path.isfile(path)  # noqa: PTH113


def _images_in(path: str) -> Iterator[Input]:
    """Of a parquet file or a tar archive."""
    if path.lower().endswith(".parquet"):
        from vitpe.data.parquet import image_rows as images_of
    else:
        from vitpe.data.webdataset import image_members as images_of
    count = 0
    try:
        for name, load in images_of(Path(path)):
            count += 1
            yield Input(name, load=load)
        if not count:
            yield Input(path, error="no images in this file")
    except VitpeError as error:
        yield Input(path, error=error.message)


def _matches(pattern: str, outputs: Sequence[str], left_out: Counter[str]) -> Iterator[Input]:
    matches = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
    if not matches:
        yield Input(pattern, error="nothing matches this pattern")
    for name in matches:
        if not os.path.isdir(name):  # noqa: PTH112
            yield from _file(name, outputs, left_out)
        elif "**" not in pattern:  # which matches what is in the folder, too
            yield from _images_below(name, outputs, left_out, named=False)


def _is_picture(name: str, outputs: Sequence[str], left_out: Counter[str]) -> bool:
    """Whether it is one of the pictures in those folders, or the picture that is written; counted."""
    if _is_sheet(name, outputs, left_out):
        return True
    folder, base = os.path.split(name)
    found = (
        bool(outputs)
        and PICTURE_NAME.fullmatch(base) is not None
        and (identity := _identity(folder or os.curdir)) is not None
        and identity in map(_identity, outputs)
    )
    if found:
        left_out[_OUTPUTS] += 1
    return found


def _is_sheet(name: str, outputs: Sequence[str], left_out: Counter[str]) -> bool:
    """Whether it is a file that is among the outputs; counted."""
    base = os.path.basename(name)  # noqa: PTH119
    alike = [output for output in outputs if os.path.basename(output).casefold() == base.casefold()]  # noqa: PTH119
    found = any(os.path.isfile(output) and _identity(output) == _identity(name) for output in alike)  # noqa: PTH113
    if found:
        left_out[_SHEET] += 1
    return found


def _identity(folder: str) -> tuple[int, int] | None:
    """The same for a folder by whatever name; None where it cannot be reached."""
    try:
        status = os.stat(folder)  # noqa: PTH116
    except (OSError, ValueError):
        return None
    return status.st_dev, status.st_ino


def names_from(stream: BinaryIO, separator: bytes) -> Iterator[str]:
    r"""Names that each end in `separator`, the last perhaps not; each as soon as it has arrived, empty ones skipped.

    stream: unbuffered, so that reading gives what is there. Where b"\n" ends a name, a b"\r" before it is dropped.
    Raises UsageError for an image's bytes in place of names.
    """
    parts: list[bytes] = []
    begun = False
    while chunk := stream.read(_READ_BYTES):
        if not begun and chunk.startswith(_MAGIC):
            raise UsageError("stdin holds an image, not names of files", "say so: --stdin-image")
        begun = True
        first, *others = chunk.split(separator)
        parts.append(first)
        if others:
            *whole, last = others
            yield from _names([b"".join(parts), *whole], separator)
            parts = [last]
    yield from _names([b"".join(parts)], separator)


def _image_from(stream: BinaryIO) -> Input:
    """The image whose bytes `stream` holds, all of it."""
    try:
        return Input(STDIN, read_stream(stream, MAX_BYTES))
    except VitpeError as error:
        return Input(STDIN, error=error.message)


def _unbuffered_stdin() -> BinaryIO:
    """Standard input without a buffer, whose lock a thread that waits for input would still hold while Python ends."""
    return open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)


def _names(parts: Iterable[bytes], separator: bytes) -> Iterator[str]:
    for part in parts:
        name = part.removesuffix(b"\r") if separator == b"\n" else part
        if name:
            yield os.fsdecode(name)


def _images_below(root: str, outputs: Sequence[str], left_out: Counter[str], *, named: bool = True) -> Iterator[Input]:
    """named: the user did name this very folder, so that it should have images, and is no folder of pictures alone."""
    found = False
    refused: list[tuple[str, str]] = []
    away = {_identity(output) for output in outputs} - {None}
    seen: set[tuple[int, int] | None] = set()
    folders = [root]
    while folders:
        folder = folders.pop()
        identity = _identity(folder)
        if identity in seen:  # another link to it, or a link to a folder that it lies in
            continue
        seen.add(identity)
        try:
            with os.scandir(folder) as entries:
                names = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            refused.append((folder, error.strerror or str(error)))
            continue
        if identity in away and not (named and folder == root):
            left_out[_OUTPUTS] += len(names)
            continue
        inner = []
        for entry in names:
            path = os.path.join(folder, entry.name)  # noqa: PTH118 - Path would drop a leading "./"
            if _is_folder(entry):
                if entry.name.startswith("."):
                    left_out["hidden (folders)"] += 1
                else:
                    inner.append(path)
            elif not entry.name.startswith(".") and _is_dataset(path):
                found = True
                yield from _images_in(path)
            elif _is_wanted(entry, left_out) and not _is_picture(path, outputs, left_out):
                found = True
                yield Input(path)
        folders += reversed(inner)
    for folder, reason in refused:
        yield Input(folder, error=reason)
    if named and not found and not refused:
        yield Input(root, error=f"no images in this folder (looked for {', '.join(sorted(suffixes()))})")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _is_wanted(entry: os.DirEntry[str], left_out: Counter[str]) -> bool:
    """Whether a file below a folder is an image to read, by its name; counted where not. A link to nothing is one."""
    suffix = os.path.splitext(entry.name)[1].lower()  # noqa: PTH122
    hidden = entry.name.startswith(".")
    if suffix not in suffixes():
        if not hidden:  # what programs keep for themselves has hidden names
            left_out[suffix or "without a suffix"] += 1
        return False
    if hidden:
        left_out["hidden"] += 1
        return False
    try:
        mode = os.stat(entry.path).st_mode  # noqa: PTH116
    except OSError:
        return True
    if not stat.S_ISREG(mode):
        left_out["pipes or devices"] += 1
    return stat.S_ISREG(mode)


def _read_file(name: str) -> bytes:
    return read_bounded(name, MAX_BYTES, streams=True)
