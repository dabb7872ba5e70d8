"""Too little memory, of the machine or of a GPU, as an error that says what to lower."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from vitpe.errors import VitpeError

_HINTS: Final = {
    "train": "compute each batch in parts (--set train.micro_batch_size=8), keep the images elsewhere (--store disk),"
    " or choose a smaller --preset",
    "viz-pe": "give fewer checkpoints, or lower --size",
    "draw": "draw fewer faces at a time",
}
_SIGNS: Final = ("out of memory", "not enough memory", "allocate memory", "alloc_failed", "bad_alloc")
"""What torch says in a RuntimeError for which it has no class."""


@contextmanager
def enough_memory(command: str | None) -> Iterator[None]:
    """Within, too little memory is a VitpeError: how much was wanted, of what, and what `command` can do about it."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not _is_memory(error):
            raise
        text = str(error)
        on_gpu = re.search("cuda|cublas|cudnn|gpu|mps", text, re.IGNORECASE)
        wanted = re.search(r"(?:tried|unable) to allocate ([\d.]+ \w+)", text, re.IGNORECASE)
        more = f"{wanted[1]} more" if wanted else "this"
        elsewhere = "compute on the CPU (--device cpu), or end" if on_gpu else "end"
        raise VitpeError(
            f"{'the GPU' if on_gpu else 'this machine'} has too little memory for {more}",
            _HINTS.get(command or "", f"{elsewhere} other programs that use its memory"),
        ) from error


def _is_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _SIGNS)
