"""Answers come back from a file as they were, digit for digit, and what is wrong in one is named by its row."""

import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.helpers.in_process import call_vitpe
from vitpe.errors import UsageError, VitpeError
from vitpe.inference.answers import Answers, Labels
from vitpe.inference.predictions import EvalInfo
from vitpe.reporting.answer_files import SUFFIXES, answers_bytes, check_answers_file, read_answers

NAMES = ("Smiling", '5 o\'clock, "shadow"', "prob:x")


def made(probs, labels, names=None, thresholds=(0.1, 1 / 3, 0.5)):
    return Answers(
        EvalInfo("m", "valid", "celeba"),
        names or [f"{i:06}.jpg" for i in range(len(probs))],
        NAMES,
        np.asarray(probs, float),
        np.array(thresholds),
        Labels((*NAMES, "Hat"), np.asarray(labels, np.uint8)),
    )


def assert_same(found, expected):
    np.testing.assert_array_equal(found.probs, expected.probs, strict=True)
    np.testing.assert_array_equal(found.thresholds, expected.thresholds, strict=True)
    np.testing.assert_array_equal(found.labels.values, expected.labels.values, strict=True)
    assert found.attributes == expected.attributes
    assert found.labels.attributes == expected.labels.attributes
    assert list(found.names) == list(expected.names)
    assert found.info.split == expected.info.split


@settings(max_examples=40, deadline=None)
@given(
    hnp.arrays(np.float64, (4, 3), elements=st.floats(0, 1)),
    hnp.arrays(np.uint8, (4, 4), elements=st.integers(0, 1)),
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=4, max_size=4, unique=True),
)
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_answers_come_back_digit_for_digit(tmp_path_factory, suffix, probs, labels, names):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    expected = made(probs, labels, names)
    path = tmp_path_factory.mktemp("answers") / f"answers{suffix}"
    path.write_bytes(answers_bytes(expected, suffix))
    found, notes = read_answers(path)
    assert_same(found, expected)
    assert notes == []


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_a_file_name_that_is_no_text(tmp_path, suffix):
    expected = made([[0.5] * 3], [[1] * 4], ["a\udcff.jpg"])
    path = tmp_path / f"answers{suffix}"
    path.write_bytes(answers_bytes(expected, suffix))
    assert_same(read_answers(path)[0], expected)


def test_what_another_model_says_is_enough(tmp_path):
    """No thresholds, no split, labels as pandas writes them, a column of its own."""
    path = tmp_path / "timm.csv"
    path.write_text(
        "\ufefffile,prob:Smiling,label:Smiling,label:Male,model\r\na.jpg,0.75,1.0,True,x\r\nb.jpg,1e-3,0,0,x\r\n"
    )
    found, notes = read_answers(path)
    assert found.probs.tolist() == [[0.75], [0.001]]
    assert found.labels.values.tolist() == [[1, 1], [0, 0]]
    assert (found.attributes, found.labels.attributes) == (("Smiling",), ("Smiling", "Male"))
    assert notes == ["1 column is not read: model", f"{path} has no thresholds for Smiling: 0.5 is taken"]
    called = call_vitpe("eval", "--from-answers", path, "--by", "Male")
    document = json.loads(called.stdout)
    assert (called.code, document["split"], document["data_source"]) == (0, None, "answers")
    assert document["mean"]["accuracy"]["value"] == 1
    assert [row["num_images"] for row in document["by"]["groups"]] == [1, 1]


HEADER = "file,prob:A,label:A,threshold:A"
GOOD = "a,0.5,1,0.5"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no column named file"),
        ("file,label:A\na,1", "has no probabilities"),
        ("file,prob:A\na,0.5", "has prob:A and no label:A"),
        ("prob:A,label:A\n0.5,1", "has no column named file"),
        (f"file,{HEADER}\n", "has two columns 'file'"),
        (HEADER, "has no answers"),
        (f"{HEADER}\n{GOOD}\nb,nan,1,0.5", "line 3: prob:A is 'nan'"),
        (f"{HEADER}\n{GOOD}\nb,inf,1,0.5", "line 3: prob:A is 'inf'"),
        (f"{HEADER}\n{GOOD}\nb,1.0000001,1,0.5", "line 3: prob:A is '1.0000001'"),
        (f"{HEADER}\n{GOOD}\nb,-0.1,1,0.5", "line 3: prob:A is '-0.1'"),
        (f"{HEADER}\n{GOOD}\nb,,1,0.5", "line 3: prob:A is missing"),
        (f"{HEADER}\n{GOOD}\nb,0.5,,0.5", "line 3: label:A is missing"),
        (f"{HEADER}\n{GOOD}\nb,0.5,-1,0.5", "line 3: label:A is '-1'"),
        (f"{HEADER}\n{GOOD}\nb,0.5,2,0.5", "line 3: label:A is '2'"),
        (f"{HEADER}\n{GOOD}\nb,0.5,1,0.6", "line 3: threshold:A is 0.6, before 0.5"),
        (f"{HEADER}\n{GOOD}\n{GOOD}", "line 3: a again, as in line 2"),
        (f"{HEADER}\n{GOOD}\n,0.5,1,0.5", "line 3: no file"),
        (f"{HEADER}\n{GOOD}\nb,0.5,1", "line 3: 3 fields"),
        (f'{HEADER}\n{GOOD}\n"b,0.5,1,0.5', "line 3: "),
    ],
)
def test_what_is_wrong_is_named_by_its_row(tmp_path, text, message):
    path = tmp_path / "answers.csv"
    path.write_text(text)
    called = call_vitpe("eval", "--from-answers", path)
    assert (called.code, called.out) == (1, b"")
    error, hint = called.stderr.splitlines()
    assert error.startswith(f"error: {path}")
    assert message in error
    assert hint.startswith("hint: ")


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ('{"file": "b", "probs": {"A": null}, "labels": {"A": 1}}', "line 2: prob:A is missing"),
        ('{"file": "b", "probs": {"A": NaN}, "labels": {"A": 1}}', "line 2: prob:A is 'nan'"),
        ('{"file": "b", "probs": {"A": "x"}, "labels": {"A": 1}}', "line 2: prob:A is 'x'"),
        ('{"file": "b", "probs": {"A": 0.5}, "labels": {}}', "line 2 lacks label:A"),
        ('{"file": "b", "probs": {"A": 0.5, "B": 0.5}, "labels": {"A": 1}}', "line 2 alone has prob:B"),
        ('{"file": 3, "probs": {"A": 0.5}, "labels": {"A": 1}}', "line 2: no file"),
        ('{"file": "b", "probs": [0.5], "labels": {"A": 1}}', "line 2 is no JSON object"),
        ("[1]", "line 2 is no JSON object"),
        ("{", "line 2 is no JSON object"),
    ],
)
def test_what_is_wrong_in_json_lines(tmp_path, second, message):
    path = tmp_path / "answers.jsonl"
    path.write_text('{"file": "a", "probs": {"A": 0.5}, "labels": {"A": true}}\n' + second)
    with pytest.raises(VitpeError) as caught:
        read_answers(path)
    assert message in caught.value.message


