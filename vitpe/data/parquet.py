"""Images and labels in parquet files, as the Hugging Face hub has them: one file, a folder, or a download's tree.

A column of images, as {bytes, path}, as bytes or as paths of files; columns of labels, boolean or of 0/1 or -1/1, or
one struct of them. Columns of text and of other numbers are left out, and named. pyarrow is an optional extra.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.data.file_samples import FileSamples, size_note
from vitpe.data.image_files import FolderFiles, is_file, is_folder
from vitpe.data.label_table import Splits, check_attributes
from vitpe.data.labelled_csv import SPLIT_COLUMNS
from vitpe.data.shards import counts_of, splits_of
from vitpe.errors import VitpeError

SUFFIX: Final = ".parquet"
_IMAGE_COLUMNS: Final = ("image", "img", "jpg", "jpeg", "png", "photo", "picture", "file_name", "path")
_CACHED_BYTES: Final = 64_000_000


def is_parquet(path: Path) -> bool:
    """Whether it is a parquet file, or a folder with one somewhere in it."""
    return bool(path.suffix.lower() == SUFFIX and is_file(path)) or next(_below(path), None) is not None


def read_parquet(path: Path, split: str, stored_size: tuple[int, int]) -> FileSamples:
    """The samples of one split ("train", "valid" or "test"), in the order of the files' names and of their rows.

    The split is in the files' names or folders (train-00000-of-00019.parquet, CONFIG/validation/0000.parquet), or in a
    column; a split that no name says is a part of train, by a hash of each image's name. stored_size: (height, width)
    that images are fitted to. Raises VitpeError naming the file, and the row, of what is wrong.
    """
    shards = _open_shards(path)
    columns = _choose_columns(shards)
    parts = [_read_shard(shard, columns) for shard in shards]
    names = _names(parts)
    if parts[0].splits is None:
        splits, how = splits_of([(part.shard.name, len(part.labels)) for part in parts], names)
    else:
        splits, how = np.array([split for part in parts for split in part.splits or ()], dtype="<U5"), ""
    chosen, counts = np.flatnonzero(splits == split), counts_of(splits)
    if not len(chosen):
        raise VitpeError(f"{path} has no image of the {split} split ({counts})", "add a file or a split column for it")
    labels = np.concatenate([part.labels for part in parts])
    members = [member for part in parts for member in part.members]
    files: ParquetFiles | FolderFiles = FolderFiles(path if path.is_dir() else path.parent)
    if not columns.by_path:
        files = ParquetFiles(path, shards, columns.image)
    notes = [f"{path}: parquet, {len(shards)} file{'s' * (len(shards) > 1)}, {counts}, {labels.shape[1]} attributes"]
    notes += [f"columns that are no labels are left out: {', '.join(columns.left_out)}"] if columns.left_out else []
    notes += [how] if how else []
    samples = FileSamples(
        "parquet",
        columns.attributes,
        [names[index] for index in chosen],
        labels[chosen],
        stored_size,
        files,
        [members[index] for index in chosen],
        tuple(notes),
    )
    return samples.take(range(len(chosen)), *size_note(files.read(members[chosen[0]]), stored_size))


def image_rows(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Of each row of a parquet file a name, FILE#ROW, and what reads its image, in the order of the rows.

    Raises VitpeError where it is no parquet file with a column of images' bytes; what is called, for a row without one.
    """
    shards = _open_shards(path)
    image = _image_column(shards[0].file.schema_arrow, path)
    if not _holds_bytes(shards[0].file.schema_arrow.field(image).type):
        raise VitpeError(f"{path} names files of images and does not hold them", "name their folder")
    files = ParquetFiles(path, shards, image)
    for row in range(shards[0].file.metadata.num_rows):
        yield f"{path}#{row}", partial(files.read, f"0#{row}")


class ParquetFiles:
    """Encoded images in the rows of parquet files, by "FILE#ROW" with the file's number; a few row groups are kept."""

    def __init__(self, path: Path, shards: Sequence["_Shard"], column: str) -> None:
        self.path = path
        self._shards = shards
        self._column = column
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()
        self._num_bytes = 0

    def read(self, member: str) -> bytes:
        """The encoded image; VitpeError naming file and row where there is none."""
        number, row = map(int, member.split("#"))
        shard = self._shards[number]
        group = int(np.searchsorted(shard.starts, row, side="right")) - 1
        with self._lock:
            values = self._groups.get((number, group))
            if values is None:
                values = self._read_group(shard, group)
                self._groups[number, group] = values
                self._num_bytes += values.nbytes
                while self._num_bytes > _CACHED_BYTES and len(self._groups) > 1:
                    self._num_bytes -= self._groups.popitem(last=False)[1].nbytes
            else:
                self._groups.move_to_end((number, group))
        data: bytes | None = values[row - int(shard.starts[group])].as_py()
        if data is None:
            raise VitpeError(f"{shard.path}, row {row}: no image", "remove the row, or put the image's bytes there")
        return data

    def size(self, member: str) -> int:
        """Bytes of an image of that row group, on average: each one's own would take reading them all."""
        number, row = map(int, member.split("#"))
        shard = self._shards[number]
        group = int(np.searchsorted(shard.starts, row, side="right")) - 1
        return int(shard.image_bytes(self._column, group))

    def _read_group(self, shard: "_Shard", group: int) -> Any:
        import pyarrow as pa

        try:
            values = shard.file.read_row_group(group, columns=[self._column]).column(0)
        except (pa.ArrowException, OSError) as error:
            raise VitpeError(f"{shard.path}, row group {group}: {_brief(error)}", "download the file again") from error
        if pa.types.is_struct(values.type):
            values = values.combine_chunks()
            values = (
                values.field("bytes") if not isinstance(values, pa.ChunkedArray) else values.chunk(0).field("bytes")
            )
        return values


