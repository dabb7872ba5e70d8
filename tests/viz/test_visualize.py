"""The one entry point: what is written, what is noted, and what is refused."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.helpers.in_process import call_vitpe
from tests.helpers.viz_history import (
    face_embeddings,
    filters,
    float32,
    write_checkpoint,
    write_header,
    write_run,
    write_safetensors,
)
from vitpe.errors import UsageError, VitpeError
from vitpe.runs.tensor_file import TensorFile
from vitpe.viz.animation import png, write_animation
from vitpe.viz.colours import make_palette
from vitpe.viz.history import read_checkpoint
from vitpe.viz.numbers import NUMBERS
from vitpe.viz.options import Timing, VizOptions
from vitpe.viz.visualize import visualize

STILLS = ["pe_explained.png", "pe_final.png", "pe_norms.png"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("viz") / "runs", num_frames=4, width=16, last_step=3000)


def quick(folder, **options):
    return VizOptions(out=folder, **({"size": 400, "stills": False} | options))


def test_a_run_becomes_an_animation_and_stills(run_folder, tmp_path):
    result = visualize([run_folder], VizOptions(out=tmp_path / "new" / "folder", size=500))
    assert sorted(path.name for path in result.paths) == [*STILLS, "pe_similarity.gif"]
    assert sorted(result.paths) == sorted((tmp_path / "new" / "folder").iterdir())
    assert [record["step"] for record in result.records] == [0, 1000, 2000, 3000]
    assert [record["defined"] for record in result.records] == [False, True, True, True]
    assert set(NUMBERS) <= set(result.records[0])
    assert json.loads(json.dumps(result.records, allow_nan=False))[-1]["mirror_symmetry"] > 0.5
    assert result.notes == ()
    with Image.open(tmp_path / "new" / "folder" / "pe_similarity.gif") as animation:
        assert animation.n_frames == 4
        last = animation.seek(3) or animation.convert("RGB")
    with Image.open(tmp_path / "new" / "folder" / "pe_final.png") as final:
        assert final.size == tuple(3 * side for side in last.size)


def test_pictures_are_made_without_torch(run_folder, tmp_path):
    """The rest of vitpe may import it, the pictures must not, by no detour."""
    code = f"""
import sys
from pathlib import Path
from vitpe.viz.options import VizOptions
assert "numpy" not in sys.modules, "the command line reads its defaults without numpy"
from vitpe.viz.visualize import visualize
from vitpe.viz.numbers import numbers_table
numbers_table(visualize([Path({str(run_folder)!r})], VizOptions(out=Path({str(tmp_path)!r}), html=True)).records)
loaded = {{name.partition(".")[0] for name in sys.modules}}
assert "matplotlib" in loaded
assert not loaded & {{"torch", "torchvision", "timm", "transformers", "safetensors"}}, loaded
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*STILLS, "pe_similarity.gif"]


def test_two_runs_give_the_same_bytes(run_folder, tmp_path):
    first, second = (visualize([run_folder], quick(tmp_path / name, html=True)) for name in "ab")
    for one, other in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()
    assert first.section == second.section is not None


def test_one_file_alone_gives_stills_only(run_folder, tmp_path):
    last = max((run_folder / "ckpts").iterdir())
    result = visualize([last], VizOptions(out=tmp_path, size=400))
    assert sorted(path.name for path in result.paths) == STILLS
    assert result.notes == ("one checkpoint alone: still pictures only, no animation",)
    assert len(result.records) == 1


def test_a_start_alone_is_drawn_as_undefined(run_folder, tmp_path):
    first = min((run_folder / "ckpts").iterdir())
    result = visualize([first], VizOptions(out=tmp_path, size=400))
    assert result.records[0]["defined"] is False
    assert any("undefined" in note for note in result.notes)
    assert len(result.paths) == 3


def test_long_histories_are_thinned_for_the_animation_alone(tmp_path):
    run = write_run(tmp_path / "runs", num_frames=7, width=8)
    result = visualize([run], quick(tmp_path, max_frames=3))
    assert len(result.records) == 7
    assert result.notes == ("the animation shows 3 of 7 checkpoints, evenly spread",)
    with Image.open(tmp_path / "pe_similarity.gif") as animation:
        assert animation.n_frames == 3


