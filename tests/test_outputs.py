"""What commands write where: nothing of the user's is replaced, and what cannot be written is known before the work."""

import csv
import io
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers import contents
from tests.helpers.in_process import call_vitpe
from vitpe.errors import UsageError, VitpeError
from vitpe.inference.predictions import predict_record
from vitpe.outputs import check_output, refuse_foreign
from vitpe.reporting.records import predictions_csv
from vitpe.runs.folder import RunFolder
from vitpe.viz.animation import png, write_animation
from vitpe.viz.colours import make_palette
from vitpe.viz.options import Timing


@pytest.fixture
def own(trained_run, tmp_path):
    return shutil.copytree(trained_run, tmp_path / "own")


def never(*_: object, **__: object) -> None:
    raise AssertionError("the work was begun")


@pytest.mark.parametrize("suffix", [".png", ".onnx"])
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
    command = ["eval", own, "--report"] if suffix == ".png" else ["export", own, "--out"]
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
    for command in (["eval", own, "--report", tmp_path / "r.png"], ["export", own, "--out", tmp_path / "e.onnx"]):
        for _ in range(2):
            called = call_vitpe(*command)
            assert called.code == 0, called.stderr


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


@pytest.mark.parametrize("kind", ["gif", "webp", "mp4", "png-frames"])
def test_every_animation_bears_the_mark(tmp_path, kind):
    if kind == "mp4":
        pytest.importorskip("imageio_ffmpeg")
    palette = make_palette("viridis")
    frames = np.zeros((3, 16, 16), dtype=np.uint8)
    frames[1:, 4:] = 9
    frames[2:, 8:] = 30
    for _ in range(2):
        path = write_animation(frames, palette, Timing(100, 100), kind, tmp_path / "a")
    first = path / "0000.png" if path.is_dir() else path
    first.write_bytes(png(palette.to_rgb(frames[0])).replace(b"Software", b"software"))
    with pytest.raises(UsageError, match="vitpe did not write it"):
        write_animation(frames, palette, Timing(100, 100), kind, tmp_path / "a")


def test_crops_replace_crops_and_nothing_else(predicted, images, tmp_path):
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(images / "000002.jpg", other / "000001.jpg")
    crops = tmp_path / "crops"
    for _ in range(2):
        called = predicted(images / "000001.jpg", other / "000001.jpg", "--save-crops", crops)
        assert called.code == 0, called.stderr
    first, second = sorted(crops.iterdir())
    assert first.read_bytes() != second.read_bytes()
    Image.new("RGB", (9, 9)).save(first)
    before = contents(crops)
    called = predicted(images / "000001.jpg", "--save-crops", crops)
    assert called.code == 2
    assert f"{first} is there already, and vitpe did not write it" in called.stderr
    assert contents(crops) == before


def test_columns_of_a_csv_are_unique_and_cells_as_they_are():
    names = ("file", "Smiling", "error", "attribute:error", "=1+1", "-x", "@y", "+z")
    prediction = predict_record("=cmd.jpg", torch.linspace(0.1, 0.9, 8).double().numpy(), names, np.full(8, 0.5))
    text = "".join(predictions_csv([prediction], names))
    header, row = csv.reader(io.StringIO(text))
    assert header[:3] == ["file", "present", "error"]
    assert header[3:] == ["attribute:file", "Smiling", "attribute:attribute:error", "attribute:error", *names[4:]]
    assert len(set(header)) == len(header)
    assert row[0] == "=cmd.jpg"
