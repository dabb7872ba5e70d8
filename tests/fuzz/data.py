"""Damaged archives and tables of labels: only samples or a VitpeError may come of them.

    python -m tests.fuzz.data [--cases 3000] [--first 0]

Case n is made from random.Random(n) alone, as an archive of CelebA's images, as a table or list of labels, as a parquet
file or a tar archive of WebDataset, and as a file of corrections: --first n --cases 1 repeats it. Each is opened as
training opens it, in all three splits, and an archive's images are read. The readers may find all well (a flipped bit
of a pixel is a pixel) or raise a VitpeError with a hint, in under 5 seconds of processor time and a gigabyte of memory.
The counts are printed as one JSON object; the exit code is 1 when anything else happened.
"""

import argparse
import io
import json
import random
import shutil
import sys
import tarfile
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from tests.helpers import COLOURS
from tests.helpers.limits import limit_memory, peak_memory, time_limit
from vitpe.config import DataConfig
from vitpe.data.corrections import RelabelledSamples
from vitpe.data.file_samples import FileSamples
from vitpe.data.sources import open_samples
from vitpe.errors import VitpeError
from vitpe.text import printable

MAX_SECONDS = 5
MAX_BYTES = 1 << 30
MAX_MESSAGE = 1000
NUM_IMAGES = 9
SPLITS = ("train", "valid", "test")
CELLS = (
    *("", " ", "0", "1", "-1", "2", "1.0", "nan", "inf", "1e999", "-0", "True", "0x1", "１", "train", "3", "0.0"),
    *(
        "000001.jpg",
        "000001.JPG",
        "../000001.jpg",
        "/dev/zero",
        "/",
        ".",
        "..",
        "x" * 300,
        "a/b/c.jpg",
        "\0",
        "\x1b[2J",
    ),
    *("\u202e", "\ud7ff", "é", "e\u0301", '"', "'", '""', "\r", "\n", "\t", ";", ",", "\\", "x" * 140_000, "=1+1"),
    *("image_id", "split", "partition", "path", "file_name", "left_eye"),
)


@dataclass
class Tally:
    """How often each kind was read and refused, and what else happened."""

    counts: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)
    slowest_seconds: float = 0.0


