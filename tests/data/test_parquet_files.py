"""Parquet files as the hub, `datasets`, pyarrow and pandas write them: the same samples as from CelebA's own layout."""

import io
import os
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.helpers import COLOURS, encode, log_rows, tiny_options, train_tiny
from tests.helpers.in_process import call_vitpe
from vitpe.config import DataConfig
from vitpe.data import parquet
from vitpe.data.sources import open_samples
from vitpe.errors import UsageError, VitpeError

SIZE = (16, 24)
SPLITS = ("train", "valid", "test")


def opened(data: Path, split: str = "train", **more):
    return open_samples(DataConfig(str(data), **more), split, SIZE)


def columns_of(celeba: Path, split: str) -> dict[str, list]:
    """The images of a split of the fixture and their labels, as flwrlabs/celeba has them."""
    samples = opened(celeba, split)
    names = list(samples.names)
    images = [{"bytes": (celeba / "img_align_celeba" / name).read_bytes(), "path": name} for name in names]
    labels = {name: [bool(value) for value in column] for name, column in zip(COLOURS, samples.labels.T, strict=True)}
    return {"image": images, "celeb_id": [7 + 3 * row for row in range(len(names))], **labels}


def write(path: Path, columns: dict[str, list], row_group_size: int = 5, **types: pa.DataType) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    arrays = {name: pa.array(values, types.get(name)) for name, values in columns.items()}
    pq.write_table(pa.table(arrays), path, row_group_size=row_group_size)
    return path


def write_hub(folder: Path, celeba: Path, change=lambda columns: columns, **types: pa.DataType) -> Path:
    """Two files for train, one for valid and for test."""
    for split in SPLITS:
        columns = change(columns_of(celeba, split))
        parts = 2 if split == "train" else 1
        for part in range(parts):
            some = {name: values[part::parts] for name, values in columns.items()}
            write(folder / "data" / f"{split}-{part:05d}-of-{parts:05d}.parquet", some, **types)
    return folder


@pytest.fixture(scope="module")
def hub(celeba, tmp_path_factory) -> Path:
    return write_hub(tmp_path_factory.mktemp("hub"), celeba)


def check_equal(samples, expected, order=None) -> None:
    """Attributes, labels and pixels, to the byte; `order`: where in `samples` each expected one is."""
    order = list(range(len(expected.names))) if order is None else order
    assert samples.attributes == expected.attributes
    assert len(samples.names) == len(expected.names) == len(set(samples.names))
    assert np.array_equal(samples.labels[order], expected.labels)
    everything = range(len(expected.names))
    assert np.array_equal(samples.read(order), expected.read(everything))


def in_two(count: int) -> list[int]:
    """Where row i of what `write_hub` wrote into two files is."""
    first = (count + 1) // 2
    return [row // 2 if row % 2 == 0 else first + row // 2 for row in range(count)]


@pytest.mark.parametrize("split", SPLITS)
def test_a_hub_download_is_celeba_to_the_byte(celeba, hub, split):
    samples, expected = opened(hub, split), opened(celeba, split)
    check_equal(samples, expected, in_two(len(expected.names)) if split == "train" else None)
    assert samples.source == "parquet"
    assert samples.names == opened(celeba, split).names or split == "train"
    assert samples.notes == ("columns that are no attributes are left out: celeb_id (numbers)",)


def test_the_comparison_can_fail(celeba, hub):
    with pytest.raises(AssertionError):
        check_equal(opened(hub), opened(celeba))


def with_images(kind: str, celeba: Path):
    def change(columns):
        images = columns["image"]
        match kind:
            case "bytes":
                columns["image"] = [image["bytes"] for image in images]
            case "path":
                columns["image"] = [str(celeba / "img_align_celeba" / image["path"]) for image in images]
            case "struct of a path":
                columns["image"] = [
                    {"bytes": None, "path": str(celeba / "img_align_celeba" / each["path"])} for each in images
                ]
        return columns

    return change


@pytest.mark.parametrize(
    ("kind", "arrow"),
    [
        ("bytes", pa.binary()),
        ("bytes", pa.large_binary()),
        ("path", pa.string()),
        ("path", pa.large_string()),
        ("struct of a path", pa.struct({"bytes": pa.binary(), "path": pa.string()})),
    ],
    ids=str,
)
def test_forms_of_images(celeba, tmp_path, kind, arrow):
    write_hub(tmp_path, celeba, with_images(kind, celeba), image=arrow)
    check_equal(opened(tmp_path, "valid"), opened(celeba, "valid"))


@pytest.mark.parametrize("low", [0, -1])
@pytest.mark.parametrize("arrow", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64()], ids=str)
def test_labels_are_numbers_of_any_width(celeba, tmp_path, arrow, low):
    if low < 0 and "uint" in str(arrow):
        pytest.skip("no such number")
    change = lambda columns: columns | {name: [1 if on else low for on in columns[name]] for name in COLOURS}  # noqa: E731
    write_hub(tmp_path, celeba, change, **dict.fromkeys(COLOURS, arrow))
    check_equal(opened(tmp_path, "test"), opened(celeba, "test"))


