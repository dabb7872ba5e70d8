"""A batch computed in parts gives the update of the whole batch, but for rounding."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel
from torch.optim import SGD

from tests.helpers import log_rows, train_tiny
from tests.training.test_step import NUM_STEPS, PlayedGraph, batches, differing, recipe
from vitpe.celeba import MEAN, STD
from vitpe.data.batch import Batch, DecodedImages
from vitpe.model.vit import VisionTransformer
from vitpe.training import optimizer as optimizer_module
from vitpe.training import step as step_module
from vitpe.training.forward import TrainForward
from vitpe.training.loss import Loss
from vitpe.training.muon import BatchedMuon
from vitpe.training.optimizer import ExponentialMovingAverage, Optimizers, make_optimizers
from vitpe.training.step import TrainStep
from vitpe.training.whitening import WhitenedUpdates, Whitening

KINDS = ("tiny", "laptop", "small")
"""Of the presets: with attribute queries, with a stem, with stochastic depth. The others are as `small`."""
Wrap = Callable[[nn.Module], nn.Module]


def trained(
    preset: str,
    micro_batch_size: int | None,
    *,
    precision: str = "fp32",
    gradient_descent: bool = True,
    capture: bool = False,
    wrap: Wrap = lambda forward: forward,
) -> dict[str, Tensor]:
    """Weights, averages and the sum of losses after some steps of batches of 4, with two blocks of the preset.

    gradient_descent: plain, in whose updates a gradient's rounding is not enlarged; else the preset's optimizers.
    """
    config, train = recipe(preset)
    torch.manual_seed(0)
    model = VisionTransformer(config)
    for weight in model.head_weights():
        nn.init.normal_(weight, std=0.1)  # zeros would leave the blocks without a gradient in one step
    patches = torch.randn(300, 3 * config.patch_size**2, generator=torch.Generator().manual_seed(2))
    whitening = Whitening.measure([patches])
    if gradient_descent:
        whitened = WhitenedUpdates(model.patch_embed.proj, whitening)
        parameters = dict(model.named_parameters()) | {"patch_embed.proj.weight": whitened.change}
        rate = torch.tensor(0.1)
        optimizers = Optimizers((SGD(parameters.values(), lr=rate, foreach=False),), (0.1,), (rate,), whitened)
    else:
        optimizers = make_optimizers(model, train, whitening)
    average, loss_sum = ExponentialMovingAverage(model, train.ema_decay), torch.zeros(())
    forward = wrap(TrainForward(model, MEAN, STD, precision))
    loss = Loss.of(train, np.full(model.config.num_classes, 0.5), torch.device("cpu"))
    step = TrainStep(model, forward, optimizers, average, loss_sum, loss, micro_batch_size)
    if capture:
        step.capture(lambda _: None)
    for number, batch in enumerate(batches(config, train)):
        step(batch, number, 1 / (1 + number))
    named = {f"average of {name}": value for name, value in average.tensors.items()}
    found = model.state_dict() | named | {"loss": loss_sum}
    assert all(value.isfinite().all() for value in found.values())
    return {name: value.detach().clone() for name, value in found.items()}


def unlike(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    """What differs by more than the rounding of float32."""
    return [name for name, value in expected.items() if not torch.allclose(found[name], value, rtol=1e-4, atol=2e-6)]


@pytest.mark.parametrize("preset", KINDS)
@pytest.mark.parametrize("micro_batch_size", [1, 3])  # 3: parts of 2 and 2
def test_parts_make_the_update_of_the_whole(preset: str, micro_batch_size: int) -> None:
    assert not unlike(trained(preset, micro_batch_size), trained(preset, None))


@pytest.mark.parametrize("num_images", [2, 3])
def test_parts_that_are_not_equal_count_by_their_images(monkeypatch: pytest.MonkeyPatch, num_images: int) -> None:

    def split(self: Batch, size: int) -> list[Batch]:
        if size >= len(self):
            return [self]
        first = {
            name: tensor[..., :num_images] if name == "places" else tensor[:num_images]
            for name, tensor in self.tensors.items()
        }
        rest = {
            name: tensor[..., num_images:] if name == "places" else tensor[num_images:]
            for name, tensor in self.tensors.items()
        }
        return [replace(self, tensors=tensors) for tensors in (first, rest)]

    expected = trained("small", None)
    monkeypatch.setattr(Batch, "split", split)
    assert not unlike(trained("small", 3), expected)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 6, 7, 10])
@pytest.mark.parametrize("decoded", [False, True])
def test_a_batch_is_split_into_few_equal_parts(size: int, decoded: bool) -> None:
    images, labels = torch.randint(0, 256, (7, 3, 4, 5), dtype=torch.uint8), torch.arange(7)[:, None]
    places = torch.stack([torch.arange(7).flip(0), *torch.zeros(3, 7, dtype=torch.int64)])
    source = DecodedImages(images, labels, (4, 5)) if decoded else None
    batch = Batch(
        ({"places": places} if decoded else {"images": images, "labels": labels}) | {"depth": torch.rand(7, 2)}, source
    )
    parts = batch.split(size)
    sizes = [len(part) for part in parts]
    assert sizes == [len(part.images) for part in parts]
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1
    assert len(parts) == -(-7 // size)
    for name in ("images", "labels", "depth"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))
    for name, whole in batch.tensors.items():
        assert parts[0].tensors[name].data_ptr() == whole.data_ptr()
    assert all(part.keep is None for part in parts)


@pytest.mark.parametrize("dropped", ["keep", "depth"])
def test_draws_that_are_not_those_of_the_whole_are_found(monkeypatch: pytest.MonkeyPatch, dropped: str) -> None:
    expected = trained("small", None)
    plain = Batch.split

    def split(self: Batch, size: int) -> list[Batch]:
        first, *others = plain(self, size)
        same = {dropped: first.tensors[dropped]}
        return [first, *(replace(part, tensors=part.tensors | same) for part in others)]

    monkeypatch.setattr(Batch, "split", split)
    assert len(unlike(trained("small", 2), expected)) > 10


@pytest.mark.parametrize("preset", KINDS)
def test_a_captured_step_in_parts_is_the_one_that_is_not_captured(preset: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "CapturedOrNot", PlayedGraph)
    monkeypatch.setattr(optimizer_module, "Muon", BatchedMuon)  # as on a GPU; torch's own takes no rate from a tensor
    options: Any = {"precision": "bf16", "gradient_descent": False}
    assert not differing(trained(preset, 3, capture=True, **options), trained(preset, 3, **options))


@pytest.fixture
def alone_in_a_group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone_in_a_group")
def test_workers_average_once_a_step_however_many_parts() -> None:
    averaged = []

    def wrap(forward: nn.Module) -> nn.Module:
        wrapped = DistributedDataParallel(forward)

        def hook(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
            averaged.append(bucket.is_last())
            return allreduce_hook(group, bucket)

        wrapped.register_comm_hook(dist.group.WORLD, hook)
        return wrapped

    found = trained("tiny", 1, wrap=wrap)
    assert averaged.count(True) == NUM_STEPS
    assert not unlike(found, trained("tiny", None))


def test_a_run_in_parts_is_the_run_of_the_whole(celeba: Path, tmp_path: Path) -> None:
    values = {"train__muon_lr": None, "train__patch_keep": 0.5, "model__drop_path_rate": 0.1, "train__steps": 6}
    train_tiny(celeba, tmp_path / "whole", **values)
    train_tiny(celeba, tmp_path / "parts", train__micro_batch_size=3, **values)
    for row, expected in zip(log_rows(tmp_path / "parts"), log_rows(tmp_path / "whole"), strict=True):
        for column in ("loss", "valid_accuracy", "valid_mean_average_precision"):
            assert float(row[column] or -1) == pytest.approx(float(expected[column] or -1), abs=1e-5), column
