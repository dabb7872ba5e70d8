"""A captured training step is the step that a plain loop does, bit for bit.

A CUDA graph is played on the CPU: the operations of one step are written down with the tensors and the numbers that
they were given, and repeated as they are. So a number that should have come from a tensor stays what it was when the
step was captured, and an operation that is not the same at each step is found.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.optim import AdamW
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vitpe.celeba import MEAN, STD
from vitpe.config import PRESETS, ModelConfig, TrainConfig
from vitpe.data.batch import Batch, DecodedImages
from vitpe.model.vit import VisionTransformer
from vitpe.training import optimizer as optimizer_module
from vitpe.training import step as step_module
from vitpe.training.forward import TrainForward
from vitpe.training.loss import Loss
from vitpe.training.muon import BatchedMuon
from vitpe.training.optimizer import ADAMW_BETAS, ExponentialMovingAverage, Optimizers, make_optimizers
from vitpe.training.step import TrainStep
from vitpe.training.whitening import WhitenedUpdates, Whitening

NUM_STEPS = 5
NUM_WARM_UPS = 2
BATCH_SIZE = 4


class WrittenDown(TorchDispatchMode):
    """Each operation within, with what it was given and what it gave."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, list(tree_leaves(out))))
        return out

    @torch.no_grad()
    def repeat(self) -> None:
        for func, args, kwargs, given in self.operations:
            for before, now in zip(given, tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(now, Tensor) and now.data_ptr() != before.data_ptr():
                    before.copy_(now)


class PlayedGraph:
    """In the place of CapturedOrNot."""

    def __init__(self, work: Callable[[], None], *_: Any) -> None:
        self._work, self._calls = work, 0
        self.written = WrittenDown()

    def __call__(self) -> None:
        self._calls += 1
        if self._calls <= NUM_WARM_UPS:
            self._work()
        elif self._calls == NUM_WARM_UPS + 1:
            with self.written:
                self._work()
            assert len(self.written.operations) > 100
        else:
            self.written.repeat()


def recipe(preset: str) -> tuple[ModelConfig, TrainConfig]:
    """The preset with two blocks: the others do what these do."""
    chosen = PRESETS[preset]
    return replace(chosen.model, depth=2), replace(chosen.train, label_smoothing=0.1, precision="bf16")


def batches(model: ModelConfig, train: TrainConfig) -> list[Batch]:
    """As those of a split that is decoded on a GPU: crops are part of the step."""
    generator = torch.Generator().manual_seed(1)
    size, margin, count = model.img_size, 8, 2 * BATCH_SIZE
    images = torch.randint(0, 256, (count, size[0] + margin, size[1] + margin, 3), generator=generator)
    labels = torch.randint(0, 2, (count, model.num_classes), dtype=torch.uint8, generator=generator)
    source = DecodedImages(images.to(torch.uint8).permute(0, 3, 1, 2), labels, size)
    limits = (count, margin + 1, margin + 1, 2)
    made = []
    for _ in range(NUM_STEPS):
        places = torch.stack([torch.randint(0, limit, (BATCH_SIZE,), generator=generator) for limit in limits])
        order = torch.rand(BATCH_SIZE, model.num_patches, generator=generator).argsort(dim=1)
        keep = order[:, : round(train.patch_keep * model.num_patches)]
        depth = torch.rand(BATCH_SIZE, 2 * model.depth, generator=generator)
        made.append(Batch({"places": places, "keep": keep, "depth": depth}, source))
    return made


def first_model(config: ModelConfig) -> tuple[VisionTransformer, TrainForward, Whitening]:
    torch.manual_seed(0)
    model = VisionTransformer(config)
    torch.nn.init.normal_(model.head.weight, std=0.1)  # zeros would leave the blocks without a gradient in one step
    patches = torch.randn(300, 3 * config.patch_size**2, generator=torch.Generator().manual_seed(2))
    return model, TrainForward(model, MEAN, STD, "bf16"), Whitening.measure([patches])


def captured(preset: str) -> dict[str, Tensor]:
    """After some steps: the weights, their averages and the sum of losses."""
    config, train = recipe(preset)
    model, forward, whitening = first_model(config)
    average, loss_sum = ExponentialMovingAverage(model, train.ema_decay), torch.zeros(())
    loss = Loss.of(train, np.full(config.num_classes, 0.5), torch.device("cpu"))
    step = TrainStep(model, forward, make_optimizers(model, train, whitening), average, loss_sum, loss)
    step.capture(lambda _: None)
    for number, batch in enumerate(batches(config, train)):
        step(batch, number, 1 / (1 + number))
    return _results(model, average.tensors, loss_sum)


def plain(preset: str) -> dict[str, Tensor]:
    """The same, written as a loop that knows nothing of captures."""
    config, train = recipe(preset)
    model, forward, whitening = first_model(config)
    assert train.muon_lr is not None
    averages = {name: value.clone() for name, value in model.state_dict().items()}
    whitened = WhitenedUpdates(model.patch_embed.proj, whitening)
    trained = dict(model.named_parameters()) | {"patch_embed.proj.weight": whitened.change}
    maps = ("blocks.", "patch_embed.", "stem.", "query_pool.key.", "query_pool.value.")
    is_matrix = {n: n.startswith(maps) and p.ndim == 2 for n, p in trained.items()}
    muon = BatchedMuon([p for n, p in trained.items() if is_matrix[n]], weight_decay=train.weight_decay)
    rest = [p for n, p in trained.items() if not is_matrix[n]]
    adamw = AdamW(rest, betas=ADAMW_BETAS, weight_decay=0.0, fused=True)
    loss_sum = torch.zeros(())
    for number, batch in enumerate(batches(config, train)):
        model.set_depth_draws(batch.depth)
        targets = batch.labels.float() * (1 - train.label_smoothing) + train.label_smoothing / 2
        loss = binary_cross_entropy_with_logits(forward(batch.images, batch.keep), targets)
        loss.backward()
        whitened.begin()
        for optimizer, peak in ((muon, train.muon_lr), (adamw, train.adamw_lr)):
            optimizer.param_groups[0]["lr"] = peak / (1 + number)
            optimizer.step()
            optimizer.zero_grad()
        whitened.end()
        decay = min(train.ema_decay, (1 + number) / (10 + number))
        with torch.no_grad():
            for name, value in model.state_dict().items():
                averages[name].lerp_(value, 1 - decay)
        loss_sum += loss.detach()
    return _results(model, averages, loss_sum)


def _results(model: VisionTransformer, averages: dict[str, Tensor], loss_sum: Tensor) -> dict[str, Tensor]:
    named = {f"average of {name}": value for name, value in averages.items()}
    return {name: value.detach().clone() for name, value in (model.state_dict() | named | {"loss": loss_sum}).items()}


@pytest.fixture(autouse=True)
def _as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(step_module, "CapturedOrNot", PlayedGraph)
    monkeypatch.setattr(optimizer_module, "Muon", BatchedMuon)


def differing(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[str]:
    assert found.keys() == expected.keys()
    return [name for name, value in expected.items() if not torch.equal(found[name], value)]


@pytest.mark.parametrize("preset", PRESETS)
def test_a_captured_step_is_that_of_a_plain_loop(preset: str) -> None:
    expected = plain(preset)
    assert all(value.isfinite().all() for value in expected.values())
    assert not differing(captured(preset), expected)


def test_a_rate_that_is_no_tensor_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def set_rates(self: Optimizers, factor: float) -> None:
        for member, peak in zip(self.members, self.peaks, strict=True):
            for group in member.param_groups:
                group["lr"] = peak * factor

    monkeypatch.setattr(Optimizers, "set_rates", set_rates)
    assert {"head.weight", "blocks.0.attn.qkv.weight"} <= {*differing(captured("tiny"), plain("tiny"))}


def test_draws_that_are_not_copied_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgetful(dict[str, Tensor]):
        def __getitem__(self, name: str) -> Tensor:
            found = super().__getitem__(name)
            return found if name == "places" else found.clone()

    clone = Batch.clone
    monkeypatch.setattr(Batch, "clone", lambda batch: Batch(Forgetful(clone(batch).tensors), batch.source))
    found = captured("small")
    assert differing(found, plain("small"))
