"""The page: complete in itself, its numbers those of the checkpoints, and alive in a browser."""

import base64
import json
import re
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers.browser import PHONE, WIDE, needs_browser, visit
from tests.helpers.viz_history import write_checkpoint, write_run
from vitpe.viz.colours import ColourScale
from vitpe.viz.history import load_history
from vitpe.viz.html import page, quantise
from vitpe.viz.numbers import NUMBERS, RANDOM_MEANING, checkpoint_record, random_numbers
from vitpe.viz.similarity import cosine_similarity

LOW, HIGH = -0.5, 0.9


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return load_history([write_run(tmp_path_factory.mktemp("page") / "runs", num_frames=4, width=16, last_step=3000)])


@pytest.fixture(scope="module")
def text(history):
    random = random_numbers(16, history[0].grid_size, history[0].face)
    records = [checkpoint_record(checkpoint, random) for checkpoint in history]
    return page(history, records, ColourScale(LOW, HIGH), "viridis", 150)


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_nothing_is_loaded_from_elsewhere(text):
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:src|href)\s*=", text)
    text = text.replace('"http://www.w3.org/2000/svg"', "")  # a name, which nothing fetches
    assert not re.findall(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", text)


def test_the_similarities_are_in_it(history, text):
    data = embedded(text)
    assert data["grid_size"] == [13, 11]
    assert [frame["label"] for frame in data["frames"]] == ["step 0", "step 1,000", "step 2,000", "step 3,000"]
    assert not data["frames"][0]["defined"]
    for checkpoint, frame in zip(history, data["frames"], strict=True):
        steps = np.frombuffer(base64.b64decode(frame["pairs"]), "<u2").astype(float)
        values = np.where(steps == 65535, np.nan, frame["low"] + steps / 65534 * (frame["high"] - frame["low"]))
        expected = cosine_similarity(checkpoint.embeddings)[np.triu_indices(143, k=1)]
        np.testing.assert_allclose(values, expected, atol=3e-5)


def test_quantised_pairs_can_be_undefined_or_all_alike():
    similarity = np.full((3, 3), 0.5)
    pairs, low, high = quantise(similarity)
    assert low == 0.5 < high
    assert pairs.tolist() == [0, 0, 0]
    similarity[0, 1] = similarity[1, 0] = np.nan
    assert quantise(similarity)[0].tolist() == [65535, 0, 0]


def test_a_files_name_is_text_and_no_markup(history):
    name = "<!--<script>alert(1)<b>"
    renamed = replace(history[-1], path=history[-1].path.with_name(f"{name}.safetensors"), step=None)
    random = random_numbers(16, renamed.grid_size, renamed.face)
    text = page([renamed], [checkpoint_record(renamed, random)], ColourScale(LOW, HIGH), "viridis", 150)
    assert "<b>" not in text
    assert "<!--<" not in text
    assert embedded(text)["frames"][0]["label"] == name


# What a visitor would do, and what the page then shows.
VISIT = """
  const look = name => seen[name] = {
    chosen: at("chosen").textContent, reading: at("reading").textContent, facts: at("facts").textContent,
    notice: !at("notice").hidden, numbers: [...at("numbers").rows].map(row => row.cells[1].textContent),
  };
  const overview = at("overview"), large = at("large");
  const point = (canvas, x, y, type = "pointermove", pointerType = "mouse") => {
    const box = canvas.getBoundingClientRect();
    const place = {clientX: box.left + x, clientY: box.top + y, bubbles: true, pointerType};
    canvas.dispatchEvent(new PointerEvent(type, place));
  };
  const cells = (canvas, x, y, side) =>
    [...canvas.getContext("2d").getImageData(x + (side >> 1), y + (side >> 1), 1, 1).data];
  const tile = (row, column) => [(column + 0.5) * overview.clientWidth / 11, (row + 0.5) * overview.clientHeight / 13];
  look("start");
  const pixels = {};
  for (const [n, m] of CELLS) {
    const x = (n % 11) * layout.width + (m % 11) * layout.cell;
    const y = Math.floor(n / 11) * layout.height + Math.floor(m / 11) * layout.cell;
    pixels[`${n} ${m}`] = cells(overview, x, y, layout.cell);
  }
  seen.pixels = pixels;
  point(overview, ...tile(0, 5));
  look("hovered");
  seen.large = cells(large, 7 * layout.largeCell, 9 * layout.largeCell, layout.largeCell);
  point(overview, ...tile(0, 5), "click");
  point(large, 7.5 * large.clientWidth / 11, 9.5 * large.clientHeight / 13);
  look("pointed");
  point(large, 0, 0, "pointerleave");
  look("left");
  point(overview, ...tile(12, 10), "click");
  point(overview, ...tile(3, 3), "pointermove", "touch");
  look("touched");
  const key = (target, name) =>
    target.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true, cancelable: true}));
  key(overview, "ArrowUp");
  key(overview, "ArrowLeft");
  key(overview, "ArrowLeft");
  look("keys");
  key(document.body, ",");
  look("before");
  at("time").value = 0;
  at("time").dispatchEvent(new Event("input"));
  look("past");
  seen.undefined = cells(overview, 5 * layout.cell, 5 * layout.cell, layout.cell);
  key(document, " ");
  seen.playing = at("play").textContent;
  await new Promise(resolve => setTimeout(resolve, 1500));
  look("played");
  seen.stopped = at("play").textContent;
"""
CELLS = [(0, 1), (0, 142), (69, 73), (69, 70), (142, 0), (60, 11), (69, 69)]


@needs_browser
def test_a_visit(history, text, tmp_path):
    seen, console = visit(text, VISIT.replace("CELLS", json.dumps(CELLS)), tmp_path)
    assert not [line for line in console if "getImageData" not in line]  # which only this test calls
    similarity = cosine_similarity(history[-1].embeddings)
    data = embedded(text)
    colours = np.frombuffer(base64.b64decode(data["colours"]), np.uint8).reshape(256, 3).astype(int)

    def colour(n, m):
        return colours[round(255 * min(1, max(0, (similarity[n, m] - LOW) / (HIGH - LOW))))]

    def close(pixel, n, m):  # half a step of the colour map, from rounding to 16 bits
        return np.abs(np.array(pixel[:3]) - colour(n, m)).max() <= 3 and pixel[3] == 255

    for n, m in CELLS:
        pixel = seen["pixels"][f"{n} {m}"]
        assert pixel == [255, 255, 255, 255] if n == m else close(pixel, n, m), (n, m)
    assert not close(seen["pixels"]["0 1"], 0, 142)

    assert seen["start"]["chosen"] == "Row 6, column 3, the left eye"
    assert "step 3,000" in seen["start"]["facts"]
    assert "192,000 images seen" in seen["start"]["facts"]
    assert f"{history[-1].valid_accuracy:.1%}" in seen["start"]["facts"]
    assert seen["start"]["numbers"][0] == f"{data['frames'][-1]['numbers']['mirror_symmetry']:.2f}"
    best = np.where(neighbours(69), -2, similarity[69]).argmax()
    assert f"row {best // 11}, column {best % 11}" in seen["start"]["reading"]
    assert seen["start"]["reading"].endswith(f"{similarity[69, best]:.2f}".replace("-", "−"))

    assert seen["hovered"]["chosen"] == "Row 0, column 5, the border"
    assert close(seen["large"], 5, 9 * 11 + 7)
    expected = f"Similarity to row 9, column 7: {similarity[5, 9 * 11 + 7]:.2f}".replace("-", "−")
    assert seen["pointed"]["reading"] == expected
    assert seen["left"]["chosen"] == "Row 0, column 5, the border"
    assert seen["touched"]["chosen"] == "Row 12, column 10, the border"
    assert seen["keys"]["chosen"] == "Row 11, column 8"

    assert seen["before"]["facts"].startswith("step 2,000")
    assert seen["past"]["facts"].startswith("step 0")
    assert seen["past"]["notice"]
    assert not seen["start"]["notice"]
    assert "undefined" in seen["past"]["reading"]
    assert set(seen["past"]["numbers"]) == {"–"}
    assert len(set(seen["undefined"][:3])) == 1  # grey
    assert seen["playing"] == "Pause"
    assert seen["played"]["facts"].startswith("step 3,000")
    assert seen["stopped"] == "Play"


@needs_browser
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_it_fits_any_screen(text, tmp_path, size, dark):
    script = "seen.width = document.documentElement.scrollWidth;"
    script += "seen.background = getComputedStyle(document.body).backgroundColor;"
    seen, console = visit(text, script, tmp_path, size, dark)
    assert not console
    assert seen["width"] <= size[0]
    assert seen["background"] == ("rgb(20, 23, 29)" if dark else "rgb(255, 255, 255)")


PHONE_VISIT = """
  const overview = at("overview");
  overview.scrollIntoView();
  const box = overview.getBoundingClientRect();
  const [clientX, clientY] = [box.left + 5.5 * box.width / 11, box.top + 9.5 * box.height / 13];
  overview.dispatchEvent(new PointerEvent("click", {clientX, clientY, bubbles: true, pointerType: "touch"}));
  const large = at("large").getBoundingClientRect(), text = at("reading").getBoundingClientRect();
  seen.chosen = at("chosen").textContent;
  seen.in_sight = [large, text].every(each => each.top >= 0 && each.bottom <= innerHeight && each.right <= innerWidth);
  seen.large = document.elementFromPoint(large.left + 5, large.top + 5).id;
  seen.meanings = at("measured").textContent;
"""


@needs_browser
def test_a_tapped_map_is_in_sight_on_a_phone(text, tmp_path):
    seen, _ = visit(text, PHONE_VISIT, tmp_path, PHONE)
    assert seen["chosen"] == "Row 9, column 5"
    assert seen["in_sight"]
    assert seen["large"] == "large"
    for meaning in (*(number.meaning for number in NUMBERS.values()), RANDOM_MEANING):
        assert meaning in seen["meanings"]


@pytest.fixture(scope="module", params=[(32, 32), (1, 40), (40, 1), (7, 30)], ids=str)
def unusual(request, tmp_path_factory):
    """A grid, and the page of two checkpoints of it."""
    grid, folder = request.param, tmp_path_factory.mktemp("grid")
    generator = np.random.default_rng(0)
    for step in (0, 10):
        values = generator.standard_normal((grid[0] * grid[1], 8))
        write_checkpoint(folder / f"step-{step:07d}.safetensors", values, step, grid)
    found = load_history([folder])
    random = random_numbers(8, grid, found[0].face)
    records = [checkpoint_record(checkpoint, random) for checkpoint in found]
    return grid, page(found, records, ColourScale(LOW, HIGH), "viridis", 150)


UNUSUAL_VISIT = """
  const overview = at("overview"), box = overview.getBoundingClientRect();
  const one = at("one").getBoundingClientRect();
  seen.apart = innerWidth < 861 || box.right <= one.left;
  seen.size = [box.width, box.height, at("large").clientWidth, at("large").clientHeight];
  const place = {clientX: box.right - 2, clientY: box.bottom - 2, bubbles: true, pointerType: "touch"};
  overview.dispatchEvent(new PointerEvent("click", place));
  seen.chosen = at("chosen").textContent;
  seen.fits = document.documentElement.scrollWidth <= innerWidth;
"""


@needs_browser
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_grids_of_any_shape_have_their_place(unusual, tmp_path, size):
    (rows, columns), text = unusual
    seen, _ = visit(text, UNUSUAL_VISIT, tmp_path, size)
    assert seen["apart"]
    assert seen["fits"]
    assert seen["chosen"] == f"Row {rows - 1}, column {columns - 1}, the border"
    width, height, *large = seen["size"]
    assert 100 <= width <= 760
    assert 20 <= height <= 900
    assert max(large) >= 150


def neighbours(n):
    row, column = divmod(n, 11)
    rows, columns = np.divmod(np.arange(143), 11)
    return np.maximum(np.abs(rows - row), np.abs(columns - column)) < 2
