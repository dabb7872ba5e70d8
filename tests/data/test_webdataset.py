"""Tar archives as WebDataset has them: the same samples as from CelebA's own layout, whoever wrote the archive."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers import COLOURS, log_rows, tiny_options, train_tiny
from tests.helpers.in_process import call_vitpe, read_jsonl
from vitpe.config import DataConfig
from vitpe.data.shards import expand_braces
from vitpe.data.sources import open_samples
from vitpe.data.tar_files import members, read_part
from vitpe.data.webdataset import FlatJson
from vitpe.errors import VitpeError
from vitpe.files import stamp_at
from vitpe.inference.inputs import expand

SIZE = (16, 24)
SPLITS = ("train", "valid", "test")


def opened(data: Path | str, split: str = "train", **more):
    return open_samples(DataConfig(str(data), **more), split, SIZE)


def samples_of(celeba: Path, split: str) -> list[tuple[str, bytes, dict[str, int]]]:
    found = opened(celeba, split)
    return [
        (
            name.removesuffix(".jpg"),
            (celeba / "img_align_celeba" / name).read_bytes(),
            dict(zip(COLOURS, map(int, row), strict=True)),
        )
        for name, row in zip(found.names, found.labels, strict=True)
    ]


def pack(path: Path, files: list[tuple[str, bytes]], kind: int = tarfile.USTAR_FORMAT, **fields: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for name, data in files:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            for field, value in fields.items():
                setattr(info, field, value)
            archive.addfile(info, io.BytesIO(data))
    return path


def files_of(samples, label=lambda labels: labels, prefix: str = "") -> list[tuple[str, bytes]]:
    return [
        file
        for key, image, labels in samples
        for file in ((f"{prefix}{key}.jpg", image), (f"{prefix}{key}.json", json.dumps(label(labels)).encode()))
    ]


def write(folder: Path, celeba: Path, label=lambda labels: labels, **more) -> Path:
    """Train in two archives."""
    for split in SPLITS:
        samples = samples_of(celeba, split)
        halves = [samples[:11], samples[11:]] if split == "train" else [samples]
        for number, half in enumerate(halves):
            pack(folder / f"{split}-{number:06d}.tar", files_of(half, label), **more)
    return folder


@pytest.fixture(scope="module")
def shards(celeba, tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("shards"), celeba)


def check_equal(samples, expected) -> None:
    everything = range(len(expected.names))
    assert (samples.attributes, list(samples.names)) == (expected.attributes, list(expected.names))
    assert np.array_equal(samples.labels, expected.labels)
    assert np.array_equal(samples.read(everything), expected.read(everything))
    assert samples.num_encoded_bytes() == expected.num_encoded_bytes()


@pytest.mark.parametrize("split", SPLITS)
def test_archives_are_celeba_to_the_byte(celeba, shards, split):
    samples = opened(shards, split)
    check_equal(samples, opened(celeba, split))
    assert samples.source == "webdataset" and samples.notes == ()
    check_equal(
        opened(f"{shards}/{split}-{{000000..{int(split == 'train'):06d}}}.tar", split), opened(celeba, split)
    ) if split != "train" else None


@pytest.mark.parametrize(
    "label",
    [
        lambda labels: {name: bool(value) for name, value in labels.items()},
        lambda labels: {name: 2 * value - 1 for name, value in labels.items()},
        lambda labels: {"attributes": labels, "caption": "a face"},
        lambda labels: labels | {"celeb_id": 1, "caption": "a face", "box": [1, 2]},
    ],
    ids=("booleans", "signs", "an object", "others beside"),
)
@pytest.mark.parametrize(
    "kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=("ustar", "gnu", "pax")
)
def test_labels_and_formats(celeba, tmp_path, label, kind):
    more = {"mtime": 1.5} if kind == tarfile.PAX_FORMAT else {}
    write(tmp_path, celeba, label, kind=kind, **more)
    check_equal(opened(tmp_path), opened(celeba))


def test_one_attribute_as_a_class(celeba, tmp_path):
    files = [
        f
        for key, image, labels in samples_of(celeba, "valid")
        for f in ((f"{key}.jpg", image), (f"{key}.cls", b"%d" % labels["Red"]))
    ]
    samples = opened(pack(tmp_path / "valid.tar", [*files, ("README.txt", b"x")]), "valid")
    assert samples.attributes == ("cls",)
    assert np.array_equal(samples.labels[:, 0], opened(celeba, "valid").labels[:, 0])


@settings(deadline=None)
@given(
    names=st.lists(st.text("aé/ü日.-_x", min_size=1, max_size=180), max_size=6),
    sizes=st.lists(st.integers(0, 1500), min_size=6, max_size=6),
    kind=st.sampled_from([tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_what_tarfile_reads(tmp_path_factory, names, sizes, kind):
    path = tmp_path_factory.mktemp("tar") / "a.tar"
    pack(path, [(name, bytes([i]) * size) for i, (name, size) in enumerate(zip(names, sizes, strict=False))], kind)
    with tarfile.open(path) as archive:
        expected = [(each.name, archive.extractfile(each).read()) for each in archive if each.isfile()]
    found = [(each.name, read_part(path, each.start, each.size, stamp_at(path))) for each in members(path)]
    assert [data for _, data in found] == [data for _, data in expected]
    assert [name.rstrip("/") for name, _ in found] == [name.rstrip("/") for name, _ in expected]


def test_links_folders_and_large_numbers(tmp_path):
    path = tmp_path / "a.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as archive:
        for name, kind in (("folder", tarfile.DIRTYPE), ("link", tarfile.SYMTYPE), ("hard", tarfile.LNKTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "x" * 300
            archive.addfile(info)
        info = tarfile.TarInfo("file")
        info.size, info.mtime, info.uid = 3, 2**40, 2**30
        archive.addfile(info, io.BytesIO(b"abc"))
    assert [each.name for each in members(path)] == ["file"]


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("train-{000..002}.tar", ["train-000.tar", "train-001.tar", "train-002.tar"]),
        ("{train,val}-{8..10}.tar", [f"{s}-{n}.tar" for s in ("train", "val") for n in (8, 9, 10)]),
        ("{a-{0..1},b}.tar", ["a-0.tar", "a-1.tar", "b.tar"]),
        ("plain{}.tar", ["plain{}.tar"]),
        ("x{2..1}", ["x2", "x1"]),
        ("x{2}", []),
    ],
)
def test_patterns(pattern, names):
    assert expand_braces(pattern) == (names or [pattern])


def test_the_pattern_is_kept_in_the_run(celeba, shards, tmp_path):
    pattern = f"{shards}/{{train-{{000000..000001}},valid-000000}}.tar"
    for data, run in ((pattern, "pattern"), (celeba, "plain")):
        train_tiny(data, tmp_path / run)
    rows = [
        [{k: row[k] for k in ("step", "loss", "valid_accuracy")} for row in log_rows(tmp_path / run)]
        for run in ("pattern", "plain")
    ]
    assert rows[0] == rows[1]
    assert call_vitpe("eval", tmp_path / "pattern").code == 0


def test_from_the_command_to_a_score(shards, tmp_path):
    done = call_vitpe("train", *tiny_options(shards, train__steps=2), "--num-train", "10", "--run", tmp_path / "run")
    assert done.code == 0, done.stderr
    assert "data: WebDataset, 10 images to train on, 8 to validate, 4 attributes" in done.stderr
    assert call_vitpe("train", "--resume", "--run", tmp_path / "run").code == 0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory) -> Path:
    """The same faces in CelebA's layout and in archives."""
    folder = tmp_path_factory.mktemp("drawn")
    for form in ("celeba", "webdataset"):
        numbers = ("--num-train", "7", "--num-valid", "5", "--num-test", "3")
        assert call_vitpe("draw", folder / form, "--format", form, *numbers).code == 0
    return folder


