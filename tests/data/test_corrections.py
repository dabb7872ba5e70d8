"""Corrections laid over labels, and the choice of attributes: what they change, count and refuse."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers import COLOURS, tiny_options
from tests.helpers.in_process import call_vitpe
from vitpe.config import DRAWN_FACES, DataConfig
from vitpe.data.corrections import read_corrections
from vitpe.data.samples import fingerprint
from vitpe.data.sources import open_samples
from vitpe.errors import UsageError, VitpeError
from vitpe.runs.metadata import read_info

SIZE = (16, 24)


def refusal(path: Path, text: str, celeba: Path | None = None) -> str:
    path.write_text(text)
    with pytest.raises(VitpeError) as caught:
        if celeba is None:
            read_corrections(path)
        else:
            open_samples(DataConfig(str(celeba), relabel=str(path)), "train", SIZE)
    assert caught.value.hint
    assert "\n" not in caught.value.message
    return caught.value.message.removeprefix(str(path))


def test_labels_are_changed_and_counted(celeba, tmp_path):
    before = open_samples(DataConfig(str(celeba)), "train", SIZE)
    first, second = before.labels[:2, 1].tolist()
    path = tmp_path / "fixed.csv"
    path.write_text(
        f"image;attribute;rank;value\n000001.jpg;Green;1;{1 - first}\n000002.jpg;Green;2;{second}\n"
        "000003.jpg;Red;3;\n000030.jpg;Red;4;1\nnowhere.jpg;Red;5;0\n"
    )
    after = open_samples(DataConfig(str(celeba), relabel=str(path)), "train", SIZE)
    expected = before.labels.copy()
    expected[0, 1] = 1 - first
    assert np.array_equal(after.labels, expected)
    assert after.notes == (
        f"{path}: 1 label of 1 train image changed, 1 stood so already; "
        "not of the train split: 2 images (000030.jpg, nowhere.jpg)",
    )
    assert np.array_equal(after.read([0, 5]), before.read([0, 5]))
    assert fingerprint([after]) != fingerprint([before])


@given(st.dictionaries(st.tuples(st.integers(0, 23), st.integers(0, 3)), st.booleans()), st.sampled_from(["01", "-1"]))
def test_any_corrections_hold(tmp_path_factory, celeba, wanted, kind):
    before = open_samples(DataConfig(str(celeba)), "train", SIZE)
    words = {"01": ("0", "1"), "-1": ("-1", "1.0")}[kind]
    expected, file = before.labels.copy(), io.StringIO()
    writer = csv.writer(file)
    writer.writerow(["value", "Image", "attribute"])
    for (row, column), value in wanted.items():
        expected[row, column] = value
        writer.writerow([words[value], before.names[row], COLOURS[column]])
    path = tmp_path_factory.mktemp("c") / "fixed.csv"
    path.write_text(file.getvalue())
    assert np.array_equal(open_samples(DataConfig(str(celeba), relabel=str(path)), "train", SIZE).labels, expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": no column is named image"),
        ("image,value\na,1\n", ": no column is named attribute"),
        ("image,attribute,value,value\n", ": several columns are named value"),
        ("image,attribute,value\na,Red\n", ", line 2: 2 fields where the header names 3 columns"),
        ("image,attribute,value\n\na,Red,2\n", ", line 3: value '2'"),
        ("image,attribute,value\n,Red,1\n", ", line 2: no image"),
        ("image,attribute,value\na,,1\n", ", line 2: no attribute"),
        ("image,attribute,value\na,Red,0\nb,Red,-1\n", ": a value is 0 in line 2 and -1 in line 3"),
        ("image,attribute,value\na,Red,1\nb,Red,1\na,Red,false\n", ", line 4: Red of a is false, and was 1 in line 2"),
        ('image,attribute,value\n"a', ", line 2: unexpected end of data"),
    ],
)
def test_what_is_wrong_is_named_by_line(tmp_path, text, expected):
    assert refusal(tmp_path / "fixed.csv", text) == expected


def test_the_same_correction_twice_is_one(tmp_path):
    (tmp_path / "c.csv").write_text("image,attribute,value\na,Red,1\na,Red,true\n")
    assert {key: found.value for key, found in read_corrections(tmp_path / "c.csv").items()} == {("a", "Red"): 1}


def test_an_unknown_attribute_is_refused_with_the_nearest(celeba, tmp_path):
    text = "image,attribute,value\n000001.jpg,Gren,1\n"
    assert refusal(tmp_path / "c.csv", text, celeba) == ", line 2: no attribute 'Gren' in the data"
    with pytest.raises(UsageError, match="no attribute 'Gren'") as caught:
        open_samples(DataConfig(str(celeba), attributes=("Red", "Gren")), "train", SIZE)
    assert str(caught.value.hint).startswith("did you mean Green? there are Red, Green")


@pytest.mark.parametrize("data", ["celeba", DRAWN_FACES])
def test_attributes_are_chosen_from_any_source(celeba, data):
    where = str(celeba) if data == "celeba" else data
    whole = open_samples(DataConfig(where, num_train=8), "train", SIZE)
    wanted = (whole.attributes[2], whole.attributes[0])
    some = open_samples(DataConfig(where, num_train=8, attributes=wanted), "train", SIZE)
    assert some.attributes == wanted
    assert np.array_equal(some.labels, whole.labels[:, [2, 0]])
    assert np.array_equal(some.read([3]), whole.read([3]))


@pytest.mark.parametrize("attributes", [(), ("Red", "Red")])
def test_attributes_that_mean_nothing(attributes):
    with pytest.raises(UsageError):
        DataConfig(attributes=attributes)


def test_from_training_to_scores_and_back(celeba, tmp_path):
    """A run on corrected labels of two attributes: resumed and scored with the same file, refused with another."""
    run, fixed = tmp_path / "runs", tmp_path / "fixed.csv"
    names = open_samples(DataConfig(str(celeba)), "valid", SIZE).names
    flipped = 1 - open_samples(DataConfig(str(celeba)), "valid", SIZE).labels[:, 0]
    rows = [f"{name},Red,{value}" for name, value in zip(names, flipped, strict=True)]
    fixed.write_text("\n".join(["image,attribute,value", *rows]))
    options = [*tiny_options(celeba, train__steps=2, train__num_evals=1), "--run", str(run)]
    trained = call_vitpe("train", *options, "--relabel", str(fixed), "--attributes", "Red,Blue")
    assert trained.code == 0, trained.stderr
    assert "2 of 4 attributes: Red, Blue" in trained.stderr
    assert f"fixed.csv: {len(names)} labels of {len(names)} valid images changed" in trained.stderr.replace("\n", " ")
    assert read_info(run / "best.safetensors").attributes == ("Red", "Blue")

    def accuracy(*more: str) -> float:
        scored = call_vitpe("eval", str(run), "--format", "json", *more)
        assert scored.code == 0, scored.stderr
        assert ("images changed" in scored.stderr) == (more[:1] != ("--data",))
        values = {row["attribute"]: row for row in json.loads(scored.stdout)["attributes"]}
        assert list(values) == ["Red", "Blue"]
        return values["Red"]["accuracy"]

    assert accuracy() == pytest.approx(1 - accuracy("--data", str(celeba)))
    assert accuracy() == accuracy("--relabel", str(fixed))
    assert call_vitpe("predict", str(celeba / "img_align_celeba" / names[0]), "--checkpoint", str(run)).code == 0

    resume = ["train", "--run", str(run), "--resume", "--steps", "3", "--device", "cpu"]
    moved = fixed.rename(tmp_path / "moved.csv")
    assert "no file" in call_vitpe(*resume).stderr
    moved.write_text("\n".join(["image,attribute,value", *rows[:-1]]))
    other = call_vitpe(*resume, "--relabel", str(moved))
    assert other.code == 1
    assert "data" in other.stderr
    changed = call_vitpe("eval", str(run))
    assert changed.code != 0
    moved.write_text("\n".join(["image,attribute,value", *rows]))
    assert call_vitpe(*resume, "--relabel", str(moved), "--attributes", "Red").code == 2
    resumed = call_vitpe(*resume, "--relabel", str(moved))
    assert resumed.code == 0, resumed.stderr
