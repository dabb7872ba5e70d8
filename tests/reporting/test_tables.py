"""What people see of scores and predictions fits their terminal."""

import io
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from rich.cells import cell_len
from rich.console import Console

from tests.helpers.answers import INFO, NAMES, answers, face
from vitpe.errors import UsageError
from vitpe.inference.predictions import EvalInfo, Prediction
from vitpe.metrics.comparison import compare
from vitpe.metrics.scores import score
from vitpe.reporting.predict_table import predict_summary, predict_table
from vitpe.reporting.report import report_png
from vitpe.reporting.tables import compare_table, eval_table, weakest
from vitpe.reporting.terminal import bar, signed_bar, thin_bar


def shown(renderable, width, encoding=None):
    """The renderable as plain lines."""
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding or "utf-8", newline="\n")
    Console(file=file, width=width, color_system=None, legacy_windows=False).print(renderable)
    file.flush()
    return raw.getvalue().decode(encoding or "utf-8").splitlines()


def row(lines, name):
    """The cells of the only row that starts with `name`."""
    (line,) = [line for line in lines if line.split()[:1] == [name] and len(line.split()) > 3]
    return line.split()


# --- bars


@given(st.floats(0, 1), st.integers(0, 40))
def test_bars_have_their_width(share, width):
    assert len(bar(share, width)) == len(thin_bar(share, width)) == width


@pytest.mark.parametrize(("share", "cells"), [(0, "    "), (1, "████"), (0.5, "██  "), (0.28125, "█▏  "), (2, "████")])
def test_bars_are_filled_to_an_eighth(share, cells):
    assert bar(share, 4) == cells
    assert bar(math.nan, 4) == "    "


@given(st.floats(-0.2, 0.5), st.integers(2, 30))
def test_signed_bars_grow_from_zero(value, width):
    text = signed_bar(value, -0.2, 0.5, width, ("red", "cyan")).plain
    left = math.ceil(0.2 / 0.7 * width) if width > 1 else 0
    assert len(text) == width
    if value >= 0:
        assert not text[:left].strip()
        assert text[left:] == bar(value / 0.5, width - left)
    else:
        assert not text[left:].strip()
        assert text[:left] == text[:left].rstrip().rjust(left)
        filled = max(0.5 / (width - left), 0.2 / left)  # as much as a cell to the right of zero
        assert bool(text.strip()) == (round(8 * value / -filled) > 0)


def test_a_small_loss_is_a_short_bar_beside_large_gains():
    """Both sides have one scale: a tenth of a point is next to nothing where the largest gain is forty."""
    assert not signed_bar(-0.001, -0.001, 0.409, 16, ("red", "cyan")).plain.strip()
    assert signed_bar(-0.409, -0.409, 0.409, 16, ("red", "cyan")).plain == "████████        "


# --- for people


@pytest.mark.parametrize("width", [30, 44, 60, 80, 100, 120, 160, 250])
def test_tables_fit_their_width(scores, comparison, width):
    for table in (eval_table(scores, INFO, "f1"), compare_table(comparison, INFO, INFO)):
        lines = shown(table, width)
        assert max(map(cell_len, lines)) <= width
        if width >= 44:
            assert all(any(line.startswith(name) for line in lines) for name in NAMES)


def test_eval_table_shows_more_where_there_is_room(scores):
    narrow, wide = shown(eval_table(scores, INFO), 80), shown(eval_table(scores, INFO), 120)
    assert row(narrow, "attribute") == ["attribute", "prev", "acc", "major", "lift", "F1", "AP", "AUC"]
    assert row(wide, "attribute") == [
        *("attribute", "prev", "acc", "major", "lift", "bal", "prec", "rec", "F1", "AP", "AUC", "Brier", "ECE")
    ]
    assert row(shown(eval_table(scores, INFO), 44), "attribute") == ["attribute", "acc", "major", "lift"]
    assert "ECE" in row(shown(eval_table(scores, INFO, "ece"), 80), "attribute")
    tuned = score(*answers(), NAMES, np.linspace(0.2, 0.6, 8), num_resamples=0)
    assert row(shown(eval_table(tuned, INFO), 120), "attribute")[1] == "thr"


