"""Losses against those of torch, torchvision and timm, and what they do to a run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torchvision.ops import sigmoid_focal_loss

from tests.fuzz.torture import comparable
from tests.helpers import Recorder, tiny_config, tiny_options, train_tiny
from tests.helpers.in_process import call_vitpe
from tests.training.test_resume import CPU, StoppedHereError, Stopping
from tests.training.test_step import WrittenDown
from vitpe.config import TrainConfig
from vitpe.data.augmentation import Augmentation
from vitpe.data.batches import Batches
from vitpe.data.celeba import read_celeba
from vitpe.data.storage import ImageStore
from vitpe.runs.checkpoint import load_checkpoint
from vitpe.runs.folder import RunFolder
from vitpe.runs.metadata import read_info
from vitpe.training.loss import Loss, positive_weights
from vitpe.training.train import train

KINDS = ("bce", "focal", "asymmetric")
WEIGHTS = torch.tensor([0.2, 1.0, 3.0, 20.0])


def answers(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits (50, 4), some of them far from 0, and labels."""
    generator = torch.Generator().manual_seed(seed)
    logits = 4 * torch.randn(50, 4, generator=generator)
    return logits, torch.randint(0, 2, (50, 4), dtype=torch.uint8, generator=generator)


def theirs(kind: str, logits: Tensor, labels: Tensor, smoothing: float, weights: Tensor | None) -> Tensor:
    """As the libraries have it. torchvision's has no weights: of hard labels each loss is multiplied by its own."""
    targets = labels.float() * (1 - smoothing) + smoothing / 2
    if kind == "bce":
        return binary_cross_entropy_with_logits(logits, targets, pos_weight=weights)
    if kind == "focal":
        each = sigmoid_focal_loss(logits, targets, alpha=-1, gamma=2)
        return (each if weights is None else each * torch.where(labels == 1, weights, 1.0)).mean()
    loss: Tensor = AsymmetricLossMultiLabel(4, 1, 0.05, smoothing=smoothing, reduction="mean", pos_weight=weights)(
        logits, labels
    )
    return loss


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("smoothing", "weighted"), [(0.0, False), (0.1, False), (0.0, True)])
def test_losses_and_gradients_are_the_libraries(kind: str, smoothing: float, weighted: bool) -> None:
    weights = WEIGHTS if weighted else None
    logits, labels = answers()
    found = []
    for function in (
        lambda x: Loss(kind, smoothing, weights)(x, labels),
        lambda x: theirs(kind, x, labels, smoothing, weights),
    ):
        x = logits.clone().requires_grad_()
        loss = function(x)
        loss.backward()
        found.append((loss.detach(), x.grad))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-8)
    others = [Loss(other, smoothing, weights)(logits, labels) for other in KINDS if other != kind]
    assert all((other - found[0][0]).abs() > 0.01 for other in others)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_logits_as_large_as_can_be_have_gradients(kind: str, smoothing: float) -> None:
    for size in (1e2, 1e30):
        logits = torch.tensor([[-size, 0.0, size]]).requires_grad_()
        for labels in ([0, 0, 0], [1, 1, 1]):
            loss = Loss(kind, smoothing)(logits, torch.tensor([labels], dtype=torch.uint8))
            loss.backward()
            assert logits.grad is not None
            assert loss.isfinite()
            assert logits.grad.isfinite().all()


def test_weights_are_zeros_for_a_one_within_bounds() -> None:
    found = positive_weights(np.array([0.5, 0.1, 0.8, 0.01, 0.0, 1.0]))
    np.testing.assert_allclose(found, [1, 9, 0.25, 20, 20, 0.05])


