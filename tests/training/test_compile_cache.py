"""What torch compiled is read from a folder that is the user's alone."""

import os
import stat
import tempfile
from pathlib import Path

import pytest
from torch._inductor.runtime.cache_dir_utils import cache_dir, default_cache_dir

from vitpe.training.compile import INDUCTOR, TRITON, use_private_cache


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder that the environment names."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    for name in ("XDG_CACHE_HOME", "TMPDIR", INDUCTOR, TRITON):
        monkeypatch.setenv(name, "")  # so that what the code sets is taken back, too
        monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return home


def chosen() -> tuple[Path, list[str]]:
    """The folder in which torch will look, and what the user was told."""
    notes: list[str] = []
    use_private_cache(notes.append)
    folder = Path(cache_dir())
    assert folder == Path(os.environ[INDUCTOR])
    assert_private(Path(default_cache_dir()).parent)  # where headers are, whatever is named
    return folder, notes


def assert_private(folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.stat().st_uid == os.geteuid()


def test_it_is_in_the_users_own_cache(home: Path) -> None:
    folder, notes = chosen()
    assert folder == home / ".cache" / "vitpe" / "inductor"
    assert Path(os.environ[TRITON]) == home / ".cache" / "vitpe" / "triton"
    assert_private(folder.parent)
    assert not notes


def test_it_follows_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert chosen() == (tmp_path / "xdg" / "vitpe" / "inductor", [])


def test_a_relative_cache_folder_counts_as_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    assert chosen()[0].is_relative_to(home)


def test_a_folder_that_the_user_named_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(INDUCTOR, str(tmp_path / "mine"))
    assert chosen() == (tmp_path / "mine", [])
    assert TRITON not in os.environ


def test_own_folder_is_closed_to_readers(home: Path) -> None:
    (home / ".cache" / "vitpe").mkdir(parents=True, mode=0o755)
    folder, notes = chosen()
    assert_private(folder.parent)
    assert not notes


def writable_by_group(folder: Path) -> None:
    folder.mkdir(parents=True)
    folder.chmod(0o770)


def another_users(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    try:
        os.chown(folder, 65534, 65534)
    except PermissionError:
        pytest.skip("no right to give a folder away")


def another_users_link(folder: Path) -> None:
    folder.parent.mkdir(parents=True)
    (folder.parent / "target").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "target")
    try:
        os.chown(folder, 65534, 65534, follow_symlinks=False)
    except PermissionError:
        pytest.skip("no right to give a link away")


def replaceable(folder: Path) -> None:
    folder.mkdir(parents=True, mode=0o700)
    folder.parent.chmod(0o777)


def a_file(folder: Path) -> None:
    folder.parent.mkdir()
    folder.touch()


def no_home(folder: Path) -> None:
    folder.parent.parent.rmdir()


@pytest.mark.parametrize("plant", [writable_by_group, another_users, another_users_link, replaceable, a_file, no_home])
def test_what_others_may_have_planted_is_not_read(home: Path, plant) -> None:
    plant(home / ".cache" / "vitpe")
    folder, notes = chosen()
    assert not folder.is_relative_to(home)
    assert folder.parent.name.startswith("vitpe-compiled-")
    assert_private(folder.parent)
    assert len(notes) == 1
    assert notes[0].endswith("what is compiled is not kept")
