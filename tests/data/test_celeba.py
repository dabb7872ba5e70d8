"""CelebA in each layout that people have it in, and what is said of a copy that is damaged."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import COLOURS
from vitpe.celeba import ATTRIBUTES
from vitpe.config import DataConfig
from vitpe.data.celeba import is_celeba, read_celeba
from vitpe.data.sources import open_samples
from vitpe.errors import VitpeError

ATTRIBUTES_FILE, PARTITION_FILE = "list_attr_celeba.txt", "list_eval_partition.txt"
NUM_TRAIN, NUM_VALID, NUM_TEST = 24, 8, 8  # of the fixture


# Layouts: each takes the fixture's folder and an empty one to build in


def published(source: Path, target: Path) -> None:
    """The zip as downloaded, its lists beside it with CRLF."""
    with zipfile.ZipFile(target / "img_align_celeba.zip", "w") as archive:
        archive.mkdir("img_align_celeba")
        for image in (source / "img_align_celeba").iterdir():
            archive.write(image, f"img_align_celeba/{image.name}")
    for name in (ATTRIBUTES_FILE, PARTITION_FILE):
        (target / name).write_bytes((source / name).read_bytes().replace(b"\n", b"\r\n"))


def unpacked(source: Path, target: Path) -> None:
    shutil.copytree(source, target, dirs_exist_ok=True)


def drive(source: Path, target: Path) -> None:
    """The folders of the official share."""
    for inner, name in (("Img", "img_align_celeba"), ("Anno", ATTRIBUTES_FILE), ("Eval", PARTITION_FILE)):
        (target / inner).mkdir()
        copy = shutil.copytree if (source / name).is_dir() else shutil.copy
        copy(source / name, target / inner / name)


def drive_zipped(source: Path, target: Path) -> None:
    published(source, target)
    for inner, name in (("Img", "img_align_celeba.zip"), ("Anno", ATTRIBUTES_FILE), ("Eval", PARTITION_FILE)):
        (target / inner).mkdir()
        (target / name).rename(target / inner / name)


def kaggle(source: Path, target: Path) -> None:
    """Images in a folder within a folder, lists as CSV."""
    shutil.copytree(source / "img_align_celeba", target / "img_align_celeba" / "img_align_celeba")
    count, header, *rows = (source / ATTRIBUTES_FILE).read_text().splitlines()
    table = ["image_id," + header.replace(" ", ","), *(",".join(row.split()) for row in rows)]
    assert int(count) == len(rows)
    (target / "list_attr_celeba.csv").write_text("\n".join(table) + "\n")
    partition = (source / PARTITION_FILE).read_text().replace(" ", ",")
    (target / "list_eval_partition.csv").write_text("image_id,partition\n" + partition)


def png(source: Path, target: Path) -> None:
    """The lossless images, which the lists call .jpg all the same."""
    unpacked(source, target)
    images = (target / "img_align_celeba").rename(target / "img_align_celeba_png")
    for image in list(images.iterdir()):
        with Image.open(image) as opened:
            opened.save(image.with_suffix(".png"))
        image.unlink()


def upper_case(source: Path, target: Path) -> None:
    unpacked(source, target)
    for image in list((target / "img_align_celeba").iterdir()):
        image.rename(image.with_suffix(".JPG"))


def zipped_on_windows(source: Path, target: Path) -> None:
    """With backslashes, below another folder."""
    unpacked(source, target)
    images = (target / "img_align_celeba").rename(target / "other")
    with zipfile.ZipFile(target / "img_align_celeba.zip", "w") as archive:
        for image in images.iterdir():
            archive.write(image, f"x/img_align_celeba/{image.name}")
    archive_bytes = (target / "img_align_celeba.zip").read_bytes()
    (target / "img_align_celeba.zip").write_bytes(
        archive_bytes.replace(b"x/img_align_celeba/", b"x\\img_align_celeba\\")
    )


def zipped_on_macos(source: Path, target: Path) -> None:
    """With what Finder adds, and a folder of thumbnails."""
    unpacked(source, target)
    images = (target / "img_align_celeba").rename(target / "other")
    with zipfile.ZipFile(target / "img_align_celeba.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for image in images.iterdir():
            archive.writestr(f"thumbs/{image.name}", b"small")
            archive.write(image, f"img_align_celeba/{image.name}")
            archive.writestr(f"__MACOSX/img_align_celeba/._{image.name}", b"Mac OS X")
            archive.writestr(f"__MACOSX/img_align_celeba/{image.name}", b"Mac OS X")


def torchvisions(source: Path, target: Path) -> None:
    """As torchvision.datasets.CelebA(root) keeps it: all in a folder of that name."""
    shutil.copytree(source, target / "celeba")


@pytest.fixture
def copy(celeba: Path, tmp_path: Path) -> Path:
    """The fixture's folder, to be damaged."""
    unpacked(celeba, tmp_path)
    return tmp_path