def test_what_is_wrong_in_parquet(tmp_path):
    arrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "answers.parquet"
    for column, values, message in (
        ("prob:A", [0.5, None], "row 2: prob:A is missing"),
        ("prob:A", [0.5, float("nan")], "row 2: prob:A is 'nan'"),
        ("label:A", [1, None], "row 2: label:A is missing"),
        ("file", ["a", "a"], "row 2: a again, as in row 1"),
    ):
        columns = {"file": ["a", "b"], "prob:A": [0.5, 0.5], "label:A": [1, 0]} | {column: values}
        parquet.write_table(arrow.table(columns), path)
        with pytest.raises(VitpeError) as caught:
            read_answers(path)
        assert message in caught.value.message
    path.write_bytes(b"PAR1 no parquet")
    with pytest.raises(VitpeError, match="is no parquet file"):
        read_answers(path)


def test_files_that_are_not_there_or_have_another_name(tmp_path):
    with pytest.raises(VitpeError, match="cannot read"):
        read_answers(tmp_path / "none.csv")
    with pytest.raises(UsageError, match="does not end in"):
        read_answers(tmp_path / "answers.txt")
    with pytest.raises(UsageError, match="does not end in"):
        check_answers_file(tmp_path / "answers")
    (tmp_path / "there.csv").write_text("precious")
    with pytest.raises(UsageError, match="is there already"):
        check_answers_file(tmp_path / "there.csv")
    with pytest.raises(VitpeError, match="cannot write"):
        check_answers_file(tmp_path / "no" / "answers.csv")


# Through the command line


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_same_digits_as_the_run_that_wrote_them(trained_run, tmp_path, suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow")
    path = tmp_path / f"answers{suffix}"
    first = call_vitpe("eval", trained_run, "--by", "Red", "--answers", path)
    assert first.code == 0
    assert f"wrote 8 answers to {path}" in first.stderr
    again = call_vitpe("eval", "--from-answers", path, "--by", "Red")
    assert (again.code, again.stderr) == (0, "")
    expected, found = json.loads(first.stdout), json.loads(again.stdout)
    for document in (expected, found):  # what only the run knows
        for key in ("checkpoint", "data_source", "step"):
            document.pop(key)
        document["by"].pop("mean_accuracy_reweighted_by_train_shares")
        for group in document["by"]["groups"]:
            group.pop("train_share")
    assert found == expected
    table = call_vitpe("eval", "--from-answers", path, "--format", "csv").stdout
    assert table == call_vitpe("eval", trained_run, "--format", "csv").stdout
    lower = call_vitpe("eval", "--from-answers", path, "--thresholds", "0").stdout
    assert lower.replace(str(path), "x") != again.stdout
    assert json.loads(lower)["attributes"][0]["recall"] in (1, None)


def test_answers_are_scored_without_torch(tmp_path):
    path = tmp_path / "answers.csv"
    path.write_text(f"{HEADER}\n{GOOD}\nb,0.2,0,0.5\n")
    code = (
        "import sys; sys.argv = ['vitpe', *sys.argv[1:]]\n"
        "from vitpe.__main__ import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "assert 'torch' not in sys.modules"
    )
    arguments = ["eval", "--from-answers", str(path), "--by", "A", "--format", "table"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "A=1" in done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ["runs"],
        ["--compare"],
        ["--split", "test"],
        ["--thresholds", "tune"],
        ["--answers", "b.csv"],
        ["--device", "cpu"],
    ],
)
def test_what_needs_a_model_is_refused(tmp_path, arguments):
    called = call_vitpe("eval", "--from-answers", tmp_path / "answers.csv", *arguments)
    assert (called.code, called.out) == (2, b"")
    assert called.stderr.startswith("error: --from-answers with ")
