"""`viz-pe --probe`: what a model loses without position, against changed checkpoints and what must change nothing."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.helpers import train_tiny
from tests.helpers.in_process import Called, call_vitpe
from vitpe.inference.positions import CHANGES
from vitpe.inference.probe import shuffle_patches
from vitpe.metrics.ablation import measure_ablations
from vitpe.reporting.probe_table import RANKED_BY, losers
from vitpe.runs.checkpoint import load_checkpoint, save_checkpoint

SMALL = ("--no-stills", "--size", "400", "--device", "cpu")
GRID = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
"""2 rows, 3 columns, 4 numbers."""


def changed(name: str, grid: np.ndarray) -> np.ndarray:
    change = next(change for change in CHANGES if change.name == name)
    before = grid.copy()
    out = change.apply(grid, np.random.default_rng(0))
    np.testing.assert_array_equal(grid, before)
    assert out.dtype == np.float32
    assert out.shape == grid.shape
    return out


def probed(called: Called) -> list[dict]:
    assert called.code == 0, called.stderr
    return [record["probe"] for record in json.loads(called.stdout) if "probe" in record]


def of(record: dict, name: str) -> dict:
    return next(change for change in record["changes"] if change["change"] == name)


@pytest.fixture(scope="module")
def run(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny run whose position embeddings are made to matter: each is large, and another than all others."""
    folder = tmp_path_factory.mktemp("probed") / "runs"
    train_tiny(celeba, folder, train__steps=16)
    with_embeddings(folder / "best.safetensors", 3 * np.random.default_rng(0).standard_normal((6, 16)))
    return folder


def with_embeddings(path: Path, embeddings: np.ndarray) -> None:
    """Put other embeddings of patches into a checkpoint."""
    model, info = load_checkpoint(path)
    with torch.no_grad():
        model.pos_embed[0, 1:] = torch.from_numpy(np.asarray(embeddings, np.float32))
    save_checkpoint(path, model.state_dict(), info)


def test_the_changes_by_hand():
    assert not changed("zeroed", GRID).any()
    np.testing.assert_array_equal(changed("averaged", GRID)[1, 2], [10, 11, 12, 13])
    np.testing.assert_array_equal(changed("rows only", GRID)[0], np.tile([4, 5, 6, 7], (3, 1)))
    np.testing.assert_array_equal(changed("columns only", GRID)[:, 1], np.tile([10, 11, 12, 13], (2, 1)))
    np.testing.assert_array_equal(changed("mirrored", GRID)[:, 0], GRID[:, 2])
    shuffled = changed("shuffled", GRID)
    assert (shuffled != GRID).any()
    np.testing.assert_array_equal(np.sort(shuffled.reshape(6, 4), axis=0), GRID.reshape(6, 4))


def test_patches_of_an_image_change_places():
    """Each patch of the image holds its own number everywhere, and each image has its own order."""
    numbers = torch.arange(6).reshape(2, 3).repeat_interleave(8, 0).repeat_interleave(8, 1)
    images = (numbers + torch.tensor([0, 10, 20])[:, None, None]).to(torch.uint8).expand(4, 3, 16, 24)
    out = shuffle_patches(images, 8, np.random.default_rng(0))
    assert out.dtype == torch.uint8
    patches = out.reshape(4, 3, 2, 8, 3, 8)
    assert (patches == patches[:, :, :, :1, :, :1]).all()
    orders = patches[:, 0, :, 0, :, 0].reshape(4, 6)
    assert len({tuple(order.tolist()) for order in orders}) == 4
    assert (orders.sort(dim=1).values == torch.arange(6)).all()
    assert (out[:, 1] == out[:, 0] + 10).all()


