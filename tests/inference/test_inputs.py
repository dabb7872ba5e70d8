"""Where `vitpe predict` takes images from, and what it says of what it cannot read or was not asked well."""

import csv
import io
import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.helpers.in_process import Called, call_vitpe, file_names, read_jsonl
from vitpe.data.image_files import formats, suffixes
from vitpe.errors import UsageError, VitpeError
from vitpe.inference.inputs import Input, PredictInputs, names_from


def test_folders_globs_and_files_in_the_order_given(predicted, images, tmp_path):
    nested = tmp_path / "photos" / "b"
    nested.mkdir(parents=True)
    (tmp_path / "photos" / ".hidden").mkdir()
    for target in ("z.JPG", "a.jpeg", "notes.txt", ".thumb.jpg", "b/deep.png", ".hidden/x.jpg"):
        Image.new("RGB", (30, 40)).save(tmp_path / "photos" / target, "png")
    literal = tmp_path / "a[1].jpg"
    Image.new("RGB", (30, 40)).save(literal)
    called = predicted(f"{images}/00000[21].jpg", tmp_path / "photos", literal, images / "000003.jpg")
    assert called.code == 0
    assert file_names(called) == [
        *(f"{images}/00000{number}.jpg" for number in (1, 2)),
        *(f"{tmp_path}/photos/{name}" for name in ("a.jpeg", "z.JPG", "b/deep.png")),
        str(literal),
        str(images / "000003.jpg"),
    ]


def test_every_suffix_of_what_can_be_read_and_a_count_of_what_is_left_out(predicted, tmp_path):
    photos = tmp_path / "photos"
    (photos / ".cache").mkdir(parents=True)
    image = Image.new("RGB", (30, 40))
    read = ["a.jfif", "b.jpe", "c.JPEG", "d.TIF", "e.webp", "f.mpo", "g.apng"]
    for name in [*read, ".hidden.jpg", ".cache/x.jpg", "raw.heic", "no suffix", "notes.txt", "more.txt", ".DS_Store"]:
        image.save(photos / name, "jpeg")
    os.mkfifo(photos / "pipe.png")
    read = [name for name in read if Path(name).suffix.lower() in suffixes()]
    called = predicted(photos)
    assert called.code == 0
    assert file_names(called) == [str(photos / name) for name in read]
    (note,) = called.stderr.splitlines()
    assert note.startswith("left out: 2 .txt, ")
    for part in ("1 .heic", "1 without a suffix", "1 hidden", "1 hidden (folders)", "1 pipes or devices"):
        assert f", {part}" in note
    assert note.endswith("; .heic is read with: pip install pillow-heif")


def test_avif_is_read_where_pillow_reads_it(predicted, tmp_path):
    if "AVIF" not in formats():
        pytest.skip("this Pillow has no AVIF")
    Image.new("RGB", (30, 40), "red").save(tmp_path / "a.avif")
    assert "probs" in read_jsonl(predicted(tmp_path))[0]


def test_heic_is_read_where_its_package_is(monkeypatch):
    registered = []
    plugin = SimpleNamespace(register_heif_opener=lambda: registered.append(True))
    monkeypatch.setitem(sys.modules, "pillow_heif", plugin)
    assert formats.__wrapped__()[-1] == "HEIF"
    assert registered
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    assert "HEIF" not in formats.__wrapped__()


def test_linked_folders_are_followed_and_each_is_read_once(predicted, images, tmp_path):
    photos, other = tmp_path / "photos", tmp_path / "other"
    (photos / "inner").mkdir(parents=True)
    (other / "deep").mkdir(parents=True)
    for place in (photos / "inner" / "a.jpg", other / "b.jpg", other / "deep" / "c.jpg"):
        place.write_bytes((images / "000001.jpg").read_bytes())
    (photos / "linked").symlink_to(other)
    (photos / "once more").symlink_to(other / "deep")
    (photos / "round").symlink_to(photos)
    (other / "deep" / "up").symlink_to("..")
    (photos / "itself.jpg").symlink_to("itself.jpg")
    called = predicted(photos)
    assert [Path(name).relative_to(photos).as_posix() for name in file_names(called)] == [
        "itself.jpg",
        "inner/a.jpg",
        "linked/b.jpg",
        "linked/deep/c.jpg",
    ]
    assert "Too many levels" in read_jsonl(called)[0]["error"]
    (tmp_path / "way in").symlink_to(photos / "inner")
    assert file_names(predicted(tmp_path / "way in")) == [str(tmp_path / "way in" / "a.jpg")]


