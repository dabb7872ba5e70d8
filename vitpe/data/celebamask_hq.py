"""CelebAMask-HQ (Lee et al., CVPR 2020): 30,000 of CelebA's images, 1024 x 1024 and cut otherwise, with its labels."""

from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np

from vitpe.data.celeba import find_list, read_attribute_list, read_partition_list
from vitpe.data.file_samples import FileSamples
from vitpe.data.image_files import FolderFiles, is_file, is_folder, is_image, list_folder
from vitpe.data.label_table import open_table
from vitpe.data.labelled_csv import split_of
from vitpe.errors import VitpeError

_IMAGES: Final = "CelebA-HQ-img"
_LABELS: Final = "CelebAMask-HQ-attribute-anno.txt"
_MAPPING: Final = "CelebA-HQ-to-CelebA-mapping.txt"
_PARTITION: Final = "list_eval_partition"


def is_celebamask_hq(folder: Path) -> bool:
    """Whether it has CelebAMask-HQ's list of attributes."""
    return is_file(folder / _LABELS)


def read_celebamask_hq(folder: Path, split: str, stored_size: tuple[int, int]) -> FileSamples:
    """The samples of one split ("train", "valid" or "test"), by number, fitted to stored_size (height, width).

    CelebA's own partition decides the split, where list_eval_partition.txt lies in the folder or beside it, so that
    nobody tests on faces that a model of CelebA was trained on; else a hash of each name does, and a note says so.
    Raises VitpeError naming the file and the line of what is wrong.
    """
    if not is_folder(folder / _IMAGES):
        raise VitpeError(f"{folder} has no {_IMAGES}", f"expected it beside {_LABELS}")
    names = [name for name in list_folder(folder / _IMAGES) if is_image(name) and not name.startswith(".")]
    names.sort(key=lambda name: (len(name), name))  # 2.jpg before 10.jpg
    partition = next(filter(None, (find_list(place, _PARTITION) for place in (folder, folder.parent))), None)
    notes = ["CelebAMask-HQ's faces are cut otherwise than CelebA's: a model of one does worse on the other"]
    if partition is None or not is_file(folder / _MAPPING):
        missing = f"{_PARTITION}.txt" if partition is None else _MAPPING
        notes.append(
            f"no {missing}: a hash of each name gives 80 % train, 10 % valid, 10 % test, and CelebA's training faces"
            " are among all of them"
        )
        chosen = [name for name in names if split_of(name) == split]
    else:
        originals, splits = _read_mapping(folder / _MAPPING), read_partition_list(partition)
        chosen = [name for name in names if splits.get(originals.get(name.partition(".")[0], "")) == split]
    if not chosen:
        raise VitpeError(f"{folder / _IMAGES} has no image of the {split} split", "unpack all of its images")
    stems = [name.partition(".")[0] for name in chosen]
    attributes, rows, labels = read_attribute_list(folder / _LABELS, set(stems))
    if lost := next((name for name, stem in zip(chosen, stems, strict=True) if stem not in rows), None):
        raise VitpeError(f"{folder / _LABELS} has no row for {lost}", "use the complete file")
    files = FolderFiles(folder / _IMAGES)
    taken = np.ascontiguousarray(labels[[rows[stem] for stem in stems]])
    return FileSamples("celebamask_hq", attributes, chosen, taken, stored_size, files, chosen, tuple(notes))


@lru_cache(maxsize=1)
def _read_mapping(path: Path) -> dict[str, str]:
    """CelebAMask-HQ's number → CelebA's name. Columns: idx, orig_idx (from zero), orig_file."""
    found = {}
    with open_table(path) as file:
        for number, line in enumerate(file, start=1):
            fields = line.split()
            if not fields or fields[0] == "idx":
                continue
            if len(fields) != 3 or not fields[0].isdecimal():
                raise VitpeError(f"{path}, line {number}: {line.strip()[:100]!r}", "expected idx, orig_idx, orig_file")
            found[fields[0]] = fields[2]
    return found
