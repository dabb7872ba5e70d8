"""WebDataset: images and their labels in tar archives, KEY.jpg beside KEY.json or KEY.cls, read without unpacking."""

import json
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np

from vitpe.data.file_samples import FileSamples
from vitpe.data.label_columns import Column, LabelColumns, Other, Vocabulary, choose_columns
from vitpe.data.labelled_csv import LabelTable, no_images, split_of
from vitpe.data.shards import Shard, Shards, find_shards
from vitpe.data.tar_files import SUFFIXES, Member, members, read_part
from vitpe.errors import VitpeError
from vitpe.files import stamp_at
from vitpe.text import brief

IMAGES: Final = ("jpg", "jpeg", "png", "webp")
_LABELS: Final = ("json", "cls")
_MAX_FIELDS: Final = 10_000
_MAX_LABEL_BYTES: Final = 1_000_000
_LACKS: Final = "each image needs KEY.json with all of its labels, or KEY.cls"


def is_image_member(name: str) -> bool:
    """Whether a member is an image of a sample; what macOS adds to archives is none."""
    return _key(name)[1] in IMAGES and not any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def read_webdataset(data: Path, split: str, stored_size: tuple[int, int], tables: Sequence[Path] = ()) -> FileSamples:
    """The samples of one split ("train", "valid" or "test"), in the order of archives and keys.

    data: an archive, a pattern (train-{000..019}.tar), or a folder of archives. Labels are the booleans and the 0 and
    1, or -1 and 1, in each key's json, or in one object in it, or the number in its cls; others are left out and
    named. The split is what the archives' names say, else a hash of each image's name. tables: CSVs that have the
    labels in place of the archives, of images by KEY or KEY.jpg; a column may say the split.
    Raises VitpeError naming archive and key of what is wrong.
    """
    shards = find_shards(data, SUFFIXES)
    if tables:
        return _read_beside(shards, tables, split, stored_size)
    images, labels = ShardImages(shards.root), _Labels()
    for shard in shards.of(split):
        images.add(shard)
        for key, files in _samples(shard):
            image = images.append(key, files)
            labels.append(images, key, {kind: files[kind] for kind in _LABELS if kind in files})
            images.others.update(kind for kind in files if kind not in (image, *_LABELS))
    if not len(images):
        raise VitpeError(f"{shards.root} has no images (looked for {', '.join(IMAGES)})", "name archives with some")
    table = labels.choose(images)
    names = images.names()
    note = shards.note()
    rows = range(len(names)) if note is None else [i for i, name in enumerate(names) if split_of(name) == split]
    if not len(rows):
        raise VitpeError(f"{shards.root} has no image of the {split} split: {len(names):,} in all", "use more images")
    others = ", ".join(f"{count:,} .{kind}" for kind, count in images.others.most_common(5))
    notes = [*table.notes(shards.root), f"files that are not read: {others}" if others else None, note]
    told = tuple(line for line in notes if line is not None)
    found = FileSamples(
        "webdataset", table.attributes, names, table.labels, stored_size, images, range(len(names)), told
    )
    return found if len(rows) == len(names) else found.take(rows)


def _read_beside(shards: Shards, tables: Sequence[Path], split: str, stored_size: tuple[int, int]) -> FileSamples:
    """Labels from tables. All archives are looked through, as the tables are of all splits."""
    images, splits_of = ShardImages(shards.root), list[str | None]()
    num_others = 0
    for shard in shards.files:
        images.add(shard)
        for key, files in _samples(shard):
            images.append(key, files)
            splits_of.append(shard.split)
            num_others += any(kind in files for kind in _LABELS)
    names = images.names()
    number_of = {name: number for number, name in enumerate(names)}
    table = LabelTable(_MemberNames(shards.root, names), tables)
    found, note = table.splits()
    if shards.tell_splits:
        told = [str(splits_of[number_of[name]]) for name in table.paths]
        for name, of_table, of_archive in zip(table.paths, found, told, strict=True):
            if table.has_split_column and of_table != of_archive:
                raise VitpeError(
                    f"{table.title}: {name} is {of_table}, the name of its archive says {of_archive}",
                    "remove the column of the split, or rename the archive",
                )
        found, note = told, None
    chosen = sorted((number_of[name], row) for row, name in enumerate(table.paths) if found[row] == split)
    if not chosen:
        raise no_images(table.title, split, found)
    numbers = [number for number, _ in chosen]
    unread = f"labels are those of {table.title}: {num_others:,} labels in the archives are not read"
    notes = [*table.notes(), note, unread if num_others else None]
    return FileSamples(
        "webdataset",
        table.columns.attributes,
        [names[number] for number in numbers],
        table.columns.labels[[row for _, row in chosen]],
        stored_size,
        images,
        numbers,
        tuple(line for line in notes if line is not None),
    )