def test_rare_labels_pull_as_much_as_frequent_ones() -> None:
    """Where nothing is known, at probability one half, the gradients of an attribute's labels cancel."""
    labels = torch.zeros(100, 2, dtype=torch.uint8)
    labels[:10, 0] = labels[:70, 1] = 1
    config = TrainConfig(pos_weight="auto")
    loss = Loss.of(config, labels.numpy().mean(axis=0), CPU)
    logits = torch.zeros(100, 2, requires_grad=True)
    loss(logits, labels).backward()
    torch.testing.assert_close(logits.grad.sum(dim=0), torch.zeros(2), rtol=0, atol=1e-7)
    assert Loss.of(TrainConfig(), labels.numpy().mean(axis=0), CPU).pos_weight is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_of_it_follows_its_tensors(kind: str) -> None:
    """Nothing of it is decided on the host: what was written down, done again, gives the loss of other answers."""
    logits, labels = answers()
    loss, written = Loss(kind, 0.1, WEIGHTS), WrittenDown()
    with written:
        out = loss(logits, labels)
    others = answers(seed=1)
    expected = loss(*others)
    assert not torch.equal(out, expected)
    logits.copy_(others[0])
    labels.copy_(others[1])
    written.repeat()
    assert torch.equal(out, expected)


def test_shares_are_of_what_is_drawn(celeba: Path) -> None:
    samples = read_celeba(celeba, "train")
    store = ImageStore(samples, CPU)
    plain = Batches(store, (208, 176), 8, Augmentation(0))
    np.testing.assert_allclose(plain.positive_share, samples.labels.mean(axis=0))
    members = [np.flatnonzero(samples.labels[:, 0] == value) for value in (0, 1)]
    balanced = Batches(store, (208, 176), 8, Augmentation(0), groups=members)
    assert balanced.positive_share[0] == 0.5 != plain.positive_share[0]
    stream = balanced.from_step(0)
    drawn = torch.cat([next(stream).labels for _ in range(200 * balanced.steps_per_epoch)]).float().mean(dim=0)
    stream.close()
    np.testing.assert_allclose(balanced.positive_share, drawn, rtol=0, atol=0.01)


@pytest.fixture(scope="module")
def run(celeba: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("asymmetric") / "runs"
    train_tiny(celeba, folder, train__loss="asymmetric", train__pos_weight="auto")
    return folder


def test_a_run_says_its_loss_until_it_is_calibrated(run: Path, celeba: Path, tmp_path: Path) -> None:
    own = shutil.copytree(run, tmp_path / "run")
    info = read_info(own / "best.safetensors")
    assert (info.loss, info.pos_weight) == ("asymmetric", "auto")
    said = "was trained with loss asymmetric, pos_weight auto: its probabilities are no frequencies"
    assert said in call_vitpe("eval", own).stderr
    for method, still_said in (("temperature", True), ("platt", False)):
        called = call_vitpe("eval", own, "--calibrate", method, "--split", "test")
        assert called.code == 0, called.stderr
        assert (said in call_vitpe("eval", own).stderr) == still_said


def test_cut_and_resumed_it_is_the_same_run(run: Path, celeba: Path, tmp_path: Path) -> None:
    values = {"train__loss": "asymmetric", "train__pos_weight": "auto"}
    with pytest.raises(StoppedHereError):
        train(tiny_config(celeba, **values), tmp_path / "cut", CPU, Stopping())
    train(tiny_config(celeba, **values), tmp_path / "cut", CPU, Recorder(), resume=True)
    assert comparable(tmp_path / "cut") == comparable(run)


def test_other_losses_are_other_runs(run: Path, celeba: Path, tmp_path: Path) -> None:
    weights = [load_checkpoint(run / "best.safetensors")[0].head.weight]
    for number, value in enumerate(({}, {"train__loss": "asymmetric"}, {"train__pos_weight": "auto"})):
        train_tiny(celeba, tmp_path / str(number), **value)
        weights.append(load_checkpoint(tmp_path / str(number) / "best.safetensors")[0].head.weight)
    assert all(not torch.equal(a, b) for n, a in enumerate(weights) for b in weights[:n])
    called = call_vitpe("train", "--resume", "--run", run, *tiny_options(celeba), "--pos-weight", "none")
    assert called.code == 2
    assert "train.pos_weight 'none' where the run has 'auto'" in called.stderr


def test_the_option_is_stored_and_refused(celeba: Path, tmp_path: Path) -> None:
    options = [*tiny_options(celeba), "--run", tmp_path / "run"]
    assert call_vitpe("train", *options, "--pos-weight", "auto").code == 0
    assert RunFolder(tmp_path / "run").read_config().train.pos_weight == "auto"
    called = call_vitpe("train", *options, "--pos-weight", "much")
    assert called.code == 2
    assert 'train.pos_weight is "much"' in called.stderr
    assert "auto, none" in called.stderr