@pytest.mark.parametrize("split", SPLITS)
def test_drawn_faces_are_the_same_in_both_forms(drawn, split):
    check_equal(opened(drawn / "webdataset", split), opened(drawn / "celeba", split))


def test_predict_takes_archives_and_folders_of_them(drawn, predicted, tmp_path):
    archive = drawn / "webdataset" / "test-000000.tar"
    found = read_jsonl(predicted(archive))
    assert [record["file"] for record in found] == [f"{archive}:{number:06d}.jpg" for number in (13, 14, 15)]
    plain = read_jsonl(predicted(*(drawn / "celeba" / "img_align_celeba" / f"{n:06d}.jpg" for n in (13, 14, 15))))
    assert [record["probs"] for record in found] == [record["probs"] for record in plain]
    everything = predicted(drawn / "webdataset")
    assert (everything.code, len(read_jsonl(everything))) == (0, 15)
    cut = tmp_path / "cut.tar"
    cut.write_bytes(archive.read_bytes()[:15_000])
    damaged = predicted(cut)
    assert damaged.code == 1
    assert "cut off within 0000" in read_jsonl(damaged)[-1]["error"]
    (tmp_path / "cut.tar").rename(tmp_path / "cut.tar.gz")
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(archive.read_bytes()))
    assert "compressed" in read_jsonl(predicted(tmp_path))[0]["error"]


