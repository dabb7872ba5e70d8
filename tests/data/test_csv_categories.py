"""Tables whose columns hold words, in the form of FairFace's and of group DRO's metadata.csv."""

import numpy as np
import pytest
from PIL import Image

from tests.helpers import tiny_options
from tests.helpers.in_process import call_vitpe
from vitpe.data.labelled_csv import read_labelled_csv
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
    read = [read_labelled_csv(fairface, fairface / "labels.csv", split, SIZE) for split in ("train", "valid", "test")]
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
    samples = read_labelled_csv(fairface, path, "test", SIZE)
    assert samples.attributes == ("y", "place")
    assert sorted(samples.names) == sorted(f"train/{i}.jpg" for i in range(2, 24, 3))
    assert samples.labels[list(samples.names).index("train/11.jpg")].tolist() == [1, 1]
    assert f"{path}: img_id, place_filename left out: no attribute" in samples.notes


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["Black", "", "White"], "line 3: race is ''"),  # no word at all
        (["Black", "White", "1"], "line 2: race is 'Black'"),  # labels among words
        (["31", "44", "27"], "line 2: race is '31'"),  # numbers
        ([str(f"name{i}") for i in range(24)], "line 2: race is 'name0'"),  # of each image another
    ],
)
def test_what_is_no_category_is_refused_by_line(fairface, cells, expected):
    rows = [f"train/{i}.jpg,{cells[i % len(cells)]}" for i in range(24)]
    (fairface / "labels.csv").write_text("\n".join(["file,race", *rows]))
    with pytest.raises(VitpeError) as caught:
        read_labelled_csv(fairface, fairface / "labels.csv", "train", SIZE)
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
