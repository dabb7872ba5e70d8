"""The report as a page: its numbers are the scores', and a visitor finds them by clicking."""

import dataclasses
import json
import re

import numpy as np
import pytest

from tests.helpers.answers import INFO, NAMES, answers
from tests.helpers.browser import PHONE, WIDE, needs_browser, visit
from vitpe.inference.answers import Answers, Labels
from vitpe.inference.suspects import suspect_labels
from vitpe.metrics.reliability import reliability
from vitpe.metrics.scores import score
from vitpe.reporting.report_page import MAX_SUSPECTS, report_html

HOSTILE = (
    "</script><script>alert(1)</script>",
    "<b>bold</b>",
    "{{data}}",
    "__proto__",
    "Ünï 中",
    "a&lt;",
    "\u202egnp",
    "0",
)


def made(attributes=NAMES, info=INFO, notes=("a note <i>of</i> it",)):
    probs, labels = answers()
    names = [f"{image:06d}.jpg" for image in range(len(probs))]
    thresholds = np.full(len(attributes), 0.5)
    train_labels = Labels(attributes, labels[:100])
    return Answers(info, names, attributes, probs, thresholds, Labels(attributes, labels), train_labels, notes)


def whole_report(given, by=("Male", "Young")):
    groups = given.group_scores(dict.fromkeys(by)) if by else None
    return report_html(given, given.scores(), groups, suspect_labels(given))


@pytest.fixture(scope="module")
def text():
    return whole_report(made())


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_nothing_is_loaded_from_elsewhere(text):
    assert "default-src 'none'" in text
    assert not re.findall(r"""(?:src|href)\s*=|url\(|@import|fetch\(|XMLHttpRequest""", text)
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}  # the name of SVG, not a place


def test_its_numbers_are_the_scores(text):
    data, given = embedded(text), made()
    scores = given.scores()
    for a, attribute in enumerate(data["attributes"]):
        assert attribute["name"] == NAMES[a]
        for metric, value in scores.per_attribute.items():
            shown = np.nan if attribute["scores"][metric] is None else attribute["scores"][metric]
            np.testing.assert_allclose(shown, value[a], atol=1e-5)
    assert data["means"][0]["value"] == pytest.approx(scores.means["accuracy"].value, abs=1e-5)
    assert data["attributes"][7]["scores"]["average_precision"] is None  # Zebra is never there
    assert data["attributes"][7]["curve"]["recall"] == []
    assert [value for name, value in data["facts"] if name == "images"] == ["300"]
    assert len(data["suspects"]["first"]) <= MAX_SUSPECTS
    pooled = reliability(given.probs, given.truth()).pooled()
    assert data["reliability"]["error"] == pytest.approx(pooled.error()[0], abs=1e-5)
    assert sum(count for _, _, count in data["reliability"]["bins"]) == given.probs.size


VISIT = """
const names = () => [...at("attributes").tBodies[0].rows].filter(row => row.className !== "detail")
  .map(row => row.cells[0].textContent);
const head = name => [...document.querySelectorAll("#attributes thead button")].find(b => b.textContent === name);
const row = name => [...at("attributes").tBodies[0].rows].find(row => row.cells[0].textContent === name);
seen.start = names();
head("lift").click();
seen.best = names();
head("lift").click();
seen.worst = names();
head("ECE").click();
seen.calibrated = names();
const button = row("Smiling").querySelector("button");
button.focus();
button.click();
const detail = row("Smiling").nextSibling;
seen.detail = detail.className;
seen.expanded = button.getAttribute("aria-expanded");
seen.curve = detail.querySelectorAll("polyline")[1].getAttribute("points").split(" ").length;
seen.headings = [...detail.querySelectorAll("h3")].map(title => title.textContent);
seen.groups = [...detail.querySelector(".groups table").tBodies[0].rows]
  .map(row => [...row.cells].map(cell => cell.textContent));
const inner = detail.querySelector(".groups");
seen.hidden = inner.scrollWidth - inner.clientWidth;
seen.left = detail.querySelector(".inside").getBoundingClientRect().left;
seen.inside = detail.querySelector(".inside").getBoundingClientRect().width;
head("attribute").click();
seen.moved = [names(), row("Smiling").nextSibling === detail];
button.click();
seen.closed = document.querySelectorAll(".detail").length;
row("Zebra").click();
seen.zebra = row("Zebra").nextSibling.textContent;
seen.cells = [...row("Zebra").cells].map(cell => cell.textContent);
seen.means = at("means").textContent;
seen.notes = at("notes").textContent;
seen.gaps = [...at("gaps").tBodies[0].rows].map(row => row.cells[0].textContent);
seen.reweighted = at("groups-means").textContent;
seen.suspects = at("suspects-count").textContent;
seen.width = document.documentElement.scrollWidth;
seen.background = getComputedStyle(document.body).backgroundColor;
seen.bars = [...document.querySelectorAll("#attributes .track i")].map(bar => [bar.style.left, bar.style.width]);
seen.inline = document.querySelectorAll("b, i:not(.track i)").length - document.querySelectorAll("#means b").length;
"""


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (PHONE, True)], ids=["wide light", "phone dark"])
def test_a_visit(text, tmp_path, size, dark):
    seen, console = visit(text, VISIT, tmp_path, size, dark)
    assert not console
    given = made()
    scores, groups = given.scores(), given.group_scores(dict.fromkeys(("Male", "Young")))

    def ordered(values):
        return [NAMES[a] for a in np.argsort(values, kind="stable")]

    assert seen["start"] == list(NAMES)
    assert seen["best"] == ordered(-scores["lift"].round(5))
    assert seen["worst"] == ordered(scores["lift"].round(5))
    assert seen["calibrated"] == ordered(scores["ece"])
    assert seen["detail"] == "detail"
    assert seen["expanded"] == "true"
    assert 10 < seen["curve"] <= 100
    assert seen["headings"][0] == f"Precision and recall, AP {100 * scores['average_precision'][5]:.1f}"
    assert [row[0] for row in seen["groups"]] == list(groups.groups)
    assert seen["groups"][1][3] == f"{100 * groups['accuracy'][1, 5]:.1f}"
    assert seen["hidden"] == 0 or size == PHONE
    assert seen["left"] >= 0
    assert seen["inside"] <= size[0]
    assert seen["moved"] == [sorted(NAMES), True]
    assert seen["closed"] == 0
    assert "no image has this attribute" in seen["zebra"]
    assert "–" in seen["cells"]
    assert f"{100 * scores.means['accuracy'].value:.2f}" in seen["means"]
    assert seen["notes"] == "a note <i>of</i> it"
    expected = np.where(np.isnan(groups.gaps["accuracy"].value), -1, groups.gaps["accuracy"].value.round(4))
    assert seen["gaps"] == ordered(-expected)
    shares = ", ".join(f"{n} {100 * s:.1f}" for n, s in zip(groups.groups, groups.train_shares, strict=True))
    assert (
        f"Reweighted by train's group shares ({shares}): {100 * groups.mean_reweighted.value:.2f} ["
        in seen["reweighted"]
    )
    assert seen["suspects"].startswith(f"{len(suspect_labels(given).rows):,} of 2,400 labels are suspect")
    assert seen["width"] <= size[0]
    assert seen["background"] == ("rgb(20, 23, 29)" if dark else "rgb(255, 255, 255)")
    assert seen["inline"] == 0
    ends = [sum(float(part.removesuffix("%")) for part in bar) for bar in seen["bars"]]
    assert max(ends) == pytest.approx(100, abs=0.1)