LAYOUTS = [
    published,
    unpacked,
    drive,
    drive_zipped,
    kaggle,
    torchvisions,
    upper_case,
    zipped_on_windows,
    zipped_on_macos,
]


@pytest.mark.parametrize("layout", [*LAYOUTS, png])
def test_every_layout_gives_the_same_samples(celeba, tmp_path, layout: Callable[[Path, Path], None]):
    layout(celeba, tmp_path)
    assert is_celeba(tmp_path)
    for split, count in (("train", NUM_TRAIN), ("valid", NUM_VALID), ("test", NUM_TEST)):
        found, expected = read_celeba(tmp_path, split), read_celeba(celeba, split)
        assert list(found.names) == list(expected.names)
        assert len(found.names) == count
        assert found.attributes == COLOURS
        assert np.array_equal(found.labels, expected.labels)
        difference = found.read([0, count - 1]).astype(int) - expected.read([0, count - 1])
        assert np.abs(difference).max() <= (2 if layout is png else 0)
        renamed = f"{count} images have other suffixes than in {tmp_path / PARTITION_FILE}: {found.names[0][:-4]}."
        assert [note[: len(renamed)] for note in found.notes] == [renamed] * (layout in (png, upper_case))


def test_images_and_labels_belong_together(celeba):
    """The fixture's images show their labels: a strong channel for each of the first three."""
    samples = read_celeba(celeba, "train")
    pixels = samples.read(range(NUM_TRAIN))
    assert pixels.shape == (NUM_TRAIN, 3, 218, 178)
    assert np.array_equal(pixels.mean(axis=(2, 3)) > 125, samples.labels[:, :3].astype(bool))


def test_pixels_are_the_files_own(celeba):
    samples = read_celeba(celeba, "valid")
    image = np.asarray(Image.open(celeba / "img_align_celeba" / samples.names[3]))
    assert np.abs(samples.read([3])[0].astype(int) - image.transpose(2, 0, 1)).max() <= 2


def test_splits_share_no_image(celeba):
    names = [name for split in ("train", "valid", "test") for name in read_celeba(celeba, split).names]
    assert len(names) == len(set(names)) == NUM_TRAIN + NUM_VALID + NUM_TEST


def test_the_images_that_exist_are_taken(copy):
    for number in (2, 5, 30):
        (copy / "img_align_celeba" / f"{number:06d}.jpg").unlink()
    assert len(read_celeba(copy, "train").names) == NUM_TRAIN - 2
    assert "000005.jpg" not in read_celeba(copy, "train").names
    assert len(read_celeba(copy, "valid").names) == NUM_VALID - 1


def test_preloaded_samples_need_no_files(copy):
    samples = read_celeba(copy, "valid")
    before = samples.read(range(NUM_VALID))
    assert samples.num_encoded_bytes() == sum((copy / "img_align_celeba" / n).stat().st_size for n in samples.names)
    seen: list[tuple[int, int]] = []
    samples.preload(lambda done, total: seen.append((done, total)))
    shutil.rmtree(copy / "img_align_celeba")
    assert np.array_equal(samples.read(range(NUM_VALID)), before)
    assert seen == [(i + 1, NUM_VALID) for i in range(NUM_VALID)]


