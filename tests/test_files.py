"""Files: written whole or not at all, through no planted link, and as their owner had them; read up to a limit, without
waiting for what does not come.
"""

import errno
import os
import re
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from tests.helpers import contents, run_python
from vitpe.errors import VitpeError
from vitpe.files import make_folder, provide_temporary_folder, read_bounded, remove_stale_temporaries, write_atomic


def test_write_reaches_the_disk_before_the_rename_and_the_rename_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The order that a power loss cannot break: data, rename, folder."""
    events: list[str] = []
    fsync, replace_file = os.fsync, Path.replace

    def recording_fsync(descriptor: int) -> None:
        events.append(f"fsync {Path(f'/proc/self/fd/{descriptor}').readlink().name}")
        fsync(descriptor)

    def recording_replace(self: Path, target: Path) -> Path:
        assert self.read_bytes() == b"one two"
        events.append(f"rename to {target.name}")
        return replace_file(self, target)

    monkeypatch.setattr(os, "fsync", recording_fsync)
    monkeypatch.setattr(Path, "replace", recording_replace)
    write_atomic(tmp_path / "file", b"one ", memoryview(b"two"))
    written, *others = events
    assert re.fullmatch(r"fsync \.file\.[0-9a-f]{16}\.partial", written)
    assert others == ["rename to file", f"fsync {tmp_path.name}"]
    assert contents(tmp_path) == {"file": b"one two"}


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    path = tmp_path / "file"
    write_atomic(path, b"old")

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(*((os, "fsync") if failing == "fsync" else (Path, "replace")), fail)
    with pytest.raises(VitpeError, match=r"cannot write .*file: No space left on device") as caught:
        write_atomic(path, b"new")
    assert "free some space" in caught.value.hint
    assert contents(tmp_path) == {"file": b"old"}


def test_writing_into_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VitpeError, match=r"cannot write .*: No such file"):
        write_atomic(tmp_path / "gone" / "file", b"x")


def test_only_own_stale_temporaries_are_removed(tmp_path: Path) -> None:
    make_folder(tmp_path / "a" / "b")
    own, old = ".x.safetensors.0123456789abcdef.partial", ".x.safetensors.12.partial"
    kept = (
        ".mine.partial",
        ".y.0123456789abcdef.partial",
        ".x.safetensors.me.partial",
        "x.partial",
        ".x",
        "x",
        f"a/{own}",
    )
    for name in (own, old, *kept):
        (tmp_path / name).write_bytes(b"x")
    assert remove_stale_temporaries(tmp_path, re.compile(r"x\.safetensors")) == 2
    assert set(contents(tmp_path)) == set(kept)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o444, 0o755])
def test_a_replaced_file_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_atomic(path, b"new")
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_a_new_file_has_the_permissions_that_are_usual_here(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    write_atomic(tmp_path / "file", b"new")
    assert (tmp_path / "file").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_what_a_private_file_gets_is_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, modes = tmp_path / "file", []
    path.touch(0o600)
    create = os.open

    def recording(name: Path, flags: int, *mode: int) -> int:
        descriptor = create(name, flags, *mode)
        modes.append(stat.S_IMODE(os.fstat(descriptor).st_mode))
        return descriptor

    monkeypatch.setattr(os, "open", recording)
    write_atomic(path, b"new")
    assert modes[0] == 0o600


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_is_followed_and_stays(tmp_path: Path, exists: bool) -> None:
    store = tmp_path / "store"
    store.mkdir()
    if exists:
        (store / "file").write_bytes(b"old")
    (tmp_path / "first").symlink_to("store/file")
    (tmp_path / "second").symlink_to(tmp_path / "first")
    write_atomic(tmp_path / "second", b"new")
    assert (tmp_path / "second").is_symlink()
    assert (tmp_path / "first").is_symlink()
    assert contents(store) == {"file": b"new"}


def test_a_circle_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(VitpeError, match=r"cannot write .*a: Too many levels of symbolic links"):
        write_atomic(tmp_path / "a", b"x")
    assert (tmp_path / "a").is_symlink()


def test_a_planted_link_is_not_written_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even one of the very name, which nobody can foresee."""
    monkeypatch.setattr("os.urandom", lambda size: b"\xab" * size)
    victim, planted = tmp_path / "victim", tmp_path / f".file.{'ab' * 8}.partial"
    victim.write_bytes(b"precious")
    planted.symlink_to(victim)
    with pytest.raises(VitpeError, match=r"cannot write .*file: File exists"):
        write_atomic(tmp_path / "file", b"x")
    assert victim.read_bytes() == b"precious"
    assert planted.is_symlink()


def test_a_device_and_a_pipe_are_written_to_and_stay(tmp_path: Path) -> None:
    write_atomic(Path(os.devnull), b"x")
    assert Path(os.devnull).is_char_device()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()))
    reader.start()
    write_atomic(pipe, b"one ", memoryview(b"two"))
    reader.join()
    assert read == [b"one two"]
    assert pipe.is_fifo()
    with pytest.raises(VitpeError, match="Is a directory"):
        write_atomic(tmp_path, b"x")
    with pytest.raises(VitpeError, match="No space left"):
        write_atomic(Path("/dev/full"), b"x")


def test_names_as_long_as_the_system_allows(tmp_path: Path) -> None:
    write_atomic(tmp_path / ("é" * 127), b"x")
    assert (tmp_path / ("é" * 127)).read_bytes() == b"x"
    with pytest.raises(VitpeError, match="File name too long"):
        write_atomic(tmp_path / ("x" * 300), b"x")


def test_where_no_usual_temporary_folder_can_be_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose file systems are read-only."""

    def none() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "tempdir", None)
    with monkeypatch.context() as patch:
        patch.setattr(tempfile, "gettempdir", none)
        provide_temporary_folder()
    folder = Path(tempfile.gettempdir())
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    folder.rmdir()

    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "gettempdir", none)
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(VitpeError, match="no folder for temporary files can be written") as caught:
        provide_temporary_folder()
    assert caught.value.hint == "name one: TMPDIR=FOLDER"


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
