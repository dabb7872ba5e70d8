"""Safetensors files, read without torch: of a 340 MB checkpoint single tensors cost a few hundred kilobytes.

The format (https://huggingface.co/docs/safetensors): eight bytes, the header's length as a little-endian integer; the
header, a JSON object from tensor names to dtype, shape and byte range, plus `__metadata__`; then the tensors' bytes.
Hugging Face parts large models into several such files, shards, and an index, a JSON file that names each tensor's.

A file is opened once and everything is read through that descriptor: a name may mean another file a moment later. It
is not mapped into memory, where a file that becomes shorter ends the process.
"""

import json
import math
import os
import shlex
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from vitpe.errors import VitpeError
from vitpe.files import open_to_read, read_stream, stamp
from vitpe.text import printable

# Room for a hundred thousand tensors. The safetensors library takes up to 100 MB, but with a reader that knows what to
# expect: as JSON of any shape, those could fill 3 GB.
MAX_HEADER_BYTES: Final = 10_000_000
MAX_NAME_LENGTH: Final = 500
MAX_DIMENSIONS: Final = 16
MAX_SHARDS: Final = 500
BYTES_PER_VALUE: Final = {
    **dict.fromkeys(("F64", "I64", "U64", "C64"), 8),
    **dict.fromkeys(("F32", "I32", "U32"), 4),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 2),
    **dict.fromkeys(("BOOL", "I8", "U8", "F8_E4M3", "F8_E5M2"), 1),
}
INDEX_SUFFIX: Final = ".safetensors.index.json"
PICKLE_SUFFIXES: Final = (".pt", ".pth", ".ckpt", ".bin", ".pkl")
# How torch.save's files begin, a zip archive's and the one before. No safetensors file can: its header would be larger
# than the library allows, or than any that there is.
_PICKLE_STARTS: Final = (b"PK\x03\x04", b"\x80\x02\x8a\x0a")


@dataclass(frozen=True)
class TensorEntry:
    """Where a tensor lies: dtype as the file names it, shape, the range of bytes from its shard's start, the shard."""

    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int
    shard: int = 0

    @property
    def num_bytes(self) -> int:
        """Of its values."""
        return self.end - self.start


class TensorFile:
    """An open safetensors file, or all shards of one: its tensors by name, its free text metadata, and their bytes."""

    def __init__(self, path: Path, files: list[tuple[Path, BinaryIO]]) -> None:
        self.path = path
        self.tensors: dict[str, TensorEntry] = {}
        self.metadata: Mapping[str, str] = {}
        self._files = files
        self.stamp = self._stamp()
        for shard, (shard_path, file) in enumerate(files):
            tensors, metadata = _read_header(shard_path, file, shard)
            for name in tensors:
                if name in self.tensors:
                    raise corrupt_error(path, f"two of its shards have a tensor {name}")
            self.tensors |= tensors
            self.metadata = metadata if len(files) == 1 else {}

    def read_into(self, name: str, buffer: memoryview) -> None:
        """Fill `buffer` with the bytes of a tensor; it must have as many. VitpeError when the file has fewer."""
        entry = self.tensors[name]
        path, file = self._files[entry.shard]
        try:
            file.seek(entry.start)
            done = 0
            while done < entry.num_bytes:
                count = file.readinto(buffer[done:])  # type: ignore[attr-defined]
                if not count:
                    raise corrupt_error(path, f"{name} ends after {done} of {entry.num_bytes} bytes")
                done += count
        except OSError as error:
            raise unreadable_error(path, error) from error

    def check_memory(self) -> None:
        """VitpeError when this machine has not the memory that all tensors take."""
        size = sum(entry.num_bytes for entry in self.tensors.values())
        room = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 1 << 40
        if size > room:
            raise VitpeError(
                f"{self.path} holds {size / 1e9:,.0f} GB of tensors, this machine has {room / 1e9:,.0f} GB of memory",
                "use a smaller model, or a larger machine",
            )

    def check_unchanged(self) -> None:
        """VitpeError when the file was written to since it was opened: what was read may be half of each."""
        if self._stamp() != self.stamp:
            raise changed_error(self.path)

    def _stamp(self) -> tuple[tuple[int, ...], ...]:
        """Equal for what is the same file with the same bytes."""
        return tuple(stamp(os.fstat(file.fileno())) for _, file in self._files)


@contextmanager
def open_tensors(path: Path) -> Iterator[TensorFile]:
    """A safetensors file, or the shards that an index (*.safetensors.index.json) names, checked and open to read.

    Raises VitpeError, naming the file, when it cannot be read, is a pickle, is no safetensors file or is cut off, and,
    where the context ends, when it was written to in the meantime.
    """
    with ExitStack() as stack:
        paths = _shards(path) if path.name.endswith(INDEX_SUFFIX) else [path]
        file = TensorFile(path, [(shard, stack.enter_context(_open(shard))) for shard in paths])
        yield file
        file.check_unchanged()


def corrupt_error(path: Path, fact: str) -> VitpeError:
    """For what no writer of safetensors files leaves."""
    return VitpeError(
        f"{path} is no whole safetensors file: {fact}",
        "give .safetensors checkpoints; if this one was being copied or written, copy or save it again",
    )


