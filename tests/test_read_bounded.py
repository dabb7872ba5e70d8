"""Reading files that somebody else named: never more than the limit, and never waiting for what does not come."""

import os
import threading
from pathlib import Path

import pytest

from tests.helpers import run_python
from vitpe.data.image_files import FolderFiles
from vitpe.errors import VitpeError
from vitpe.files import read_bounded


def refusal(path: Path | str, limit: int = 100, *, streams: bool = False) -> str:
    with pytest.raises(VitpeError) as caught:
        read_bounded(path, limit, streams=streams)
    assert str(path) not in caught.value.message
    return caught.value.message


@pytest.mark.parametrize("size", [0, 1, 99, 100])
def test_files_up_to_the_limit_are_read_whole(tmp_path, size):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(size)))
    assert read_bounded(path, 100) == read_bounded(str(path), 100, streams=True) == bytes(range(size))
    link = tmp_path / "link"
    link.symlink_to(path)
    assert read_bounded(link, 100) == bytes(range(size))


def test_larger_files_are_not(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(101))
    assert refusal(path) == "101 bytes is over the limit of 0 MB"
    with path.open("wb") as file:
        file.truncate(1 << 40)  # a sparse file
    assert refusal(path, 2_000_000) == "1,099,511,627,776 bytes is over the limit of 2 MB"


def test_the_kernels_files_have_a_size_only_when_read():
    assert read_bounded("/proc/self/stat", 10_000).startswith(b"%d " % os.getpid())
    assert refusal("/proc/self/smaps", 50) == "51 bytes is over the limit of 0 MB"


def test_pipes_and_devices(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert refusal(pipe) == "it is a pipe, not a file"
    for device in ("/dev/zero", "/dev/random", "/dev/null"):
        assert refusal(device) == "it is a device, not a file"
    (tmp_path / "zero").symlink_to("/dev/zero")
    assert refusal(tmp_path / "zero") == "it is a device, not a file"
    assert refusal("/dev/zero", streams=True) == "101 bytes is over the limit of 0 MB"


def test_a_pipe_is_read_to_its_end_where_streams_are_wanted(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"all of it",))
    writer.start()
    assert read_bounded(pipe, 100, streams=True) == b"all of it"
    writer.join()


def test_what_cannot_be_opened(tmp_path):
    assert refusal(tmp_path) == "Is a directory"
    assert refusal(tmp_path, streams=True) == "Is a directory"
    assert refusal(tmp_path / "none") == refusal(tmp_path / "none", streams=True) == "No such file or directory"
    assert refusal("x" * 300) == "File name too long"
    assert refusal("a\0b") == "no file has a NUL in its name"
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert refusal(tmp_path / "loop") == "Too many levels of symbolic links"


@pytest.mark.skipif(not os.access("/proc/kmsg", os.R_OK), reason="needs a readable /proc/kmsg")
def test_a_file_that_would_wait_is_refused():
    """It is a plain file by its mode, and its reader waits for the kernel's next message."""
    code = """
from vitpe.files import read_bounded
try:
    read_bounded("/proc/kmsg", 100_000_000)
except Exception as error:
    print(error)
"""
    assert run_python("-c", code, timeout=20).stdout.strip()


def test_an_image_that_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name, reason in (("pipe.jpg", "it is a pipe, not a file"), ("zero.jpg", "it is a device, not a file")):
        with pytest.raises(VitpeError) as caught:
            FolderFiles(tmp_path).read(name)
        assert caught.value.message == f"cannot read {tmp_path / name}: {reason}"
        assert caught.value.hint
