"""`train --folds`: no image is answered by a model that saw it, and a cut one goes on where it was."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from tests.fuzz.torture import comparable
from tests.helpers import tiny_options
from tests.helpers.in_process import call_vitpe
from vitpe.data.celeba import read_celeba
from vitpe.data.folds import folds_of
from vitpe.data.sources import open_samples
from vitpe.runs.folder import RunFolder

OPTIONS = {"train__steps": 3, "train__num_evals": 1, "train__num_checkpoints": 1}


@pytest.fixture(scope="module")
def folds(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs in a folder, and their answers; to be read only."""
    folder = tmp_path_factory.mktemp("folds") / "runs"
    called = call_vitpe("train", *tiny_options(celeba, **OPTIONS), "--folds", "3", "--run", folder)
    assert called.code == 0, called.stderr
    summary = json.loads(called.stdout)
    assert (summary["folds"], summary["answers"]) == (3, str(folder / "answers.csv"))
    return folder


def rows(path: Path) -> dict[str, dict[str, str]]:
    with path.open(newline="") as file:
        return {row["file"]: row for row in csv.DictReader(file)}


def test_each_image_is_answered_by_the_model_that_did_not_see_it(folds, celeba, tmp_path):
    found, samples = rows(folds / "answers.csv"), read_celeba(celeba, "train")
    assert [*found] == [*samples.names]
    parts = folds_of(samples.names, 3)
    for number in (1, 2, 3):
        run = folds / f"fold-{number}"
        config = RunFolder(run).read_config()
        assert config.data.fold == (number, 3)
        left_out = {name for name, fold in zip(samples.names, parts, strict=True) if fold == number}
        assert {*open_samples(config.data, "train", (16, 24)).names} == {*samples.names} - left_out
        assert len(open_samples(config.data, "valid", (16, 24)).names) == 8
        file = tmp_path / f"{number}.csv"
        called = call_vitpe("eval", run, "--split", "train", "--answers", file)
        assert called.code == 0, called.stderr
        theirs = rows(file)
        for name in left_out:
            for column, text in found[name].items():
                if column.startswith("prob:"):
                    assert float(text) == pytest.approx(float(theirs[name][column]), abs=1e-6)
                else:
                    assert text == theirs[name][column]
    assert found["000001.jpg"]["split"] == "train"


def test_suspects_are_found_in_them(folds, tmp_path):
    file = tmp_path / "suspects.csv"
    called = call_vitpe("eval", "--from-answers", folds / "answers.csv", "--suspects", file)
    assert called.code == 0, called.stderr
    assert {*rows_of(file)} <= {f"{number:06d}.jpg" for number in range(1, 25)}
    # A model's own train stays refused, also one that left a fold out: most of it, it saw.
    called = call_vitpe("eval", folds / "fold-1", "--split", "train", "--suspects", tmp_path / "other.csv")
    assert called.code == 2


def rows_of(path: Path) -> list[str]:
    with path.open(newline="") as file:
        return [row["image"] for row in csv.DictReader(file)]


def test_what_was_cut_is_resumed_fold_by_fold(folds, tmp_path):
    folder = tmp_path / "runs"
    shutil.copytree(folds, folder)
    (folder / "answers.csv").unlink()
    shutil.rmtree(folder / "fold-3")
    called = call_vitpe("train", "--folds", "3", "--run", folder, "--resume", "--device", "cpu")
    assert called.code == 0, called.stderr
    assert called.stderr.count("is finished after step 3 of 3") == 2
    assert comparable(folder / "fold-3") == comparable(folds / "fold-3")
    assert (folder / "answers.csv").read_bytes() == (folds / "answers.csv").read_bytes()
    again = call_vitpe("train", "--run", folder, "--resume", "--device", "cpu")
    assert again.code == 0, again.stderr
    assert again.stderr.count("is finished after step 3 of 3") == 3


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--folds", "3"], "--folds without --run"),
        (["--folds", "1", "--run", "new"], "--folds 1"),
        (["--folds", "3", "--run", "new", "--minutes", "1"], "--folds with --minutes"),
        (["--folds", "25", "--run", "new"], "24 training images cannot be parted into 25 folds"),
        (["--folds", "3", "--run", "new", "--set", "data.fold=[3,2]"], "fold is 3 of 2"),
    ],
    ids=str,
)
def test_what_means_nothing_is_refused(celeba, tmp_path, options, error, monkeypatch):
    monkeypatch.chdir(tmp_path)
    called = call_vitpe("train", *tiny_options(celeba), *options)
    assert called.code == 2
    assert f"error: {error}" in called.stderr
    assert not (tmp_path / "new" / "fold-1" / "config.json").exists()


def test_runs_that_are_there_are_not_trained_over(folds, celeba):
    called = call_vitpe("train", *tiny_options(celeba, **OPTIONS), "--folds", "3", "--run", folds)
    assert called.code == 2
    assert f"{folds / 'fold-1'}" in called.stderr


def test_another_number_of_folds_is_not_resumed(folds):
    called = call_vitpe("train", "--folds", "4", "--run", folds, "--resume")
    assert (called.code, "--folds 4: the run in" in called.stderr) == (2, True)
