"""What commands write where: nothing of the user's is replaced, and what cannot be written is known before the work."""

import json
import shutil

import pytest

from tests.helpers import contents
from tests.helpers.in_process import call_vitpe
from vitpe.errors import VitpeError
from vitpe.outputs import check_output, refuse_foreign
from vitpe.runs.folder import RunFolder


@pytest.fixture
def own(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "own")


def never(*_: object, **__: object) -> None:
    raise AssertionError("the work was begun")


@pytest.mark.parametrize("suffix", [".png", ".html", ".onnx"])
def test_files_of_a_run_and_inputs_stay(own, celeba, tmp_path, monkeypatch, suffix):
    monkeypatch.setattr("vitpe.inference.evaluate.evaluate", never)
    monkeypatch.setattr("vitpe.inference.export.export_onnx", never)
    (own / "mine.pdf").write_bytes(b"%PDF")
    (own / f"mine{suffix}").write_bytes(b"not vitpe's")
    (own / f"link{suffix}").symlink_to("best.safetensors")
    before = contents(own), contents(celeba)
    run = RunFolder(own)
    targets = [
        *(own / name for name in before[0]),
        own / f"link{suffix}",
        own,
        own / "x.pdf",
        own / "new",
        celeba / "list_attr_celeba.txt",
        celeba / "img_align_celeba" / "000001.jpg",
    ]
    command = ["export", own, "--out"] if suffix == ".onnx" else ["eval", own, "--report"]
    for target in targets:
        called = call_vitpe(*command, target)
        assert (called.code, called.out) == (2, b""), target
        assert str(target) in called.stderr
        assert "\nhint: " in called.stderr
    assert (contents(own), contents(celeba)) == before
    assert run.best.exists()
    called = call_vitpe(*command, tmp_path / "no" / f"folder{suffix}")
    assert (called.code, called.out) == (1, b"")
    assert called.stderr.startswith(f"error: cannot write {tmp_path}/no/folder{suffix}: No such file")


def test_ones_own_earlier_output_is_replaced(own, tmp_path):
    reports = (["eval", own, "--report", tmp_path / name] for name in ("r.png", "r.html"))
    for command in (*reports, ["export", own, "--out", tmp_path / "e.onnx"]):
        for _ in range(2):
            called = call_vitpe(*command)
            assert called.code == 0, called.stderr


@pytest.mark.parametrize("library", ["hf", "timm"])
def test_an_exported_folder_has_a_card_with_scores_and_replaces_only_its_own(own, tmp_path, library):
    command = ["export", own, "--format", library, "--out", tmp_path / "folder"]
    for _ in range(2):
        called = call_vitpe(*command)
        assert called.code == 0, called.stderr
    assert {"README.md", "config.json", "model.safetensors"} <= set(contents(tmp_path / "folder"))
    card = (tmp_path / "folder" / "README.md").read_text()
    scores = json.loads(call_vitpe("eval", own, "--format", "json").out)
    assert f"mean accuracy {100 * scores['mean']['accuracy']['value']:.2f} [" in card
    for row in scores["attributes"]:
        assert f"| {row['attribute']} | {100 * row['prevalence']:.1f} | {100 * row['accuracy']:.1f} |" in card
    before = contents(own)
    called = call_vitpe("export", own, "--format", library, "--out", own)
    assert called.code == 2
    assert "config.json is there already, and vitpe did not write it" in called.stderr
    called = call_vitpe("export", own, "--format", library, "--out", own / "config.json")
    assert "is a file" in called.stderr
    assert contents(own) == before


def test_a_card_without_data_says_so(own, tmp_path):
    shutil.move(own / "best.safetensors", tmp_path / "alone.safetensors")
    called = call_vitpe("export", tmp_path / "alone.safetensors", "--format", "hf", "--out", tmp_path / "folder")
    assert called.code == 0
    assert "the model card has no scores: " in called.stderr
    assert "Not measured for this card." in (tmp_path / "folder" / "README.md").read_text()


def test_a_checkpoint_is_exported_as_it_is(own, tmp_path):
    called = call_vitpe("export", own, "--format", "safetensors", "--out", tmp_path / "one.safetensors")
    assert called.code == 0
    assert (tmp_path / "one.safetensors").read_bytes() == (own / "best.safetensors").read_bytes()


def test_a_folder_that_may_not_be_written(tmp_path, monkeypatch):
    def refuse(**_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(VitpeError, match=r"cannot write .*x\.png: Permission denied"):
        check_output(tmp_path / "x.png", ".png", "--report")


@pytest.mark.parametrize("name", ["pe_final.png", "pe_similarity.gif", "pe_similarity.html", "pe_norms.png"])
def test_pictures_of_the_users_own_stay(trained_run, tmp_path, monkeypatch, name):
    monkeypatch.setattr("vitpe.viz.visualize.FramePainter", never)
    (tmp_path / name).write_bytes(b"a holiday")
    called = call_vitpe("viz-pe", trained_run, "--out", tmp_path, "--html")
    assert called.code == 2
    assert called.stderr.startswith(f"error: {tmp_path}/{name} is there already, and vitpe did not write it")
    assert contents(tmp_path) == {name: b"a holiday"}


def test_viz_pe_replaces_what_it_wrote(trained_run, tmp_path):
    for _ in range(2):
        called = call_vitpe("viz-pe", trained_run, "--out", tmp_path, "--html", "--size", "400")
        assert called.code == 0, called.stderr
    for path in tmp_path.iterdir():
        refuse_foreign(path)
