"""What sources of several files have in common: the split that a name says, and what a missing one is made of."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from vitpe.data.label_table import Splits
from vitpe.data.labelled_csv import split_of
from vitpe.errors import VitpeError

SPLITS: Final = ("train", "valid", "test")
_WORD: Final = re.compile(r"[a-z]+")


def split_in_name(name: str) -> str | None:
    """Of the file's name, else of the nearest folder that tells: train-00000-of-00019.parquet, CONFIG/val/0.tar."""
    meanings = Splits()
    for part in reversed(Path(name).with_suffix("").parts):
        for word in _WORD.findall(part.lower()):
            if meanings[word] is not None:
                return meanings[word]
    return None


def splits_of(shards: Sequence[tuple[str, int]], names: Sequence[str]) -> tuple[NDArray[np.str_], str]:
    """(n,) the split of each image, and in words what was assumed, "" for nothing.

    shards: each file's name, and of how many images. names: of the images. A split that no name says is a part of
    train, by a hash of each image's name. VitpeError where some names say a split and others do not.
    """
    found = [split_in_name(name) for name, _ in shards]
    if None in found and any(found):
        raise VitpeError(
            f"{shards[found.index(None)][0]}: its name says no split, as others' do",
            "name files as the hub does: train-00000-of-00001",
        )
    counts = [count for _, count in shards]
    splits = np.repeat(np.array([split or "train" for split in found], dtype="<U5"), counts)
    missing = [split for split in ("valid", "test") if split not in found]
    if not missing or "train" not in splits:
        return splits, ""
    by_hash = np.array([split_of(name) for name in names], dtype="<U5")
    for split in missing:
        splits[(splits == "train") & (by_hash == split)] = split
    parted = " and ".join(f"10 % as {split}" for split in missing)
    return splits, f"no {' and no '.join(missing)} split is named: a hash of each image's name gives {parted}"


def counts_of(splits: NDArray[np.str_]) -> str:
    """ "12 train, 6 valid, 5 test" """
    return ", ".join(f"{np.count_nonzero(splits == name):,} {name}" for name in SPLITS)