@needs_browser
def test_names_are_text_and_no_markup(tmp_path):
    given = made(HOSTILE, dataclasses.replace(INFO, checkpoint="<img src=x>/'\"&.safetensors"))
    text = whole_report(given, by=(HOSTILE[0], HOSTILE[1]))
    script = """
    for (const name of document.querySelectorAll("#attributes .name")) name.click();
    seen.names = [...document.querySelectorAll("#attributes .name")].map(name => name.textContent);
    seen.images = document.querySelectorAll("img").length;
    seen.title = document.querySelector("h1").textContent;
    seen.groups = at("gaps").rows.length;
    """
    seen, console = visit(text, script, tmp_path)
    assert not console
    assert seen["names"] == [*HOSTILE[:6], "\\u202egnp", "0"]
    assert seen["images"] == 0
    assert seen["title"] == "<img src=x>/'\"&.safetensors on drawn_faces valid"
    assert seen["groups"] == len(HOSTILE) + 2


@needs_browser
@pytest.mark.parametrize("present", [0, 1])
def test_one_attribute_without_either_class_and_no_intervals(tmp_path, present):
    labels = Labels(("Only",), np.full((5, 1), present, np.uint8))
    probs = np.linspace(0, 1, 5)[:, None]
    given = Answers(INFO, list("abcde"), ("Only",), probs, np.array([0.25]), labels)
    scores = dataclasses.replace(given.scores(), num_resamples=0)
    text = report_html(given, scores)
    script = """
    document.querySelector(".name").click();
    seen.detail = document.querySelector(".detail").textContent;
    seen.hidden = at("groups").hidden && at("suspects").hidden;
    seen.cells = [...at("attributes").tBodies[0].rows[0].cells].map(cell => cell.textContent);
    """
    seen, console = visit(text, script, tmp_path)
    assert not console
    assert seen["hidden"]
    assert ("no image has this attribute" in seen["detail"]) == (present == 0)
    assert "NaN" not in seen["detail"] + "".join(seen["cells"])


@needs_browser
def test_two_thousand_attributes(tmp_path):
    names = tuple(f"attribute {a}" for a in range(2000))
    rng = np.random.default_rng(0)
    labels = (rng.random((200, 2000)) < 0.2).astype(np.uint8)
    probs = np.clip(0.4 * labels + 0.6 * rng.random(labels.shape), 0, 1)
    given = Answers(INFO, [str(i) for i in range(200)], names, probs, np.full(2000, 0.5), Labels(names, labels))
    text = report_html(given, score(probs, labels, names, num_resamples=0))
    assert len(text) < 1_500_000
    script = """
    const button = [...document.querySelectorAll("#attributes thead button")].find(b => b.textContent === "acc");
    button.click();
    const accuracies = [...at("attributes").tBodies[0].rows].map(row => Number(row.cells[2].textContent));
    seen.count = accuracies.length;
    seen.sorted = accuracies.every((value, i) => i === 0 || value <= accuracies[i - 1]);
    """
    seen, console = visit(text, script, tmp_path)
    assert not console
    assert seen == {"count": 2000, "sorted": True}