def test_eval_table_says_what_the_scores_say(scores):
    lines = shown(eval_table(scores, INFO), 80)
    cells = [cell for cell in row(lines, "Male") if not set(cell) <= set("▏▎▍▌▋▊▉█")]
    metrics = ["prevalence", "accuracy", "majority_accuracy", "lift", "f1", "average_precision", "roc_auc"]
    expected = [f"{100 * scores[metric][2]:{'+' if metric == 'lift' else ''}.1f}" for metric in metrics]
    assert cells == ["Male", *expected]
    text = "\n".join(lines)
    mean = scores.means["accuracy"]
    assert f"accuracy  {100 * mean.value:.2f} [{100 * mean.low:.2f}, {100 * mean.high:.2f}]" in text
    assert "drawn_faces valid · 300 images · thresholds 0.5" in text
    assert "runs/best.safetensors  step 1,200" in text


def test_undefined_is_a_dash_and_is_counted(scores):
    lines = shown(eval_table(scores, INFO), 80)
    assert row(lines, "Zebra")[-2:] == ["–", "–"]
    assert any("ROC AUC of 1 attribute (Zebra): undefined" in line for line in shown(eval_table(scores, INFO), 200))


def test_the_weakest_are_named_and_coloured(scores):
    weak = weakest(scores, "roc_auc")
    assert weak == [int(np.nanargmin(scores["roc_auc"]))] == [4]
    assert any(line.startswith("weakest by AUC  Oval_Face") for line in shown(eval_table(scores, INFO), 80))
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard", legacy_windows=False)
    console.print(eval_table(scores, INFO))
    coloured = console.file.getvalue()
    assert "\x1b[1;31mOval_Face" in coloured
    assert "\x1b[1;31mSmiling" not in coloured


def test_a_loss_is_drawn_to_the_left(scores):
    assert scores["lift"][4] < -0.01
    lines = shown(eval_table(scores, INFO), 120)
    (loss,) = [line for line in lines if line.startswith("Oval_Face")]
    (gain,) = [line for line in lines if line.startswith("Smiling")]
    block = next(at for at, letter in enumerate(loss) if letter in "▕▐█")
    assert block < gain.index("█")


def test_names_are_never_markup():
    names = ("[red]x[/red]", "[/]", "$a$", "日本語の属性", "n" * 60)
    probs, labels = answers()
    scores = score(probs[:, :5], labels[:, :5], names, num_resamples=0)
    info = EvalInfo("[bold]runs[/].safetensors", "valid", "labelled_csv")
    other = compare(probs[:, :5], probs[:, :5], labels[:, :5], names, num_resamples=5)
    for table in (eval_table(scores, info), compare_table(other, info, info)):
        text = "\n".join(shown(table, 100))
        for name in (*names[:4], "n" * 27 + "…", "[bold]runs[/].safetensors"):
            assert name in text
        assert max(map(cell_len, text.splitlines())) <= 100


def test_one_attribute_and_one_image_are_enough():
    scores = score([[0.7]], [[1]], ["a"], num_resamples=10)
    assert row(shown(eval_table(scores, INFO), 80), "a")[:5] == ["a", "100.0", "100.0", "100.0", "0.0"]
    assert "1 image " in "\n".join(shown(eval_table(scores, INFO), 80))


def test_ascii_terminals_get_ascii(scores, comparison):
    for renderable in (
        eval_table(scores, INFO, "lift"),
        compare_table(comparison, INFO, INFO),
        predict_table(face()),
        predict_summary(face()),
    ):
        assert shown(renderable, 80, "ascii")


def test_compare_table_marks_only_what_exceeds_its_interval(comparison):
    lines = shown(compare_table(comparison, INFO, EvalInfo("b", "valid", "drawn_faces")), 80)
    exceeds = comparison.per_attribute["accuracy"].exceeds
    assert exceeds[[2, 5]].all()
    assert not exceeds[0]
    for a, name in enumerate(NAMES):
        assert ("▼" in row(lines, name)) == bool(exceeds[a])
        assert "▲" not in row(lines, name)
    male = row(lines, "Male")
    first, second = comparison.first["accuracy"][2], comparison.second["accuracy"][2]
    assert male[1:4] == [
        f"{100 * first:.1f}",
        f"{100 * second:.1f}",
        f"{100 * (second - first):+.1f}".replace("-", "−"),
    ]


def test_compare_table_knows_that_less_brier_is_better(comparison):
    lines = shown(compare_table(comparison, INFO, INFO, metric="brier"), 80)
    assert comparison.per_attribute["brier"].value[5] > 0
    assert "▼" in row(lines, "Smiling")
    assert [line.split()[-2:] for line in lines if line.startswith("Brier score")][-1] == ["▼", "worse"]


