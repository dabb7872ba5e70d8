"""The embedded default data: faces drawn from 40 attributes, for whoever has no CelebA at hand.

Nothing is stored: portrait i of a split follows from (seed, split, i), whoever draws it and in whatever batch.
"""

import copy
import io
import json
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from vitpe.celeba import ATTRIBUTES
from vitpe.config import DRAWN_FACES, SEEDS
from vitpe.data.fitting import Fitting
from vitpe.data.samples import Samples
from vitpe.errors import UsageError, VitpeError
from vitpe.faces.attributes import draw_attributes, uniforms
from vitpe.faces.canvas import HEIGHT, NUM_NUISANCES, WIDTH
from vitpe.faces.painting import paint_faces
from vitpe.fields import Bounds, require
from vitpe.files import write_atomic

_SPLIT_SIZE: Final = 2**40
_SPLIT_STARTS: Final = {"train": 0, "valid": _SPLIT_SIZE, "test": 2 * _SPLIT_SIZE}
"""Each split draws from a range of indices of its own."""
_LABELS, _LABEL_NOISE, _NUISANCE = range(3)
"""Streams of random numbers, so that more of one leaves the others alone."""
_JPEG_QUALITY: Final = 92
_ROWS_IN_GROUP: Final = 100  # of parquet files: as Hugging Face's datasets writes images
_FACES_IN_TAR: Final = 1_000
MAX_FACES: Final = 1_000_000
"""In one split: their labels alone take seconds to draw."""
_LABELS_AT_ONCE: Final = 1 << 16


class DrawnFaces(Samples):
    """One split of drawn faces. The first n portraits of a split do not depend on num_samples.

    seen: (n, A) uint8, the attributes that are painted; a label differs from them now and then, as CelebA's do.
    """

    source = DRAWN_FACES
    attributes = ATTRIBUTES

    def __init__(
        self, split: str, num_samples: int, seed: int = 0, stored_size: tuple[int, int] = (HEIGHT, WIDTH)
    ) -> None:
        """split: "train", "valid" or "test". Raises UsageError unless num_samples is from 1 to MAX_FACES."""
        if not 1 <= num_samples <= MAX_FACES:
            raise UsageError(f"{num_samples:,} drawn faces were asked for", f"ask for 1 to {MAX_FACES:,}")
        self.split, self.stored_size = split, stored_size
        self._fitting = Fitting(stored_size, stored_size)
        self._seed = seed
        self._indices = _SPLIT_STARTS[split] + np.arange(num_samples)
        self.names = [f"{split}-{i:06d}" for i in range(num_samples)]
        size = len(ATTRIBUTES)
        drawn = [
            draw_attributes(uniforms(seed, _LABELS, part, size), uniforms(seed, _LABEL_NOISE, part, 2 * size))
            for part in np.split(self._indices, range(_LABELS_AT_ONCE, num_samples, _LABELS_AT_ONCE))
        ]
        self.labels = np.concatenate([labels for labels, _ in drawn])
        self.seen = np.concatenate([seen for _, seen in drawn])

    def read(self, indices: Sequence[int]) -> NDArray[np.uint8]:
        """(len(indices), 3, height, width) RGB portraits, drawn now, and brought to `stored_size`."""
        rows = np.asarray(indices, dtype=np.int64)
        nuisance = uniforms(self._seed, _NUISANCE, self._indices[rows], NUM_NUISANCES)
        portraits = paint_faces(self.seen[rows], nuisance)
        if self._fitting.fit == "crop" and self.stored_size == (HEIGHT, WIDTH):
            return portraits
        return np.stack([self._fitting(portrait) for portrait in portraits])

    def fitted(self, fitting: Fitting) -> "DrawnFaces":
        """The same faces, brought to size in this way."""
        other = copy.copy(self)
        other._fitting, other.stored_size = fitting, fitting.stored_size
        return other


def write_celeba_folder(
    folder: Path, num_train: int, num_valid: int, num_test: int, seed: int = 0, zipped: bool = False
) -> None:
    """Write drawn faces as CelebA is published, the lists last.

    img_align_celeba/000001.jpg … (or img_align_celeba.zip), list_attr_celeba.txt and list_eval_partition.txt. Train
    comes first, then valid, then test, each as `DrawnFaces(split, n, seed)` has it; a split may have none.
    Raises UsageError for numbers out of range, VitpeError when `folder` already holds something or cannot be written.
    """
    faces = _faces(folder, num_train, num_valid, num_test, seed)
    codes = [code for code, num in enumerate((num_train, num_valid, num_test)) for _ in range(num)]
    names = [f"{number:06d}.jpg" for number in range(1, len(codes) + 1)]
    encoded = zip(names, _encoded(faces), strict=True)
    if zipped:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as members:
            for name, data in encoded:
                members.writestr(f"img_align_celeba/{name}", data)
        write_atomic(folder / "img_align_celeba.zip", archive.getvalue())
    else:
        (folder / "img_align_celeba").mkdir()
        for name, data in encoded:
            write_atomic(folder / "img_align_celeba" / name, data)
    labels = np.concatenate([part.labels for part in faces]) if faces else np.empty((0, len(ATTRIBUTES)), np.uint8)
    signs = [" ".join(" 1" if label else "-1" for label in row) for row in labels]
    attribute_rows = [f"{name} {row}" for name, row in zip(names, signs, strict=True)]
    attribute_lines = [str(len(names)), " ".join(ATTRIBUTES) + " ", *attribute_rows]
    partition_lines = [f"{name} {code}" for name, code in zip(names, codes, strict=True)]
    write_atomic(folder / "list_eval_partition.txt", _text(partition_lines))
    write_atomic(folder / "list_attr_celeba.txt", _text(attribute_lines))