def test_labels_in_a_struct(celeba, tmp_path):
    def change(columns):
        rows = len(columns["image"])
        labels = [{name: columns[name][row] for name in COLOURS} for row in range(rows)]
        return {"image": columns["image"], "attributes": labels, "prompt_string": ["a face"] * rows}

    samples = opened(write_hub(tmp_path, celeba, change), "valid")
    check_equal(samples, opened(celeba, "valid"))
    assert samples.notes == ("columns that are no attributes are left out: prompt_string (text)",)


def place(files: list[tuple[str, str]], celeba: Path, folder: Path) -> Path:
    for name, split in files:
        write(folder / name, columns_of(celeba, split))
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001.parquet", "validation-00000-of-00001.parquet", "test-00000-of-00001.parquet"),
        ("default/train/0000.parquet", "default/validation/0000.parquet", "default/test/0000.parquet"),
        ("Training/a.parquet", "val/a.parquet", "testing/a.parquet"),
        ("celeba_train.parquet", "celeba_dev.parquet", "celeba_test.parquet"),
    ],
)
def test_names_tell_the_splits(celeba, tmp_path, names):
    place(list(zip(names, SPLITS, strict=True)), celeba, tmp_path)
    for split in SPLITS:
        check_equal(opened(tmp_path, split), opened(celeba, split))


def test_a_hubs_cache_with_its_links(celeba, hub, tmp_path):
    root = tmp_path / "datasets--flwrlabs--celeba"
    (root / "blobs").mkdir(parents=True)
    for revision in ("old", "new"):
        for file in (hub / "data").iterdir():
            blob = root / "blobs" / f"{revision}{file.stem}"
            shutil.copy(file, blob)
            link = root / "snapshots" / revision / "data" / file.name
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(os.path.relpath(blob, link.parent))
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("old")
    for data in (root, root / "snapshots" / "new"):
        check_equal(opened(data, "valid"), opened(celeba, "valid"))


def test_one_file_is_all_of_its_split(celeba, hub):
    file = hub / "data" / "valid-00000-of-00001.parquet"
    check_equal(opened(file, "valid"), opened(celeba, "valid"))
    with pytest.raises(VitpeError, match=r"no file of the train split \(1 valid\)"):
        opened(file)


def test_without_splits_a_hash_decides(celeba, tmp_path):
    path = write(tmp_path / "faces.parquet", columns_of(celeba, "train"))
    parts = [opened(path, split) for split in ("train", "valid")]
    names = [set(part.names) for part in parts]
    assert not names[0] & names[1] and 12 <= len(names[0]) <= 23
    assert "a hash of each image's name gives 80 % train" in parts[0].notes[-1]
    path.rename(tmp_path / "train-0.parquet")
    assert "training files alone" in opened(tmp_path).notes[-1]