@pytest.mark.parametrize(
    ("img_size", "stored"), [((208, 176), (218, 178)), ((64, 64), (67, 65)), ((224, 224), (235, 227))]
)
def test_another_model_size_gets_the_whole_face_in_it(celeba, img_size, stored):
    samples = open_samples(DataConfig(data=str(celeba), num_train=2), "train", img_size)
    assert samples.stored_size == stored
    assert samples.read([0, 1]).shape == (2, 3, *stored)
    whole = read_celeba(celeba, "train")
    same = whole.read([list(whole.names).index(samples.names[0])])
    assert np.allclose(samples.read([0]).mean(axis=(2, 3)), same.mean(axis=(2, 3)), atol=1)


# Damage


def edit(path: Path, line: int, change: Callable[[str], str]) -> None:
    lines = path.read_text().splitlines()
    lines[line - 1] = change(lines[line - 1])
    path.write_text("\n".join(lines) + "\n")


def refusal(folder: Path, split: str = "train") -> str:
    with pytest.raises(VitpeError) as caught:
        read_celeba(folder, split)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix(f"{folder}/")


def test_a_short_row_is_named_by_line(copy):
    edit(copy / ATTRIBUTES_FILE, 7, lambda row: row.rsplit(maxsplit=1)[0])
    assert refusal(copy) == f"{ATTRIBUTES_FILE}, line 7: 3 values where the header names 4 attributes"


def test_a_row_of_an_absent_image_is_checked_too(copy):
    (copy / "img_align_celeba" / "000005.jpg").unlink()
    edit(copy / ATTRIBUTES_FILE, 7, lambda row: row + " 1")
    assert refusal(copy) == f"{ATTRIBUTES_FILE}, line 7: 5 values where the header names 4 attributes"


def test_another_value_is_named_by_line(copy):
    edit(copy / ATTRIBUTES_FILE, 4, lambda row: row.split()[0] + " 1 -1 2 1")
    assert refusal(copy) == f"{ATTRIBUTES_FILE}, line 4: value '2' of 000002.jpg"


def test_a_list_that_was_cut_short(copy):
    path = copy / ATTRIBUTES_FILE
    path.write_text("\n".join(path.read_text().splitlines()[:10]) + "\n")
    assert refusal(copy) == f"{ATTRIBUTES_FILE} has no row for 000009.jpg"


@pytest.mark.parametrize("header", ["", "Red Red Green Blue", "7"])
def test_no_header(copy, header):
    edit(copy / ATTRIBUTES_FILE, 2, lambda _: header)
    expected = "value" if header == "7" else "no header of attribute names"
    assert expected in refusal(copy)


@pytest.mark.parametrize("row", ["000003.jpg", "000003.jpg 3", "000003.jpg 0 0", "000003.jpg train"])
def test_a_partition_that_is_wrong_is_named_by_line(copy, row):
    edit(copy / PARTITION_FILE, 3, lambda _: row)
    assert refusal(copy) == f"{PARTITION_FILE}, line 3: {row!r}"


@pytest.mark.parametrize("again", ["000003.jpg", "000003.JPG", "000003.png"])
@pytest.mark.parametrize("kind", [".txt", ".csv"])
@pytest.mark.parametrize("name", [ATTRIBUTES_FILE, PARTITION_FILE])
def test_an_image_that_a_list_names_twice(celeba, tmp_path, name, kind, again):
    """Else it would be in train and in valid, or have the labels of its last row."""
    (unpacked if kind == ".txt" else kaggle)(celeba, tmp_path)
    path = (tmp_path / name).with_suffix(kind)
    lines = path.read_text().splitlines()
    first = next(number for number, line in enumerate(lines, start=1) if line.startswith("000003.jpg"))
    end = (" 1 1 -1 1" if name == ATTRIBUTES_FILE else " 1").replace(" ", " " if kind == ".txt" else ",")
    path.write_text("\n".join([*lines, again + end]) + "\n")
    assert refusal(tmp_path) == f"{path.name}, line {len(lines) + 1}: {again} again, as in line {first}"


