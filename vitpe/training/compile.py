"""torch.compile of the training step: whether it pays, what happens where it fails, where it keeps what it made."""

import atexit
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn

from vitpe.config import TrainConfig

INDUCTOR, TRITON = "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR"
_OPERATIONS_TO_COMPILE: Final = 5e11


def choose_compile(config: TrainConfig, device: torch.device, operations: float) -> bool:
    """Whether to compile a training step of so many floating-point operations: on a GPU that has enough to compute.

    A step is some five hundred calls of the GPU, each of which takes microseconds to launch. In the presets tiny and
    laptop (2e10 and 9e10 operations) the GPU waits for these launches, and compiling still leaves four of five. From
    small on (2e12 and more) the launches wait for the GPU, whose memory traffic compiling saves. On CPUs a tenth more
    images a second does not win back the minutes that compiling can take.
    """
    pays = device.type == "cuda" and operations >= _OPERATIONS_TO_COMPILE
    return config.compile == "on" or (config.compile == "auto" and pays)


class CompiledOrNot(nn.Module):
    """torch.compile of `forward`; where that fails (say, no C++ compiler) it runs as it is."""

    def __init__(self, forward: nn.Module, tell: Callable[[str], None]) -> None:
        super().__init__()
        self.plain = forward
        self._compiled: Callable[..., Tensor] | None = torch.compile(forward)
        self._tried = False
        self._tell = tell

    def forward(self, images: Tensor, keep: Tensor | None) -> Tensor:
        """As the plain module."""
        if self._compiled is not None and not self._tried:
            self._tried = True
            try:
                self._try(self._compiled, images, keep)
            except Exception as error:
                if "torch._dynamo" not in type(error).__module__ and "torch._inductor" not in type(error).__module__:
                    raise
                self._compiled = None
                self._tell(f"torch.compile failed ({' '.join(str(error).split())[:80]}); going on without it")
        # (`or` would ask a compiled module for its truth, and so for its length, which it does not have.)
        run = self.plain if self._compiled is None else self._compiled
        out: Tensor = run(images, keep)
        return out

    def _try(self, compiled: Callable[..., Tensor], images: Tensor, keep: Tensor | None) -> None:
        """Compile forward and backward, which would else fail in the middle of a step; leaves no gradient, no draw."""
        weights = [parameter for parameter in self.plain.parameters() if parameter.requires_grad]
        with torch.random.fork_rng([images.device] if images.is_cuda else []):
            torch.autograd.grad(compiled(images, keep).sum(), weights)


def use_private_cache(tell: Callable[[str], None]) -> None:
    """Name to torch, before it compiles, a folder for its files that only this user can write to; one that the user
    named stays.

    torch reads pickles and loads libraries from there. Its own choice is torchinductor_USER in the system's folder for
    temporary files, a name that everybody can guess and make first: whatever lies there would run.

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
