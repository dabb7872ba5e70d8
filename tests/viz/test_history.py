"""Files → checkpoints: which files, in which order, and what is said when they cannot be drawn."""

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from tests.helpers.viz_history import (
    GRID,
    face_embeddings,
    float32,
    vitpe_metadata,
    write_checkpoint,
    write_header,
    write_safetensors,
)
from vitpe.celeba import LEFT_EYE, RIGHT_EYE
from vitpe.config import DataConfig, Fit
from vitpe.data.fitting import Fitting
from vitpe.errors import UsageError, VitpeError
from vitpe.model.facts import parse_grid
from vitpe.viz.face import face_geometry
from vitpe.viz.history import evenly, last_scored, load_history, read_checkpoint

RANDOM = np.random.default_rng(0)


def small(step: int = 0, grid: tuple[int, int] = (3, 2), width: int = 4) -> np.ndarray:
    return np.random.default_rng(step).standard_normal((grid[0] * grid[1], width))


def write_vit(path: Path, pos_embed: np.ndarray, tokens: dict[str, int] | None = None) -> Path:
    """Another tool's model: position embeddings (1, N, D), and tokens by their name and number, zero."""
    width = pos_embed.shape[-1]
    zeros = {name: float32(np.zeros((1, count, width))) for name, count in (tokens or {}).items()}
    return write_safetensors(path, {"pos_embed": float32(pos_embed), **zeros})


def test_a_real_run_is_read_as_torch_reads_it(trained_run):
    history = load_history([trained_run])
    files = sorted((trained_run / "ckpts").iterdir())
    assert [checkpoint.path for checkpoint in history] == files
    assert [checkpoint.step for checkpoint in history] == sorted(checkpoint.step for checkpoint in history)
    assert history[0].step == 0
    for checkpoint in history:
        pos_embed = load_file(checkpoint.path)["pos_embed"]
        np.testing.assert_array_equal(checkpoint.embeddings, pos_embed[0, 1:].numpy())
        assert checkpoint.grid_size == (2, 3)
    assert history[-1].images_seen == 8 * history[-1].step
    metadata = json.loads(safe_open(files[-1], "pt").metadata()["vitpe"])
    if metadata["valid"] is not None:
        assert history[-1].valid_accuracy == metadata["valid"]["mean_accuracy"]
    filters = history[-1].filters()
    assert filters is not None
    np.testing.assert_array_equal(filters, load_file(files[-1])["patch_embed.proj.weight"].numpy())


def test_the_step_orders_not_the_name(tmp_path):
    for name, step in (("a", 300), ("b", 20), ("c", 1000)):
        write_checkpoint(tmp_path / f"{name}.safetensors", small(step), step, (3, 2))
    assert [checkpoint.step for checkpoint in load_history([tmp_path])] == [20, 300, 1000]
    named = [tmp_path / "c.safetensors", tmp_path / "a.safetensors"]
    assert [checkpoint.step for checkpoint in load_history(named)] == [300, 1000]


def test_files_without_a_step_keep_the_order_given_and_folders_sort_naturally(tmp_path):
    for name in ("model-2", "model-10", "model-1"):
        write_safetensors(tmp_path / f"{name}.safetensors", {"pos_embed": float32(small(grid=(2, 2))[None])})
    assert [c.path.stem for c in load_history([tmp_path])] == ["model-1", "model-2", "model-10"]
    given_order = [tmp_path / "model-10.safetensors", tmp_path / "model-2.safetensors"]
    history = load_history(given_order)
    assert [c.path for c in history] == given_order
    assert [c.label for c in history] == ["model-10", "model-2"]
    assert history[0].step is None


def test_a_trainers_folder_of_folders_is_found_and_its_names_give_the_step(tmp_path):
    for step in (1000, 200):
        path = tmp_path / f"checkpoint-{step}" / "model.safetensors"
        write_safetensors(path, {"vit.embeddings.position_embeddings": float32(small(step, (2, 2))[None])})
    assert [checkpoint.step for checkpoint in load_history([tmp_path])] == [200, 1000]


@pytest.mark.parametrize(("final", "left_out"), [(200, False), (1000, False), (7, True)])
def test_a_trainers_final_model_does_not_hide_its_history(tmp_path, final, left_out):
    for folder, seed in (("checkpoint-1000", 1000), ("checkpoint-200", 200), (".", final)):
        write_vit(tmp_path / folder / "model.safetensors", small(seed, (17, 1))[None], {"cls_token": 1})
    notes: list[str] = []
    assert [checkpoint.step for checkpoint in load_history([tmp_path], (4, 4), notes.append)] == [200, 1000]
    assert any("is left out: it does not say its step" in note for note in notes) == left_out