def test_an_image_that_is_there_twice(copy, celeba, tmp_path_factory):
    shutil.copy(copy / "img_align_celeba" / "000003.jpg", copy / "img_align_celeba" / "000003.png")
    read_celeba(copy, "train")  # the one that the list names
    (copy / "img_align_celeba" / "000003.jpg").rename(copy / "img_align_celeba" / "000003.JPG")
    assert "img_align_celeba has 000003.jpg more than once: 000003." in refusal(copy)
    zipped = tmp_path_factory.mktemp("zipped")
    published(celeba, zipped)
    with zipfile.ZipFile(zipped / "img_align_celeba.zip", "a") as archive:
        archive.writestr("b/img_align_celeba/000003.jpg", b"another")
    expected = "000003.jpg more than once: img_align_celeba/000003.jpg, b/img_align_celeba/000003.jpg"
    assert expected in refusal(zipped)


@pytest.mark.parametrize("letter", ["\x1b", "\x9b", "\u202e", "\u2066", "\u200b"])
def test_names_that_control_a_terminal(copy, letter):
    edit(copy / ATTRIBUTES_FILE, 2, lambda row: row.replace("Green", f"Gr{letter}een"))
    assert "an attribute is called 'Gr\\" in refusal(copy)


@pytest.mark.parametrize("name", [ATTRIBUTES_FILE, PARTITION_FILE])
def test_a_list_that_is_no_file(copy, name):
    (copy / name).unlink()
    os.mkfifo(copy / name)
    assert refusal(copy) == f"cannot read {copy / name}: it is a pipe, not a file"
    (copy / name).unlink()
    (copy / name).symlink_to("/dev/zero")
    assert refusal(copy) == f"cannot read {copy / name}: it is a device, not a file"
    (copy / name).unlink()
    (copy / name).mkdir()
    assert refusal(copy) == f"cannot read {copy / name}: Is a directory"


def test_a_list_with_a_field_without_end(celeba, tmp_path):
    kaggle(celeba, tmp_path)
    path = tmp_path / "list_attr_celeba.csv"
    path.write_text(path.read_text().replace("000003.jpg", '"' + 140_000 * "x"))
    assert refusal(tmp_path) == f"cannot read {path}: field larger than field limit (131072)"


def test_lists_as_pandas_writes_them(celeba, tmp_path):
    kaggle(celeba, tmp_path)
    path = tmp_path / "list_attr_celeba.csv"
    path.write_text(path.read_text().replace(",-1", ",0.0").replace(",1", ",1.0"))
    assert np.array_equal(read_celeba(tmp_path, "train").labels, read_celeba(celeba, "train").labels)


@pytest.mark.parametrize("name", [ATTRIBUTES_FILE, PARTITION_FILE])
def test_a_missing_list(copy, name):
    (copy / name).unlink()
    with pytest.raises(VitpeError, match=f"has no {name}"):
        read_celeba(copy, "train")


def test_a_binary_list(copy):
    (copy / ATTRIBUTES_FILE).write_bytes(b"\xff\xfe\x00")
    assert refusal(copy).startswith(f"cannot read {copy / ATTRIBUTES_FILE}: 'utf-8' codec can't decode")


def test_no_folder_no_images_and_other_images(copy, tmp_path):
    with pytest.raises(VitpeError, match="no folder"):
        read_celeba(tmp_path / "none", "train")
    for image in (copy / "img_align_celeba").iterdir():
        if image.stem <= f"{NUM_TRAIN:06d}":
            image.unlink()
    with pytest.raises(VitpeError, match="has none of the 24 images of the train split"):
        read_celeba(copy, "train")
    shutil.rmtree(copy / "img_align_celeba")
    with pytest.raises(VitpeError, match="has no CelebA images") as caught:
        read_celeba(copy, "train")
    assert "img_align_celeba.zip" in caught.value.hint


def told(folder: Path, expected_code: int = 2) -> str:
    """What is said of `--data FOLDER` alone."""
    with pytest.raises(VitpeError) as caught:
        open_samples(DataConfig(data=str(folder)), "train", (208, 176))
    assert caught.value.exit_code == expected_code
    return f"{caught.value.message} | {caught.value.hint}"


