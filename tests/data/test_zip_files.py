"""Zip archives from anywhere: every kind that is whole is read, and none can lie, hang or end in anything but words."""

import bz2
import os
import resource
import struct
import zipfile
import zlib
from pathlib import Path

import pytest

from vitpe.data import image_files
from vitpe.data.zip_files import ZipFiles
from vitpe.errors import VitpeError

KINDS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
MEMBER = "img_align_celeba/000001.jpg"
DATA = bytes(range(256)) * 40


def archive_of(path: Path, kind: int = zipfile.ZIP_STORED, **members: bytes) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.mkdir("img_align_celeba")
        for name, data in (members or {MEMBER: DATA}).items():
            archive.writestr(name, data)
    return path


def refusal(path: Path, member: str = MEMBER) -> str:
    with pytest.raises(VitpeError) as caught:
        ZipFiles(path).read(member)
    assert str(path) in caught.value.message
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message


def lie(path: Path, size: int) -> None:
    """Declare `size` bytes for the last member, in both of its headers."""
    data = bytearray(path.read_bytes())
    for signature, at in ((b"PK\x01\x02", 24), (b"PK\x03\x04", 22)):
        begin = data.rfind(signature)
        data[begin + at : begin + at + 4] = struct.pack("<I", size)
    path.write_bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_every_compression_is_read(tmp_path, kind):
    files = ZipFiles(archive_of(tmp_path / "a.zip", kind, **{"x/a": DATA, "x/empty": b"", "x/small": b"1"}))
    assert files.names() == ["x/a", "x/empty", "x/small"]
    assert [files.read(name) for name in files.names()] == [DATA, b"", b"1"]
    assert files.size("x/a") == len(DATA)


def test_zip64(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive, archive.open(MEMBER, "w", force_zip64=True) as member:
        member.write(DATA)
    assert ZipFiles(tmp_path / "a.zip").read(MEMBER) == DATA


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_bomb_is_inflated_no_further_than_it_declares(tmp_path, kind):
    """A gigabyte of zeros in a member that claims to be small; and one that claims what it is."""
    zeros = bytes(1 << 20)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", kind) as archive, archive.open(MEMBER, "w") as member:
        for _ in range(300):
            member.write(zeros)
    assert refusal(path).endswith("314,572,800 bytes is over the limit of 200 MB")
    lie(path, 1000)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert refusal(path).endswith("it holds more than the 1,000 bytes that it declares")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000  # kilobytes


def test_many_bombs_in_one_stream(tmp_path):
    """Bzip2 whose every kilobyte holds a gigabyte: blocks of nothing, one after the other."""
    path = archive_of(tmp_path / "a.zip", zipfile.ZIP_BZIP2)
    block = bz2.compress(bytes(40_000_000))
    lie(path, 500)
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(MEMBER)
    data = bytearray(path.read_bytes())
    begin = info.header_offset + 30 + len(MEMBER)
    assert len(block) < info.compress_size
    data[begin : begin + len(block)] = block
    path.write_bytes(data)
    assert refusal(path).endswith("it holds more than the 500 bytes that it declares")


@pytest.mark.parametrize("kind", KINDS)
def test_a_member_that_declares_too_much_or_is_cut(tmp_path, kind):
    path = archive_of(tmp_path / "a.zip", kind)
    lie(path, len(DATA) + 5)
    assert ZipFiles(path).size(MEMBER) == len(DATA) + 5
    assert "it holds fewer than the 10,245 bytes" in refusal(path)


def test_members_that_are_too_large_are_not_read(tmp_path, monkeypatch):
    path = archive_of(tmp_path / "a.zip")
    monkeypatch.setattr(image_files, "MAX_BYTES", 1000)
    assert refusal(path).endswith("10,240 bytes is over the limit of 0 MB")


@pytest.mark.parametrize(
    ("at", "value", "expected"),
    [
        (8, struct.pack("<H", 1), "it is encrypted"),
        (10, struct.pack("<H", 97), "it is compressed in a way that is not known here (method 97)"),
        (16, struct.pack("<I", zlib.crc32(DATA) ^ 1), "Bad CRC-32"),
        (42, struct.pack("<I", 7), "Bad magic number for file header"),
        (42, struct.pack("<I", 1 << 31), ""),
        (20, struct.pack("<I", 1 << 30), "1,073,741,824 bytes is over the limit of 200 MB"),
        (20, struct.pack("<I", 1 << 20), ""),
    ],
)
def test_what_the_directory_says_wrongly(tmp_path, at, value, expected):
    path = archive_of(tmp_path / "a.zip")
    data = bytearray(path.read_bytes())
    begin = data.rfind(b"PK\x01\x02") + at
    data[begin : begin + len(value)] = value
    path.write_bytes(data)
    assert expected in refusal(path)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_damage_within_a_member(tmp_path, kind):
    path = archive_of(tmp_path / "a.zip", kind)
    data = bytearray(path.read_bytes())
    begin = data.find(MEMBER.encode()) + len(MEMBER)
    for at in (0, 5, 12, 20):
        path.write_bytes(
            data[: begin + at] + bytes(b ^ 0x55 for b in data[begin + at : begin + at + 8]) + data[begin + at + 8 :]
        )
        assert refusal(path)


def test_what_is_no_archive(tmp_path):
    path = tmp_path / "a.zip"
    for content, expected in (
        (b"", "the file is empty (0 bytes)"),
        (b"<html>", "File is not a zip file"),
        (b"PK\x05\x06" + b"\xff" * 18, ""),
    ):
        path.write_bytes(content)
        assert expected in refusal(path)
    path.unlink()
    os.mkfifo(path)
    assert "it is a pipe, not a file" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "Is a directory" in refusal(path)
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert "it is a device, not a file" in refusal(path)
