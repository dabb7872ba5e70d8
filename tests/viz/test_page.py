"""The page's maps: complete in themselves, their numbers those of the checkpoints, and alive in a browser."""

import base64
import json
import re
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.browser import PHONE, WIDE, needs_browser, visit
from tests.helpers.in_process import call_vitpe
from tests.helpers.viz_history import face_embeddings, float32, write_checkpoint, write_run, write_safetensors
from vitpe.reporting.run_page import run_page
from vitpe.viz.colours import ColourScale
from vitpe.viz.components import component_colours, norms
from vitpe.viz.history import Checkpoint, load_history
from vitpe.viz.numbers import NUMBERS, RANDOM_MEANING, checkpoint_record, random_numbers
from vitpe.viz.page_section import MAX_BYTES, Frame, Side, history_section, quantise
from vitpe.viz.similarity import cosine_similarity

LOW, HIGH = -0.5, 0.9
OF_A_GRID = Checkpoint(Path("x"), np.zeros((143, 1), np.float32), (13, 11))


@pytest.fixture(scope="module")
def history(tmp_path_factory):
    return load_history([write_run(tmp_path_factory.mktemp("page") / "runs", num_frames=4, width=16, last_step=3000)])


@pytest.fixture(scope="module")
def text(history):
    return page_of(history)


def page_of(*histories, names=("a", "b")):
    return run_page([], section_of(*histories, names=names))


def section_of(*histories, names=("a", "b")):
    sides = []
    for name, history in zip(names, histories, strict=False):
        random = random_numbers(history[0].embeddings.shape[1], history[0].grid_size, history[0].face)
        records = [checkpoint_record(checkpoint, random) for checkpoint in history]
        sides.append(Side(name, history, records))
    return history_section(sides, ColourScale(LOW, HIGH), "viridis", 150)


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def unpacked(side, count):
    """Of a side of the page: pairs (T, P), with what rounding took from the last ones, lengths (T, N) and components
    (T, N, 3), in bytes.
    """
    total, num_pairs = len(side["frames"]), count * (count - 1) // 2
    data = np.frombuffer(zlib.decompress(base64.b64decode(side["packed"])), np.uint8)
    rest, pairs, lengths, components = np.split(data, np.cumsum([num_pairs, total * num_pairs, total * count]))
    pairs = np.cumsum(pairs.reshape(total, num_pairs), axis=0, dtype=np.uint8).astype(float)
    pairs[-1] += np.where(pairs[-1] == 255, 0, rest / 255 - 0.5)
    return pairs, lengths.reshape(total, count), components.reshape(total, count, 3)


def test_nothing_is_loaded_from_elsewhere(text):
    assert "default-src 'none'" in text
    assert not re.findall(r"(?:src|href)\s*=", text)  # links within the page are made by its script
    text = text.replace('"http://www.w3.org/2000/svg"', "")  # a name, which nothing fetches
    assert not re.findall(r"https?://|url\(|@import|fetch\(|XMLHttpRequest", text)


def test_the_similarities_are_in_it(history, text):
    section = embedded(text)["history"]
    side = section["sides"][0]
    assert section["grid_size"] == [13, 11]
    assert [frame["label"] for frame in side["frames"]] == ["step 0", "step 1,000", "step 2,000", "step 3,000"]
    assert not side["frames"][0]["defined"]
    assert section["error"] < 0.005
    for checkpoint, frame, pairs in zip(history, side["frames"], unpacked(side, 143)[0], strict=True):
        values = np.where(pairs == 255, np.nan, frame["low"] + pairs / 254.0 * (frame["high"] - frame["low"]))
        expected = cosine_similarity(checkpoint.embeddings)[np.triu_indices(143, k=1)]
        np.testing.assert_allclose(values, expected, atol=section["error"] + 1e-9)
    np.testing.assert_allclose(values, expected, atol=section["last_error"] + 1e-9)
    assert section["last_error"] < 2e-5


def test_lengths_and_components_are_in_it(history, text):
    side = embedded(text)["history"]["sides"][0]
    _, lengths, components = unpacked(side, 143)
    last, frame = history[-1], side["frames"][-1]
    low, high = frame["norms"]
    expected = norms(last.embeddings, (13, 11)).ravel()
    np.testing.assert_allclose(low + lengths[-1] / 255 * (high - low), expected, atol=(high - low) / 500)
    colours, shares = component_colours(last.embeddings, (13, 11))
    np.testing.assert_allclose(components[-1] / 255, colours.reshape(-1, 3), atol=1 / 500)
    assert frame["shares"] == pytest.approx(shares)
    before, after = components[-2:].astype(float) - 128
    assert ((before * after).sum(axis=0) > 0).all()


