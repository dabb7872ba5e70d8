"""Scoring checkpoints through the command line: the numbers, what is fitted where, and what is refused."""

import csv
import io
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn import metrics as sklearn_metrics

from tests.helpers import COLOURS, contents, run_vitpe, train_tiny, write_celeba
from tests.helpers.in_process import Called, call_vitpe
from vitpe.inference.eval_options import EvalOptions, plan
from vitpe.inference.evaluate import evaluate
from vitpe.metrics.thresholds import calibrate, sigmoid, tune_thresholds
from vitpe.reporting.gallery import NOTICE
from vitpe.runs.checkpoint import load_checkpoint, save_checkpoint
from vitpe.runs.metadata import read_info

CPU = torch.device("cpu")


class Heard:
    """An EvalReporter that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.started: list[tuple[str, int]] = []

    def start(self, description: str, total: int):
        self.started.append((description, total))
        return lambda count: None

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.fixture(scope="module")
def second_run(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another finished tiny run on `celeba`."""
    folder = tmp_path_factory.mktemp("second") / "runs"
    train_tiny(celeba, folder, train__seed=1, train__steps=6)
    return folder


@pytest.fixture
def own(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the tiny run's best checkpoint and configuration, which may be written to."""
    folder = tmp_path / "runs"
    folder.mkdir()
    for name in ("best.safetensors", "config.json"):
        (folder / name).write_bytes((trained_run / name).read_bytes())
    return folder


def answers(checkpoint: Path, **options):
    return evaluate(plan([checkpoint], EvalOptions(**options), print), CPU, Heard())[0]


def scores(called: Called) -> dict[str, dict[str, float | None]]:
    assert called.code == 0, called.stderr
    return {row["attribute"]: row for row in json.loads(called.stdout)["attributes"]}


def read_csv(called: Called) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(called.stdout)))


# The numbers