def test_each_change_scores_as_a_checkpoint_that_was_changed(run, tmp_path):
    """The oracle is `vitpe eval` on a file with the changed embeddings."""
    (record,) = probed(call_vitpe("viz-pe", run, "--probe", "--out", tmp_path, *SMALL))
    grid = load_checkpoint(run / "best.safetensors")[0].pos_embed[0, 1:].detach().numpy().reshape(2, 3, -1)
    evaluations = {"": grid} | {name: changed(name, grid) for name in ("zeroed", "averaged", "rows only", "mirrored")}
    for name, embeddings in evaluations.items():
        copy = shutil.copytree(run, tmp_path / f"copy {name}")
        with_embeddings(copy / "best.safetensors", embeddings.reshape(6, -1))
        means = json.loads(call_vitpe("eval", copy, "--device", "cpu").stdout)["mean"]
        for metric in ("accuracy", "average_precision"):
            expected = {key: means[metric][key] for key in ("value", "low", "high")}
            found = record["as_they_are"][metric] if not name else of(record, name)[metric]
            assert found["value"] == pytest.approx(expected["value"], abs=1e-6)
            if name:
                whole = record["as_they_are"][metric]["value"]
                assert found["difference"] == pytest.approx(expected["value"] - whole, abs=2e-6)
            else:
                assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-6)
    assert any(abs(of(record, name)["average_precision"]["difference"]) > 0.01 for name in ("zeroed", "shuffled"))
    assert of(record, "shuffled")["num_draws"] == len(of(record, "shuffled")["accuracy"]["draws"]) == 3


def test_without_embeddings_the_image_is_a_set(run, tmp_path):
    """Where nothing tells patches apart, neither other embeddings nor another order of the patches changes a score."""
    copy = shutil.copytree(run, tmp_path / "copy")
    with_embeddings(copy / "best.safetensors", np.zeros((6, 16)))
    (record,) = probed(call_vitpe("viz-pe", copy, "--probe", "--out", tmp_path, *SMALL))
    for change in record["changes"]:
        for metric in ("accuracy", "average_precision"):
            assert change[metric]["difference"] == pytest.approx(0, abs=1e-6), change["change"]
    called = call_vitpe("viz-pe", copy, "--probe", "--out", tmp_path, *SMALL, "--format", "table")
    assert "position embeddings" in called.stdout
    assert "most lost" not in called.stdout


def test_only_who_loses_is_a_loser():
    """Of three attributes the second loses all, the third a little, and the first nothing."""
    labels = np.array([[1, 1, 1], [0, 0, 0], [1, 1, 1], [0, 0, 0]])
    whole = np.where(labels, 0.9, 0.1)
    worse = whole.copy()
    worse[:, 1] = [0.1, 0.9, 0.2, 0.8]
    worse[0, 2] = 0.05
    found = measure_ablations(whole, {RANKED_BY: [worse]}, labels, ("A", "B", "C"), num_resamples=10)
    assert losers(found) == [1, 2]
    assert losers(found, count=1) == [1]
    assert losers(measure_ablations(whole, {RANKED_BY: [whole]}, labels, ("A", "B", "C"), num_resamples=10)) == []


def test_a_stem_sees_the_shuffled_image(celeba, tmp_path):
    """Its filters look beyond a patch, so that the order matters without any embedding."""
    train_tiny(celeba, tmp_path / "runs", model__stem_width=4, model__img_size=[32, 48], train__steps=16)
    with_embeddings(tmp_path / "runs" / "best.safetensors", np.zeros((24, 16)))
    (record,) = probed(call_vitpe("viz-pe", tmp_path / "runs", "--probe", "--out", tmp_path, *SMALL))
    assert of(record, "shuffled")["average_precision"]["difference"] == pytest.approx(0, abs=1e-6)
    assert record["num_images"] == 8


def test_a_run_is_probed_along_its_history(run, tmp_path):
    called = call_vitpe(
        "viz-pe", run, "--probe", "--probe-checkpoints", "2", "--probe-images", "5", "--out", tmp_path, *SMALL
    )
    first, last = probed(called)
    assert (first["step"], last["step"]) == (0, 16)
    assert first["num_images"] == last["num_images"] == 5
    assert "5 of 8 valid images: a random sample" in called.stderr
    assert all(change["accuracy"]["difference"] == 0 for change in first["changes"])  # all embeddings are zero
    written = {path.name for path in tmp_path.iterdir()}
    assert {"pe_probe.png", "pe_attention.png", "pe_probe_history.png"} <= written


