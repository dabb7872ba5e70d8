"""What programs read of scores and predictions is exact and stays as it is."""

import csv
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.helpers.answers import INFO, NAMES, answers, face
from vitpe.errors import UsageError
from vitpe.inference.predictions import EvalInfo, Prediction, select_attributes
from vitpe.metrics.names import METRICS
from vitpe.metrics.scores import score
from vitpe.reporting.metric_formats import sort_order
from vitpe.reporting.records import prediction_json, predictions_csv, predictions_json, predictions_jsonl
from vitpe.reporting.score_records import compare_csv, compare_json, eval_csv, eval_json
from vitpe.reporting.tables import eval_table


def strict_json(text):
    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_eval_json_has_every_score(scores):
    document = strict_json(eval_json(scores, INFO))
    assert list(document) == [
        *("schema", "checkpoint", "split", "data_source", "step", "thresholds", "calibration", "precision"),
        *("num_images", "num_attributes", "bootstrap", "mean", "attributes"),
    ]
    assert document["schema"] == 1
    assert document["checkpoint"] == "runs/best.safetensors"
    assert document["bootstrap"] == {"num_resamples": 100, "seed": 0, "level": 0.95}
    assert list(document["mean"]) == list(METRICS)
    accuracy = scores.means["accuracy"]
    assert document["mean"]["accuracy"] == {
        "value": accuracy.value,
        "low": accuracy.low,
        "high": accuracy.high,
        "num_undefined": 0,
    }
    assert [entry["attribute"] for entry in document["attributes"]] == list(NAMES)
    for a, entry in enumerate(document["attributes"]):
        assert list(entry) == ["attribute", "threshold", *METRICS]
        for metric in METRICS:
            value = scores[metric][a]
            assert entry[metric] == (None if np.isnan(value) else value)
    assert document["attributes"][7]["roc_auc"] is None


def test_eval_json_on_one_line(scores):
    text = eval_json(scores, INFO, indent=None)
    assert text.count("\n") == 1
    assert json.loads(text) == json.loads(eval_json(scores, INFO))


def test_no_bootstrap_is_null():
    plain = score(*answers(), NAMES, num_resamples=0)
    document = strict_json(eval_json(plain, INFO))
    assert document["bootstrap"] is None
    assert document["mean"]["f1"]["low"] is None


def test_eval_csv_reads_back_exactly(scores):
    text = eval_csv(scores, sort="-auc")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert text.splitlines()[0] == (
        "attribute,num_images,threshold,prevalence,accuracy,majority_accuracy,lift,balanced_accuracy,precision,recall,"
        "f1,average_precision,roc_auc,brier,ece"
    )
    assert [entry["attribute"] for entry in rows] == [NAMES[a] for a in sort_order(scores, "-auc")]
    for entry in rows:
        a = NAMES.index(entry["attribute"])
        assert entry["num_images"] == "300"
        for metric in METRICS:
            value = scores[metric][a]
            assert entry[metric] == "" if np.isnan(value) else float(entry[metric]) == value


def test_compare_json_and_csv_agree(comparison):
    document = strict_json(compare_json(comparison, INFO, EvalInfo("b.safetensors", "valid", "drawn_faces")))
    assert document["schema"] == 1
    assert document["second"]["checkpoint"] == "b.safetensors"
    smiling = document["attributes"][5]
    assert smiling["attribute"] == "Smiling"
    assert smiling["accuracy"]["exceeds"] is True
    assert smiling["accuracy"]["difference"] == smiling["accuracy"]["second"] - smiling["accuracy"]["first"] < 0
    assert smiling["ece"]["exceeds"] is None
    assert document["attributes"][0]["accuracy"]["exceeds"] is False
    assert document["mean"]["accuracy"]["exceeds"] is True
    rows = list(csv.DictReader(io.StringIO(compare_csv(comparison))))
    assert len(rows) == len(NAMES) * len(METRICS)
    (found,) = [entry for entry in rows if (entry["attribute"], entry["metric"]) == ("Smiling", "accuracy")]
    assert found["exceeds"] == "true"
    assert float(found["low"]) == smiling["accuracy"]["low"]
    (never,) = [entry for entry in rows if (entry["attribute"], entry["metric"]) == ("Zebra", "roc_auc")]
    assert [never["first"], never["difference"], never["exceeds"]] == ["", "", ""]


def test_the_schema_of_predictions_is_frozen():
    """Changing a line here breaks the pipes of users: raise SCHEMA when a field's name, type or meaning changes."""
    assert prediction_json(face()) == (
        '{"schema": 1, "file": "face.jpg", "probs": {"Bald": 0.031235, "Smiling": 0.97, "Male": 0.5, "Young": 0.6},'
        ' "present": ["Smiling", "Young", "Male"]}'
    )
    assert prediction_json(Prediction("bad.jpg", error="no image")) == (
        '{"schema": 1, "file": "bad.jpg", "error": "no image"}'
    )
    assert "".join(predictions_csv([face(), Prediction("bad.jpg", error="no, image")], ["Bald", "Smiling"])) == (
        'file,present,error,Bald,Smiling\nface.jpg,Smiling;Young;Male,,0.031235,0.97\nbad.jpg,,"no, image",,\n'
    )


