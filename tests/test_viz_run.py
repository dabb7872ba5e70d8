"""The one entry point: what is written, what is noted, and what is refused."""

import json
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from tests.viz_history import face_embeddings, write_checkpoint, write_run
from vitpe.errors import UsageError, VitpeError
from vitpe.viz.options import VizOptions
from vitpe.viz.run import visualize
from vitpe.viz.tables import NUMBER_NAMES

STILLS = ["pe_explained.png", "pe_final.png", "pe_norms.png"]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("viz") / "runs", num_frames=4, width=16, last_step=3000)


def quick(folder, **options):
    return VizOptions(out=folder, **({"size": 400, "stills": False} | options))


def test_a_run_becomes_an_animation_stills_and_a_page(run_folder, tmp_path):
    result = visualize([run_folder], VizOptions(out=tmp_path / "new" / "folder", size=500, html=True))
    assert sorted(path.name for path in result.paths) == [*STILLS, "pe_similarity.gif", "pe_similarity.html"]
    assert sorted(result.paths) == sorted((tmp_path / "new" / "folder").iterdir())
    assert [record["step"] for record in result.records] == [0, 1000, 2000, 3000]
    assert [record["defined"] for record in result.records] == [False, True, True, True]
    assert set(NUMBER_NAMES) <= set(result.records[0])
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
from vitpe.viz.run import visualize
from vitpe.viz.tables import numbers_table
numbers_table(visualize([Path({str(run_folder)!r})], VizOptions(out=Path({str(tmp_path)!r}), html=True)).records)
loaded = {{name.partition(".")[0] for name in sys.modules}}
assert "matplotlib" in loaded
assert not loaded & {{"torch", "torchvision", "timm", "transformers", "safetensors"}}, loaded
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == [*STILLS, "pe_similarity.gif", "pe_similarity.html"]


def test_two_runs_give_the_same_bytes(run_folder, tmp_path):
    first, second = (visualize([run_folder], quick(tmp_path / name, html=True)) for name in "ab")
    for one, other in zip(first.paths, second.paths, strict=True):
        assert one.read_bytes() == other.read_bytes()


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
    assert len(result.paths) == 5
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
    assert len(result.paths) == 5
    assert result.records[0]["grid_size"] == [2, 3]
    assert not result.records[0]["defined"]
    assert result.records[-1]["defined"]


def test_embeddings_that_are_all_alike_can_be_drawn(tmp_path):
    for step in (1, 2):
        write_checkpoint(tmp_path / f"{step}.safetensors", np.ones((143, 4)) * step, step)
    result = visualize([tmp_path], quick(tmp_path, html=True, stills=True))
    assert result.records[0]["mirror_symmetry"] is None  # maps without any variation
    assert len(result.paths) == 5


def test_one_patch_without_an_embedding_leaves_the_others(tmp_path):
    embeddings = face_embeddings(1.0, width=8)
    embeddings[70] = 0
    write_checkpoint(tmp_path / "a.safetensors", embeddings, 1)
    result = visualize([tmp_path], quick(tmp_path, html=True, stills=True))
    assert result.records[0]["defined"] is False
    assert len(result.paths) == 4
