"""Two runs beside each other: how alike their embeddings are, and what is drawn of them."""

import json

import numpy as np
import pytest
from PIL import Image

from tests.helpers.browser import PHONE, WIDE, needs_browser, visit
from tests.helpers.in_process import call_vitpe
from tests.helpers.viz_history import face_embeddings, write_checkpoint, write_run
from vitpe.viz.representation import alikeness, linear_cka, map_correlation, random_alikeness

SHAPE = (40, 12)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal(SHAPE)


def test_cka_by_its_definition(x):
    """As arXiv:1905.00414 has it: HSIC(K, L) / √(HSIC(K, K) HSIC(L, L)) with centred kernels."""
    y = x[:, :5] + np.random.default_rng(1).standard_normal((40, 5))
    centring = np.eye(40) - 1 / 40

    def hsic(k, m):
        return np.trace(k @ centring @ m @ centring) / 39**2

    k, m = x @ x.T, y @ y.T
    assert linear_cka(x, y) == pytest.approx(hsic(k, m) / np.sqrt(hsic(k, k) * hsic(m, m)))
    assert 0.1 < linear_cka(x, y) < 0.9


def test_map_correlation_by_hand(x):
    y = x + np.random.default_rng(2).standard_normal(SHAPE)
    pairs = []
    for a in (x, y):
        unit = a / np.linalg.norm(a, axis=1, keepdims=True)
        pairs.append([unit[n] @ unit[m] for n in range(40) for m in range(n + 1, 40)])
    assert map_correlation(x, y) == pytest.approx(np.corrcoef(*pairs)[0, 1])


def test_a_rotation_and_a_scale_change_nothing(x):
    """Early embeddings are tiny, and two runs choose different directions for the same thing."""
    rotation, _ = np.linalg.qr(np.random.default_rng(3).standard_normal((12, 12)))
    found = alikeness(x, 1e-9 * x @ rotation)
    assert found == {"map_correlation": pytest.approx(1), "cka": pytest.approx(1)}
    assert abs(map_correlation(x, np.random.default_rng(4).standard_normal(SHAPE))) < 0.2


def test_what_is_undefined(x):
    assert alikeness(x, np.zeros(SHAPE)) == {"map_correlation": None, "cka": None}
    assert linear_cka(x, np.ones(SHAPE)) is None
    with pytest.raises(ValueError, match="40 and 3 patches"):
        alikeness(x, x[:3])


def test_random_embeddings_are_alike_where_they_are_wide():
    """Why the value for random ones stands beside: CKA is far from 0 where D is not small beside N."""
    narrow, wide = random_alikeness(143, 8, 8), random_alikeness(143, 384, 384)
    assert narrow["cka"] < 0.15 < 0.5 < wide["cka"]
    assert abs(narrow["map_correlation"]) < 0.05
    assert abs(wide["map_correlation"]) < 0.05


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return write_run(folder / "a", 3, 16, 200), write_run(folder / "b", 5, 24, 400)


def test_two_histories_become_one_animation(runs, tmp_path):
    called = call_vitpe("viz-pe", *runs, "--compare", "--out", tmp_path, "--size", "400")
    assert called.code == 0, called.stderr
    records = json.loads(called.stdout)
    assert [record["step"] for record in records] == [0, 100, 200]
    assert records[0]["map_correlation"] is None
    assert records[-1]["map_correlation"] > 0.2 + records[-1]["random"]["map_correlation"]
    assert records[-1]["second"]["file"].endswith("b/ckpts/step-0000200.safetensors")
    assert "compared at the 3 steps that both have" in called.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["pe_comparison.gif", "pe_comparison.png"]
    with Image.open(tmp_path / "pe_comparison.gif") as animation, Image.open(tmp_path / "pe_comparison.png") as still:
        assert animation.n_frames == 3
        assert animation.size == still.size


VISIT = """
  await maps.ready;
  const look = name => seen[name] = {
    reading: at("reading").textContent, facts: at("facts").textContent,
    alike: [...at("alike").querySelectorAll(".reading")].map(text => text.textContent),
    numbers: [...at("numbers").rows].map(row => [...row.cells].slice(1).map(cell => cell.textContent)),
  };
  const [a, b] = maps.views;
  look("last");
  seen.sizes = [a, b].map(({overview}) => overview.getBoundingClientRect()).map(({width, height}) => [width, height]);
  const box = b.overview.getBoundingClientRect();
  const place = {clientX: box.left + 1, clientY: box.top + 1, bubbles: true, pointerType: "touch"};
  b.overview.dispatchEvent(new PointerEvent("click", place));
  seen.chosen = at("chosen").textContent;
  document.body.dispatchEvent(new KeyboardEvent("keydown", {key: ",", bubbles: true}));
  look("before");
  seen.fits = document.documentElement.scrollWidth <= innerWidth;
  seen.charts = at("alike").querySelectorAll("svg").length;
"""


