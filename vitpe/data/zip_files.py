"""A zip archive of images, read without unpacking it; no member is inflated beyond the size that it declares."""

import bz2
import lzma
import os
import struct
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from vitpe.data import image_files
from vitpe.errors import VitpeError
from vitpe.files import check_count, open_to_read, stamp

_ENCRYPTED = 1
_HEADER = struct.Struct("<4s22xHH")
"""Of a member: its signature, and how long its name and its extra field are."""
_SIGNATURE = b"PK\x03\x04"
_MIN_LZMA_DICTIONARY = 1 << 12


class ZipFiles:
    """Encoded images in a zip archive, by member name. Safe for threads."""

    reads_anywhere: ClassVar = True

    def __init__(self, archive: Path) -> None:
        self.path = archive
        try:
            with open_to_read(archive) as file:
                status = os.fstat(file.fileno())
            if not status.st_size:
                raise VitpeError("the file is empty (0 bytes)")
            self._zip, self._members = _index(archive, stamp(status))
        # zipfile raises nearly anything on damaged bytes; all of it means that this archive cannot be read.
        except Exception as error:
            raise VitpeError(
                f"cannot read {archive}: {_reason(error)}", "download it again, or unpack what it holds"
            ) from error

    def names(self) -> list[str]:
        """Every member's name as the archive has it, folders left out; one that is there twice comes twice."""
        return [name for name in self._zip.namelist() if name and not name.endswith("/")]

    def read(self, name: str) -> bytes:
        """The member's bytes; VitpeError naming it when it is damaged, encrypted or larger than any image."""
        try:
            info = self._members[name]
            if info.flag_bits & _ENCRYPTED:
                raise VitpeError("it is encrypted")
            check_count(max(info.file_size, info.compress_size), image_files.MAX_BYTES)
            # One byte more than declared: what it declares is no more than a claim.
            data = _inflate(info.compress_type, self._compressed(info), info.file_size + 1)
            if len(data) != info.file_size:
                what = "more" if len(data) > info.file_size else "fewer"
                raise VitpeError(f"it holds {what} than the {info.file_size:,} bytes that it declares")
            if zlib.crc32(data) != info.CRC:
                raise VitpeError("Bad CRC-32")
            return data
        except Exception as error:
            raise VitpeError(
                f"cannot read {name} in {self.path}: {_reason(error)}", "download the archive again, or repack it"
            ) from error

    def size(self, name: str) -> int:
        """Bytes of the image itself, as the archive declares them."""
        return self._members[name].file_size

    def where(self, name: str) -> str:
        """The image, for messages."""
        return f"{self.path}: {name}"

    def release(self) -> None:
        """Nothing is kept between reads."""

    def _compressed(self, info: zipfile.ZipInfo) -> bytes:
        """The member's bytes as they are stored: behind its own header, whose name and extra field may differ in length
        from the index's. zipfile would inflate without a bound, and takes twenty times as long to begin.
        """
        name_and_extra = len(info.orig_filename) + len(info.extra)  # as a rule: one call then reads all
        block = self._read_at(info.header_offset, _HEADER.size + name_and_extra + info.compress_size)
        if len(block) < _HEADER.size:
            raise VitpeError("the archive ends within it")
        signature, name_length, extra_length = _HEADER.unpack_from(block)
        if signature != _SIGNATURE:
            raise VitpeError("Bad magic number for file header")
        start = _HEADER.size + name_length + extra_length
        data = block[start : start + info.compress_size]
        if len(data) < info.compress_size:
            data = self._read_at(info.header_offset + start, info.compress_size)
        if len(data) < info.compress_size:
            raise VitpeError("the archive ends within it")
        return data

    def _read_at(self, start: int, count: int) -> bytes:
        """Fewer at the archive's end."""
        file = self._zip.fp
        assert file is not None
        if hasattr(os, "pread"):
            return os.pread(file.fileno(), count, start)
        with self._zip._lock:  # type: ignore[attr-defined]
            file.seek(start)
            return file.read(count)


@lru_cache(maxsize=2)
def _index(archive: Path, _stamp: tuple[int, ...]) -> tuple[zipfile.ZipFile, Mapping[str, zipfile.ZipInfo]]:
    """Each split of a data set asks for it, and for 200,000 images it takes seconds and 100 MB."""
    opened = zipfile.ZipFile(archive)
    return opened, opened.NameToInfo


def _inflate(kind: int, data: bytes, limit: int) -> bytes:
    """At most `limit` bytes, which is above 0."""
    match kind:
        case zipfile.ZIP_STORED:
            return data
        case zipfile.ZIP_DEFLATED:
            return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
        case zipfile.ZIP_BZIP2:
            return bz2.BZ2Decompressor().decompress(data, limit)
        case zipfile.ZIP_LZMA:  # two bytes of version, two that count those of the properties, these, the data
            packed, size = data[4], int.from_bytes(data[5:9], "little")
            lzma1 = {"id": lzma.FILTER_LZMA1, "lc": packed % 9, "lp": packed // 9 % 5, "pb": packed // 45}
            lzma1["dict_size"] = max(_MIN_LZMA_DICTIONARY, min(size, limit))  # memory that is taken at once
            body = data[4 + int.from_bytes(data[2:4], "little") :]
            return lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=[lzma1]).decompress(body, limit)
    raise VitpeError(f"it is compressed in a way that is not known here (method {kind})")


def _reason(error: Exception) -> str:
    if isinstance(error, VitpeError):
        return error.message
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:120] or type(error).__name__