def test_shards_are_read_as_one_model(tmp_path):
    for step in (5, 10):
        folder = tmp_path / f"checkpoint-{step}"
        write_safetensors(folder / "model-00001-of-00002.safetensors", {"cls_token": float32(np.zeros((1, 1, 4)))})
        tensors = {"pos_embed": float32(small(step, (17, 1))[None])}
        write_safetensors(folder / "model-00002-of-00002.safetensors", tensors)
        places = {"cls_token": "model-00001-of-00002.safetensors", "pos_embed": "model-00002-of-00002.safetensors"}
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    history = load_history([tmp_path])
    assert [checkpoint.step for checkpoint in history] == [5, 10]
    np.testing.assert_allclose(history[0].embeddings, small(5, (17, 1))[1:], rtol=1e-6)
    alone = load_history([tmp_path / "checkpoint-5"])
    assert [(checkpoint.step, checkpoint.grid_size) for checkpoint in alone] == [(5, (4, 4))]


@pytest.mark.parametrize("name", ["../a.safetensors", "/etc/passwd", "", "..", 3, "nowhere.safetensors", "\0"])
def test_an_index_names_files_of_its_own_folder_only(tmp_path, name):
    write_vit(tmp_path / "a.safetensors", small()[None])
    index = tmp_path / "sub" / "model.safetensors.index.json"
    index.parent.mkdir()
    index.write_text(json.dumps({"weight_map": {"pos_embed": name}}))
    with pytest.raises(VitpeError) as error:
        read_checkpoint(index)
    assert str(index.parent) in error.value.message
    assert error.value.hint


def test_steps_are_taken_from_a_folders_name_for_its_one_model_only(tmp_path):
    for name in ("a", "b"):
        write_vit(tmp_path / "checkpoint-3" / f"{name}.safetensors", small(len(name), (2, 2))[None])
    assert [checkpoint.step for checkpoint in load_history([tmp_path / "checkpoint-3"])] == [None, None]


def test_a_file_named_twice_counts_once_and_so_does_a_copy(tmp_path):
    first = write_checkpoint(tmp_path / "a.safetensors", small(), 5, (3, 2))
    copy = write_checkpoint(tmp_path / "b.safetensors", small(), 5, (3, 2))
    assert len(load_history([first, tmp_path, copy])) == 1
    write_checkpoint(copy, small(1), 5, (3, 2))
    with pytest.raises(VitpeError, match=r"differ, but both are of step 5") as error:
        load_history([first, copy])
    assert "b.safetensors" in str(error.value)


