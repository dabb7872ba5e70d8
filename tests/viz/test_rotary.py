"""Learned rotary frequencies: their numbers by hand, and where their dots are."""

import json

import numpy as np
import pytest

from tests.helpers.in_process import call_vitpe
from tests.helpers.viz_history import face_embeddings, write_checkpoint
from vitpe.viz.colours import ACCENT, rgb
from vitpe.viz.history import read_checkpoint
from vitpe.viz.rotary import LABELS, MARGIN, MAX_PANEL, TOP, rotary_picture, rotary_record

START = np.array([[[[1.0, 0.0]]], [[[0.0, 0.5]]]])
"""One block of one head with two pairs: one turns with columns, the other, half as fast, with rows."""


def test_numbers_by_hand():
    assert rotary_record(START, START) == {"frequency": [[0.790569]], "share_across": [[0.8]], "changed": [[0.0]]}
    now = START.copy()
    now[1, 0, 0, 1] = -0.1
    record = rotary_record(now, START)
    assert record["changed"] == [[pytest.approx(0.6 / 2**0.5, abs=1e-6)]]
    assert record["share_across"] == [[pytest.approx(1 / 1.01, abs=1e-6)]]
    assert rotary_record(0 * START, START)["share_across"] == [[None]]


def write(folder, steps=(0, 10), depth=1, heads=1):
    for number, step in enumerate(steps):
        freqs = np.tile(START, (1, depth, heads, 1)) * (1 + number)
        write_checkpoint(folder / f"step-{step:07d}.safetensors", face_embeddings(number), step, freqs=freqs)
    return folder


def test_a_dot_lies_at_its_frequencies(tmp_path):
    checkpoint = read_checkpoint(next(write(tmp_path, steps=(0,)).iterdir()))
    found = (rotary_picture(checkpoint, [START], scale=1) == rgb(ACCENT)).all(axis=2)
    middle, unit = MAX_PANEL / 2, MAX_PANEL / 2 / 1.06
    left, top = MARGIN + LABELS, TOP
    panel = found[top : top + MAX_PANEL, left : left + MAX_PANEL]
    expected = [(middle, middle + unit), (middle + unit / 2, middle)]  # y, x: right, and down
    for y, x in expected:
        assert panel[round(y), round(x)]
        panel[round(y) - 5 : round(y) + 6, round(x) - 5 : round(x) + 6] = False
    assert not panel.any()


def test_viz_pe_draws_them_where_they_are(tmp_path):
    folder = write(tmp_path / "runs", depth=3, heads=2)
    called = call_vitpe("viz-pe", folder, "--size", "400", "--out", tmp_path / "out", "--format", "json")
    assert called.code == 0, called.stderr
    first, last = json.loads(called.stdout)
    assert first["rope"]["changed"] == [[0, 0]] * 3
    assert last["rope"]["changed"] == [[pytest.approx(0.790569)] * 2] * 3
    assert (tmp_path / "out" / "pe_rope.png").is_file()


def test_without_them_there_is_no_picture(tmp_path):
    write_checkpoint(tmp_path / "step-0000001.safetensors", face_embeddings(1), 1)
    called = call_vitpe("viz-pe", tmp_path, "--size", "400", "--out", tmp_path / "out", "--format", "json")
    assert called.code == 0, called.stderr
    assert "rope" not in json.loads(called.stdout)[0]
    assert not (tmp_path / "out" / "pe_rope.png").exists()


def test_a_picture_of_the_users_own_stays(tmp_path):
    folder = write(tmp_path / "runs")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "pe_rope.png").write_bytes(b"a holiday")
    called = call_vitpe("viz-pe", folder, "--size", "400", "--out", tmp_path / "out")
    assert called.code == 2
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["pe_rope.png"]