def test_scores_are_scikit_learns_over_what_predict_says(trained_run, celeba):
    """The other way to the same numbers: predict's own records, the label file, and scikit-learn."""
    labels = {
        line.split()[0]: line.split()[1:] for line in (celeba / "list_attr_celeba.txt").read_text().split("\n")[2:-1]
    }
    valid = [
        line.split()[0] for line in (celeba / "list_eval_partition.txt").read_text().splitlines() if line[-1] == "1"
    ]
    predicted = call_vitpe(
        "predict", *(celeba / "img_align_celeba" / name for name in valid), "--checkpoint", trained_run
    )
    records = [json.loads(line) for line in predicted.stdout.splitlines()]
    found = scores(call_vitpe("eval", trained_run, "--format", "json"))
    assert tuple(found) == COLOURS
    for column, name in enumerate(COLOURS):
        truth = [labels[file][column] == "1" for file in valid]
        probs = [record["probs"][name] for record in records]
        present = [name in record["present"] for record in records]
        row = found[name]
        assert row["prevalence"] == np.mean(truth)
        assert row["accuracy"] == sklearn_metrics.accuracy_score(truth, present)
        assert row["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(truth, probs), abs=1e-9)
        assert row["average_precision"] == pytest.approx(
            sklearn_metrics.average_precision_score(truth, probs), abs=1e-9
        )
        assert row["brier"] == pytest.approx(sklearn_metrics.brier_score_loss(truth, probs), abs=1e-5)


def test_the_formats_say_the_same(trained_run):
    document = json.loads(call_vitpe("eval", trained_run).stdout)  # what a pipe gets
    rows = read_csv(call_vitpe("eval", trained_run, "--format", "csv"))
    assert document["num_images"] == 8
    assert (document["split"], document["data_source"], document["thresholds"]) == ("valid", "celeba", "0.5")
    assert document["checkpoint"] == str(trained_run / "best.safetensors")
    for row, other in zip(document["attributes"], rows, strict=True):
        assert {name: "" if value is None else str(value) for name, value in row.items()} == {
            name: other[name] for name in row
        }
    table = call_vitpe("eval", trained_run, "--format", "table")
    assert (table.code, table.stderr) == (0, "")
    assert all(name in table.stdout for name in (*COLOURS, "mean", "weakest by", "majority"))


def test_output_in_a_pipe_is_the_same_bytes_whatever_the_terminal(trained_run):
    odd = {"COLUMNS": "40", "FORCE_COLOR": "1", "TERM": "xterm-256color", "TTY_COMPATIBLE": "1"}
    for kind in ("json", "csv", "table"):
        plain = call_vitpe("eval", trained_run, "--format", kind)
        coloured = call_vitpe("eval", trained_run, "--format", kind, **odd)
        assert (coloured.out, coloured.stderr) == (plain.out, plain.stderr)
        assert b"\x1b" not in plain.out


def test_a_run_is_its_best_checkpoint_and_any_checkpoint_may_be_named(trained_run):
    best = call_vitpe("eval", trained_run, "--format", "csv")
    assert call_vitpe("eval", trained_run / "best.safetensors", "--format", "csv").out == best.out
    first = trained_run / "ckpts" / "step-0000000.safetensors"
    untrained = scores(call_vitpe("eval", first, "--format", "json"))
    assert all(row["roc_auc"] == 0.5 for row in untrained.values())


def test_the_default_is_the_run_in_this_folder(trained_run):
    done = run_vitpe("eval", cwd=trained_run.parent)
    assert (done.code, done.stderr.replace("loading torch …\n", "")) == (0, "")  # said where that is slow
    assert json.loads(done.stdout)["checkpoint"] == "runs/best.safetensors"


def test_a_whole_split_is_scored_however_few_images_chose_the_checkpoint(celeba, tmp_path):
    train_tiny(celeba, tmp_path / "runs", data__num_valid=3, train__steps=2, train__num_evals=1)
    assert json.loads(call_vitpe("eval", tmp_path / "runs").stdout)["num_images"] == 8


def test_sorting(trained_run):
    def order(*arguments: str) -> list[str]:
        return [row["attribute"] for row in read_csv(call_vitpe("eval", trained_run, "--format", "csv", *arguments))]

    assert order("--sort", "attribute") == sorted(COLOURS)
    assert order("--sort", "-attribute") == sorted(COLOURS)[::-1]
    values = [
        float(row["roc_auc"]) for row in read_csv(call_vitpe("eval", trained_run, "--format", "csv", "--sort", "auc"))
    ]
    assert values == sorted(values, reverse=True)


# Splits and notes


def test_test_is_for_the_final_report(trained_run):
    called = call_vitpe("eval", trained_run, "--split", "test")
    assert called.stderr == "test is for the final report: choose models on valid\n"
    assert json.loads(called.stdout)["split"] == "test"


def test_drawn_faces_say_so(tmp_path, celeba):
    values = {"data__num_train": 8, "data__num_valid": 4, "train__steps": 1, "train__num_evals": 1}
    train_tiny("drawn_faces", tmp_path / "runs", **values)
    model, info = load_checkpoint(tmp_path / "runs" / "best.safetensors")
    assert info.data_source == "drawn_faces"
    few = replace(
        info, model=replace(info.model, num_classes=4), attributes=COLOURS, thresholds=(0.5,) * 4, prevalence=()
    )
    tensors = model.state_dict() | {"head.weight": model.head.weight[:4], "head.bias": model.head.bias[:4]}
    save_checkpoint(tmp_path / "few.safetensors", tensors, few)
    called = call_vitpe("eval", tmp_path / "few.safetensors", "--data", celeba)
    assert called.code == 0
    found, told = called.stderr.splitlines()
    assert found == "data: CelebA, 8 images of valid (of 202,599 published), 4 attributes"
    assert told == f"{tmp_path}/few.safetensors was trained on drawn faces, not on photos"


def test_labels_of_some_attributes_and_of_others(own, celeba, tmp_path):
    """A table with two of the checkpoint's attributes and one more: the two are scored."""
    lines = (celeba / "list_attr_celeba.txt").read_text().split("\n")[2:-1]
    rows = ["path,split,Blue,Other,Red"]
    for name, red, _, blue, _ in (line.split() for line in lines):
        rows.append(f"{name},valid,{int(blue == '1')},0,{int(red == '1')}")
    labels = tmp_path / "labels.csv"
    labels.write_text("\n".join(rows))
    called = call_vitpe("eval", own, "--data", celeba / "img_align_celeba", "--labels", labels)
    found = scores(called)
    assert list(found) == ["Red", "Blue"]
    assert "2 of 4 attributes have no labels here and are left out: Green, Bright" in called.stderr
    whole = [answers(own, split=split) for split in ("train", "valid", "test")]
    for column, name in ((0, "Red"), (2, "Blue")):
        truth = np.concatenate([each.labels[:, column] for each in whole])
        probs = np.concatenate([each.probs()[:, column] for each in whole])
        assert found[name]["roc_auc"] == pytest.approx(sklearn_metrics.roc_auc_score(truth, probs), abs=1e-9)
    labels.write_text("\n".join(row.replace("valid", "test") for row in rows + rows[1:2]).replace("Blue", "Azure"))
    arguments = ["eval", own, "--data", celeba / "img_align_celeba", "--labels", labels, "--split", "test"]
    before = contents(own)
    refused = call_vitpe(*arguments, "--thresholds", "tune")
    assert refused.code == 1
    assert contents(own) == before


def test_no_attribute_in_common(trained_run, celeba, tmp_path):
    labels = tmp_path / "labels.csv"
    labels.write_text("path,split,Hat,Scarf\n000001.jpg,valid,0,1\n000002.jpg,valid,1,0\n")
    called = call_vitpe("eval", trained_run, "--data", celeba / "img_align_celeba", "--labels", labels)
    assert (called.code, called.out) == (1, b"")
    assert "has labels for Hat, Scarf" in called.stderr
    assert "answers Red, Green, Blue, …" in called.stderr


# Two checkpoints


def test_comparing(trained_run, second_run):
    called = call_vitpe("eval", "--compare", trained_run, second_run)
    assert (called.code, called.stderr) == (0, "")
    document = json.loads(called.stdout)
    before, after = (scores(call_vitpe("eval", run)) for run in (trained_run, second_run))
    for row in document["attributes"]:
        for metric in ("accuracy", "roc_auc", "brier"):
            expected = after[row["attribute"]][metric] - before[row["attribute"]][metric]
            assert row[metric]["difference"] == pytest.approx(expected, abs=1e-12)
    assert document["first"]["checkpoint"] == f"{trained_run}/best.safetensors"
    rows = read_csv(call_vitpe("eval", trained_run, "--compare", second_run, "--format", "csv"))
    assert [row["difference"] for row in rows if row["metric"] == "accuracy"] == [
        str(row["accuracy"]["difference"]) for row in document["attributes"]
    ]
    table = call_vitpe("eval", trained_run, second_run, "--compare", "--format", "table", "--sort", "difference")
    assert "B-A" in table.stdout


def test_a_checkpoint_does_not_differ_from_itself(trained_run):
    document = json.loads(call_vitpe("eval", "--compare", trained_run, trained_run).stdout)
    assert {mean["difference"] for mean in document["mean"].values()} == {0.0}
    assert not any(mean["exceeds"] for mean in document["mean"].values())


def test_comparing_needs_the_same_images_and_attributes(trained_run, tmp_path, celeba):
    other = write_celeba(tmp_path / "other", 12, 8, 8, seed=3)
    train_tiny(other, tmp_path / "runs", train__steps=1, train__num_evals=1)
    called = call_vitpe("eval", "--compare", trained_run, tmp_path / "runs")
    assert called.code == 2
    assert f"was trained on {celeba}" in called.stderr
    assert "--data FOLDER" in called.stderr
    assert call_vitpe("eval", "--compare", trained_run, tmp_path / "runs", "--data", celeba).code == 0
    model, info = load_checkpoint(trained_run / "best.safetensors")
    names = ("Red", "Green", "Blue", "Dark")
    save_checkpoint(tmp_path / "dark.safetensors", model.state_dict(), replace(info, attributes=names))
    called = call_vitpe("eval", "--compare", trained_run, tmp_path / "dark.safetensors", "--data", celeba)
    assert (called.code, called.out) == (1, b"")
    assert "compare models of the same attributes and images" in called.stderr


# What is fitted


def test_thresholds_are_tuned_on_valid_stored_and_used_elsewhere(own, celeba):
    valid = answers(own)
    expected = tune_thresholds(valid.probs(), valid.labels, "balanced_accuracy")
    assert set(expected) != {0.5}
    called = call_vitpe("eval", own, "--split", "test", "--thresholds", "tune", "--criterion", "balanced_accuracy")
    assert [row["threshold"] for row in scores(called).values()] == expected.tolist()
    assert json.loads(called.stdout)["thresholds"] == "tuned on valid for balanced_accuracy"
    assert "now has thresholds tuned on valid for balanced_accuracy, calibration none" in called.stderr
    info = read_info(own / "best.safetensors")
    assert info.thresholds == tuple(expected)
    again = call_vitpe("eval", own, "--split", "test")
    assert again.out == called.out
    # Nothing else has changed, and predict uses them.
    np.testing.assert_array_equal(answers(own).logits, valid.logits)
    record = json.loads(call_vitpe("predict", celeba / "img_align_celeba/000001.jpg", "--checkpoint", own).stdout)
    for name, threshold in zip(COLOURS, expected, strict=True):
        assert (name in record["present"]) == (record["probs"][name] >= threshold)


def test_thresholds_are_not_reported_where_they_were_tuned(own):
    before = scores(call_vitpe("eval", own))
    assert call_vitpe("eval", own, "--split", "test", "--thresholds", "tune").code == 0
    called = call_vitpe("eval", own)
    assert scores(called) == before
    assert "so valid is scored at 0.5; --split test uses them" in called.stderr
    assert json.loads(called.stdout)["thresholds"] == "0.5"
    refused = call_vitpe("eval", own, "--thresholds", "tune")
    assert (refused.code, refused.out) == (2, b"")
    assert refused.stderr.startswith("error: what is fitted on valid must not be reported on valid\n")


def test_a_threshold_for_all(trained_run):
    found = scores(call_vitpe("eval", trained_run, "--thresholds", "0"))
    assert all(row["recall"] == 1 and row["accuracy"] == row["prevalence"] for row in found.values())
    assert json.loads(call_vitpe("eval", trained_run, "--thresholds", "0.25").stdout)["thresholds"] == "0.25"


@pytest.mark.parametrize("method", ["temperature", "platt"])
def test_calibration_becomes_part_of_the_checkpoint(own, method):
    before, before_test = answers(own), answers(own, split="test")
    fitted = calibrate(before.logits, before.labels, method)
    call_vitpe("eval", own, "--split", "test", "--thresholds", "tune")
    called = call_vitpe("eval", own, "--split", "test", "--calibrate", method)
    assert called.code == 0
    assert f"now has thresholds 0.5, calibration {method} on valid" in called.stderr
    after = answers(own, split="test")
    np.testing.assert_allclose(after.logits, fitted.apply(before_test.logits), rtol=1e-4, atol=1e-4)
    assert (after.info.calibration_method, after.info.calibration_split) == (method, "valid")
    assert set(after.info.thresholds) == {0.5}  # those tuned before belonged to other probabilities
    assert np.abs(after.logits - before_test.logits).max() > 0.1

    def loss(each) -> float:
        return sklearn_metrics.log_loss(each.labels.ravel(), each.probs().ravel())

    assert loss(answers(own)) < loss(before)
    assert "was calibrated on valid, which flatters" in call_vitpe("eval", own).stderr


def test_calibrating_and_tuning_at_once_tunes_what_was_calibrated(own):
    before = answers(own)
    called = call_vitpe("eval", own, "--split", "test", "--calibrate", "platt", "--thresholds", "tune")
    assert called.code == 0
    probs = sigmoid(calibrate(before.logits, before.labels, "platt").apply(before.logits))
    expected = tune_thresholds(probs, before.labels, "f1")
    np.testing.assert_allclose(read_info(own / "best.safetensors").thresholds, expected, atol=1e-12)


# The report, and wrong usage


def test_the_report_is_a_picture_or_a_page(trained_run, tmp_path):
    called = call_vitpe("eval", trained_run, "--report", tmp_path / "report.png")
    assert (called.code, called.stderr) == (0, "")
    assert called.out == call_vitpe("eval", trained_run).out
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")
    called = call_vitpe("eval", trained_run, "--report", tmp_path / "report.html", "--by", "Red")
    assert (called.code, called.stderr) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert "torch " in page
    assert "Red=1" in page
    refused = call_vitpe("eval", trained_run, "--report", tmp_path / "no" / "report.png")
    assert refused.code == 1
    assert refused.stderr.startswith(f"error: cannot write {tmp_path}/no/report.png: ")


@pytest.mark.parametrize("suffix", [".html", ".png"])
def test_the_gallery_is_of_the_scored_images(trained_run, tmp_path, suffix):
    path = tmp_path / f"gallery{suffix}"
    for _ in range(2):  # its own is replaced
        called = call_vitpe("eval", trained_run, "--gallery", path, "--attributes", "Bright", "--format", "json")
        assert called.code == 0, called.stderr
        assert called.stderr == f"{path}: {NOTICE}\n"
    document = json.loads(called.out)
    assert [row["attribute"] for row in document["attributes"]] == ["Bright"]
    whole = json.loads(call_vitpe("eval", trained_run, "--format", "json").out)
    assert document["attributes"][0] == next(row for row in whole["attributes"] if row["attribute"] == "Bright")
    if suffix == ".html":
        assert '"name":"Bright"' in path.read_text()
    path.write_bytes(b"a holiday")
    refused = call_vitpe("eval", trained_run, "--gallery", path)
    assert (refused.code, path.read_bytes()) == (2, b"a holiday")


def test_stored_answers_have_no_gallery_and_no_two_results_go_into_one_file(trained_run, tmp_path):
    stored = tmp_path / "answers.csv"
    assert call_vitpe("eval", trained_run, "--answers", stored, "--attributes", "Bright").code == 0
    assert "prob:Red" in stored.read_text()  # all answers, whichever are scored
    refused = call_vitpe("eval", "--from-answers", stored, "--gallery", tmp_path / "g.html")
    assert refused.code == 2
    assert refused.stderr.startswith("error: --from-answers with --gallery, and answers hold no images\n")
    called = call_vitpe("eval", "--from-answers", stored, "--attributes", "Bright", "--report", tmp_path / "r.html")
    assert called.code == 0, called.stderr
    refused = call_vitpe("eval", "--from-answers", stored, "--attributes", "Brigt")
    assert (refused.code, refused.stderr.splitlines()[1]) == (2, "hint: did you mean Bright?")
    refused = call_vitpe("eval", trained_run, "--suspects", tmp_path / "x.csv", "--answers", tmp_path / "x.csv")
    assert refused.stderr.startswith(f"error: --suspects and --answers both name {tmp_path}/x.csv\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attributes", "Brigt"], "no attribute 'Brigt' in this checkpoint"),
        (["other", "--compare", "--gallery", "x.html"], "--compare has no --gallery"),
        (["--sort", "lit"], "no column 'lit' to sort by"),
        (["--format", "jsonl"], "--format 'jsonl'"),
        (["--split", "dev"], "--split 'dev'"),
        (["--thresholds", "tuned"], "--thresholds 'tuned'"),
        (["--thresholds", "2"], "threshold 2 is not a probability"),
        (["--thresholds", "nan"], "threshold nan is not a probability"),
        (["--criterion", "f1"], "--criterion f1 without tuning"),
        (["--criterion", "recall"], "--criterion 'recall'"),
        (["--calibrate", "isotonic"], "--calibrate 'isotonic'"),
        (["--calibrate", "platt"], "what is fitted on valid must not be reported on valid"),
        (["--labels", "labels.csv"], "--labels labels.csv without --data"),
        (["--compare"], "1 checkpoint named"),
        (["other"], "2 checkpoints named"),
        (["other", "--compare", "--report", "x.png"], "--compare has no --report"),
        (
            ["other", "--compare", "--sort", "f1", "--format", "csv"],
            "--compare has no --report, and --sort for its table",
        ),
        (["--device", "tpu"], "unknown device 'tpu'"),
    ],
)
def test_wrong_usage(trained_run, arguments, message):
    called = call_vitpe("eval", trained_run, *arguments)
    assert (called.code, called.out) == (2, b"")
    error, hint = called.stderr.splitlines()
    assert error.startswith(f"error: {message}")
    assert hint.startswith("hint: ")


