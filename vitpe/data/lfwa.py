"""LFWA (Liu et al., ICCV 2015): CelebA's 40 attributes for the photos of Labeled Faces in the Wild, in MATLAB's files.

lfw_att_40.mat is HDF5 (MATLAB 7.3) with AttrName, label and name; indices_train_test.mat names the rows of train and
test, from one. h5py is an optional extra.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from vitpe.data.file_samples import FileSamples
from vitpe.data.image_files import FolderFiles, ImageFolder, is_file
from vitpe.data.label_table import check_attributes
from vitpe.data.labelled_csv import split_of
from vitpe.errors import VitpeError

_LABELS: Final = "lfw_att_40.mat"
_INDICES: Final = "indices_train_test.mat"
_TRAIN, _TEST = "indices_img_train", "indices_img_test"


def is_lfwa(folder: Path) -> bool:
    """Whether it has LFWA's labels."""
    return is_file(folder / _LABELS)


def read_lfwa(folder: Path, split: str, stored_size: tuple[int, int]) -> FileSamples:
    """The samples of one split, in the order of the rows, fitted to stored_size (height, width).

    A tenth of train, by a hash of each name, is valid. Without indices_train_test.mat the hash decides all, and a note
    says so. Raises VitpeError naming what is wrong.
    """
    with _open(folder / _LABELS) as file:
        attributes = tuple(_texts(file, "AttrName", folder / _LABELS))
        names = [name.replace("\\", "/") for name in _texts(file, "name", folder / _LABELS)]
        labels = np.asarray(_field(file, "label", folder / _LABELS))
    check_attributes(attributes)
    if labels.shape == (len(attributes), len(names)):  # as h5py gives MATLAB's matrices
        labels = labels.T
    if labels.shape != (len(names), len(attributes)) or not np.isin(labels, (-1, 0, 1)).all():
        raise VitpeError(
            f"{folder / _LABELS}: label is {labels.shape} for {len(names):,} names and {len(attributes)} attributes",
            "expected a row of 0 and 1 for each name: download it again",
        )
    by_hash = np.array([split_of(name) for name in names], dtype="<U5")
    notes = []
    if is_file(folder / _INDICES):
        splits = _published_splits(folder / _INDICES, len(names))
        splits[(splits == "train") & (by_hash == "valid")] = "valid"
        notes.append("LFWA has no valid split: a hash of each name gives a tenth of train")
    else:
        splits = by_hash
        notes.append(f"no {_INDICES}: a hash of each name gives 80 % train, 10 % valid, 10 % test")
    files, members = _find_images(folder, names)
    here = np.array([member is not None for member in members])
    if missing := int((~here & (splits == split)).sum()):
        notes.append(f"{missing:,} images of {_LABELS} are not in {folder} and are left out")
    chosen = np.flatnonzero((splits == split) & here)
    if not len(chosen):
        raise VitpeError(f"{folder} has no image of the {split} split", f"put the images of {_LABELS} there")
    taken = [str(members[index]) for index in chosen]
    values = (labels[chosen] == 1).astype(np.uint8)
    return FileSamples(
        "lfwa", attributes, [names[index] for index in chosen], values, stored_size, files, taken, tuple(notes)
    )


def _find_images(folder: Path, names: list[str]) -> tuple[FolderFiles, list[str | None]]:
    """Where they are, in the folder or in one of its folders (lfw, lfw_funneled, …)."""
    there = ImageFolder(folder)
    tops = sorted({path.partition("/")[0] for path in there.visible if "/" in path})
    for prefix in ("", *(f"{top}/" for top in tops)):
        found = [there.find(prefix + name) if prefix + name in there.visible else [] for name in names]
        if any(found):
            return FolderFiles(folder), [paths[0] if paths else None for paths in found]
    raise VitpeError(
        f"{folder} has none of the images of {_LABELS}: no {names[0] if names else 'names'}", "unpack LFW there"
    )


def _published_splits(path: Path, num_rows: int) -> NDArray[np.str_]:
    splits = np.full(num_rows, "", dtype="<U5")
    with _open(path) as file:
        for field, split in ((_TRAIN, "train"), (_TEST, "test")):
            rows = np.asarray(_field(file, field, path)).astype(np.int64).ravel() - 1
            if len(rows) and not (rows.min() >= 0 and rows.max() < num_rows):
                raise VitpeError(
                    f"{path}: {field} names row {rows.max() + 1} of {num_rows:,}", "use the file of these labels"
                )
            if (splits[rows] != "").any():
                raise VitpeError(f"{path}: rows are in train and in test", "download it again")
            splits[rows] = split
    return splits


def _open(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise VitpeError(f"{path} is read with h5py", "install it: pip install 'vitpe[lfwa]'") from error
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise VitpeError(
            f"{path} is no whole HDF5 file", "download it again; of another MATLAB format: save('-v7.3') it there"
        ) from error


def _field(file: Any, name: str, path: Path) -> Any:
    if name not in file:
        raise VitpeError(f"{path} has no {name}, but {', '.join(list(file)[:5])}", "download it again")
    return file[name][()]


def _texts(file: Any, name: str, path: Path) -> list[str]:
    """A cell array of texts: references to arrays of UTF-16 units."""
    try:
        units = [np.asarray(file[reference]).ravel() for reference in np.asarray(_field(file, name, path)).ravel()]
        return [array.astype("<u2").tobytes().decode("utf-16-le") for array in units]
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise VitpeError(f"{path}: {name} is no list of texts", "download it again") from error