def test_a_history_is_small():
    """61 checkpoints of 143 patches, of which neighbouring ones are alike, as those of a run are."""
    generator = np.random.default_rng(0)
    moves = generator.standard_normal((61, 143, 32)) * 0.03
    start = generator.standard_normal((143, 32))
    frames = [
        Frame.of(replace(OF_A_GRID, embeddings=(start + moves[: i + 1].sum(axis=0)).astype(np.float32)))
        for i in range(61)
    ]
    plain = sum(frame.pairs.nbytes for frame in frames)
    delta = np.diff(np.stack([frame.pairs for frame in frames]), axis=0, prepend=np.uint8(0))
    assert len(zlib.compress(delta.tobytes())) < 0.7 * plain
    assert 4 / 3 * len(zlib.compress(delta.tobytes())) < 600_000


def test_histories_of_large_grids_are_thinned(tmp_path):
    grid = (40, 40)
    for step in range(9):
        values = np.random.default_rng(step).standard_normal((1600, 2))
        write_checkpoint(tmp_path / f"step-{step:07d}.safetensors", values, step, grid)
    section = section_of(load_history([tmp_path]))
    frames = section["sides"][0]["frames"]
    assert len(frames) == MAX_BYTES // 1600**2 == 6
    assert [frames[0]["step"], frames[-1]["step"]] == [0, 8]
    assert section["num_checkpoints"] == 9


def test_quantised_pairs_can_be_undefined_or_all_alike():
    similarity = np.full((3, 3), 0.5)
    pairs, rest, low, high = quantise(similarity)
    assert rest.tolist() == [128] * 3
    assert low == 0.5 < high
    assert pairs.tolist() == [0, 0, 0]
    similarity[0, 1] = similarity[1, 0] = np.nan
    assert quantise(similarity)[0].tolist() == [255, 0, 0]


def test_a_files_name_is_text_and_no_markup(history):
    name = "<!--<script>alert(1)<b>"
    renamed = replace(history[-1], path=history[-1].path.with_name(f"{name}.safetensors"), step=None)
    text = page_of([renamed])
    assert "<b>" not in text
    assert "<!--<" not in text
    assert embedded(text)["history"]["sides"][0]["frames"][0]["label"] == name


# What a visitor would do, and what the page then shows.
VISIT = """
  await maps.ready;
  const {layout, views: [{overview, large, notice}]} = maps;
  const look = name => seen[name] = {
    chosen: at("chosen").textContent, reading: at("reading").textContent, facts: at("facts").textContent,
    notice: !notice.hidden, numbers: [...at("numbers").rows].map(row => row.cells[1].textContent),
  };
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
  point(large, 7.5 * large.clientWidth / 11, 9.5 * large.clientHeight / 13);
  look("earlier");
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
    data = embedded(text)["history"]
    colours = np.frombuffer(base64.b64decode(data["colours"]), np.uint8).reshape(256, 3).astype(int)

    def colour(n, m):
        return colours[round(255 * min(1, max(0, (similarity[n, m] - LOW) / (HIGH - LOW))))]

    def close(pixel, n, m):  # half a step of the colour map, from rounding
        return np.abs(np.array(pixel[:3]) - colour(n, m)).max() <= 3 and pixel[3] == 255

    for n, m in CELLS:
        pixel = seen["pixels"][f"{n} {m}"]
        assert pixel == [255, 255, 255, 255] if n == m else close(pixel, n, m), (n, m)
    assert not close(seen["pixels"]["0 1"], 0, 142)

    assert seen["start"]["chosen"] == "Row 6, column 3, the left eye"
    assert "step 3,000" in seen["start"]["facts"]
    assert "192,000 images seen" in seen["start"]["facts"]
    assert f"{history[-1].valid_accuracy:.1%}" in seen["start"]["facts"]
    assert seen["start"]["numbers"][0] == f"{data['sides'][0]['frames'][-1]['numbers']['mirror_symmetry']:.2f}"
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
    earlier = cosine_similarity(history[-2].embeddings)[11 * 11 + 8, 9 * 11 + 7]
    read = float(seen["earlier"]["reading"].rsplit(" ", 1)[1].replace("−", "-"))
    assert read == pytest.approx(earlier, abs=data["error"] + 0.005)
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
    script = "await maps.ready; seen.width = document.documentElement.scrollWidth;"
    script += "seen.background = getComputedStyle(document.body).backgroundColor;"
    seen, console = visit(text, script, tmp_path, size, dark)
    assert not console
    assert seen["width"] <= size[0]
    assert seen["background"] == ("rgb(20, 23, 29)" if dark else "rgb(255, 255, 255)")


PHONE_VISIT = """
  await maps.ready;
  for (let i = 0; i < 2; i++) await new Promise(requestAnimationFrame);
  const {overview, large: canvas} = maps.views[0];
  overview.scrollIntoView();
  const box = overview.getBoundingClientRect();
  const [clientX, clientY] = [box.left + 5.5 * box.width / 11, box.top + 9.5 * box.height / 13];
  overview.dispatchEvent(new PointerEvent("click", {clientX, clientY, bubbles: true, pointerType: "touch"}));
  const large = canvas.getBoundingClientRect(), text = at("reading").getBoundingClientRect();
  seen.chosen = at("chosen").textContent;
  seen.in_sight = [large, text].every(each => each.top >= 0 && each.bottom <= innerHeight && each.right <= innerWidth);
  seen.large = document.elementFromPoint(large.left + 5, large.top + 5) === canvas;
  seen.meanings = at("measured").textContent;
