"""Any folder with a table of labels: what is right is read whatever it looks like, what is wrong is named by line."""

import csv
import io
import re
import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from vitpe.config import DataConfig
from vitpe.data.labelled_csv import read_labelled_csv, split_of
from vitpe.data.sources import open_samples
from vitpe.errors import VitpeError

SIZE = (32, 32)
NAMES = ("a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five files; only their names matter to the table."""
    for name in NAMES:
        (tmp_path / name).touch()
    return tmp_path


def read(folder: Path, text: str | bytes, split: str = "train"):
    labels = folder / "labels.csv"
    labels.write_bytes(text.encode() if isinstance(text, str) else text)
    return read_labelled_csv(folder, labels, split, SIZE)


def refusal(folder: Path, text: str | bytes, split: str = "train") -> str:
    """The error's message, without the table's path, and its hint."""
    with pytest.raises(VitpeError) as caught:
        read(folder, text, split)
    assert "\n" not in caught.value.message
    assert caught.value.hint
    return f"{caught.value.message} | {caught.value.hint}".replace(str(folder / "labels.csv"), "FILE")


def table(rows: Iterable[str], header: str = "path,split,Smiling,Glasses") -> str:
    return "\n".join([header, *rows]) + "\n"


ROWS = ["b.jpg,train,1,0", "a.jpg,train,0,1", "c.jpg,valid,1,1", "d.jpg,test,0,0", "e.jpg,val,0,1"]


# What is read


def test_splits_names_and_labels(folder):
    samples = read(folder, table(ROWS))
    assert samples.source == "labelled_csv"
    assert samples.attributes == ("Smiling", "Glasses")
    assert list(samples.names) == ["a.jpg", "b.jpg"]
    assert samples.labels.dtype == np.uint8
    assert samples.labels.tolist() == [[0, 1], [1, 0]]
    assert samples.stored_size == (34, 32)
    assert samples.notes == ()
    assert list(read(folder, table(ROWS), "valid").names) == ["c.jpg", "e.jpg"]
    assert list(read(folder, table(ROWS), "test").names) == ["d.jpg"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + text,
        lambda text: text.replace(",", ";"),
        lambda text: text.replace(",", "\t"),
        lambda text: text.replace(",", " , "),
        lambda text: text.replace("\n", "\n\n"),
        lambda text: re.sub("([a-e]).jpg", r'"\1.jpg"', text),
        lambda text: text.replace("a.jpg", "./x/../a.jpg"),
        lambda text: text.rstrip("\n"),
        lambda text: text.replace("valid", "Validation").replace("train", "TRAIN"),
        lambda text: text.replace("path,split", "Image_ID,Split"),
    ],
    ids=["CRLF", "BOM", "semicolons", "tabs", "spaces", "blank lines", "quotes", "dots", "no end", "case", "names"],
)
def test_tables_as_programs_write_them(folder, change):
    samples = read(folder, change(table(ROWS)))
    assert samples.attributes == ("Smiling", "Glasses")
    assert list(samples.names) == ["a.jpg", "b.jpg"]
    assert samples.labels.tolist() == [[0, 1], [1, 0]]


def test_minus_one_means_no(folder):
    text = table(["a.jpg,train,-1,1", "b.jpg,train,1,0"])
    assert read(folder, text).labels.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("name", ["path", "file", "filename", "image", "image_id", "Path"])
def test_the_path_column_is_found_by_name(folder, name):
    assert list(read(folder, f"Smiling,split,{name}\n1,train,c.jpg\n").names) == ["c.jpg"]


def test_without_a_known_name_the_first_column_is_the_path(folder):
    samples = read(folder, "photo,Smiling,split\nc.jpg,1,train\n")
    assert list(samples.names) == ["c.jpg"]
    assert samples.attributes == ("Smiling",)


def test_folders_within_the_folder_and_paths_in_full(folder):
    (folder / "x" / "y").mkdir(parents=True)
    (folder / "x" / "y" / "z.png").touch()
    rows = ["x\\y\\z.png,train,1,0", f"{folder}/a.jpg,train,0,1"]
    assert list(read(folder, table(rows)).names) == ["a.jpg", "x/y/z.png"]


def test_images_come_out_a_little_larger_than_the_model_takes(folder):
    for name, size in (("a.jpg", (300, 200)), ("b.jpg", (60, 500))):
        Image.new("RGB", size, (9, 99, 199)).save(folder / name, "PNG")
    (folder / "labels.csv").write_text(table(ROWS))
    config = DataConfig(data=str(folder), labels=str(folder / "labels.csv"))
    samples = open_samples(config, "train", (104, 88))
    assert samples.stored_size == (109, 89)
    pixels = samples.read([0, 1])
    assert pixels.shape == (2, 3, 109, 89)
    assert (pixels == np.array([9, 99, 199])[:, None, None]).all()