def test_archives_and_parquet_files_in_lists_and_patterns(drawn, predicted, tmp_path, monkeypatch):
    """Are opened as they are when they are named themselves."""
    archives = sorted((drawn / "webdataset").glob("*.tar"))
    files = [record["file"] for record in read_jsonl(predicted(*archives))]
    assert len(files) == 15
    assert [record["file"] for record in read_jsonl(predicted(drawn / "webdataset" / "*.tar"))] == files
    listed = [each.name for each in expand(["-"], io.BytesIO("\n".join(map(str, archives)).encode()), b"\n")]
    assert listed == files


values = st.sampled_from([0, 1, -1, 2, True, False, None, 1.0, "x", "a, b", '1, "b": 0', [0, 1], {"c": 1, "d": 0}])
objects = st.dictionaries(st.sampled_from(["a", "b", 'c"', "d, e", "é"]), values, max_size=4)
spellings = st.sampled_from([{}, {"separators": (",", ":")}, {"separators": (",", ": ")}, {"indent": 1}])


@settings(deadline=None)
@given(
    st.lists(st.tuples(objects, spellings, st.sampled_from(["{}", " {}", "{}\n", "{},", "{}}}", "{{"])), max_size=12)
)
def test_labels_are_what_json_reads(documents):
    """Whatever was read before; and no object but json's has been taken from it."""
    parser = FlatJson()
    for found, spelling, around in [*documents, *documents]:
        data = around.replace("{}", json.dumps(found, **spelling)).encode()
        try:
            expected = json.loads(data)
        except ValueError:
            with pytest.raises(ValueError):
                parser.parse(data)
        else:
            read = parser.parse(data)
            assert read == expected and [*map(type, read.values())] == [*map(type, expected.values())]
            assert list(read) == list(expected)
    for data in (b'{"a": 1,"b": 0, "s": "x, y"}', b'{"a": 1,"b": 0}', b'{"a": 0, "a": 1}'):
        try:
            assert parser.parse(data) == json.loads(data) and data.count(b'"a"') == 1
        except ValueError:
            assert data.count(b'"a"') == 2


@pytest.fixture
def beside(celeba, tmp_path) -> tuple[Path, Path]:
    """Archives of images alone, and a table of all their labels."""
    rows = [",".join(["file", *COLOURS])]
    for split in SPLITS:
        samples = samples_of(celeba, split)
        pack(tmp_path / "tars" / f"{split}-000.tar", [(f"{key}.jpg", image) for key, image, _ in samples])
        rows += [f"{key},{','.join(str(labels[name]) for name in COLOURS)}" for key, _, labels in samples]
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "tars", tmp_path / "labels.csv"


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("spelt", ["{}", "{}.jpg", "faces/../{}.jpg"])
def test_labels_in_a_table_beside_the_archives(celeba, beside, split, spelt):
    tars, table = beside
    if spelt.startswith("faces"):  # members in folders, a table without them
        for path in tars.iterdir():
            pack(path, [(f"faces/{key}.jpg", image) for key, image, _ in samples_of(celeba, path.name.split("-")[0])])
    else:
        header, *rows = table.read_text().splitlines()
        table.write_text("\n".join([header, *(spelt.format(row[:6]) + row[6:] for row in rows)]))
    samples, expected = opened(tars, split, labels=(str(table),)), opened(celeba, split)
    assert [Path(name).name for name in samples.names] == list(expected.names)
    assert samples.attributes == expected.attributes and np.array_equal(samples.labels, expected.labels)
    everything = range(len(expected.names))
    assert np.array_equal(samples.read(everything), expected.read(everything))


def test_a_table_that_does_not_go_with_its_archives(celeba, beside):
    tars, table = beside
    text = table.read_text()

    def message(changed: str) -> str:
        table.write_text(changed)
        with pytest.raises(VitpeError) as caught:
            opened(tars, "train", labels=(str(table),))
        return caught.value.message

    assert "line 3: no file none" in message(text.replace("\n000002,", "\nnone,"))
    assert "line 3: 000001.jpg again, as in line 2" in message(text.replace("\n000002,", "\n000001.jpg,"))
    header, *rows = text.splitlines()
    split = "\n".join([header + ",split", *(f"{row},valid" for row in rows)])
    assert "000001.jpg is valid, the name of its archive says train" in message(split)
    table.write_text("\n".join([header, *rows[1:]]))
    samples = opened(tars, "train", labels=(str(table),))
    assert "1 image of" in samples.notes[0] and "000001.jpg" in samples.notes[0]
    (tars / "photo.jpg").write_bytes(samples_of(celeba, "valid")[0][1])
    assert "has none of the" in message(text)  # a folder of photos, in which archives lie, too


