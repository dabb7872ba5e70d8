"""Tables whose columns hold words, in the form of FairFace's and of group DRO's metadata.csv."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers import tiny_options
from tests.helpers.in_process import call_vitpe
from vitpe.config import DataConfig
from vitpe.data.labelled_csv import read_labelled_csv
from vitpe.data.sources import open_samples
from vitpe.errors import VitpeError

SIZE = (34, 32)
RACES = ("Black", "East Asian", "White")
AGES = ("0-2", "20-29", "more than 70", "3-9")


@pytest.fixture
def fairface(tmp_path):
    """24 photos in its form: file,age,gender,race,service_test."""
    (tmp_path / "train").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (40, 36, 3), np.uint8)).save(tmp_path / "train" / f"{i}.jpg")
        rows.append(f"train/{i}.jpg,{AGES[i % 4]},{'Male' if i % 2 else 'Female'},{RACES[i % 3]},{i % 5 == 0}")
    (tmp_path / "labels.csv").write_text("\n".join(["file,age,gender,race,service_test", *rows]) + "\n")
    return tmp_path


def test_words_become_attributes(fairface):
    read = [read_labelled_csv(fairface, [fairface / "labels.csv"], split, SIZE) for split in ("train", "valid", "test")]
    ages = ("age=0-2", "age=20-29", "age=3-9", "age=more than 70")
    assert read[0].attributes == (*ages, "gender=Male", *(f"race={race}" for race in RACES), "service_test")
    assert sum(len(samples.names) for samples in read) == 24
    for samples in read:
        for name, labels in zip(samples.names, samples.labels, strict=True):
            i = int(name.removeprefix("train/").removesuffix(".jpg"))
            true = {f"age={AGES[i % 4]}", f"race={RACES[i % 3]}", *["gender=Male"] * (i % 2)}
            true |= {"service_test"} if i % 5 == 0 else set()
            assert {a for a, label in zip(samples.attributes, labels, strict=True) if label} == true
    notes = "\n".join(read[0].notes)
    assert "age is one attribute for each of its 4 words: age=0-2, …" in notes
    assert "gender has two words and is one attribute, gender=Male" in notes


def test_metadata_of_group_dro(fairface):
    """Its row numbers and the names of the backgrounds' images are left out, and said so."""
    rows = [f"{i + 1},train/{i}.jpg,{i % 2},{i % 3},{i // 2 % 2},/f/forest/{i}.jpg" for i in range(24)]
    path = fairface / "metadata.csv"
    path.write_text("\n".join(["img_id,img_filename,y,split,place,place_filename", *rows]))
    samples = read_labelled_csv(fairface, [path], "test", SIZE)
    assert samples.attributes == ("y", "place")
    assert sorted(samples.names) == sorted(f"train/{i}.jpg" for i in range(2, 24, 3))
    assert samples.labels[list(samples.names).index("train/11.jpg")].tolist() == [1, 1]
    assert "columns that are no attributes are left out: img_id (numbers), place_filename (text)" in samples.notes


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["Black", "", "White"], "line 3: race is empty"),  # no word at all
        (["Black", "White", "1"], "line 4: race is '1'; line 7: race is '1'; line 10"),  # labels among words
        (["31", "44", "27"], "line 2: race is '31'"),  # numbers
        ([str(f"name{i}") for i in range(24)], "line 2: race is 'name0'"),  # of each image another
    ],
)
def test_what_is_no_category_is_refused_by_line(fairface, cells, expected):
    rows = [f"train/{i}.jpg,{cells[i % len(cells)]}" for i in range(24)]
    (fairface / "labels.csv").write_text("\n".join(["file,race", *rows]))
    with pytest.raises(VitpeError) as caught:
        read_labelled_csv(fairface, [fairface / "labels.csv"], "train", SIZE)
    assert expected in caught.value.message
    assert "a few words" in str(caught.value.hint)


def test_from_words_to_a_model_and_back(fairface):
    run = str(fairface / "runs")
    options = tiny_options(fairface, train__steps=2, train__num_evals=1)
    table = str(fairface / "labels.csv")
    trained = call_vitpe("train", *options, "--labels", table, "--attributes", "race=Black,gender=Male", "--run", run)
    assert trained.code == 0, trained.stderr
    scored = call_vitpe("eval", run, "--format", "csv")
    assert scored.code == 0, scored.stderr
    assert "race=Black" in scored.stdout
    predicted = call_vitpe("predict", str(fairface / "train" / "3.jpg"), "--checkpoint", run)
    assert '"gender=Male"' in predicted.stdout


HEADER = "file,age,gender,race,service_test"


@pytest.fixture
def published(fairface) -> Path:
    """As it is published: two folders of photos numbered from 1, two tables, words that one of them alone has."""
    (fairface / "labels.csv").unlink()
    shutil.move(fairface / "train", fairface / "all")
    for split, numbers in (("train", range(16)), ("val", range(16, 24))):
        (fairface / split).mkdir()
        rows = [HEADER]
        for place, i in enumerate(numbers, start=1):
            shutil.copy(fairface / "all" / f"{i}.jpg", fairface / split / f"{place}.jpg")
            race = "Indian" if split == "val" and place > 6 else RACES[i % 3]
            rows.append(f"{split}/{place}.jpg,{AGES[i % 4]},{'Male' if i % 2 else 'Female'},{race},{i % 5 == 0}")
        (fairface / f"fairface_label_{split}.csv").write_text("\n".join(rows) + "\n")
    shutil.rmtree(fairface / "all")
    return fairface