def test_one_checkpoint_has_no_picture_over_training(run, tmp_path):
    (tmp_path / "pe_probe_history.png").write_bytes(b"a holiday")
    probed(call_vitpe("viz-pe", run, "--probe", "--out", tmp_path, *SMALL))
    assert (tmp_path / "pe_probe_history.png").read_bytes() == b"a holiday"
    called = call_vitpe("viz-pe", run, "--probe", "--probe-checkpoints", "2", "--out", tmp_path, *SMALL)
    assert called.code == 2
    assert "pe_probe_history.png" in called.stderr


def test_the_table_along_the_history(run, tmp_path):
    arguments = ("viz-pe", run, "--probe", "--probe-checkpoints", "3", "--out", tmp_path, *SMALL)
    records = probed(call_vitpe(*arguments))
    called = call_vitpe(*arguments, "--format", "table")
    assert called.code == 0, called.stderr
    text = called.stdout.replace("−", "-").splitlines()
    for metric, end in (("accuracy", len(text) - 6), ("average_precision", len(text))):
        lines = [re.findall(r"[-+]?[\d.]+", line) for line in text[end - 3 : end]]
        assert [int(line[0]) for line in lines] == [record["step"] for record in records]
        for line, record in zip(lines, records, strict=True):
            lost = [of(record, name)[metric] for name in ("zeroed", "shuffled")]
            shown = [100 * each[key] for each in lost for key in ("difference", "low", "high")]
            expected = [100 * record["as_they_are"][metric]["value"], *shown]
            assert [float(cell) for cell in line[1:]] == pytest.approx(expected, abs=0.051)


def test_layers_know_what_the_embeddings_tell(run, tmp_path):
    """Embeddings that are large and all different tell each patch's place; without them little does."""
    (record,) = probed(call_vitpe("viz-pe", run, "--probe", "--out", tmp_path, *SMALL))
    layers = record["layers"]
    assert (layers["num_fit"], layers["num_held_out"]) == (4, 4)
    before, after = layers["linear_probes"]
    assert before["with"]["row"]["value"] == before["with"]["column"]["value"] == 1
    assert after["layer"] == 1
    assert before["without"]["column"]["value"] < 0.8
    assert layers["chance"] == {"row": 1 / 2, "column": pytest.approx(1 / 3, abs=1e-6)}
    (heads,) = layers["attention_distances"]
    assert len(heads) == 2
    assert all(0 < head["low"] <= head["value"] <= head["high"] < 5**0.5 for head in heads)
    assert (tmp_path / "pe_attention.png").is_file()


def test_heads_that_look_at_all_alike_look_at_the_mean_distance(run, tmp_path):
    model, info = load_checkpoint(run / "best.safetensors")
    with torch.no_grad():
        model.blocks[0].attn.qkv.weight.zero_()
        model.blocks[0].attn.qkv.bias.zero_()
    copy = shutil.copytree(run, tmp_path / "copy")
    save_checkpoint(copy / "best.safetensors", model.state_dict(), info)
    (record,) = probed(call_vitpe("viz-pe", copy, "--probe", "--out", tmp_path, *SMALL))
    ((head, _),) = record["layers"]["attention_distances"]
    by_hand = (4 * 3 * 1 + 2 * 3 * 1 - 4 + 4 * 2 + 8 * 2**0.5 + 4 * 5**0.5) / 36
    assert record["layers"]["uniform_distance"] == pytest.approx(by_hand, abs=1e-6)
    assert head["value"] == pytest.approx(by_hand, abs=1e-5)


