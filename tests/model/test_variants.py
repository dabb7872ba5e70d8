"""Every variant of the model through the commands: train in each way, resume, predict, eval, viz-pe, export."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from tests.fuzz.torture import comparable
from tests.helpers import Recorder, tiny_config, train_tiny
from tests.helpers.in_process import call_vitpe, read_jsonl
from tests.training.test_resume import StoppedHereError, Stopping
from vitpe.data.images import center_crop, crop_and_resize, decode
from vitpe.model.inputs import PixelClassifier, classify, predicting_classifier
from vitpe.runs.checkpoint import load_checkpoint
from vitpe.runs.metadata import CheckpointInfo
from vitpe.training.train import train

RECIPE = {"train__whiten": True, "train__patch_keep": 0.5, "train__ema_decay": 0.9, "model__depth": 2}
VARIANTS: dict[str, dict[str, Any]] = {
    "queries": {"model__global_pool": "queries"},
    "axial RoPE": {"model__rope": "axial"},
    "mixed RoPE and queries": {"model__rope": "mixed", "model__global_pool": "queries"},
    "rows and columns": {"model__pos_embed": "factorized"},
    "no embedding but RoPE": {"model__pos_embed": "none", "model__rope": "axial"},
    "queries and stem": {"model__global_pool": "queries", "model__stem_width": 8},
}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request: pytest.FixtureRequest) -> dict[str, Any]:
    return RECIPE | VARIANTS[request.param]


@pytest.fixture(scope="module")
def run(variant: dict[str, Any], celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("variant") / "runs"
    train_tiny(celeba, folder, **variant)
    return folder


def pixels(celeba: Path, info: CheckpointInfo) -> tuple[list[Path], torch.Tensor]:
    """Some files, and what a model is given of them."""
    files = sorted((celeba / "img_align_celeba").iterdir())[:6]
    crops = [
        center_crop(crop_and_resize(decode(file.read_bytes()), info.stored_size), info.model.img_size) for file in files
    ]
    return files, torch.from_numpy(np.stack(crops))


def test_what_answers_agrees_with_the_model(run: Path, celeba: Path, tmp_path: Path) -> None:
    """numpy's forward pass, the one with folded pixels, and the exported file by another library."""
    model, info = load_checkpoint(run / "best.safetensors")
    files, images = pixels(celeba, info)
    logits = classify(PixelClassifier(model, info.mean, info.std), images)
    assert logits.std(dim=0).min() > 1e-4
    folded = predicting_classifier(model, info.mean, info.std, torch.device("cpu"))
    torch.testing.assert_close(classify(folded, images), logits, rtol=0, atol=1e-5)
    called = call_vitpe("predict", "--checkpoint", run, *files)
    assert called.code == 0, called.err
    found = [list(record["probs"].values()) for record in read_jsonl(called)]
    np.testing.assert_allclose(found, logits.sigmoid(), rtol=0, atol=2e-6)
    called = call_vitpe("export", run, "--out", tmp_path / "model.onnx")
    assert called.code == 0, called.err
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (probs,) = session.run(["probs"], {"images": images.numpy()})
    np.testing.assert_allclose(probs, logits.sigmoid(), rtol=0, atol=1e-5)


def test_all_commands_take_its_checkpoints(run: Path, celeba: Path, tmp_path: Path) -> None:
    called = call_vitpe("eval", run, "--data", celeba, "--format", "json")
    assert called.code == 0, called.err
    assert json.loads(called.out)["attributes"]
    called = call_vitpe("viz-pe", run, "--out", tmp_path / "pictures")
    assert called.code == 0, called.err
    assert any((tmp_path / "pictures").iterdir())


def test_a_run_that_was_cut_ends_as_one_that_was_not(
    run: Path, variant: dict[str, Any], celeba: Path, tmp_path: Path
) -> None:
    config = tiny_config(celeba, **variant)
    with pytest.raises(StoppedHereError):
        train(config, tmp_path / "cut", torch.device("cpu"), Stopping())
    train(config, tmp_path / "cut", torch.device("cpu"), Recorder(), resume=True)
    assert comparable(tmp_path / "cut") == comparable(run)


@pytest.mark.parametrize("changes", [{"train__precision": "bf16"}, {"train__muon_lr": None}], ids=["bf16", "AdamW"])
def test_other_ways_to_train(
    changes: dict[str, Any], run: Path, variant: dict[str, Any], celeba: Path, tmp_path: Path
) -> None:
    """They train, and neither is the other: both ways change the weights, and not to the same."""
    train_tiny(celeba, tmp_path / "runs", **variant, **changes)
    first, other = (load_checkpoint(p / "best.safetensors")[0].state_dict() for p in (run, tmp_path / "runs"))
    assert first.keys() == other.keys()
    assert any(not torch.equal(first[key], other[key]) for key in first)


def test_compiled_it_is_the_same(run: Path, celeba: Path) -> None:
    """In one graph, without a break."""
    model, info = load_checkpoint(run / "best.safetensors")
    classifier = PixelClassifier(model, info.mean, info.std)
    _, images = pixels(celeba, info)
    keep = torch.tensor([[4, 1, 0], [2, 5, 3]])
    compiled = torch.compile(classifier, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(images[:2], keep), classifier(images[:2], keep), rtol=0, atol=1e-5)