@dataclass(frozen=True)
class _Shard:
    """An open file: its number, its path relative to what was named, its rows' first of each row group."""

    number: int
    path: Path
    name: str
    file: Any
    starts: NDArray[np.int64]

    def image_bytes(self, column: str, group: int) -> int:
        """Of an image, on average, before compression."""
        rows = self.file.metadata.row_group(group)
        chunks = (rows.column(index) for index in range(rows.num_columns))
        total = sum(chunk.total_uncompressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] == column)
        return int(total) // max(1, int(rows.num_rows))


@dataclass(frozen=True)
class _Columns:
    """Which column is what. labels: the leaves' paths of `attributes`. by_path: images are paths of files."""

    image: str
    by_path: bool
    has_path: bool
    attributes: tuple[str, ...]
    labels: tuple[str, ...]
    split: str | None
    left_out: tuple[str, ...]


@dataclass(frozen=True)
class _Part:
    """What a shard says of its rows: labels (n, A), the images' paths, members, and splits where a column has them."""

    shard: _Shard
    labels: NDArray[np.uint8]
    paths: list[str | None]
    members: list[str]
    splits: list[str] | None


def _below(folder: Path) -> Iterator[Path]:
    if not is_folder(folder):
        return
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if name.lower().endswith(SUFFIX))


def _open_shards(path: Path) -> list[_Shard]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise VitpeError(
            f"{path} is parquet, which needs pyarrow", "install it: pip install 'vitpe[parquet]'"
        ) from error
    shards = []
    for number, file in enumerate(sorted(_below(path)) if path.is_dir() else [path]):
        try:
            opened = pq.ParquetFile(file)
            counts = [opened.metadata.row_group(group).num_rows for group in range(opened.metadata.num_row_groups)]
        except (pa.ArrowException, OSError) as error:
            raise VitpeError(f"{file} is no whole parquet file: {_brief(error)}", "download it again") from error
        starts = np.cumsum([0, *counts[:-1]]).astype(np.int64)
        name = str(file.relative_to(path)) if path.is_dir() else file.name
        shards.append(_Shard(number, file, name, opened, starts))
    first = shards[0].file.schema_arrow
    for shard in shards[1:]:
        if not shard.file.schema_arrow.equals(first):
            names = sorted(set(first.names) ^ set(shard.file.schema_arrow.names))
            what = f"columns {', '.join(names[:3])} are in one alone" if names else "a column has another type"
            raise VitpeError(
                f"{shards[0].path} and {shard.path} differ: {what}", "name a folder with files of one dataset"
            )
    return shards


def _choose_columns(shards: Sequence[_Shard]) -> _Columns:
    """By the schema, and of whole numbers by their values."""
    import pyarrow as pa

    schema, where = shards[0].file.schema_arrow, shards[0].path
    image = _image_column(schema, where)
    kind = schema.field(image).type
    labels: list[tuple[str, str]] = []
    left_out, split = [], None
    for field in schema:
        if field.name == image:
            continue
        if field.name.lower().replace("_", "") in SPLIT_COLUMNS:
            split = field.name
        elif pa.types.is_struct(field.type) and all(_may_be_label(inner.type) for inner in field.type):
            labels += [(inner.name, f"{field.name}.{inner.name}") for inner in field.type]
        elif _may_be_label(field.type):
            labels.append((field.name, field.name))
        else:
            left_out.append(field.name)
    kept = []
    for name, column in labels:
        if pa.types.is_boolean(_leaf(schema, column)) or _holds_labels(shards, column):
            kept.append((name, column))
        else:
            left_out.append(name)
    if not kept:
        raise VitpeError(
            f"{where} has no column of labels beside {image}", "labels are true and false, 0 and 1, -1 and 1"
        )
    attributes = tuple(name for name, _ in kept)
    try:
        check_attributes(attributes)
    except VitpeError as error:
        raise VitpeError(f"{where}: {error.message}", error.hint) from error
    is_struct = pa.types.is_struct(kind)
    return _Columns(
        image,
        pa.types.is_string(kind) or pa.types.is_large_string(kind),
        is_struct and any(inner.name == "path" for inner in kind),
        attributes,
        tuple(column for _, column in kept),
        split,
        tuple(left_out),
    )