def test_a_split_column(celeba, tmp_path):
    columns = columns_of(celeba, "train")
    columns["split"] = ["validation" if row % 3 == 0 else "train" for row in range(24)]
    samples = opened(write(tmp_path / "faces.parquet", columns), "valid")
    assert np.array_equal(samples.labels, opened(celeba).labels[::3])
    path = write(tmp_path / "sub" / "train.parquet", columns)
    write(tmp_path / "sub" / "test.parquet", columns)
    with pytest.raises(VitpeError, match=r"train.parquet, row 0: split is validation, the file's name says train"):
        opened(path.parent)


def test_smaller_images_are_resized_and_it_is_said(celeba, tmp_path):
    columns = columns_of(celeba, "train")
    columns["image"] = [encode(Image.open(io.BytesIO(each["bytes"])).resize((128, 128))) for each in columns["image"]]
    samples = opened(write(tmp_path / "faces.parquet", columns))
    assert samples.notes[-1].startswith("images of other shapes are cropped: one of 128 x 128 pixels loses 17%")
    assert samples.read([0]).shape == (1, 3, *samples.stored_size)


def test_what_datasets_writes_and_reads(celeba, hub, tmp_path):
    """An oracle both ways."""
    datasets = pytest.importorskip("datasets")
    files = {split: str(hub / "data" / f"{split}-*.parquet") for split in SPLITS}
    expected = opened(hub, "train")
    features = datasets.Features(
        {"image": datasets.Image(), "celeb_id": datasets.Value("int64")}
        | {name: datasets.Value("bool") for name in COLOURS}
    )
    loaded = datasets.load_dataset("parquet", data_files=files, features=features, cache_dir=str(tmp_path / "cache"))
    theirs = loaded["train"]
    assert [[row[name] for name in COLOURS] for row in theirs] == expected.labels.astype(bool).tolist()
    for split in ("train", "test"):
        (tmp_path / "theirs").mkdir(exist_ok=True)
        loaded[split].to_parquet(str(tmp_path / "theirs" / f"{split}-00000-of-00001.parquet"))
    check_equal(opened(tmp_path / "theirs"), expected)
    check_equal(opened(tmp_path / "theirs", "test"), opened(celeba, "test"))


# Reading


@pytest.mark.parametrize("row_group_size", [1, 7, 1000])
def test_any_order_and_a_small_cache(celeba, tmp_path, monkeypatch, row_group_size):
    monkeypatch.setattr(parquet, "_CACHE_BYTES", 5000)
    monkeypatch.setattr(parquet, "_BATCH_BYTES", 5000)
    columns = columns_of(celeba, "train")
    samples = opened(
        write(tmp_path / "train.parquet", columns, row_group_size).rename(tmp_path / "valid.parquet"), "valid"
    )
    order = np.random.default_rng(0).permutation(24).tolist()
    expected = opened(celeba).read(order)
    assert np.array_equal(samples.read(order), expected)
    assert samples._files._num_cached_bytes <= 10_000
    samples.preload()
    assert samples._files._num_cached_bytes == 0
    assert np.array_equal(samples.read(order), expected)


def test_training_is_the_same_from_either(celeba, tmp_path):
    """In the same order of the same images, from every store and after a stop."""
    for split in SPLITS:
        write(tmp_path / "data" / f"{split}.parquet", columns_of(celeba, split))
    train_tiny(celeba, tmp_path / "plain")
    for store in ("device", "memory", "disk"):
        recorder = train_tiny(tmp_path / "data", tmp_path / store, data__store=store)
        assert "data: Parquet, 24 images to train on, 8 to validate, 4 attributes" in recorder.notes
        scores = [
            [(row["step"], row["valid_accuracy"], row["loss"]) for row in log_rows(tmp_path / run)]
            for run in (store, "plain")
        ]
        assert scores[0] == scores[1]