def test_a_table_of_eighty_columns(run, tmp_path):
    called = call_vitpe("viz-pe", run, "--probe", "--out", tmp_path, *SMALL, "--format", "table", COLUMNS="80")
    assert called.code == 0, called.stderr
    table = called.stdout[called.stdout.index("\nposition embeddings") + 1 :]
    assert [line.split()[0] for line in table.splitlines()[2:9]] == [
        name.split()[0] for name in ("as they are", *(change.name for change in CHANGES[:6]))
    ]
    assert max(map(len, table.splitlines())) <= 100  # in a pipe
    assert "chance" in table


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["RUN", "--probe-checkpoints", "2"], "--probe-checkpoints without --probe"),
        (["RUN", "--data", "x"], "--data without --probe"),
        (["RUN", "--probe-images", "5"], "--probe-images without --probe"),
        (["RUN", "RUN", "--probe"], "--probe with 2 paths"),
        (["RUN", "--probe", "--probe-images", "0"], "--probe-images 0"),
        (["RUN", "--probe", "--data", "nowhere"], "nowhere"),
        (["RUN", "--probe", "--labels", "x.csv"], "--labels x.csv without --data"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_drawn(run, tmp_path, monkeypatch, arguments, fact):
    monkeypatch.chdir(tmp_path)
    called = call_vitpe("viz-pe", *[run if word == "RUN" else word for word in arguments])
    assert called.code in (1, 2)
    assert fact in called.stderr
    assert "hint: " in called.stderr
    assert not list(tmp_path.iterdir())


def test_embeddings_alone_cannot_be_run(celeba, tmp_path):
    train_tiny(celeba, tmp_path / "runs", train__keep="pos_embed")
    called = call_vitpe("viz-pe", tmp_path / "runs", "--probe", "--probe-checkpoints", "2", "--out", tmp_path / "new")
    assert called.code == 1
    assert "holds position embeddings only" in called.stderr
    assert "without --probe-checkpoints" in called.stderr
    assert not (tmp_path / "new").exists()
    (record,) = probed(call_vitpe("viz-pe", tmp_path / "runs", "--probe", "--out", tmp_path / "new", *SMALL))
    assert record["checkpoint"].endswith("best.safetensors")


def test_a_picture_of_the_users_own_stays(run, tmp_path):
    (tmp_path / "pe_probe.png").write_bytes(b"a holiday")
    called = call_vitpe("viz-pe", run, "--probe", "--out", tmp_path, *SMALL)
    assert called.code == 2
    assert (tmp_path / "pe_probe.png").read_bytes() == b"a holiday"


def test_a_checkpoint_with_other_attributes(run, tmp_path):
    model, info = load_checkpoint(run / "best.safetensors")
    other = replace(info, attributes=("A", "B", "C", "D"))
    save_checkpoint(tmp_path / "other.safetensors", model.state_dict(), other)
    data = json.loads((run / "config.json").read_text())["data"]["data"]
    called = call_vitpe("viz-pe", tmp_path / "other.safetensors", "--probe", "--data", data, "--out", tmp_path, *SMALL)
    assert called.code == 1
    assert "answers A, B, C" in called.stderr


def test_rows_and_columns_are_probed_as_their_sums(celeba, tmp_path):
    """The oracle is the same model with one table. Some changes, such as a shuffle, are no sums of rows and columns."""
    train_tiny(celeba, tmp_path / "sums", model__pos_embed="factorized", train__steps=16)
    shutil.copytree(tmp_path / "sums", tmp_path / "table")
    model, info = load_checkpoint(tmp_path / "sums" / "best.safetensors")
    for factor in (model.pos_embed_y, model.pos_embed_x):
        factor.data = 3 * torch.randn(factor.shape, generator=torch.Generator().manual_seed(0))
    save_checkpoint(tmp_path / "sums" / "best.safetensors", model.state_dict(), info)
    tensors = {name: value for name, value in model.state_dict().items() if not name.startswith("pos_embed")}
    tensors["pos_embed"] = model.position_table()
    info = replace(info, model=replace(info.model, pos_embed="learned"))
    save_checkpoint(tmp_path / "table" / "best.safetensors", tensors, info)
    records = []
    for name in ("sums", "table"):
        checkpoint = tmp_path / name / "best.safetensors"
        (record,) = probed(call_vitpe("viz-pe", checkpoint, "--probe", "--out", tmp_path / f"of {name}", *SMALL))
        records.append({key: value for key, value in record.items() if key != "checkpoint"})
    assert records[0] == records[1]
    assert any(change["average_precision"]["difference"] for change in records[0]["changes"])
