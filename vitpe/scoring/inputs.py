"""What the command line names → the images to predict, one after the other, as they come."""

import glob
import io
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Final

from vitpe.errors import UsageError, VitpeError
from vitpe.files import read_bounded, read_stream

SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff")
STDIN: Final = "-"
_READ_BYTES: Final = 1 << 16
_MAGIC: Final = (b"\xff\xd8\xff", b"\x89PNG", b"GIF8", b"RIFF")


@dataclass(frozen=True)
class Input:
    """An image to predict, or the reason why there is none.

    name: as records have it. data: its encoded bytes where they are at hand; None for a file to be read.
    """

    name: str
    data: bytes | None = None
    error: str | None = None

    def read(self) -> bytes:
        """The encoded bytes; VitpeError when they cannot be read."""
        if self.error is not None:
            raise VitpeError(self.error)
        return _read_file(self.name) if self.data is None else self.data


@dataclass(frozen=True)
class Asked:
    """The inputs that a command line asks for; iterate over them once.

    arguments: see `expand`. null: names on stdin end in NUL and not in a line's end. stdin_image: stdin is the image.
    Raises UsageError when nothing is asked for, or two things.
    """

    arguments: Sequence[str]
    null: bool = False
    stdin_image: bool = False

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
        return self.stdin_image or list(map(os.path.isfile, self.arguments)) == [True]

    def __iter__(self) -> Iterator[Input]:
        if self.stdin_image:
            return iter([_image_from(_unbuffered_stdin())])
        stdin = _unbuffered_stdin() if self.is_stream else io.BytesIO()
        return expand(self.arguments, stdin, b"\0" if self.null else b"\n")


def expand(arguments: Iterable[str], stdin: BinaryIO, separator: bytes) -> Iterator[Input]:
    """Files as they are, the images below folders, what glob patterns match, and for "-" the names on `stdin`.

    Below a folder: sorted, recursively, hidden ones left out. A file that exists is never taken for a pattern, and
    names on stdin are names of files only. What gives no image becomes an Input with an error; the rest goes on.
    """
    for argument in arguments:
        if argument == STDIN:
            yield from map(Input, names_from(stdin, separator))
        elif os.path.isdir(argument):  # noqa: PTH112 - unlike Path's it is False, and never raises, for any text
            yield from _images_below(argument)
        elif glob.has_magic(argument) and not os.path.lexists(argument):
            matches = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 - Path.glob takes no absolute pattern
            yield from map(Input, matches) if matches else [Input(argument, error="nothing matches this pattern")]
        else:
            yield Input(argument)


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
    from vitpe.data.images import MAX_BYTES

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


def _images_below(folder: str) -> Iterator[Input]:
    found = False
    refused: list[OSError] = []
    for parent, folders, files in os.walk(folder, onerror=refused.append):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(files):
            if file.lower().endswith(SUFFIXES) and not file.startswith("."):
                found = True
                yield Input(os.path.join(parent, file))  # noqa: PTH118 - Path would drop a leading "./"
    for error in refused:
        yield Input(os.fsdecode(error.filename), error=error.strerror or str(error))
    if not found and not refused:
        yield Input(folder, error=f"no images in this folder (looked for {', '.join(SUFFIXES)})")


def _read_file(name: str) -> bytes:
    from vitpe.data.images import MAX_BYTES  # imports torch, which wrong usage need not wait for

    return read_bounded(name, MAX_BYTES, streams=True)
