"""Parquet as the hub has it: the images and labels of CelebA's own layout, in each of the forms that are known."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.in_process import call_vitpe, read_jsonl
from vitpe.celeba import ATTRIBUTES
from vitpe.config import DataConfig
from vitpe.data.celeba import read_celeba
from vitpe.data.parquet import read_parquet
from vitpe.data.samples import Samples, fingerprint
from vitpe.data.sources import open_samples
from vitpe.data.storage import ImageStore
from vitpe.errors import VitpeError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

SIZE = (218, 178)
NUMBERS = ("--num-train", "12", "--num-valid", "6", "--num-test", "5")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "celeba"
    assert call_vitpe("draw", folder, *NUMBERS).code == 0
    return folder


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "parquet"
    assert call_vitpe("draw", folder, "--format", "parquet", *NUMBERS).code == 0
    return folder


def rows_of(plain: Path, split: str) -> tuple[list[bytes], np.ndarray]:
    samples = read_celeba(plain, split)
    return [(plain / "img_align_celeba" / name).read_bytes() for name in samples.names], samples.labels


def flwrlabs(data: list[bytes], labels: np.ndarray) -> dict[str, object]:
    image = pa.array(
        [{"bytes": each, "path": None} for each in data], pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    )
    identity = pa.array(range(100, 100 + len(data)), pa.int64())
    return {"image": image, "celeb_id": identity} | {n: pa.array(labels[:, a] == 1) for a, n in enumerate(ATTRIBUTES)}


def tpremoli(data: list[bytes], labels: np.ndarray) -> dict[str, object]:
    signs = {n: pa.array(labels[:, a].astype(np.int64) * 2 - 1) for a, n in enumerate(ATTRIBUTES)}
    return {"image": flwrlabs(data, labels)["image"], **signs, "prompt_string": pa.array(["a face"] * len(data))}


def plain_bytes(data: list[bytes], labels: np.ndarray) -> dict[str, object]:
    zeros_and_ones = {n: pa.array(labels[:, a].astype(np.int8)) for a, n in enumerate(ATTRIBUTES)}
    return {"jpg": pa.array(data, pa.large_binary()), **zeros_and_ones}


def one_struct(data: list[bytes], labels: np.ndarray) -> dict[str, object]:
    rows = [dict(zip(ATTRIBUTES, map(bool, row), strict=True)) for row in labels]
    return {"attributes": pa.array(rows), "image": pa.array(data, pa.binary()), "caption": pa.array(["x"] * len(data))}


FORMS: dict[str, Callable[[list[bytes], np.ndarray], dict[str, object]]] = {
    "flwrlabs": flwrlabs,
    "tpremoli": tpremoli,
    "plain_bytes": plain_bytes,
    "one_struct": one_struct,
}
PLACES = {
    "data/{}-00000-of-00001.parquet": ("train", "valid", "test"),
    "data/{}-00000-of-00002.parquet": ("train", "validation", "test"),
    "default/{}/0000.parquet": ("train", "val", "test"),
}


def write(columns: dict[str, object], file: Path, rows: int = 5) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file, row_group_size=rows)
    return file


def assert_same(found: Samples, plain: Path, split: str) -> None:
    expected = read_celeba(plain, split)
    assert found.attributes == expected.attributes
    np.testing.assert_array_equal(found.labels, expected.labels)
    everything = range(len(expected.names))
    np.testing.assert_array_equal(found.read(everything), expected.read(everything))
    found.preload()
    np.testing.assert_array_equal(found.read(everything[::-1]), expected.read(everything[::-1]))


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_drawn_faces_are_the_same_in_both_forms(drawn, plain, split):
    found = read_parquet(drawn, split, SIZE)
    assert_same(found, plain, split)
    assert list(found.names) == list(read_celeba(plain, split).names)
    assert found.notes == ()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("place", PLACES)
def test_the_hubs_forms_and_trees(form, place, plain, tmp_path):
    for split, name in zip(("train", "valid", "test"), PLACES[place], strict=True):
        write(FORMS[form](*rows_of(plain, split)), tmp_path / place.format(name))
    for split in ("train", "valid", "test"):
        found = open_samples(DataConfig(data=str(tmp_path)), split, (208, 176))
        assert_same(found, plain, split)
    left_out = {
        "flwrlabs": "celeb_id (numbers)",
        "tpremoli": "prompt_string (text)",
        "one_struct": "caption (text)",
    }.get(form)
    assert [note for note in found.notes if "left out" in note] == (
        [f"columns that are no attributes are left out: {left_out}"] if left_out else []
    )


def test_hugging_faces_own_library_reads_what_is_drawn_and_writes_what_is_read(drawn, plain, tmp_path):
    datasets = pytest.importorskip("datasets")
    loaded = datasets.load_dataset("parquet", data_dir=str(drawn / "data"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 12, "validation": 6, "test": 5}
    first = loaded["train"].cast_column("image", datasets.Image(decode=False))[0]
    assert first["image"]["bytes"] == rows_of(plain, "train")[0][0]
    assert [first[name] for name in ATTRIBUTES] == rows_of(plain, "train")[1][0].astype(bool).tolist()
    for name, part in loaded.items():
        typed = part.cast_column("image", datasets.Image())
        (tmp_path / "again").mkdir(exist_ok=True)
        typed.to_parquet(str(tmp_path / "again" / f"{name}-00000-of-00001.parquet"))
    assert_same(read_parquet(tmp_path / "again", "valid", SIZE), plain, "valid")


def test_a_single_file_and_a_link_to_one(plain, tmp_path):
    """A hub's cache has links to files without a suffix."""
    blob = write(flwrlabs(*rows_of(plain, "train")), tmp_path / "blobs" / "3f9a")
    link = tmp_path / "snapshots" / "main" / "train-00000-of-00001.parquet"
    link.parent.mkdir(parents=True)
    link.symlink_to(blob)
    for path in (link, tmp_path / "snapshots"):
        parts = [read_parquet(path, split, SIZE) for split in ("train", "valid")]
        assert sum(len(part.names) for part in parts) <= 12
        assert not set(parts[0].names) & set(parts[1].names)
        assert "has training files alone: a hash" in parts[0].notes[-1]