def test_what_is_no_checkpoint(trained_run, celeba, tmp_path):
    model, info = load_checkpoint(trained_run / "best.safetensors")
    save_checkpoint(tmp_path / "history.safetensors", model.state_dict(), replace(info, history_only=True))
    (tmp_path / "text.safetensors").write_text("no checkpoint")
    save_checkpoint(tmp_path / "alone.safetensors", model.state_dict(), info)
    for path, code, message in (
        (tmp_path / "missing", 1, f"no checkpoint {tmp_path}/missing"),
        (celeba, 1, f"{celeba} holds no checkpoint"),
        (tmp_path / "text.safetensors", 1, f"{tmp_path}/text.safetensors is no whole safetensors file"),
        (tmp_path / "history.safetensors", 2, f"{tmp_path}/history.safetensors does not say where its images are"),
        (tmp_path / "alone.safetensors", 2, f"{tmp_path}/alone.safetensors does not say where its images are"),
    ):
        called = call_vitpe("eval", path)
        assert (called.code, called.out) == (code, b"")
        assert called.stderr.startswith(f"error: {message}")
        assert "\nhint: " in called.stderr
    called = call_vitpe("eval", tmp_path / "history.safetensors", "--data", celeba)
    assert called.code == 1
    assert "holds position embeddings only" in called.stderr