@pytest.mark.parametrize("grid", [(4, 4), (3, 7)])
def test_other_models_have_no_eyes_and_no_steps(tmp_path, grid):
    for name in ("second", "first"):
        embeddings = np.random.default_rng(len(name)).standard_normal((grid[0] * grid[1], 6))
        write_checkpoint(tmp_path / f"{name}.safetensors", embeddings, 1, grid, data_source="labelled_csv")
        text = (tmp_path / f"{name}.safetensors").read_bytes().replace(b'"vitpe"', b'"other"')
        (tmp_path / f"{name}.safetensors").write_bytes(text)
    files = [tmp_path / "second.safetensors", tmp_path / "first.safetensors"]
    result = visualize(files, quick(tmp_path, html=True, stills=True, grid=f"{grid[0]}x{grid[1]}"))
    assert len(result.paths) == 4
    assert result.section["grid_size"] == list(grid)
    assert [record["file"] for record in result.records] == [str(file) for file in files]
    assert result.records[0]["step"] is None
    assert result.records[0]["eye_matches"] == []
    assert result.records[0]["eye_similarity"] is None


def test_each_tile_on_its_own_scale_differs(run_folder, tmp_path):
    shared = visualize([run_folder], quick(tmp_path / "a"))
    own = visualize([run_folder], quick(tmp_path / "b", per_tile_scale=True))
    assert shared.paths[0].read_bytes() != own.paths[0].read_bytes()


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        ({"format": "avi"}, "'avi'"),
        ({"frame_ms": 0}, "frame_ms is 0"),
        ({"frame_ms": 100_000}, "frame_ms is 100000"),
        ({"size": 10}, "size is 10"),
        ({"max_frames": 1}, "max_frames is 1"),
    ],
)
def test_values_that_cannot_be_are_refused(options, fact):
    with pytest.raises(UsageError) as error:
        VizOptions(**options)
    assert fact in str(error.value)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("options", [{"cmap": "nothing"}, {"grid": "13"}, {"grid": "5x5"}])
