"""Parquet files of images and their attributes, as the Hugging Face hub and pandas write them.

The labels of a split are read at once, the images a few at a time, when they are asked for.
"""

import importlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.data.file_samples import FileSamples
from vitpe.data.image_files import MAX_BYTES
from vitpe.data.label_columns import MANY, Column, LabelColumns, Vocabulary, choose_columns, plain
from vitpe.data.label_table import Splits
from vitpe.data.labelled_csv import PATH_COLUMNS, SPLIT_COLUMNS, split_of
from vitpe.data.shards import Shard, Shards, find_shards
from vitpe.errors import VitpeError
from vitpe.files import open_to_read, read_bounded

SUFFIXES: Final = (".parquet",)
_IMAGE_COLUMNS: Final = ("image", "img", "jpg", "jpeg", "png", "photo", "picture", "face")
_AGAIN: Final = "download it again"
_MAX_BATCH_ROWS: Final = 1024
_BATCH_BYTES: Final = 4 << 20
_CACHE_BYTES: Final = 128 << 20
_BUFFER_BYTES: Final = 1 << 20


class ParquetFiles:
    """The images of some shards, by row, counted from 0 through all of them. Safe for threads.

    Rows are read from the beginning of their row group, a few megabytes at a time: quick in order, slow at random, and
    in constant memory either way.
    """

    reads_anywhere: ClassVar = False

    def __init__(self, root: Path, shards: Sequence[Shard]) -> None:
        """Reads the shards' last pages, which say what they hold; VitpeError naming the first that cannot be read."""
        self.path = root
        self._opened = [_OpenShard.of(shard) for shard in shards]
        self.starts = np.cumsum([0, *(opened.num_rows for opened in self._opened)])
        self._cache: OrderedDict[tuple[int, int, int], Any] = OrderedDict()
        self._num_cached_bytes = 0
        self._cursor: _Cursor | None = None
        self._lock = threading.Lock()

    @property
    def opened(self) -> Sequence["_OpenShard"]:
        return self._opened

    def read(self, row: int) -> bytes:
        """The row's encoded image; VitpeError naming file and row when there is none."""
        opened, inner = self.locate(row)
        cell = self._cell(opened, inner)
        if isinstance(cell, dict):
            cell = cell.get("path") if cell.get("bytes") is None else cell["bytes"]
        if isinstance(cell, str) and cell:
            return self._read_file(opened, inner, cell)
        if not isinstance(cell, bytes):
            raise VitpeError(f"{self.where(row)} has no image", "remove the row, or download the file again")
        return cell

    def size(self, row: int) -> int:
        """Bytes of the image, about: the mean of a row in its row group. Of one in a file of its own, that file's."""
        opened, inner = self.locate(row)
        if opened.has_paths:
            try:
                return self._place(opened, str(self._cell(opened, inner))).stat().st_size
            except (VitpeError, OSError, ValueError):  # which `read` will tell
                return 0
        return opened.mean_bytes[opened.group_of(inner)]

    def where(self, row: int) -> str:
        """File and row, for messages."""
        return ", ".join(map(str, self.place(row)))

    def place(self, row: int) -> tuple[Path, str]:
        """The file, and the row in it."""
        opened, inner = self.locate(row)
        return opened.shard.path, f"row {inner}"

    def name(self, row: int) -> str:
        """What records call the image: "train-00000-of-00019.parquet#17"."""
        opened, inner = self.locate(row)
        return f"{opened.shard.name}#{inner}"

    def release(self) -> None:
        """Forget what is kept for the next read."""
        with self._lock:
            self._cache.clear()
            self._cursor, self._num_cached_bytes = None, 0

    def locate(self, row: int) -> tuple["_OpenShard", int]:
        """The file, and the row in it."""
        number = int(self.starts.searchsorted(row, side="right")) - 1
        return self._opened[number], int(row - self.starts[number])

    def _cell(self, opened: "_OpenShard", row: int) -> Any:
        group = opened.group_of(row)
        batch, inner = divmod(row - int(opened.groups[group]), opened.batch_rows)
        key = (id(opened), group, batch)
        with self._lock:
            if key not in self._cache:
                self._read_to(opened, group, batch, row)
            self._cache.move_to_end(key)
            column = self._cache[key]
        return column[inner].as_py()

    def _read_to(self, opened: "_OpenShard", group: int, batch: int, row: int) -> None:
        """Batches of the row group, up to that one, into the cache."""
        cursor = self._cursor
        if cursor is None or (cursor.opened, cursor.group) != (opened, group) or cursor.batch > batch:
            cursor = self._cursor = _Cursor(opened, group)
        while cursor.batch <= batch:
            key = (id(opened), group, cursor.batch)
            try:
                column = cursor.next()
            # pyarrow raises nearly anything on damaged bytes.
            except Exception as error:
                self._cursor = None
                raise VitpeError(f"cannot read {opened.shard.path}, row {row}: {_reason(error)}", _AGAIN) from error
            self._num_cached_bytes += column.nbytes - (self._cache[key].nbytes if key in self._cache else 0)
            self._cache[key] = column
            while self._num_cached_bytes > _CACHE_BYTES and len(self._cache) > 1:
                _, oldest = self._cache.popitem(last=False)
                self._num_cached_bytes -= oldest.nbytes

    def _read_file(self, opened: "_OpenShard", row: int, name: str) -> bytes:
        try:
            return read_bounded(self._place(opened, name), MAX_BYTES)
        except (VitpeError, OSError, ValueError) as error:
            raise VitpeError(
                f"{opened.shard.path}, row {row}: cannot read {name[:200]}: {_reason(error)}",
                "paths are relative to the parquet file's folder",
            ) from error

    def _place(self, opened: "_OpenShard", name: str) -> Path:
        """Of a file that a row names: beside the parquet file, or below the folder that the user named."""
        places = [opened.shard.path.parent / name, self.path / name]
        return next((place for place in places if place.exists()), places[0])


