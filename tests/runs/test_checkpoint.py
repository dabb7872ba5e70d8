"""Checkpoints and states: whole or not at all, equal to the byte, and refused with a reason when they are damaged."""

import ast
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from torch import Tensor

from tests.fuzz.checkpoints import REGRESSIONS, Bench, Tally
from tests.helpers import REPOSITORY
from tests.helpers.in_process import call_vitpe
from vitpe.celeba import MEAN, STD
from vitpe.config import ModelConfig
from vitpe.errors import VitpeError
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import load_checkpoint, load_foreign, read_tensors, save_checkpoint
from vitpe.runs.metadata import CheckpointInfo, read_info
from vitpe.runs.state import load_state
from vitpe.runs.tensor_file import TensorFile
from vitpe.viz.history import read_checkpoint

MODEL = ModelConfig(img_size=(16, 24), patch_size=8, num_classes=2, embed_dim=16, depth=2, num_heads=2)
INFO = CheckpointInfo(
    model=MODEL,
    attributes=("Smiling", "Young"),
    mean=MEAN,
    std=STD,
    thresholds=(0.5, 0.25),
    stored_size=(18, 26),
    step=7,
    images_seen=56,
    seed=3,
    data_source="celeba",
    valid={"mean_accuracy": 0.9},
)


@pytest.fixture
def model() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(MODEL)
    for parameter in model.parameters():
        parameter.data += torch.randn(parameter.shape) * 0.1
    return model.eval()


@pytest.fixture
def path(tmp_path: Path, model: VisionTransformer) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model.state_dict(), INFO)
    return path


