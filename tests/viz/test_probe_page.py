"""A probe on a run's page: its numbers are those of the records, it follows the slider, and its run keeps it."""

import base64
import json
import re
import shutil
import zlib
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers import train_tiny
from tests.helpers.browser import PHONE, WIDE, needs_browser, visit
from tests.helpers.in_process import call_vitpe
from vitpe.inference.predictions import EvalInfo
from vitpe.inference.probe_result import LayerProbe, PositionProbe
from vitpe.metrics.ablation import measure_ablations
from vitpe.metrics.position import Estimates
from vitpe.reporting.probe_section import MAX_ATTENTION_BYTES, MAX_HEADS, parse_probe_section, probe_section

QUICK = ("--html", "--no-stills", "--size", "400")


@pytest.fixture(scope="module")
def probed(celeba, tmp_path_factory):
    """A run that was probed twice along its history: its folder, the records, and the page."""
    folder = tmp_path_factory.mktemp("probed")
    train_tiny(celeba, folder / "run", train__steps=16)
    arguments = ("--probe", "--probe-checkpoints", "2", "--device", "cpu", "--out", folder / "out")
    called = call_vitpe("viz-pe", folder / "run", *arguments, *QUICK)
    assert called.code == 0, called.stderr
    records = [record["probe"] for record in json.loads(called.stdout) if "probe" in record]
    return folder / "run", records, (folder / "out" / "pe_similarity.html").read_text()


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


VISIT = """
  await maps.ready;
  await probed.ready;
  const look = name => seen[name] = {
    about: at("probe-about").textContent,
    table: [...at("probe-lines").rows].map(row => [...row.cells].map(cell => cell.firstChild?.textContent ?? "")),
    charts: document.querySelectorAll("#probe-part .charts svg[role=img]").length,
  };
  look("last");
  const canvases = [...at("probe-attention").querySelectorAll("canvas")];
  seen.heads = canvases.length;
  seen.painted = canvases.every(canvas => canvas.width > 20 && canvas.height > 20);
  const box = canvases[0].getBoundingClientRect();
  const place = {clientX: box.right - 2, clientY: box.bottom - 2, bubbles: true};
  canvases[0].dispatchEvent(new PointerEvent("click", place));
  seen.chosen = at("chosen").textContent;
  seen.text = at("probe-attention").textContent;
  at("time").value = 0;
  at("time").dispatchEvent(new Event("input"));
  look("first");
  seen.fits = document.documentElement.scrollWidth <= innerWidth;
  seen.lacks = at("lacks").textContent;
"""


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(WIDE, True), (PHONE, False)], ids=["wide", "phone"])
def test_a_visitor_sees_what_was_found(probed, tmp_path, size, dark):
    _, (first, last), text = probed
    seen, console = visit(text, VISIT, tmp_path, size, dark)
    assert console == []
    for record, shown in ((first, seen["first"]), (last, seen["last"])):
        assert shown["about"].startswith(f"Step {record['step']:,}, on {record['num_images']} images of celeba valid.")
        names = [row[0] for row in shown["table"]]
        assert names == ["as they are", *(change["change"] for change in record["changes"]), "chance"]
        assert shown["table"][0][1] == per_cent(record["as_they_are"]["accuracy"]["value"])
        for change, row in zip(record["changes"], shown["table"][1:], strict=False):
            assert row[1] == per_cent(change["accuracy"]["value"])
            assert row[3] == per_cent(change["average_precision"]["value"])
            lost, low, high = (signed(change["accuracy"][key]) for key in ("difference", "low", "high"))
            assert row[2] == f"{lost} [{low}, {high}]"
        assert shown["charts"] == 4
    assert seen["last"] != seen["first"]
    assert (seen["heads"], seen["painted"], seen["fits"]) == (2, True, True)
    assert seen["chosen"] == "Row 1, column 2, the border"
    assert "times what each would get" in seen["text"]
    assert "--probe" not in seen["lacks"]


def per_cent(value):
    return f"{100 * value:.1f}"