@needs_browser
@pytest.mark.parametrize(("size", "dark"), [(WIDE, False), (PHONE, True)], ids=["wide", "phone"])
def test_two_histories_share_a_page(runs, tmp_path, size, dark):
    called = call_vitpe("viz-pe", *runs, "--compare", "--html", "--no-stills", "--out", tmp_path, "--size", "400")
    assert called.code == 0, called.stderr
    assert f"wrote {tmp_path}/pe_comparison.html" in called.stderr
    records = json.loads(called.stdout)
    seen, console = visit((tmp_path / "pe_comparison.html").read_text(), VISIT, tmp_path, size, dark)
    assert console == []
    assert seen["last"]["facts"].startswith("step 200")
    for name, record in (("last", records[-1]), ("before", records[-2])):
        expected = [f"{record[key]:.2f}, of random embeddings" for key in ("map_correlation", "cka")]
        assert [text.rsplit(" ", 1)[0].replace("−", "-") for text in seen[name]["alike"]] == expected
    assert seen["last"]["reading"].count("Framed") == 2
    assert len({tuple(size) for size in seen["sizes"]}) == 1
    own, other, *random = seen["last"]["numbers"][0]
    assert own != other
    assert random
    assert seen["chosen"] == "Row 0, column 0, the border"
    assert seen["before"]["facts"].startswith("step 100")
    assert (seen["fits"], seen["charts"]) == (True, 2)


def test_a_page_of_the_users_own_stays(runs, tmp_path):
    (tmp_path / "pe_comparison.html").write_bytes(b"a holiday")
    called = call_vitpe("viz-pe", *runs, "--compare", "--html", "--out", tmp_path)
    assert called.code == 2
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"a holiday"]


def test_one_run_against_itself_is_alike(runs, tmp_path):
    called = call_vitpe(
        "viz-pe", runs[0], runs[0], "--compare", "--out", tmp_path, "--size", "400", "--format", "table"
    )
    assert called.code == 0, called.stderr
    last, random = [line.split() for line in called.stdout.splitlines() if "%" in line or "random " in line][-2:]
    assert last[-2:] == ["1.00", "1.00"]
    assert random[0] == "random"
    with Image.open(tmp_path / "pe_comparison.png") as still:
        pixels = np.asarray(still)[70:]
    left, right = np.split(pixels, 2, axis=1)
    np.testing.assert_array_equal(left, right)


def test_runs_without_a_step_in_common(runs, tmp_path):
    other = tmp_path / "other"
    for step in (7, 13):
        write_checkpoint(other / f"step-{step:07d}.safetensors", face_embeddings(step / 13, width=16), step)
    called = call_vitpe("viz-pe", runs[1], other, "--compare", "--out", tmp_path / "out", "--size", "400")
    assert called.code == 0, called.stderr
    records = json.loads(called.stdout)
    assert [(record["first"]["step"], record["second"]["step"]) for record in records] == [(0, 7), (400, 13)]
    assert "no step in common" in called.stderr


def test_runs_with_few_steps_in_common(runs, tmp_path):
    """Both begin at 0, and nothing else is at the same step: that is no reason to show the beginning alone."""
    other = write_run(tmp_path / "other", 5, 16, 1000)
    called = call_vitpe(
        "viz-pe", runs[1], other, "--compare", "--out", tmp_path / "out", "--size", "400", "--no-stills"
    )
    assert called.code == 0, called.stderr
    steps = [(record["first"]["step"], record["second"]["step"]) for record in json.loads(called.stdout)]
    assert steps == [(0, 0), (100, 250), (200, 500), (300, 750), (400, 1000)]
    assert "only 1 of their steps in common" in called.stderr


def test_what_cannot_be_compared(runs, tmp_path):
    small = write_checkpoint(tmp_path / "small.safetensors", np.ones((12, 16)), 1, (4, 3))
    for arguments, fact in (
        ((runs[0], small), "small.safetensors 4 x 3"),
        ((runs[0],), "--compare with 1 path"),
        ((*runs, "--probe"), "--compare has no --probe"),
    ):
        called = call_vitpe("viz-pe", *arguments, "--compare", "--out", tmp_path / "new")
        assert called.code in (1, 2)
        assert fact in called.stderr
        assert "hint: " in called.stderr
        assert not (tmp_path / "new").exists()
    (tmp_path / "pe_comparison.png").write_bytes(b"a holiday")
    called = call_vitpe("viz-pe", *runs, "--compare", "--out", tmp_path)
    assert called.code == 2
    assert (tmp_path / "pe_comparison.png").read_bytes() == b"a holiday"