def _image_column(schema: Any, where: Path) -> str:
    import pyarrow as pa

    with_bytes = [field.name for field in schema if _holds_bytes(field.type)]
    named = [name for name in _IMAGE_COLUMNS if name in with_bytes] or with_bytes
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    named = named or [name for name in _IMAGE_COLUMNS if name in texts]
    if not named:
        raise VitpeError(
            f"{where} has no column of images, but {', '.join(schema.names[:5])}", "one is called image, as on the hub"
        )
    return str(named[0])


def _holds_bytes(kind: Any) -> bool:
    """Whether a column of that type has images' bytes, or structs with them."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return any(inner.name == "bytes" and _holds_bytes(inner.type) for inner in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _may_be_label(kind: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_boolean(kind) or pa.types.is_integer(kind))


def _leaf(schema: Any, column: str) -> Any:
    outer, _, inner = column.partition(".")
    if outer in schema.names and inner and column not in schema.names:
        return schema.field(outer).type.field(inner).type
    return schema.field(column).type


def _holds_labels(shards: Sequence[_Shard], column: str) -> bool:
    """Whether whole numbers are 0 and 1 or -1 and 1, looking no further than the first that are not. -1, 0 and 1 are
    taken for labels, too, and then refused: what 0 means there must not be guessed.
    """
    for shard in shards:
        values = _leaf_values(shard, column).drop_null().to_numpy()
        if not np.isin(values, (-1, 0, 1)).all():
            return False
    return True


def _leaf_values(shard: _Shard, column: str) -> Any:
    """A column, or a struct's field."""
    import pyarrow as pa

    try:
        table = shard.file.read(columns=[column])
    except (pa.ArrowException, OSError) as error:
        raise VitpeError(f"{shard.path}, column {column}: {_brief(error)}", "download the file again") from error
    while pa.types.is_struct(table.schema.field(0).type):
        table = table.flatten()
    return table.column(0)


def _read_shard(shard: _Shard, columns: _Columns) -> _Part:
    num_rows = shard.file.metadata.num_rows
    labels = np.empty((num_rows, len(columns.labels)), dtype=np.uint8)
    for number, column in enumerate(columns.labels):
        values = _leaf_values(shard, column)
        if values.null_count:
            row = next(row for row, value in enumerate(values) if not value.is_valid)
            raise VitpeError(f"{shard.path}, row {row}: {column} is missing", "each image needs all of its labels")
        numbers = np.asarray(values.to_numpy()).astype(np.int8)
        if (numbers == 0).any() and (numbers == -1).any():
            zero, minus = int((numbers == 0).argmax()), int((numbers == -1).argmax())
            raise VitpeError(
                f"{shard.path}: {column} is 0 in row {zero} and -1 in row {minus}",
                "a column is 0 and 1, or -1 and 1, not both",
            )
        labels[:, number] = numbers == 1
    paths: list[str | None] = [None] * num_rows
    if columns.by_path or columns.has_path:
        paths = _leaf_values(shard, columns.image if columns.by_path else f"{columns.image}.path").to_pylist()
    members = [f"{shard.number}#{row}" for row in range(num_rows)]
    if columns.by_path:
        members = [_path_there(shard, row, path) for row, path in enumerate(paths)]
    splits = None if columns.split is None else _column_of_splits(shard, columns.split)
    return _Part(shard, labels, paths, members, splits)


def _path_there(shard: _Shard, row: int, path: str | None) -> str:
    if not path:
        raise VitpeError(f"{shard.path}, row {row}: no path of an image", "remove the row, or name its image")
    return path


def _column_of_splits(shard: _Shard, column: str) -> list[str]:
    meanings, found = Splits(), []
    for row, value in enumerate(_leaf_values(shard, column).to_pylist()):
        split = meanings[str(value)]
        if split is None:
            raise VitpeError(
                f"{shard.path}, row {row}: {column} is {str(value)[:60]!r}",
                "splits are train, valid and test, or 0, 1, 2",
            )
        found.append(split)
    return found


def _names(parts: Sequence[_Part]) -> list[str]:
    """The images' own paths where each has one that no other has, else file and row."""
    paths = [path for part in parts for path in part.paths if path]
    total = sum(len(part.paths) for part in parts)
    if len(set(paths)) == total:
        return paths
    return [f"{part.shard.name}#{row}" for part in parts for row in range(len(part.paths))]


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:120]
