"""`vitpe eval --by`: which groups, against fairlearn on predict's own answers, and what is refused."""

import json

import numpy as np
import pytest

from tests.helpers.in_process import call_vitpe
from vitpe.errors import UsageError
from vitpe.inference.groups import parse_by


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("Male", {"Male": None}),
        ("Male,Young", {"Male": None, "Young": None}),
        (" Male = 1 , Young ", {"Male": 1, "Young": None}),
        ("Male=0", {"Male": 0}),
        ("Male=-1", {"Male": 0}),
        ("5_o_Clock_Shadow", {"5_o_Clock_Shadow": None}),
    ],
)
def test_what_by_means(text, terms):
    assert parse_by(text) == terms


@pytest.mark.parametrize("text", ["", ",", "Male,", "=1", "Male=2", "Male=", "Male=yes", "Male,Male", "a,b,c,d,e,f"])
def test_what_by_does_not_mean(text):
    with pytest.raises(UsageError, match="--by") as caught:
        parse_by(text)
    assert caught.value.hint


def eval_by(run, by, *more):
    called = call_vitpe("eval", run, "--by", by, *more)
    assert called.code == 0, called.stderr
    return json.loads(called.stdout)["by"]


def labels_of(celeba, split):
    """(n, 4) labels from the files themselves."""
    splits = dict(line.split() for line in (celeba / "list_eval_partition.txt").read_text().splitlines())
    lines = (celeba / "list_attr_celeba.txt").read_text().split("\n")[2:-1]
    rows = [line.split() for line in lines]
    return {name: [int(value == "1") for value in values] for name, *values in rows if splits[name] == split}


def test_groups_are_those_of_the_files(trained_run, celeba):
    valid, train = labels_of(celeba, "1"), np.array(list(labels_of(celeba, "0").values()))
    by = eval_by(trained_run, "Red")
    found = {row["attribute"]: row for row in by["scores"]}
    records = {}
    for line in call_vitpe(
        "predict", "--checkpoint", trained_run, *(celeba / "img_align_celeba" / name for name in valid)
    ).stdout.splitlines():
        record = json.loads(line)
        records[record["file"].rsplit("/", 1)[-1]] = record["present"]
    for value, group in enumerate(found["Green"]["groups"]):
        names = [name for name, labels in valid.items() if labels[0] == value]
        right = [("Green" in records[name]) == valid[name][1] for name in names]
        assert by["groups"][value]["num_images"] == len(names)
        assert group["accuracy"] == (pytest.approx(np.mean(right)) if names else None)
    assert by["groups"][1]["train_share"] == pytest.approx(train[:, 0].mean())


def test_the_product_and_a_part(trained_run):
    by = eval_by(trained_run, "Red,Blue")
    assert [row["group"] for row in by["groups"]] == ["Red=0,Blue=0", "Red=0,Blue=1", "Red=1,Blue=0", "Red=1,Blue=1"]
    assert sum(row["num_images"] for row in by["groups"]) == 8
    part = eval_by(trained_run, "Red=1,Blue")
    assert [row["num_images"] for row in part["groups"]] == [row["num_images"] for row in by["groups"][2:]]
    assert part["num_outside"] == 8 - sum(row["num_images"] for row in part["groups"])


def test_groups_by_labels_that_the_model_does_not_answer(trained_run, celeba, tmp_path):
    rows = ["path,split,Hat,Red"]
    rows += [f"{name},valid,{i % 2},{labels[0]}" for i, (name, labels) in enumerate(labels_of(celeba, "1").items())]
    table = tmp_path / "labels.csv"
    table.write_text("\n".join(rows))
    called = call_vitpe("eval", trained_run, "--data", celeba / "img_align_celeba", "--labels", table, "--by", "Hat")
    by = json.loads(called.stdout)["by"]
    assert [row["num_images"] for row in by["groups"]] == [4, 4]
    assert [row["attribute"] for row in by["scores"]] == ["Red"]
    assert by["mean_accuracy_reweighted_by_train_shares"] is None
    assert "the training images' labels are not known" in called.stderr


def test_the_other_forms(trained_run, tmp_path):
    table = call_vitpe("eval", trained_run, "--by", "Red", "--format", "table", "--sort", "gap")
    assert "worst (n)" in table.stdout
    rows = call_vitpe("eval", trained_run, "--by", "Red", "--format", "csv").stdout.splitlines()
    assert len(rows) == 1 + 4 * 3
    called = call_vitpe("eval", trained_run, "--by", "Red", "--report", tmp_path / "groups.png")
    assert called.code == 0
    assert (tmp_path / "groups.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["--by", "Redd"], "--by Redd: there are no labels of that name", "did you mean Red?"),
        (["--by", "Red=2"], "--by 'Red=2': a label is 0 or 1", "--by Red=1"),
        (["--by", "Red", "--sort", "gapp"], "no column 'gapp'", "with --by there is gap"),
    ],
)
def test_wrong_usage(trained_run, arguments, message, hint):
    called = call_vitpe("eval", trained_run, *arguments)
    assert (called.code, called.out) == (2, b"")
    error, told = called.stderr.splitlines()
    assert error.startswith(f"error: {message}")
    assert hint in told