def test_accuracy_comes_from_the_metadata_else_from_the_log(tmp_path):
    run = tmp_path / "runs"
    write_checkpoint(run / "ckpts" / "a.safetensors", small(), 0, (3, 2))
    write_checkpoint(run / "ckpts" / "b.safetensors", small(1), 10, (3, 2), valid={"mean_accuracy": 0.9})
    write_checkpoint(run / "ckpts" / "c.safetensors", small(2), 20, (3, 2))
    (run / "metrics.csv").write_text("step,loss,valid_accuracy\n0,0.7,\n10,0.5,0.1\n20,0.4,0.8125\n")
    history = load_history([run])
    assert [c.valid_accuracy for c in history] == [None, 0.9, 0.8125]
    assert last_scored(history, 0) is None
    (run / "metrics.csv").write_text("step,loss\n20,0.4\n")
    history = load_history([run])
    assert [c.valid_accuracy for c in history] == [None, 0.9, None]
    assert last_scored(history, 2) is history[1]


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16"])
def test_every_float_type_is_widened(tmp_path, dtype):
    values = np.array([[1.0, -2.5], [0.0, 3.0], [0.5, 8.0], [-1.0, 0.25]])  # exact in all of them
    if dtype == "BF16":
        data = (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    else:
        data = values.astype({"F64": "<f8", "F32": "<f4", "F16": "<f2"}[dtype]).tobytes()
    path = write_safetensors(tmp_path / "a.safetensors", {"pos_embed": (dtype, (1, 4, 2), data)})
    checkpoint = read_checkpoint(path)
    assert checkpoint.embeddings.dtype == np.float32
    np.testing.assert_array_equal(checkpoint.embeddings, values)


@pytest.mark.parametrize(
    ("tokens", "num_rows", "grid", "num_prefix", "grid_size"),
    [
        ({"blocks.0.norm1.weight": 1}, 16, None, 0, (4, 4)),
        ({}, 16, (4, 4), 0, (4, 4)),
        ({}, 17, None, 1, (4, 4)),
        ({"cls_token": 1}, 17, None, 1, (4, 4)),
        ({"cls_token": 1, "dist_token": 1}, 18, None, 2, (4, 4)),
        ({"cls_token": 1, "reg_token": 4}, 21, None, 5, (4, 4)),
        ({"cls_token": 1, "reg_token": 4}, 16, None, 0, (4, 4)),
        ({"embeddings.cls_token": 1, "embeddings.register_tokens": 4}, 17, None, 1, (4, 4)),
        ({"cls_token": 1}, 144, (13, 11), 1, (13, 11)),
        ({"cls_token": 1}, 143, (13, 11), 0, (13, 11)),
        ({"cls_token": 1}, 16, (2, 8), 0, (2, 8)),
        ({"decoder.cls_token": 1, "cls_token": 1}, 17, None, 1, (4, 4)),
    ],
)
def test_tokens_before_the_patches_are_left_out_by_name(tmp_path, tokens, num_rows, grid, num_prefix, grid_size):
    values = RANDOM.standard_normal((1, num_rows, 3))
    path = write_vit(tmp_path / "a.safetensors", values, tokens)
    checkpoint = read_checkpoint(path, grid)
    assert checkpoint.grid_size == grid_size
    np.testing.assert_allclose(checkpoint.embeddings, values[0, num_prefix:], rtol=1e-6)


@pytest.mark.parametrize(
    ("tokens", "num_rows"),
    [
        ({}, 144),  # of position embeddings alone, nobody knows
        ({"cls_token": 1}, 144),  # 13 x 11, or 12 x 12 of a model with no_embed_class
        ({"visual.class_embedding": 1}, 14 * 12 + 1),
        ({"cls_token": 1, "dist_token": 1}, 13 * 11 + 2),  # 12 x 12 after one of the two
        ({"cls_token": 1, "reg_token": 4}, 44 * 31 + 5),  # 37 x 37 without any
        ({"cls_token": 1, "register_tokens": 4}, 15 * 13 + 1),
    ],
)
def test_a_token_is_never_taken_for_a_patch(tmp_path, tokens, num_rows):
    path = write_vit(tmp_path / "a.safetensors", RANDOM.standard_normal((1, num_rows, 3)), tokens)
    with pytest.raises(VitpeError, match=f"has {num_rows} position embeddings, which could be") as error:
        read_checkpoint(path)
    assert "--grid" in error.value.hint


def test_what_is_assumed_of_a_file_is_said_once(tmp_path):
    for step in (1, 2):
        write_vit(tmp_path / f"step-{step}.safetensors", small(step, (17, 1), 3)[None], {"cls_token": 1})
    notes: list[str] = []
    load_history([tmp_path], note=notes.append)
    assert notes == [
        "taken as 4 x 4 patches after a class token, which the file does not say; if it is another grid:"
        " --grid ROWSxCOLUMNS"
    ]
    load_history([tmp_path], (4, 4), notes.append)
    assert len(notes) == 1


def test_a_grid_that_the_file_itself_says_is_not_overruled(tmp_path):
    path = write_checkpoint(tmp_path / "a.safetensors", small(), 1, (3, 2))
    with pytest.raises(VitpeError, match="says that its grid is 3 x 2, not 2 x 3"):
        read_checkpoint(path, (2, 3))
    assert read_checkpoint(path, (3, 2)).grid_size == (3, 2)


def test_the_whole_checkpoint_is_not_read(tmp_path):
    """A hole of 64 GB after the embeddings costs nothing."""
    embeddings = float32(small()[None])
    size = 64 * 1024**3
    header = {
        "pos_embed": {"dtype": "F32", "shape": [1, 6, 4], "data_offsets": [0, 96]},
        "head.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [96, 96 + size]},
        "__metadata__": vitpe_metadata(3, (3, 2)),
    }
    path = write_header(tmp_path / "a.safetensors", header, embeddings[2], hole=size)
    np.testing.assert_allclose(read_checkpoint(path).embeddings, small(), rtol=1e-6)


def entry(**fields: object) -> dict[str, object]:
    return {"dtype": "F32", "shape": [1, 4, 1], "data_offsets": [0, 16]} | fields


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        (b"", "header does not fit"),
        (b"short", "header does not fit"),
        ((50).to_bytes(8, "little") + b"{}", "header does not fit"),
        ((2).to_bytes(8, "little") + b"{]", "no JSON"),
        ((2).to_bytes(8, "little") + b"\xff\xff", "no JSON"),
        ((2).to_bytes(8, "little") + b"[]", "no JSON object"),
    ],
)
def test_what_is_no_safetensors_file_is_named(tmp_path, content, fact):
    path = tmp_path / "broken.safetensors"
    path.write_bytes(content)
    with pytest.raises(VitpeError, match="whole safetensors file") as error:
        load_history([path])
    assert fact in str(error.value)
    assert "broken.safetensors" in str(error.value)
    assert error.value.hint


