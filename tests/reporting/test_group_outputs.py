"""Scores of groups as table, JSON, CSV and picture."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from rich.cells import cell_len

from tests.helpers.answers import INFO, NAMES, answers
from tests.reporting.test_tables import shown
from vitpe.errors import UsageError
from vitpe.metrics.groups import GAPS, GROUP_METRICS, group_by, score_groups
from vitpe.metrics.scores import score
from vitpe.reporting.group_records import check_sort, group_order, groups_csv
from vitpe.reporting.group_report import group_report_png
from vitpe.reporting.group_table import group_table
from vitpe.reporting.score_records import eval_json


def grouped(*by, **options):
    probs, labels = answers()
    grouping = group_by(labels, NAMES, dict.fromkeys(by))
    return score_groups(probs, labels, NAMES, grouping, num_resamples=50, **options)


@pytest.fixture(scope="module")
def male():
    return grouped("Male", train_shares=np.array([0.25, 0.75]))


@pytest.mark.parametrize("width", [30, 44, 60, 80, 100, 120, 160])
@pytest.mark.parametrize("by", [("Male",), ("Male", "Young"), ("Bald", "Male", "Mouth_Slightly_Open")])
def test_tables_fit_their_width(scores, width, by):
    lines = shown(group_table(grouped(*by), scores, INFO), width)
    assert max(map(cell_len, lines)) <= width
    if width >= 80:
        assert all(any(line.startswith(name) for line in lines) for name in NAMES)
        assert any("95 % interval" in line for line in lines)


def test_the_table_says_what_the_scores_say(male, scores):
    lines = shown(group_table(male, scores, INFO), 80)
    at = next(number for number, line in enumerate(lines) if line.startswith("Smiling"))
    metrics = ("prevalence", "accuracy", "true_positive_rate", "false_positive_rate", "positive_rate")
    for g, group in enumerate(("Male=0", "Male=1")):
        expected = [f"{100 * male[metric][g, 5]:.1f}" for metric in (*metrics, "average_precision")]
        assert lines[at + 1 + g].split() == [group, str(male.counts[g]), *expected]
    gap = male.gaps["accuracy"]
    (line,) = [line for line in lines[at + 3 :] if line.startswith("Smiling")]
    worst = int(male.worst[5])
    interval = f"[{100 * gap.low[5]:.1f}, {100 * gap.high[5]:.1f}]".replace("-", "−")
    assert line.split()[1:4] == [f"Male={worst}", f"({male.counts[worst]})", f"{100 * gap.value[5]:.1f}"]
    assert interval in line
    text = " ".join(" ".join(lines).split())
    assert f"{100 * male.mean_accuracy.value:.2f} [" in text
    assert f"{100 * male.mean_reweighted.value:.2f} [" in text
    assert "reweighted by train's group shares: Male=0 25.0, Male=1 75.0" in text
    assert "rates over 10 images or more" in text


def test_what_is_undefined_or_small_is_a_dash_and_counted(scores):
    few = grouped("Bald", "Male", "Eyeglasses")  # some of its eight groups have no image
    assert (few.counts == 0).any()
    lines = shown(group_table(few, scores, INFO), 120)
    empty = few.groups[int(np.flatnonzero(few.counts == 0)[0])]
    row = next(line for line in lines if line.strip().startswith(empty))
    assert row.split()[1:] == ["0", *("–",) * 6]
    assert any("gaps that the mean leaves out" in line for line in lines)


def test_the_order(male, scores):
    gap = male.gaps["accuracy"].value
    order = group_order(male, scores, "gap")
    assert sorted(gap, reverse=True) == gap[order].tolist()
    assert gap[group_order(male, scores, "-gap")].tolist() == sorted(gap)
    assert group_order(male, scores, "lift") == np.argsort(-scores["lift"], kind="stable").tolist()
    check_sort("-gap")
    with pytest.raises(UsageError, match="no column 'gab'") as caught:
        check_sort("gab")
    assert "with --by there is gap" in caught.value.hint


def test_json_holds_everything(male, scores):
    document = json.loads(eval_json(scores, INFO, "gap", groups=male))
    plain = json.loads(eval_json(scores, INFO))
    assert {key: value for key, value in document.items() if key not in ("by", "attributes")} == {
        key: value for key, value in plain.items() if key != "attributes"
    }
    by = document["by"]
    assert by["attributes"] == ["Male"]
    assert [row["train_share"] for row in by["groups"]] == [0.25, 0.75]
    assert by["mean_accuracy"]["value"] == pytest.approx(plain["mean"]["accuracy"]["value"])
    assert by["mean_accuracy_reweighted_by_train_shares"]["value"] == male.mean_reweighted.value
    found = {row["attribute"]: row for row in by["scores"]}
    assert list(found) == [row["attribute"] for row in document["attributes"]]
    for a, name in enumerate(NAMES):
        for g, group in enumerate(found[name]["groups"]):
            for metric in GROUP_METRICS:
                value = male[metric][g, a]
                assert group[metric] == (None if np.isnan(value) else value)
        for gap in GAPS:
            value = male.gaps[gap].value[a]
            assert found[name]["gaps"][gap]["value"] == (None if np.isnan(value) else value)
    assert found["Male"]["gaps"]["equal_opportunity"] == dict.fromkeys(
        ("value", "low", "high", "highest", "lowest", "rate")
    )


def test_csv_has_a_row_for_each_attribute_and_group(male):
    rows = list(csv.DictReader(io.StringIO(groups_csv(male, range(8)))))
    assert [(row["attribute"], row["group"]) for row in rows] == [
        (name, group) for name in NAMES for group in ("", "Male=0", "Male=1")
    ]
    whole, women, men = (row for row in rows if row["attribute"] == "Smiling")
    assert int(whole["num_images"]) == int(women["num_images"]) + int(men["num_images"]) == 300
    assert float(whole["accuracy_gap"]) == pytest.approx(abs(float(women["accuracy"]) - float(men["accuracy"])))
    assert (whole["accuracy_ranked"], women["accuracy_ranked"], women["accuracy_gap"]) == ("", "true", "")
    assert float(women["accuracy_low"]) <= float(women["accuracy"]) <= float(women["accuracy_high"])
    (own,) = [row for row in rows if row["attribute"] == "Male" and row["group"] == "Male=0"]
    assert (own["true_positive_rate"], own["true_positive_rate_ranked"]) == ("", "false")


@pytest.mark.parametrize("by", [("Male",), ("Male", "Young", "Bald")])
def test_the_picture(by):
    groups = grouped(*by)
    data = group_report_png(groups, INFO)
    assert data == group_report_png(groups, INFO)
    assert Image.open(io.BytesIO(data)).width == 1440


def test_the_picture_of_one_group_and_odd_names():
    probs, labels = answers()
    names = ("$x_1", "a" * 80, "\\frac{1}")
    grouping = group_by(labels[:, :3], names, {"$x_1": 1})
    one = score_groups(probs[:, :3], labels[:, :3], names, grouping, num_resamples=5)
    assert group_report_png(one, INFO).startswith(b"\x89PNG")
    lines = shown(group_table(one, score(probs[:, :3], labels[:, :3], names, num_resamples=0), INFO), 80)
    assert any("images are in none of these groups" in line for line in lines)