def changed_error(path: Path) -> VitpeError:
    """For a file that another process writes to."""
    return VitpeError(f"{path} was written to while it was read", "try again when it is complete")


def unreadable_error(path: Path, error: OSError) -> VitpeError:
    """For a file that is not there or may not be read."""
    if isinstance(error, FileNotFoundError):
        return VitpeError(f"no file {path}", "check the name, or train first: vitpe train")
    return VitpeError(f"cannot read {path}: {error.strerror or error}", "name a safetensors file that you may read")


def pickle_error(path: Path) -> VitpeError:
    """For torch.save's files, which are not read."""
    load = "torch.load(argv[1], weights_only=True)"
    code = f"from sys import argv; import torch, safetensors.torch as s; s.save_file({load}, argv[2])"
    names = shlex.join([str(path), str(path.with_suffix(".safetensors"))])
    return VitpeError(
        f"{path} is a pickle, which could run any code when read",
        f'convert it where you trust it: python -c "{code}" {names}',
    )


def _open(path: Path) -> BinaryIO:
    try:
        file = open_to_read(path)
    except VitpeError as error:
        raise VitpeError(f"cannot read {path}: {error.message}", "name a safetensors file") from error
    except OSError as error:
        raise unreadable_error(path, error) from error
    return file


def _shards(index: Path) -> list[Path]:
    """The files that an index names, all of its own folder."""
    with _open(index) as file:
        try:
            files = set(json.loads(read_stream(file, MAX_HEADER_BYTES))["weight_map"].values())
        except VitpeError as error:
            raise VitpeError(f"{index}: {error.message}", "an index of safetensors files is expected") from error
        except (ValueError, RecursionError, KeyError, TypeError, AttributeError, OSError) as error:
            raise VitpeError(
                f"{index} is no index of safetensors files ({type(error).__name__})", "copy or save it again"
            ) from error
    if not files or len(files) > MAX_SHARDS:
        raise VitpeError(f"{index} names {len(files)} files", f"1 to {MAX_SHARDS} are expected")
    for name in files:
        plain = isinstance(name, str) and name.isprintable() and len(name) <= 255 and Path(name).name == name
        if not plain:
            raise VitpeError(
                f"{index} names '{printable(str(name)[:100])}'", "names of files in its own folder are expected"
            )
    return [index.parent / name for name in sorted(files)]


def _read_header(path: Path, file: BinaryIO, shard: int) -> tuple[dict[str, TensorEntry], Mapping[str, str]]:
    try:
        num_bytes = os.fstat(file.fileno()).st_size
        start = file.read(8)
        if path.suffix in PICKLE_SUFFIXES or start[:4] in _PICKLE_STARTS:
            raise pickle_error(path)
        length = int.from_bytes(start, "little")
        if num_bytes < 10 or length < 2 or length > min(num_bytes - 8, MAX_HEADER_BYTES):
            raise corrupt_error(path, "its header does not fit in it")
        text = file.read(length)
    except OSError as error:
        raise unreadable_error(path, error) from error
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise corrupt_error(path, "its header is no JSON") from error
    if not isinstance(fields, dict):
        raise corrupt_error(path, "its header is no JSON object")
    metadata = fields.pop("__metadata__", None) or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise corrupt_error(path, "its metadata is no table of texts")
    begin = 8 + length
    tensors = {name: _parse_entry(path, name, entry, begin, num_bytes, shard) for name, entry in fields.items()}
    _check_ranges(path, tensors, begin, num_bytes)
    return tensors, metadata


def _parse_entry(path: Path, name: str, entry: Any, begin: int, num_bytes: int, shard: int) -> TensorEntry:
    if not name.isprintable() or len(name) > MAX_NAME_LENGTH:
        raise corrupt_error(path, f"a tensor is called '{printable(name[:40])}'")
    match entry:
        case {"dtype": str(dtype), "shape": [*shape], "data_offsets": [int(start), int(end)]} if (
            all(type(size) is int and size >= 0 for size in shape)
            and len(shape) <= MAX_DIMENSIONS
            and math.prod(max(1, size) for size in shape) < 1 << 63
        ):
            pass
        case _:
            raise corrupt_error(path, f"the header's entry for {name} is incomplete")
    if not 0 <= start <= end:
        raise corrupt_error(path, f"{name} has the byte range {start} to {end}")
    if begin + end > num_bytes:
        raise corrupt_error(path, f"it has {num_bytes} bytes, {name} ends at {begin + end}")
    if dtype in BYTES_PER_VALUE and end - start != math.prod(shape) * BYTES_PER_VALUE[dtype]:
        raise corrupt_error(path, f"{name} has {end - start} bytes for shape {tuple(shape)} of {dtype}")
    return TensorEntry(dtype, tuple(shape), begin + start, begin + end, shard)


def _check_ranges(path: Path, tensors: Mapping[str, TensorEntry], begin: int, num_bytes: int) -> None:
    """Tensors follow each other without a gap to the file's end, as every writer puts them."""
    at = begin
    for name, entry in sorted(tensors.items(), key=lambda item: (item[1].start, item[1].end)):
        if entry.start != at:
            raise corrupt_error(path, f"{name} begins at byte {entry.start}, what is before it ends at {at}")
        at = entry.end
    if at != num_bytes:
        raise corrupt_error(path, f"it has {num_bytes} bytes, its last tensor ends at {at}")