def rewrite(path: Path, edit: Callable[[dict[str, Tensor], dict[str, Any]], None]) -> None:
    """Load a checkpoint's tensors and JSON with the library alone, change them, and write them back."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        values = json.loads(file.metadata()["vitpe"])
    edit(tensors, values)
    safetensors.torch.save_file(tensors, path, metadata={"format": "pt", "vitpe": json.dumps(values)})


def test_round_trip(path: Path, model: VisionTransformer) -> None:
    loaded, info = load_checkpoint(path)
    assert info == INFO
    assert not loaded.training
    assert loaded.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(value, loaded.state_dict()[name]) for name, value in model.state_dict().items())
    assert all(parameter.requires_grad for parameter in loaded.parameters())
    images = torch.randn(2, 3, 16, 24)
    assert torch.equal(model(images), loaded(images))


@pytest.mark.parametrize(
    ("sentences", "fields"),
    [
        ({"thresholds_from": "0.5", "calibration": None}, {}),
        (
            {"thresholds_from": "tuned on valid for balanced_accuracy", "calibration": None},
            {"thresholds_split": "valid", "thresholds_criterion": "balanced_accuracy"},
        ),
        (
            {"thresholds_from": "0.5", "calibration": "platt on valid"},
            {"calibration_split": "valid", "calibration_method": "platt"},
        ),
    ],
)
def test_facts_that_were_sentences_once_are_read_as_fields(
    path: Path, sentences: dict[str, str | None], fields: dict[str, str]
) -> None:
    def as_it_was(_: dict[str, Tensor], values: dict[str, Any]) -> None:
        for name in ("thresholds_split", "thresholds_criterion", "calibration_split", "calibration_method"):
            del values[name]
        values.update(sentences)

    rewrite(path, as_it_was)
    model, info = load_checkpoint(path)
    assert info == replace(INFO, **fields)
    save_checkpoint(path, model.state_dict(), info)
    assert read_info(path) == info
    assert read_checkpoint(path).step == 7


def test_other_tools_read_it(path: Path) -> None:
    with safe_open(path, framework="numpy") as file:
        assert file.metadata()["format"] == "pt"
        values = json.loads(file.metadata()["vitpe"])
        assert file.get_tensor("pos_embed").shape == (1, 1 + 6, 16)
    assert values["format_version"] == 1
    assert values["grid_size"] == [2, 3]
    assert values["attributes"] == ["Smiling", "Young"]
    assert safetensors.torch.load_file(path).keys() == VisionTransformer(MODEL).state_dict().keys()


def test_equal_models_make_equal_bytes(tmp_path: Path, model: VisionTransformer, path: Path) -> None:
    for number in range(8):
        again = tmp_path / f"{number}.safetensors"
        save_checkpoint(again, dict(reversed(model.state_dict().items())), INFO)
        assert again.read_bytes() == path.read_bytes()


def test_a_history_file_holds_what_pictures_need(tmp_path: Path, model: VisionTransformer) -> None:
    path = tmp_path / "step-0000007.safetensors"
    save_checkpoint(path, model.state_dict(), replace(INFO, history_only=True))
    tensors = read_tensors(path)
    assert sorted(tensors) == ["patch_embed.proj.weight", "pos_embed"]
    assert torch.equal(tensors["pos_embed"], model.pos_embed)
    assert read_info(path) == replace(INFO, history_only=True)
    with pytest.raises(VitpeError, match=r"step-0000007.safetensors holds position embeddings only") as caught:
        load_checkpoint(path)
    assert "best.safetensors" in caught.value.hint


def test_a_history_file_holds_frequencies_that_are_learned(tmp_path: Path) -> None:
    info = replace(INFO, model=replace(INFO.model, rope="mixed"), history_only=True)
    model = VisionTransformer(info.model)
    save_checkpoint(tmp_path / "mixed.safetensors", model.state_dict(), info)
    tensors = read_tensors(tmp_path / "mixed.safetensors")
    assert sorted(tensors) == ["patch_embed.proj.weight", "pos_embed", "rope.freqs"]
    assert torch.equal(tensors["rope.freqs"], model.rope.freqs)


def test_a_history_file_holds_rows_and_columns(tmp_path: Path) -> None:
    info = replace(INFO, model=replace(INFO.model, pos_embed="factorized"), history_only=True)
    model = VisionTransformer(info.model)
    model.pos_embed_y.data.normal_()
    save_checkpoint(tmp_path / "sums.safetensors", model.state_dict(), info)
    tensors = read_tensors(tmp_path / "sums.safetensors")
    assert sorted(tensors) == ["patch_embed.proj.weight", "pos_embed_x", "pos_embed_y"]
    assert torch.equal(tensors["pos_embed_y"], model.pos_embed_y)


@pytest.mark.parametrize(
    ("edit", "complaint"),
    [
        (lambda t, v: t.pop("blocks.1.norm2.bias"), "tensor blocks.1.norm2.bias is missing"),
        (lambda t, v: t.pop("pos_embed"), "tensor pos_embed is missing"),
        (lambda t, v: t.update(extra=torch.zeros(1)), "tensor 'extra' is not part of the model"),
        (
            lambda t, v: t.update({"norm.bias": torch.zeros(3)}),
            r"tensor norm.bias is \(3,\), its metadata says \(16,\)",
        ),
        (lambda t, v: t.update({"norm.bias": torch.zeros(16).double()}), "tensor norm.bias is stored as F64"),
        (lambda t, v: t["head.bias"].fill_(torch.nan), "tensor head.bias has values that are not finite"),
        (lambda t, v: t["cls_token"][0, 0].fill_(torch.inf), "tensor cls_token has values that are not finite"),
        (lambda t, v: v.update(format_version=2), "has format version 2, not 1"),
        (lambda t, v: v.update(format_version="1"), "has format version '1', not 1"),
        (lambda t, v: v.pop("format_version"), "metadata is damaged .*format_version"),
        (lambda t, v: v.update(surprise=1), "metadata is damaged .*unknown key 'surprise'"),
        (lambda t, v: v.pop("thresholds"), "metadata is damaged .*thresholds"),
        (lambda t, v: v.update(step="7"), 'metadata is damaged .*step is "7"'),
        (lambda t, v: v.update(step=-1), "metadata is damaged .*step is -1"),
        (lambda t, v: v.update(thresholds=[0.5, 1.5]), "metadata is damaged .*1.5"),
        (lambda t, v: v.update(thresholds=[0.5]), "metadata is damaged .*2 attributes, 1 thresholds"),
        (lambda t, v: v.update(attributes=["Smiling"]), "metadata is damaged .*1 attributes"),
        (lambda t, v: v.update(std=[0.3, 0.0, 0.3]), "metadata is damaged .*std"),
        (lambda t, v: v.update(mean=[0.3]), "metadata is damaged .*mean"),
        (lambda t, v: v.update(grid_size=[3, 2]), r"metadata is damaged .*grid_size \[3, 2\]"),
        (lambda t, v: v.update(stored_size=[10, 10]), "metadata is damaged .*stored_size"),
        (lambda t, v: v.update(stored_size=[10**6, 10**6]), "metadata is damaged .*stored_size"),
        (lambda t, v: v.update(thresholds_split="valid"), "metadata is damaged .*fitted on valid by None"),
        (lambda t, v: v.update(calibration="by hand"), "metadata is damaged .*calibration is 'by hand'"),
        (lambda t, v: v.update(thresholds_from=3), "metadata is damaged .*thresholds_from is 3"),
        (lambda t, v: v["model"].update(embed_dim=2**40), "tensor pos_embed is .*, its metadata says|embed_dim is"),
        (lambda t, v: v["model"].update(depth=10**12), "tensors are too few for 1000000000000 blocks|depth is"),
        (
            lambda t, v: v["model"].update(mlp_ratio=1e308),
            "tensor blocks.1.mlp.fc1.weight is .*, its metadata says|mlp_ratio",
        ),
        (lambda t, v: v["model"].update(depth=1), "tensor 'blocks.1.*' is not part of the model"),
        (lambda t, v: v["model"].update(num_heads=3), "metadata is damaged .*num_heads 3"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(
    path: Path, edit: Callable[[dict[str, Tensor], dict[str, Any]], None], complaint: str
) -> None:
    rewrite(path, edit)
    with pytest.raises(VitpeError, match=complaint) as caught:
        load_checkpoint(path)
    assert caught.value.message.startswith(str(path))
    assert caught.value.hint


@pytest.mark.parametrize(
    ("names", "complaint"),
    [
        (["Young", "Young"], "2 attributes are called Young"),
        (["Smiling", "a\nb"], r"an attribute is called 'a\\nb'"),
        (["Smiling", "\x1b[2J"], r"an attribute is called '\\x1b\[2J'"),
        (["Smiling", "\u202etxt"], r"an attribute is called '\\u202etxt'"),
        (["Smiling", "\x9b"], "an attribute is called"),
        (["Smiling", ""], "an attribute is called ''"),
    ],
)
def test_attributes_have_names_of_their_own_that_can_be_printed(path: Path, names: list[str], complaint: str) -> None:
    rewrite(path, lambda t, v: v.update(attributes=names))
    for read in (load_checkpoint, read_info, load_foreign):
        with pytest.raises(VitpeError, match=complaint) as caught:
            read(path)
        assert caught.value.message.isprintable()


def test_a_checkpoint_that_is_replaced_while_it_is_read_is_one_of_the_two(
    path: Path, model: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never the metadata of one and the weights of the other."""
    other = path.with_name("other.safetensors")
    save_checkpoint(other, {key: value + 1 for key, value in model.state_dict().items()}, replace(INFO, step=8))
    read_into = TensorFile.read_into

    def interrupted(self: TensorFile, name: str, buffer: memoryview) -> None:
        if other.exists():
            other.replace(path)
        read_into(self, name, buffer)

    monkeypatch.setattr(TensorFile, "read_into", interrupted)
    loaded, info = load_checkpoint(path)
    assert not other.exists()
    assert info.step == 7
    assert torch.equal(loaded.pos_embed, model.pos_embed)
    assert load_checkpoint(path)[1].step == 8


