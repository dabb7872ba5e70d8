"""CelebA at its full size in each form: from the command to the end of the first step, and images a second after it.

python -m tests.benchmarks.data_sources CELEBA SCRATCH makes 202,599 images under the published names there, by
repeating those of a sample, as a zip, a folder, parquet and tar archives, and leaves them for the next time.
"""

import argparse
import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from tests.benchmarks.measure import rows
from tests.benchmarks.single_answer import run_alone
from tests.helpers import log_rows
from vitpe.celeba import ATTRIBUTES
from vitpe.data.celeba import read_celeba

NUM_IMAGES = {"train": 162_770, "valid": 19_867, "test": 19_962}
FORMS = ("zip", "folder", "parquet", "tar")


def make(celeba: Path, scratch: Path) -> None:
    """What is there is taken for whole."""
    labels = np.where(np.random.default_rng(0).random((sum(NUM_IMAGES.values()), len(ATTRIBUTES))) < 0.2, 1, -1)
    for form in FORMS:
        if not (scratch / form).exists():
            (scratch / form).mkdir(parents=True)
            {"zip": _zip, "folder": _folder, "parquet": _parquet, "tar": _tar}[form](celeba, scratch / form, labels)


def _images(celeba: Path) -> Iterator[bytes]:
    samples = read_celeba(celeba, "train")
    encoded = [samples._files.read(member) for member in samples._members]
    return islice(cycle(encoded), sum(NUM_IMAGES.values()))


def _lists(folder: Path, labels: np.ndarray) -> None:
    codes = np.repeat(range(3), list(NUM_IMAGES.values()))
    with (folder / "list_eval_partition.txt").open("w") as file:
        file.writelines(f"{number + 1:06d}.jpg {code}\n" for number, code in enumerate(codes))
    with (folder / "list_attr_celeba.txt").open("w") as file:
        file.write(f"{len(labels)}\n{' '.join(ATTRIBUTES)}\n")
        file.writelines(
            f"{number + 1:06d}.jpg {' '.join(f'{label:2}' for label in row)}\n" for number, row in enumerate(labels)
        )


def _zip(celeba: Path, folder: Path, labels: np.ndarray) -> None:
    with zipfile.ZipFile(folder / "img_align_celeba.zip", "w") as archive:
        for number, data in enumerate(_images(celeba)):
            archive.writestr(f"img_align_celeba/{number + 1:06d}.jpg", data)
    _lists(folder, labels)


def _folder(celeba: Path, folder: Path, labels: np.ndarray) -> None:
    (folder / "img_align_celeba").mkdir()
    for number, data in enumerate(_images(celeba)):
        (folder / "img_align_celeba" / f"{number + 1:06d}.jpg").write_bytes(data)
    _lists(folder, labels)


def _parquet(celeba: Path, folder: Path, labels: np.ndarray) -> None:
    """As flwrlabs/celeba: shards of some hundred megabytes, row groups of 1,000."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    images, start = _images(celeba), 0
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split, total in NUM_IMAGES.items():
        num_shards = -(-total // 8_600)
        for shard, part in enumerate(np.array_split(np.arange(start, start + total), num_shards)):
            encoded = pa.array([{"bytes": data, "path": None} for data in islice(images, len(part))], kind)
            columns = {"image": encoded, "celeb_id": pa.array(part)}
            columns |= {name: pa.array(labels[part, a] == 1) for a, name in enumerate(ATTRIBUTES)}
            name = f"{split}-{shard:05d}-of-{num_shards:05d}.parquet"
            pq.write_table(pa.table(columns), folder / name, row_group_size=1000)
        start += total


def _tar(celeba: Path, folder: Path, labels: np.ndarray) -> None:
    """As the webdataset library writes it: archives of 10,000 images, each with a json."""
    images, number = _images(celeba), 0
    for split, total in NUM_IMAGES.items():
        for shard, first in enumerate(range(0, total, 10_000)):
            with tarfile.open(folder / f"{split}-{shard:06d}.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
                for data in islice(images, min(10_000, total - first)):
                    row = dict(zip(ATTRIBUTES, (labels[number] == 1).astype(int).tolist(), strict=True))
                    number += 1
                    for suffix, content in (("jpg", data), ("json", json.dumps(row).encode())):
                        member = tarfile.TarInfo(f"{number:06d}.{suffix}")
                        member.size = len(content)
                        archive.addfile(member, io.BytesIO(content))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("celeba", type=Path)
    parser.add_argument("scratch", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300, help="for images a second")
    arguments = parser.parse_args()
    make(arguments.celeba, arguments.scratch)
    train = [sys.executable, "-m", "vitpe", "train", "--num-valid", "64", "--set", "train.num_evals=1"]
    rates: dict[str, list[float]] = {form: [] for form in FORMS}
    for _ in range(arguments.repeats):
        for form in FORMS:
            with tempfile.TemporaryDirectory() as folder:
                command = [*train, "--data", str(arguments.scratch / form), "--run", f"{folder}/run"]
                seconds, peak = run_alone([*command, "--steps", "1"])
                print(f"{form:10} first step after {seconds:5.1f} s, at most {peak / 1e9:.2f} GB", flush=True)
                command[-1] = f"{folder}/longer"
                subprocess.run([*command, "--steps", str(arguments.steps)], check=True, capture_output=True)
                speeds = [float(row["images_per_second"]) for row in log_rows(Path(folder) / "longer")[1:]]
                rates[form].append(float(np.median(speeds)))
    for row in rows("training from", "images/s", rates, ours="zip"):
        print(f"{row.name:10} {row.median:6.1f} images/s, {1 / row.ratio:.3f} of the zip's")


if __name__ == "__main__":
    main()