def test_top_lists_the_most_probable_first():
    record = json.loads(prediction_json(face(top=2)))
    assert list(record["probs"]) == ["Smiling", "Young"]
    assert record["present"] == ["Smiling", "Young"]
    assert list(face(top=9).probs) == ["Smiling", "Young", "Male", "Bald"]
    assert "".join(predictions_csv([face(top=1)], ["Bald", "Smiling"])).splitlines()[1] == "face.jpg,Smiling,,,0.97"


def test_present_follows_each_attributes_threshold():
    record = Prediction.from_probs("f", np.array([0.3, 0.9]), ["A", "B"], np.array([0.3, 0.95]))
    assert record.present == ("A",)


def test_attributes_are_selected_in_the_order_asked():
    assert select_attributes(NAMES, ["Smiling", "Bald", "Smiling"]) == [5, 0]
    with pytest.raises(UsageError, match="no attribute 'smilling'") as raised:
        select_attributes(NAMES, ["smilling"])
    assert raised.value.hint == "did you mean Smiling?"
    assert raised.value.exit_code == 2


def test_predictions_stream_one_by_one():
    taken = []

    def predictions():
        for number in range(3):
            taken.append(number)
            yield Prediction(f"{number}.jpg", {"A": 0.5}, ("A",))

    lines = predictions_jsonl(predictions())
    assert json.loads(next(lines))["file"] == "0.jpg"
    assert taken == [0]
    pieces = predictions_json(predictions())
    assert next(pieces).startswith("[\n{")
    assert taken == [0, 0]
    assert [record["file"] for record in json.loads("".join(predictions_json(predictions())))] == [
        *("0.jpg", "1.jpg", "2.jpg")
    ]
    assert json.loads("".join(predictions_json([]))) == []


@given(st.text(st.characters(codec=None, exclude_categories=())), st.text())
def test_any_file_name_survives(file, error):
    line = prediction_json(Prediction(file, error=error))
    assert "\n" not in line
    assert line.encode()
    assert json.loads(line)["file"] == file
    header, *rows = csv.reader(
        io.StringIO("".join(predictions_csv([Prediction(file, error=error)], ["A"])), newline="")
    )
    assert header == ["file", "present", "error", "A"]
    assert rows == [[file, "", error, ""]]


def test_letters_stay_letters_and_bytes_that_are_no_text_are_escaped():
    assert '"é/日本.jpg"' in prediction_json(Prediction("é/日本.jpg"))
    assert '"caf\\udce9.jpg"' in prediction_json(Prediction(b"caf\xe9.jpg".decode(errors="surrogateescape")))


def test_sort_order_puts_the_best_first_and_the_undefined_last(scores):
    assert sort_order(scores, None) == list(range(8))
    assert sort_order(scores, "attribute") == list(range(8))
    assert sort_order(scores, "-attribute") == list(range(8))[::-1]
    for key, metric in (("auc", "roc_auc"), ("F1", "f1"), ("lift", "lift")):
        order = sort_order(scores, key)
        values = scores[metric][order]
        defined = values[~np.isnan(values)]
        assert (np.diff(defined) <= 0).all()
        assert np.isnan(values[len(defined) :]).all()
        turned = scores[metric][sort_order(scores, f"-{key}")]
        assert (np.diff(turned[: len(defined)]) >= 0).all()
        assert np.isnan(turned[len(defined) :]).all()
    assert (np.diff(scores["brier"][sort_order(scores, "brier")]) >= 0).all()


def test_an_unknown_column_is_named(scores):
    with pytest.raises(UsageError, match="no column 'recal' to sort by") as raised:
        eval_table(scores, INFO, sort="recal")
    assert raised.value.hint == "did you mean recall?"


def test_columns_of_a_csv_are_unique_and_cells_as_they_are():
    names = ("file", "Smiling", "error", "attribute:error", "=1+1", "-x", "@y", "+z")
    prediction = Prediction.from_probs("=cmd.jpg", np.linspace(0.1, 0.9, 8), names, np.full(8, 0.5))
    text = "".join(predictions_csv([prediction], names))
    header, row = csv.reader(io.StringIO(text))
    assert header[:3] == ["file", "present", "error"]
    assert header[3:] == ["attribute:file", "Smiling", "attribute:attribute:error", "attribute:error", *names[4:]]
    assert len(set(header)) == len(header)
    assert row[0] == "=cmd.jpg"