def test_compare_table_says_what_is_the_same():
    probs, labels = np.array([[0.9, 0.2], [0.3, 0.8], [0.6, 0.4]]), np.array([[1, 0], [0, 1], [0, 1]])
    lines = shown(compare_table(compare(probs, probs, labels, ["a", "b"], num_resamples=9), INFO, INFO), 80)
    assert [line.split()[-2:] for line in lines if line.startswith("ROC AUC")][-1] == ["the", "same"]


def test_compare_table_sorts_by_difference(comparison):
    lines = shown(compare_table(comparison, INFO, INFO, sort="difference"), 80)
    turned = shown(compare_table(comparison, INFO, INFO, sort="-difference"), 80)
    assert [line.split()[0] for line in lines if line.startswith(NAMES)][-1] == "Smiling"
    assert next(line.split()[0] for line in turned if line.startswith(NAMES)) == "Smiling"
    with pytest.raises(UsageError, match="no column 'nothing'"):
        compare_table(comparison, INFO, INFO, metric="nothing")


def celeba_like(top=None):
    rng = np.random.default_rng(3)
    names = [f"Attribute_{number:02}" for number in range(40)]
    return Prediction.from_probs("photos/face.jpg", rng.random(40) ** 3, names, np.full(40, 0.4), top=top)


def test_predict_table_shows_present_ones_first_and_fits_a_small_terminal():
    prediction = celeba_like()
    lines = shown(predict_table(prediction), 80)
    assert lines[0].split() == ["photos/face.jpg", str(len(prediction.present)), "of", "40", "present"]
    assert len(lines) == 21
    assert [line.split()[0] for line in lines[1:]][: len(prediction.present)] == list(prediction.present)
    assert max(map(cell_len, lines)) <= 80
    best = prediction.present[0]
    assert f"{100 * prediction.probs[best]:.0f}%" in row(lines, best) or ">99%" in row(lines, best)


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_predict_tables_fit_their_width(width):
    for renderable in (predict_table(celeba_like()), predict_table(celeba_like(5)), predict_summary(celeba_like())):
        assert max(map(cell_len, shown(renderable, width))) <= width


def test_a_threshold_below_a_half_still_puts_present_first():
    prediction = Prediction.from_probs("f", np.array([0.6, 0.3]), ["Absent", "Present"], np.array([0.7, 0.2]))
    lines = shown(predict_table(prediction), 80)
    assert [line.split()[0] for line in lines[1:]] == ["Present", "Absent"]


@pytest.mark.parametrize(
    ("prob", "text"), [(0.0, "<1%"), (0.001, "<1%"), (0.5, "50%"), (0.994, "99%"), (0.999, ">99%"), (1.0, ">99%")]
)
def test_percentages_are_not_rounded_to_certainty(prob, text):
    lines = shown(predict_table(Prediction("f", {"A": prob})), 80)
    assert lines[1].split()[-1] == text


def test_predict_summary_breaks_between_attributes_only():
    lines = shown(predict_summary(celeba_like()), 44)
    assert lines[0].strip() == "photos/face.jpg"
    for line in lines[1:]:
        assert line.startswith("  Attribute_")
        assert all(part.count(" ") == 1 for part in line.strip().removesuffix(" ·").split(" · "))


def test_an_unreadable_file_shows_its_error():
    broken = Prediction("[b]bad.jpg", error="not an image")
    for renderable in (predict_table(broken), predict_summary(broken)):
        assert [line.strip() for line in shown(renderable, 80)] == ["[b]bad.jpg", "not an image"]


# --- the picture


def test_report_is_a_png_with_a_bar_for_each_attribute(scores):
    probs, labels = answers()
    data = report_png(probs, labels, scores, INFO)
    assert data == report_png(probs, labels, scores, INFO)
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    assert picture.width == 1680
    pixels = np.asarray(picture).astype(int)
    left = pixels[:, 250:920]
    is_gain = np.abs(left - [31, 122, 140]).max(axis=2) < 8
    is_loss = np.abs(left - [200, 85, 61]).max(axis=2) < 8
    lifts = scores["lift"]
    bars = np.diff(np.r_[0, (is_gain.sum(axis=1) > 3).astype(int)]).clip(0).sum()
    assert bars == (lifts > 0.01).sum()
    assert is_loss.any() == (lifts < -0.01).any()


def test_report_takes_names_that_look_like_formulas_and_no_intervals():
    probs, labels = answers()
    names = ["$x_1", "a" * 80, "\\frac{1}"]
    plain = score(probs[:, :3], labels[:, :3], names, num_resamples=0)
    info = EvalInfo("run$1/best.safetensors", "valid", "labelled_csv", calibration="platt on valid")
    assert report_png(probs[:, :3], labels[:, :3], plain, info).startswith(b"\x89PNG")