def write_parquet_folder(folder: Path, num_train: int, num_valid: int, num_test: int, seed: int = 0) -> None:
    """Write drawn faces as data sets on the Hugging Face hub are: data/train-00000-of-00001.parquet and so on, with a
    column `image` of {bytes, path} and a boolean column an attribute.

    The faces, their names and their JPEGs are those of `write_celeba_folder`, and so are the errors.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise VitpeError("parquet needs pyarrow", "install it: pip install 'vitpe[parquet]'") from error
    number = 0
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for part in _faces(folder, num_train, num_valid, num_test, seed):
        images = []
        for data in _encoded([part]):
            number += 1
            images.append({"bytes": data, "path": f"{number:06d}.jpg"})
        columns = {"image": pa.array(images, kind)}
        columns |= {name: pa.array(part.labels[:, a].astype(bool)) for a, name in enumerate(ATTRIBUTES)}
        split = {"valid": "validation"}.get(part.split, part.split)  # as Hugging Face's libraries call it
        file = io.BytesIO()
        pq.write_table(pa.table(columns), file, row_group_size=_ROWS_IN_GROUP)
        (folder / "data").mkdir(exist_ok=True)
        write_atomic(folder / "data" / f"{split}-00000-of-00001.parquet", file.getvalue())


def write_webdataset_folder(folder: Path, num_train: int, num_valid: int, num_test: int, seed: int = 0) -> None:
    """Write drawn faces as WebDataset has them: train-000000.tar and so on, 1,000 faces each, as 000001.jpg with the
    labels, 0 and 1, in 000001.json.

    The faces, their names and their JPEGs are those of `write_celeba_folder`, and so are the errors.
    """
    number = 0
    for part in _faces(folder, num_train, num_valid, num_test, seed):
        encoded = _encoded([part])
        for shard, first in enumerate(range(0, len(part.names), _FACES_IN_TAR)):
            file = io.BytesIO()
            with tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                for row in part.labels[first : first + _FACES_IN_TAR].tolist():
                    number += 1
                    labels = json.dumps(dict(zip(ATTRIBUTES, row, strict=True))).encode()
                    for suffix, data in (("jpg", next(encoded)), ("json", labels)):
                        member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                        member.size = len(data)
                        archive.addfile(member, io.BytesIO(data))
            write_atomic(folder / f"{part.split}-{shard:06d}.tar", file.getvalue())


def _faces(folder: Path, num_train: int, num_valid: int, num_test: int, seed: int) -> list["DrawnFaces"]:
    """The splits that have faces; the folder is there then, and empty. UsageError for numbers out of range."""
    splits = {"train": num_train, "valid": num_valid, "test": num_test}
    for name, num in splits.items():
        require(num in Bounds(0, MAX_FACES), f"num_{name} is {num:,}", str(Bounds(0, MAX_FACES)))
    require(any(splits.values()), "no faces are asked for", "ask for some: --num-test 8")
    require(seed in SEEDS, f"seed is {seed}", str(SEEDS))
    _claim_folder(folder)
    return [DrawnFaces(split, num, seed) for split, num in splits.items() if num > 0]


def _claim_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        occupied = any(folder.iterdir())
    except OSError as error:
        raise VitpeError(f"cannot write to {folder}: {error.strerror}", "choose another folder") from error
    if occupied:
        raise VitpeError(f"{folder} is not empty", "choose a new folder: nothing is overwritten")


def _text(lines: list[str]) -> bytes:
    """CelebA's published lists end their lines with CR LF."""
    return "".join(f"{line}\r\n" for line in lines).encode()


def _encoded(parts: list[DrawnFaces]) -> Iterator[bytes]:
    """Every portrait of `parts` in turn, as a JPEG file's bytes."""
    for faces in parts:
        for start in range(0, len(faces.names), 64):
            for pixels in faces.read(range(start, min(start + 64, len(faces.names)))):
                file = io.BytesIO()
                Image.fromarray(pixels.transpose(1, 2, 0)).save(file, "JPEG", quality=_JPEG_QUALITY)
                yield file.getvalue()
