"""Training the patch projection in whitened coordinates: numpy and a model that really has them are the oracles."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import linear

from tests.fuzz.torture import comparable
from tests.helpers import contents, tiny_config, train_tiny
from tests.training.test_resume import StoppedHereError, Stopping
from vitpe.config import ModelConfig, TrainConfig
from vitpe.model.vit import VisionTransformer
from vitpe.runs.folder import RunFolder
from vitpe.runs.state import load_state
from vitpe.training.optimizer import make_optimizers
from vitpe.training.train import train
from vitpe.training.whitening import Whitening

SMALL = ModelConfig(img_size=(16, 24), patch_size=8, num_classes=3, embed_dim=16, depth=1, num_heads=2)


def correlated(count: int, size: int = 192, seed: int = 0) -> torch.Tensor:
    """(count, size): smooth noise on a bright ground, as pixels are."""
    rng = np.random.default_rng(seed)
    walk = np.cumsum(rng.normal(size=(count, size)), axis=1) / 8 + rng.normal(2, 1.5, (count, 1))
    return torch.from_numpy(walk + 0.05 * rng.normal(size=walk.shape)).float()


def test_whitened_patches_are_uncorrelated() -> None:
    patches = correlated(4000)
    whitening = Whitening.measure(patches.split(300))
    assert {name: value.shape for name, value in whitening.tensors().items()} == {
        name: value.shape for name, value in Whitening.expected(192).items()
    }
    np.testing.assert_allclose(whitening.mean, patches.numpy().mean(axis=0), atol=1e-5)
    variances = np.linalg.eigvalsh(np.cov(patches.double().numpy().T, bias=True))[::-1]
    expected = variances / (variances + 1e-3 * variances[0])
    whitened = (patches - whitening.mean) @ whitening.basis.T
    covariance = np.cov(whitened.double().numpy().T, bias=True)
    np.testing.assert_allclose(covariance, np.diag(expected), atol=1e-3)
    assert expected[0] > 0.99 > 0.5 > expected[-1]  # and so neither end of the spectrum is there by accident


def test_large_patches_keep_their_strongest_directions() -> None:
    whitening = Whitening.measure([correlated(2000, 300)])
    assert whitening.basis.shape == (256, 300) == tuple(Whitening.expected(300)["basis"].shape)


def test_pixels_that_never_change_do_no_harm() -> None:
    patches = correlated(500)
    patches[:, 7] = 1.5
    whitening = Whitening.measure([patches])
    assert all(value.isfinite().all() for value in whitening.tensors().values())


@pytest.mark.parametrize("muon_lr", [0.02, None])
def test_updates_are_those_of_a_model_on_whitened_patches(muon_lr: float | None) -> None:
    """The twin multiplies its patches by the basis and trains a plain weight; both must stay one function."""
    torch.manual_seed(0)
    whitening = Whitening.measure([correlated(2000)])
    model, twin = VisionTransformer(SMALL), VisionTransformer(SMALL)
    start = torch.randn(16, 192) / 50
    with torch.no_grad():
        model.patch_embed.proj.weight.copy_((start @ whitening.basis).view(16, 3, 8, 8))
        model.patch_embed.proj.bias.copy_(-(start @ whitening.basis) @ whitening.mean)  # type: ignore[union-attr]
    twin.load_state_dict(model.state_dict())
    twin.patch_embed.proj = torch.nn.Linear(192, 16)  # type: ignore[assignment]
    with torch.no_grad():
        twin.patch_embed.proj.weight.copy_(start)
        twin.patch_embed.proj.bias.zero_()
    twin.patch_embed.forward = lambda patches: linear(  # type: ignore[method-assign]
        patches, twin.patch_embed.proj.weight, twin.patch_embed.proj.bias
    )
    config = TrainConfig(muon_lr=muon_lr)
    ours, theirs = make_optimizers(model, config, whitening), make_optimizers(twin, config)
    before = model.patch_embed.proj.weight.detach().clone()
    labels = torch.rand(32, 3).round()
    for step in range(8):
        patches = correlated(32 * 6, seed=step + 1).view(32, 2, 3, 3, 8, 8)
        images = patches.permute(0, 3, 1, 4, 2, 5).reshape(32, 3, 16, 24)
        logits = model(images)
        expected = twin(images, normalize=lambda patches: (patches - whitening.mean) @ whitening.basis.T)
        torch.testing.assert_close(logits, expected, atol=2e-3 if muon_lr else 2e-4, rtol=1e-3)  # Muon is in bfloat16
        for output, optimizers in ((logits, ours), (expected, theirs)):
            torch.nn.functional.binary_cross_entropy_with_logits(output, labels).backward()
            optimizers.set_rates(1.0)
            optimizers.step()
    assert not torch.allclose(model.patch_embed.proj.weight, before, atol=1e-3)


def test_a_cut_run_ends_as_the_uncut_one(celeba: Path, tmp_path: Path) -> None:
    """The coordinates are part of the state: they are measured once."""
    values = {"train__whiten": True, "train__ema_decay": 0.9}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    train_tiny(celeba, whole, **values)
    with pytest.raises(StoppedHereError):
        train(tiny_config(celeba, **values), cut, torch.device("cpu"), Stopping())
    assert load_state(RunFolder(cut).state).whitening["basis"].shape == (192, 192)
    train_tiny(celeba, cut, **values, resume=True)
    assert comparable(cut) == comparable(whole)
    train_tiny(celeba, tmp_path / "pixels", train__ema_decay=0.9)
    assert contents(tmp_path / "pixels")["best.safetensors"] != contents(whole)["best.safetensors"]