@pytest.mark.parametrize("place", ["seen", "a/b/seen", "", "linked"])
def test_crops_in_the_predicted_folder_are_not_predicted(predicted, images, tmp_path, monkeypatch, place):
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(20):
        (photos / f"{number:02d}.png").write_bytes((images / "000001.jpg").read_bytes())
    (photos / "away").mkdir()
    (photos / "linked").symlink_to("away")
    monkeypatch.chdir(tmp_path)
    crops = Path("photos", place)
    expected = [f"{number:02d}.png" for number in range(20)]
    for given in ("photos", "./photos/../photos", photos, "photos/*", "photos/**", "photos/**/*.png", "photos/*.png"):
        called = predicted(given, "--save-crops", crops)
        assert [Path(name).name for name in file_names(called)] == expected
    assert len(list(crops.glob("*.png"))) == 20 * (2 if place == "" else 1)
    names = b"\n".join(os.fsencode(path) for path in sorted(photos.rglob("*.png")))
    called = predicted("-", "--save-crops", photos / place, stdin=names)
    assert {Path(name).name for name in file_names(called)} == set(expected)
    assert "20 in a folder of crops or maps" in called.stderr


def test_what_cannot_be_read_gets_a_record_and_the_rest_goes_on(predicted, images, tmp_path):
    (tmp_path / "empty folder").mkdir()
    (tmp_path / "text.jpg").write_text("no image")
    (tmp_path / "empty.jpg").touch()
    whole = (images / "000001.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "link.jpg").symlink_to(tmp_path / "gone.jpg")
    bad = ["missing.jpg", "text.jpg", "empty.jpg", "link.jpg", "empty folder", "no*match.jpg", "a" * 5000]
    arguments = [images / "000001.jpg", *(tmp_path / name for name in bad), tmp_path / "cut.jpg", images / "000002.jpg"]
    called = predicted(*arguments)
    records = read_jsonl(called)
    assert [record["file"] for record in records] == [str(argument) for argument in arguments]
    assert [list(record) for record in records[1:8]] == [["schema", "file", "error"]] * 7
    assert "probs" in records[0]
    assert "probs" in records[-1]
    reasons = [record.get("error", "") for record in records]
    assert reasons[1] == reasons[4] == "No such file or directory"
    assert reasons[3] == "the file is empty (0 bytes)"
    assert reasons[5].startswith("no images in this folder")
    assert reasons[6] == "nothing matches this pattern"
    assert called.code == 1
    error, hint = called.stderr.splitlines()
    assert error.startswith(f"error: {sum(map(bool, reasons))} images could not be read: {tmp_path}/missing.jpg")
    assert hint.startswith("hint: ")


def test_one_file_that_cannot_be_read(predicted):
    called = predicted("missing.jpg", "--format", "table")
    assert called.code == 1
    assert called.stdout.split("\n")[0].rstrip() == "missing.jpg"
    assert "No such file" in called.stdout
    assert called.stderr.startswith("error: 1 image could not be read: missing.jpg\n")


def test_devices_and_pipes_are_read_no_further_than_any_image(monkeypatch):
    monkeypatch.setattr("vitpe.inference.inputs.MAX_BYTES", 1 << 20)
    with pytest.raises(VitpeError, match="over the limit"):
        Input("/dev/zero").read()


def test_names_on_stdin_line_by_line(predicted, images):
    names = [str(images / f"00000{number}.jpg") for number in (3, 1, 2)]
    for text in ("\n".join(names), "\r\n".join([*names, ""]), "\n\n".join([*names, ""])):
        called = predicted("-", stdin=text.encode())
        assert (called.code, called.stderr) == (0, "")
        assert file_names(called) == names


def test_stdin_stands_where_its_dash_stands(predicted, images):
    called = predicted(images / "000001.jpg", "-", images / "000002.jpg", stdin=f"{images}/000003.jpg\n".encode())
    assert [Path(name).stem for name in file_names(called)] == ["000001", "000003", "000002"]


def test_a_dash_on_stdin_is_the_name_of_a_file(predicted):
    called = predicted("-", stdin=b"-\n")
    assert read_jsonl(called) == [{"schema": 1, "file": "-", "error": "No such file or directory"}]


def test_any_name_there_can_be(predicted, images, tmp_path):
    odd = [b"two\nlines.jpg", b"caf\xe9.jpg", "été ☃.jpg".encode(), b'quote",comma.jpg', b" space .jpg", b"[x].jpg"]
    paths = [os.fsencode(tmp_path) + b"/" + name for name in odd]
    for path in paths:
        os.link(images / "000001.jpg", path)
    stdin = b"\0".join(paths)
    lines = predicted("-0", "-", stdin=stdin)
    assert lines.code == 0, lines.stderr
    assert [os.fsencode(name) for name in file_names(lines)] == paths
    table = predicted("-0", "-", "--format", "csv", stdin=stdin, PYTHONIOENCODING="ascii").out
    rows = list(csv.reader(io.StringIO(table.decode(errors="surrogateescape"), newline="")))
    assert [os.fsencode(row[0]) for row in rows[1:]] == paths
    shown = predicted("-0", "-", "--format", "table", stdin=stdin).stdout
    assert r"two\nlines.jpg" in shown
    assert r"caf\xe9.jpg" in shown
    assert "été ☃.jpg" in shown


def test_a_name_with_nul_is_no_file(predicted):
    (record,) = read_jsonl(predicted("-", stdin=b"a\0b\n"))
    assert "NUL" in record["error"]


@pytest.mark.parametrize("separator", [b"\0", b"\n"])
def test_names_are_given_as_they_arrive_however_they_are_cut(separator):
    names = ["a", "bb", "", "c" * 300, "d\re"]
    data = separator.join(os.fsencode(name) for name in names)
    for size in (1, 2, 7, 1000):
        stream = io.BytesIO(data)
        stream.read = lambda _, read=stream.read, size=size: read(size)
        assert list(names_from(stream, separator)) == [name for name in names if name]


def test_an_image_where_names_should_be(predicted, images):
    called = predicted("-", stdin=(images / "000001.jpg").read_bytes())
    assert (called.code, called.out) == (2, b"")
    assert called.stderr == "error: stdin holds an image, not names of files\nhint: say so: --stdin-image\n"


def test_an_image_on_stdin(predicted, images):
    data = (images / "000001.jpg").read_bytes()
    called = predicted("--stdin-image", stdin=data)
    expected = json.loads(predicted(images / "000001.jpg").stdout)
    assert json.loads(called.stdout) == expected | {"file": "-"}
    assert "of 4 present" in predicted("--stdin-image", "--format", "table", stdin=data).stdout
    broken = predicted("--stdin-image", stdin=b"")
    assert (broken.code, json.loads(broken.stdout)["error"]) == (1, "the file is empty (0 bytes)")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no image to predict"),
        (["--stdin-image", "x.jpg"], "--stdin-image and names of files"),
        (["-0", "x.jpg"], "-0 without '-'"),
        (["x.jpg", "--format", "xml"], "--format 'xml'"),
        (["x.jpg", "--top", "0"], "--top 0"),
        (["x.jpg", "--threshold", "1.5"], "--threshold 1.5"),
        (["x.jpg", "--threshold", "nan"], "--threshold nan"),
        (["x.jpg", "--attributes", "Grene"], "no attribute 'Grene' in this checkpoint"),
        (["x.jpg", "--device", "tpu"], "unknown device 'tpu'"),
        (["x.jpg", "--bogus"], "No such option: --bogus"),
    ],
)
def test_wrong_usage(predicted, arguments, message):
    called = predicted(*arguments)
    assert (called.code, called.out) == (2, b"")
    error, hint = called.stderr.splitlines()
    assert error.startswith(f"error: {message}")
    assert hint.startswith("hint: ")


def test_no_checkpoint(tmp_path):
    called = call_vitpe("predict", "x.jpg", "--checkpoint", tmp_path)
    assert (called.code, called.out) == (1, b"")
    assert called.stderr.startswith(f"error: {tmp_path} holds no checkpoint")


def test_nothing_to_predict_is_nothing(predicted):
    assert predicted("-", stdin=b"") == Called(0, b"", "")
    assert predicted("-", "--format", "json", stdin=b"").stdout == "[]\n"


def test_asking_for_nothing_or_for_two_things():
    with pytest.raises(UsageError):
        PredictInputs([])
    with pytest.raises(UsageError):
        PredictInputs(["x"], stdin_image=True)
    with pytest.raises(UsageError):
        PredictInputs(["x"], null=True)
