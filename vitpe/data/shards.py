"""Datasets that lie in one or more files of a kind: which files these are, and the split that each one's name tells."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vitpe.data.image_files import check_folder, is_file, is_folder, list_folder
from vitpe.data.label_table import Splits
from vitpe.errors import UsageError, VitpeError

_LETTERS: Final = re.compile("[a-z]+")
_RANGE: Final = re.compile(r"(\d{1,9})\.\.(\d{1,9})")
_BRACES: Final = re.compile(r"\{[^{}]*\}?|\}")
_RANGES: Final = "write {000..019} for numbers, {train,valid} for words"
_MAX_SHARDS: Final = 100_000
_MAX_DEPTH: Final = 8
_MAX_BRACES: Final = 20


@dataclass(frozen=True)
class Shard:
    """One file of a dataset. name: relative to what the user named. split: train, valid or test, where a name tells."""

    path: Path
    name: str
    split: str | None

    @property
    def above(self) -> str:
        """The folder that the splits lie in: of several configurations of a dataset, the one that this is of."""
        *folders, _ = self.name.split("/")
        return "/".join(folder for folder in folders if _split_of(folder) is None)


@dataclass(frozen=True)
class Shards:
    """All files of a dataset, in the order of their names. root: what the user named."""

    root: Path
    files: tuple[Shard, ...]

    @property
    def tell_splits(self) -> bool:
        """Whether the files' names say which split is where. Of training files alone a part has to be kept apart."""
        return {shard.split for shard in self.files} not in ({None}, {"train"})

    def of(self, split: str) -> tuple[Shard, ...]:
        """Those that may have images of the split; VitpeError for none."""
        if not self.tell_splits:
            return self.files
        chosen = tuple(shard for shard in self.files if shard.split == split)
        if not chosen:
            counts = Counter(str(shard.split) for shard in self.files)
            there = ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items()))
            raise VitpeError(
                f"{self.root} has no file of the {split} split ({there})", f"add one whose name has the word {split}"
            )
        return chosen

    def note(self) -> str | None:
        """What was assumed about the splits; None when the names tell them."""
        if self.tell_splits:
            return None
        why = (
            f"{self.root} has training files alone"
            if self.files[0].split
            else f"no file of {self.root} tells its split"
        )
        return f"{why}: a hash of each image's name gives 80 % train, 10 % valid, 10 % test"


def split_in(name: str) -> str | None:
    """Of a path: what its last part tells that tells any."""
    return next((split for part in reversed(name.split("/")) if (split := _split_of(part)) is not None), None)


def expand_braces(pattern: str) -> list[str]:
    """ "train-{000..019}.tar" → twenty names; also {a,b}, and braces within braces. UsageError for too many."""
    if pattern.count("{") > _MAX_BRACES:
        return [pattern]
    start = pattern.find("{")
    end = _closing(pattern, start) if start >= 0 else -1
    if end < 0:
        return [pattern]
    choices, tails = _choices(pattern[start + 1 : end]), expand_braces(pattern[end + 1 :])
    if choices is None:
        return [pattern[: end + 1] + tail for tail in tails]
    middles = [middle for choice in choices for middle in expand_braces(choice)]
    if len(middles) * len(tails) > _MAX_SHARDS:
        raise UsageError(f"{pattern} names more than {_MAX_SHARDS:,} files", "name a folder")
    return [pattern[:start] + middle + tail for middle in middles for tail in tails]