@dataclass(frozen=True, eq=False)
class _OpenShard:
    """What a file's end says of it. groups: the row that each row group begins with, and the number of rows."""

    shard: Shard
    metadata: Any
    schema: Any
    image: str
    groups: NDArray[np.int64]
    mean_bytes: tuple[int, ...]

    @staticmethod
    def of(shard: Shard) -> "_OpenShard":
        try:
            with open_to_read(shard.path) as file:
                head = file.read(64)
        except (OSError, VitpeError) as error:
            raise VitpeError(f"cannot read {shard.path}: {_reason(error)}", _AGAIN) from error
        if head.startswith(b"version https://git-lfs"):
            raise VitpeError(f"{shard.path} is a pointer of Git LFS, not the file itself", "get it: git lfs pull")
        try:
            with _parquet().ParquetFile(shard.path) as file:
                metadata, schema = file.metadata, file.schema_arrow
                sizes = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        except VitpeError:
            raise
        except Exception as error:
            why = "the file is empty (0 bytes)" if not head else _reason(error)
            raise VitpeError(f"cannot read {shard.path}: {why}", _AGAIN) from error
        if sum(sizes) != metadata.num_rows or any(size < 0 for size in sizes):
            raise VitpeError(f"cannot read {shard.path}: its row groups and its rows do not agree", _AGAIN)
        image = _image_column(shard, schema)
        # All columns, beside which the images' own is nearly all. To ask for a column of a damaged footer ends the
        # process: pyarrow lets the C++ exception through.
        num_bytes = (max(0, metadata.row_group(i).total_byte_size) for i in range(len(sizes)))
        means = tuple(total // max(1, size) for total, size in zip(num_bytes, sizes, strict=True))
        return _OpenShard(shard, metadata, schema, image, np.cumsum([0, *sizes]), means)

    @property
    def num_rows(self) -> int:
        return int(self.groups[-1])

    @property
    def has_paths(self) -> bool:
        """Whether a row holds the name of an image's file, not the image."""
        return "string" in str(self.schema.field(self.image).type)[:12]

    @property
    def path_column(self) -> str | None:
        """The column of the images' paths; None for none."""
        kind = self.schema.field(self.image).type
        if self.has_paths:
            return self.image
        has = _arrow().types.is_struct(kind) and any(each.name == "path" for each in kind)
        return f"{self.image}.path" if has else None

    @property
    def batch_rows(self) -> int:
        """That are read at a time."""
        return max(1, min(_MAX_BATCH_ROWS, _BATCH_BYTES // max(1, *self.mean_bytes, 0)))

    def group_of(self, row: int) -> int:
        return int(self.groups.searchsorted(row, side="right")) - 1


class _Cursor:
    """Reads the images of a row group, batch after batch."""

    def __init__(self, opened: _OpenShard, group: int) -> None:
        self.opened, self.group, self.batch = opened, group, 0
        self._rows = int(opened.groups[group + 1] - opened.groups[group])
        file = _parquet().ParquetFile(
            opened.shard.path, metadata=opened.metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False
        )
        self._batches = file.iter_batches(
            opened.batch_rows, row_groups=[group], columns=[opened.image], use_threads=False
        )

    def next(self) -> Any:
        column = next(self._batches).column(0)
        wanted = min(self.opened.batch_rows, self._rows - self.batch * self.opened.batch_rows)
        if len(column) != wanted:
            raise VitpeError(f"{len(column)} images where {wanted} should follow")
        self.batch += 1
        return column


class _RowNames(Sequence[str]):
    """Files and rows as names, made when they are asked for: a million of them take more room than their labels."""

    def __init__(self, files: ParquetFiles) -> None:
        self._files = files

    def __len__(self) -> int:
        return int(self._files.starts[-1])

    def __getitem__(self, index: Any) -> Any:
        rows = range(len(self))[index]
        return self._files.name(rows) if isinstance(rows, int) else [self._files.name(row) for row in rows]


def read_parquet(data: Path, split: str, stored_size: tuple[int, int]) -> FileSamples:
    """The samples of one split ("train", "valid" or "test"), in the order of files and rows.

    data: a file, or a folder of files. The image is a struct of {bytes, path}, bytes or a path; attributes are columns
    of booleans or of whole numbers (0 and 1, or -1 and 1), or a struct of them; other columns are left out and named.
    The split is what the files' names say, else a column of that name, else a hash of each row's name.
    Raises VitpeError naming file and row of what is wrong, and when pyarrow is missing.
    """
    shards = find_shards(data, SUFFIXES)
    files = ParquetFiles(shards.root, shards.of(split))
    if not files.starts[-1]:
        raise VitpeError(f"{shards.root} has no rows", _AGAIN)
    table = _labels(files)
    names = _own_names(files) or _RowNames(files)
    splits, note = _splits(shards, files, names)
    rows = np.arange(files.starts[-1]) if splits is None else np.flatnonzero(splits == split)
    if splits is not None and not len(rows):
        counts = ", ".join(f"{np.count_nonzero(splits == name):,} {name}" for name in ("train", "valid", "test"))
        raise VitpeError(f"{shards.root} has no image of the {split} split ({counts})", "use more rows")
    notes = [*table.notes(shards.root), *filter(None, [note])]
    samples = FileSamples(
        "parquet", table.attributes, names, table.labels, stored_size, files, range(len(names)), tuple(notes)
    )
    return samples if len(rows) == len(names) else samples.take(rows.tolist())


def image_rows(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Of each row of a parquet file a name, FILE#ROW, and what reads its image, in the order of the rows.

    Raises VitpeError where it is no parquet file with a column of images; what is called, for a row without one.
    """
    files = ParquetFiles(path.parent, [Shard(path, path.name, None)])
    for row in range(int(files.starts[-1])):
        yield f"{path}#{row}", partial(files.read, row)


def _own_names(files: ParquetFiles) -> list[str] | None:
    """The paths that the images had, where each has one of its own: those of CelebA's images tell which they are."""
    if not all(opened.path_column for opened in files.opened):
        return None
    paths = [path for opened in files.opened for path in _column(opened, str(opened.path_column)).to_pylist()]
    return paths if all(paths) and len(set(paths)) == len(paths) else None


def _splits(shards: Shards, files: ParquetFiles, names: Sequence[str]) -> tuple[NDArray[np.str_] | None, str | None]:
    """Each row's split, None where all are of the one that was asked for; and what was assumed."""
    columns = [_split_column(opened) for opened in files.opened]
    if None in columns:
        if shards.tell_splits:
            return None, None
        return np.array([split_of(name) for name in names]), shards.note()
    known, found = Splits(), []
    for opened, column in zip(files.opened, columns, strict=True):
        assert column is not None
        for row, value in enumerate(_column(opened, column).to_pylist()):
            its_split = known[str(value)]
            if its_split is None:
                raise VitpeError(
                    f"{opened.shard.path}, row {row}: {column} is {str(value)[:60]!r}",
                    "splits are train, valid and test, or 0, 1 and 2",
                )
            if shards.tell_splits and its_split != opened.shard.split:
                raise VitpeError(
                    f"{opened.shard.path}, row {row}: {column} is {value}, the file's name says {opened.shard.split}",
                    "remove the column, or rename the file",
                )
            found.append(its_split)
    return (None if shards.tell_splits else np.array(found)), None


def _labels(files: ParquetFiles) -> LabelColumns:
    """Of all rows; VitpeError naming the file when its columns are not those of the first."""
    first, *others = files.opened
    names = _candidates(first)
    for other in others:
        its = _candidates(other)
        if set(its) != set(names) or other.image != first.image:
            strange = sorted({*its} ^ {*names}) or [other.image]
            who = other if strange[0] in its or strange[0] == other.image else first
            rest = first if who is other else other
            raise VitpeError(
                f"{who.shard.path} has a column {strange[0]}, {rest.shard.path} has none to go with it",
                "use files of one dataset alone",
            )

    vocabularies = [Vocabulary() for _ in names]
    parts = [
        [_codes(values, known) for values, known in zip(_columns(opened, names), vocabularies, strict=True)]
        for opened in files.opened
    ]
    found = [
        Column(name, [*known], np.concatenate(codes))
        for name, known, codes in zip(names, vocabularies, zip(*parts, strict=True), strict=True)
    ]
    columns = choose_columns(first.shard.path, found, files.place, strict=False)
    taken = {name.split(".")[0] for name in names} | {first.image}
    rest_of_it = {each.name: str(each.type)[:40] for each in first.schema if each.name not in taken}
    split = _split_column(first)
    return replace(columns, left_out={k: v for k, v in (rest_of_it | columns.left_out).items() if k != split})


def _candidates(opened: _OpenShard) -> list[str]:
    """Columns of booleans, numbers and text; of those within a struct booleans and numbers, as "struct.name"."""
    types, found = _arrow().types, []
    for field in opened.schema:
        if field.name == opened.image or plain(field.name) in SPLIT_COLUMNS:
            continue
        if _is_label(field.type) or _is_text(field.type):
            found.append(field.name)
        elif types.is_struct(field.type) and field.type.num_fields:
            inner = list(field.type)
            if all(_is_label(each.type) for each in inner):
                found += [f"{field.name}.{each.name}" for each in inner]
    return found


def _codes(values: Any, known: Vocabulary) -> NDArray[np.uint8]:
    """(rows,) the number of each value; those of all files have one vocabulary."""
    if not _arrow().types.is_dictionary(values.type):
        values = values.dictionary_encode()
    num = len(values.dictionary)
    numbers = np.full(num + 1, MANY, dtype=np.uint8)
    for index, value in enumerate(values.dictionary[: MANY + 1].to_pylist()):
        numbers[index] = known[value]
    if values.indices.null_count:
        numbers[num] = known[None]
    codes: NDArray[np.uint8] = numbers[values.indices.fill_null(num).to_numpy(zero_copy_only=False)]
    return codes


def _column(opened: _OpenShard, name: str) -> Any:
    """A column in one piece; of a struct's field, where the struct is missing, so is the field."""
    return next(_columns(opened, [name]))


def _columns(opened: _OpenShard, names: Sequence[str]) -> Iterator[Any]:
    """One column after the other, so that an error names its column."""
    name = ""
    try:
        with _parquet().ParquetFile(opened.shard.path, metadata=opened.metadata, pre_buffer=False) as file:
            for name in names:
                outer, _, inner = (name, "", "") if name in opened.schema.names else name.partition(".")
                column = file.read(columns=[name], use_threads=False).column(outer)
                if inner:
                    column = importlib.import_module("pyarrow.compute").struct_field(column, inner)
                if len(column) != opened.num_rows:
                    raise VitpeError(f"{len(column):,} values for {opened.num_rows:,} rows")
                yield column.combine_chunks()
    except Exception as error:
        raise VitpeError(f"cannot read {name} in {opened.shard.path}: {_reason(error)}", _AGAIN) from error


def _split_column(opened: _OpenShard) -> str | None:
    return next((name for name in opened.schema.names if plain(name) in SPLIT_COLUMNS), None)


def _image_column(shard: Shard, schema: Any) -> str:
    """By its name, of those that have an image's form; else the one that there is."""
    types = _arrow().types
    formed = [field.name for field in schema if _is_image(field.type)]
    named = [name for name in formed if plain(name) in _IMAGE_COLUMNS]
    if not named and not formed:
        formed = [
            field.name
            for field in schema
            if (types.is_string(field.type) or types.is_large_string(field.type))
            and plain(field.name) in (*PATH_COLUMNS, *_IMAGE_COLUMNS)
        ]
    found = named or formed
    if len(found) == 1:
        return str(found[0])
    columns = ", ".join(f"{field.name} ({field.type})" for field in schema)[:200]
    what = f"{len(found)} columns of images: {', '.join(found)}" if found else f"no column of images ({columns})"
    raise VitpeError(
        f"{shard.path} has {what}", "it needs one column named image: bytes, a path, or a struct of {bytes, path}"
    )


def _is_image(kind: Any) -> bool:
    types = _arrow().types
    if types.is_struct(kind):
        return any(each.name == "bytes" and _is_image(each.type) for each in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind))


def _is_label(kind: Any) -> bool:
    types = _arrow().types
    return bool(types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind))


def _is_text(kind: Any) -> bool:
    types = _arrow().types
    if types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return bool(types.is_string(kind) or types.is_large_string(kind))


def _reason(error: Exception) -> str:
    if isinstance(error, VitpeError):
        return error.message
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split())[:160] or type(error).__name__


def _arrow() -> ModuleType:
    try:
        return importlib.import_module("pyarrow")
    except ImportError as error:
        raise VitpeError(
            "parquet files are read with pyarrow, which is not installed", "pip install 'vitpe[parquet]'"
        ) from error


def _parquet() -> ModuleType:
    _arrow()
    return importlib.import_module("pyarrow.parquet")