class _MemberNames:
    """Images in archives as tables name them: by the member's name, its key, or the key without its folders."""

    def __init__(self, root: Path, names: Sequence[str]) -> None:
        self.folder = root
        self.visible = frozenset(names)
        self._by_key: dict[str, list[str]] = {}
        self._by_base: dict[str, list[str]] = {}
        for name in names:
            key = _key(name)[0]
            self._by_key.setdefault(key, []).append(name)
            self._by_base.setdefault(key.rpartition("/")[2].rpartition(":")[2], []).append(name)

    def find(self, text: str) -> list[str]:
        """The name of the one that is meant; several where that is not clear; none."""
        if text in self.visible:
            return [text]
        key = _key(text.replace("\\", "/"))[0]
        return self._by_key.get(key) or self._by_base.get(key, [])

    def has_other(self, _: str) -> bool:
        """Only images have been looked for."""
        return False


def image_members(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """Of each image in an archive a name, ARCHIVE:MEMBER, and what reads it, in order; labels need not be there.

    Raises VitpeError where the archive is damaged, after what comes before that; what is called, when it is gone.
    """
    known = stamp_at(path)
    for member in members(path):
        if is_image_member(member.name):
            yield f"{path}:{member.name}", partial(_read_member, path, member, known)


class ShardImages:
    """The images of some archives, by number; where each one lies is three numbers and its name."""

    reads_anywhere: ClassVar = True

    def __init__(self, root: Path) -> None:
        self.path = root
        self.others: Counter[str] = Counter()
        self._shards: list[Shard] = []
        self._stamps: list[tuple[int, ...]] = []
        self._members: list[str] = []
        self._keys: set[tuple[int, str]] = set()
        self._places = array("q")  # archive, start, size

    def __len__(self) -> int:
        return len(self._members)

    def add(self, shard: Shard) -> None:
        """Of this one are the images to come."""
        self._shards.append(shard)
        self._stamps.append(stamp_at(shard.path))

    def append(self, key: str, files: dict[str, Member]) -> str:
        """One more image; its suffix. VitpeError where the key has none, or two, or was there before."""
        shard = self._shards[-1]
        kinds = [kind for kind in IMAGES if kind in files]
        if len(kinds) != 1:
            what = f"two images, .{kinds[0]} and .{kinds[1]}" if kinds else "no image"
            raise VitpeError(f"{shard.path}: {key} has {what}", f"each key needs one of {', '.join(IMAGES)}")
        place = (len(self._shards), key)
        if place in self._keys:
            raise VitpeError(
                f"{shard.path}: {key} comes again", "the files of a key follow each other, and no two have its name"
            )
        self._keys.add(place)
        image = files[kinds[0]]
        self._members.append(image.name)
        self._places.extend((len(self._shards) - 1, image.start, image.size))
        return kinds[0]

    def names(self) -> Sequence[str]:
        """The images' own names where no two are alike, else with their archive's: "train-000.tar:000001.jpg"."""
        if len(set(self._members)) == len(self._members):
            return self._members
        return [f"{self._shards[self._places[3 * i]].name}:{name}" for i, name in enumerate(self._members)]

    def read(self, number: int) -> bytes:
        """The encoded image; VitpeError naming archive and key."""
        shard, start, size = self._places[3 * number : 3 * number + 3]
        member = Member(self._members[number], start, size)
        return _read_member(self._shards[shard].path, member, self._stamps[shard])

    def size(self, number: int) -> int:
        """Bytes of the encoded image."""
        return self._places[3 * number + 2]

    def where(self, number: int) -> str:
        """The image, for messages."""
        return ": ".join(map(str, self.place(number)))

    def place(self, number: int) -> tuple[Path, str]:
        """The archive, and the image's name in it."""
        return self._shards[self._places[3 * number]].path, self._members[number]

    @property
    def shard(self) -> Shard:
        """That the last image is in."""
        return self._shards[-1]

    @property
    def stamp(self) -> tuple[int, ...]:
        """Of that archive, when it was opened."""
        return self._stamps[-1]

    def release(self) -> None:
        """Nothing is kept between reads."""


@dataclass
class _Labels:
    """The labels of all images so far, column by column as the first image has them."""

    names: list[str] = field(default_factory=list)
    _vocabularies: list[Vocabulary] = field(default_factory=list)
    _codes: "array[int]" = field(default_factory=lambda: array("B"))
    _known: set[str] = field(default_factory=set)
    _json: "FlatJson" = field(default_factory=lambda: FlatJson())
    _first: str = ""

    def append(self, images: ShardImages, key: str, files: dict[str, Member]) -> None:
        where = f"{images.shard.path}: {key}"
        kind = next((kind for kind in _LABELS if kind in files), None)
        if kind is None:
            raise VitpeError(f"{where} has no labels", _LACKS)
        if len(files) > 1:
            images.others["cls"] += 1
        member = files[kind]
        if member.size > _MAX_LABEL_BYTES:
            raise VitpeError(f"{where}.{kind} has {member.size:,} bytes", _LACKS)
        data = _read_member(images.shard.path, member, images.stamp) if member.data is None else member.data
        try:
            found = self._json.parse(data) if kind == "json" else {"cls": int(data)}
        except (ValueError, RecursionError) as error:
            raise VitpeError(f"{where}.{kind} cannot be read: {_brief(error)}", _LACKS) from error
        if not isinstance(found, dict):
            raise VitpeError(f"{where}.{kind} is no object of names and values", _LACKS)
        if not self._first:
            self._begin(found, where)
        values = _flat(found)
        if values.keys() != self._known:
            for name, value in values.items():
                if name not in self._known and _is_number(value):
                    raise VitpeError(f"{where} has {name[:100]}, which {self._first} has not", _LACKS)
            for name in self.names:
                if name not in values and self._holds_numbers(name):
                    raise VitpeError(f"{where} has no {name}, as {self._first} has", _LACKS)
        cells = [values.get(name) for name in self.names]
        try:
            self._codes.extend([known[cell] for known, cell in zip(self._vocabularies, cells, strict=True)])
        except TypeError:  # a list, which is no key
            self._codes.extend([known[_hashable(cell)] for known, cell in zip(self._vocabularies, cells, strict=True)])

    def _begin(self, found: dict[str, Any], where: str) -> None:
        self._first = where
        self.names = [*_flat(found)]
        self._known = set(self.names)
        self._vocabularies = [Vocabulary() for _ in self.names]

    def _holds_numbers(self, name: str) -> bool:
        """Whether the column is one of labels so far."""
        return any(map(_is_number, self._vocabularies[self.names.index(name)]))

    def choose(self, images: ShardImages) -> LabelColumns:
        """Which are attributes."""
        codes = np.frombuffer(self._codes, dtype=np.uint8).reshape(len(images), len(self.names))
        columns = [
            Column(name, [*vocabulary], codes[:, number])
            for number, (name, vocabulary) in enumerate(zip(self.names, self._vocabularies, strict=True))
        ]
        return choose_columns(images.path, columns, images.place, strict=False)


def _read_member(path: Path, member: Member, known: tuple[int, ...]) -> bytes:
    try:
        return read_part(path, member.start, member.size, known)
    except VitpeError as error:
        raise VitpeError(f"cannot read {member.name} in {path}: {error.message}", "download it again") from error


def _samples(shard: Shard) -> Iterator[tuple[str, dict[str, Member]]]:
    """Each key with the members that follow each other and have it, by what stands after the first dot."""
    key, files = "", dict[str, Member]()
    for member in members(shard.path, tuple(f".{kind}" for kind in _LABELS)):
        its_key, kind = _key(member.name)
        if its_key.rpartition("/")[2] == "" or "__MACOSX" in its_key:
            continue
        if its_key != key and files:
            yield from _whole(key, files)
            files = {}
        key = its_key
        if kind in files:
            raise VitpeError(f"{shard.path}: {member.name[:200]} is there twice", "no two files have the same name")
        files[kind] = member
    yield from _whole(key, files)


def _whole(key: str, files: dict[str, Member]) -> Iterator[tuple[str, dict[str, Member]]]:
    """Files that have nothing to do with images or labels, such as README.md, are no sample."""
    if any(kind in files for kind in (*IMAGES, *_LABELS)):
        yield key, files


def _key(name: str) -> tuple[str, str]:
    """ "a/b/000001.seg.png" → ("a/b/000001", "seg.png")."""
    folder, slash, base = name.removeprefix("./").rpartition("/")
    stem, _, kind = base.partition(".")
    return folder + slash + stem, kind.lower()


def _object(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """ValueError for a name that is there twice, of which json would keep the last."""
    found = dict(fields)
    if len(found) < len(fields):
        name = Counter(name for name, _ in fields).most_common(1)[0][0]
        raise ValueError(f"{name[:60]} is there twice")
    return found


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    """With the fields of objects that hold nothing but numbers, as "attributes.Smiling"."""
    if dict not in set(map(type, found.values())):
        return found
    flat = dict[str, Any]()
    for name, value in found.items():
        if isinstance(value, dict) and value and all(_is_number(inner) or inner is None for inner in value.values()):
            flat |= {f"{name}.{inner}": each for inner, each in value.items()}
        else:
            flat[name] = value
    return flat


def _is_number(value: Any) -> bool:
    return isinstance(value, int)


class FlatJson:
    """json.loads for many objects of the same names and few values, each of whose fields is parsed once: a document
    that is `{`, fields that were seen, parted by ", ", and `}`, is the object of these fields.
    """

    def __init__(self) -> None:
        self._fields: dict[bytes, tuple[str, Any]] = {}

    def parse(self, data: bytes) -> Any:
        """As json.loads; ValueError for a name that is there twice, and what is no JSON."""
        parts = data[1:-1].split(b", ") if data[:1] == b"{" and data[-1:] == b"}" else []
        try:
            if parts:
                return _object([self._fields[part] for part in parts])
        except KeyError:
            pass
        found = json.loads(data, object_pairs_hook=_object)
        if isinstance(found, dict) and len(parts) == len(found) and len(self._fields) < _MAX_FIELDS:
            for part, (name, value) in zip(parts, found.items(), strict=True):
                is_small = value is None or isinstance(value, int)
                if is_small and part == f"{json.dumps(name)}: {json.dumps(value)}".encode():
                    self._fields[part] = name, value
        return found


def _hashable(value: Any) -> Any:
    return value if value is None or isinstance(value, str | int | float) else Other(brief(value, 60))


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:100] or type(error).__name__