def test_from_the_command_to_a_score(hub, tmp_path):
    data = hub / "data"
    done = call_vitpe("train", *tiny_options(data, train__steps=2), "--num-train", "10", "--run", tmp_path / "run")
    assert done.code == 0, done.stderr
    assert "10 of 24 train images: a random sample" in done.stderr
    scored = call_vitpe("eval", tmp_path / "run", "--format", "json", "--data", data)
    assert scored.code == 0, scored.stderr
    assert "data: Parquet, 8 images of valid, 4 attributes" in scored.stderr
    assert call_vitpe("eval", tmp_path / "run").code == 0  # of its own data, found again
    assert call_vitpe("train", "--resume", "--run", tmp_path / "run").code == 0


# What is refused


def refusal(data: Path, split: str = "train", **more) -> str:
    with pytest.raises(VitpeError) as caught:
        samples = opened(data, split, **more)
        samples.read(range(len(samples.names)))
    assert caught.value.hint and "\n" not in caught.value.message
    return caught.value.message


def test_wrong_rows_are_named(celeba, tmp_path):
    def broken(column: str, row: int, value, **types) -> str:
        columns = columns_of(celeba, "valid")
        columns["Red"] = [int(on) for on in columns["Red"]]
        columns[column][row] = value
        return refusal(write(tmp_path / "valid.parquet", columns, **types), "valid")

    where = f"{tmp_path / 'valid.parquet'}, row"
    assert broken("Red", 6, 2) == f"{where} 6: Red is 2"
    assert broken("Red", 7, None) == f"{where} 7: Red is empty"
    assert broken("image", 5, None) == f"{where} 5 has no image"
    assert broken("image", 5, {"bytes": None, "path": "gone.jpg"}).startswith(f"{where} 5: cannot read gone.jpg")
    assert broken("image", 7, {"bytes": b"no image", "path": None}).startswith(f"{where} 7: not an image")
    assert broken("Red", 0, -1) == f"{tmp_path / 'valid.parquet'}: Red is 0 in row 2 and -1 in row 0"


def test_files_that_do_not_go_together(celeba, tmp_path):
    columns = columns_of(celeba, "train")
    write(tmp_path / "train-0.parquet", columns)
    write(tmp_path / "valid-0.parquet", columns)
    other = {name: values for name, values in columns.items() if name != "Blue"}
    write(tmp_path / "train-1.parquet", other)
    message = refusal(tmp_path)
    assert str(tmp_path / "train-0.parquet") in message and "column Blue" in message and "train-1.parquet" in message
    (tmp_path / "train-1.parquet").rename(tmp_path / "more.parquet")
    assert "the name train-0.parquet tells a split, more.parquet does not" in refusal(tmp_path)
    (tmp_path / "more.parquet").unlink()
    write(tmp_path / "again" / "train-0.parquet", columns)
    assert "holds more than one dataset" in refusal(tmp_path)


@pytest.mark.parametrize("cut", [0, 3, 1000, -1])
def test_half_a_file(celeba, tmp_path, cut):
    path = write(tmp_path / "train.parquet", columns_of(celeba, "train"))
    path.write_bytes(path.read_bytes()[:cut])
    assert refusal(path).startswith(f"cannot read {path}: ")


def test_what_is_no_dataset(celeba, hub, tmp_path):
    path = tmp_path / "train.parquet"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 9\n")
    assert "pointer of Git LFS" in refusal(path)
    assert "no column of images" in refusal(write(path, {"Red": [True]}))
    assert "2 columns of images: a, b" in refusal(write(path, {"a": [b"x"], "b": [b"y"], "Red": [True]}))
    assert "no column of labels" in refusal(write(path, {"image": [b"x"], "text": ["y"]}))
    assert "no rows" in refusal(write(path, {"image": [], "Red": []}, image=pa.binary(), Red=pa.bool_()))
    assert "no file" in refusal(tmp_path / "gone.parquet")
    with pytest.raises(UsageError, match="holds its own labels"):
        opened(hub / "data" / "test-00000-of-00001.parquet", labels=str(tmp_path / "labels.csv"))


def test_without_pyarrow(hub, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(VitpeError) as caught:
        opened(hub)
    assert caught.value.hint == "pip install 'vitpe[parquet]'"
