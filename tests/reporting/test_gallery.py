"""The gallery of mistakes: the images are those that the numbers name, and a visitor sees them."""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image

from tests.helpers.answers import INFO, NAMES, answers
from tests.helpers.browser import PHONE, WIDE, needs_browser, visit
from vitpe.data.samples import Samples
from vitpe.inference.answers import Answers, Labels
from vitpe.metrics.mistakes import find_mistakes
from vitpe.reporting.gallery import KINDS, MAX_ATTRIBUTES, NOTICE, NUM_IMAGES, Gallery, gallery_html
from vitpe.reporting.gallery_picture import gallery_png


class Coloured(Samples):
    """Each image has one colour, which says its number."""

    def __init__(self, labels, attributes, size=(218, 178), source="celeba"):
        self.source, self.attributes, self.labels, self.stored_size = source, attributes, labels, size
        self.names = [f"{number:06d}.jpg" for number in range(len(labels))]

    def read(self, indices):
        images = np.empty((len(indices), 3, *self.stored_size), np.uint8)
        for image, number in zip(images, indices, strict=True):
            image[:] = np.array(colour(number))[:, None, None]
        return images


def colour(number):
    return (number % 16 * 16, number // 16 % 16 * 16, 128)


def made(attributes=NAMES, **options):
    probs, labels = answers()
    samples = Coloured(labels, attributes, **options)
    thresholds = np.full(len(attributes), 0.5)
    return Answers(INFO, samples.names, attributes, probs, thresholds, Labels(attributes, labels), samples=samples)


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


@pytest.mark.parametrize("size", [(218, 178), (436, 356), (64, 52)])
def test_the_images_are_those_that_are_named(size):
    given = made(size=size)
    data = embedded(gallery_html(Gallery.of(given)))
    labels = given.truth()
    for a, attribute in enumerate(data["attributes"]):
        found = find_mistakes(given.probs[:, a], labels[:, a], 0.5, NUM_IMAGES)
        assert attribute["num_false_positives"] == found.num_false_positives
        for kind in KINDS:
            numbers = getattr(found, kind).tolist()
            assert [data["images"][place][0] for place, _, _ in attribute[kind]] == [given.names[n] for n in numbers]
            assert [label for _, _, label in attribute[kind]] == labels[numbers, a].tolist()
            np.testing.assert_allclose([prob for _, prob, _ in attribute[kind]], given.probs[numbers, a], atol=6e-5)
    for name, jpeg in data["images"]:
        image = Image.open(io.BytesIO(base64.b64decode(jpeg)))
        assert image.size == ((52, 64) if size[0] == 64 else (178, 218))
        assert np.abs(np.array(image.getpixel((20, 30))) - colour(int(name[:6]))).max() <= 6
    assert len({name for name, _ in data["images"]}) == len(data["images"])


def test_nothing_is_loaded_and_the_images_are_kept_at_home():
    text = gallery_html(Gallery.of(made()))
    assert "img-src data:" in text
    assert not re.findall(r"url\(|@import|fetch\(|XMLHttpRequest|(?:src|href)\s*=\s*[\"']", text)
    assert embedded(text)["notice"] == NOTICE
    assert embedded(gallery_html(Gallery.of(made(source="drawn_faces"))))["notice"] is None


def test_of_too_many_attributes_those_with_most_mistakes_are_shown_and_it_is_said():
    rng = np.random.default_rng(0)
    names = tuple(f"attribute {a}" for a in range(2000))
    labels = (rng.random((30, 2000)) < 0.3).astype(np.uint8)
    probs = rng.random(labels.shape)
    samples = Coloured(labels, names)
    given = Answers(INFO, samples.names, names, probs, np.full(2000, 0.5), Labels(names, labels), samples=samples)
    gallery = Gallery.of(given)
    wrong = ((probs >= 0.5) != labels).sum(axis=0)
    assert len(gallery.columns) == MAX_ATTRIBUTES
    assert wrong[list(gallery.columns)].min() >= np.delete(wrong, gallery.columns).max()
    assert "2,000" in gallery.note()
    assert gallery.note() in embedded(gallery_html(gallery))["notes"]
    assert Gallery.of(given.only(["attribute 7", "attribute 3"])).note() is None


def test_answers_without_images_have_no_gallery():
    probs, labels = answers()
    given = Answers(INFO, list(map(str, range(300))), NAMES, probs, np.full(8, 0.5), Labels(NAMES, labels))
    with pytest.raises(ValueError, match="needs images"):
        Gallery.of(given)


VISIT = """
const sections = [...document.querySelectorAll(".attribute")];
seen.names = sections.map(section => section.querySelector("h2").textContent);
seen.counts = [...sections[5].querySelectorAll("h3")].map(title => title.textContent);
const first = sections[5].querySelector(".images button");
seen.caption = first.textContent;
first.querySelector("img").loading = "eager";
await first.querySelector("img").decode();
seen.natural = first.querySelector("img").naturalWidth;
first.click();
seen.open = at("large").open;
seen.large = at("large-name").textContent + "|" + at("large-text").textContent;
seen.image = at("large-image").src === first.querySelector("img").src;
at("large").querySelector("button").click();
seen.closed = !at("large").open;
seen.top = sections[7].getBoundingClientRect().top;
at("choose").value = 7;
at("choose").dispatchEvent(new Event("change"));
seen.moved = seen.top - sections[7].getBoundingClientRect().top;
seen.none = sections[7].textContent.includes("None.");
seen.notes = at("notes").textContent;
seen.width = document.documentElement.scrollWidth;
seen.background = getComputedStyle(document.body).backgroundColor;
seen.markup = document.querySelectorAll("#attributes b, #attributes i").length;
"""


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(WIDE, True), (PHONE, False)], ids=["wide dark", "phone light"])
def test_a_visit(tmp_path, size, dark):
    names = ("<b>", "</script>", *NAMES[2:])
    given = made(names)
    seen, console = visit(gallery_html(Gallery.of(given)), VISIT, tmp_path, size, dark)
    assert not console
    assert seen["names"] == list(names)
    found = find_mistakes(given.probs[:, 5], given.truth()[:, 5], 0.5, NUM_IMAGES)
    expected = [f"{found.num_false_positives} false positives", f"{found.num_false_negatives} false negatives"]
    assert seen["counts"] == [*expected, "Least certain"]
    number = found.false_positives[0]
    assert seen["caption"] == f"{100 * given.probs[number, 5]:.1f} %absent"
    assert seen["natural"] == 178
    assert seen["open"]
    assert seen["large"].startswith(f"{given.names[number]}|Smiling: given ")
    assert seen["large"].endswith("so answered present (threshold 0.5); labelled absent.")
    assert seen["image"]
    assert seen["closed"]
    assert seen["moved"] > 100
    assert seen["none"]  # Zebra is never there: no false negatives
    assert seen["notes"] == NOTICE
    assert seen["width"] <= size[0]
    assert seen["background"] == ("rgb(20, 23, 29)" if dark else "rgb(255, 255, 255)")
    assert seen["markup"] == 0


def test_the_picture_holds_the_images():
    given = made(("$x^2$", "a_b", *NAMES[2:]))
    gallery = Gallery.of(given)
    data = gallery_png(gallery)
    assert data == gallery_png(Gallery.of(given))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).reshape(-1, 3)
    shown = {tuple(pixel) for pixel in np.unique(pixels, axis=0).tolist()}
    found = find_mistakes(given.probs[:, 5], given.truth()[:, 5], 0.5, NUM_IMAGES)
    for kind in KINDS:
        assert {colour(int(number)) for number in getattr(found, kind)} <= shown
    one = gallery_png(Gallery.of(given.only(["Smiling"])))
    assert Image.open(io.BytesIO(one)).height < Image.open(io.BytesIO(data)).height / 3