def test_a_column_says_the_split(plain, tmp_path):
    data, labels = rows_of(plain, "train")
    columns = plain_bytes(data, labels) | {"split": pa.array([0, 1, 2] * 4)}
    file = write(columns, tmp_path / "all.parquet")
    assert [len(read_parquet(file, split, SIZE).names) for split in ("train", "valid", "test")] == [4, 4, 4]
    np.testing.assert_array_equal(read_parquet(file, "valid", SIZE).labels, labels[1::3])


def test_paths_of_files_beside_it(plain, tmp_path):
    data, labels = rows_of(plain, "train")
    columns = plain_bytes(data, labels)
    del columns["jpg"]
    for number, each in enumerate(data):
        (tmp_path / f"{number}.jpg").write_bytes(each)
    columns |= {"file_name": pa.array([f"{number}.jpg" for number in range(12)]), "split": pa.array(["train"] * 12)}
    write(columns, tmp_path / "train.parquet")
    assert_same(read_parquet(tmp_path, "train", SIZE), plain, "train")


def test_images_of_another_size_are_fitted_and_that_is_said(plain, tmp_path):
    from PIL import Image

    small = []
    for data in rows_of(plain, "train")[0]:
        buffer = io.BytesIO()
        Image.open(io.BytesIO(data)).resize((128, 128)).save(buffer, "png")
        small.append(buffer.getvalue())
    write(flwrlabs(small, rows_of(plain, "train")[1]), tmp_path / "train-0.parquet")
    found = open_samples(DataConfig(str(tmp_path)), "train", (208, 176))
    assert found.read([0]).shape == (1, 3, *SIZE)
    assert found.notes[-1].startswith("images of other shapes are cropped: one of 128 x 128 pixels loses 10%")


def test_the_images_are_held_once(plain, tmp_path, monkeypatch):
    """Row groups that were read are let go of, and any order of reading gives the same bytes."""
    monkeypatch.setattr("vitpe.data.parquet._CACHE_BYTES", 1)
    data, labels = rows_of(plain, "train")
    columns = flwrlabs(data, labels) | {"split": pa.array(["train"] * 12)}
    samples = read_parquet(write(columns, tmp_path / "a.parquet", rows=2), "train", SIZE)
    files = samples._files
    order = np.random.default_rng(0).permutation(12)
    assert [files.read(samples._members[index]) for index in order] == [data[index] for index in order]
    assert len(files._cache) == 1
    assert samples.num_encoded_bytes() == pytest.approx(sum(map(len, data)), rel=0.1)


def test_all_commands_take_it(drawn, plain, tmp_path):
    run = tmp_path / "run"
    tiny = ("--set", "model.embed_dim=16", "--set", "model.depth=1", "--batch-size", "4", "--steps", "2")
    for place, folder in ((drawn, run), (plain, tmp_path / "plain")):
        trained = call_vitpe("train", "--data", place, "--run", folder, *tiny, "--num-train", "8")
        assert trained.code == 0, trained.stderr
    assert "data: Parquet, 6 images of valid, 40 attributes" in call_vitpe("eval", run, "--data", drawn).stderr
    first, second = (call_vitpe("eval", folder, "--split", "test").out for folder in (run, tmp_path / "plain"))
    assert first.split(b'"attributes"')[1] == second.split(b'"attributes"')[1]  # the same model, the same scores
    assert call_vitpe("train", "--data", drawn, "--run", run, "--resume").code == 0
    face = plain / "img_align_celeba" / "000001.jpg"
    assert len(read_jsonl(call_vitpe("predict", face, "--checkpoint", run))) == 1