"""


@needs_browser
def test_a_tapped_map_is_in_sight_on_a_phone(text, tmp_path):
    seen, _ = visit(text, PHONE_VISIT, tmp_path, PHONE)
    assert seen["chosen"] == "Row 9, column 5"
    assert seen["in_sight"]
    assert seen["large"]
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
    return grid, page_of(load_history([folder]))


UNUSUAL_VISIT = """
  await maps.ready;
  const {overview, large} = maps.views[0], box = overview.getBoundingClientRect();
  const one = at("one").getBoundingClientRect();
  seen.apart = innerWidth < 861 || box.right <= one.left;
  seen.size = [box.width, box.height, large.clientWidth, large.clientHeight];
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


def foreign(folder):
    """Two files of nobody's, without steps."""
    for name in "ab":
        values = np.random.default_rng(ord(name)).standard_normal((1, 17, 8))
        write_safetensors(folder / f"{name}.safetensors", {"pos_embed": float32(values)})


def alone(folder):
    """One checkpoint of ours."""
    write_checkpoint(folder / "step-0000007.safetensors", face_embeddings(1.0, width=8), 7)


def zero(folder):
    """A model that learns no embeddings."""
    for step in (0, 10):
        write_checkpoint(folder / f"step-{step:07d}.safetensors", np.zeros((143, 4)), step)


def equal(folder):
    """Embeddings that are all the same."""
    for step in (1, 2):
        write_checkpoint(folder / f"step-{step:07d}.safetensors", np.ones((143, 4)) * step, step)


def one_zero(folder):
    """One patch without an embedding."""
    values = face_embeddings(1.0, width=8)
    values[70] = 0
    write_checkpoint(folder / "step-0000007.safetensors", values, 7)


def tiny_grid(folder):
    """No patch is beyond another's neighbours."""
    for step in (1, 2):
        values = np.random.default_rng(step).standard_normal((4, 3))
        write_checkpoint(folder / f"step-{step:07d}.safetensors", values, step, (2, 2))


ODD_VISIT = """
  await maps.ready;
  const [{overview, notice}] = maps.views;
  overview.dispatchEvent(new KeyboardEvent("keydown", {key: "ArrowRight", bubbles: true, cancelable: true}));
  seen.controls = !at("controls").hidden;
  seen.notice = !notice.hidden;
  seen.reading = at("reading").textContent;
  seen.lacks = at("lacks").textContent;
  seen.curve = at("number-curve").querySelectorAll("svg").length;
  for (const button of document.querySelectorAll("#numbers button")) button.click();
  seen.facts = at("facts").textContent;
"""


@needs_browser
@pytest.mark.parametrize(
    ("write", "controls", "notice", "words"),
    [
        (foreign, True, False, "most like"),
        (alone, False, False, "most like"),
        (zero, True, True, "undefined"),
        (equal, True, False, "most like"),
        (one_zero, False, False, "the embedding is zero"),
        (tiny_grid, True, False, "No patch is beyond its neighbours"),
    ],
)
def test_any_history_has_a_page(tmp_path, write, controls, notice, words):
    write(tmp_path / "files")
    called = call_vitpe("viz-pe", tmp_path / "files", "--html", "--no-stills", "--size", "400", "--out", tmp_path)
    assert called.code == 0, called.stderr
    seen, console = visit((tmp_path / "pe_similarity.html").read_text(), ODD_VISIT, tmp_path)
    assert console == []
    assert (seen["controls"], seen["notice"]) == (controls, notice)
    assert words in seen["reading"]
    assert ("one checkpoint alone" in seen["lacks"]) == (not controls)
    assert "without a run's folder" in seen["lacks"]
    assert "--probe" in seen["lacks"]
    assert seen["curve"] == (controls and write is not zero)


@needs_browser
def test_what_is_undefined_in_both_has_a_page(tmp_path):
    for name in "ab":
        zero(tmp_path / name)
    arguments = ("--compare", "--html", "--no-stills", "--size", "400", "--out", tmp_path)
    called = call_vitpe("viz-pe", tmp_path / "a", tmp_path / "b", *arguments)
    assert called.code == 0, called.stderr
    script = "await maps.ready; seen.alike = at('alike').textContent;"
    seen, console = visit((tmp_path / "pe_comparison.html").read_text(), script, tmp_path)
    assert console == []
    assert "–, of random embeddings" in seen["alike"]


def neighbours(n):
    row, column = divmod(n, 11)
    rows, columns = np.divmod(np.arange(143), 11)
    return np.maximum(np.abs(rows - row), np.abs(columns - column)) < 2