@pytest.mark.parametrize(
    ("header", "data", "fact"),
    [
        ({"pos_embed": entry()}, bytes(15), "ends at"),
        ({"pos_embed": entry(data_offsets=[8, 4])}, bytes(16), "byte range 8 to 4"),
        ({"pos_embed": entry(data_offsets=[0, 12])}, bytes(16), "12 bytes for shape"),
        ({"pos_embed": entry(shape=[1, -4, 1])}, bytes(16), "incomplete"),
        ({"pos_embed": {"dtype": "F32"}}, bytes(16), "incomplete"),
        ({"pos_embed": 3}, bytes(16), "incomplete"),
        ({"pos_embed": entry(dtype="I32")}, bytes(16), "stored as I32"),
        ({"pos_embed": entry(shape=[4, 1, 1])}, bytes(16), "has shape"),
        ({"pos_embed": entry()}, np.full(4, np.nan, "<f4").tobytes(), "not finite"),
        ({"head.weight": entry()}, bytes(16), "no position embeddings"),
        ({"decoder.pos_embed": entry()}, bytes(16), "no position embeddings"),
        ({"pos_embed": entry(shape=[1, 2, 2])}, bytes(16), "has 2 position embeddings"),
        ({"pos_embed": entry(), "__metadata__": {"vitpe": "{"}}, bytes(16), "metadata is no JSON"),
        ({"pos_embed": entry(), "__metadata__": {"vitpe": "{}"}}, bytes(16), "without step"),
        ({"pos_embed": entry(), "__metadata__": {"vitpe": '{"format_version": 2}'}}, bytes(16), "format version 2"),
        ({"pos_embed": entry(), "__metadata__": [1]}, bytes(16), "no table of texts"),
    ],
)
def test_every_damage_is_named_with_the_file(tmp_path, header, data, fact):
    path = write_header(tmp_path / "broken.safetensors", header, data)
    with pytest.raises(VitpeError) as error:
        load_history([path])
    assert fact in str(error.value)
    assert "broken.safetensors" in str(error.value)
    assert "\n" not in str(error.value)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 400), junk=st.binary(max_size=30))
def test_no_damage_ends_in_a_traceback(tmp_path_factory, cut, junk):
    path = write_checkpoint(tmp_path_factory.mktemp("cut") / "a.safetensors", small(), 5, (3, 2))
    content = path.read_bytes()
    path.write_bytes(content[: min(cut, len(content) - 1)] + junk)
    try:
        checkpoint = read_checkpoint(path)
    except VitpeError as error:
        assert str(path) in str(error)
    else:  # the junk replaced the numbers alone
        assert checkpoint.embeddings.shape == (6, 4)


def test_missing_files_and_empty_folders(tmp_path):
    with pytest.raises(VitpeError, match="no such file or folder"):
        load_history([tmp_path / "nowhere"])
    (tmp_path / ".step.safetensors").touch()  # a name that unfinished files have
    with pytest.raises(VitpeError, match=r"no \.safetensors checkpoint in"):
        load_history([tmp_path])


def test_mixed_shapes_name_the_file_that_differs(tmp_path):
    write_checkpoint(tmp_path / "a.safetensors", small(), 1, (3, 2))
    write_checkpoint(tmp_path / "b.safetensors", small(width=5), 2, (3, 2))
    with pytest.raises(VitpeError, match=r"b\.safetensors has 3 x 2 embeddings of width 5") as error:
        load_history([tmp_path])
    assert "a.safetensors has 3 x 2 embeddings of width 4" in str(error.value)
    write_checkpoint(tmp_path / "b.safetensors", small(), 2, (2, 3))
    with pytest.raises(VitpeError, match=r"b\.safetensors has 2 x 3 embeddings"):
        load_history([tmp_path])


def test_the_grid_option(tmp_path):
    assert parse_grid("13x11") == parse_grid(" 13 X 11 ") == (13, 11)
    for text in ("13", "13x", "0x11", "-1x3", "13x11x2", "axb"):
        with pytest.raises(UsageError, match="is not ROWSxCOLUMNS"):
            parse_grid(text)
    path = write_safetensors(tmp_path / "a.safetensors", {"pos_embed": float32(RANDOM.standard_normal((1, 144, 2)))})
    for grid in ((12, 12), (13, 11), (11, 13)):
        assert load_history([path], grid)[0].grid_size == grid
    with pytest.raises(VitpeError, match="not 5 x 5") as error:
        load_history([path], (5, 5))
    assert "--grid" in error.value.hint