def tables(folder: Path) -> tuple[str, str]:
    return str(folder / "fairface_label_train.csv"), str(folder / "fairface_label_val.csv")


@pytest.mark.parametrize("named", ["both", "a folder", "none"])
def test_fairface_in_two_files(published, tmp_path_factory, named):
    """The split is what the files' names say, and a word of one file is an attribute of both."""
    labels = {"both": tables(published), "none": None}.get(named)
    if named == "a folder":
        folder = tmp_path_factory.mktemp("labels")
        for table in tables(published):
            shutil.move(table, folder)
        labels = (str(folder),)
    train, valid = (open_samples(DataConfig(str(published), labels), split, SIZE) for split in ("train", "valid"))
    assert sorted(train.names) == sorted(f"train/{i}.jpg" for i in range(1, 17))
    assert sorted(valid.names) == sorted(f"val/{i}.jpg" for i in range(1, 9))
    assert train.attributes == valid.attributes
    assert "race=Indian" in train.attributes and not train.labels[:, train.attributes.index("race=Indian")].any()
    assert valid.labels[:, valid.attributes.index("race=Indian")].sum() == 2
    row = dict(zip(valid.attributes, valid.labels[list(valid.names).index("val/2.jpg")], strict=True))
    assert {name for name, label in row.items() if label} == {f"age={AGES[17 % 4]}", "gender=Male", f"race={RACES[2]}"}
    assert "the tables' names say which split an image is of" in "\n".join(valid.notes)
    with pytest.raises(VitpeError, match=r"no image of the test split \(16 train, 8 valid, 0 test\)"):
        open_samples(DataConfig(str(published), labels), "test", SIZE)


def test_the_folders_in_the_paths_say_the_split(published):
    """Where neither a column nor the table's name does."""
    rows = [Path(table).read_text().split("\n", 1) for table in tables(published)]
    labels = published / "labels.csv"
    labels.write_text(rows[0][0] + "\n" + rows[0][1] + rows[1][1])
    samples = read_labelled_csv(published, [labels], "valid", SIZE)
    assert sorted(samples.names) == [f"val/{i}.jpg" for i in range(1, 9)]
    assert f"{labels}: the folders in the paths say which split an image is of" in samples.notes


def test_training_images_alone_are_parted_by_hash(published):
    samples = read_labelled_csv(published, [Path(tables(published)[0])], "valid", SIZE)
    assert "a hash of each path gives 80 % train" in samples.notes[-1]
    assert all(name.startswith("train/") for name in samples.names)


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        (HEADER, HEADER.replace("race", "place"), "val.csv has a column place, "),
        (HEADER, "age,file,gender,race,service_test", "val.csv has the columns of "),
        ("val/3.jpg", "train/3.jpg", "val.csv, line 4: train/3.jpg again, as in line 4 of "),
        ("val/3.jpg", "val/30.jpg", "val.csv, line 4: no file val/30.jpg"),
        (",Black,", ",3,", "val.csv, line 4: race is '3'; line 7: race is '3'"),
    ],
)
def test_two_tables_that_do_not_agree(published, old, new, expected):
    first, second = tables(published)
    Path(second).write_text(Path(second).read_text().replace(old, new))
    with pytest.raises(VitpeError) as caught:
        read_labelled_csv(published, [Path(first), Path(second)], "train", SIZE)
    assert expected in caught.value.message and "\n" not in caught.value.message


def test_a_column_that_contradicts_the_tables_names(published):
    for table, split in zip(tables(published), ("train", "test"), strict=True):
        lines = Path(table).read_text().splitlines()
        Path(table).write_text("\n".join([lines[0] + ",split", *(f"{line},{split}" for line in lines[1:])]))
    with pytest.raises(VitpeError, match=r"val\.csv, line 2: split is test, the table's name says valid"):
        read_labelled_csv(published, [*map(Path, tables(published))], "train", SIZE)


def test_from_two_tables_to_a_model_and_back(published, tmp_path_factory):
    run = str(tmp_path_factory.mktemp("runs") / "run")
    options = tiny_options(published, train__steps=2, train__num_evals=1)
    first, second = tables(published)
    trained = call_vitpe("train", *options, "--labels", first, "--labels", second, "--run", run)
    assert trained.code == 0, trained.stderr
    assert "16 images to train on, 8 to validate" in trained.stderr
    assert call_vitpe("train", "--resume", "--run", run).code == 0
    own, named = (
        call_vitpe("eval", run, "--format", "csv", *more)
        for more in ((), ("--data", published, "--labels", first, "--labels", second))
    )
    assert own.code == 0, own.stderr
    assert own.stdout == named.stdout
