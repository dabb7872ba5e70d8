"""Tar archives of images, read where they lie, without unpacking them.

tarfile makes an object of each member, which for the 400,000 members of a dataset takes a minute and hundreds of
megabytes: here a member is its name and two numbers.
"""

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final, NamedTuple

from vitpe.data.image_files import MAX_BYTES
from vitpe.errors import VitpeError
from vitpe.files import check_count, open_to_read, stamp

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tar.lz4")
"""The compressed ones are found, to be refused with a hint."""
_COMPRESSED: Final = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d"}
_BLOCK: Final = 512
_WINDOW: Final = 1 << 15  # a few images of CelebA's
_MAX_HEADER_BYTES: Final = 1 << 20
_MAX_SMALL_BYTES: Final = 1 << 16
_AGAIN: Final = "download it again"
_JOINED: Final = "keep them apart, or join them by: tar --concatenate"


class Member(NamedTuple):
    """A plain file in an archive. start: where its bytes begin. data: these, where they were read on the way."""

    name: str
    start: int
    size: int
    data: bytes | None = None


def read_part(path: Path, start: int, size: int, known: tuple[int, ...]) -> bytes:
    """Of an archive that had that stamp when its members were found; VitpeError, whose message is the reason alone,
    when it is not there any more, or another is.
    """
    check_count(size, MAX_BYTES)
    try:
        with open_to_read(path) as file:
            if stamp(os.fstat(file.fileno())) != known:
                raise VitpeError("the archive was replaced, or changed, after it was opened")
            file.seek(start)
            data = file.read(size)
    except OSError as error:
        raise VitpeError(error.strerror or str(error)) from error
    if len(data) < size:
        raise VitpeError("the archive ends within it")
    return data


def members(path: Path, suffixes: tuple[str, ...] = ()) -> Iterator[Member]:
    """The plain files of an archive, in order; VitpeError naming the last one before what is damaged or missing.

    suffixes: of small files to read on the way, which takes a tenth of the time of reading them later.
    """
    last = ""
    try:
        with open_to_read(path) as file:
            length = file.seek(0, io.SEEK_END)
            if not length:
                raise VitpeError("the file is empty (0 bytes)")
            for member in _members(file, length, suffixes):
                last = member.name
                yield member
    except (VitpeError, OSError, ValueError) as error:
        reason = error.message if isinstance(error, VitpeError) else getattr(error, "strerror", None) or str(error)
        hint = (error.hint if isinstance(error, VitpeError) else "") or _AGAIN
        after = f", after {last[:200]}" if last else ""
        raise VitpeError(f"cannot read {path}{after}: {reason}", hint) from error


def _members(file: BinaryIO, length: int, suffixes: tuple[str, ...]) -> Iterator[Member]:
    window = _Windowed(file)
    at = 0
    name: str | None = None
    size: int | None = None  # what a header says of the next one
    while True:
        header = window.read(at, _BLOCK)
        if at == 0:
            _refuse_other_formats(header)
        if len(header) < _BLOCK:
            raise VitpeError("it is cut off: the mark of its end is missing")
        if not any(header):
            if _holds_more(file, at):
                raise VitpeError("more follows the mark of its end: are these archives joined by cat?", _JOINED)
            return
        bare = header.translate(None, b"\0")  # a header is mostly zeros, which add nothing
        if _number(header[148:156]) != sum(bare) - sum(header[148:156]) + 8 * ord(" "):
            raise VitpeError(f"no tar header at byte {at:,}")
        kind = header[156:157]
        count = _number(header[124:136]) if size is None or kind in b"xgLK" else size
        start = at + _BLOCK
        if start + count > length:
            shown = _text(header[:100].split(b"\0")[0]) if name is None else name
            raise VitpeError(f"it is cut off within {shown[:200]}")
        at = start + -(-count // _BLOCK) * _BLOCK
        if kind in b"xL":
            check_count(count, _MAX_HEADER_BYTES)
            body = window.read(start, count)
            if kind == b"L":
                name = _text(body.split(b"\0")[0])
            else:
                fields = _pax(body)
                name = fields.get("path", name)
                size = int(fields["size"]) if "size" in fields else size
            continue
        if kind in b"gK":
            continue
        its_name = name or _name(header)
        if kind == b"0" or (kind == b"\0" and not its_name.endswith("/")):  # old programs mark folders so
            small = count <= _MAX_SMALL_BYTES and its_name.endswith(suffixes)
            yield Member(its_name, start, count, window.read(start, count) if small else None)
        name, size = None, None


def _holds_more(file: BinaryIO, start: int) -> bool:
    """Whether anything but zeros follows, which programs fill archives up with."""
    file.seek(start)
    return any(any(block) for block in iter(lambda: file.read(1 << 20), b""))


class _Windowed:
    """Small reads of a file that follow each other, a few kilobytes at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._start, self._data = file, 0, b""

    def read(self, start: int, size: int) -> bytes:
        offset = start - self._start
        if offset < 0 or offset + size > len(self._data):
            self._file.seek(start)
            self._start, self._data, offset = start, self._file.read(max(size, _WINDOW)), 0
        return self._data[offset : offset + size]


def _refuse_other_formats(header: bytes) -> None:
    for magic, command in _COMPRESSED.items():
        if header.startswith(magic):
            raise VitpeError("it is compressed, so that images cannot be read where they lie", f"first: {command} FILE")
    if header.startswith(b"version https://git-lfs"):
        raise VitpeError("it is a pointer of Git LFS, not the file itself", "get it: git lfs pull")


def _number(field: bytes) -> int:
    """Octal digits, or from 0x80 on a large number's bytes."""
    if field[0] & 0x80:
        return int.from_bytes(bytes([field[0] & 0x7F]) + field[1:])
    digits = field.strip(b"\0 ")
    try:
        return int(digits, 8) if digits else 0
    except ValueError as error:
        raise VitpeError("a tar header is damaged") from error


def _name(header: bytes) -> str:
    name = header[:100].split(b"\0")[0]
    prefix = header[345:500].split(b"\0")[0] if header[257:263] == b"ustar\0" else b""
    return _text(prefix + b"/" + name if prefix else name)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _pax(body: bytes) -> dict[str, str]:
    """Records of the form "LENGTH KEY=VALUE" and a line break."""
    fields, at = {}, 0
    while at < len(body) and body[at]:
        space = body.find(b" ", at, at + 20)
        length = int(body[at:space]) if space > 0 and body[at:space].isdigit() else 0
        record = body[space + 1 : at + length]
        key, equals, value = record.partition(b"=")
        if length < 5 or not equals or not record.endswith(b"\n"):
            raise VitpeError("a pax header is damaged")
        fields[_text(key)] = _text(value[:-1])
        at += length
    if not fields.get("size", "0").isdigit():
        raise VitpeError("a pax header is damaged")
    return fields
