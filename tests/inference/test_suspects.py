"""Suspect labels through the command line: the file, its counts, and what is refused; and which rows it has."""

import csv
import io
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import COLOURS, train_tiny, write_celeba
from tests.helpers.in_process import call_vitpe
from vitpe.inference.answers import Labels
from vitpe.inference.eval_options import EvalOptions, plan
from vitpe.inference.evaluate import evaluate
from vitpe.inference.suspects import suspect_labels
from vitpe.metrics.suspects import find_suspects
from vitpe.metrics.thresholds import sigmoid
from vitpe.reporting.suspect_records import suspects_csv, suspects_notes


class Silent:
    """An EvalReporter."""

    def start(self, description: str, total: int):
        return lambda count: None

    def note(self, text: str) -> None:
        pass


@pytest.fixture(scope="module")
def mislabelled(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other images of the same kind, half of the valid split's labels wrong."""
    folder = write_celeba(tmp_path_factory.mktemp("other") / "data", 8, 40, 8, seed=9)
    table = (folder / "list_attr_celeba.txt").read_text().splitlines()
    for number in range(10, 2 + 8 + 40, 2):
        name, *labels = table[number].split()
        table[number] = " ".join([name, *(str(-int(label)) for label in labels)])
    (folder / "list_attr_celeba.txt").write_text("\n".join(table) + "\n")
    return folder


def answered(run: Path, data: Path):
    return evaluate(plan([run], EvalOptions(data=str(data)), print), torch.device("cpu"), Silent())[0]


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_the_file_holds_what_the_model_contradicts(trained_run, mislabelled, tmp_path):
    file = tmp_path / "suspects.csv"
    called = call_vitpe("eval", trained_run, "--data", mislabelled, "--suspects", file)
    assert called.code == 0, called.stderr
    result = answered(trained_run, mislabelled)
    expected = find_suspects(result.probs(), result.labels, result.attributes)
    rows = read(file)
    assert len(rows) == expected.found.sum() > 0
    assert list(rows[0])[:2] == ["image", "attribute"]
    assert list(rows[0])[-1] == "value"
    assert [int(row["rank"]) for row in rows] == list(range(1, len(rows) + 1))
    confidences = []
    for row in rows:
        at = list(result.names).index(row["image"]), COLOURS.index(row["attribute"])
        assert expected.found[at]
        assert int(row["label"]) == result.labels[at]
        assert float(row["probability"]) == pytest.approx(result.probs()[at], abs=1e-6)
        assert (row["kind"], row["contradicts"], row["value"]) == ("model", "", "")
        confidences.append(expected.self_confidence[at])
    assert confidences == sorted(confidences)
    assert f"{len(rows)} of 160 labels are suspect" in called.stderr

    document = json.loads(called.stdout)
    weak = [row["attribute"] for row in document["attributes"] if row["lift"] <= 0]
    assert (f"no better than the majority answer on {len(weak)} of 4 attributes" in called.stderr) == bool(weak)
    found = document["suspects"]
    assert (found["num_labels"], found["num_suspects"]) == (160, len(rows))
    assert found["contradictions"] == []  # colours exclude nothing
    for a, row in enumerate(found["attributes"]):
        assert row["attribute"] == COLOURS[a]
        assert row["num_suspects"] == sum(other["attribute"] == COLOURS[a] for other in rows)
        assert [row["should_be_present"], row["should_be_absent"]] == expected.num_errors()[a].tolist()


def test_labels_that_contradict_each_other_stand_there_once_each(trained_run, celeba):
    names = ("Bald", "Bangs", "Gray_Hair", "Smiling")
    labels = np.array([[1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 0, 0], [0, 0, 0, 0], [1, 0, 0, 1]], np.uint8)
    logits = np.where(labels == 1, 3.0, -3.0)
    logits[0, 0] = -4.0  # the model says that the first is not bald
    given = answered(trained_run, celeba).answers()
    found = suspect_labels(
        replace(
            given,
            attributes=names,
            labels=Labels(names, labels),
            probs=sigmoid(logits),
            names=[f"{n}.jpg" for n in range(5)],
        )
    )
    rows = [(row.image, row.attribute, row.kind, row.contradicts) for row in found.rows]
    assert rows == [
        ("0.jpg", "Bald", "both", ("Bangs", "Gray_Hair")),
        ("0.jpg", "Bangs", "contradiction", ("Bald",)),
        ("0.jpg", "Gray_Hair", "contradiction", ("Bald",)),
    ]
    assert dict(zip(found.contradictions.pairs, found.contradictions.counts(), strict=True)) == {
        ("Bald", "Bangs"): 1,
        ("Bald", "Gray_Hair"): 1,
    }
    assert suspects_csv(found).splitlines()[1] == "0.jpg,Bald,1,0.017986,both,Bangs;Gray_Hair,1,"


def test_a_file_that_may_have_been_edited_is_never_replaced(trained_run, tmp_path):
    file = tmp_path / "suspects.csv"
    assert call_vitpe("eval", trained_run, "--suspects", file).code == 0
    before = file.read_bytes()
    again = call_vitpe("eval", trained_run, "--suspects", file)
    assert again.code == 2
    assert "may have been edited" in again.stderr
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--suspects", "s.txt"), "does not end in .csv"),
        (("--suspects", "s.csv", "--split", "train"), "was trained on train"),
        (("--suspects", "s.csv", "--compare", "other"), "--compare has no --suspects"),
    ],
)
def test_wrong_usage(trained_run, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    called = call_vitpe("eval", trained_run, *arguments)
    assert called.code == 2
    assert message in called.stderr
    assert "hint:" in called.stderr
    assert not list(tmp_path.iterdir())


def test_train_is_for_models_that_did_not_train_on_it(trained_run, celeba, mislabelled, tmp_path):
    def code_and_notes(run: Path, data: Path):
        file = tmp_path / "suspects.csv"
        called = call_vitpe("eval", run, "--data", data, "--split", "train", "--suspects", file)
        assert file.exists() == (called.code == 0)
        file.unlink(missing_ok=True)
        return called.code, called.stderr

    code, notes = code_and_notes(trained_run, celeba)
    assert (code, "agrees with its wrong labels" in notes) == (1, True)
    copied = Path(shutil.copytree(celeba, tmp_path / "copied"))  # the same images in another place
    code, notes = code_and_notes(trained_run, copied)
    assert (code, "agrees with its wrong labels" in notes) == (1, True)
    code, notes = code_and_notes(trained_run, mislabelled)
    assert (code, "agrees" in notes) == (0, False)
    alone = tmp_path / "alone.safetensors"
    alone.write_bytes((trained_run / "best.safetensors").read_bytes())
    code, notes = code_and_notes(alone, celeba)
    assert (code, "no run says" in notes) == (0, True)


def test_where_the_model_knows_nothing_its_doubts_are_said_to_mean_little(trained_run, celeba):
    labels = np.array([[1, 0], [0, 1], [1, 0], [0, 1]])
    probs = np.stack([np.where(labels[:, 0], 0.9, 0.1), [0.9, 0.1, 0.9, 0.1]], axis=1)
    given = replace(
        answered(trained_run, celeba).answers(),
        attributes=("Smiling", "Young"),
        labels=Labels(("Smiling", "Young"), labels.astype(np.uint8)),
        probs=probs,
        thresholds=np.full(2, 0.5),
        names=list("abcd"),
    )
    lines = list(suspects_notes(suspect_labels(given), given.scores(), Path("s.csv")))
    assert lines[-1].endswith("1 of 2 attributes, and its doubts there say little: Young")
    better = replace(given, probs=np.where(labels, 0.9, 0.1))
    assert list(suspects_notes(suspect_labels(better), better.scores(), Path("s.csv"))) == [
        "none of 8 labels is suspect: s.csv has no rows"
    ]


def test_so_it_is_for_one_that_trained_on_some_attributes_or_corrected_labels(celeba, tmp_path):
    """In another place the images are known by valid as the run saw it."""
    fixed = tmp_path / "fixed.csv"
    fixed.write_text("image,attribute,value\n000026.jpg,Red,1\n000027.jpg,Red,1\n000028.jpg,Red,0\n000029.jpg,Red,0\n")
    copied = Path(shutil.copytree(celeba, tmp_path / "copied"))
    for number, values in enumerate(({"data__attributes": ["Green", "Red"]}, {"data__relabel": str(fixed)})):
        run, file = tmp_path / str(number), tmp_path / "suspects.csv"
        train_tiny(celeba, run, train__steps=1, **values)
        called = call_vitpe("eval", run, "--data", copied, "--split", "train", "--suspects", file)
        assert (called.code, file.exists()) == (1, False)
        assert "agrees with its wrong labels" in called.stderr
    fixed.unlink()  # so that nobody knows any more
    called = call_vitpe("eval", run, "--data", copied, "--split", "train", "--suspects", file)
    assert (called.code, file.exists()) == (0, True)
    assert "was trained on these images is not known (no file" in called.stderr


def test_the_edited_file_is_what_relabel_takes(trained_run, mislabelled, tmp_path):
    file, edited = tmp_path / "suspects.csv", tmp_path / "edited.csv"
    before = json.loads(call_vitpe("eval", trained_run, "--data", mislabelled, "--suspects", file).stdout)
    rows = read(file)
    with edited.open("w", newline="") as written:
        writer = csv.DictWriter(written, list(rows[0]))
        writer.writeheader()
        writer.writerows(row | {"value": 1 - int(row["label"])} for row in rows[:10])
        writer.writerows(rows[10:])  # not looked at yet: no change
    again = call_vitpe("eval", trained_run, "--data", mislabelled, "--relabel", edited)
    assert again.code == 0, again.stderr
    accuracies = [document["mean"]["accuracy"]["value"] for document in (before, json.loads(again.stdout))]
    # A suspect is a label that the model contradicts, so each one changed is one more that agrees.
    assert accuracies[1] - accuracies[0] == pytest.approx(10 / 160)
