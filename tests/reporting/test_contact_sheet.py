"""Contact sheets: each image beside what is said of it, as a picture and as a page that a visitor uses."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from tests.helpers import COLOURS, REPOSITORY, encode
from tests.helpers.browser import PHONE, WIDE, needs_browser, visit
from tests.helpers.in_process import read_jsonl
from vitpe.celeba import ATTRIBUTES, MEAN, PREVALENCE, STD
from vitpe.config import ModelConfig
from vitpe.inference.predictions import FoundFace, Prediction
from vitpe.reporting.contact_sheet import MAX_CHOSEN, MAX_IMAGES, NUM_TELLING, ContactSheet, sheet_html
from vitpe.reporting.contact_sheet_picture import sheet_png
from vitpe.reporting.page import stored_data
from vitpe.runs.metadata import CheckpointInfo, read_info

NAMES = ("Male", "Bald", "Young", "<b>x</b>", "</script>", "Smiling", "a_b$c$")
RATES = (0.4, 0.02, 0.8, 0.5, 0.5, 0.5, 0.1)


def info_of(names=NAMES, rates=RATES, size=(208, 176)):
    model = ModelConfig(img_size=size, embed_dim=16, depth=1, num_heads=2, num_classes=len(names), patch_size=8)
    stored = (size[0] + 8, size[1])
    return CheckpointInfo(
        model, tuple(names), MEAN, STD, (0.5,) * len(names), stored, 1, 1, 0, "celeba", prevalence=tuple(rates)
    )


def colour(number):
    return (number * 37 % 256, number * 91 % 256, 128)


def answer(number=0, probs=(0.4, 0.7, 0.1, 0.9, 0.2, 0.5, 0.1), names=NAMES, size=(208, 176), file=None):
    view = np.empty((3, *size), np.uint8)
    view[:] = np.array(colour(number))[:, None, None]
    thresholds = np.full(len(names), 0.5)
    found = Prediction.from_probs(file or f"photos/{number}.jpg", np.array(probs), names, thresholds)
    return replace(found, view=view)


def sheet_of(answers, kind=".html", chosen=False, info=None, checkpoint="runs/best.safetensors"):
    sheet = ContactSheet(Path(checkpoint), info or info_of(), kind, chosen)
    for each in answers:
        sheet.add(each)
    return sheet


def pixels_of(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def test_those_attributes_are_shown_that_are_farthest_from_their_rate():
    sheet = sheet_of([answer()])
    assert sheet.tiles[0].shown == ("Young", "Bald", "<b>x</b>", "</script>", "Male")
    assert len(sheet.tiles[0].shown) == NUM_TELLING
    assert sheet_of([answer()], chosen=True).tiles[0].shown == NAMES


@given(st.lists(st.floats(0, 1), min_size=7, max_size=7), st.lists(st.floats(0, 1), min_size=7, max_size=7))
def test_no_attribute_that_is_left_out_is_farther(probs, rates):
    sheet = sheet_of([answer(probs=probs)], info=info_of(rates=rates))
    given_probs = sheet.tiles[0].prediction.probs
    far = {name: abs(given_probs[name] - rate) for name, rate in zip(NAMES, rates, strict=True)}
    shown = [far[name] for name in sheet.tiles[0].shown]
    assert shown == sorted(shown, reverse=True)
    assert min(shown) >= max(far[name] for name in NAMES if name not in sheet.tiles[0].shown)


def test_rates_are_celebas_where_the_checkpoint_has_none():
    published = json.loads((REPOSITORY / "tests" / "tools" / "celeba_statistics.json").read_text())["marginals"]
    assert list(PREVALENCE) == published
    sheet = sheet_of([answer()], info=info_of(rates=()))
    assert sheet.base_rates == {
        name: published[ATTRIBUTES.index(name)] for name in ("Male", "Bald", "Young", "Smiling")
    }
    assert "in CelebA" in sheet.lines()[0] and "in the training images" in sheet_of([answer()]).lines()[0]
    names = ("wet", "red")
    unknown = sheet_of([answer(probs=(0.6, 0.2), names=names)], info=info_of(names, ()))
    assert unknown.tiles[0].shown == ("red", "wet")
    assert "tick" not in " ".join(unknown.lines()) and "farthest from one half" in unknown.lines()[1]
    assert stored_data(sheet_html(unknown))["attributes"] == [
        {"name": "wet", "rate": None},
        {"name": "red", "rate": None},
    ]


def test_training_stores_the_rates(trained_run, celeba):
    text = (celeba / "list_attr_celeba.txt").read_text().splitlines()[2:26]
    present = np.array([[value == "1" for value in line.split()[1:]] for line in text])
    assert read_info(trained_run / "best.safetensors").prevalence == pytest.approx(present.mean(axis=0), abs=1e-6)


def test_a_page_has_each_image_with_its_answers():
    sheet = sheet_of([answer(number, probs=np.linspace(0.1 * number, 1, 7)) for number in range(6)])
    data = stored_data(sheet_html(sheet))
    assert [attribute["name"] for attribute in data["attributes"]] == list(NAMES)
    for number, image in enumerate(data["images"]):
        assert image["file"] == f"photos/{number}.jpg"
        assert image["probs"] == pytest.approx(np.linspace(0.1 * number, 1, 7), abs=1e-4)
        assert image["present"] == [a for a in reversed(range(7)) if image["probs"][a] >= 0.5]
        jpeg = Image.open(io.BytesIO(base64.b64decode(image["jpeg"])))
        assert jpeg.size == (176, 208)
        assert np.abs(np.array(jpeg.getpixel((80, 90))) - colour(number)).max() <= 6


@pytest.mark.parametrize(("kind", "draw"), [(".html", sheet_html), (".png", sheet_png)])
def test_of_too_many_images_the_first_are_shown_and_it_is_said(kind, draw):
    count = MAX_IMAGES[kind] + 3
    sheet = sheet_of((answer(number, size=(16, 24)) for number in range(count)), kind, info=info_of(size=(16, 24)))
    assert sheet.count_in_words() == f"the first {MAX_IMAGES[kind]:,} images of {count:,}"
    assert sheet.title() == f"The first {MAX_IMAGES[kind]:,} images of {count:,}, answered by runs/best.safetensors"
    assert len(sheet.tiles) == MAX_IMAGES[kind]
    assert draw(sheet)


def test_of_too_many_chosen_attributes_the_first_are_shown_and_it_is_said():
    names = tuple(f"a{number}" for number in range(20))
    made = answer(probs=np.linspace(0, 1, 20), names=names)
    sheet = sheet_of([made], chosen=True, info=info_of(names, ()))
    assert sheet.tiles[0].shown == names[:MAX_CHOSEN]
    assert f"The first {MAX_CHOSEN} attributes are shown." in sheet.lines()
    assert len(stored_data(sheet_html(sheet))["listed"]) == 20
    assert "first" not in " ".join(sheet_of([answer()], chosen=True).lines())


@pytest.mark.parametrize("size", [(208, 176), (224, 224), (16, 24), (208, 64), (64, 416)])
def test_the_picture_holds_every_image(size):
    answers = [answer(number, size=size) for number in range(8)]
    png = sheet_png(sheet_of(answers, ".png", info=info_of(size=size)))
    assert png == sheet_png(sheet_of(answers, ".png", info=info_of(size=size)))
    pixels = pixels_of(png).reshape(-1, 3).astype(int)
    for number in range(8):
        near = np.abs(pixels - colour(number)).max(axis=1) <= 6
        assert near.sum() > 200
    assert Image.open(io.BytesIO(png)).info["Software"] == "vitpe"


def test_bars_are_as_long_as_probabilities_are_large():
    names = ("one", "two", "three")
    made = answer(probs=(0.25, 0.5, 1.0), names=names)
    pixels = pixels_of(sheet_png(sheet_of([made], ".png", chosen=True, info=info_of(names, ()))))
    strong, weak = [31, 122, 140], [152, 162, 179]
    lengths = {
        tuple(shade): [int(n) for n in np.unique((pixels == shade).all(axis=2).sum(axis=1))] for shade in (strong, weak)
    }
    assert 50 in lengths[tuple(weak)] and {100, 200} <= {*lengths[tuple(strong)]}


def test_names_of_all_kinds_and_images_that_cannot_be_read_have_a_place(recwarn):
    files = ["x" * 300 + ".jpg", "日本語.jpg", "a\udcff\x1b[31m.jpg", "..", "مرحبا.png", "💡", "a/$x^2$.png"]
    answers = [answer(number, file=file) for number, file in enumerate(files)]
    answers += [
        Prediction("bad.jpg", error="word " * 200),
        Prediction("worse.jpg", error="x" * 500),
        Prediction("faceless"),
    ]
    for kind, draw in ((".png", sheet_png), (".html", sheet_html)):
        sheet = sheet_of(answers, kind, checkpoint="runs/" + "long/" * 80 + "best.safetensors")
        assert draw(sheet)
        assert len(sheet.tiles) == 10
    images = stored_data(sheet_html(sheet))["images"]
    assert images[2]["file"] == "a\\xff\\x1b[31m.jpg"
    assert (images[7]["jpeg"], images[7]["shown"], images[7]["error"]) == (None, [], "word " * 200)
    assert not recwarn.list
    assert sheet_png(sheet_of(answers[-3:], ".png"))


def test_faces_of_a_photo_are_told_apart():
    faces = [replace(answer(number, file="many.jpg"), face=FoundFace(2, number)) for number in (1, 2)]
    sheet = sheet_of(
        [*faces, replace(answer(file="one.jpg"), face=FoundFace(1, 1)), Prediction("cup", face=FoundFace())]
    )
    images = stored_data(sheet_html(sheet))["images"]
    assert [image["file"] for image in images] == ["many.jpg, face 1 of 2", "many.jpg, face 2 of 2", "one.jpg", "cup"]
    assert images[3]["error"] == "no face found"


VISIT = """
const cards = () => [...document.querySelectorAll(".card")];
const files = () => cards().map(card => card.querySelector(".file").textContent);
const choose = value => { at("order").value = value; at("order").dispatchEvent(new Event("change")); };
seen.start = files();
seen.rows = [...cards()[1].querySelectorAll(":scope > .row")].map(row => row.firstChild.textContent);
seen.options = [...at("order").options].map(option => option.textContent);
choose("1");
seen.sorted = files();
seen.first = cards()[0].querySelector(".first .row").textContent;
const bald = [...cards()[0].querySelectorAll(".row")].filter(row => row.textContent.startsWith("Bald"));
seen.once = bald.filter(row => row.offsetHeight).length;
choose("unusual");
seen.unusual = files();
seen.cleared = document.querySelectorAll(".first .row").length;
choose("came");
seen.again = files();
const picture = cards()[0].querySelector("img");
picture.loading = "eager";
await picture.decode();
seen.natural = picture.naturalWidth;
cards()[0].querySelector("button").click();
seen.open = at("large").open;
seen.scrolled = at("large").scrollTop;
seen.close = at("large").querySelector("button").getBoundingClientRect().bottom <= innerHeight;
seen.large = at("large-name").textContent;
seen.all = [...at("large-all").children].map(row => row.children[0].textContent + row.children[1].textContent);
seen.width = document.documentElement.scrollWidth;
at("large").querySelector("button").click();
seen.closed = !at("large").open;
seen.broken = cards()[3].textContent;
const [bar, tick] = cards()[0].querySelector(".bar").children;
seen.bar = [bar.style.width, tick.style.left];
seen.background = getComputedStyle(document.body).backgroundColor;
seen.markup = document.querySelectorAll("b").length;
"""


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(WIDE, True), (PHONE, False)], ids=["wide dark", "phone light"])
def test_a_visit(tmp_path, size, dark):
    answers = [
        answer(0, (0.4, 0.1, 0.1, 0.9, 0.2, 0.5, 0.996)),
        answer(1, (0.4, 0.7, 0.8, 0.5, 0.5, 0.5, 0.1)),
        answer(2, (0.4, 0.3, 0.8, 0.5, 0.5, 0.001, 0.1)),
        Prediction("photos/bad.jpg", error="<b>damaged</b>"),
    ]
    seen, console = visit(sheet_html(sheet_of(answers)), VISIT, tmp_path, size, dark)
    assert not console
    assert seen["start"] == seen["again"] == ["0.jpg", "1.jpg", "2.jpg", "bad.jpg"]
    assert seen["rows"][0] == "Bald" and len(seen["rows"]) == NUM_TELLING
    assert seen["options"] == ["as they came", "most unusual first", *(f"by {name}" for name in NAMES)]
    assert seen["sorted"] == ["1.jpg", "2.jpg", "0.jpg", "bad.jpg"]
    assert seen["first"] == "Bald70%"
    assert seen["unusual"] == ["0.jpg", "1.jpg", "2.jpg", "bad.jpg"]
    assert seen["cleared"] == 0
    assert seen["once"] == 1
    assert seen["natural"] == 176
    assert seen["open"] and seen["closed"] and seen["close"] and seen["scrolled"] == 0
    assert seen["large"] == "photos/0.jpg"
    assert seen["all"][:2] == ["a_b$c$>99%", "<b>x</b>90%"] and len(seen["all"]) == 7
    assert seen["width"] <= size[0]
    assert seen["broken"] == "<b>damaged</b>bad.jpg"
    assert seen["bar"] == ["99.6%", "10%"]
    assert seen["background"] == ("rgb(20, 23, 29)" if dark else "rgb(255, 255, 255)")
    assert seen["markup"] == 0


# The command


@pytest.fixture
def photos(celeba, tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, path in enumerate(sorted((celeba / "img_align_celeba").iterdir())[:5]):
        (folder / f"{number}.jpg").write_bytes(path.read_bytes())
    return folder


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "table"])
def test_what_is_printed_stays_the_same(predicted, photos, kind):
    plain = predicted(photos, "--format", kind)
    for suffix in ("png", "html"):
        called = predicted(photos, "--format", kind, "--sheet", photos.parent / f"sheet.{suffix}")
        assert (called.code, called.out) == (0, plain.out)
        assert f"wrote {photos.parent / 'sheet'}.{suffix}: 5 images\n" in called.stderr


def test_a_sheet_is_no_input_of_the_next(predicted, photos):
    sheet = photos / "sheet.png"
    first = predicted(photos, "--format", "jsonl", "--sheet", sheet)
    for images in ([photos], sorted(photos.iterdir()), [photos / "*.*"]):
        again = predicted(*images, "--format", "jsonl", "--sheet", sheet)
        assert (again.code, again.out) == (0, first.out)
        assert "left out: 1 sheet that is written anew" in again.stderr
    assert len(read_jsonl(predicted(photos, "--format", "jsonl"))) == 6


def test_the_page_says_what_the_records_say(predicted, photos):
    (photos / "bad.jpg").write_bytes(b"no image")
    page = photos.parent / "page.html"
    names = "\n".join(map(str, sorted(photos.iterdir()))).encode()
    called = predicted("-", "--format", "jsonl", "--sheet", page, stdin=names)
    assert called.code == 1
    data = stored_data(page.read_text())
    records = read_jsonl(called)
    for image, record in zip(data["images"], records, strict=True):
        assert image["file"] == record["file"]
        assert image["error"] == record.get("error")
        if "probs" in record:
            assert image["probs"] == pytest.approx([record["probs"][name] for name in COLOURS], abs=1e-4)
    chosen = predicted(photos, "--format", "jsonl", "--sheet", page, "--attributes", "Blue,Red")
    assert chosen.code == 1
    data = stored_data(page.read_text())
    shown = [data["attributes"][place]["name"] for place in data["images"][0]["shown"]]
    assert shown == ["Blue", "Red"]
    predicted(photos, "--format", "jsonl", "--sheet", page, "--top", "3", "--device", "cpu")
    assert [len(image["shown"]) for image in stored_data(page.read_text())["images"]] == [3, 3, 3, 3, 3, 0]


def test_a_single_image_from_stdin_and_maps_beside_it(predicted, photos, tmp_path):
    sheet = tmp_path / "one.png"
    data = encode(Image.new("RGB", (30, 20), (200, 30, 30)))
    called = predicted("--stdin-image", "--sheet", sheet, "--maps", tmp_path / "maps", stdin=data)
    assert called.code == 0
    assert pixels_of(sheet.read_bytes()).shape[1] > 500 and len([*(tmp_path / "maps").iterdir()]) == 1


def test_what_cannot_be_written_is_said_before_the_work(predicted, photos, tmp_path):
    called = predicted(photos, "--sheet", tmp_path / "sheet.pdf")
    assert (called.code, called.out) == (2, b"")
    assert f"--sheet {tmp_path / 'sheet.pdf'} does not end in .png or .html" in called.stderr
    (tmp_path / "mine.png").write_bytes(encode(Image.new("RGB", (9, 9)), "PNG"))
    called = predicted(photos, "--sheet", tmp_path / "mine.png")
    assert called.code == 2 and "vitpe did not write it" in called.stderr
    called = predicted(photos, "--sheet", tmp_path / "none" / "sheet.png")
    assert called.code == 1 and "No such file" in called.stderr and called.out == b""


def test_without_an_image_there_is_no_sheet(predicted, tmp_path):
    called = predicted("-", "--format", "jsonl", "--sheet", tmp_path / "sheet.html", stdin=b"")
    assert (called.code, called.out) == (0, b"")
    assert "there is no image to show" in called.stderr and not [*tmp_path.iterdir()]