def test_nothing_is_written_when_a_choice_does_not_fit(run_folder, tmp_path, options):
    with pytest.raises(VitpeError):
        visualize([run_folder], quick(tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


def test_a_damaged_checkpoint_among_good_ones_is_named(run_folder, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(max((run_folder / "ckpts").iterdir()).read_bytes()[:-100])
    with pytest.raises(VitpeError, match=r"broken\.safetensors"):
        visualize([run_folder, broken], quick(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written_is_named(run_folder, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(VitpeError, match="cannot create the folder"):
        visualize([run_folder], quick(tmp_path / "file"))


def test_the_real_run_of_a_tiny_model(trained_run, tmp_path):
    result = visualize([trained_run], quick(tmp_path, html=True, stills=True))
    assert len(result.paths) == 4
    assert result.records[0]["grid_size"] == [2, 3]
    assert not result.records[0]["defined"]
    assert result.records[-1]["defined"]


def test_embeddings_that_are_all_alike_can_be_drawn(tmp_path):
    for step in (1, 2):
        write_checkpoint(tmp_path / f"{step}.safetensors", np.ones((143, 4)) * step, step)
    result = visualize([tmp_path], quick(tmp_path, html=True, stills=True))
    assert result.records[0]["mirror_symmetry"] is None  # maps without any variation
    assert len(result.paths) == 4


def test_one_patch_without_an_embedding_leaves_the_others(tmp_path):
    embeddings = face_embeddings(1.0, width=8)
    embeddings[70] = 0
    write_checkpoint(tmp_path / "a.safetensors", embeddings, 1)
    result = visualize([tmp_path], quick(tmp_path, html=True, stills=True))
    assert result.records[0]["defined"] is False
    assert len(result.paths) == 3


def test_names_of_any_kind_are_drawn_and_shown_as_they_are(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ["two\nlines", "1²3", "[red]a", "[/x]", "\x1b[2J", "\u202egnp", "٣", os.fsdecode(b"\xff"), "'\"<&"]
    files = [Path(f"{name}.safetensors") for name in names]
    for file in files:
        embeddings = np.random.default_rng(len(str(file))).standard_normal((1, 4, 6))
        write_safetensors(file, {"pos_embed": float32(embeddings)})
    called = call_vitpe("viz-pe", *files, "--out", tmp_path / "out", "--size", "400", "--html", "--format", "table")
    assert called.code == 0, called.stderr
    for shown in ("two\\nlines", "1²3", "[red]a", "[/x]", "\\x1b[2J", "\\u202egnp", "٣", "\\xff", "'\"<&"):
        assert f" {shown}.safetensors " in called.stdout
    assert not set(called.stdout + called.stderr) & set("\x1b\u202e")
    folder = tmp_path / "1²3"  # and a folder of them
    for name in ("1²3", "1²10"):
        write_safetensors(folder / f"{name}.safetensors", {"pos_embed": float32(np.ones((1, 4, 6)))})
    assert len(visualize([folder], quick(tmp_path / "out")).records) == 2


@pytest.mark.parametrize("kind", ["pickle", "pipe", "long name", "long name of a folder", "folder", "loop", "pickles"])
def test_what_is_no_checkpoint_is_told_in_two_lines(tmp_path, kind):
    path, fact = tmp_path / "x.safetensors", "cannot read"
    match kind:
        case "pickle":
            path, fact = tmp_path / "x.pth", "is a pickle"
            path.write_bytes(b"PK\x03\x04" + bytes(60))
        case "pipe":
            os.mkfifo(path)
        case "long name":
            path = tmp_path / f"{'x' * 300}.safetensors"
        case "long name of a folder":
            path = tmp_path / ("x" * 300) / "ckpts" / "a.safetensors"
        case "folder":
            (path / "y.safetensors").mkdir(parents=True)
            fact = "no .safetensors checkpoint in"
        case "loop":
            path.symlink_to(path)
        case "pickles":
            (tmp_path / "pytorch_model.bin").touch()
            path, fact = tmp_path, "is a pickle"
    called = call_vitpe("viz-pe", path)
    assert called.code == 1
    error, hint = called.stderr.splitlines()
    assert error.startswith("error: ")
    assert fact in error
    assert hint.startswith("hint: ")
    if "pickle" in kind:
        assert "convert it where you trust it" in hint


def test_embeddings_near_the_end_of_float32_are_drawn(tmp_path):
    for step, scale in enumerate((1e-40, 1e-3, 3e38)):
        embeddings = np.random.default_rng(0).uniform(-1, 1, (143, 8)) * scale
        write_checkpoint(tmp_path / f"{step}.safetensors", embeddings, step + 1, filters=np.tanh(filters(8)) * scale)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = visualize([tmp_path], quick(tmp_path / "out", html=True, stills=True))
    small, usual, large = (record["mirror_symmetry"] for record in result.records)
    assert small == pytest.approx(usual, abs=1e-2)
    assert large == pytest.approx(usual, abs=1e-6)


def test_a_file_that_is_written_to_while_it_is_read_is_refused(tmp_path, monkeypatch):
    path = write_checkpoint(tmp_path / "a.safetensors", face_embeddings(1.0, width=8), 1)
    data = path.read_bytes()
    read_into = TensorFile.read_into

    def interrupted(self, name, buffer):
        path.write_bytes(data[: len(data) // 2])  # as another process may, in place
        path.write_bytes(data)
        os.utime(path, ns=(1, 1))
        read_into(self, name, buffer)

    monkeypatch.setattr(TensorFile, "read_into", interrupted)
    with pytest.raises(VitpeError, match=r"a\.safetensors was written to while it was read"):
        visualize([path], quick(tmp_path / "out"))


def test_filters_of_another_file_than_the_embeddings_are_refused(tmp_path):
    path = write_checkpoint(tmp_path / "a.safetensors", face_embeddings(1.0, width=8), 1, filters=filters(8))
    checkpoint = read_checkpoint(path)
    assert checkpoint.filters() is not None
    write_checkpoint(tmp_path / "b", face_embeddings(0.5, width=8), 2, filters=filters(8)).replace(path)
    with pytest.raises(VitpeError, match="was written to while it was read"):
        checkpoint.filters()


def test_sizes_that_no_picture_can_show_are_refused_unread(tmp_path):
    """Holes of 100 GB, which cost nothing."""
    for name, shape in (("pos_embed", [1, 143, 170_000_000]), ("pos_embed", [1, 24_000_000, 1024])):
        size = 4 * shape[1] * shape[2]
        header = {name: {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}
        path = write_header(tmp_path / "a.safetensors", header, hole=size)
        with pytest.raises(VitpeError, match="can be drawn"):
            visualize([path], quick(tmp_path))


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