def _closing(text: str, start: int) -> int:
    """Where the brace that opens at `start` is closed; -1 for nowhere."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if not depth:
            return at
    return -1


def _choices(text: str) -> list[str] | None:
    """What stands between braces: numbers from one to another, or texts parted by commas; None for neither."""
    match = _RANGE.fullmatch(text)
    if match is not None:
        first, last = int(match[1]), int(match[2])
        if abs(last - first) >= _MAX_SHARDS:
            return None
        padded = any(len(bound) > 1 and bound.startswith("0") for bound in match.groups())
        width = max(map(len, match.groups())) if padded else 1
        step = 1 if first <= last else -1
        return [f"{number:0{width}d}" for number in range(first, last + step, step)]
    depth, parts = 0, [""]
    for letter in text:
        depth += (letter == "{") - (letter == "}")
        if letter == "," and not depth:
            parts.append("")
        else:
            parts[-1] += letter
    return parts if len(parts) > 1 else None


def holds(data: Path, suffixes: Sequence[str]) -> bool:
    """Whether `data` is a file, a pattern or a folder of files with one of the suffixes."""
    if data.name.lower().endswith(tuple(suffixes)) and not is_folder(data):
        return True
    return is_folder(data) and next(_below(data, suffixes), None) is not None


def find_shards(data: Path, suffixes: Sequence[str]) -> Shards:
    """The files that `data` names: one, a pattern's, or those below a folder, a hub's download among them.

    Raises VitpeError when one is missing, when a split is there in two configurations, and when only some names tell
    theirs.
    """
    if not is_folder(data):
        paths = [Path(name) for name in ([str(data)] if os.path.lexists(data) else expand_braces(str(data)))]
        missing = next((path for path in paths if not is_file(path)), None)
        if missing is not None:
            if braces := _BRACES.search(str(missing)):
                raise VitpeError(f"{braces[0]} in {data} is no range, and there is no such file", _RANGES)
            raise VitpeError(f"no file {missing}", "name a file, a folder, or a pattern: train-{000..019}.tar")
        base = Path(os.path.commonpath([path.parent for path in paths]))
        files = [Shard(path, path.relative_to(base).as_posix(), _split_of(path.name)) for path in paths]
        return _checked(Shards(data, tuple(files)))
    check_folder(data, "choose a folder that you may read")
    root = _snapshot(data)
    names = sorted(_below(root, suffixes))
    return _checked(Shards(root, tuple(Shard(root / name, name, split_in(name)) for name in names)))


def _checked(shards: Shards) -> Shards:
    untold = [shard for shard in shards.files if shard.split is None]
    if untold and len(untold) < len(shards.files):
        told = next(shard for shard in shards.files if shard.split is not None)
        raise VitpeError(
            f"{shards.root}: the name {told.name} tells a split, {untold[0].name} does not",
            "name each file after its split, or name one alone",
        )
    above: dict[str | None, Shard] = {}
    for shard in shards.files:
        other = above.setdefault(shard.split, shard)
        if other.above != shard.above:
            first, second = (shards.root / each.above for each in (other, shard))
            raise VitpeError(f"{shards.root} holds more than one dataset: {first} and {second}", "name one of them")
    return shards


def _snapshot(folder: Path) -> Path:
    """Of a hub's cache (blobs/, refs/, snapshots/REVISION/) the revision that main is, or the newest; else `folder`."""
    inside = folder / "snapshots"
    revisions = [inside / name for name in list_folder(inside)] if is_folder(folder / "blobs") else []
    if not revisions:
        return folder
    try:
        main = inside / (folder / "refs" / "main").read_text().strip()
    except (OSError, ValueError):
        main = folder
    return main if main in revisions else max(revisions, key=lambda path: path.stat().st_mtime)


def _below(folder: Path, suffixes: Sequence[str], prefix: str = "", depth: int = 0) -> Iterator[str]:
    """Names relative to the folder; links to files count, hidden files and folders that are links do not."""
    try:
        entries = os.scandir(folder)
    except OSError:
        return
    inner = []
    with entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if entry.is_dir(follow_symlinks=False):
                inner.append(entry.name)
            elif entry.name.lower().endswith(tuple(suffixes)) and is_file(Path(entry.path)):
                yield prefix + entry.name
    if depth < _MAX_DEPTH:
        for name in inner:
            yield from _below(folder / name, suffixes, f"{prefix}{name}/", depth + 1)


def _split_of(name: str) -> str | None:
    """The one split that the words of a file's or folder's name tell: "celeba-val_0003.tar"."""
    splits = Splits()
    found = {split for word in _LETTERS.findall(name.lower()) if (split := splits[word]) is not None}
    return found.pop() if len(found) == 1 else None