def test_predict_takes_the_rows_of_a_file(drawn, plain, tmp_path, trained_run):
    file = drawn / "data" / "test-00000-of-00001.parquet"
    found = read_jsonl(call_vitpe("predict", file, "--checkpoint", trained_run))
    assert [record["file"] for record in found] == [f"{file}#{row}" for row in range(5)]
    names = [plain / "img_align_celeba" / name for name in read_celeba(plain, "test").names]
    expected = read_jsonl(call_vitpe("predict", *names, "--checkpoint", trained_run))
    assert [record["probs"] for record in found] == [record["probs"] for record in expected]
    data, labels = rows_of(plain, "train")
    data[3] = None
    damaged = write(flwrlabs(data, labels), tmp_path / "a.parquet")
    called = call_vitpe("predict", damaged, "--checkpoint", trained_run)
    assert called.code == 1
    assert [record.get("error") for record in read_jsonl(called)] == [
        f"{damaged}, row 3 has no image" if row == 3 else None for row in range(12)
    ]
    damaged.write_bytes(b"PAR1")
    called = call_vitpe("predict", damaged, "--checkpoint", trained_run)
    assert called.code == 1
    assert f"cannot read {damaged}: " in read_jsonl(called)[0]["error"]


def test_store_disk_reads_rows_as_they_are_asked_for(drawn):
    import torch

    samples = read_parquet(drawn, "train", SIZE)
    store = ImageStore(samples, torch.device("cpu"), "disk")
    where = np.array([3, 0, 11])
    batch = store.crop(where, np.zeros(3, int), np.zeros(3, int), np.zeros(3, bool), SIZE)
    np.testing.assert_array_equal(batch.images.numpy(), samples.read([3, 0, 11]))
    np.testing.assert_array_equal(batch.labels.numpy(), samples.labels[where])


def test_fingerprints_differ_with_labels(plain, tmp_path):
    data, labels = rows_of(plain, "train")
    prints = set()
    for number, changed in enumerate((labels, 1 - labels)):
        columns = flwrlabs(data, changed) | {"split": pa.array(["train"] * 12)}
        prints.add(fingerprint([read_parquet(write(columns, tmp_path / f"{number}.parquet"), "train", SIZE)]))
    assert len(prints) == 2


# What is wrong is named


def broken(plain: Path, change: Callable[[dict[str, object]], None], file: Path) -> Path:
    columns = flwrlabs(*rows_of(plain, "train")) | {"split": pa.array(["train"] * 12)}
    change(columns)
    return write(columns, file)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            lambda c: c.update(Bald=pa.array([True] * 7 + [None] + [False] * 4)),
            r"train\.parquet, row 7: Bald is empty",
        ),
        (lambda c: c.update(Bald=pa.array([1, 0, -1] * 4)), r"train\.parquet: Bald is 0 in row 1 and -1 in row 2"),
        (lambda c: c.pop("image"), r"has no column of images .celeb_id .int64., 5_o_Clock"),
        (lambda c: [c.pop(name) for name in ATTRIBUTES], "train.parquet has no column of labels"),
        (lambda c: c.update(split=pa.array(["train"] * 11 + ["maybe"])), r"row 11: split is 'maybe'"),
        (
            lambda c: c.update(split=pa.array(["test"] * 12)),
            r"no image of the train split .0 train, 0 valid, 12 t",
        ),
    ],
)
def test_what_is_wrong_in_a_table_is_named(change, complaint, plain, tmp_path):
    with pytest.raises(VitpeError, match=complaint) as caught:
        read_parquet(broken(plain, change, tmp_path / "train.parquet"), "train", SIZE)
    assert caught.value.hint


def test_a_row_without_an_image(plain, tmp_path):
    data, labels = rows_of(plain, "train")
    data[3] = None
    columns = flwrlabs(data, labels) | {"split": pa.array(["train"] * 12)}
    samples = read_parquet(write(columns, tmp_path / "a.parquet"), "train", SIZE)
    with pytest.raises(VitpeError, match=r"a\.parquet, row 3 has no image"):
        samples.read([3])


def test_half_a_file(plain, tmp_path):
    file = write(flwrlabs(*rows_of(plain, "train")), tmp_path / "train.parquet")
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    called = call_vitpe("train", "--data", file, "--run", tmp_path / "run")
    assert called.code == 1
    assert called.stderr.startswith(f"error: cannot read {file}: ")
    assert called.stderr.count("\n") == 2


def test_files_of_two_datasets(plain, tmp_path):
    rows = rows_of(plain, "train")
    write(flwrlabs(*rows), tmp_path / "train-0.parquet")
    write(plain_bytes(*rows), tmp_path / "train-1.parquet")
    with pytest.raises(
        VitpeError, match=r"train-0\.parquet has a column celeb_id, .*train-1\.parquet has none to go with it"
    ):
        read_parquet(tmp_path, "train", SIZE)


def test_one_file_whose_name_says_no_split(plain, tmp_path):
    rows = rows_of(plain, "train")
    write(flwrlabs(*rows), tmp_path / "train-0.parquet")
    write(flwrlabs(*rows), tmp_path / "more.parquet")
    with pytest.raises(VitpeError, match=r"the name train-0.parquet tells a split, more.parquet does not"):
        read_parquet(tmp_path, "train", SIZE)


def test_without_pyarrow(drawn, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow", None)
    called = call_vitpe("train", "--data", drawn, "--run", tmp_path / "run")
    assert called.code == 1
    assert called.stderr.endswith("hint: pip install 'vitpe[parquet]'\n")