# The split by hash


def test_without_a_split_column_the_paths_hash_decides_and_the_user_is_told(folder):
    text = table([f"{name},1,0" for name in NAMES], "path,Smiling,Glasses")
    found = {}
    for split in {split_of(name) for name in NAMES}:
        samples = read(folder, text, split)
        found |= dict.fromkeys(samples.names, split)
        assert samples.notes[0].endswith(
            "has no split column: a hash of each path gives 80 % train, 10 % valid, 10 % test"
        )
    assert found == {name: split_of(name) for name in NAMES}


def test_the_hash_gives_80_10_10_and_never_changes():
    splits = [split_of(f"faces/{i:06d}.jpg") for i in range(20_000)]
    for split, share in (("train", 0.8), ("valid", 0.1), ("test", 0.1)):
        assert abs(splits.count(split) / 20_000 - share) < 0.01
    others = {3: "valid", 6: "test"}
    assert [split_of(f"{i}.jpg") for i in range(12)] == [others.get(i, "train") for i in range(12)]


@settings(max_examples=30, deadline=None)
@given(st.sets(st.text("abcdef", min_size=1, max_size=6), min_size=2, max_size=12), st.data())
def test_more_files_move_none_to_another_split(names, data):
    few = data.draw(st.sets(st.sampled_from(sorted(names)), min_size=1))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in names:
            (folder / name).touch()
        before, after = (
            {split: set(_names(folder, chosen, split)) for split in ("train", "valid", "test")}
            for chosen in (few, names)
        )
    assert all(before[split] == after[split] & few for split in before)


def _names(folder: Path, chosen: set[str], split: str) -> list[str]:
    try:
        return list(read(folder, table([f"{name},1" for name in sorted(chosen)], "path,Smiling"), split).names)
    except VitpeError as error:
        assert f"no image of the {split} split" in error.message
        return []


# What is refused


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["a.jpg,train,1"], "FILE, line 2: 3 fields | the header names 4 columns"),
        (["a.jpg,train,1,0", "b.jpg,train,1,0,1"], "FILE, line 3: 5 fields | the header names 4 columns"),
        (["a.jpg,train,1,0", ",train,1,0"], "FILE, line 3: no path | name the image, or remove the line"),
        (["a.jpg,train,1,2"], "FILE, line 2: Glasses is '2' | labels are 0 and 1"),
        (["a.jpg,train,1,0", "b.jpg,train,yes,"], "FILE, line 3: Smiling is 'yes'; line 3: Glasses is '' | labels are"),
        (["a.jpg,train,1,0", "b.jpg,tran,1,0"], "FILE, line 3: split 'tran' | splits are train, valid and test"),
        (["a.jpg,train,1,0", "b.jpg,,1,0"], "FILE, line 3: split '' | splits are train, valid and test"),
        (["a.jpg,train,1,0", "./a.jpg,train,1,0"], "FILE, line 3: a.jpg again, as in line 2 | keep one row"),
        (["a.jpg,train,1,0", "z.jpg,train,1,0"], "FILE, line 3: no file z.jpg | remove these rows, or put the files"),
        (["a.jpg,train,1,0", "b.jpg,train,-1,0"], "no error"),
        (["a.jpg,train,0,0", "b.jpg,train,-1,0"], "FILE: Smiling is 0 in line 2 and -1 in line 3 | a column is"),
        (["a.jpg,valid,0,0"], "FILE has no image of the train split (0 train, 1 valid, 0 test) | say which images"),
        ([], "FILE has a header and no rows | each further line names an image"),
        (['"a.jpg,train,1,0'], "FILE, line 2: unexpected end of data | save it as plain CSV"),
    ],
)
def test_rows_that_are_wrong_are_named(folder, rows, expected):
    if expected == "no error":
        read(folder, table(rows))
    else:
        assert refusal(folder, table(rows)).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "FILE is empty | its first line names the columns"),
        ("path\na.jpg\n", "FILE, line 1: no column of labels beside 'path' | the header names"),
        ("path,split\na.jpg,train\n", "FILE, line 1: no column of labels beside 'path', 'split' | the header names"),
        ("split,Smiling\ntrain,1\n", "FILE, line 1: no column of labels beside 'split', 'Smiling' | the header names"),
        ("path,A,a\na.jpg,1,0\n", "FILE, line 1: 2 columns are named 'a' | remove all but one"),
        (",path,A\n0,a.jpg,1\n", "FILE, line 1: column 1 has no name | name it, or remove it (pandas: to_csv(index="),
        ("\n\na.jpg,0,1\n", "FILE, line 3 is no header: a column would be named 0 or 1 | put the columns' names there"),
        ("path,Älter\n".encode("utf-16"), "FILE is not UTF-8 text | save it as CSV in UTF-8"),
        ("path,Älter\n".encode("latin-1"), "FILE is not UTF-8 text | save it as CSV in UTF-8"),
    ],
)
def test_headers_that_are_wrong_are_named(folder, text, expected):
    assert refusal(folder, text).startswith(expected)