def signed(value):
    text = f"{100 * value:.1f}"
    return ("+" if value > 0 else "") + ("0.0" if text == "-0.0" else text.replace("-", "−"))


def test_its_run_keeps_it_for_the_next_page(probed, tmp_path):
    run = shutil.copytree(probed[0], tmp_path / "run")
    called = call_vitpe("viz-pe", run, "--out", tmp_path, *QUICK)
    assert called.code == 0, called.stderr
    data = embedded((tmp_path / "pe_similarity.html").read_text())
    assert data["probe"] == embedded(probed[2])["probe"]
    assert [probe["step"] for probe in data["probe"]["probes"]] == [record["step"] for record in probed[1]]


@pytest.mark.parametrize("text", ["", "[1]", '{"generator": "written by vitpe", "format_version": 0, "probes": [1]}'])
def test_what_is_no_probe_of_this_version_is_left_out(probed, tmp_path, text):
    run = shutil.copytree(probed[0], tmp_path / "run")
    (run / "probe.json").write_text(text)
    called = call_vitpe("viz-pe", run, "--out", tmp_path, *QUICK)
    assert called.code == 0, called.stderr
    assert f"{run}/probe.json is left out" in called.stderr
    data = embedded((tmp_path / "pe_similarity.html").read_text())
    assert data["probe"] is None
    assert any("--probe" in line for line in data["lacks"])


def test_a_probe_that_is_of_others_stays(probed, tmp_path):
    run = shutil.copytree(probed[0], tmp_path / "run")
    (run / "probe.json").write_text("a rocket")
    called = call_vitpe("viz-pe", run, "--probe", "--device", "cpu", "--out", tmp_path, *QUICK)
    assert called.code == 0, called.stderr
    assert f"the probe is not kept with its run: {run}/probe.json is there already" in called.stderr
    assert (run / "probe.json").read_text() == "a rocket"
    assert embedded((tmp_path / "pe_similarity.html").read_text())["probe"]["probes"]


def made(num_heads, grid, step):
    """A probe of any size, without a model."""
    generator = np.random.default_rng(step)
    labels = generator.random((20, 2)) < 0.5
    labels[0], labels[1] = True, False
    probs = generator.random((20, 2))
    changes = ("zeroed", "averaged", "rows only", "columns only", "mirrored", "shuffled", "image shuffled")
    ablations = measure_ablations(probs, {name: [probs] for name in changes}, labels, ("A", "B"), np.full(2, 0.5))
    count = grid[0] * grid[1]
    attention = generator.random((num_heads, count, count))
    estimates = Estimates.of(generator.random((20, 3, 2)), num_resamples=10)
    layers = LayerProbe(10, 10, estimates, estimates, estimates, 2.0, attention / attention.sum(-1, keepdims=True))
    return PositionProbe(EvalInfo("x.safetensors", "valid", "celeba", step), grid, ablations, layers)


def test_attention_is_read_back():
    probes = [made(2, (3, 4), step) for step in (1, 2)]
    section = probe_section(probes)
    data = np.frombuffer(zlib.decompress(base64.b64decode(section["packed_attention"])), np.uint8)
    for probe, facts, values in zip(probes, section["attention"], data.reshape(2, 2, 12, 12), strict=True):
        expected = np.minimum(12 * probe.layers.position_attention, facts["high"])
        np.testing.assert_allclose(values / 255 * facts["high"], expected, atol=facts["high"] / 500)
    assert parse_probe_section(json.dumps(section).encode()) == section


def test_much_attention_is_that_of_the_last_probe_alone():
    probes = [made(MAX_HEADS + 1, (12, 12), step) for step in (1, 2, 3)]
    assert MAX_HEADS * 144**2 * 3 > MAX_ATTENTION_BYTES
    section = probe_section(probes)
    assert [facts["probe"] for facts in section["attention"]] == [2]
    assert (section["num_heads"], section["num_heads_shown"]) == (MAX_HEADS + 1, MAX_HEADS)
    undefined = replace(probes[0], info=replace(probes[0].info, step=None))
    assert probe_section([undefined])["probes"][0]["step"] is None
