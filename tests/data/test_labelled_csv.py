"""Any folder with a table of labels: what is right is read whatever it looks like, what is wrong is named by line."""

import csv
import io
import os
import re
import tempfile
import time
import unicodedata
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

SIZE = (34, 32)
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
    return read_labelled_csv(folder, [labels], split, SIZE)


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
    assert samples.stored_size == SIZE
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


NAMES_OF_PATHS = ["path", "file", "filename", "image", "image_id", "Path", "file_name", "image_path", "img", "Img Name"]


@pytest.mark.parametrize("name", [*NAMES_OF_PATHS, "fname"])
def test_the_path_column_is_found_by_name(folder, name):
    assert list(read(folder, f"Smiling,split,{name}\n1,train,c.jpg\n").names) == ["c.jpg"]


def test_without_a_known_name_the_first_column_is_the_path(folder):
    samples = read(folder, "photo,Smiling,split\nc.jpg,1,train\n")
    assert list(samples.names) == ["c.jpg"]
    assert samples.attributes == ("Smiling",)


def test_of_two_columns_with_such_names_the_one_with_files_is_the_path(folder):
    samples = read(folder, "image,file_name,split\n1,c.jpg,train\n")
    assert (list(samples.names), samples.attributes, samples.labels.tolist()) == (["c.jpg"], ("image",), [[1]])


@pytest.mark.parametrize(
    ("no", "yes"),
    [("0", "1"), ("0.0", "1.0"), ("False", "True"), ("FALSE", "TRUE"), ("-1", "1"), ("-1.0", "1.0"), ("0", "1.00")],
)
def test_labels_as_programs_write_them(folder, no, yes):
    text = table([f"a.jpg,train,{no},{yes}", f"b.jpg,train,{yes},{no}"])
    assert read(folder, text).labels.tolist() == [[0, 1], [1, 0]]


@pytest.mark.parametrize("value", ["", "nan", "0.5", "2", "1e-300", "yes", "None", "1,0"])
def test_other_labels_are_refused(folder, value):
    assert "line 2: Smiling is " in refusal(folder, table([f'a.jpg,train,"{value}",1']))


def test_names_in_another_encoding_of_accents_are_the_same_names(folder):
    composed, parted = (unicodedata.normalize(form, "Zoé.jpg") for form in ("NFC", "NFD"))
    for on_disk, in_table in ((composed, parted), (parted, composed)):
        (folder / on_disk).touch()
        samples = read(folder, table([f"{in_table},train,1,0"]))
        assert list(samples.names) == [on_disk]
        message = refusal(folder, table([f"{in_table},train,1,0", f"{on_disk},valid,1,0"]))
        assert message.startswith(f"FILE, line 3: {on_disk} again, as in line 2 |")
        (folder / on_disk).unlink()
    assert split_of(composed) == split_of(parted)


def test_names_in_another_case_are_found_and_told(folder):
    samples = read(folder, table(["A.JPG,train,1,0", "b.jpg,train,1,0"]))
    assert list(samples.names) == ["a.jpg", "b.jpg"]
    assert samples.notes[-1] == (f"1 path of {folder / 'labels.csv'} is spelt otherwise in {folder}: a.jpg for A.JPG")
    (folder / "A.jpg").touch()
    assert refusal(folder, table(["A.JPG,train,1,0"])) == (
        "FILE, line 2: A.JPG may be A.jpg or a.jpg | write the file's name exactly as it is"
    )


CODES = {"train": "0", "valid": "1", "val": "1", "test": "2"}


@pytest.mark.parametrize("column", ["split", "partition", "Partition", "evaluation_status", "subset"])
@pytest.mark.parametrize(
    "spell", [str, str.upper, CODES.get, lambda s: f"{CODES[s]}.0", {"train": "training", "val": "dev"}.get]
)
def test_the_split_however_it_is_called_and_spelt(folder, column, spell):
    rows = [re.sub("train|valid|val|test", lambda found: spell(found[0]) or found[0], row) for row in ROWS]
    text = table(rows, f"path,{column},Smiling,Glasses")
    for split, names in (("train", ["a.jpg", "b.jpg"]), ("valid", ["c.jpg", "e.jpg"]), ("test", ["d.jpg"])):
        samples = read(folder, text, split)
        assert (list(samples.names), samples.attributes) == (names, ("Smiling", "Glasses"))
        told = [f"the split is what {folder / 'labels.csv'} has in its column {column}"]
        assert list(samples.notes) == told * (column != "split")


def test_two_columns_of_the_split_must_agree(folder):
    header = "path,split,partition,Smiling"
    agreeing = table(["a.jpg,train,0,1", "b.jpg,valid,1,0", "c.jpg,test,2,0"], header)
    assert list(read(folder, agreeing, "valid").names) == ["b.jpg"]
    assert read(folder, agreeing).attributes == ("Smiling",)
    assert refusal(folder, table(["a.jpg,train,0,1", "b.jpg,valid,0,0"], header)) == (
        "FILE, line 3: split is valid, partition is 0"
        " | keep one of these columns, or rename the one that is an attribute"
    )
    assert refusal(folder, table(["a.jpg,train,3,1"], header)).startswith("FILE, line 2: partition '3' | splits are")


def test_folders_within_the_folder_and_paths_in_full(folder):
    (folder / "x" / "y").mkdir(parents=True)
    (folder / "x" / "y" / "z.png").touch()
    rows = ["x\\y\\z.png,train,1,0", f"{folder}/a.jpg,train,0,1"]
    assert list(read(folder, table(rows)).names) == ["a.jpg", "x/y/z.png"]