class Bench:
    """A folder of CelebA and one of photos to put damaged files into."""

    def __init__(self, folder: Path) -> None:
        self._celeba, self._photos = folder / "celeba", folder / "photos"
        self._images = {f"{number:06d}.jpg": _image(number) for number in range(1, NUM_IMAGES + 1)}
        self._celeba.mkdir()
        self._photos.mkdir()
        for name, data in self._images.items():
            (self._photos / name).write_bytes(data)
        self._archive = self._celeba / "img_align_celeba.zip"
        self._labels = folder / "labels.csv"
        self._lists = _lists(list(self._images))
        self.archives = _archives(self._images)
        self.datasets = _datasets(self._images)
        self.corrections = _corrections(list(self._images))
        self.tables = {**self._lists, **_tables(list(self._images))}

    def run(self, case: int, tally: Tally) -> None:
        """Make the case's two files and open them."""
        rng = random.Random(case)
        self.open_archive(_damaged_archive(rng, rng.choice(list(self.archives.values()))), f"case {case}", tally)
        name, text = rng.choice(list(self.tables.items()))
        self.open_table(name, _damaged_table(rng, text), f"case {case}", tally)
        name, data = rng.choice(list(self.datasets.items()))
        self.open_dataset(name, _damaged_archive(rng, data), f"case {case}", tally)
        self.open_corrections(_damaged_table(rng, self.corrections), f"case {case}", tally)

    def open_archive(self, data: bytes, what: str, tally: Tally) -> None:
        self._put_lists()
        self._archive.write_bytes(data)
        self._open(DataConfig(str(self._celeba)), f"{what}, archive", "archive", tally)

    def open_table(self, name: str, data: bytes, what: str, tally: Tally) -> None:
        if name in self._lists:
            self._put_lists()
            self._archive.write_bytes(self.archives["stored"])
            for other in (name, Path(name).with_suffix(".csv").name, Path(name).with_suffix(".txt").name):
                (self._celeba / other).unlink(missing_ok=True)
            (self._celeba / name).write_bytes(data)
            self._open(DataConfig(str(self._celeba)), f"{what}, {name}", "list", tally)
        else:
            self._labels.write_bytes(data)
            config = DataConfig(str(self._photos), (str(self._labels),), num_train=3)
            self._open(config, f"{what}, {name}", "table", tally)

    def open_corrections(self, data: bytes, what: str, tally: Tally) -> None:
        self._labels.write_text(self.tables["plain"])
        path = self._labels.with_name("corrections.csv")
        path.write_bytes(data)
        config = DataConfig(str(self._photos), (str(self._labels),), relabel=str(path))
        self._open(config, f"{what}, corrections", "corrections", tally)

    def open_dataset(self, name: str, data: bytes, what: str, tally: Tally) -> None:
        path = self._celeba.with_name({".parquet": "faces.parquet", ".tar": "valid.tar"}[Path(name).suffix])
        path.write_bytes(data)
        self._open(DataConfig(str(path)), f"{what}, {name}", path.suffix[1:], tally)

    def _put_lists(self) -> None:
        for name, text in self._lists.items():
            path = self._celeba / name
            path.unlink(missing_ok=True)
            if path.suffix == ".txt":
                path.write_text(text, newline="")

    def _open(self, config: DataConfig, what: str, kind: str, tally: Tally) -> None:
        began = time.process_time()
        outcome = "read"
        try:
            with time_limit(MAX_SECONDS):
                for split in SPLITS if kind != "tar" else ("valid",):  # as its name says
                    samples = open_samples(config, split, (16, 24))
                    assert isinstance(samples, FileSamples | RelabelledSamples)
                    assert samples.labels.shape == (len(samples.names), len(samples.attributes))
                    assert samples.labels.max() <= 1
                    if kind in ("archive", "parquet", "tar"):
                        samples.read(range(len(samples.names)))
        except VitpeError as error:
            outcome = "refused"
            if not error.message or not error.hint or len(printable(error.message)) > MAX_MESSAGE:
                outcome = "failed"
                tally.failures.append(f"{what}: {error.message[:MAX_MESSAGE]!r}, {error.hint!r}")
        except BaseException:
            outcome = "failed"
            tally.failures.append(f"{what}: {traceback.format_exc()}")
        tally.counts[f"{kind}: {outcome}"] += 1
        tally.slowest_seconds = max(tally.slowest_seconds, time.process_time() - began)


def _image(number: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (22, 27), (25 * number, 90, 200)).save(file, "JPEG")
    return file.getvalue()


def _lists(names: list[str]) -> dict[str, str]:
    """CelebA's two, as published and as Kaggle has them."""
    rows = [[name, *(str(1 - 2 * (number >> bit & 1)) for bit in range(4))] for number, name in enumerate(names)]
    splits = [[name, str(number % 3)] for number, name in enumerate(names)]
    attributes = "\n".join([str(len(names)), " ".join(COLOURS), *map(" ".join, rows)]) + "\n"
    partition = "\r\n".join(map(" ".join, splits)) + "\r\n"
    kaggle = "\n".join(map(",".join, [["image_id", *COLOURS], *rows])) + "\n"
    kaggles = "\n".join(map(",".join, [["image_id", "partition"], *splits])) + "\n"
    return {
        "list_attr_celeba.txt": attributes,
        "list_eval_partition.txt": partition,
        "list_attr_celeba.csv": kaggle,
        "list_eval_partition.csv": kaggles,
    }


