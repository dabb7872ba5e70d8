"""The page and the picture of runs: what their folders have, found by a visitor."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest

from tests.helpers import log_rows
from tests.helpers.browser import PHONE, WIDE, needs_browser, visit
from tests.helpers.in_process import call_vitpe
from vitpe.cli.run_output import run_record
from vitpe.cli.trackers import ReportPage
from vitpe.config import with_values
from vitpe.errors import UsageError
from vitpe.metrics.scores import score
from vitpe.outputs import refuse_foreign
from vitpe.reporting.run_curves import curves_png
from vitpe.reporting.run_page import MAX_RUNS, attribute_scores, curve_of, run_page, stored_attributes

HOSTILE = "</script><script>alert(1)</script>"


@pytest.fixture
def record(trained_run):
    return run_record(trained_run)


@pytest.fixture
def other(record):
    rows = [row | {"loss": str(2 * float(row["loss"]))} for row in record.rows if row["loss"]]
    return replace(record, name=HOSTILE, config=with_values(record.config, {"train.seed": 7}), rows=rows)


def embedded(text):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)[1])


def test_curves_are_the_rows_of_the_log(record, trained_run):
    data = embedded(run_page([record]))
    for column in ("loss", "valid_accuracy", "images_per_second"):
        expected = [[int(row["step"]), float(row[column])] for row in log_rows(trained_run) if row[column]]
        assert data["runs"][0]["curves"][column] == [[step, pytest.approx(v, rel=1e-5)] for step, v in expected]
    assert data["runs"][0]["attributes"] is None
    assert not any(setting["differs"] for setting in data["settings"])


def test_settings_that_differ_are_marked(record, other):
    differing = [row for row in embedded(run_page([record, other]))["settings"] if row["differs"]]
    assert differing == [{"key": "train.seed", "values": ["0", "7"], "differs": True}]


def test_what_is_not_finite_is_no_point():
    rows = [{"step": "1", "loss": "nan"}, {"step": "2", "loss": ""}, {"step": "3", "loss": "0.5"}, {"step": "4"}]
    assert curve_of(rows, "loss") == [(3, 0.5)]


def test_more_runs_than_colours_are_refused(record):
    with pytest.raises(UsageError, match=f"{MAX_RUNS + 1} runs for one page"):
        run_page([record] * (MAX_RUNS + 1))


def test_a_run_without_rows_has_a_page_and_a_picture(record):
    empty = replace(record, rows=[])
    assert embedded(run_page([empty]))["runs"][0]["last_step"] == 0
    assert curves_png([empty]).startswith(b"\x89PNG")


SEE = """
seen.charts = at("curves").querySelectorAll("svg").length;
seen.lines = at("curves").querySelectorAll("polyline").length;
seen.wide = document.documentElement.scrollWidth <= innerWidth;
const hit = at("curves").querySelector("circle.hit");
hit.dispatchEvent(new PointerEvent("pointerenter"));
seen.readout = at("readout").textContent;
const rows = () => [...at("settings").tBodies[0].rows].filter(row => !row.hidden).map(row => row.cells[0].textContent);
seen.few = rows();
at("all").click();
seen.many = rows().length;
const names = () => [...at("attributes").tBodies[0].rows].map(row => row.cells[0].textContent);
seen.scored = !at("attributes-part").hidden;
if (seen.scored) {
  seen.first = names()[0];
  [...document.querySelectorAll("#attributes thead button")].find(b => b.textContent === "acc").click();
  seen.best = names()[0];
}
"""


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (PHONE, True)])
def test_a_visitor_finds_curves_settings_and_scores(record, other, tmp_path, size, dark):
    rng = np.random.default_rng(0)
    labels = rng.random((50, 3)) < 0.5
    probs = np.where(labels, 0.9, 0.1)
    probs[:20, 0] = probs[:30, 2] = 0.4
    scored = replace(record, attributes=attribute_scores(score(probs, labels, ("A", "B", HOSTILE), num_resamples=0)))
    seen, console = visit(run_page([scored, other]), SEE, tmp_path, size, dark)
    assert console == []
    assert (seen["charts"], seen["lines"], seen["wide"]) == (5, 10, True)
    assert re.fullmatch(r".*, step 1: training loss 0\.\d{4}", seen["readout"])
    assert seen["few"] == ["train.seed"]
    assert seen["many"] > 30
    assert (seen["scored"], seen["first"], seen["best"]) == (True, "A", "B")


def test_training_leaves_its_page(trained_run_by_command):
    run, called = trained_run_by_command
    data = embedded((run / "report.html").read_text())
    assert list(data["runs"][0]["attributes"]) == ["Red", "Green", "Blue", "Bright"]
    assert data["runs"][0]["curves"]["valid_accuracy"][-1][0] == 12
    steps = [int(path.stem.removeprefix("step-")) for path in sorted((run / "ckpts").iterdir())]
    frames = data["history"]["sides"][0]["frames"]
    assert [frame["step"] for frame in frames] == steps
    assert [frame["scored"] is not None for frame in frames][-1]
    assert f"curves: {run / 'report.html'}" in called.stderr
    refuse_foreign(run / "report.html")


@pytest.fixture(scope="module")
def trained_run_by_command(tmp_path_factory):
    from tests.helpers import tiny_options, write_celeba

    folder = tmp_path_factory.mktemp("by-command")
    called = call_vitpe("train", "--run", folder / "run", *tiny_options(write_celeba(folder / "celeba")))
    assert called.code == 0, called.stderr
    return folder / "run", called


def test_viz_pe_draws_the_curves_of_runs(trained_run_by_command, tmp_path):
    run, _ = trained_run_by_command
    called = call_vitpe("viz-pe", run, "--html", "--out", tmp_path)
    assert called.code == 0, called.stderr
    for name in ("pe_similarity.html", "run_curves.png"):
        refuse_foreign(tmp_path / name)
        assert f"wrote {tmp_path / name}" in called.stderr
    assert embedded((tmp_path / "pe_similarity.html").read_text())["runs"][0]["last_step"] == 12
    called = call_vitpe("viz-pe", run / "ckpts", "--html", "--out", tmp_path / "files")
    assert called.code == 0
    data = embedded((tmp_path / "files" / "pe_similarity.html").read_text())
    assert data["runs"] == []
    assert data["history"]["sides"][0]["frames"]
    assert any("without a run's folder" in line for line in data["lacks"])


def test_viz_pe_says_which_curves_it_leaves_out(trained_run_by_command, tmp_path):
    run, _ = trained_run_by_command
    copies = [shutil.copytree(run, tmp_path / f"run{number}") for number in range(MAX_RUNS + 2)]
    note = f"curves of the first {MAX_RUNS} runs: more cannot be told apart, 2 left out"
    called = call_vitpe("viz-pe", *copies, "--html", "--no-stills", "--out", tmp_path / "all")
    assert (called.code, note in called.stderr) == (0, True), called.stderr
    runs = embedded((tmp_path / "all" / "pe_similarity.html").read_text())["runs"]
    assert [run["name"] for run in runs] == [str(path) for path in copies[:MAX_RUNS]]
    assert all(list(run["attributes"]) == ["Red", "Green", "Blue", "Bright"] for run in runs)
    called = call_vitpe("viz-pe", *copies[:MAX_RUNS], "--html", "--no-stills", "--out", tmp_path / "four")
    assert (called.code, "left out" in called.stderr) == (0, False)


def test_a_resumed_run_keeps_its_last_scores_until_the_next(trained_run_by_command, tmp_path):
    run = shutil.copytree(trained_run_by_command[0], tmp_path / "run")
    before = embedded((run / "report.html").read_text())["runs"][0]
    page = ReportPage()
    page.start(run, None, {}, 12)
    page.finish(run)
    after = embedded((run / "report.html").read_text())["runs"][0]
    assert after == before | {"name": str(run)}
    assert after["attributes"]["Red"]["accuracy"] is not None
    assert "majority answer" in dict(after["facts"])


@pytest.mark.parametrize("damage", ["", "nonsense", "cut", '<script type="application/json" id="data">[1]</script>'])
def test_a_damaged_page_has_no_scores(trained_run_by_command, damage):
    page = (trained_run_by_command[0] / "report.html").read_text()
    assert stored_attributes(page) == embedded(page)["runs"][0]["attributes"]
    assert stored_attributes(page[: page.index("</script>")] if damage == "cut" else damage) is None


def test_scores_of_a_page_are_numbers():
    scores = {"prevalence": 0.5, "accuracy": float("nan"), "majority_accuracy": None, "lift": 1, "average_precision": 0}
    page = json.dumps({"runs": [{"attributes": {"A": scores}}]})
    stored = stored_attributes(f'<script type="application/json" id="data">{page}</script>')
    assert stored == {"A": scores | {"accuracy": None}}
    wrong = page.replace("0.5", '"high"')
    assert stored_attributes(f'<script type="application/json" id="data">{wrong}</script>') is None