def test_images_come_out_a_little_larger_than_the_model_takes(folder):
    for name, size in (("a.jpg", (300, 200)), ("b.jpg", (60, 500))):
        Image.new("RGB", size, (9, 99, 199)).save(folder / name, "PNG")
    (folder / "labels.csv").write_text(table(ROWS))
    config = DataConfig(data=str(folder), labels=(str(folder / "labels.csv"),))
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
        (
            ["a.jpg,train,1,0", "b.jpg,train,yes,"],
            "FILE, line 3: Smiling is 'yes'; line 3: Glasses is empty | labels are",
        ),
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


def test_a_large_table_is_refused_after_a_few_problems(folder):
    for row, expected in (
        ("x{}.jpg,train,1,0", f"{folder} has none of the first 10,000 files of FILE: no x0.jpg (line 2)"),
        ("a.jpg,train,1,0", "FILE, line 3: a.jpg again, as in line 2; line 4: a.jpg again"),
        ("a.jpg,train,1", "FILE, line 2: 3 fields; line 3: 3 fields; line 4: 3 fields; … 10,000 or more in all |"),
    ):
        text = table(row.format(number) for number in range(100_000))
        began = time.process_time()
        assert refusal(folder, text).startswith(expected)
        assert time.process_time() - began < 2


def test_many_columns_are_read_at_once(folder):
    names = ",".join(f"A{number}" for number in range(100_000))
    began = time.process_time()
    samples = read(folder, table([f"a.jpg,train{',1' * 100_000}"], f"path,split,{names}"))
    assert samples.labels.shape == (1, 100_000)
    assert "columns are named 'a0'" in refusal(folder, table([], f"path,split,{names},A0"))
    assert time.process_time() - began < 10


@pytest.mark.parametrize("letter", ["\x1b", "\x07", "\x9b", "\u202e", "\u2066", "\u200b", "\ufeff"])
def test_names_that_control_a_terminal(folder, letter):
    message = refusal(folder, table(["a.jpg,train,1,0"], f"path,split,Smi{letter}ling,Glasses"))
    assert message.startswith("FILE, line 1: an attribute is called 'Smi\\")
    assert message.isprintable()


def test_names_in_any_language(folder):
    header = "path,split,мужчина,می‌خندد,हँसी,微笑"
    assert read(folder, table(["a.jpg,train,1,0,1,0"], header)).attributes == tuple(header.split(",")[2:])


def test_images_that_are_no_files(folder):
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.jpg").symlink_to("/dev/zero")
    (folder / "folder.jpg").mkdir()
    (folder / "gone.jpg").symlink_to("nowhere")
    names = ["pipe", "zero", "folder", "gone"]
    message = refusal(folder, table(["a.jpg,train,1,0", *(f"{name}.jpg,train,1,0" for name in names)]))
    expected = "FILE, line 3: pipe.jpg is no plain file; line 4: zero.jpg is no plain file; line 5: folder.jpg is no"
    assert message.startswith(expected)
    assert "… 4 in all | remove these rows" in message


def test_a_table_that_is_no_file(folder, tmp_path_factory):
    labels = tmp_path_factory.mktemp("tables") / "labels.csv"
    for make, expected in (
        (os.mkfifo, "it is a pipe, not a file"),
        (lambda path: path.symlink_to("/dev/zero"), "it is a device, not a file"),
        (lambda path: path.symlink_to(path), "Too many levels of symbolic links"),
    ):
        make(labels)
        with pytest.raises(VitpeError) as caught:
            read_labelled_csv(folder, [labels], "train", SIZE)
        assert caught.value.message == f"cannot read {labels}: {expected}"
        assert "CSV" in caught.value.hint
        labels.rmdir() if labels.is_dir() else labels.unlink()


def test_a_field_without_end(folder):
    long = "x" * 140_000
    assert refusal(folder, table([f"{long},train,1,0"])).startswith("FILE, line 2: field larger than field limit")
    assert refusal(folder, table(["a.jpg,train,1,0", f'"{long}'])).startswith("FILE, line 3: field larger than")
    assert len(refusal(folder, table([f"a.jpg,train,1,{'y' * 1000}"]))) < 300


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
    assert samples.take([0], "more").notes == (*samples.notes, "more")
    assert read(folder, table(ROWS[:4])).notes == (
        f"1 image of {folder} has no row in {folder / 'labels.csv'} and is left out: e.jpg",
    )


def test_missing_files_and_folders(folder):
    read(folder, table(ROWS))
    with pytest.raises(VitpeError, match=r"no file nowhere/labels\.csv") as caught:
        read_labelled_csv(folder, [Path("nowhere/labels.csv")], "train", SIZE)
    assert caught.value.hint == f"did you mean {folder / 'labels.csv'}?"
    with pytest.raises(VitpeError, match=r"no file other\.csv"):
        read_labelled_csv(folder, [Path("other.csv")], "train", SIZE)
    with pytest.raises(VitpeError, match="no folder"):
        read_labelled_csv(folder / "none", [folder / "labels.csv"], "train", SIZE)
    (folder / "labels.csv").unlink()
    with pytest.raises(VitpeError, match=r"has no table of labels \(looked for \.csv, \.tsv\)"):
        read_labelled_csv(folder, [folder], "train", SIZE)


# Whatever the table


cells = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6)
attribute_names = st.text("ABCDEFGHIJ_ é,;\"'", min_size=1, max_size=8).map(str.strip).filter(bool)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_labels_survive_the_way_through_a_file(data):
    names = data.draw(st.lists(attribute_names, min_size=1, max_size=5, unique_by=str.lower))
    assume(not {name.lower().strip("_ -") for name in names} & {"path", "file", "id"})
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