def test_many_problems_are_counted_and_the_first_three_named(folder):
    rows = [f"{name},train,1,0" for name in NAMES] + [f"x{i}.jpg,train,1,0" for i in range(1200)]
    message = refusal(folder, table(rows))
    assert "line 7: no file x0.jpg; line 8: no file x1.jpg; line 9: no file x2.jpg; … 1,200 in all |" in message


def test_another_folder_altogether(folder):
    message = refusal(folder, table(["p/a.jpg,train,1,0", "p/b.jpg,train,1,0"]))
    assert message == (
        f"{folder} has none of the 2 files of FILE: no p/a.jpg (line 2) | paths are relative to the folder of --data"
    )


def test_images_without_a_row_are_told(folder):
    (folder / "notes.txt").touch()
    (folder / "._a.jpg").touch()
    samples = read(folder, table(ROWS[:1]))
    assert samples.notes == (
        f"4 images of {folder} have no row in {folder / 'labels.csv'} and are left out: a.jpg, c.jpg, d.jpg, …",
    )
    assert samples.first(1).notes == samples.notes
    assert read(folder, table(ROWS[:4])).notes == (
        f"1 image of {folder} has no row in {folder / 'labels.csv'} and is left out: e.jpg",
    )


def test_missing_files_and_folders(folder):
    read(folder, table(ROWS))
    with pytest.raises(VitpeError, match=r"no file nowhere/labels\.csv") as caught:
        read_labelled_csv(folder, Path("nowhere/labels.csv"), "train", SIZE)
    assert caught.value.hint == f"did you mean {folder / 'labels.csv'}?"
    with pytest.raises(VitpeError, match=r"no file other\.csv"):
        read_labelled_csv(folder, Path("other.csv"), "train", SIZE)
    with pytest.raises(VitpeError, match="no folder"):
        read_labelled_csv(folder / "none", folder / "labels.csv", "train", SIZE)
    with pytest.raises(VitpeError, match="Is a directory"):
        read_labelled_csv(folder, folder, "train", SIZE)


# Whatever the table


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
attribute_names = st.text("ABCDEFGHIJ_ é,;\"'", min_size=1, max_size=8).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_labels_survive_the_way_through_a_file(data):
    names = data.draw(st.lists(attribute_names, min_size=1, max_size=5, unique_by=str.lower))
    assume(not {name.lower() for name in names} & {"path", "file"})
    paths = data.draw(
        st.lists(st.text("abcé ,;'\"_", min_size=1, max_size=8).map(lambda s: f"x{s}x"), unique=True, min_size=1)
    )
    labels = np.array(
        data.draw(
            st.lists(
                st.lists(st.integers(0, 1), min_size=len(names), max_size=len(names)),
                min_size=len(paths),
                max_size=len(paths),
            )
        )
    )
    signed = np.array(data.draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))))
    delimiter = data.draw(st.sampled_from(",;\t"))
    columns = data.draw(st.permutations(range(len(names) + 2)))
    assume(delimiter == "," or not any(set(",;") & set(name) for name in names))
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, lineterminator=data.draw(st.sampled_from(["\n", "\r\n"])))
    header = ["path", "split", *names]
    body = [[p, "train", *np.where(signed, 2 * row - 1, row)] for p, row in zip(paths, labels, strict=True)]
    writer.writerows([row[c] for c in columns] for row in [header, *body])
    assume(header_delimiter(file.getvalue()) == delimiter)
    with tempfile.TemporaryDirectory() as place:
        for path in paths:
            (Path(place) / path).touch()
        samples = read(Path(place), file.getvalue())
    order = [c - 2 for c in columns if c >= 2]
    assert samples.attributes == tuple(names[i] for i in order)
    found = dict(zip(samples.names, samples.labels.tolist(), strict=True))
    assert found == {p: [row[i] for i in order] for p, row in zip(paths, labels.tolist(), strict=True)}


def header_delimiter(text: str) -> str:
    return max(",;\t", key=text.splitlines()[0].count)


@settings(max_examples=150, deadline=None)
@given(
    st.one_of(st.binary(max_size=80), st.lists(st.lists(cells, max_size=4).map(",".join), max_size=5).map("\n".join))
)
def test_any_text_is_read_or_refused(text):
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "a.jpg").touch()
        try:
            samples = read(Path(place), text)
        except VitpeError as error:
            assert error.hint
        else:
            assert list(samples.names) == ["a.jpg"]