def test_a_folder_of_checkpoints_names_what_can_be_scored(trained_run, celeba, tmp_path):
    run, history = tmp_path / "all" / "run", tmp_path / "history"
    shutil.copytree(trained_run, run)
    shutil.copytree(trained_run / "ckpts", history)
    (tmp_path / "x.safetensors").mkdir()
    count = len(list(history.iterdir()))
    last = max(history.iterdir())
    for path, fact, hint in (
        (run / "ckpts", f"is the history of a run, {count} checkpoints", f"name the run, whose best is taken: {run}"),
        (history, f"holds {count} checkpoints, none of them called best.safetensors", f"name one: {last}"),
        (tmp_path / "x.safetensors", "holds no checkpoint", "train one"),
    ):
        for command in (["eval", "--data", celeba], ["predict", "a.jpg", "--checkpoint"], ["export"]):
            called = call_vitpe(*command, path)
            assert called.code == 1
            assert called.stderr.startswith(f"error: {path} {fact}\nhint: {hint}")


def test_data_that_cannot_be_read(trained_run, tmp_path):
    called = call_vitpe("eval", trained_run, "--data", tmp_path / "nothing")
    assert (called.code, called.out) == (1, b"")
    assert str(tmp_path / "nothing") in called.stderr


def test_tuning_for_another_score_says_what_accuracy_pays(trained_run, tmp_path):
    notes = {}
    for criterion in ("f1", "accuracy"):
        run = shutil.copytree(trained_run, tmp_path / criterion)
        called = call_vitpe("eval", run, "--thresholds", "tune", "--criterion", criterion, "--split", "test")
        assert called.code == 0, called.stderr
        notes[criterion] = re.search(r"in place of 0\.5: accuracy (\S+) where it was (\S+), F1", called.stderr)
    assert notes["accuracy"] is None
    after, before = (float(number) for number in notes["f1"].groups())
    document = json.loads(call_vitpe("eval", trained_run, "--thresholds", "0.5").stdout)
    assert before == pytest.approx(100 * document["mean"]["accuracy"]["value"], abs=0.051)
    assert 0 <= after <= 100