@pytest.mark.parametrize("read", [load_checkpoint, load_foreign, read_tensors])
def test_a_checkpoint_that_is_written_in_place_while_it_is_read_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    """Shorter for a moment, which would end a process that has mapped it, or with other values."""
    data, read_into = path.read_bytes(), TensorFile.read_into
    for shown in (data[:-100], data[:-100] + bytes(100)):

        def interrupted(self: TensorFile, name: str, buffer: memoryview, shown: bytes = shown) -> None:
            path.write_bytes(shown)
            os.utime(path, ns=(1, 1))
            read_into(self, name, buffer)

        monkeypatch.setattr(TensorFile, "read_into", interrupted)
        with pytest.raises(VitpeError, match=r"was written to while it was read|is no whole safetensors file: .* ends"):
            read(path)
        path.write_bytes(data)


def test_a_hole_of_100_gb_is_refused_unread(path: Path) -> None:
    """A file that takes no space on the disk can declare more than any memory holds."""
    size = 100 * 10**9
    header = {"head.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}}
    for metadata, fact in (
        ({}, "holds 100 GB of tensors, this machine has"),
        (INFO.to_metadata(), "1 tensors are too few"),
    ):
        text = json.dumps(header | {"__metadata__": metadata}).encode()
        path.write_bytes(len(text).to_bytes(8, "little") + text)
        os.truncate(path, 8 + len(text) + size)
        with pytest.raises(VitpeError, match=fact):
            (load_checkpoint if metadata else load_foreign)(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_files_and_folders_that_may_not_be_read_are_told_in_two_lines() -> None:
    """By a child process that is nobody, in a folder that nobody may enter."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        closed, best = folder / "closed", folder / "best.safetensors"
        closed.mkdir(mode=0o700)
        best.touch(mode=0o600)
        folder.chmod(0o755)
        asked = [
            (command, path)
            for command in (["viz-pe"], ["eval"], ["predict", "a.jpg", "--checkpoint"], ["export"], ["train", "--init"])
            for path in (folder, best, closed, closed / "a.safetensors")
        ]
        for command, _ in asked:
            call_vitpe(*command, folder / "nothing")  # which imports all that it takes, where that may be read
        with (folder / "answers").open("w+") as file:
            child = os.fork()
            if child == 0:
                try:
                    os.setuid(65534)
                    answers = [(called.code, called.stderr) for c, path in asked for called in [call_vitpe(*c, path)]]
                    file.write(json.dumps(answers))
                    file.flush()
                finally:
                    os._exit(0)
            os.waitpid(child, 0)
            file.seek(0)
            answers = json.load(file)
        for (command, path), (code, stderr) in zip(asked, answers, strict=True):
            assert (code in (1, 2), stderr.count("\n")) == (True, 2), (command, path, stderr)
            assert "Permission denied" in stderr or "is not readable" in stderr, (command, path, stderr)


def test_files_that_are_no_checkpoint_of_ours(tmp_path: Path, path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    safetensors.torch.save_file({"x": torch.zeros(2)}, foreign)
    with pytest.raises(VitpeError, match="was not written by vitpe") as caught:
        load_checkpoint(foreign)
    assert "--init" in caught.value.hint
    assert load_foreign(foreign).facts.grid_size is None
    with pytest.raises(VitpeError, match=r"no file .*missing"):
        load_checkpoint(tmp_path / "missing.safetensors")
    with pytest.raises(VitpeError, match=f"cannot read {tmp_path}: Is a directory"):
        load_checkpoint(tmp_path)
    with pytest.raises(VitpeError, match="is no training state"):
        load_state(path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(VitpeError, match="no whole safetensors file"):
        load_checkpoint(cut)


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".bin", ".pkl"])
def test_pickles_are_refused_unread(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"weights{suffix}"
    path.write_bytes(b"\x80\x04")
    for read in (load_checkpoint, load_foreign, load_state):
        with pytest.raises(VitpeError, match="is a pickle") as caught:
            read(path)
        assert "safetensors" in caught.value.hint


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_pickle_under_another_name_is_known_and_the_hint_converts_it(tmp_path: Path, is_zip: bool) -> None:
    path, tensors = tmp_path / "it's weights", {"x": torch.randn(3)}
    torch.save(tensors, path, _use_new_zipfile_serialization=is_zip)
    with pytest.raises(VitpeError, match="is a pickle") as caught:
        load_foreign(path)
    command = caught.value.hint.partition("where you trust it: ")[2]
    assert command.startswith("python -c ")
    subprocess.run(["bash", "-c", command.replace("python", sys.executable, 1)], check=True)
    assert torch.equal(load_foreign(tmp_path / "it's weights.safetensors").tensors["x"], tensors["x"])
    with pytest.raises(VitpeError, match=r"no checkpoint .*missing\.pth"):
        load_foreign(tmp_path / "missing.pth")


def test_nothing_in_the_package_reads_or_writes_pickles() -> None:
    banned_modules = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "shelve", "marshal"}
    sources = sorted((REPOSITORY / "vitpe").rglob("*.py"))
    assert len(sources) > 20
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                assert not {alias.name.split(".")[0] for alias in node.names} & banned_modules, source
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in banned_modules, source
                assert node.module != "torch" or not {a.name for a in node.names} & {"load", "save"}, source
            elif isinstance(node, ast.Attribute):
                assert ast.unparse(node) not in {"torch.load", "torch.save", "torch.jit.load", "pd.read_pickle"}, source
            elif isinstance(node, ast.keyword):
                assert node.arg != "allow_pickle", source


def test_a_diverged_model_is_not_written(path: Path, model: VisionTransformer) -> None:
    before = path.read_bytes()
    model.head.weight.data[0, 0] = torch.nan
    with pytest.raises(VitpeError, match=r"tensor head.weight has values that are not finite"):
        save_checkpoint(path, model.state_dict(), INFO)
    assert path.read_bytes() == before


def test_damaged_files_are_only_ever_refused(tmp_path: Path) -> None:
    """A few of the cases of `python -m tests.fuzz.checkpoints`; the undamaged files must be accepted."""
    bench, tally = Bench(tmp_path), Tally()
    for data, accepting in zip(bench.whole, ("load_checkpoint", "read_info", "load_state", "init"), strict=True):
        bench.path.write_bytes(data)
        bench.readers[accepting](bench.path)
    cases = [*REGRESSIONS, *range(150)]
    for case in cases:
        bench.run(case, tally)
    assert not tally.failures
    assert sum(tally.counts.values()) == len(cases) * len(bench.readers)
    assert tally.counts["load_checkpoint: refused"] > 100
    assert tally.counts["load_state: read"] > 2