# What is refused


def refusal(data: Path | str, split: str = "valid") -> str:
    with pytest.raises(VitpeError) as caught:
        samples = opened(data, split)
        samples.read(range(len(samples.names)))
    assert caught.value.hint and "\n" not in caught.value.message
    return caught.value.message


def test_wrong_samples_are_named(celeba, tmp_path):
    def broken(change) -> str:
        files = files_of(samples_of(celeba, "valid"))
        change(files)
        return refusal(pack(tmp_path / "valid.tar", files))

    where, image = f"{tmp_path / 'valid.tar'}: 000027", f"{tmp_path / 'valid.tar'}, 000027.jpg"
    labels = dict.fromkeys(COLOURS, 0)
    put = lambda at, name, data: lambda files: files.__setitem__(at, (name, data))  # noqa: E731
    assert broken(lambda files: files.pop(4)) == f"{where} has no image"
    assert broken(lambda files: files.pop(5)) == f"{where} has no labels"
    assert broken(put(5, "000027.json", b"{")).startswith(f"{where}.json cannot be read: ")
    assert broken(put(5, "000027.json", b"[1]")) == f"{where}.json is no object of names and values"
    assert broken(put(5, "000027.json", json.dumps(labels | {"Red": 7}).encode())).startswith(f"{image}: Red is 7")
    assert broken(put(5, "000027.json", json.dumps(labels | {"Red": None}).encode())) == f"{image}: Red is empty"
    assert f"{where} has no Red" in broken(put(5, "000027.json", b'{"Green": 1, "Blue": 1, "Bright": 1}'))
    assert f"{where} has More" in broken(put(5, "000027.json", json.dumps(labels | {"More": 1}).encode()))
    assert broken(put(4, "000027.jpg", b"no image")).startswith(f"{where}.jpg: not an image")
    assert "000025 comes again" in broken(lambda files: files.extend(files[:2]))
    assert "two images" in broken(lambda files: files.insert(4, ("000027.png", b"x")))


@pytest.mark.parametrize("cut", [0, 100, 512, 5000, -10_000, -1025])
def test_half_an_archive(celeba, tmp_path, cut):
    path = pack(tmp_path / "valid.tar", files_of(samples_of(celeba, "valid")))
    data = path.read_bytes()
    with tarfile.open(path) as archive:
        end = archive.getmembers()[-1].offset_data + 512
    path.write_bytes(data[: cut if cut >= 0 else end + cut + 1025 - 1])
    message = refusal(path)
    assert message.startswith(f"cannot read {path}")
    assert cut != 5000 or "cut off within 000025.jpg" in message
    assert cut != -1025 or "after 000032.json" in message


def test_what_is_no_dataset(celeba, shards, tmp_path):
    data = (shards / "valid-000000.tar").read_bytes()
    (tmp_path / "valid.tar.gz").write_bytes(gzip.compress(data))
    assert "compressed" in refusal(tmp_path)
    (tmp_path / "valid.tar.gz").unlink()
    (tmp_path / "valid.tar").write_bytes(b"x" * 2000)
    assert "no tar header" in refusal(tmp_path) or "damaged" in refusal(tmp_path)
    pack(tmp_path / "valid.tar", [("README.txt", b"x")])
    assert "has no images" in refusal(tmp_path)
    assert "no file" in refusal(f"{shards}/valid-{{000000..000003}}.tar")
    for braces in ("{000..}", "{a..9}", "{0..999999}", "{}"):
        expected = f"{braces} in {shards}/valid-{braces}.tar is no range, and there is no such file"
        assert refusal(f"{shards}/valid-{braces}.tar") == expected


def test_an_archive_that_is_replaced_by_one_of_the_same_length(celeba, tmp_path):
    path = pack(tmp_path / "valid.tar", files_of(samples_of(celeba, "valid")))
    samples = opened(path, "valid")
    samples.read([0])
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(data)
    with pytest.raises(VitpeError, match=r"cannot read 000025\.jpg in .*: the archive was replaced"):
        samples.read([0])