def test_eyes_are_known_for_aligned_faces_only(tmp_path):
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, face_embeddings(0.5), 1)
    face = read_checkpoint(path).face
    assert face is not None
    # CelebA's eyes, (69, 111) and (108, 111), are at (68, 106) and (107, 106) of the centre crop from 218 x 178.
    assert face.left_eye == ((6, 3), (6, 4))
    assert face.right_eye == ((6, 6), (6, 7))
    assert face.outer_left_eye == (6, 3)
    for centre, x in ((face.left_eye_centre, 68.5), (face.right_eye_centre, 107.5)):
        assert centre == pytest.approx((106.5 / 16, x / 16))
    write_checkpoint(path, face_embeddings(0.5), 1, data_source="labelled_csv")
    assert read_checkpoint(path).face is None


def test_eyes_mirror_each_other_at_any_patch_size():
    for patch_size in (4, 8, 16):
        face = face_geometry((208, 176), patch_size)
        assert face is not None
        last = 176 // patch_size - 1
        assert sorted((row, last - column) for row, column in face.right_eye) == sorted(face.left_eye)
    assert face_geometry((32, 32), 16) is None


@pytest.mark.parametrize("fit", get_args(Fit))
@pytest.mark.parametrize("img_size", [(208, 176), (224, 224), (104, 88), (64, 64), (96, 208)])
def test_the_eyes_lie_where_the_model_sees_them(img_size, fit):
    """A spot at each eye of an image of CelebA's size, looked for in what the model gets of the image."""
    face = face_geometry(img_size, 4, fit)
    assert face is not None
    for (x, y), centre in zip((LEFT_EYE, RIGHT_EYE), (face.left_eye_centre, face.right_eye_centre), strict=True):
        image = np.zeros((3, 218, 178), np.uint8)
        image[:, y - 3 : y + 4, x - 3 : x + 4] = 255
        spot = Fitting.of(DataConfig(fit=fit, mean=(0, 0, 0)), img_size).view(image)[0].astype(float)
        found = [(spot.sum(axis=1 - axis) @ (np.arange(img_size[axis]) + 0.5)) / spot.sum() for axis in (0, 1)]
        assert centre == pytest.approx((found[0] / 4, found[1] / 4), abs=0.12)


def test_pictures_of_a_run_know_how_its_images_were_fitted(tmp_path):
    files = [
        write_checkpoint(tmp_path / f"{fit}.safetensors", face_embeddings(0.5), 1, fit=fit) for fit in get_args(Fit)
    ]
    faces = [read_checkpoint(path).face for path in files]
    assert faces == [face_geometry((208, 176), 16, fit) for fit in get_args(Fit)]
    assert faces[0] != faces[1] != faces[2]


def test_evenly_keeps_both_ends():
    assert evenly(3, 5) == [0, 1, 2]
    assert evenly(100, 4) == [0, 33, 66, 99]
    assert evenly(GRID[0], 2) == [0, 12]


@pytest.mark.parametrize(
    ("model", "data_source", "subject"),
    [
        ({"embed_dim": 128, "depth": 4, "num_heads": 2}, "drawn_faces", "tiny on drawn faces"),
        ({"embed_dim": 192, "depth": 6, "num_heads": 3, "stem_width": 32}, "celeba", "laptop on CelebA"),
        ({"embed_dim": 192, "depth": 6, "num_heads": 3}, "celeba", "a ViT of width 192 and depth 6 on CelebA"),
        ({}, "celeba", "trained on CelebA"),
        ({"embed_dim": "wide", "depth": 4, "num_heads": 2}, "a\x1bb", "trained on a\\x1bb"),
        ({"embed_dim": 128, "depth": 4, "num_heads": 2}, 3, "tiny"),
        ({}, None, None),
    ],
)
def test_a_checkpoint_says_its_model_and_data(tmp_path, model, data_source, subject):
    metadata = vitpe_metadata(1, GRID)
    values = json.loads(metadata["vitpe"])
    values["model"] |= model
    metadata["vitpe"] = json.dumps(values | {"data_source": data_source})
    path = write_safetensors(tmp_path / "x.safetensors", {"pos_embed": float32(np.ones((1, 144, 8)))}, metadata)
    assert read_checkpoint(path).subject == subject