def test_another_folder_is_told_of_labels(celeba, tmp_path):
    (tmp_path / "x.jpg").touch()
    images = f"{tmp_path} holds images without labels: no list_attr_celeba.txt | name a table of labels: --labels"
    assert told(tmp_path).startswith(images)
    (tmp_path / "x.jpg").unlink()
    (tmp_path / "female").mkdir()
    assert told(tmp_path).startswith(images)
    (tmp_path / "any.csv").touch()
    hint = "for other images name a table of labels: --labels"
    assert told(tmp_path) == f"{tmp_path} is not CelebA | {hint} {tmp_path / 'any.csv'}"
    (tmp_path / "more.csv").touch()
    assert told(tmp_path) == f"{tmp_path} is not CelebA | {hint} labels.csv"
    inner = celeba / "img_align_celeba"
    assert told(inner) == f"{inner} is CelebA's folder of images alone | name the one around it: --data {celeba}"


def test_an_archive_in_place_of_a_folder(celeba, tmp_path):
    published(celeba, tmp_path)
    archive = tmp_path / "img_align_celeba.zip"
    hint = f"if it holds CelebA, name the folder that it lies in: --data {tmp_path}; else unpack it"
    assert told(archive, 1) == f"{archive} is a file, not a folder | {hint}"
    assert told(tmp_path / "none.zip", 1).startswith(f"no folder {tmp_path / 'none.zip'} | ")
    assert "File name too long" in told(tmp_path / ("x" * 300), 1)


def test_a_damaged_archive(celeba, tmp_path):
    published(celeba, tmp_path)
    archive = tmp_path / "img_align_celeba.zip"
    data = bytearray(archive.read_bytes())
    at = data.find(b"\xff\xd8\xff")  # the first member's first bytes
    data[at + 100 : at + 140] = bytes(40)
    archive.write_bytes(data)
    with pytest.raises(VitpeError, match=r"cannot read img_align_celeba/0000\d\d\.jpg in .*: Bad CRC-32"):
        for split in ("train", "valid", "test"):
            read_celeba(tmp_path, split).preload()
    archive.write_bytes(data[: len(data) // 2])
    with pytest.raises(VitpeError, match=r"cannot read .*img_align_celeba\.zip: File is not a zip file"):
        read_celeba(tmp_path, "train")


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "the file is empty (0 bytes)"), (b"<html>", "not an image in a known format")],
)
def test_a_file_that_is_no_image_is_named(celeba, tmp_path, content, message, zipped):
    folder = tmp_path / "folder"
    unpacked(celeba, folder)
    (folder / "img_align_celeba" / "000002.jpg").write_bytes(content)
    if zipped:
        published(folder, tmp_path)
        folder = tmp_path
    samples = read_celeba(folder, "train")
    assert samples.read([0]).shape == (1, 3, 218, 178)
    with pytest.raises(VitpeError) as caught:
        samples.read([0, 1])
    assert f"000002.jpg: {message}" in caught.value.message
    assert str(folder) in caught.value.message


def test_a_file_that_vanished_or_grew_is_named(copy, monkeypatch):
    samples = read_celeba(copy, "train")
    (copy / "img_align_celeba" / "000001.jpg").unlink()
    with pytest.raises(VitpeError, match=r"cannot read .*000001\.jpg: No such file"):
        samples.read([0])
    monkeypatch.setattr("vitpe.data.image_files.MAX_BYTES", 1000)
    with pytest.raises(VitpeError, match=r"000002\.jpg: [\d,]+ bytes is over the limit"):
        samples.read([1])


# The real thing


@pytest.mark.skipif("VITPE_CELEBA" not in os.environ, reason="set VITPE_CELEBA to a folder of CelebA")
def test_real_celeba():
    folder = Path(os.environ["VITPE_CELEBA"])
    train, valid, test = (read_celeba(folder, split) for split in ("train", "valid", "test"))
    assert train.attributes == ATTRIBUTES
    assert min(train.names) >= "000001.jpg"
    assert max(train.names) <= "162770.jpg" < min(valid.names)
    assert max(valid.names) <= "182637.jpg" < min(test.names)
    if len(train.names) == 14_000:  # the project's sample
        assert (len(valid.names), len(test.names)) == (2_044, 300)
    majority = np.maximum(valid.labels.mean(axis=0), 1 - valid.labels.mean(axis=0)).mean()
    assert majority == pytest.approx(0.805, abs=0.005)
    assert train.read([0, len(train.names) - 1]).std() > 20
