"""The convolutional stem: against torch's own convolutions on the whole image, and through the commands."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv2d, gelu, layer_norm

from tests.fuzz.torture import comparable
from tests.helpers import Recorder, tiny_config, train_tiny
from tests.helpers.in_process import call_vitpe, read_jsonl
from tests.model.test_model import random_images, randomize
from tests.training.test_resume import StoppedHereError, Stopping
from vitpe.config import ModelConfig, TrainConfig
from vitpe.data.images import center_crop, crop_and_resize, decode
from vitpe.errors import UsageError, VitpeError
from vitpe.model.convert import convert_state_dict
from vitpe.model.inputs import PixelClassifier, classify
from vitpe.model.vit import VisionTransformer
from vitpe.runs.checkpoint import load_checkpoint, read_tensors
from vitpe.training.forward import TrainForward
from vitpe.training.optimizer import make_optimizers
from vitpe.training.train import train

WIDTH = 6
VALUES = {"model__stem_width": 8, "train__whiten": True, "train__patch_keep": 0.5}
CONFIG = ModelConfig((32, 48), patch_size=16, num_classes=5, embed_dim=24, depth=2, num_heads=2, stem_width=WIDTH)


@pytest.fixture
def model() -> VisionTransformer:
    torch.manual_seed(0)
    made = VisionTransformer(CONFIG)
    randomize(made)
    return made.eval()


def expected_features(model: VisionTransformer, images: Tensor) -> Tensor:
    """(B, C, H, W) → (B, N, D), by the definition."""
    weights = dict(model.stem.named_parameters())

    def convolved(x: Tensor, name: str, stride: int) -> Tensor:
        weight = weights[f"{name}.weight"]
        return conv2d(x, weight.reshape(len(weight), -1, 3, 3), weights[f"{name}.bias"], stride, padding=1)

    x = images
    for name in ("conv1", "conv2", "conv3"):
        x = gelu(convolved(x, name, 2))
    normed = layer_norm(x.movedim(1, 3), x.shape[1:2], weights["norm.weight"], weights["norm.bias"], 1e-6).movedim(3, 1)
    x = x + convolved(gelu(convolved(normed, "conv4", 1)), "conv5", 1)
    side = CONFIG.patch_size // 8
    kernel = weights["proj_weight"].view(-1, side, side, x.shape[1]).permute(0, 3, 1, 2)
    return conv2d(x, kernel, weights["proj_bias"], stride=side).flatten(2).transpose(1, 2)


@pytest.mark.parametrize("patch_size", [8, 16])
def test_features_are_those_of_convolutions_on_the_whole_image(
    patch_size: int, model: VisionTransformer, monkeypatch: pytest.MonkeyPatch
) -> None:
    if patch_size == 8:
        monkeypatch.setitem(globals(), "CONFIG", ModelConfig((32, 48), 8, embed_dim=24, num_heads=2, stem_width=WIDTH))
        model = VisionTransformer(CONFIG)
        randomize(model)
    model.double()
    images = random_images(model, batch=3).double()
    features = model.stem(model.patchify(images))
    assert features.std() > 0.1
    torch.testing.assert_close(features, expected_features(model, images), rtol=0, atol=1e-12)


def test_tokens_are_projection_plus_stem_plus_position(model: VisionTransformer) -> None:
    images = random_images(model)
    patches = model.patchify(images)
    expected = model.patch_embed(patches) + expected_features(model, images) + model.pos_embed[:, 1:]
    torch.testing.assert_close(model.embed(images)[:, 1:], expected, rtol=0, atol=1e-5)


def test_kept_patches_have_the_tokens_that_they_have_among_all(model: VisionTransformer) -> None:
    """The filters look at patches that are left out too."""
    images = random_images(model)
    keep = torch.tensor([[4, 1, 0], [2, 5, 3]])
    everything = model.embed(images)
    kept = model.embed(images, keep)
    torch.testing.assert_close(kept[:, 0], everything[:, 0])
    for image, numbers in enumerate(keep):
        torch.testing.assert_close(kept[image, 1:], everything[image, 1 + numbers])
    blind = images.clone()
    blind[0, :, :16, 32:] = 0  # patch 2, beside a kept one
    assert (model.embed(blind, keep)[0, 1:] - kept[0, 1:]).abs().max() > 1e-3


def test_at_first_it_keeps_the_scale_of_what_it_is_shown() -> None:
    torch.manual_seed(0)
    fresh = VisionTransformer(ModelConfig(stem_width=32))
    features = fresh.stem(torch.randn(2, 143, 768))
    assert 0.1 < features.std() < 1
    assert fresh.stem.conv5.weight.abs().max() == 0


def test_precisions_agree(model: VisionTransformer) -> None:
    images = torch.randint(0, 256, (2, 3, 32, 48), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    keep = torch.tensor([[4, 1, 0], [2, 5, 3]])
    mean, std = (0.5,) * 3, (0.3,) * 3
    exact, rough = (TrainForward(model, mean, std, p)(images, keep) for p in ("fp32", "bf16"))
    assert exact.std() > 0.1
    assert 0 < (exact - rough).abs().max() < 0.05 * exact.abs().max()


def test_muon_takes_its_matrices(model: VisionTransformer) -> None:
    muon, adamw = make_optimizers(model, TrainConfig()).members
    owners = {id(p): kind for kind in (muon, adamw) for group in kind.param_groups for p in group["params"]}
    stem = dict(model.stem.named_parameters())
    assert len(stem) == 14
    assert all((owners[id(p)] is muon) == name.endswith("weight") for name, p in stem.items() if "norm" not in name)


@pytest.mark.parametrize(
    ("values", "complaint"),
    [({"patch_size": 4}, "patch_size 4 is not a multiple of 8"), ({"stem_width": -1}, "stem_width is -1")],
)
def test_what_cannot_be(values: dict[str, int], complaint: str) -> None:
    with pytest.raises(UsageError, match=complaint) as caught:
        ModelConfig(**{"img_size": (32, 48), "stem_width": 8} | values)
    assert caught.value.hint


def test_weights_without_a_stem_are_refused_with_a_way_out() -> None:
    plain = VisionTransformer(ModelConfig((32, 48), embed_dim=24, num_heads=2, depth=2, num_classes=5))
    with pytest.raises(VitpeError, match="the weights have no convolutional stem") as caught:
        convert_state_dict(plain.state_dict(), CONFIG)
    assert "model.stem_width=0" in caught.value.hint
    own = VisionTransformer(CONFIG).state_dict()
    assert convert_state_dict(own, CONFIG).state_dict.keys() == own.keys()


@pytest.fixture(scope="module")
def stem_run(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stem") / "runs"
    train_tiny(celeba, folder, **VALUES)
    return folder


def test_predict_answers_as_the_model_does(stem_run: Path, celeba: Path) -> None:
    """Zeros around a normalised image are its mean colour; around pixels as they are they would be black."""
    model, info = load_checkpoint(stem_run / "best.safetensors")
    files = sorted((celeba / "img_align_celeba").iterdir())[:6]
    crops = [
        center_crop(crop_and_resize(decode(file.read_bytes()), info.stored_size), info.model.img_size) for file in files
    ]
    expected = classify(PixelClassifier(model, info.mean, info.std), torch.from_numpy(np.stack(crops))).sigmoid()
    called = call_vitpe("predict", "--checkpoint", stem_run, *files)
    assert called.code == 0, called.err
    found = [list(record["probs"].values()) for record in read_jsonl(called)]
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


def test_all_commands_take_its_checkpoints(stem_run: Path, celeba: Path, tmp_path: Path) -> None:
    for arguments in (("eval", stem_run, "--data", celeba), ("viz-pe", stem_run, "--out", tmp_path / "pictures")):
        called = call_vitpe(*arguments)
        assert called.code == 0, called.err


def test_a_run_that_was_cut_ends_as_one_that_was_not(stem_run: Path, celeba: Path, tmp_path: Path) -> None:
    config = tiny_config(celeba, **VALUES)
    with pytest.raises(StoppedHereError):
        train(config, tmp_path / "cut", torch.device("cpu"), Stopping())
    train(config, tmp_path / "cut", torch.device("cpu"), Recorder(), resume=True)
    assert comparable(tmp_path / "cut") == comparable(stem_run)
    assert any(name.startswith("stem.") for name in read_tensors(stem_run / "best.safetensors"))