def _tables(names: list[str]) -> dict[str, str]:
    """Of labels, as several programs write them."""
    rows = [(name, SPLITS[number % 3], number % 2, -1 + number % 4 // 2 * 2) for number, name in enumerate(names)]
    return {
        "plain": "path,split,Smiling,Male\n" + "".join(f"{n},{s},{a},{b}\n" for n, s, a, b in rows),
        "excel": "\ufeffImage;Partition;Smiling;Male\r\n"
        + "".join(f'"{n}";{SPLITS.index(s)};{a};{b}\r\n' for n, s, a, b in rows),
        "pandas": "Smiling,Male,file_name,split\n" + "".join(f"{a}.0,{b}.0,{n},{s}\n" for n, s, a, b in rows),
        "words": "file,age,gender,race,split\n"
        + "".join(
            f"{n},{('3-9', '10-19', 'more than 70')[i % 3]},{'fm'[a]},{('Black', 'East Asian')[b > 0]},{s}\n"
            for i, (n, s, a, b) in enumerate(rows)
        ),
        "booleans": "file_name\tSmiling\tsubset\n" + "".join(f"{n}\t{bool(a)}\t{s.upper()}\n" for n, s, a, _ in rows),
    }


def _corrections(names: list[str]) -> str:
    """Of labels, as --relabel reads them."""
    rows = [f"{name},{('Smiling', 'Male')[number % 2]},{number % 3 % 2}" for number, name in enumerate(names)]
    return "image,attribute,value\n" + "\n".join(rows) + "\n"


def _archives(images: dict[str, bytes]) -> dict[str, bytes]:
    def pack(kind: int = zipfile.ZIP_STORED, prefix: str = "img_align_celeba/", **options: bool) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", kind) as archive:
            for name, data in images.items():
                with archive.open(prefix + name, "w", **options) as member:
                    member.write(data)
            archive.comment = b"as published"
        return file.getvalue()

    return {
        "stored": pack(),
        "deflated": pack(zipfile.ZIP_DEFLATED),
        "bzip2": pack(zipfile.ZIP_BZIP2),
        "lzma": pack(zipfile.ZIP_LZMA),
        "zip64": pack(zipfile.ZIP_DEFLATED, force_zip64=True),
        "backslashes": pack(zipfile.ZIP_DEFLATED, "x/img_align_celeba/").replace(
            b"x/img_align_celeba/", b"x\\img_align_celeba\\"
        ),
    }


def _datasets(images: dict[str, bytes]) -> dict[str, bytes]:
    """Parquet and tar, as several programs write them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    splits = [SPLITS[number % 3] for number in range(len(images))]
    labels = {name: [number >> bit & 1 for number in range(len(images))] for bit, name in enumerate(COLOURS)}
    structs = [{"bytes": data, "path": name} for name, data in images.items()]
    found = {}
    for name, columns, options in (
        ("plain", {"image": list(images.values()), **labels}, {"compression": "none", "use_dictionary": False}),
        ("hub", {"image": structs, "celeb_id": [5] * 9, **labels}, {"row_group_size": 4}),
        ("gzip", {"attributes": [dict(zip(labels, row, strict=True)) for row in zip(*labels.values(), strict=True)],
                  "image": structs}, {"compression": "gzip"}),
    ):  # fmt: skip
        file = io.BytesIO()
        pq.write_table(pa.table({**columns, "split": splits}), file, **options)
        found[f"{name}.parquet"] = file.getvalue()
    for kind, long in ((tarfile.USTAR_FORMAT, ""), (tarfile.GNU_FORMAT, "g" * 120), (tarfile.PAX_FORMAT, "p" * 120)):
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
            for number, (name, data) in enumerate(images.items()):
                row = {attribute: values[number] for attribute, values in labels.items()}
                for suffix, content in (("jpg", data), ("json", json.dumps(row).encode())):
                    member = tarfile.TarInfo(f"{long}{Path(name).stem}.{suffix}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
        found[f"{kind}.tar"] = file.getvalue()
    return found


def _damaged_archive(rng: random.Random, data: bytes) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 3))):
        data = rng.choice(_CHANGES)(rng, data) if data else data
    return data


def _flip_bits(rng: random.Random, data: bytes, begin: int = 0) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        damaged[rng.randrange(begin, len(data))] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def _flip_directory(rng: random.Random, data: bytes) -> bytes:
    return _flip_bits(rng, data, max(0, data.find(b"PK\x01\x02")))


def _set_number(rng: random.Random, data: bytes) -> bytes:
    """A number in a header becomes something else: a size, an offset, a method, a flag."""
    kinds = [kind for kind in (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06") if kind in data]
    if not kinds:
        return data
    kind = rng.choice(kinds)
    places = [at for at in range(len(data)) if data.startswith(kind, at)]
    at, width = rng.choice(places) + rng.randrange(4, 47), rng.choice((1, 2, 4))
    value = rng.choice((0, 1, 8, 12, 14, 97, 1000, 0x7FFF, 0xFFFF, 10**9, 0x7FFFFFFF, 0xFFFFFFFE, 0xFFFFFFFF))
    return data[:at] + (value % (1 << 8 * width)).to_bytes(width, "little") + data[at + width :]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.choice((0, 1, 4, rng.randrange(len(data)), len(data) - 1, len(data) - 22))]


def _cut_out(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data))
    return data[:at] + data[at + rng.choice((1, 16, 300)) :]


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = rng.choice((0, rng.randrange(len(data)), len(data)))
    return data[:at] + rng.choice((rng.randbytes(40), data[: rng.randrange(len(data))], b"\xff" * 22)) + data[at:]


def _zero(rng: random.Random, data: bytes) -> bytes:
    at, size = rng.randrange(len(data)), rng.choice((4, 30, 500))
    return data[:at] + bytes(len(data[at : at + size])) + data[at + size :]


def _rename(rng: random.Random, data: bytes) -> bytes:
    """A member takes another's name, or one that is no name."""
    old, new = (f"{rng.randint(1, NUM_IMAGES):06d}.jpg".encode() for _ in range(2))
    return data.replace(
        old, rng.choice((new, b"\xff\xfe\x00/../..", b"000001.PNG", b"__MACOSX/1")), rng.choice((-1, 1, 2))
    )


_CHANGES: tuple[Callable[[random.Random, bytes], bytes], ...] = (
    _flip_bits,
    _flip_directory,
    _flip_directory,
    _set_number,
    _set_number,
    _set_number,
    _truncate,
    _cut_out,
    _insert,
    _zero,
    _rename,
)


def _damaged_table(rng: random.Random, text: str) -> bytes:
    for _ in range(rng.choice((1, 1, 2, 3))):
        lines = text.splitlines(keepends=True) or [""]
        at = rng.randrange(len(lines))
        delimiter = max(" ,;\t", key=lines[-1].count)
        cells = lines[at].rstrip("\r\n").split(delimiter)
        match rng.randrange(7):
            case 0 | 1 | 2:
                cells[rng.randrange(len(cells))] = rng.choice(CELLS)
                lines[at] = delimiter.join(cells) + "\n"
            case 3:
                cells.insert(rng.randrange(len(cells) + 1), rng.choice(CELLS))
                lines[at] = delimiter.join(cells) + "\n"
            case 4:
                lines.insert(rng.randrange(len(lines) + 1), lines[at])
            case 5:
                del lines[at]
            case 6:
                place = rng.randrange(len(lines[at]) + 1)
                lines[at] = lines[at][:place] + rng.choice(CELLS) + lines[at][place:]
        text = "".join(lines)
    data = text.encode(rng.choice(("utf-8",) * 8 + ("utf-16", "utf-8-sig")))
    return _damaged_archive(rng, data) if rng.random() < 0.2 else data


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=3000)
    parser.add_argument("--first", type=int, default=0)
    options = parser.parse_args()
    tally = Tally()
    folder = Path(tempfile.mkdtemp(prefix="vitpe-fuzz-"))
    try:
        bench = Bench(folder)
        for name, data in bench.archives.items():  # so that what readers import and keep does not count as theirs
            bench.open_archive(data, name, tally)
        for name, data in bench.datasets.items():
            bench.open_dataset(name, data, name, tally)
        limit_memory(MAX_BYTES)
        began, memory = time.monotonic(), peak_memory()
        for case in range(options.first, options.first + options.cases):
            bench.run(case, tally)
    finally:
        shutil.rmtree(folder)
    result = {
        "cases": options.cases,
        "counts": dict(sorted(tally.counts.items())),
        "seconds": round(time.monotonic() - began, 1),
        "slowest_seconds": round(tally.slowest_seconds, 3),
        "memory_mb": (peak_memory() - memory) // 10**6,
        "failures": tally.failures[:20],
    }
    print(json.dumps(result))
    return 1 if tally.failures else 0


if __name__ == "__main__":
    sys.exit(main())
