"""Where torch.compile keeps what it compiled: in a folder that nobody else can write to.

It reads pickles and loads libraries from there. Its own choice is torchinductor_USER in the system's folder for
temporary files, a name that everybody can guess and make first: whatever lies there would run.
"""

import atexit
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

INDUCTOR, TRITON = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"


def use_private_cache(tell: Callable[[str], None]) -> None:
    """Name the user's own folder to torch, before it compiles; a folder that the user named stays.

    Headers are kept below the folder for temporary files whatever is named, so that one changes, too, for this process
    and those that it starts.

    tell: one line for the user where there is no such folder, and one is made for this process alone.
    """
    if os.name != "posix":  # elsewhere the folder for temporary files is a user's own
        return
    folder = _users_folder()
    if folder is None or not _is_private(folder):
        tell(f"{folder or 'the home folder'} is not writable for this user alone: what is compiled is not kept")
        folder = Path(tempfile.mkdtemp(prefix="vitpe-compiled-"))
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    temporary = folder / "tmp"
    temporary.mkdir(mode=0o700, exist_ok=True)
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    if not os.environ.get(INDUCTOR):
        os.environ[INDUCTOR] = str(folder / "inductor")
        os.environ[TRITON] = os.environ.get(TRITON) or str(folder / "triton")


def _users_folder() -> Path | None:
    """$XDG_CACHE_HOME/vitpe or ~/.cache/vitpe, which need not exist; None where there is no home."""
    named = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if named.is_absolute():
        return named / "vitpe"
    with suppress(RuntimeError, OSError):
        home = Path.home()
        if home.is_absolute() and home.is_dir():
            return home / ".cache" / "vitpe"
    return None


def _is_private(folder: Path) -> bool:
    """Whether the folder, which is made where it is missing, can be written to by this user and by nobody else."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        parent, name, there = folder.parent.stat(), folder.lstat(), folder.stat()
        if hasattr(os, "geteuid"):  # elsewhere owners and modes say nothing
            if parent.st_mode & stat.S_IWOTH and not parent.st_mode & stat.S_ISVTX:
                return False  # anybody could put another folder in its place
            if not name.st_uid == there.st_uid == os.geteuid() or there.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                return False
        folder.chmod(0o700)
        (folder / "tmp").mkdir(mode=0o700, exist_ok=True)  # which shows that the disk is neither full nor read-only
    except OSError:
        return False
    return True
